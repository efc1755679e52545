//! Entries and messages of very many tiny parts: what they take in memory counts, and not what they have in bytes.

use serde_json::json;

use crate::support::{Redis, Server};

const MIB: usize = 1024 * 1024;

const LIMIT: usize = 64 * MIB;

const LIMITS: &str = "snapshot_every = \"0s\"\n[limits]\nmemory = \"64MiB\"";

/// A line of the kernel's figures of the process, in bytes.
fn kernel(server: &Server, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// What a server held at the start, without what was read of the program's file.
fn base(server: &Server) -> usize {
    kernel(server, "VmHWM:") - kernel(server, "RssFile:")
}

fn stays_within(server: &Server, base: usize, what: &str) {
    let peak = kernel(server, "VmHWM:") - kernel(server, "RssFile:");
    println!("{what}: peak {} MiB, {} at the start", peak / MIB, base / MIB);
    assert!(peak <= base + LIMIT, "{what}: {} MiB at most, {} at the start", peak / MIB, base / MIB);
}

/// Adds an entry with so many fields of one byte beside its delta.
fn add_fields(redis: &Redis, count: usize, data: usize) -> String {
    let data = data.to_string();
    let mut words = vec!["XADD", "nexus:deltas", "*", "topic", "latest:a", "data", &data];
    words.extend(std::iter::repeat_n(["x", "1"], count).flatten());
    redis.command(&words)
}

/// While a node follows the stream, and while it loads it.
#[tokio::test]
async fn entries_of_many_tiny_fields_take_no_more_memory_than_allowed() {
    let redis = Redis::start();
    let server = redis.server(LIMITS).await;
    let base = base(&server);
    for n in 0..60 {
        add_fields(&redis, 20_000, n);
    }
    redis.add("latest:b", &json!(1));
    server.until("read", |s| s.get("/api/topics/latest:b").0 == 200).await;
    stays_within(&server, base, "while it follows");
    let last = serde_json::from_str::<serde_json::Value>(&server.get("/api/topics/latest:a").1).unwrap();
    assert_eq!(last["data"], json!(59));
    let loaded = redis.server(LIMITS).await;
    assert_eq!(loaded.get("/api/topics/latest:a"), server.get("/api/topics/latest:a"));
    stays_within(&loaded, base, "while it loads");
}

/// It is said loudly, and the node reads on once the entry is gone.
#[tokio::test]
async fn an_entry_of_more_fields_than_memory_has_room_for_is_said() {
    let redis = Redis::start();
    let server = redis.server(LIMITS).await;
    let base = base(&server);
    let id = add_fields(&redis, 100_000, 1);
    redis.add("latest:b", &json!(1));
    server.until("said", |s| s.log().contains("an entry is larger than this node reads")).await;
    server.until("not ready", |s| s.get("/readyz").0 == 503).await;
    redis.command(&["XDEL", "nexus:deltas", &id]);
    server.until("read", |s| s.get("/api/topics/latest:b").0 == 200).await;
    stays_within(&server, base, "with an entry that is too large");
    // A node with more memory reads it.
    add_fields(&redis, 100_000, 2);
    let larger = redis.server("snapshot_every = \"0s\"\n[limits]\nmemory = \"256MiB\"").await;
    larger.until("read", |s| s.get("/api/topics/latest:a").1.contains("\"data\":2")).await;
}

#[cfg(feature = "nats")]
mod nats {
    use super::{LIMITS, base, stays_within};
    use crate::support::nats::{Nats, add, ready, view};
    use crate::support::{OPEN, Server};
    use serde_json::json;

    /// Headers of so many bytes in all, of which each is as short as can be.
    fn headers(bytes: usize) -> Vec<u8> {
        let mut head = b"NATS/1.0\r\n".to_vec();
        let mut n = 0;
        while head.len() + 16 < bytes {
            head.extend(format!("{n:x}:1\r\n").bytes());
            n += 1;
        }
        head.extend(b"\r\n");
        head
    }

    async fn read_all(nats: &Nats, what: &str, publish: impl Fn(&Nats)) -> Server {
        let js = nats.jetstream().await;
        let server = nats.server(LIMITS).await;
        let base = base(&server);
        publish(nats);
        let last = add(&js, "latest.last", &json!(1)).await;
        server.until("read", |s| view(s, "latest:last")["offset"] == last).await;
        stays_within(&server, base, &format!("{what}, while it follows"));
        let loaded = Server::start(&format!("{OPEN}\n[source.nats]\nurls = [\"{}\"]\n{LIMITS}", nats.url()));
        ready(&loaded).await;
        stays_within(&loaded, base, &format!("{what}, while it loads"));
        for topic in ["latest:a", "latest:last"] {
            assert_eq!(view(&loaded, topic), view(&server, topic), "{what}");
        }
        server
    }

    /// Messages with some thousand headers each: a stream takes 64 KiB of them.
    #[tokio::test]
    async fn messages_of_many_tiny_headers_take_no_more_memory_than_allowed() {
        const MESSAGES: u32 = 400;
        let nats = Nats::start();
        let server = read_all(&nats, "headers", |nats| {
            let head = headers(40_000);
            for n in 0..MESSAGES {
                nats.raw(b"nexus.deltas.latest.a", Some(&head), n.to_string().as_bytes());
            }
        })
        .await;
        assert_eq!(view(&server, "latest:a")["data"], json!(MESSAGES - 1));
    }

    /// A message that is larger than those that are read as they come is refused, and what follows is read.
    #[tokio::test]
    async fn a_message_that_is_too_large_to_be_read_as_it_comes_is_refused() {
        let nats = Nats::start_with("max_payload: 8MB");
        let server = read_all(&nats, "a large message", |nats| {
            nats.raw(b"nexus.deltas.latest.a", None, format!("\"{}\"", "x".repeat(6_000_000)).as_bytes());
        })
        .await;
        assert_eq!(server.metric("source_refused_total{source=\"nats NEXUS\",reason=\"too_large\"}"), 1.0);
        assert!(server.log().contains("limits.memory may have no room"), "{}", server.log());
    }
}
