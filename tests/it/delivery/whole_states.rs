//! A state is whole and the same on every node, or it is marked as incomplete.

use serde_json::{Value, json};

use crate::support::class_changes::{ClassChange, class_changes};
use crate::support::clock::unix_ms;
use crate::support::{OPEN, Redis, Server};

const STREAM: &str = "nexus:deltas";

/// Listings.
const LEFT: &str = r#"{"topics":["merge:marker","merge:stays"],"next":null}"#;
const NONE: &str = r#"{"topics":[],"next":null}"#;

fn view(server: &Server, topic: &str) -> Option<Value> {
    let (status, body) = server.get(&format!("/api/topics/{topic}"));
    (status == 200).then(|| serde_json::from_str(&body).unwrap())
}

fn data(server: &Server, topic: &str) -> Value {
    view(server, topic).unwrap_or_else(|| panic!("no {topic}: {}", server.log()))["data"].clone()
}

fn etag(server: &Server, topic: &str) -> Option<String> {
    let (status, head, _) = server.http("GET", &format!("/api/topics/{topic}"), &[], "");
    assert_eq!(status, 200, "{topic}: {head}");
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("etag:"))?;
    Some(line.split_once(':').unwrap().1.trim().to_owned())
}

fn add_kind(redis: &Redis, topic: &str, kind: &str, data: &Value) -> String {
    redis.add_kind(STREAM, "*", topic, kind, data)
}

/// Several patches that together make one state.
fn publish_members(redis: &Redis, topic: &str, members: std::ops::Range<u32>) -> Value {
    let mut all = json!({});
    for n in members {
        redis.add(topic, &json!({format!("m{n}"): n}));
        all[format!("m{n}")] = json!(n);
    }
    all
}

async fn start_with(redis: &Redis, limits: &str, more: &str) -> Server {
    let server = Server::start(&format!("{OPEN}\n[limits]\n{limits}\n{}{more}", redis.source_config()));
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    server
}

/// A node may free memory of topics without subscribers: no client sees a difference.
#[tokio::test]
async fn a_quiet_topic_is_the_same_on_a_node_with_subscribers_and_on_one_without() {
    let redis = Redis::start();
    let limits = "topic_idle = \"1s\"";
    let (one, other) = (start_with(&redis, limits, "").await, start_with(&redis, limits, "").await);
    let mut client = one.client().await;
    client.subscribe(&["merge:a", "latest:b"]).await;
    let mut state = publish_members(&redis, "merge:a", 0..400);
    redis.add("latest:b", &json!("value"));
    for server in [&one, &other] {
        server.until("read", |s| view(s, "latest:b").is_some()).await;
    }
    other.until("idle memory is given back", |s| s.metric("state_bytes") < 30_000.0).await;
    for server in [&one, &other] {
        assert_eq!(data(server, "merge:a"), state, "while it is idle");
        assert_eq!(data(server, "latest:b"), "value");
        assert_eq!(etag(server, "merge:a"), etag(&one, "merge:a"));
    }
    let mut late = other.client().await;
    late.subscribe(&["merge:a"]).await;
    assert_eq!(late.next().await["data"], state, "a new subscriber gets it");
    redis.add("merge:a", &json!({"m1": null, "bid": 191.5}));
    state.as_object_mut().unwrap().remove("m1");
    state["bid"] = json!(191.5);
    for server in [&one, &other] {
        server.until("patched", |s| data(s, "merge:a") == state).await;
    }
    assert_eq!(late.next().await["data"], json!({"m1": null, "bid": 191.5}));
    assert_eq!(etag(&one, "merge:a"), etag(&other, "merge:a"));
}

