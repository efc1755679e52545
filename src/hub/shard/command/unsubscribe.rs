//! `unsubscribe`, and other ends of a subscription.

use crate::hub::index::SessionIndex;
use crate::hub::shard::shard::Shard;
use crate::name::TopicName;
use crate::protocol::{CommandId, Op, Refused};
use crate::topic::Slot;

/// Carries the command out. A topic that the session does not have is no fault.
pub(super) fn run(shard: &mut Shard, index: SessionIndex, id: &CommandId, topics: &[TopicName], refused: &Refused) {
    shard.input.turns.named(topics.len() + refused.len());
    apply(shard, index, topics);
    shard.answer_topics(index, id, Op::Unsubscribe, !topics.is_empty(), None, refused);
}

fn apply(shard: &mut Shard, index: SessionIndex, topics: &[TopicName]) {
    shard.valid(index);
    for topic in topics {
        if let Some(slot) = shard.fanout.topics.find(topic) {
            shard.end_subscription(index, slot);
        }
    }
}

impl Shard {
    /// Ends a session's subscription of a topic, if it has one.
    pub(in crate::hub::shard) fn end_subscription(&mut self, index: SessionIndex, slot: Slot) {
        let special = self.sessions.get_mut(index).and_then(|s| s.client.as_mut()).and_then(|c| c.take_special(slot));
        if let Some(special) = special {
            self.depart(special);
        }
        self.take_subscription(index, slot);
    }

    /// Ends a session's subscription to a topic without notifying others. Returns `false` if it has none.
    pub(in crate::hub::shard) fn take_subscription(&mut self, index: SessionIndex, slot: Slot) -> bool {
        let Some(session) = self.sessions.get_mut(index) else { return false };
        let Some(at) = session.subscriptions.place_in(&self.fanout.topics, slot) else { return false };
        let subscription = session.subscriptions.list.remove(at);
        let lagging = session.subscriptions.lagging_at(subscription);
        let lagging = lagging.map(|at| session.subscriptions.lagging.remove(at));
        if !session.subscriptions.lagging.is_empty() {
            // Other subscriptions may have waited for this one's answer.
            self.to_catch_up.push(index);
        }
        if let Some(lagging) = lagging {
            self.lagging_ended(slot, lagging);
        }
        self.leave(subscription);
        true
    }

    /// Ends a subscription by decision of the server, and notifies the client.
    pub(in crate::hub::shard) fn revoke(&mut self, index: SessionIndex, slot: Slot, code: u16, reason: &str) {
        if !self.is_subscribed(index, slot) {
            return;
        }
        let Some(topic) = self.fanout.topics.topic(slot).map(|t| t.name.clone()) else { return };
        self.close_batches(slot);
        self.end_subscription(index, slot);
        if let Some(session) = self.sessions.get_mut(index).filter(|s| s.is_live()) {
            let frame = session.output.dialect.unsubscribed(&topic, code, reason);
            self.send(index, frame);
        }
    }
}
