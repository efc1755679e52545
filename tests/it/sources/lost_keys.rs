//! A key stored with a stream is deleted, or an older backup is restored under running nodes: no node relies on keys
//! that no longer fit together, and all nodes serve the same.

use serde_json::{Value, json};

use crate::support::{Redis, Server};

const STREAM: &str = "nexus:deltas";
const EPOCH: &str = "{nexus:deltas}:epoch";
const EVERY: &str = "snapshot_every = \"100ms\"";

/// Status, ETag and body.
fn served(server: &Server, topic: &str) -> (u16, Option<String>, String) {
    let (status, head, body) = server.http("GET", &format!("/api/topics/{topic}"), &[], "");
    let etag = head.lines().find(|line| line.to_ascii_lowercase().starts_with("etag")).map(str::to_owned);
    (status, etag, body)
}

fn data(server: &Server, topic: &str) -> Option<Value> {
    let (status, _, body) = served(server, topic);
    (status == 200).then(|| serde_json::from_str::<Value>(&body).unwrap()["data"].clone())
}

fn add(redis: &Redis, stream: &str, topic: &str, kind: &str, data: &Value) -> String {
    redis.add_kind(stream, "*", topic, kind, data)
}

#[tokio::test]
async fn for_any_deleted_key_a_new_node_serves_what_the_old_one_does() {
    for key in ["snapshots", "position", "count", "ended", "expired", "saver"] {
        let redis = Redis::start();
        let first = redis.server(EVERY).await;
        redis.add("merge:a", &json!({"a": 1}));
        redis.add("latest:b", &json!(2));
        let last = redis.add("merge:a", &json!({"b": 3}));
        let position = || redis.command(&["GET", "{nexus:deltas}:position"]);
        first.until("saved", |_| position() == last).await;
        // It saves nothing more meanwhile.
        first.signal("STOP");
        redis.command(&["DEL", &format!("{{nexus:deltas}}:{key}")]);
        let second = redis.server("snapshot_every = \"0s\"").await;
        first.signal("CONT");
        for topic in ["merge:a", "latest:b"] {
            assert_eq!(served(&second, topic), served(&first, topic), "{key}: {topic}");
            assert_eq!(served(&second, topic).0, 200, "{key}: {topic}");
        }
        // Missing states are saved again.
        let last = redis.add("latest:c", &json!(4));
        first.until("saved again", |_| position() == last && redis.saved(STREAM) == 3).await;
        redis.command(&["XTRIM", STREAM, "MAXLEN", "0"]);
        let third = redis.server("snapshot_every = \"0s\"").await;
        for topic in ["merge:a", "latest:b", "latest:c"] {
            assert_eq!(served(&third, topic), served(&first, topic), "{key}: {topic}");
        }
    }
}

/// A saved state that is deleted alone, whether nodes run or not, is missed by the nodes that start then.
#[tokio::test]
async fn one_saved_state_that_is_deleted_is_missed() {
    for (field, runs) in [("merge:a", true), ("latest:b", true), ("merge:a", false), ("", false)] {
        let redis = Redis::start();
        let first = redis.server(EVERY).await;
        redis.add("merge:a", &json!({"a": 1}));
        redis.add("latest:b", &json!(2));
        let position = || redis.command(&["GET", "{nexus:deltas}:position"]);
        let last = redis.add("merge:a", &json!({"b": 3}));
        first.until("saved", |_| position() == last).await;
        // Saved in a second round, too: what is counted is kept up.
        let last = redis.add("merge:c", &json!({"c": 1}));
        first.until("saved", |_| position() == last).await;
        let expected = ["merge:a", "latest:b", "merge:c"].map(|topic| served(&first, topic));
        let first = match runs {
            true => {
                first.signal("STOP");
                Some(first)
            }
            false => {
                drop(first);
                None
            }
        };
        assert_eq!(redis.command(&["HDEL", "{nexus:deltas}:snapshots", field]), ":1");
        let second = redis.server("snapshot_every = \"0s\"").await;
        for (topic, expected) in ["merge:a", "latest:b", "merge:c"].iter().zip(&expected) {
            assert_eq!(served(&second, topic), *expected, "{field:?}: {topic}");
        }
        let Some(first) = first else { continue };
        first.signal("CONT");
        // It is saved again, though nothing changed.
        let last = redis.add("merge:c", &json!({"d": 1}));
        let all_saved = || redis.saved(STREAM) == 3;
        first.until("saved again", |_| position() == last && all_saved()).await;
        redis.command(&["XTRIM", STREAM, "MAXLEN", "0"]);
        let third = redis.server("snapshot_every = \"0s\"").await;
        for topic in ["merge:a", "latest:b", "merge:c"] {
            assert_eq!(served(&third, topic), served(&first, topic), "{field:?}: {topic}");
            assert_eq!(served(&third, topic).0, 200, "{field:?}: {topic}");
        }
    }
}

