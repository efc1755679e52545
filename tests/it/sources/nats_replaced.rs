//! A real JetStream stream, or its bucket, is replaced by another or by an older copy, and new messages get the same
//! sequences: every node serves the same data for an epoch and an offset, or uses a new epoch.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::stream::Config;
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::support::nats::add_kind;
use crate::support::nats::{EPOCH_CHANGES, Nats, add, ready, saved_upto, view};
use crate::support::{PATIENCE, Server};

const STREAM: &str = "NEXUS";
const BUCKET: &str = "KV_NEXUS_STATE";
const TOPICS: [&str; 3] = ["latest:v", "merge:m", "stream:s"];

/// Number of messages in a burst.
const COUNT: u64 = 30;

/// Nodes that save often, and nodes that do not.
const SAVES: &str = "snapshot_every = \"100ms\"";
const SAVES_NOTHING: &str = "snapshot_every = \"0s\"";

/// Publishes messages on all topics. Returns the last sequence.
async fn burst(js: &jetstream::Context, tag: &str, from: u64, to: u64) -> u64 {
    let mut last = 0;
    for n in from..to {
        last = match n % 3 {
            0 => add(js, "latest.v", &json!(format!("{tag}{n}"))).await,
            1 => add(js, "merge.m", &json!({ tag: n })).await,
            _ => add(js, "stream.s", &json!(format!("{tag}{n}"))).await,
        };
    }
    last
}

/// What was served as whole, by topic, epoch and offset; and clients' positions.
#[derive(Default)]
struct Served {
    bodies: HashMap<(String, String, u64), Value>,
    /// A position in `stream:s`.
    since: Value,
    /// Nodes may mark patches as incomplete.
    may_lack: bool,
}

impl Served {
    /// Checks that everything that a node serves equals what was served before at the same position.
    fn note(&mut self, server: &Server) {
        for topic in TOPICS {
            let seen = view(server, topic);
            let (Some(epoch), Some(offset)) = (seen["epoch"].as_str(), seen["offset"].as_u64()) else { continue };
            if seen["incomplete"] != true {
                let served = self.bodies.entry((topic.into(), epoch.into(), offset)).or_insert(seen["data"].clone());
                assert_eq!(*served, seen["data"], "{topic} at {offset} in {epoch}");
            }
        }
    }

    /// All nodes get to the state after these bursts, with this many messages each, and serve it alike.
    async fn all_reach(&mut self, nodes: &[&Server], bursts: &[(&str, u64)]) {
        let is_of = |n: &u64, topic: u64| n % 3 == topic;
        let (last_tag, last_count) = bursts.last().unwrap();
        let value = json!(format!("{last_tag}{}", (0..*last_count).rfind(|n| is_of(n, 0)).unwrap()));
        let members = bursts.iter().map(|(tag, count)| ((*tag).to_owned(), json!((0..*count).rfind(|n| is_of(n, 1)))));
        let members = Value::Object(members.collect());
        let kept: Vec<String> = bursts
            .iter()
            .flat_map(|(tag, count)| (0..*count).filter(|n| is_of(n, 2)).map(move |n| format!("{tag}{n}")))
            .collect();
        let kept_at = |server: &Server| -> Vec<String> {
            let deltas = view(server, "stream:s")["data"].as_array().cloned().unwrap_or_default();
            deltas.iter().map(|delta| delta["data"].as_str().unwrap_or_default().to_owned()).collect()
        };
        for node in nodes {
            // A starting node may learn of a new epoch from running ones.
            let is_level = |s: &Server| view(s, "merge:m") == view(nodes[0], "merge:m");
            let so = |s: &Server| {
                let is_true = view(s, "latest:v")["data"] == value && view(s, "merge:m")["data"] == members;
                is_true && kept_at(s) == kept && is_level(s)
            };
            let deadline = Instant::now() + PATIENCE;
            while !so(node) && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(so(node), "{value} {members} {kept:?}\n{:?}", TOPICS.map(|topic| view(node, topic).to_string()));
            assert!(self.may_lack || view(node, "merge:m").get("incomplete").is_none());
            self.note(node);
            for topic in TOPICS {
                assert_eq!(view(node, topic), view(nodes[0], topic), "{topic}");
            }
        }
    }

