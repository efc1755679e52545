//! The nodes' shared state in Redis: one pub/sub channel for messages, and a hash per topic for
//! presence. In a Redis Cluster, presence is spread over a few slots and so over the masters, and
//! written to each master in order.
//!
//! Nothing here blocks its callers: messages wait in a bounded queue. Messages lost while Redis is
//! away are either repeated (reports, presence) or about a past moment (joins and leaves).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::{ErrorKind, Pipeline, RedisError, RedisResult, Value, cmd, pipe};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::messages::{ClusterMessage, Envelope};
use crate::clock::unix_ms;
use crate::config;
use crate::metrics::Metrics;
use crate::name::TopicName;
use crate::protocol::MemberInfo;
use crate::source::redis::{Link, Masters, SharedLink};

/// Messages and writes that may wait. Past it: the next is dropped and counted.
const QUEUE_MAX: usize = 65_536;

/// Writes per round trip.
const CHUNK: usize = 512;

/// Time after which presence expires unless it is renewed.
const PRESENCE_TTL_MS: u64 = 60_000;

/// Time between two renewals of presence.
const PRESENCE_EVERY: Duration = Duration::from_secs(20);

/// Renewals between two cleanups of expired presence, so that hashes of topics that are never read
/// do not grow.
const CLEAR_EVERY: u32 = 6;

/// Longest wait before Redis is tried again.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Delay before failed writes of presence are retried.
const PRESENCE_AGAIN: Duration = Duration::from_secs(2);

/// Time-out of a read of presence.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Time between two checks that the node behind the subscription still answers, and still is a
/// master.
const LISTEN_CHECK: Duration = Duration::from_secs(5);

/// Time-out of such a check.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(3);

/// Slots of presence in a Redis Cluster.
const PRESENCE_SLOTS: usize = 16;

/// Topics and their numbers of subscribers.
type Counts = Vec<(String, u64)>;

/// A write to Redis.
enum Out {
    Publish(String),
    Present {
        topic: TopicName,
        info: Arc<MemberInfo>,
    },
    Absent {
        topic: TopicName,
        client: String,
    },
    /// A marker: every write before it is done.
    Mark(flume::Sender<()>),
}

#[derive(Serialize, Deserialize)]
struct Present {
    info: MemberInfo,
    /// Unix ms.
    until: u64,
}

pub(super) struct Shared {
    masters: Masters,
    node: Arc<str>,
    channel: String,
    presence: String,
    queue: flume::Sender<Out>,
    queued: flume::Receiver<Out>,
    questions: Mutex<HashMap<u64, flume::Sender<Counts>>>,
    next: AtomicU64,
    /// Connections for presence: one, or in a cluster one per slot.
    links: Vec<SharedLink>,
    metrics: Arc<Metrics>,
}

fn no_answer() -> RedisError {
    RedisError::from((ErrorKind::Io, "no answer in time"))
}

/// The replies to a request, as they arrive.
pub(super) struct Answers<'a> {
    shared: &'a Shared,
    question: u64,
    answers: flume::Receiver<Counts>,
}

impl Answers<'_> {
    pub(super) async fn next(&self) -> Option<Counts> {
        self.answers.recv_async().await.ok()
    }
}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        self.shared.questions.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.question);
    }
}

impl Shared {
    pub(super) fn new(redis: &config::Redis, masters: Masters, node: Arc<str>, metrics: Arc<Metrics>) -> Self {
        let first = redis.streams.first().map_or("nexus:deltas", String::as_str);
        // Named after the streams but without their hash tag: presence must spread over slots.
        let base: String = first.chars().filter(|c| !matches!(c, '{' | '}')).collect();
        let (queue, queued) = flume::bounded(QUEUE_MAX);
        let slots = if masters.is_cluster() { PRESENCE_SLOTS } else { 1 };
        let links = std::iter::repeat_with(|| SharedLink::new(masters.clone())).take(slots).collect();
        Self {
            masters,
            node,
            channel: format!("{base}:nodes"),
            presence: format!("{base}:presence:"),
            queue,
            queued,
            questions: Mutex::default(),
            next: AtomicU64::new(rand::random()),
            links,
            metrics,
        }
    }

    fn put(&self, out: Out) {
        if self.queue.try_send(out).is_err() {
            self.metrics.cluster_dropped.inc();
        }
    }

    pub(super) fn broadcast(&self, message: &ClusterMessage) {
        let envelope = Envelope { from: self.node.to_string(), message: message.clone() };
        if let Ok(text) = serde_json::to_string(&envelope) {
            self.put(Out::Publish(text));
        }
    }

