//! Deltas of a real JetStream stream: how they are read, and what a server does when NATS fails.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, RetentionPolicy};
use serde_json::{Value, json};

use crate::support::nats::{EPOCH_CHANGES, Nats, add, copy, ready, saved_upto, view};
use crate::support::program::{config_file, failed, run};
use crate::support::{Authority, Client, Follower, OPEN, PATIENCE, Server, free_port};

const SKIPPED: &str = "source_skipped_total{source=\"nats NEXUS\"}";

#[tokio::test]
async fn messages_become_deltas_with_their_sequences_for_offsets() {
    let nats = Nats::start();
    let server = nats.server("").await;
    let js = nats.jetstream().await;
    let mut client = server.client().await;
    client.subscribe(&["merge:a", "stream:s", "odd.name"]).await;
    let sequence = add(&js, "merge.a", &json!({"p": "61800.2"})).await;
    let delta = client.next().await;
    assert_eq!((&delta["topic"], &delta["offset"]), (&json!("merge:a"), &json!(sequence)));
    assert_eq!(delta["data"], json!({"p": "61800.2"}));
    assert!(delta["ts"].as_u64().unwrap() > 1_700_000_000_000, "without a ts of its own, the time of the stream");
    // Headers contain names that a subject cannot.
    nats.raw(
        b"nexus.deltas.merge.a",
        Some(b"NATS/1.0\r\nNexus-Kind: snapshot\r\nnexus-ts: 1723161256313\r\n\r\n"),
        b"{\"z\":1}",
    );
    let snapshot = client.next().await;
    assert_eq!((&snapshot["type"], &snapshot["ts"]), (&json!("snapshot"), &json!(1_723_161_256_313_u64)));
    nats.raw(b"nexus.deltas.x", Some(b"NATS/1.0\r\nNexus-Topic: odd.name\r\n\r\n"), b"1");
    let delta = client.next().await;
    assert_eq!((&delta["topic"], &delta["offset"]), (&json!("odd.name"), &json!(sequence + 2)));
    let status = server.status();
    assert_eq!(status["sources"][0]["name"], "nats NEXUS", "{status}");
    assert!(server.metric("source_connected{source=\"nats NEXUS\"}") > 0.0);
}

#[tokio::test]
async fn messages_that_are_no_deltas_are_counted_and_passed_over() {
    let nats = Nats::start();
    let server = nats.server("").await;
    let js = nats.jetstream().await;
    let mut client = server.client().await;
    client.subscribe(&["stream:s"]).await;
    nats.raw(b"nexus.deltas.stream.s", None, b"");
    nats.raw(b"nexus.deltas.stream.s", None, b"{");
    nats.raw(b"nexus.deltas.stream.s", None, b"\xff\x00");
    nats.raw(b"nexus.deltas.ops.nodes", None, b"1");
    nats.raw(b"nexus.deltas.merge.a", None, b"[1]");
    nats.raw(b"nexus.deltas.stream.s", Some(b"NATS/1.0\r\nNexus-Kind: nonsense\r\n\r\n"), b"1");
    add(&js, "stream.s", &json!("good")).await;
    assert_eq!(client.next().await["data"], "good");
    assert_eq!(server.metric(SKIPPED), 6.0);
    server.until("caught up", |s| s.get("/readyz").0 == 200).await;
}

