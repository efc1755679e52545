//! The limit on all backlogs together: above it, the sessions with the largest backlogs are closed as slow.
//!
//! Each shard counts its own backlogs (`backlog_bytes` in its [`ShardStats`]), and reads the others' counts only while
//! it exceeds its share. If the sum exceeds the limit, at least one shard exceeds its share, so it is enough that each
//! shard checks itself: no locks, and no counter with two writers.

use crate::accounts;
use crate::metrics::ShardStats;

/// One shard's share of a limit on bytes that wait for a write.
pub(in crate::hub) fn outgoing_max(total: Option<usize>, shards: usize) -> usize {
    total.map_or(usize::MAX, |total| total / shards.max(1))
}

/// The limit on the backlogs of all shards.
pub(in crate::hub) struct Ceiling {
    total: u64,
    /// Bytes up to which a shard need not read the others' counts.
    share: u64,
    all_stats: std::sync::Arc<[std::sync::Arc<ShardStats>]>,
}

impl Ceiling {
    /// A limit of `total` bytes for all shards.
    pub(in crate::hub) fn new(total: Option<usize>, all_stats: std::sync::Arc<[std::sync::Arc<ShardStats>]>) -> Self {
        let total = total.map_or(u64::MAX, |total| total as u64);
        Self { total, share: total / all_stats.len().max(1) as u64, all_stats }
    }

    /// The bytes to which a shard with `own` bytes must shrink, if it must: an eighth below its limit, so that it does
    /// not exceed it again immediately.
    pub(in crate::hub) fn target(&self, own: u64) -> Option<u64> {
        let left = |bytes: u64| bytes / u64::from(accounts::WHOLE) * u64::from(accounts::share());
        let (total, share) = match accounts::share() {
            accounts::WHOLE => (self.total, self.share),
            _ => (left(self.total), left(self.share)),
        };
        if own <= share {
            return None;
        }
        let all: u64 = self.all_stats.iter().map(|stats| stats.backlog_bytes.get()).sum();
        let excess = all.checked_sub(total).filter(|excess| *excess > 0)? + total / 8;
        Some(own.saturating_sub(excess).max(share - share / 8))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// (bytes of two shards, target of the first), with a limit of 1,000 bytes.
    #[test]
    fn a_shard_above_its_share_shrinks_when_the_sum_exceeds_the_limit() {
        for (bytes, target) in [
            ([0, 0], None),
            ([1_000, 0], None),
            ([500, 501], None),
            ([501, 499], None),
            ([501, 500], Some(438)),
            ([1_100, 0], Some(875)),
            ([5_000, 0], Some(875)),
            ([1_100, 900], Some(438)),
            ([499, 900], None),
        ] {
            let stats: Vec<_> = bytes.iter().map(|_| Arc::new(ShardStats::default())).collect();
            stats.iter().zip(bytes).for_each(|(stats, bytes)| stats.backlog_bytes.set(bytes));
            let ceiling = Ceiling::new(Some(1_000), stats.into());
            assert_eq!(ceiling.target(bytes[0]), target, "{bytes:?}");
        }
        let stats = Arc::new(ShardStats::default());
        stats.backlog_bytes.set(u64::MAX / 2);
        assert_eq!(Ceiling::new(None, [stats].into()).target(u64::MAX / 2), None);
    }
}