/// The stream has lost the deltas of a state, and no node saved it: the rest is marked as incomplete, in every answer,
/// until the publisher sends the whole state.
#[tokio::test]
async fn a_state_of_which_deltas_are_gone_is_incomplete_until_it_is_published_whole() {
    let redis = Redis::start();
    let whole = redis.server("snapshot_every = \"0s\"").await;
    let all = publish_members(&redis, "merge:a", 0..60);
    redis.add("latest:b", &json!(1));
    redis.command(&["XTRIM", STREAM, "MAXLEN", "31"]);
    let partial = redis.server("snapshot_every = \"0s\"").await;
    assert_eq!(data(&whole, "merge:a"), all);
    let seen = view(&partial, "merge:a").unwrap();
    assert_eq!((&seen["incomplete"], seen["data"].as_object().unwrap().len()), (&json!(true), 30));
    assert_eq!(etag(&partial, "merge:a"), None, "it has no ETag");
    assert!(etag(&whole, "merge:a").is_some());
    assert_eq!(view(&partial, "latest:b").unwrap().get("incomplete"), None, "a value is whole in itself");
    assert_eq!(etag(&partial, "latest:b"), etag(&whole, "latest:b"));
    let mut client = partial.client().await;
    client.subscribe(&["merge:a"]).await;
    let snapshot = client.next().await;
    assert_eq!((&snapshot["type"], &snapshot["incomplete"]), (&json!("snapshot"), &json!(true)));
    partial.until("counted", |s| s.metric("topics_incomplete") == 1.0).await;
    redis.add("merge:a", &json!({"m59": "new"}));
    assert_eq!(client.next().await["type"], "delta", "deltas still come");
    assert_eq!(view(&partial, "merge:a").unwrap()["incomplete"], true);
    add_kind(&redis, "merge:a", "snapshot", &json!({"all": 1}));
    let snapshot = client.next().await;
    assert_eq!(
        (&snapshot["type"], snapshot.get("incomplete"), &snapshot["data"]),
        (&json!("snapshot"), None, &json!({"all": 1}))
    );
    whole.until("read", |s| data(s, "merge:a") == json!({"all": 1})).await;
    assert_eq!(etag(&partial, "merge:a"), etag(&whole, "merge:a"));
    partial.until("counted", |s| s.metric("topics_incomplete") == 0.0).await;
}

/// A node that knows less takes the whole state from another's save, and never overwrites it with its own.
#[tokio::test]
async fn a_state_that_is_incomplete_is_made_whole_by_another_node_and_not_saved() {
    let redis = Redis::start();
    let all = publish_members(&redis, "merge:a", 0..60);
    let whole = redis.server("snapshot_every = \"400ms\"").await;
    let epoch = view(&whole, "merge:a").unwrap()["epoch"].clone();
    // The position is what counts; without it nothing was saved.
    whole.until("saved", |_| redis.command(&["EXISTS", "{nexus:deltas}:position"]) == ":1").await;
    // Another node finds neither the deltas nor a position.
    whole.signal("STOP");
    redis.command(&["DEL", "{nexus:deltas}:position", "{nexus:deltas}:snapshots", "{nexus:deltas}:saver"]);
    redis.command(&["XTRIM", STREAM, "MAXLEN", "30"]);
    let partial = redis.server("snapshot_every = \"100ms\"").await;
    assert_eq!(view(&partial, "merge:a").unwrap()["incomplete"], true);
    let mut client = partial.client().await;
    client.subscribe(&["merge:a"]).await;
    assert_eq!(client.next().await["incomplete"], true);
    redis.add("merge:a", &json!({"more": 1}));
    assert_eq!(client.next().await["type"], "delta");
    whole.signal("CONT");
    let mut expected = all;
    expected["more"] = json!(1);
    whole.until("it continues", |s| data(s, "merge:a") == expected).await;
    // It has changed since this node saved it, so it is saved again.
    let snapshot = client.next().await;
    assert_eq!(
        (&snapshot["type"], snapshot.get("incomplete"), &snapshot["data"]),
        (&json!("snapshot"), None, &expected)
    );
    partial.until("whole", |s| view(s, "merge:a").unwrap().get("incomplete").is_none()).await;
    assert_eq!(data(&partial, "merge:a"), expected);
    assert_eq!(etag(&partial, "merge:a"), etag(&whole, "merge:a"));
    assert_eq!(view(&partial, "merge:a").unwrap()["epoch"], epoch);
    let third = redis.server("snapshot_every = \"0s\"").await;
    assert_eq!((view(&third, "merge:a").unwrap().get("incomplete"), data(&third, "merge:a")), (None, expected));
}

