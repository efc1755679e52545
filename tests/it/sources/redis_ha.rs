//! Redis under real sentinels and in a real cluster: failover, slots that move, masters that die. Deltas that a replica
//! has are neither lost nor repeated; deltas that a failover lost are not served any longer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::certificates::Authority;
use crate::support::redis_groups;
use crate::support::redis_groups::{Cluster, Sentinels};
use crate::support::{Client, Follower, OPEN, Server};

async fn ready(config: &str) -> Server {
    // Clients are not pinged while processes settle.
    let server = Server::start(&format!("{OPEN}\n[limits]\nping_interval = \"1h\"\n{config}"));
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    server
}

fn topic(server: &Server, name: &str) -> Value {
    serde_json::from_str(&server.get(&format!("/api/topics/{name}")).1).unwrap()
}

/// Each node answers requests of the other through Redis.
async fn exchange_messages(one: &Server, two: &Server) {
    let mut client = two.client().await;
    client.subscribe(&["stream:heard"]).await;
    let heard = |s: &Server| s.post("/api/channels", &json!({})).1["result"]["channels"]["stream:heard"].is_object();
    one.until("it hears the other", heard).await;
}

/// Numbers that were published in order, each certainly or possibly.
#[derive(Default)]
struct Numbers {
    last: u64,
    acknowledged: Vec<u64>,
    /// The numbers that a subscriber got.
    got: Vec<u64>,
}

impl Numbers {
    /// Publishes the next number. `Some(true)`: a replica has it.
    fn publish(&mut self, add: impl FnOnce(u64) -> Option<bool>) -> bool {
        self.last += 1;
        let sure = add(self.last) == Some(true);
        if sure {
            self.acknowledged.push(self.last);
        }
        sure
    }

    /// Publishes until `n` more have been acknowledged.
    fn publish_some(&mut self, n: usize, mut add: impl FnMut(u64) -> Option<bool>) {
        let until = self.acknowledged.len() + n;
        redis_groups::until("publishing continues", || {
            while self.acknowledged.len() < until {
                if !self.publish(&mut add) {
                    return false;
                }
            }
            true
        });
    }

    /// Checks that a subscriber of a `stream` got all acknowledged numbers, each once, in order.
    async fn check(&mut self, client: &mut Client) {
        let got = &mut self.got;
        let last = *self.acknowledged.last().unwrap();
        while got.last() != Some(&last) {
            let message = client.next().await;
            assert_eq!(message["type"], "delta", "nothing else was needed: {message}");
            got.push(message["data"].as_u64().unwrap());
        }
        assert!(got.windows(2).all(|pair| pair[0] < pair[1]), "in order, and none twice: {got:?}");
        let missing: Vec<&u64> = self.acknowledged.iter().filter(|n| !got.contains(n)).collect();
        assert!(missing.is_empty(), "{missing:?} of {got:?}");
    }
}