    /// Records the position of clients.
    fn record_position(&mut self, server: &Server) {
        let seen = view(server, "stream:s");
        self.since = json!({"stream:s": {"offset": seen["offset"], "epoch": seen["epoch"]}});
    }

    /// A client with a recorded position is notified that it has missed something.
    async fn none_recovers(&self, nodes: &[&Server]) {
        for node in nodes {
            let mut client = node.client().await;
            client.send(json!({"op": "subscribe", "args": ["stream:s"], "since": self.since})).await;
            let served = client.next().await;
            assert_eq!(served["topics"]["stream:s"]["recovered"], false, "{served}");
        }
    }
}

/// The API's backup of a stream.
struct Backup {
    config: Value,
    state: Value,
    chunks: Vec<Bytes>,
}

async fn ask(client: &async_nats::Client, subject: &str, body: &Value) -> Value {
    let answer = client.request(subject.to_owned(), body.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer.get("error").is_none(), "{subject}: {answer}");
    answer
}

impl Backup {
    async fn of(nats: &Nats, name: &str) -> Self {
        let client = async_nats::connect(nats.url()).await.unwrap();
        let inbox = client.new_inbox();
        let mut pieces = client.subscribe(inbox.clone()).await.unwrap();
        let what = json!({"deliver_subject": inbox, "no_consumers": true});
        let answer = ask(&client, &format!("$JS.API.STREAM.SNAPSHOT.{name}"), &what).await;
        let mut chunks = Vec::new();
        loop {
            let piece = pieces.next().await.unwrap();
            if piece.payload.is_empty() {
                break;
            }
            if let Some(reply) = piece.reply {
                client.publish(reply, Bytes::new()).await.unwrap();
            }
            chunks.push(piece.payload);
        }
        Self { config: answer["config"].clone(), state: answer["state"].clone(), chunks }
    }

    /// Replaces the existing stream.
    async fn put_back(&self, nats: &Nats) {
        let client = async_nats::connect(nats.url()).await.unwrap();
        let name = self.config["name"].as_str().unwrap();
        ask(&client, &format!("$JS.API.STREAM.DELETE.{name}"), &json!({})).await;
        let what = json!({"config": self.config, "state": self.state});
        let answer = ask(&client, &format!("$JS.API.STREAM.RESTORE.{name}"), &what).await;
        let subject = answer["deliver_subject"].as_str().unwrap().to_owned();
        for chunk in &self.chunks {
            client.request(subject.clone(), chunk.clone()).await.unwrap();
        }
        let end = client.request(subject, Bytes::new()).await.unwrap();
        let end: Value = serde_json::from_slice(&end.payload).unwrap();
        assert!(end.get("error").is_none(), "{end}");
    }
}

/// A stream with one burst that the backup contains, and one that it does not. The nodes have read both and, if they
/// save, saved them.
async fn lost(nats: &mut Nats, more: &str, served: &mut Served) -> [Server; 2] {
    let nodes = [nats.server(more).await, nats.server(more).await];
    let js = nats.jetstream().await;
    let kept = burst(&js, "kept", 0, COUNT).await;
    served.all_reach(&[&nodes[0], &nodes[1]], &[("kept", COUNT)]).await;
    saved(&js, &nodes[0], "stream:s", more, kept).await;
    nats.back_up();
    nodes[0].until("back", |s| s.get("/readyz").0 == 200).await;
    let js = nats.jetstream().await;
    let last = burst(&js, "lost", 0, COUNT).await;
    served.all_reach(&[&nodes[0], &nodes[1]], &[("kept", COUNT), ("lost", COUNT)]).await;
    saved(&js, &nodes[0], "stream:s", more, last).await;
    served.record_position(&nodes[0]);
    nodes
}

/// Waits until a saving node has saved everything up to here.
async fn saved(js: &jetstream::Context, node: &Server, topic: &str, more: &str, last: u64) {
    if more == SAVES {
        saved_upto(js, view(node, topic)["epoch"].as_str().unwrap(), last).await;
    }
}

