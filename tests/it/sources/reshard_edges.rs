//! `nexus-push reshard` in unusual conditions: wrong lists, concurrent runs, missing entries, moves that do not come,
//! and late values.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::redis_groups::{Cluster, Sentinels};
use crate::support::resharding::{Run, add, config, home, node, view};
use crate::support::{OPEN, Redis, Server};

const OLD: &[&str] = &["d0"];
const NEW: &[&str] = &["d0", "d1"];

/// A topic of this class that moves from the old stream to the new one.
fn leaving(class: &str) -> String {
    (0..).map(|n| format!("{class}:{n}")).find(|name| home(name, NEW) == "d1").unwrap()
}

fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_millis().try_into().unwrap()
}

fn wrong_partition(server: &Server) -> f64 {
    server.metric("source_refused_total{source=\"redis d0\",reason=\"wrong_partition\"}")
}

fn data(server: &Server, topic: &str) -> Value {
    serde_json::from_str::<Value>(&server.get(&format!("/api/topics/{topic}")).1).unwrap_or_default()["data"].clone()
}

fn is_incomplete(server: &Server, topic: &str) -> bool {
    serde_json::from_str::<Value>(&server.get(&format!("/api/topics/{topic}")).1).unwrap()["incomplete"] == true
}

async fn fails(redis: &Redis, from: &[&str], to: &[&str], more: &[&str], needles: &[&str]) {
    let mut run = Run::start(redis, from, to, more);
    assert!(!run.end().await, "{}", run.output());
    for needle in needles {
        assert!(run.output().contains(needle), "{needle:?} was not printed:\n{}", run.output());
    }
}

#[tokio::test]
async fn lists_that_are_wrong_are_refused_and_a_dry_run_moves_nothing() {
    let redis = Redis::start();
    for n in 0..50 {
        add(&redis, "d0", &format!("latest:{n}"), "delta", &json!(n));
    }
    fails(&redis, OLD, &["d0", "d0"], &[], &["--to d0,d0", "\"d0\" is empty or named twice"]).await;
    let mut run = Run::with(&config(&redis, OLD, NEW), &["d0", ""], &[]);
    assert!(!run.end().await && run.output().contains("\"\" is empty or named twice"), "{}", run.output());
    fails(&redis, OLD, OLD, &[], &["--from and --to are the same (d0)"]).await;
    let mut run = Run::start(&redis, OLD, NEW, &["--dry-run"]);
    assert!(run.end().await, "{}", run.output());
    let moving = (0..50).filter(|n| home(&format!("latest:{n}"), NEW) == "d1").count();
    assert!(run.output().contains(&format!("{moving} topics go from d0 to d1")), "{}", run.output());
    assert!(
        run.output().contains(&format!("{moving} of 50 topics would be moved; nothing was done")),
        "{}",
        run.output()
    );
}

/// Each key with its content.
fn everything(redis: &Redis) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    let dump =
        |key: &String, connection: &mut redis::Connection| redis::cmd("DUMP").arg(key).query(connection).unwrap();
    keys.into_iter().map(|key| (key.clone(), dump(&key, &mut connection))).collect()
}

/// Also where a node would write: there is no epoch, an entry is refused, and a millisecond of IDs is nearly used up.
#[tokio::test]
async fn a_dry_run_writes_nothing_at_all() {
    let redis = Redis::start();
    for n in 0..20 {
        add(&redis, "d0", &format!("latest:{n}"), "delta", &json!(n));
    }
    add(&redis, "d0", "latest:0", "full", &json!(0));
    let soon = unix_ms() + 3_600_000;
    redis.xadd("d0", &format!("{soon}-5000"), &["topic", "latest:0", "data", "1"]);
    let before = everything(&redis);
    assert_eq!(before.len(), 1, "{:?}", before.keys());
    let config = format!("{}refused = true\n", config(&redis, OLD, NEW));
    let mut run = Run::with(&config, NEW, &["--dry-run"]);
    assert!(run.end().await && run.output().contains("nothing was done"), "{}", run.output());
    let after = everything(&redis);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    assert!(before == after, "a key was changed");
    // Nodes that have read it have written; a dry run has not.
    let server = Server::start(&config);
    server.until("ready", |s| s.get("/readyz").0 == 200 && redis.command(&["EXISTS", "{d0}:epoch"]) == ":1").await;
    drop(server);
    let before = everything(&redis);
    let mut run = Run::with(&config, NEW, &["--dry-run"]);
    assert!(run.end().await, "{}", run.output());
    assert!(before == everything(&redis), "a key was changed");
}

