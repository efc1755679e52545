//! One metric family for all limits: how often each was reached. Computed on request from counts
//! that exist anyway.

use std::sync::Arc;

use super::counts::{Metrics, Reason};
use super::labels::{PublishRefusal, SubscribeAhead, TokenRefusal, UpgradeRefusal};
use super::stats::ShardStats;
use crate::wire::close::CloseReason;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// Each limit by its key (or, without one, by the thing that it bounds), and how often it was
/// reached.
pub(super) fn limits_reached(metrics: &Metrics, shards: &[Arc<ShardStats>]) -> Vec<(&'static str, u64)> {
    let closes = |reason| shards.iter().map(|s| s.closes_for(reason)).sum::<u64>();
    let sum = |read: fn(&ShardStats) -> u64| shards.iter().map(|s| read(s)).sum::<u64>();
    let of = |family: &Family<Reason, Counter>, reason| family.get(&Reason { reason }).map_or(0, |c| c.get());
    let upgrades = |reason: UpgradeRefusal| of(&metrics.upgrades_refused, reason.label());
    let deltas = |reason| of(&metrics.deltas_refused, reason);
    let evicted = sum(|s| s.backlog_evictions.get());
    vec![
        ("max_sessions", upgrades(UpgradeRefusal::Full)),
        ("sessions_per_address", upgrades(UpgradeRefusal::AddressSessions)),
        ("new_sessions_per_address", upgrades(UpgradeRefusal::AddressRate)),
        ("listed_topics_per_second", metrics.listings_refused.get()),
        (
            "sessions_per_user",
            upgrades(UpgradeRefusal::UserSessions).saturating_add(closes(CloseReason::TooManySessions)),
        ),
        ("token_failures", closes(CloseReason::TooManyTokens)),
        ("token_failures_per_address", of(&metrics.tokens_refused, TokenRefusal::Failures.label())),
        ("tokens_waiting", of(&metrics.tokens_refused, TokenRefusal::Waiting.label())),
        ("http_connections", metrics.http_refused.get()),
        ("connections_per_address", metrics.http_address_refused.get()),
        ("keep_alive_timeout", metrics.http_idle_closed.get()),
        ("key_waiters", metrics.key_waits_refused.get()),
        ("handshake_timeout", metrics.handshake_timeouts.get()),
        ("first_command_timeout", closes(CloseReason::NoCommand).saturating_add(closes(CloseReason::SlowMessage))),
        ("token_timeout", closes(CloseReason::NoToken)),
        ("tokenless_share", upgrades(UpgradeRefusal::Tokenless)),
        (
            "reply_bytes_per_second",
            metrics.replies_refused.get().saturating_add(sum(|s| s.snapshots_refused.get() + s.states_delayed.get())),
        ),
        (
            "reply_bytes_per_address",
            metrics
                .replies_refused_by_address
                .get()
                .saturating_add(sum(|s| s.snapshots_refused_by_address.get() + s.states_delayed_by_address.get())),
        ),
        ("inflated_bytes_per_second", sum(|s| s.reads_paused_inflate.get())),
        ("memberships_waiting", sum(|s| s.memberships_dropped.get())),
        ("membership_bytes_per_second", sum(|s| s.memberships_delayed.get())),
        ("announced_per_second", sum(|s| s.announcements_withheld.get())),
        ("pong_timeout", closes(CloseReason::NoPong)),
        ("message_bytes", closes(CloseReason::MessageTooBig)),
        ("commands_per_second", closes(CloseReason::TooManyRequests)),
        ("subscriptions", sum(|s| s.subscriptions_refused.get())),
        ("backlog_bytes", closes(CloseReason::Slow).saturating_sub(evicted)),
        ("backlog_total_bytes", evicted),
        ("history_total_bytes", metrics.history_evicted.get()),
        ("state_total_bytes", metrics.state_refused.get()),
        ("deltas_total_bytes", sum(|s| s.recent_deltas_evicted.get())),
        ("incoming_total_bytes", sum(|s| s.incoming_evictions.get())),
        ("asked_total_bytes", sum(|s| s.pending_requests_refused.get())),
        ("outgoing_total_bytes", sum(|s| s.writes_early.get())),
        ("memory", metrics.memory_ceilings_lowered.get()),
        ("snapshots_total_bytes", metrics.snapshots_delayed.get()),
        ("requests_total_bytes", metrics.requests_refused.get()),
        ("answers_total_bytes", metrics.answers_refused.get()),
        ("unpublished_topics", metrics.unpublished_refused.get()),
        ("topics", metrics.topics_refused.get()),
        ("delta_bytes", deltas("too_large")),
        ("merge_state_bytes", deltas("state_too_large")),
        ("batch_commands", of(&metrics.publish_refused, PublishRefusal::BatchTooLong.label())),
        ("queue_events", metrics.queue_full.get()),
        ("subscribes_waiting", of(&metrics.subscribes_ahead, SubscribeAhead::TooMany.label())),
    ]
}
