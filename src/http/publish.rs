//! The publish API, in Centrifugo's request form: `{"channel":…,"data":…}` with the key in `X-API-Key`.

use std::sync::atomic::Ordering;

use axum::body::Bytes as Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;

use super::operate::{self, Outcome};
use super::{Shared, State, failure};
use crate::limits::BATCH_COMMANDS_MAX;
use crate::source::publish::Failure;
use crate::topic::{Kind, Payload};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish<'a> {
    #[serde(alias = "topic")]
    channel: String,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    kind: Option<KindName>,
    #[serde(default)]
    ts: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Broadcast<'a> {
    #[serde(alias = "topics")]
    channels: Vec<String>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    kind: Option<KindName>,
    #[serde(default)]
    ts: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch<'a> {
    #[serde(borrow)]
    commands: Vec<Command<'a>>,
    /// Accepted for Centrifugo's sake; commands are carried out in order either way.
    #[serde(default, rename = "parallel")]
    _parallel: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Command<'a> {
    #[serde(borrow)]
    Publish(Publish<'a>),
    #[serde(borrow)]
    Broadcast(Broadcast<'a>),
    History(operate::History),
    Presence(operate::Channel),
    PresenceStats(operate::Channel),
    Channels(operate::Channels),
    Disconnect(operate::Disconnect),
    Unsubscribe(operate::Unsubscribe),
    Info(operate::Info),
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum KindName {
    Delta,
    Snapshot,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Delta => Self::Delta,
            KindName::Snapshot => Self::Snapshot,
        }
    }
}

/// `POST /api/publish`
pub(super) async fn publish(state: Shared, headers: HeaderMap, body: Body) -> Response {
    let _under_way = match admit(&state, &headers) {
        Ok(under_way) => under_way,
        Err(refused) => return refused,
    };
    match serde_json::from_slice::<Publish<'_>>(&body) {
        Ok(command) => {
            let (status, reply) = one(&state, command).await;
            (status, axum::Json(reply)).into_response()
        }
        Err(error) => malformed(&state, &error),
    }
}

/// `POST /api/broadcast`
pub(super) async fn broadcast(state: Shared, headers: HeaderMap, body: Body) -> Response {
    let _under_way = match admit(&state, &headers) {
        Ok(under_way) => under_way,
        Err(refused) => return refused,
    };
    match serde_json::from_slice::<Broadcast<'_>>(&body) {
        Ok(command) => (StatusCode::OK, axum::Json(all(&state, command).await)).into_response(),
        Err(error) => malformed(&state, &error),
    }
}

/// `POST /api/batch`
pub(super) async fn batch(state: Shared, headers: HeaderMap, body: Body) -> Response {
    let _under_way = match admit(&state, &headers) {
        Ok(under_way) => under_way,
        Err(refused) => return refused,
    };
    let batch = match serde_json::from_slice::<Batch<'_>>(&body) {
        Ok(batch) => batch,
        Err(error) => return malformed(&state, &error),
    };
    if batch.commands.len() > BATCH_COMMANDS_MAX {
        state.metrics.refused_publish("batch_too_long");
        let message = format!("{} commands, the most is {BATCH_COMMANDS_MAX}", batch.commands.len());
        return failure(StatusCode::PAYLOAD_TOO_LARGE, message);
    }
    let mut replies = Vec::with_capacity(batch.commands.len());
    for command in batch.commands {
        replies.push(match command {
            Command::Publish(command) => match one(&state, command).await.1 {
                Value::Object(mut reply) if reply.contains_key("result") => json!({"publish": reply.remove("result")}),
                reply => reply,
            },
            Command::Broadcast(command) => {
                let mut reply = all(&state, command).await;
                json!({"broadcast": reply.get_mut("result").map(Value::take)})
            }
            Command::History(command) => reply("history", command.run(&state)),
            Command::Presence(command) => reply("presence", command.presence(&state).await),
            Command::PresenceStats(command) => reply("presence_stats", command.stats(&state).await),
            Command::Channels(command) => reply("channels", command.run(&state).await),
            Command::Disconnect(command) => reply("disconnect", command.run(&state)),
            Command::Unsubscribe(command) => reply("unsubscribe", command.run(&state)),
            Command::Info(command) => reply("info", command.run(&state)),
        });
    }
    (StatusCode::OK, axum::Json(json!({"replies": replies}))).into_response()
}

