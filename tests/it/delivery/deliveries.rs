//! Snapshot, then every delta: no gap and no repetition, whatever is in flight.

use serde_json::{Value, json};

use crate::support::{Follower, Server};

#[tokio::test]
async fn a_subscriber_gets_reply_snapshot_and_deltas_in_that_order() {
    let server = Server::open();
    server.publish("merge:a", &json!({"bid": "1", "ask": "2"}));
    let mut client = server.client().await;
    let reply = client.subscribe(&["merge:a", "stream:new"]).await;
    assert_eq!(reply["ok"], true);
    assert_eq!(reply["topics"]["merge:a"]["offset"], 1);
    assert_eq!(reply["topics"]["merge:a"]["recovered"], false);
    assert_eq!(reply["topics"]["stream:new"]["offset"], 0);
    let epoch = reply["topics"]["merge:a"]["epoch"].clone();
    let snapshot = client.next().await;
    assert_eq!((&snapshot["type"], &snapshot["offset"], &snapshot["epoch"]), (&json!("snapshot"), &json!(1), &epoch));
    assert_eq!(snapshot["data"], json!({"bid": "1", "ask": "2"}));
    server.publish("merge:a", &json!({"bid": "3"}));
    assert_eq!(
        client.next().await,
        json!({"topic": "merge:a", "type": "delta", "offset": 2, "prev": 1, "data": {"bid": "3"}})
    );
    server.publish("stream:new", &json!([1]));
    assert_eq!(
        client.next().await,
        json!({"topic": "stream:new", "type": "delta", "offset": 1, "prev": 0, "data": [1]})
    );
    client.nothing_more().await;
}

