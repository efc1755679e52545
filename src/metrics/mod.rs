//! Every metric, its unit and its help, in one place.
//!
//! The control plane counts in [`Metrics`]. Each shard counts in its own [`ShardStats`] that no
//! other thread writes, so that counting costs the data plane a plain store and no shared cache
//! line. The table has one row for each metric.

mod classic;
mod collector;
mod counts;
mod labels;
mod reached;
mod sampled;
mod stats;
mod table;

use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use self::collector::Values;
pub use self::counts::{KeyLabel, Metrics, Reason, SourceLabel, SourceReason};
pub use self::labels::{
    HttpTimeout, KeySetFetch, ProxyHeaderFault, PublishRefusal, SubscribeAhead, TokenRefusal, UpgradeRefusal,
};
pub use self::sampled::{GaugeSource, Labels, Reading};
pub use self::stats::{AGE_BUCKETS_MS, ShardStats, Stat, TICK_BUCKETS_US};

/// A registry of all metrics.
pub fn registry(metrics: Arc<Metrics>, shards: Vec<Arc<ShardStats>>) -> Registry {
    let mut registry = Registry::with_prefix("nexus_push");
    registry.register_collector(Box::new(Values { shards, metrics }));
    registry
}

/// The totals of all shards that `/status` shows, by their names.
pub fn totals(shards: &[Arc<ShardStats>]) -> impl Iterator<Item = (&'static str, u64)> {
    collector::totals(shards)
}

/// The text of `GET /metrics` for clients that do not ask for OpenMetrics.
pub fn classic_text(registry: &Registry) -> String {
    classic::from_open_metrics(&text(registry))
}

/// The text of `GET /metrics` as OpenMetrics.
pub fn text(registry: &Registry) -> String {
    let mut out = String::new();
    if encode(&mut out, registry).is_err() {
        out.push_str("# encoding failed\n");
    }
    out
}
