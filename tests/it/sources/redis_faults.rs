//! Redis fails; sessions stay connected.

use serde_json::{Value, json};

use crate::support::{Client, Follower, Redis, Server};

/// Appends `n` numbered deltas to a `stream` and a `merge` topic.
fn add(redis: &Redis, from: u64, n: u64) {
    for i in from..from + n {
        redis.add("stream:s", &json!(i));
        redis.add("merge:m", &json!({(format!("k{}", i % 20)): i}));
    }
}

async fn expect_stream(client: &mut Client, have: &mut u64, until: u64) {
    while *have < until {
        let delta = client.next().await;
        assert_eq!(delta["data"], *have + 1, "a gap or a repetition");
        *have += 1;
    }
}

/// Several full batches, each read while the previous one is applied, with Redis failing in the middle.
#[tokio::test]
async fn prefetched_batches_are_applied_once_and_in_order() {
    let mut redis = Redis::start();
    let server = redis.server("").await;
    let mut client = server.client().await;
    client.subscribe(&["stream:s"]).await;
    let mut have = 0;
    for round in 0..3u64 {
        let (from, until) = (1 + round * 5_000, (round + 1) * 5_000);
        let script = format!(
            "for i = {from}, {until} do redis.call('XADD', 'nexus:deltas', '*', 'topic', 'stream:s', 'data', tostring(i)) end"
        );
        redis.command(&["EVAL", &script, "0"]);
        if round > 0 {
            redis.kill();
            redis.start_again();
        }
        expect_stream(&mut client, &mut have, until).await;
    }
    server.until("all are counted", |s| s.metric("source_deltas_total") == 15_000.0).await;
    assert_eq!(server.metric("deltas_duplicate_total"), 0.0, "nothing is read twice");
    assert_eq!(server.metric("epoch_changes_total{source=\"redis nexus:deltas\"}"), 0.0);
    assert_eq!(server.metric("sessions"), 1.0);
}

#[tokio::test]
async fn killed_and_restarted_with_its_data_nothing_is_lost() {
    let mut redis = Redis::start();
    let server = redis.server("").await;
    let (mut stream, mut merge) = (server.client().await, server.client().await);
    stream.subscribe(&["stream:s"]).await;
    let epoch = merge.subscribe(&["merge:m"]).await["topics"]["merge:m"]["epoch"].clone();
    let mut follower = Follower { state: json!({}), epoch: epoch.as_str().unwrap().to_owned(), ..Follower::default() };
    let mut have = 0;
    for round in 0..3u64 {
        add(&redis, 1 + round * 200, 100);
        redis.kill();
        server.until("not ready", |s| s.get("/readyz").0 == 503).await;
        assert_eq!(server.get("/healthz").0, 200, "the server must not be restarted because Redis is away");
        assert_eq!(server.get("/api/topics/merge:m").0, 200, "snapshots are still served");
        redis.start_again();
        add(&redis, 101 + round * 200, 100);
        expect_stream(&mut stream, &mut have, 200 * (round + 1)).await;
    }
    let last = &serde_json::from_str::<Value>(&server.get("/api/topics/merge:m").1).unwrap();
    follower.follow(&mut merge, last["offset"].as_u64().unwrap()).await;
    assert_eq!((&follower.state, &json!(follower.epoch)), (&last["data"], &epoch));
    assert_eq!(follower.snapshots, 0, "no snapshot was needed");
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    assert_eq!(server.metric("sessions"), 2.0);
    assert_eq!(server.metric("epoch_changes_total{source=\"redis nexus:deltas\"}").abs(), 0.0);
}

