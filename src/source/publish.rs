//! What the publish API does with a delta: into the stream if there is one, so that all nodes see it, else straight
//! into the topics.

use super::Feed;
use super::nats::NatsAppender;
use super::redis::Appender as RedisAppender;
use crate::position::{Epoch, Offset};
use crate::topic::{Incoming, Kind, Payload, PublishError, SourceId};

/// The stream that deltas go into.
pub enum Appender {
    /// Of Redis.
    Redis(Box<RedisAppender>),
    /// Of NATS.
    Nats(NatsAppender),
}

impl Appender {
    async fn append(
        &self,
        topic: &str,
        kind: Kind,
        ts: Option<u64>,
        payload: &Payload,
    ) -> Result<(Offset, Epoch), Failure> {
        let unavailable = |error: &dyn std::fmt::Display| Failure::Unavailable(error.to_string());
        match self {
            Self::Redis(redis) => redis.append(topic, kind, ts, payload).await.map_err(|e| unavailable(&e)),
            Self::Nats(nats) => nats.append(topic, kind, ts, payload).await.map_err(|e| unavailable(&e)),
        }
    }
}

/// Takes deltas from the publish API.
pub struct Publisher {
    feed: Feed,
    appender: Option<Appender>,
}

/// Why a publish failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The delta is at fault.
    #[error(transparent)]
    Refused(#[from] PublishError),
    /// Something else is; it may be sent again.
    #[error("{0}")]
    Unavailable(String),
}

impl Publisher {
    /// Through `appender` if there is one.
    pub fn new(feed: Feed, appender: Option<Appender>) -> Self {
        Self { feed, appender }
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
        if let Some(appender) = &self.appender {
            self.feed.topics.check(topic, kind, &payload)?;
            return appender.append(topic, kind, ts, &payload).await;
        }
        let incoming = Incoming { topic, kind, ts, payload, offset: None, source: SourceId(0) };
        let published = self.feed.publish(incoming).await?;
        Ok((published.offset, published.epoch))
    }

    /// Whether deltas outlive this process.
    pub fn is_durable(&self) -> bool {
        self.appender.is_some()
    }
}