#[tokio::test]
async fn a_failover_under_sentinels_loses_and_repeats_nothing_that_a_replica_had() {
    let mut group = Sentinels::start(None, None);
    let (one, two) = (ready(&group.source_config()).await, ready(&group.source_config()).await);
    let (mut stream, mut merge) = (one.client().await, one.client().await);
    stream.subscribe(&["stream:s"]).await;
    merge.subscribe(&["merge:m"]).await;
    let mut follower = Follower { state: json!({}), ..Follower::default() };
    let (mut numbers, mut patches) = (Numbers::default(), Numbers::default());
    let mut publish = |group: &Sentinels, n: usize| {
        numbers.publish_some(n, |i| group.add("stream:s", &json!(i)));
        patches.publish_some(n / 5, |i| group.add("merge:m", &json!({(format!("k{}", i % 7)): i})));
    };
    publish(&group, 50);
    let old = group.kill_master();
    // Publishers find the new master on their own, and so does the server.
    publish(&group, 50);
    let new = group.until_failed_over();
    assert_ne!(old, new);
    for server in [&one, &two] {
        server.until("ready again", |s| s.get("/readyz").0 == 200).await;
        assert!(server.log().contains(&format!("node=127.0.0.1:{}", group.nodes[new].port)), "the log names it");
    }
    let offset = two.publish("merge:m", &json!({"by": "the API"}));
    exchange_messages(&one, &two).await;
    exchange_messages(&two, &one).await;
    // The old master comes back empty, and acts as a master until the sentinels demote it.
    group.nodes[old].start();
    publish(&group, 20);
    redis_groups::until("it is a replica now", || group.nodes[old].role() == "slave");
    publish(&group, 20);

    numbers.check(&mut stream).await;
    let end = *patches.acknowledged.last().unwrap();
    let there = |s: &Server| {
        let data = topic(s, "merge:m")["data"].clone();
        data[format!("k{}", end % 7)] == end
    };
    for server in [&one, &two] {
        server.until("it has read all", there).await;
    }
    let (first, second) = (topic(&one, "merge:m"), topic(&two, "merge:m"));
    assert_eq!(first, second, "offset, epoch and state");
    assert!(offset < first["offset"].as_u64().unwrap() && first["data"]["by"] == "the API");
    follower.follow(&mut merge, first["offset"].as_u64().unwrap()).await;
    assert_eq!((&follower.state, follower.snapshots), (&first["data"], 0));
    for server in [&one, &two] {
        assert_eq!(server.metric("epoch_changes_total{source=\"redis nexus:deltas\"}"), 0.0, "{}", server.log());
    }
}

/// Follows a topic until it has `state` in another epoch than `old`.
async fn settle(client: &mut Client, follower: &mut Follower, old: &str, state: &Value) {
    while follower.epoch.is_empty() || follower.epoch == old || follower.state != *state {
        let message = client.next().await;
        if message["type"] == "snapshot" || !follower.epoch.is_empty() {
            follower.take(&message);
        }
    }
}

/// The new master lacks the last entries, and has newer ones by the time the server reads it: IDs do not go backwards,
/// but what was served is in no node's state any more.
#[tokio::test]
async fn deltas_lost_in_a_failover_change_the_epoch_and_are_not_served() {
    let mut group = Sentinels::start(Some("redis-secret-1"), None);
    let config = format!("{}snapshot_every = \"300ms\"\n", group.source_config());
    let (one, two) = (ready(&config).await, ready(&config).await);
    let mut clients = [one.client().await, two.client().await];
    let mut epochs = Vec::new();
    for client in &mut clients {
        let reply = client.subscribe(&["merge:m"]).await;
        epochs.push(reply["topics"]["merge:m"]["epoch"].as_str().unwrap().to_owned());
    }
    assert_eq!(epochs[0], epochs[1]);
    let old = epochs.remove(0);
    let mut sure = Numbers::default();
    sure.publish_some(10, |n| group.add("merge:m", &json!({(format!("k{n}")): n})));
    let last = format!("k{}", sure.last);
    for client in &mut clients {
        while client.next().await["data"].get(&last).is_none() {}
    }
    group.cut_replicas();
    let master = group.master().unwrap();
    for n in 1..=5 {
        group.nodes[master].append("nexus:deltas", "merge:m", &json!({(format!("lost{n}")): n})).unwrap();
    }
    let mut lost = 0;
    for client in &mut clients {
        for _ in 1..=5 {
            let message = client.next().await;
            assert!(message["data"].to_string().contains("lost"), "{message}");
            lost = message["offset"].as_u64().unwrap();
        }
    }
    // They connect to the new master when it has newer entries.
    for server in [&one, &two] {
        server.signal("STOP");
    }
    group.kill_master();
    group.mend_replicas();
    let master = group.until_failed_over();
    sure.publish_some(5, |n| group.add("merge:m", &json!({(format!("k{n}")): n})));
    let kept = group.nodes[master].state("nexus:deltas");
    assert!(sure.acknowledged.iter().all(|n| kept[format!("k{n}")] == *n) && kept.get("lost1").is_none(), "{kept}");
    for server in [&one, &two] {
        server.signal("CONT");
    }
    let mut ends = Vec::new();
    for client in &mut clients {
        let mut follower = Follower::default();
        settle(client, &mut follower, &old, &kept).await;
        ends.push((follower.epoch, follower.offset));
    }
    let noticed = |s: &Server| s.log().contains("was read from the stream, but is not in it");
    assert!(noticed(&one) || noticed(&two), "{}", one.log());
    let three = ready(&config).await;
    let fresh = topic(&three, "merge:m");
    assert_eq!(fresh["data"], kept, "the lost data was not saved");
    for (server, (epoch, offset)) in [&one, &two].into_iter().zip(&ends) {
        assert_eq!((&fresh["epoch"], &fresh["offset"]), (&json!(epoch), &json!(offset)));
        server.until("the same as for a new client", |s| topic(s, "merge:m") == fresh).await;
        server.until("ready", |s| s.get("/readyz").0 == 200).await;
        assert!(server.metric("epoch_changes_total{source=\"redis nexus:deltas\"}") >= 1.0);
        // A position among the lost entries is not valid on any node.
        let mut back = server.client().await;
        back.send(
            json!({"op": "subscribe", "args": ["merge:m"], "since": {"merge:m": {"offset": lost, "epoch": old}}}),
        )
        .await;
        let reply = back.next().await;
        assert_ne!(reply["topics"]["merge:m"]["epoch"], old.as_str());
        let snapshot = back.next().await;
        assert_eq!((&snapshot["type"], &snapshot["data"]), (&json!("snapshot"), &kept));
        assert!(!server.log().contains("redis-secret-1"), "a password in the log");
    }
}

