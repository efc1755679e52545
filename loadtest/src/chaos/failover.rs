//! Redis with replicas: Sentinel, and a cluster of six. A delta counts once a replica has it (`WAIT 1`).

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::chaos::programs::{Node, NodeOptions, Process, Redis, command};
use crate::chaos::redis_faults::{LIMIT, NAMESPACES};
use crate::chaos::store::{Location, Store, open, owner};
use crate::chaos::test_bed::Props;
use crate::chaos::test_bed::{Habits, TestBed};
use crate::publish::stream_entry::STREAM;
use crate::servers::process::{free_port, until};

/// Time that a master may be silent before it counts as dead, in ms.
const DOWN_AFTER_MS: u32 = 2_000;

/// Time in which replicas and sentinels must find each other.
const FORM: Duration = Duration::from_secs(60);

const MASTER: &str = "mymaster";

const STREAMS: usize = 4;

/// Options for a replica that synchronizes without delay.
const REPLICATED: [&str; 8] =
    ["--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0", "--save", ""];

/// A master, two replicas, three sentinels. The master is killed, and is started again when another has its place.
pub(super) fn sentinel(test_bed: &mut TestBed<'_>) -> anyhow::Result<Props> {
    test_bed.say("starting Redis and sentinels");
    let mut master = Redis::start(test_bed.directory(), &REPLICATED, &[])?;
    let port = master.port.to_string();
    let of = ["--replicaof", "127.0.0.1", &port];
    let replica = || Redis::start(test_bed.directory(), &[&REPLICATED[..], &of].concat(), &[]);
    let replicas = [replica()?, replica()?];
    let sentinels =
        (0..3).map(|_| start_sentinel(test_bed.directory(), master.port)).collect::<anyhow::Result<Vec<_>>>()?;
    let ports: Vec<u16> = sentinels.iter().map(|(_, port)| *port).collect();
    until(FORM, || ports.iter().all(|port| knows_all(*port).unwrap_or(false)))
        .context("the sentinels do not find each other")?;
    let urls: Vec<String> = ports.iter().map(|port| format!("\"redis://127.0.0.1:{port}\"")).collect();
    let source =
        format!("[source.redis]\nsentinels = [{}]\nmaster = \"{MASTER}\"\nmax_lag = \"2s\"\n", urls.join(", "));
    let node = start_node(test_bed, source)?;
    test_bed.sessions(&[node.address], test_bed.args.sessions, Habits::default())?;
    let location = Location::Sentinel { ports: ports.clone(), master: MASTER };
    let store = Store::new(test_bed.topic_names(), location, vec![STREAM.to_owned()]);
    test_bed.publish(store.wait_for(1))?;
    test_bed.fault("the master is killed");
    master.kill();
    test_bed.whole(LIMIT)?;
    let now = open(&format!("127.0.0.1:{}", ports.first().context("no sentinel")?))
        .and_then(|mut c| {
            Ok(redis::cmd("SENTINEL").arg("get-master-addr-by-name").arg(MASTER).query::<(String, u16)>(&mut c)?)
        })?
        .1;
    let promoted = replicas.iter().any(|replica| replica.port == now);
    test_bed.check("a replica is the master", promoted, format!("port {now}, it was {}", master.port));
    // The old master is started again, and must follow the new one.
    master.start_again()?;
    let follows = || {
        let info =
            master.ask(&["INFO", "replication"]).ok().and_then(|info| redis::from_redis_value::<String>(info).ok());
        info.is_some_and(|info| info.contains("role:slave"))
    };
    until(FORM, follows).context("the old master does not follow the new one")?;
    test_bed.wait(Duration::from_secs(2))?;
    Ok(Box::new((master, replicas, sentinels, node)))
}

fn start_node(test_bed: &TestBed<'_>, source: String) -> anyhow::Result<Node> {
    let options = NodeOptions {
        source,
        namespaces: NAMESPACES.to_owned(),
        program: test_bed.args.server.clone(),
        ..NodeOptions::default()
    };
    Node::start(test_bed.directory(), "node-1", &options)
}

