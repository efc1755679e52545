//! Deliveries reach a session completely, in messages that it accepts, and it is closed only for what it did.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use flate2::{Decompress, FlushDecompress};
use rustls::version::TLS13;
use serde_json::{Value, json};

use crate::support::certificates::{Authority, client_config, tls_config};
use crate::support::raw_socket::frame;
use crate::support::tokens::{claims, config, hs256};
use crate::support::{Client, Got, OPEN, PATIENCE, Redis, Server};

/// Largest list of `plain`, and largest Centrifuge message of several replies, as in docs/limits.md.
const LIST_BYTES_MAX: usize = 64 * 1024;
const JOINED_BYTES_MAX: usize = 16 * 1024;

const SLOW: &str = "closes_total{reason=\"slow\"}";
const NO_PONG: &str = "closes_total{reason=\"no_pong\"}";

/// A message from the server.
#[derive(Debug, PartialEq)]
enum Received {
    /// Inflated.
    Message(Vec<u8>),
    Ping(Vec<u8>),
    Close(u16),
}

/// A client by hand, with a small receive buffer.
struct Raw {
    stream: TcpStream,
    centrifuge: bool,
    inflated: Vec<u8>,
}

impl Raw {
    fn open(server: &Server, centrifuge: bool, deflate: bool, receive_buffer: usize) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(receive_buffer).unwrap();
        socket.connect(&server.address.into()).unwrap();
        let mut stream: TcpStream = socket.into();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let path = if centrifuge { "/connection/websocket" } else { "/ws" };
        let extensions = if deflate { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extensions}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let mut raw = Self { stream, centrifuge, inflated: Vec::with_capacity(8 << 20) };
        if centrifuge {
            raw.send(&json!({"id": 1, "connect": {}}));
            raw.values();
        }
        raw
    }

    fn send(&mut self, command: &Value) {
        self.stream.write_all(&frame(0x81, command.to_string().as_bytes())).unwrap();
    }

    fn receive(&mut self) -> Received {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).unwrap();
        let mut wide = [0; 8];
        let len = match head[1] {
            126 => {
                self.stream.read_exact(&mut wide[6..]).unwrap();
                u64::from_be_bytes(wide)
            }
            127 => {
                self.stream.read_exact(&mut wide).unwrap();
                u64::from_be_bytes(wide)
            }
            n => n.into(),
        };
        let mut payload = vec![0; usize::try_from(len).unwrap()];
        self.stream.read_exact(&mut payload).unwrap();
        if head[0] & 0x40 != 0 {
            payload.extend([0, 0, 0xff, 0xff]);
            self.inflated.clear();
            Decompress::new(false).decompress_vec(&payload, &mut self.inflated, FlushDecompress::Sync).unwrap();
            payload.clone_from(&self.inflated);
        }
        match head[0] & 0x0f {
            8 => Received::Close(u16::from_be_bytes([payload[0], payload[1]])),
            9 => Received::Ping(payload),
            _ => Received::Message(payload),
        }
    }

    /// The objects of the next message, whose size must be as documented. Pings are answered.
    fn values(&mut self) -> Vec<Value> {
        loop {
            let message = match self.receive() {
                Received::Message(message) => message,
                Received::Ping(payload) => {
                    self.stream.write_all(&frame(0x8a, &payload)).unwrap();
                    continue;
                }
                Received::Close(code) => panic!("closed: {code}"),
            };
            let bytes = message.len();
            let values = match self.centrifuge {
                true => message.split(|b| *b == b'\n').map(|line| serde_json::from_slice(line).unwrap()).collect(),
                false => match serde_json::from_slice(&message).unwrap() {
                    Value::Array(list) => list,
                    one => vec![one],
                },
            };
            let most = if self.centrifuge { JOINED_BYTES_MAX } else { LIST_BYTES_MAX };
            assert!(values.len() == 1 || bytes <= most, "{} objects in {bytes} bytes", values.len());
            if self.centrifuge && values.contains(&json!({})) {
                self.send(&json!({}));
            }
            return values;
        }
    }
}

