//! The shard's side of fan-out: it passes on deltas and states, and carries out follow-ups.

use std::sync::Arc;

use super::receivers::SessionReceivers;
use super::shard::Shard;
use crate::hub::fanout::{Fanout, Followup};
use crate::hub::index::{GroupId, SessionId};
use crate::hub::requests::Waiter;
use crate::protocol::INSUFFICIENT_STATE;
use crate::topic::{Delta, Slot, Snapshot};
use crate::wire::close::CloseReason;

impl Shard {
    /// Fan-out, and its view of the sessions.
    pub(in crate::hub) fn fan_out(&mut self) -> (&mut Fanout, SessionReceivers<'_>) {
        (&mut self.fanout, SessionReceivers { sessions: &mut self.sessions, egress: &mut self.egress })
    }

    /// Handles a delta from the queue.
    pub(in crate::hub) fn delta(&mut self, slot: Slot, delta: &Arc<Delta>) {
        self.fanout.delta(slot, delta, self.taken);
    }

    /// Shares a topic's deltas so far among its current subscribers, before one joins or catches up.
    pub(in crate::hub) fn close_batches(&mut self, slot: Slot) {
        let (fanout, mut to) = self.fan_out();
        fanout.close_batches(slot, &mut to);
    }

    /// Once the queue is empty: sends the groups' batches to their members.
    pub(in crate::hub) fn deliver(&mut self) {
        let (fanout, mut to) = self.fan_out();
        fanout.deliver(&mut to);
        self.follow_up();
    }

    /// Carries out fan-out's follow-ups.
    pub(in crate::hub) fn follow_up(&mut self) {
        for followup in self.fanout.take_followups() {
            match followup {
                Followup::NeedsState { topic, group } => self.ask_snapshot(topic, Waiter::Group { group }),
                Followup::CanCatchUp { session, group } => self.catch_up_with(session, group),
            }
        }
    }

    /// Catches up a session that joined ahead of its group.
    fn catch_up_with(&mut self, id: SessionId, group: GroupId) {
        let Some(session) = self.sessions.by_id(id).filter(|s| s.output.backlog.is_none()) else { return };
        if let Some(at) = session.subscriptions.lagging.iter().position(|l| l.subscription.group == group) {
            self.catch_up(id.index, at);
        }
    }

    /// Handles the state that a group waited for.
    pub(in crate::hub) fn snapshot_for_group(&mut self, group: GroupId, snapshot: &Snapshot) {
        let Some(state) = self.fanout.group_state(group, snapshot) else { return };
        if state.charged > 0 {
            // A state is longer than the deltas that it replaces. Members whose allowance has no room get it later.
            for index in self.fanout.receivers(group) {
                if !self.may_get(index, state.charged)
                    && let Some(session) = self.sessions.get_mut(index)
                {
                    session.subscriptions.fall_behind(&mut self.fanout.topics, state.topic, state.from);
                }
            }
        }
        let (fanout, mut to) = self.fan_out();
        fanout.send_group_state(group, state, &mut to);
        self.follow_up();
    }

    /// The topic's state does not follow from its deltas, or its epoch changed: every subscriber gets the new state.
    pub(in crate::hub) fn reset(&mut self, slot: Slot, snapshot: &Snapshot) {
        self.close_batches(slot);
        let Some(conflatable) = self.fanout.topics.topic(slot).map(|topic| topic.class.conflatable()) else { return };
        // Centrifuge clients learn the epoch when they subscribe. A position in a state that may lack deltas is not
        // valid in the epoch that they have.
        if snapshot.known.may_lack() || !conflatable {
            self.end_centrifuge(slot);
        }
        if !conflatable {
            // A replay of the old epoch cannot catch them up.
            for index in self.fanout.lagging_members(slot) {
                self.close(index, CloseReason::InsufficientState);
            }
        }
        let (fanout, mut to) = self.fan_out();
        fanout.reset(slot, snapshot, &mut to);
        self.follow_up();
    }

    /// Makes Centrifuge subscribers subscribe again: they learn the new epoch, and that they could not recover a
    /// stream. The list of kept events, which `plain` clients get, would look like an event to them.
    fn end_centrifuge(&mut self, slot: Slot) {
        for index in self.fanout.centrifuge_members(slot) {
            self.revoke(index, slot, INSUFFICIENT_STATE, "insufficient state");
        }
    }

    /// Handles a topic that became stale, or is no longer stale.
    pub(in crate::hub) fn stale(&mut self, slot: Slot, since_ms: Option<u64>) {
        self.close_batches(slot);
        let (fanout, mut to) = self.fan_out();
        fanout.stale(slot, since_ms, &mut to);
    }
}
