//! The publish API, in Centrifugo's request form: `{"channel":…,"data":…}` with the key in `X-API-Key`.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use axum::Extension;
use axum::body::Bytes as Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::operate::{self, Outcome};
use super::operator::Door;
use super::{Shared, State, failure};
use crate::auth::ApiKey;
use crate::config::Scope;
use crate::limits::BATCH_COMMANDS_MAX;
use crate::protocol::Refusal;
use crate::source::publish::Failure;
use crate::topic::{Kind, Payload, PayloadError, PublishError};

/// A member that is there, be it `null`: that is a value, too.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish<'a> {
    #[serde(alias = "topic")]
    channel: String,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    /// Bytes in base64, in place of `data`.
    #[serde(borrow, default)]
    b64data: Option<Cow<'a, str>>,
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
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    /// Bytes in base64, in place of `data`.
    #[serde(borrow, default)]
    b64data: Option<Cow<'a, str>>,
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
    let admitted = match admit(&state, &headers, Some(Scope::Publish)) {
        Ok(admitted) => admitted,
        Err(refused) => return refused,
    };
    match serde_json::from_slice::<Publish<'_>>(&body) {
        Ok(command) => {
            let (status, reply) = one(&state, admitted.key, command).await;
            (status, axum::Json(reply)).into_response()
        }
        Err(error) => malformed(&state, &error),
    }
}

/// `POST /api/broadcast`
pub(super) async fn broadcast(state: Shared, headers: HeaderMap, body: Body) -> Response {
    let admitted = match admit(&state, &headers, Some(Scope::Publish)) {
        Ok(admitted) => admitted,
        Err(refused) => return refused,
    };
    match serde_json::from_slice::<Broadcast<'_>>(&body) {
        Ok(command) => (StatusCode::OK, axum::Json(all(&state, admitted.key, command).await)).into_response(),
        Err(error) => malformed(&state, &error),
    }
}

/// `POST /api/batch`: what its key is good for is asked command by command.
pub(super) async fn batch(state: Shared, door: Extension<Door>, headers: HeaderMap, body: Body) -> Response {
    let admitted = match admit(&state, &headers, None) {
        Ok(admitted) => admitted,
        Err(refused) => return refused,
    };
    let key = admitted.key;
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
        if let (Some(order), false) = (command.order(), door.takes_orders()) {
            replies.push(operate::refused(&Refusal::new(404, format!("{order} is for operator.listen"))).1);
            continue;
        }
        replies.push(match command {
            Command::Publish(command) => match one(&state, key, command).await.1 {
                Value::Object(mut reply) if reply.contains_key("result") => json!({"publish": reply.remove("result")}),
                reply => reply,
            },
            Command::Broadcast(_) if !key.may(Scope::Publish) => operate::refused(&beyond(&state, key)).1,
            Command::Broadcast(command) => {
                let mut reply = all(&state, key, command).await;
                json!({"broadcast": reply.get_mut("result").map(Value::take)})
            }
            Command::History(command) => reply("history", command.run(&state, key)),
            Command::Presence(command) => reply("presence", command.presence(&state, key).await),
            Command::PresenceStats(command) => reply("presence_stats", command.stats(&state, key).await),
            Command::Channels(command) => reply("channels", command.run(&state, key).await),
            Command::Disconnect(command) => reply("disconnect", command.run(&state, key)),
            Command::Unsubscribe(command) => reply("unsubscribe", command.run(&state, key)),
            Command::Info(command) => reply("info", command.run(&state, key)),
        });
    }
    (StatusCode::OK, axum::Json(json!({"replies": replies}))).into_response()
}

impl Command<'_> {
    /// Its name, if it is for operators.
    fn order(&self) -> Option<&'static str> {
        match self {
            Self::Publish(_) | Self::Broadcast(_) => None,
            Self::History(_) => Some("history"),
            Self::Presence(_) => Some("presence"),
            Self::PresenceStats(_) => Some("presence_stats"),
            Self::Channels(_) => Some("channels"),
            Self::Disconnect(_) => Some("disconnect"),
            Self::Unsubscribe(_) => Some("unsubscribe"),
            Self::Info(_) => Some("info"),
        }
    }
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
        if let Err(refused) = entitled(&state, request.headers()) {
            return refused;
        }
    }
    next.run(request).await
}

/// A request whose key is known.
pub(super) struct Admitted<'a> {
    /// Whose request it is.
    pub(super) key: &'a ApiKey,
    _under_way: UnderWay<'a>,
}

/// Whether the request may do something at all, and this.
#[allow(clippy::result_large_err, reason = "the error is the response itself, made once a refused request")]
pub(super) fn admit<'a>(state: &'a State, headers: &HeaderMap, scope: Option<Scope>) -> Result<Admitted<'a>, Response> {
    // Counted before the look at `draining`: a drain waits for those that were counted, and refuses the others.
    let under_way = UnderWay::new(state);
    let key = entitled(state, headers)?;
    state.metrics.used_key(&key.name);
    if scope.is_some_and(|scope| !key.may(scope)) {
        let refusal = beyond(state, key);
        let (status, body) = operate::refused(&refusal);
        return Err((status, axum::Json(body)).into_response());
    }
    Ok(Admitted { key, _under_way: under_way })
}

