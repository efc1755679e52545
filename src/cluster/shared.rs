//! What nodes share through Redis: one pub/sub channel for all that is said, and a hash a topic for presence.
//!
//! Nothing here holds anybody up: what is to be said waits in a bounded queue, and what is lost while Redis is away is
//! said again (reports, presence) or was about a moment that has passed (who came and went).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{RedisResult, cmd, pipe};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::messages::{Envelope, Said};
use crate::clock::unix_ms;
use crate::config;
use crate::metrics::Metrics;
use crate::name::TopicName;
use crate::protocol::MemberInfo;

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

/// Time that a read of presence may take.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

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
    client: ::redis::Client,
    node: Arc<str>,
    channel: String,
    presence: String,
    queue: flume::Sender<Out>,
    queued: flume::Receiver<Out>,
    questions: Mutex<HashMap<u64, flume::Sender<Counts>>>,
    next: AtomicU64,
    reader: tokio::sync::Mutex<Option<MultiplexedConnection>>,
    metrics: Arc<Metrics>,
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
    pub(super) fn new(redis: &config::Redis, node: Arc<str>, metrics: Arc<Metrics>) -> RedisResult<Self> {
        let client = ::redis::Client::open(redis.url.as_str())?;
        let first = redis.streams.first().map_or("nexus:deltas", String::as_str);
        // Beside the streams, and not tagged as one of them: presence of many topics is to spread.
        let base: String = first.chars().filter(|c| !matches!(c, '{' | '}')).collect();
        let (queue, queued) = flume::bounded(QUEUE_MAX);
        Ok(Self {
            client,
            node,
            channel: format!("{base}:nodes"),
            presence: format!("{base}:presence:"),
            queue,
            queued,
            questions: Mutex::default(),
            next: AtomicU64::new(rand::random()),
            reader: tokio::sync::Mutex::default(),
            metrics,
        })
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

    fn key(&self, topic: &TopicName) -> String {
        format!("{}{topic}", self.presence)
    }

    /// Everybody who is subscribed to a topic on any node, as far as it has been written. What nobody has renewed, because
    /// its node was killed, is cleared away by whoever reads it.
    pub(super) async fn presence(&self, topic: &TopicName) -> RedisResult<BTreeMap<String, Arc<MemberInfo>>> {
        let mut slot = self.reader.lock().await;
        let mut connection = match slot.as_ref() {
            Some(connection) => connection.clone(),
            None => {
                let made = crate::source::redis::connect(&self.client).await?;
                slot.insert(made).clone()
            }
        };
        drop(slot);
        let mut command = cmd("HVALS");
        command.arg(self.key(topic));
        let read = tokio::time::timeout(READ_TIMEOUT, command.query_async::<Vec<String>>(&mut connection)).await;
        let values = match read {
            Ok(Ok(values)) => values,
            Ok(Err(error)) => {
                *self.reader.lock().await = None;
                return Err(error);
            }
            Err(_) => {
                *self.reader.lock().await = None;
                return Err(::redis::RedisError::from((::redis::ErrorKind::Io, "no answer in time")));
            }
        };
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
        let mut pubsub = self.client.get_async_pubsub().await?;
        pubsub.subscribe(&self.channel).await?;
        let mut messages = pubsub.on_message();
        while let Some(message) = messages.next().await {
            match serde_json::from_slice::<Envelope>(message.get_payload_bytes()) {
                Ok(Envelope { from, said }) if *from != *self.node => hear(&from, said),
                Ok(_) => {}
                // A node of another version may say what is not known here.
                Err(error) => tracing::debug!(%error, "something that another node said cannot be read"),
            }
        }
        Ok(())
    }

    async fn write(&self, present: &impl Fn() -> Vec<(TopicName, Arc<MemberInfo>)>) -> RedisResult<()> {
        let mut connection = crate::source::redis::connect(&self.client).await?;
        // Whoever came while Redis was away, and everybody now and then.
        self.renew(present(), &mut connection).await?;
        let mut renewals = 0_u32;
        let mut clock = tokio::time::interval_at(tokio::time::Instant::now() + PRESENCE_EVERY, PRESENCE_EVERY);
        loop {
            tokio::select! {
                _ = clock.tick() => {
                    let present = present();
                    renewals = renewals.wrapping_add(1);
                    if renewals.is_multiple_of(CLEAR_EVERY) {
                        let topics: std::collections::BTreeSet<&TopicName> = present.iter().map(|(t, _)| t).collect();
                        for topic in topics {
                            self.presence(topic).await?;
                        }
                    }
                    self.renew(present, &mut connection).await?;
                }
                out = self.queued.recv_async() => {
                    let Ok(first) = out else { return Ok(()) };
                    let more = self.queued.try_iter().take(CHUNK - 1);
                    self.send(std::iter::once(first).chain(more), &mut connection).await?;
                }
            }
        }
    }

    async fn renew(
        &self,
        present: Vec<(TopicName, Arc<MemberInfo>)>,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<()> {
        for chunk in present.chunks(CHUNK) {
            let out = chunk.iter().map(|(topic, info)| Out::Present { topic: topic.clone(), info: info.clone() });
            self.send(out, connection).await?;
        }
        Ok(())
    }

    async fn send(&self, out: impl Iterator<Item = Out>, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let mut pipe = pipe();
        let mut marks = Vec::new();
        for out in out {
            match out {
                Out::Mark(mark) => {
                    marks.push(mark);
                    continue;
                }
                Out::Say(text) => pipe.cmd("PUBLISH").arg(&self.channel).arg(text).ignore(),
                Out::Present { topic, info } => {
                    let present = Present { info: (*info).clone(), until: unix_ms() + PRESENCE_TTL_MS };
                    let text = serde_json::to_string(&present).unwrap_or_default();
                    let key = self.key(&topic);
                    pipe.cmd("HSET").arg(&key).arg(&info.client).arg(text).ignore();
                    pipe.cmd("PEXPIRE").arg(&key).arg(PRESENCE_TTL_MS + 10_000).ignore()
                }
                Out::Absent { topic, client } => pipe.cmd("HDEL").arg(self.key(&topic)).arg(client).ignore(),
            };
        }
        if !pipe.is_empty() {
            pipe.query_async::<()>(connection).await?;
        }
        for mark in marks {
            let _ = mark.try_send(());
        }
        Ok(())
    }

    /// Returns once everything so far has been written.
    pub(super) async fn flush(&self) {
        let (mark, marked) = flume::bounded(1);
        self.put(Out::Mark(mark));
        let _ = marked.recv_async().await;
    }
}
