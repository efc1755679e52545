//! Appending to the stream, for the publish API: so that every node sees what one of them was given.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::flow::Flow;
use super::link::Link;
use super::message::{KIND, TOPIC, TS};
use super::sequence;
use super::subjects::Subjects;
use super::trouble::{Trouble, trouble};
use crate::config;
use crate::limits::{ANSWER_TIMEOUT, APPEND_BYTES_MAX, APPEND_DELTAS_MAX};
use crate::metrics::Metrics;
use crate::position::{Epoch, Offset};
use crate::source::once::OnceKey;
use crate::source::outgoing::Outgoing;
use crate::topic::{SourceId, Topics};

/// Appends deltas to the stream.
pub struct NatsAppender {
    link: Link,
    stream: String,
    subjects: Subjects,
    source: SourceId,
    topics: Arc<Topics>,
    metrics: Arc<Metrics>,
}

impl NatsAppender {
    /// Over the connection that the source reads with.
    pub fn new(
        config: &config::Nats,
        link: Link,
        source: SourceId,
        topics: Arc<Topics>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (stream, subjects) = (config.stream.clone(), Subjects::new(&config.subjects));
        Self { link, stream, subjects, source, topics, metrics }
    }

    /// Appends deltas in their order, some at a time: once one was not taken, no more are sent. Each is in the stream when this
    /// returns, or its result says why not. One that was not confirmed may have been appended all the same, if the connection
    /// broke in between: who sent it with an idempotency key may send it again.
    pub async fn append_all(&self, outgoing: &[&Outgoing<'_>]) -> Vec<Result<(Offset, Epoch), Trouble>> {
        let mut results: Vec<Result<(Offset, Epoch), Trouble>> = Vec::with_capacity(outgoing.len());
        let mut broken: Option<String> = None;
        while let Some(rest) = outgoing.get(results.len()..).filter(|rest| !rest.is_empty()) {
            let mut bytes = 0;
            let fits = |one: &&&Outgoing<'_>| {
                let room = bytes < APPEND_BYTES_MAX;
                bytes += one.payload.bytes().len();
                room
            };
            let chunk: Vec<&&Outgoing<'_>> = rest.iter().take(APPEND_DELTAS_MAX).take_while(fits).collect();
            let mut sent = Vec::with_capacity(chunk.len());
            for one in chunk {
                let one = match &broken {
                    None => self.send(one).await,
                    Some(why) => Err(Trouble(format!("not sent, as one before it failed: {why}"))),
                };
                if let (None, Err(trouble)) = (&broken, &one) {
                    broken = Some(trouble.to_string());
                }
                sent.push(one);
            }
            let until = Instant::now() + ACK_TIMEOUT;
            let confirmed = sent.into_iter().map(|sent| async {
                match sent {
                    Ok((flow, confirmed)) => {
                        let confirmed = timeout_at(until, flow.wait(confirmed.into_future()));
                        let confirmed = confirmed.await.map_err(|_| Trouble(LATE.into()))?;
                        confirmed.map_err(trouble(NOT_TAKEN))?.map_err(trouble(NOT_TAKEN))
                    }
                    Err(trouble) => Err(trouble),
                }
            });
            for confirmed in join_all(confirmed).await {
                let placed = confirmed.and_then(|confirmed| {
                    if confirmed.duplicate {
                        self.metrics.publish_repeated.inc();
                    }
                    // One without an offset is in the stream, but no node serves it.
                    let offset = sequence::offset(confirmed.sequence).map_err(trouble(NOT_TAKEN))?;
                    Ok((offset, self.topics.epoch(self.source)))
                });
                if let (None, Err(trouble)) = (&broken, &placed) {
                    broken = Some(trouble.to_string());
                }
                results.push(placed);
            }
        }
        results
    }

    async fn send(&self, one: &Outgoing<'_>) -> Result<(Flow, PublishAckFuture), Trouble> {
        let connection = self.link.get().ok_or_else(|| Trouble(format!("{NOT_TAKEN}: it is not connected")))?;
        let (subject, named) = self.subjects.subject(one.topic);
        let mut message = PublishMessage::build().payload(one.payload.bytes().clone()).expected_stream(&self.stream);
        if named {
            message = message.header(TOPIC, one.topic);
        }
        if let Some(kind) = one.kind.name() {
            message = message.header(KIND, kind);
        }
        if let Some(ts) = one.ts {
            message = message.header(TS, ts.to_string());
        }
        if let Some(key) = one.once {
            message = message.message_id(OnceKey::new(one.topic, key).hex());
        }
        let sent = connection.ask(NOT_TAKEN, connection.context.send_publish(subject, message)).await?;
        Ok((connection.flow, sent))
    }
}

/// Longest wait for acknowledgements, however steadily bytes come: the callers' own is a little longer.
const ACK_TIMEOUT: Duration = Duration::from_secs(40);

const _: () = assert!(ACK_TIMEOUT.as_secs() < ANSWER_TIMEOUT.as_secs());

const LATE: &str = "NATS did not take the delta: it was not acknowledged within 40 s";

const NOT_TAKEN: &str = "NATS did not take the delta";
