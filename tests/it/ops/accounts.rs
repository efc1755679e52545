//! The memory accounts agree with the process: under each attack on memory their sum grows as the resident memory does,
//! the limits are kept, and a healthy session is not affected.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::support::bystander::Healthy;
use crate::support::raw_socket::{close_code, frame, upgraded, upgraded_at};
use crate::support::tokens::{claims, config, hs256};
use crate::support::{Follower, OPEN, PATIENCE, Server};

const MIB: usize = 1024 * 1024;

/// Memory as the kernel and the server report it.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    resident: usize,
    counted: usize,
}

fn sizes_of(server: &Server) -> Sizes {
    let memory = &server.status()["memory"];
    let bytes = |key: &str| usize::try_from(memory[key].as_u64().unwrap()).unwrap();
    Sizes { resident: bytes("rss_bytes"), counted: bytes("counted_bytes") }
}

fn account(server: &Server, name: &str) -> usize {
    usize::try_from(server.status()["memory"]["accounts"][name]["now"].as_u64().unwrap()).unwrap()
}

/// The largest resident size so far.
fn peak(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// Checks that both grew much, and about equally.
async fn agree(server: &Server, before: Sizes) {
    // Waits until it settles: sweeps count, and freed memory is returned.
    let mut last = (0, 0);
    let mut now = sizes_of(server);
    for _ in 0..40 {
        let grown = now.resident.saturating_sub(before.resident);
        last = (grown, now.counted.saturating_sub(before.counted));
        if grown > 100 * MIB && last.1.abs_diff(grown) * 100 <= grown * 15 {
            println!("resident {} MiB more, counted {} MiB more", last.0 / MIB, last.1 / MIB);
            return;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
        now = sizes_of(server);
    }
    panic!(
        "resident {} MiB more, counted {} MiB more\n{}",
        last.0 / MIB,
        last.1 / MIB,
        serde_json::to_string_pretty(&server.status()["memory"]).unwrap()
    );
}

/// The beginning of a message with this many bytes.
fn half(bytes: usize) -> Vec<u8> {
    let mut out = vec![0x81, 0x80 | 127];
    out.extend(u64::try_from(bytes + 1).unwrap().to_be_bytes());
    out.extend([0; 4]);
    out.resize(out.len() + bytes, b' ');
    out
}

fn anonymous_centrifuge(address: SocketAddr) -> TcpStream {
    upgraded_at(address, "/connection/websocket", "").0
}

/// Sessions without a token send most of a message each. The buffered bytes are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_messages_are_counted() {
    let server = Server::start(&(OPEN.to_owned() + "[limits]\nmemory = \"off\"\nfirst_command_timeout = \"60s\""));
    let mut healthy = Healthy::beside(&server).await;
    let before = sizes_of(&server);
    let mut held = Vec::new();
    for _ in 0..1_250 {
        let mut stream = anonymous_centrifuge(server.address);
        stream.write_all(&half(110_000)).unwrap();
        held.push(stream);
    }
    agree(&server, before).await;
    healthy.is_well(&server).await;
    drop(held);
    server.until("all memory is freed", |s| account(s, "incoming") == 0).await;
}

/// The same with a memory limit: sessions without a token are closed first, the largest of them first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_messages_have_a_ceiling() {
    let server = Server::start(&config("[limits]\nmemory = \"64MiB\""));
    let token = hs256(&claims("alice", 600, json!({"topics": ["*"]})));
    let bearer = format!("Bearer {token}");
    let base = peak(&server);
    let mut healthy = Healthy::beside_with(&server, &[("authorization", &bearer)]).await;
    // A session with a token is in the middle of a message, too.
    let (mut known, _) = upgraded(&server, "/ws", &format!("Authorization: {bearer}\r\n"));
    let message = json!({"op": "ping", "id": 7, "pad": "x".repeat(40_000)}).to_string();
    let whole = frame(0x81, message.as_bytes());
    known.write_all(&whole[..30_000]).unwrap();
    let address = server.address;
    let closed = healthy
        .during(60, move |_| {
            let mut stream = anonymous_centrifuge(address);
            stream.write_all(&half(110_000)).map(|()| stream).ok()
        })
        .await;
    assert!(account(&server, "incoming") <= 2 * MIB, "{}", account(&server, "incoming"));
    assert!(peak(&server) <= base + 64 * MIB, "{} MiB at most", peak(&server) / MIB);
    let relieved = server.metric("incoming_evictions_total");
    assert!(relieved >= 30.0, "{relieved} were closed");
    assert_eq!(server.metric("limits_reached_total{limit=\"incoming_total_bytes\"}"), relieved);
    let codes = closed.into_iter().flatten().filter_map(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut close = [0; 4];
        stream.read_exact(&mut close).ok()?;
        Some((close[0], u16::from_be_bytes([close[2], close[3]])))
    });
    let codes: Vec<(u8, u16)> = codes.collect();
    assert!(codes.len() >= 30 && codes.iter().all(|close| *close == (0x88, 4413)), "{codes:?}");
    known.write_all(&whole[30_000..]).unwrap();
    let mut head = [0; 2];
    known.set_read_timeout(Some(PATIENCE)).unwrap();
    known.read_exact(&mut head).unwrap();
    assert_eq!(head[0], 0x81, "the session with a token gets its answer");
}

