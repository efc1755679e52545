//! Answers that sessions wait for. Each is sent, even if the task that should send it panics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;

use super::replies::{Asker, Replies};
use crate::auth::TokenError;
use crate::hub::event::{Attach, Attached, Event};
use crate::hub::index::{RequestId, SessionId};
use crate::name::TopicName;
use crate::protocol::{CommandId, Op, Refusal};
use crate::topic::{ShardId, Slot};

/// An answer that a session waits for. If it is dropped unanswered, because its task panicked, it sends an error.
pub(super) struct Promise {
    pub(super) replies: Arc<Replies>,
    pub(super) promised: Option<Promised>,
}

pub(super) enum Promised {
    Attached(ShardId, RequestId),
    Reply(Asker, Op),
    /// The state of a topic, or a replay of it.
    Topic(ShardId, RequestId, TopicName),
    /// The answer that a topic is detached.
    Detached(ShardId, Slot, TopicName),
    SubRefreshed(ShardId, SessionId, CommandId, Slot),
}

impl Promised {
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

impl Promise {
    pub(super) fn new(replies: &Arc<Replies>, promised: Promised) -> Self {
        Self { replies: replies.clone(), promised: Some(promised) }
    }

    pub(super) fn attached(replies: &Arc<Replies>, attach: &Attach) -> Self {
        Self { replies: replies.clone(), promised: Some(Promised::Attached(attach.shard, attach.ask)) }
    }

    pub(super) fn reply(replies: &Arc<Replies>, to: Asker, op: Op) -> Self {
        Self { replies: replies.clone(), promised: Some(Promised::Reply(to, op)) }
    }

    /// The session that gets the reply.
    pub(super) fn to(&self) -> Option<&Asker> {
        match &self.promised {
            Some(Promised::Reply(to, _)) => Some(to),
            _ => None,
        }
    }

    /// Sends the answer.
    pub(super) fn keep(&mut self, event: Event) {
        if let Some(owed) = self.promised.take() {
            self.replies.send(owed.shard(), event);
        }
    }

    /// Ends a shard's interest in a topic after a fault. If that fails too, the topic's number is not reused: its
    /// subscribers could be sent another topic's deltas.
    fn detach(&mut self) {
        let Some(Promised::Detached(shard, slot, topic)) = self.promised.take() else { return };
        let replies = self.replies.clone();
        let again = AssertUnwindSafe(|| {
            replies.topics.detach(&topic, shard, slot, || replies.send(shard, Event::Detached { slot }));
        });
        if std::panic::catch_unwind(again).is_err() {
            tracing::error!(
                topic = topic.as_str(),
                "a topic without subscribers could not be detached; its slot stays in use until the restart"
            );
        }
    }

    /// Answers a subscribe.
    pub(super) fn attach(&mut self, result: Result<Box<Attached>, Refusal>) {
        if let Some(Promised::Attached(shard, ask)) = self.promised.take() {
            self.replies.send(shard, Event::Attached { ask, result });
        }
    }

    /// Answers a command.
    pub(super) fn settle(&mut self, reply: Result<Bytes, Refusal>) {
        if let Some(Promised::Reply(to, op)) = self.promised.take() {
            self.replies.reply(to, op, reply);
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if self.promised.is_none() {
            return;
        }
        tracing::error!("a fault prevented the answer to a session's request; the session was sent an error");
        self.replies.metrics.requests_unanswered.inc();
        let refusal = Refusal::new(503, "a fault in this server prevented the answer; try again");
        match &self.promised {
            Some(Promised::Attached(..)) => self.attach(Err(refusal)),
            Some(Promised::Topic(_, ask, topic)) => {
                let event = Event::Unanswered { ask: *ask, topic: topic.clone() };
                self.keep(event);
            }
            Some(Promised::SubRefreshed(_, session, id, slot)) => {
                let (session, id, slot) = (*session, id.clone(), *slot);
                self.keep(Event::SubRefreshed { session, id, slot, result: Err(TokenError::Fault) });
            }
            Some(Promised::Detached(..)) => self.detach(),
            _ => self.settle(Err(refusal)),
        }
    }
}