/// The NATS library closes the connection for a message that it cannot parse; reading must continue after such a
/// message.
#[tokio::test]
async fn messages_that_end_the_connection_are_passed_over_too() {
    let nats = Nats::start();
    let server = nats.server("").await;
    let js = nats.jetstream().await;
    let mut client = server.client().await;
    client.subscribe(&["stream:s"]).await;
    add(&js, "stream.s", &json!(1)).await;
    assert_eq!(client.next().await["data"], 1);
    nats.raw(b"nexus.deltas.stream.s", Some(b"NATS/1.0\r\nno header at all\r\n\r\n"), b"1");
    nats.raw(b"nexus.deltas.stream.s\xff", None, b"1");
    nats.raw(b"nexus.deltas.stream.s", Some(b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n"), b"1");
    for n in 2..=50 {
        add(&js, "stream.s", &json!(n)).await;
    }
    for n in 2..=50 {
        assert_eq!(client.next().await["data"], n);
    }
    assert_eq!(server.metric(SKIPPED), 3.0);
    assert_eq!(server.status()["sources"][0]["refused"]["reasons"]["headers"]["topic"], "stream:s");
    assert_eq!(server.metric(EPOCH_CHANGES), 0.0);
    // A node that starts now finds them in its history.
    let second = nats.server("").await;
    assert_eq!((&view(&second, "stream:s"), second.metric(SKIPPED)), (&view(&server, "stream:s"), 3.0));
    for n in 51..=60 {
        add(&js, "stream.s", &json!(n)).await;
        assert_eq!(client.next().await["data"], n);
    }
}

#[tokio::test]
async fn a_starting_node_loads_what_the_stream_holds_before_it_is_ready() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    // The stream has the operator's settings, and keeps them.
    let own =
        Config { name: "NEXUS".into(), subjects: vec!["nexus.>".into()], max_messages: 5_000, ..Config::default() };
    js.create_stream(own).await.unwrap();
    let mut expected = json!({});
    for n in 0..300 {
        let patch = json!({(format!("k{}", n % 10)): n});
        json_patch::merge(&mut expected, &patch);
        add(&js, "merge.a", &patch).await;
        add(&js, "stream.s", &json!(n)).await;
    }
    let server = nats.server("").await;
    assert_eq!(view(&server, "merge:a")["data"], expected);
    let mut client = server.client().await;
    client.send(json!({"op": "subscribe", "args": ["stream:s"], "history": 128})).await;
    client.next().await;
    for n in 300 - 128..300 {
        assert_eq!(client.next().await["data"], n);
    }
    let info = js.get_stream("NEXUS").await.unwrap().cached_info().clone();
    assert_eq!((info.config.max_messages, &info.config.subjects), (5_000, &vec!["nexus.>".to_owned()]));
}

#[tokio::test]
async fn what_cannot_be_used_is_said_and_nothing_is_made_unasked() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    let server = Server::start(&nats.config("create = false"));
    server
        .until("it is reported", |s| s.status()["sources"][0]["note"].to_string().contains("set source.nats.create"))
        .await;
    assert_eq!(server.get("/readyz").0, 503);
    assert!(js.get_stream("NEXUS").await.is_err());
    let queue = Config {
        name: "NEXUS".into(),
        subjects: vec!["nexus.deltas.>".into()],
        retention: RetentionPolicy::WorkQueue,
        ..Config::default()
    };
    js.create_stream(queue).await.unwrap();
    server
        .until("it is reported", |s| s.status()["sources"][0]["note"].to_string().contains("retention is not limits"))
        .await;
    assert_eq!(server.get("/healthz").0, 200);
}

#[tokio::test]
async fn two_nodes_give_the_same_offsets_epochs_snapshots_and_etags() {
    let nats = Nats::start();
    let first = nats.server("").await;
    let js = nats.jetstream().await;
    for n in 0..50 {
        add(&js, "merge.m", &json!({(format!("k{}", (n * 7) % 11)): n})).await;
        add(&js, "stream.s", &json!(n)).await;
    }
    let second = nats.server("").await;
    let last = first.publish("merge:m", &json!({"last": true}));
    for node in [&first, &second] {
        node.until("it has it", |s| view(s, "merge:m")["offset"] == last).await;
    }
    let answer = |s: &Server| s.http("GET", "/api/topics/merge:m", &[], "");
    let etag = |head: &str| head.lines().find(|l| l.starts_with("etag")).unwrap().to_owned();
    let ((_, head_a, body_a), (_, head_b, body_b)) = (answer(&first), answer(&second));
    assert_eq!((body_a, etag(&head_a)), (body_b, etag(&head_b)));
    // A client that moves recovers as on its first node.
    let mut client = first.client().await;
    let reply = client.subscribe(&["stream:s"]).await;
    let standing = reply["topics"]["stream:s"].clone();
    drop(client);
    add(&js, "stream.s", &json!("missed")).await;
    second.until("it has it", |s| view(s, "stream:s")["offset"].as_u64() > Some(last)).await;
    let mut client = second.client().await;
    let since = json!({"stream:s": {"offset": standing["offset"], "epoch": standing["epoch"]}});
    client.send(json!({"op": "subscribe", "args": ["stream:s"], "since": since})).await;
    assert_eq!(client.next().await["topics"]["stream:s"]["recovered"], true);
    assert_eq!(client.next().await["data"], "missed");
    client.nothing_more().await;
}

#[tokio::test]
async fn batches_keep_their_order_repeats_are_known_and_history_is_removed_on_all_nodes() {
    let nats = Nats::start();
    let (first, second) = (nats.server("").await, nats.server("").await);
    let commands: Vec<Value> =
        (0..1_500).map(|n| json!({"publish": {"channel": format!("stream:{}", n % 3), "data": n}})).collect();
    let batch = json!({"commands": commands, "idempotency_key": "batch"});
    let (status, stored) = first.post("/api/batch", &batch);
    let replies = stored["replies"].as_array().unwrap();
    let offsets: Vec<u64> = replies.iter().map(|reply| reply["publish"]["offset"].as_u64().unwrap()).collect();
    assert!(status == 200 && offsets.windows(2).all(|pair| pair[0] < pair[1]), "{offsets:?}");
    assert_eq!(second.post("/api/batch", &batch).1, stored);
    assert_eq!(second.metric("publish_repeated_total"), 1_500.0);
    let last = first.publish("stream:0", &json!("last"));
    assert_eq!(last, offsets[1_499] + 1, "nothing was stored twice");
    let kept = |s: &Server| view(s, "stream:0")["data"].as_array().map_or(0, Vec::len);
    for node in [&first, &second] {
        node.until("it has it", |s| view(s, "stream:0")["offset"] == last && kept(s) > 100).await;
    }
    assert_eq!(second.post("/api/history_remove", &json!({"channel": "stream:0"})).0, 200);
    for node in [&first, &second] {
        node.until("it is removed", |s| kept(s) == 0).await;
        assert_eq!(view(node, "stream:0")["offset"], last);
    }
}