/// The key that the request shows, if the API is there for it.
#[allow(clippy::result_large_err, reason = "the error is the response itself, made once a refused request")]
fn entitled<'a>(state: &'a State, headers: &HeaderMap) -> Result<&'a ApiKey, Response> {
    let refuse = |label, status, message: &str| {
        state.metrics.refused_publish(label);
        tracing::debug!(reason = label, "a request to the API was refused");
        Err(failure(status, message))
    };
    if state.keys.is_off() {
        return refuse(
            "off",
            StatusCode::FORBIDDEN,
            "the publish API is off: it has no key (publish.keys, publish.key)",
        );
    }
    let given = headers.get("x-api-key").map(|v| v.as_bytes()).unwrap_or_default();
    let Some(key) = state.keys.find(given) else {
        return refuse("key", StatusCode::UNAUTHORIZED, "X-API-Key is missing or not known");
    };
    if !is_json(headers) {
        return refuse("content_type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json");
    }
    // Without a stream behind it, what is accepted now could not reach those who are being closed.
    if state.is_draining() && !state.publisher.is_durable() {
        return refuse("draining", StatusCode::SERVICE_UNAVAILABLE, "this server is shutting down");
    }
    Ok(key)
}

/// Whether a request says that it is JSON: a page of another origin can send a body without asking first, but not with this
/// type.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    // The media type itself (RFC 9110 §8.3.1), whatever its parameters: `application/jsonp` is another.
    let kind = kind.and_then(|kind| kind.split(';').next()).map(|kind| kind.trim().to_ascii_lowercase());
    kind.is_some_and(|kind| {
        let json = |suffix: &str| {
            kind.strip_prefix("application/").is_some_and(|sub| sub.ends_with(suffix) && sub.len() > suffix.len())
        };
        kind == "application/json" || json("+json")
    })
}

/// The refusal of what a key is not good for.
pub(super) fn beyond(state: &State, key: &ApiKey) -> Refusal {
    state.metrics.refused_publish("scope");
    tracing::debug!(key = %key.name, "a key was used for what is not in its scopes");
    Refusal::new(403, format!("the key `{}` is not for this (scopes)", key.name))
}

/// The refusal of a topic that a key does not have.
pub(super) fn foreign(state: &State, key: &ApiKey, topic: &str) -> Refusal {
    state.metrics.refused_publish("topic");
    tracing::debug!(key = %key.name, topic, "a key was used for a topic that it does not have");
    Refusal::new(403, format!("the key `{}` does not have the topic `{topic}` (topics)", key.name))
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

async fn one(state: &State, key: &ApiKey, command: Publish<'_>) -> (StatusCode, Value) {
    let Publish { channel, data, b64data, kind, ts } = command;
    publish_to(state, key, &channel, Data { json: data, base64: b64data.as_deref() }, kind, ts).await
}

async fn all(state: &State, key: &ApiKey, command: Broadcast<'_>) -> Value {
    let mut responses = Vec::with_capacity(command.channels.len());
    for channel in &command.channels {
        let data = Data { json: command.data, base64: command.b64data.as_deref() };
        responses.push(publish_to(state, key, channel, data, command.kind, command.ts).await.1);
    }
    json!({"result": {"responses": responses}})
}

/// What is to be published, as the request has it.
#[derive(Clone, Copy)]
struct Data<'a> {
    json: Option<&'a RawValue>,
    base64: Option<&'a str>,
}

impl Data<'_> {
    /// As the topic's namespace takes it; `None` if the request has both or none of them. Some clients send an empty text
    /// for what they do not use.
    fn payload(self, state: &State, topic: &str) -> Option<Result<Payload, PayloadError>> {
        let (most, form) = (state.config.limits.delta_bytes, state.topics.payload_form(topic));
        match (self.json, self.base64) {
            (Some(json), None | Some("")) => {
                Some(Payload::read(Bytes::copy_from_slice(json.get().as_bytes()), most, form))
            }
            (None, Some(text)) => Some(Payload::from_base64(text, most, form)),
            (Some(json), Some(text)) if json.get() == "null" => Some(Payload::from_base64(text, most, form)),
            _ => None,
        }
    }
}

async fn publish_to(
    state: &State,
    key: &ApiKey,
    topic: &str,
    data: Data<'_>,
    kind: Option<KindName>,
    ts: Option<u64>,
) -> (StatusCode, Value) {
    if !key.may(Scope::Publish) {
        return operate::refused(&beyond(state, key));
    }
    if !key.has_topic(topic) {
        return operate::refused(&foreign(state, key, topic));
    }
    let refuse =
        |status: StatusCode, message: String| (status, json!({"error": {"code": status.as_u16(), "message": message}}));
    let payload = match data.payload(state, topic) {
        None => return refuse(StatusCode::BAD_REQUEST, "give one of `data` (JSON) and `b64data` (base64)".into()),
        Some(Ok(payload)) => payload,
        Some(Err(error)) => {
            state.metrics.refused_delta(crate::topic::PublishError::from(error.clone()).label());
            let status = match error {
                PayloadError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                _ => StatusCode::BAD_REQUEST,
            };
            return refuse(status, error.to_string());
        }
    };
    match state.publisher.publish(topic, kind.map_or(Kind::Delta, Kind::from), ts, payload).await {
        Ok((offset, epoch)) => (StatusCode::OK, json!({"result": {"offset": offset, "epoch": epoch}})),
        Err(Failure::Refused(error @ PublishError::UnknownNamespace)) => {
            operate::refused(&Refusal::new(Refusal::UNKNOWN_TOPIC, error.to_string()))
        }
        Err(Failure::Refused(error)) => refuse(StatusCode::BAD_REQUEST, error.to_string()),
        Err(Failure::Unavailable(error)) => {
            state.metrics.refused_publish("unavailable");
            refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
    }
}
