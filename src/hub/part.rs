//! The parts that a shard is built from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use super::mailbox::QueueReceiver;
use crate::memory::ResolvedLimits;
use crate::metrics::ShardStats;
use crate::topic::ShardId;

/// A shard that is set up but not running.
pub(super) struct Part {
    pub(super) id: ShardId,
    pub(super) poll: mio::Poll,
    pub(super) queue: QueueReceiver,
    pub(super) sessions: Arc<AtomicUsize>,
    pub(super) tokenless: Arc<AtomicUsize>,
    pub(super) stats: Arc<ShardStats>,
    /// The counters of all shards.
    pub(super) all_stats: Arc<[Arc<ShardStats>]>,
    pub(super) heartbeat_ms: Arc<AtomicU64>,
    pub(super) limits: Arc<ResolvedLimits>,
}
