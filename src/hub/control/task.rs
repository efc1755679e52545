//! The control plane's task: it takes the requests of all shards in order. An answer that has to wait continues in a
//! task of its own.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use super::replies::Replies;
use super::responder::Responder;
use super::snapshot_queue::LOOK_EVERY;
use crate::auth::{Users, Verifier};
use crate::hub::allowance::Answers;
use crate::hub::backend::Backend;
use crate::hub::event::RequestBatch;
use crate::hub::mailbox::QueueSender;
use crate::metrics::Metrics;
use crate::topic::Topics;

/// The requests of all shards.
pub struct Control {
    requests: flume::Receiver<RequestBatch>,
    queues: Arc<[QueueSender]>,
    /// Limits on the bytes of answers.
    answers: Answers,
    /// Limit on the bytes of states on their way to shards.
    snapshots_max: Option<usize>,
}

impl Control {
    pub(in crate::hub) fn new(
        requests: flume::Receiver<RequestBatch>,
        queues: Arc<[QueueSender]>,
        answers: Answers,
        snapshots_max: Option<usize>,
    ) -> Self {
        Self { requests, queues, answers, snapshots_max }
    }

    /// Splits off the requests, and builds what answers them.
    fn into_parts(
        self,
        topics: Arc<Topics>,
        verifier: Arc<Verifier>,
        users: Arc<Users>,
        backend: Arc<dyn Backend>,
        metrics: Arc<Metrics>,
    ) -> (flume::Receiver<RequestBatch>, Arc<Responder>) {
        let Self { requests, queues, answers, snapshots_max } = self;
        let replies = Replies { queues, topics, metrics, answers };
        let responder = Responder::new(Arc::new(replies), verifier, users, backend, snapshots_max);
        (requests, Arc::new(responder))
    }

    /// Answers requests until the last shard has ended.
    pub async fn run(
        self,
        topics: Arc<Topics>,
        verifier: Arc<Verifier>,
        users: Arc<Users>,
        backend: Arc<dyn Backend>,
        metrics: Arc<Metrics>,
    ) {
        let (requests, responder) = self.into_parts(topics, verifier, users, backend, metrics);
        loop {
            let nothing_waits = responder.snapshot_queue().is_empty();
            let next = match nothing_waits {
                true => requests.recv_async().await,
                // Shards make room for waiting states without a message, so this polls.
                false => match tokio::time::timeout(LOOK_EVERY, requests.recv_async()).await {
                    Ok(next) => next,
                    Err(_) => {
                        responder.send_waiting_snapshots();
                        continue;
                    }
                },
            };
            let Ok(mut batch) = next else { return };
            responder.send_waiting_snapshots();
            for asked in std::mem::take(&mut batch.requests) {
                // A panic in one request must not end the task that answers all others. Its `Promise`, if it has one,
                // sends an error.
                let answer = AssertUnwindSafe(|| responder.answer(asked));
                if std::panic::catch_unwind(answer).is_err() {
                    tracing::error!("answering a session's request panicked (a fault in this server)");
                }
            }
            // Batches are long during a reconnect storm; other tasks of this thread must get their turn.
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
impl Control {
    /// Returns a function that answers all waiting requests.
    pub(in crate::hub) fn at_hand(
        self,
        topics: Arc<Topics>,
        tokens: Arc<crate::auth::Tokens>,
        backend: Arc<dyn Backend>,
        metrics: Arc<Metrics>,
    ) -> impl FnMut() {
        let users = Users::new(0);
        let verifier = Verifier::at_hand(tokens, &crate::config::Limits::default(), metrics.clone());
        let (requests, responder) = self.into_parts(topics, verifier, users, backend, metrics);
        move || {
            responder.send_waiting_snapshots();
            for mut batch in requests.try_iter() {
                std::mem::take(&mut batch.requests).into_iter().for_each(|asked| responder.answer(asked));
            }
        }
    }
}
