//! States that nodes save with a real JetStream stream: a node that was stopped in the middle of a save overwrites
//! nothing and brings nothing back, and a load over a bad link makes progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use futures_util::TryStreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::support::nats::{Nats, add, ready, saved_upto, view};
use crate::support::nats::{add_kind, etag};
use crate::support::slow_link::way;
use crate::support::{OPEN, PATIENCE, Server};

/// A connection to NATS that blocks once `needle` was sent, until it is opened: then everything that was sent arrives,
/// even if its sender has ended.
struct Gate {
    port: u16,
    is_shut: Arc<AtomicBool>,
    opened: Arc<Semaphore>,
    /// One permit for each connection whose messages NATS has received.
    passed: Arc<Semaphore>,
}

impl Gate {
    async fn start(nats: &Nats, needle: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_shut, server_port) = (Arc::new(AtomicBool::new(false)), nats.port);
        let (opened, passed) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let gate = Self { port, is_shut: is_shut.clone(), opened: opened.clone(), passed: passed.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server_port)).await.unwrap();
                let (is_shut, opened, passed) = (is_shut.clone(), opened.clone(), passed.clone());
                tokio::spawn(async move {
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let is_asked = Arc::new(AtomicBool::new(false));
                    let asked = is_asked.clone();
                    let down = tokio::spawn(async move {
                        let mut piece = vec![0; 65_536];
                        while let Ok(n @ 1..) = from_server.read(&mut piece).await {
                            let _ = to_client.write_all(&piece[..n]).await;
                            if asked.load(Ordering::SeqCst) && piece[..n].windows(4).any(|bytes| bytes == b"PONG") {
                                return passed.add_permits(1);
                            }
                        }
                    });
                    let mut piece = vec![0; 65_536];
                    while let Ok(n @ 1..) = from_client.read(&mut piece).await {
                        let mut sent = piece[..n].to_vec();
                        if sent.windows(needle.len()).any(|bytes| bytes == needle.as_bytes()) {
                            is_shut.store(true, Ordering::SeqCst);
                            let _ = from_client.read_to_end(&mut sent).await;
                            opened.acquire().await.unwrap().forget();
                            // Its sender has ended.
                            sent.extend(b"PING\r\n");
                            is_asked.store(true, Ordering::SeqCst);
                        }
                        if to_server.write_all(&sent).await.is_err() {
                            break;
                        }
                    }
                    let _ = tokio::time::timeout(PATIENCE, down).await;
                });
            }
        });
        gate
    }

    fn config(&self) -> String {
        format!("{OPEN}\n[source.nats]\nurls = [\"nats://127.0.0.1:{}\"]\nsnapshot_every = \"100ms\"\n", self.port)
    }

    async fn is_shut(&self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.is_shut.load(Ordering::SeqCst) {
            assert!(tokio::time::Instant::now() < deadline, "it is not sent");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Opens the connection, and waits until NATS has received what was sent.
    async fn open(&self) {
        self.opened.add_permits(1);
        tokio::time::timeout(PATIENCE, self.passed.acquire()).await.expect("NATS receives it").unwrap().forget();
    }
}

/// Keys of saved states.
async fn saved(js: &jetstream::Context) -> Vec<String> {
    let bucket = js.get_key_value("NEXUS_STATE").await.unwrap();
    let keys: Vec<String> = bucket.keys().await.unwrap().try_collect().await.unwrap();
    keys.into_iter().filter(|key| key.starts_with("state.")).collect()
}

fn epoch(server: &Server, topic: &str) -> String {
    view(server, topic)["epoch"].as_str().unwrap().to_owned()
}

/// The state of a topic is on its way to the bucket when the topic ends and another node removes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_stopped_in_a_save_does_not_restore_a_deleted_topic() {
    for was_saved_before in [false, true] {
        let nats = Nats::start();
        let js = nats.jetstream().await;
        let other = nats.server("snapshot_every = \"0s\"").await;
        let kept = add(&js, "latest.kept", &json!("kept")).await;
        if was_saved_before {
            let first = nats.server("snapshot_every = \"100ms\"").await;
            let last = add(&js, "latest.x", &json!("before")).await;
            first.until("read", |s| view(s, "latest:x")["offset"] == last).await;
            saved_upto(&js, &epoch(&first, "latest:x"), last).await;
        }
        let gate = Gate::start(&nats, "\"held up\"").await;
        let held_up = Server::start(&gate.config());
        ready(&held_up).await;
        let last = add(&js, "latest.x", &json!("held up")).await;
        gate.is_shut().await;
        other.until("read", |s| view(s, "latest:x")["offset"] == last).await;
        drop(other);
        let remover = nats.server("snapshot_every = \"100ms\"").await;
        let end = add_kind(&js, "latest.x", "delete", &Value::Null).await;
        remover.until("ended", |s| s.get("/api/topics/latest:x").0 == 404).await;
        saved_upto(&js, &epoch(&remover, "latest:kept"), end).await;
        let is_only_kept = async || saved(&js).await.len() == 1;
        assert!(is_only_kept().await, "{:?}", saved(&js).await);
        drop(held_up);
        gate.open().await;
        assert!(is_only_kept().await, "{:?} (saved before: {was_saved_before})", saved(&js).await);
        // A node that starts with the saved state only.
        let stream = js.get_stream("NEXUS").await.unwrap();
        for sequence in kept..=end {
            let _ = stream.delete_message(sequence).await;
        }
        let late = nats.server("snapshot_every = \"0s\"").await;
        assert_eq!(late.get("/api/topics").1, r#"{"topics":["latest:kept"],"next":null}"#);
    }
}

/// The position up to which all states are saved does not go backwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_stopped_at_the_end_of_a_save_does_not_reset_the_position() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    let gate = Gate::start(&nats, "PUB $KV.NEXUS_STATE.position.").await;
    let held_up = Server::start(&gate.config());
    ready(&held_up).await;
    let first = add(&js, "latest.x", &json!(1)).await;
    gate.is_shut().await;
    let other = nats.server("snapshot_every = \"100ms\"").await;
    let last = add(&js, "latest.x", &json!(2)).await;
    other.until("read", |s| view(s, "latest:x")["offset"] == last).await;
    saved_upto(&js, &epoch(&other, "latest:x"), last).await;
    drop(held_up);
    gate.open().await;
    let bucket = js.get_key_value("NEXUS_STATE").await.unwrap();
    let position = bucket.get(format!("position.{}", epoch(&other, "latest:x"))).await.unwrap().unwrap();
    let position: Value = serde_json::from_slice(&position).unwrap();
    assert!(position["sequence"].as_u64().unwrap() >= last && first < last, "{position}");
}

