//! Sessions that are closed gradually, so that they do not all reconnect at once.

use std::time::Duration;

use crate::hub::index::SessionId;

/// A duration in whole ms.
pub(in crate::hub) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The sessions to close, and how fast.
pub(in crate::hub) struct PacedClose {
    began_ms: u64,
    window_ms: u64,
    hurried: bool,
    /// Sessions still to be closed, the first at the end.
    waiting: Vec<SessionId>,
    total: usize,
}

impl PacedClose {
    /// Closes all of `waiting` evenly over `window`, the last of the list first.
    pub(in crate::hub) fn new(now_ms: u64, window: Duration, waiting: Vec<SessionId>) -> Self {
        let total = waiting.len();
        Self { began_ms: now_ms, window_ms: millis(window), hurried: false, waiting, total }
    }

    /// The sessions that are due by now.
    pub(in crate::hub) fn due(&mut self, now_ms: u64) -> Vec<SessionId> {
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

    /// Makes all sessions due immediately.
    pub(in crate::hub) fn hurry(&mut self) {
        (self.window_ms, self.hurried) = (0, true);
    }

    /// Whether all sessions are due immediately.
    pub(in crate::hub) fn is_hurried(&self) -> bool {
        self.hurried
    }

    /// Whether no session is left.
    pub(in crate::hub) fn is_over(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::index::SessionIndex;

    fn paced(total: usize, window_ms: u64) -> PacedClose {
        let keys = (0..total).map(|index| SessionId { index: SessionIndex::new(index), generation: 1 }).collect();
        PacedClose::new(1_000, Duration::from_millis(window_ms), keys)
    }

    #[test]
    fn each_turn_takes_its_part_of_the_window() {
        let mut paced = paced(10, 1_000);
        let sizes: Vec<usize> =
            [1_000, 1_050, 1_100, 1_550, 1_550, 1_999, 2_000, 9_000].map(|at| paced.due(at).len()).into();
        assert_eq!(sizes, [0, 0, 1, 4, 0, 4, 1, 0]);
        assert!(paced.is_over());
    }

    #[test]
    fn without_a_window_or_in_a_hurry_all_go_at_once() {
        assert_eq!(paced(7, 0).due(1_000).len(), 7);
        let mut hurried = paced(7, 60_000);
        hurried.hurry();
        assert_eq!(hurried.due(1_001).len(), 7);
    }
}
