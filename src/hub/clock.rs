//! The time of a shard.

use std::time::{Duration, Instant};

use crate::clock::unix_ms;

/// The low half of the shard's clock. Differences of two such times are right up to seven weeks.
#[allow(clippy::cast_possible_truncation, reason = "the truncation is intended")]
pub(super) fn clock32(ms: u64) -> u32 {
    ms as u32
}

/// The clock of a shard. It does not advance during a tick.
pub(super) struct Clock {
    started: Instant,
    /// Time since the shard started, in ms.
    pub(super) now_ms: u64,
    /// Wall clock, Unix ms.
    pub(super) unix_ms: u64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), now_ms: 0, unix_ms: unix_ms() }
    }

    /// Advances the clock at the beginning of a tick.
    pub(super) fn tick(&mut self) {
        (self.now_ms, self.unix_ms) = (self.elapsed_ms(), unix_ms());
    }

    /// Time since the shard started, read now.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The same, in ms.
    pub(super) fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The time of this tick in ns, for rates.
    pub(super) fn now_ns(&self) -> u64 {
        self.now_ms * 1_000_000
    }

    /// Advances the clock in a test.
    #[cfg(test)]
    pub(super) fn pass(&mut self, time: Duration) {
        self.started -= time;
    }
}
