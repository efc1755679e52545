//! The memory that topics take: each keeps its own account, and all accounts add up to two sums with a ceiling each.
//!
//! The sums are exact: every change of a topic settles its account while it is locked, at the cost of one relaxed
//! addition for each of the two sums that changed. The bytes are an estimate of memory, from above where it matters: a
//! delta with its frames, a member of an object with its place in the tree.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::accounts;
use crate::memory::ResolvedLimits;

/// A `merge` topic's member, beside its text: a key and a value in a tree that is two thirds full.
pub(super) const MEMBER_BYTES: usize = 96;

/// A value of a `latest` topic counts in steps of this, so that one digit more is no growth.
pub(super) const VALUE_STEP_BYTES: usize = 256;

/// A topic's place in the map, which is half full as a rule, and what the allocator adds.
pub(super) const PLACE_BYTES: usize = 64;

/// A published topic's place in the index of names.
pub(super) const INDEX_BYTES: usize = 64;

/// Levels of [`Levels`] in each power of two.
const STEPS: usize = 4;

/// The sums of all topics, and their ceilings.
#[derive(Debug)]
pub(super) struct Sums {
    history: AtomicUsize,
    state: AtomicUsize,
    /// Topics that were never published. They take nothing from the room of published ones.
    unpublished: AtomicUsize,
    history_max: usize,
    state_max: usize,
    /// Of deltas that shards keep and no topic does.
    deltas_max: usize,
    /// History that one topic may have, while all together are near their ceiling.
    level: AtomicUsize,
}

impl Sums {
    /// Nothing there yet.
    pub(super) fn new(limits: &ResolvedLimits) -> Self {
        let bound = |bytes: Option<usize>| bytes.unwrap_or(usize::MAX);
        Self {
            history: AtomicUsize::new(0),
            state: AtomicUsize::new(0),
            unpublished: AtomicUsize::new(0),
            history_max: bound(limits.history_total_bytes),
            state_max: bound(limits.state_total_bytes),
            deltas_max: bound(limits.deltas_total_bytes),
            level: AtomicUsize::new(usize::MAX),
        }
    }

    /// Bytes that can be freed: kept deltas, and snapshots that can be made again.
    pub(super) fn history(&self) -> usize {
        self.history.load(Ordering::Relaxed)
    }

    /// Bytes that cannot be freed.
    pub(super) fn state(&self) -> usize {
        self.state.load(Ordering::Relaxed)
    }

    /// Bytes of topics that were never published.
    pub(super) fn unpublished(&self) -> usize {
        self.unpublished.load(Ordering::Relaxed)
    }

    /// As far as the limit on memory leaves it.
    pub(super) fn history_max(&self) -> usize {
        accounts::ceiling(self.history_max)
    }

    fn deltas_max(&self) -> usize {
        accounts::ceiling(self.deltas_max)
    }

    pub(super) fn state_max(&self) -> usize {
        self.state_max
    }

    /// Bytes of history that may be freed at once. Shards may still hold references to its deltas, which then count in
    /// their account alone: more than that account has room for is freed after they have dropped theirs.
    pub(super) fn may_go(&self) -> usize {
        let room = self.deltas_max() - self.deltas_max() / 16;
        room.saturating_sub(accounts::DELTAS.bytes())
    }

    /// Whether history and the deltas that shards hold fit into both ceilings together.
    pub(super) fn fits(&self) -> bool {
        let both = self.history().saturating_add(accounts::DELTAS.bytes());
        both < self.history_max().saturating_add(self.deltas_max())
    }

    /// Whether there is no room for another topic.
    pub(super) fn is_full(&self) -> bool {
        self.state() >= self.state_max
    }

    /// Whether there is no room for larger states either: topics that are there may grow by an eighth more.
    pub(super) fn is_overfull(&self) -> bool {
        self.state() >= self.state_max.saturating_add(self.state_max / 8)
    }

    /// Bytes of history that a topic may keep that has just grown from `before` bytes to `now`: above the ceiling it
    /// frees as much as it adds, and no other topic is cut before the next sweep.
    pub(super) fn allowance(&self, before: usize, now: usize) -> usize {
        let level = self.level.load(Ordering::Relaxed);
        if self.history() > self.history_max() { level.min(before.min(now)) } else { level }
    }

    /// Sets the most bytes of history that one topic may keep, from the sizes of all. `None` while none needs to free
    /// anything.
    pub(super) fn set_level(&self, levels: &Levels) -> Option<usize> {
        let high = self.history_max() - self.history_max() / 8;
        if self.history() > high {
            let level = levels.fitting(high);
            self.level.store(level, Ordering::Relaxed);
            return Some(level);
        }
        // Doubled step by step, so that the freed history does not come back at once.
        let level = self.level.load(Ordering::Relaxed);
        self.level.store(level.saturating_mul(2), Ordering::Relaxed);
        None
    }
}

/// How many topics have how much history.
pub(super) struct Levels([(usize, usize); STEPS * usize::BITS as usize]);

