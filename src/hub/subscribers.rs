//! Who in this shard wants what: topics in slots, and in each topic lanes of subscribers that are served alike.
//!
//! A lane is the subscribers of one topic with one encoding and one rate: what one of them gets, all get, so that it
//! is framed, conflated and gathered once for all. Knows no sockets.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;

use super::event::SessionKey;
use crate::accounts::allocated;
use crate::config::Class;
use crate::limits::{ATTACH_WINDOW, CONFLATE_WINDOW, CONFLATE_WINDOW_BYTES};
use crate::name::TopicName;
use crate::position::Offset;
use crate::protocol::Encoding;
use crate::topic::{Delta, Slot};

/// Entries that a list keeps room for, however few there are.
pub(super) const SHRINK_FROM: usize = 1_024;

/// No index.
pub(super) const NONE: u32 = u32::MAX;

/// Marks a member that the lane's frames pass by, because it stands elsewhere.
const HELD: u32 = 1 << 31;

// Session indices are far below it: descriptors are counted in an `i32`.
const _: () = assert!(HELD > i32::MAX as u32);

/// How far somebody is in a topic. The sequence counts the deltas that this shard has seen, so that the difference
/// of two tells how many deltas one frame stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) offset: Offset,
    pub(super) seq: u64,
}

impl Cursor {
    /// Nowhere: only the whole state helps.
    pub(super) const NOWHERE: Self = Self { offset: Offset::ZERO, seq: u64::MAX };
}

/// What its namespace says of a topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traits {
    pub(super) class: Class,
    pub(super) flush_ms: u16,
}

/// A topic in this shard.
pub(super) struct TopicSlot {
    pub(super) name: TopicName,
    pub(super) class: Class,
    /// How long after a session's last visit its deltas may wait for others.
    pub(super) flush_ms: u16,
    pub(super) lanes: Vec<u32>,
    /// The newest delta that has come out of the queue.
    pub(super) last: Cursor,
    /// Recent deltas, for those who are behind.
    pub(super) ring: VecDeque<Arc<Delta>>,
    /// Bytes of payload in it.
    pub(super) ring_bytes: usize,
    /// Bytes of its state, or of missed deltas, when they were last asked for.
    pub(super) answered_bytes: usize,
    /// When the last delta came, by the shard's clock.
    pub(super) moved_ms: u64,
    /// Members that are held, and lanes with something pending: while there are any, the ring is kept.
    pub(super) behind: u32,
    /// Subscribes under way: while there are any, the ring is kept whole.
    pub(super) waiting: u32,
    /// The control plane was told that nobody here wants it any more.
    pub(super) detached: bool,
}

impl TopicSlot {
    /// Keeps a delta, within the bounds on what is kept.
    pub(super) fn keep(&mut self, delta: Arc<Delta>) {
        self.ring_bytes += delta.payload.bytes().len();
        self.ring.push_back(delta);
        // Who is subscribing needs all of it.
        let (deltas, bytes) = match self.waiting {
            0 => (CONFLATE_WINDOW, CONFLATE_WINDOW_BYTES),
            _ => (ATTACH_WINDOW, usize::MAX),
        };
        while self.ring.len() > deltas || (self.ring_bytes > bytes && self.ring.len() > 1) {
            if let Some(gone) = self.ring.pop_front() {
                self.ring_bytes = self.ring_bytes.saturating_sub(gone.payload.bytes().len());
            }
        }
    }

    /// Lets go of all of them.
    pub(super) fn clear_ring(&mut self) {
        self.ring.clear();
        self.ring_bytes = 0;
    }
}

/// Whether a lane's frames are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// They are not.
    #[default]
    Plain,
    /// Each by itself.
    Deflate,
    /// Those of a tick as one.
    DeflateRuns,
}

