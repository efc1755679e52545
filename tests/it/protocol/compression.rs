//! permessage-deflate (RFC 7692) on the real server: negotiation, clients' messages, and cost.

use crate::support::deflate::deflated;
use std::io::{Read, Write};
use std::net::TcpStream;

use flate2::{Decompress, FlushDecompress};
use serde_json::{Value, json};

use crate::support::bystander::Healthy;
use crate::support::raw_socket::{close_code, frame, upgraded, upgraded_at};
use crate::support::{OPEN, Server};

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

/// A complete compressed text frame.
const COMPRESSED_TEXT: u8 = 0xc1;

/// A socket that negotiated permessage-deflate.
fn deflating(server: &Server) -> TcpStream {
    let (stream, head) = upgraded(server, "/ws", OFFER);
    assert!(head.contains("sec-websocket-extensions: permessage-deflate"), "{head}");
    stream
}

/// The next message from the server, compressed or not.
fn message(stream: &mut TcpStream) -> Value {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[0] & 0x8f, 0x81, "a complete text frame");
    let mut wide = [0; 8];
    let len = match head[1] {
        126 => {
            stream.read_exact(&mut wide[6..]).unwrap();
            u64::from_be_bytes(wide)
        }
        127 => {
            stream.read_exact(&mut wide).unwrap();
            u64::from_be_bytes(wide)
        }
        n => n.into(),
    };
    let mut payload = vec![0; usize::try_from(len).unwrap()];
    stream.read_exact(&mut payload).unwrap();
    if head[0] & 0x40 != 0 {
        payload.extend([0, 0, 0xff, 0xff]);
        let mut out = Vec::with_capacity(1 << 20);
        Decompress::new(false).decompress_vec(&payload, &mut out, FlushDecompress::Sync).unwrap();
        payload = out;
    }
    serde_json::from_slice(&payload).unwrap()
}

#[tokio::test]
async fn deflate_offers_and_answers() {
    let ours = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let window = format!("{ours}; server_max_window_bits=15");
    let table: &[(&[&str], Option<&str>)] = &[
        (&[], None),
        (&["permessage-deflate"], Some(ours)),
        (&["permessage-deflate; client_max_window_bits"], Some(ours)),
        (&["permessage-deflate; server_max_window_bits=15"], Some(&window)),
        (&["permessage-deflate; server_max_window_bits=9"], None),
        (&["permessage-deflate; server_max_window_bits=9, permessage-deflate"], Some(ours)),
        (&["permessage-deflate; server_max_window_bits=9", "permessage-deflate"], Some(ours)),
        (&["permessage-deflate; no_such_parameter"], None),
        (&["x-webkit-deflate-frame"], None),
    ];
    let server = Server::open();
    for path in ["/ws", "/connection/websocket"] {
        for (offers, answer) in table {
            let headers: String = offers.iter().map(|o| format!("Sec-WebSocket-Extensions: {o}\r\n")).collect();
            let (_, head) = upgraded(&server, path, &headers);
            let answered = head.lines().find_map(|l| l.strip_prefix("sec-websocket-extensions: "));
            assert_eq!(answered, *answer, "{path}: {offers:?}");
        }
    }
    let without = Server::start(&OPEN.replace("[server]", "[server]\ncompression = false"));
    let (mut stream, head) = upgraded(&without, "/ws", OFFER);
    assert!(!head.contains("sec-websocket-extensions"), "{head}");
    stream.write_all(&frame(COMPRESSED_TEXT, &deflated(b"{}"))).unwrap();
    assert_eq!(close_code(&mut stream), 1002);
}

