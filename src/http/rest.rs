//! Everything that is read over plain HTTP but health: status, metrics, topics.

use std::net::IpAddr;

use axum::body::Body;
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;

use super::answers::{Parts, Shares};
use super::budget::Budget;
use super::query::decoded;
use super::{Shared, authorization, failure};
use crate::auth::{Denied, Identity, may_have};
use crate::config::{OPS, PayloadForm};
use crate::metrics::{AGE_BUCKETS_MS, Stat};
use crate::name::TopicName;
use crate::protocol::base64_json;
use crate::wire::close::CloseReason;

/// `GET /metrics`: as OpenMetrics for clients that ask for it, as Prometheus does.
pub(super) async fn metrics(state: Shared, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let (kind, text) = if accept.contains("application/openmetrics-text") {
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", crate::metrics::text(&state.registry))
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", crate::metrics::classic_text(&state.registry))
    };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// `GET /status`
pub(super) async fn status(state: Shared) -> Response {
    let stats = state.hub.stats();
    let sum = |read: fn(&crate::metrics::ShardStats) -> u64| stats.iter().map(|s| read(s)).sum::<u64>();
    let sources: Vec<_> = state
        .sources
        .iter()
        .map(|s| {
            json!({
                "name": s.name, "connected": s.connected(), "deltas": s.deltas(), "skipped": s.skipped(),
                "lag_ms": s.lag_ms(), "note": s.last_note(), "misplaced": s.misplaced(),
                // What is older is gone from it; `null` if it reaches back to its beginning.
                "reach_s": s.reach().map(|reach| reach.as_secs()),
                // The newest of each reason (docs/redis.md).
                "refused": s.refused(), "suspicious": s.suspicious(),
            })
        })
        .collect();
    // As of the last look, a second ago at most; those that are configured also where nothing ever came.
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
    let rss = crate::server::rss_bytes();
    let reasons = state.not_ready();
    let by_shard = state.hub.sessions_by_shard();
    let shards: Vec<_> = stats
        .iter()
        .zip(&by_shard)
        .map(|(s, sessions)| {
            json!({
                "sessions": sessions, "busy_us": s.busy_us.get(), "deliveries": s.deliveries.get(),
                "visits": s.visits.get(), "io_uring": s.io_uring.get() == 1,
            })
        })
        .collect();
    let ages: Vec<u64> = (0..=AGE_BUCKETS_MS.len())
        .map(|i| stats.iter().filter_map(|s| s.age_counts.get(i)).map(Stat::get).sum())
        .collect();
    let closed = |i: usize| stats.iter().filter_map(|s| s.closes.get(i)).map(Stat::get).sum::<u64>();
    let closes: serde_json::Map<String, serde_json::Value> = CloseReason::ALL
        .iter()
        .enumerate()
        .map(|(i, reason)| (reason.reason().to_owned(), closed(i)))
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason, count.into()))
        .collect();
    let limits = &state.config.limits;
    // Without a ceiling there is none to show.
    let held = |now: u64, max: usize| json!({"now": now, "max": (max > 0).then_some(max)});
    let lines = super::memory::accounts(&state.hub, &state.topics, limits);
    let counted: usize = lines.iter().map(|line| line.bytes).sum();
    let accounts: serde_json::Map<String, serde_json::Value> =
        lines.iter().map(|line| (line.account.to_owned(), held(line.bytes as u64, line.max))).collect();
    axum::Json(json!({
        "name": state.config.server.name,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": state.started.elapsed().as_secs(),
        "ready": reasons.is_empty(),
        "reasons": reasons,
        "draining": state.is_draining(),
        "sessions": {"now": sessions, "max": state.hub.sessions_max(), "by_shard": by_shard, "slow": sum(|s| s.slow_sessions.get())},
        "subscriptions": sum(|s| s.subscriptions.get()),
        "topics": state.topics.len(),
        "namespaces": namespaces,
        "topics_incomplete": state.topics.incomplete_in_all(),
        "deltas": state.metrics.deltas.get(),
        "deliveries": sum(|s| s.deliveries.get()),
        "conflated": sum(|s| s.conflated.get()),
        "visits": sum(|s| s.visits.get()),
        "sent_bytes": sum(|s| s.bytes.get()),
        "backlog_bytes": sum(|s| s.backlog_bytes.get()),
        "queue_depth": state.hub.queue_depth(),
        "shards": shards,
        // Deliveries by their age; the last count is of what was older than the last bound.
        "age_ms": {"bounds": AGE_BUCKETS_MS, "counts": ages},
        "closes": closes,
        "memory": {
            "rss_bytes": rss,
            "backlog_bytes": held(sum(|s| s.backlog_bytes.get()), limits.backlog_total_bytes),
            "history_bytes": held(state.topics.history_bytes() as u64, limits.history_total_bytes),
            "state_bytes": held(state.topics.state_bytes() as u64, limits.state_total_bytes),
            "rss_at_start_bytes": state.base_rss_bytes,
            // What holds memory and how much, each byte once; the rest of what is resident is the program's own.
            "accounts": accounts,
            "counted_bytes": counted,
            // Everything that grew since the start, topics and history too: an upper bound.
            "bytes_per_session": rss.saturating_sub(state.base_rss_bytes).checked_div(sessions as u64),
        },
        "sources": sources,
    }))
    .into_response()
}