#[tokio::test]
async fn the_source_time_and_the_exact_numbers_come_through() {
    let server = Server::open();
    let mut client = server.client().await;
    client.subscribe(&["stream:n"]).await;
    let body = r#"{"channel":"stream:n","data":{"p":61800.20,"big":12345678901234567890123},"ts":1723161256313}"#;
    let (status, ..) = server.http("POST", "/api/publish", &[("Content-Type", "application/json")], body);
    assert_eq!(status, 200);
    assert_eq!(client.next().await["ts"], 1_723_161_256_313_u64);
    let (_, text) = server.get("/api/topics/stream:n");
    assert!(text.contains(r#"{"p":61800.20,"big":12345678901234567890123}"#), "{text}");
}

/// Subscribes repeatedly while deltas arrive: every snapshot joins up with the deltas after it.
#[tokio::test]
async fn subscribing_is_atomic_under_load() {
    let server = Server::open();
    let address = server.address;
    const DELTAS: u64 = 20_000;
    let publishing = async {
        let deltas: Vec<(String, Value)> =
            (1..=DELTAS).map(|n| ("merge:busy".to_owned(), json!({(format!("k{}", n % 50)): n}))).collect();
        for chunk in deltas.chunks(250) {
            server.publish_all(chunk);
            tokio::task::yield_now().await;
        }
    };
    let watching = (0..8).map(|i| async move {
        let mut done = 0;
        while done < 40 {
            let mut client = crate::support::Client::connect(address).await;
            let mut follower = Follower::default();
            let reply = client.subscribe(&["merge:busy"]).await;
            let at = reply["topics"]["merge:busy"]["offset"].as_u64().unwrap();
            if at == DELTAS {
                break;
            }
            let target = (at + 1 + i * 7).min(DELTAS);
            follower.offset = at;
            follower.state = json!({});
            follower.follow(&mut client, target).await;
            // The merge of every delta up to here.
            let mut expected = json!({});
            for n in 1..=follower.offset {
                expected[format!("k{}", n % 50)] = json!(n);
            }
            assert_eq!(follower.state, expected, "at {}", follower.offset);
            done += 1;
        }
    });
    let (_, ()) = tokio::join!(futures_util::future::join_all(watching), publishing);
}

#[tokio::test]
async fn unsubscribing_ends_deliveries_and_subscribing_again_starts_over() {
    let server = Server::open();
    let mut client = server.client().await;
    client.subscribe(&["merge:a"]).await;
    server.publish("merge:a", &json!({"n": 1}));
    assert_eq!(client.next().await["data"], json!({"n": 1}));
    client.send(json!({"op": "unsubscribe", "id": 2, "args": ["merge:a", "merge:never"]})).await;
    assert_eq!(client.next().await, json!({"id": 2, "op": "unsubscribe", "ok": true}));
    server.publish("merge:a", &json!({"n": 2}));
    client.nothing_more().await;
    client.subscribe(&["merge:a"]).await;
    assert_eq!(client.next().await["data"], json!({"n": 2}));
    // Subscribes again without unsubscribing: a new snapshot, and each delta once.
    client.subscribe(&["merge:a"]).await;
    assert_eq!(client.next().await["type"], "snapshot");
    server.publish("merge:a", &json!({"n": 3}));
    assert_eq!(client.next().await["offset"], 3);
    client.nothing_more().await;
}

#[tokio::test]
async fn commands_sent_at_once_are_carried_out_in_order() {
    let server = Server::open();
    let mut client = server.client().await;
    client.send(json!({"op": "subscribe", "id": 1, "args": ["merge:a"]})).await;
    client.send(json!({"op": "unsubscribe", "id": 2, "args": ["merge:a"]})).await;
    client.send(json!({"op": "subscribe", "id": 3, "args": ["merge:a"]})).await;
    for id in [1, 2, 3] {
        assert_eq!(client.next().await["id"], id);
    }
    server.publish("merge:a", &json!({"n": 1}));
    assert_eq!(client.next().await["offset"], 1);
    client.nothing_more().await;
}

#[tokio::test]
async fn a_snapshot_on_request_joins_up_with_what_follows() {
    let server = Server::open();
    server.publish("merge:a", &json!({"n": 1}));
    server.publish("stream:s", &json!("x"));
    let mut client = server.client().await;
    client.send(json!({"op": "snapshot", "id": 7, "args": ["merge:a", "stream:s", "merge:none"]})).await;
    let (a, s, none) = (client.next().await, client.next().await, client.next().await);
    assert_eq!(
        (a["data"].clone(), s["data"].clone(), none["data"].clone()),
        (json!({"n": 1}), json!([{"offset": 1, "data": "x"}]), Value::Null)
    );
    let reply = client.next().await;
    assert_eq!(
        (&reply["id"], &reply["ok"], &reply["topics"]["merge:a"]["offset"]),
        (&json!(7), &json!(true), &json!(1))
    );
    let mut follower = Follower::default();
    client.subscribe(&["merge:a"]).await;
    for n in 2..200 {
        server.publish("merge:a", &json!({ "n": n }));
        if n % 20 == 0 {
            client.send(json!({"op": "snapshot", "args": ["merge:a"]})).await;
        }
    }
    follower.follow(&mut client, 199).await;
    assert_eq!(follower.state, json!({"n": 199}));
}

#[tokio::test]
async fn a_merge_snapshot_published_replaces_the_state() {
    let server = Server::open();
    let mut client = server.client().await;
    client.subscribe(&["merge:a"]).await;
    server.publish("merge:a", &json!({"a": 1, "b": {"c": 2}}));
    let (status, _) = server.post("/api/publish", &json!({"topic": "merge:a", "kind": "snapshot", "data": {"z": 1}}));
    assert_eq!(status, 200);
    server.publish("merge:a", &json!({"y": 2}));
    let mut follower = Follower { state: json!({}), ..Follower::default() };
    follower.follow(&mut client, 3).await;
    assert_eq!((follower.state, follower.snapshots), (json!({"z": 1, "y": 2}), 1));
}

#[tokio::test]
async fn subscribers_are_notified_of_stale_and_fresh_topics() {
    let server = Server::open_with("[namespace.watched]\nclass = \"latest\"\nstale_after = \"1s\"");
    let mut client = server.client().await;
    client.subscribe(&["watched:a"]).await;
    server.publish("watched:a", &json!(1));
    assert_eq!(client.next().await["data"], 1);
    let stale = client.next().await;
    assert_eq!((&stale["op"], &stale["topic"]), (&json!("stale"), &json!("watched:a")));
    assert!(stale["since"].as_u64().unwrap() > 1_600_000_000_000);
    // A client that subscribes now is notified too.
    let mut late = server.client().await;
    late.subscribe(&["watched:a"]).await;
    assert_eq!(late.next().await["type"], "snapshot");
    assert_eq!(late.next().await["op"], "stale");
    server.publish("watched:a", &json!(2));
    for client in [&mut client, &mut late] {
        assert_eq!(client.next().await, json!({"op": "fresh", "topic": "watched:a"}));
        assert_eq!(client.next().await["data"], 2);
    }
}

/// A topic without subscribers costs no frames and no queue.
#[tokio::test]
async fn nothing_is_queued_without_subscribers() {
    let server = Server::open();
    let mut client = server.client().await;
    client.subscribe(&["stream:mine"]).await;
    let before = server.metric("tick_events_total");
    let deltas: Vec<(String, Value)> = (0..1_000).map(|n| (format!("stream:other{}", n % 10), json!(n))).collect();
    server.publish_all(&deltas);
    server.publish("stream:mine", &json!(1));
    assert_eq!(client.next().await["data"], 1);
    assert!(server.metric("tick_events_total") - before < 10.0);
    client.send(json!({"op": "unsubscribe", "args": ["stream:mine"]})).await;
    client.next().await;
    server.until("interest is gone", |s| s.metric("shard_topics") == 0.0).await;
}
