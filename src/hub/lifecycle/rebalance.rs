//! Rebalancing: some of a shard's sessions are closed with the messages of a drain, and go to other nodes. Nothing else
//! changes: the shard goes on, and takes new sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::paced_close::PacedClose;
use crate::hub::index::SessionId;

/// One shard's share of what is to go. What is left of it is given back when it is dropped, wherever that is, so that the
/// node's count always ends at 0.
pub(in crate::hub) struct Share {
    left: Arc<AtomicUsize>,
    count: usize,
}

impl Share {
    /// A share of what `left` counts already.
    pub(in crate::hub) fn new(left: Arc<AtomicUsize>, count: usize) -> Self {
        Self { left, count }
    }

    /// So many went, or were gone already.
    fn went(&mut self, count: usize) {
        let count = count.min(self.count);
        self.count -= count;
        self.left.fetch_sub(count, Ordering::AcqRel);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.went(self.count);
    }
}

/// Sessions of one shard on their way to other nodes.
pub(in crate::hub) struct Rebalance {
    closing: PacedClose,
    share: Share,
}

/// `count` divided among the shards by their sessions, so that they stay as even as they are (largest remainders).
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
    /// Closes as many of `open` as the share says, chosen by lot, over `window`. A session that has only just come is not in
    /// `open`.
    pub(in crate::hub) fn new(mut share: Share, window: Duration, open: &[SessionId], now_ms: u64) -> Self {
        let chosen = rand::seq::index::sample(&mut rand::rng(), open.len(), share.count.min(open.len()));
        let chosen: Vec<SessionId> = chosen.into_iter().filter_map(|i| open.get(i).copied()).collect();
        share.went(share.count - chosen.len());
        Self { closing: PacedClose::new(now_ms, window, chosen), share }
    }

    /// Those whose turn it is by now.
    pub(in crate::hub) fn due(&mut self, now_ms: u64) -> Vec<SessionId> {
        let due = self.closing.due(now_ms);
        self.share.went(due.len());
        due
    }

    /// Whether none is left.
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
            assert_eq!(left.load(Ordering::Relaxed), go, "those that are not there count no more");
            let mut gone = rebalance.due(1_500);
            assert_eq!(left.load(Ordering::Relaxed), go - gone.len());
            gone.extend(rebalance.due(2_000));
            gone.sort_unstable_by_key(|id| id.index);
            gone.dedup();
            assert_eq!((gone.len(), rebalance.is_over(), left.load(Ordering::Relaxed)), (go, true, 0));
        }
    }

    #[test]
    fn what_is_left_of_a_share_is_given_back() {
        let left = Arc::new(AtomicUsize::new(10));
        let mut share = Share::new(left.clone(), 6);
        share.went(2);
        assert_eq!(left.load(Ordering::Relaxed), 8);
        drop(share);
        assert_eq!(left.load(Ordering::Relaxed), 4);
    }
}
