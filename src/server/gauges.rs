//! What is read when metrics are asked for.

use std::sync::{Arc, Weak};

use super::rss_bytes;
use crate::config::Limits;
use crate::http::State;
use crate::hub::Hub;
use crate::metrics::{GaugeSource, Reading};
use crate::source::SourceStatus;
use crate::topic::Topics;

/// Where it is read. Nothing here keeps anything alive.
#[derive(Debug)]
pub(super) struct Gauges {
    pub(super) hub: Weak<Hub>,
    pub(super) topics: Weak<Topics>,
    pub(super) sources: Vec<Arc<SourceStatus>>,
    pub(super) ready: Weak<State>,
    pub(super) limits: Limits,
}

type Put<'a> = &'a mut dyn FnMut(&'static str, &'static str, Vec<(&'static str, String)>, Reading);

fn whole(n: usize) -> Reading {
    Reading::Whole(i64::try_from(n).unwrap_or(i64::MAX))
}

fn seconds(ms: u64) -> Reading {
    #[allow(clippy::cast_precision_loss, reason = "times in ms are far below 2^53")]
    Reading::Real(ms as f64 / 1_000.0)
}

impl GaugeSource for Gauges {
    fn gauges(&self, put: Put<'_>) {
        if let Some(hub) = self.hub.upgrade() {
            put("shards", "Shard threads", Vec::new(), whole(hub.sessions_by_shard().len()));
            put("sessions", "Sessions held now", Vec::new(), whole(hub.sessions()));
            put("sessions_max", "Sessions that can be held", Vec::new(), whole(hub.sessions_max()));
            let tokenless = whole(hub.tokenless());
            put("sessions_tokenless", "Sessions without a token held now", Vec::new(), tokenless);
            let shedding = whole(hub.shedding());
            put("sessions_shedding", "Sessions still to be closed by POST /admin/drain", Vec::new(), shedding);
            put("queue_depth", "Events waiting in the longest shard queue", Vec::new(), whole(hub.queue_depth()));
        }
        if let Some(topics) = self.topics.upgrade() {
            self.of_topics(&topics, put);
        }
        if let (Some(hub), Some(topics)) = (self.hub.upgrade(), self.topics.upgrade()) {
            for line in crate::http::memory::accounts(&hub, &topics, &self.limits) {
                let label = || vec![("account", line.account.to_owned())];
                put("memory_bytes", "Memory held, by account (docs/limits.md)", label(), whole(line.bytes));
                let help = "Ceiling on an account of memory_bytes; 0 is none";
                put("memory_limit_bytes", help, label(), whole(line.max));
            }
        }
        self.ceilings(put);
        let left = f64::from(crate::accounts::share()) / f64::from(crate::accounts::WHOLE);
        let help = "What limits.memory leaves of the ceilings on what can be let go of; 1 is all of it";
        put("memory_ceilings_ratio", help, Vec::new(), Reading::Real(left));
        if let Some(state) = self.ready.upgrade() {
            let ready = usize::from(state.not_ready().is_empty());
            put("ready", "Whether clients should be sent here", Vec::new(), whole(ready));
            let waiting = whole(state.verifier.waiting());
            put("tokens_waiting", "Tokens that wait to be verified", Vec::new(), waiting);
        }
        let rss = usize::try_from(rss_bytes()).unwrap_or(usize::MAX);
        put("resident_memory_bytes", "Resident memory", Vec::new(), whole(rss));
        for source in &self.sources {
            let label = || vec![("source", source.name.clone())];
            let connected = usize::from(source.connected());
            put("source_connected", "Whether the source can be read", label(), whole(connected));
            put("source_lag_seconds", "How far behind the source is read", label(), seconds(source.lag_ms()));
            if let Some(reach) = source.reach() {
                let reach = Reading::Real(reach.as_secs_f64());
                put(
                    "source_reach_seconds",
                    "How far back a source reaches that does not hold all its entries any more",
                    label(),
                    reach,
                );
            }
            put("source_deltas", "Deltas read from the source", label(), Reading::Total(source.deltas()));
        }
    }
}

impl Gauges {
    fn of_topics(&self, topics: &Topics, put: Put<'_>) {
        put("topics", "Published topics held now", Vec::new(), whole(topics.len()));
        let help = "Topics that only subscribers named, now; limits.unpublished_topics bounds them";
        put("unpublished_topics", help, Vec::new(), whole(topics.unpublished().0));
        put(
            "history_bytes",
            "Memory of kept deltas and made snapshots, all topics together",
            Vec::new(),
            whole(topics.history_bytes()),
        );
        let incomplete = whole(topics.incomplete_in_all());
        put("topics_incomplete", "Topics whose states may lack deltas", Vec::new(), incomplete);
        put("state_bytes", "Memory of the topics' states, all together", Vec::new(), whole(topics.state_bytes()));
        for (name, fares) in topics.freshness() {
            let label = || vec![("namespace", name.clone())];
            let count = |n: u64| Reading::Whole(i64::try_from(n).unwrap_or(i64::MAX));
            put("namespace_topics", "Topics of a namespace that have a state", label(), count(fares.topics));
            put(
                "namespace_stale_topics",
                "Topics of a namespace that were quiet for longer than its stale_after",
                label(),
                count(fares.stale),
            );
            put(
                "namespace_last_delta_timestamp_seconds",
                "When the last delta of a namespace came, Unix s",
                label(),
                seconds(fares.last_ms),
            );
        }
    }

    fn ceilings(&self, put: Put<'_>) {
        put(
            "backlog_limit_bytes",
            "Ceiling on backlog_bytes (limits.backlog_total_bytes); 0 is none",
            Vec::new(),
            whole(self.limits.backlog_total_bytes),
        );
        put(
            "history_limit_bytes",
            "Ceiling on history_bytes (limits.history_total_bytes); 0 is none",
            Vec::new(),
            whole(self.limits.history_total_bytes),
        );
        put(
            "state_limit_bytes",
            "Ceiling on state_bytes (limits.state_total_bytes); 0 is none",
            Vec::new(),
            whole(self.limits.state_total_bytes),
        );
    }
}
