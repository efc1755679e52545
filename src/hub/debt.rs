//! Answers that the desk owes to sessions: each is given, whatever becomes of what was to give it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;

use super::allowance::Allowance;
use super::desk::Clerk;
use super::event::{Attach, Attached, Event, SessionKey};
use crate::auth::TokenError;
use crate::name::TopicName;
use crate::protocol::{CommandId, Dialect, Op, Refusal};
use crate::topic::{ShardId, Slot};

/// Whom an answer goes to.
pub(super) struct To {
    pub(super) shard: ShardId,
    pub(super) session: SessionKey,
    pub(super) dialect: Dialect,
    pub(super) id: CommandId,
    /// What it has asked for so far.
    pub(super) asked: Allowance,
    /// Bytes that it was charged for an answer of which it is not known yet how long it is.
    pub(super) reserved: usize,
}

/// An answer that a session waits for. It is given even if the task dies that was to give it: then it says so.
pub(super) struct Debt {
    pub(super) clerk: Arc<Clerk>,
    pub(super) owed: Option<Owed>,
}

pub(super) enum Owed {
    Attached(ShardId, u32),
    Reply(To, Op),
    /// The state of a topic, or a replay of it.
    Topic(ShardId, u32, TopicName),
    /// That nothing more is sent about a topic.
    Detached(ShardId, Slot, TopicName),
    SubRefreshed(ShardId, SessionKey, CommandId, Slot),
}

impl Owed {
    fn shard(&self) -> ShardId {
        match self {
            Self::Reply(to, _) => to.shard,
            Self::Attached(shard, ..)
            | Self::Topic(shard, ..)
            | Self::Detached(shard, ..)
            | Self::SubRefreshed(shard, ..) => *shard,
        }
    }
}

impl Debt {
    pub(super) fn new(clerk: &Arc<Clerk>, owed: Owed) -> Self {
        Self { clerk: clerk.clone(), owed: Some(owed) }
    }

    pub(super) fn attached(clerk: &Arc<Clerk>, attach: &Attach) -> Self {
        Self { clerk: clerk.clone(), owed: Some(Owed::Attached(attach.shard, attach.ask)) }
    }

    pub(super) fn reply(clerk: &Arc<Clerk>, to: To, op: Op) -> Self {
        Self { clerk: clerk.clone(), owed: Some(Owed::Reply(to, op)) }
    }

    /// Whom a reply goes to.
    pub(super) fn to(&self) -> Option<&To> {
        match &self.owed {
            Some(Owed::Reply(to, _)) => Some(to),
            _ => None,
        }
    }

    /// Answers with this.
    pub(super) fn pay(&mut self, event: Event) {
        if let Some(owed) = self.owed.take() {
            self.clerk.send(owed.shard(), event);
        }
    }

    /// Ends the interest of a shard that was not ended. Where that fails too, the topic's number is not given again: if it
    /// were, its subscribers could be sent another topic's deltas.
    fn detach(&mut self) {
        let Some(Owed::Detached(shard, slot, topic)) = self.owed.take() else { return };
        let clerk = self.clerk.clone();
        let again = AssertUnwindSafe(|| {
            clerk.topics.detach(&topic, shard, slot, || clerk.send(shard, Event::Detached { slot }));
        });
        if std::panic::catch_unwind(again).is_err() {
            tracing::error!(topic = topic.as_str(), "a topic that no session wants could not be let go of");
        }
    }

    /// Answers a subscribe.
    pub(super) fn attach(&mut self, result: Result<Box<Attached>, Refusal>) {
        if let Some(Owed::Attached(shard, ask)) = self.owed.take() {
            self.clerk.send(shard, Event::Attached { ask, result });
        }
    }

    /// Answers a command.
    pub(super) fn settle(&mut self, reply: Result<Bytes, Refusal>) {
        if let Some(Owed::Reply(to, op)) = self.owed.take() {
            self.clerk.reply(to, op, reply);
        }
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        if self.owed.is_none() {
            return;
        }
        tracing::error!("a request of a session was not answered; it is told to try again");
        self.clerk.metrics.answers_died.inc();
        let refusal = Refusal::new(503, "the command was not answered because of a fault in this server; try again");
        match &self.owed {
            Some(Owed::Attached(..)) => self.attach(Err(refusal)),
            Some(Owed::Topic(_, ask, topic)) => {
                let event = Event::Unanswered { ask: *ask, topic: topic.clone() };
                self.pay(event);
            }
            Some(Owed::SubRefreshed(_, session, id, slot)) => {
                let (session, id, slot) = (*session, id.clone(), *slot);
                self.pay(Event::SubRefreshed { session, id, slot, result: Err(TokenError::Fault) });
            }
            Some(Owed::Detached(..)) => self.detach(),
            _ => self.settle(Err(refusal)),
        }
    }
}
