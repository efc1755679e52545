//! A session's side of its subscriptions: its groups, and its position if it lags.

use smallvec::SmallVec;
use thin_vec::ThinVec;

use super::groups::Subscription;
use super::topics::TopicTable;
use crate::accounts::allocated;
use crate::hub::cursor::Cursor;
use crate::hub::index::{GroupId, PendingId};
use crate::topic::Slot;

/// The subscriptions of one session.
#[derive(Debug, Default)]
pub(in crate::hub) struct Subscriptions {
    /// In order of their groups. Two fit without an allocation.
    pub(in crate::hub) list: SmallVec<[Subscription; 2]>,
    /// Subscriptions behind their group, or ahead of it. The session does not get these groups' frames.
    pub(in crate::hub) lagging: ThinVec<Lagging>,
}

/// A lagging subscription: its session is not at its group's position, and must catch up.
#[derive(Debug, Clone, Copy)]
pub(in crate::hub) struct Lagging {
    pub(in crate::hub) subscription: Subscription,
    /// The session's position.
    pub(in crate::hub) cursor: Cursor,
    /// A state or a replay was requested to catch it up.
    pub(in crate::hub) awaiting: bool,
    /// The snapshot command that waits until a stream's replay has been sent.
    pub(in crate::hub) snapshot: Option<PendingId>,
}

impl Lagging {
    pub(in crate::hub) fn new(subscription: Subscription, cursor: Cursor) -> Self {
        Self { subscription, cursor, awaiting: false, snapshot: None }
    }
}

impl Subscriptions {
    pub(in crate::hub) fn len(&self) -> usize {
        self.list.len()
    }

    pub(in crate::hub) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(in crate::hub) fn get(&self, at: usize) -> Option<Subscription> {
        self.list.get(at).copied()
    }

    /// Adds a new subscription.
    pub(in crate::hub) fn add(&mut self, subscription: Subscription) {
        let at = self.list.partition_point(|s| s.group < subscription.group);
        self.list.insert(at, subscription);
    }

    /// Changes a subscription's place.
    pub(in crate::hub) fn moved(&mut self, from: Subscription, to: Subscription) {
        if let Some(at) = self.place_of(from.group)
            && let Some(place) = self.list.get_mut(at).filter(|s| **s == from)
        {
            if from.group == to.group {
                *place = to;
            } else {
                self.list.remove(at);
                self.add(to);
            }
        }
        for lagging in self.lagging.iter_mut().filter(|l| l.subscription == from) {
            lagging.subscription = to;
        }
    }

    /// The index of the subscription to a group in the list.
    pub(in crate::hub) fn place_of(&self, group: GroupId) -> Option<usize> {
        self.list.binary_search_by_key(&group, |s| s.group).ok()
    }

    /// The index of the subscription to a topic in the list.
    pub(in crate::hub) fn place_in(&self, topics: &TopicTable, topic: Slot) -> Option<usize> {
        topics.topic(topic)?.groups.iter().find_map(|group| self.place_of(*group))
    }

    /// The index of a subscription among those that lag.
    pub(in crate::hub) fn lagging_at(&self, subscription: Subscription) -> Option<usize> {
        self.lagging.iter().position(|l| l.subscription == subscription)
    }

    /// Notes that deliveries of a topic were not sent. The session was at `from` before the first of them; later frames
    /// may have advanced it.
    pub(in crate::hub) fn fall_behind(&mut self, topics: &mut TopicTable, topic: Slot, from: Cursor) {
        let Some(subscription) = self.place_in(topics, topic).and_then(|at| self.get(at)) else { return };
        match self.lagging_at(subscription).and_then(|at| self.lagging.get_mut(at)) {
            None => {
                self.lagging.push(Lagging::new(subscription, from));
                topics.set_lagging(subscription, true);
            }
            // The subscription starts over: its earlier position does not count.
            Some(lagging) if from == Cursor::NOWHERE => lagging.cursor = from,
            Some(lagging) if lagging.cursor != Cursor::NOWHERE && from.seq < lagging.cursor.seq => {
                lagging.cursor = from;
            }
            Some(_) => {}
        }
    }

    /// Notes that the session gets a frame that sets its position in a topic, whatever it missed before.
    pub(in crate::hub) fn advance(&mut self, topics: &TopicTable, topic: Slot, to: Cursor) {
        let Some(subscription) = self.place_in(topics, topic).and_then(|at| self.get(at)) else { return };
        if let Some(lagging) = self.lagging_at(subscription).and_then(|at| self.lagging.get_mut(at))
            && lagging.cursor != Cursor::NOWHERE
            && lagging.cursor.seq < to.seq
        {
            lagging.cursor = to;
        }
    }

    /// Bytes of memory outside the session's entry.
    pub(in crate::hub) fn bytes(&self) -> usize {
        let spilled = if self.list.spilled() { self.list.capacity() } else { 0 };
        allocated(spilled * size_of::<Subscription>()) + allocated(self.lagging.capacity() * size_of::<Lagging>())
    }
}