/// An older backup is restored without closing any connection, and publishers with their own IDs reuse the same ones:
/// the last entry that a running node read is not the one in the stream now.
#[tokio::test]
async fn entries_that_come_again_with_the_same_ids_are_noticed() {
    let keys = [STREAM, EPOCH];
    for (lost, again) in [(1_u64, 1_u64), (3, 3), (2, 5)] {
        let redis = Redis::start();
        let running = redis.server(EVERY).await;
        let first = redis.add("merge:a", &json!({"first": 1}));
        let ms: u64 = first.split('-').next().unwrap().parse().unwrap();
        let of = |n: u64, value: &str| {
            let (id, data) = (format!("{}-0", ms + 60_000 + n), json!({ format!("{value}{n}"): n }).to_string());
            format!("redis.call('XADD', '{STREAM}', '{id}', 'topic', 'merge:a', 'data', '{data}')")
        };
        let run = |script: &[String]| redis.command(&["EVAL", &script.join(" "), "0"]);
        running.until("read", |s| data(s, "merge:a").is_some()).await;
        run(&keys.map(|key| format!("redis.call('COPY', '{key}', 'backup:{key}')")));
        (0..lost).for_each(|n| drop(run(&[of(n, "lost")])));
        let last = format!("lost{}", lost - 1);
        running.until("read", |s| data(s, "merge:a").is_some_and(|data| data.get(&last).is_some())).await;
        let mut script = keys.map(|key| format!("redis.call('COPY', 'backup:{key}', '{key}', 'REPLACE')")).to_vec();
        script.extend((0..again).map(|n| of(n, "again")));
        run(&script);
        let mut expected = json!({"first": 1});
        (0..again).for_each(|n| expected[format!("again{n}")] = json!(n));
        running.until("what is there", |s| data(s, "merge:a").as_ref() == Some(&expected)).await;
        assert_eq!(running.metric("epoch_changes_total{source=\"redis nexus:deltas\"}"), 1.0, "{lost}, {again}");
        let started = redis.server(EVERY).await;
        assert_eq!(served(&started, "merge:a"), served(&running, "merge:a"), "{lost}, {again}");
    }
}

/// Deleting the newest entry does not look like a replaced stream.
#[tokio::test]
async fn a_deletion_of_the_newest_entry_is_no_other_past() {
    let redis = Redis::start();
    let running = redis.server(EVERY).await;
    redis.add("merge:a", &json!({"a": 1}));
    let newest = redis.add("merge:b", &json!({"b": 1}));
    running.until("read", |s| data(s, "merge:b").is_some()).await;
    redis.command(&["XDEL", STREAM, &newest]);
    for n in 0..2 {
        redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        redis.add("merge:a", &json!({"a": format!("after {n}")}));
        running.until("read", |s| data(s, "merge:a") == Some(json!({"a": format!("after {n}")}))).await;
    }
    assert_eq!(running.metric("epoch_changes_total{source=\"redis nexus:deltas\"}"), 0.0);
    assert_eq!(data(&running, "merge:b"), Some(json!({"b": 1})), "it was read");
}

