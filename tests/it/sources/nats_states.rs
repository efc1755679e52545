//! States from a real JetStream stream are whole and the same on every node, or marked as incomplete: whatever the
//! stream removes, and whatever the bucket refuses.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use async_nats::jetstream::{self, kv};
use serde_json::{Value, json};

use crate::support::nats::{EPOCH_CHANGES, Nats, add, add_kind, etag, ready, saved_upto, view};
use crate::support::slow_link::way;
use crate::support::{OPEN, Server};

const NONE: &str = r#"{"topics":[],"next":null}"#;

fn is_incomplete(server: &Server, topic: &str) -> bool {
    view(server, topic)["incomplete"] == true
}

fn stream(more: Config) -> Config {
    Config { name: "NEXUS".into(), subjects: vec!["nexus.deltas.>".into()], ..more }
}

/// A starting node warns of missing messages that it needs, and not of a hole that the saved states cover.
#[tokio::test]
async fn a_hole_from_before_the_saved_states_is_no_warning() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    js.create_stream(stream(Config::default())).await.unwrap();
    for n in 0..3 {
        add(&js, "merge.x", &json!({"n": n})).await;
    }
    let purge_before = async |sequence: u64| {
        js.get_stream("NEXUS").await.unwrap().purge().sequence(sequence).await.unwrap();
    };
    let warned = |server: &Server| server.log().contains("messages are gone that are in no saved state");
    purge_before(3).await;
    let options = "snapshot_every = \"100ms\"";
    let first = nats.server(options).await;
    first.until("warned: what it had before is not known", warned).await;
    let last = add(&js, "merge.x", &json!({"n": 3})).await;
    first.until("read", |s| view(s, "merge:x")["offset"] == last).await;
    saved_upto(&js, view(&first, "merge:x")["epoch"].as_str().unwrap(), last).await;
    drop(first);
    let second = nats.server(options).await;
    second.until("logged", |s| s.log().contains("loaded")).await;
    assert!(!warned(&second), "{}", second.log());
    drop(second);
    for n in 4..7 {
        add(&js, "merge.x", &json!({"n": n})).await;
    }
    purge_before(last + 3).await;
    let missed = nats.server(options).await;
    missed.until("warned: messages after what was saved are gone", warned).await;
}

/// The newest message of each subject is kept: values are whole on every node, states made of patches are not, wherever
/// they were read.
#[tokio::test]
async fn a_stream_that_keeps_the_newest_by_subject_has_whole_values_and_incomplete_patches() {
    for more in [
        Config { max_messages_per_subject: 1, ..Config::default() },
        Config { allow_rollup: true, ..Config::default() },
    ] {
        let (rolls_up, mut nats) = (more.allow_rollup, Nats::start());
        let js = nats.jetstream().await;
        js.create_stream(stream(more)).await.unwrap();
        let publish = async |js: &jetstream::Context, subject: &str, data: &Value| {
            let mut headers = async_nats::HeaderMap::new();
            if rolls_up {
                headers.insert("Nats-Rollup", "sub");
            }
            let subject = format!("nexus.deltas.{subject}");
            js.publish_with_headers(subject, headers, data.to_string().into()).await.unwrap().await.unwrap().sequence
        };
        let options = "snapshot_every = \"0s\"";
        let (live, held_up) = (nats.server(options).await, nats.server(options).await);
        live.until("it is logged", |s| s.log().contains("by subject")).await;
        publish(&js, "latest.before", &json!("kept")).await;
        publish(&js, "merge.before", &json!({"a": 1})).await;
        held_up.until("read", |s| view(s, "merge:before")["data"] == json!({"a": 1})).await;
        held_up.signal("STOP");
        // Messages on their way to it are lost.
        nats.kill();
        nats.start_again();
        let js = nats.jetstream().await;
        live.until("back", |s| s.get("/readyz").0 == 200).await;
        for n in 0..30 {
            publish(&js, "latest.v", &json!(n)).await;
            let last = publish(&js, "merge.p", &json!({format!("m{n}"): n})).await;
            live.until("read", |s| view(s, "merge:p")["offset"] == last).await;
        }
        held_up.signal("CONT");
        let late = nats.server(options).await;
        for server in [&held_up, &late] {
            server.until("read", |s| view(s, "merge:p")["offset"] == view(&live, "merge:p")["offset"]).await;
            for topic in ["latest:v", "latest:before"] {
                assert_eq!(view(server, topic), view(&live, topic), "{topic}");
                assert_eq!(etag(server, topic), etag(&live, topic));
                assert!(!is_incomplete(server, topic), "{topic}");
            }
            assert!(is_incomplete(server, "merge:p"), "{}", view(server, "merge:p"));
            assert_eq!(server.get("/api/topics/latest:nothing").0, 404, "of each topic there would be a message");
            assert_eq!(server.metric(EPOCH_CHANGES), 0.0);
        }
        assert_eq!(
            (view(&live, "merge:p")["data"].as_object().unwrap().len(), is_incomplete(&live, "merge:p")),
            (30, false)
        );
        let last = add_kind(&js, "merge.p", "snapshot", &json!({"all": 1})).await;
        let new = publish(&js, "merge.new", &json!({"n": 1})).await;
        for server in [&live, &held_up, &late] {
            server.until("read", |s| view(s, "merge:new")["offset"] == new).await;
            assert_eq!(
                (view(server, "merge:p")["offset"].as_u64(), is_incomplete(server, "merge:p")),
                (Some(last), false)
            );
            assert!(!is_incomplete(server, "merge:new"), "it began after all that is gone");
        }
    }
}