/// Text that compresses badly.
fn noise(seed: u64, bytes: usize) -> String {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let letters = std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        char::from(b"0123456789abcdef"[(x >> 40) as usize % 16])
    });
    letters.take(bytes).collect()
}

/// One shard, so that an answer to one session shows that earlier sessions were answered.
fn one_shard(more: &str) -> Server {
    Server::start(&format!("{}\n{more}", OPEN.replace("shards = 2", "shards = 1")))
}

/// A stream must be replayed to a session whose socket is full; meanwhile the session requests a snapshot of it.
#[tokio::test]
async fn a_snapshot_takes_nothing_from_a_pending_replay() {
    for again in [false, true] {
        // Commands are read although its socket is full.
        let server = one_shard("[limits]\nbacklog_bytes = 10000000\n");
        let part = "x".repeat(200_000);
        for n in 0..15 {
            server.publish("merge:large", &json!({(format!("k{n}")): part}));
        }
        for n in 1..=22 {
            server.publish("stream:a", &json!(n));
        }
        let mut raw = Raw::open(&server, false, false, 8_192);
        raw.send(&json!({"op": "subscribe", "args": ["merge:large"]}));
        server.until("its socket is full", |s| s.metric("slow_sessions") == 1.0).await;
        let (_, page) = server.post("/api/history", &json!({"channel": "stream:a", "limit": 1}));
        let since = json!({"stream:a": {"offset": 10, "epoch": page["result"]["epoch"]}});
        let subscribe = json!({"op": "subscribe", "args": ["stream:a"], "since": since});
        raw.send(&subscribe);
        server.until("it is subscribed", |s| s.metric("subscriptions") == 2.0).await;
        server.publish("stream:a", &json!(23));
        raw.send(&json!({"op": "snapshot", "id": "s", "args": ["stream:a"]}));
        if again {
            // Starts the subscription over, after the snapshot.
            raw.send(&subscribe);
        }
        let commands = if again { 4.0 } else { 3.0 };
        server.until("all was heard", |s| s.metric("commands_total") == commands).await;
        let mut other = server.client().await;
        other.send(json!({"op": "snapshot", "id": 1, "args": ["stream:a"]})).await;
        while other.next().await["id"] != 1 {}
        let (mut have, mut snapshots) = (10, 0);
        while have < 23 || snapshots < 1 {
            for message in raw.values() {
                match (message["topic"].as_str(), message["type"].as_str()) {
                    (Some("stream:a"), Some("delta")) => {
                        assert_eq!(message["prev"], have, "{message}");
                        have = message["offset"].as_u64().unwrap();
                    }
                    (Some("stream:a"), Some("snapshot")) => {
                        snapshots += 1;
                        assert_eq!(message["offset"], have, "what came before it is in it: {message}");
                    }
                    _ if message["op"] == "subscribe" && !message["topics"]["stream:a"].is_null() => {
                        let standing = &message["topics"]["stream:a"];
                        assert_eq!((&standing["recovered"], &standing["have"]), (&json!(true), &json!(10)));
                        have = 10;
                    }
                    _ => {}
                }
            }
        }
        server.publish("stream:a", &json!(24));
        while have < 24 {
            have = raw.values().iter().filter_map(|m| m["offset"].as_u64()).max().unwrap_or(have);
        }
    }
}

/// Deltas and states for a recovering client, some of them as large as a delta may be.
fn fill(server: &Server) -> Vec<String> {
    let mut topics = Vec::new();
    for n in 0..40 {
        for topic in [format!("stream:{n}"), format!("merge:{n}")] {
            server.publish(&topic, &json!({"n": n, "pad": noise(n, 20_000)}));
            topics.push(topic);
        }
    }
    for n in 0..12 {
        server.publish(&format!("stream:large{}", n % 3), &json!(noise(n, 255_000)));
    }
    topics.extend((0..3).map(|n| format!("stream:large{n}")));
    topics
}

/// Number of deltas and states that [`fill`] published.
const FILLED: usize = 92;

const SMALL_BACKLOG: &str = "[limits]\nbacklog_bytes = 65536\n";

