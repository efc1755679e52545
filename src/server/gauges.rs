//! Values that are read when metrics are requested.

use std::sync::{Arc, Weak};

use crate::auth::Verifier;
use crate::http::Readiness;
use crate::hub::Hub;
use crate::memory::{ResolvedLimits, rss_bytes};
use crate::metrics::{GaugeSource, Labels, Reading};
use crate::topic::Topics;

/// The parts that are read. It keeps none of them alive.
#[derive(Debug)]
pub(super) struct Gauges {
    pub(super) hub: Weak<Hub>,
    pub(super) topics: Weak<Topics>,
    pub(super) verifier: Weak<Verifier>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) limits: Arc<ResolvedLimits>,
}

type Put<'a> = &'a mut dyn FnMut(&'static str, Labels, Reading);

fn whole(n: usize) -> Reading {
    Reading::Whole(i64::try_from(n).unwrap_or(i64::MAX))
}

/// 0 means no limit.
fn ceiling(bytes: Option<usize>) -> Reading {
    whole(bytes.unwrap_or(0))
}

fn seconds(ms: u64) -> Reading {
    #[allow(clippy::cast_precision_loss, reason = "times in ms are far below 2^53")]
    Reading::Real(ms as f64 / 1_000.0)
}

impl GaugeSource for Gauges {
    fn gauges(&self, put: Put<'_>) {
        if let Some(hub) = self.hub.upgrade() {
            put("shards", Vec::new(), whole(hub.sessions_by_shard().len()));
            put("sessions", Vec::new(), whole(hub.sessions()));
            put("sessions_max", Vec::new(), whole(hub.sessions_max()));
            let tokenless = whole(hub.tokenless());
            put("sessions_tokenless", Vec::new(), tokenless);
            let shedding = whole(hub.shedding());
            put("sessions_rebalancing", Vec::new(), shedding);
            put("queue_depth", Vec::new(), whole(hub.queue_depth()));
        }
        if let Some(topics) = self.topics.upgrade() {
            self.of_topics(&topics, put);
        }
        if let (Some(hub), Some(topics)) = (self.hub.upgrade(), self.topics.upgrade()) {
            for line in crate::http::accounts(&hub, &topics, &self.limits) {
                let label = || vec![("account", line.account.to_owned())];
                put("memory_bytes", label(), whole(line.bytes));
                put("memory_limit_bytes", label(), ceiling(line.max));
            }
        }
        self.ceilings(put);
        let left = f64::from(crate::accounts::share()) / f64::from(crate::accounts::WHOLE);
        put("memory_ceilings_ratio", Vec::new(), Reading::Real(left));
        let ready = usize::from(self.readiness.not_ready().is_empty());
        put("ready", Vec::new(), whole(ready));
        if let Some(verifier) = self.verifier.upgrade() {
            put("tokens_waiting", Vec::new(), whole(verifier.waiting()));
        }
        let rss = usize::try_from(rss_bytes()).unwrap_or(usize::MAX);
        put("resident_memory_bytes", Vec::new(), whole(rss));
        for source in self.readiness.sources() {
            let label = || vec![("source", source.name.clone())];
            let connected = usize::from(source.connected());
            put("source_connected", label(), whole(connected));
            put("source_lag_seconds", label(), seconds(source.lag_ms()));
            if let Some(reach) = source.reach() {
                let reach = Reading::Real(reach.as_secs_f64());
                put("source_reach_seconds", label(), reach);
            }
            put("source_deltas", label(), Reading::Total(source.deltas()));
        }
    }
}

impl Gauges {
    fn of_topics(&self, topics: &Topics, put: Put<'_>) {
        put("topics", Vec::new(), whole(topics.len()));
        put("unpublished_topics", Vec::new(), whole(topics.unpublished().0));
        put("history_bytes", Vec::new(), whole(topics.history_bytes()));
        let incomplete = whole(topics.incomplete_in_all());
        put("topics_incomplete", Vec::new(), incomplete);
        put("state_bytes", Vec::new(), whole(topics.state_bytes()));
        for (name, fares) in topics.freshness() {
            let label = || vec![("namespace", name.clone())];
            let count = |n: u64| Reading::Whole(i64::try_from(n).unwrap_or(i64::MAX));
            put("namespace_topics", label(), count(fares.topics));
            put("namespace_stale_topics", label(), count(fares.stale));
            put("namespace_last_delta_timestamp_seconds", label(), seconds(fares.last_ms));
        }
    }

    fn ceilings(&self, put: Put<'_>) {
        put("backlog_limit_bytes", Vec::new(), ceiling(self.limits.backlog_total_bytes));
        put("history_limit_bytes", Vec::new(), ceiling(self.limits.history_total_bytes));
        put("state_limit_bytes", Vec::new(), ceiling(self.limits.state_total_bytes));
    }
}