/// Messages that an operator deletes one by one leave no trace at the front of the stream.
#[tokio::test]
async fn a_deleted_message_is_missed_by_nodes_that_had_not_read_it() {
    let mut nats = Nats::start();
    let options = "snapshot_every = \"0s\"";
    let whole = nats.server(options).await;
    let js = nats.jetstream().await;
    let mut sequences = Vec::new();
    for n in 0..6 {
        sequences.push(add(&js, "merge.a", &json!({format!("m{n}"): n})).await);
    }
    add_kind(&js, "merge.b", "snapshot", &json!({"b": 1})).await;
    let last = add(&js, "latest.v", &json!(1)).await;
    whole.until("read", |s| view(s, "latest:v")["offset"] == last).await;
    let stream = js.get_stream("NEXUS").await.unwrap();
    stream.delete_message(sequences[2]).await.unwrap();
    let late = nats.server(options).await;
    assert!(is_incomplete(&late, "merge:a"), "{}", view(&late, "merge:a"));
    for topic in ["merge:b", "latest:v"] {
        assert_eq!(view(&late, topic), view(&whole, topic), "it came after that");
    }
    assert!(!is_incomplete(&whole, "merge:a"));
    // The last one: a starting node is ready, and knows that it lacks something.
    let last = add(&js, "merge.c", &json!({"c": 1})).await;
    for server in [&whole, &late] {
        server.until("read", |s| view(s, "merge:c")["offset"] == last).await;
    }
    stream.delete_message(last).await.unwrap();
    let later = nats.server(&format!("{options}\nmax_lag = \"1s\"")).await;
    assert!(is_incomplete(&later, "merge:b"));
    let last = add(&js, "merge.c", &json!({"d": 1})).await;
    for server in [&later, &whole] {
        server.until("read", |s| view(s, "merge:c")["offset"] == last).await;
    }
    assert!(is_incomplete(&later, "merge:c") && !is_incomplete(&whole, "merge:c"));
    assert_eq!(later.get("/readyz").0, 200);
    // A node that is stopped meanwhile.
    let mut client = whole.client().await;
    client.subscribe(&["merge:a"]).await;
    client.next().await;
    whole.signal("STOP");
    // Messages on their way to it are lost.
    nats.kill();
    nats.start_again();
    let js = nats.jetstream().await;
    let gone = add(&js, "merge.a", &json!({"gone": 1})).await;
    add(&js, "merge.d", &json!({"d": 1})).await;
    js.get_stream("NEXUS").await.unwrap().delete_message(gone).await.unwrap();
    whole.signal("CONT");
    let message = client.next().await;
    assert_eq!((&message["type"], &message["incomplete"]), (&json!("snapshot"), &json!(true)), "{message}");
    whole.until("read", |s| view(s, "merge:d")["data"] == json!({"d": 1})).await;
    assert!(is_incomplete(&whole, "merge:a") && is_incomplete(&whole, "merge:d"));
    // And while nothing follows it.
    let gone = add(&js, "merge.e", &json!({"gone": 1})).await;
    whole.until("read", |s| view(s, "merge:e")["offset"] == gone).await;
    assert_eq!(whole.metric(EPOCH_CHANGES), 0.0);
}