/// Without a saved state, a node cannot know the content of an entry that was deleted before it began to read.
#[tokio::test]
async fn deleted_unsaved_entries_are_missed() {
    let redis = Redis::start();
    for n in 1..=3 {
        redis.add("merge:a", &json!({ format!("m{n}"): n }));
    }
    let gone = redis.add("merge:a", &json!({"gone": 1}));
    redis.add("stream:b", &json!(1));
    let lost = redis.add("stream:b", &json!(2));
    redis.add("latest:c", &json!(3));
    for id in [&gone, &lost] {
        redis.command(&["XDEL", STREAM, id]);
    }
    let server = redis.server("snapshot_every = \"0s\"").await;
    for topic in ["merge:a", "stream:b"] {
        let (_, _, body) = served(&server, topic);
        assert!(body.contains("\"incomplete\":true"), "{topic}: {body}");
    }
    assert!(!served(&server, "latest:c").2.contains("incomplete"), "its value came after all that is gone");
    redis.add("stream:b", &json!(4));
    server.until("whole again", |s| !served(s, "stream:b").2.contains("incomplete")).await;
}

/// A `stream` topic that may have had entries in a hole has an unknown offset until its next delta. All others have the
/// same offset and list on all nodes, whenever these were started.
#[tokio::test]
async fn stream_topics_have_one_offset_after_a_hole() {
    let redis = Redis::start();
    let first = redis.server(EVERY).await;
    redis.add("stream:a", &json!(1));
    let last = redis.add("stream:b", &json!(1));
    first.until("saved", |_| redis.command(&["GET", "{nexus:deltas}:position"]) == last).await;
    drop(first);
    redis.add("stream:a", &json!(2));
    redis.command(&["XTRIM", STREAM, "MAXLEN", "0"]);
    redis.add("stream:a", &json!(3));
    let mut started = vec![redis.server("snapshot_every = \"0s\"").await];
    for n in 0..3 {
        redis.add("latest:c", &json!(n));
        let server = redis.server("snapshot_every = \"0s\"").await;
        server.until("read", |s| data(s, "latest:c") == Some(json!(n))).await;
        started.push(server);
    }
    for server in &started {
        assert_eq!(served(server, "stream:a"), served(&started[0], "stream:a"));
        assert!(!served(server, "stream:a").2.contains("incomplete"));
        assert!(served(server, "stream:b").2.contains("incomplete"), "there may have been more of it");
    }
    redis.add("stream:b", &json!(2));
    for server in &started {
        server.until("whole", |s| !served(s, "stream:b").2.contains("incomplete")).await;
        assert_eq!(served(server, "stream:b"), served(&started[0], "stream:b"));
    }
}

/// The same if the nodes after the hole save: a delta in the hole was in no saved state, and the first node after it
/// begins the topic's list again.
#[tokio::test]
async fn nodes_that_save_after_a_hole_give_a_stream_topic_one_offset() {
    for is_saved_before in [true, false] {
        let redis = Redis::start();
        let first = redis.server(if is_saved_before { EVERY } else { "snapshot_every = \"0s\"" }).await;
        let last = redis.add("stream:a", &json!("v1"));
        first.until("read", |s| served(s, "stream:a").0 == 200).await;
        let position = || redis.command(&["GET", "{nexus:deltas}:position"]);
        if is_saved_before {
            first.until("saved", |_| position() == last).await;
        }
        drop(first);
        redis.add("stream:a", &json!("v2"));
        redis.command(&["XTRIM", STREAM, "MAXLEN", "0"]);
        redis.add("stream:a", &json!("v3"));
        let mut started = vec![redis.server(EVERY).await];
        for n in 0..3 {
            let last = redis.add("latest:c", &json!(n));
            for server in &started {
                server.until("read", |s| data(s, "latest:c") == Some(json!(n))).await;
            }
            started[0].until("saved", |_| position() == last).await;
            started.push(redis.server(if n == 1 { "snapshot_every = \"0s\"" } else { EVERY }).await);
        }
        for server in &started {
            assert_eq!(served(server, "stream:a"), served(&started[0], "stream:a"), "saved before: {is_saved_before}");
        }
        // A later node has the saved states alone.
        redis.command(&["XTRIM", STREAM, "MAXLEN", "1"]);
        let later = redis.server("snapshot_every = \"0s\"").await;
        let offset =
            |server: &Server| serde_json::from_str::<Value>(&served(server, "stream:a").2).unwrap()["offset"].clone();
        assert_eq!(offset(&later), offset(&started[0]), "saved before: {is_saved_before}");
        assert!(!served(&later, "stream:a").2.contains("incomplete"));
    }
}

