//! Topics move between streams while they are published, read and subscribed to: nothing is lost or repeated, and all
//! nodes serve the same.

use crate::support::resharding::{Run, add, home, node, view};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Client, PATIENCE, Redis};

/// Topics of each class that are published all the time.
const BUSY: usize = 6;

/// Number of quiet topics.
const QUIET: usize = 500;

/// Publishes on some topics until it is stopped; switches to the new streams on request.
struct Publisher {
    switch: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<BTreeMap<String, Value>>,
}

fn busy(publisher: usize) -> Vec<String> {
    let mine = (0..BUSY).filter(|n| n % 2 == publisher);
    mine.flat_map(|n| ["merge", "latest", "stream"].map(|class| format!("{class}:busy{n}"))).collect()
}

/// Waits until deltas in the old streams have been relayed: docs/redis.md says how to check that.
fn wait_for_relay(redis: &Redis, last: &BTreeMap<String, (String, String, String)>, stop: &AtomicBool) {
    let id = |text: &str| text.split_once('-').map(|(a, b)| (a.parse::<u64>().unwrap(), b.parse::<u64>().unwrap()));
    for (from, to, last) in last.values() {
        while !stop.load(Ordering::Relaxed) {
            let at = redis.command(&["GET", &format!("{{{to}}}:relay:{from}")]);
            let upto = at.split(' ').nth(1).and_then(id);
            if at == "$-1" || upto >= id(last) {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Publisher {
    fn start(redis: &Arc<Redis>, number: usize, old: &'static [&'static str], new: &'static [&'static str]) -> Self {
        let (switch, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let count = Arc::new(AtomicUsize::new(0));
        let (redis, switched, stopped, counted) = (redis.clone(), switch.clone(), stop.clone(), count.clone());
        let thread = std::thread::spawn(move || {
            let mut states = BTreeMap::new();
            let (mut streams, mut last) = (old, BTreeMap::new());
            let mut n = 0;
            while !stopped.load(Ordering::Relaxed) {
                if switched.load(Ordering::Relaxed) && streams != new {
                    wait_for_relay(&redis, &last, &stopped);
                    streams = new;
                }
                n += 1;
                for topic in busy(number) {
                    let stream = home(&topic, streams);
                    let delta = match topic.split(':').next().unwrap() {
                        "merge" => json!({format!("k{}", n % 5): n, "n": n}),
                        _ => json!(n),
                    };
                    let id = add(&redis, stream, &topic, "delta", &delta);
                    if home(&topic, new) != stream {
                        last.insert(topic.clone(), (stream.to_owned(), home(&topic, new).to_owned(), id));
                    }
                    let state = states.entry(topic).or_insert(json!({}));
                    if delta.is_object() { json_patch::merge(state, &delta) } else { *state = delta }
                }
                counted.store(n, Ordering::Relaxed);
            }
            states
        });
        Self { switch, stop, count, thread }
    }

    async fn has_published(&self, more: usize) {
        let (from, deadline) = (self.count.load(Ordering::Relaxed), Instant::now() + PATIENCE);
        while self.count.load(Ordering::Relaxed) < from + more {
            assert!(Instant::now() < deadline, "the publisher makes no progress");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn end(self) -> BTreeMap<String, Value> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// A subscriber's state; checks that nothing is missing or repeated.
#[derive(Default, Clone)]
struct Seen {
    state: Value,
    offset: u64,
}

async fn watch(mut client: Client, seen: Arc<Mutex<BTreeMap<String, Seen>>>) {
    let topics: Vec<String> = busy(0).into_iter().chain(busy(1)).collect();
    client.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>()).await;
    loop {
        let message = client.next().await;
        let Some(topic) = message["topic"].as_str().map(str::to_owned) else { continue };
        let mut all = seen.lock().unwrap();
        let known = all.entry(topic.clone()).or_default();
        let (is_snapshot, data) = (message["type"] == "snapshot", message["data"].clone());
        assert_ne!(message["incomplete"], true, "{message}");
        match (topic.split(':').next().unwrap(), is_snapshot) {
            ("merge", false) => json_patch::merge(&mut known.state, &data),
            ("stream", false) => {
                let n = data.as_u64().unwrap();
                assert!(known.state.as_u64().is_none_or(|last| last + 1 == n), "after {}: {message}", known.state);
                known.state = data;
            }
            // The list of kept deltas contains nothing new.
            ("stream", true) => {
                for kept in data.as_array().into_iter().flatten() {
                    assert!(kept["data"].as_u64() <= known.state.as_u64(), "after {}: {message}", known.state);
                }
            }
            ("latest", _) => {
                assert!(known.state.as_u64() <= data.as_u64(), "after {}: {message}", known.state);
                known.state = data;
            }
            _ => {
                assert!(known.state["n"].as_u64() <= data["n"].as_u64(), "after {}: {message}", known.state);
                known.state = data;
            }
        }
        if !is_snapshot {
            assert!(message["prev"].as_u64().unwrap() <= known.offset || known.offset == 0, "{message}");
        }
        known.offset = message["offset"].as_u64().unwrap();
    }
}

/// Moves topics between these streams, with everything that may be in progress; `kills` lists messages after which the
/// command is killed.
async fn scenario(old: &'static [&'static str], new: &'static [&'static str], kills: &[&str]) {
    let redis = Arc::new(Redis::start());
    let quiet = |n: usize| format!("merge:quiet{n}");
    let gone = |n: usize| format!("{}:gone{n}", ["merge", "latest"][n % 2]);
    for n in 0..QUIET {
        add(&redis, home(&quiet(n), old), &quiet(n), "delta", &json!({"a": n}));
        add(&redis, home(&quiet(n), old), &quiet(n), "delta", &json!({"b": n}));
    }
    for n in 0..40 {
        add(&redis, home(&gone(n), old), &gone(n), "delta", &json!({"a": n}));
    }
    let nodes = [node(&redis, old, new).await, node(&redis, old, new).await];
    let mut watchers = Vec::new();
    let mut tasks = Vec::new();
    for node in &nodes {
        let seen = Arc::new(Mutex::new(BTreeMap::new()));
        tasks.push(tokio::spawn(watch(node.client().await, seen.clone())));
        watchers.push(seen);
    }
    let publishers = [Publisher::start(&redis, 0, old, new), Publisher::start(&redis, 1, old, new)];
    publishers[0].has_published(5).await;

    let mut run = Run::start(&redis, old, new, &[]);
    let mut deleted = 0..40;
    let mut delete = |count: usize| {
        for n in deleted.by_ref().take(count) {
            add(&redis, home(&gone(n), old), &gone(n), "delete", &Value::Null);
        }
    };
    delete(5);
    for words in kills {
        // A run that was killed late has fewer slices left.
        assert!(run.prints(words).await, "{}", run.output());
        run.kill();
        delete(5);
        publishers[1].has_published(3).await;
        run = Run::start(&redis, old, new, &[]);
        assert!(run.prints("a run that was broken off goes on").await, "{}", run.output());
    }
    delete(5);
    assert!(run.prints("topics are moved; switch the publishers now").await, "{}", run.output());
    delete(5);
    publishers[0].switch.store(true, Ordering::Relaxed);
    publishers[0].has_published(10).await;
    delete(5);
    publishers[1].has_published(10).await;
    // While a publisher still uses the old streams, they are not quiet, however slow the machine is.
    delete(40);
    publishers[1].switch.store(true, Ordering::Relaxed);
    publishers[1].has_published(10).await;
    assert!(run.end().await, "{}", run.output());
    assert!(run.output().contains("all where they belong"), "{}", run.output());
    let mut expected = BTreeMap::new();
    for publisher in publishers {
        expected.append(&mut publisher.end());
    }
    // Subscribers of both nodes get to what was published.
    for (seen, node) in watchers.iter().zip(&nodes) {
        node.until("all is seen", |_| {
            let seen = seen.lock().unwrap();
            expected.iter().all(|(topic, state)| seen.get(topic).is_some_and(|seen| seen.state == *state))
        })
        .await;
    }
    for task in tasks {
        if task.is_finished() {
            panic!("a subscriber has found an error: {:?}", task.await);
        }
        task.abort();
    }
    // All nodes serve the same, including one that starts now with the new list.
    let late = node(&redis, new, old).await;
    let all: Vec<String> = expected.keys().cloned().chain((0..QUIET).map(quiet)).chain((0..40).map(gone)).collect();
    for topic in &all {
        let one = view(&nodes[0], topic);
        assert_eq!(one, view(&nodes[1], topic), "{topic}");
        assert_eq!(one, view(&late, topic), "{topic}");
        if let Some(state) = expected.get(topic).filter(|_| !topic.starts_with("stream:")) {
            assert_eq!((&one[3], &one[4]), (state, &Value::Null), "{topic}");
        }
    }
    for n in 0..QUIET {
        let one = view(&late, &quiet(n));
        assert_eq!((&one[3], &one[4]), (&json!({"a": n, "b": n}), &Value::Null));
    }
    for n in 0..40 {
        assert_eq!(view(&late, &gone(n)), json!({"status": 404}), "{}", gone(n));
    }
    assert_eq!(late.metric("topics_misplaced_total"), 0.0, "{}", late.log());
    assert_eq!(nodes[0].metric("deltas_refused_total{reason=\"wrong_partition\"}"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stream_becomes_two_while_all_is_published() {
    scenario(&["d0"], &["d0", "d1"], &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_streams_become_four_and_the_command_is_killed_in_between() {
    scenario(&["d0", "d1"], &["d0", "d1", "d2", "d3"], &["slice 1 of", "slice 2 of", "topics are moved"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_streams_become_two_and_the_command_is_killed_while_it_hands_on() {
    scenario(&["d0", "d1", "d2", "d3"], &["d0", "d1"], &["topics are moved"]).await;
}
