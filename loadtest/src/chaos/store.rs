//! The store: one Redis, the master that Sentinel names, or the nodes of a cluster. Reads back the entries whose
//! outcome is uncertain after a lost connection.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use redis::Connection;
use serde_json::Value;

use crate::chaos::publish_log::Entry;
use crate::publish::publisher::offset_of;
use crate::publish::stream_entry::StreamEntry;

/// Time-out of connecting, and of any answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Time-out of `WAIT` for replicas.
const WAIT_MS: u64 = 1_000;

/// Most entries that are read back.
const BACK_MAX: usize = 100_000;

/// Length to which streams are trimmed, about.
const STREAM_MAX: usize = 400_000;

/// The location of the store.
#[derive(Debug, Clone)]
pub(crate) enum Location {
    /// One Redis.
    Fixed(u16),
    /// Sentinels, which name the master.
    Sentinel { ports: Vec<u16>, master: &'static str },
    /// Some nodes of a cluster.
    Cluster(Vec<u16>),
}

/// Publishes to the store.
pub(crate) struct Store {
    /// Names of all topics.
    topics: Vec<String>,
    location: Location,
    streams: Vec<String>,
    /// Number of replicas that must have a delta before it counts.
    replicas: u32,
    /// Set if deltas go through the publish API of one of these nodes.
    nodes: Vec<SocketAddr>,
    node: usize,
    links: HashMap<usize, Link>,
    /// The last entry that counts, by stream.
    last: HashMap<usize, String>,
}

/// A connection, with its client ID and the server's run ID, so that it can be closed for certain.
struct Link {
    connection: Connection,
    /// Number of replicas to wait for: a master that has just taken over may have none.
    replicas: u32,
    client: u64,
    run: String,
}

/// The outcome of uncertain entries.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// Entries that had arrived, with their offsets.
    pub(crate) taken: Vec<(Entry, u64)>,
    /// Entries that had not.
    pub(crate) missing: Vec<Entry>,
    /// Partitions whose store has lost acknowledged entries.
    pub(crate) lost: Vec<usize>,
}

impl Store {
    pub(crate) fn new(topics: Vec<String>, location: Location, streams: Vec<String>) -> Self {
        Self {
            topics,
            location,
            streams,
            replicas: 0,
            nodes: Vec::new(),
            node: 0,
            links: HashMap::new(),
            last: HashMap::new(),
        }
    }

