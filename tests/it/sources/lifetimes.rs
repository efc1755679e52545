//! Nodes with different `expire_after`, as during a rolling restart: what one node ends and removes is not missing on a
//! node that keeps it, and no node takes a part of a state for the whole.

use serde_json::{Value, json};

use crate::support::{Redis, Server};

const STREAM: &str = "nexus:deltas";
const STATES: &str = "{nexus:deltas}:snapshots";

/// Status, ETag and body.
fn served(server: &Server, topic: &str) -> (u16, Option<String>, Value) {
    let (status, head, body) = server.http("GET", &format!("/api/topics/{topic}"), &[], "");
    let etag = head.lines().find(|line| line.starts_with("etag")).map(str::to_owned);
    (status, etag, serde_json::from_str(&body).unwrap())
}

fn options(every: &str, expire_after: &str) -> String {
    format!("snapshot_every = \"{every}\"\n[namespace.n]\nclass = \"merge\"\nexpire_after = \"{expire_after}\"\n")
}

#[tokio::test]
async fn states_removed_by_a_node_with_a_shorter_time_are_not_missing() {
    let redis = Redis::start();
    let old = redis.server(&options("100ms", "2s")).await;
    for topic in ["n:patched", "n:quiet"] {
        redis.add(topic, &json!({"a": 1}));
    }
    old.until("saved", |_| redis.saved(STREAM) == 2).await;
    let new = redis.server(&options("100ms", "1h")).await;
    let whole = served(&new, "n:quiet");
    assert!(whole.1.is_some(), "{whole:?}");
    new.signal("STOP");
    old.until("ended and removed", |s| served(s, "n:quiet").0 == 404 && redis.saved(STREAM) == 0).await;
    // The end is saved: the position is past it.
    let last = redis.add("latest:other", &json!(1));
    old.until("saved", |_| redis.command(&["GET", "{nexus:deltas}:position"]) == last).await;
    redis.command(&["XTRIM", STREAM, "MAXLEN", "1"]);
    let late = redis.server(&options("0s", "1h")).await;
    for topic in ["n:quiet", "n:patched"] {
        let (status, _, body) = served(&late, topic);
        assert!(status == 200 && body["data"].is_null() && body["incomplete"] == true, "{body}");
    }
    // Topics of other namespaces are not affected.
    assert_eq!(served(&late, "merge:unknown").0, 404);
    redis.add("n:patched", &json!({"b": 2}));
    late.until("patched", |s| served(s, "n:patched").2["data"] == json!({"b": 2})).await;
    assert_eq!(served(&late, "n:patched").2["incomplete"], true, "it is a part of what the other node has");
    new.signal("CONT");
    new.until("patched", |s| served(s, "n:patched").2["data"] == json!({"a": 1, "b": 2})).await;
    // The node that keeps them saves them again.
    new.until("saved again", |_| redis.command(&["HEXISTS", STATES, "n:quiet"]) == ":1").await;
    drop(old);
    let last = redis.add("latest:other", &json!(2));
    new.until("saved", |_| redis.command(&["GET", "{nexus:deltas}:position"]) == last).await;
    let later = redis.server(&options("0s", "1h")).await;
    assert_eq!(served(&later, "n:quiet"), whole);
    assert_eq!(served(&later, "n:patched"), served(&new, "n:patched"));
    assert!(served(&later, "n:patched").1.is_some());
}

/// The same with NATS.
#[cfg(feature = "nats")]
#[tokio::test]
async fn what_a_node_with_a_shorter_time_removed_from_the_bucket_is_not_taken_for_missing() {
    use crate::support::nats::{Nats, add, saved_upto};
    let nats = Nats::start();
    let js = nats.jetstream().await;
    // A stream that is full lets go of messages by itself.
    let options = |every: &str, expire_after: &str| format!("max_messages = 3\n{}", options(every, expire_after));
    let old = nats.server(&options("100ms", "2s")).await;
    let mut last = 0;
    for subject in ["n.patched", "n.quiet"] {
        last = add(&js, subject, &json!({"a": 1})).await;
    }
    old.until("read", |s| served(s, "n:quiet").0 == 200).await;
    let epoch = served(&old, "n:quiet").2["epoch"].as_str().unwrap().to_owned();
    saved_upto(&js, &epoch, last).await;
    let new = nats.server(&options("100ms", "1h")).await;
    let whole = served(&new, "n:quiet");
    assert!(whole.1.is_some(), "{whole:?}");
    new.signal("STOP");
    old.until("ended", |s| served(s, "n:quiet").0 == 404).await;
    // What was ended is saved as ended: the position is past it.
    let mut last = 0;
    for n in 1..=3 {
        last = add(&js, "latest.other", &json!(n)).await;
    }
    saved_upto(&js, &epoch, last).await;
    let late = nats.server(&options("0s", "1h")).await;
    for topic in ["n:quiet", "n:patched"] {
        let (status, _, body) = served(&late, topic);
        assert!(status == 200 && body["data"].is_null() && body["incomplete"] == true, "{body}");
    }
    // Topics of other namespaces are none of its business.
    assert_eq!(served(&late, "merge:unknown").0, 404);
    new.signal("CONT");
    new.until("read", |s| served(s, "latest:other").2["offset"] == last).await;
    add(&js, "n.patched", &json!({"b": 2})).await;
    late.until("patched", |s| served(s, "n:patched").2["data"] == json!({"b": 2})).await;
    assert_eq!(served(&late, "n:patched").2["incomplete"], true, "it is a part of what the other node has");
    new.until("patched", |s| served(s, "n:patched").2["data"] == json!({"a": 1, "b": 2})).await;
    // The node that keeps them saves them again, once the other leaves it a turn.
    drop(old);
    new.until("warned", |s| s.log().contains("other nodes end topics that this one keeps")).await;
    let last = add(&js, "latest.other", &json!(4)).await;
    saved_upto(&js, &epoch, last).await;
    let later = nats.server(&options("0s", "1h")).await;
    assert_eq!(served(&later, "n:quiet"), whole);
    assert_eq!(served(&later, "n:patched"), served(&new, "n:patched"));
    assert!(served(&later, "n:patched").1.is_some());
}
