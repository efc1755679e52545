//! Saved states, and what a node may conclude from them: nothing that has ended comes back, nothing of another stream
//! counts, and saved values are exactly the published ones.

use serde_json::{Value, json};

use crate::support::{OPEN, Redis, Server};

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

/// Appends `count` entries in one go; `topic`, `kind` and `data` are Lua expressions that may use the number `i`.
fn add_many(redis: &Redis, count: u32, topic: &str, kind: &str, data: &str) {
    let script = format!(
        "for i = 1, {count} do redis.call('XADD', KEYS[1], '*', 'topic', {topic}, 'kind', '{kind}', 'data', {data}) end"
    );
    redis.command(&["EVAL", &script, "1", STREAM]);
}

fn count_saved(redis: &Redis) -> usize {
    redis.saved(STREAM)
}

/// A node is stopped in the middle of a save. Meanwhile the topics are deleted, and another node removes their saved
/// states. When the first resumes, it still has the lease, and has not read the deletions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_save_restores_nothing_that_was_deleted() {
    const TOPICS: u32 = 12_000;
    for attempt in 0.. {
        assert!(attempt < 20, "never stopped in the middle of a save");
        let redis = Redis::start();
        let held_up = redis.server("snapshot_every = \"2s\"").await;
        add_many(&redis, TOPICS, "'merge:t' .. i", "delta", "'{\"a\":\"' .. string.rep('v', 300) .. '\"}'");
        held_up.until("a save begins", |_| count_saved(&redis) > 0).await;
        held_up.signal("STOP");
        if count_saved(&redis) == TOPICS as usize {
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
        last = redis.xadd(STREAM, "*", &["topic", &format!("latest:{n}"), "data", value]);
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

/// The stream was deleted, and a new one of the same name has more entries than the first: nothing of the first is
/// left, neither if one node was down meanwhile, nor if all were and states had been saved.
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
    // Until the load is complete, no state is served as whole.
    let is_new = |s: &Server| view(s, "merge:a").is_some_and(|seen| seen["data"] == expected);
    first.until("the new one alone, and whole", |s| is_new(s) && !is_incomplete(s, "merge:a")).await;
    let last = redis.add("merge:a", &json!({"new0": 0}));
    saved_upto(&redis, &first, &last).await;
    drop(first);
    redis.command(&["DEL", STREAM]);
    add_many(&redis, 5_000, "'merge:a'", "delta", "'{\"third\":' .. i .. '}'");
    let second = redis.server(options).await;
    assert_eq!(view(&second, "merge:a").unwrap()["data"], json!({"third": 5_000}));
    assert!(!is_incomplete(&second, "merge:a"));
}

/// A node has found an empty stream, and was down while the first entries were added and removed.
#[tokio::test]
async fn entries_removed_before_the_first_read_are_missed() {
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

fn add_at(redis: &Redis, ms: u64, topic: &str, kind: &str, data: &Value) -> String {
    let id = format!("{ms}-0");
    redis.add_kind(STREAM, &id, topic, kind, data)
}

fn ms_of(id: &str) -> u64 {
    id.split_once('-').unwrap().0.parse().unwrap()
}

/// Entries are gone that are in no saved state: a starting node cannot know which topics existed.
async fn with_a_hole(redis: &Redis, options: &str) -> (Server, Server, u64) {
    // Nothing is saved before the other has begun.
    redis.command(&["SET", LEASE, "nobody", "PX", "600000"]);
    let knows_all = redis.server(options).await;
    for _ in 0..2 {
        redis.add("merge:x", &json!({"a": 1}));
    }
    let last = redis.add("merge:y", &json!({"a": 1}));
    knows_all.until("read", |s| view(s, "merge:y").is_some()).await;
    redis.command(&["XTRIM", STREAM, "MAXLEN", "1"]);
    let knows_less = redis.server(options).await;
    assert!(is_incomplete(&knows_less, "merge:y"));
    redis.command(&["DEL", LEASE]);
    (knows_all, knows_less, ms_of(&last))
}

/// A starting node warns of missing entries that it needs, and not of a hole that the saved states cover.
#[tokio::test]
async fn a_hole_from_before_the_saved_states_is_no_warning() {
    let redis = Redis::start();
    let start = async || {
        let config = format!("{OPEN}\n{}snapshot_every = \"100ms\"\n", redis.source_config());
        let server = Server::start_in(&config, 0, &[("NEXUS_LOG", "info")]);
        server.until("ready", |s| s.get("/readyz").0 == 200).await;
        server.until("logged", |s| s.log().contains("loaded")).await;
        server
    };
    let warned = |server: &Server| server.log().contains("entries are gone that are in no saved state");
    let add = |n: usize| (0..n).fold(String::new(), |_, _| redis.add("merge:x", &json!({"a": 1})));
    add(3);
    redis.command(&["XTRIM", STREAM, "MAXLEN", "1"]);
    let first = start().await;
    assert!(warned(&first), "what it had before is not known");
    let deleted = add(1);
    let last = add(3);
    saved_upto(&redis, &first, &last).await;
    drop(first);
    // A deleted entry among those that are saved is no more a hole than a trimmed one.
    redis.command(&["XDEL", STREAM, &deleted]);
    for _ in 0..2 {
        let next = start().await;
        assert!(!warned(&next) && !next.log().contains("entries were deleted"), "{}", next.log());
        let last = add(1);
        saved_upto(&redis, &next, &last).await;
        drop(next);
        redis.command(&["XTRIM", STREAM, "MAXLEN", "1"]);
    }
    add(3);
    redis.command(&["XTRIM", STREAM, "MAXLEN", "1"]);
    let missed = start().await;
    assert!(warned(&missed), "entries after what was saved are gone:\n{}", missed.log());
}

/// Whatever a topic had before, its publisher has ended it: the next patch is the first on every node.
#[tokio::test]
async fn a_delete_is_a_known_beginning_after_a_hole_too() {
    let redis = Redis::start();
    let (knows_all, knows_less, _) = with_a_hole(&redis, "snapshot_every = \"0s\"").await;
    let mut client = knows_less.client().await;
    client.subscribe(&["merge:y"]).await;
    assert_eq!(client.next().await["incomplete"], true);
    // One topic is known in part, one is known to the other node only, one never existed.
    for topic in ["merge:y", "merge:x", "merge:z"] {
        redis.xadd(STREAM, "*", &["topic", topic, "kind", "delete"]);
        redis.add(topic, &json!({"b": 1}));
    }
    redis.add("merge:w", &json!({"b": 1}));
    for server in [&knows_all, &knows_less] {
        server.until("read", |s| view(s, "merge:w").is_some()).await;
        for topic in ["merge:y", "merge:x", "merge:z"] {
            let seen = view(server, topic).unwrap();
            assert_eq!((seen.get("incomplete"), &seen["data"]), (None, &json!({"b": 1})), "{topic}");
        }
    }
    assert!(is_incomplete(&knows_less, "merge:w"), "it may have existed");
    let message = client.next().await;
    assert_eq!((&message["type"], &message["data"]), (&json!("snapshot"), &Value::Null));
    assert_eq!(client.next().await["data"], json!({"b": 1}));
}

/// A topic that had deltas in a hole and none since has ended after its `expire_after`: when it begins again, it is
/// whole. A node that reads it later, from the saved states, gets the same result.
#[tokio::test]
async fn a_hole_matters_no_longer_than_topics_may_be_quiet() {
    let redis = Redis::start();
    let options = "snapshot_every = \"100ms\"\n[namespace.short]\nclass = \"merge\"\nexpire_after = \"2s\"\n\
                   [namespace.never]\nclass = \"merge\"\nexpire_after = \"0s\"\n";
    let (knows_all, first, hole) = with_a_hole(&redis, options).await;
    drop(knows_all);
    let patch = |ms: u64, topic: &str| add_at(&redis, hole + ms, topic, "delta", &json!({format!("at{ms}"): 1}));
    // (ms after the hole, topic, incomplete)
    let cases = [
        (1_900, "short:early", true),
        (2_100, "short:late", false),
        (2_200, "merge:a", true),
        // More than two seconds after its first delta, which was doubtful.
        (4_000, "short:early", false),
        (86_400_000 * 29, "merge:b", true),
        (86_400_000 * 31, "merge:c", false),
        (86_400_000 * 32, "never:a", true),
    ];
    let mut last = String::new();
    for (ms, topic, incomplete) in cases {
        last = patch(ms, topic);
        let offset = (hole + ms - 1_704_067_200_000) * 8_192;
        first.until("read", |s| view(s, topic).is_some_and(|seen| seen["offset"] == offset)).await;
        assert_eq!(is_incomplete(&first, topic), incomplete, "{topic} {ms} ms after the hole");
    }
    saved_upto(&redis, &first, &last).await;
    let second = redis.server(options).await;
    for topic in ["merge:c", "never:a"] {
        assert_eq!(view(&second, topic), view(&first, topic));
    }
    patch(86_400_000 * 32 + 1, "merge:d");
    patch(86_400_000 * 32 + 2, "never:b");
    for server in [&first, &second] {
        server.until("read", |s| view(s, "never:b").is_some()).await;
        assert!(!is_incomplete(server, "merge:d") && is_incomplete(server, "never:b"));
    }
}

/// An entry has a time from before its topic ended, after nodes have ended the topic by the clock: only a node that
/// still has the earlier entries can know what it changes.
#[tokio::test]
async fn a_late_entry_of_a_topic_that_has_ended_begins_nothing_whole() {
    let redis = Redis::start();
    let options = "snapshot_every = \"100ms\"\n[namespace.short]\nclass = \"merge\"\nexpire_after = \"1s\"\n";
    let alone = "snapshot_every = \"0s\"\n[namespace.short]\nclass = \"merge\"\nexpire_after = \"1s\"\n";
    let (saves, first) = (redis.server(options).await, redis.server(alone).await);
    let born = redis.add("short:x", &json!({"a": 1}));
    saved_upto(&redis, &saves, &born).await;
    let is_saved = || redis.command(&["HEXISTS", STATES, "short:x"]) == ":1";
    saves.until("ended and removed", |s| view(s, "short:x").is_none() && !is_saved()).await;
    drop(saves);
    first.until("ended", |s| view(s, "short:x").is_none()).await;
    let mut client = first.client().await;
    client.subscribe(&["short:x"]).await;
    let last = add_at(&redis, ms_of(&born) + 500, "short:x", "delta", &json!({"b": 2}));
    assert_eq!(client.next().await["data"], json!({"b": 2}));
    let message = client.next().await;
    assert_eq!((&message["type"], &message["incomplete"]), (&json!("snapshot"), &json!(true)), "{message}");
    // A node that starts from the saved states.
    let second = redis.server("snapshot_every = \"0s\"\n[namespace.short]\nclass = \"merge\"\n").await;
    assert!(is_incomplete(&second, "short:x"), "{:?}", view(&second, "short:x"));
    // A node that reads everything.
    redis.command(&["DEL", POSITION, STATES]);
    let third = redis.server("snapshot_every = \"0s\"\n[namespace.short]\nclass = \"merge\"\n").await;
    let seen = view(&third, "short:x").unwrap();
    assert_eq!((seen.get("incomplete"), &seen["data"]), (None, &json!({"a": 1, "b": 2})));
    // And after that.
    add_at(&redis, ms_of(&last) + 1, "short:x", "snapshot", &json!({"c": 3}));
    for server in [&second, &third] {
        server.until("whole", |s| view(s, "short:x").is_some_and(|seen| seen["data"] == json!({"c": 3}))).await;
        assert!(!is_incomplete(server, "short:x"));
    }
}

/// A stream begins to reach back less far than the interval of saves: states are saved in time nevertheless.
#[tokio::test]
async fn a_stream_that_becomes_short_is_saved_in_time() {
    let redis = Redis::start();
    let server = redis.server("snapshot_every = \"10m\"").await;
    let mut last = String::new();
    for n in 0..8 {
        last = redis.add("merge:a", &json!({format!("m{n}"): n}));
    }
    server.until("read", |s| view(s, "merge:a").is_some_and(|seen| seen["data"]["m7"] == 7)).await;
    redis.command(&["XTRIM", STREAM, "MAXLEN", "2"]);
    saved_upto(&redis, &server, &last).await;
    assert!(server.status()["sources"][0]["reach_s"].is_number());
}