/// Subscribers of one topic that are served alike.
pub(super) struct Lane {
    pub(super) slot: Slot,
    pub(super) encoding: Encoding,
    pub(super) form: Form,
    /// Whether its members do not hold the delta before the next one. Of the lanes with delta compression and no rate
    /// there are two: who comes, or was brought on by something else than the deltas themselves, is in the fresh one
    /// until it has got a whole delta.
    pub(super) fresh: bool,
    /// Delta compression with a rate: the data that all members hold.
    pub(super) base: Option<Bytes>,
    /// Least time between two deliveries; 0 is none.
    pub(super) interval_ms: u64,
    members: Vec<u32>,
    /// Throttled: what the members have.
    pub(super) sent: Cursor,
    /// Throttled: when the next delivery may go.
    pub(super) due_ms: u64,
    /// Throttled: there is something to deliver.
    pub(super) pending: bool,
    /// A snapshot was asked for, because no patch can say what is pending.
    pub(super) awaiting: bool,
    /// This tick's run, or [`NONE`].
    pub(super) run: u32,
    /// Sessions that joined while something was pending; they stand ahead of the lane until it delivers.
    pub(super) joiners: Vec<SessionKey>,
}

/// A session's end of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subscription {
    pub(super) lane: u32,
    pos: u32,
}

/// All topics and lanes of a shard.
#[derive(Default)]
pub(super) struct Subscribers {
    slots: Slab<TopicSlot>,
    lanes: Slab<Lane>,
    by_name: HashMap<TopicName, Slot>,
    /// Bytes of the topics' names and of the lists of members.
    listed_bytes: usize,
}

/// Bytes of memory of a topic's name: two counts and the text.
fn name_bytes(name: &TopicName) -> usize {
    allocated(2 * size_of::<usize>() + name.as_str().len())
}

fn index(slot: Slot) -> usize {
    slot.0 as usize
}

impl Subscribers {
    /// The slot of a topic, made if need be.
    pub(super) fn slot(&mut self, name: &TopicName, traits: impl FnOnce() -> Traits) -> Slot {
        if let Some(slot) = self.by_name.get(name.as_str()) {
            return *slot;
        }
        let Traits { class, flush_ms } = traits();
        self.listed_bytes += name_bytes(name);
        let at = self.slots.insert(TopicSlot {
            name: name.clone(),
            class,
            flush_ms,
            lanes: Vec::new(),
            last: Cursor::default(),
            ring: VecDeque::new(),
            ring_bytes: 0,
            answered_bytes: 0,
            moved_ms: 0,
            behind: 0,
            waiting: 0,
            detached: false,
        });
        let slot = Slot(u32::try_from(at).unwrap_or(NONE));
        self.by_name.insert(name.clone(), slot);
        slot
    }

    /// The slot of a topic, if there is one.
    pub(super) fn find(&self, name: &TopicName) -> Option<Slot> {
        self.by_name.get(name.as_str()).copied()
    }

    pub(super) fn topic(&self, slot: Slot) -> Option<&TopicSlot> {
        self.slots.get(index(slot))
    }

    pub(super) fn topic_mut(&mut self, slot: Slot) -> Option<&mut TopicSlot> {
        self.slots.get_mut(index(slot))
    }

    pub(super) fn lane(&self, lane: u32) -> Option<&Lane> {
        self.lanes.get(lane as usize)
    }

    /// A lane and its topic.
    pub(super) fn lane_and_topic(&mut self, lane: u32) -> Option<(&mut Lane, &mut TopicSlot)> {
        let lane = self.lanes.get_mut(lane as usize)?;
        let topic = self.slots.get_mut(index(lane.slot))?;
        Some((lane, topic))
    }

    /// A topic and the lanes of the shard.
    pub(super) fn topic_and_lanes(&mut self, slot: Slot) -> Option<(&mut TopicSlot, &mut Slab<Lane>)> {
        Some((self.slots.get_mut(index(slot))?, &mut self.lanes))
    }

    /// Topics that fit, and how many are subscribed to each.
    pub(super) fn census(&self, fits: &dyn Fn(&str) -> bool, max: usize) -> Vec<(TopicName, u64)> {
        let wanted = self.slots.iter().map(|(_, topic)| topic);
        let wanted = wanted.filter(|topic| !topic.lanes.is_empty() && fits(topic.name.as_str()));
        let count = |topic: &TopicSlot| {
            let lanes = topic.lanes.iter().filter_map(|l| self.lanes.get(*l as usize));
            lanes.map(|lane| lane.len() as u64).sum()
        };
        wanted.take(max).map(|topic| (topic.name.clone(), count(topic))).collect()
    }

