//! All accounts of memory together: what `/status` and `/metrics` show, and what a test compares with the kernel's figure.

use crate::accounts;
use crate::config::Limits;
use crate::hub::Hub;
use crate::metrics::{ShardStats, Stat};
use crate::topic::Topics;

/// One account: bytes now, and its ceiling; 0 is none.
pub(crate) struct Line {
    pub(crate) account: &'static str,
    pub(crate) bytes: usize,
    pub(crate) max: usize,
}

/// Every account. Nothing is in two of them.
pub(crate) fn accounts(hub: &Hub, topics: &Topics, limits: &Limits) -> Vec<Line> {
    let stats = hub.stats();
    let sum = |read: fn(&ShardStats) -> &Stat| {
        let bytes = stats.iter().map(|stats| read(stats).get()).sum::<u64>();
        usize::try_from(bytes).unwrap_or(usize::MAX)
    };
    let line = |account, bytes, max| Line { account, bytes, max };
    vec![
        line("sessions", sum(|s| &s.session_bytes), 0),
        line("subscriptions", sum(|s| &s.subscription_bytes) + accounts::SUBSCRIBING.bytes(), 0),
        line("incoming", accounts::INCOMING.bytes(), limits.incoming_total_bytes),
        line("asked", accounts::ASKED.bytes(), limits.asked_total_bytes),
        line("outgoing", sum(|s| &s.outgoing_bytes), limits.outgoing_total_bytes),
        line("backlog", accounts::BACKLOGS.bytes(), limits.backlog_total_bytes),
        line("queue", hub.queue_bytes(), 0),
        line("deltas", accounts::DELTAS.bytes(), limits.deltas_total_bytes),
        line("history", topics.history_bytes(), limits.history_total_bytes),
        line("unpublished", topics.unpublished().1, 0),
        line("state", topics.state_bytes(), limits.state_total_bytes),
        line("requests", accounts::REQUESTS.bytes(), limits.requests_total_bytes),
        line("snapshots", accounts::SNAPSHOTS.bytes(), limits.snapshots_total_bytes),
        line("answers", accounts::ANSWERS.bytes(), limits.answers_total_bytes),
    ]
}
