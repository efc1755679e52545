//! Joining and leaving groups. Every session's subscriptions are kept consistent with its places in the groups.

use super::groups::{Group, Member, Moved, Subscription};
use super::topics::{TopicTable, index, place};
use crate::hub::compression::Compression;
use crate::hub::index::{GroupId, SessionIndex};
use crate::protocol::Encoding;
use crate::topic::Slot;

impl TopicTable {
    /// Adds a session to the group for this topic, encoding and interval.
    pub(in crate::hub) fn join(
        &mut self,
        session: SessionIndex,
        slot: Slot,
        encoding: Encoding,
        compression: Compression,
        interval_ms: u64,
    ) -> Option<Subscription> {
        self.enter(session, slot, encoding, compression, interval_ms, encoding.is_fossil() && interval_ms == 0)
    }

    /// Moves members that have just got a full delta to the other group; `moved` is called for each with its old and
    /// new place. Lagging members stay.
    pub(in crate::hub) fn promote(
        &mut self,
        group_id: GroupId,
        mut moved: impl FnMut(SessionIndex, Subscription, Subscription),
    ) {
        let Some(group) = self.groups.get(group_id.at()).filter(|group| group.needs_full) else { return };
        let (slot, encoding, compression) = (group.slot, group.encoding, group.compression);
        let mut pos = group.members.len();
        // From the back: a leaving member's place is taken by the last one, which was processed already.
        while pos > 0 {
            pos -= 1;
            let Some(member) = self.groups.get(group_id.at()).and_then(|group| group.members.get(pos)).copied() else {
                return;
            };
            if member.is_lagging() {
                continue;
            }
            let session = member.session();
            let Some(to) = self.enter(session, slot, encoding, compression, 0, false) else { return };
            let from = Subscription { group: group_id, pos: place(pos) };
            let (swapped, _) = self.leave(from);
            moved(session, from, to);
            if let Some(swapped) = swapped {
                moved(swapped.session, swapped.from, swapped.to);
            }
        }
    }

    /// Moves a member that does not have its group's last delta to the matching group that needs full deltas. Returns
    /// its new place, and the member that took its old one.
    pub(in crate::hub) fn refresh(&mut self, subscription: Subscription) -> (Subscription, Option<Moved>) {
        let Some(group) = self.groups.get_mut(subscription.group.at()) else { return (subscription, None) };
        group.base = None;
        if !group.encoding.is_fossil() || group.interval_ms > 0 || group.needs_full {
            return (subscription, None);
        }
        let (slot, encoding, compression) = (group.slot, group.encoding, group.compression);
        let Some(member) = group.members.get(subscription.pos as usize).copied() else { return (subscription, None) };
        let Some(to) = self.enter(member.session(), slot, encoding, compression, 0, true) else {
            return (subscription, None);
        };
        (to, self.leave(subscription).0)
    }

    fn enter(
        &mut self,
        session: SessionIndex,
        slot: Slot,
        encoding: Encoding,
        compression: Compression,
        interval_ms: u64,
        needs_full: bool,
    ) -> Option<Subscription> {
        let topic = self.slots.get_mut(index(slot))?;
        let same = |group: &Group| {
            group.encoding == encoding
                && group.compression == compression
                && group.interval_ms == interval_ms
                && group.needs_full == needs_full
        };
        let found = topic.groups.iter().copied().find(|id| self.groups.get(id.at()).is_some_and(same));
        let group_id = match found {
            Some(id) => id,
            None => {
                let id = self.groups.insert(Group {
                    slot,
                    encoding,
                    compression,
                    needs_full,
                    base: None,
                    interval_ms,
                    members: Vec::new(),
                    sent: topic.last,
                    due_ms: 0,
                    pending: false,
                    awaiting: false,
                    batch: None,
                    joiners: Vec::new(),
                });
                let id = GroupId::new(id);
                topic.groups.push(id);
                id
            }
        };
        let group = self.groups.get_mut(group_id.at())?;
        group.base = None;
        let pos = place(group.members.len());
        let room = group.members.capacity();
        group.members.push(Member::new(session));
        self.listed_bytes += (group.members.capacity() - room) * size_of::<Member>();
        Some(Subscription { group: group_id, pos })
    }

