//! Where shards' requests are answered, on the control plane: it may look up topics and check signatures, which a
//! shard must not wait for. One task, in the order of the requests.

use std::sync::Arc;

use super::event::{Event, Request};
use super::queue::QueueSender;
use crate::auth::Tokens;
use crate::metrics::Metrics;
use crate::protocol::Refusal;
use crate::topic::{ShardId, Topics};

/// The requests of all shards.
pub struct Desk {
    requests: flume::Receiver<Vec<Request>>,
    queues: Vec<QueueSender>,
}

impl Desk {
    pub(super) fn new(requests: flume::Receiver<Vec<Request>>, queues: Vec<QueueSender>) -> Self {
        Self { requests, queues }
    }

    /// Answers until the last shard has ended.
    pub async fn run(self, topics: Arc<Topics>, tokens: Arc<Tokens>, metrics: Arc<Metrics>) {
        while let Ok(batch) = self.requests.recv_async().await {
            for request in batch {
                self.answer(request, &topics, &tokens, &metrics);
            }
            // A storm's batches are long; others on this thread get their turn.
            tokio::task::yield_now().await;
        }
    }

    fn queue(&self, shard: ShardId) -> Option<&QueueSender> {
        self.queues.get(usize::from(shard.0))
    }

    fn answer(&self, request: Request, topics: &Topics, tokens: &Tokens, metrics: &Metrics) {
        match request {
            Request::Attach { shard, ask, slot, topic, dialect, since, history } => {
                let Some(queue) = self.queue(shard) else { return };
                let outcome = topics.attach(&topic, shard, slot, dialect, since.as_ref(), history, |attachment| {
                    queue.send(Event::Attached { ask, result: Ok(Box::new(attachment)) });
                });
                if let Err(error) = outcome {
                    let refusal = Refusal::new(503, error.to_string()).about(topic.as_str());
                    queue.send(Event::Attached { ask, result: Err(refusal) });
                }
            }
            Request::Snapshot { shard, ask, topic } => {
                let Some(queue) = self.queue(shard) else { return };
                topics.snapshot_for(&topic, |snapshot| queue.send(Event::Snapshot { ask, snapshot }));
            }
            Request::Replay { shard, ask, topic, dialect, after } => {
                let Some(queue) = self.queue(shard) else { return };
                topics.replay_for(&topic, dialect, after, |replay| {
                    queue.send(Event::Replayed { ask, replay: replay.map(Box::new) });
                });
            }
            Request::Detach { shard, slot, topic } => {
                let Some(queue) = self.queue(shard) else { return };
                topics.detach(&topic, shard, slot, || queue.send(Event::Detached { slot }));
            }
            Request::Authenticate { shard, session, id, token } => {
                let Some(queue) = self.queue(shard) else { return };
                let result = tokens.verify(&token).map(Box::new).map_err(|e| {
                    metrics.tokens_refused.inc();
                    e.to_string()
                });
                queue.send(Event::Authenticated { session, id, result });
            }
        }
    }
}