async fn wiped(server: &Server, redis: &Redis, clients: &mut [Client; 2], old_epoch: &Value) {
    let [stream, merge] = clients;
    redis.add("merge:m", &json!({"new": 1}));
    redis.add("stream:s", &json!("new"));
    let mut follower = Follower::default();
    loop {
        let message = merge.next().await;
        if message["type"] == "snapshot" || !follower.epoch.is_empty() {
            follower.take(&message);
        }
        if !follower.epoch.is_empty() && json!(follower.epoch) != *old_epoch && follower.state == json!({"new": 1}) {
            break;
        }
    }
    let mut seen = Vec::new();
    loop {
        let message = stream.next().await;
        let epoch = message["epoch"].clone();
        seen.push(message);
        let last = seen.last().unwrap();
        // The delta was either loaded with the new epoch, and is in its snapshot, or it came after it.
        if (epoch != Value::Null && last["data"].as_array().is_some_and(|kept| kept.iter().any(|d| d["data"] == "new")))
            || (last["type"] == "delta" && last["data"] == "new" && seen.iter().any(|m| m["type"] == "snapshot"))
        {
            break;
        }
    }
    assert!(seen.iter().any(|m| m["type"] == "snapshot" && m["epoch"] != *old_epoch));
    assert_eq!(server.metric("sessions"), 2.0);
    // A position of the old epoch is not valid.
    let mut back = server.client().await;
    back.send(
        json!({"op": "subscribe", "args": ["stream:s"], "since": {"stream:s": {"offset": 1, "epoch": old_epoch}}}),
    )
    .await;
    assert_eq!(back.next().await["topics"]["stream:s"]["recovered"], false);
}

#[tokio::test]
async fn killed_and_restarted_wiped_the_epoch_changes_and_clients_get_snapshots() {
    let mut redis = Redis::start();
    let server = redis.server("").await;
    let mut clients = [server.client().await, server.client().await];
    clients[0].subscribe(&["stream:s"]).await;
    let epoch = clients[1].subscribe(&["merge:m"]).await["topics"]["merge:m"]["epoch"].clone();
    add(&redis, 1, 100);
    expect_stream(&mut clients[0], &mut 0, 100).await;
    redis.kill();
    redis.wipe();
    redis.start_again();
    wiped(&server, &redis, &mut clients, &epoch).await;
}

#[tokio::test]
async fn flushed_while_connected_is_noticed_too() {
    let redis = Redis::start();
    let server = redis.server("").await;
    let mut clients = [server.client().await, server.client().await];
    clients[0].subscribe(&["stream:s"]).await;
    let epoch = clients[1].subscribe(&["merge:m"]).await["topics"]["merge:m"]["epoch"].clone();
    add(&redis, 1, 50);
    expect_stream(&mut clients[0], &mut 0, 50).await;
    redis.command(&["FLUSHALL"]);
    server.until("noticed", |s| s.metric("epoch_changes_total{source=\"redis nexus:deltas\"}") >= 1.0).await;
    wiped(&server, &redis, &mut clients, &epoch).await;
}

/// A failover that lost the last writes: the stream's IDs go backwards, although its epoch key still exists.
#[tokio::test]
async fn ids_that_go_backwards_change_the_epoch() {
    let redis = Redis::start();
    let server = redis.server("").await;
    let mut client = server.client().await;
    let old = client.subscribe(&["merge:m"]).await["topics"]["merge:m"]["epoch"].clone();
    redis.xadd("nexus:deltas", "1900000000000-1", &["topic", "merge:m", "data", r#"{"lost":1}"#]);
    assert_eq!(client.next().await["data"], json!({"lost": 1}));
    redis.command(&["DEL", "nexus:deltas"]);
    redis.xadd("nexus:deltas", "1800000000000-1", &["topic", "merge:m", "data", r#"{"kept":1}"#]);
    let snapshot = client.next().await;
    assert_eq!((&snapshot["type"], &snapshot["data"]), (&json!("snapshot"), &json!({"kept": 1})));
    assert_ne!(snapshot["epoch"], old);
}

#[tokio::test]
async fn paused_and_continued_nothing_is_lost() {
    let redis = Redis::start();
    let server = redis.server("").await;
    let mut client = server.client().await;
    client.subscribe(&["stream:s"]).await;
    add(&redis, 1, 50);
    let mut have = 0;
    expect_stream(&mut client, &mut have, 50).await;
    redis.signal("STOP");
    server.until("not ready", |s| s.get("/readyz").0 == 503).await;
    redis.signal("CONT");
    add(&redis, 51, 50);
    expect_stream(&mut client, &mut have, 100).await;
    client.nothing_more().await;
}