/// As with Redis: a batch may be stored in part, and nothing after a failed publish is sent.
#[tokio::test]
async fn a_batch_stops_where_nats_refuses_and_lists_what_was_stored() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    let subjects = vec!["nexus.deltas.>".to_owned()];
    let stream = Config { name: "NEXUS".into(), subjects, max_message_size: 2_000, ..Config::default() };
    js.create_stream(stream).await.unwrap();
    let server = nats.server("").await;
    // More than are sent before their answers are awaited; one of the first is longer than the stream accepts.
    let long = "x".repeat(4_000);
    let commands = |long: &str| -> Vec<Value> {
        let data = |n: usize| if n == 100 { json!(long) } else { json!(n) };
        (0..1_300).map(|n| json!({"publish": {"channel": "stream:a", "data": data(n)}})).collect()
    };
    let batch = |long: &str| json!({"commands": commands(long), "idempotency_key": "batch"});
    let (_, stored) = server.post("/api/batch", &batch(&long));
    let replies = stored["replies"].as_array().unwrap();
    let offsets: Vec<u64> = replies.iter().filter_map(|reply| reply["publish"]["offset"].as_u64()).collect();
    assert!(offsets.len() >= 100 && offsets.len() <= 600, "{}", offsets.len());
    assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]), "{offsets:?}");
    let error_text = |at: usize| replies[at]["error"]["message"].as_str().unwrap_or_default();
    assert!(error_text(100).contains("NATS did not take the delta"), "{}", error_text(100));
    for at in offsets.len() + 1..1_300 {
        assert!(error_text(at).contains("not sent, as one before it failed"), "{at}: {}", error_text(at));
    }
    let mut stream = js.get_stream("NEXUS").await.unwrap();
    assert_eq!(
        stream.info().await.unwrap().state.messages,
        offsets.len() as u64,
        "stored messages and reported ones differ"
    );
    // Sent again with the same key after the limit was raised: each is stored once.
    let (_, again) = server.post("/api/batch", &batch("short"));
    assert!(again["replies"].as_array().unwrap().iter().all(|reply| reply["publish"]["offset"].is_u64()), "{again}");
    assert_eq!(stream.info().await.unwrap().state.messages, 1_300);
}

#[tokio::test]
async fn publishing_over_http_uses_the_stream_and_reports_failures() {
    let mut nats = Nats::start();
    let (first, second) = (nats.server("").await, nats.server("").await);
    let mut client = second.client().await;
    // Whatever a topic is called.
    let topics = ["merge:m", "stream:BRK.B", "stream:a:b", "a.b:c", "stream:*", "stream:é>", "plain", "stream:"];
    client.subscribe(&topics).await;
    let mut last = 0;
    for topic in topics {
        let offset = first.publish(topic, &json!({"of": topic}));
        assert!(offset > last, "{offset} behind {last}");
        last = offset;
        let delta = client.next().await;
        assert_eq!((&delta["topic"], &delta["offset"]), (&json!(topic), &json!(offset)));
        assert_eq!(delta["data"]["of"], topic);
    }
    let snapshot = json!({"channel": "merge:m", "kind": "snapshot", "ts": 1_723_161_256_313_u64, "data": {"only": 1}});
    let (status, reply) = first.post("/api/publish", &snapshot);
    assert_eq!((status, &reply["result"]["offset"]), (200, &json!(last + 1)));
    let delta = client.next().await;
    assert_eq!(
        (&delta["type"], &delta["ts"], &delta["data"]),
        (&json!("snapshot"), &json!(1_723_161_256_313_u64), &json!({"only": 1}))
    );
    nats.kill();
    first.until("not ready", |s| s.get("/readyz").0 == 503).await;
    let (status, reply) = first.post("/api/publish", &json!({"channel": "merge:m", "data": {}}));
    assert_eq!(status, 503, "{reply}");
    assert!(reply["error"]["message"].as_str().unwrap().contains("NATS did not take the delta"), "{reply}");
    nats.start_again();
    first.until("ready", |s| s.get("/readyz").0 == 200).await;
    first.publish("merge:m", &json!({"again": 1}));
    assert_eq!(client.next().await["data"], json!({"again": 1}));
}

async fn expect_stream(client: &mut Client, have: &mut u64, until: u64) {
    while *have < until {
        let delta = client.next().await;
        assert_eq!(delta["data"], *have + 1, "a gap or a repetition");
        *have += 1;
    }
}

