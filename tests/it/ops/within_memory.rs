//! Resident memory stays within `limits.memory` plus the size at the start, for any mixture of lagging sessions, and
//! shrinks again.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::support::bystander::Healthy;
use crate::support::raw_socket::frame;
use crate::support::{OPEN, PATIENCE, Server};

const MIB: usize = 1024 * 1024;

fn memory(server: &Server, key: &str) -> usize {
    usize::try_from(server.status()["memory"][key].as_u64().unwrap()).unwrap()
}

fn account(server: &Server, name: &str) -> usize {
    usize::try_from(server.status()["memory"]["accounts"][name]["now"].as_u64().unwrap()).unwrap()
}

/// A value from the kernel's report on the process, in bytes.
fn kernel(server: &Server, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// An upgraded socket with very small buffers in the kernel.
fn narrow(address: SocketAddr, path: &str, deflate: bool) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let extension = if deflate { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extension}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    stream
}

fn say(stream: &mut TcpStream, command: &Value) {
    stream.write_all(&frame(0x81, command.to_string().as_bytes())).unwrap();
}

const RATES: [f64; 6] = [0.1, 1.0, 5.0, 20.0, 100.0, 200.0];

/// A session that reads nothing from now on, of the `n`th kind.
fn lags(address: SocketAddr, topics: &[String], n: usize) -> TcpStream {
    let (interval, rate, bytes) = (n * 331 % 5_001, RATES[n % 6], [0, 1_024, 3_000][n % 3]);
    if n.is_multiple_of(2) {
        let mut stream = narrow(address, "/ws", n.is_multiple_of(4));
        let session = json!({"op": "session", "flush_interval_ms": interval, "bytes_per_second": bytes, "batch": n.is_multiple_of(3)});
        say(&mut stream, &session);
        say(&mut stream, &json!({"op": "subscribe", "args": topics, "max_rate": rate}));
        return stream;
    }
    let mut stream = narrow(address, "/connection/websocket", n % 4 == 1);
    say(&mut stream, &json!({"id": 1, "connect": {}}));
    let session = json!({"flush_interval_ms": interval, "bytes_per_second": bytes});
    say(&mut stream, &json!({"id": 2, "rpc": {"method": "nexus.session", "data": session}}));
    for (id, topic) in topics.iter().enumerate() {
        let delta = if topic.starts_with("bytes") { json!("fossil") } else { Value::Null };
        let mut subscribe = json!({"channel": topic, "data": {"max_rate": rate}});
        if !delta.is_null() {
            subscribe["delta"] = delta;
        }
        say(&mut stream, &json!({"id": 10 + id, "subscribe": subscribe}));
    }
    stream
}

/// Sessions that lag in all ways: by a closed window, a flush interval, a rate or a byte limit; with and without
/// compression, in both dialects; on topics of every class.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_lag_in_every_way_stay_within_the_limit() {
    const LIMIT: usize = 64 * MIB;
    let more = "[namespace.bytes]\nclass = \"latest\"\nallowed_delta_types = [\"fossil\"]\n\
                [limits]\nmemory = \"64MiB\"\ncommands_burst = 2000\nstall_timeout = \"120s\"\n";
    let server = Server::start(&(OPEN.to_owned() + more));
    let mut healthy = Healthy::beside(&server).await;
    let base = kernel(&server, "VmHWM:");
    // Code that runs for the first time is read from the program's file, which is not the server's memory.
    let file = kernel(&server, "RssFile:");
    let of = |class: &str, count: usize| (0..count).map(|n| format!("{class}:{n}")).collect::<Vec<_>>();
    let topics = [of("merge", 128), of("stream", 64), of("bytes", 64)].concat();
    let mut held: Vec<TcpStream> = (0..48).map(|n| lags(server.address, &topics, n)).collect();
    let all = (held.len() * topics.len()) as f64;
    server.until("all are subscribed", |s| s.metric("subscriptions") >= all).await;
    for round in 0..60 {
        let pad = "z".repeat(1_500);
        let data = |topic: &String| match topic.split(':').next() {
            Some("merge") => json!({(format!("m{}", round % 20)): format!("{pad}{round}")}),
            _ => json!(format!("{pad}{round}")),
        };
        server.publish_all(&topics.iter().map(|topic| (topic.clone(), data(topic))).collect::<Vec<_>>());
        let (history, deltas) = (account(&server, "history"), account(&server, "deltas"));
        assert!(history + deltas <= 25 * MIB, "history {history}, deltas {deltas}");
        assert!(account(&server, "snapshots") <= 5 * MIB, "{}", account(&server, "snapshots"));
    }
    healthy.is_well(&server).await;
    let more_file = kernel(&server, "RssFile:") - file;
    let peak = kernel(&server, "VmHWM:");
    println!("peak {} MiB, {} at the start, {} more of the file", peak / MIB, base / MIB, more_file / MIB);
    assert!(peak <= base + LIMIT + more_file, "{} MiB at most, {} at the start", peak / MIB, base / MIB);
    held.clear();
    let back = base + more_file + LIMIT / 8 * 3;
    let is_back = |s: &Server| memory(s, "rss_bytes") <= back + memory(s, "counted_bytes");
    server.until("it comes back", |s| account(s, "snapshots") == 0 && is_back(s)).await;
    healthy.is_well(&server).await;
}

/// Subscriptions with a rate, on topics whose changes only the whole state can express: the states on their way to
/// shards are limited, and that causes no refusal for REST readers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_for_lagging_subscriptions_have_a_limit_and_refuse_no_reader() {
    const TOPICS: usize = 24;
    let server = Server::start(
        &(OPEN.to_owned() + "history_size = 1\n[limits]\nreply_bytes_per_address = 0\nmemory = \"64MiB\"\n"),
    );
    server.publish("merge:read", &json!({"pad": "r".repeat(100_000)}));
    let mut healthy = Healthy::beside(&server).await;
    let topics: Vec<String> = (0..TOPICS).map(|n| format!("merge:{n}")).collect();
    let mut held = Vec::new();
    for n in 0..24 {
        let mut stream = narrow(server.address, "/ws", n % 2 == 0);
        let rate = [5.0, 10.0, 20.0][n % 3];
        say(&mut stream, &json!({"op": "subscribe", "args": topics, "max_rate": rate}));
        held.push(stream);
    }
    let all = (held.len() * TOPICS) as f64;
    server.until("all are subscribed", |s| s.metric("subscriptions") >= all).await;
    for round in 0..40 {
        // A patch that replaces the whole content is longer than the state.
        let data = json!({(format!("m{round}")): null, (format!("m{}", round + 1)): "z".repeat(100_000)});
        for topics in topics.chunks(8) {
            server.publish_all(&topics.iter().map(|topic| (topic.clone(), data.clone())).collect::<Vec<_>>());
        }
        for _ in 0..5 {
            let (status, body) = server.get("/api/topics/merge:read");
            assert_eq!(status, 200, "{body}");
            // The limit is 2 MiB, and a state on its way counts twice for a moment: as it is, and as it will be
            // written.
            assert!(account(&server, "snapshots") <= 3 * MIB, "{}", account(&server, "snapshots"));
        }
    }
    assert!(server.metric("snapshots_delayed_total") > 0.0, "the ceiling was not reached");
    assert_eq!(server.metric("answers_refused_total"), 0.0);
    healthy.is_well(&server).await;
    drop(held);
    server.until("nothing is on its way", |s| account(s, "snapshots") == 0).await;
}
