//! What publishers and operators learn of entries that are refused, or accepted with a warning.

use redis::streams::StreamRangeReply;
use serde_json::{Value, json};

use crate::support::bystander::Healthy;
#[cfg(feature = "nats")]
use crate::support::nats::Nats;
use crate::support::{OPEN, Redis, Server};

const STREAM: &str = "nexus:deltas";
const COPIES: &str = "nexus:deltas:refused";
const SKIPPED: &str = "source_skipped_total{source=\"redis nexus:deltas\"}";

/// A server with the default log level.
async fn plain_server(config: &str) -> Server {
    let server = Server::start_in(config, 0, &[("NEXUS_LOG", "info")]);
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    server
}

async fn redis_server(redis: &Redis, more: &str) -> Server {
    plain_server(&format!("{OPEN}\n{}{more}", redis.source_config())).await
}

fn add(redis: &Redis, fields: &[&str]) -> String {
    redis.xadd(STREAM, "*", fields)
}

fn counted(server: &Server, metric: &str, source: &str, reason: &str) -> f64 {
    server.metric(&format!("{metric}_total{{source=\"{source}\",reason=\"{reason}\"}}"))
}

/// Lines at WARN or above, of this reason.
fn lines(server: &Server, reason: &str) -> Vec<String> {
    let marked = format!("reason=\"{reason}\"");
    let log = server.log();
    log.lines().filter(|line| line.contains(" WARN ") && line.contains(&marked)).map(str::to_owned).collect()
}

/// The last entry of `/status` for this reason.
fn last_of(server: &Server, list: &str, reason: &str) -> Value {
    server.status()["sources"][0][list]["reasons"][reason].clone()
}

/// Checks one refusal or warning in the metric, the log and `/status`.
async fn is_reported(server: &Server, source: &str, is_refused: bool, id: &str, reason: &str, needles: &[&str]) {
    let (metric, list) = if is_refused { ("source_refused", "refused") } else { ("source_suspicious", "suspicious") };
    server.until(&format!("{reason} is counted"), |s| counted(s, metric, source, reason) >= 1.0).await;
    server.until(&format!("{reason} is reported"), |s| last_of(s, list, reason)["id"] == id).await;
    let report = last_of(server, list, reason);
    assert_eq!(
        (&report["id"], server.status()["sources"][0][list]["last"].as_str()),
        (&json!(id), Some(reason)),
        "{report}"
    );
    assert!(report["at_ms"].as_u64().unwrap() > 1_700_000_000_000, "{report}");
    server.until("logged", |s| lines(s, reason).iter().any(|line| line.contains(id))).await;
    let line = lines(server, reason).into_iter().find(|line| line.contains(id)).unwrap();
    for needle in needles {
        assert!(
            report.to_string().contains(json!(needle).to_string().trim_matches('"')),
            "{needle} missing in {report}"
        );
        assert!(line.contains(needle) || line.contains(&needle.replace('"', "\\\"")), "{needle} missing in {line}");
    }
    let remedy = report["remedy"].as_str().unwrap();
    assert!(!remedy.is_empty() && line.contains("remedy="), "{line}");
    if is_refused {
        let note = server.status()["sources"][0]["note"].as_str().unwrap().to_owned();
        assert!(note.contains(id) && note.contains(remedy), "{note}");
    }
}

#[test]
fn every_reason_is_in_the_document_for_publishers() {
    let page = include_str!("../../../docs/redis.md");
    for reason in nexus_push::source::refusals::Reason::ALL {
        assert!(page.contains(&format!("`{}`", reason.label())), "{} is not in docs/redis.md", reason.label());
    }
}

