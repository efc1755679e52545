//! What goes back to shards: answers of the control plane, charged to who asked.

use std::sync::Arc;

use bytes::Bytes;

use crate::hub::allowance::{Allowance, Answers};
use crate::hub::event::Event;
use crate::hub::index::SessionId;
use crate::hub::mailbox::QueueSender;
use crate::metrics::Metrics;
use crate::protocol::{Centrifuge, CommandId, Op, Refusal};
use crate::topic::{ShardId, Topics};

/// Whom a reply goes to.
pub(super) struct Asker {
    pub(super) shard: ShardId,
    pub(super) session: SessionId,
    pub(super) dialect: Centrifuge,
    pub(super) id: CommandId,
    /// What it may still ask for.
    pub(super) asked: Allowance,
    /// Bytes that it was charged for an answer whose length is not known yet.
    pub(super) reserved: usize,
}

/// The way back to the shards.
pub(super) struct Replies {
    pub(super) queues: Arc<[QueueSender]>,
    pub(super) topics: Arc<Topics>,
    pub(super) metrics: Arc<Metrics>,
    /// Bytes of answers that a session may ask for.
    pub(super) answers: Answers,
}

impl Replies {
    pub(super) fn send(&self, shard: ShardId, event: Event) {
        if let Some(queue) = self.queues.get(usize::from(shard.0)) {
            queue.send(event);
        }
    }

    pub(super) fn reply(&self, to: Asker, op: Op, reply: Result<Bytes, Refusal>) {
        let Asker { shard, session, dialect, id, asked, reserved } = to;
        asked.give_back(self.answers, reserved);
        let reply = match reply {
            Ok(reply) => {
                asked.charge(self.answers, reply.len());
                reply
            }
            Err(refusal) => {
                let reply = dialect.dialect().refusal(&id, op, &refusal);
                asked.charge_refused(self.answers, reply.len());
                reply
            }
        };
        self.send(shard, Event::Answered { session, reply });
    }

    /// Why it gets no answer: it asked for too much already.
    pub(super) fn asked_too_much(&self, to: &Asker) -> Option<Refusal> {
        let exhausted = to.asked.exhausted(self.answers)?;
        let counter = match exhausted.by_address {
            false => &self.metrics.replies_refused,
            true => &self.metrics.replies_refused_by_address,
        };
        counter.inc();
        Some(exhausted.refusal)
    }
}
