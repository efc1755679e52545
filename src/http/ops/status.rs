//! `GET /metrics` and `GET /status`.

use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use crate::config::OPS;
use crate::http::state::{Of, Process, Shared};
use crate::metrics::{AGE_BUCKETS_MS, Stat};
use crate::wire::close::CloseReason;

/// `GET /metrics`: OpenMetrics for clients that ask for it, as Prometheus does.
pub(in crate::http) async fn metrics(process: Of<Process>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let (kind, text) = if accept.contains("application/openmetrics-text") {
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", crate::metrics::text(&process.registry))
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", crate::metrics::classic_text(&process.registry))
    };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// `GET /status`
pub(in crate::http) async fn status(state: Shared) -> Response {
    let stats = state.hub.stats();
    let sum = |read: fn(&crate::metrics::ShardStats) -> u64| stats.iter().map(|s| read(s)).sum::<u64>();
    let sources: Vec<_> = state
        .readiness
        .sources()
        .iter()
        .map(|s| {
            json!({
                "name": s.name, "connected": s.connected(), "deltas": s.deltas(), "skipped": s.skipped(),
                "lag_ms": s.lag_ms(), "note": s.last_note(), "misplaced": s.misplaced(),
                // Older deltas are missing; `null` if history reaches back to the beginning.
                "reach_s": s.reach().map(|reach| reach.as_secs()),
                // The newest of each reason (docs/redis.md).
                "refused": s.refused(), "suspicious": s.suspicious(),
            })
        })
        .collect();
    // As of the last check, at most a second ago; configured namespaces are shown even if they
    // never had a delta.
    let mut fares = state.topics.freshness();
    for name in state.config.namespace.keys().filter(|name| *name != OPS) {
        fares.entry(name.clone()).or_default();
    }
    let namespaces: serde_json::Map<String, serde_json::Value> = fares
        .into_iter()
        .map(|(name, fares)| {
            let last_ms = (fares.last_ms > 0).then_some(fares.last_ms);
            (name, json!({"topics": fares.topics, "stale": fares.stale, "last_delta_ms": last_ms}))
        })
        .collect();
    let sessions = state.hub.sessions();
    let rss = crate::memory::rss_bytes();
    let reasons = state.readiness.not_ready();
    let by_shard = state.hub.sessions_by_shard();
    let shards: Vec<_> = stats
        .iter()
        .zip(&by_shard)
        .map(|(s, sessions)| {
            json!({
                "sessions": sessions, "busy_us": s.busy_us.get(), "deliveries": s.deliveries.get(),
                "writes": s.writes.get(), "io_uring": s.io_uring.get() == 1,
            })
        })
        .collect();
    let ages: Vec<u64> = (0..=AGE_BUCKETS_MS.len())
        .map(|i| stats.iter().filter_map(|s| s.age_counts.get(i)).map(Stat::get).sum())
        .collect();
    let closed = |reason| stats.iter().map(|s| s.closes_for(reason)).sum::<u64>();
    let closes: serde_json::Map<String, serde_json::Value> = CloseReason::ALL
        .iter()
        .map(|reason| (reason.label().to_owned(), closed(*reason)))
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason, count.into()))
        .collect();
    let limits = &state.limits;
    let held = |now: u64, max: Option<usize>| json!({"now": now, "max": max});
    let lines = crate::http::ops::memory::accounts(&state.hub, &state.topics, limits);
    let counted: usize = lines.iter().map(|line| line.bytes).sum();
    let accounts: serde_json::Map<String, serde_json::Value> =
        lines.iter().map(|line| (line.account.to_owned(), held(line.bytes as u64, line.max))).collect();
    let mut status = json!({
        "name": state.config.server.name,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": state.process.started.elapsed().as_secs(),
        "ready": reasons.is_empty(),
        "reasons": reasons,
        "draining": state.readiness.is_draining(),
        "sessions": {"now": sessions, "max": state.hub.sessions_max(), "by_shard": by_shard, "slow": sum(|s| s.slow_sessions.get())},
        "topics": state.topics.len(),
        "namespaces": namespaces,
        "topics_incomplete": state.topics.incomplete_in_all(),
        "deltas": state.metrics.deltas.get(),
        "queue_depth": state.hub.queue_depth(),
        "shards": shards,
        // Deliveries by age; the last count is of those older than the last bound.
        "age_ms": {"bounds": AGE_BUCKETS_MS, "counts": ages},
        "closes": closes,
        "memory": {
            "rss_bytes": rss,
            "backlog_bytes": held(sum(|s| s.backlog_bytes.get()), limits.backlog_total_bytes),
            "history_bytes": held(state.topics.history_bytes() as u64, limits.history_total_bytes),
            "state_bytes": held(state.topics.state_bytes() as u64, limits.state_total_bytes),
            "rss_at_start_bytes": state.process.base_rss_bytes,
            // The holders of memory, each byte counted once; the rest of the resident memory is the
            // program's own.
            "accounts": accounts,
            "counted_bytes": counted,
            // Everything that has grown since the start, topics and history included: an upper
            // bound.
            "bytes_per_session": rss.saturating_sub(state.process.base_rss_bytes).checked_div(sessions as u64),
        },
        "sources": sources,
    });
    let totals = crate::metrics::totals(&stats).map(|(name, total)| (name.to_owned(), total.into()));
    if let Some(status) = status.as_object_mut() {
        status.extend(totals);
    }
    axum::Json(status).into_response()
}
