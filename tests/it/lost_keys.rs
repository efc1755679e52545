//! A key beside a stream is deleted, or an older backup is put back under running nodes: no node goes on with what
//! the rest of the keys no longer means, and all tell the same.

use serde_json::{Value, json};

use crate::support::{Redis, Server};

const STREAM: &str = "nexus:deltas";
const EPOCH: &str = "{nexus:deltas}:epoch";
const EVERY: &str = "snapshot_every = \"100ms\"";

/// Status, ETag and body.
fn told(server: &Server, topic: &str) -> (u16, Option<String>, String) {
    let (status, head, body) = server.http("GET", &format!("/api/topics/{topic}"), &[], "");
    let etag = head.lines().find(|line| line.to_ascii_lowercase().starts_with("etag")).map(str::to_owned);
    (status, etag, body)
}

fn data(server: &Server, topic: &str) -> Option<Value> {
    let (status, _, body) = told(server, topic);
    (status == 200).then(|| serde_json::from_str::<Value>(&body).unwrap()["data"].clone())
}

fn add(redis: &Redis, stream: &str, topic: &str, kind: &str, data: &Value) -> String {
    redis.command(&["XADD", stream, "*", "topic", topic, "kind", kind, "data", &data.to_string()])
}

#[tokio::test]
async fn whichever_key_is_deleted_a_new_node_tells_what_the_old_one_does() {
    for key in ["snapshots", "position", "count", "ended", "expired", "saver"] {
        let redis = Redis::start();
        let first = redis.server(EVERY).await;
        redis.add("merge:a", &json!({"a": 1}));
        redis.add("latest:b", &json!(2));
        let last = redis.add("merge:a", &json!({"b": 3}));
        let position = || redis.command(&["GET", "{nexus:deltas}:position"]);
        first.until("saved", |_| position() == last).await;
        // It saves no more meanwhile.
        first.signal("STOP");
        redis.command(&["DEL", &format!("{{nexus:deltas}}:{key}")]);
        let second = redis.server("snapshot_every = \"0s\"").await;
        first.signal("CONT");
        for topic in ["merge:a", "latest:b"] {
            assert_eq!(told(&second, topic), told(&first, topic), "{key}: {topic}");
            assert_eq!(told(&second, topic).0, 200, "{key}: {topic}");
        }
        // What is gone is saved again.
        let last = redis.add("latest:c", &json!(4));
        first.until("saved again", |_| position() == last && redis.saved(STREAM) == 3).await;
        redis.command(&["XTRIM", STREAM, "MAXLEN", "0"]);
        let third = redis.server("snapshot_every = \"0s\"").await;
        for topic in ["merge:a", "latest:b", "latest:c"] {
            assert_eq!(told(&third, topic), told(&first, topic), "{key}: {topic}");
        }
    }
}

/// The epoch of a backup that is put back a second time meant more when it was left: it is not taken up again.
#[tokio::test]
async fn an_epoch_that_comes_back_with_another_past_is_left_again() {
    let redis = Redis::start();
    let server = redis.server("snapshot_every = \"0s\"").await;
    redis.add("merge:a", &json!({"a": 1}));
    server.until("read", |s| data(s, "merge:a").is_some()).await;
    let first = redis.command(&["GET", EPOCH]);
    let keys = [STREAM, EPOCH];
    for key in keys {
        redis.command(&["COPY", key, &format!("backup:{key}")]);
    }
    let put_back = || {
        let copies = keys.map(|key| format!("redis.call('COPY', 'backup:{key}', '{key}', 'REPLACE')"));
        redis.command(&["EVAL", &copies.join(" "), "0"]);
    };
    redis.add("merge:a", &json!({"lost": 2}));
    server.until("read", |s| data(s, "merge:a") == Some(json!({"a": 1, "lost": 2}))).await;
    let mut epochs = vec![first];
    for _ in 0..3 {
        put_back();
        server.until("another epoch", |_| !epochs.contains(&redis.command(&["GET", EPOCH]))).await;
        epochs.push(redis.command(&["GET", EPOCH]));
        server.until("what is there", |s| data(s, "merge:a") == Some(json!({"a": 1}))).await;
    }
    redis.add("merge:a", &json!({"b": 3}));
    let other = redis.server("snapshot_every = \"0s\"").await;
    for server in [&server, &other] {
        server.until("read", |s| data(s, "merge:a") == Some(json!({"a": 1, "b": 3}))).await;
    }
    assert_eq!(told(&server, "merge:a"), told(&other, "merge:a"));
}

