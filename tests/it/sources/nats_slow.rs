//! NATS over a narrow or long link: a node loads, follows, publishes and saves, and requests nothing twice.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::stream::Config;
use serde_json::{Value, json};

use crate::support::nats::etag;
use crate::support::nats::{Nats, add, ready, saved_upto, view};
use crate::support::slow_link::{SlowLink, Way};
use crate::support::{OPEN, Server};

/// Longest wait for a load over a slow link.
const LOAD: Duration = Duration::from_secs(60);

/// As servers are by default, but faster: a connection that does not take in time what was sent to it is closed.
const DEADLINE: &str = "write_deadline: \"2s\"\nping_interval: \"10s\"";

fn server(link: &SlowLink, more: &str) -> Server {
    Server::start(&format!("{OPEN}\n[source.nats]\nurls = [\"nats://127.0.0.1:{}\"]\n{more}", link.port))
}

async fn made(nats: &Nats) -> jetstream::Context {
    let js = nats.jetstream().await;
    let subjects = vec!["nexus.deltas.>".to_owned()];
    js.create_stream(Config { name: "NEXUS".into(), subjects, ..Config::default() }).await.unwrap();
    js
}

async fn add_many(js: &jetstream::Context, count: usize, bytes: usize) -> u64 {
    let data = json!("x".repeat(bytes));
    let mut sent = Vec::new();
    for n in 0..count {
        sent.push(js.publish(format!("nexus.deltas.latest.{}", n % 8), data.to_string().into()).await.unwrap());
    }
    for ack in sent {
        ack.await.unwrap();
    }
    add(js, "latest.last", &json!(count)).await
}

