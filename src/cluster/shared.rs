//! What nodes share through Redis: one pub/sub channel for all that is said, and a hash a topic for presence. Of a Redis
//! Cluster, presence lies in a few slots, so that it is spread over the masters, and written to each of them in order.
//!
//! Nothing here holds anybody up: what is to be said waits in a bounded queue, and what is lost while Redis is away is
//! said again (reports, presence) or was about a moment that has passed (who came and went).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::{ErrorKind, Pipeline, RedisError, RedisResult, Value, cmd, pipe};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::messages::{Envelope, Said};
use crate::clock::unix_ms;
use crate::config;
use crate::metrics::Metrics;
use crate::name::TopicName;
use crate::protocol::MemberInfo;
use crate::source::redis::{Link, Masters, SharedLink};

/// Things to say or write that may wait. Past it: the next is dropped, and counted.
const QUEUE_MAX: usize = 65_536;

/// Things written in one round trip.
const CHUNK: usize = 512;

/// Time after which presence that nobody renews is over.
const PRESENCE_TTL_MS: u64 = 60_000;

/// Time between two renewals of presence.
const PRESENCE_EVERY: Duration = Duration::from_secs(20);

/// Renewals after which what is over is looked for, so that hashes of topics that nobody asks about do not grow.
const CLEAR_EVERY: u32 = 6;

/// Longest wait before Redis is tried again.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Time after which presence that could not be written is written again.
const PRESENCE_AGAIN: Duration = Duration::from_secs(2);

/// Time that a read of presence may take.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Time between two looks at whether the node that is listened to still is there, and still a master.
const LISTEN_CHECK: Duration = Duration::from_secs(5);

/// Time that it has to answer.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(3);

/// Slots that presence is spread over in a Redis Cluster.
const PRESENCE_SLOTS: usize = 16;

/// Topics, and how many are subscribed to each.
type Counts = Vec<(String, u64)>;

/// Something on its way to Redis.
enum Out {
    Say(String),
    Present {
        topic: TopicName,
        info: Arc<MemberInfo>,
    },
    Absent {
        topic: TopicName,
        client: String,
    },
    /// Everything before this has been written.
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
    /// Where presence is: one, or of a cluster one for each slot.
    links: Vec<SharedLink>,
    metrics: Arc<Metrics>,
}

fn no_answer() -> RedisError {
    RedisError::from((ErrorKind::Io, "no answer in time"))
}