    pub(super) fn topics(&self) -> usize {
        self.slots.len()
    }

    /// Puts a session into the lane of this topic, encoding and interval.
    pub(super) fn join(
        &mut self,
        session: u32,
        slot: Slot,
        encoding: Encoding,
        form: Form,
        interval_ms: u64,
    ) -> Option<Subscription> {
        self.enter(session, slot, encoding, form, interval_ms, encoding.is_fossil() && interval_ms == 0)
    }

    /// Members of a fresh lane that have just got a whole delta go on in the other; returns who, from where to where.
    /// Those that are held stay.
    pub(super) fn graduate(&mut self, lane_id: u32, mut moved: impl FnMut(u32, Subscription, Subscription)) {
        let Some(lane) = self.lanes.get(lane_id as usize).filter(|lane| lane.fresh) else { return };
        let (slot, encoding, form) = (lane.slot, lane.encoding, lane.form);
        let mut pos = lane.members.len();
        // From the back: who leaves is replaced by the last, which was looked at already.
        while pos > 0 {
            pos -= 1;
            let Some(member) = self.lanes.get(lane_id as usize).and_then(|l| l.members.get(pos)).copied() else {
                return;
            };
            if member & HELD != 0 {
                continue;
            }
            let Some(to) = self.enter(member, slot, encoding, form, 0, false) else { return };
            let from = Subscription { lane: lane_id, pos: u32::try_from(pos).unwrap_or(NONE) };
            let (swapped, _) = self.leave(from);
            moved(member, from, to);
            if let Some(swapped) = swapped {
                moved(swapped.session, swapped.from, swapped.to);
            }
        }
    }

    /// Moves a member that holds something else than its lane's last delta to the fresh lane of its kind. Returns where
    /// it is then, and who took its place.
    pub(super) fn refresh(&mut self, subscription: Subscription) -> (Subscription, Option<Moved>) {
        let Some(lane) = self.lanes.get_mut(subscription.lane as usize) else { return (subscription, None) };
        lane.base = None;
        if !lane.encoding.is_fossil() || lane.interval_ms > 0 || lane.fresh {
            return (subscription, None);
        }
        let (slot, encoding, form) = (lane.slot, lane.encoding, lane.form);
        let Some(member) = lane.members.get(subscription.pos as usize).copied() else { return (subscription, None) };
        let Some(to) = self.enter(member, slot, encoding, form, 0, true) else { return (subscription, None) };
        (to, self.leave(subscription).0)
    }

    fn enter(
        &mut self,
        session: u32,
        slot: Slot,
        encoding: Encoding,
        form: Form,
        interval_ms: u64,
        fresh: bool,
    ) -> Option<Subscription> {
        let topic = self.slots.get_mut(index(slot))?;
        let same = |lane: &Lane| {
            lane.encoding == encoding && lane.form == form && lane.interval_ms == interval_ms && lane.fresh == fresh
        };
        let found = topic.lanes.iter().copied().find(|l| self.lanes.get(*l as usize).is_some_and(same));
        let lane_id = match found {
            Some(id) => id,
            None => {
                let id = self.lanes.insert(Lane {
                    slot,
                    encoding,
                    form,
                    fresh,
                    base: None,
                    interval_ms,
                    members: Vec::new(),
                    sent: topic.last,
                    due_ms: 0,
                    pending: false,
                    awaiting: false,
                    run: NONE,
                    joiners: Vec::new(),
                });
                let id = u32::try_from(id).unwrap_or(NONE);
                topic.lanes.push(id);
                id
            }
        };
        let lane = self.lanes.get_mut(lane_id as usize)?;
        lane.base = None;
        let pos = u32::try_from(lane.members.len()).unwrap_or(NONE);
        let room = lane.members.capacity();
        lane.members.push(session);
        self.listed_bytes += (lane.members.capacity() - room) * size_of::<u32>();
        Some(Subscription { lane: lane_id, pos })
    }