#[tokio::test]
async fn each_refused_entry_is_reported_with_its_fault_and_remedy() {
    let redis = Redis::start();
    let server = redis_server(&redis, "").await;
    let mut client = server.client().await;
    client.subscribe(&["stream:good"]).await;
    let (deep, large, long) =
        ("[".repeat(70) + &"]".repeat(70), format!("\"{}\"", "x".repeat(300_000)), "x".repeat(300));
    let cases: &[(&[&str], &str, &[&str])] = &[
        (&["nexus:away", "true"], "cut", &["`nexus:away` is `true`", "no mark of `nexus-push reshard`"]),
        (&["data", "{}", "tpoic", "merge:a"], "no_topic", &["no field `topic`", "did you mean `topic` by `tpoic`"]),
        (&["topic", "merge:b", "payload", "{}"], "no_data", &["merge:b", "did you mean `data` by `payload`"]),
        (&["topic", "bad name", "data", "1"], "name", &["bad name", "U+0020"]),
        (
            &["topic", "merge:d", "data", "{bid:1}"],
            "not_json",
            &["merge:d", "{bid:1}", "without double quotes, at byte 2"],
        ),
        (&["topic", "merge:e", "data", &deep], "too_deep", &["merge:e", "deeper than 64"]),
        (&["topic", "merge:f", "data", &large], "too_large", &["merge:f", "300002 bytes", "limits.delta_bytes"]),
        (&["topic", "merge:g", "data", "[1,2]"], "not_an_object", &["merge:g", "`[1,2]`", "JSON objects"]),
        (
            &["topic", "merge:h", "kind", "full", "data", "{}"],
            "kind",
            &["merge:h", "`full`", "did you mean `snapshot`"],
        ),
        (&["topic", "stream:i", "kind", "snapshot", "data", "1"], "stream_snapshot", &["stream:i", "class stream"]),
        (&["topic", "ops:nodes", "data", "{}"], "reserved", &["ops:nodes", "the server's own"]),
    ];
    for (n, (fields, reason, needles)) in cases.iter().enumerate() {
        let id = add(&redis, fields);
        redis.add("stream:good", &json!(n));
        is_reported(&server, "redis nexus:deltas", true, &id, reason, needles).await;
        assert_eq!(client.next().await["data"], n, "valid deltas are delivered");
    }
    add(&redis, &["topic", &long, "data", "1"]);
    let refused = cases.len() as f64 + 1.0;
    server.until("all are counted", |s| s.metric("source_skipped_total") == refused).await;
    assert_eq!(server.metric("source_refused_total"), refused);
    assert_eq!(server.metric("deltas_refused_total"), refused, "each refusal is counted once");
    assert!(last_of(&server, "refused", "name")["topic"].as_str().unwrap().len() < 100, "cut");
    assert!(server.log().lines().all(|line| line.len() < 2_000));
}

/// A mark by `nexus-push reshard` makes topics leave a stream, but not if it is in an entry with a delta, or in a copy
/// of the stream.
#[tokio::test]
async fn a_mark_of_reshard_that_a_publisher_wrote_by_mistake_moves_nothing() {
    let redis = Redis::start();
    let server = redis_server(&redis, "").await;
    let mut client = server.client().await;
    client.subscribe(&["stream:good"]).await;
    let mark = |stream: Value| {
        json!({"run": "r", "streams": ["elsewhere"], "slices": 1, "slice": 0, "stream": stream}).to_string()
    };
    let (own, copied) = (mark(json!(STREAM)), mark(json!("d0")));
    let to_none = own.replace("[\"elsewhere\"]", "[]");
    let cases: [&[&str]; 3] =
        [&["nexus:away", &own, "topic", "merge:a", "data", "{}"], &["nexus:away", &copied], &["nexus:away", &to_none]];
    for (n, fields) in cases.into_iter().enumerate() {
        let id = add(&redis, fields);
        redis.add("stream:good", &json!(n));
        assert_eq!(client.next().await["data"], n, "its topics are where they were");
        let report = last_of(&server, "refused", "cut");
        assert_eq!((&report["id"], report["count"].as_u64()), (&json!(id), Some(n as u64 + 1)), "{report}");
        assert_eq!(report["topic"], if n == 0 { json!("merge:a") } else { Value::Null }, "{report}");
    }
    assert_eq!(server.get("/api/topics/merge:a").0, 404);
    // A mark of an older version, without the stream's name.
    let old = json!({"run": "r", "streams": ["elsewhere"], "slices": 1, "slice": 0}).to_string();
    add(&redis, &["nexus:away", &old]);
    redis.add("stream:good", &json!("left"));
    server.until("it counts", |s| s.metric("moved_deltas_skipped_total") == 1.0).await;
}