/// A `plain` session that needs a token has room for a token, and for commands that follow it.
#[tokio::test]
async fn before_its_token_a_message_is_small() {
    let server = Server::start(&config(""));
    let (mut stranger, _) = upgraded(&server, "/ws", "");
    // Its header is enough.
    stranger.write_all(&frame(0x81, &[b' '; 9_000])[..8]).unwrap();
    assert_eq!(close_code(&mut stranger), 1009);
    let token = hs256(&claims("alice", 600, json!({"topics": ["t:*"], "pad": "x".repeat(3_000)})));
    let (mut client, _) = upgraded(&server, "/ws", "");
    let topics: Vec<String> = (0..500).map(|n| format!("t:{n:030}")).collect();
    let auth = json!({"op": "auth", "id": 1, "token": token}).to_string();
    let subscribe = json!({"op": "subscribe", "id": 2, "args": topics}).to_string();
    let bytes = [frame(0x81, auth.as_bytes()), frame(0x81, subscribe.as_bytes())].concat();
    client.write_all(&bytes).unwrap();
    server.until("subscribed", |s| s.metric("subscriptions") == 500.0).await;
}

/// Sessions subscribe to topics that are never published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unpublished_topics_are_counted_separately_and_freed() {
    const SESSIONS: usize = 256;
    let more = "[limits]\nmemory = \"off\"\ntopics = 10\nunpublished_topics = 200000";
    let server = Server::start(&(OPEN.to_owned() + more));
    let mut healthy = Healthy::beside(&server).await;
    let before = sizes_of(&server);
    let mut held = Vec::new();
    for n in 0..SESSIONS {
        let (mut stream, _) = upgraded(&server, "/ws", "");
        let topics: Vec<String> = (0..512).map(|m| format!("stream:nobody:{n:05}:{m:05}")).collect();
        let command = json!({"op": "subscribe", "id": 1, "args": topics}).to_string();
        stream.write_all(&frame(0x81, command.as_bytes())).unwrap();
        // One after the other, to measure the memory that stays, not that of the peak.
        stream.read_exact(&mut [0; 2]).unwrap();
        held.push(stream);
    }
    let all = (SESSIONS * 512) as f64;
    server.until("subscribed", |s| s.metric("unpublished_topics") == all).await;
    agree(&server, before).await;
    let held_bytes = sizes_of(&server).resident - before.resident;
    // They take no room from published topics.
    assert_eq!(server.metric("topics"), 1.0);
    server.publish("stream:new", &json!(1));
    server.publish("stream:nobody:00000:00000", &json!(1));
    assert_eq!((server.metric("topics"), server.metric("unpublished_topics")), (3.0, all - 1.0));
    healthy.is_well(&server).await;
    drop(held);
    server.until("freed", |s| s.metric("unpublished_topics") == 0.0 && account(s, "unpublished") == 0).await;
    server.until("given back", |s| sizes_of(s).resident < before.resident + held_bytes / 2).await;
}