    /// Takes a member out of its lane. Returns the session whose position changed by that, and the topic's slot if
    /// nobody here wants it any more.
    pub(super) fn leave(&mut self, subscription: Subscription) -> (Option<Moved>, Option<Slot>) {
        let Subscription { lane: lane_id, pos } = subscription;
        let Some(lane) = self.lanes.get_mut(lane_id as usize) else { return (None, None) };
        let slot = lane.slot;
        if pos as usize >= lane.members.len() {
            return (None, None);
        }
        let gone = lane.members.swap_remove(pos as usize);
        let moved = lane.members.get(pos as usize).map(|member| Moved {
            session: member & !HELD,
            from: Subscription { lane: lane_id, pos: u32::try_from(lane.members.len()).unwrap_or(NONE) },
            to: subscription,
        });
        let Some(topic) = self.slots.get_mut(index(slot)) else { return (moved, None) };
        if gone & HELD != 0 {
            topic.behind = topic.behind.saturating_sub(1);
        }
        if lane.members.is_empty() {
            if lane.pending {
                topic.behind = topic.behind.saturating_sub(1);
            }
            topic.lanes.retain(|l| *l != lane_id);
            self.listed_bytes -= lane.members.capacity() * size_of::<u32>();
            self.lanes.remove(lane_id as usize);
        } else if lane.members.len() * 4 < lane.members.capacity() {
            let room = lane.members.capacity();
            lane.members.shrink_to(lane.members.len() * 2);
            self.listed_bytes -= (room - lane.members.capacity()) * size_of::<u32>();
        }
        (moved, self.unwanted(slot))
    }

    /// `slot` if nobody here wants it any more; it is then marked and its name is free for a new slot.
    pub(super) fn unwanted(&mut self, slot: Slot) -> Option<Slot> {
        let topic = self.slots.get_mut(index(slot))?;
        if topic.detached || topic.waiting > 0 || !topic.lanes.is_empty() {
            return None;
        }
        topic.detached = true;
        topic.clear_ring();
        topic.ring = VecDeque::new();
        if self.by_name.get(topic.name.as_str()) == Some(&slot) {
            self.by_name.remove(topic.name.as_str());
        }
        Some(slot)
    }

    /// The control plane will send nothing more about `slot`.
    pub(super) fn free(&mut self, slot: Slot) {
        if self.slots.get(index(slot)).is_some_and(|t| t.detached) {
            let topic = self.slots.remove(index(slot));
            self.listed_bytes -= name_bytes(&topic.name);
        }
    }

    /// Bytes of memory, kept deltas apart.
    pub(super) fn bytes(&self) -> usize {
        // A list of one lane, and a ring that was empty once, have room for some.
        let topic = size_of::<TopicSlot>() + 2 * size_of::<usize>() + 16;
        let lane = size_of::<Lane>() + size_of::<usize>();
        let name = size_of::<(TopicName, Slot)>() + 1;
        self.slots.len() * topic + self.lanes.len() * lane + self.by_name.capacity() * name * 8 / 7 + self.listed_bytes
    }

    /// Gives back room that nothing is in. To be called once in a while.
    pub(super) fn shrink(&mut self) {
        if self.by_name.len() * 4 < self.by_name.capacity() && self.by_name.capacity() > SHRINK_FROM {
            self.by_name.shrink_to(self.by_name.len() * 2);
        }
        if self.slots.len() * 4 < self.slots.capacity() && self.slots.capacity() > SHRINK_FROM {
            self.slots.shrink_to_fit();
        }
        if self.lanes.len() * 4 < self.lanes.capacity() && self.lanes.capacity() > SHRINK_FROM {
            self.lanes.shrink_to_fit();
        }
    }

    /// Sets or clears the mark that lets the lane's frames pass a member by. `true` if it changed.
    pub(super) fn hold(&mut self, subscription: Subscription, held: bool) -> bool {
        let Some(lane) = self.lanes.get_mut(subscription.lane as usize) else { return false };
        let Some(member) = lane.members.get_mut(subscription.pos as usize) else { return false };
        if (*member & HELD != 0) == held {
            return false;
        }
        *member ^= HELD;
        if let Some(topic) = self.slots.get_mut(index(lane.slot)) {
            topic.behind = if held { topic.behind + 1 } else { topic.behind.saturating_sub(1) };
        }
        true
    }

