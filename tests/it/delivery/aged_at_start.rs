//! A starting node reports the true age of topics from its first answer on: quiet topics are stale, and expired ones
//! are gone and take no memory.

use crate::support::clock::unix_ms;
use serde_json::{Value, json};

use crate::support::{Redis, Server};

const STREAM: &str = "nexus:deltas";

fn seen(server: &Server, topic: &str) -> (u16, Value) {
    let (status, body) = server.get(&format!("/api/topics/{topic}"));
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

/// Adds an entry with an ID that is this many ms old.
fn add_aged(redis: &Redis, ago_ms: u64, topic: &str) -> String {
    redis.xadd(STREAM, &format!("{}-*", unix_ms() - ago_ms), &["topic", topic, "data", "{\"a\":1}"])
}

/// The first answers of a server with these namespaces.
async fn start(redis: &Redis, more: &str) -> Server {
    redis.server(&format!("snapshot_every = \"100ms\"\n{more}")).await
}

#[tokio::test]
async fn quiet_topics_are_stale_from_the_first_answer_on() {
    let redis = Redis::start();
    let more = "[namespace.quotes]\nclass = \"latest\"\nstale_after = \"5s\"\n[namespace.state]\nclass = \"merge\"\nstale_after = \"5s\"\n";
    let topics = ["quotes:a", "state:a"];
    for topic in topics {
        add_aged(&redis, 60_000, topic);
    }
    let last = add_aged(&redis, 50, "quotes:fresh");
    for is_saved in [false, true] {
        let server = start(&redis, more).await;
        for topic in topics {
            let (status, body) = seen(&server, topic);
            assert!(status == 200 && body["stale_since"].is_u64(), "saved {is_saved}, {topic}: {body}");
        }
        let mut client = server.client().await;
        client.subscribe(&["state:a"]).await;
        assert_eq!(client.next().await["type"], json!("snapshot"));
        assert_eq!(client.next().await["op"], json!("stale"));
        server.until("saved", |_| redis.command(&["GET", "{nexus:deltas}:position"]) == last).await;
    }
}

#[tokio::test]
async fn expired_topics_are_gone_from_the_first_answer_on() {
    let redis = Redis::start();
    let running = start(&redis, "").await;
    add_aged(&redis, 40 * 86_400_000, "merge:old");
    running.until("read", |s| s.metric("deltas_total") >= 1.0).await;
    assert_eq!(seen(&running, "merge:old").0, 404);
    drop(running);
    let last = add_aged(&redis, 1_000, "merge:new");
    for is_saved in [false, true] {
        let server = start(&redis, "").await;
        assert_eq!((seen(&server, "merge:old").0, seen(&server, "merge:new").0), (404, 200), "saved {is_saved}");
        server.until("saved", |_| redis.command(&["GET", "{nexus:deltas}:position"]) == last).await;
        assert_eq!(redis.saved(STREAM), 1);
    }
}

/// A stream has days of expired topics: they leave room for those that exist.
#[tokio::test]
async fn expired_topics_take_no_room_from_others() {
    const DAYS: u64 = 5;
    const TOPICS: u64 = 150;
    let redis = Redis::start();
    let more = "[namespace.daily]\nclass = \"merge\"\nexpire_after = \"20s\"\n[namespace.events]\nclass = \"stream\"\nexpire_after = \"20s\"\n[limits]\ntopics = 400\n";
    let of = |class: &str, day: u64| (0..TOPICS).map(move |n| format!("{class}:d{day}-{n}")).collect::<Vec<_>>();
    let last = (0..DAYS).flat_map(|day| [("daily", day), ("events", day)]).fold(String::new(), |_, (class, day)| {
        let ago_ms = (DAYS - day) * 40_000 - 39_000;
        of(class, day).iter().fold(String::new(), |_, topic| add_aged(&redis, ago_ms, topic))
    });
    for is_saved in [false, true] {
        let server = start(&redis, more).await;
        assert_eq!(server.metric("topics"), (2 * TOPICS) as f64, "saved {is_saved}");
        for class in ["daily", "events"] {
            assert_eq!(seen(&server, &format!("{class}:d0-1")).0, 404, "saved {is_saved}");
            for topic in of(class, DAYS - 1) {
                let (status, body) = seen(&server, &topic);
                assert!(
                    status == 200 && body.get("incomplete").is_none(),
                    "saved {is_saved}, {topic}: {status} {body}"
                );
            }
        }
        server.until("saved", |_| redis.command(&["GET", "{nexus:deltas}:position"]) == last).await;
    }
}
