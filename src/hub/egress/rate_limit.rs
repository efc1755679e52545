//! A limit on a session's bytes per second. It only delays writes; deltas that wait meanwhile are handled as for a full
//! socket.

use crate::limits::{BYTES_PER_SECOND_MIN, DRAIN_CHUNK_BYTES};

/// A limit on bytes per second: after each write the session pauses until the written bytes are within the rate.
#[derive(Debug, Clone, Copy)]
pub(in crate::hub) struct Pace {
    bytes_per_second: u32,
    /// When the bytes written so far are within the rate, in µs of the shard's clock.
    free_us: u64,
}

impl Pace {
    pub(in crate::hub) fn new(bytes_per_second: u32) -> Self {
        Self { bytes_per_second: bytes_per_second.max(BYTES_PER_SECOND_MIN), free_us: 0 }
    }

    /// Counts `bytes` that were written.
    pub(in crate::hub) fn spend(&mut self, bytes: usize, now_ms: u64) {
        let cost_us = (bytes as u64).saturating_mul(1_000_000) / u64::from(self.bytes_per_second);
        self.free_us = self.free_us.max(now_ms * 1_000) + cost_us;
    }

    /// When the next write may be made, in ms of the shard's clock; `None` is now.
    pub(in crate::hub) fn wait_until(&self, now_ms: u64) -> Option<u64> {
        (self.free_us > now_ms * 1_000).then(|| self.free_us.div_ceil(1_000))
    }

    /// Limit on the bytes of one write while the backlog is sent.
    pub(in crate::hub) fn drain_chunk(&self) -> usize {
        (self.bytes_per_second as usize / 8).clamp(1, DRAIN_CHUNK_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_is_kept_over_time() {
        let mut pace = Pace::new(10_000);
        let (mut now_ms, mut bytes) = (0u64, 0u64);
        while now_ms < 10_000 {
            match pace.wait_until(now_ms) {
                Some(until) => now_ms = until,
                None => {
                    pace.spend(700, now_ms);
                    bytes += 700;
                }
            }
        }
        assert!((99_000..=101_400).contains(&bytes), "{bytes} B in 10 s");
        // Idle time does not add up to a burst.
        let mut pace = Pace::new(10_000);
        pace.spend(1_000, 50_000);
        assert_eq!(pace.wait_until(50_000), Some(50_100));
        assert_eq!(pace.wait_until(50_100), None);
    }
}
