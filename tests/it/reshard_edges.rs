//! `nexus-push reshard` where something is not as it should be: lists that are wrong, runs beside each other, entries that are gone,
//! moves that do not come, and values that come late.

use std::time::Duration;

use serde_json::{Value, json};

use crate::redis_groups::{Cluster, Sentinels};
use crate::reshard::{Run, add, config, home, node, view};
use crate::support::{OPEN, Redis, Server};

const OLD: &[&str] = &["d0"];
const NEW: &[&str] = &["d0", "d1"];

/// A topic of this class that goes from the old stream to the new one.
fn leaving(class: &str) -> String {
    (0..).map(|n| format!("{class}:{n}")).find(|name| home(name, NEW) == "d1").unwrap()
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
    assert!(!run.end().await, "{}", run.said());
    for needle in needles {
        assert!(run.said().contains(needle), "{needle:?} is not said:\n{}", run.said());
    }
}

#[tokio::test]
async fn lists_that_are_wrong_are_refused_and_a_dry_run_moves_nothing() {
    let redis = Redis::start();
    for n in 0..50 {
        add(&redis, "d0", &format!("latest:{n}"), "delta", &json!(n));
    }
    fails(&redis, OLD, &["d0", "d0"], &[], &["--to d0,d0", "\"d0\" is empty or there twice"]).await;
    let mut run = Run::with(&config(&redis, OLD, NEW), &["d0", ""], &[]);
    assert!(!run.end().await && run.said().contains("\"\" is empty or there twice"), "{}", run.said());
    fails(&redis, OLD, OLD, &[], &["--from and --to are the same (d0)"]).await;
    let mut run = Run::start(&redis, OLD, NEW, &["--dry-run"]);
    assert!(run.end().await, "{}", run.said());
    let moving = (0..50).filter(|n| home(&format!("latest:{n}"), NEW) == "d1").count();
    assert!(run.said().contains(&format!("{moving} topics go from d0 to d1")), "{}", run.said());
    assert!(run.said().contains(&format!("{moving} of 50 topics would be moved; nothing was done")), "{}", run.said());
}

/// Each key with all that it holds.
fn everything(redis: &Redis) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    let dump =
        |key: &String, connection: &mut redis::Connection| redis::cmd("DUMP").arg(key).query(connection).unwrap();
    keys.into_iter().map(|key| (key.clone(), dump(&key, &mut connection))).collect()
}

/// Also where a node would write: no epoch is there, an entry is refused, and a millisecond of IDs is nearly used up.
#[tokio::test]
async fn a_dry_run_writes_nothing_at_all() {
    let redis = Redis::start();
    for n in 0..20 {
        add(&redis, "d0", &format!("latest:{n}"), "delta", &json!(n));
    }
    add(&redis, "d0", "latest:0", "full", &json!(0));
    let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() + 3_600_000;
    redis.command(&["XADD", "d0", &format!("{soon}-5000"), "topic", "latest:0", "data", "1"]);
    let before = everything(&redis);
    assert_eq!(before.len(), 1, "{:?}", before.keys());
    let config = format!("{}refused = true\n", config(&redis, OLD, NEW));
    let mut run = Run::with(&config, NEW, &["--dry-run"]);
    assert!(run.end().await && run.said().contains("nothing was done"), "{}", run.said());
    let after = everything(&redis);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    assert!(before == after, "a key was changed");
    // Nodes that have read it have written; a dry run beside them has not.
    let server = Server::start(&config);
    server.until("ready", |s| s.get("/readyz").0 == 200 && redis.command(&["EXISTS", "{d0}:epoch"]) == ":1").await;
    drop(server);
    let before = everything(&redis);
    let mut run = Run::with(&config, NEW, &["--dry-run"]);
    assert!(run.end().await, "{}", run.said());
    assert!(before == everything(&redis), "a key was changed");
}

/// A stream of a name that nobody uses is no empty stream.
#[tokio::test]
async fn streams_that_are_not_there_are_named_with_those_that_are() {
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
    // One that nodes read is there, though nothing was published in it.
    let server = node(&redis, configured, &["d2"]).await;
    let mut run = Run::start(&redis, configured, &["d0", "d1", "d2"], &["--dry-run"]);
    assert!(run.end().await, "{}", run.said());
    drop(server);
}

