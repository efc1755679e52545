//! The health of all nodes: each reports about once a second; together the reports are the topic
//! `ops:nodes`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::unix_ms;
use crate::metrics::ShardStats;

/// A node without a report for this long is gone.
const SILENT_MS: u64 = 60_000;

/// A node with a report within this time counts as present.
const LATELY_MS: u64 = 5_000;

/// The health of one node. Counters count from its start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in /status and /metrics")]
pub struct NodeReport {
    pub name: String,
    pub version: String,
    /// Unix ms of this report.
    pub at: u64,
    /// Unix ms.
    pub started_at: u64,
    pub ready: bool,
    pub reasons: Vec<String>,
    pub draining: bool,
    pub sessions: usize,
    pub sessions_max: usize,
    pub sessions_by_shard: Vec<usize>,
    pub subscriptions: u64,
    pub topics: usize,
    pub slow_sessions: u64,
    pub backlog_bytes: u64,
    pub queue_depth: usize,
    pub deltas: u64,
    pub deliveries: u64,
    pub conflated: u64,
    /// Earlier versions call it `visits`.
    #[serde(alias = "visits")]
    pub writes: u64,
    pub sent_bytes: u64,
    pub closes: u64,
    pub rss_bytes: u64,
    /// Per second, since the previous report.
    pub rates: BTreeMap<String, f64>,
    pub sources: Vec<SourceReport>,
}

/// The health of one source of a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in /status")]
pub struct SourceReport {
    pub name: String,
    pub connected: bool,
    pub lag_ms: u64,
    pub deltas: u64,
    pub note: Option<String>,
}

/// Makes reports; remembers the previous one.
pub struct Reporter {
    last: Option<(Instant, [u64; 5])>,
}

impl Reporter {
    /// No report yet.
    pub fn new() -> Self {
        Self { last: None }
    }

    /// Adds the shards' counts and their rates per second.
    pub fn fill(&mut self, report: &mut NodeReport, shards: &[Arc<ShardStats>]) {
        let sum = |read: fn(&ShardStats) -> u64| shards.iter().map(|s| read(s)).sum::<u64>();
        report.subscriptions = sum(|s| s.subscriptions.get());
        report.slow_sessions = sum(|s| s.slow_sessions.get());
        report.backlog_bytes = sum(|s| s.backlog_bytes.get());
        report.deliveries = sum(|s| s.deliveries.get());
        report.conflated = sum(|s| s.conflated.get());
        report.writes = sum(|s| s.writes.get());
        report.sent_bytes = sum(|s| s.bytes.get());
        report.closes = sum(|s| s.closes.iter().map(crate::metrics::Stat::get).sum());
        let names = ["deltas", "deliveries", "conflated", "writes", "sent_bytes"];
        let counts = [report.deltas, report.deliveries, report.conflated, report.writes, report.sent_bytes];
        let now = Instant::now();
        // The first report has no rates yet: 0.
        let (then, before) = self.last.unwrap_or((now, counts));
        let seconds = now.duration_since(then).as_secs_f64().max(0.001);
        let rates = counts.iter().zip(before).map(|(now, before)| {
            #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = now.saturating_sub(before) as f64 / seconds;
            (rate * 10.0).round() / 10.0
        });
        report.rates = names.iter().map(|name| (*name).to_owned()).zip(rates).collect();
        self.last = Some((now, counts));
    }
}

impl Default for Reporter {
    fn default() -> Self {
        Self::new()
    }
}

/// All known nodes.
pub struct Nodes {
    own: Arc<str>,
    reports: Mutex<BTreeMap<String, (u64, Option<NodeReport>)>>,
}

impl Nodes {
    pub(super) fn new(own: Arc<str>) -> Self {
        Self { own, reports: Mutex::default() }
    }

    fn put(&self, node: &str, report: Option<NodeReport>) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.insert(node.to_owned(), (unix_ms(), report));
    }

    pub(super) fn on_report(&self, node: &str, report: NodeReport) {
        self.put(node, Some(report));
    }

    pub(super) fn own(&self, report: NodeReport) {
        self.put(&self.own, Some(report));
    }

    pub(super) fn on_leave(&self, node: &str) {
        self.put(node, None);
    }

    /// Number of other nodes.
    pub(super) fn others(&self) -> usize {
        let now_ms = unix_ms();
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = |(name, (heard, report)): (&String, &(u64, Option<NodeReport>))| {
            **name != *self.own && report.is_some() && now_ms.saturating_sub(*heard) < LATELY_MS
        };
        reports.iter().filter(|entry| alive(*entry)).count()
    }

    /// The mean number of sessions per node, rounded up, over this node (which has `own`) and the
    /// other nodes that are ready and have reported lately. None without such a node.
    pub fn mean_sessions(&self, own: usize) -> Option<usize> {
        let now_ms = unix_ms();
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let others: Vec<usize> = reports
            .iter()
            .filter(|(name, (heard, _))| **name != *self.own && now_ms.saturating_sub(*heard) < LATELY_MS)
            .filter_map(|(_, (_, report))| report.as_ref().filter(|report| report.ready).map(|report| report.sessions))
            .collect();
        (!others.is_empty()).then(|| (own + others.iter().sum::<usize>()).div_ceil(others.len() + 1))
    }

    /// The newest report of each node.
    pub fn reports(&self) -> Vec<(String, NodeReport)> {
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.iter().filter_map(|(name, (_, report))| Some((name.clone(), report.clone()?))).collect()
    }

    /// The changes, as a merge patch on an object of all nodes. Nodes silent for long are removed.
    pub fn patch(&self) -> Value {
        let now_ms = unix_ms();
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        for (heard, report) in reports.values_mut() {
            if now_ms.saturating_sub(*heard) > SILENT_MS {
                *report = None;
            }
        }
        let patch = reports.iter().map(|(name, (_, report))| (name.clone(), json!(report))).collect();
        reports.retain(|_, (_, report)| report.is_some());
        Value::Object(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_of_this_node_and_of_those_that_are_ready() {
        let nodes = Nodes::new("own".into());
        assert_eq!(nodes.mean_sessions(100), None);
        let report = |sessions, ready| NodeReport { sessions, ready, ..NodeReport::default() };
        nodes.own(report(7, true));
        assert_eq!(nodes.mean_sessions(100), None, "its own report is no other node");
        nodes.on_report("a", report(50, true));
        nodes.on_report("b", report(31, true));
        assert_eq!(nodes.mean_sessions(100), Some(61), "181 by three, rounded up");
        nodes.on_report("b", report(31, false));
        assert_eq!(nodes.mean_sessions(100), Some(75));
        nodes.on_leave("a");
        assert_eq!(nodes.mean_sessions(100), None);
    }
}
