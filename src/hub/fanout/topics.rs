//! The topics that sessions of this shard subscribe to, each in a slot, with its groups.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use slab::Slab;

use super::groups::Group;
use crate::accounts::allocated;
use crate::config::Class;
use crate::hub::cursor::Cursor;
use crate::hub::index::{GroupId, SHRINK_FROM};
use crate::limits::{ATTACH_WINDOW, CONFLATE_WINDOW, CONFLATE_WINDOW_BYTES, STATE_BYTES_PER_MISSED};
use crate::name::TopicName;
use crate::topic::{Delta, Slot};

/// Settings of a topic's namespace.
#[derive(Debug, Clone, Copy)]
pub(in crate::hub) struct Traits {
    pub(in crate::hub) class: Class,
    pub(in crate::hub) flush_ms: u16,
}

/// A topic in this shard.
pub(in crate::hub) struct TopicEntry {
    pub(in crate::hub) name: TopicName,
    pub(in crate::hub) class: Class,
    /// How long after a session's last write its deltas may wait to be coalesced, ms.
    pub(in crate::hub) flush_ms: u16,
    pub(in crate::hub) groups: Vec<GroupId>,
    /// The newest delta that was taken from the queue.
    pub(in crate::hub) last: Cursor,
    /// Recent deltas, for lagging subscriptions.
    pub(in crate::hub) recent: VecDeque<Arc<Delta>>,
    /// Bytes of their payloads.
    pub(in crate::hub) recent_bytes: usize,
    /// Bytes of its state, or of missed deltas, at the last request.
    pub(in crate::hub) answered_bytes: usize,
    /// When the last delta came, in the shard's time.
    pub(in crate::hub) moved_ms: u64,
    /// Number of lagging members and of groups with something pending. Recent deltas are kept unless it is 0.
    pub(in crate::hub) lagging: u32,
    /// Number of subscribes in progress. All recent deltas are kept unless it is 0.
    pub(in crate::hub) subscribing: u32,
    /// The control plane was informed that no session of this shard needs it any more.
    pub(in crate::hub) detached: bool,
}

impl TopicEntry {
    /// Keeps a delta, within the limits on kept deltas.
    pub(in crate::hub) fn keep(&mut self, delta: Arc<Delta>) {
        self.recent_bytes += delta.payload.bytes().len();
        self.recent.push_back(delta);
        // A subscribe in progress needs all of them.
        let (deltas, bytes) = match self.subscribing {
            0 => (CONFLATE_WINDOW, CONFLATE_WINDOW_BYTES),
            _ => (ATTACH_WINDOW, usize::MAX),
        };
        while self.recent.len() > deltas || (self.recent_bytes > bytes && self.recent.len() > 1) {
            if let Some(gone) = self.recent.pop_front() {
                self.recent_bytes = self.recent_bytes.saturating_sub(gone.payload.bytes().len());
            }
        }
    }

    /// Drops all recent deltas.
    pub(in crate::hub) fn clear_recent(&mut self) {
        self.recent.clear();
        self.recent_bytes = 0;
    }

    /// Bytes that the allowance of a session at `from` is charged for a state of `bytes`. A lagging subscription gets
    /// the state in place of deltas that it would have got anyway, so only the excess over their length is charged.
    pub(in crate::hub) fn charged_bytes(&self, bytes: usize, from: Cursor) -> usize {
        if from == Cursor::NOWHERE {
            return bytes;
        }
        let missed = usize::try_from(self.last.seq.saturating_sub(from.seq)).unwrap_or(usize::MAX);
        let over = bytes.saturating_sub(missed.saturating_mul(STATE_BYTES_PER_MISSED));
        if over == 0 {
            return 0;
        }
        let begin = self.recent.partition_point(|delta| delta.offset <= from.offset);
        let kept = match self.recent.len() - begin == missed {
            true => self.recent.range(begin..).map(|delta| delta.payload.bytes().len()).sum(),
            // Some of the deltas are gone: they were at least as long as those that are kept.
            false => self.recent_bytes,
        };
        over.min(bytes.saturating_sub(kept))
    }
}

/// All topics and groups of a shard.
#[derive(Default)]
pub(in crate::hub) struct TopicTable {
    pub(super) slots: Slab<TopicEntry>,
    pub(super) groups: Slab<Group>,
    by_name: HashMap<TopicName, Slot>,
    /// Bytes of the topics' names and of the lists of members.
    pub(super) listed_bytes: usize,
}

/// Bytes of memory of a topic's name: two counts and the text.
fn name_bytes(name: &TopicName) -> usize {
    allocated(2 * size_of::<usize>() + name.as_str().len())
}

pub(super) fn index(slot: Slot) -> usize {
    slot.0 as usize
}

