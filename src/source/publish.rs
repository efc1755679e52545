//! What the publish API does with deltas: into the stream if there is one, so that all nodes see them, else straight into
//! the topics.

use std::sync::Arc;

use super::Feed;
use super::failure::Failure;
use super::namespaces::Namespaces;
#[cfg(feature = "nats")]
use super::nats::NatsAppender;
use super::once::{Once, OnceKey};
pub use super::outgoing::Outgoing;
use super::redis::Appender as RedisAppender;
use super::refusal::{Head, Refusal};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::name::TopicName;
use crate::position::{Epoch, Offset};
use crate::topic::{Incoming, Kind, Payload, PublishError, SourceId};

/// Deltas that are taken in before other work has its turn.
const STEP: usize = 64;

/// The stream that deltas go into.
pub enum Appender {
    /// Of Redis.
    Redis(Box<RedisAppender>),
    /// Of NATS.
    #[cfg(feature = "nats")]
    Nats(NatsAppender),
}

impl Appender {
    /// Appends deltas in their order; each has a result. See those of the two.
    pub(super) async fn append_all(&self, outgoing: &[&Outgoing<'_>]) -> Vec<Result<(Offset, Epoch), Failure>> {
        let unavailable = |error: &dyn std::fmt::Display| Failure::Unavailable(error.to_string());
        match self {
            Self::Redis(redis) => {
                let done = redis.append_all(outgoing).await.into_iter();
                done.map(|done| done.map_err(|error| unavailable(&error))).collect()
            }
            #[cfg(feature = "nats")]
            Self::Nats(nats) => {
                let done = nats.append_all(outgoing).await.into_iter();
                done.map(|done| done.map_err(|error| unavailable(&error))).collect()
            }
        }
    }
}

/// Takes deltas from the publish API.
pub struct Publisher {
    feed: Feed,
    appender: Option<Appender>,
    /// Results of publishes with idempotency keys, where no stream keeps them.
    once: Once,
    namespaces: Namespaces,
}

impl Publisher {
    /// Through `appender` if there is one.
    pub fn new(config: &Config, feed: Feed, appender: Option<Appender>, metrics: Arc<Metrics>) -> Self {
        Self { feed, appender, once: Once::new(metrics), namespaces: Namespaces::new(config) }
    }

    /// What is wrong with a delta of this topic though it is taken, as a server that reads it says it.
    pub fn suspicion(&self, topic: &str) -> Option<Refusal> {
        self.namespaces.near(topic)
    }

    /// The refusal of a delta that topics do not take.
    pub fn refusal(&self, error: &PublishError, topic: &str, payload: &Payload) -> Refusal {
        self.namespaces.refusal(error, topic, &Head::of(payload.bytes()))
    }

    /// Publishes one delta. When this returns, it is in the stream, or on its way to the subscribers.
    ///
    /// # Errors
    /// Why not.
    pub async fn publish(
        &self,
        topic: &str,
        kind: Kind,
        ts: Option<u64>,
        payload: Payload,
    ) -> Result<(Offset, Epoch), Failure> {
        let one = Outgoing { topic, kind, ts, payload, once: None };
        let done = self.publish_all(std::slice::from_ref(&one)).await.pop();
        done.unwrap_or_else(|| Err(Failure::Unavailable("the publish was not carried out".into())))
    }

    /// Publishes deltas, those of one topic in their order. When this returns, each is in the stream, or on its way to the
    /// subscribers, or its result says why not.
    pub async fn publish_all(&self, outgoing: &[Outgoing<'_>]) -> Vec<Result<(Offset, Epoch), Failure>> {
        let Some(appender) = &self.appender else { return self.take_in(outgoing).await };
        let topics = &self.feed.topics;
        let mut checked = Vec::with_capacity(outgoing.len());
        for (at, one) in outgoing.iter().enumerate() {
            checked.push(topics.check(one.topic, one.kind, &one.payload).map_err(Failure::Refused));
            if at % STEP == STEP - 1 {
                tokio::task::yield_now().await;
            }
        }
        let good: Vec<&Outgoing<'_>> =
            outgoing.iter().zip(&checked).filter(|(_, checked)| checked.is_ok()).map(|(one, _)| one).collect();
        let mut appended = appender.append_all(&good).await.into_iter();
        let lost = || Err(Failure::Unavailable("the publish was not carried out".into()));
        checked.into_iter().map(|checked| checked.and_then(|()| appended.next().unwrap_or_else(lost))).collect()
    }

    async fn take_in(&self, outgoing: &[Outgoing<'_>]) -> Vec<Result<(Offset, Epoch), Failure>> {
        let mut done = Vec::with_capacity(outgoing.len());
        for (at, one) in outgoing.iter().enumerate() {
            done.push(match one.once {
                None => self.take_in_one(one).await,
                Some(key) => {
                    let key = OnceKey::new(one.topic, key);
                    self.once.result(key, || self.take_in_one(one)).await
                }
            });
            if at % STEP == STEP - 1 {
                tokio::task::yield_now().await;
            }
        }
        done
    }

    async fn take_in_one(&self, one: &Outgoing<'_>) -> Result<(Offset, Epoch), Failure> {
        let (topic, payload) = (one.topic, one.payload.clone());
        let incoming = Incoming {
            topic,
            kind: one.kind,
            ts: one.ts,
            at_ms: None,
            payload,
            offset: None,
            source: SourceId(0),
            home: None,
            is_relayed: false,
        };
        let published = self.feed.publish(incoming).await?;
        Ok((published.offset, published.epoch))
    }

    /// Removes a topic's history, on all nodes where there is a stream.
    ///
    /// # Errors
    /// If the stream did not take that.
    pub async fn remove_history(&self, topic: &TopicName) -> Result<(), Failure> {
        let payload = Payload::null();
        self.publish(topic.as_str(), Kind::HistoryRemoval, None, payload).await.map(drop)
    }

    /// Whether deltas outlive this process.
    pub fn is_durable(&self) -> bool {
        self.appender.is_some()
    }
}
