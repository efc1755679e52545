//! Recorded traffic, through Redis, to every subscriber's final state. With generated data; and with the real
//! recordings, if they exist.

use crate::support::recording::{NAMESPACES, made_up};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Client, Follower, PROGRAM, Redis, Server};

/// Replays `files` through a real Redis to `clients` sessions on all topics, and compares the final states.
async fn replay_to_all_sessions(files: &[PathBuf], speed: &str, topics: &[String], clients: usize) {
    let redis = Redis::start();
    let server: Server = redis.server(NAMESPACES).await;
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let mut sessions = Vec::new();
    for _ in 0..clients {
        let mut client = server.client().await;
        client.subscribe(&names).await;
        sessions.push(client);
    }
    let mut args: Vec<String> =
        ["replay", "--quiet", "--speed", speed, "--to", &redis.url()].iter().map(ToString::to_string).collect();
    args.extend(files.iter().map(|f| f.to_str().unwrap().to_owned()));
    let replay = tokio::task::spawn_blocking(move || Command::new(PROGRAM).args(args).output().unwrap());
    // Each session is read to the mark that is published last: the server has then seen everything. Conflated
    // deliveries may come after the mark (conflation reorders across topics), so each session is then read to the end
    // of every topic. States are computed by an independent implementation of merge patch.
    let watching = sessions.into_iter().map(|client| {
        let topics = topics.to_vec();
        async move {
            let mut watcher = Watcher::new(client, &topics);
            while watcher.take().await != "stream:end" {}
            watcher
        }
    });
    let ending = async {
        let output = replay.await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        redis.add("stream:end", &json!(1));
    };
    let (mut watchers, ()) = tokio::join!(futures_util::future::join_all(watching), ending);
    let views: Vec<(&String, Value)> = topics
        .iter()
        .filter(|topic| !topic.starts_with("stream:"))
        .map(|topic| (topic, serde_json::from_str(&server.get(&format!("/api/topics/{topic}")).1).unwrap()))
        .collect();
    let reading = watchers.iter_mut().map(async |watcher| {
        while views.iter().any(|(topic, view)| json!(watcher.followers[*topic].offset) != view["offset"]) {
            watcher.take().await;
        }
    });
    futures_util::future::join_all(reading).await;
    for (topic, view) in &views {
        for watcher in &watchers {
            if topic.starts_with("trades:") {
                assert_eq!(watcher.trades.get(*topic), watchers[0].trades.get(*topic), "{topic}");
            } else {
                assert_eq!(watcher.followers[*topic].state, view["data"], "{topic}");
            }
        }
    }
}

/// A session on all topics, with its state of each.
struct Watcher {
    client: Client,
    followers: HashMap<String, Follower>,
    trades: HashMap<String, u64>,
}

impl Watcher {
    fn new(client: Client, topics: &[String]) -> Watcher {
        let follower = |topic: &String| (topic.clone(), Follower { state: json!({}), ..Follower::default() });
        Watcher { client, followers: topics.iter().map(follower).collect(), trades: HashMap::new() }
    }

    /// Takes the next message and returns its topic.
    async fn take(&mut self) -> String {
        let message = self.client.next().await;
        let topic = message["topic"].as_str().unwrap().to_owned();
        if topic.starts_with("trades:") {
            *self.trades.entry(topic.clone()).or_default() += 1;
        }
        self.followers.get_mut(&topic).unwrap().take(&message);
        topic
    }
}

#[tokio::test]
async fn generated_traffic_reaches_every_session() {
    let dir = tempfile::tempdir().unwrap();
    let files = made_up(dir.path(), 4_000);
    let topics = [
        "quotes:binance-spot.BTCUSDT",
        "book:binance-spot.BTCUSDT",
        "trades:binance-spot.BTCUSDT",
        "book:bybit-linear.XRPUSDT",
        "stream:end",
    ];
    replay_to_all_sessions(&files, "20", &topics.map(str::to_owned), 20).await;
}

#[tokio::test]
async fn real_traffic_reaches_every_session() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !folder.is_dir() {
        println!("SKIPPED: {} does not exist; the same was tested with generated traffic", folder.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // The first seconds of four instruments, and all of the fifth.
    let mut files = Vec::new();
    let mut topics = vec!["stream:end".to_owned()];
    for (name, venue, symbol) in [
        ("binance-usdm-btcusdt-20240808", "binance-usdm", "BTCUSDT"),
        ("binance-usdm-ethusdt-20240808", "binance-usdm", "ETHUSDT"),
        ("binance-spot-btcusdt-20240808", "binance-spot", "BTCUSDT"),
        ("binance-spot-ethusdt-20240808", "binance-spot", "ETHUSDT"),
        ("bybit-linear-xrpusdt-ob500-20241201", "bybit-linear", "XRPUSDT"),
    ] {
        let mut text = String::new();
        let gz = flate2::read::GzDecoder::new(std::fs::File::open(folder.join(format!("{name}.gz"))).unwrap());
        for line in std::io::BufRead::lines(std::io::BufReader::new(gz)).take(2_500) {
            text.push_str(&line.unwrap());
            text.push('\n');
        }
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        files.push(path);
        let kinds: &[&str] = if venue.starts_with("bybit") { &["book"] } else { &["quotes", "book", "trades"] };
        topics.extend(kinds.iter().map(|kind| format!("{kind}:{venue}.{symbol}")));
    }
    replay_to_all_sessions(&files, "20", &topics, 20).await;
}

/// Every line of the real recordings is understood.
#[test]
fn real_recordings_have_no_line_that_is_not_understood() {
    use nexus_push::source::replay::Recordings;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !folder.is_dir() {
        println!("SKIPPED: {} does not exist", folder.display());
        return;
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| !f.to_str().unwrap().ends_with("README.md"));
    assert_eq!(files.len(), 10);
    let mut recordings = Recordings::open(&files).unwrap();
    while recordings.next_moment().unwrap().is_some() {}
    let counts = &recordings.normalizer.counts;
    assert_eq!(counts.malformed, 0, "{:?}", counts.first_fault);
    // Only the kline sample makes no topic.
    assert_eq!(counts.unknown, 1, "{counts:?}");
}