/// How far the stream reaches back is measured and shown, and warned about at the start; states are saved in time.
#[tokio::test]
async fn how_far_the_stream_reaches_back_is_known_and_heeded() {
    let nats = Nats::start();
    let more = "max_messages = 5\nsnapshot_every = \"10m\"";
    let first = nats.server(more).await;
    assert!(first.status()["sources"][0]["reach_s"].is_null(), "{}", first.status()["sources"]);
    let js = nats.jetstream().await;
    let mut last = 0;
    for n in 0..8 {
        last = add(&js, "merge.a", &json!({format!("m{n}"): n})).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    first.until("measured", |s| s.status()["sources"][0]["reach_s"].is_number()).await;
    assert!(first.metric("source_reach_seconds{source=\"nats NEXUS\"}") < 10.0);
    first.until("read", |s| view(s, "merge:a")["offset"] == last).await;
    // Long before ten minutes are over.
    let epoch = view(&first, "merge:a")["epoch"].as_str().unwrap().to_owned();
    saved_upto(&js, &epoch, last).await;
    let second = nats.server(more).await;
    second.until("warned", |s| s.log().contains("reaches back hardly further")).await;
    assert_eq!(view(&second, "merge:a"), view(&first, "merge:a"));
}

/// A full bucket: nodes start, read and serve, under the same epoch, and save once it takes writes again.
#[tokio::test]
async fn a_node_that_can_read_serves_though_the_bucket_takes_no_writes() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    let bucket = kv::Config { bucket: "NEXUS_STATE".into(), history: 1, max_bytes: 1, ..kv::Config::default() };
    js.create_key_value(bucket.clone()).await.unwrap();
    let more = "snapshot_every = \"200ms\"";
    let (first, second) = (nats.server(more).await, nats.server(more).await);
    add(&js, "merge.a", &json!({"a": 1})).await;
    let last = first.publish("merge:a", &json!({"b": 2}));
    for server in [&first, &second] {
        server.until("read", |s| view(s, "merge:a")["offset"] == last).await;
        server.until("it is logged", |s| s.log().contains("takes no writes")).await;
    }
    assert_eq!(
        (view(&first, "merge:a"), etag(&first, "merge:a")),
        (view(&second, "merge:a"), etag(&second, "merge:a"))
    );
    // Each notices a purge and serves nothing from before; earlier positions belong to another epoch.
    let epoch = |server: &Server| view(server, "merge:a")["epoch"].as_str().unwrap().to_owned();
    let before = epoch(&first);
    js.get_stream("NEXUS").await.unwrap().purge().await.unwrap();
    for server in [&first, &second] {
        server.until("emptied", |s| s.get("/api/topics").1 == NONE).await;
    }
    let last = add(&js, "merge.a", &json!({"c": 3})).await;
    for server in [&first, &second] {
        server.until("read", |s| view(s, "merge:a")["offset"] == last).await;
        assert_eq!(view(server, "merge:a")["data"], json!({"c": 3}));
        assert_ne!(epoch(server), before);
    }
    js.update_key_value(kv::Config { max_bytes: -1, ..bucket }).await.unwrap();
    second.until("one epoch", |s| epoch(s) == epoch(&first)).await;
    assert_eq!(view(&second, "merge:a"), view(&first, "merge:a"));
    saved_upto(&js, &epoch(&first), last).await;
    let third = nats.server(more).await;
    assert_eq!(view(&third, "merge:a"), view(&first, "merge:a"));
}

/// A bucket that removes saved states is reported, and a topic whose state may have been removed begins incomplete.
#[tokio::test]
async fn a_bucket_that_drops_states_proves_no_absence() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    let bucket = Config {
        name: "KV_NEXUS_STATE".into(),
        subjects: vec!["$KV.NEXUS_STATE.>".into()],
        max_messages_per_subject: 1,
        max_messages: 12,
        discard: DiscardPolicy::Old,
        allow_rollup: true,
        allow_direct: true,
        ..Config::default()
    };
    js.create_stream(bucket).await.unwrap();
    js.create_stream(stream(Config { max_messages: 2, ..Config::default() })).await.unwrap();
    let more = "snapshot_every = \"100ms\"";
    let first = nats.server(more).await;
    first.until("it is logged", |s| s.log().contains("lets go of saved states")).await;
    let mut last = 0;
    for n in 0..10 {
        last = add(&js, &format!("merge.{n}"), &json!({"a": 1})).await;
        first.until("read", |s| view(s, &format!("merge:{n}"))["offset"] == last).await;
    }
    let epoch = view(&first, "merge:0")["epoch"].as_str().unwrap().to_owned();
    saved_upto(&js, &epoch, last).await;
    drop(first);
    let second = nats.server("snapshot_every = \"0s\"").await;
    add(&js, "merge.0", &json!({"b": 1})).await;
    second.until("read", |s| view(s, "merge:0")["data"]["b"] == 1).await;
    let seen = view(&second, "merge:0");
    assert!(seen["incomplete"] == true || seen["data"] == json!({"a": 1, "b": 1}), "{seen}");
    assert!(is_incomplete(&second, "merge:nothing"), "it may have been there");
}

