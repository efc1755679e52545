//! All memory accounts together: for `/status`, `/metrics`, and a test that compares them with the
//! kernel's figure.

use crate::accounts;
use crate::hub::Hub;
use crate::memory::ResolvedLimits;
use crate::metrics::{ShardStats, Stat};
use crate::topic::Topics;

/// One account: bytes in use and their limit.
pub(crate) struct AccountUsage {
    pub(crate) account: &'static str,
    pub(crate) bytes: usize,
    pub(crate) max: Option<usize>,
}

/// Every account. No byte is in two of them.
pub(crate) fn accounts(hub: &Hub, topics: &Topics, limits: &ResolvedLimits) -> Vec<AccountUsage> {
    let stats = hub.stats();
    let sum = |read: fn(&ShardStats) -> &Stat| {
        let bytes = stats.iter().map(|stats| read(stats).get()).sum::<u64>();
        usize::try_from(bytes).unwrap_or(usize::MAX)
    };
    let usage = |account, bytes, max| AccountUsage { account, bytes, max };
    vec![
        usage("sessions", sum(|s| &s.session_bytes), None),
        usage("subscriptions", sum(|s| &s.subscription_bytes) + accounts::SUBSCRIBING.bytes(), None),
        usage("incoming", accounts::INCOMING.bytes(), limits.incoming_total_bytes),
        usage("asked", accounts::ASKED.bytes(), Some(limits.asked_total_bytes)),
        usage("outgoing", sum(|s| &s.outgoing_bytes), limits.outgoing_total_bytes),
        usage("backlog", accounts::BACKLOGS.bytes(), limits.backlog_total_bytes),
        usage("queue", hub.queue_bytes(), None),
        usage("deltas", accounts::DELTAS.bytes(), limits.deltas_total_bytes),
        usage("history", topics.history_bytes(), limits.history_total_bytes),
        usage("unpublished", topics.unpublished().1, None),
        usage("state", topics.state_bytes(), limits.state_total_bytes),
        usage("requests", accounts::REQUESTS.bytes(), limits.requests_total_bytes),
        usage("snapshots", accounts::SNAPSHOTS.bytes(), limits.snapshots_total_bytes),
        usage("answers", accounts::ANSWERS.bytes(), limits.answers_total_bytes),
    ]
}