/// Killed repeatedly while a publisher continues: acknowledged deltas come once, in order, and offsets continue.
#[tokio::test]
async fn killed_and_restarted_with_its_data_under_load_nothing_is_lost() {
    let mut nats = Nats::start();
    let server = nats.server("").await;
    let (mut stream, mut merge) = (server.client().await, server.client().await);
    stream.subscribe(&["stream:s"]).await;
    let epoch = merge.subscribe(&["merge:m"]).await["topics"]["merge:m"]["epoch"].clone();
    let mut follower = Follower { state: json!({}), epoch: epoch.as_str().unwrap().to_owned(), ..Follower::default() };
    let (url, total) = (nats.url(), 1_200u64);
    let publisher = tokio::spawn(async move {
        let js = jetstream::new(async_nats::connect(&url).await.unwrap());
        for n in 1..=total {
            for (subject, data) in [("stream.s", json!(n)), ("merge.m", json!({(format!("k{}", n % 20)): n}))] {
                // Sent again until it is acknowledged; its id prevents that it is stored twice.
                loop {
                    let message = jetstream::message::PublishMessage::build()
                        .payload(data.to_string().into())
                        .message_id(format!("{subject}-{n}"));
                    let sent = js.send_publish(format!("nexus.deltas.{subject}"), message).await;
                    if let Ok(ack) = sent
                        && ack.await.is_ok()
                    {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    });
    let mut have = 0;
    for round in 1..=3u64 {
        expect_stream(&mut stream, &mut have, round * 200).await;
        nats.kill();
        server.until("not ready", |s| s.get("/readyz").0 == 503).await;
        assert_eq!(server.get("/healthz").0, 200, "the server must not be restarted because NATS is away");
        assert_eq!(server.get("/api/topics/merge:m").0, 200, "snapshots are still served");
        nats.start_again();
    }
    expect_stream(&mut stream, &mut have, total).await;
    publisher.await.unwrap();
    server.until("all is read", |s| view(s, "merge:m")["data"]["k0"] == total).await;
    let last = view(&server, "merge:m");
    follower.follow(&mut merge, last["offset"].as_u64().unwrap()).await;
    assert_eq!((&follower.state, &json!(follower.epoch)), (&last["data"], &epoch));
    assert_eq!(follower.snapshots, 0, "no snapshot was needed");
    stream.nothing_more().await;
    ready(&server).await;
    assert_eq!(server.metric(EPOCH_CHANGES), 0.0);
    // A server that starts now agrees with the one that ran throughout.
    let second = nats.server("").await;
    assert_eq!(view(&second, "merge:m"), last);
}

#[tokio::test]
async fn paused_and_continued_nothing_is_lost() {
    let nats = Nats::start();
    let server = nats.server("").await;
    let js = nats.jetstream().await;
    let mut client = server.client().await;
    client.subscribe(&["stream:s"]).await;
    let mut have = 0;
    for n in 1..=50 {
        add(&js, "stream.s", &json!(n)).await;
    }
    expect_stream(&mut client, &mut have, 50).await;
    nats.signal("STOP");
    server.until("not ready", |s| s.get("/readyz").0 == 503).await;
    nats.signal("CONT");
    for n in 51..=100 {
        nats.raw(b"nexus.deltas.stream.s", None, n.to_string().as_bytes());
    }
    expect_stream(&mut client, &mut have, 100).await;
    client.nothing_more().await;
    ready(&server).await;
}

/// Two nodes with a subscriber of a `stream` and of a `merge` topic each, and some data on both topics.
struct Pair {
    nodes: [Server; 2],
    clients: Vec<[Client; 2]>,
    epoch: Value,
    offset: Value,
}

impl Pair {
    async fn new(nats: &Nats, js: &jetstream::Context, more: &str) -> Self {
        let nodes = [nats.server(more).await, nats.server(more).await];
        for n in 1..=20 {
            add(js, "stream.s", &json!(n)).await;
            add(js, "merge.m", &json!({(format!("k{n}")): n})).await;
        }
        let mut clients = Vec::new();
        let mut standing = Value::Null;
        for node in &nodes {
            node.until("it has all", |s| view(s, "merge:m")["data"]["k20"] == 20).await;
            let (mut stream, mut merge) = (node.client().await, node.client().await);
            standing = stream.subscribe(&["stream:s"]).await["topics"]["stream:s"].clone();
            merge.subscribe(&["merge:m"]).await;
            clients.push([stream, merge]);
        }
        Self { nodes, clients, epoch: standing["epoch"].clone(), offset: standing["offset"].clone() }
    }

    /// All clients are notified of the new epoch, and end with this state of the `merge` topic.
    async fn all_reach(&mut self, state: &Value) {
        let mut ends = Vec::new();
        for (node, [stream, merge]) in self.nodes.iter().zip(&mut self.clients) {
            let mut follower = Follower::default();
            while follower.epoch.is_empty() || json!(follower.epoch) == self.epoch || follower.state != *state {
                let message = merge.next().await;
                if message["type"] == "snapshot" || !follower.epoch.is_empty() {
                    follower.take(&message);
                }
            }
            while stream.next().await["type"] != "snapshot" {}
            assert!(node.metric(EPOCH_CHANGES) >= 1.0);
            ends.push((follower.epoch, follower.offset));
            // A position of the old epoch is not valid.
            let mut back = node.client().await;
            let since = json!({"stream:s": {"offset": self.offset, "epoch": self.epoch}});
            back.send(json!({"op": "subscribe", "args": ["stream:s"], "since": since})).await;
            assert_eq!(back.next().await["topics"]["stream:s"]["recovered"], false);
            assert_eq!(node.metric("sessions"), 3.0, "no session was closed");
        }
        assert_eq!(ends[0], ends[1]);
    }
}

#[tokio::test]
async fn a_purge_empties_topics_on_all_nodes_and_changes_the_epoch() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    let mut pair = Pair::new(&nats, &js, "snapshot_every = \"200ms\"").await;
    js.get_stream("NEXUS").await.unwrap().purge().await.unwrap();
    // Immediately after it, so that no node sees it empty.
    add(&js, "stream.s", &json!("new")).await;
    add(&js, "merge.m", &json!({"new": 1})).await;
    pair.all_reach(&json!({"new": 1})).await;
    // States saved before it stay removed.
    let third = nats.server("").await;
    assert_eq!(view(&third, "merge:m")["data"], json!({"new": 1}));
    assert_eq!(view(&third, "merge:m"), view(&pair.nodes[0], "merge:m"));
}

#[tokio::test]
async fn a_recreated_stream_is_another_one() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    let mut pair = Pair::new(&nats, &js, "snapshot_every = \"200ms\"").await;
    let config = js.get_stream("NEXUS").await.unwrap().cached_info().config.clone();
    js.delete_stream("NEXUS").await.unwrap();
    js.create_stream(config).await.unwrap();
    add(&js, "stream.s", &json!("new")).await;
    add(&js, "merge.m", &json!({"new": 1})).await;
    pair.all_reach(&json!({"new": 1})).await;
    let third = nats.server("").await;
    assert_eq!(view(&third, "merge:m"), view(&pair.nodes[0], "merge:m"));
}

/// Sequences above the largest offset of clients: all later ones are too large as well. As with Redis, publishers get
/// an error, and the node is not ready.
#[tokio::test]
async fn a_message_above_the_largest_offset_makes_the_node_not_ready() {
    const LAST: u64 = (1 << 53) - 1;
    let remedy = "publish to a new stream, or delete this one";
    let nats = Nats::start();
    let js = nats.jetstream().await;
    let stream = json!({"name": "NEXUS", "subjects": ["nexus.deltas.>"], "first_seq": LAST - 1});
    let made: Response<Value> = js.request("STREAM.CREATE.NEXUS", &stream).await.unwrap();
    assert!(matches!(made, Response::Ok(_)), "{made:?}");
    let server = nats.server("").await;
    add(&js, "latest.a", &json!(1)).await;
    assert_eq!(server.publish("latest:a", &json!(2)), LAST);
    server.until("read", |s| view(s, "latest:a")["offset"] == LAST).await;
    assert_eq!(server.get("/readyz").0, 200, "the last that clients can read");
    let first = (LAST + 1).to_string();
    let (status, reply) = server.post("/api/publish", &json!({"channel": "latest:a", "data": 3}));
    let error_text = reply.to_string();
    assert!(status == 503 && error_text.contains(&first) && error_text.contains(remedy), "{reply}");
    server.until("not ready", |s| s.get("/readyz").0 == 503).await;
    let (_, why) = server.get("/readyz");
    assert!(why.contains(&first) && why.contains(remedy), "{why}");
    let source = server.status()["sources"][0].clone();
    assert!(source["note"].as_str().unwrap().contains(&first), "{source}");
    let refused = &source["refused"]["reasons"]["id_too_late"];
    assert_eq!((&refused["id"], &refused["topic"]), (&json!(first), &json!("latest:a")));
    add(&js, "latest.b", &json!(4)).await;
    for topic in ["latest:a", "latest:b"] {
        let is_line = |line: &str| line.contains("id_too_late") && line.contains(topic);
        server.until("its topic has a line", |s| s.log().lines().any(is_line)).await;
    }
    // In a batch, nothing after the first such message is sent.
    let publish = json!({"publish": {"channel": "latest:a", "data": 4}});
    let many: Vec<&Value> = std::iter::repeat_n(&publish, 1_100).collect();
    let (_, replies) = server.post("/api/batch", &json!({"commands": many}));
    assert!(replies["replies"].as_array().unwrap().iter().all(|reply| reply["error"].is_object()), "{replies}");
    let end = replies["replies"][1_099].to_string();
    assert!(end.contains("not sent, as one before it failed"), "{end}");
    let (_folder, config) = config_file(&nats.config(""));
    for to in [["--config", &config], ["--to", &nats.url()]] {
        let error = failed(&run(&["publish", to[0], to[1], "latest:a", "5"]));
        assert!(error.contains("has a sequence above") && error.contains(remedy), "{error}");
    }
    assert_eq!(view(&server, "latest:a")["data"], 2, "what was good is served on");
    let read = js.get_stream("NEXUS").await.unwrap().cached_info().state.last_sequence - LAST;
    server.until("all are counted", |s| s.metric(SKIPPED) == read as f64).await;
    let lines = |s: &Server| s.log().lines().filter(|line| line.contains(" ERROR ")).count();
    assert_eq!(lines(&server), 1, "one line, however many come");
    // Starting nodes are not ready either, even if the stream no longer has the messages.
    let late = Server::start(&nats.config(""));
    late.until("the reason is shown", |s| s.get("/readyz").1.contains(remedy)).await;
    js.get_stream("NEXUS").await.unwrap().purge().await.unwrap();
    let later = Server::start(&nats.config(""));
    later.until("the reason is shown", |s| s.get("/readyz").1.contains(remedy)).await;
    // The remedy.
    js.delete_stream("NEXUS").await.unwrap();
    for server in [&server, &late, &later] {
        ready(server).await;
        let note = server.status()["sources"][0]["note"].to_string();
        assert!(!note.contains("All that is added"), "{note}");
    }
    assert_eq!(server.publish("latest:a", &json!(6)), 1);
    later.until("it continues", |s| view(s, "latest:a")["data"] == 6).await;
}

/// An older copy of NATS' data is restored: sequences go backwards, and are used again.
#[tokio::test]
async fn an_older_copy_put_back_changes_the_epoch() {
    let mut nats = Nats::start();
    let js = nats.jetstream().await;
    let mut pair = Pair::new(&nats, &js, "snapshot_every = \"0s\"").await;
    nats.kill();
    let kept = nats.directory.path().join("kept");
    copy(&nats.data(), &kept);
    nats.start_again();
    let js = nats.jetstream().await;
    for n in 0..30 {
        add(&js, "merge.m", &json!({"lost": n})).await;
    }
    for node in &pair.nodes {
        node.until("it has all", |s| view(s, "merge:m")["data"]["lost"] == 29).await;
    }
    nats.kill();
    std::fs::remove_dir_all(nats.data()).unwrap();
    copy(&kept, &nats.data());
    nats.start_again();
    let js = nats.jetstream().await;
    // As many as were lost, and more.
    let mut state = (1..=20).map(|n| (format!("k{n}"), json!(n))).collect::<serde_json::Map<String, Value>>();
    for n in 0..40 {
        add(&js, "merge.m", &json!({"kept": n})).await;
    }
    state.insert("kept".into(), json!(39));
    pair.all_reach(&Value::Object(state)).await;
}

/// A node could not read for so long that messages were removed: it loads again on its own, in the same epoch, and
/// marks unknown states as incomplete. A node that has read them is not affected.
#[tokio::test]
async fn messages_removed_unread_affect_only_the_node_that_missed_them() {
    let nats = Nats::start();
    let more = "max_messages = 50\nsnapshot_every = \"0s\"";
    let (healthy, server) = (nats.server(more).await, nats.server(more).await);
    let js = nats.jetstream().await;
    let (mut beside, mut client) = (healthy.client().await, server.client().await);
    let epoch = client.subscribe(&["merge:m", "stream:s"]).await["topics"]["merge:m"]["epoch"].clone();
    beside.subscribe(&["merge:m"]).await;
    add(&js, "merge.m", &json!({"a": 1})).await;
    for client in [&mut client, &mut beside] {
        assert_eq!(client.next().await["data"], json!({"a": 1}));
    }
    server.signal("STOP");
    for n in 0..3_000 {
        add(&js, "merge.m", &json!({(format!("k{}", n % 100)): n})).await;
        assert_eq!(beside.next().await["data"], json!({(format!("k{}", n % 100)): n}), "healthy");
    }
    server.signal("CONT");
    loop {
        let message = client.next().await;
        if message["topic"] == "merge:m" && message["type"] == "snapshot" {
            // Whole conflated states come first, from messages that were on their way to the node.
            if message["incomplete"].is_null() {
                assert_eq!(message["epoch"], epoch);
                continue;
            }
            let in_doubt = json!(format!("{}~", epoch.as_str().unwrap()));
            assert_eq!((&message["incomplete"], &message["epoch"]), (&json!(true), &in_doubt), "{message}");
            break;
        }
    }
    server.until("read", |s| view(s, "merge:m")["data"]["k99"] == 2_999).await;
    assert_eq!(view(&server, "merge:m")["incomplete"], true);
    assert!(server.metric("source_missed_total{source=\"nats NEXUS\"}") >= 1.0);
    // The missed messages may have been of other topics.
    add(&js, "merge.new", &json!({"n": 1})).await;
    for (server, incomplete) in [(&server, json!(true)), (&healthy, Value::Null)] {
        server.until("read", |s| view(s, "merge:new")["data"] == json!({"n": 1})).await;
        assert_eq!(view(server, "merge:new")["incomplete"], incomplete);
        assert_eq!(server.metric(EPOCH_CHANGES), 0.0);
    }
    let state = view(&healthy, "merge:m");
    assert_eq!((state.get("incomplete"), state["data"].as_object().unwrap().len()), (None, 101));
    // Removing messages that were read changes nothing.
    let missed = server.metric("source_missed_total{source=\"nats NEXUS\"}");
    for n in 0..200 {
        let offset = add(&js, "merge.m", &json!({"n": n})).await;
        server.until("read", |s| view(s, "merge:m")["offset"] == offset).await;
    }
    assert_eq!(server.metric("source_missed_total{source=\"nats NEXUS\"}"), missed);
    beside.next().await;
    assert_eq!(healthy.metric("source_missed_total{source=\"nats NEXUS\"}"), 0.0);
}

/// Messages of a namespace of bytes are read unchanged; their states are saved, small and large, and restored.
#[tokio::test]
async fn bytes_survive_the_messages_that_brought_them() {
    let nats = Nats::start();
    let more = "max_messages = 2\nsnapshot_every = \"200ms\"\n[namespace.raw]\npayload = \"bytes\"\nclass = \"latest\"";
    let first = nats.server(more).await;
    let js = nats.jetstream().await;
    let (small, large) = (vec![0xff, 0, b'\n'], [0xfe, 0].repeat(100_000));
    for (subject, bytes) in [("nexus.deltas.raw.small", &small), ("nexus.deltas.raw.large", &large)] {
        js.publish(subject, bytes.clone().into()).await.unwrap().await.unwrap();
    }
    add(&js, "stream.s", &json!(1)).await;
    let last = add(&js, "stream.s", &json!(2)).await;
    first.until("the first has it", |s| view(s, "stream:s")["offset"] == last).await;
    let bucket = js.get_key_value("NEXUS_STATE").await.unwrap();
    let key = format!("position.{}", view(&first, "stream:s")["epoch"].as_str().unwrap());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let saved: Value =
            serde_json::from_slice(&bucket.get(&key).await.unwrap().unwrap_or_default()).unwrap_or_default();
        if saved["sequence"] == last {
            break;
        }
        assert!(Instant::now() < deadline, "not saved: {saved}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let second = nats.server(more).await;
    for (topic, bytes) in [("raw:small", &small), ("raw:large", &large)] {
        let seen = view(&second, topic);
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
        assert_eq!((&seen["encoding"], &seen["data"]), (&json!("base64"), &json!(text)), "{topic}");
        assert_eq!(view(&first, topic)["data"], seen["data"], "{topic}");
    }
}

/// States of any size outlive their deltas: a node that starts later restores them from the bucket.
#[tokio::test]
async fn saved_states_survive_the_messages_that_made_them() {
    let nats = Nats::start();
    let more = "max_messages = 3\nsnapshot_every = \"200ms\"";
    let first = nats.server(more).await;
    let js = nats.jetstream().await;
    let large = "x".repeat(250_000);
    let mut expected = json!({});
    for n in 0..6 {
        let patch = json!({(format!("k{n}")): large});
        json_patch::merge(&mut expected, &patch);
        add(&js, "merge.large", &patch).await;
    }
    add(&js, "merge.a", &json!({"old": 1})).await;
    add(&js, "latest.b", &json!("value")).await;
    for n in 0..3 {
        add(&js, "stream.s", &json!(n)).await;
    }
    let last = add(&js, "merge.a", &json!({"new": 2})).await;
    first.until("the first has it", |s| view(s, "merge:a")["offset"] == last).await;
    let bucket = js.get_key_value("NEXUS_STATE").await.unwrap();
    let key = format!("position.{}", view(&first, "merge:a")["epoch"].as_str().unwrap());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let position = bucket.get(&key).await.unwrap().unwrap_or_default();
        let saved: Value = serde_json::from_slice(&position).unwrap_or_default();
        if saved["sequence"] == last {
            break;
        }
        assert!(Instant::now() < deadline, "not saved: {saved}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let second = nats.server(more).await;
    for (topic, data) in
        [("merge:a", json!({"old": 1, "new": 2})), ("merge:large", expected), ("latest:b", json!("value"))]
    {
        assert_eq!(view(&second, topic)["data"], data, "{topic}");
        assert_eq!(view(&second, topic), view(&first, topic), "{topic}");
    }
    assert_eq!(second.metric(EPOCH_CHANGES), 0.0);
}

/// A publisher ends a topic, on a stream that keeps little: no node brings it back, it is whole when it begins again,
/// and saving works after it was ended twice.
#[tokio::test]
async fn a_deleted_topic_is_gone_on_all_nodes_and_after_restarts() {
    let nats = Nats::start();
    let more = "max_messages = 3\nsnapshot_every = \"200ms\"";
    let (first, second) = (nats.server(more).await, nats.server(more).await);
    let js = nats.jetstream().await;
    let delete = async |topic: &str| {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nexus-Kind", "delete");
        let subject = format!("nexus.deltas.{topic}");
        js.publish_with_headers(subject, headers, "".into()).await.unwrap().await.unwrap().sequence
    };
    for life in 0..2 {
        let born = add(&js, "merge.a", &json!({(format!("life{life}")): 1})).await;
        first.until("born", |s| view(s, "merge:a")["offset"] == born).await;
        assert_eq!(view(&first, "merge:a")["data"], json!({(format!("life{life}")): 1}));
        let epoch = view(&first, "merge:a")["epoch"].as_str().unwrap().to_owned();
        saved_upto(&js, &epoch, born).await;
        delete("merge.a").await;
        for server in [&first, &second] {
            server.until("gone", |s| s.get("/api/topics/merge:a").0 == 404).await;
        }
        let mut last = 0;
        for n in 0..4 {
            last = add(&js, "latest.b", &json!(n)).await;
        }
        saved_upto(&js, &epoch, last).await;
    }
    drop((first, second));
    let third = nats.server(more).await;
    assert_eq!(third.get("/api/topics/merge:a").0, 404);
    let born = add(&js, "merge.a", &json!({"third": 1})).await;
    third.until("born", |s| view(s, "merge:a")["offset"] == born).await;
    let seen = view(&third, "merge:a");
    assert_eq!((&seen["data"], seen.get("incomplete")), (&json!({"third": 1}), None));
}

/// The stream removed messages that no node had saved: the state is incomplete until it is published as a whole.
#[tokio::test]
async fn a_state_of_which_messages_are_gone_is_incomplete_until_it_is_published_whole() {
    let nats = Nats::start();
    let more = "max_messages = 10\nsnapshot_every = \"0s\"";
    let whole = nats.server(more).await;
    let js = nats.jetstream().await;
    for n in 0..30 {
        let last = add(&js, "merge.a", &json!({(format!("m{n}")): n})).await;
        whole.until("read", |s| view(s, "merge:a")["offset"] == last).await;
    }
    let partial = nats.server(more).await;
    let seen = view(&partial, "merge:a");
    assert_eq!((&seen["incomplete"], seen["data"].as_object().unwrap().len()), (&json!(true), 10));
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nexus-Kind", "snapshot");
    let published = js.publish_with_headers("nexus.deltas.merge.a", headers, r#"{"all":1}"#.into()).await.unwrap();
    let last = published.await.unwrap().sequence;
    for server in [&whole, &partial] {
        server.until("whole", |s| view(s, "merge:a")["offset"] == last).await;
    }
    assert_eq!(view(&partial, "merge:a"), view(&whole, "merge:a"));
    assert_eq!(view(&partial, "merge:a").get("incomplete"), None);
}

#[tokio::test]
async fn logins_are_not_shown() {
    let nats = Nats::start_with("authorization { user: push, password: \"very-secret@1\" }");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "very-secret@1\n").unwrap();
    let address = format!("127.0.0.1:{}", nats.port);
    let ways = [
        format!("urls = [\"nats://push:very-secret%401@{address}\"]"),
        format!("urls = [\"nats://{address}\"]\nuser = \"push\"\npassword = \"very-secret@1\""),
        format!("urls = [\"nats://{address}\"]\nuser = \"push\"\npassword_file = \"{}\"", file.display()),
    ];
    for way in ways {
        let server = Server::start(&format!("{OPEN}\n[source.nats]\n{way}"));
        ready(&server).await;
        server.publish("stream:s", &json!(1));
        let everything = format!("{}{}{}", server.log(), server.get("/status").1, server.get("/readyz").1);
        assert!(!everything.contains("very-secret"), "{everything}");
    }
    let wrong = Server::start(&format!("{OPEN}\n[source.nats]\nurls = [\"nats://push:wrong-secret@{address}\"]"));
    wrong
        .until("the reason is shown", |s| s.status()["sources"][0]["note"].to_string().contains("authorization"))
        .await;
    assert!(!wrong.log().contains("wrong-secret"));
}

/// TLS with our own certificate; only the second of two servers is running.
#[tokio::test]
async fn over_tls_and_by_the_server_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    std::fs::write(folder.path().join("ca.crt"), authority.pem()).unwrap();
    authority.issue("localhost").write(folder.path(), "server");
    authority.issue("push").write(folder.path(), "push");
    let at = folder.path().display();
    let nats = Nats::start_with(&format!(
        "tls {{ cert_file: \"{at}/server.crt\", key_file: \"{at}/server.key\", ca_file: \"{at}/ca.crt\", verify: true }}"
    ));
    let more = format!(
        "urls = [\"tls://localhost:{}\", \"tls://localhost:{}\"]\nca_file = \"{at}/ca.crt\"\n\
         client_certificate_file = \"{at}/push.crt\"\nclient_key_file = \"{at}/push.key\"",
        free_port(),
        nats.port
    );
    let server = Server::start(&format!("{OPEN}\n[source.nats]\n{more}"));
    ready(&server).await;
    let mut client = server.client().await;
    client.subscribe(&["stream:s"]).await;
    let offset = server.publish("stream:s", &json!("sealed"));
    assert_eq!(client.next().await["offset"], offset);
}
