//! Two servers on one Redis: a client that moves recovers as on its first node.

use serde_json::{Value, json};

use crate::support::{Client, Follower, Redis, Server};

async fn since(server: &Server, topic: &str, offset: u64, epoch: &str) -> (Client, Value) {
    let mut client = server.client().await;
    client
        .send(json!({"op": "subscribe", "args": [topic], "since": {topic: {"offset": offset, "epoch": epoch}}}))
        .await;
    let reply = client.next().await;
    (client, reply["topics"][topic].clone())
}

#[tokio::test]
async fn a_client_that_moves_misses_nothing_and_gets_nothing_twice() {
    let redis = Redis::start();
    let first = redis.server("").await;
    // The second node starts when there is a history already: it computes the same offsets.
    for n in 1..=20u64 {
        redis.add("stream:s", &json!(n));
    }
    let second = redis.server("").await;
    let nodes = [&first, &second];
    let mut client = first.client().await;
    client.send(json!({"op": "subscribe", "args": ["stream:s"], "history": 128})).await;
    let reply = client.next().await;
    let epoch = reply["topics"]["stream:s"]["epoch"].as_str().unwrap().to_owned();
    let (mut have, mut offset, mut published) = (0u64, 0u64, 20u64);
    for step in 0..20 {
        for _ in 0..10 {
            published += 1;
            redis.add("stream:s", &json!(published));
        }
        // The client reads some; the rest is missed.
        while have + 5 < published {
            let delta = client.next().await;
            assert_eq!(delta["data"], have + 1);
            have += 1;
            offset = delta["offset"].as_u64().unwrap();
        }
        drop(client);
        let node = nodes[(step + 1) % 2];
        // Every node must have read as far as the client.
        node.until("it has read as far", |s| {
            serde_json::from_str::<Value>(&s.get("/api/topics/stream:s").1)
                .is_ok_and(|t| t["offset"].as_u64() >= Some(offset))
        })
        .await;
        let (back, standing) = since(node, "stream:s", offset, &epoch).await;
        assert_eq!((&standing["recovered"], &standing["epoch"]), (&json!(true), &json!(epoch)));
        client = back;
    }
    while have < published {
        assert_eq!(client.next().await["data"], have + 1);
        have += 1;
    }
    client.nothing_more().await;
}

#[tokio::test]
async fn both_nodes_give_the_same_offsets_snapshots_and_etags() {
    let redis = Redis::start();
    let first = redis.server("").await;
    for n in 0..50 {
        redis.add("merge:m", &json!({(format!("k{}", (n * 7) % 11)): n}));
    }
    let second = redis.server("").await;
    redis.add("merge:m", &json!({"last": true}));
    let view = |s: &Server| s.http("GET", "/api/topics/merge:m", &[], "");
    let has_last = |s: &Server| view(s).2.contains("\"last\"");
    first.until("the first has it", has_last).await;
    second.until("the second has it", has_last).await;
    let ((_, head_a, body_a), (_, head_b, body_b)) = (view(&first), view(&second));
    assert_eq!(body_a, body_b);
    let etag = |head: &str| head.lines().find(|l| l.starts_with("etag")).unwrap().to_owned();
    assert_eq!(etag(&head_a), etag(&head_b));
}

/// A publish through one node reaches the clients of the other; after a wipe both have the same new epoch.
#[tokio::test]
async fn nodes_share_publishes_and_epochs() {
    let redis = Redis::start();
    let (first, second) = (redis.server("").await, redis.server("").await);
    let (mut a, mut b) = (first.client().await, second.client().await);
    a.subscribe(&["merge:m"]).await;
    b.subscribe(&["merge:m"]).await;
    first.publish("merge:m", &json!({"x": 1}));
    let (from_a, from_b) = (a.next().await, b.next().await);
    assert_eq!((&from_a["offset"], &from_a["data"]), (&from_b["offset"], &from_b["data"]));
    redis.command(&["FLUSHALL"]);
    redis.add("merge:m", &json!({"y": 2}));
    let mut ends = Vec::new();
    for client in [&mut a, &mut b] {
        let mut follower =
            Follower { offset: from_a["offset"].as_u64().unwrap(), state: json!({}), ..Follower::default() };
        while follower.epoch.is_empty() || follower.state != json!({"y": 2}) {
            follower.take(&client.next().await);
        }
        ends.push((follower.epoch, follower.offset));
    }
    assert_eq!(ends[0], ends[1]);
}

