//! The last deltas of a topic, bounded by number, bytes and age, for recovery. What all topics keep together is bounded
//! too, and then the oldest go before their time.

use std::collections::VecDeque;
use std::sync::Arc;

use super::delta::{Delta, Keep};
use crate::config::Namespace;
use crate::position::Offset;

/// Kept deltas, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    deltas: VecDeque<Kept>,
    /// Of payload.
    bytes: usize,
    /// Of memory, as far as was looked.
    weight: usize,
    /// Everything after this offset is here.
    floor: Offset,
}

#[derive(Debug)]
struct Kept {
    delta: Keep<Delta>,
    /// Its part of the history's weight.
    weight: u32,
}

impl Kept {
    fn new(delta: Keep<Delta>) -> Self {
        let weight = Self::weight(&delta);
        Self { delta, weight }
    }

    fn weight(delta: &Delta) -> u32 {
        u32::try_from(delta.weight() + size_of::<Self>()).unwrap_or(u32::MAX)
    }
}

impl History {
    /// Nothing kept; everything up to `floor` is gone.
    pub(super) fn from_floor(floor: Offset) -> Self {
        Self { floor, ..Self::default() }
    }

    /// Everything after this offset is here.
    pub(super) fn floor(&self) -> Offset {
        self.floor
    }

    /// Keeps `delta`, letting go of what is over the bounds.
    pub(super) fn push(&mut self, delta: Keep<Delta>, options: &Namespace) {
        self.bytes += delta.payload.bytes().len();
        let now_ms = delta.taken_ms;
        let kept = Kept::new(delta);
        self.weight += kept.weight as usize;
        self.deltas.push_back(kept);
        while self.deltas.len() > options.history_size || (self.bytes > options.history_bytes && self.deltas.len() > 1)
        {
            self.pop();
        }
        self.expire(now_ms, options);
    }

    /// Removes what is before `offset`. Returns how many went.
    pub(super) fn remove_before(&mut self, offset: Offset) -> usize {
        let before = self.deltas.len();
        while self.deltas.front().is_some_and(|kept| kept.delta.offset < offset) {
            self.pop();
        }
        before - self.deltas.len()
    }

    /// What is kept up to `after` does not join up with what comes later.
    pub(super) fn lose(&mut self, after: Offset) {
        self.remove_before(after.next());
        self.floor = self.floor.max(after);
        if self.deltas.is_empty() {
            *self = Self::from_floor(self.floor);
        }
    }

    /// Lets go of what is too old.
    pub(super) fn expire(&mut self, now_ms: u64, options: &Namespace) {
        let ttl_ms = u64::try_from(options.history_ttl.as_millis()).unwrap_or(u64::MAX);
        while self.deltas.front().is_some_and(|kept| now_ms.saturating_sub(kept.delta.taken_ms) > ttl_ms) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(gone) = self.deltas.pop_front() {
            self.bytes = self.bytes.saturating_sub(gone.delta.payload.bytes().len());
            self.weight = self.weight.saturating_sub(gone.weight as usize);
            self.floor = gone.delta.offset;
        }
    }

    /// Lets go of the oldest until it weighs no more than this. Returns how many went.
    pub(super) fn shrink_to(&mut self, weight: usize) -> usize {
        let before = self.deltas.len();
        while self.weight > weight && !self.deltas.is_empty() {
            self.pop();
        }
        if self.deltas.len() < self.deltas.capacity() / 4 {
            self.deltas.shrink_to(self.deltas.len() * 2);
        }
        before - self.deltas.len()
    }

    /// Frames were made of deltas after `offset`.
    pub(super) fn weigh(&mut self, offset: Offset) {
        // From the newest, which is the only one as a rule: a search would look at deltas that are in no cache any
        // more.
        for kept in self.deltas.iter_mut().rev().take_while(|kept| kept.delta.offset > offset) {
            let weight = Kept::weight(&kept.delta);
            self.weight += weight as usize - kept.weight as usize;
            kept.weight = weight;
        }
    }

    /// Bytes of memory.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// What [`History::weight`] must be.
    #[cfg(test)]
    pub(super) fn true_weight(&self) -> usize {
        self.deltas.iter().map(|kept| Kept::weight(&kept.delta) as usize).sum()
    }

    /// Every delta after `offset`, if all of them are still here.
    pub(super) fn since(&self, offset: Offset) -> Option<impl Iterator<Item = &Arc<Delta>>> {
        let from = self.deltas.partition_point(|kept| kept.delta.offset <= offset);
        (offset >= self.floor).then(|| self.deltas.range(from..).map(|kept| &*kept.delta))
    }

    /// Whether a delta of this offset was here, as far as that can be told.
    pub(super) fn had(&self, offset: Offset) -> bool {
        offset == self.floor || self.deltas.binary_search_by_key(&offset, |kept| kept.delta.offset).is_ok()
    }

    /// The position before the last `count` deltas; `None` for none.
    pub(super) fn before_last(&self, count: usize) -> Option<Offset> {
        let first = self.deltas.len().saturating_sub(count.min(self.deltas.len()));
        match (count, first.checked_sub(1)) {
            (0, _) => None,
            (_, None) => Some(self.floor),
            (_, Some(before)) => self.deltas.get(before).map(|kept| kept.delta.offset),
        }
    }

    /// The last `count` deltas.
    pub(super) fn last(&self, count: usize) -> impl Iterator<Item = &Arc<Delta>> {
        self.deltas.range(self.deltas.len().saturating_sub(count)..).map(|kept| &*kept.delta)
    }

    /// How many are kept.
    pub(super) fn len(&self) -> usize {
        self.deltas.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::testing::{publish, topic};
    use super::*;
    use crate::config::Class;

    #[test]
    fn history_is_bounded_by_bytes_and_age() {
        let options = Namespace { history_bytes: 10, ..Namespace::default() };
        let mut history = History::from_floor(Offset::ZERO);
        let mut topic = topic(Class::Stream);
        for _ in 0..4 {
            history.push(Keep::new(publish(&mut topic, "12345")), &options);
        }
        assert_eq!(history.len(), 2);
        assert!(history.since(Offset::new(1).unwrap()).is_none());
        assert_eq!(history.since(Offset::new(2).unwrap()).unwrap().count(), 2);
        history.expire(301_000, &options);
        assert_eq!(history.len(), 0);
        assert!(history.since(Offset::new(3).unwrap()).is_none());
        assert_eq!(history.since(Offset::new(4).unwrap()).unwrap().count(), 0);
    }
}