#[tokio::test]
async fn an_id_without_an_offset_is_reported() {
    let redis = Redis::start();
    let server = redis_server(&redis, "refused = true\n").await;
    for (id, reason, needle) in [
        ("1600000000000-", "id_too_early", "a time before 2024"),
        ("1750000000000-900", "id_sequence", "a sequence above 8191"),
        ("1750000000000000-", "id_too_late", "after November 2058"),
    ] {
        // Each topic has its own log line, however soon after another's; an unreadable topic has the line of no topic.
        for (n, (field, topic, shown)) in [
            ("topic", "merge:a", json!("merge:a")),
            ("channel", "merge:b", json!("merge:b")),
            ("topic", "merge:\u{1b}[31m", json!("merge:\\u001b[31m")),
            ("topic", &"x".repeat(5_000), json!("x".repeat(64) + "…")),
            ("topic", "", Value::Null),
            ("elsewhere", "merge:c", Value::Null),
        ]
        .into_iter()
        .enumerate()
        {
            let id = &format!("{id}{n}");
            redis.xadd(STREAM, id, &[field, topic, "data", "{}"]);
            server.until(reason, |s| last_of(s, "refused", reason)["id"] == json!(id)).await;
            let report = last_of(&server, "refused", reason);
            assert!(report["text"].as_str().unwrap().contains(needle) && report["topic"] == shown, "{report}");
            let has_line = |s: &Server| lines(s, reason).into_iter().find(|line| line.contains(id.as_str()));
            if n < 5 {
                server.until("logged", |s| has_line(s).is_some()).await;
                let line = has_line(&server).unwrap();
                match shown.as_str() {
                    Some(shown) => assert!(line.contains(&format!("topic={:?}", shown)), "{line}"),
                    None => assert!(!line.contains("topic="), "{line}"),
                }
            }
        }
        assert_eq!(lines(&server, reason).len(), 5, "{:?}", lines(&server, reason));
    }
    server.until("copied", |s| s.metric("refused_copied_total") == 12.0).await;
    let last = copies(&redis).await.ids.last().unwrap().id.clone();
    assert_eq!(last, "1750000000000-9005", "the copies take what comes in a new stream");
}

/// Bytes that are not valid text, wherever text is expected.
#[tokio::test]
async fn entries_that_are_not_utf8_are_refused_as_such() {
    let redis = Redis::start();
    let server = redis_server(&redis, "").await;
    redis.add_bytes("merge:a", b"{\"a\":\"\xff\x1b[31m\"}");
    server.until("refused", |s| counted(s, "source_refused", "redis nexus:deltas", "not_utf8") == 1.0).await;
    let mut connection = connection(&redis).await;
    let not_text: &[u8] = b"\xff\xfe";
    for (field, reason) in [("topic", "name"), ("kind", "kind")] {
        let other = if field == "topic" { "kind" } else { "topic" };
        let mut add = redis::cmd("XADD");
        add.arg(STREAM).arg("*").arg(field).arg(not_text).arg(other).arg("delta").arg("data").arg("1");
        add.exec_async(&mut connection).await.unwrap();
        server.until(field, |s| counted(s, "source_refused", "redis nexus:deltas", reason) == 1.0).await;
    }
    assert!(server.log().bytes().all(|byte| byte != 0x1b), "nothing of it colours a terminal");
}

