//! `rate`: the least interval between two deliveries of a subscription.

use crate::hub::fanout::Lagging;
use crate::hub::index::SessionIndex;
use crate::hub::shard::shard::Shard;
use crate::name::TopicName;
use crate::protocol::{CommandId, Op, Refusal, Refused};

impl Shard {
    /// Changes the rates of subscriptions, and answers.
    pub(in crate::hub::shard) fn change_rates(
        &mut self,
        index: SessionIndex,
        id: &CommandId,
        topics: &[TopicName],
        refused: Refused,
        max_rate: Option<f64>,
    ) {
        let (mut refused, mut any) = (refused, false);
        for topic in topics {
            match self.change_rate(index, topic, max_rate) {
                Ok(()) => any = true,
                Err(refusal) => refused.add(refusal.about(topic.as_str())),
            }
        }
        self.answer_topics(index, id, Op::Rate, any, None, &refused);
    }

    /// Moves a subscription to the group of another rate. What it has already counts there: it is held until it has been
    /// brought to where that group is.
    fn change_rate(&mut self, index: SessionIndex, name: &TopicName, max_rate: Option<f64>) -> Result<(), Refusal> {
        let not_subscribed = || Refusal::new(404, "not subscribed");
        let (traits, interval_ms) = self.terms(name, max_rate);
        if !traits.class.conflatable() {
            return Err(Refusal::new(400, "a `stream` has no rate: every delta of it counts"));
        }
        let slot = self.fanout.topics.find(name).ok_or_else(not_subscribed)?;
        self.close_batches(slot);
        let session = self.sessions.get_mut(index).ok_or_else(not_subscribed)?;
        let at = session.subscriptions.place_in(&self.fanout.topics, slot).ok_or_else(not_subscribed)?;
        let from = session.subscriptions.get(at).ok_or_else(not_subscribed)?;
        let group = self.fanout.topics.group(from.group).ok_or_else(not_subscribed)?;
        if group.interval_ms == interval_ms {
            return Ok(());
        }
        let (encoding, compression, throttled, sent) =
            (group.encoding, group.compression, group.interval_ms > 0, group.sent);
        let last = self.fanout.topics.topic(slot).ok_or_else(not_subscribed)?.last;
        let to = self.fanout.topics.join(index, slot, encoding, compression, interval_ms).ok_or_else(not_subscribed)?;
        session.subscriptions.list.remove(at);
        session.subscriptions.add(to);
        let lagging = session.subscriptions.lagging_at(from);
        let lagging = lagging.map(|at| session.subscriptions.lagging.swap_remove(at));
        let cursor = lagging.map_or(if throttled { sent } else { last }, |lagging| lagging.cursor);
        session.subscriptions.lagging.push(Lagging::new(to, cursor));
        let (moved, _) = self.fanout.topics.leave(from);
        if let Some(moved) = moved
            && let Some(session) = self.sessions.get_mut(moved.session)
        {
            session.subscriptions.moved(moved.from, moved.to);
        }
        self.fanout.topics.set_lagging(to, true);
        self.to_catch_up.push(index);
        Ok(())
    }
}