fn start_sentinel(directory: &Path, master: u16) -> anyhow::Result<(Process, u16)> {
    let port = free_port()?;
    let directory = directory.join(format!("sentinel-{port}"));
    std::fs::create_dir_all(&directory)?;
    let file = directory.join("sentinel.conf");
    let config = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {MASTER} 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}\nsentinel failover-timeout {MASTER} 10000\n",
        directory.display()
    );
    std::fs::write(&file, config)?;
    let log = std::fs::File::create(directory.join("log"))?;
    let child = command(Path::new("redis-server"))
        .arg(&file)
        .arg("--sentinel")
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("redis-server --sentinel cannot be started")?;
    Ok((Process(child), port))
}

/// Whether a sentinel knows both replicas and both other sentinels.
fn knows_all(port: u16) -> anyhow::Result<bool> {
    let mut connection = open(&format!("127.0.0.1:{port}"))?;
    let known: std::collections::HashMap<String, String> =
        redis::cmd("SENTINEL").arg("master").arg(MASTER).query(&mut connection)?;
    let is = |name: &str, n: &str| known.get(name).is_some_and(|value| value == n);
    Ok(is("num-slaves", "2") && is("num-other-sentinels", "2"))
}

/// Three masters with a replica each.
struct Cluster {
    nodes: Vec<Redis>,
}

impl Cluster {
    fn start(test_bed: &TestBed<'_>) -> anyhow::Result<Self> {
        test_bed.say("forming a cluster of six");
        let timeout = DOWN_AFTER_MS.to_string();
        let one = || -> anyhow::Result<Redis> {
            // Ports of the bus are 10,000 higher by default, which may be above the range of ports.
            let bus = free_port()?.to_string();
            let cluster = [
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--cluster-node-timeout",
                &timeout,
                "--cluster-require-full-coverage",
                "no",
            ];
            Redis::start(test_bed.directory(), &[&REPLICATED[..], &cluster].concat(), &[])
        };
        let nodes = (0..6).map(|_| one()).collect::<anyhow::Result<Vec<_>>>()?;
        let output = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)))
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .context("redis-cli cannot be run")?;
        if !output.status.success() {
            bail!("the cluster cannot be made: {}", String::from_utf8_lossy(&output.stdout));
        }
        let cluster = Self { nodes };
        let formed = |node: &Redis| {
            let info: Option<String> =
                node.ask(&["CLUSTER", "INFO"]).ok().and_then(|v| redis::from_redis_value(v).ok());
            let replication: Option<String> =
                node.ask(&["INFO", "replication"]).ok().and_then(|v| redis::from_redis_value(v).ok());
            info.is_some_and(|info| info.contains("cluster_state:ok"))
                && replication.is_some_and(|r| r.contains("master_link_status:up") || r.contains("connected_slaves:1"))
        };
        until(FORM, || cluster.nodes.iter().all(formed)).context("the cluster does not form")?;
        Ok(cluster)
    }

    fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    fn streams() -> Vec<String> {
        (0..STREAMS).map(|n| format!("nexus:deltas:{{{n}}}")).collect()
    }

    fn source(&self) -> String {
        let nodes: Vec<String> = self.ports().iter().map(|port| format!("\"redis://127.0.0.1:{port}\"")).collect();
        let streams: Vec<String> = Self::streams().iter().map(|stream| format!("{stream:?}")).collect();
        format!(
            "[source.redis]\ncluster = [{}]\nstreams = [{}]\nmax_lag = \"2s\"\n",
            nodes.join(", "),
            streams.join(", ")
        )
    }

    /// A server that reads it, sessions, and a publisher.
    fn set_up(&self, test_bed: &mut TestBed<'_>) -> anyhow::Result<Node> {
        let node = start_node(test_bed, self.source())?;
        test_bed.sessions(&[node.address], test_bed.args.sessions, Habits::default())?;
        let store = Store::new(test_bed.topic_names(), Location::Cluster(self.ports()), Self::streams());
        test_bed.publish(store.wait_for(1))?;
        Ok(node)
    }

    /// Index of the master that has the slot, according to another node.
    fn master_of(&self, slot: u64) -> anyhow::Result<usize> {
        let say = |node: &Redis| redis::from_redis_value::<String>(node.ask(&["CLUSTER", "NODES"]).ok()?).ok();
        let nodes = self.nodes.iter().find_map(say).context("no node of the cluster answers")?;
        let address = owner(&nodes, slot).context("no master has the slot")?;
        let port = address.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).context("a port")?;
        self.nodes.iter().position(|node| node.port == port).context("an unknown node")
    }

    fn at(&self, place: usize) -> anyhow::Result<&Redis> {
        self.nodes.get(place).context("no such node")
    }
}

