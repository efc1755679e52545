//! Groups with a rate: the deltas since the last delivery are sent as one frame once the interval is over.

use bytes::Bytes;

use super::conflate::Conflated;
use super::fan_out::Fanout;
use super::receivers::{Followup, Receivers, compressed};
use super::trace::Span;
use crate::config::Class;
use crate::hub::chunk::Chunk;
use crate::hub::cursor::Cursor;
use crate::hub::index::{GroupId, SessionIndex};
use crate::name::TopicName;
use crate::protocol::Delivery;
use crate::topic::{Slot, Snapshot};

/// The state that a group waited for, and its cost for the members.
#[derive(Debug)]
pub(in crate::hub) struct GroupState {
    pub(in crate::hub) topic: Slot,
    /// The members' position.
    pub(in crate::hub) from: Cursor,
    pub(in crate::hub) frame: Bytes,
    /// Number of deltas that it replaces.
    count: u64,
    /// Bytes charged to each member's allowance; 0 if the deltas would have been as long.
    pub(in crate::hub) charged: usize,
}

impl Fanout {
    /// Delivers for the groups whose interval is over.
    pub(super) fn deliver_throttled(&mut self, to: &mut impl Receivers) {
        for group_id in self.throttle.take_touched() {
            let Some(group) = self.topics.group(group_id) else { continue };
            if group.due_ms <= self.now_ms {
                self.deliver_pending(group_id, to);
            } else {
                self.throttle.wait(group_id, group.due_ms);
            }
        }
        while let Some(group_id) = self.throttle.take_due(self.now_ms) {
            if self.topics.group(group_id).is_some_and(|group| group.due_ms <= self.now_ms) {
                self.deliver_pending(group_id, to);
            }
        }
    }

    fn deliver_pending(&mut self, group_id: GroupId, to: &mut impl Receivers) {
        let Some((group, topic)) = self.topics.group_and_topic(group_id) else { return };
        if !group.pending || group.awaiting {
            return;
        }
        match self.conflations.between(group.slot, topic, group.encoding, group.sent, topic.last) {
            Conflated::Snapshot => {
                group.awaiting = true;
                self.followups.push(Followup::NeedsState { topic: topic.name.clone(), group: group_id });
            }
            Conflated::Nothing => self.delivered(group_id),
            Conflated::Frame(bytes, count) => {
                let bytes = self.delta_compressed(group_id, count).unwrap_or(bytes);
                self.send_to_group(group_id, bytes, count, to);
            }
        }
    }

    /// The newest value as a difference from the one that all members of a group with a rate have. Patches are short
    /// already.
    fn delta_compressed(&mut self, group_id: GroupId, count: u64) -> Option<Bytes> {
        let (group, topic) = self.topics.group_and_topic(group_id)?;
        if !group.encoding.is_fossil() || topic.class != Class::Latest {
            return None;
        }
        let newest = topic.recent.back()?;
        let data = newest.payload.bytes().clone();
        let before = group.base.replace(data.clone())?;
        let (offset, prev, ts) = (newest.offset, group.sent.offset, newest.ts);
        let delivery =
            Delivery { topic: &topic.name, offset, prev, count, ts, data: &data, form: newest.payload.form() };
        Some(group.encoding.delivery(&delivery, Some(&before)))
    }

    /// Sends one frame to a group with a rate; the group is then level with its topic.
    fn send_to_group(&mut self, group_id: GroupId, bytes: Bytes, count: u64, to: &mut impl Receivers) {
        let Some((group, topic)) = self.topics.group_and_topic(group_id) else { return };
        self.stats.conflated.add((count - 1) * group.len() as u64);
        let (slot, start) = (group.slot, group.sent);
        let seen_ms = topic.recent.back().map_or(0, |newest| newest.ts.unwrap_or(newest.taken_ms));
        let chunk = compressed(Chunk::delivery(bytes, Some(slot), start), group.compression, to);
        let chunk = Chunk { wait_ms: topic.flush_ms.max(1), seen_ms, ..chunk };
        let span = Span { from: start.seq, upto: topic.last.seq, conflated: true };
        self.trace.share(slot, &span, chunk, group, to);
        group.due_ms = self.now_ms + group.interval_ms;
        self.delivered(group_id);
    }

    /// A group is level with its topic: members that joined ahead of it get its frames from now on.
    pub(super) fn delivered(&mut self, group_id: GroupId) {
        let Some((group, topic)) = self.topics.group_and_topic(group_id) else { return };
        group.sent = topic.last;
        group.awaiting = false;
        self.trace.group_delivered(group_id);
        if std::mem::take(&mut group.pending) {
            topic.lagging = topic.lagging.saturating_sub(1);
        }
        self.recent.note(group.slot);
        let joiners = std::mem::take(&mut group.joiners);
        self.followups.extend(joiners.into_iter().map(|session| Followup::CanCatchUp { session, group: group_id }));
    }

    /// Handles the state that a group waited for. `None` if it is of no use; a group whose topic has advanced meanwhile
    /// is checked again.
    pub(in crate::hub) fn group_state(&mut self, group_id: GroupId, snapshot: &Snapshot) -> Option<GroupState> {
        let (group, topic) = self.topics.group_and_topic(group_id)?;
        // The group's id may belong to another topic by now.
        if !group.awaiting || topic.name != snapshot.topic {
            return None;
        }
        if topic.last.offset != snapshot.offset {
            // Its epoch differs from that of the pending deltas.
            group.awaiting = false;
            self.throttle.touch(group_id);
            return None;
        }
        let count = topic.last.seq.saturating_sub(group.sent.seq).max(1);
        let frame = snapshot.frame(group.encoding);
        group.base = None;
        let (slot, from, charged) = (group.slot, group.sent, topic.charged_bytes(frame.len(), group.sent));
        topic.answered_bytes = frame.len();
        self.stats.snapshots.add(group.len() as u64);
        Some(GroupState { topic: slot, from, frame, count, charged })
    }

    /// Sends the state to all members that do not lag.
    pub(in crate::hub) fn send_group_state(&mut self, group: GroupId, state: GroupState, to: &mut impl Receivers) {
        self.send_to_group(group, state.frame, state.count, to);
    }

    /// Members that get the group's frames.
    pub(in crate::hub) fn receivers(&self, group: GroupId) -> Vec<SessionIndex> {
        self.topics.group(group).map_or_else(Vec::new, |group| group.receivers().collect())
    }

    /// The state that a group waited for could not be read: it is requested again at `again_ms`.
    pub(in crate::hub) fn no_group_state(&mut self, group_id: GroupId, topic: &TopicName, again_ms: u64) {
        if let Some((group, wanted)) = self.topics.group_and_topic(group_id)
            && wanted.name == *topic
        {
            (group.awaiting, group.due_ms) = (false, again_ms);
            self.throttle.wait(group_id, again_ms);
        }
    }
}
