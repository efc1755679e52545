//! Unusual streams: odd IDs, holes, a Redis that takes no writes or answers less.

use crate::support::slow_link::way;
use serde_json::{Value, json};

use crate::support::{Follower, OPEN, Redis, Server};

const STREAM: &str = "nexus:deltas";

fn add_as(redis: &Redis, id: &str, topic: &str, data: &Value) {
    redis.xadd(STREAM, id, &["topic", topic, "data", &data.to_string()]);
}

fn view(server: &Server, topic: &str) -> Value {
    let (status, body) = server.get(&format!("/api/topics/{topic}"));
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Event times of years ago, seconds with nanoseconds as sequence, and sequences that no millisecond has: refused on
/// every node alike, whatever it has read.
#[tokio::test]
async fn an_offset_is_made_of_its_entry_alone_or_the_entry_is_refused() {
    let redis = Redis::start();
    let first = redis.server("").await;
    for n in 0..5u64 {
        add_as(&redis, &format!("1600000{n:03}-{}", 123_456_789 - n), "stream:s", &json!("seconds and nanoseconds"));
    }
    for n in 0..5u64 {
        add_as(&redis, &format!("1600000000{n:03}-0"), "stream:s", &json!("old"));
    }
    // Yesterday: recent enough that the topic has not ended.
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let base = u64::try_from(since.as_millis()).unwrap() - 86_400_000;
    for n in 0..10u64 {
        add_as(&redis, &format!("{}-{}", base + n, n * 1_000), "stream:s", &json!(n));
        add_as(&redis, &format!("{}-{}", base + n, 9_192 + n), "stream:s", &json!("one too many"));
    }
    let expected: Vec<Value> = (0..9)
        .map(|n| json!({"offset": (base + n - 1_704_067_200_000) * 8_192 + n * 1_000, "ts": base + n, "data": n}))
        .collect();
    // The tenth has sequence 9,000.
    first.until("all are read", |s| s.metric("source_skipped_total") == 21.0).await;
    assert_eq!(first.metric("deltas_refused_total{reason=\"id_too_early\"}"), 10.0);
    assert_eq!(first.metric("deltas_refused_total{reason=\"id_sequence\"}"), 11.0);
    assert_eq!(first.get("/readyz").0, 200, "what follows has offsets");
    let second = redis.server("").await;
    redis.command(&["XTRIM", STREAM, "MAXLEN", "14"]);
    let third = redis.server("").await;
    let (status, body) = second.get("/api/topics/stream:s");
    assert_eq!(status, 200, "{body}");
    for server in [&first, &second] {
        assert_eq!(view(server, "stream:s")["data"], json!(expected));
    }
    assert_eq!(
        view(&third, "stream:s")["data"],
        json!(expected[3..]),
        "a node that starts later computes the same offsets"
    );
}

/// An ID in microseconds, nanoseconds, or the largest one: all later IDs are too large as well.
#[tokio::test]
async fn an_id_above_the_largest_offset_makes_the_node_not_ready() {
    for id in ["1750000000000000-0", "1750000000000000000-5", "18446744073709551615-1"] {
        let redis = Redis::start();
        let server = redis.server("").await;
        server.publish("latest:a", &json!(1));
        server.until("read", |s| s.get("/api/topics/latest:a").0 == 200).await;
        add_as(&redis, id, "latest:a", &json!("from the future"));
        server.until("not ready", |s| s.get("/readyz").0 == 503).await;
        let (_, why) = server.get("/readyz");
        assert!(why.contains(id) && why.contains("publish to a new stream, or delete this one"), "{why}");
        assert!(server.status()["sources"].to_string().contains(id), "{}", server.status()["sources"]);
        server.until("logged", |s| s.log().contains(id)).await;
        let (status, reply) = server.post("/api/publish", &json!({"channel": "latest:a", "data": 2}));
        assert_eq!(status, 503, "{reply}");
        assert!(reply.to_string().contains("after November 2058"), "{reply}");
        assert_eq!(view(&server, "latest:a")["data"], 1, "what was good is served on");
        // A node that starts is not ready either.
        let late = Server::start(&format!("{OPEN}\n{}", redis.source_config()));
        late.until("the reason is shown", |s| s.get("/readyz").1.contains("after November 2058")).await;
        // The remedy.
        redis.command(&["DEL", STREAM]);
        for server in [&server, &late] {
            server.until("ready", |s| s.get("/readyz").0 == 200).await;
            assert!(!server.status()["sources"].to_string().contains(id));
        }
        server.publish("latest:a", &json!(3));
        late.until("it continues", |s| s.get("/api/topics/latest:a").1.contains("\"data\":3")).await;
    }
}

/// Redis' clock is behind its last ID: all entries get that ID's millisecond, which has room for 8,192 entries.
#[tokio::test]
async fn a_clock_that_stands_still_uses_up_no_millisecond() {
    let redis = Redis::start();
    let server = redis.server("").await;
    let mut client = server.client().await;
    client.subscribe(&["stream:s"]).await;
    // Five years ahead.
    let ahead =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() + 157_680_000_000;
    add_as(&redis, &format!("{ahead}-0"), "stream:s", &json!(0));
    assert_eq!(client.next().await["data"], 0);
    let mut have = 0;
    for round in 0..12u64 {
        let script = format!(
            "for i = {}, {} do redis.call('XADD', KEYS[1], '*', 'topic', 'stream:s', 'data', tostring(i)) end",
            round * 2_500 + 1,
            (round + 1) * 2_500,
        );
        redis.command(&["EVAL", &script, "1", STREAM]);
        while have < (round + 1) * 2_500 {
            have += 1;
            assert_eq!(client.next().await["data"], have);
        }
    }
    assert_eq!(server.metric("source_skipped_total{source=\"redis nexus:deltas\"}"), 0.0);
    assert_eq!(server.metric("epoch_changes_total{source=\"redis nexus:deltas\"}"), 0.0);
}

/// However short the stream and the batch: clients that miss an entry are notified.
#[tokio::test]
async fn every_hole_is_noticed_however_short_the_stream() {
    for (kept, burst) in [(1u32, 2u32), (1, 7), (3, 5), (10, 11), (10, 200), (31, 40)] {
        let redis = Redis::start();
        let server = redis.server("").await;
        let mut client = server.client().await;
        redis.add("stream:s", &json!("before"));
        server.until("read", |s| s.get("/api/topics/stream:s").0 == 200).await;
        let reply = client.subscribe(&["stream:s"]).await;
        let epoch = reply["topics"]["stream:s"]["epoch"].clone();
        let script = format!(
            "for i = 1, {burst} do redis.call('XADD', KEYS[1], 'MAXLEN', '{kept}', '*', 'topic', 'stream:s', 'data', i) end"
        );
        redis.command(&["EVAL", &script, "1", STREAM]);
        let message = client.next().await;
        assert_eq!(message["type"], "snapshot", "{kept} of {burst}: {message}");
        assert_eq!(message["epoch"], epoch, "offsets are as good as before");
        assert_eq!(message["data"].as_array().unwrap().len(), kept as usize);
        assert_eq!(server.metric("source_missed_total{source=\"redis nexus:deltas\"}"), 1.0);
    }
}

/// A short stream that is read in time loses nothing: no hole is reported.
#[tokio::test]
async fn a_short_stream_that_is_read_in_time_has_no_holes() {
    for kept in [0u32, 1, 5] {
        let redis = Redis::start();
        let server = redis.server("").await;
        let mut client = server.client().await;
        client.subscribe(&["stream:s"]).await;
        for n in 0..50u32 {
            if kept == 0 {
                redis.add("stream:s", &json!(n));
            } else {
                let data = n.to_string();
                let kept = kept.to_string();
                redis.command(&["XADD", STREAM, "MAXLEN", &kept, "*", "topic", "stream:s", "data", &data]);
            }
            assert_eq!(client.next().await["data"], n);
            if kept == 0 {
                redis.command(&["XTRIM", STREAM, "MAXLEN", "0"]);
            }
        }
        assert_eq!(server.metric("source_missed_total{source=\"redis nexus:deltas\"}"), 0.0, "{kept}");
    }
}

/// Out of memory: reads work, writes do not. A running node continues over a reconnect, and a new one starts, with or
/// without an epoch in the database.
#[tokio::test]
async fn a_node_that_can_read_serves() {
    for has_epoch in [true, false] {
        let redis = Redis::start();
        redis.add("merge:a", &json!({"a": 1}));
        let running = redis.server("snapshot_every = \"100ms\"").await;
        if !has_epoch {
            redis.command(&["DEL", "{nexus:deltas}:epoch"]);
        }
        redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
        redis.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        let started = redis.server("").await;
        running.until("ready", |s| s.get("/readyz").0 == 200).await;
        for server in [&running, &started] {
            assert_eq!(view(server, "merge:a")["data"], json!({"a": 1}), "an epoch was there: {has_epoch}");
            let (status, reply) = server.post("/api/publish", &json!({"channel": "merge:a", "data": {"b": 2}}));
            assert_eq!(status, 503, "{reply}");
        }
        if has_epoch {
            assert_eq!(view(&running, "merge:a")["epoch"], view(&started, "merge:a")["epoch"]);
        }
        redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
        running
            .until("publishing works", |s| {
                s.post("/api/publish", &json!({"channel": "merge:a", "data": {"b": 2}})).0 == 200
            })
            .await;
        for server in [&running, &started] {
            server.until("reads on", |s| s.get("/api/topics/merge:a").1.contains("\"b\":2")).await;
        }
    }
}

/// A server that does not support `XINFO`: missing information is not taken for a change.
#[tokio::test]
async fn a_redis_without_xinfo_is_read() {
    let redis = Redis::start();
    redis.command(&["ACL", "SETUSER", "default", "-xinfo"]);
    let server = redis.server("").await;
    let mut client = server.client().await;
    let mut follower = Follower::default();
    let reply = client.subscribe(&["merge:a", "stream:s"]).await;
    let epoch = reply["topics"]["merge:a"]["epoch"].clone();
    // Whether anything came before the first entry cannot be known either.
    redis.xadd(STREAM, "*", &["topic", "merge:a", "kind", "snapshot", "data", r#"{"first":1}"#]);
    for _ in 0..2 {
        let message = client.next().await;
        assert_eq!(message["type"], "snapshot");
        if message["topic"] == "merge:a" {
            follower.take(&message);
        }
    }
    for n in 0..5 {
        redis.add("merge:a", &json!({"n": n}));
        follower.take(&client.next().await);
        redis.add("stream:s", &json!(n));
        assert_eq!(client.next().await["data"], n);
        let asked = |s: &Server| s.log().matches("XINFO STREAM is not answered").count();
        let before = asked(&server);
        server.until("a read that finds nothing", |s| asked(s) > before).await;
    }
    assert_eq!(view(&server, "merge:a")["epoch"], epoch);
    assert_eq!(server.metric("epoch_changes_total{source=\"redis nexus:deltas\"}"), 0.0);
    redis.add("merge:b", &json!({"b": 1}));
    let second = redis.server("").await;
    assert_eq!(view(&second, "merge:a"), view(&server, "merge:a"), "it rests on a snapshot");
    // Earlier entries cannot be counted, so a state without a snapshot may lack some of them.
    for server in [&server, &second] {
        server.until("read", |s| s.get("/api/topics/merge:b").0 == 200).await;
        assert_eq!(view(server, "merge:b")["incomplete"], true);
    }
    redis.xadd(STREAM, "*", &["topic", "merge:b", "kind", "snapshot", "data", r#"{"all":1}"#]);
    for server in [&server, &second] {
        server.until("whole", |s| view(s, "merge:b")["data"] == json!({"all": 1})).await;
    }
    assert_eq!(view(&second, "merge:b"), view(&server, "merge:b"));
    // A change is told from missing information.
    redis.command(&["DEL", STREAM]);
    redis.xadd(STREAM, "1700000000000-0", &["topic", "merge:a", "data", "{}"]);
    server.until("noticed", |s| s.metric("epoch_changes_total{source=\"redis nexus:deltas\"}") >= 1.0).await;
}

/// More than arrives within the time-out of an answer, and connections that break half-way: the load continues where it
/// was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_or_poor_way_to_redis_is_slow_and_not_endless() {
    let redis = Redis::start();
    let script = "local data = '\"' .. string.rep('x', 6000) .. '\"'
        for i = 1, 2000 do redis.call('XADD', KEYS[1], '*', 'topic', 'latest:' .. (i % 50), 'data', data) end
        redis.call('XADD', KEYS[1], '*', 'topic', 'latest:last', 'data', '1')";
    redis.command(&["EVAL", script, "1", STREAM]);
    for (bytes_per_second, breaks_after) in [(1_500_000, 0), (50_000_000, 2_000_000)] {
        let port = way(redis.port, bytes_per_second, breaks_after).await;
        let server = Server::start(&format!("{OPEN}\n[source.redis]\nurl = \"redis://127.0.0.1:{port}\"\n"));
        let mut waited = 0;
        while !server.get("/api/topics/latest:last").1.contains("\"data\":1") {
            assert!(waited < 1_200, "not loaded: {}", server.log());
            waited += 1;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let begun = server.log().matches("entries are gone").count();
        assert_eq!(begun, 0);
    }
}

/// Entries of a quarter of a megabyte, and small ones with a large unused field: what is read at once is limited in
/// bytes.
#[tokio::test]
async fn large_entries_are_read_a_few_at_a_time() {
    for (count, data, more) in [(1_200, 250_000, 0), (100, 100, 4_000_000)] {
        let redis = Redis::start();
        let script = format!(
            "local data, more = '\"' .. string.rep('x', {data}) .. '\"', string.rep('y', {more})
            for i = 1, {count} do redis.call('XADD', KEYS[1], '*', 'topic', 'latest:' .. (i % 8), 'more', more, 'data', data) end"
        );
        redis.command(&["CONFIG", "SET", "appendonly", "no"]);
        redis.command(&["EVAL", &script, "1", STREAM]);
        let server = Server::start(&format!(
            "{OPEN}\n[limits]\nmemory = \"256MiB\"\ndelta_bytes = 262144\n{}",
            redis.source_config()
        ));
        server.until("ready", |s| s.get("/readyz").0 == 200).await;
        for topic in 0..8 {
            assert_eq!(server.get(&format!("/api/topics/latest:{topic}")).0, 200, "{topic}");
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak_kb: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak_kb < 256 * 1024, "{peak_kb} kB at the peak, {count} entries of {data} and {more} bytes");
    }
}