/// Answers to a question as they come.
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
        // Beside the streams, and not tagged as one of them: presence of many topics is to spread.
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

    pub(super) fn say(&self, said: &Said) {
        let envelope = Envelope { from: self.node.to_string(), said: said.clone() };
        if let Ok(text) = serde_json::to_string(&envelope) {
            self.put(Out::Say(text));
        }
    }

    pub(super) fn presence_changed(&self, topic: &TopicName, info: &Arc<MemberInfo>, joined: bool) {
        let topic = topic.clone();
        self.put(match joined {
            true => Out::Present { topic, info: info.clone() },
            false => Out::Absent { topic, client: info.client.clone() },
        });
    }

    /// Asks all other nodes.
    pub(super) fn ask(&self, pattern: Option<String>) -> Answers<'_> {
        let question = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answers) = flume::unbounded();
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).insert(question, sender);
        self.say(&Said::Census { question, pattern });
        Answers { shared: self, question, answers }
    }

    pub(super) fn counted(&self, question: u64, topics: Counts) {
        let questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asked) = questions.get(&question) {
            let _ = asked.send(topics);
        }
    }

    /// Which of the links a topic's presence goes over, and its key there.
    fn key(&self, topic: &TopicName) -> (usize, String) {
        if self.links.len() == 1 {
            return (0, format!("{}{topic}", self.presence));
        }
        // Any sum will do that all nodes make alike.
        let sum =
            topic.as_str().bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
        let slot = sum % self.links.len();
        (slot, format!("{}{{{slot}}}:{topic}", self.presence))
    }

    /// Everybody who is subscribed to a topic on any node, as far as it has been written. What nobody has renewed, because
    /// its node was killed, is cleared away by whoever reads it.
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

    /// Says, writes and hears until told to stop. `hear` gets what other nodes say, `present` names who is to be renewed.
    pub(super) async fn run(
        &self,
        hear: impl Fn(&str, Said) + Send,
        present: impl Fn() -> Vec<(TopicName, Arc<MemberInfo>)> + Send,
        stop: CancellationToken,
    ) {
        tokio::join!(
            self.again("what nodes say", &stop, || self.listen(&hear)),
            self.again("saying it to other nodes", &stop, || self.write(&present)),
        );
    }

    async fn again<F: Future<Output = RedisResult<()>>>(
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
                // Once, not every time: the sources say the same.
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

    async fn listen(&self, hear: &impl Fn(&str, Said)) -> RedisResult<()> {
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
                    // Nobody may say anything for long; a connection that is cut looks the same.
                    link.check(&self.channel).await?;
                    tokio::time::timeout(LISTEN_TIMEOUT, sink.ping::<Value>()).await.map_err(|_| no_answer())??;
                    continue;
                }
            };
            let Some(message) = message else {
                return Err(RedisError::from((ErrorKind::Io, "the connection ended", link.place().to_string())));
            };
            match serde_json::from_slice::<Envelope>(message.get_payload_bytes()) {
                Ok(Envelope { from, said }) if *from != *self.node => hear(&from, said),
                Ok(_) => {}
                // A node of another version may say what is not known here.
                Err(error) => tracing::debug!(%error, "something that another node said cannot be read"),
            }
        }
    }

    async fn write(&self, present: &impl Fn() -> Vec<(TopicName, Arc<MemberInfo>)>) -> RedisResult<()> {
        let mut link = self.masters.connect(&self.channel).await?;
        let moved = self.masters.moved(link.place().clone());
        tokio::pin!(moved);
        // Whoever came while Redis was away, and everybody now and then.
        let mut due = tokio::time::Instant::now();
        let mut renewals = 0_u32;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {
                    // A node that is cut off from its cluster still takes what is said, and nobody hears it.
                    link.check(&self.channel).await?;
                    let present = present();
                    renewals = renewals.wrapping_add(1);
                    if renewals.is_multiple_of(CLEAR_EVERY) {
                        let topics: std::collections::BTreeSet<&TopicName> = present.iter().map(|(t, _)| t).collect();
                        for topic in topics {
                            // One that cannot be read now is cleared another time.
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

    /// `false` if some of it could not be written.
    async fn renew(&self, present: Vec<(TopicName, Arc<MemberInfo>)>, link: &mut Link) -> RedisResult<bool> {
        let mut written = true;
        for chunk in present.chunks(CHUNK) {
            let out = chunk.iter().map(|(topic, info)| Out::Present { topic: topic.clone(), info: info.clone() });
            written &= self.send(out, link).await?;
        }
        Ok(written)
    }

    /// `false` if some presence could not be written: of a cluster, one master may be away and the others not.
    async fn send(&self, out: impl Iterator<Item = Out>, link: &mut Link) -> RedisResult<bool> {
        let mut says = pipe();
        // By slot: the commands, and a key that lies there.
        let mut presence: BTreeMap<usize, (Pipeline, String)> = BTreeMap::new();
        let mut marks = Vec::new();
        for out in out {
            match out {
                Out::Mark(mark) => marks.push(mark),
                Out::Say(text) => {
                    says.cmd("PUBLISH").arg(&self.channel).arg(text).ignore();
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
        if !says.is_empty() {
            says.query_async::<()>(link).await?;
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

    /// Returns once everything so far has been written.
    pub(super) async fn flush(&self) {
        let (mark, marked) = flume::bounded(1);
        self.put(Out::Mark(mark));
        let _ = marked.recv_async().await;
    }
}
