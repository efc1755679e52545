//! What one shard counts. Only its own thread writes, so that counting costs the data plane a plain
//! store and no shared cache line.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::wire::close::CloseReason;

/// Upper bounds of the histogram of delivery ages, in ms.
pub const AGE_BUCKETS_MS: [u64; 13] = [1, 2, 5, 10, 20, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000];

/// Upper bounds of the histogram of tick lengths, in µs.
pub const TICK_BUCKETS_US: [u64; 13] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub struct Stat(AtomicU64);

impl Stat {
    /// Adds; for its only writer.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts; for its only writer.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).saturating_sub(n), Ordering::Relaxed);
    }

    /// Sets; for its only writer.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of one shard.
#[derive(Debug, Default)]
#[repr(align(128))]
#[allow(missing_docs, reason = "see the help texts in `table`")]
pub struct ShardStats {
    pub subscriptions: Stat,
    pub topics: Stat,
    pub ticks: Stat,
    pub tick_counts: [Stat; TICK_BUCKETS_US.len() + 1],
    pub busy_us: Stat,
    pub events: Stat,
    pub writes: Stat,
    pub writes_partial: Stat,
    pub deliveries: Stat,
    pub bytes: Stat,
    pub coalesced: Stat,
    pub conflated: Stat,
    pub snapshots: Stat,
    pub slow_sessions: Stat,
    pub io_uring: Stat,
    pub flush_delay_ms: Stat,
    pub backlog_bytes: Stat,
    pub backlog_evictions: Stat,
    pub incoming_evictions: Stat,
    pub pending_requests_refused: Stat,
    pub reads_paused_control: Stat,
    pub writes_early: Stat,
    pub recent_deltas_evicted: Stat,
    pub session_bytes: Stat,
    pub subscription_bytes: Stat,
    pub outgoing_bytes: Stat,
    /// Most events that were ever in its queue, which keeps the memory for them.
    pub queue_high: Stat,
    pub commands: Stat,
    pub commands_refused: Stat,
    pub snapshots_refused: Stat,
    pub snapshots_refused_by_address: Stat,
    pub states_delayed: Stat,
    pub states_delayed_by_address: Stat,
    pub reads_paused_backlog: Stat,
    pub reads_paused_inflate: Stat,
    pub memberships_dropped: Stat,
    pub memberships_delayed: Stat,
    pub membership_infos_omitted: Stat,
    pub announcements_withheld: Stat,
    pub pings: Stat,
    pub subscriptions_refused: Stat,
    pub closes: [Stat; CloseReason::ALL.len()],
    pub disconnects: Stat,
    pub sessions_rebalanced: Stat,
    pub age_counts: [Stat; AGE_BUCKETS_MS.len() + 1],
    pub age_sum_ms: Stat,
}

impl ShardStats {
    /// Counts a close by the server.
    pub fn close(&self, reason: CloseReason) {
        if let Some(at) = CloseReason::ALL.iter().position(|r| *r == reason)
            && let Some(stat) = self.closes.get(at)
        {
            stat.add(1);
        }
    }

    /// Closes by the server for this reason.
    pub fn closes_for(&self, reason: CloseReason) -> u64 {
        let at = CloseReason::ALL.iter().position(|r| *r == reason);
        at.and_then(|at| self.closes.get(at)).map_or(0, Stat::get)
    }

    /// Counts a tick of this length.
    pub fn tick(&self, took_us: u64) {
        let at = TICK_BUCKETS_US.partition_point(|bound| *bound < took_us);
        if let Some(stat) = self.tick_counts.get(at) {
            stat.add(1);
        }
        self.busy_us.add(took_us);
    }

    /// Counts `n` deliveries of this age.
    pub fn age(&self, age_ms: u64, n: u64) {
        let at = AGE_BUCKETS_MS.partition_point(|bound| *bound < age_ms);
        if let Some(stat) = self.age_counts.get(at) {
            stat.add(n);
        }
        self.age_sum_ms.add(age_ms.saturating_mul(n));
    }
}