/// A misspelt stream is not treated as an empty one.
#[tokio::test]
async fn missing_streams_are_named_with_existing_ones() {
    let redis = Redis::start();
    let configured = &["d0", "d1"];
    for (more, needles) in [
        (&[][..], &["--from d0,d1: not in Redis at redis://", "none of source.redis.streams (d0, d1) is"][..]),
        (&["--from", "d9"], &["--from d9: not in"]),
    ] {
        fails(&redis, configured, &["d0", "d1", "d2"], more, needles).await;
    }
    add(&redis, "d0", "latest:a", "delta", &json!(1));
    let there = "of source.redis.streams there are d0.";
    for more in [&["--from", "d9"][..], &["--from", "d0,d9", "--dry-run"]] {
        fails(&redis, configured, &["d0", "d1", "d2"], more, &["--from d9: not in", there]).await;
    }
    assert_eq!(everything(&redis).into_keys().collect::<Vec<_>>(), ["d0"], "nothing is written for it");
    // A stream that nodes read exists, even if nothing was published in it.
    let server = node(&redis, configured, &["d2"]).await;
    let mut run = Run::start(&redis, configured, &["d0", "d1", "d2"], &["--dry-run"]);
    assert!(run.end().await, "{}", run.output());
    drop(server);
}

/// An unreachable Redis is reported from the beginning, and at the end with what to check.
#[tokio::test]
async fn an_unreachable_redis_is_reported_and_awaited() {
    let redis = Redis::start();
    let away = format!("redis://user:secret-word@127.0.0.1:{}", crate::support::free_port());
    let config = config(&redis, OLD, NEW);
    let mut run = Run::with(&config, NEW, &["--redis", &away]);
    assert!(
        run.prints("it is tried again for 10s (source.redis.url, or --redis, says where it is)").await,
        "{}",
        run.output()
    );
    assert!(run.output().contains("refused") && run.output().contains("***@127.0.0.1:"), "{}", run.output());
    assert!(!run.end().await, "{}", run.output());
    assert!(run.output().contains("Is that where it is (source.redis.url, or --redis)?"), "{}", run.output());
    for word in ["secret-word", "run it again", "not loaded"] {
        assert!(!run.output().contains(word), "{word}: {}", run.output());
    }
    // A Redis that refuses the password is not tried again.
    redis.command(&["CONFIG", "SET", "requirepass", "another-word"]);
    let mut run = Run::with(&config, NEW, &[]);
    assert!(!run.end().await && run.output().contains("Authentication required"), "{}", run.output());
    assert!(!run.output().contains("tried again"), "{}", run.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_to_other_streams_waits_for_its_turn_and_two_of_one_repeat_nothing() {
    let redis = Redis::start();
    let topic = leaving("merge");
    for n in 0..20 {
        add(&redis, "d0", &format!("latest:{n}"), "delta", &json!(n));
    }
    add(&redis, "d0", &topic, "delta", &json!({"a": 1}));
    let server = node(&redis, OLD, NEW).await;
    let mut first = Run::start(&redis, OLD, NEW, &["--quiet", "600"]);
    assert!(first.prints("topics are moved").await, "{}", first.output());
    fails(&redis, OLD, &["d0", "d2"], &[], &["topics are on their way from d0", "with --to d0,d1"]).await;
    let mut second = Run::start(&redis, OLD, NEW, &["--quiet", "600"]);
    assert!(second.prints("a run that was broken off goes on").await, "{}", second.output());
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    let mut n = 0;
    // One of them relays each entry; the second finds that, and ends.
    while first.is_running() && second.is_running() {
        assert!(std::time::Instant::now() < deadline, "both go on:\n{}\n{}", first.output(), second.output());
        n += 1;
        add(&redis, "d0", &topic, "delta", &json!({format!("m{}", n % 7): n}));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ended = if first.is_running() { &mut second } else { &mut first };
    assert!(!ended.end().await && ended.output().contains("another run hands entries of d0 on"), "{}", ended.output());
    first.kill();
    second.kill();
    let mut last = Run::start(&redis, OLD, NEW, &["--quiet", "0"]);
    assert!(last.end().await, "{}", last.output());
    // The mark at the beginning, a move, and each entry, once.
    let entries = redis.command(&["XLEN", "d1"]);
    let moved = (0..20).filter(|n| home(&format!("latest:{n}"), NEW) == "d1").count();
    assert_eq!(entries, format!(":{}", moved + 2 + n));
    server.until("read", |s| data(s, &topic)[format!("m{}", n % 7)] == n).await;
    assert!(!is_incomplete(&server, &topic));
}

/// Late entries in an old stream are refused, and logged on each node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_entries_in_the_old_stream_are_refused_and_logged() {
    let redis = Redis::start();
    let topic = leaving("latest");
    add(&redis, "d0", &topic, "delta", &json!("before"));
    let server = node(&redis, OLD, NEW).await;
    let mut run = Run::start(&redis, OLD, NEW, &["--quiet", "0"]);
    assert!(run.end().await, "{}", run.output());
    server.until("moved", |s| s.metric("topics_moved_total") == 1.0).await;
    assert_eq!(wrong_partition(&server), 0.0);
    add(&redis, "d0", &topic, "delta", &json!("late"));
    server.until("refused", |s| wrong_partition(s) == 1.0).await;
    assert_eq!(data(&server, &topic), "before");
    // So is a new topic: no run would relay it.
    let unknown = (0..).map(|n| format!("latest:new{n}")).find(|name| home(name, NEW) == "d1").unwrap();
    add(&redis, "d0", &unknown, "delta", &json!("late"));
    server.until("refused", |s| wrong_partition(s) == 2.0).await;
    // A node that reads it later may read the old stream first, and gets the same result.
    let late = node(&redis, NEW, OLD).await;
    assert_eq!(view(&server, &topic), view(&late, &topic));
    for node in [&server, &late] {
        node.until("it is not there", |s| s.get(&format!("/api/topics/{unknown}")).0 == 404).await;
    }
    // Another run finds nothing to do.
    let mut run = Run::start(&redis, NEW, NEW, &["--from", "d0", "--quiet", "0"]);
    assert!(run.end().await && run.output().contains("all where they belong"), "{}", run.output());
}

/// A Redis that loses its data ends the command: moved entries may be gone, and publishers have already switched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_loses_everything_ends_it() {
    let redis = Redis::start();
    add(&redis, "d0", &leaving("latest"), "delta", &json!(1));
    let server = node(&redis, OLD, NEW).await;
    let mut run = Run::start(&redis, OLD, NEW, &["--quiet", "600"]);
    assert!(run.prints("switch the publishers now").await, "{}", run.output());
    let epoch = redis.command(&["GET", "{d0}:epoch"]);
    redis.command(&["FLUSHALL"]);
    server.until("another epoch", |_| !["", &epoch].contains(&redis.command(&["GET", "{d0}:epoch"]).as_str())).await;
    assert!(!run.end().await, "{}", run.output());
    assert!(run.output().contains("Redis has lost entries of d"), "{}", run.output());
}

/// The command is stopped, and entries that it had not relayed are trimmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_entries_are_reported() {
    let redis = Redis::start();
    let topic = leaving("merge");
    add(&redis, "d0", &topic, "delta", &json!({"a": 1}));
    let server = node(&redis, OLD, NEW).await;
    let mut run = Run::start(&redis, OLD, NEW, &["--quiet", "600"]);
    assert!(run.prints("topics are moved").await, "{}", run.output());
    run.kill();
    add(&redis, "d0", &topic, "delta", &json!({"lost": 1}));
    add(&redis, "d0", "latest:other", "delta", &json!(1));
    redis.command(&["XTRIM", "d0", "MAXLEN", "0"]);
    fails(&redis, OLD, NEW, &["--quiet", "0"], &["were trimmed before they were handed on", "--skip-lost"]).await;
    let mut run = Run::start(&redis, OLD, NEW, &["--quiet", "0", "--skip-lost"]);
    assert!(run.end().await, "{}", run.output());
    assert!(run.output().contains("are gone; states are incomplete"), "{}", run.output());
    server.until("the mark is served", |s| is_incomplete(s, &topic)).await;
    assert_eq!(data(&server, &topic), json!({"a": 1}));
    add(&redis, "d1", &topic, "snapshot", &json!({"whole": 1}));
    server.until("whole", |s| data(s, &topic) == json!({"whole": 1})).await;
    assert!(!is_incomplete(&server, &topic));
}

