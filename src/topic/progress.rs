//! How far a source has been read, by its own clock.

use super::atomics::{AtomicI64, AtomicU64, Ordering};
use crate::position::Offset;

/// Times are Unix ms of the source's clock.
pub(super) struct Progress {
    /// The highest offset that was read.
    reached: AtomicU64,
    /// Everything that the source took in up to then has been read here; the maximum for a source that has nothing to
    /// read.
    read_ms: AtomicU64,
    /// By how much its clock is ahead of this node's.
    ahead_ms: AtomicI64,
    /// When it took in the oldest entry that it holds; 0 if that is not known.
    first_ms: AtomicU64,
}

impl Progress {
    /// Of a source that has nothing to read.
    pub(super) fn new() -> Self {
        Self {
            reached: AtomicU64::new(0),
            read_ms: AtomicU64::new(u64::MAX),
            ahead_ms: AtomicI64::new(0),
            first_ms: AtomicU64::new(0),
        }
    }

    /// The source is about to be loaded: nothing of it counts as read.
    pub(super) fn begin_load(&self) {
        self.read_ms.store(0, Ordering::Release);
    }

    pub(super) fn set_read(&self, read_ms: u64, ahead_ms: i64) {
        self.read_ms.store(read_ms, Ordering::Relaxed);
        self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
    }

    pub(super) fn read_ms(&self) -> u64 {
        self.read_ms.load(Ordering::Relaxed)
    }

    /// The source's time if it is `local_ms` by this node's clock.
    pub(super) fn now_ms(&self, local_ms: u64) -> u64 {
        local_ms.saturating_add_signed(self.ahead_ms.load(Ordering::Relaxed))
    }

    /// Up to when the source has been read, and its present time at most.
    pub(super) fn read_by(&self, local_ms: u64) -> u64 {
        self.read_ms().min(self.now_ms(local_ms))
    }

    pub(super) fn set_reached(&self, offset: Offset) {
        self.reached.store(offset.get(), Ordering::Release);
    }

    pub(super) fn reached(&self) -> Offset {
        Offset::new(self.reached.load(Ordering::Acquire)).unwrap_or_default()
    }

    pub(super) fn set_first_ms(&self, first_ms: u64) {
        self.first_ms.store(first_ms, Ordering::Relaxed);
    }

    pub(super) fn first_ms(&self) -> u64 {
        self.first_ms.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_read_up_to_its_own_present_time_at_most() {
        let progress = Progress::new();
        assert_eq!(progress.read_by(1_000), 1_000, "nothing to read: all of it is read");
        progress.set_read(900, 50);
        assert_eq!((progress.read_by(1_000), progress.now_ms(1_000)), (900, 1_050));
        progress.set_read(2_000, -50);
        assert_eq!(progress.read_by(1_000), 950);
        progress.begin_load();
        assert_eq!(progress.read_by(1_000), 0);
    }
}