/// There is no other node: an incomplete state is saved as such, so that later nodes do not take it for whole.
#[tokio::test]
async fn incomplete_states_are_saved_and_restored_as_incomplete() {
    let redis = Redis::start();
    publish_members(&redis, "merge:a", 0..60);
    redis.command(&["XTRIM", STREAM, "MAXLEN", "30"]);
    let first = redis.server("snapshot_every = \"100ms\"").await;
    assert_eq!(view(&first, "merge:a").unwrap()["incomplete"], true);
    first.until("saved", |_| redis.command(&["EXISTS", "{nexus:deltas}:position"]) == ":1").await;
    drop(first);
    let second = redis.server("").await;
    let seen = view(&second, "merge:a").unwrap();
    assert_eq!((&seen["incomplete"], seen["data"].as_object().unwrap().len()), (&json!(true), 30));
    add_kind(&redis, "merge:a", "snapshot", &json!({"all": 1}));
    second.until("whole", |s| view(s, "merge:a").unwrap().get("incomplete").is_none()).await;
}

/// A topic without deltas for longer than its namespace's `expire_after` ends, by the times of its entries, on every
/// node alike, with or without subscribers.
#[tokio::test]
async fn a_topic_ends_by_the_times_of_its_entries() {
    let redis = Redis::start();
    let options = "snapshot_every = \"200ms\"\n[namespace.short]\nclass = \"merge\"\nexpire_after = \"2s\"\n[namespace.day]\nclass = \"merge\"\nexpire_after = \"1d\"\n";
    let (one, other) = (redis.server(options).await, redis.server(options).await);
    let mut client = one.client().await;
    client.subscribe(&["short:a"]).await;
    publish_members(&redis, "short:a", 0..4);
    for n in 0..4 {
        assert_eq!(client.next().await["data"], json!({format!("m{n}"): n}));
    }
    one.until("saved", |_| redis.command(&["HEXISTS", "{nexus:deltas}:snapshots", "short:a"]) == ":1").await;
    // Without a further delta it ends as well, and so does its saved state.
    let message = client.next().await;
    assert_eq!((&message["type"], &message["data"]), (&json!("snapshot"), &Value::Null));
    for server in [&one, &other] {
        server.until("ended", |s| view(s, "short:a").is_none()).await;
    }
    one.until("removed", |_| redis.command(&["HEXISTS", "{nexus:deltas}:snapshots", "short:a"]) == ":0").await;
    redis.add("short:a", &json!({"bid": 1}));
    for server in [&one, &other] {
        server.until("it begins again", |s| view(s, "short:a").is_some()).await;
        assert_eq!(data(server, "short:a"), json!({"bid": 1}));
        assert_eq!(view(server, "short:a").unwrap().get("incomplete"), None);
    }
    assert_eq!(etag(&one, "short:a"), etag(&other, "short:a"));
    // By the entries' times alone: there are two days between these, read in one go by a node that starts later.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let at = |ms: u128, data: &str| redis.xadd(STREAM, &format!("{ms}-0"), &["topic", "day:b", "data", data]);
    at(now + 60_000, r#"{"old": 1}"#);
    at(now + 60_000 + 172_800_000, r#"{"new": 1}"#);
    let third = redis.server(options).await;
    for server in [&one, &other, &third] {
        server.until("read", |s| view(s, "day:b").is_some_and(|b| b["data"] == json!({"new": 1}))).await;
    }
    assert_eq!(etag(&one, "day:b"), etag(&third, "day:b"));
}

/// Publishers end topics: no state, no history, nothing saved, in no list, also after a restart.
#[tokio::test]
async fn a_deleted_topic_is_gone_everywhere() {
    let redis = Redis::start();
    let options = "snapshot_every = \"200ms\"";
    let (one, other) = (redis.server(options).await, redis.server(options).await);
    let mut client = one.client().await;
    client.subscribe(&["merge:a", "latest:b", "stream:c"]).await;
    for topic in ["merge:a", "latest:b", "stream:c", "merge:stays"] {
        redis.add(topic, &json!({"a": 1}));
    }
    for _ in 0..3 {
        assert_eq!(client.next().await["type"], "delta");
    }
    one.until("saved", |_| redis.saved(STREAM) == 4).await;
    for topic in ["merge:a", "latest:b", "stream:c"] {
        add_kind(&redis, topic, "delete", &Value::Null);
    }
    for topic in ["merge:a", "latest:b", "stream:c"] {
        let message = client.next().await;
        assert_eq!(
            (&message["topic"], &message["type"], &message["data"]),
            (&json!(topic), &json!("snapshot"), &Value::Null)
        );
    }
    let deleted = redis.add("merge:marker", &json!({"a": 1}));
    for server in [&one, &other] {
        server.until("deleted", |s| view(s, "merge:marker").is_some()).await;
        assert_eq!(server.get("/api/topics").1, LEFT);
    }
    one.until("removed", |_| redis.saved(STREAM) == 2).await;
    let position = || redis.command(&["GET", "{nexus:deltas}:position"]);
    one.until("saved past it", |_| position() == deleted).await;
    redis.command(&["XTRIM", STREAM, "MAXLEN", "0"]);
    drop((one, other));
    let third = redis.server(options).await;
    assert_eq!(third.get("/api/topics").1, LEFT);
    // When it begins again, it is whole.
    redis.add("merge:a", &json!({"b": 2}));
    third.until("it exists again", |s| view(s, "merge:a").is_some()).await;
    assert_eq!(view(&third, "merge:a").unwrap().get("incomplete"), None);
    assert_eq!(data(&third, "merge:a"), json!({"b": 2}));
}

/// Days of symbols that come and go: what ended is in no saved state, and does not come back.
#[tokio::test]
async fn ended_topics_are_gone_after_a_restart_too() {
    let redis = Redis::start();
    let options =
        "snapshot_every = \"200ms\"\n[limits]\ntopics = 60\n[namespace.o]\nclass = \"latest\"\nexpire_after = \"1s\"\n";
    let server = redis.server(options).await;
    for day in 0..4 {
        for n in 0..50 {
            redis.add(&format!("o:{day}-{n}"), &json!(n));
        }
        server.until("all are taken", |s| view(s, &format!("o:{day}-49")).is_some()).await;
        assert_eq!(server.metric("topics_refused_total"), 0.0);
        server.until("they end", |s| s.get("/api/topics").1 == NONE).await;
    }
    server.until("none is saved", |_| redis.saved(STREAM) == 0).await;
    drop(server);
    let server = redis.server(options).await;
    assert_eq!(server.get("/api/topics").1, NONE);
    assert_eq!(server.metric("topics_refused_total"), 0.0);
}

/// Age is measured from the source's time: a restart does not make a topic fresh.
#[tokio::test]
async fn topics_stale_before_a_restart_are_stale_after_it() {
    let redis = Redis::start();
    let options = "snapshot_every = \"200ms\"\n[namespace.q]\nclass = \"latest\"\nstale_after = \"2s\"\n";
    let first = redis.server(options).await;
    let id = redis.add("q:a", &json!(1));
    let since: u64 = id.split_once('-').unwrap().0.parse().unwrap();
    first.until("stale", |s| view(s, "q:a").is_some_and(|a| a["stale_since"] == since)).await;
    first.until("saved", |_| redis.command(&["GET", "{nexus:deltas}:position"]) == id).await;
    redis.command(&["XTRIM", STREAM, "MAXLEN", "0"]);
    drop(first);
    let second = redis.server(options).await;
    second.until("stale at once", |s| view(s, "q:a").is_some_and(|a| !a["stale_since"].is_null())).await;
    assert_eq!(view(&second, "q:a").unwrap()["stale_since"], since, "the time from before the restart");
}

/// A second stream, without moving the topics of the first: the newest value counts, whichever is read first.
#[tokio::test]
async fn the_newest_value_of_a_topic_in_two_streams_counts_whichever_is_read_first() {
    let redis = Redis::start();
    let first = redis.server("streams = [\"s1\"]\nsnapshot_every = \"100ms\"").await;
    let add =
        |stream: &str, topic: &str, data: &Value| redis.xadd(stream, "*", &["topic", topic, "data", &data.to_string()]);
    for n in 0..10 {
        add("s1", &format!("latest:{n}"), &json!("old"));
    }
    let last = add("s1", "merge:m", &json!({"old": 1}));
    first.until("saved", |_| redis.command(&["GET", "{s1}:position"]) == last).await;
    drop(first);
    for n in 0..10 {
        add("s2", &format!("latest:{n}"), &json!("new"));
    }
    add("s2", "merge:m", &json!({"new": 1}));
    for _ in 0..4 {
        let server = redis.server("streams = [\"s1\", \"s2\"]\nsnapshot_every = \"0s\"").await;
        for n in 0..10 {
            assert_eq!(data(&server, &format!("latest:{n}")), "new");
        }
        assert_eq!(view(&server, "merge:m").unwrap()["incomplete"], true, "its patches have no order");
    }
    let server = redis.server("streams = [\"s1\", \"s2\"]").await;
    assert!(server.metric("topics_misplaced_total") > 0.0);
    server.until("it is logged", |s| s.log().contains("belongs in the stream")).await;
    let misplaced =
        server.status()["sources"].as_array().unwrap().iter().map(|s| s["misplaced"].as_u64().unwrap()).sum::<u64>();
    assert!(misplaced > 0, "{}", server.status()["sources"]);
    // The topic is moved: late entries in the other stream are refused.
    let move_entry = ["XADD", "s2", "*", "topic", "merge:m", "kind", "move", "data", r#"{"whole":1}"#];
    let moved = redis.command(&move_entry);
    server.until("moved", |s| data(s, "merge:m") == json!({"whole": 1})).await;
    let last = add("s1", "merge:m", &json!({"late": 1}));
    server.until("refused", |s| s.metric("deltas_refused_total{reason=\"wrong_partition\"}") >= 1.0).await;
    let seen = view(&server, "merge:m").unwrap();
    assert_eq!((seen.get("incomplete"), &seen["data"]), (None, &json!({"whole": 1})));
    // The same on a node that reads everything later.
    let late = redis.server("streams = [\"s1\", \"s2\"]\nsnapshot_every = \"100ms\"").await;
    assert_eq!(etag(&late, "merge:m"), etag(&server, "merge:m"));
    for (position, upto) in [("{s1}:position", &last), ("{s2}:position", &moved)] {
        late.until("saved", |_| redis.command(&["GET", position]) == *upto).await;
    }
    redis.command(&["XTRIM", "s2", "MAXLEN", "0"]);
    let later = redis.server("streams = [\"s1\", \"s2\"]").await;
    add("s1", "merge:m", &json!({"late": 2}));
    later.until("refused", |s| s.metric("deltas_refused_total{reason=\"wrong_partition\"}") >= 1.0).await;
    assert_eq!(data(&later, "merge:m"), json!({"whole": 1}));
}

/// A deletion is a topic's newest delta like any other: it counts on a node that reads it before the older values of
/// another stream, as on one that reads it after them, with saved states too.
#[tokio::test]
async fn a_deletion_in_another_stream_counts_whichever_is_read_first() {
    // So many entries that the other stream is loaded long before this one.
    let fill = |redis: &Redis, stream: &str| {
        let script =
            "for i = 1, 40000 do redis.call('XADD', KEYS[1], '*', 'topic', 'latest:fill', 'data', i) end return 1";
        redis.command(&["EVAL", script, "1", stream]);
    };
    for slow in ["s1", "s2"] {
        let redis = Redis::start();
        let add = |stream: &str, topic: &str, kind: &str, data: &str| {
            redis.xadd(stream, "*", &["topic", topic, "kind", kind, "data", data])
        };
        fill(&redis, slow);
        let first = redis.server("streams = [\"s1\"]\nsnapshot_every = \"100ms\"").await;
        let mut last = String::new();
        for topic in ["latest:saved", "merge:saved", "stream:saved"] {
            last = add("s1", topic, "delta", r#"{"old":1}"#);
        }
        first.until("saved", |_| redis.command(&["GET", "{s1}:position"]) == last).await;
        drop(first);
        for topic in ["latest:read", "merge:read", "stream:read", "merge:again"] {
            add("s1", topic, "delta", r#"{"old":1}"#);
        }
        fill(&redis, slow);
        let both = "streams = [\"s1\", \"s2\"]\nsnapshot_every = \"100ms\"";
        let live = redis.server(both).await;
        let gone = ["latest:saved", "merge:saved", "stream:saved", "latest:read", "merge:read", "stream:read"];
        for topic in gone {
            add("s2", topic, "delete", "null");
        }
        add("s2", "merge:again", "delete", "null");
        let last = add("s2", "merge:again", "delta", r#"{"new":1}"#);
        live.until("read", |s| view(s, "merge:again").is_some_and(|a| a["data"] == json!({"new": 1}))).await;
        let late = redis.server("streams = [\"s1\", \"s2\"]\nsnapshot_every = \"0s\"").await;
        for server in [&live, &late] {
            for topic in gone {
                let what = format!("{topic} ended, {slow} is loaded last");
                server.until(&what, |s| view(s, topic).is_none()).await;
            }
            let what = format!("merge:again is new and whole, {slow} is loaded last");
            let is_new = |seen: Value| seen["data"] == json!({"new": 1}) && seen.get("incomplete").is_none();
            server.until(&what, |s| view(s, "merge:again").is_some_and(is_new)).await;
            assert_eq!(server.get("/api/topics").1, r#"{"topics":["latest:fill","merge:again"],"next":null}"#);
        }
        assert_eq!(etag(&live, "merge:again"), etag(&late, "merge:again"));
        // Nor does a saved state bring it back. (Deltas of `stream` topics are only in their stream.)
        live.until("saved", |_| redis.command(&["GET", "{s2}:position"]) == last).await;
        live.until("removed", |_| redis.command(&["HEXISTS", "{s1}:snapshots", "merge:saved"]) == ":0").await;
        drop(live);
        redis.command(&["XTRIM", "s2", "MAXLEN", "0"]);
        let later = redis.server("streams = [\"s1\", \"s2\"]\nsnapshot_every = \"0s\"").await;
        for topic in gone.iter().filter(|topic| !topic.starts_with("stream:")) {
            assert_eq!(view(&later, topic), None, "{topic}");
        }
    }
}

/// Out of order over two streams, with subscribers: the first entry in the wrong stream is logged and counted, and no
/// state is served as if it were whole.
#[tokio::test]
async fn a_topic_over_two_streams_is_noticed_at_its_first_entry_in_the_wrong_one() {
    let redis = Redis::start();
    let server = redis.server("streams = [\"s1\", \"s2\"]\nsnapshot_every = \"100ms\"").await;
    let mut client = server.client().await;
    client.subscribe(&["merge:m"]).await;
    let add = |stream: &str, data: &Value| redis.xadd(stream, "*", &["topic", "merge:m", "data", &data.to_string()]);
    let last = add("s1", &json!({"a": 1}));
    assert_eq!(client.next().await["data"], json!({"a": 1}));
    server.until("saved", |_| redis.command(&["GET", "{s1}:position"]) == last).await;
    let last = add("s2", &json!({"b": 1}));
    let message = client.next().await;
    assert_eq!((&message["type"], &message["incomplete"]), (&json!("snapshot"), &json!(true)), "{message}");
    assert_eq!(client.next().await["data"], json!({"b": 1}));
    server.until("it is logged", |s| s.log().matches("belongs in the stream").count() == 1).await;
    assert_eq!(server.metric("topics_misplaced_total"), 1.0);
    assert_eq!(server.metric("topics_moved_total"), 1.0);
    // What this node saved before makes no state whole.
    server.until("saved again", |_| redis.command(&["GET", "{s2}:position"]) == last).await;
    assert_eq!(view(&server, "merge:m").unwrap()["incomplete"], true);
    // What the topic cannot take moves nothing.
    redis.xadd("s1", "*", &["topic", "merge:m", "data", "[1]"]);
    server.until("refused", |s| s.metric("deltas_refused_total{reason=\"not_an_object\"}") == 1.0).await;
    assert_eq!(server.metric("topics_moved_total"), 1.0);
}

/// Nodes are away for longer than a topic may be quiet, but the topic was not: deltas published meanwhile keep it.
#[tokio::test]
async fn a_published_topic_outlives_the_absence_of_nodes() {
    let redis = Redis::start();
    let options = "snapshot_every = \"100ms\"\n[namespace.short]\nclass = \"merge\"\nexpire_after = \"2s\"\n";
    let first = redis.server(options).await;
    let last = redis.add("short:a", &json!({"first": 1}));
    first.until("saved", |_| redis.command(&["GET", "{nexus:deltas}:position"]) == last).await;
    drop(first);
    let began = std::time::Instant::now();
    let mut n = 0;
    // Long enough that the saved state alone would have ended.
    while began.elapsed() < std::time::Duration::from_secs(4) {
        n += 1;
        redis.add("short:a", &json!({"n": n}));
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    let second = redis.server(options).await;
    assert_eq!(data(&second, "short:a"), json!({"first": 1, "n": n}));
}

/// A doubtful state remains so for nodes that start after the next save, as does a topic that may only have existed in
/// the hole.
#[tokio::test]
async fn a_save_after_a_hole_makes_nothing_whole() {
    let redis = Redis::start();
    let options = "snapshot_every = \"100ms\"";
    let first = redis.server(options).await;
    redis.add("merge:x", &json!({"a": 1}));
    let last = redis.add("latest:y", &json!(1));
    let position = || redis.command(&["GET", "{nexus:deltas}:position"]);
    first.until("saved", |_| position() == last).await;
    first.signal("STOP");
    redis.add("merge:x", &json!({"b": 1}));
    redis.add("latest:y", &json!(2));
    redis.add("merge:z", &json!({"a": 1}));
    redis.add("stream:f", &json!(1));
    let last = redis.add("stream:f", &json!(2));
    redis.command(&["XTRIM", STREAM, "MAXLEN", "1"]);
    first.signal("CONT");
    let in_doubt = |s: &Server, topic: &str| view(s, topic).is_some_and(|seen| seen["incomplete"] == true);
    first.until("in doubt", |s| in_doubt(s, "merge:x") && in_doubt(s, "latest:y")).await;
    first.until("saved again", |_| position() == last).await;
    let second = redis.server(options).await;
    for server in [&first, &second] {
        assert!(in_doubt(server, "merge:x") && in_doubt(server, "latest:y"), "{:?}", view(server, "merge:x"));
    }
    let mut client = second.client().await;
    client.subscribe(&["merge:z"]).await;
    let message = client.next().await;
    assert_eq!((&message["data"], &message["incomplete"]), (&Value::Null, &json!(true)), "{message}");
    redis.add("merge:z", &json!({"b": 2}));
    assert_eq!(client.next().await["type"], "delta");
    let message = client.next().await;
    assert_eq!((&message["type"], &message["incomplete"]), (&json!("snapshot"), &json!(true)), "{message}");
    for server in [&first, &second] {
        server.until("in doubt", |s| in_doubt(s, "merge:z")).await;
    }
}

/// A stream was replaced by one that lacks the last entries, as after a failover: states saved with them do not count.
#[tokio::test]
async fn states_that_were_saved_with_entries_that_a_failover_lost_do_not_count() {
    let redis = Redis::start();
    let options = "snapshot_every = \"100ms\"";
    let first = redis.server(options).await;
    let ids: Vec<String> = (0..5).map(|n| redis.add("merge:a", &json!({format!("k{n}"): n}))).collect();
    let position = || redis.command(&["GET", "{nexus:deltas}:position"]);
    first.until("saved", |_| position() == ids[4]).await;
    drop(first);
    redis.command(&["DEL", STREAM]);
    for (n, id) in ids.iter().enumerate().take(3) {
        let data = json!({format!("k{n}"): n}).to_string();
        redis.xadd(STREAM, id, &["topic", "merge:a", "data", &data]);
    }
    let last = redis.add("merge:a", &json!({"n": 1}));
    let expected = json!({"k0": 0, "k1": 1, "k2": 2, "n": 1});
    for _ in 0..2 {
        let server = redis.server(options).await;
        assert_eq!(data(&server, "merge:a"), expected);
        assert_eq!(view(&server, "merge:a").unwrap().get("incomplete"), None);
        server.until("saved", |_| position() == last).await;
    }
}

/// `null` is a value like any other, and a delta for which a node has no room is missing in its state.
#[tokio::test]
async fn a_null_is_saved_and_a_delta_without_room_is_missed() {
    let redis = Redis::start();
    let first = redis.server("snapshot_every = \"100ms\"").await;
    let last = redis.add("latest:n", &Value::Null);
    first.until("saved", |_| redis.command(&["GET", "{nexus:deltas}:position"]) == last).await;
    redis.command(&["XTRIM", STREAM, "MAXLEN", "0"]);
    let second = redis.server("snapshot_every = \"0s\"\n[limits]\ntopics = 1\n").await;
    assert_eq!(view(&second, "latest:n").unwrap()["data"], Value::Null);
    redis.add("merge:a", &json!({"a": 1}));
    second.until("refused", |s| s.metric("deltas_refused_total{reason=\"too_many_topics\"}") == 1.0).await;
    add_kind(&redis, "latest:n", "delete", &Value::Null);
    redis.add("merge:a", &json!({"b": 1}));
    second.until("taken", |s| view(s, "merge:a").is_some()).await;
    assert_eq!(view(&second, "merge:a").unwrap()["incomplete"], true);
}

/// Deltas of a `stream` topic for which a node has no room are a hole, and its subscribers are notified.
#[tokio::test]
async fn a_stream_without_room_for_deltas_is_incomplete_until_its_next() {
    let redis = Redis::start();
    let server = start_with(&redis, "topics = 1", "").await;
    redis.add("latest:n", &json!(1));
    server.until("taken", |s| view(s, "latest:n").is_some()).await;
    let mut client = server.client().await;
    let began = client.subscribe(&["stream:late"]).await["topics"]["stream:late"].clone();
    let refused: Vec<String> = (0..3).map(|n| redis.add("stream:late", &json!(n))).collect();
    let snapshot = client.next().await;
    assert_eq!((&snapshot["type"], &snapshot["incomplete"]), (&json!("snapshot"), &json!(true)), "{snapshot}");
    assert_eq!(view(&server, "stream:late").unwrap()["incomplete"], true);
    server.until("refused", |s| s.metric("topics_refused_total") == refused.len() as f64).await;
    add_kind(&redis, "latest:n", "delete", &Value::Null);
    redis.add("stream:late", &json!(3));
    let snapshot = client.next().await;
    let seen = (&snapshot["type"], snapshot.get("incomplete"), &snapshot["data"][0]["data"]);
    assert_eq!(seen, (&json!("snapshot"), None, &json!(3)), "{snapshot}");
    redis.add("stream:late", &json!(4));
    let delta = client.next().await;
    assert_eq!((&delta["type"], &delta["prev"]), (&json!("delta"), &snapshot["offset"]));
    let mut late = server.client().await;
    let since = json!({"stream:late": {"offset": began["offset"], "epoch": began["epoch"]}});
    late.send(json!({"op": "subscribe", "args": ["stream:late"], "since": since})).await;
    assert_eq!(late.next().await["topics"]["stream:late"]["recovered"], false);
}

/// A namespace has another class at the next start. States saved with the other class do not count: entries in the
/// stream do, and the others are missed.
#[tokio::test]
async fn a_state_that_was_saved_with_another_class_does_not_count() {
    for change in class_changes() {
        let redis = Redis::start();
        let first = redis.server(&ClassChange::options(change.before, "100ms")).await;
        // So long ago that a start which has saved states does not read as far back.
        for (n, data) in [r#"{"a":1}"#, r#"{"b":2}"#].iter().enumerate() {
            let id = format!("{}-{n}", unix_ms() - 3_600_000);
            redis.xadd(STREAM, &id, &["topic", "q:a", "data", data]);
        }
        let last = redis.add("merge:other", &json!({"m": 1}));
        first.until("saved", |_| redis.command(&["GET", "{nexus:deltas}:position"]) == last).await;
        drop(first);
        let second = redis.server(&ClassChange::options(change.now, "0s")).await;
        change.check_all_read(&view(&second, "q:a").unwrap());
        drop(second);
        redis.command(&["XTRIM", STREAM, "MAXLEN", "2"]);
        let third = redis.server(&ClassChange::options(change.now, "0s")).await;
        change.check_first_gone(&view(&third, "q:a").unwrap());
        assert_eq!(view(&third, "merge:other").unwrap().get("incomplete"), None, "of the same class as before");
        drop(third);
        redis.command(&["XTRIM", STREAM, "MAXLEN", "0"]);
        let fourth = redis.server(&ClassChange::options(change.now, "0s")).await;
        change.check_all_gone(&view(&fourth, "q:a").unwrap());
    }
}