/// The limit on such topics, and each user's share.
#[tokio::test]
async fn unpublished_topics_have_a_limit_and_shares() {
    let server = Server::open_with("[limits]\nunpublished_topics = 800\nsubscriptions = 300");
    server.publish("stream:there", &json!(1));
    let names = |of: &str| (0..300).map(|n| format!("latest:{of}:{n}")).collect::<Vec<_>>();
    let strs = |names: &[String]| names.iter().map(String::as_str).map(str::to_owned).collect::<Vec<_>>();
    let mut clients = Vec::new();
    for of in ["a", "b"] {
        let mut client = server.client().await;
        let names = names(of);
        let reply = client.subscribe(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert_eq!(reply["topics"].as_object().unwrap().len(), 300);
        clients.push(client);
    }
    let mut third = server.client().await;
    third.send(json!({"op": "subscribe", "id": 1, "args": strs(&names("c"))})).await;
    server.until("as many as may be", |s| s.metric("unpublished_topics") == 800.0).await;
    server.until("the rest was refused", |s| s.metric("unpublished_refused_total") == 100.0).await;
    // Published topics are available to all, and publishers are not affected.
    let mut healthy = server.client().await;
    assert_eq!(healthy.subscribe(&["stream:there"]).await["ok"], true);
    assert_eq!(server.publish("latest:another", &json!(2)), 1);
    // A topic that is published leaves its share, without any effect on its subscriber.
    assert_eq!(server.publish("latest:a:0", &json!(5)), 1);
    let delta = clients[0].next().await;
    assert_eq!((&delta["topic"], &delta["offset"], &delta["prev"]), (&json!("latest:a:0"), &json!(1), &json!(0)));
    let mut late = server.client().await;
    assert_eq!(late.subscribe(&["latest:late"]).await["ok"], true);
    let refused = late.subscribe(&["latest:later"]).await;
    assert_eq!((&refused["error"]["code"], &refused["error"]["topic"]), (&json!(503), &json!("latest:later")));
    drop(clients);
    server.until("freed", |s| s.metric("unpublished_topics") <= 201.0).await;
    assert_eq!(late.subscribe(&["latest:later"]).await["ok"], true);
}

fn pad(n: usize, bytes: usize) -> Value {
    json!({"pad": format!("{n:08}{}", "x".repeat(bytes))})
}

/// A session that reads nothing, and one with 1 KiB/s, on many busy `merge` topics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lagging_subscriptions_have_a_ceiling_and_lose_nothing() {
    const TOPICS: usize = 256;
    const ROUNDS: usize = 150;
    let server = Server::start(&(OPEN.to_owned() + "[limits]\nmemory = \"128MiB\""));
    let mut healthy = Healthy::beside(&server).await;
    let base = peak(&server);
    let before = sizes_of(&server);
    let topics: Vec<String> = (0..TOPICS).map(|n| format!("merge:{n}")).collect();
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let mut closed = server.client().await;
    closed.subscribe(&names).await;
    let mut slow = server.client().await;
    slow.send(json!({"op": "session", "bytes_per_second": 1024})).await;
    slow.next().await;
    slow.subscribe(&names).await;
    for round in 0..ROUNDS {
        let deltas: Vec<_> = topics.iter().map(|t| (t.clone(), pad(round, 3_000))).collect();
        server.publish_all(&deltas);
        // Sources wait at 16 MiB, with a delta on its way; history is only removed for as much as needs room.
        assert!(account(&server, "deltas") <= 16 * MIB + 64 * 1024, "{}", account(&server, "deltas"));
    }
    healthy.is_well(&server).await;
    assert!(server.metric("recent_deltas_evicted_total") > 0.0, "the ceiling was not reached");
    assert!(peak(&server) <= base + 128 * MIB, "{} MiB at most", peak(&server) / MIB);
    println!("{before:?} {:?} peak {}", sizes_of(&server), peak(&server) / MIB);
    // Neither was closed, and a session that reads again gets up to date.
    assert_eq!(server.metric("sessions"), 3.0);
    let mut states: Vec<Follower> = vec![Follower::default(); TOPICS];
    while states.iter().any(|state| state.offset < ROUNDS as u64) {
        let message = closed.next().await;
        if let Some(n) = message["topic"].as_str().and_then(|t| t.strip_prefix("merge:")) {
            states[n.parse::<usize>().unwrap()].take(&message);
        }
    }
    assert!(states.iter().all(|state| state.state == pad(ROUNDS - 1, 3_000)));
}

