//! Saved states, and what a node may conclude from them: nothing that has ended comes back, nothing of another stream counts,
//! and what was saved is what was published.

use serde_json::{Value, json};

use crate::support::{Redis, Server};

const STREAM: &str = "nexus:deltas";
const STATES: &str = "{nexus:deltas}:snapshots";
const POSITION: &str = "{nexus:deltas}:position";
const LEASE: &str = "{nexus:deltas}:saver";

fn view(server: &Server, topic: &str) -> Option<Value> {
    let (status, body) = server.get(&format!("/api/topics/{topic}"));
    (status == 200).then(|| serde_json::from_str(&body).unwrap())
}

fn is_incomplete(server: &Server, topic: &str) -> bool {
    view(server, topic).is_some_and(|seen| seen["incomplete"] == true)
}

async fn saved_upto(redis: &Redis, server: &Server, id: &str) {
    server.until("saved", |_| redis.command(&["GET", POSITION]) == id).await;
}

/// Appends `count` entries in one go; `topic`, `kind` and `data` are Lua, and may use the number `i`.
fn add_many(redis: &Redis, count: u32, topic: &str, kind: &str, data: &str) {
    let script = format!(
        "for i = 1, {count} do redis.call('XADD', KEYS[1], '*', 'topic', {topic}, 'kind', '{kind}', 'data', {data}) end"
    );
    redis.command(&["EVAL", &script, "1", STREAM]);
}

fn count_saved(redis: &Redis) -> u32 {
    redis.command(&["HLEN", STATES]).trim_start_matches(':').parse().unwrap()
}

/// A node is stopped in the middle of a save; meanwhile the topics are deleted, and another node removes what was saved of them.
/// When the first goes on, it still is the one that saves, and it has not read of the deletes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_that_was_held_up_brings_nothing_back_that_was_deleted() {
    const TOPICS: u32 = 12_000;
    for attempt in 0.. {
        assert!(attempt < 20, "never stopped in the middle of a save");
        let redis = Redis::start();
        let held_up = redis.server("snapshot_every = \"2s\"").await;
        add_many(&redis, TOPICS, "'merge:t' .. i", "delta", "'{\"a\":\"' .. string.rep('v', 300) .. '\"}'");
        held_up.until("a save begins", |_| count_saved(&redis) > 0).await;
        held_up.signal("STOP");
        if count_saved(&redis) == TOPICS {
            continue;
        }
        // However long the rest takes.
        redis.command(&["PEXPIRE", LEASE, "600000"]);
        let other = redis.server("snapshot_every = \"200ms\"").await;
        add_many(&redis, TOPICS, "'merge:t' .. i", "delete", "'{}'");
        let is_empty = |s: &Server| s.get("/api/topics").1.contains("\"topics\":[]");
        other.until("deleted", is_empty).await;
        other.until("removed", |_| count_saved(&redis) == 0).await;
        held_up.signal("CONT");
        held_up
            .until("it has read of the deletes, or saved", |s| {
                count_saved(&redis) > 0 || s.get("/api/topics").1.contains("\"topics\":[]")
            })
            .await;
        drop(held_up);
        redis.command(&["DEL", LEASE]);
        let last = redis.add("merge:alive", &json!({"a": 1}));
        saved_upto(&redis, &other, &last).await;
        let third = redis.server("snapshot_every = \"0s\"").await;
        for server in [&other, &third] {
            assert_eq!(server.get("/api/topics").1, r#"{"topics":["merge:alive"],"next":null}"#);
        }
        assert_eq!(count_saved(&redis), 1);
        return;
    }
}

/// White space around a value is part of what was published: it is there after a restart too.
#[tokio::test]
async fn a_value_is_the_same_to_the_byte_after_it_was_saved() {
    let redis = Redis::start();
    let values = [" {\"a\": 1} ", "\t1", "1e400 ", "  \"\\ud800\"  ", "null ", "[1,\n2]\n", "{}"];
    let first = redis.server("snapshot_every = \"100ms\"").await;
    let mut last = String::new();
    for (n, value) in values.iter().enumerate() {
        last = redis.command(&["XADD", STREAM, "*", "topic", &format!("latest:{n}"), "data", value]);
    }
    saved_upto(&redis, &first, &last).await;
    redis.command(&["XTRIM", STREAM, "MAXLEN", "0"]);
    let second = redis.server("").await;
    for (n, value) in values.iter().enumerate() {
        let answer = |s: &Server| {
            let (status, head, body) = s.http("GET", &format!("/api/topics/latest:{n}"), &[], "");
            let etag = head.lines().find(|line| line.to_ascii_lowercase().starts_with("etag")).map(str::to_owned);
            (status, etag, body)
        };
        assert_eq!(answer(&second), answer(&first), "{value:?}");
    }
}

/// The stream was deleted, and one of the same name has more entries than the first: nothing of the first is left, neither
/// where a node was away meanwhile, nor where all of them were and states had been saved.
#[tokio::test]
async fn another_stream_of_the_name_is_another_however_long_it_is() {
    let redis = Redis::start();
    let options = "snapshot_every = \"100ms\"";
    let first = redis.server(options).await;
    let mut last = String::new();
    for n in 0..5 {
        last = redis.add("merge:a", &json!({format!("old{n}"): n}));
    }
    saved_upto(&redis, &first, &last).await;
    first.signal("STOP");
    redis.command(&["DEL", STREAM]);
    // More than are read at once.
    add_many(&redis, 3_000, "'merge:a'", "delta", "'{\"new' .. i % 3 .. '\":' .. i .. '}'");
    first.signal("CONT");
    let expected = json!({"new0": 3_000, "new1": 2_998, "new2": 2_999});
    first.until("the new one alone", |s| view(s, "merge:a").is_some_and(|seen| seen["data"] == expected)).await;
    assert!(!is_incomplete(&first, "merge:a"));
    let last = redis.add("merge:a", &json!({"new0": 0}));
    saved_upto(&redis, &first, &last).await;
    drop(first);
    redis.command(&["DEL", STREAM]);
    add_many(&redis, 5_000, "'merge:a'", "delta", "'{\"third\":' .. i .. '}'");
    let second = redis.server(options).await;
    assert_eq!(view(&second, "merge:a").unwrap()["data"], json!({"third": 5_000}));
    assert!(!is_incomplete(&second, "merge:a"));
}

/// A node has found an empty stream, and was away while the first entries came and went.
#[tokio::test]
async fn what_came_and_went_before_the_first_read_is_missed() {
    for xinfo in [true, false] {
        let redis = Redis::start();
        if !xinfo {
            redis.command(&["ACL", "SETUSER", "default", "-xinfo"]);
        }
        let server = redis.server("snapshot_every = \"0s\"").await;
        server.signal("STOP");
        redis.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        redis.add("merge:m", &json!({"a": 1}));
        redis.add("merge:m", &json!({"b": 1}));
        redis.command(&["XTRIM", STREAM, "MAXLEN", "1"]);
        server.signal("CONT");
        server.until("read", |s| view(s, "merge:m").is_some()).await;
        assert!(is_incomplete(&server, "merge:m"), "with XINFO: {xinfo}: {:?}", view(&server, "merge:m"));
    }
}
