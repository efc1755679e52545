//! Recovery: missed deltas are replayed, or the state is sent, or the client is informed that neither is possible.

use serde_json::{Value, json};

use crate::support::{Follower, OPEN, Server};

async fn subscribe_since(server: &Server, topic: &str, offset: u64, epoch: &Value) -> (crate::support::Client, Value) {
    let mut client = server.client().await;
    client
        .send(
            json!({"op": "subscribe", "id": 1, "args": [topic], "since": {topic: {"offset": offset, "epoch": epoch}}}),
        )
        .await;
    let reply = client.next().await;
    assert_eq!(reply["ok"], true, "{reply}");
    (client, reply["topics"][topic].clone())
}

#[tokio::test]
async fn a_stream_recovers_exactly_what_was_missed() {
    let server = Server::open();
    let mut first = server.client().await;
    let reply = first.subscribe(&["stream:a"]).await;
    let epoch = reply["topics"]["stream:a"]["epoch"].clone();
    for n in 1..=3 {
        server.publish("stream:a", &json!(n));
    }
    for n in 1..=3 {
        assert_eq!(first.next().await["data"], n);
    }
    drop(first);
    for n in 4..=10 {
        server.publish("stream:a", &json!(n));
    }
    let (mut back, standing) = subscribe_since(&server, "stream:a", 3, &epoch).await;
    assert_eq!((&standing["recovered"], &standing["offset"]), (&json!(true), &json!(10)));
    server.publish("stream:a", &json!(11));
    for n in 4..=11 {
        let delta = back.next().await;
        assert_eq!((&delta["data"], &delta["prev"]), (&json!(n), &json!(n - 1)));
    }
    back.nothing_more().await;
}

#[tokio::test]
async fn past_the_history_a_stream_is_not_recovered_and_others_send_their_state() {
    let small = "[namespace.s]\nhistory_size = 2\n[namespace.m]\nclass = \"merge\"\nhistory_size = 2\n[namespace.l]\nclass = \"latest\"\nhistory_size = 2";
    let server = Server::open_with(small);
    let mut epoch = Value::Null;
    for topic in ["s:a", "m:a", "l:a"] {
        for n in 1..=9 {
            let (_, reply) = server.post("/api/publish", &json!({"channel": topic, "data": {(format!("k{n}")): n}}));
            epoch = reply["result"]["epoch"].clone();
        }
    }
    let (mut stream, standing) = subscribe_since(&server, "s:a", 3, &epoch).await;
    assert_eq!(standing["recovered"], false);
    stream.nothing_more().await;
    for topic in ["m:a", "l:a"] {
        let (mut client, standing) = subscribe_since(&server, topic, 3, &epoch).await;
        assert_eq!(standing["recovered"], true);
        let snapshot = client.next().await;
        assert_eq!((&snapshot["type"], &snapshot["offset"]), (&json!("snapshot"), &json!(9)));
        client.nothing_more().await;
    }
    let (mut other_epoch, standing) = subscribe_since(&server, "s:a", 9, &json!("other")).await;
    assert_eq!(standing["recovered"], false);
    other_epoch.nothing_more().await;
}

