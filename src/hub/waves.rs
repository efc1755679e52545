//! Sessions that are closed little by little, so that they do not all come back at once.

use std::time::Duration;

use super::event::SessionKey;
use super::sweeping::millis;

/// Who is to be closed, and how fast.
pub(super) struct Waves {
    began_ms: u64,
    window_ms: u64,
    /// Who is still to be closed, the first at the end.
    waiting: Vec<SessionKey>,
    total: usize,
}

impl Waves {
    /// All of `waiting` over `window`, evenly, the last of the list first.
    pub(super) fn new(now_ms: u64, window: Duration, waiting: Vec<SessionKey>) -> Self {
        let total = waiting.len();
        Self { began_ms: now_ms, window_ms: millis(window), waiting, total }
    }

    /// Those whose turn it is by now.
    pub(super) fn due(&mut self, now_ms: u64) -> Vec<SessionKey> {
        let elapsed_ms = now_ms.saturating_sub(self.began_ms);
        let due = match self.window_ms {
            window_ms if elapsed_ms >= window_ms => self.total,
            window_ms => {
                self.total * usize::try_from(elapsed_ms).unwrap_or(0) / usize::try_from(window_ms).unwrap_or(1).max(1)
            }
        };
        let keep = self.total - due;
        self.waiting.split_off(keep.min(self.waiting.len()))
    }

    /// Everybody's turn has come.
    pub(super) fn hurry(&mut self) {
        self.window_ms = 0;
    }

    /// Whether nobody waits any more.
    pub(super) fn is_over(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(total: u32, window_ms: u64) -> Waves {
        let keys = (0..total).map(|index| SessionKey { index, generation: 1 }).collect();
        Waves::new(1_000, Duration::from_millis(window_ms), keys)
    }

    #[test]
    fn each_turn_takes_its_part_of_the_window() {
        let mut waves = waves(10, 1_000);
        let sizes: Vec<usize> =
            [1_000, 1_050, 1_100, 1_550, 1_550, 1_999, 2_000, 9_000].map(|at| waves.due(at).len()).into();
        assert_eq!(sizes, [0, 0, 1, 4, 0, 4, 1, 0]);
        assert!(waves.is_over());
    }

    #[test]
    fn without_a_window_or_in_a_hurry_all_go_at_once() {
        assert_eq!(waves(7, 0).due(1_000).len(), 7);
        let mut hurried = waves(7, 60_000);
        hurried.hurry();
        assert_eq!(hurried.due(1_001).len(), 7);
    }
}