    pub(super) fn presence_changed(&self, topic: &TopicName, info: &Arc<MemberInfo>, joined: bool) {
        let topic = topic.clone();
        self.put(match joined {
            true => Out::Present { topic, info: info.clone() },
            false => Out::Absent { topic, client: info.client.clone() },
        });
    }

    /// Sends a request to all other nodes.
    pub(super) fn ask(&self, pattern: Option<String>) -> Answers<'_> {
        let question = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answers) = flume::unbounded();
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).insert(question, sender);
        self.broadcast(&ClusterMessage::ChannelCounts { question, pattern });
        Answers { shared: self, question, answers }
    }

    pub(super) fn counted(&self, question: u64, topics: Counts) {
        let questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asked) = questions.get(&question) {
            let _ = asked.send(topics);
        }
    }

    /// The index of the connection for a topic's presence, and its key.
    fn key(&self, topic: &TopicName) -> (usize, String) {
        if self.links.len() == 1 {
            return (0, format!("{}{topic}", self.presence));
        }
        // Any hash will do if all nodes compute the same.
        let sum =
            topic.as_str().bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
        let slot = sum % self.links.len();
        (slot, format!("{}{{{slot}}}:{topic}", self.presence))
    }

    /// The members of a topic on all nodes, as far as they have been written. An entry that was not
    /// renewed, because its node was killed, is removed by whichever node reads it.
    pub(super) async fn presence(&self, topic: &TopicName) -> RedisResult<BTreeMap<String, Arc<MemberInfo>>> {
        let (slot, key) = self.key(topic);
        let Some(link) = self.links.get(slot) else { return Ok(BTreeMap::new()) };
        let mut command = cmd("HVALS");
        command.arg(&key);
        let read = tokio::time::timeout(READ_TIMEOUT, link.query::<Vec<String>>(&key, &command)).await;
        let values = read.map_err(|_| no_answer())??;
        let now_ms = unix_ms();
        let present = values.iter().filter_map(|text| serde_json::from_str::<Present>(text).ok());
        let (alive, over): (Vec<Present>, Vec<Present>) = present.partition(|p| p.until > now_ms);
        for present in over {
            self.put(Out::Absent { topic: topic.clone(), client: present.info.client });
        }
        Ok(alive.into_iter().map(|p| (p.info.client.clone(), Arc::new(p.info))).collect())
    }

    /// Sends, writes and receives until `stop`. `on_message` gets the messages of other nodes;
    /// `present` lists the members to renew.
    pub(super) async fn run(
        &self,
        on_message: impl Fn(&str, ClusterMessage) + Send,
        present: impl Fn() -> Vec<(TopicName, Arc<MemberInfo>)> + Send,
        stop: CancellationToken,
    ) {
        tokio::join!(
            self.retry("receiving messages from other nodes", &stop, || self.listen(&on_message)),
            self.retry("sending messages to other nodes", &stop, || self.write(&present)),
        );
    }

    async fn retry<F: Future<Output = RedisResult<()>>>(
        &self,
        what: &str,
        stop: &CancellationToken,
        attempt: impl Fn() -> F,
    ) {
        let mut wait = Duration::from_millis(100);
        let mut failing = false;
        loop {
            let began = tokio::time::Instant::now();
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = attempt() => outcome,
            };
            if began.elapsed() > BACKOFF_MAX {
                (wait, failing) = (Duration::from_millis(100), false);
            }
            if let Err(error) = outcome {
                // Logged once per outage, as for the sources.
                if !failing {
                    tracing::warn!(%error, "Redis: {what} has stopped, trying again");
                }
                failing = true;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(BACKOFF_MAX);
        }
    }

    async fn listen(&self, on_message: &impl Fn(&str, ClusterMessage)) -> RedisResult<()> {
        let (pubsub, mut link) = self.masters.subscribe(&self.channel).await?;
        tracing::info!(node = %link.place(), "listening to the other nodes");
        let (mut sink, mut messages) = pubsub.split();
        let moved = self.masters.moved(link.place().clone());
        tokio::pin!(moved);
        let mut clock = tokio::time::interval(LISTEN_CHECK);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                error = &mut moved => return Err(error),
                _ = clock.tick() => {
                    // The channel may be silent for long, and a dead connection looks the same.
                    link.check(&self.channel).await?;
                    tokio::time::timeout(LISTEN_TIMEOUT, sink.ping::<Value>()).await.map_err(|_| no_answer())??;
                    continue;
                }
            };
            let Some(message) = message else {
                return Err(RedisError::from((ErrorKind::Io, "the connection ended", link.place().to_string())));
            };
            match serde_json::from_slice::<Envelope>(message.get_payload_bytes()) {
                Ok(Envelope { from, message }) if *from != *self.node => on_message(&from, message),
                Ok(_) => {}
                // A node of another version may send messages that are not known here.
                Err(error) => tracing::debug!(%error, "a message from another node cannot be read"),
            }
        }
    }

    async fn write(&self, present: &impl Fn() -> Vec<(TopicName, Arc<MemberInfo>)>) -> RedisResult<()> {
        let mut link = self.masters.connect(&self.channel).await?;
        let moved = self.masters.moved(link.place().clone());
        tokio::pin!(moved);
        // Now: members that joined while Redis was away. Later: all members, now and then.
        let mut due = tokio::time::Instant::now();
        let mut renewals = 0_u32;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {
                    // A Redis node that is cut off from its cluster still accepts messages, but
                    // delivers them to no other node.
                    link.check(&self.channel).await?;
                    let present = present();
                    renewals = renewals.wrapping_add(1);
                    if renewals.is_multiple_of(CLEAR_EVERY) {
                        let topics: std::collections::BTreeSet<&TopicName> = present.iter().map(|(t, _)| t).collect();
                        for topic in topics {
                            // A failed read is repeated at the next cleanup.
                            let _ = self.presence(topic).await;
                        }
                    }
                    let written = self.renew(present, &mut link).await?;
                    due = tokio::time::Instant::now() + if written { PRESENCE_EVERY } else { PRESENCE_AGAIN };
                }
                error = &mut moved => return Err(error),
                out = self.queued.recv_async() => {
                    let Ok(first) = out else { return Ok(()) };
                    let more = self.queued.try_iter().take(CHUNK - 1);
                    if !self.send(std::iter::once(first).chain(more), &mut link).await? {
                        due = due.min(tokio::time::Instant::now() + PRESENCE_AGAIN);
                    }
                }
            }
        }
    }

    /// `false` if a part could not be written.
    async fn renew(&self, present: Vec<(TopicName, Arc<MemberInfo>)>, link: &mut Link) -> RedisResult<bool> {
        let mut written = true;
        for chunk in present.chunks(CHUNK) {
            let out = chunk.iter().map(|(topic, info)| Out::Present { topic: topic.clone(), info: info.clone() });
            written &= self.send(out, link).await?;
        }
        Ok(written)
    }

    /// `false` if some presence could not be written: one master of a cluster may be down and the
    /// others not.
    async fn send(&self, out: impl Iterator<Item = Out>, link: &mut Link) -> RedisResult<bool> {
        let mut publishes = pipe();
        // By slot: the commands, and a key of that slot.
        let mut presence: BTreeMap<usize, (Pipeline, String)> = BTreeMap::new();
        let mut marks = Vec::new();
        for out in out {
            match out {
                Out::Mark(mark) => marks.push(mark),
                Out::Publish(text) => {
                    publishes.cmd("PUBLISH").arg(&self.channel).arg(text).ignore();
                }
                Out::Present { topic, info } => {
                    let present = Present { info: (*info).clone(), until: unix_ms() + PRESENCE_TTL_MS };
                    let text = serde_json::to_string(&present).unwrap_or_default();
                    let (slot, key) = self.key(&topic);
                    let (pipe, _) = presence.entry(slot).or_insert_with(|| (pipe(), key.clone()));
                    pipe.cmd("HSET").arg(&key).arg(&info.client).arg(text).ignore();
                    pipe.cmd("PEXPIRE").arg(&key).arg(PRESENCE_TTL_MS + 10_000).ignore();
                }
                Out::Absent { topic, client } => {
                    let (slot, key) = self.key(&topic);
                    let (pipe, _) = presence.entry(slot).or_insert_with(|| (pipe(), key.clone()));
                    pipe.cmd("HDEL").arg(&key).arg(client).ignore();
                }
            }
        }
        if !publishes.is_empty() {
            publishes.query_async::<()>(link).await?;
        }
        let writes = presence.iter().filter_map(|(slot, (pipe, key))| Some(self.links.get(*slot)?.send(key, pipe)));
        let mut written = true;
        for outcome in join_all(writes).await {
            if let Err(error) = outcome {
                tracing::debug!(%error, "presence could not be written");
                written = false;
            }
        }
        for mark in marks {
            let _ = mark.try_send(());
        }
        Ok(written)
    }

    /// Returns once all earlier writes are done.
    pub(super) async fn flush(&self) {
        let (mark, marked) = flume::bounded(1);
        self.put(Out::Mark(mark));
        let _ = marked.recv_async().await;
    }
}