const BOTH: [(&str, u64); 2] = [("kept", COUNT), ("new", COUNT)];

/// Nodes and their connections stay up; the stream is restored through the API of NATS.
#[tokio::test]
async fn a_stream_restored_under_running_nodes_changes_the_epoch() {
    for more in [SAVES, SAVES_NOTHING] {
        let (mut nats, mut served) = (Nats::start(), Served::default());
        let nodes = lost(&mut nats, more, &mut served).await;
        // The backup contains the second burst too: it is removed by hand.
        let js = nats.jetstream().await;
        let kept = Backup::of(&nats, STREAM).await;
        burst(&js, "more", 0, COUNT).await;
        served.all_reach(&[&nodes[0], &nodes[1]], &[("kept", COUNT), ("lost", COUNT), ("more", COUNT)]).await;
        served.record_position(&nodes[0]);
        kept.put_back(&nats).await;
        burst(&js, "new", 0, COUNT).await;
        let fresh = nats.server(SAVES_NOTHING).await;
        let all = [&nodes[0], &nodes[1], &fresh];
        served.all_reach(&all, &[("kept", COUNT), ("lost", COUNT), ("new", COUNT)]).await;
        served.none_recovers(&all).await;
        let later = nats.server(SAVES_NOTHING).await;
        served.all_reach(&[all[0], &later], &[("kept", COUNT), ("lost", COUNT), ("new", COUNT)]).await;
    }
}

/// Nodes stay up, and lose their connections: the stream alone is restored, or the bucket too.
#[tokio::test]
async fn older_copies_put_back_under_running_nodes_change_the_epoch() {
    for (more, streams) in [(SAVES, &[STREAM][..]), (SAVES, &[STREAM, BUCKET]), (SAVES_NOTHING, &[STREAM, BUCKET])] {
        let (mut nats, mut served) = (Nats::start(), Served::default());
        let nodes = lost(&mut nats, more, &mut served).await;
        nats.put_back(streams);
        nats.start_again();
        burst(&nats.jetstream().await, "new", 0, COUNT).await;
        let fresh = nats.server(SAVES_NOTHING).await;
        let all = [&nodes[0], &nodes[1], &fresh];
        served.all_reach(&all, &BOTH).await;
        served.none_recovers(&all).await;
    }
}

/// No node runs meanwhile. Saved states are newer than the stream, and as many new messages come, or fewer at first.
#[tokio::test]
async fn states_saved_of_messages_that_were_lost_count_for_nothing() {
    for at_first in [COUNT, COUNT / 2] {
        let (mut nats, mut served) = (Nats::start(), Served::default());
        let nodes = lost(&mut nats, SAVES, &mut served).await;
        drop(nodes);
        nats.put_back(&[STREAM]);
        nats.start_again();
        let js = nats.jetstream().await;
        burst(&js, "new", 0, at_first).await;
        let first = nats.server(SAVES_NOTHING).await;
        served.all_reach(&[&first], &[("kept", COUNT), ("new", at_first)]).await;
        burst(&js, "new", at_first, COUNT + 3).await;
        let second = nats.server(SAVES_NOTHING).await;
        served.all_reach(&[&first, &second], &[("kept", COUNT), ("new", COUNT + 3)]).await;
        served.none_recovers(&[&first, &second]).await;
        drop((first, second));
        let third = nats.server(SAVES_NOTHING).await;
        served.all_reach(&[&third], &[("kept", COUNT), ("new", COUNT + 3)]).await;
    }
}

