//! Answers of the control plane to shards, charged to the requesting session.

use std::sync::Arc;

use bytes::Bytes;

use crate::hub::allowance::{Allowance, Answers};
use crate::hub::event::Event;
use crate::hub::index::SessionId;
use crate::hub::mailbox::QueueSender;
use crate::metrics::Metrics;
use crate::protocol::{Centrifuge, CommandId, Op, Refusal};
use crate::topic::{ShardId, Topics};

/// The session that gets a reply.
pub(super) struct Asker {
    pub(super) shard: ShardId,
    pub(super) session: SessionId,
    pub(super) dialect: Centrifuge,
    pub(super) id: CommandId,
    /// Its allowance.
    pub(super) asked: Allowance,
    /// Bytes charged in advance for an answer of unknown length.
    pub(super) reserved: usize,
}

/// The way back to the shards.
pub(super) struct Replies {
    pub(super) queues: Arc<[QueueSender]>,
    pub(super) topics: Arc<Topics>,
    pub(super) metrics: Arc<Metrics>,
    /// Limits on the bytes of answers.
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

    /// Why it gets no answer: its allowance is used up.
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
