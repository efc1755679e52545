//! Appending to the stream, for the publish API: so that every node sees what one of them was given.

use std::sync::Arc;

use async_nats::jetstream::message::PublishMessage;

use super::link::Link;
use super::message::{KIND, TOPIC, TS};
use super::subjects::Subjects;
use super::{Trouble, trouble};
use crate::config;
use crate::position::{Epoch, Offset};
use crate::topic::{Kind, Payload, SourceId, Topics};

/// Appends deltas to the stream.
pub struct NatsAppender {
    link: Link,
    stream: String,
    subjects: Subjects,
    source: SourceId,
    topics: Arc<Topics>,
}

impl NatsAppender {
    /// Over the connection that the source reads with.
    pub fn new(config: &config::Nats, link: Link, source: SourceId, topics: Arc<Topics>) -> Self {
        Self { link, stream: config.stream.clone(), subjects: Subjects::new(&config.subjects), source, topics }
    }

    /// Appends one delta; it is in the stream when this returns.
    ///
    /// # Errors
    /// If NATS did not confirm it. It may have been appended all the same, if the connection broke in between.
    pub async fn append(
        &self,
        topic: &str,
        kind: Kind,
        ts: Option<u64>,
        payload: &Payload,
    ) -> Result<(Offset, Epoch), Trouble> {
        let not_taken = "NATS did not take the delta";
        let context = self.link.get().ok_or_else(|| Trouble(format!("{not_taken}: it is not connected")))?;
        let (subject, named) = self.subjects.subject(topic);
        let mut message = PublishMessage::build().payload(payload.bytes().clone()).expected_stream(&self.stream);
        if named {
            message = message.header(TOPIC, topic);
        }
        if kind == Kind::Snapshot {
            message = message.header(KIND, "snapshot");
        }
        if let Some(ts) = ts {
            message = message.header(TS, ts.to_string());
        }
        let confirmed = context.send_publish(subject, message).await.map_err(trouble(not_taken))?;
        let confirmed = confirmed.await.map_err(trouble(not_taken))?;
        let offset = Offset::new(confirmed.sequence).unwrap_or_default();
        Ok((offset, self.topics.epoch(self.source)))
    }
}