/// The same after an interrupted save: states are newer than the position up to which all are saved.
#[tokio::test]
async fn states_of_a_save_that_was_broken_off_count_for_nothing_if_messages_were_lost() {
    for has_position in [true, false] {
        let (mut nats, mut served) = (Nats::start(), Served::default());
        let nodes = lost(&mut nats, SAVES, &mut served).await;
        let epoch = view(&nodes[0], "stream:s")["epoch"].as_str().unwrap().to_owned();
        drop(nodes);
        let js = nats.jetstream().await;
        let bucket = js.get_key_value("NEXUS_STATE").await.unwrap();
        let key = format!("position.{epoch}");
        if has_position {
            let first = js.get_stream(STREAM).await.unwrap().get_raw_message(3).await.unwrap();
            let ms = u64::try_from(first.time.unix_timestamp_nanos() / 1_000_000).unwrap();
            bucket.put(&key, json!({"sequence": 3, "ms": ms}).to_string().into()).await.unwrap();
        } else {
            bucket.purge(&key).await.unwrap();
        }
        nats.put_back(&[STREAM]);
        nats.start_again();
        let js = nats.jetstream().await;
        burst(&js, "new", 0, COUNT).await;
        let first = nats.server(SAVES_NOTHING).await;
        served.all_reach(&[&first], &BOTH).await;
        served.none_recovers(&[&first]).await;
    }
}

/// The bucket is restored, and names an epoch that has ended.
#[tokio::test]
async fn an_epoch_that_comes_back_with_an_older_bucket_is_not_used_again() {
    let (mut nats, mut served) = (Nats::start(), Served::default());
    let nodes = lost(&mut nats, SAVES, &mut served).await;
    let all = [&nodes[0], &nodes[1]];
    nats.put_back(&[STREAM]);
    nats.start_again();
    burst(&nats.jetstream().await, "new", 0, COUNT).await;
    served.all_reach(&all, &BOTH).await;
    nats.put_back(&[BUCKET]);
    nats.start_again();
    for node in all {
        node.until("back", |s| s.get("/readyz").0 == 200).await;
    }
    let last = burst(&nats.jetstream().await, "last", 0, 3).await;
    for node in all {
        node.until("read", |s| view(s, "stream:s")["offset"] == last).await;
    }
    let fresh = nats.server(SAVES_NOTHING).await;
    let all = [&nodes[0], &nodes[1], &fresh];
    served.all_reach(&all, &[("kept", COUNT), ("new", COUNT), ("last", 3)]).await;
    served.none_recovers(&all).await;
}

/// Only the bucket is older than the stream: nothing was lost.
#[tokio::test]
async fn an_older_bucket_beside_the_same_stream_changes_nothing() {
    let (mut nats, mut served) = (Nats::start(), Served::default());
    let nodes = lost(&mut nats, SAVES, &mut served).await;
    nats.put_back(&[BUCKET]);
    nats.start_again();
    let fresh = nats.server(SAVES_NOTHING).await;
    let all = [&nodes[0], &nodes[1], &fresh];
    served.all_reach(&all, &[("kept", COUNT), ("lost", COUNT)]).await;
    for node in all {
        assert_eq!(node.metric(EPOCH_CHANGES), 0.0);
    }
}

/// Another stream of the same name replaces the first for a while, and the first is restored without its last messages:
/// its first epoch is over.
#[tokio::test]
async fn a_stream_that_comes_back_after_another_has_another_epoch() {
    for runs in [true, false] {
        let (mut nats, mut served) = (Nats::start(), Served::default());
        let [first, other] = lost(&mut nats, SAVES, &mut served).await;
        drop(other);
        let mut nodes = vec![first];
        if !runs {
            nodes.clear();
        }
        let js = nats.jetstream().await;
        let config = js.get_stream(STREAM).await.unwrap().cached_info().config.clone();
        js.delete_stream(STREAM).await.unwrap();
        js.create_stream(config).await.unwrap();
        burst(&js, "other", 0, COUNT).await;
        let node = match nodes.pop() {
            Some(node) => node,
            None => nats.server(SAVES_NOTHING).await,
        };
        served.all_reach(&[&node], &[("other", COUNT)]).await;
        nodes.extend(runs.then_some(node));
        nats.put_back(&[STREAM]);
        nats.start_again();
        burst(&nats.jetstream().await, "new", 0, COUNT).await;
        nodes.push(nats.server(SAVES_NOTHING).await);
        let all: Vec<&Server> = nodes.iter().collect();
        served.all_reach(&all, &BOTH).await;
        served.none_recovers(&all).await;
    }
}