/// The old master hangs: its connections stay open, and it continues when resumed. The server leaves it because the
/// sentinels name another.
#[tokio::test]
async fn a_hanging_master_is_replaced_by_the_one_that_the_sentinels_name() {
    let group = Sentinels::start(None, None);
    let server = ready(&group.source_config()).await;
    let mut client = server.client().await;
    client.subscribe(&["stream:s"]).await;
    let mut numbers = Numbers::default();
    numbers.publish_some(5, |n| group.add("stream:s", &json!(n)));
    let old = group.master().unwrap();
    group.nodes[old].signal("STOP");
    redis_groups::until("another is the master", || group.master_other_than(old).is_some());
    let new = group.master_other_than(old).unwrap();
    numbers.publish_some(5, |n| group.nodes[new].add("nexus:deltas", "stream:s", &json!(n)));
    numbers.check(&mut client).await;
    group.nodes[old].signal("CONT");
    redis_groups::until("it is a replica now", || group.nodes[old].role() == "slave");
    numbers.publish_some(5, |n| group.nodes[new].add("nexus:deltas", "stream:s", &json!(n)));
    numbers.check(&mut client).await;
    assert_eq!(server.metric("epoch_changes_total{source=\"redis nexus:deltas\"}"), 0.0);
}

/// The old master is well, and stays a master: only the sentinels and its replicas cannot reach it, as in a partitioned
/// network with the server on its side. (Another password keeps them out; existing connections are not asked for it.)
#[tokio::test]
async fn a_partitioned_master_is_replaced_by_the_one_that_the_sentinels_name() {
    let group = Sentinels::start(Some("redis-secret-1"), None);
    let server = ready(&group.source_config()).await;
    let mut client = server.client().await;
    client.subscribe(&["stream:s"]).await;
    let mut numbers = Numbers::default();
    numbers.publish_some(5, |n| group.add("stream:s", &json!(n)));
    server.publish("stream:another", &json!("so that there is a connection for it"));
    let old = group.master().unwrap();
    let length = |node: usize| group.nodes[node].query::<u64>(&["XLEN", "nexus:deltas"]);
    redis_groups::until("replicas have it", || (0..3).all(|node| length(node) == 6));
    let mut inside = group.nodes[old].connect().unwrap();
    group.nodes[old].keep_out_all_but_servers(&mut inside);
    redis_groups::until("another is the master", || group.master_other_than(old).is_some());
    let new = group.master_other_than(old).unwrap();
    numbers.publish_some(5, |n| group.nodes[new].add("nexus:deltas", "stream:s", &json!(n)));
    numbers.check(&mut client).await;
    // The API does not write to the old master either, over its existing connection.
    server.publish("stream:another", &json!("on the new master"));
    assert_eq!(length(new), 7 + numbers.last - 5);
    assert_eq!(::redis::cmd("XLEN").arg("nexus:deltas").query::<u64>(&mut inside).unwrap(), 6);
    assert_eq!(server.metric("epoch_changes_total{source=\"redis nexus:deltas\"}"), 0.0);
}

