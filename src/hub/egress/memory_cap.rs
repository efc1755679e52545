//! The limit on all backlogs together: above it, the sessions with the largest backlogs are closed as slow.
//!
//! Each shard counts its own (`backlog_bytes` of its [`ShardStats`]) and looks at the others'
//! only while it has more than its share. If the sum is over the ceiling some shard has, so it is enough that each minds
//! itself: no lock, and no number that two write.

use crate::accounts;
use crate::metrics::ShardStats;

/// A shard's part of a ceiling on what waits for a write.
pub(in crate::hub) fn outgoing_max(total: Option<usize>, shards: usize) -> usize {
    total.map_or(usize::MAX, |total| total / shards.max(1))
}

/// A ceiling on the backlogs of all shards.
pub(in crate::hub) struct Ceiling {
    total: u64,
    /// What a shard may have without asking how much the others do.
    share: u64,
    everybody: std::sync::Arc<[std::sync::Arc<ShardStats>]>,
}

impl Ceiling {
    /// `total` bytes for all of `everybody`.
    pub(in crate::hub) fn new(total: Option<usize>, everybody: std::sync::Arc<[std::sync::Arc<ShardStats>]>) -> Self {
        let total = total.map_or(u64::MAX, |total| total as u64);
        Self { total, share: total / everybody.len().max(1) as u64, everybody }
    }

    /// What a shard that has `own` bytes must come down to, if it must: an eighth below, so that it is not back at once.
    pub(in crate::hub) fn target(&self, own: u64) -> Option<u64> {
        let left = |bytes: u64| bytes / u64::from(accounts::WHOLE) * u64::from(accounts::share());
        let (total, share) = match accounts::share() {
            accounts::WHOLE => (self.total, self.share),
            _ => (left(self.total), left(self.share)),
        };
        if own <= share {
            return None;
        }
        let all: u64 = self.everybody.iter().map(|stats| stats.backlog_bytes.get()).sum();
        let excess = all.checked_sub(total).filter(|excess| *excess > 0)? + total / 8;
        Some(own.saturating_sub(excess).max(share - share / 8))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// (what two shards have, what the first must come down to), of 1,000 bytes.
    #[test]
    fn who_has_more_than_its_share_comes_down_when_all_have_too_much() {
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