/// In one stream a move is a snapshot, on every node, and after it was saved.
#[tokio::test]
async fn a_move_is_a_whole_state_and_is_saved_as_one() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    let server = nats.server("snapshot_every = \"100ms\"").await;
    let mut client = server.client().await;
    client.subscribe(&["merge:a", "stream:s"]).await;
    add(&js, "merge.a", &json!({"old": 1})).await;
    assert_eq!(client.next().await["data"], json!({"old": 1}));
    add(&js, "stream.s", &json!(1)).await;
    assert_eq!(client.next().await["data"], 1);
    let moved = add_kind(&js, "merge.a", "move", &json!({"new": 1})).await;
    let message = client.next().await;
    assert_eq!((&message["data"], &message["offset"]), (&json!({"new": 1}), &json!(moved)), "{message}");
    add(&js, "merge.a", &json!({"more": 2})).await;
    assert_eq!(client.next().await["data"], json!({"more": 2}));
    add_kind(&js, "stream.s", "move", &Value::Null).await;
    let last = add(&js, "stream.s", &json!(2)).await;
    server.until("read", |s| view(s, "stream:s")["offset"] == last).await;
    assert_eq!(view(&server, "stream:s")["data"].as_array().unwrap().len(), 1, "nothing of before the move");
    assert_eq!(view(&server, "merge:a")["data"], json!({"new": 1, "more": 2}));
    saved_upto(&js, &epoch(&server, "merge:a"), last).await;
    let bucket = js.get_key_value("NEXUS_STATE").await.unwrap();
    let mut state = Value::Null;
    for key in saved(&js).await {
        let found: Value = serde_json::from_slice(&bucket.get(&key).await.unwrap().unwrap()).unwrap();
        if found["topic"] == "merge:a" {
            state = found;
        }
    }
    assert_eq!((&state["moved"], &state["moved_at"]), (&json!(true), &json!(moved)), "{state}");
    // A node that reads everything, and one that only has the saved state.
    let reads = nats.server("snapshot_every = \"0s\"").await;
    js.get_stream("NEXUS").await.unwrap().purge().filter("nexus.deltas.merge.a").await.unwrap();
    let restores = nats.server("snapshot_every = \"0s\"").await;
    for late in [&reads, &restores] {
        assert_eq!(
            (view(late, "merge:a"), etag(late, "merge:a")),
            (view(&server, "merge:a"), etag(&server, "merge:a"))
        );
    }
}