/// The client of a request, by the token that it shows.
pub(super) async fn reader(
    state: &super::State,
    client: Option<IpAddr>,
    headers: &HeaderMap,
) -> Result<Option<Identity>, Box<Response>> {
    match authorization::identity(state, client, headers).await {
        Ok(identity) => Ok(identity),
        // Where no token is needed, one that is not good does no harm; a header that shows none at all is a mistake.
        Err(_) if state.config.access.anonymous && authorization::bearer(headers).is_ok() => Ok(None),
        Err(error) => Err(Box::new(authorization::refused(&error))),
    }
}

/// Whether REST may show a topic: as much as the same client may subscribe to.
pub(super) fn may_read(
    state: &super::State,
    reader: Option<&Identity>,
    topic: &TopicName,
) -> Result<(), (StatusCode, String)> {
    let no_token = || (StatusCode::UNAUTHORIZED, "a token is needed: Authorization: Bearer …".to_owned());
    may_have(&state.config, reader, topic).map_err(|denied| match denied {
        Denied::NoToken => no_token(),
        // A client that is not known is told the same of a namespace that is closed to it and of none.
        Denied::UnknownNamespace if reader.is_none() && state.config.access.has_keys() => no_token(),
        Denied::UnknownNamespace => (StatusCode::NOT_FOUND, denied.to_string()),
        _ => (StatusCode::FORBIDDEN, denied.to_string()),
    })
}

/// `GET /api/topics/{topic}`: the snapshot, with an `ETag` that names this body.
pub(super) async fn topic(state: Shared, extensions: Extensions, headers: HeaderMap, uri: Uri) -> Response {
    let client = authorization::client(&state, &extensions, &headers);
    let reader = match reader(&state, client, &headers).await {
        Ok(reader) => reader,
        Err(refused) => return *refused,
    };
    if reader.is_none() && !state.config.access.anonymous {
        return authorization::no_token();
    }
    let name = decoded(uri.path().strip_prefix("/api/topics/").unwrap_or_default());
    let name = match name.and_then(|name| TopicName::new(&name).map_err(|error| error.to_string())) {
        Ok(name) => name,
        Err(reason) => return failure(StatusCode::BAD_REQUEST, format!("the topic's name: {reason}")),
    };
    if let Err((status, reason)) = may_read(&state, reader.as_ref(), &name) {
        return if status == StatusCode::UNAUTHORIZED { authorization::no_token() } else { failure(status, reason) };
    }
    let Some(view) = state.topics.view(&name) else {
        return failure(StatusCode::NOT_FOUND, format!("nothing was published on {name}, or it has ended"));
    };
    let snapshot = &view.snapshot;
    let stale = if view.stale { format!("-stale{}", view.active_ms) } else { String::new() };
    let etag = format!("\"{}-{}-{:x}{stale}\"", snapshot.epoch, snapshot.offset, snapshot.digest());
    let same = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag));
    let incomplete = snapshot.known.may_lack();
    let mut caching = HeaderMap::new();
    // What may be incomplete differs from node to node: no tag names it.
    match HeaderValue::from_str(&etag) {
        Ok(etag) if !incomplete => {
            caching.insert(header::ETAG, etag);
            caching.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        _ => {
            caching.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
    }
    if same && !incomplete {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    let budget = Budget::of(&state, reader.as_ref(), client);
    if let Some(refused) = budget.as_ref().and_then(|budget| budget.refusal(&state)) {
        return refused;
    }
    let mut body = json!({
        "topic": snapshot.topic.as_str(), "offset": snapshot.offset, "epoch": snapshot.epoch, "ts": snapshot.ts,
        "stale_since": view.stale.then_some(view.active_ms),
    });
    if let (true, Some(body)) = (incomplete, body.as_object_mut()) {
        body.insert("incomplete".into(), true.into());
    }
    // The data goes in as it is, so that numbers keep their digits, and is shared by all who ask for it. Bytes are written
    // for this answer alone.
    let bytes = snapshot.form == PayloadForm::Bytes;
    let data = if bytes { base64_json(&snapshot.data).into() } else { snapshot.data.clone() };
    let mut head = body.to_string();
    head.pop();
    head.push_str(if bytes { ",\"encoding\":\"base64\",\"data\":" } else { ",\"data\":" });
    let own_bytes = head.len() + 1 + if bytes { data.len() } else { 0 };
    if let Some(budget) = budget {
        budget.charge(head.len() + data.len());
    }
    let shares = Shares { snapshot: view.snapshot.clone(), own_bytes };
    let parts = Parts::new([head.into(), data, Bytes::from_static(b"}")]);
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (caching, kind, axum::Extension(shares), Body::new(parts)).into_response()
}