/// Deltas kept by shards for lagging subscriptions, history and state, without a limit: all are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lagging_subscriptions_are_counted() {
    const TOPICS: usize = 200;
    let server = Server::start(&(OPEN.to_owned() + "history_size = 10\n[limits]\nmemory = \"off\""));
    let mut healthy = Healthy::beside(&server).await;
    let topics: Vec<String> = (0..TOPICS).map(|n| format!("merge:{n}")).collect();
    let mut closed = server.client().await;
    closed.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let before = sizes_of(&server);
    for round in 0..100 {
        let deltas: Vec<_> = topics.iter().map(|t| (t.clone(), pad(round, 4_000))).collect();
        server.publish_all(&deltas);
    }
    agree(&server, before).await;
    assert!(account(&server, "deltas") > 50 * MIB, "{}", account(&server, "deltas"));
    healthy.is_well(&server).await;
    drop(closed);
    server.until("all deltas are dropped", |s| account(s, "deltas") < MIB).await;
}

/// Sessions with full sockets, on a stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlogs_are_counted() {
    let more = "[limits]\nmemory = \"off\"\nbacklog_bytes = 134217728\nstall_timeout = \"120s\"";
    let server = Server::start(&(OPEN.to_owned() + "history_size = 10\n" + more));
    let mut healthy = Healthy::beside(&server).await;
    let before = sizes_of(&server);
    let mut held = Vec::new();
    for _ in 0..12 {
        let mut client = server.client().await;
        client.subscribe(&["stream:a"]).await;
        held.push(client);
    }
    for round in 0..250 {
        server.publish("stream:a", &pad(round, 60_000));
    }
    agree(&server, before).await;
    healthy.is_well(&server).await;
    drop(held);
    server.until("no backlog is left", |s| account(s, "backlog") == 0).await;
}

/// A connection that requests a topic over REST and does not read the answer.
fn asks(address: SocketAddr, topic: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("GET /api/topics/{topic} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    stream
}

/// Waits until an answer begins, and returns its status.
fn status_of(stream: &mut TcpStream) -> u16 {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = [0; 12];
    stream.read_exact(&mut line).unwrap();
    std::str::from_utf8(&line[9..]).unwrap().parse().unwrap()
}

fn fill(server: &Server, topic: &str) {
    for n in 0..14 {
        server.publish(topic, &json!({(format!("k{n}")): "x".repeat(250_000)}));
    }
}

/// Answers that are not taken share their content.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn untaken_answers_share_one_snapshot() {
    let server = Server::start(
        &(OPEN.to_owned() + "history_size = 1\n[limits]\nreply_bytes_per_address = 0\nmemory = \"256MiB\""),
    );
    fill(&server, "merge:large");
    let mut healthy = Healthy::beside(&server).await;
    let before = sizes_of(&server);
    let mut held: Vec<TcpStream> = (0..200).map(|_| asks(server.address, "merge:large")).collect();
    for stream in &mut held {
        assert_eq!(status_of(stream), 200);
    }
    let grown = sizes_of(&server).resident.saturating_sub(before.resident);
    assert!(grown < 40 * MIB, "{} MiB for 200 answers", grown / MIB);
    healthy.is_well(&server).await;
}

/// This many answers, each with another state of the topic, are counted while they are not taken, and then freed.
async fn untaken_answers_are_counted(server: &Server, topic: &str, answers: usize) {
    let mut healthy = Healthy::beside(server).await;
    let before = sizes_of(server);
    let mut held = Vec::new();
    for n in 0..answers {
        server.publish(topic, &json!({"n": n}));
        let mut stream = asks(server.address, topic);
        assert_eq!(status_of(&mut stream), 200);
        held.push(stream);
    }
    agree(server, before).await;
    healthy.is_well(server).await;
    drop(held);
    server.until("freed", |s| account(s, "answers") < MIB).await;
}

/// Answers with different states, which they do not share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn untaken_answers_are_counted_and_freed() {
    let server =
        Server::start(&(OPEN.to_owned() + "history_size = 1\n[limits]\nreply_bytes_per_address = 0\nmemory = \"off\""));
    fill(&server, "merge:large");
    untaken_answers_are_counted(&server, "merge:large", 40).await;
}