/// An index as `u32`; lists are shorter than that.
pub(super) fn place(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

impl TopicTable {
    /// The slot of a topic; created if there is none.
    pub(in crate::hub) fn slot(&mut self, name: &TopicName, traits: impl FnOnce() -> Traits) -> Slot {
        if let Some(slot) = self.by_name.get(name.as_str()) {
            return *slot;
        }
        let Traits { class, flush_ms } = traits();
        self.listed_bytes += name_bytes(name);
        let at = self.slots.insert(TopicEntry {
            name: name.clone(),
            class,
            flush_ms,
            groups: Vec::new(),
            last: Cursor::default(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            answered_bytes: 0,
            moved_ms: 0,
            lagging: 0,
            subscribing: 0,
            detached: false,
        });
        let slot = Slot(place(at));
        self.by_name.insert(name.clone(), slot);
        slot
    }

    /// The slot of a topic, if it has one.
    pub(in crate::hub) fn find(&self, name: &TopicName) -> Option<Slot> {
        self.by_name.get(name.as_str()).copied()
    }

    pub(in crate::hub) fn topic(&self, slot: Slot) -> Option<&TopicEntry> {
        self.slots.get(index(slot))
    }

    pub(in crate::hub) fn topic_mut(&mut self, slot: Slot) -> Option<&mut TopicEntry> {
        self.slots.get_mut(index(slot))
    }

    pub(in crate::hub) fn group(&self, group: GroupId) -> Option<&Group> {
        self.groups.get(group.at())
    }

    /// A group and its topic.
    pub(in crate::hub) fn group_and_topic(&mut self, group: GroupId) -> Option<(&mut Group, &mut TopicEntry)> {
        let group = self.groups.get_mut(group.at())?;
        let topic = self.slots.get_mut(index(group.slot))?;
        Some((group, topic))
    }

    /// A topic and the groups of the shard.
    pub(in crate::hub) fn topic_and_groups(&mut self, slot: Slot) -> Option<(&mut TopicEntry, &mut Slab<Group>)> {
        Some((self.slots.get_mut(index(slot))?, &mut self.groups))
    }

    /// Topics for which `fits` is true, with their numbers of subscribers.
    pub(in crate::hub) fn subscriber_counts(&self, fits: &dyn Fn(&str) -> bool, max: usize) -> Vec<(TopicName, u64)> {
        let wanted = self.slots.iter().map(|(_, topic)| topic);
        let wanted = wanted.filter(|topic| !topic.groups.is_empty() && fits(topic.name.as_str()));
        let count = |topic: &TopicEntry| {
            let groups = topic.groups.iter().filter_map(|id| self.groups.get(id.at()));
            groups.map(|group| group.len() as u64).sum()
        };
        wanted.take(max).map(|topic| (topic.name.clone(), count(topic))).collect()
    }

    pub(in crate::hub) fn topics(&self) -> usize {
        self.slots.len()
    }

    /// Returns `slot` if no session of this shard needs it any more. It is then marked, and its name is free for a new
    /// slot.
    pub(in crate::hub) fn unwanted(&mut self, slot: Slot) -> Option<Slot> {
        let topic = self.slots.get_mut(index(slot))?;
        if topic.detached || topic.subscribing > 0 || !topic.groups.is_empty() {
            return None;
        }
        topic.detached = true;
        topic.clear_recent();
        topic.recent = VecDeque::new();
        if self.by_name.get(topic.name.as_str()) == Some(&slot) {
            self.by_name.remove(topic.name.as_str());
        }
        Some(slot)
    }

    /// The control plane will send nothing more for `slot`.
    pub(in crate::hub) fn free(&mut self, slot: Slot) {
        if self.slots.get(index(slot)).is_some_and(|t| t.detached) {
            let topic = self.slots.remove(index(slot));
            self.listed_bytes -= name_bytes(&topic.name);
        }
    }

    /// Bytes of memory, without the kept deltas.
    pub(in crate::hub) fn bytes(&self) -> usize {
        // Lists that had one entry keep a small capacity.
        let topic = size_of::<TopicEntry>() + 2 * size_of::<usize>() + 16;
        let group = size_of::<Group>() + size_of::<usize>();
        let name = size_of::<(TopicName, Slot)>() + 1;
        self.slots.len() * topic
            + self.groups.len() * group
            + self.by_name.capacity() * name * 8 / 7
            + self.listed_bytes
    }

    /// Frees unused memory. Called periodically.
    pub(in crate::hub) fn shrink(&mut self) {
        if self.by_name.len() * 4 < self.by_name.capacity() && self.by_name.capacity() > SHRINK_FROM {
            self.by_name.shrink_to(self.by_name.len() * 2);
        }
        if self.slots.len() * 4 < self.slots.capacity() && self.slots.capacity() > SHRINK_FROM {
            self.slots.shrink_to_fit();
        }
        if self.groups.len() * 4 < self.groups.capacity() && self.groups.capacity() > SHRINK_FROM {
            self.groups.shrink_to_fit();
        }
    }
}
