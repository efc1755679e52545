//! When a shard is woken.
//!
//! A producer first enqueues an event and then reads whether the shard rests. A shard first announces that it rests and
//! then reads the queue. With a fence between the two on each side, at least one of them sees the other, so no event is
//! missed. `mailbox_model` checks this in every interleaving. The state changes by swaps, not stores: each swap sees
//! the last one. With stores, loom finds a shard that waits forever.

use super::atomics::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};
use crate::limits::QUEUE_HIGH_WATER;

/// The shard is running and will read the queue.
const AWAKE: u8 = 0;
/// Only urgent events wake it.
const PARKED: u8 = 1;
/// Any event wakes it.
const ASLEEP: u8 = 2;

/// Number of queued events that ends a park.
const PARK_DEPTH: usize = QUEUE_HIGH_WATER / 16;

/// The state that a shard and its producers share.
pub(super) struct Wakeup {
    state: AtomicU8,
    /// An urgent event was sent since the shard last read the queue.
    pressing: AtomicBool,
    depth: AtomicUsize,
}

impl Wakeup {
    pub(super) fn new() -> Self {
        Self { state: AtomicU8::new(AWAKE), pressing: AtomicBool::new(false), depth: AtomicUsize::new(0) }
    }

    /// An event is about to be enqueued. Returns whether the queue is long enough to wake the shard.
    pub(super) fn sending(&self) -> bool {
        self.depth.fetch_add(1, Ordering::Relaxed) + 1 >= PARK_DEPTH
    }

    /// An event was taken out, or could not be enqueued.
    pub(super) fn gone(&self) {
        self.depth.fetch_sub(1, Ordering::Relaxed);
    }

    /// Number of queued events.
    pub(super) fn depth(&self) -> usize {
        self.depth.load(Ordering::Relaxed)
    }

    /// An event was enqueued. Returns `true` if the shard must be woken.
    #[must_use]
    pub(super) fn sent(&self, pressing: bool) -> bool {
        if pressing {
            self.pressing.store(true, Ordering::Release);
        }
        // Pairs with the fences in `sleep` and `park`: either the shard sees the event, or this sees that it rests.
        fence(Ordering::SeqCst);
        let state = self.state.load(Ordering::Relaxed);
        let wakes = state == ASLEEP || state == PARKED && pressing;
        wakes && self.state.swap(AWAKE, Ordering::AcqRel) != AWAKE
    }

    /// The shard is about to sleep. Returns `true` if it may; `empty` says whether the queue is empty.
    pub(super) fn sleep(&self, empty: impl FnOnce() -> bool) -> bool {
        self.state.swap(ASLEEP, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        if empty() {
            return true;
        }
        self.state.swap(AWAKE, Ordering::AcqRel);
        false
    }

    /// The shard is about to park: for a few ms, only urgent events wake it. Returns `true` if it may.
    pub(super) fn park(&self) -> bool {
        self.state.swap(PARKED, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        if !self.pressing.load(Ordering::Relaxed) && self.depth() < PARK_DEPTH {
            return true;
        }
        self.state.swap(AWAKE, Ordering::AcqRel);
        false
    }

    /// Ends sleep or park: the shard reads the queue now.
    pub(super) fn awake(&self) {
        self.state.swap(AWAKE, Ordering::AcqRel);
        // Urgent events are in the queue by now: each was enqueued before this flag was set.
        self.pressing.swap(false, Ordering::Acquire);
    }
}