/// The stream was deleted and created again, or purged, and as many messages come; nodes run, or start then.
#[tokio::test]
async fn a_recreated_or_purged_stream_has_another_epoch_on_running_and_starting_nodes() {
    for (purges, runs) in [(false, true), (false, false), (true, true)] {
        let (nats, mut served) = (Nats::start(), Served::default());
        let mut nodes = vec![nats.server(SAVES).await];
        let js = nats.jetstream().await;
        let last = burst(&js, "lost", 0, COUNT).await;
        served.all_reach(&[&nodes[0]], &[("lost", COUNT)]).await;
        saved(&js, &nodes[0], "stream:s", SAVES, last).await;
        served.record_position(&nodes[0]);
        if !runs {
            nodes.clear();
        }
        // A purge may have removed other messages too.
        served.may_lack = purges;
        if purges {
            js.get_stream(STREAM).await.unwrap().purge().await.unwrap();
        } else {
            let config = js.get_stream(STREAM).await.unwrap().cached_info().config.clone();
            js.delete_stream(STREAM).await.unwrap();
            js.create_stream(config).await.unwrap();
        }
        burst(&js, "new", 0, COUNT).await;
        if runs {
            served.all_reach(&[&nodes[0]], &[("new", COUNT)]).await;
        }
        let fresh = nats.server(SAVES_NOTHING).await;
        ready(&fresh).await;
        let all: Vec<&Server> = nodes.iter().chain([&fresh]).collect();
        served.all_reach(&all, &[("new", COUNT)]).await;
        served.none_recovers(&all).await;
    }
}

/// A stream that keeps the newest message per subject: the message that was read last is gone, and so are others.
#[tokio::test]
async fn a_stream_of_newest_values_put_back_changes_the_epoch_though_the_last_message_has_gone() {
    let mut nats = Nats::start();
    let js = nats.jetstream().await;
    let subjects = vec!["nexus.deltas.>".to_owned()];
    let config = Config { name: STREAM.into(), subjects, max_messages_per_subject: 1, ..Config::default() };
    js.create_stream(config).await.unwrap();
    for more in [SAVES, SAVES_NOTHING] {
        let node = nats.server(more).await;
        for topic in ["a", "b", "c"] {
            add(&js, &format!("latest.{topic}"), &json!("kept")).await;
        }
        nats.back_up();
        let js = nats.jetstream().await;
        let mut last = 0;
        for topic in ["a", "b", "c"] {
            last = add(&js, &format!("latest.{topic}"), &json!("lost")).await;
        }
        node.until("read", |s| view(s, "latest:c")["offset"] == last).await;
        let before = view(&node, "latest:a");
        saved(&js, &node, "latest:c", more, last).await;
        nats.put_back(&[STREAM]);
        nats.start_again();
        let js = nats.jetstream().await;
        // Clocks of servers may differ by this much.
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        for topic in ["a", "b", "c", "c"] {
            last = add(&js, &format!("latest.{topic}"), &json!("new")).await;
        }
        let fresh = nats.server(SAVES_NOTHING).await;
        for server in [&node, &fresh] {
            server.until("read", |s| view(s, "latest:c")["offset"] == last).await;
            server.until("another epoch", |s| view(s, "latest:a")["epoch"] != before["epoch"]).await;
            server.until("true", |s| view(s, "latest:a")["data"] == "new").await;
            assert_eq!(view(server, "latest:a")["offset"], before["offset"]);
        }
        fresh.until("level", |s| view(s, "latest:a") == view(&node, "latest:a")).await;
    }
}

