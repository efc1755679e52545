//! Lagging subscriptions: what brings a session level with its group again.

use super::conflate::Conflated;
use super::fan_out::Fanout;
use super::groups::Subscription;
use super::receivers::Receivers;
use super::subscriptions::Lagging;
use crate::hub::chunk::Chunk;
use crate::hub::cursor::Cursor;
use crate::hub::index::{GroupId, SessionId, SessionIndex};
use crate::name::TopicName;
use crate::position::Offset;
use crate::protocol::Encoding;
use crate::topic::{Slot, Snapshot};

/// What a lagging subscription needs next.
pub(in crate::hub) enum CatchUp {
    /// Nothing for now: it waits for an answer, or for its group's next delivery.
    Waits,
    /// It is level with its group again. The chunk, if any, has what it missed.
    Level(Option<Chunk>),
    /// No patch expresses what it missed: it needs the topic's state, for which about `bytes` are charged.
    NeedsState { topic: TopicName, group: GroupId, bytes: usize },
    /// It needs every delta that it missed, about `bytes` of them.
    NeedsReplay { slot: Slot, topic: TopicName, encoding: Encoding, after: Offset, group: GroupId, bytes: usize },
}

/// What a topic's state did for a lagging subscription.
pub(in crate::hub) enum StateResult {
    /// The subscription no longer waits for this state.
    Ignored,
    /// The state is not at the group's offset, or the session cannot take it now: check again.
    LookAgain,
    /// The session gets this chunk, for which `charged` bytes are counted.
    Send { chunk: Chunk, charged: usize },
}

impl Fanout {
    /// The next step for the `at`th lagging subscription of a live session.
    pub(in crate::hub) fn catch_up(&mut self, session: SessionId, at: usize, to: &mut impl Receivers) -> CatchUp {
        let Some(subscriptions) = to.subscriptions_of(session) else { return CatchUp::Waits };
        // One replay at a time: several could exceed the backlog's limit.
        let replaying = subscriptions.lagging.iter().any(|l| l.awaiting);
        let Some(lagging) = subscriptions.lagging.get(at).filter(|l| !l.awaiting) else { return CatchUp::Waits };
        let Lagging { subscription, cursor, .. } = *lagging;
        let group_id = subscription.group;
        let Some((group, topic)) = self.topics.group_and_topic(group_id) else { return CatchUp::Waits };
        if !topic.class.conflatable() {
            if replaying {
                return CatchUp::Waits;
            }
            return CatchUp::NeedsReplay {
                slot: group.slot,
                topic: topic.name.clone(),
                encoding: group.encoding,
                after: cursor.offset,
                group: group_id,
                bytes: topic.answered_bytes,
            };
        }
        let target = if group.interval_ms == 0 { topic.last } else { group.sent };
        if cursor.seq > target.seq && cursor != Cursor::NOWHERE {
            if !group.joiners.contains(&session) {
                group.joiners.push(session);
            }
            return CatchUp::Waits;
        }
        let slot = group.slot;
        match self.conflations.between(slot, topic, group.encoding, cursor, target) {
            Conflated::Snapshot => CatchUp::NeedsState {
                topic: topic.name.clone(),
                group: group_id,
                bytes: topic.charged_bytes(topic.answered_bytes, cursor),
            },
            conflated => {
                subscriptions.lagging.remove(at);
                self.recent.note(slot);
                self.rejoin(session.index, subscription, to);
                let Conflated::Frame(bytes, count) = conflated else { return CatchUp::Level(None) };
                self.stats.conflated.add(count - 1);
                CatchUp::Level(Some(Chunk::delivery(bytes, Some(slot), cursor)))
            }
        }
    }

    /// A member gets the group's frames again, after another frame caught it up.
    pub(in crate::hub) fn rejoin(
        &mut self,
        session: SessionIndex,
        subscription: Subscription,
        to: &mut impl Receivers,
    ) {
        self.topics.set_lagging(subscription, false);
        let (place, swapped) = self.topics.refresh(subscription);
        if let Some(subscriptions) = to.subscriptions(session) {
            subscriptions.moved(subscription, place);
        }
        if let Some(swapped) = swapped
            && let Some(subscriptions) = to.subscriptions(swapped.session)
        {
            subscriptions.moved(swapped.from, swapped.to);
        }
    }