/// Who waits for a Redis that is away is told so from the beginning, and in the end what is to be looked at.
#[tokio::test]
async fn a_redis_that_is_away_is_told_and_waited_for() {
    let redis = Redis::start();
    let away = format!("redis://user:secret-word@127.0.0.1:{}", crate::support::free_port());
    let config = config(&redis, OLD, NEW);
    let mut run = Run::with(&config, NEW, &["--redis", &away]);
    assert!(
        run.says("it is tried again for 10s (source.redis.url, or --redis, says where it is)").await,
        "{}",
        run.said()
    );
    assert!(run.said().contains("refused") && run.said().contains("***@127.0.0.1:"), "{}", run.said());
    assert!(!run.end().await, "{}", run.said());
    assert!(run.said().contains("Is that where it is (source.redis.url, or --redis)?"), "{}", run.said());
    for word in ["secret-word", "run it again", "not loaded"] {
        assert!(!run.said().contains(word), "{word}: {}", run.said());
    }
    // One that does not let it in is not tried again.
    redis.command(&["CONFIG", "SET", "requirepass", "another-word"]);
    let mut run = Run::with(&config, NEW, &[]);
    assert!(!run.end().await && run.said().contains("Authentication required"), "{}", run.said());
    assert!(!run.said().contains("tried again"), "{}", run.said());
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
    assert!(first.says("topics are moved").await, "{}", first.said());
    fails(&redis, OLD, &["d0", "d2"], &[], &["topics are on their way from d0", "with --to d0,d1"]).await;
    let mut second = Run::start(&redis, OLD, NEW, &["--quiet", "600"]);
    assert!(second.says("a run that was broken off goes on").await, "{}", second.said());
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    let mut n = 0;
    // Each entry is handed on by one of them; that which comes second finds that it was, and ends.
    while first.is_running() && second.is_running() {
        assert!(std::time::Instant::now() < deadline, "both go on:\n{}\n{}", first.said(), second.said());
        n += 1;
        add(&redis, "d0", &topic, "delta", &json!({format!("m{}", n % 7): n}));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ended = if first.is_running() { &mut second } else { &mut first };
    assert!(!ended.end().await && ended.said().contains("another run hands entries of d0 on"), "{}", ended.said());
    first.kill();
    second.kill();
    let mut last = Run::start(&redis, OLD, NEW, &["--quiet", "0"]);
    assert!(last.end().await, "{}", last.said());
    // The mark that begins it, a move and each entry, once.
    let entries = redis.command(&["XLEN", "d1"]);
    let moved = (0..20).filter(|n| home(&format!("latest:{n}"), NEW) == "d1").count();
    assert_eq!(entries, format!(":{}", moved + 2 + n));
    server.until("read", |s| data(s, &topic)[format!("m{}", n % 7)] == n).await;
    assert!(!is_incomplete(&server, &topic));
}

/// What comes in an old stream after the end is refused, and said on each node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_in_the_old_stream_after_the_end_is_refused_and_said() {
    let redis = Redis::start();
    let topic = leaving("latest");
    add(&redis, "d0", &topic, "delta", &json!("before"));
    let server = node(&redis, OLD, NEW).await;
    let mut run = Run::start(&redis, OLD, NEW, &["--quiet", "0"]);
    assert!(run.end().await, "{}", run.said());
    server.until("moved", |s| s.metric("topics_moved_total") == 1.0).await;
    assert_eq!(wrong_partition(&server), 0.0);
    add(&redis, "d0", &topic, "delta", &json!("late"));
    server.until("refused", |s| wrong_partition(s) == 1.0).await;
    assert_eq!(data(&server, &topic), "before");
    // One that never was there is refused too: nobody would hand it on.
    let unknown = (0..).map(|n| format!("latest:new{n}")).find(|name| home(name, NEW) == "d1").unwrap();
    add(&redis, "d0", &unknown, "delta", &json!("late"));
    server.until("refused", |s| wrong_partition(s) == 2.0).await;
    // A node that reads it later may read the old stream first, and comes to the same.
    let late = node(&redis, NEW, OLD).await;
    assert_eq!(view(&server, &topic), view(&late, &topic));
    for node in [&server, &late] {
        node.until("it is not there", |s| s.get(&format!("/api/topics/{unknown}")).0 == 404).await;
    }
    // A run again finds nothing to do.
    let mut run = Run::start(&redis, NEW, NEW, &["--from", "d0", "--quiet", "0"]);
    assert!(run.end().await && run.said().contains("all where they belong"), "{}", run.said());
}

/// A Redis that loses what it had ends the command: what it moved may be gone, and publishers have acted on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_loses_everything_ends_it() {
    let redis = Redis::start();
    add(&redis, "d0", &leaving("latest"), "delta", &json!(1));
    let server = node(&redis, OLD, NEW).await;
    let mut run = Run::start(&redis, OLD, NEW, &["--quiet", "600"]);
    assert!(run.says("switch the publishers now").await, "{}", run.said());
    let epoch = redis.command(&["GET", "{d0}:epoch"]);
    redis.command(&["FLUSHALL"]);
    server.until("another epoch", |_| !["", &epoch].contains(&redis.command(&["GET", "{d0}:epoch"]).as_str())).await;
    assert!(!run.end().await, "{}", run.said());
    assert!(run.said().contains("Redis has lost entries of d"), "{}", run.said());
}

