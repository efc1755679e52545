//! Each limit: its refusal and its metric. `docs/limits.md` is the list.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::{Client, Got, Server};

#[tokio::test]
async fn sessions() {
    let server = Server::start(&crate::support::OPEN.replace("shards = 2", "shards = 2\nmax_sessions = 3"));
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(server.client().await);
    }
    server.until("three", |s| s.metric("sessions") == 3.0).await;
    let (status, head, _) = upgrade_by_hand(&server);
    assert_eq!(status, 503);
    assert!(head.contains("retry-after: "), "{head}");
    assert_eq!(server.metric("upgrades_refused_total{reason=\"full\"}"), 1.0);
    held.pop();
    server.until("two", |s| s.metric("sessions") == 2.0).await;
    server.client().await.nothing_more().await;
    assert_eq!(server.status()["sessions"]["max"], 3);
}

/// Of many that come at once for the last places, each is refused or keeps its place: nobody reads `101` and is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_for_the_last_places() {
    let server = Server::start(&crate::support::OPEN.replace("shards = 2", "shards = 2\nmax_sessions = 8"));
    for _ in 0..5 {
        let come = (0..48).map(|_| tokio::spawn(Client::connect_with(server.address, &[])));
        let mut clients = Vec::new();
        for came in futures_util::future::join_all(come).await {
            match came.unwrap() {
                Ok(client) => clients.push(client),
                Err(status) => assert_eq!(status, 503),
            }
        }
        assert!((1..=8).contains(&clients.len()), "{}", clients.len());
        assert_eq!(server.metric("sessions"), clients.len() as f64);
        for client in &mut clients {
            client.nothing_more().await;
        }
        drop(clients);
        server.until("none", |s| s.metric("sessions") == 0.0).await;
    }
}

fn upgrade_by_hand(server: &Server) -> (u16, String, String) {
    let headers =
        [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")];
    // Replaces the helper's `Connection: close` by the headers of an upgrade.
    let mut stream = TcpStream::connect(server.address).unwrap();
    let mut request = "GET /ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\n".to_owned();
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{request}\r\n").as_bytes()).unwrap();
    stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    let mut answer = Vec::new();
    let mut chunk = [0; 1024];
    while !answer.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = stream.read(&mut chunk).unwrap();
        answer.extend_from_slice(&chunk[..n]);
    }
    let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    (text.split_whitespace().nth(1).unwrap().parse().unwrap(), text, String::new())
}

#[tokio::test]
async fn sessions_of_one_address() {
    let server = Server::open_with("[limits]\nsessions_per_address = 2");
    let first = server.client().await;
    let _second = server.client().await;
    assert_eq!(Client::connect_with(server.address, &[]).await.err(), Some(429));
    assert_eq!(server.metric("upgrades_refused_total{reason=\"address_sessions\"}"), 1.0);
    drop(first);
    server.until("one left", |s| s.metric("sessions") == 1.0).await;
    server.client().await.nothing_more().await;
}

#[tokio::test]
async fn new_sessions_of_one_address() {
    let server = Server::open_with("[limits]\nnew_sessions_per_address = 5");
    let mut refused = 0;
    for _ in 0..20 {
        refused += u32::from(Client::connect_with(server.address, &[]).await.is_err());
    }
    assert!(refused >= 5, "{refused} of 20 at once were refused");
    assert_eq!(server.metric("upgrades_refused_total{reason=\"address_rate\"}"), f64::from(refused));
}

#[tokio::test]
async fn handshake_time() {
    let server = Server::open_with("[limits]\nhandshake_timeout = \"300ms\"");
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    stream.write_all(b"GET /ws HTTP/1.1\r\nHost: te").unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    server.until("counted", |s| s.metric("handshake_timeouts_total") >= 1.0).await;
}