/// Waits until it has the last of this many.
async fn loaded(server: &Server, count: usize) {
    let deadline = Instant::now() + LOAD;
    while view(server, "latest:last")["data"] != count || server.get("/readyz").0 != 200 {
        assert!(Instant::now() < deadline, "not loaded: {}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// More than the server sends within its deadline: messages that each take a large part of it, and many small ones.
#[tokio::test]
async fn a_node_loads_over_a_narrow_link_and_requests_nothing_twice() {
    for (bytes_per_second, count, bytes) in [(1_000_000, 24, 250_000), (4_000_000, 2_500, 6_000)] {
        let nats = Nats::start_with(DEADLINE);
        let js = made(&nats).await;
        add_many(&js, count, bytes).await;
        let link = SlowLink::to(nats.port, Way { down: bytes_per_second, ..Way::default() });
        let server = server(&link, "snapshot_every = \"0s\"");
        loaded(&server, count).await;
        assert_eq!(server.metric("topics_incomplete"), 0.0);
        assert_eq!(link.connections(), 1, "the connection was never replaced: {}", server.log());
        assert!(link.carried() < count * (bytes + 500) + 500_000, "{} bytes", link.carried());
    }
}

/// A round trip of 0.3 s: whatever needs several takes seconds, but the stream is read at the link's full speed.
#[tokio::test]
async fn a_long_round_trip_costs_time_alone() {
    let nats = Nats::start();
    let js = made(&nats).await;
    add_many(&js, 1_000, 6_000).await;
    let link = SlowLink::to(nats.port, Way { delay: Duration::from_millis(150), ..Way::default() });
    let server = server(&link, "snapshot_every = \"1s\"");
    loaded(&server, 1_000).await;
    let mut client = server.client().await;
    client.subscribe(&["stream:s"]).await;
    for n in 0..400 {
        add(&js, "stream.s", &json!(n)).await;
    }
    for n in 0..400 {
        assert_eq!(client.next().await["data"], n);
    }
    add_many(&js, 100, 64_000).await;
    loaded(&server, 100).await;
    let last = server.publish("stream:s", &json!("published"));
    assert_eq!(client.next().await["offset"], last);
    saved_upto(&js, view(&server, "latest:last")["epoch"].as_str().unwrap(), last).await;
    assert_eq!(link.connections(), 1, "{}", server.log());
    assert_eq!(server.metric("source_missed_total{source=\"nats NEXUS\"}"), 0.0);
}

/// Large states and many small ones; the stream no longer has their messages.
#[tokio::test]
async fn saved_states_come_over_a_narrow_link() {
    let nats = Nats::start_with(DEADLINE);
    let js = nats.jetstream().await;
    let first = nats.server("max_messages = 3\nsnapshot_every = \"100ms\"\n[limits]\ndelta_bytes = 900000").await;
    let mut last = 0;
    for (topics, bytes) in [(40, 100_000), (300, 1_000), (2, 800_000)] {
        for n in 0..topics {
            last = add(&js, &format!("latest.{bytes}-{n}"), &json!(format!("{n}{}", "x".repeat(bytes)))).await;
            // The stream keeps three: none may be missed.
            first.until("it is read", |s| s.status()["sources"][0]["deltas"].as_u64() >= Some(last)).await;
        }
    }
    saved_upto(&js, view(&first, "latest:1000-0")["epoch"].as_str().unwrap(), last).await;
    let link = SlowLink::to(nats.port, Way { down: 1_000_000, ..Way::default() });
    let server = server(&link, "snapshot_every = \"0s\"\n[limits]\ndelta_bytes = 900000");
    let deadline = Instant::now() + LOAD;
    while server.get("/readyz").0 != 200 {
        assert!(Instant::now() < deadline, "not loaded: {}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for topic in ["latest:100000-39", "latest:1000-0", "latest:1000-299", "latest:800000-0"] {
        assert_eq!((view(&server, topic), etag(&server, topic)), (view(&first, topic), etag(&first, topic)));
    }
    assert_eq!(server.metric("topics_incomplete"), 0.0);
    assert_eq!(link.connections(), 1, "the connection was never replaced: {}", server.log());
    assert!(link.carried() < 9_000_000, "{} bytes", link.carried());
}

/// A publish waits for earlier ones, and its confirmation for what is being read.
#[tokio::test]
async fn publishes_over_a_narrow_link_are_confirmed() {
    let nats = Nats::start();
    let js = made(&nats).await;
    let link = SlowLink::to(nats.port, Way { up: 150_000, down: 400_000, ..Way::default() });
    let server = server(&link, "snapshot_every = \"0s\"");
    ready(&server).await;
    // Data that comes from the server meanwhile.
    add_many(&js, 12, 200_000).await;
    let data = "x".repeat(200_000);
    let commands: Vec<Value> =
        (0..5).map(|n| json!({"publish": {"channel": format!("latest:p{n}"), "data": data}})).collect();
    let (status, reply) = server.post("/api/batch", &json!({"commands": commands}));
    let replies = reply["replies"].as_array().unwrap();
    assert_eq!(status, 200, "{reply}");
    assert!(replies.iter().all(|reply| reply["publish"]["offset"].is_u64()), "{reply}");
    loaded(&server, 12).await;
    assert_eq!(link.connections(), 1, "{}", server.log());
}

/// Each node needs several rounds for a save: the other one waits until it is done.
#[tokio::test]
async fn a_save_that_takes_longer_than_a_round_is_finished() {
    let nats = Nats::start();
    let js = made(&nats).await;
    let links = [0, 1].map(|_| SlowLink::to(nats.port, Way { up: 500_000, ..Way::default() }));
    let nodes = links.each_ref().map(|link| server(link, "snapshot_every = \"200ms\""));
    for node in &nodes {
        ready(node).await;
    }
    let mut last = 0;
    for n in 0..30 {
        last = add(&js, &format!("latest.{n}"), &json!("x".repeat(100_000))).await;
    }
    for node in &nodes {
        node.until("read", |s| view(s, "latest:29")["offset"] == last).await;
    }
    saved_upto(&js, view(&nodes[0], "latest:29")["epoch"].as_str().unwrap(), last).await;
    let sent: usize = links.iter().map(SlowLink::sent).sum();
    assert!(sent < 4_500_000, "one node saves 3 MB, and the other waits: {sent} bytes");
}

/// Messages around one that closes connections are fetched one by one, but not with a round trip for each.
#[tokio::test]
async fn a_message_that_cannot_be_parsed_does_not_stop_a_long_link() {
    let nats = Nats::start();
    let js = made(&nats).await;
    add_many(&js, 300, 10).await;
    nats.raw(b"nexus.deltas.latest.bad", Some(b"NATS/1.0\r\nno header at all\r\n\r\n"), b"1");
    // A message that is missing between the fetched ones.
    let deleted = add(&js, "latest.deleted", &json!(1)).await;
    let last = add_many(&js, 300, 10).await;
    js.get_stream("NEXUS").await.unwrap().delete_message(deleted).await.unwrap();
    let link = SlowLink::to(nats.port, Way { delay: Duration::from_millis(50), ..Way::default() });
    let server = server(&link, "snapshot_every = \"0s\"");
    server.until("loaded", |s| view(s, "latest:last")["offset"] == last && s.get("/readyz").0 == 200).await;
    assert_eq!(server.metric("source_skipped_total{source=\"nats NEXUS\"}"), 1.0);
}
