//! Rebalancing: some of a shard's sessions are closed with the messages of a drain, so that they reconnect to other
//! nodes. The shard keeps running and takes new sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::paced_close::PacedClose;
use crate::hub::index::SessionId;

/// One shard's share of the sessions to close. A dropped share subtracts its rest, so that the node's count always ends
/// at 0.
pub(in crate::hub) struct Share {
    left: Arc<AtomicUsize>,
    count: usize,
}

impl Share {
    /// A share of `count`, which `left` includes already.
    pub(in crate::hub) fn new(left: Arc<AtomicUsize>, count: usize) -> Self {
        Self { left, count }
    }

    /// Subtracts sessions that were closed, or were gone already.
    fn subtract(&mut self, count: usize) {
        let count = count.min(self.count);
        self.count -= count;
        self.left.fetch_sub(count, Ordering::AcqRel);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.subtract(self.count);
    }
}

/// The sessions of one shard that are being closed.
pub(in crate::hub) struct Rebalance {
    closing: PacedClose,
    share: Share,
}

/// Divides `count` among the shards in proportion to their sessions (largest remainders).
pub(in crate::hub) fn apportion(count: usize, sessions: &[usize]) -> Vec<usize> {
    let total: usize = sessions.iter().sum();
    if total == 0 {
        return vec![0; sessions.len()];
    }
    let count = count.min(total);
    let mut shares: Vec<usize> = sessions.iter().map(|n| n * count / total).collect();
    let mut by_remainder: Vec<usize> = (0..sessions.len()).collect();
    by_remainder.sort_by_key(|i| std::cmp::Reverse(sessions.get(*i).map_or(0, |n| n * count % total)));
    let missing = count - shares.iter().sum::<usize>();
    for i in by_remainder.into_iter().take(missing) {
        if let Some(share) = shares.get_mut(i) {
            *share += 1;
        }
    }
    shares
}

impl Rebalance {
    /// Closes as many of `open` as the share says, chosen at random, over `window`. `open` does not contain very new
    /// sessions.
    pub(in crate::hub) fn new(mut share: Share, window: Duration, open: &[SessionId], now_ms: u64) -> Self {
        let chosen = rand::seq::index::sample(&mut rand::rng(), open.len(), share.count.min(open.len()));
        let chosen: Vec<SessionId> = chosen.into_iter().filter_map(|i| open.get(i).copied()).collect();
        share.subtract(share.count - chosen.len());
        Self { closing: PacedClose::new(now_ms, window, chosen), share }
    }

    /// The sessions that are due by now.
    pub(in crate::hub) fn due(&mut self, now_ms: u64) -> Vec<SessionId> {
        let due = self.closing.due(now_ms);
        self.share.subtract(due.len());
        due
    }

    /// Whether no session is left.
    pub(in crate::hub) fn is_over(&self) -> bool {
        self.closing.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_stay_as_even_as_they_are() {
        for (count, sessions, want) in [
            (10, &[50, 50][..], &[5, 5][..]),
            (3, &[50, 50], &[2, 1]),
            (30, &[100, 200], &[10, 20]),
            (1, &[0, 9], &[0, 1]),
            (5, &[1, 1, 1], &[1, 1, 1]),
            (7, &[0, 0], &[0, 0]),
            (0, &[4, 4], &[0, 0]),
        ] {
            assert_eq!(apportion(count, sessions), want, "{count} of {sessions:?}");
        }
        for count in 0..=60 {
            let shares = apportion(count, &[7, 31, 0, 22]);
            assert_eq!(shares.iter().sum::<usize>(), count);
            assert!(shares.iter().zip([7, 31, 0, 22]).all(|(share, of)| *share <= of), "{shares:?}");
        }
    }

    #[test]
    fn as_many_go_as_the_share_says_and_are_there() {
        use crate::hub::index::SessionIndex;
        let open: Vec<SessionId> =
            (0..10).map(|at| SessionId { index: SessionIndex::new(at), generation: 1 }).collect();
        for (count, go) in [(4, 4), (10, 10), (25, 10)] {
            let left = Arc::new(AtomicUsize::new(count));
            let mut rebalance = Rebalance::new(Share::new(left.clone(), count), Duration::from_secs(1), &open, 1_000);
            assert_eq!(left.load(Ordering::Relaxed), go, "missing sessions were subtracted");
            let mut gone = rebalance.due(1_500);
            assert_eq!(left.load(Ordering::Relaxed), go - gone.len());
            gone.extend(rebalance.due(2_000));
            gone.sort_unstable_by_key(|id| id.index);
            gone.dedup();
            assert_eq!((gone.len(), rebalance.is_over(), left.load(Ordering::Relaxed)), (go, true, 0));
        }
    }

    #[test]
    fn the_rest_of_a_share_is_subtracted() {
        let left = Arc::new(AtomicUsize::new(10));
        let mut share = Share::new(left.clone(), 6);
        share.subtract(2);
        assert_eq!(left.load(Ordering::Relaxed), 8);
        drop(share);
        assert_eq!(left.load(Ordering::Relaxed), 4);
    }
}
