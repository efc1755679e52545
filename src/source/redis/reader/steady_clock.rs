//! How far Redis' clock is ahead, as far as it can be believed: a clock that jumps ahead for a
//! moment ends no topic.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Time for which a clock must be ahead before topics end by it.
pub(super) const BELIEVED_AFTER: Duration = Duration::from_secs(60);

/// Looks that are remembered at most. Past it: a clock that gains steadily is believed later.
const LOOKS_MAX: usize = 64;

/// A clock was at least so far ahead since then.
#[derive(Debug, Clone, Copy)]
struct Look {
    since: Instant,
    ahead_ms: i64,
}

/// Begins with this node's own clock.
#[derive(Debug)]
pub(super) struct SteadyClock {
    /// Each later one is further ahead.
    looks: VecDeque<Look>,
}

impl SteadyClock {
    pub(super) fn new() -> Self {
        Self { looks: VecDeque::from([Look { since: Instant::now(), ahead_ms: 0 }]) }
    }

    /// The clock is found to be so far ahead of this node's, in ms.
    pub(super) fn look(&mut self, ahead_ms: i64) {
        let now = Instant::now();
        let mut since = now;
        while let Some(last) = self.looks.back().filter(|last| last.ahead_ms >= ahead_ms) {
            since = last.since;
            self.looks.pop_back();
        }
        if self.looks.len() < LOOKS_MAX {
            self.looks.push_back(Look { since, ahead_ms });
        }
        while self.looks.get(1).is_some_and(|next| now - next.since >= BELIEVED_AFTER) {
            self.looks.pop_front();
        }
    }

    /// By how much it is ahead, in ms, as it has been for long enough.
    pub(super) fn ahead_ms(&self) -> i64 {
        self.looks.front().map_or(0, |look| look.ahead_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_is_believed_after_it_was_ahead_for_long() {
        let mut clock = SteadyClock::new();
        for (wait_s, seen_ms, believed_ms, why) in [
            (0, 5_000, 0, "this node's clock is as good"),
            (59, 5_010, 0, "not yet"),
            (1, 4_990, 4_990, "so it is"),
            (1, 3_600_000, 4_990, "it has jumped"),
            (30, 5_000, 4_990, "and is back"),
            (1, 3_600_000, 4_990, "it jumps again"),
            (59, 3_600_000, 5_000, "for almost as long"),
            (1, 3_600_000, 3_600_000, "for good"),
            (1, -7, -7, "what it has not reached is not over"),
        ] {
            tokio::time::sleep(Duration::from_secs(wait_s)).await;
            clock.look(seen_ms);
            assert_eq!(clock.ahead_ms(), believed_ms, "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn looks_are_bounded() {
        let mut clock = SteadyClock::new();
        for ahead_ms in 1..1_000 {
            clock.look(ahead_ms);
        }
        assert_eq!((clock.looks.len(), clock.ahead_ms()), (LOOKS_MAX, 0));
        tokio::time::sleep(BELIEVED_AFTER).await;
        clock.look(2_000);
        assert!(clock.ahead_ms() > 0 && clock.looks.len() < LOOKS_MAX);
    }
}