/// One reply of a batch.
fn reply(command: &'static str, outcome: Outcome) -> Value {
    match outcome {
        Ok(result) => json!({ command: result }),
        Err(refusal) => operate::refused(&refusal).1,
    }
}

/// Refuses publishes, and whatever else has the publish API's key, before their body is read: a client without a key makes
/// this server hold nothing.
pub(super) async fn known(state: Shared, request: Request, next: Next) -> Response {
    if request.method() == Method::POST && request.uri().path().starts_with("/api/") {
        state.metrics.publish_requests.inc();
        if let Err(refused) = admit(&state, request.headers()) {
            return refused;
        }
    }
    next.run(request).await
}

/// Whether the request may publish at all.
#[allow(clippy::result_large_err, reason = "the error is the response itself, made once a refused request")]
pub(super) fn admit<'a>(state: &'a State, headers: &HeaderMap) -> Result<UnderWay<'a>, Response> {
    // Counted before the look at `draining`: a drain waits for those that were counted, and refuses the others.
    let under_way = UnderWay::new(state);
    let refuse = |label, status, message: &str| {
        state.metrics.refused_publish(label);
        Err(failure(status, message))
    };
    if !state.config.publish.open {
        if state.publish_keys.is_empty() {
            return refuse("off", StatusCode::FORBIDDEN, "the publish API is off: publish.keys is empty");
        }
        let given = headers.get("x-api-key").map(|v| v.as_bytes()).unwrap_or_default();
        // Every key is compared, and each in constant time, so that the answer's time tells nothing.
        let known =
            state.publish_keys.iter().fold(subtle::Choice::from(0), |found, key| found | key.as_bytes().ct_eq(given));
        if !bool::from(known) {
            return refuse("key", StatusCode::UNAUTHORIZED, "X-API-Key is missing or not known");
        }
    }
    // A page of another origin can send a body without asking first, but not with this type.
    let json = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    if !json.is_some_and(|v| v.trim_start().to_ascii_lowercase().starts_with("application/json")) {
        return refuse("content_type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json");
    }
    // Without a stream behind it, what is accepted now could not reach those who are being closed.
    if state.is_draining() && !state.publisher.is_durable() {
        return refuse("draining", StatusCode::SERVICE_UNAVAILABLE, "this server is shutting down");
    }
    Ok(under_way)
}

/// A publish request that a clean stop waits for.
pub(super) struct UnderWay<'a>(&'a State);

impl<'a> UnderWay<'a> {
    fn new(state: &'a State) -> Self {
        state.publishing.fetch_add(1, Ordering::SeqCst);
        Self(state)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.publishing.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(super) fn malformed(state: &State, error: &serde_json::Error) -> Response {
    state.metrics.refused_publish("malformed");
    failure(StatusCode::BAD_REQUEST, format!("malformed request: {error}"))
}

async fn one(state: &State, command: Publish<'_>) -> (StatusCode, Value) {
    let Publish { channel, data, kind, ts } = command;
    publish_to(state, &channel, data, kind, ts).await
}

async fn all(state: &State, command: Broadcast<'_>) -> Value {
    let mut responses = Vec::with_capacity(command.channels.len());
    for channel in &command.channels {
        responses.push(publish_to(state, channel, command.data, command.kind, command.ts).await.1);
    }
    json!({"result": {"responses": responses}})
}

async fn publish_to(
    state: &State,
    topic: &str,
    data: &RawValue,
    kind: Option<KindName>,
    ts: Option<u64>,
) -> (StatusCode, Value) {
    let refuse =
        |status: StatusCode, message: String| (status, json!({"error": {"code": status.as_u16(), "message": message}}));
    let bytes = Bytes::copy_from_slice(data.get().as_bytes());
    let payload = match Payload::new(bytes, state.config.limits.delta_bytes) {
        Ok(payload) => payload,
        Err(error) => {
            state.metrics.refused_delta(crate::topic::PublishError::from(error.clone()).label());
            let status = match error {
                crate::topic::PayloadError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                _ => StatusCode::BAD_REQUEST,
            };
            return refuse(status, error.to_string());
        }
    };
    match state.publisher.publish(topic, kind.map_or(Kind::Delta, Kind::from), ts, payload).await {
        Ok((offset, epoch)) => (StatusCode::OK, json!({"result": {"offset": offset, "epoch": epoch}})),
        Err(Failure::Refused(error)) => refuse(StatusCode::BAD_REQUEST, error.to_string()),
        Err(Failure::Unavailable(error)) => {
            state.metrics.refused_publish("unavailable");
            refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
    }
}
