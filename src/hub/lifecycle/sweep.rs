//! The sweep: all sessions are checked about once a second, a slice of them at a time.

use std::time::Duration;

use super::paced_close::millis;

/// Interval between two slices.
pub(in crate::hub) const SWEEP_EVERY: Duration = Duration::from_millis(50);

/// Number of slices that cover all sessions.
const SLICES: usize = 20;

/// The progress of the sweep.
#[derive(Debug, Default)]
pub(in crate::hub) struct Sweep {
    next_ms: u64,
    /// The index that is checked next.
    at: usize,
    /// Bytes outside the sessions' entries: found by the last complete sweep, and by the current one so far.
    outside_bytes: usize,
    so_far_bytes: usize,
}

impl Sweep {
    /// When the next slice is due, in the shard's time.
    pub(in crate::hub) fn next_ms(&self) -> u64 {
        self.next_ms
    }

    /// Makes the next slice due now.
    pub(in crate::hub) fn hurry(&mut self, now_ms: u64) {
        self.next_ms = now_ms;
    }

    /// Begins the next slice if it is due. Returns how many of `places` it has; none for an empty shard.
    pub(in crate::hub) fn begin(&mut self, places: usize, is_empty: bool, now_ms: u64) -> Option<usize> {
        if now_ms < self.next_ms {
            return None;
        }
        self.next_ms = now_ms + millis(SWEEP_EVERY);
        let slice = if is_empty { 0 } else { places.div_ceil(SLICES).max(1) };
        Some(slice.min(places))
    }

    /// The next index, and whether a new sweep begins with it.
    pub(in crate::hub) fn next_place(&mut self, places: usize) -> (usize, bool) {
        let begins = self.at >= places;
        if begins {
            self.at = 0;
        }
        let at = self.at;
        self.at += 1;
        (at, begins)
    }

    /// Adds a session's bytes outside its entry.
    pub(in crate::hub) fn count(&mut self, bytes: usize) {
        self.so_far_bytes += bytes;
    }

    /// Whether the sweep has reached the end. A slice may continue past it; the bytes of the finished sweep are saved.
    pub(in crate::hub) fn ends(&mut self, places: usize) -> bool {
        let ends = self.at >= places;
        if ends {
            self.outside_bytes = std::mem::take(&mut self.so_far_bytes);
        }
        ends
    }

    /// An empty shard's sweep is complete at once.
    pub(in crate::hub) fn nothing(&mut self) {
        (self.at, self.so_far_bytes, self.outside_bytes) = (0, 0, 0);
    }

    /// Bytes of memory outside the sessions' entries, by the last complete sweep.
    pub(in crate::hub) fn outside_bytes(&self) -> usize {
        self.outside_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_session_is_checked_once_a_second() {
        for places in [1, 19, 20, 21, 400, 1_003] {
            let mut sweep = Sweep::default();
            let (mut seen, mut now_ms, mut whole) = (vec![0; places], 0, 0);
            while whole == 0 {
                let slice = sweep.begin(places, false, now_ms).unwrap();
                assert_eq!(sweep.begin(places, false, now_ms), None, "not due yet");
                for _ in 0..slice {
                    let (at, _) = sweep.next_place(places);
                    seen[at] += 1;
                    sweep.count(10);
                    whole += usize::from(sweep.ends(places));
                }
                now_ms = sweep.next_ms();
            }
            assert!(seen.iter().all(|times| (1..=2).contains(times)), "{seen:?}");
            assert!(now_ms <= 1_000 && sweep.outside_bytes() == 10 * places, "{places}: {now_ms} ms");
        }
    }

    #[test]
    fn an_empty_shard_has_nothing_to_count() {
        let mut sweep = Sweep::default();
        sweep.count(10);
        assert_eq!(sweep.begin(8, true, 0), Some(0));
        sweep.nothing();
        assert_eq!(sweep.outside_bytes(), 0);
        sweep.hurry(3);
        assert!(sweep.begin(8, true, 3).is_some());
    }
}