/// Cuts the old stream as the command does.
fn cut(redis: &Redis) {
    let value = json!({"run": "r", "streams": NEW, "slices": 1, "slice": 0}).to_string();
    let id = redis.xadd("d0", "*", &["nexus:away", &value]);
    let streams = json!(NEW).to_string();
    redis.command(&[
        "HSET",
        "{d0}:away",
        "run",
        "r",
        "streams",
        &streams,
        "slices",
        "1",
        "count",
        "1",
        "cuts",
        &format!(",{id}"),
    ]);
}

/// The command is killed after a cut: topics lack later deltas and are marked so, until the command is run again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_whose_move_does_not_come_is_incomplete_until_it_does() {
    let redis = Redis::start();
    let topic = leaving("merge");
    add(&redis, "d0", &topic, "delta", &json!({"a": 1}));
    let server = node(&redis, OLD, NEW).await;
    let mut client = server.client().await;
    client.subscribe(&[&topic]).await;
    assert_eq!(client.next().await["data"], json!({"a": 1}));
    cut(&redis);
    add(&redis, "d0", &topic, "delta", &json!({"b": 2}));
    let message = client.next().await;
    assert_eq!(
        (&message["type"], &message["incomplete"], &message["data"]),
        (&json!("snapshot"), &json!(true), &json!({"a": 1}))
    );
    server.until("it is logged", |s| s.log().contains("deltas of topics that have left wait in this stream")).await;
    assert_eq!(server.metric("moved_deltas_skipped_total"), 1.0);
    let mut run = Run::start(&redis, OLD, NEW, &["--quiet", "0"]);
    assert!(run.end().await && run.output().contains("a run that was broken off goes on"), "{}", run.output());
    let message = client.next().await;
    assert_eq!((&message["type"], &message["data"]), (&json!("snapshot"), &json!({"a": 1})), "{message}");
    assert_eq!(message.get("incomplete"), None, "{message}");
    assert_eq!(client.next().await["data"], json!({"b": 2}));
}