#[tokio::test]
async fn an_old_history_is_removed() {
    let server = Server::open_with("[namespace.s]\nhistory_ttl = \"1s\"");
    let (_, reply) = server.post("/api/publish", &json!({"channel": "s:a", "data": 1}));
    let epoch = reply["result"]["epoch"].clone();
    server.publish("s:a", &json!(2));
    let (_, standing) = subscribe_since(&server, "s:a", 1, &epoch).await;
    assert_eq!(standing["recovered"], true);
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    loop {
        let (_, standing) = subscribe_since(&server, "s:a", 1, &epoch).await;
        if standing["recovered"] == false {
            break;
        }
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let (_, standing) = subscribe_since(&server, "s:a", 2, &epoch).await;
    assert_eq!(standing["recovered"], true, "a client with everything is recovered");
}

#[tokio::test]
async fn a_new_subscriber_may_ask_for_history() {
    let server = Server::open();
    for n in 1..=5 {
        server.publish("stream:a", &json!(n));
    }
    let mut client = server.client().await;
    client.send(json!({"op": "subscribe", "args": ["stream:a"], "history": 2})).await;
    assert_eq!(client.next().await["topics"]["stream:a"]["recovered"], false);
    assert_eq!(client.next().await["data"], 4);
    assert_eq!(client.next().await["data"], 5);
    client.nothing_more().await;
}

/// Clients that reconnect while deltas arrive miss nothing and get nothing twice.
#[tokio::test]
async fn reconnecting_under_load_loses_nothing() {
    let server = Server::start(&format!("{OPEN}\n[namespace.r]\nhistory_size = 60000\nhistory_bytes = 10000000"));
    const DELTAS: u64 = 12_000;
    let publishing = async {
        let deltas: Vec<(String, Value)> = (1..=DELTAS).map(|n| ("r:a".to_owned(), json!(n))).collect();
        for chunk in deltas.chunks(100) {
            server.publish_all(chunk);
            tokio::task::yield_now().await;
        }
    };
    let restless = (0..5u64).map(|i| {
        let server = &server;
        async move {
            let mut client = server.client().await;
            let reply = client.subscribe(&["r:a"]).await;
            let epoch = reply["topics"]["r:a"]["epoch"].clone();
            let mut seen = reply["topics"]["r:a"]["offset"].as_u64().unwrap();
            let mut connections = 0;
            while seen < DELTAS {
                let stay = 50 + i * 37;
                for _ in 0..stay {
                    if seen == DELTAS {
                        break;
                    }
                    let delta = client.next().await;
                    assert_eq!((delta["data"].as_u64(), delta["prev"].as_u64()), (Some(seen + 1), Some(seen)));
                    seen += 1;
                }
                let (back, standing) = subscribe_since(server, "r:a", seen, &epoch).await;
                assert_eq!(standing["recovered"], true);
                client = back;
                connections += 1;
            }
            connections
        }
    });
    let (connections, ()) = tokio::join!(futures_util::future::join_all(restless), publishing);
    assert!(connections.iter().all(|c| *c > 20));
}

#[tokio::test]
async fn recovered_merge_patches_lead_to_the_same_state() {
    let server = Server::open();
    server.publish("merge:a", &json!({"x": {"a": 1, "b": 2}, "filler": "long enough that patches are shorter"}));
    let mut client = server.client().await;
    let reply = client.subscribe(&["merge:a"]).await;
    let mut follower = Follower::default();
    follower.follow(&mut client, 1).await;
    drop(client);
    server.publish("merge:a", &json!({"x": {"a": null}}));
    server.publish("merge:a", &json!({"x": {"c": 3}}));
    let (mut client, standing) = subscribe_since(&server, "merge:a", 1, &reply["topics"]["merge:a"]["epoch"]).await;
    assert_eq!(standing["recovered"], true);
    let before = follower.snapshots;
    follower.follow(&mut client, 3).await;
    assert_eq!(follower.state["x"], json!({"b": 2, "c": 3}));
    assert_eq!(follower.snapshots, before, "the patches were sent, not the object");
}

/// A client missed more than a backlog takes, on several topics. It comes in parts as the socket takes it, and the
/// client is not closed as slow.
#[tokio::test]
async fn a_long_absence_is_recovered_in_pieces() {
    let server = Server::open_with(
        "[limits]\nbacklog_bytes = 300000\n[namespace.s]\nhistory_size = 60000\nhistory_bytes = 100000000",
    );
    let topics = ["s:a", "s:b", "s:c"];
    let mut first = server.client().await;
    let reply = first.subscribe(&topics).await;
    drop(first);
    const EACH: u64 = 6_000;
    let filler = "x".repeat(1_000);
    for topic in topics {
        let deltas: Vec<(String, Value)> =
            (1..=EACH).map(|n| (topic.to_owned(), json!({"n": n, "pad": filler}))).collect();
        server.publish_all(&deltas);
    }
    let since: serde_json::Map<String, Value> =
        topics.iter().map(|t| ((*t).to_owned(), json!({"offset": 0, "epoch": reply["topics"][t]["epoch"]}))).collect();
    let mut back = server.client().await;
    back.send(json!({"op": "subscribe", "args": topics, "since": since})).await;
    let standing = back.next().await;
    assert!(topics.iter().all(|t| standing["topics"][t]["recovered"] == true), "{standing}");
    // It does not read until the socket is full, while more deltas come.
    server.until("it is full", |s| s.metric("slow_sessions") == 1.0).await;
    for topic in topics {
        server.publish(topic, &json!({"n": EACH + 1}));
    }
    let mut have = std::collections::HashMap::new();
    while topics.iter().any(|t| have.get(*t) != Some(&(EACH + 1))) {
        let delta = back.next().await;
        let seen = have.entry(delta["topic"].as_str().unwrap().to_owned()).or_insert(0u64);
        assert_eq!(delta["data"]["n"], *seen + 1, "{}", delta["topic"]);
        *seen += 1;
    }
    server.publish("s:a", &json!("after"));
    assert_eq!(back.next().await["data"], "after");
    back.nothing_more().await;
}
