//! Joins and leaves of topics, told to the sessions that watch, for each topic at most every so often: a session that
//! joins and leaves all the time costs its watchers no more than one that joined once.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::outbox::Piece;
use super::shard::Shard;
use crate::limits::{MEMBERSHIP_EVERY_MS, MEMBERSHIP_WAITING_MAX};
use crate::protocol::MembershipChange;
use crate::topic::Slot;

/// What waits to be told, by topic.
#[derive(Debug, Default)]
pub(super) struct Memberships {
    topics: HashMap<Slot, Waiting>,
    /// When the first of them is due, ms of the shard's clock.
    next_ms: Option<u64>,
}

#[derive(Debug)]
struct Waiting {
    due_ms: u64,
    /// In order. A member that came and went meanwhile, or the other way round, has left holes.
    changes: Vec<Option<Arc<MembershipChange>>>,
    holes: usize,
    by_member: HashMap<Member, usize>,
}

/// The session that a change is about, together with what it shows: with another user or `info` it counts as another.
type Member = (String, String, Bytes, Bytes);

fn member(change: &MembershipChange) -> Member {
    let info = &change.info;
    (info.client.clone(), info.user.clone(), info.conn_info.clone(), info.chan_info.clone())
}

impl Waiting {
    fn new(due_ms: u64) -> Self {
        Self { due_ms, changes: Vec::new(), holes: 0, by_member: HashMap::new() }
    }

    fn add(&mut self, change: &Arc<MembershipChange>) {
        self.by_member.insert(member(change), self.changes.len());
        self.changes.push(Some(change.clone()));
    }

    /// Leaves a hole; where there are more of them than changes, they go.
    fn remove(&mut self, at: usize) {
        if let Some(change) = self.changes.get_mut(at) {
            *change = None;
            self.holes += 1;
        }
        if self.holes * 2 > self.changes.len() {
            self.changes.retain(Option::is_some);
            self.holes = 0;
            let members = self.changes.iter().flatten().enumerate();
            self.by_member = members.map(|(at, change)| (member(change), at)).collect();
        }
    }
}

impl Memberships {
    /// When there may be something to tell.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.next_ms
    }

    /// Takes a change: `true` if it is to be told at once. `Err` if too many wait. One that leaves may be back in a moment,
    /// as when it subscribes again: that is told later, or not at all.
    fn take(&mut self, slot: Slot, change: &Arc<MembershipChange>, now_ms: u64) -> Result<bool, ()> {
        let due_ms = now_ms + MEMBERSHIP_EVERY_MS;
        let Some(waiting) = self.topics.get_mut(&slot) else {
            let mut waiting = Waiting::new(due_ms);
            if !change.joined {
                waiting.add(change);
            }
            self.topics.insert(slot, waiting);
            self.next_ms = Some(self.next_ms.map_or(due_ms, |next_ms| next_ms.min(due_ms)));
            return Ok(change.joined);
        };
        let member = member(change);
        if let Some(at) = waiting.by_member.remove(&member) {
            // The one that waits says the contrary, or the same once more.
            let other = waiting.changes.get(at).and_then(Option::as_ref);
            let same = other.is_some_and(|other| other.joined == change.joined);
            if same {
                waiting.by_member.insert(member, at);
                return Ok(false);
            }
            waiting.remove(at);
            return Ok(false);
        }
        if waiting.changes.len() >= MEMBERSHIP_WAITING_MAX {
            return Err(());
        }
        waiting.add(change);
        Ok(false)
    }

    /// Drops what waits: the number will be another topic's, whose subscribers must not learn of this one's.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.topics.remove(&slot);
    }

    /// What is due now.
    fn due(&mut self, now_ms: u64) -> Vec<(Slot, Vec<Arc<MembershipChange>>)> {
        if self.next_ms.is_none_or(|next_ms| next_ms > now_ms) {
            return Vec::new();
        }
        let mut due = Vec::new();
        self.topics.retain(|slot, waiting| {
            if waiting.due_ms > now_ms {
                return true;
            }
            // Quiet for as long as it takes: the next one is told at once again.
            if waiting.changes.iter().all(Option::is_none) {
                return false;
            }
            let last = std::mem::replace(waiting, Waiting::new(now_ms + MEMBERSHIP_EVERY_MS));
            due.push((*slot, last.changes.into_iter().flatten().collect()));
            true
        });
        self.next_ms = self.topics.values().map(|waiting| waiting.due_ms).min();
        due
    }
}

impl Shard {
    /// A session came or went.
    pub(super) fn membership(&mut self, slot: Slot, change: &Arc<MembershipChange>) {
        match self.memberships.take(slot, change, self.now_ms) {
            Ok(true) => self.tell_membership(slot, change),
            Ok(false) => {}
            Err(()) => self.stats.memberships_dropped.add(1),
        }
    }

    /// Tells what waited long enough.
    pub(super) fn tell_memberships(&mut self) {
        for (slot, changes) in self.memberships.due(self.now_ms) {
            for change in changes {
                self.tell_membership(slot, &change);
            }
        }
    }

