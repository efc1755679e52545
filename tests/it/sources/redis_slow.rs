//! Redis over a slow link, over one that falls silent, and with entries that are far larger than earlier ones.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::slow_link::{SlowLink, Way};
use crate::support::{OPEN, PATIENCE, Redis, Server};

const MIB: usize = 1024 * 1024;

/// A link to Redis with limited speed towards the server.
struct NarrowLink {
    port: u16,
}

impl NarrowLink {
    /// It carries `bytes_per_second` from Redis. The first connection that has carried `silent_after` bytes carries
    /// nothing more, and stays open.
    fn to(redis: &Redis, bytes_per_second: usize, silent_after: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), redis.port);
        let fell_silent = Arc::new(AtomicBool::new(false));
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(("127.0.0.1", to))) else { return };
                let (mut asks, mut asked) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut asks, &mut asked);
                    let _ = asked.shutdown(Shutdown::Both);
                });
                let fell_silent = fell_silent.clone();
                std::thread::spawn(move || carry(far, near, bytes_per_second, silent_after, &fell_silent));
            }
        });
        Self { port }
    }

    fn server(&self, more: &str) -> Server {
        Server::start(&format!("{OPEN}\n[source.redis]\nurl = \"redis://127.0.0.1:{}\"\n{more}", self.port))
    }
}

/// Carries bytes at the given rate; the sleep enforces it.
fn carry(
    mut from: TcpStream,
    mut to: TcpStream,
    bytes_per_second: usize,
    silent_after: usize,
    fell_silent: &AtomicBool,
) {
    let mut bytes = [0; 8 * 1024];
    let (mut free, mut carried, mut is_silent) = (Instant::now(), 0, false);
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        carried += count;
        is_silent |= carried > silent_after && !fell_silent.swap(true, Ordering::SeqCst);
        if is_silent {
            continue;
        }
        free = free.max(Instant::now()) + Duration::from_secs_f64(count as f64 / bytes_per_second as f64);
        std::thread::sleep(free.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

fn add_large(redis: &Redis, bytes: usize) {
    let unused = "x".repeat(bytes);
    redis.xadd("nexus:deltas", "*", &["topic", "latest:a", "data", "1", "unused", &unused]);
}

/// Each answer with the entry takes longer than a link may be silent.
#[tokio::test]
async fn a_slow_link_is_slow_and_not_endless() {
    let redis = Redis::start();
    add_large(&redis, 265_000);
    let link = NarrowLink::to(&redis, 100_000, usize::MAX);
    let server = link.server("snapshot_every = \"0s\"");
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    assert!(!server.log().contains("cannot be read"), "nothing is read twice");
}

#[tokio::test]
async fn a_link_that_falls_silent_amid_an_answer_is_given_up_within_seconds() {
    let redis = Redis::start();
    add_large(&redis, 300_000);
    let link = NarrowLink::to(&redis, 100 * MIB, 100_000);
    let began = Instant::now();
    let server = link.server("snapshot_every = \"0s\"");
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    assert_eq!(server.metric("source_errors_total"), 1.0);
}

/// The largest resident size so far.
fn peak(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// Adds small entries, and in one step with the last of them 60 large ones, 180 MiB in all.
fn add_small_then_large(redis: &Redis, small: usize) {
    let script = format!(
        "for i = 1, {small} do redis.call('XADD', KEYS[1], '*', 'topic', 'stream:s', 'data', i) end \
         local unused = string.rep('x', 3 * 1024 * 1024) \
         for i = 1, 60 do redis.call('XADD', KEYS[1], '*', 'topic', 'latest:b', 'data', i, 'unused', unused) end"
    );
    redis.command(&["EVAL", &script, "1", "nexus:deltas"]);
}

/// During the load and afterwards; small and large entries reach their topics.
#[tokio::test]
async fn large_entries_after_small_ones_do_not_come_all_at_once() {
    let redis = Redis::start();
    add_small_then_large(&redis, 500);
    let server = redis.server("snapshot_every = \"0s\"\n[limits]\nmemory = \"256MiB\"").await;
    let loaded = peak(&server);
    add_small_then_large(&redis, 2_000);
    server.until("all are counted", |s| s.metric("source_deltas_total") >= 2_060.0).await;
    let last = serde_json::from_str::<serde_json::Value>(&server.get("/api/topics/latest:b").1).unwrap();
    assert_eq!(last["data"], json!(60));
    let followed = peak(&server);
    assert!(loaded < 160 * MIB && followed < 160 * MIB, "{loaded} after the load, {followed} after what came");
    assert!(!server.log().contains("cannot be read") && !server.log().contains("the epoch changes"));
}

/// It is logged as an error, and the node continues once the entry is deleted.
#[tokio::test]
async fn an_entry_that_memory_has_no_room_for_keeps_the_node_from_being_ready_until_it_is_deleted() {
    let redis = Redis::start();
    let script = "return redis.call('XADD', KEYS[1], '*', 'topic', 'latest:b', 'data', 1, 'unused', string.rep('x', 20 * 1024 * 1024))";
    let id = redis.command(&["EVAL", script, "1", "nexus:deltas"]);
    redis.add("latest:a", &json!(1));
    let config = format!("{OPEN}\n{}\n[limits]\nmemory = \"64MiB\"", redis.source_config());
    let server = Server::start(&config);
    server.until("it is logged", |s| s.log().contains("an entry is larger than this node reads")).await;
    assert_eq!(server.get("/readyz").0, 503);
    redis.command(&["XDEL", "nexus:deltas", &id]);
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    assert_eq!(server.get("/api/topics/latest:a").0, 200);
}

/// One write takes longer than the lease of the saving node.
#[tokio::test]
async fn a_save_over_a_link_that_is_slow_for_it_is_finished() {
    let redis = Redis::start();
    let id = redis.add("latest:a", &json!("x".repeat(900_000)));
    let link = SlowLink::to(redis.port, Way { up: 200_000, ..Way::default() });
    let more = "snapshot_every = \"1s\"\n[limits]\ndelta_bytes = 1000000";
    let config = format!("{OPEN}\n[source.redis]\nurl = \"redis://127.0.0.1:{}\"\n{more}", link.port);
    let server = Server::start(&config);
    server.until("saved", |_| redis.command(&["GET", "{nexus:deltas}:position"]) == id).await;
    assert!(!server.log().contains("were not saved"), "{}", server.log());
}