#[tokio::test]
async fn a_compressed_subscribe_is_understood_whole_and_in_fragments() {
    let server = Server::open();
    let command = deflated(br#"{"op":"subscribe","id":1,"args":["stream:a"]}"#);
    let (a, b) = command.split_at(command.len() / 2);
    let ways = [
        ("whole", frame(COMPRESSED_TEXT, &command)),
        ("in three, one of them empty", [frame(0x41, a), frame(0x00, b""), frame(0x80, b)].concat()),
        ("in single bytes", {
            let last = command.len() - 1;
            let bytes = command.iter().enumerate();
            bytes
                .flat_map(|(n, b)| {
                    frame(
                        if n == 0 {
                            0x41
                        } else if n == last {
                            0x80
                        } else {
                            0
                        },
                        &[*b],
                    )
                })
                .collect()
        }),
    ];
    for (n, (what, bytes)) in ways.iter().enumerate() {
        let mut stream = deflating(&server);
        // An uncompressed message is understood as well.
        stream.write_all(&frame(0x81, br#"{"op":"ping","id":7}"#)).unwrap();
        assert_eq!(message(&mut stream), json!({"id": 7, "op": "pong"}), "{what}");
        stream.write_all(bytes).unwrap();
        let reply = message(&mut stream);
        assert_eq!((&reply["op"], &reply["ok"]), (&json!("subscribe"), &json!(true)), "{what}: {reply}");
        server.publish("stream:a", &json!({"n": n, "pad": "x".repeat(1_000)}));
        assert_eq!(message(&mut stream)["data"]["n"], n, "{what}");
    }
    let (mut stream, _) = upgraded(&server, "/connection/websocket", OFFER);
    stream.write_all(&frame(COMPRESSED_TEXT, &deflated(br#"{"id":1,"connect":{}}"#))).unwrap();
    assert!(message(&mut stream)["connect"]["client"].is_string());
}

#[tokio::test]
async fn violations_are_closed_with_the_right_code() {
    let server = Server::open();
    let mut healthy = Healthy::beside(&server).await;
    let ping = deflated(br#"{"op":"ping"}"#);
    let table: &[(&str, Vec<u8>, u16)] = &[
        ("no DEFLATE at all", frame(COMPRESSED_TEXT, &[0xff; 100]), 1007),
        ("cut off", frame(COMPRESSED_TEXT, &ping[..ping.len() / 2]), 1007),
        ("empty", frame(COMPRESSED_TEXT, b""), 1007),
        ("not UTF-8 once it is inflated", frame(COMPRESSED_TEXT, &deflated(b"\xff\xfe")), 1007),
        ("binary once it is inflated", frame(0xc2, &ping), 1003),
        ("RSV1 on a continuation", [frame(0x41, &ping[..3]), frame(0xc0, &ping[3..])].concat(), 1002),
        ("RSV1 on the continuation alone", [frame(0x01, &ping[..3]), frame(0xc0, &ping[3..])].concat(), 1002),
        ("a compressed ping", frame(0xc9, &deflated(b"x")), 1002),
        ("RSV1 and RSV2", frame(0xe1, &ping), 1002),
        ("one byte too many once it is inflated", frame(COMPRESSED_TEXT, &deflated(&[b' '; 65_537])), 1009),
    ];
    for (what, bytes, code) in table {
        let mut stream = deflating(&server);
        stream.write_all(bytes).unwrap();
        assert_eq!(close_code(&mut stream), *code, "{what}");
        healthy.is_well(&server).await;
    }
    let (mut stream, _) = upgraded(&server, "/ws", "");
    stream.write_all(&frame(COMPRESSED_TEXT, &ping)).unwrap();
    assert_eq!(close_code(&mut stream), 1002, "RSV1 without negotiation");
    assert_eq!(server.metric("closes_total{reason=\"invalid_deflate\"}"), 3.0);
}

/// As large as a message may be, and as dense as DEFLATE can be: 60 MB in each.
#[tokio::test]
async fn bombs_are_closed_and_cost_next_to_nothing() {
    let server = Server::open();
    let mut healthy = Healthy::beside(&server).await;
    let large = frame(COMPRESSED_TEXT, &deflated(&vec![b' '; 60_000_000]));
    let small = frame(COMPRESSED_TEXT, &deflated(&vec![b' '; 1_000_000]));
    assert!((large.len(), small.len()) < (65_000, 1_100), "{} {}", large.len(), small.len());
    // Creates the inflaters.
    deflating(&server).write_all(&frame(COMPRESSED_TEXT, &deflated(b"{}"))).unwrap();
    let before = server.metric("resident_memory_bytes");
    for bomb in [&large, &small] {
        let mut streams: Vec<TcpStream> = (0..50).map(|_| deflating(&server)).collect();
        for stream in &mut streams {
            stream.write_all(bomb).unwrap();
        }
        healthy.is_well(&server).await;
        for stream in &mut streams {
            assert_eq!(close_code(stream), 1009);
        }
    }
    assert_eq!(server.metric("closes_total{reason=\"message_too_big\"}"), 100.0);
    let grown = server.metric("resident_memory_bytes") - before;
    // A sanitizer keeps freed memory for a while.
    let sanitized = std::env::var_os("NEXUS_TEST_SANITIZED").is_some();
    assert!(grown < 30e6 || sanitized, "{grown} B more than before");
    let address = server.address;
    let codes = healthy
        .during(20, move |round| {
            let mut stream = upgraded_at(address, "/ws", OFFER).0;
            stream.write_all(if round % 2 == 0 { &large } else { &small }).unwrap();
            close_code(&mut stream)
        })
        .await;
    assert!(codes.iter().all(|code| *code == 1009), "{codes:?}");
}

/// Even if messages may be larger than 1 MiB, compressed ones may not inflate to more.
#[tokio::test]
async fn a_mebibyte_is_as_far_as_anything_is_inflated() {
    // 256 B for each subscription that a Centrifuge client may have: 4 MiB.
    let server = Server::open_with("[limits]\nsubscriptions = 16384");
    let mut healthy = Healthy::beside(&server).await;
    let address = server.address;
    let message = |bytes: usize| {
        let connect = br#"{"id":1,"connect":{}}"#;
        deflated(&[&connect[..], &vec![b' '; bytes - connect.len()]].concat())
    };
    let (fits, over, far_over) = (message(1 << 20), message((1 << 20) + 1), message(4 << 20));
    let closed = healthy
        .during(3, move |_| {
            let begin = |bytes: &[u8]| {
                let mut stream = upgraded_at(address, "/connection/websocket", OFFER).0;
                stream.write_all(&frame(COMPRESSED_TEXT, bytes)).unwrap();
                stream
            };
            let mut stream = begin(&fits);
            assert!(crate::protocol::compression::message(&mut stream)["connect"]["client"].is_string());
            [&over, &far_over].map(|bytes| close_code(&mut begin(bytes)))
        })
        .await;
    assert!(closed.iter().all(|codes| *codes == [1009, 1009]), "{closed:?}");
}

/// Compressed and uncompressed sessions get the same, delta by delta, with fast or slow sockets, throttled or not, with
/// lists or without; and compression takes fewer bytes.
#[tokio::test]
async fn compressed_deliveries_equal_plain_ones() {
    let server = Server::open_with("[namespace.slow]\nclass = \"merge\"\nmax_rate = 20.0");
    let fill = |n: u64| format!("{n} ").repeat(60);
    let topics = ["stream:a", "latest:b", "merge:c", "slow:d"];
    for (topic, n) in topics.iter().zip(0..) {
        server.publish(topic, &json!({"n": 0, "old": fill(n)}));
    }
    let (mut narrow, mut list) = (deflating(&server), deflating(&server));
    let mut plain = server.client().await;
    let subscribe = json!({"op": "subscribe", "id": 1, "args": topics});
    let settings = json!({"op": "session", "batch": true, "flush_interval_ms": 50});
    list.write_all(&frame(0x81, settings.to_string().as_bytes())).unwrap();
    assert_eq!(message(&mut list)["ok"], true);
    for socket in [&mut narrow, &mut list] {
        socket.write_all(&frame(0x81, subscribe.to_string().as_bytes())).unwrap();
    }
    plain.subscribe(&topics).await;
    let commands: Vec<Value> = (1..=200u64)
        .map(|n| {
            let topic = topics[usize::try_from(n % 4).unwrap()];
            json!({"publish": {"channel": topic, "data": {"n": n, (format!("k{}", n % 3)): fill(n)}}})
        })
        .collect();
    for some in commands.chunks(20) {
        let body = json!({"commands": some}).to_string();
        let (status, _, answer) = server.http("POST", "/api/batch", &[("content-type", "application/json")], &body);
        assert_eq!(status, 200, "{answer}");
    }
    // Each follows until it has the last delta of each topic.
    let mut ends: Vec<std::collections::BTreeMap<String, Value>> = Vec::new();
    for socket in [&mut narrow, &mut list] {
        let mut end = std::collections::BTreeMap::new();
        while !done(&end) {
            take(&mut end, message(socket));
        }
        ends.push(end);
    }
    let mut end = std::collections::BTreeMap::new();
    while !done(&end) {
        take(&mut end, plain.next().await);
    }
    assert_eq!(ends[0], end);
    assert_eq!(ends[1], end);
    fn done(end: &std::collections::BTreeMap<String, Value>) -> bool {
        (197..=200).all(|n| end.values().any(|v| v["n"] == n))
    }
    fn take(end: &mut std::collections::BTreeMap<String, Value>, message: Value) {
        let all = message.as_array().cloned().unwrap_or_else(|| vec![message]);
        for one in all.iter().filter(|one| one["type"].is_string()) {
            let topic = one["topic"].as_str().unwrap();
            let state = end.entry(topic.to_owned()).or_insert(Value::Null);
            match (topic.split(':').next(), one["type"].as_str()) {
                // The list of kept events.
                (Some("stream"), Some("snapshot")) => {}
                (Some("stream" | "latest"), _) | (_, Some("snapshot")) => *state = one["data"].clone(),
                _ => json_patch::merge(state, &one["data"]),
            }
        }
    }
}
