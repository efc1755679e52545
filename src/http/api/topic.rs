//! All plain HTTP reads except health: status, metrics, topics.

use axum::body::Body;
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;

use crate::config::PayloadForm;
use crate::http::api::answers::{Parts, Shares};
use crate::http::api::authorization;
use crate::http::api::authorization::{may_read, reader};
use crate::http::api::budget::Budget;
use crate::http::api::query::decoded;
use crate::http::failure::failure;
use crate::http::state::Shared;
use crate::name::TopicName;
use crate::protocol::base64_json;

/// `GET /api/topics/{topic}`: the snapshot, with an `ETag` that names this body.
pub(in crate::http) async fn topic(state: Shared, extensions: Extensions, headers: HeaderMap, uri: Uri) -> Response {
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
    // An incomplete state differs from node to node, so no tag can name it.
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
    // The data is inserted unchanged, so that numbers keep their digits, and shared by all readers.
    // Binary data is encoded for this answer alone.
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
