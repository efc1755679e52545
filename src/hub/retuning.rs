//! What a client changes while it is served: the rate of its subscriptions, and how its session is visited.

use super::pacing::Pace;
use super::session::Hold;
use super::shard::Shard;
use crate::name::TopicName;
use crate::protocol::{CommandId, Op, Refusal, Refused, SessionWishes};

impl Shard {
    /// Changes the rates of subscriptions, and answers.
    pub(super) fn change_rates(
        &mut self,
        index: u32,
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

    /// Moves a subscription to the lane of another rate. What it has already counts there: it is held until it has been
    /// brought to where that lane is.
    fn change_rate(&mut self, index: u32, name: &TopicName, max_rate: Option<f64>) -> Result<(), Refusal> {
        let not_subscribed = || Refusal::new(404, "not subscribed");
        let (traits, interval_ms) = self.terms(name, max_rate);
        if !traits.class.conflatable() {
            return Err(Refusal::new(400, "a `stream` has no rate: every delta of it counts"));
        }
        let slot = self.subscribers.find(name).ok_or_else(not_subscribed)?;
        self.seal_topic(slot);
        let session = self.sessions.get_mut(index as usize).ok_or_else(not_subscribed)?;
        let at = session.place_in(&self.subscribers, slot).ok_or_else(not_subscribed)?;
        let from = session.subscriptions.get(at).copied().ok_or_else(not_subscribed)?;
        let lane = self.subscribers.lane(from.lane).ok_or_else(not_subscribed)?;
        if lane.interval_ms == interval_ms {
            return Ok(());
        }
        let (encoding, form, throttled, sent) = (lane.encoding, lane.form, lane.interval_ms > 0, lane.sent);
        let last = self.subscribers.topic(slot).ok_or_else(not_subscribed)?.last;
        let to = self.subscribers.join(index, slot, encoding, form, interval_ms).ok_or_else(not_subscribed)?;
        session.subscriptions.remove(at);
        session.add(to);
        let hold = session.hold_of(from).map(|at| session.holds.swap_remove(at));
        let cursor = hold.map_or(if throttled { sent } else { last }, |hold| hold.cursor);
        session.holds.push(Hold::new(to, cursor));
        let (moved, _) = self.subscribers.leave(from);
        if let Some(moved) = moved
            && let Some(session) = self.session(moved.session)
        {
            session.moved(moved.from, moved.to);
        }
        self.subscribers.hold(to, true);
        self.owed.push(index);
        Ok(())
    }

    /// Serves a session as its client wishes.
    pub(super) fn tune(&mut self, index: u32, wishes: SessionWishes) {
        let Some(session) = self.session(index) else { return };
        if let Some(floor_ms) = wishes.flush_interval_ms {
            session.chain.floor_ms = floor_ms;
        }
        if let Some(batch) = wishes.batch {
            session.batch = batch;
        }
        match wishes.bytes_per_second {
            None => {}
            Some(0) => session.pace = None,
            Some(rate) => session.pace = Some(Box::new(Pace::new(rate))),
        }
        // What waits for the old ceiling may go now.
        if session.backlog.is_some() {
            self.writable.push(index);
        }
    }
}