#[tokio::test]
async fn time_to_a_first_valid_command() {
    let server = Server::open_with("[limits]\nfirst_command_timeout = \"300ms\"");
    let mut silent = server.client().await;
    let mut invalid = server.client().await;
    invalid.send_text("{}").await;
    let mut valid = server.client().await;
    valid.nothing_more().await;
    assert_eq!(silent.close_code().await, 3502);
    assert_eq!(invalid.close_code().await, 3502);
    valid.nothing_more().await;
    assert_eq!(server.metric("closes_total{reason=\"no_command\"}"), 2.0);
}

#[tokio::test]
async fn message_size() {
    let server = Server::open();
    let mut client = server.client().await;
    let ping = |bytes: usize| {
        let empty = json!({"op": "ping", "id": ""}).to_string();
        format!("{empty}{}", " ".repeat(bytes - empty.len()))
    };
    client.send_text(&ping(65_536)).await;
    assert_eq!(client.next().await["op"], "pong");
    client.send_text(&ping(65_537)).await;
    assert_eq!(client.close_code().await, 1009);
    assert_eq!(server.metric("closes_total{reason=\"message_too_big\"}"), 1.0);
}

#[tokio::test]
async fn commands_per_second() {
    let server = Server::open_with("[limits]\ncommands_per_second = 5\ncommands_burst = 20");
    let mut client = server.client().await;
    for id in 0..20 {
        client.send(json!({"op": "ping", "id": id})).await;
    }
    for id in 0..20 {
        assert_eq!(client.next().await["id"], id);
    }
    for _ in 0..20 {
        client.send(json!({"op": "ping"})).await;
    }
    assert_eq!(client.close_code().await, 3013);
    assert_eq!(server.metric("closes_total{reason=\"too_many_commands\"}"), 1.0);
}

#[tokio::test]
async fn subscriptions() {
    let server = Server::open_with("[limits]\nsubscriptions = 3");
    let mut client = server.client().await;
    // More topics than the limit are refused as a whole; those above what is left, one by one.
    client.send(json!({"op": "subscribe", "id": 1, "args": ["latest:a", "latest:b", "latest:c", "latest:d"]})).await;
    let refused = client.next().await;
    assert_eq!((&refused["ok"], &refused["error"]["code"]), (&json!(false), &json!(429)), "{refused}");
    assert_eq!(client.subscribe(&["latest:a"]).await["ok"], true);
    client.send(json!({"op": "subscribe", "id": 1, "args": ["latest:b", "latest:c", "latest:d"]})).await;
    let reply = client.next().await;
    assert_eq!((&reply["error"]["code"], &reply["error"]["topic"]), (&json!(429), &json!("latest:d")));
    assert_eq!(reply["topics"].as_object().unwrap().len(), 2);
    assert_eq!(server.metric("subscriptions_refused_total"), 1.0);
    client.send(json!({"op": "unsubscribe", "args": ["latest:a"]})).await;
    client.next().await;
    assert_eq!(client.subscribe(&["latest:d"]).await["ok"], true);
    assert_eq!(server.metric("subscriptions"), 3.0);
}

#[tokio::test]
async fn topic_names() {
    let server = Server::open();
    let mut client = server.client().await;
    for bad in [String::new(), "a b".into(), "a\u{1}".into(), "x".repeat(256)] {
        client.send(json!({"op": "subscribe", "id": 1, "args": [bad]})).await;
        assert_eq!(client.next().await["error"]["code"], 400, "{bad:?}");
        let (status, _) = server.post("/api/publish", &json!({"channel": bad, "data": 1}));
        assert_eq!(status, 400, "{bad:?}");
    }
    assert_eq!(client.subscribe(&[&"x".repeat(255)]).await["ok"], true);
    assert_eq!(server.metric("deltas_refused_total{reason=\"name\"}"), 4.0);
    assert_eq!(server.metric("commands_refused_total"), 4.0);
}