async fn connection(redis: &Redis) -> redis::aio::MultiplexedConnection {
    redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// The value is right, whatever is wrong with its time: clients get it, with the entry's own time, on every node alike.
#[tokio::test]
async fn an_invalid_time_is_a_warning_and_the_delta_is_accepted() {
    let redis = Redis::start();
    let server = redis_server(&redis, "").await;
    let mut client = server.client().await;
    client.subscribe(&["merge:a"]).await;
    for (n, (ts, reason, needle)) in [
        ("1723161256", "ts_seconds", "1723161256000"),
        ("1723161256313000", "ts_microseconds", "a time in microseconds"),
        ("1723161256313000000", "ts_nanoseconds", "a time in nanoseconds"),
        ("1723161256313.25", "ts_fraction", "a whole number"),
        ("2024-08-08T00:14:16.313Z", "ts_date", "a date in words"),
        ("yesterday", "ts_not_a_number", "no number"),
        ("20240808", "ts_too_early", "before the year 2000"),
        ("9999999999999", "ts_too_late", "more than a day ahead"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = add(&redis, &["topic", "merge:a", "data", &json!({"n": n}).to_string(), "ts", ts]);
        let delta = client.next().await;
        assert_eq!((&delta["data"]["n"], &delta["ts"]), (&json!(n), &json!(milliseconds(&id))));
        is_reported(&server, "redis nexus:deltas", false, &id, reason, &["merge:a", ts, needle]).await;
    }
    let (earliest, latest) = ("946684800000".to_owned(), (now_ms() + 80_000_000).to_string());
    for ts in [&earliest, &latest] {
        add(&redis, &["topic", "merge:a", "data", "{\"n\":\"good\"}", "ts", ts]);
        assert_eq!(client.next().await["ts"].to_string(), **ts);
    }
    add(&redis, &["topic", "merge:a", "data", "{\"n\":\"last\"}", "ts", "1723161256"]);
    assert_eq!(client.next().await["data"]["n"], "last");
    assert_eq!((server.metric("source_suspicious_total"), server.metric(SKIPPED)), (9.0, 0.0));
    let second = redis_server(&redis, "").await;
    let view = |server: &Server| server.http("GET", "/api/topics/merge:a", &[], "");
    let (one, other) = (view(&server), view(&second));
    assert_eq!((one.0, one.2), (other.0, other.2), "the same on a node that starts later");
}

fn now_ms() -> u64 {
    u64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn milliseconds(id: &str) -> u64 {
    id.split_once('-').unwrap().0.parse().unwrap()
}

#[tokio::test]
async fn the_api_refuses_an_invalid_time_with_its_reason() {
    let server = Server::open();
    let publish = |ts: Value| server.post("/api/publish", &json!({"channel": "merge:a", "data": {}, "ts": ts}));
    for (ts, needle) in [
        (json!(1_723_161_256), "a time in seconds; give Unix milliseconds"),
        (json!(1_723_161_256.5), "a time in seconds"),
        (json!(1_723_161_256_313_000_u64), "a time in microseconds"),
        (json!(1_723_161_256_313_000_000_u64), "a time in nanoseconds"),
        (json!("2024-08-08T00:14:16Z"), "a date in words"),
        (json!(now_ms() + 90_000_000), "more than a day ahead"),
    ] {
        let (status, reply) = publish(ts.clone());
        assert_eq!(status, 400, "{ts}: {reply}");
        assert!(reply["error"]["message"].as_str().unwrap().contains(needle), "{ts}: {reply}");
    }
    assert_eq!(server.get("/api/topics/merge:a").0, 404, "nothing was published");
    assert_eq!(publish(json!(1_723_161_256_313_u64)).0, 200);
}

/// A publisher's own field with a name that `nexus-push reshard` uses: the delta is accepted with a warning.
#[tokio::test]
async fn a_reserved_field_is_a_warning_and_counts_begin_with_the_node() {
    let redis = Redis::start();
    let server = redis_server(&redis, "").await;
    let before = now_ms();
    let id = add(&redis, &["topic", "merge:a", "data", "{\"a\":1}", "nexus:away", "{}"]);
    let source = "redis nexus:deltas";
    is_reported(&server, source, false, &id, "reserved_field", &["merge:a", "`nexus:away`", "nexus-push reshard"])
        .await;
    assert_eq!(server.get("/api/topics/merge:a").0, 200);
    let since = |server: &Server, list: &str| server.status()["sources"][0][list]["since_ms"].as_u64().unwrap();
    assert!(since(&server, "suspicious") <= before && since(&server, "refused") <= before);
    // Another node counts what it reads, from its own start.
    let other = redis_server(&redis, "").await;
    assert!(since(&other, "suspicious") >= before);
    other.until("counted", |s| counted(s, "source_suspicious", source, "reserved_field") == 1.0).await;
}

#[tokio::test]
async fn a_topic_may_be_called_a_channel() {
    let redis = Redis::start();
    let server = redis_server(&redis, "").await;
    let mut client = server.client().await;
    client.subscribe(&["stream:a", "stream:b"]).await;
    add(&redis, &["channel", "stream:a", "data", "1"]);
    assert_eq!(client.next().await["topic"], "stream:a");
    add(&redis, &["channel", "stream:b", "topic", "stream:a", "data", "2"]);
    assert_eq!(client.next().await["topic"], "stream:a", "if both exist, the configured field counts");
    assert_eq!(server.metric(SKIPPED), 0.0);
}

#[tokio::test]
async fn a_misspelt_namespace_is_reported_whether_refused_or_not() {
    let redis = Redis::start();
    let open = redis_server(&redis, "").await;
    let refusing = OPEN.replace("[access]", "[access]\nunknown_namespace = \"refuse\"");
    let strict = plain_server(&format!("{refusing}\n{}", redis.source_config())).await;
    let source = "redis nexus:deltas";
    let id = add(&redis, &["topic", "mereg:a", "data", "{}"]);
    is_reported(&open, source, false, &id, "near_namespace", &["mereg:a", "did you mean `merge`?", "[default]"]).await;
    is_reported(&strict, source, true, &id, "unknown_namespace", &["mereg:a", "did you mean `merge`?"]).await;
    assert_eq!((open.get("/api/topics/mereg:a").0, strict.get("/api/topics/mereg:a").0), (200, 404));
    let id = add(&redis, &["topic", "other:a", "data", "{}"]);
    is_reported(&strict, source, true, &id, "unknown_namespace", &["other:a", "access.unknown_namespace"]).await;
    assert_eq!(strict.metric("deltas_refused_total{reason=\"unknown_namespace\"}"), 2.0);
    open.until("taken", |s| s.get("/api/topics/other:a").0 == 200).await;
    assert_eq!(open.metric("source_suspicious_total"), 1.0, "a name that is near none may be meant");
    let (status, reply) = strict.post("/api/publish", &json!({"channel": "mereg:a", "data": {}}));
    assert!(status == 404 && reply.to_string().contains("did you mean `merge`?"), "{status} {reply}");
}

#[tokio::test]
async fn what_there_is_no_room_for_is_told() {
    let redis = Redis::start();
    let few = redis_server(&redis, "[limits]\ntopics = 2").await;
    let small = redis_server(&redis, "[limits]\nstate_total_bytes = 65536").await;
    let large = json!({"a": "x".repeat(200_000)});
    redis.add("merge:1", &large);
    redis.add("merge:2", &json!({}));
    let id = redis.add("merge:3", &json!({}));
    let source = "redis nexus:deltas";
    is_reported(&few, source, true, &id, "too_many_topics", &["merge:3", "limits.topics"]).await;
    is_reported(&small, source, true, &id, "state_total", &["merge:3", "limits.state_total_bytes"]).await;
}

#[tokio::test]
async fn an_entry_in_the_wrong_stream_is_reported() {
    let redis = Redis::start();
    let server = redis_server(&redis, "streams = [\"a\", \"b\"]\n").await;
    for stream in ["a", "b"] {
        redis.xadd(stream, "*", &["topic", "latest:x", "kind", "move", "data", "1"]);
        // Deltas of other topics count too, and both streams are read by themselves: each move is waited for.
        server.until("moved", |s| s.metric(&format!("source_deltas_total{{source=\"redis {stream}\"}}")) >= 1.0).await;
    }
    let id = redis.xadd("a", "*", &["topic", "latest:x", "data", "2"]);
    is_reported(&server, "redis a", true, &id, "wrong_partition", &["latest:x", "nexus-push partition"]).await;
}

/// A hundred thousand topics with the same fault: a few log lines with the total, and no more memory.
#[tokio::test]
async fn a_flood_of_faults_makes_few_lines_and_delays_no_valid_delta() {
    let redis = Redis::start();
    let server = redis_server(&redis, "refused = true\n").await;
    let mut client = server.client().await;
    client.subscribe(&["stream:good"]).await;
    let mut healthy = Healthy::beside(&server).await;
    let script = "for i = 1, 10000 do
        redis.call('XADD', KEYS[1], '*', 'topic', 'merge:' .. ARGV[1] .. ':' .. i, 'data', '[' .. i .. ']') end";
    let mut before = 0;
    for round in 0..10u32 {
        redis.command(&["EVAL", script, "1", STREAM, &round.to_string()]);
        redis.add("stream:good", &json!(round));
        assert_eq!(client.next().await["data"], round);
        healthy.is_well(&server).await;
        if round == 4 {
            before = server.status()["memory"]["rss_bytes"].as_u64().unwrap();
        }
    }
    server.until("all are counted", |s| s.metric("source_skipped_total") == 100_000.0).await;
    let lines = lines(&server, "not_an_object");
    assert!((2..=400).contains(&lines.len()), "{} lines", lines.len());
    let last = last_of(&server, "refused", "not_an_object");
    assert_eq!((&last["count"], &last["topic"]), (&json!(100_000), &json!("merge:9:10000")));
    assert!(server.status()["memory"]["rss_bytes"].as_u64().unwrap() < before + 16 * 1024 * 1024);
    assert_eq!(server.status()["topics"], 2, "nothing is left of what was refused");
    let copied = server.metric("refused_copied_total") + server.metric("refused_copies_dropped_total");
    assert!(copied > 0.0 && redis.command(&["XLEN", COPIES]).trim_start_matches(':').parse::<u64>().unwrap() < 1_200);
}

async fn copies(redis: &Redis) -> StreamRangeReply {
    redis::cmd("XRANGE").arg(COPIES).arg("-").arg("+").query_async(&mut connection(redis).await).await.unwrap()
}

/// Two nodes, one copy; with the reason; cut; not repeated by a node that starts.
#[tokio::test]
async fn a_refused_entry_is_copied_once_with_the_reason() {
    let redis = Redis::start();
    redis.xadd(STREAM, "*", &["topic", "merge:old", "data", "[0]"]);
    let servers = [redis_server(&redis, "refused = true\n").await, redis_server(&redis, "refused = true\n").await];
    let mut ids = Vec::new();
    for n in 0..50 {
        ids.push(add(&redis, &["topic", &format!("merge:{n}"), "data", "[1]", "more", "here"]));
    }
    let large = format!("\"{}\"", "x".repeat(300_000));
    ids.push(add(&redis, &["topic", "merge:large", "data", &large]));
    for server in &servers {
        server.until("refused", |s| s.metric("source_skipped_total") == 52.0).await;
    }
    let mut found = copies(&redis).await;
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while found.ids.len() < ids.len() {
        assert!(std::time::Instant::now() < deadline, "{} copies", found.ids.len());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        found = copies(&redis).await;
    }
    assert_eq!(found.ids.iter().map(|copy| copy.id.clone()).collect::<Vec<_>>(), ids, "each once, under its own ID");
    let field = |at: usize, name: &str| found.ids[at].get::<String>(name).unwrap_or_default();
    assert_eq!((field(7, "refused_id"), field(7, "refused_reason")), (ids[7].clone(), "not_an_object".to_owned()));
    assert!(field(7, "refused_text").contains("`[1]`") && !field(7, "refused_remedy").is_empty());
    assert_eq!(
        (field(7, "topic"), field(7, "data"), field(7, "more")),
        ("merge:7".into(), "[1]".into(), "here".into())
    );
    assert_eq!((field(50, "topic"), field(50, "refused_reason")), ("merge:large".into(), "too_large".into()));
    assert!(field(50, "data").len() < 9_000 && field(50, "refused_cut_bytes").parse::<u64>().unwrap() > 290_000);
    let third = redis_server(&redis, "refused = true\n").await;
    assert_eq!(third.metric("source_skipped_total"), 52.0, "it has read them all");
    let last = add(&redis, &["topic", "merge:last", "data", "[1]"]);
    third.until("refused", |s| s.metric("source_skipped_total") == 53.0).await;
    let sum = || servers.iter().chain([&third]).map(|s| s.metric("refused_copied_total")).sum::<f64>();
    third.until("copied", |_| sum() == 52.0).await;
    assert_eq!(copies(&redis).await.ids.last().unwrap().id, last);
    let dropped: f64 = servers.iter().map(|s| s.metric("refused_copies_dropped_total")).sum();
    assert_eq!(dropped, 0.0);
}

/// Redis takes no copies: this is logged once and counted, and reading continues.
#[tokio::test]
async fn copies_that_cannot_be_written_are_in_nobodys_way() {
    let redis = Redis::start();
    redis.command(&["SET", COPIES, "not a stream"]);
    let server = redis_server(&redis, "refused = true\nrefused_max_len = 10\n").await;
    let mut client = server.client().await;
    client.subscribe(&["stream:good"]).await;
    for n in 0..100 {
        add(&redis, &["topic", &format!("merge:{n}"), "data", "[1]"]);
        redis.add("stream:good", &json!(n));
        assert_eq!(client.next().await["data"], n);
    }
    server.until("all are dropped", |s| s.metric("refused_copies_dropped_total") == 100.0).await;
    let logged = server.log().lines().filter(|line| line.contains("cannot be written")).count();
    assert_eq!(logged, 1, "once");
    redis.command(&["DEL", COPIES]);
    add(&redis, &["topic", "merge:again", "data", "[1]"]);
    server.until("copied", |s| s.metric("refused_copied_total") == 1.0).await;
}

#[tokio::test]
async fn a_namespace_to_which_nothing_ever_came_is_seen_in_the_status() {
    let redis = Redis::start();
    let server = redis_server(&redis, "").await;
    redis.add("merge:a", &json!({}));
    server.until("counted", |s| s.status()["namespaces"]["merge"]["topics"] == 1).await;
    let namespaces = server.status()["namespaces"].clone();
    assert!(namespaces["merge"]["last_delta_ms"].as_u64().unwrap() > 1_700_000_000_000, "{namespaces}");
    assert_eq!(namespaces["latest"], json!({"topics": 0, "stale": 0, "last_delta_ms": null}), "{namespaces}");
}

#[cfg(feature = "nats")]
#[tokio::test]
async fn messages_of_nats_are_reported_in_the_same_words() {
    let nats = Nats::start();
    let refusing = OPEN.replace("[access]", "[access]\nunknown_namespace = \"refuse\"");
    let server = plain_server(&nats.config("").replace(OPEN, &refusing)).await;
    let mut client = server.client().await;
    client.subscribe(&["stream:good", "merge:t"]).await;
    type Case<'a> = (&'a str, Option<&'a str>, &'a [u8], &'a str, &'a [&'a str]);
    let deep = "[".repeat(70) + &"]".repeat(70);
    let cases: &[Case<'_>] = &[
        ("nexus.deltas.merge.a", None, b"", "no_data", &["merge:a", "no payload"]),
        ("nexus.deltas.merge.b", None, b"{bid:1}", "not_json", &["merge:b", "{bid:1}", "without double quotes"]),
        ("nexus.deltas.merge.c", None, b"\xff\x00", "not_utf8", &["merge:c"]),
        ("nexus.deltas.merge.d", None, deep.as_bytes(), "too_deep", &["merge:d"]),
        ("nexus.deltas.merge.e", None, b"[1]", "not_an_object", &["merge:e", "`[1]`"]),
        ("nexus.deltas.merge.f", Some("Nexus-Kind: full"), b"{}", "kind", &["`full`", "did you mean `snapshot`"]),
        ("nexus.deltas.stream.g", Some("Nexus-Kind: snapshot"), b"1", "stream_snapshot", &["stream:g"]),
        ("nexus.deltas.mereg.h", None, b"{}", "unknown_namespace", &["mereg:h", "did you mean `merge`?"]),
        ("nexus.deltas.ops.nodes", None, b"{}", "reserved", &["ops:nodes"]),
        ("nexus.deltas.x", Some("Nexus-Topic: bad name"), b"1", "name", &["bad name", "U+0020"]),
    ];
    for (n, (subject, header, payload, reason, needles)) in cases.iter().enumerate() {
        let header = header.map(|header| format!("NATS/1.0\r\n{header}\r\n\r\n"));
        nats.raw(subject.as_bytes(), header.as_deref().map(str::as_bytes), payload);
        nats.raw(b"nexus.deltas.stream.good", None, n.to_string().as_bytes());
        let sequence = (2 * n + 1).to_string();
        is_reported(&server, "nats NEXUS", true, &sequence, reason, needles).await;
        assert_eq!(client.next().await["data"], n);
    }
    for (ts, reason) in [("1723161256", "ts_seconds"), ("2024-08-08T00:14:16Z", "ts_date"), ("5", "ts_too_early")] {
        let header = format!("NATS/1.0\r\nNexus-Ts: {ts}\r\n\r\n");
        nats.raw(b"nexus.deltas.merge.t", Some(header.as_bytes()), b"{}");
        let delta = client.next().await;
        assert!(delta["ts"].as_u64().unwrap() > 1_750_000_000_000, "{delta}");
        let offset = delta["offset"].to_string();
        is_reported(&server, "nats NEXUS", false, &offset, reason, &["merge:t", ts, "Nexus-Ts"]).await;
    }
    assert_eq!(server.metric("source_refused_total"), cases.len() as f64);
}