    /// Sends a change to the members that watch.
    fn tell_membership(&mut self, slot: Slot, change: &MembershipChange) {
        let Some(topic) = self.subscribers.topic(slot) else { return };
        let name = topic.name.clone();
        let force = self.config.namespace(name.namespace()).force_push_join_leave;
        let lanes: Vec<u32> = topic.lanes.clone();
        for lane_id in lanes {
            let Some(lane) = self.subscribers.lane(lane_id) else { continue };
            let Some(frame) = lane.encoding.dialect().membership(&name, change) else { continue };
            let members: Vec<u32> = lane.members().collect();
            let piece = self.outbox.piece(Piece::control(frame));
            for index in members {
                let Some(session) = self.sessions.get_mut(index as usize) else { continue };
                let wants = session.client.as_ref().and_then(|c| c.special(slot)).is_some_and(|s| s.join_leave);
                if force || wants {
                    self.outbox.link(index, &mut session.chain, piece);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::MemberInfo;
    use proptest::prelude::*;

    fn change(client: u8, joined: bool) -> Arc<MembershipChange> {
        let (user, conn_info, chan_info) = (String::new(), Bytes::new(), Bytes::new());
        let info = Arc::new(MemberInfo { user, client: client.to_string(), conn_info, chan_info });
        Arc::new(MembershipChange { joined, info })
    }

    proptest! {
        /// Clients that come and go: whoever watches ends up with those that are there, and is told of a client at most
        /// once each interval.
        #[test]
        fn watchers_end_up_with_who_is_there(steps in prop::collection::vec((0u8..5, 0u64..150), 1..200)) {
            let (mut memberships, mut now_ms) = (Memberships::default(), 0);
            let (mut there, mut seen, mut told) = ([false; 5], [false; 5], [0u64; 5]);
            let mut tell = |change: &MembershipChange, seen: &mut [bool; 5]| {
                let client: usize = change.info.client.parse().unwrap();
                assert_ne!(seen[client], change.joined, "told twice of one coming");
                seen[client] = change.joined;
                told[client] += 1;
            };
            for (client, ms) in steps {
                now_ms += ms;
                for (_, changes) in memberships.due(now_ms) {
                    changes.iter().for_each(|c| tell(c, &mut seen));
                }
                let at = usize::from(client);
                there[at] = !there[at];
                let change = change(client, there[at]);
                if memberships.take(Slot(1), &change, now_ms).unwrap() {
                    tell(&change, &mut seen);
                }
            }
            while let Some(next_ms) = memberships.next_ms() {
                now_ms = next_ms;
                for (_, changes) in memberships.due(now_ms) {
                    changes.iter().for_each(|c| tell(c, &mut seen));
                }
            }
            prop_assert_eq!(there, seen);
            prop_assert!(told.iter().all(|n| *n <= now_ms / MEMBERSHIP_EVERY_MS + 1));
        }
    }

    /// A session that shows something else of its user leaves as what it was and joins as what it is, in this order.
    #[test]
    fn what_others_see_of_a_session_changes_by_a_leave_and_a_join() {
        let shown = |joined, info: &'static str| {
            let other = change(1, joined);
            let info = MemberInfo { conn_info: Bytes::from_static(info.as_bytes()), ..(*other.info).clone() };
            Arc::new(MembershipChange { joined, info: Arc::new(info) })
        };
        let mut memberships = Memberships::default();
        assert_eq!(memberships.take(Slot(1), &shown(true, "1"), 0), Ok(true));
        for next in [shown(false, "1"), change(2, true), shown(true, "2"), change(2, false)] {
            assert_eq!(memberships.take(Slot(1), &next, 10), Ok(false));
        }
        let due = memberships.due(MEMBERSHIP_EVERY_MS);
        let told: Vec<_> = due[0].1.iter().map(|c| (c.joined, c.info.conn_info.clone())).collect();
        assert_eq!(told, [(false, "1".into()), (true, "2".into())]);
    }

    /// One that unsubscribes and subscribes at once was never away.
    #[test]
    fn a_member_that_is_back_in_a_moment_has_not_left() {
        let mut memberships = Memberships::default();
        for (joined, ms) in [(false, 0), (true, 20), (false, 50), (true, 100)] {
            assert_eq!(memberships.take(Slot(1), &change(1, joined), ms), Ok(false));
        }
        assert!(memberships.due(MEMBERSHIP_EVERY_MS).is_empty());
        assert_eq!(memberships.take(Slot(1), &change(1, false), 1_000), Ok(false));
        let due = memberships.due(1_000 + MEMBERSHIP_EVERY_MS);
        assert_eq!(due[0].1.iter().map(|c| c.joined).collect::<Vec<_>>(), [false], "it is gone after all");
    }

    #[test]
    fn a_topic_is_told_nothing_of_the_one_that_had_its_number() {
        let mut memberships = Memberships::default();
        assert_eq!(memberships.take(Slot(1), &change(0, true), 0), Ok(true));
        assert_eq!(memberships.take(Slot(1), &change(1, true), 10), Ok(false));
        memberships.forget(Slot(1));
        assert_eq!(memberships.take(Slot(1), &change(2, true), 20), Ok(true), "another topic, and quiet");
        assert!(memberships.due(20 + MEMBERSHIP_EVERY_MS).is_empty());
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut memberships = Memberships::default();
        let name = |n: usize| {
            let (user, conn_info, chan_info) = (String::new(), Bytes::new(), Bytes::new());
            let info = Arc::new(MemberInfo { user, client: n.to_string(), conn_info, chan_info });
            Arc::new(MembershipChange { joined: true, info })
        };
        assert_eq!(memberships.take(Slot(1), &name(0), 0), Ok(true));
        let kept = (1..5_000).filter(|n| memberships.take(Slot(1), &name(*n), 0).is_ok()).count();
        assert_eq!(kept, MEMBERSHIP_WAITING_MAX);
    }
}