/// A topic lies in two streams, and the one that had the newest of it is deleted: what the other has counts again, on nodes that run
/// and on those that start, though it had been read, and saved, as what no longer counts.
#[tokio::test]
async fn what_a_deleted_stream_hid_counts_again() {
    let both = format!("streams = [\"s1\", \"s2\"]\n{EVERY}");
    let redis = Redis::start();
    let running = redis.server(&both).await;
    // Topics by the stream that they belong in.
    let belongs_in = |stream: &str| {
        let streams = ["s1".to_owned(), "s2".to_owned()];
        let names = (0..).map(|n| format!("latest:{n}"));
        names.into_iter().find(|name| nexus_push::topic::home_in(name, &streams) == stream).unwrap()
    };
    for (home, other) in [("s2", "s1"), ("s1", "s2")] {
        let topic = belongs_in(home);
        let stray = add(&redis, other, &topic, "delta", &json!("stray"));
        let stray_ms: u64 = stray.split('-').next().unwrap().parse().unwrap();
        // Not of the same millisecond.
        let newest = format!("{}-0", stray_ms + 1);
        redis.command(&["XADD", home, &newest, "topic", &topic, "data", "\"newest\""]);
        running.until("read", |s| data(s, &topic) == Some(json!("newest"))).await;
        let position = |stream: &str| redis.command(&["GET", &format!("{{{stream}}}:position")]);
        running.until("saved", |_| position(home) == newest).await;
        let last = add(&redis, other, "latest:other", "delta", &json!(home));
        running.until("saved beside the other", |_| position(other) == last).await;
        redis.command(&["DEL", home]);
        running.until("it counts again", |s| data(s, &topic) == Some(json!("stray"))).await;
        let started = redis.server(&both).await;
        assert_eq!(told(&started, &topic), told(&running, &topic), "{topic}");
        let newer = format!("{}-0", stray_ms + 60_000);
        redis.command(&["XADD", home, &newer, "topic", &topic, "data", "\"newer\""]);
        for server in [&running, &started] {
            server.until("the next is the newest", |s| data(s, &topic) == Some(json!("newer"))).await;
        }
    }
}

/// One topic lies in both streams, and one of these loses its past: what was saved of the other's many topics is as whole as it was,
/// though the entries that made it are gone.
#[tokio::test]
async fn topics_that_were_saved_outlive_the_loss_of_another_stream() {
    let both = format!("streams = [\"s1\", \"s2\"]\n{EVERY}");
    let redis = Redis::start();
    let running = redis.server(&both).await;
    let streams = ["s1".to_owned(), "s2".to_owned()];
    let of = |prefix: &str, stream: &str| {
        let names = (0..).map(|n| format!("{prefix}:{n}"));
        let belongs = |name: &String| nexus_push::topic::home_in(name, &streams) == stream;
        names.filter(belongs).take(5).collect::<Vec<_>>()
    };
    let (merged, values) = (of("merge", "s1"), of("latest", "s1"));
    for topic in &merged {
        for member in ["a", "b"] {
            add(&redis, "s1", topic, "delta", &json!({ member: topic }));
        }
    }
    for topic in &values {
        add(&redis, "s1", topic, "delta", &json!(topic));
    }
    let hidden = of("latest", "s2").remove(0);
    let stray = add(&redis, "s1", &hidden, "delta", &json!("stray"));
    let later = format!("{}-0", stray.split('-').next().unwrap().parse::<u64>().unwrap() + 1);
    redis.command(&["XADD", "s2", &later, "topic", &hidden, "data", "1"]);
    let position = |stream: &str| redis.command(&["GET", &format!("{{{stream}}}:position")]);
    running.until("read", |s| data(s, &hidden) == Some(json!(1))).await;
    let last = add(&redis, "s1", &values[0], "delta", &json!("last"));
    running.until("saved", |_| position("s1") == last && position("s2") == later).await;
    redis.command(&["XTRIM", "s1", "MAXLEN", "1"]);
    redis.command(&["DEL", "s2"]);
    running.until("noticed", |s| s.metric("epoch_changes_total{source=\"redis s2\"}") == 1.0).await;
    running.until("loaded", |s| told(s, &merged[0]).1.is_some()).await;
    let started = redis.server(&both).await;
    for topic in merged.iter().chain(&values) {
        assert_eq!(told(&started, topic), told(&running, topic), "{topic}");
        assert!(told(&started, topic).1.is_some(), "{topic} is whole");
    }
    // Its value there is gone, and no node says that there is none.
    for server in [&running, &started] {
        let (status, _, body) = told(server, &hidden);
        assert!(status == 200 && body.contains("\"incomplete\":true"), "{status} {body}");
    }
}
