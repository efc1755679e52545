//! What a client changes while it is served: the rate of its subscriptions, and how its session is visited.

use super::pacing::Pace;
use super::session::Hold;
use super::shard::Shard;
use crate::name::TopicName;
use crate::protocol::{CommandId, Op, Refusal, SessionWishes};

impl Shard {
    /// Changes the rates of subscriptions, and answers.
    pub(super) fn change_rates(
        &mut self,
        index: u32,
        id: &CommandId,
        topics: &[TopicName],
        refused: &[Refusal],
        max_rate: Option<f64>,
    ) {
        let mut failed = refused.to_vec();
        for topic in topics {
            if let Err(refusal) = self.change_rate(index, topic, max_rate) {
                failed.push(refusal.about(topic.as_str()));
            }
        }
        let Some(session) = self.session(index) else { return };
        let dialect = session.dialect;
        // A Centrifuge command has one reply.
        let one_reply = dialect.is_centrifuge() && !failed.is_empty();
        for refusal in failed.iter().take(if one_reply { 1 } else { failed.len() }) {
            self.refuse(index, id, Op::Rate, refusal);
        }
        if !one_reply {
            self.send(index, dialect.done(id, Op::Rate));
        }
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
        let here = |lane: u32| self.subscribers.lane(lane).filter(|lane| lane.slot == slot);
        let place = session.subscriptions.iter_mut().find(|s| here(s.lane).is_some()).ok_or_else(not_subscribed)?;
        let (from, lane) = (*place, here(place.lane).ok_or_else(not_subscribed)?);
        if lane.interval_ms == interval_ms {
            return Ok(());
        }
        let (encoding, form, throttled, sent) = (lane.encoding, lane.form, lane.interval_ms > 0, lane.sent);
        let last = self.subscribers.topic(slot).ok_or_else(not_subscribed)?.last;
        let to = self.subscribers.join(index, slot, encoding, form, interval_ms).ok_or_else(not_subscribed)?;
        *place = to;
        let hold = session.hold_of(from).map(|at| session.holds.swap_remove(at));
        let cursor = hold.map_or(if throttled { sent } else { last }, |hold| hold.cursor);
        session.holds.push(Hold { subscription: to, cursor, awaiting: false });
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