    /// Whether the lane's frames pass this member by.
    #[cfg(test)]
    fn is_held(&self, subscription: Subscription) -> bool {
        let lane = self.lanes.get(subscription.lane as usize);
        lane.and_then(|l| l.members.get(subscription.pos as usize)).is_some_and(|m| m & HELD != 0)
    }
}

impl Lane {
    /// Members that the lane's frames go to.
    pub(super) fn receivers(&self) -> impl Iterator<Item = u32> {
        self.members.iter().copied().filter(|m| m & HELD == 0)
    }

    /// Members that the lane's frames pass by.
    pub(super) fn held(&self) -> impl Iterator<Item = u32> {
        self.members.iter().filter(|m| **m & HELD != 0).map(|m| m & !HELD)
    }

    /// All members.
    pub(super) fn members(&self) -> impl Iterator<Item = u32> {
        self.members.iter().map(|m| m & !HELD)
    }

    /// How many there are, held ones too.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }
}

/// A session whose subscription stands elsewhere now.
pub(super) struct Moved {
    pub(super) session: u32,
    pub(super) from: Subscription,
    pub(super) to: Subscription,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(n: u8) -> TopicName {
        TopicName::new(&format!("t:{n}")).unwrap()
    }

    proptest! {
        /// Against a model: whatever is joined, left, held and released in whatever order, every session's
        /// subscriptions point at itself, and topics without members are reported once.
        #[test]
        fn positions_stay_true(ops in prop::collection::vec((0u8..4, 0u32..8, 0u8..3, 0u64..2), 0..200)) {
            let mut subscribers = Subscribers::default();
            let mut sessions: HashMap<u32, Vec<(u8, Subscription, bool)>> = HashMap::new();
            for (op, session, topic, rate) in ops {
                let held_subs = sessions.entry(session).or_default();
                match op {
                    0 if !held_subs.iter().any(|(t, ..)| *t == topic) => {
                        let slot = subscribers.slot(&name(topic), || Traits { class: Class::Latest, flush_ms: 0 });
                        let subscription = subscribers.join(session, slot, Encoding::Plain, Form::Plain, rate * 100).unwrap();
                        sessions.get_mut(&session).unwrap().push((topic, subscription, false));
                    }
                    1 => {
                        if let Some(at) = held_subs.iter().position(|(t, ..)| *t == topic) {
                            let (_, subscription, _) = held_subs.swap_remove(at);
                            let (moved, unwanted) = subscribers.leave(subscription);
                            if let Some(moved) = moved {
                                for (_, s, _) in sessions.get_mut(&moved.session).unwrap() {
                                    if *s == moved.from { *s = moved.to; }
                                }
                            }
                            let left = sessions.values().flatten().any(|(t, ..)| *t == topic);
                            prop_assert_eq!(unwanted.is_some(), !left);
                            if let Some(slot) = unwanted { subscribers.free(slot); }
                        }
                    }
                    _ => {
                        if let Some((_, s, held)) = held_subs.iter_mut().find(|(t, ..)| *t == topic) {
                            prop_assert_eq!(subscribers.hold(*s, op == 2), *held != (op == 2));
                            *held = op == 2;
                        }
                    }
                }
                for (session, subs) in &sessions {
                    for (topic, s, held) in subs {
                        let lane = subscribers.lane(s.lane).unwrap();
                        prop_assert_eq!(lane.members[s.pos as usize] & !HELD, *session);
                        prop_assert_eq!(subscribers.is_held(*s), *held);
                        prop_assert_eq!(&subscribers.topic(lane.slot).unwrap().name, &name(*topic));
                    }
                }
                let held = sessions.values().flatten().filter(|(.., held)| *held).count();
                let behind: u32 = (0..3).filter_map(|t| subscribers.find(&name(t))).map(|s| subscribers.topic(s).unwrap().behind).sum();
                prop_assert_eq!(behind as usize, held);
            }
        }
    }
}
