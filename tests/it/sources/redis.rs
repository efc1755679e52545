//! Deltas of a real Redis stream.

use serde_json::{Value, json};

use crate::support::{Follower, OPEN, Redis, Server};

#[tokio::test]
async fn entries_become_deltas_with_offsets_made_of_their_ids() {
    let redis = Redis::start();
    let server = redis.server("").await;
    let mut client = server.client().await;
    client.subscribe(&["merge:a", "stream:s"]).await;
    let id = redis.add("merge:a", &json!({"p": "61800.2"}));
    let delta = client.next().await;
    let (ms, seq) = id.split_once('-').unwrap();
    let offset = (ms.parse::<u64>().unwrap() - 1_704_067_200_000) * 8_192 + seq.parse::<u64>().unwrap();
    assert_eq!((&delta["offset"], &delta["data"]), (&json!(offset), &json!({"p": "61800.2"})));
    assert_eq!(delta["ts"].as_u64().unwrap().to_string(), ms, "without a ts of its own, the entry's time");
    redis.xadd(
        "nexus:deltas",
        "*",
        &["topic", "merge:a", "kind", "snapshot", "data", r#"{"z":1}"#, "ts", "1723161256313"],
    );
    let snapshot = client.next().await;
    assert_eq!(
        (&snapshot["type"], &snapshot["data"], &snapshot["ts"]),
        (&json!("snapshot"), &json!({"z": 1}), &json!(1_723_161_256_313_u64))
    );
}

#[tokio::test]
async fn entries_that_are_no_deltas_are_counted_and_passed_over() {
    let redis = Redis::start();
    let server = redis.server("").await;
    let mut client = server.client().await;
    client.subscribe(&["stream:s"]).await;
    for fields in [
        &["x", "y"][..],
        &["topic", "stream:s"],
        &["topic", "stream:s", "data", "{"],
        &["topic", "bad name", "data", "1"],
        &["topic", "merge:a", "data", "[1]"],
        &["topic", "stream:s", "data", "1", "kind", "nonsense"],
    ] {
        redis.xadd("nexus:deltas", "*", fields);
    }
    redis.add("stream:s", &json!("good"));
    assert_eq!(client.next().await["data"], "good");
    assert_eq!(server.metric("source_skipped_total{source=\"redis nexus:deltas\"}"), 6.0);
}

#[tokio::test]
async fn a_starting_node_loads_what_the_stream_holds_before_it_is_ready() {
    let redis = Redis::start();
    let mut expected = json!({});
    for n in 0..300 {
        let patch = json!({(format!("k{}", n % 10)): n});
        json_patch::merge(&mut expected, &patch);
        redis.add("merge:a", &patch);
        redis.add("stream:s", &json!(n));
    }
    let server = redis.server("").await;
    let (status, body) = server.get("/api/topics/merge:a");
    assert_eq!(status, 200);
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["data"], expected);
    let mut client = server.client().await;
    client.send(json!({"op": "subscribe", "args": ["stream:s"], "history": 128})).await;
    client.next().await;
    for n in 300 - 128..300 {
        assert_eq!(client.next().await["data"], n);
    }
}

#[tokio::test]
async fn partitions_are_read_side_by_side_and_the_api_writes_to_the_topics_own() {
    let redis = Redis::start();
    let streams: Vec<String> = (0..4).map(|n| format!("nexus:deltas:{{{n}}}")).collect();
    let server = redis.server(&format!("streams = {streams:?}")).await;
    let mut client = server.client().await;
    let topics: Vec<String> = (0..40).map(|n| format!("stream:{n}")).collect();
    client.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for topic in &topics {
        server.publish(topic, &json!("by the api"));
    }
    let lengths: Vec<u64> =
        streams.iter().map(|s| redis.command(&["XLEN", s]).trim_start_matches(':').parse().unwrap()).collect();
    assert_eq!(lengths.iter().sum::<u64>(), 40);
    assert!(lengths.iter().all(|n| *n > 0), "{lengths:?}");
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 40 {
        let delta = client.next().await;
        assert_eq!(delta["data"], "by the api");
        assert!(seen.insert(delta["topic"].as_str().unwrap().to_owned()));
    }
    // A topic that appears in another partition than expected moves there: its offsets cannot be compared with earlier
    // ones.
    let home = lengths.len();
    assert_eq!(home, 4);
    for stream in &streams {
        redis.xadd(stream, "*", &["topic", "stream:0", "data", "\"moved\""]);
        loop {
            let message = client.next().await;
            if message["type"] == "delta" && message["data"] == "moved" {
                break;
            }
        }
    }
}

#[tokio::test]
async fn publishing_through_redis_is_durable_and_returns_the_offset() {
    let redis = Redis::start();
    let server = redis.server("").await;
    let mut client = server.client().await;
    client.subscribe(&["merge:a"]).await;
    let offset = server.publish("merge:a", &json!({"x": 1}));
    assert_eq!(client.next().await["offset"], offset);
    assert_eq!(redis.command(&["XLEN", "nexus:deltas"]), ":1");
}