/// Redis and the sentinels have different passwords.
#[tokio::test]
async fn two_nodes_know_of_each_other_through_sentinels() {
    let group = Sentinels::start(Some("redis-secret-1"), Some("sentinel-secret-2"));
    let logs = crate::support::nodes::nodes_know_of_each_other(&group.source_config()).await;
    for secret in ["redis-secret-1", "sentinel-secret-2"] {
        assert!(!logs.contains(secret), "a password in the log");
    }
}

#[tokio::test]
async fn two_nodes_know_of_each_other_through_a_cluster() {
    let cluster = Cluster::start(4);
    crate::support::nodes::nodes_know_of_each_other(&cluster.source_config()).await;
}

#[tokio::test]
async fn a_master_unknown_to_all_sentinels_is_reported() {
    let group = Sentinels::start(None, None);
    let config = group.source_config().replace("\"mymaster\"", "\"another\"");
    let server = Server::start(&format!("{OPEN}\n{config}"));
    server.until("it is reported", |s| s.log().contains("no sentinel says where the master is")).await;
    let (status, reason) = server.get("/readyz");
    assert!(status == 503 && reason.contains("not loaded yet"), "{reason}");
    assert!(server.log().contains("another: ") && server.log().contains("No such master"), "{}", server.log());
    let (status, reply) = server.post("/api/publish", &json!({"channel": "stream:s", "data": 1}));
    assert_eq!(status, 503, "{reply}");
}

/// A topic that belongs in this partition.
fn topic_of(partition: usize, partitions: usize, class: &str) -> String {
    let home = |name: &str| {
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        usize::try_from(hash % partitions as u64).unwrap()
    };
    (0..).map(|n| format!("{class}:{n}")).find(|name| home(name) == partition).unwrap()
}

const PARTITIONS: usize = 6;

/// Reads deltas until `number`, which only this test publishes.
async fn until_number(client: &mut Client, seen: &mut Vec<u64>, number: u64) -> Value {
    loop {
        let message = client.next().await;
        assert_eq!(message["type"], "delta", "{message}");
        match message["data"].as_u64().unwrap() {
            n if n == number => return message,
            n => seen.push(n),
        }
    }
}

/// Every partition of a cluster under load: numbers are published to each in order.
struct Load {
    /// Locked while a delta is being published to it.
    cluster: Arc<Mutex<Cluster>>,
    stop: Arc<AtomicBool>,
    publisher: Option<std::thread::JoinHandle<Vec<Numbers>>>,
    clients: Vec<Client>,
    topics: Vec<String>,
}