/// A client comes from a node that has read further: this node reads up to its position before it answers.
#[tokio::test]
async fn a_node_that_is_behind_catches_up_before_it_answers() {
    let redis = Redis::start();
    let server = redis.server("").await;
    let topics = ["stream:s", "merge:m"];
    for topic in topics {
        redis.add(topic, &json!({"n": 1}));
    }
    let view = |topic: &str| serde_json::from_str::<Value>(&server.get(&format!("/api/topics/{topic}")).1);
    let read = |_: &Server| topics.iter().all(|topic| view(topic).is_ok_and(|view| view["offset"].is_u64()));
    server.until("it has read", read).await;
    // Entries that another node has read already. Their IDs are an hour ahead, so that their offsets are known in
    // advance.
    let later = |topic: &str, ms: u64| {
        let view = view(topic).unwrap();
        let at_ms = (view["offset"].as_u64().unwrap() >> 13) + 3_600_000 + ms;
        let entry = format!("{}-0", 1_704_067_200_000 + at_ms);
        (entry, json!({"offset": at_ms << 13, "epoch": view["epoch"]}))
    };
    let (first, stream) = later("stream:s", 0);
    let (second, merge) = later("merge:m", 1_000);
    let mut client = server.client().await;
    client.send(json!({"op": "subscribe", "args": topics, "since": {"stream:s": stream, "merge:m": merge}})).await;
    // The server has the command for certain once it has answered a later one.
    client.send(json!({"op": "ping"})).await;
    assert_eq!(client.next().await["op"], "pong");
    let waiting = |server: &Server| server.metric("subscribes_waiting") == 2.0;
    server.until("both wait", waiting).await;
    for (entry, topic) in [(&first, "stream:s"), (&second, "merge:m")] {
        redis.xadd("nexus:deltas", entry, &["topic", topic, "data", r#"{"n":2}"#]);
    }
    let reply = client.next().await;
    for (topic, position) in [("stream:s", &stream), ("merge:m", &merge)] {
        let standing = &reply["topics"][topic];
        assert_eq!(
            (&standing["recovered"], &standing["offset"]),
            (&json!(true), &position["offset"]),
            "{topic}: {reply}"
        );
    }
    assert_eq!(server.metric("subscribes_ahead_total{reason=\"caught_up\"}"), 2.0);
    server.until("no subscribe waits", |server| server.metric("subscribes_waiting") == 0.0).await;
    redis.add("stream:s", &json!({"n": 3}));
    let next = client.next().await;
    assert_eq!(
        (&next["topic"], &next["data"]["n"]),
        (&json!("stream:s"), &json!(3)),
        "neither a snapshot nor a repeat"
    );
}

/// A position that no node has given: the client waits as long as any other, and is then not recovered.
#[tokio::test]
async fn a_client_ahead_of_every_node_is_answered_after_the_wait() {
    let redis = Redis::start();
    let server = redis.server("").await;
    redis.add("stream:s", &json!({"n": 1}));
    let view = || serde_json::from_str::<Value>(&server.get("/api/topics/stream:s").1);
    server.until("it has read", |_| view().is_ok_and(|view| view["offset"].is_u64())).await;
    let view = view().unwrap();
    let ahead = json!({"offset": view["offset"].as_u64().unwrap() + 1, "epoch": view["epoch"]});
    let mut client = server.client().await;
    client.send(json!({"op": "subscribe", "args": ["stream:s"], "since": {"stream:s": ahead}})).await;
    let reply = client.next().await;
    assert_eq!(reply["topics"]["stream:s"]["recovered"], json!(false), "{reply}");
    assert_eq!(server.metric("subscribes_ahead_total{reason=\"timed_out\"}"), 1.0);
    assert_eq!(server.metric("subscribes_waiting"), 0.0);
}
