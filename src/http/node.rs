//! How this node fares, as it tells the others, and operators who ask where nodes do not tell each other.

use super::State;
use crate::clock::unix_ms;
use crate::cluster::{NodeReport, SourceReport};
use crate::source::SourceStatus;

impl State {
    /// How this node fares now, without what the shards count.
    pub fn report(&self) -> NodeReport {
        let reasons = self.not_ready();
        let source = |s: &std::sync::Arc<SourceStatus>| SourceReport {
            name: s.name.clone(),
            connected: s.connected(),
            lag_ms: s.lag_ms(),
            deltas: s.deltas(),
            note: Some(s.last_note()).filter(|note| !note.is_empty()),
        };
        let now_ms = unix_ms();
        let up_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        NodeReport {
            name: self.config.server.name.clone().unwrap_or_else(|| {
                let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
                format!("{host}-{}", std::process::id())
            }),
            version: env!("CARGO_PKG_VERSION").into(),
            at: now_ms,
            started_at: now_ms.saturating_sub(up_ms),
            ready: reasons.is_empty(),
            reasons,
            draining: self.is_draining(),
            sessions: self.hub.sessions(),
            sessions_max: self.hub.sessions_max(),
            sessions_by_shard: self.hub.sessions_by_shard(),
            topics: self.topics.len(),
            queue_depth: self.hub.queue_depth(),
            deltas: self.metrics.deltas.get(),
            rss_bytes: crate::server::rss_bytes(),
            sources: self.sources.iter().map(source).collect(),
            ..NodeReport::default()
        }
    }
}
