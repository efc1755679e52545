//! This node's report of its health, for the other nodes, and for operators of nodes that do not
//! report to each other.

use crate::clock::unix_ms;
use crate::cluster::{NodeReport, SourceReport};
use crate::http::state::State;
use crate::source::SourceStatus;

impl State {
    /// This node's current report, without the counts of the shards.
    pub fn report(&self) -> NodeReport {
        let reasons = self.readiness.not_ready();
        let source = |s: &std::sync::Arc<SourceStatus>| SourceReport {
            name: s.name.clone(),
            connected: s.connected(),
            lag_ms: s.lag_ms(),
            deltas: s.deltas(),
            note: Some(s.last_note()).filter(|note| !note.is_empty()),
        };
        let now_ms = unix_ms();
        let up_ms = u64::try_from(self.process.started.elapsed().as_millis()).unwrap_or(u64::MAX);
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
            draining: self.readiness.is_draining(),
            sessions: self.hub.sessions(),
            sessions_max: self.hub.sessions_max(),
            sessions_by_shard: self.hub.sessions_by_shard(),
            topics: self.topics.len(),
            queue_depth: self.hub.queue_depth(),
            deltas: self.metrics.deltas.get(),
            rss_bytes: crate::memory::rss_bytes(),
            sources: self.readiness.sources().iter().map(source).collect(),
            ..NodeReport::default()
        }
    }
}