/// The same with a memory limit: above it, large answers get 503 until others are taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn untaken_answers_have_a_limit() {
    let server = Server::start(
        &(OPEN.to_owned() + "history_size = 1\n[limits]\nreply_bytes_per_address = 0\nmemory = \"256MiB\""),
    );
    fill(&server, "merge:large");
    server.publish("merge:small", &json!({"a": 1}));
    let mut healthy = Healthy::beside(&server).await;
    let base = peak(&server);
    let (mut held, mut refused) = (Vec::new(), 0);
    for n in 0..60 {
        server.publish("merge:large", &json!({"n": n}));
        let mut stream = asks(server.address, "merge:large");
        match status_of(&mut stream) {
            200 => held.push(stream),
            503 => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!(refused >= 50, "{refused} were refused");
    assert_eq!(server.metric("answers_refused_total"), f64::from(refused));
    assert!(peak(&server) < base + 60 * MIB, "{} MiB at most", peak(&server) / MIB);
    assert_eq!(server.get("/api/topics/merge:small").0, 200);
    healthy.is_well(&server).await;
    drop(held);
    server.until("there is room again", |s| s.get("/api/topics/merge:large").0 == 200).await;
}

/// Bodies of requests that come slowly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_requests_have_a_ceiling() {
    let server = Server::start(&(OPEN.to_owned() + "[limits]\nmemory = \"64MiB\""));
    let mut healthy = Healthy::beside(&server).await;
    let base = peak(&server);
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(server.address).unwrap();
        let head =
            "POST /api/publish HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let _ = stream.write_all(&[b' '; 800_000]);
        held.push(stream);
    }
    server.until("some were refused", |s| s.metric("requests_refused_total") >= 5.0).await;
    assert!(account(&server, "requests") <= 2 * MIB + 64 * 1024, "{}", account(&server, "requests"));
    assert!(peak(&server) <= base + 64 * MIB, "{} MiB at most", peak(&server) / MIB);
    drop(held);
    server.until("freed", |s| account(s, "requests") == 0).await;
    healthy.is_well(&server).await;
}

/// The beginning of a body of 8 MB, and most of it.
fn half_body(address: SocketAddr, key: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST /api/batch HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n\
         Content-Length: 8000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // If it is refused, the rest is not read.
    let _ = stream.write_all(&vec![b' '; 7_500_000]);
    stream
}

const WITH_KEY: &str = "[access]\nanonymous = true\n[server]\nshards = 2\n\
     [publish]\nopen = false\nkeys = [\"feed-key-0123456789\"]\n";

/// Half-sent bodies of 8 MB: those with a key are counted; without a key nothing is buffered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_bodies_are_counted_and_need_a_key() {
    let server = Server::start(&(WITH_KEY.to_owned() + "[limits]\nmemory = \"off\""));
    let mut watcher = server.client().await;
    watcher.subscribe(&["stream:a"]).await;
    let before = sizes_of(&server);
    let strangers: Vec<TcpStream> = (0..30).map(|_| half_body(server.address, "another-key-0123456")).collect();
    assert_eq!(account(&server, "requests"), 0);
    let grown = sizes_of(&server).resident.saturating_sub(before.resident);
    assert!(grown < 16 * MIB, "{} MiB for bodies without a key", grown / MIB);
    drop(strangers);
    let held: Vec<TcpStream> = (0..24).map(|_| half_body(server.address, "feed-key-0123456789")).collect();
    server.until("they came", |s| account(s, "requests") >= 24 * 7_400_000).await;
    agree(&server, before).await;
    drop(held);
    server.until("freed", |s| account(s, "requests") == 0).await;
    watcher.nothing_more().await;
}

/// The same with a memory limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_bodies_of_eight_megabytes_have_a_ceiling() {
    let server = Server::start(&(WITH_KEY.to_owned() + "[limits]\nmemory = \"512MiB\""));
    let base = peak(&server);
    let held: Vec<TcpStream> = (0..60).map(|_| half_body(server.address, "feed-key-0123456789")).collect();
    server.until("most were refused", |s| s.metric("requests_refused_total") >= 50.0).await;
    assert!(account(&server, "requests") <= 16 * MIB + 256 * 1024, "{}", account(&server, "requests"));
    assert!(peak(&server) <= base + 64 * MIB, "{} MiB at most", peak(&server) / MIB);
    drop(held);
    server.until("freed", |s| account(s, "requests") == 0).await;
}