#[tokio::test]
async fn a_client_that_reads_recovers_with_any_backlog_limit() {
    let server = one_shard(SMALL_BACKLOG);
    let topics = fill(&server);
    for (centrifuge, deflate) in [(false, false), (false, true), (true, false), (true, true)] {
        for round in 0..2 {
            let mut raw = Raw::open(&server, centrifuge, deflate, 16_384);
            match centrifuge {
                false => {
                    let since: Vec<_> = topics.iter().map(|t| (t.clone(), json!({"offset": 0, "epoch": ""}))).collect();
                    let since: serde_json::Map<_, _> = since.into_iter().collect();
                    raw.send(&json!({"op": "subscribe", "args": topics, "since": since}));
                }
                true => {
                    for (topic, id) in topics.iter().zip(2..) {
                        raw.send(&json!({"id": id, "subscribe": {"channel": topic, "recover": true}}));
                    }
                }
            }
            let mut got = 0;
            while got < FILLED {
                for value in raw.values() {
                    let with_reply = value["subscribe"]["publications"].as_array().map_or(0, Vec::len);
                    let alone = value["type"].is_string() || value["push"]["pub"].is_object();
                    got += with_reply + usize::from(alone);
                }
            }
            assert_eq!(got, FILLED, "centrifuge {centrifuge}, deflate {deflate}, round {round}");
        }
    }
    assert_eq!(server.metric(SLOW), 0.0);
}

#[tokio::test]
async fn a_client_that_reads_recovers_over_tls_too() {
    let directory = tempfile::tempdir().unwrap();
    Authority::new().issue("localhost").write(directory.path(), "server");
    let server = one_shard(&format!("{SMALL_BACKLOG}{}", tls_config(directory.path())));
    let topics = fill(&server);
    for _ in 0..2 {
        let config = client_config(None, &[&TLS13], None);
        let mut client = Client::connect_sealed(server.sealed.unwrap(), &[], config).await.unwrap();
        let since: Vec<_> = topics.iter().map(|t| (t.clone(), json!({"offset": 0, "epoch": ""}))).collect();
        let since: serde_json::Map<_, _> = since.into_iter().collect();
        client.send(json!({"op": "subscribe", "args": topics, "since": since})).await;
        let mut got = 0;
        while got < FILLED {
            got += usize::from(client.next().await["type"].is_string());
        }
    }
    assert_eq!(server.metric(SLOW), 0.0);
}

/// Compressed or not, at the first subscribe and later, of many topics and of one.
#[tokio::test]
async fn joined_messages_are_no_larger_than_documented() {
    let server = one_shard("");
    let topics: Vec<String> = (0..200).map(|n| format!("merge:{n}")).collect();
    let state = |n: usize| json!({"n": n, "pad": "x".repeat(12_000)});
    let all = |n: usize| topics.iter().map(|topic| (topic.clone(), state(n))).collect::<Vec<_>>();
    server.publish_all(&all(0));
    for (centrifuge, deflate) in [(false, true), (false, false), (true, true), (true, false)] {
        let mut raw = Raw::open(&server, centrifuge, deflate, 1 << 20);
        match centrifuge {
            false => {
                raw.send(&json!({"op": "session", "batch": true, "flush_interval_ms": 100}));
                let mut args = topics.clone();
                args.push("stream:many".into());
                raw.send(&json!({"op": "subscribe", "args": args}));
            }
            true => {
                let wishes = json!({"method": "nexus.session", "data": {"flush_interval_ms": 100}});
                raw.send(&json!({"id": 1_000, "rpc": wishes}));
                for (topic, id) in topics.iter().chain([&"stream:many".to_owned()]).zip(2..) {
                    raw.send(&json!({"id": id, "subscribe": {"channel": topic}}));
                }
            }
        }
        let delivered =
            |values: &[Value]| values.iter().filter(|v| v["type"].is_string() || v["push"]["pub"].is_object()).count();
        let mut got = 0;
        while got < topics.len() {
            got += delivered(&raw.values());
        }
        server.until("it has all", |s| s.metric("subscriptions") == 201.0).await;
        let many: Vec<_> =
            (0..300).map(|n| ("stream:many".to_owned(), json!({"n": n, "pad": "y".repeat(900)}))).collect();
        server.publish_all(&all(1));
        server.publish_all(&many);
        let (mut got, mut messages, mut together) = (0, 0, 0);
        while got < topics.len() + many.len() {
            let n = delivered(&raw.values());
            (got, messages, together) = (got + n, messages + 1, together.max(n));
        }
        assert!(together > 1, "centrifuge {centrifuge}, deflate {deflate}: {messages} messages, none of several");
        drop(raw);
        server.until("it is gone", |s| s.metric("sessions") == 0.0).await;
    }
}