    /// Lets a delta count once this many replicas have it, or all if the master has fewer.
    pub(crate) fn wait_for(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// Publishes deltas through the API of these nodes. There must be one stream.
    pub(crate) fn through(mut self, nodes: Vec<SocketAddr>) -> Self {
        self.nodes = nodes;
        self
    }

    /// The partition of a topic, as the publish API chooses it (FNV-1a).
    pub(crate) fn partition(&self, topic: &str) -> usize {
        let hash = topic
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        usize::try_from(hash % self.streams.len().max(1) as u64).unwrap_or(0)
    }

    fn partition_of(&self, entry: &Entry) -> usize {
        self.partition(self.name(entry))
    }

    fn name(&self, entry: &Entry) -> &str {
        self.topics.get(entry.topic).map_or("", String::as_str)
    }

    /// Publishes a batch in which no topic occurs twice. Acknowledged entries move to `taken`, with their offsets.
    /// After a failure, any of the rest may have been stored.
    pub(crate) fn send(&mut self, batch: &mut Vec<Entry>, taken: &mut Vec<(Entry, u64)>) -> anyhow::Result<()> {
        if !self.nodes.is_empty() {
            let offsets = self.post(batch)?;
            for (entry, offset) in batch.drain(..).zip(offsets) {
                self.last.insert(0, id_of(offset));
                taken.push((entry, offset));
            }
            return Ok(());
        }
        for partition in 0..self.streams.len() {
            let part: Vec<Entry> =
                batch.iter().filter(|entry| self.partition_of(entry) == partition).cloned().collect();
            if part.is_empty() {
                continue;
            }
            let stream = self.streams.get(partition).cloned().context("no stream")?;
            let mut pipe = redis::pipe();
            for entry in &part {
                let delta = StreamEntry {
                    stream: &stream,
                    max_len: Some(STREAM_MAX),
                    is_snapshot: entry.snapshot,
                    ..StreamEntry::new(self.name(entry), &entry.data)
                };
                pipe.add_command(delta.append());
            }
            let link = self.link(partition)?;
            let replicas = link.replicas;
            let ids: Vec<String> = pipe.query(&mut link.connection)?;
            if replicas > 0 {
                let reached: u32 = redis::cmd("WAIT").arg(replicas).arg(WAIT_MS).query(&mut link.connection)?;
                anyhow::ensure!(reached >= replicas, "{reached} of {replicas} replicas confirmed");
            }
            for (entry, id) in part.into_iter().zip(ids) {
                taken.push((entry, offset_of(&id)?));
                self.last.insert(partition, id);
            }
            batch.retain(|entry| self.partition_of(entry) != partition);
        }
        Ok(())
    }

    /// The connection for a partition.
    fn link(&mut self, partition: usize) -> anyhow::Result<&mut Link> {
        if !self.links.contains_key(&partition) {
            let link = self.connect(partition)?;
            self.links.insert(partition, link);
        }
        self.links.get_mut(&partition).context("no connection")
    }

    fn connect(&self, partition: usize) -> anyhow::Result<Link> {
        let address = match &self.location {
            Location::Fixed(port) => format!("127.0.0.1:{port}"),
            Location::Sentinel { ports, master } => master_by_sentinel(ports, master)?,
            Location::Cluster(ports) => master_by_cluster(ports, self.streams.get(partition).context("no stream")?)?,
        };
        let mut connection = open(&address)?;
        let client: u64 = redis::cmd("CLIENT").arg("ID").query(&mut connection)?;
        let info: String = redis::cmd("INFO").query(&mut connection)?;
        let field = |name: &str| info.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("").trim().to_owned();
        anyhow::ensure!(field("role:") == "master", "{address} is {}, not the master", field("role:"));
        anyhow::ensure!(field("loading:") == "0", "{address} is loading its data");
        let replicas = self.replicas.min(field("connected_slaves:").parse().unwrap_or(0));
        Ok(Link { connection, replicas, client, run: field("run_id:") })
    }

    /// After a failure: determines the outcome of the uncertain entries. Those still uncertain after another failure
    /// stay in the list.
    pub(crate) fn settle(&mut self, uncertain: &mut Vec<Entry>, settled: &mut Settled) -> anyhow::Result<()> {
        while let Some(partition) = uncertain.first().map(|entry| self.partition_of(entry)) {
            self.settle_partition(partition, uncertain, settled)?;
        }
        // If a node does not answer, the next one is used.
        self.node += 1;
        Ok(())
    }

    fn settle_partition(
        &mut self,
        partition: usize,
        uncertain: &mut Vec<Entry>,
        settled: &mut Settled,
    ) -> anyhow::Result<()> {
        let stream = self.streams.get(partition).cloned().context("no stream")?;
        let mut link = self.connect(partition)?;
        // A command of the old connection must be finished, or never executed: the connection is closed first.
        if let Some(old) = self.links.get(&partition)
            && old.run == link.run
            && old.client != link.client
        {
            // Returns the number of clients closed; 0 if it was closed already.
            let _: u64 = redis::cmd("CLIENT").arg("KILL").arg("ID").arg(old.client).query(&mut link.connection)?;
        }
        // One turn of Redis' loop, for commands that a node had sent before it was killed.
        let _: String = redis::cmd("PING").query(&mut link.connection)?;
        let last = self.last.get(&partition).cloned();
        let kept = match &last {
            None => true,
            Some(id) => {
                let found: redis::Value =
                    redis::cmd("XRANGE").arg(&stream).arg(id).arg(id).query(&mut link.connection)?;
                !matches!(found, redis::Value::Array(ref list) if list.is_empty())
            }
        };
        let there = if kept { read_back(&mut link.connection, &stream, last.as_deref())? } else { HashMap::new() };
        // From here on nothing can fail half-way.
        self.links.insert(partition, link);
        if !kept {
            self.last.remove(&partition);
            settled.lost.push(partition);
        }
        for entry in std::mem::take(uncertain) {
            if self.partition_of(&entry) != partition {
                uncertain.push(entry);
                continue;
            }
            match there.get(&(self.name(&entry).to_owned(), entry.number)) {
                Some(id) => {
                    self.last.insert(partition, id.clone());
                    settled.taken.push((entry, offset_of(id).unwrap_or_default()));
                }
                None => settled.missing.push(entry),
            }
        }
        Ok(())
    }

    /// `POST /api/batch`. Returns the offsets.
    fn post(&self, batch: &[Entry]) -> anyhow::Result<Vec<u64>> {
        let node = self.nodes.get(self.node % self.nodes.len().max(1)).context("no node")?;
        let commands: Vec<String> = batch
            .iter()
            .map(|entry| {
                let name = self.name(entry);
                let kind = if entry.snapshot { ",\"kind\":\"snapshot\"" } else { "" };
                format!("{{\"publish\":{{\"channel\":\"{name}\",\"data\":{}{kind}}}}}", entry.data)
            })
            .collect();
        let body = format!("{{\"commands\":[{}]}}", commands.join(","));
        let mut stream = TcpStream::connect_timeout(node, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let head = format!(
            "POST /api/batch HTTP/1.1\r\nHost: {node}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an incomplete answer")?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("publishing was answered with {}", head.lines().next().unwrap_or(""));
        }
        let body: Value = serde_json::from_str(body)?;
        let replies = body.get("replies").and_then(Value::as_array).context("no replies")?;
        let offset = |reply: &Value| {
            reply.pointer("/publish/offset").and_then(Value::as_u64).with_context(|| format!("refused: {reply}"))
        };
        replies.iter().map(offset).collect()
    }
}

/// Numbered entries after `last`, by topic and number, with their IDs.
fn read_back(
    connection: &mut Connection,
    stream: &str,
    last: Option<&str>,
) -> anyhow::Result<HashMap<(String, u64), String>> {
    let from = last.map_or_else(|| "-".to_owned(), |id| format!("({id}"));
    let found: Vec<(String, HashMap<String, String>)> =
        redis::cmd("XRANGE").arg(stream).arg(from).arg("+").arg("COUNT").arg(BACK_MAX).query(connection)?;
    let numbered = found.into_iter().filter_map(|(id, fields)| {
        let data: Value = serde_json::from_str(fields.get("data")?).ok()?;
        Some(((fields.get("topic")?.clone(), data.get("n")?.as_u64()?), id))
    });
    Ok(numbered.collect())
}

/// The entry ID that has this offset.
fn id_of(offset: u64) -> String {
    const BASE_MS: u64 = 1_704_067_200_000;
    format!("{}-{}", BASE_MS + (offset >> 13), offset & 0x1fff)
}

/// A connection with time-outs.
pub(crate) fn open(address: &str) -> anyhow::Result<Connection> {
    let client = redis::Client::open(format!("redis://{address}/"))?;
    let connection = client.get_connection_with_timeout(TIMEOUT)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    connection.set_write_timeout(Some(TIMEOUT))?;
    Ok(connection)
}

fn master_by_sentinel(ports: &[u16], master: &str) -> anyhow::Result<String> {
    let ask = |port: &u16| -> anyhow::Result<String> {
        let mut connection = open(&format!("127.0.0.1:{port}"))?;
        let (host, port): (String, u16) =
            redis::cmd("SENTINEL").arg("get-master-addr-by-name").arg(master).query(&mut connection)?;
        Ok(format!("{host}:{port}"))
    };
    ports.iter().find_map(|port| ask(port).ok()).context("no sentinel answers")
}

/// The node of a key's slot, as reported by the nodes that answer; while it is moving, still the old one.
fn master_by_cluster(ports: &[u16], key: &str) -> anyhow::Result<String> {
    let ask = |port: &u16| -> anyhow::Result<String> {
        let mut connection = open(&format!("127.0.0.1:{port}"))?;
        let slot: u64 = redis::cmd("CLUSTER").arg("KEYSLOT").arg(key).query(&mut connection)?;
        let nodes: String = redis::cmd("CLUSTER").arg("NODES").query(&mut connection)?;
        owner(&nodes, slot).context("no master has that slot")
    };
    let deadline = Instant::now() + TIMEOUT;
    ports
        .iter()
        .take_while(|_| Instant::now() < deadline)
        .find_map(|port| ask(port).ok())
        .context("no node of the cluster answers")
}

/// From `CLUSTER NODES`: the address of the master that has the slot.
pub(crate) fn owner(nodes: &str, slot: u64) -> Option<String> {
    nodes.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags: Vec<&str> = fields.get(2)?.split(',').collect();
        if !flags.contains(&"master") || flags.iter().any(|flag| flag.starts_with("fail")) {
            return None;
        }
        let has = fields.iter().skip(8).any(|range| {
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            matches!((low.parse::<u64>(), high.parse::<u64>()), (Ok(low), Ok(high)) if (low..=high).contains(&slot))
        });
        has.then(|| fields.get(1)?.split(['@', ',']).next().map(str::to_owned)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_and_ids_are_the_same_thing() {
        for id in ["1795548000123-0", "1795548000123-77"] {
            assert_eq!(id_of(offset_of(id).unwrap()), id);
        }
    }

    #[test]
    fn the_owner_of_a_slot_is_a_running_master() {
        let nodes = "a 127.0.0.1:7001@17001 master,fail - 0 0 1 connected 0-5460\n\
                     b 127.0.0.1:7002@17002 myself,master - 0 0 2 connected 5461-10922 [93->-a]\n\
                     c 127.0.0.1:7003@17003,host slave b 0 0 2 connected\n\
                     d 127.0.0.1:7004@17004 master - 0 0 9 connected 10923 10925-16383\n";
        assert_eq!(owner(nodes, 6_000).as_deref(), Some("127.0.0.1:7002"));
        assert_eq!(owner(nodes, 10_923).as_deref(), Some("127.0.0.1:7004"));
        assert_eq!((owner(nodes, 10_924), owner(nodes, 5)), (None, None));
    }
}