/// Sixty bodies of 8 KB at once, each of which inflates to 7 MB: the inflated bytes have the same limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inflated_bodies_have_the_limit_of_bodies() {
    let server = Server::start(&(WITH_KEY.to_owned() + "[limits]\nmemory = \"512MiB\""));
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&vec![b' '; 7 * MIB]).unwrap();
    let body = encoder.finish().unwrap();
    let head = format!(
        "POST /api/publish HTTP/1.1\r\nHost: test\r\nX-API-Key: feed-key-0123456789\r\nContent-Type: application/json\r\n\
         Content-Encoding: gzip\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let base = peak(&server);
    let held: Vec<TcpStream> = (0..60)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&body).unwrap();
            stream
        })
        .collect();
    let answers = held.into_iter().map(|mut stream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    });
    let statuses: std::collections::BTreeSet<String> = answers.collect();
    assert!(statuses.iter().all(|status| status == "503" || status == "400"), "{statuses:?}");
    assert!(peak(&server) <= base + 128 * MIB, "{} MiB at most", peak(&server) / MIB);
    server.until("freed", |s| account(s, "requests") == 0).await;
}

/// 300 answers of half a megabyte with different states, which their clients do not take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_answers_that_their_clients_do_not_take_are_counted() {
    let server =
        Server::start(&(OPEN.to_owned() + "history_size = 1\n[limits]\nreply_bytes_per_address = 0\nmemory = \"off\""));
    server.publish("merge:half", &json!({"k0": "x".repeat(250_000)}));
    server.publish("merge:half", &json!({"k1": "x".repeat(250_000)}));
    untaken_answers_are_counted(&server, "merge:half", 300).await;
}

/// 600 sessions subscribe to as many unpublished topics as there may be: the process stays within its limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unpublished_names_stay_within_the_limit() {
    let server = Server::start(&(OPEN.to_owned() + "[limits]\nmemory = \"256MiB\""));
    let mut healthy = Healthy::beside(&server).await;
    let base = peak(&server);
    let address = server.address;
    let mut held = healthy
        .during(600, move |n| {
            (n < 600).then(|| {
                let (mut stream, _) = upgraded_at(address, "/ws", "");
                let topics: Vec<String> = (0..512).map(|m| format!("stream:nobody:{n:05}:{m:05}")).collect();
                let command = json!({"op": "subscribe", "id": 1, "args": topics}).to_string();
                stream.write_all(&frame(0x81, command.as_bytes())).unwrap();
                stream
            })
        })
        .await;
    held.retain(Option::is_some);
    server.until("all were answered", |s| s.metric("unpublished_refused_total") > 0.0).await;
    server.publish("latest:new", &json!(1));
    assert!(peak(&server) <= base + 256 * MIB, "{} MiB at most, {} before", peak(&server) / MIB, base / MIB);
    println!("peak {} MiB, {} before", peak(&server) / MIB, base / MIB);
    healthy.is_well(&server).await;
}

/// Backlogs of sessions that read nothing: the process stays within its limit, whatever is published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlogs_stay_within_the_limit() {
    let server = Server::start(&(OPEN.to_owned() + "[limits]\nmemory = \"128MiB\"\nstall_timeout = \"120s\""));
    let mut healthy = Healthy::beside(&server).await;
    let base = peak(&server);
    let mut held = Vec::new();
    for _ in 0..60 {
        let mut client = server.client().await;
        client.subscribe(&["stream:a"]).await;
        held.push(client);
    }
    for round in 0..150 {
        server.publish("stream:a", &pad(round, 60_000));
    }
    assert!(account(&server, "backlog") <= 17 * MIB, "{}", account(&server, "backlog"));
    assert!(peak(&server) <= base + 128 * MIB, "{} MiB at most, {} before", peak(&server) / MIB, base / MIB);
    println!("peak {} MiB, {} before", peak(&server) / MIB, base / MIB);
    healthy.is_well(&server).await;
}