/// The stream and the bucket are restored together, without the lost messages: saved states of topics whose messages
/// are gone still count.
#[tokio::test]
async fn states_saved_before_a_backup_survive_it() {
    let mut nats = Nats::start();
    let more = format!("max_messages = 5\n{SAVES}");
    let nodes = [nats.server(&more).await, nats.server(&more).await];
    let js = nats.jetstream().await;
    add_kind(&js, "merge.quiet", "snapshot", &json!({"q": 1})).await;
    let mut last = 0;
    for n in 0..8 {
        last = add(&js, "latest.v", &json!(n)).await;
        nodes[0].until("read", |s| view(s, "latest:v")["offset"] == last).await;
    }
    saved(&js, &nodes[0], "latest:v", SAVES, last).await;
    nats.back_up();
    let js = nats.jetstream().await;
    for n in 0..8 {
        last = add(&js, "latest.v", &json!(format!("lost{n}"))).await;
    }
    for node in &nodes {
        node.until("read", |s| view(s, "latest:v")["offset"] == last).await;
    }
    let before = view(&nodes[0], "merge:quiet");
    nats.put_back(&[STREAM, BUCKET]);
    nats.start_again();
    let js = nats.jetstream().await;
    add(&js, "latest.v", &json!("new")).await;
    let fresh = nats.server(SAVES_NOTHING).await;
    for node in [&nodes[0], &nodes[1], &fresh] {
        node.until("true", |s| view(s, "latest:v")["data"] == "new").await;
        node.until("another epoch", |s| view(s, "merge:quiet")["epoch"] != before["epoch"]).await;
        node.until("loaded", |s| view(s, "merge:quiet") == view(&nodes[0], "merge:quiet")).await;
        let quiet = view(node, "merge:quiet");
        assert_eq!((&quiet["data"], quiet.get("incomplete")), (&json!({"q": 1}), None), "{quiet}");
    }
}

/// Whether `part` is the end of the stream topic's list `full`, of which another node may keep more; or is marked as
/// incomplete.
fn is_true_or_incomplete(full: &Value, part: &Value) -> bool {
    let deltas = |seen: &Value| seen["data"].as_array().cloned().unwrap_or_default();
    part["incomplete"] == true || part["offset"] == full["offset"] && deltas(full).ends_with(&deltas(part))
}

/// After a hole, a starting node serves for each `stream` topic the offset of its newest delta, or marks it as
/// incomplete.
#[tokio::test]
async fn a_stream_topic_after_a_hole_is_where_its_newest_delta_is_or_incomplete() {
    for (saves, more) in [(false, 0), (true, 0), (true, 2)] {
        let nats = Nats::start();
        let js = nats.jetstream().await;
        let saver = nats.server(SAVES).await;
        add(&js, "stream.a", &json!("a1")).await;
        let read = add(&js, "stream.b", &json!("b1")).await;
        let node = nats.server(SAVES_NOTHING).await;
        node.until("read", |s| view(s, "stream:b")["offset"] == read).await;
        if saves && more == 0 {
            saved(&js, &saver, "stream:b", SAVES, read).await;
            drop(saver);
        } else if saves {
            // The messages in the hole are saved, too.
            add(&js, "stream.a", &json!("a2")).await;
            add(&js, "stream.a", &json!("a3")).await;
            let last = add(&js, "stream.c", &json!("c1")).await;
            saver.until("read", |s| view(s, "stream:c")["offset"] == last).await;
            saved(&js, &saver, "stream:c", SAVES, last).await;
            drop(saver);
        } else {
            drop(saver);
        }
        if more == 0 {
            add(&js, "stream.a", &json!("a2")).await;
            add(&js, "stream.a", &json!("a3")).await;
            add(&js, "stream.c", &json!("c1")).await;
        }
        node.until("read", |s| view(s, "stream:c")["offset"] == read + 3).await;
        let stream = js.get_stream(STREAM).await.unwrap();
        for gone in [read + 1, read + 2] {
            stream.delete_message(gone).await.unwrap();
        }
        let late = nats.server(SAVES_NOTHING).await;
        for topic in ["stream:a", "stream:b", "stream:c"] {
            let (full, part) = (view(&node, topic), view(&late, topic));
            assert!(is_true_or_incomplete(&full, &part), "{topic}: {full} {part}");
        }
        let last = add(&js, "stream.b", &json!("b2")).await;
        for server in [&node, &late] {
            server.until("read", |s| view(s, "stream:b")["offset"] == last).await;
        }
        let (full, part) = (view(&node, "stream:b"), view(&late, "stream:b"));
        assert!(part.get("incomplete").is_none() && is_true_or_incomplete(&full, &part), "{full} {part}");
    }
}
