//! How many bytes are asked for at once: as many as come in about a second.
//!
//! All that is asked for is on its way at once. The server ends a connection that does not take what was sent within
//! its `write_deadline` (10 s), and answers wait behind messages. On a quick link much is asked for: behind a fast
//! publisher a stream that keeps few messages may remove some while the next request is on its way.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Bytes asked for at most.
const MOST: usize = 16 * 1024 * 1024;

/// The same as a share of `limits.memory`: once they are read, many short headers take about 40 times their bytes.
const MEMORY_SHARE: u64 = 128;

/// Bytes of one message that is read as it comes, as a share of `limits.memory`, and at least and at most. A larger one is
/// fetched as JSON, in which headers are not read one by one.
const ONE_SHARE: u64 = 64;
const ONE_LEAST: usize = 1024 * 1024 + HEAD_BYTES;
pub(super) const ONE_MOST: usize = 1 << 30;

/// Room for a message's subject, reply subject and headers, beside its payload.
pub(super) const HEAD_BYTES: usize = 64 * 1024;

/// Bytes asked for at least. A message that is larger is asked for by itself.
const LEAST: usize = 64 * 1024;

/// Bytes asked for first where much is waiting, before anything is known of the link, and how much that is.
const FIRST: usize = 1024 * 1024;
const MUCH: u64 = 4 * 1024 * 1024;

/// Time in which what was asked for should come.
const SLOW: Duration = Duration::from_secs(1);

/// Steps in which the size changes: up after what came quickly, and down at most.
const UP: u32 = 2;
const DOWN: usize = 4;

/// See above. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct ReadSize(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    bytes: usize,
    most: usize,
    one_most: usize,
    /// Whether anything was measured.
    is_known: bool,
    /// Bytes that came while more was waiting, and the time that they took.
    came: usize,
    took: Duration,
}

impl ReadSize {
    /// With this memory, if it has a limit, for deltas of at most so many bytes.
    pub(super) fn new(memory: Option<u64>, delta_bytes_max: usize) -> Self {
        let share =
            |of: u64, most: usize| memory.map_or(most, |memory| usize::try_from(memory / of).unwrap_or(most)).min(most);
        let most = share(MEMORY_SHARE, MOST).max(LEAST);
        let one_most = share(ONE_SHARE, ONE_MOST).max(ONE_LEAST).max(delta_bytes_max.saturating_add(HEAD_BYTES));
        let state = State { bytes: most, most, one_most, is_known: false, came: 0, took: Duration::ZERO };
        Self(Arc::new(Mutex::new(state)))
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes to ask for.
    pub(super) fn bytes(&self) -> usize {
        self.change(|state| state.bytes)
    }

    /// Bytes of the largest message that is read as it comes.
    pub(super) fn one_most(&self) -> usize {
        self.change(|state| state.one_most)
    }

    /// So much is waiting.
    pub(super) fn begin(&self, waiting: u64) {
        self.change(|state| {
            if !state.is_known && waiting > MUCH {
                state.bytes = FIRST.min(state.most);
            }
        });
    }

    /// So many bytes came, that long after those before them, and were waiting all the time.
    pub(super) fn came(&self, bytes: usize, took: Duration) {
        self.change(|state| {
            state.came = state.came.saturating_add(bytes);
            state.took += took;
            if state.took < SLOW && state.came < state.bytes {
                return;
            }
            state.is_known = true;
            let up = state.bytes.saturating_mul(UP as usize).min(state.most);
            if state.took >= SLOW / UP {
                let in_time = state.came as u128 * SLOW.as_millis() / state.took.as_millis().max(1);
                // One break of a second says little: the size falls in steps.
                state.bytes =
                    usize::try_from(in_time).unwrap_or(up).clamp((state.bytes / DOWN).max(LEAST), up.max(LEAST));
            } else {
                state.bytes = up;
            }
            (state.came, state.took) = (0, Duration::ZERO);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// What is asked for after so many messages of so many bytes, at so many bytes per second.
    fn after(size: &ReadSize, messages: usize, bytes: usize, per_second: usize) -> usize {
        for _ in 0..messages {
            size.came(bytes, Duration::from_secs_f64(bytes as f64 / per_second as f64));
        }
        size.bytes()
    }

    #[test]
    fn much_is_asked_for_until_a_link_turns_out_to_be_slow() {
        let size = ReadSize::new(None, 0);
        assert_eq!(size.bytes(), MOST);
        size.begin(MUCH);
        assert_eq!(after(&size, 10_000, 150, 100_000_000), MOST);
        assert_eq!(after(&size, 12, 250_000, 250_000), 250_000, "2 Mbit/s");
        let seen = after(&size, 200, 6_000, 625_000);
        assert!((500_000..700_000).contains(&seen), "5 Mbit/s: {seen}");
        assert_eq!(after(&size, 12, 1_000_000, 100_000), 100_000);
        assert_eq!(after(&size, 12, 1_000_000, 10_000), LEAST, "a message larger than that comes by itself");
        assert_eq!(after(&size, 10_000, 10_000, 100_000_000), MOST, "it is quick again");
    }

    #[test]
    fn where_much_is_waiting_the_link_is_tried_with_little() {
        let size = ReadSize::new(None, 0);
        size.begin(MUCH + 1);
        assert_eq!(size.bytes(), FIRST);
        assert_eq!(after(&size, 40, 1_000_000, 100_000_000), MOST);
        size.begin(MUCH + 1);
        assert_eq!(size.bytes(), MOST, "it is known");
    }

    #[test]
    fn one_break_says_little_and_memory_bounds_it() {
        let size = ReadSize::new(None, 0);
        size.came(150, 3_000 * MS);
        assert_eq!(size.bytes(), MOST / DOWN);
        for (memory, most) in [(Some(64 << 20), 512 << 10), (Some(1 << 40), MOST), (Some(1), LEAST), (None, MOST)] {
            assert_eq!(ReadSize::new(memory, 0).bytes(), most);
        }
        for (memory, delta_bytes, one) in [
            (Some(1), 1, ONE_LEAST),
            (Some(1), 9 << 20, (9 << 20) + HEAD_BYTES),
            (Some(1 << 30), 1, 16 << 20),
            (None, 1, ONE_MOST),
        ] {
            assert_eq!(ReadSize::new(memory, delta_bytes).one_most(), one);
        }
    }
}