/// A node may free memory of topics without subscribers: no client sees a difference.
#[tokio::test]
async fn a_quiet_topic_is_the_same_on_a_node_with_subscribers_and_on_one_without() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    let more = "[limits]\ntopic_idle = \"1s\"";
    let (one, other) = (nats.server(more).await, nats.server(more).await);
    let mut client = one.client().await;
    client.subscribe(&["merge:a"]).await;
    let mut state = json!({});
    for n in 0..400 {
        state[format!("m{n}")] = json!(n);
        add(&js, "merge.a", &json!({format!("m{n}"): n})).await;
    }
    for server in [&one, &other] {
        server.until("read", |s| view(s, "merge:a")["data"] == state).await;
    }
    other.until("idle memory is given back", |s| s.metric("state_bytes") < 30_000.0).await;
    assert_eq!((view(&other, "merge:a"), etag(&other, "merge:a")), (view(&one, "merge:a"), etag(&one, "merge:a")));
    add(&js, "merge.a", &json!({"m1": null, "bid": 191.5})).await;
    state.as_object_mut().unwrap().remove("m1");
    state["bid"] = json!(191.5);
    for server in [&one, &other] {
        server.until("patched", |s| view(s, "merge:a")["data"] == state).await;
    }
    assert_eq!(etag(&one, "merge:a"), etag(&other, "merge:a"));
}

/// An ended topic is in no saved state and does not come back, and a topic that was stale before a restart is stale
/// after it.
#[tokio::test]
async fn ends_and_ages_are_the_same_after_a_restart() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    let more = "max_messages = 3\nsnapshot_every = \"200ms\"\n[limits]\ntopics = 61\n[namespace.o]\nclass = \"latest\"\nexpire_after = \"1s\"\n[namespace.q]\nclass = \"latest\"\nstale_after = \"2s\"\n";
    let first = nats.server(more).await;
    let quote = add(&js, "q.a", &json!(1)).await;
    for day in 0..3 {
        let left = r#"{"topics":["q:a"],"next":null}"#;
        for n in 0..50 {
            let last = add(&js, &format!("o.{day}-{n}"), &json!(n)).await;
            // The stream keeps three: none may be missed.
            let is_read = |s: &Server| s.status()["sources"][0]["deltas"].as_u64() >= Some(last);
            first.until("it is read", is_read).await;
        }
        first.until("they end", |s| s.get("/api/topics").1 == left).await;
    }
    assert_eq!(first.metric("topics_refused_total"), 0.0);
    first.until("stale", |s| view(s, "q:a")["stale_since"].is_number()).await;
    let seen = view(&first, "q:a");
    let epoch = seen["epoch"].as_str().unwrap().to_owned();
    saved_upto(&js, &epoch, quote + 150).await;
    let bucket = js.get_key_value("NEXUS_STATE").await.unwrap();
    let saved = async || {
        use futures_util::TryStreamExt as _;
        let keys: Vec<String> = bucket.keys().await.unwrap().try_collect().await.unwrap();
        keys.iter().filter(|key| key.starts_with("state.")).count()
    };
    while saved().await != 1 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(first);
    let second = nats.server(more).await;
    second.until("stale at once", |s| view(s, "q:a")["stale_since"].is_number()).await;
    assert_eq!(view(&second, "q:a"), seen);
    assert_eq!(second.get("/api/topics").1, r#"{"topics":["q:a"],"next":null}"#);
}

/// More than arrives within the time-out of an answer, and connections that break half-way: the load continues where it
/// was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_or_poor_way_to_nats_is_slow_and_not_endless() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    js.create_stream(stream(Config::default())).await.unwrap();
    let data = json!("x".repeat(6_000));
    for n in 0..2_000 {
        add(&js, &format!("latest.{}", n % 50), &data).await;
    }
    add(&js, "latest.last", &json!(1)).await;
    for (bytes_per_second, breaks_after) in [(1_500_000, 0), (50_000_000, 2_000_000)] {
        let port = way(nats.port, bytes_per_second, breaks_after).await;
        let server = Server::start(&format!("{OPEN}\n[source.nats]\nurls = [\"nats://127.0.0.1:{port}\"]\n"));
        let mut waited = 0;
        while view(&server, "latest:last")["data"] != 1 {
            assert!(waited < 1_200, "not loaded: {}", server.log());
            waited += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(server.metric("topics_incomplete"), 0.0);
    }
}

/// Messages of a quarter of a megabyte: what is read at once is limited in bytes.
#[tokio::test]
async fn large_messages_are_read_a_few_at_a_time() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    js.create_stream(stream(Config::default())).await.unwrap();
    let data = json!("x".repeat(250_000));
    for n in 0..1_200 {
        add(&js, &format!("latest.{}", n % 8), &data).await;
    }
    let limits = "[limits]\nmemory = \"256MiB\"\ndelta_bytes = 262144\n";
    let server = Server::start(&nats.config(limits));
    ready(&server).await;
    for topic in 0..8 {
        assert_eq!(server.get(&format!("/api/topics/latest:{topic}")).0, 200, "{topic}");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kb: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kb < 256 * 1024, "{peak_kb} kB at the peak");
}