impl Levels {
    pub(super) fn new() -> Self {
        Self([(0, 0); STEPS * usize::BITS as usize])
    }

    /// The level that `bytes` reach.
    fn of(bytes: usize) -> usize {
        let Some(power) = bytes.checked_ilog2() else { return 0 };
        let step = if power < 2 { 0 } else { (bytes >> (power - 2)) & 3 };
        power as usize * STEPS + step
    }

    /// The least bytes of a level.
    fn floor(level: usize) -> usize {
        let (power, step) = (level / STEPS, level % STEPS);
        if power < 2 { 1 << power } else { (4 + step) << (power - 2) }
    }

    pub(super) fn add(&mut self, bytes: usize) {
        if let Some((count, sum)) = self.0.get_mut(Self::of(bytes)) {
            *count += 1;
            *sum += bytes;
        }
    }

    /// The most bytes that each topic may keep for all of them to have `target` together. Smaller topics keep
    /// everything.
    fn fitting(&self, target: usize) -> usize {
        let (mut smaller, mut larger) = (0usize, self.0.iter().map(|(count, _)| count).sum::<usize>());
        let mut fits = 0;
        for (level, (count, sum)) in self.0.iter().enumerate() {
            let floor = Self::floor(level);
            if smaller.saturating_add(floor.saturating_mul(larger)) > target {
                break;
            }
            fits = floor;
            smaller += sum;
            larger -= count;
        }
        fits
    }
}

/// The memory of one topic. Subtracted from the sums when the topic is dropped.
#[derive(Debug)]
pub(super) struct Account {
    sums: Arc<Sums>,
    history: usize,
    state: usize,
    published: bool,
}

impl Account {
    /// Of a topic that has nothing yet.
    pub(super) fn new(sums: Arc<Sums>) -> Self {
        Self { sums, history: 0, state: 0, published: false }
    }

    pub(super) fn sums(&self) -> &Sums {
        &self.sums
    }

    pub(super) fn history(&self) -> usize {
        self.history
    }

    /// Whether the topic counts among those that were published.
    pub(super) fn is_published(&self) -> bool {
        self.published
    }

    /// The topic counts among those that were published from now on.
    pub(super) fn publish(&mut self) {
        let state = self.state;
        self.settle(self.history, 0);
        self.published = true;
        self.settle(self.history, state);
    }

    /// The topic takes so much now.
    pub(super) fn settle(&mut self, history: usize, state: usize) {
        // A difference below zero wraps around, and so does the sum: together they are right.
        if history != self.history {
            self.sums.history.fetch_add(history.wrapping_sub(self.history), Ordering::Relaxed);
            self.history = history;
        }
        if state != self.state {
            let sum = if self.published { &self.sums.state } else { &self.sums.unpublished };
            sum.fetch_add(state.wrapping_sub(self.state), Ordering::Relaxed);
            self.state = state;
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.settle(0, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Limits;

    /// History that shards still refer to cannot be freed: the part above its ceiling must fit into theirs.
    #[test]
    fn history_and_what_shards_hold_of_it_have_one_bound_together() {
        let limits = ResolvedLimits {
            history_total_bytes: Some(1_000),
            deltas_total_bytes: Some(800),
            ..ResolvedLimits::configured(&Limits::default())
        };
        let sums = Arc::new(Sums::new(&limits));
        let mut account = Account::new(sums.clone());
        for (history, held, fits, may_go) in [
            (1_000, 0, true, 750),
            (1_700, 0, true, 750),
            (1_800, 0, false, 750),
            (1_000, 800, false, 0),
            (0, 790, true, 0),
        ] {
            let _held = accounts::Held::of(&accounts::DELTAS, held);
            account.settle(history, 0);
            assert_eq!((sums.fits(), sums.may_go()), (fits, may_go), "{history} {held}");
        }
        let free = Sums::new(&ResolvedLimits { history_total_bytes: None, ..limits });
        free.history.store(usize::MAX / 2, Ordering::Relaxed);
        assert!(free.fits(), "there is no ceiling");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever topics have: at the level they fit, and at one a quarter higher they would not.
        #[test]
        fn the_level_is_as_high_as_it_can_be(
            sizes in prop::collection::vec(prop_oneof![0usize..2_000, 0usize..3_000_000], 1..200),
            target in 0usize..20_000_000,
        ) {
            let mut levels = Levels::new();
            sizes.iter().for_each(|bytes| levels.add(*bytes));
            let at = |level: usize| sizes.iter().map(|bytes| (*bytes).min(level)).sum::<usize>();
            let level = levels.fitting(target);
            prop_assert!(at(level) <= target, "{level}: {} of {target}", at(level));
            let higher = level.saturating_add(level / 4 + 2);
            prop_assert!(at(higher) > target || at(usize::MAX) <= target, "{level} is lower than need be");
        }

        #[test]
        fn a_level_has_its_floor(bytes in 1usize..usize::MAX / 4) {
            let level = Levels::of(bytes);
            prop_assert!(Levels::floor(level) <= bytes && bytes < Levels::floor(level + 1) || bytes < 4);
        }
    }
}