/// An epoch from a backup that is restored a second time was left for a reason: it is not used again.
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
    assert_eq!(served(&server, "merge:a"), served(&other, "merge:a"));
}

/// A topic is in two streams, and the one with its newest value is deleted: the value in the other counts again, on
/// running and on starting nodes, although it had been read, and saved, as outdated.
#[tokio::test]
async fn values_hidden_by_a_deleted_stream_count_again() {
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
        redis.xadd(home, &newest, &["topic", &topic, "data", "\"newest\""]);
        running.until("read", |s| data(s, &topic) == Some(json!("newest"))).await;
        let position = |stream: &str| redis.command(&["GET", &format!("{{{stream}}}:position")]);
        running.until("saved", |_| position(home) == newest).await;
        let last = add(&redis, other, "latest:other", "delta", &json!(home));
        running.until("saved with the other stream", |_| position(other) == last).await;
        redis.command(&["DEL", home]);
        running.until("it counts again", |s| data(s, &topic) == Some(json!("stray"))).await;
        let started = redis.server(&both).await;
        assert_eq!(served(&started, &topic), served(&running, &topic), "{topic}");
        let newer = format!("{}-0", stray_ms + 60_000);
        redis.xadd(home, &newer, &["topic", &topic, "data", "\"newer\""]);
        for server in [&running, &started] {
            server.until("the next is the newest", |s| data(s, &topic) == Some(json!("newer"))).await;
        }
    }
}

/// One topic is in both streams, and one stream loses its past: the saved states of the other's many topics stay whole,
/// although their entries are gone.
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
    redis.xadd("s2", &later, &["topic", &hidden, "data", "1"]);
    let position = |stream: &str| redis.command(&["GET", &format!("{{{stream}}}:position")]);
    running.until("read", |s| data(s, &hidden) == Some(json!(1))).await;
    let last = add(&redis, "s1", &values[0], "delta", &json!("last"));
    running.until("saved", |_| position("s1") == last && position("s2") == later).await;
    let saved_by = || redis.command(&["GET", "{s1}:count"]);
    let before = saved_by();
    redis.command(&["XTRIM", "s1", "MAXLEN", "1"]);
    redis.command(&["DEL", "s2"]);
    running.until("noticed", |s| s.metric("epoch_changes_total{source=\"redis s2\"}") == 1.0).await;
    running.until("loaded again", |s| s.log().matches("loaded stream=\"s1\"").count() > 1).await;
    running.until("whole", |s| served(s, &merged[0]).1.is_some()).await;
    let started = redis.server(&both).await;
    add(&redis, "s1", &values[2], "delta", &json!("since"));
    running.until("saved again", |_| saved_by() != before && saved_by().contains(" partial ")).await;
    let later = redis.server(&both).await;
    drop(started);
    // Later deltas are whole, too, and so are the states that a third node restores from the second's save.
    redis.command(&["DEL", "{s1}:saver"]);
    add(&redis, "s1", &merged[1], "delta", &json!({"c": 1}));
    for server in [&running, &later] {
        server.until("read", |s| data(s, &merged[1]).is_some_and(|data| data["c"] == 1)).await;
    }
    let last = add(&redis, "s1", &values[1], "delta", &json!("newer"));
    running.until("saved once more", |_| position("s1") == last).await;
    let third = redis.server(&both).await;
    for topic in merged.iter().chain(&values) {
        for server in [&later, &third] {
            assert_eq!(served(server, topic), served(&running, topic), "{topic}");
            assert!(served(server, topic).1.is_some(), "{topic} is whole");
        }
    }
    // Its value there is gone, and no node reports that there is none.
    for server in [&running, &later, &third] {
        let (status, _, body) = served(server, &hidden);
        assert!(status == 200 && body.contains("\"incomplete\":true"), "{status} {body}");
    }
}