fn text(value: redis::Value) -> anyhow::Result<String> {
    Ok(redis::from_redis_value(value)?)
}

/// The slot of a stream moves to another master, key by key, as in a resharding.
pub(super) fn slot_moved(test_bed: &mut TestBed<'_>) -> anyhow::Result<Props> {
    let cluster = Cluster::start(test_bed)?;
    let node = cluster.set_up(test_bed)?;
    let streams = Cluster::streams();
    let stream = streams.get(1).context("no stream")?;
    let slot: u64 = redis::from_redis_value(cluster.at(0)?.ask(&["CLUSTER", "KEYSLOT", stream])?)?;
    let from = cluster.master_of(slot)?;
    let to = cluster.master_of((slot + 16_384 / 2) % 16_384)?;
    let (source, target) = (cluster.at(from)?, cluster.at(to)?);
    let (source_id, target_id) = (text(source.ask(&["CLUSTER", "MYID"])?)?, text(target.ask(&["CLUSTER", "MYID"])?)?);
    let number = slot.to_string();
    test_bed.fault("a slot moves to another master");
    target.ask(&["CLUSTER", "SETSLOT", &number, "IMPORTING", &source_id])?;
    source.ask(&["CLUSTER", "SETSLOT", &number, "MIGRATING", &target_id])?;
    let keys: Vec<String> = redis::from_redis_value(source.ask(&["CLUSTER", "GETKEYSINSLOT", &number, "1000"])?)?;
    let port = target.port.to_string();
    for key in &keys {
        // For a while both masters have a part of the slot.
        source.ask(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"])?;
        test_bed.wait(Duration::from_millis(300))?;
    }
    for place in [to, from].into_iter().chain((0..cluster.nodes.len()).filter(|n| *n != to && *n != from)) {
        // Masters inform their replicas.
        let _ = cluster.at(place)?.ask(&["CLUSTER", "SETSLOT", &number, "NODE", &target_id]);
    }
    test_bed.healed();
    test_bed.whole(LIMIT)?;
    let moved = cluster.master_of(slot)? == to;
    test_bed.check("the slot is on the other master", moved, format!("slot {slot}, {} keys", keys.len()));
    Ok(Box::new((cluster, node)))
}

/// The master of one stream is killed; its replica takes over.
pub(super) fn cluster_master_killed(test_bed: &mut TestBed<'_>) -> anyhow::Result<Props> {
    let mut cluster = Cluster::start(test_bed)?;
    let node = cluster.set_up(test_bed)?;
    let streams = Cluster::streams();
    let stream = streams.first().context("no stream")?;
    let slot: u64 = redis::from_redis_value(cluster.at(0)?.ask(&["CLUSTER", "KEYSLOT", stream])?)?;
    let dead = cluster.master_of(slot)?;
    test_bed.fault("a master is killed");
    cluster.nodes.get_mut(dead).context("no such node")?.kill();
    test_bed.whole(LIMIT)?;
    let now = cluster.master_of(slot)?;
    test_bed.check("its replica is the master", now != dead, format!("slot {slot}: node {dead}, then node {now}"));
    // The dead master comes back as a replica.
    cluster.nodes.get_mut(dead).context("no such node")?.start_again()?;
    test_bed.wait(Duration::from_secs(3))?;
    Ok(Box::new((cluster, node)))
}