const PONGS: &str = "[limits]\nping_interval = \"1s\"\npong_timeout = \"3s\"\nstall_timeout = \"60s\"\n";

/// Longer than the ping interval and the pong time-out.
const LONG: Duration = Duration::from_secs(6);

/// Under a byte limit something waits at every sweep; then nothing is published any more.
#[tokio::test]
async fn a_lull_after_steady_traffic_under_a_ceiling_is_no_missing_pong() {
    let server = one_shard(PONGS);
    let mut clients = Vec::new();
    for bytes_per_second in [1_024, 3_000] {
        let mut client = server.client().await;
        client.send(json!({"op": "session", "bytes_per_second": bytes_per_second})).await;
        client.next().await;
        client.subscribe(&["latest:a"]).await;
        // Reads, and so answers pings.
        clients.push(tokio::spawn(async move {
            loop {
                match client.got().await {
                    Got::Json(message) if message["data"] == "last" => return,
                    Got::Json(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        }));
    }
    let began = Instant::now();
    while began.elapsed() < LONG {
        server.publish("latest:a", &json!(noise(1, 300)));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let pings = server.metric("pings_total");
    server.until("they were pinged in the lull", |s| s.metric("pings_total") >= pings + 4.0).await;
    assert_eq!(server.metric(NO_PONG), 0.0);
    server.publish("latest:a", &json!("last"));
    for client in clients {
        client.await.unwrap();
    }
}

/// A client takes longer to read its backlog than a ping and its answer may take, and then continues.
#[tokio::test]
async fn a_client_that_has_just_caught_up_is_given_its_time_to_answer_a_ping() {
    let server = one_shard(PONGS);
    let part = noise(7, 200_000);
    for n in 0..15 {
        server.publish("merge:large", &json!({(format!("k{n}")): part}));
    }
    let mut threads = Vec::new();
    for centrifuge in [false, true] {
        let mut raw = Raw::open(&server, centrifuge, false, 8_192);
        match centrifuge {
            false => raw.send(&json!({"op": "subscribe", "args": ["merge:large"]})),
            true => raw.send(&json!({"id": 2, "subscribe": {"channel": "merge:large"}})),
        }
        server.until("its socket is full", |s| s.metric("slow_sessions") == threads.len() as f64 + 1.0).await;
        threads.push(std::thread::spawn(move || {
            std::thread::sleep(LONG);
            // Until a ping came after the backlog, and was answered.
            let (mut caught_up, mut pings) = (false, 0);
            while pings < 2 {
                match raw.receive() {
                    Received::Message(message) if message == b"{}" => {
                        raw.send(&json!({}));
                        pings += usize::from(caught_up);
                    }
                    Received::Ping(payload) => {
                        raw.stream.write_all(&frame(0x8a, &payload)).unwrap();
                        pings += usize::from(caught_up);
                    }
                    Received::Message(message) => caught_up |= message.len() > 2_000_000,
                    Received::Close(code) => panic!("closed with {code}, centrifuge {centrifuge}"),
                }
            }
        }));
    }
    for thread in threads {
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    }
    assert_eq!(server.metric(NO_PONG), 0.0);
}

/// Bit 2 of a Centrifuge subscribe's `flag`: if it cannot be recovered it is refused, and the client may continue.
#[tokio::test]
async fn a_subscribe_that_is_to_be_recovered_or_refused_is_refused() {
    let server = Server::open_with("[namespace.short]\nhistory_size = 2\n");
    for n in 1..=5 {
        server.publish("short:a", &json!(n));
    }
    let mut raw = Raw::open(&server, true, false, 1 << 20);
    let mut subscribe = |id: u64, offset: u64, flag: u64| {
        raw.send(
            &json!({"id": id, "subscribe": {"channel": "short:a", "recover": true, "offset": offset, "flag": flag}}),
        );
        raw.values().remove(0)
    };
    for (id, flag) in [(2, 2), (3, 3)] {
        let reply = subscribe(id, 1, flag);
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(id), &json!(112)), "{reply}");
    }
    assert_eq!(server.metric("subscriptions"), 0.0);
    let reply = subscribe(4, 1, 1);
    assert_eq!(reply["subscribe"]["was_recovering"], true, "{reply}");
    assert!(reply["subscribe"]["recovered"].is_null());
    raw.send(&json!({"id": 5, "unsubscribe": {"channel": "short:a"}}));
    raw.values();
    let (_, page) = server.post("/api/history", &json!({"channel": "short:a", "limit": 1}));
    let epoch = page["result"]["epoch"].as_str().unwrap().to_owned();
    raw.send(&json!({"id": 6, "subscribe":
        {"channel": "short:a", "recover": true, "offset": 3, "epoch": epoch, "flag": 2}}));
    assert_eq!(raw.values()[0]["subscribe"]["recovered"], true);
}

/// The same in Protobuf, by hand.
#[tokio::test]
async fn it_is_refused_in_protobuf_too() {
    fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
        [&[tag << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }
    let framed = |command: Vec<u8>| [&[u8::try_from(command.len()).unwrap()], &command[..]].concat();
    let server = Server::open_with("[namespace.short]\nhistory_size = 2\n");
    for n in 1..=5 {
        server.publish("short:a", &json!(n));
    }
    let (mut stream, _) = crate::support::raw_socket::upgraded(&server, "/connection/websocket?format=protobuf", "");
    // id = 1, connect = 4; id = 2, subscribe = 5: channel = 1, recover = 3, offset = 7, flag = 14.
    let connect = framed([vec![8, 1], field(4, b"")].concat());
    let subscribe = [field(1, b"short:a"), vec![3 << 3, 1, 7 << 3, 1, 14 << 3, 2]].concat();
    let subscribe = framed([vec![8, 2], field(5, &subscribe)].concat());
    stream.write_all(&frame(0x82, &[connect, subscribe].concat())).unwrap();
    // id = 2, error = 2: code = 1.
    let mut got = Vec::new();
    let mut buffer = [0; 4_096];
    let refused = |got: &[u8]| got.windows(6).any(|w| w[..3] == [8, 2, 2 << 3 | 2] && w[4..] == [8, 112]);
    while !refused(&got) {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "{got:?}");
        got.extend_from_slice(&buffer[..n]);
    }
}

/// The server's own subscriptions of a session are recovered with `connect`, and refused with it.
#[tokio::test]
async fn a_connect_whose_subscriptions_cannot_be_recovered_is_refused() {
    let server = Server::start(&config("[namespace.short]\nhistory_size = 2\n"));
    for n in 1..=5 {
        server.publish("short:a", &json!(n));
    }
    let token = hs256(&claims("u", 60, json!({"channels": ["short:a"]})));
    let (stream, _) = crate::support::raw_socket::upgraded(&server, "/connection/websocket", "");
    let mut raw = Raw { stream, centrifuge: true, inflated: Vec::new() };
    let mut connect = |id: u64, flag: u64| {
        let sub = json!({"recover": true, "offset": 1, "epoch": "other", "flag": flag});
        raw.send(&json!({"id": id, "connect": {"token": token, "subs": {"short:a": sub}}}));
        raw.values().remove(0)
    };
    assert_eq!(connect(1, 2)["error"]["code"], 112);
    let reply = connect(2, 0);
    assert_eq!(reply["connect"]["subs"]["short:a"]["was_recovering"], true, "{reply}");
}

/// A subscription before the first publish, one event, a crash: Redis has everything. Once something was trimmed, it
/// has not.
#[tokio::test]
async fn position_0_is_recovered_while_redis_has_all() {
    let redis = Redis::start();
    let server = redis.server("").await;
    let mut client = server.client().await;
    let at = client.subscribe(&["stream:a"]).await["topics"]["stream:a"].clone();
    assert_eq!((&at["offset"], &at["have"]), (&json!(0), &json!(0)));
    server.publish("stream:b", &json!("other"));
    let offset = server.publish("stream:a", &json!(1));
    drop(server);
    let server = redis.server("").await;
    let since = json!({"stream:a": {"offset": 0, "epoch": at["epoch"]}});
    let mut client = server.client().await;
    client.send(json!({"op": "subscribe", "args": ["stream:a"], "since": since})).await;
    let standing = client.next().await["topics"]["stream:a"].clone();
    assert_eq!((&standing["recovered"], &standing["have"]), (&json!(true), &json!(0)), "{standing}");
    let delta = client.next().await;
    assert_eq!((&delta["offset"], &delta["prev"]), (&json!(offset), &json!(0)));
    let mut raw = Raw::open(&server, true, false, 1 << 20);
    raw.send(
        &json!({"id": 2, "subscribe": {"channel": "stream:a", "recover": true, "epoch": at["epoch"], "offset": 0}}),
    );
    let reply = raw.values().remove(0);
    assert_eq!(reply["subscribe"]["recovered"], true, "{reply}");
    assert_eq!(reply["subscribe"]["publications"][0]["offset"], offset);
    drop(server);
    redis.command(&["XTRIM", "nexus:deltas", "MAXLEN", "1"]);
    let server = redis.server("").await;
    let mut client = server.client().await;
    client.send(json!({"op": "subscribe", "args": ["stream:a"], "since": since})).await;
    assert_eq!(
        client.next().await["topics"]["stream:a"]["recovered"],
        false,
        "the trimmed entry may have been of this topic"
    );
}

/// Wherever a node begins to know a topic, its first delta follows the offset that the reply gave the client.
#[tokio::test]
async fn the_first_delta_of_a_topic_follows_the_replys_offset() {
    let redis = Redis::start();
    for n in 0..3 {
        redis.add("stream:other", &json!(n));
    }
    for trim in [false, true] {
        if trim {
            redis.command(&["XTRIM", "nexus:deltas", "MAXLEN", "1"]);
        }
        for class in ["stream", "merge", "latest"] {
            let topic = format!("{class}:never{trim}");
            let server = redis.server("").await;
            let mut client = server.client().await;
            let at = client.subscribe(&[&topic]).await["topics"][&topic].clone();
            let (mut have, offset) = (at["have"].as_u64().unwrap(), server.publish(&topic, &json!({"a": 1})));
            let mut delta = client.next().await;
            if delta["incomplete"] == true {
                // Before that, there may have been a state among the trimmed entries.
                have = delta["offset"].as_u64().unwrap();
                delta = client.next().await;
            }
            assert_eq!(delta["offset"], offset);
            let prev = delta["prev"].as_u64().unwrap();
            assert!(prev <= have && have < offset, "{topic}: {at} {delta}");
            // And after a restart, from the client's position before it.
            drop(server);
            let server = redis.server("").await;
            let mut client = server.client().await;
            let since = json!({&topic: {"offset": have, "epoch": at["epoch"]}});
            client.send(json!({"op": "subscribe", "args": [topic], "since": since})).await;
            let standing = client.next().await["topics"][&topic].clone();
            let missed = client.next().await;
            // A state that may lack trimmed entries cannot be recovered.
            assert_eq!(standing["recovered"], missed["incomplete"] != true, "{topic}: {standing} {missed}");
            assert_eq!(missed["offset"], offset);
            let prev = missed["prev"].as_u64();
            assert!(prev.is_none_or(|prev| prev <= have && standing["have"] == have), "{topic}: {standing} {missed}");
        }
    }
}

#[test]
fn a_delta_limit_above_the_backlog_limit_is_refused_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.toml");
    std::fs::write(&path, "[limits]\ndelta_bytes = 4194304\nbacklog_bytes = 1048576\n").unwrap();
    let out = std::process::Command::new(crate::support::PROGRAM).arg("check-config").arg(&path).output().unwrap();
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(!out.status.success(), "{text}");
    for word in ["limits.delta_bytes", "4194304", "limits.backlog_bytes", "1048576"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}