    /// Takes a member out of its group. Returns the subscription that took its place, and the topic's slot if no
    /// session of this shard needs it any more.
    pub(in crate::hub) fn leave(&mut self, subscription: Subscription) -> (Option<Moved>, Option<Slot>) {
        let Subscription { group: group_id, pos } = subscription;
        let Some(group) = self.groups.get_mut(group_id.at()) else { return (None, None) };
        let slot = group.slot;
        if pos as usize >= group.members.len() {
            return (None, None);
        }
        let gone = group.members.swap_remove(pos as usize);
        let moved = group.members.get(pos as usize).map(|member| Moved {
            session: member.session(),
            from: Subscription { group: group_id, pos: place(group.members.len()) },
            to: subscription,
        });
        let Some(topic) = self.slots.get_mut(index(slot)) else { return (moved, None) };
        if gone.is_lagging() {
            topic.lagging = topic.lagging.saturating_sub(1);
        }
        if group.members.is_empty() {
            if group.pending {
                topic.lagging = topic.lagging.saturating_sub(1);
            }
            topic.groups.retain(|id| *id != group_id);
            self.listed_bytes -= group.members.capacity() * size_of::<Member>();
            self.groups.remove(group_id.at());
        } else if group.members.len() * 4 < group.members.capacity() {
            let room = group.members.capacity();
            group.members.shrink_to(group.members.len() * 2);
            self.listed_bytes -= (room - group.members.capacity()) * size_of::<Member>();
        }
        (moved, self.unwanted(slot))
    }

    /// Sets or clears the mark that excludes a member from the group's frames. Returns `true` if it changed.
    pub(in crate::hub) fn set_lagging(&mut self, subscription: Subscription, lagging: bool) -> bool {
        let Some(group) = self.groups.get_mut(subscription.group.at()) else { return false };
        let Some(member) = group.members.get_mut(subscription.pos as usize) else { return false };
        if member.is_lagging() == lagging {
            return false;
        }
        member.toggle();
        if let Some(topic) = self.slots.get_mut(index(group.slot)) {
            topic.lagging = if lagging { topic.lagging + 1 } else { topic.lagging.saturating_sub(1) };
        }
        true
    }

    /// Whether a member is excluded from the group's frames.
    #[cfg(test)]
    fn is_lagging(&self, subscription: Subscription) -> bool {
        let group = self.groups.get(subscription.group.at());
        group.and_then(|group| group.members.get(subscription.pos as usize)).is_some_and(|m| m.is_lagging())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::config::Class;
    use crate::hub::fanout::topics::Traits;
    use crate::name::TopicName;
    use proptest::prelude::*;

    fn name(n: u8) -> TopicName {
        TopicName::new(&format!("t:{n}")).unwrap()
    }

    proptest! {
        /// Against a model: for any sequence of join, leave, lag and catch up, every session's subscriptions refer to
        /// itself, and topics without members are reported once.
        #[test]
        fn positions_stay_true(ops in prop::collection::vec((0u8..4, 0usize..8, 0u8..3, 0u64..2), 0..200)) {
            let mut topics = TopicTable::default();
            let mut sessions: HashMap<SessionIndex, Vec<(u8, Subscription, bool)>> = HashMap::new();
            for (op, session, topic, rate) in ops {
                let session = SessionIndex::new(session);
                let own = sessions.entry(session).or_default();
                match op {
                    0 if !own.iter().any(|(t, ..)| *t == topic) => {
                        let slot = topics.slot(&name(topic), || Traits { class: Class::Latest, flush_ms: 0 });
                        let subscription = topics.join(session, slot, Encoding::Plain, Compression::Plain, rate * 100).unwrap();
                        sessions.get_mut(&session).unwrap().push((topic, subscription, false));
                    }
                    1 => {
                        if let Some(at) = own.iter().position(|(t, ..)| *t == topic) {
                            let (_, subscription, _) = own.swap_remove(at);
                            let (moved, unwanted) = topics.leave(subscription);
                            if let Some(moved) = moved {
                                for (_, s, _) in sessions.get_mut(&moved.session).unwrap() {
                                    if *s == moved.from { *s = moved.to; }
                                }
                            }
                            let left = sessions.values().flatten().any(|(t, ..)| *t == topic);
                            prop_assert_eq!(unwanted.is_some(), !left);
                            if let Some(slot) = unwanted { topics.free(slot); }
                        }
                    }
                    _ => {
                        if let Some((_, s, held)) = own.iter_mut().find(|(t, ..)| *t == topic) {
                            prop_assert_eq!(topics.set_lagging(*s, op == 2), *held != (op == 2));
                            *held = op == 2;
                        }
                    }
                }
                for (session, subs) in &sessions {
                    for (topic, s, held) in subs {
                        let group = topics.group(s.group).unwrap();
                        prop_assert_eq!(group.members[s.pos as usize].session(), *session);
                        prop_assert_eq!(topics.is_lagging(*s), *held);
                        prop_assert_eq!(&topics.topic(group.slot).unwrap().name, &name(*topic));
                    }
                }
                let lagging = sessions.values().flatten().filter(|(.., lagging)| *lagging).count();
                let counted: u32 = (0..3).filter_map(|t| topics.find(&name(t))).map(|s| topics.topic(s).unwrap().lagging).sum();
                prop_assert_eq!(counted as usize, lagging);
            }
        }
    }
}
