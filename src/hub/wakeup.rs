//! Who wakes a shard, and when.
//!
//! A producer puts an event into the queue and then asks whether the shard rests; a shard says that it is about to rest and
//! then looks at the queue. With a fence between the two on each side, at least one of them sees the other: no event is
//! left lying. `queue_model` checks that in every interleaving. Changes are swaps, not stores: each sees the last one, so that
//! they have one order; with stores, loom finds a shard that waits for ever.

use super::atomics::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};
use crate::limits::QUEUE_HIGH_WATER;

/// The shard turns: it will look at the queue by itself.
const AWAKE: u8 = 0;
/// It is woken by what is pressing.
const NAPPING: u8 = 1;
/// It is woken by anything.
const ASLEEP: u8 = 2;

/// Events waiting from which on a park is over.
const PARK_DEPTH: usize = QUEUE_HIGH_WATER / 16;

/// What a shard and its producers know of each other.
pub(super) struct Alarm {
    state: AtomicU8,
    /// Something pressing was sent since the shard last looked.
    pressing: AtomicBool,
    depth: AtomicUsize,
}

impl Alarm {
    pub(super) fn new() -> Self {
        Self { state: AtomicU8::new(AWAKE), pressing: AtomicBool::new(false), depth: AtomicUsize::new(0) }
    }

    /// An event is about to be put into the queue. Returns whether so many wait that the shard should look.
    pub(super) fn sending(&self) -> bool {
        self.depth.fetch_add(1, Ordering::Relaxed) + 1 >= PARK_DEPTH
    }

    /// One was taken out, or could not be put in.
    pub(super) fn gone(&self) {
        self.depth.fetch_sub(1, Ordering::Relaxed);
    }

    /// Events waiting.
    pub(super) fn depth(&self) -> usize {
        self.depth.load(Ordering::Relaxed)
    }

    /// An event was put into the queue. `true` if the shard must be woken for it.
    #[must_use]
    pub(super) fn sent(&self, pressing: bool) -> bool {
        if pressing {
            self.pressing.store(true, Ordering::Release);
        }
        // Pairs with the fences in `sleep` and `park`: either the shard sees the event, or this sees that it rests.
        fence(Ordering::SeqCst);
        let state = self.state.load(Ordering::Relaxed);
        let wakes = state == ASLEEP || state == NAPPING && pressing;
        wakes && self.state.swap(AWAKE, Ordering::AcqRel) != AWAKE
    }

    /// Announces that the shard is about to sleep. `true` if it may: `empty` says that nothing is waiting.
    pub(super) fn sleep(&self, empty: impl FnOnce() -> bool) -> bool {
        self.state.swap(ASLEEP, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        if empty() {
            return true;
        }
        self.state.swap(AWAKE, Ordering::AcqRel);
        false
    }

    /// Announces that the shard is about to rest for a few ms, whatever comes that may wait so long. `true` if it may.
    pub(super) fn park(&self) -> bool {
        self.state.swap(NAPPING, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        if !self.pressing.load(Ordering::Relaxed) && self.depth() < PARK_DEPTH {
            return true;
        }
        self.state.swap(AWAKE, Ordering::AcqRel);
        false
    }

    /// Ends the rest: what is there will be taken now.
    pub(super) fn awake(&self) {
        self.state.swap(AWAKE, Ordering::AcqRel);
        // What was pressing is in the queue by now: it was put there before that was said.
        self.pressing.swap(false, Ordering::Acquire);
    }
}