impl Load {
    async fn begin(cluster: Cluster, server: &Server) -> Self {
        let topics: Vec<String> = (0..PARTITIONS).map(|p| topic_of(p, PARTITIONS, "stream")).collect();
        let mut clients = Vec::new();
        for topic in &topics {
            let mut client = server.client().await;
            client.subscribe(&[topic]).await;
            clients.push(client);
        }
        let (cluster, stop) = (Arc::new(Mutex::new(cluster)), Arc::new(AtomicBool::new(false)));
        let publisher = std::thread::spawn({
            let (cluster, stop, topics) = (cluster.clone(), stop.clone(), topics.clone());
            move || {
                let mut all: Vec<Numbers> = topics.iter().map(|_| Numbers::default()).collect();
                while !stop.load(Ordering::SeqCst) {
                    for (p, numbers) in all.iter_mut().enumerate() {
                        let cluster = cluster.lock().unwrap();
                        numbers.publish(|n| cluster.add(p, &topics[p], &json!(n)));
                    }
                }
                all
            }
        });
        Self { cluster, stop, publisher: Some(publisher), clients, topics }
    }

    /// Runs something on the cluster between two deltas.
    fn meanwhile<R>(&self, act: impl FnOnce(&mut Cluster) -> R) -> R {
        act(&mut self.cluster.lock().unwrap())
    }

    /// Waits until a subscriber of a partition has got `n` more.
    async fn until_delivered(&mut self, partition: usize, n: usize, seen: &mut Vec<u64>) {
        for _ in 0..n {
            let message = self.clients[partition].next().await;
            assert_eq!(message["type"], "delta", "{message}");
            seen.push(message["data"].as_u64().unwrap());
        }
    }

    /// Ends the load: publishes some more to each partition, and checks what every subscriber got.
    async fn end(&mut self, partition: usize, seen: Vec<u64>) {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = self.publisher.take().unwrap().join().unwrap();
        all[partition].got = seen;
        for (p, numbers) in all.iter_mut().enumerate() {
            self.meanwhile(|cluster| numbers.publish_some(5, |n| cluster.add(p, &self.topics[p], &json!(n))));
            numbers.check(&mut self.clients[p]).await;
        }
    }
}

impl Drop for Load {
    /// A failed test must leave no processes behind: the publisher shares the cluster.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(publisher) = self.publisher.take() {
            let _ = publisher.join();
        }
    }
}

fn source_metric(server: &Server, name: &str, partition: usize) -> f64 {
    server.metric(&format!("{name}{{source=\"redis nexus:deltas:{{{partition}}}\"}}"))
}

#[tokio::test]
async fn a_slot_is_moved_under_load_and_nothing_is_lost_or_repeated() {
    let cluster = Cluster::start(PARTITIONS);
    let server = ready(&cluster.source_config()).await;
    let (moved, from) = (0, cluster.owner(0).unwrap());
    let to = (0..cluster.nodes.len()).find(|i| *i != from && cluster.nodes[*i].role() == "master").unwrap();
    let topic = topic_of(moved, PARTITIONS, "stream");
    let mut load = Load::begin(cluster, &server).await;
    let mut seen = Vec::new();
    load.until_delivered(moved, 20, &mut seen).await;
    load.meanwhile(|cluster| cluster.begin_move(moved, from, to));
    load.until_delivered(moved, 20, &mut seen).await;
    // Key by key, so that keys are on both nodes: the epoch first, then the stream.
    let keys = load.meanwhile(|cluster| cluster.keys(moved, from));
    assert!(keys.len() >= 2, "{keys:?}");
    let (stream, beside): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| !key.ends_with(":epoch"));
    for key in beside.iter().chain(&stream) {
        load.meanwhile(|cluster| cluster.move_key(key, from, to));
        load.until_delivered(moved, 20, &mut seen).await;
    }
    // The slot still belongs to the old node, but all its keys are on the new one: reads and writes both use the new
    // node.
    let offset = server.publish(&topic, &json!(1_000_000));
    let message = until_number(&mut load.clients[moved], &mut seen, 1_000_000).await;
    assert_eq!(message["offset"], offset);
    load.meanwhile(|cluster| cluster.end_move(moved, to));
    load.until_delivered(moved, 20, &mut seen).await;
    let offset = server.publish(&topic, &json!(1_000_000));
    let message = until_number(&mut load.clients[moved], &mut seen, 1_000_000).await;
    assert_eq!(message["offset"], offset);
    load.end(moved, seen).await;
    assert_eq!(load.meanwhile(|cluster| cluster.owner(moved)), Some(to));
    for p in 0..PARTITIONS {
        assert_eq!(source_metric(&server, "epoch_changes_total", p), 0.0, "{}", server.log());
        assert!(p == moved || source_metric(&server, "source_errors_total", p) == 0.0, "{p}: {}", server.log());
    }
    let port = load.meanwhile(|cluster| cluster.nodes[to].port);
    assert!(server.log().contains(&format!("node=127.0.0.1:{port}")), "the log names it");
}