#[tokio::test]
async fn deltas() {
    let server = Server::open_with("[limits]\ndelta_bytes = 1024");
    let (status, reply) = server.post("/api/publish", &json!({"channel": "stream:a", "data": "x".repeat(2_000)}));
    assert_eq!(status, 413);
    assert!(reply["error"]["message"].as_str().unwrap().contains("2002 bytes, and the most is 1024"), "{reply}");
    let mut deep = Value::Null;
    for _ in 0..70 {
        deep = json!([deep]);
    }
    assert_eq!(server.post("/api/publish", &json!({"channel": "stream:a", "data": deep})).0, 400);
    assert_eq!(server.metric("deltas_refused_total{reason=\"too_large\"}"), 1.0);
    assert_eq!(server.metric("deltas_refused_total{reason=\"too_deep\"}"), 1.0);
}

#[tokio::test]
async fn topics() {
    let server = Server::open_with(
        "[namespace.short]\nclass = \"latest\"\nexpire_after = \"1s\"\n[limits]\ntopics = 3\ntopic_idle = \"1s\"",
    );
    for topic in ["latest:0", "short:1", "short:2"] {
        server.publish(topic, &json!(0));
    }
    let (status, reply) = server.post("/api/publish", &json!({"channel": "latest:3", "data": 1}));
    assert_eq!(status, 503);
    assert!(reply["error"]["message"].as_str().unwrap().contains("limits.topics"), "{reply}");
    let mut client = server.client().await;
    client.send(json!({"op": "subscribe", "id": 1, "args": ["latest:4", "latest:0"]})).await;
    // A name that only a subscriber has used takes no room from published topics.
    let reply = client.next().await;
    assert_eq!(
        (&reply["topics"]["latest:4"]["offset"], &reply["topics"]["latest:0"]["offset"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(client.next().await["type"], "snapshot");
    assert_eq!(server.post("/api/publish", &json!({"channel": "latest:4", "data": 1})).0, 503);
    assert_eq!(server.metric("topics_refused_total"), 2.0);
    // Topics without a delta for too long are removed.
    server.until("topics end", |s| s.metric("topics") == 1.0).await;
    assert_eq!(server.metric("topics_expired_total"), 2.0);
    // A position from before is not valid on a topic that ended, and not mistaken for one.
    let epoch = client.subscribe(&["latest:0"]).await["topics"]["latest:0"]["epoch"].clone();
    client.next().await;
    assert!(server.publish("short:1", &json!("again")) > 1, "offsets never begin again within an epoch");
    client
        .send(json!({"op": "subscribe", "args": ["short:1"], "since": {"short:1": {"offset": 1, "epoch": epoch}}}))
        .await;
    client.next().await;
    assert_eq!(client.next().await["data"], "again");
}

#[tokio::test]
async fn merge_state() {
    let server = Server::open();
    let filler = "x".repeat(250_000);
    let mut refused = None;
    for n in 0..20 {
        let (status, reply) =
            server.post("/api/publish", &json!({"channel": "merge:big", "data": {(format!("k{n}")): filler}}));
        if status != 200 {
            refused = Some((n, reply));
            break;
        }
    }
    let (n, reply) = refused.expect("a state grows without bound");
    assert_eq!(n, 16);
    assert!(reply["error"]["message"].as_str().unwrap().contains("4194304"), "{reply}");
    assert_eq!(server.metric("deltas_refused_total{reason=\"state_too_large\"}"), 1.0);
    // A delta that makes it smaller, or replaces it, is always accepted.
    let shrinking = json!({"k0": null, "k1": "x".repeat(240_000)});
    assert_eq!(server.post("/api/publish", &json!({"channel": "merge:big", "data": shrinking})).0, 200);
    assert_eq!(server.post("/api/publish", &json!({"channel": "merge:big", "data": {"k0": filler}})).0, 200);
}

#[tokio::test]
async fn batches() {
    let server = Server::open();
    let command = json!({"publish": {"channel": "stream:a", "data": 1}});
    let commands: Vec<Value> = vec![command; 10_001];
    assert_eq!(server.post("/api/batch", &json!({"commands": commands})).0, 413);
    assert_eq!(server.metric("publish_refused_total{reason=\"batch_too_long\"}"), 1.0);
    let body = " ".repeat(8 * 1024 * 1024 + 1);
    assert_eq!(server.http("POST", "/api/publish", &[("Content-Type", "application/json")], &body).0, 413);
}

#[tokio::test]
async fn silence() {
    let server = Server::open_with("[limits]\nping_interval = \"500ms\"\npong_timeout = \"500ms\"");
    let mut answers = server.client().await;
    answers.subscribe(&["latest:a"]).await;
    // It reads nothing and so answers no ping, although its kernel takes every byte.
    let mut mute = server.client().await;
    mute.subscribe(&["latest:a"]).await;
    let watching = tokio::spawn(async move {
        let got = answers.next().await;
        (answers, got)
    });
    server.until("the mute one is closed", |s| s.metric("closes_total{reason=\"no_pong\"}") == 1.0).await;
    assert_eq!(mute.close_code().await, 3012);
    server.publish("latest:a", &json!(1));
    let (_answers, got) = watching.await.unwrap();
    assert_eq!(got["data"], 1);
    assert!(server.metric("pings_total") >= 2.0);
}

/// Limits of one `snapshot` command: each topic once, a number of topics, and a number of bytes.
#[tokio::test]
async fn asked_snapshots() {
    let server = Server::open_with("[limits]\nsubscriptions = 64");
    for n in 0..40 {
        server.publish(&format!("merge:{n}"), &json!({"pad": "x".repeat(20_000)}));
    }
    let mut client = server.client().await;
    let count = async |client: &mut Client| {
        let mut snapshots = 0;
        loop {
            let message = client.next().await;
            if message["op"] == "snapshot" {
                let groups = message["refused"].as_array().cloned().unwrap_or_default();
                let refused = groups.iter().map(|group| {
                    assert_eq!(group["code"], 429, "{message}");
                    group["topics"].as_array().unwrap().len() as u64 + group["more"].as_u64().unwrap_or(0)
                });
                return (snapshots, refused.sum::<u64>());
            }
            snapshots += u64::from(message["type"] == "snapshot");
        }
    };
    client.send(json!({"op": "snapshot", "id": 1, "args": vec!["merge:1"; 64]})).await;
    assert_eq!(count(&mut client).await, (1, 0));
    let many: Vec<String> = (100..165).map(|n| format!("merge:{n}")).collect();
    client.send(json!({"op": "snapshot", "id": 2, "args": many})).await;
    let refused = client.next().await;
    assert_eq!((&refused["ok"], &refused["error"]["code"]), (&json!(false), &json!(429)), "{refused}");
    // 800 KB in all: about a third of it fits.
    let large: Vec<String> = (0..40).map(|n| format!("merge:{n}")).collect();
    client.send(json!({"op": "snapshot", "id": 3, "args": large})).await;
    let (snapshots, refused) = count(&mut client).await;
    assert!((10..20).contains(&snapshots) && refused == 40 - snapshots, "{snapshots} {refused}");
}

/// Where every topic needs a token, a session has limited time to send one; a ping does not count.
#[tokio::test]
async fn time_to_a_token() {
    let config = crate::support::tokens::config("[limits]\ntoken_timeout = \"1s\"\nping_interval = \"300ms\"");
    let server = Server::start(&config);
    let token = crate::support::tokens::hs256(&crate::support::tokens::claims("ann", 60, json!({"topics": ["*"]})));
    let (mut pings, mut signed_in) = (server.client().await, server.client().await);
    pings.nothing_more().await;
    signed_in.send(json!({"op": "auth", "token": token})).await;
    assert_eq!(signed_in.next().await["ok"], true);
    server.until("it is closed", |s| s.metric("closes_total{reason=\"no_token\"}") == 1.0).await;
    assert_eq!(pings.got().await, Got::Close(3502, "no token in time".into()));
    signed_in.nothing_more().await;
    // Where topics are available without a token, a session without one is not closed.
    let server = Server::open_with("[limits]\ntoken_timeout = \"100ms\"");
    let mut anonymous = server.client().await;
    anonymous.nothing_more().await;
    let sweeps = server.metric("ticks_total") + 50.0;
    server.until("it was looked at", |s| s.metric("ticks_total") > sweeps).await;
    anonymous.nothing_more().await;
}

/// Where every topic needs a token, sessions without one get only a share of all sessions.
#[tokio::test]
async fn sessions_without_a_token() {
    let config = crate::support::tokens::config("[server]\nmax_sessions = 20\n[limits]\ntokenless_share = 0.2");
    let server = Server::start(&config);
    let token = crate::support::tokens::hs256(&crate::support::tokens::claims("ann", 60, json!({"topics": ["*"]})));
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(server.client().await);
    }
    let (status, head, _) = upgrade_by_hand(&server);
    assert!(status == 503 && head.contains("retry-after: "), "{head}");
    assert_eq!(server.metric("upgrades_refused_total{reason=\"tokenless\"}"), 1.0);
    assert_eq!(server.metric("sessions_tokenless"), 4.0);
    // A session with a token is accepted, and one that sends its token makes room.
    let bearer = format!("Bearer {token}");
    let mut with_token = Client::connect_with(server.address, &[("authorization", &bearer)]).await.unwrap();
    with_token.nothing_more().await;
    let mut first = held.swap_remove(0);
    first.send(json!({"op": "auth", "token": token})).await;
    assert_eq!(first.next().await["ok"], true);
    // Repeating it changes nothing.
    first.send(json!({"op": "auth", "token": token})).await;
    assert_eq!(first.next().await["ok"], true);
    held.push(server.client().await);
    assert_eq!(server.metric("sessions_tokenless"), 4.0);
    assert_eq!(Client::connect_with(server.address, &[]).await.err(), Some(503));
    // Closed sessions are not counted any more, with a token or without.
    drop((held, first, with_token));
    server.until("all gone", |s| s.metric("sessions") == 0.0 && s.metric("sessions_tokenless") == 0.0).await;
    // Where topics are available without a token, there is no such share.
    let server = Server::start(&crate::support::OPEN.replace("shards = 2", "shards = 2\nmax_sessions = 4"));
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(server.client().await);
    }
    assert_eq!(server.metric("upgrades_refused_total{reason=\"tokenless\"}"), 0.0);
}

/// A state larger than the backlog limit reaches a client that reads a little at a time.
#[tokio::test]
async fn a_state_larger_than_a_backlog() {
    let server = Server::open();
    let part = "x".repeat(200_000);
    for n in 0..15 {
        server.publish("merge:large", &json!({(format!("k{n}")): part}));
    }
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(8_192).unwrap();
    socket.connect(&server.address.into()).unwrap();
    let mut stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    let head = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let subscribe = br#"{"op":"subscribe","args":["merge:large"]}"#;
    stream.write_all(&crate::support::raw_socket::frame(0x81, subscribe)).unwrap();
    let mut got = Vec::new();
    let mut buffer = vec![0; 16_384];
    while got.len() < 3_000_000 {
        match stream.read(&mut buffer).unwrap() {
            0 => panic!("closed after {} bytes", got.len()),
            n => got.extend_from_slice(&buffer[..n]),
        }
    }
    assert_eq!(server.metric("closes_total{reason=\"slow\"}"), 0.0);
}

/// A constant, its value in the source, and the words of the page.
type Bound = (&'static str, &'static str, &'static str);

/// Bounds that are not in `src/limits.rs`, with their values in the source and their words in `docs/limits.md`. If a
/// file is listed here, all of its constants are, so that none is forgotten or changed unnoticed; a constant without
/// words is not a bound.
const BOUNDS_OF_RESHARD: &[(&str, &[Bound])] = &[
    (
        include_str!("../../../src/source/redis/reshard.rs"),
        &[
            ("IDLE", "Duration::from_millis(10)", ""),
            ("SAY_EVERY", "Duration::from_secs(10)", "| one per 10 s;"),
            ("NAMED_MAX", "10", "one per 10 s; 10 |"),
        ],
    ),
    (
        include_str!("../../../src/source/redis/reshard/ground.rs"),
        &[
            ("REACH_WAIT", "Duration::from_secs(10)", "for 10 s at the start"),
            ("ATTEMPT_WAIT", "Duration::from_millis(500)", "tried every 0.5 s"),
        ],
    ),
    (
        include_str!("../../../src/source/redis/reshard/node.rs"),
        &[
            ("LOAD_WAIT", "Duration::from_secs(60)", "streams that report nothing | 60 s;"),
            ("SAY_AFTER", "Duration::from_secs(3)", "reported after 3 s"),
        ],
    ),
    (
        include_str!("../../../src/source/redis/reshard/mover.rs"),
        &[
            ("SLICE_TOPICS", "50", "| about 50, in"),
            ("BATCH", "1_000", "| 1,000; 250,"),
            ("WRITE_ENTRIES", "250", "| 1,000; 250,"),
            ("WRITE_BYTES", "1 << 20", "250, or 1 MiB"),
            ("CUT_AT_LEAST_EVERY", "Duration::from_secs(2)", "entries still have to be passed on | 2 s"),
            ("LOOK_EVERY", "Duration::from_secs(1)", "notes of how far entries were looked at | one per second"),
            ("CUT_WAIT", "Duration::from_secs(60)", "to the end of all streams | 60 s each"),
            ("ATTEMPTS", "60", "later 60 times,"),
            ("ATTEMPT_WAIT", "Duration::from_millis(500)", "60 times, 0.5 s apart"),
        ],
    ),
    (
        include_str!("../../../src/source/redis/reader/waits.rs"),
        &[("RELAY_WAIT", "Duration::from_secs(5)", "that wait to be relayed | 5 s")],
    ),
    (
        include_str!("../../../src/source/redis/reader/leaving.rs"),
        &[
            ("LOOK_EVERY", "Duration::from_secs(1)", ""),
            ("CUT_WAIT", "Duration::from_secs(5)", "where the topic left it | 5 s;"),
            ("CUT_WAIT_AGAIN", "Duration::from_secs(60)", "there is none for 60 s"),
            ("CUT_LOOK_EVERY", "Duration::from_millis(1)", ""),
        ],
    ),
];

#[test]
fn the_page_has_the_bounds_of_reshard() {
    const PAGE: &str = include_str!("../../../docs/limits.md");
    for (source, known) in BOUNDS_OF_RESHARD {
        // `const NAME: TYPE = VALUE;`, with any visibility.
        let declared = source.lines().filter_map(|line| {
            let (before, rest) = line.split_once("const ")?;
            let is_constant = before.is_empty() || (before.starts_with("pub") && !before.contains('='));
            let (name, rest) = rest.split_once(": ").filter(|_| is_constant)?;
            let (_, value) = rest.trim_end_matches(';').split_once(" = ")?;
            Some((name, value))
        });
        let expected: Vec<(&str, &str)> = known.iter().map(|(name, value, _)| (*name, *value)).collect();
        assert_eq!(declared.collect::<Vec<_>>(), expected, "add them to this list and to docs/limits.md");
        for (name, value, words) in *known {
            assert!(PAGE.contains(words), "{name} is {value}: `{words}` is not in docs/limits.md");
        }
    }
}