/// A node that missed entries saves while another is stopped. The other knows more: once it is back, the states that it
/// serves as whole are whole on nodes that start later.
#[tokio::test]
async fn a_node_that_knows_more_saves_again_what_another_saved_as_incomplete() {
    let redis = Redis::start();
    let knowing = redis.server(EVERY).await;
    redis.add("merge:quiet", &json!({"a": 1}));
    let last = redis.add("merge:busy", &json!({"a": 1}));
    let position = || redis.command(&["GET", "{nexus:deltas}:position"]);
    knowing.until("saved", |_| position() == last).await;
    redis.command(&["SET", "{nexus:deltas}:saver", "another node", "PX", "600000"]);
    redis.add("merge:busy", &json!({"b": 2}));
    knowing.until("read", |s| data(s, "merge:busy").is_some_and(|data| data["b"] == 2)).await;
    let newest = redis.add("latest:c", &json!(1));
    knowing.until("read", |s| data(s, "latest:c").is_some()).await;
    knowing.signal("STOP");
    redis.command(&["DEL", "{nexus:deltas}:saver"]);
    redis.command(&["XTRIM", STREAM, "MAXLEN", "1"]);
    let lacking = redis.server(EVERY).await;
    for topic in ["merge:quiet", "merge:busy"] {
        assert!(served(&lacking, topic).2.contains("\"incomplete\":true"), "{topic}");
    }
    lacking.until("saved", |_| position() == newest).await;
    drop(lacking);
    knowing.signal("CONT");
    let newest = redis.add("latest:c", &json!(2));
    knowing.until("saved again", |_| position() == newest).await;
    let later = redis.server("snapshot_every = \"0s\"").await;
    for topic in ["merge:quiet", "merge:busy", "latest:c"] {
        assert_eq!(served(&later, topic), served(&knowing, topic), "{topic}");
        assert!(served(&later, topic).1.is_some(), "{topic} is whole");
    }
}

/// The saving node has no room for a delta: a node that starts later does not take the older saved state for the
/// newest, and serves all other topics as the saving node does.
#[tokio::test]
async fn a_saved_state_from_before_a_delta_without_room_does_not_count() {
    let redis = Redis::start();
    let roomy = redis.server(EVERY).await;
    let ids: Vec<String> = (0..4).map(|n| redis.add(&format!("merge:{n}"), &json!({"a": 1}))).collect();
    let position = || redis.command(&["GET", "{nexus:deltas}:position"]);
    roomy.until("saved", |_| position() == ids[3]).await;
    drop(roomy);
    let small = redis.server(&format!("{EVERY}\n[limits]\ntopics = 3\n")).await;
    let topics: Vec<String> = (0..4).map(|n| format!("merge:{n}")).collect();
    let is_whole = |server: &Server, topic: &str| served(server, topic).1.is_some();
    let without = topics.iter().find(|topic| !is_whole(&small, topic)).unwrap().clone();
    redis.add(&without, &json!({"b": 2}));
    let other = topics.iter().find(|topic| **topic != without).unwrap();
    let last = redis.add(other, &json!({"b": 2}));
    small.until("saved", |_| position() == last).await;
    redis.command(&["XTRIM", STREAM, "MAXLEN", "0"]);
    let later = redis.server("snapshot_every = \"0s\"").await;
    for topic in &topics {
        assert_eq!(is_whole(&later, topic), *topic != without, "{topic}: {:?}", served(&later, topic));
        assert!(*topic != without || data(&later, topic) == Some(json!({"a": 1})), "its known state is served");
        assert!(*topic == without || served(&later, topic) == served(&small, topic), "{topic}");
    }
}

/// An entry is deleted before a lagging node has read it. Whether or not others follow it, that node notices.
#[tokio::test]
async fn entries_that_are_deleted_before_a_node_reads_them_are_missed() {
    for follows in [false, true] {
        let redis = Redis::start();
        let first = redis.server("snapshot_every = \"0s\"").await;
        let lagging = redis.server("snapshot_every = \"0s\"").await;
        redis.add("merge:a", &json!({"a": 1}));
        for server in [&first, &lagging] {
            server.until("read", |s| data(s, "merge:a") == Some(json!({"a": 1}))).await;
        }
        // Its read is answered before it stops.
        redis.add("latest:other", &json!(0));
        lagging.signal("STOP");
        redis.add("latest:other", &json!(1));
        let unread = redis.add("merge:a", &json!({"b": 2}));
        first.until("read", |s| data(s, "merge:a") == Some(json!({"a": 1, "b": 2}))).await;
        redis.command(&["XDEL", STREAM, &unread]);
        if follows {
            redis.add("merge:a", &json!({"c": 3}));
        }
        lagging.signal("CONT");
        let mut n = 1;
        lagging
            .until("in doubt", |s| {
                if follows {
                    n += 1;
                    redis.add("latest:other", &json!(n));
                }
                served(s, "merge:a").2.contains("\"incomplete\":true")
                    || data(s, "merge:a").is_some_and(|data| data.get("b").is_some())
            })
            .await;
        let etag_of = |server: &Server| served(server, "merge:a").1;
        assert!(etag_of(&first) != etag_of(&lagging) || served(&first, "merge:a") == served(&lagging, "merge:a"));
    }
}