#[tokio::test]
async fn a_master_of_a_cluster_is_killed_and_its_replica_takes_over() {
    let cluster = Cluster::start(PARTITIONS);
    let (server, other) = (ready(&cluster.source_config()).await, ready(&cluster.source_config()).await);
    let owners: Vec<usize> = (0..PARTITIONS).map(|p| cluster.owner(p).unwrap()).collect();
    let killed = owners[0];
    let merge = topic_of(0, PARTITIONS, "merge");
    let before = server.publish(&merge, &json!({"before": 1}));
    let mut load = Load::begin(cluster, &server).await;
    let mut seen = Vec::new();
    load.until_delivered(0, 20, &mut seen).await;
    load.meanwhile(|cluster| cluster.nodes[killed].kill());
    redis_groups::until("a replica has taken over", || load.meanwhile(|cluster| cluster.owner(0)).is_some());
    load.until_delivered(0, 5, &mut seen).await;
    for server in [&server, &other] {
        server.until("ready again", |s| s.get("/readyz").0 == 200).await;
    }
    let after = other.publish(&merge, &json!({"after": 2}));
    assert!(after > before);
    exchange_messages(&server, &other).await;
    // It comes back as a replica of the new master.
    load.meanwhile(|cluster| cluster.nodes[killed].start());
    redis_groups::until("it is a replica now", || load.meanwhile(|cluster| cluster.nodes[killed].role()) == "slave");
    load.end(0, seen).await;
    for server in [&server, &other] {
        server.until("has it all", |s| topic(s, &merge)["data"] == json!({"before": 1, "after": 2})).await;
        for (p, owner) in owners.iter().enumerate() {
            assert_eq!(source_metric(server, "epoch_changes_total", p), 0.0, "{}", server.log());
            let undisturbed = source_metric(server, "source_errors_total", p) == 0.0;
            assert!(*owner == killed || undisturbed, "{p}: {}", server.log());
        }
    }
    assert_eq!(topic(&server, &merge), topic(&other, &merge));
}

#[tokio::test]
async fn over_tls_with_a_known_authority() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue("localhost").write(directory.path(), "redis");
    let ca = directory.path().join("ca.crt");
    std::fs::write(&ca, authority.pem()).unwrap();
    let redis = redis_groups::over_tls(directory.path(), "redis-secret-1");
    let config = format!("{OPEN}\n[source.redis]\nurl = \"rediss://:redis-secret-1@localhost:{}\"\n", redis.port);
    let server = Server::start_in(&config, 0, &[("SSL_CERT_FILE", ca.to_str().unwrap())]);
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    let mut client = server.client().await;
    client.subscribe(&["stream:s"]).await;
    server.publish("stream:s", &json!(1));
    assert_eq!(client.next().await["data"], 1);
    // The certificate has no known authority here.
    let server = Server::start(&config);
    server.until("it is reported", |s| s.log().contains("Redis cannot be read")).await;
    assert_eq!(server.get("/readyz").0, 503);
    assert!(!server.log().contains("redis-secret-1"), "a password in the log");
}
