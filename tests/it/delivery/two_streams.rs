//! Entries of one topic in two streams of a real Redis: the same entries count on every node and after every load, and
//! the saved states of the two streams agree.

use serde_json::{Value, json};

use crate::support::{Redis, Server};

const BOTH: &str = "streams = [\"s1\", \"s2\"]\n";

fn view(server: &Server, topic: &str) -> Option<Value> {
    let (status, body) = server.get(&format!("/api/topics/{topic}"));
    (status == 200).then(|| serde_json::from_str(&body).unwrap())
}

fn add_as(redis: &Redis, stream: &str, id: &str, topic: &str, kind: &str, data: &Value) -> String {
    redis.add_kind(stream, id, topic, kind, data)
}

fn add(redis: &Redis, stream: &str, topic: &str, kind: &str, data: &Value) -> String {
    add_as(redis, stream, "*", topic, kind, data)
}

/// Adds so many entries that the other stream is loaded long before this one.
fn fill(redis: &Redis, stream: &str, id: &str) {
    let script =
        "for i = 1, 8000 do redis.call('XADD', KEYS[1], ARGV[1] .. '-' .. i, 'topic', 'latest:fill', 'data', i) end";
    redis.command(&["EVAL", script, "1", stream, id]);
}

/// Values, deletions and moves with one ID in both streams: the second stream's count, whichever is read first.
#[tokio::test]
async fn of_two_entries_with_one_id_the_later_streams_counts_on_every_node() {
    let redis = Redis::start();
    let now: u64 = add(&redis, "other", "latest:a", "delta", &json!(1)).split_once('-').unwrap().0.parse().unwrap();
    let began_ms = now - 60_000;
    let live = redis.server(BOTH).await;
    let kinds = ["delta", "delete", "move"];
    let mut cases = Vec::new();
    for slow in ["s1", "s2"] {
        redis.command(&["DEL", "s1", "s2"]);
        let script = "for _, key in ipairs(redis.call('KEYS', '{s*')) do redis.call('DEL', key) end";
        redis.command(&["EVAL", script, "0"]);
        fill(&redis, slow, &(began_ms - 1).to_string());
        cases.clear();
        for (at, (one, other)) in kinds.iter().flat_map(|one| kinds.map(|other| (*one, other))).enumerate() {
            let (id, topic) = (format!("{}-0", began_ms + at as u64), format!("latest:{one}-{other}"));
            add_as(&redis, "s1", &id, &topic, one, &json!(1));
            add_as(&redis, "s2", &id, &topic, other, &json!(2));
            let expected = match (one, other) {
                (_, "move") | ("delta" | "delete", "delta") => Some(2),
                ("move", _) => Some(1),
                _ => None,
            };
            cases.push((topic, expected));
        }
        for stream in ["s1", "s2"] {
            add_as(
                &redis,
                stream,
                &format!("{}-0", began_ms + 100),
                &format!("latest:end-{stream}"),
                "delta",
                &json!(0),
            );
        }
        let late = redis.server(BOTH).await;
        for server in [&live, &late] {
            let is_read = |s: &Server| ["s1", "s2"].iter().all(|end| view(s, &format!("latest:end-{end}")).is_some());
            server.until("both are read", is_read).await;
            for (topic, expected) in &cases {
                let what = format!("{topic}, {slow} is loaded last");
                server
                    .until(&what, |s| view(s, topic).map(|seen| seen["data"].clone()) == expected.map(Value::from))
                    .await;
            }
        }
    }
}

/// One of two streams is loaded again after both had been read past a deletion: deleted data does not come back.
#[tokio::test]
async fn a_load_of_one_stream_restores_nothing_deleted_in_the_other() {
    let redis = Redis::start();
    let options = format!("{BOTH}snapshot_every = \"0s\"\n[namespace.q]\nclass = \"latest\"\nstale_after = \"1s\"\n");
    let server = redis.server(&options).await;
    add(&redis, "s1", "latest:x", "delta", &json!("old"));
    server.until("read", |s| view(s, "latest:x").is_some()).await;
    add(&redis, "s2", "latest:x", "delete", &Value::Null);
    server.until("deleted", |s| view(s, "latest:x").is_none()).await;
    // The topic becomes stale more than a second later, when the server sweeps its topics.
    for stream in ["s1", "s2"] {
        add(&redis, stream, &format!("q:{stream}"), "delta", &json!(1));
    }
    let is_stale = |s: &Server, topic: &str| view(s, topic).is_some_and(|seen| !seen["stale_since"].is_null());
    server.until("it has looked", |s| is_stale(s, "q:s1") && is_stale(s, "q:s2")).await;
    let mut client = server.client().await;
    client.subscribe(&["latest:x", "latest:marker"]).await;
    redis.command(&["SET", "{s1}:epoch", "another"]);
    server.until("loaded again", |s| s.metric("epoch_changes_total{source=\"redis s1\"}") == 1.0).await;
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    add(&redis, "s1", "latest:marker", "delta", &json!("marker"));
    loop {
        let message = client.next().await;
        assert_ne!(message["data"], "old", "{message}");
        if message["data"] == "marker" {
            break;
        }
    }
    // The other stream, with the deletion, is read again too; until then no node knows it.
    server.until("not there", |s| view(s, "latest:x").is_none()).await;
}

