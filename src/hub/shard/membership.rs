//! Joins and leaves of topics, for the sessions that watch them.

use std::sync::Arc;

use super::shard::Shard;
use crate::hub::chunk::Chunk;
use crate::hub::index::{GroupId, SessionIndex};
use crate::hub::memberships::{Memberships, bounded};
use crate::protocol::MembershipChange;
use crate::topic::Slot;

impl Shard {
    /// Adds a join or a leave.
    pub(super) fn membership(&mut self, slot: Slot, change: &Arc<MembershipChange>) {
        let bounded = bounded(change);
        self.stats.membership_infos_omitted.add(u64::from(bounded.is_some()));
        let change = bounded.as_ref().unwrap_or(change);
        if self.memberships.take(slot, change, self.clock.now_ms).is_err() {
            self.stats.memberships_dropped.add(1);
        }
    }

    /// Sends the changes that are due.
    pub(super) fn send_memberships(&mut self) {
        let (now_ms, nothing) = (self.clock.now_ms, Memberships::new(self.memberships.rates));
        if self.memberships.next_ms().is_none_or(|next_ms| next_ms > now_ms) {
            return;
        }
        let mut memberships = std::mem::replace(&mut self.memberships, nothing);
        let delayed = memberships.send_due(now_ms, |slot, change| self.send_membership(slot, change));
        self.memberships = memberships;
        self.stats.memberships_delayed.add(delayed);
    }

    /// Sends a change to the members that watch. Returns the bytes sent.
    fn send_membership(&mut self, slot: Slot, change: &MembershipChange) -> usize {
        let Some(topic) = self.fanout.topics.topic(slot) else { return 0 };
        let name = topic.name.clone();
        let force = self.config.namespace(name.namespace()).force_push_join_leave;
        let groups: Vec<GroupId> = topic.groups.clone();
        let mut sent = 0;
        for group_id in groups {
            let Some(group) = self.fanout.topics.group(group_id) else { continue };
            let Some(centrifuge) = group.encoding.dialect().centrifuge() else { continue };
            let frame = centrifuge.membership(&name, change);
            let members: Vec<SessionIndex> = group.members().collect();
            let bytes = frame.len();
            let chunk = self.egress.outbox.chunk(Chunk::control(frame));
            for index in members {
                let Some(session) = self.sessions.get_mut(index) else { continue };
                let wants = session.client.as_ref().and_then(|c| c.special(slot)).is_some_and(|s| s.join_leave);
                if force || wants {
                    self.egress.outbox.link(index, &mut session.output.send_queue, chunk);
                    sent += bytes;
                }
            }
        }
        sent
    }
}