/// The command reads each entry as nodes do, and reports entries that they refuse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_handed_on_as_nodes_read_them() {
    let names = "topic_field = \"sym\"\ndata_field = \"d\"\nkind_field = \"k\"\nts_field = \"e\"\n";
    for (more, [topic_field, alias, data_field, kind_field, ts_field]) in
        [("", ["topic", "channel", "data", "kind", "ts"]), (names, ["sym", "sym", "d", "k", "e"])]
    {
        let redis = Redis::start();
        let config = |streams, also| format!("{}{more}", config(&redis, streams, also));
        let add = |fields: &[&str]| redis.xadd("d0", "*", fields);
        let [merge, latest, stream] = ["merge", "latest", "stream"].map(leaving);
        add(&[alias, &merge, data_field, r#"{"a":1}"#]);
        let server = Server::start(&config(OLD, NEW));
        server.until("read", |s| data(s, &merge) == json!({"a": 1})).await;
        let mut run = Run::with(&config(OLD, NEW), NEW, &["--quiet", "3"]);
        assert!(run.prints("switch the publishers now").await, "{}", run.output());
        let ts = |id: &str| id.split('-').next().unwrap().parse::<u64>().unwrap();
        add(&[data_field, r#"{"b":1}"#, "unused", "x", alias, &merge]);
        add(&[topic_field, "merge:other", alias, "merge:other", data_field, r#"{"x":1}"#, topic_field, &merge]);
        let last = add(&[alias, &merge, data_field, r#"{"c":1}"#, ts_field, "1723161256"]);
        add(&[alias, &latest, data_field, "1", kind_field, "snapshot", ts_field, "1723161256313"]);
        add(&[alias, &stream, data_field, "1", ts_field, ""]);
        let of_stream = add(&[alias, &stream, data_field, "2", ts_field, "soon"]);
        let refused = add(&[alias, &latest, data_field, "{", kind_field, "full"]);
        add(&["data", "of no topic"]);
        assert!(run.end().await, "{}", run.output());
        let late = Server::start(&config(NEW, OLD));
        for node in [&server, &late] {
            node.until("ready", |s| s.get("/readyz").0 == 200).await;
            node.until("all is there", |s| data(s, &stream)[1]["data"] == 2).await;
            let body =
                |topic: &str| serde_json::from_str::<Value>(&node.get(&format!("/api/topics/{topic}")).1).unwrap();
            let found = body(&merge);
            let whole = json!({"a": 1, "b": 1, "x": 1, "c": 1});
            assert_eq!(
                (&found["data"], &found["ts"], found.get("incomplete")),
                (&whole, &json!(ts(&last)), None),
                "{found}"
            );
            let found = body(&latest);
            assert_eq!((&found["data"], &found["ts"]), (&json!(1), &json!(1_723_161_256_313_u64)), "{found}");
            assert_eq!(data(node, &stream)[1]["ts"], ts(&of_stream), "{}", body(&stream));
        }
        let output = run.output();
        for needle in [
            format!(
                "d0: the entry {refused} is not handed on, as every node refuses it: `{latest}` was refused (kind)"
            ),
            "d0: quiet, 6 entries were handed on".to_owned(),
            "all where they belong; 1 entries of moved topics were not handed on, as every node refuses them"
                .to_owned(),
        ] {
            assert!(output.contains(&needle), "{needle:?} was not printed:\n{output}");
        }
        // Publishers see what is wrong with their entries in the stream that they used.
        for reason in ["ts_seconds", "ts_not_a_number"] {
            let found = |stream: &str| {
                server.metric(&format!("source_suspicious_total{{source=\"redis {stream}\",reason=\"{reason}\"}}"))
            };
            assert_eq!((found("d0"), found("d1")), (1.0, 0.0), "{reason}");
        }
    }
}

/// The command is stopped for longer than a topic may be quiet. A delta that was published in time does not come too
/// late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relayed_deltas_keep_their_age() {
    let redis = Redis::start();
    let config = |streams: &[&str], also: &[&str]| {
        format!("{}[namespace.brief]\nclass = \"merge\"\nexpire_after = \"2s\"\n", config(&redis, streams, also))
    };
    let (topic, newer) = (leaving("brief"), leaving("brief:new"));
    let witness = (0..).map(|n| format!("brief:{n}")).find(|name| home(name, NEW) == "d0").unwrap();
    // As far ahead as the rest takes until the command is stopped.
    let begin_ms = unix_ms() + 10_000;
    let add = |ms: u64, topic: &str, data: &Value| {
        let id = format!("{}-*", begin_ms + ms);
        redis.xadd("d0", &id, &["topic", topic, "data", &data.to_string()])
    };
    add(0, &topic, &json!({"a": 1}));
    add(0, &witness, &json!({"a": 1}));
    let start = async |streams, also| {
        let server = Server::start(&config(streams, also));
        server.until("ready", |s| s.get("/readyz").0 == 200).await;
        server
    };
    let server = start(OLD, NEW).await;
    let mut run = Run::with(&config(OLD, NEW), NEW, &["--quiet", "600"]);
    assert!(run.prints("switch the publishers now").await, "{}", run.output());
    server.until("moved", |s| s.metric("topics_moved_total") == 1.0).await;
    run.kill();
    // Never more than two seconds apart.
    let times: Vec<u64> = (1..=13).map(|n| n * 1_500).collect();
    let mut whole = json!({"a": 1});
    for ms in &times {
        add(*ms, &topic, &json!({format!("b{ms}"): 1}));
        whole[format!("b{ms}")] = json!(1);
    }
    add(times[12], &newer, &json!({"n": 1}));
    server
        .until("the time of what has no newer delta is over", |s| s.get(&format!("/api/topics/{witness}")).0 == 404)
        .await;
    let late = start(NEW, OLD).await;
    for node in [&server, &late] {
        node.until("waiting deltas are reported", |s| is_incomplete(s, &topic)).await;
        assert_eq!(data(node, &topic), json!({"a": 1}));
    }
    let mut run = Run::with(&config(OLD, NEW), NEW, &["--quiet", "0"]);
    assert!(run.end().await, "{}", run.output());
    let last = start(OLD, NEW).await;
    for node in [&server, &late, &last] {
        node.until("all has come", |s| !is_incomplete(s, &topic) && !is_incomplete(s, &newer)).await;
        assert_eq!((data(node, &topic), data(node, &newer)), (whole.clone(), json!({"n": 1})));
        assert_eq!(view(node, &topic), view(&server, &topic));
        let body: Value = serde_json::from_str(&node.get(&format!("/api/topics/{topic}")).1).unwrap();
        assert_eq!(body["ts"], begin_ms + times[12], "{body}");
    }
}

/// A node has read more of the new stream than of the old one: subscribers miss nothing from before the cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_waits_for_what_came_before_it_in_the_old_stream() {
    let redis = Redis::start();
    let topic = leaving("stream");
    let (aside, far) = (leaving("latest"), 10_000_000);
    let id = add(&redis, "d0", &topic, "delta", &json!(1));
    let server = node(&redis, OLD, NEW).await;
    let mut client = server.client().await;
    client.subscribe(&[&topic, &aside]).await;
    let at = |ms: u64| format!("{}-0", id.split_once('-').unwrap().0.parse::<u64>().unwrap() + ms);
    let moves = |cut: &str, data: &str| {
        let script = "redis.call('XADD', KEYS[1], '*', 'topic', ARGV[1], 'data', '\"aside\"')
            redis.call('XADD', KEYS[1], '*', 'nexus:from', ARGV[2], 'topic', ARGV[3], 'data', ARGV[4], 'kind', 'move') return 1";
        redis.command(&["EVAL", script, "1", "d1", &aside, &format!("{cut} d0"), &topic, data]);
    };
    let until = async |client: &mut crate::support::Client, wanted: &str| loop {
        let message = client.next().await;
        if message["topic"] == wanted && (message["type"] == "delta" || message["data"] == json!([])) {
            return message;
        }
    };
    moves(&at(far), "null");
    // The node has reached the move, and has not read the old stream up to the cut.
    assert_eq!(until(&mut client, &aside).await["data"], "aside");
    redis.xadd("d0", &at(far - 1), &["topic", &topic, "data", "2"]);
    let delta = until(&mut client, &topic).await;
    assert_eq!((&delta["type"], &delta["data"]), (&json!("delta"), &json!(2)), "{delta}");
    redis.xadd("d0", &at(far), &["topic", "latest:z", "data", "0"]);
    let told = until(&mut client, &topic).await;
    assert_eq!((&told["type"], &told["data"]), (&json!("snapshot"), &json!([])), "{told}");
    // One that waits in vain goes on after some seconds, and says so.
    moves(&at(2 * far), "null");
    assert_eq!(until(&mut client, &aside).await["data"], "aside");
    assert!(!server.log().contains("is not read that far"), "{}", server.log());
    server.until("it is logged", |s| s.log().contains("the stream that topics come from is not read that far")).await;
}

/// There and back, with values and ends in between: a node that starts long after gets the same result, whichever
/// stream it reads first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_went_and_came_back_are_the_same_on_nodes_that_read_it_later() {
    let redis = Redis::start();
    let topics: Vec<String> = (0..40).map(|n| format!("{}:t{n}", ["merge", "latest"][n % 2])).collect();
    let publish = |streams: &[&str], kind: &str, round: usize, which: &dyn Fn(usize) -> bool| {
        for (n, topic) in topics.iter().enumerate().filter(|(n, _)| which(*n)) {
            add(&redis, home(topic, streams), topic, kind, &json!({format!("r{round}"): n}));
        }
    };
    publish(OLD, "delta", 1, &|_| true);
    let live = node(&redis, OLD, NEW).await;
    let mut run = Run::start(&redis, OLD, NEW, &["--quiet", "0"]);
    assert!(run.end().await, "{}", run.output());
    publish(NEW, "delta", 2, &|n| n % 3 > 0);
    publish(NEW, "delete", 2, &|n| n % 7 == 0);
    let mut run = Run::start(&redis, NEW, OLD, &["--quiet", "0"]);
    assert!(run.end().await, "{}", run.output());
    publish(OLD, "delta", 3, &|n| n % 5 > 0);
    publish(OLD, "delete", 4, &|n| n % 4 == 0);
    // A topic that was deleted while it was away is published again in its first stream.
    publish(OLD, "snapshot", 5, &|n| n % 14 == 0);
    let last = add(&redis, "d0", "latest:last", "delta", &json!(1));
    live.until("read", |s| data(s, "latest:last") == 1).await;
    for (n, topic) in topics.iter().enumerate().filter(|(n, _)| n % 14 == 0) {
        assert_eq!(data(&live, topic), json!({ "r5": n }), "{topic}");
    }
    live.until("saved", |_| redis.command(&["GET", "{d0}:position"]) == last).await;
    // A node with the old list only reads past marks of the way there, and logs nothing about them.
    let back = node(&redis, OLD, &[]).await;
    assert!(!back.log().contains("that this node does not read"), "{}", back.log());
    drop(back);
    // So long after that only the streams are left.
    redis.command(&["DEL", "{d0}:away", "{d1}:away"]);
    let check = |late: &Server, what: &str| {
        for topic in &topics {
            assert_eq!(view(&live, topic), view(late, topic), "{topic}, {what}");
        }
    };
    for _ in 0..2 {
        check(&node(&redis, OLD, NEW).await, "with saved states");
    }
    for key in redis.command(&["KEYS", "{d*}:*"]).lines().filter(|key| !key.contains(":epoch") && key.contains("{d")) {
        redis.command(&["DEL", key.trim()]);
    }
    for slow in ["d0", "d1"] {
        let script =
            "for i = 1, 30000 do redis.call('XADD', KEYS[1], '*', 'topic', 'latest:fill', 'data', i) end return 1";
        redis.command(&["EVAL", script, "1", slow]);
        let late = node(&redis, OLD, NEW).await;
        late.until("both are read", |s| s.get("/readyz").0 == 200).await;
        check(&late, slow);
    }
}

/// Deltas that were relayed while a topic was away are outdated once it is back: a starting node that reads them again
/// waits for none of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_came_back_wait_for_nothing() {
    let redis = Redis::start();
    let topic = leaving("merge");
    add(&redis, "d0", &topic, "delta", &json!({"a": 1}));
    let live = node(&redis, OLD, NEW).await;
    let mut run = Run::start(&redis, OLD, NEW, &["--quiet", "1"]);
    assert!(run.prints("switch the publishers").await, "{}", run.output());
    add(&redis, "d0", &topic, "delta", &json!({"b": 2}));
    assert!(run.end().await, "{}", run.output());
    let mut run = Run::start(&redis, NEW, OLD, &["--quiet", "0"]);
    assert!(run.end().await, "{}", run.output());
    add(&redis, "d0", &topic, "delta", &json!({"c": 3}));
    live.until("read", |s| data(s, &topic) == json!({"a": 1, "b": 2, "c": 3})).await;
    let late = node(&redis, OLD, NEW).await;
    assert!(late.metric("moved_deltas_skipped_total") > 0.0, "it reads past what was handed on");
    // Longer than a delta may wait for its move.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(7);
    while std::time::Instant::now() < until {
        assert!(!is_incomplete(&late, &topic), "{}", late.log());
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert_eq!(data(&late, &topic), data(&live, &topic));
}

/// The same command with Redis behind sentinels, and with streams on three masters of a cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_move_under_sentinels_and_in_a_cluster() {
    let sentinels = Sentinels::start(None, None);
    let cluster = Cluster::start(3);
    let streams: Vec<&str> = cluster.streams.iter().map(String::as_str).collect();
    let add_all = |add: &dyn Fn(&str, &Value) -> Option<bool>| {
        for n in 0..60 {
            assert!(add(&format!("merge:{n}"), &json!({"n": n})).is_some());
        }
    };
    add_all(&|topic, data| sentinels.add(topic, data));
    add_all(&|topic, data| cluster.add(0, topic, data));
    let of_cluster = cluster.source_config();
    let of_cluster =
        of_cluster.lines().filter(|line| !line.starts_with("streams")).collect::<Vec<_>>().join("\n") + "\n";
    let cases = [
        (sentinels.source_config(), vec!["nexus:deltas"], vec!["nexus:deltas", "nexus:more"]),
        (of_cluster, vec![streams[0]], streams.clone()),
    ];
    for (source, from, to) in cases {
        let config = |streams: &[&str], also: &[&str]| {
            let also: Vec<&&str> = also.iter().filter(|stream| !streams.contains(stream)).collect();
            format!("{OPEN}\n{source}streams = {streams:?}\nread_also = {also:?}\n")
        };
        let server = Server::start(&config(&from, &to));
        server.until("ready", |s| s.get("/readyz").0 == 200).await;
        let mut run = Run::with(&config(&from, &to), &to, &["--quiet", "0"]);
        assert!(run.end().await, "{}", run.output());
        assert!(run.output().contains("checked: 60 topics, all where they belong"), "{}", run.output());
        let late = Server::start(&config(&to, &from));
        late.until("ready", |s| s.get("/readyz").0 == 200).await;
        for n in 0..60 {
            let topic = format!("merge:{n}");
            server.until("moved", |s| view(s, &topic) == view(&late, &topic)).await;
            assert_eq!((data(&late, &topic), is_incomplete(&late, &topic)), (json!({"n": n}), false));
        }
    }
}

#[tokio::test]
async fn without_a_redis_there_is_nothing_to_move_between() {
    let mut run = Run::with(OPEN, NEW, &[]);
    assert!(!run.end().await && run.output().contains("has no [source.redis]"), "{}", run.output());
}

/// A node that does not read the new stream cannot know the state of topics that moved there: it marks those that it
/// has, and those that it does not know, like a node that reads the stream and missed a part of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_may_be_where_a_node_does_not_look() {
    let redis = Redis::start();
    let names = (0..).map(|n| format!("merge:{n}"));
    let mut goes = names.clone().filter(|name| home(name, NEW) == "d1");
    let stays: Vec<String> = names.filter(|name| home(name, NEW) == "d0").take(2).collect();
    let [gone, asked, new, later] = std::array::from_fn(|_| goes.next().unwrap());
    let list = leaving("stream");
    for topic in [&gone, &stays[0], &list] {
        add(&redis, "d0", topic, "delta", &json!({"a": 1}));
    }
    let forgotten = node(&redis, OLD, &[]).await;
    let aware = node(&redis, OLD, NEW).await;
    assert_eq!(forgotten.get(&format!("/api/topics/{new}")).0, 404, "nothing has moved yet");
    let mut client = forgotten.client().await;
    client.subscribe(&[&asked]).await;
    let mut run = Run::start(&redis, OLD, NEW, &["--quiet", "0"]);
    assert!(run.end().await, "{}", run.output());
    let message = client.next().await;
    assert_eq!((&message["data"], &message["incomplete"]), (&Value::Null, &json!(true)), "{message}");
    add(&redis, "d1", &new, "delta", &json!({"b": 2}));
    add(&redis, "d0", &stays[0], "delta", &json!({"b": 2}));
    let started = node(&redis, OLD, &[]).await;
    aware.until("read", |s| data(s, &new) == json!({"b": 2})).await;
    for server in [&forgotten, &started] {
        server.until("the mark is served", |s| [&gone, &list].iter().all(|topic| is_incomplete(s, topic))).await;
        server.until("read", |s| data(s, &stays[0]) == json!({"a": 1, "b": 2})).await;
        assert!(is_incomplete(server, &new) && data(server, &new).is_null());
        assert!(!is_incomplete(server, &stays[0]), "it stays");
        assert_eq!(server.get(&format!("/api/topics/{}", stays[1])).0, 404, "it would be here");
    }
    for topic in [&gone, &new] {
        assert!(!is_incomplete(&aware, topic), "{topic}");
    }
    // For topics that a node missed in the new stream nothing is known while publishers may still use the old one.
    drop((forgotten, started, aware));
    add(&redis, "d1", &later, "delta", &json!({"c": 3}));
    redis.command(&["XTRIM", "d1", "MAXLEN", "0"]);
    let missed = node(&redis, OLD, NEW).await;
    assert!(is_incomplete(&missed, &later) && data(&missed, &later).is_null());
    missed.until("where it belongs all is known", |s| s.get(&format!("/api/topics/{}", stays[1])).0 == 404).await;
    assert!(is_incomplete(&missed, &later));
}

/// A node without the right to read which topics have moved does not serve them as they were: it logs which right is
/// missing, and is not ready.
#[tokio::test]
async fn a_node_that_may_not_read_which_topics_moved_is_not_ready() {
    let redis = Redis::start();
    add(&redis, "d0", "merge:a", "delta", &json!({"a": 1}));
    redis.command(&["ACL", "SETUSER", "default", "resetkeys", "~[^{]*", "~{d0}:[^a]*"]);
    let server = Server::start(&config(&redis, OLD, &[]));
    server.until("it is logged", |s| s.log().contains("may not read which topics have moved")).await;
    assert!(server.log().contains("{d0}:away"), "{}", server.log());
    assert_eq!(server.get("/readyz").0, 503);
    redis.command(&["ACL", "SETUSER", "default", "allkeys"]);
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    assert_eq!(data(&server, "merge:a"), json!({"a": 1}));
}
