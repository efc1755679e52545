//! The key of a request to the API: whether there is one, and what it may do.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::auth::ApiKey;
use crate::http::api::in_progress::Begun;
use crate::http::api::members::shown;
use crate::http::failure::failure;
use crate::http::ops::readiness::Readiness;
use crate::http::state::{Api, Of, State};
use crate::limits::TOPIC_NAME_BYTES_MAX;
use crate::metrics::{Metrics, PublishRefusal};
use crate::protocol::Refusal;

/// The commands of publishers, by the last part of their path.
const PUBLISHING: [&str; 3] = ["publish", "broadcast", "batch"];

/// The names of these commands.
pub(in crate::http) const ORDERS: [&str; 11] = [
    "history",
    "history_remove",
    "presence",
    "presence_stats",
    "channels",
    "info",
    "disconnect",
    "unsubscribe",
    "subscribe",
    "refresh",
    "rpc",
];

/// Refuses requests to the publish API without a valid key before their body is read, so that a
/// client without a key takes up no memory.
pub(in crate::http) async fn known(
    api: Of<Api>,
    metrics: Of<Metrics>,
    readiness: Of<Readiness>,
    request: Request,
    next: Next,
) -> Response {
    if is_command(&request) {
        metrics.publish_requests.inc();
        if let Err(refused) = entitled(&api, &metrics, &readiness, request.headers()) {
            return refused;
        }
    }
    next.run(request).await
}

/// Whether a request is one to the API with its keys. Other methods and paths need no key.
pub(in crate::http) fn is_command(request: &Request) -> bool {
    let path = request.uri().path();
    let is_known = |name: &str| PUBLISHING.contains(&name) || ORDERS.contains(&name);
    request.method() == Method::POST && (path == "/api" || path.strip_prefix("/api/").is_some_and(is_known))
}

/// A request with a valid key.
pub(in crate::http) struct Admitted<'a> {
    /// The request's key.
    pub(in crate::http) key: &'a ApiKey,
    _begun: Begun<'a>,
}

/// Checks the key of a request, and counts the request as in progress.
#[allow(clippy::result_large_err, reason = "the error is the response itself, made once a refused request")]
pub(in crate::http) fn admit<'a>(state: &'a State, headers: &HeaderMap) -> Result<Admitted<'a>, Response> {
    // Counted before `draining` is checked: a drain waits for counted requests and refuses the
    // others.
    let begun = state.api.in_progress.begin();
    let key = entitled(&state.api, &state.metrics, &state.readiness, headers)?;
    state.metrics.used_key(&key.name);
    Ok(Admitted { key, _begun: begun })
}

/// The key of a request: in `X-API-Key`, or as `Authorization: apikey …`.
fn given(headers: &HeaderMap) -> &[u8] {
    if let Some(key) = headers.get("x-api-key") {
        return key.as_bytes();
    }
    let authorization = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    match authorization.split_at_checked(b"apikey ".len()) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"apikey ") => key.trim_ascii(),
        _ => &[],
    }
}

/// The key of the request, if the API is enabled for it.
#[allow(clippy::result_large_err, reason = "the error is the response itself, made once a refused request")]
fn entitled<'a>(
    api: &'a Api,
    metrics: &Metrics,
    readiness: &Readiness,
    headers: &HeaderMap,
) -> Result<&'a ApiKey, Response> {
    let refuse = |reason: PublishRefusal, status, message: &str| {
        metrics.refused_publish(reason);
        tracing::debug!(reason = reason.label(), "a request to the API was refused");
        Err(failure(status, message))
    };
    if api.keys.is_off() {
        return refuse(
            PublishRefusal::Off,
            StatusCode::FORBIDDEN,
            "the publish API is off: it has no key (publish.keys, publish.key)",
        );
    }
    let Some(key) = api.keys.find(given(headers)) else {
        let message = "X-API-Key (or Authorization: apikey …) is missing or not known";
        return refuse(PublishRefusal::Key, StatusCode::UNAUTHORIZED, message);
    };
    if !is_json(headers) {
        let kind = headers.get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or("no text"));
        let message = format!("Content-Type must be application/json, and is {}", kind.map_or("missing", shown));
        return refuse(PublishRefusal::ContentType, StatusCode::UNSUPPORTED_MEDIA_TYPE, &message);
    }
    // Without a stream behind it, a delta accepted now could not reach sessions that are being
    // closed.
    if readiness.is_draining() && !api.publisher.is_durable() {
        return refuse(PublishRefusal::Draining, StatusCode::SERVICE_UNAVAILABLE, "this server is shutting down");
    }
    Ok(key)
}

/// Whether a request is declared as JSON: without a preflight, a page of another origin can send a
/// body but not this type.
pub(in crate::http) fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    // The media type alone (RFC 9110 §8.3.1), whatever its parameters: `application/jsonp` is
    // another.
    let kind = kind.and_then(|kind| kind.split(';').next()).map(|kind| kind.trim().to_ascii_lowercase());
    kind.is_some_and(|kind| {
        let json = |suffix: &str| {
            kind.strip_prefix("application/").is_some_and(|sub| sub.ends_with(suffix) && sub.len() > suffix.len())
        };
        kind == "application/json" || json("+json")
    })
}

/// The refusal of a key that lacks a scope.
pub(in crate::http) fn beyond(state: &State, key: &ApiKey) -> Refusal {
    state.metrics.refused_publish(PublishRefusal::Scope);
    tracing::debug!(key = %key.name, "a key was used for a command outside of its scopes");
    Refusal::new(403, format!("the key `{}` is not for this (scopes)", key.name))
}

/// The refusal of a topic that a key does not have.
pub(in crate::http) fn foreign(state: &State, key: &ApiKey, topic: &str) -> Refusal {
    state.metrics.refused_publish(PublishRefusal::Topic);
    tracing::debug!(key = %key.name, topic, "a key was used for a topic that it does not have");
    let shown = topic.get(..topic.floor_char_boundary(TOPIC_NAME_BYTES_MAX)).unwrap_or_default();
    Refusal::new(403, format!("the key `{}` does not have the topic `{shown}` (topics)", key.name))
}

/// Why a key for some topics may not act on whole sessions.
pub(in crate::http) fn needs_all_topics(key: &ApiKey) -> String {
    format!("this concerns whole sessions, and the key `{}` is for some topics; it needs topics = [\"*\"]", key.name)
}