/// States survive the trimming of their deltas: a node that starts later restores them from Redis.
#[tokio::test]
async fn saved_states_survive_trimming() {
    let redis = Redis::start();
    let first = redis.server("snapshot_every = \"200ms\"").await;
    redis.add("merge:a", &json!({"old": 1}));
    let last = redis.add("latest:b", &json!("value"));
    // The position is saved last: without it a saved state does not count.
    first.until("saved", |_| redis.command(&["GET", "{nexus:deltas}:position"]) == last).await;
    redis.command(&["XTRIM", "nexus:deltas", "MAXLEN", "0"]);
    redis.add("merge:a", &json!({"new": 2}));
    let second = redis.server("snapshot_every = \"0s\"").await;
    let data = |s: &Server, topic: &str| {
        serde_json::from_str::<Value>(&s.get(&format!("/api/topics/{topic}")).1).unwrap()["data"].clone()
    };
    assert_eq!(data(&second, "merge:a"), json!({"old": 1, "new": 2}));
    assert_eq!(data(&second, "latest:b"), "value");
    first.until("the first has it too", |s| data(s, "merge:a") == json!({"old": 1, "new": 2})).await;
}

/// One node could not read for so long that entries were trimmed: it loads again on its own. Another, which has read
/// them all, is not affected, and both get the same state from the next snapshot.
#[tokio::test]
async fn a_node_that_misses_entries_loads_again_by_itself() {
    let redis = Redis::start();
    let (slow, healthy) = (redis.server("").await, redis.server("").await);
    let (mut client, mut watcher) = (slow.client().await, healthy.client().await);
    redis.add("merge:a", &json!({"a": 1}));
    for name in ["quiet:x", "merge:quiet"] {
        redis.add(name, &json!({"q": 1}));
    }
    for server in [&slow, &healthy] {
        server.until("read", |s| s.get("/api/topics/merge:quiet").0 == 200).await;
    }
    let reply = client.subscribe(&["merge:a"]).await;
    let epoch = reply["topics"]["merge:a"]["epoch"].as_str().unwrap().to_owned();
    assert_eq!(client.next().await["data"], json!({"a": 1}));
    watcher.subscribe(&["merge:a"]).await;
    let mut followed = Follower::default();
    followed.take(&watcher.next().await);
    slow.signal("STOP");
    for n in 0..100 {
        redis.add("merge:a", &json!({(format!("k{n}")): n}));
    }
    while followed.state.get("k99").is_none() {
        followed.take(&watcher.next().await);
    }
    redis.command(&["XTRIM", "nexus:deltas", "MAXLEN", "40"]);
    slow.signal("CONT");
    let delivery = loop {
        let delivery = client.next().await;
        if delivery["type"] == "snapshot" && delivery["data"].get("k99").is_some() {
            break delivery;
        }
    };
    // A position in a state that may lack deltas is not valid in the epoch.
    let in_doubt = json!(format!("{epoch}~"));
    assert_eq!((&delivery["epoch"], &delivery["incomplete"]), (&in_doubt, &json!(true)), "{delivery}");
    assert_eq!(slow.metric("source_missed_total{source=\"redis nexus:deltas\"}"), 1.0);
    for server in [&slow, &healthy] {
        assert_eq!(server.metric("epoch_changes_total{source=\"redis nexus:deltas\"}"), 0.0);
    }
    // A topic that the slow node does not know may exist: it does not answer 404.
    let (status, quiet) = slow.get("/api/topics/merge:quiet");
    let quiet: Value = serde_json::from_str(&quiet).unwrap();
    assert_eq!((status, &quiet["data"], &quiet["incomplete"]), (200, &Value::Null, &json!(true)));
    assert_eq!(client.subscribe(&["merge:quiet"]).await["topics"]["merge:quiet"]["recovered"], false);
    let delivery = client.next().await;
    assert_eq!(
        (&delivery["topic"], &delivery["data"], &delivery["incomplete"]),
        (&json!("merge:quiet"), &Value::Null, &json!(true))
    );
    // The healthy node still has everything.
    assert_eq!(
        serde_json::from_str::<Value>(&healthy.get("/api/topics/merge:quiet").1).unwrap()["data"],
        json!({"q": 1})
    );
    let at = followed.offset;
    redis.xadd("nexus:deltas", "*", &["topic", "merge:a", "kind", "snapshot", "data", "{\"z\":1}"]);
    while followed.offset == at {
        let delivery = watcher.next().await;
        assert_eq!(delivery.get("incomplete"), None, "{delivery}");
        followed.take(&delivery);
    }
    slow.until("whole again", |s| {
        let [one, other] = [s, &healthy].map(|s| s.get("/api/topics/merge:a").1);
        one == other && !one.contains("incomplete")
    })
    .await;
}

#[tokio::test]
async fn a_password_never_shows() {
    let server = Server::start(&format!("{OPEN}\n[source.redis]\nurl = \"redis://user:very-secret@127.0.0.1:1/\""));
    server.until("it tried", |s| s.metric("source_errors_total{source=\"redis nexus:deltas\"}") > 0.0).await;
    let everything = format!("{}{}{}", server.log(), server.get("/status").1, server.get("/readyz").1);
    assert!(!everything.contains("very-secret"), "{everything}");
}