/// A stream's position is saved only when the other stream has no saved state of topics that ended before.
#[tokio::test]
async fn a_position_is_saved_after_what_ended_is_removed_beside_the_other_stream() {
    let redis = Redis::start();
    let first = redis.server("streams = [\"s1\"]\nsnapshot_every = \"100ms\"").await;
    add(&redis, "s1", "latest:deleted", "delta", &json!(1));
    let last = add(&redis, "s1", "latest:moved", "delta", &json!(1));
    first.until("saved", |_| redis.command(&["GET", "{s1}:position"]) == last).await;
    drop(first);
    // The second stream reaches back so little that it is saved every second; the first is not saved for long.
    let server = redis.server(&format!("{BOTH}snapshot_every = \"10m\"")).await;
    add(&redis, "s2", "latest:deleted", "delete", &Value::Null);
    add(&redis, "s2", "latest:moved", "move", &json!(2));
    let moved = add(&redis, "s2", "latest:moved", "delete", &Value::Null);
    server.until("read", |s| view(s, "latest:moved").is_none() && view(s, "latest:deleted").is_none()).await;
    redis.command(&["XTRIM", "s2", "MAXLEN", "1"]);
    server.until("saved", |_| redis.command(&["GET", "{s2}:position"]) == moved).await;
    assert_eq!(redis.saved("s1"), 0);
    drop(server);
    redis.command(&["XTRIM", "s2", "MAXLEN", "0"]);
    redis.command(&["XTRIM", "s1", "MAXLEN", "0"]);
    let late = redis.server(BOTH).await;
    assert_eq!(late.get("/api/topics").1, r#"{"topics":[],"next":null}"#);
}

/// Entries after the saved position are deleted one by one before any node reads them: the stream's ends do not show
/// it.
#[tokio::test]
async fn entries_that_were_deleted_behind_the_saved_position_are_missed() {
    const STREAM: &str = "nexus:deltas";
    for is_last in [false, true] {
        let redis = Redis::start();
        let first = redis.server("snapshot_every = \"100ms\"").await;
        let last = redis.add("merge:a", &json!({"a": 1}));
        first.until("saved", |_| redis.command(&["GET", "{nexus:deltas}:position"]) == last).await;
        drop(first);
        // An entry that counts, and one of another kind at the end.
        redis.add("latest:b", &json!(1));
        let gone = redis.add("merge:a", &json!({"gone": 1}));
        if !is_last {
            redis.add("latest:b", &json!(2));
        }
        redis.command(&["XDEL", STREAM, &gone]);
        let server = redis.server("snapshot_every = \"0s\"").await;
        let seen = view(&server, "merge:a").unwrap();
        assert_eq!((&seen["data"], &seen["incomplete"]), (&json!({"a": 1}), &json!(true)), "{seen}");
        // It is said once, and what comes after it is whole again.
        redis.xadd(STREAM, "*", &["topic", "merge:a", "kind", "snapshot", "data", "{\"all\":1}"]);
        server.until("whole", |s| view(s, "merge:a").is_some_and(|seen| seen["data"] == json!({"all": 1}))).await;
        assert_eq!(view(&server, "merge:a").unwrap().get("incomplete"), None);
        assert_eq!(
            server.log().matches("entries were deleted that are in no saved state").count(),
            1,
            "{}",
            server.log()
        );
        assert_eq!(server.metric("epoch_changes_total{source=\"redis nexus:deltas\"}"), 0.0);
        // A node that finds everything that was counted has missed nothing.
        let last = redis.add("merge:c", &json!({"c": 1}));
        let saves = redis.server("snapshot_every = \"100ms\"").await;
        saves.until("saved", |_| redis.command(&["GET", "{nexus:deltas}:position"]) == last).await;
        redis.add("merge:c", &json!({"d": 1}));
        let late = redis.server("snapshot_every = \"0s\"").await;
        let seen = view(&late, "merge:c").unwrap();
        assert_eq!(seen["data"], json!({"c": 1, "d": 1}), "{seen}");
        assert_eq!(late.log().matches("entries were deleted that are in no saved state").count(), 0, "{}", late.log());
    }
}

/// One stream is saved up to a deletion, the other not yet up to the deleted value: a starting node then reads the
/// value.
#[tokio::test]
async fn a_deletion_counts_though_the_other_stream_is_not_saved_as_far() {
    let redis = Redis::start();
    let first = redis.server("streams = [\"s1\"]\nsnapshot_every = \"100ms\"").await;
    let last = add(&redis, "s1", "latest:other", "delta", &json!(1));
    first.until("saved", |_| redis.command(&["GET", "{s1}:position"]) == last).await;
    drop(first);
    redis.command(&["SET", "{s1}:saver", "another node", "PX", "600000"]);
    add(&redis, "s1", "latest:x", "delta", &json!("old"));
    let live = redis.server(&format!("{BOTH}snapshot_every = \"100ms\"")).await;
    let deleted = add(&redis, "s2", "latest:x", "delete", &Value::Null);
    live.until("deleted", |s| view(s, "latest:x").is_none()).await;
    live.until("saved", |_| redis.command(&["GET", "{s2}:position"]) == deleted).await;
    assert_eq!(redis.command(&["GET", "{s1}:position"]), last);
    let late = redis.server(&format!("{BOTH}snapshot_every = \"0s\"")).await;
    for server in [&live, &late] {
        assert_eq!(server.get("/api/topics").1, r#"{"topics":["latest:other"],"next":null}"#);
    }
}

/// Entries in the wrong stream are before that stream's saved position, and the state saved with the right stream is
/// older: a starting node knows of them until there is a newer snapshot.
#[tokio::test]
async fn entries_in_the_wrong_stream_are_known_to_later_nodes() {
    const KINDS: [&str; 3] = ["delta", "snapshot", "delete"];
    let redis = Redis::start();
    let now: u64 = add(&redis, "other", "latest:a", "delta", &json!(1)).split_once('-').unwrap().0.parse().unwrap();
    let id = |ms: u64| format!("{}-0", now - 60_000 + ms);
    let first = redis.server("streams = [\"s1\"]\nsnapshot_every = \"100ms\"").await;
    for (at, kind) in (0..).zip(KINDS) {
        add_as(&redis, "s1", &id(at), &format!("merge:{kind}"), "snapshot", &json!({"a": 1}));
    }
    first.until("saved", |_| redis.command(&["GET", "{s1}:position"]) == id(2)).await;
    drop(first);
    redis.command(&["SET", "{s1}:saver", "another node", "PX", "600000"]);
    for (at, kind) in (20..).zip(KINDS) {
        add_as(&redis, "s1", &id(at), &format!("merge:{kind}"), "delta", &json!({"b": 1}));
    }
    let live = redis.server(&format!("{BOTH}snapshot_every = \"100ms\"")).await;
    let has = |server: &Server, topic: &str, data: &Value, is_incomplete: bool| {
        view(server, topic).is_some_and(|seen| {
            seen["data"] == *data && seen.get("incomplete").is_some_and(|it| it == true) == is_incomplete
        })
    };
    let both = json!({"a": 1, "b": 1});
    live.until("read", |s| KINDS.iter().all(|kind| has(s, &format!("merge:{kind}"), &both, false))).await;
    for (at, kind) in (10..).zip(KINDS) {
        add_as(&redis, "s2", &id(at), &format!("merge:{kind}"), kind, &json!({"stray": 1}));
    }
    live.until("saved", |_| redis.command(&["GET", "{s2}:position"]) == id(12)).await;
    assert_eq!(redis.command(&["GET", "{s1}:position"]), id(2));
    let late = redis.server(&format!("{BOTH}snapshot_every = \"0s\"")).await;
    for server in [&live, &late] {
        for kind in KINDS {
            let seen = view(server, &format!("merge:{kind}")).unwrap();
            assert_eq!(seen["incomplete"], true, "{seen}");
            // A node that starts after a deletion has nothing from before it.
            assert!(seen["data"] == both || kind == "delete" && seen["data"] == json!({"b": 1}), "{seen}");
        }
    }
    // A snapshot is newer than all of it.
    for kind in KINDS {
        add(&redis, "s1", &format!("merge:{kind}"), "snapshot", &json!({"c": 1}));
    }
    live.until("forgotten", |_| redis.topics_in("{s2}:strays") == 0).await;
    let later = redis.server(&format!("{BOTH}snapshot_every = \"0s\"")).await;
    for server in [&live, &late, &later] {
        for kind in KINDS {
            let topic = format!("merge:{kind}");
            server.until("whole", |s| has(s, &topic, &json!({"c": 1}), false)).await;
        }
    }
}

/// A node that has not read a deletion in one stream saves the value with the other stream again: it stays deleted.
#[tokio::test]
async fn a_save_by_a_node_behind_a_deletion_does_not_restore_it() {
    let redis = Redis::start();
    let live = redis.server(&format!("{BOTH}snapshot_every = \"100ms\"")).await;
    for topic in ["latest:x", "merge:x"] {
        add(&redis, "s1", topic, "snapshot", &json!({"old": 1}));
    }
    let saved = |topic: &str| redis.command(&["HGET", "{s1}:snapshots", topic]);
    live.until("saved", |_| ["latest:x", "merge:x"].iter().all(|topic| saved(topic).contains("old"))).await;
    let states = ["latest:x", "merge:x"].map(|topic| (topic, saved(topic)));
    let mut last = String::new();
    for (topic, _) in &states {
        last = add(&redis, "s2", topic, "delete", &Value::Null);
    }
    live.until("saved", |_| redis.command(&["GET", "{s2}:position"]) == last).await;
    drop(live);
    redis.command(&["XTRIM", "s2", "MAXLEN", "0"]);
    for (topic, state) in &states {
        redis.command(&["HSET", "{s1}:snapshots", topic, state]);
    }
    let late = redis.server(BOTH).await;
    assert_eq!(late.get("/api/topics").1, r#"{"topics":[],"next":null}"#);
    // For a node that has not read the deletion, the patch continues the deleted state.
    add(&redis, "s1", "merge:x", "delta", &json!({"new": 1}));
    late.until("read", |s| view(s, "merge:x").is_some_and(|seen| seen["data"] == json!({"new": 1}))).await;
    assert_eq!(view(&late, "merge:x").unwrap()["incomplete"], true);
}

/// Publishers use the wrong stream, and a node that starts later has missed a part of it: it does not report any topic
/// as nonexistent.
#[tokio::test]
async fn entries_missed_in_a_shared_stream_may_be_of_any_topic() {
    let redis = Redis::start();
    let streams = ["s1".to_owned(), "s2".to_owned()];
    let names = (0..).map(|n| format!("merge:{n}"));
    let topics: Vec<String> = names.filter(|name| nexus_push::topic::home_in(name, &streams) == "s1").take(4).collect();
    let live = redis.server(&format!("{BOTH}snapshot_every = \"100ms\"")).await;
    let first = add(&redis, "s2", "latest:fill", "delta", &json!(0));
    live.until("saved", |_| redis.command(&["GET", "{s2}:position"]) == first).await;
    redis.command(&["SET", "{s2}:saver", "another node", "PX", "600000"]);
    add(&redis, "s2", &topics[0], "delta", &json!({"a": 1}));
    live.until("read", |s| view(s, &topics[0]).is_some()).await;
    let last = add(&redis, "s1", &topics[1], "delta", &json!({"a": 1}));
    live.until("saved", |_| redis.command(&["GET", "{s1}:position"]) == last).await;
    redis.command(&["XTRIM", "s2", "MAXLEN", "0"]);
    let late = redis.server(&format!("{BOTH}snapshot_every = \"0s\"")).await;
    for topic in [&topics[0], &topics[2]] {
        let seen = view(&late, topic).unwrap();
        assert_eq!((&seen["data"], &seen["incomplete"]), (&Value::Null, &json!(true)), "{seen}");
    }
    assert_eq!(view(&live, &topics[0]).unwrap()["data"], json!({"a": 1}));
    assert!(view(&live, &topics[2]).is_none(), "it has read all");
    // Nor does it take a patch for the first.
    add(&redis, "s1", &topics[3], "delta", &json!({"b": 1}));
    late.until("read", |s| view(s, &topics[3]).is_some_and(|seen| seen["data"] == json!({"b": 1}))).await;
    assert_eq!(view(&late, &topics[3]).unwrap()["incomplete"], true);
    assert_eq!(view(&late, &topics[1]).unwrap().get("incomplete"), None, "it was saved");
}