/// The command is away, and entries that it had not handed on are trimmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_are_gone_are_not_passed_over_in_silence() {
    let redis = Redis::start();
    let topic = leaving("merge");
    add(&redis, "d0", &topic, "delta", &json!({"a": 1}));
    let server = node(&redis, OLD, NEW).await;
    let mut run = Run::start(&redis, OLD, NEW, &["--quiet", "600"]);
    assert!(run.says("topics are moved").await, "{}", run.said());
    run.kill();
    add(&redis, "d0", &topic, "delta", &json!({"lost": 1}));
    add(&redis, "d0", "latest:other", "delta", &json!(1));
    redis.command(&["XTRIM", "d0", "MAXLEN", "0"]);
    fails(&redis, OLD, NEW, &["--quiet", "0"], &["were trimmed before they were handed on", "--skip-lost"]).await;
    let mut run = Run::start(&redis, OLD, NEW, &["--quiet", "0", "--skip-lost"]);
    assert!(run.end().await, "{}", run.said());
    assert!(run.said().contains("are gone; states are incomplete"), "{}", run.said());
    server.until("told", |s| is_incomplete(s, &topic)).await;
    assert_eq!(data(&server, &topic), json!({"a": 1}));
    add(&redis, "d1", &topic, "snapshot", &json!({"whole": 1}));
    server.until("whole", |s| data(s, &topic) == json!({"whole": 1})).await;
    assert!(!is_incomplete(&server, &topic));
}

/// Cuts the old stream as the command does.
fn cut(redis: &Redis) {
    let value = json!({"run": "r", "streams": NEW, "slices": 1, "slice": 0}).to_string();
    let id = redis.command(&["XADD", "d0", "*", "nexus:away", &value]);
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

/// The command is killed after a cut: what is served lacks what comes after it, and says so, until the command is run again.
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
    let told = client.next().await;
    assert_eq!(
        (&told["type"], &told["incomplete"], &told["data"]),
        (&json!("snapshot"), &json!(true), &json!({"a": 1}))
    );
    server.until("said", |s| s.log().contains("topics have left and are not where they go")).await;
    assert_eq!(server.metric("deltas_left_total"), 1.0);
    let mut run = Run::start(&redis, OLD, NEW, &["--quiet", "0"]);
    assert!(run.end().await && run.said().contains("a run that was broken off goes on"), "{}", run.said());
    let told = client.next().await;
    assert_eq!((&told["type"], &told["data"]), (&json!("snapshot"), &json!({"a": 1})), "{told}");
    assert_eq!(told.get("incomplete"), None, "{told}");
    assert_eq!(client.next().await["data"], json!({"b": 2}));
}

/// A node has read more of the new stream than of the old one: subscribers miss nothing of what came before the cut.
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
    // The node is at the move now, and the stream that it comes from is not read up to the cut.
    assert_eq!(until(&mut client, &aside).await["data"], "aside");
    redis.command(&["XADD", "d0", &at(far - 1), "topic", &topic, "data", "2"]);
    let delta = until(&mut client, &topic).await;
    assert_eq!((&delta["type"], &delta["data"]), (&json!("delta"), &json!(2)), "{delta}");
    redis.command(&["XADD", "d0", &at(far), "topic", "latest:z", "data", "0"]);
    let told = until(&mut client, &topic).await;
    assert_eq!((&told["type"], &told["data"]), (&json!("snapshot"), &json!([])), "{told}");
    // One that waits in vain goes on after some seconds, and says so.
    moves(&at(2 * far), "null");
    assert_eq!(until(&mut client, &aside).await["data"], "aside");
    assert!(!server.log().contains("is not read that far"), "{}", server.log());
    server.until("said", |s| s.log().contains("the stream that topics come from is not read that far")).await;
}

/// There and back, values and ends in between: a node that starts long after comes to the same, whichever stream it reads first.
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
    assert!(run.end().await, "{}", run.said());
    publish(NEW, "delta", 2, &|n| n % 3 > 0);
    publish(NEW, "delete", 2, &|n| n % 7 == 0);
    let mut run = Run::start(&redis, NEW, OLD, &["--quiet", "0"]);
    assert!(run.end().await, "{}", run.said());
    publish(OLD, "delta", 3, &|n| n % 5 > 0);
    publish(OLD, "delete", 4, &|n| n % 4 == 0);
    // What was deleted while it was away is published again where it came from.
    publish(OLD, "snapshot", 5, &|n| n % 14 == 0);
    let last = add(&redis, "d0", "latest:last", "delta", &json!(1));
    live.until("read", |s| data(s, "latest:last") == 1).await;
    for (n, topic) in topics.iter().enumerate().filter(|(n, _)| n % 14 == 0) {
        assert_eq!(data(&live, topic), json!({ "r5": n }), "{topic}");
    }
    live.until("saved", |_| redis.command(&["GET", "{d0}:position"]) == last).await;
    // A node that knows the old list alone reads past marks of the way there, and has nothing to say of them.
    let back = node(&redis, OLD, &[]).await;
    assert!(!back.log().contains("that this node does not read"), "{}", back.log());
    drop(back);
    // So long after that nothing is kept of it but the streams.
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

/// The same command where Redis is behind sentinels, and where the streams are on three masters of a cluster.
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
        assert!(run.end().await, "{}", run.said());
        assert!(run.said().contains("checked: 60 topics, all where they belong"), "{}", run.said());
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
    assert!(!run.end().await && run.said().contains("has no [source.redis]"), "{}", run.said());
}