/// There are so many saved states that the connection breaks before they are restored: the load continues where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_are_put_back_over_a_way_that_breaks_again_and_again() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    let first = nats.server("snapshot_every = \"100ms\"").await;
    let data = "x".repeat(20_000);
    let mut last = 0;
    for n in 0..300 {
        last = add(&js, &format!("latest.{n}"), &json!(format!("{n}{data}"))).await;
    }
    // In several parts.
    let large = json!({"a": "y".repeat(200_000)});
    for n in 0..4 {
        last = add(&js, "merge.large", &json!({format!("m{n}"): &large})).await;
    }
    first.until("read", |s| view(s, "merge:large")["offset"] == last).await;
    saved_upto(&js, &epoch(&first, "merge:large"), last).await;
    let port = way(nats.port, 50_000_000, 1_500_000).await;
    let more = "snapshot_every = \"0s\"";
    let server = Server::start(&format!("{OPEN}\n[source.nats]\nurls = [\"nats://127.0.0.1:{port}\"]\n{more}"));
    ready(&server).await;
    for n in [0, 1, 150, 299] {
        let topic = format!("latest:{n}");
        assert_eq!((view(&server, &topic), etag(&server, &topic)), (view(&first, &topic), etag(&first, &topic)));
    }
    assert_eq!(view(&server, "merge:large"), view(&first, "merge:large"));
    // It continued after some states had been restored and before any message was read.
    let log = server.log();
    let goes_on = |line: &&str| line.contains("the load goes on where it was") && line.contains("messages=0");
    assert!(log.lines().filter(goes_on).any(|line| !line.contains("states=0")), "{log}");
    assert_eq!(server.metric("topics_incomplete"), 0.0);
}

/// An interrupted save leaves an incomplete value of a topic that no node may ever know: the next start removes it.
#[tokio::test]
async fn remains_of_an_interrupted_save_are_removed() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    let server = nats.server("snapshot_every = \"100ms\"").await;
    let last = add(&js, "latest.a", &json!(1)).await;
    server.until("read", |s| view(s, "latest:a")["offset"] == last).await;
    let epoch = epoch(&server, "latest:a");
    saved_upto(&js, &epoch, last).await;
    let bucket = js.get_key_value("NEXUS_STATE").await.unwrap();
    bucket.put(format!("state.{epoch}.gone"), "".into()).await.unwrap();
    assert_eq!(saved(&js).await.len(), 2);
    let late = nats.server("snapshot_every = \"0s\"").await;
    assert_eq!(saved(&js).await.len(), 1, "{:?}", saved(&js).await);
    assert_eq!(view(&late, "latest:a"), view(&server, "latest:a"));
}

/// Ended topics, and parts of large states that were saved again, leave nothing in the bucket.
#[tokio::test]
async fn removed_keys_leave_nothing_in_the_bucket() {
    let nats = Nats::start();
    let js = nats.jetstream().await;
    let server = nats.server("snapshot_every = \"100ms\"\n[limits]\ndelta_bytes = 900000").await;
    let mut last = add(&js, "latest.kept", &json!(1)).await;
    server.until("read", |s| view(s, "latest:kept")["offset"] == last).await;
    let epoch = epoch(&server, "latest:kept");
    for n in 0..4 {
        add(&js, "latest.large", &json!(format!("{n}{}", "x".repeat(700_000)))).await;
        last = add(&js, &format!("latest.{n}"), &json!(n)).await;
        saved_upto(&js, &epoch, last).await;
        last = add_kind(&js, &format!("latest.{n}"), "delete", &Value::Null).await;
        saved_upto(&js, &epoch, last).await;
    }
    let bucket = js.get_key_value("NEXUS_STATE").await.unwrap();
    // A broken-off save leaves them like this.
    for key in [format!("state.{epoch}.old"), format!("part.{epoch}.old.1.0")] {
        bucket.put(&key, "".into()).await.unwrap();
    }
    let late = nats.server("snapshot_every = \"0s\"").await;
    assert_eq!(view(&late, "latest:kept"), view(&server, "latest:kept"));
    let mut stream = js.get_stream("KV_NEXUS_STATE").await.unwrap();
    // The epoch, the saver, the position, the highest end, and the states of two topics, one of them in two parts.
    assert_eq!(stream.info().await.unwrap().state.messages, 8);
}