    /// Handles a topic's state for a lagging subscription. `is_full`: its session can take nothing now.
    pub(in crate::hub) fn lagging_state(
        &mut self,
        session: SessionId,
        group_id: GroupId,
        snapshot: &Snapshot,
        is_full: bool,
        to: &mut impl Receivers,
    ) -> StateResult {
        let Some((group, topic)) = self.topics.group_and_topic(group_id) else { return StateResult::Ignored };
        // The group's id may belong to another topic by now.
        if topic.name != snapshot.topic {
            return StateResult::Ignored;
        }
        let is_level = group.interval_ms == 0 || group.sent.seq == topic.last.seq;
        let Some(subscriptions) = to.subscriptions_of(session) else { return StateResult::Ignored };
        let at = subscriptions.lagging.iter().position(|l| l.subscription.group == group_id && l.awaiting);
        let Some(at) = at else { return StateResult::Ignored };
        let Some(lagging) = subscriptions.lagging.get_mut(at) else { return StateResult::Ignored };
        lagging.awaiting = false;
        if is_full {
            // Its need is determined again once there is room.
            return StateResult::Ignored;
        }
        if topic.last.offset != snapshot.offset {
            return StateResult::LookAgain;
        }
        let start = std::mem::replace(&mut lagging.cursor, topic.last);
        let subscription = lagging.subscription;
        let frame = snapshot.frame(group.encoding);
        let charged = topic.charged_bytes(frame.len(), start);
        topic.answered_bytes = frame.len();
        self.stats.snapshots.add(1);
        if start != Cursor::NOWHERE {
            self.stats.conflated.add(topic.last.seq.saturating_sub(start.seq));
        }
        let slot = group.slot;
        if is_level {
            subscriptions.lagging.remove(at);
            self.rejoin(session.index, subscription, to);
        } else {
            group.base = None;
            group.joiners.push(session);
        }
        StateResult::Send { chunk: Chunk::delivery(frame, Some(slot), start), charged }
    }

    /// Notes that a session has everything of a topic up to `cursor`, independently of its group's deliveries.
    pub(in crate::hub) fn is_at(
        &mut self,
        session: SessionId,
        group_id: GroupId,
        cursor: Cursor,
        to: &mut impl Receivers,
    ) {
        let Some(subscriptions) = to.subscriptions(session.index) else { return };
        let Some(subscription) = subscriptions.place_of(group_id).and_then(|at| subscriptions.get(at)) else { return };
        let Some((group, topic)) = self.topics.group_and_topic(group_id) else { return };
        if !topic.class.conflatable() {
            // A stream needs every delta: its replay continues from its own position.
            return;
        }
        if let Some(at) = subscriptions.lagging_at(subscription) {
            if let Some(lagging) = subscriptions.lagging.get_mut(at) {
                lagging.cursor = cursor;
            }
            return;
        }
        if group.interval_ms > 0 && group.sent.seq != cursor.seq {
            if group.len() == 1 && !group.pending {
                // The group has no other member, so it takes this member's position.
                group.sent = cursor;
                return;
            }
            group.joiners.push(session);
            subscriptions.lagging.push(Lagging::new(subscription, cursor));
            self.topics.set_lagging(subscription, true);
        }
    }

    /// Notes that a session is at `cursor` of a topic and must catch up.
    pub(in crate::hub) fn lags(
        &mut self,
        session: SessionIndex,
        subscription: Subscription,
        cursor: Cursor,
        to: &mut impl Receivers,
    ) {
        if let Some(subscriptions) = to.subscriptions(session) {
            subscriptions.lagging.push(Lagging::new(subscription, cursor));
        }
        self.topics.set_lagging(subscription, true);
    }
}