/// The saved state replaces a deleted entry, but a stream's list of deltas does not.
#[tokio::test]
async fn no_history_reaches_across_a_deleted_delta() {
    let redis = Redis::start();
    let first = redis.server(EVERY).await;
    let ids: Vec<String> = (0..6).map(|n| redis.add("stream:a", &json!(n))).collect();
    let last = redis.add("merge:b", &json!({"b": 1}));
    first.until("saved", |_| redis.command(&["GET", "{nexus:deltas}:position"]) == last).await;
    redis.command(&["XDEL", STREAM, &ids[3]]);
    let second = redis.server("snapshot_every = \"0s\"").await;
    assert_eq!(data(&second, "merge:b"), Some(json!({"b": 1})));
    let history: Value = serde_json::from_str(&first.get("/api/topics/stream:a").1).unwrap();
    let (epoch, deltas) = (&history["epoch"], history["data"].as_array().unwrap());
    for (server, recovered) in [(&first, true), (&second, false)] {
        let mut client = server.client().await;
        let since = json!({"stream:a": {"offset": deltas[1]["offset"], "epoch": epoch}});
        client.send(json!({"op": "subscribe", "id": 1, "args": ["stream:a"], "since": since})).await;
        assert_eq!(client.next().await["topics"]["stream:a"]["recovered"], json!(recovered));
    }
}

/// Entries are lost while Redis takes no writes, so that the epoch cannot change. It changes as soon as it can.
#[tokio::test]
async fn an_epoch_that_could_not_be_changed_is_changed_later() {
    let redis = Redis::start();
    let server = redis.server("snapshot_every = \"0s\"").await;
    redis.add("stream:a", &json!(1));
    server.until("read", |s| data(s, "stream:a").is_some()).await;
    redis.command(&["COPY", STREAM, "backup"]);
    redis.add("stream:a", &json!("lost"));
    server.until("read", |s| served(s, "stream:a").2.contains("lost")).await;
    let epoch = redis.command(&["GET", EPOCH]);
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    redis.command(&["RENAME", "backup", STREAM]);
    server.until("loaded again", |s| data(s, "stream:a").is_some() && !served(s, "stream:a").2.contains("lost")).await;
    assert_eq!(redis.command(&["GET", EPOCH]), epoch);
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    server.until("another epoch", |_| redis.command(&["GET", EPOCH]) != epoch).await;
    let now = redis.command(&["GET", EPOCH]);
    server.until("served", |s| served(s, "stream:a").2.contains(&now)).await;
}

/// The states and their count are deleted together; only the position is left.
#[tokio::test]
async fn a_position_alone_proves_no_saved_states() {
    let redis = Redis::start();
    let first = redis.server(EVERY).await;
    let last = redis.add("merge:a", &json!({"a": 1}));
    first.until("saved", |_| redis.command(&["GET", "{nexus:deltas}:position"]) == last).await;
    drop(first);
    redis.command(&["XTRIM", STREAM, "MAXLEN", "0"]);
    redis.command(&["DEL", "{nexus:deltas}:snapshots", "{nexus:deltas}:count"]);
    let server = redis.server("snapshot_every = \"0s\"").await;
    redis.add("merge:a", &json!({"b": 2}));
    server.until("read", |s| data(s, "merge:a") == Some(json!({"b": 2}))).await;
    assert!(served(&server, "merge:a").2.contains("\"incomplete\":true"));
}
