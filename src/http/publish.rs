//! Publishing through the API: who may, what a publish says, and what became of it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use serde::Serialize;
use serde_json::value::RawValue;

use super::members::{Members, shown};
use super::style::{Outcome, Reply, written};
use super::{Shared, State, failure};
use crate::auth::ApiKey;
use crate::config::{ErrorStyle, PayloadForm};
use crate::limits::{BATCH_COMMANDS_MAX, BROADCAST_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX, TOPIC_NAME_BYTES_MAX};
use crate::name::TopicName;
use crate::position::{Epoch, Offset};
use crate::protocol::Refusal;
use crate::source::entry::{API_WORDS, read_kind};
use crate::source::publish::{Failure, Outgoing};
use crate::source::refusals::{self, Head, Reason};
use crate::topic::{Kind, Payload, PayloadError, PublishError};

/// What one request may still publish: a body names many topics in few bytes.
pub(super) struct Room {
    deltas: usize,
    bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { deltas: BATCH_COMMANDS_MAX, bytes: BROADCAST_BYTES_MAX }
    }
}

impl Room {
    /// Takes room for so many deltas of so many bytes each.
    fn take(&mut self, deltas: usize, bytes: usize) -> Result<(), Refusal> {
        let total = deltas.saturating_mul(bytes);
        if deltas <= self.deltas && total <= self.bytes {
            self.deltas -= deltas;
            self.bytes -= total;
            return Ok(());
        }
        (self.deltas, self.bytes) = (0, 0);
        let (most, bytes) = (BATCH_COMMANDS_MAX, BROADCAST_BYTES_MAX);
        Err(Refusal::new(
            413,
            format!("a request publishes at most {most} deltas with {bytes} bytes together; send several"),
        ))
    }

    /// Whether more was asked for than there was.
    pub(super) fn is_spent(&self) -> bool {
        self.deltas == 0 && self.bytes == 0
    }
}

/// The answer's code, and why a payload is not taken.
type BadPayload = (u16, refusals::Refusal);

/// The refusal of a delta, as the log and `nexus-push publish` say it.
pub(super) fn told(code: u16, refusal: &refusals::Refusal) -> Refusal {
    let refusals::Refusal { reason, text, remedy, .. } = refusal;
    Refusal::new(code, format!("{text}; {remedy}")).advising(reason.label(), remedy)
}

/// A publish or a broadcast, read and checked but for its topics.
pub(super) struct Prepared {
    topics: Vec<String>,
    /// As each form of its topics' namespaces takes it.
    payloads: Vec<(PayloadForm, Result<Payload, BadPayload>)>,
    kind: Kind,
    ts: Option<u64>,
    /// The idempotency key.
    once: Option<String>,
    is_broadcast: bool,
}

/// What a publish asks for that other servers do and this one does not, and why.
const UNSUPPORTED: [(&str, &str); 4] = [
    ("skip_history", "the namespace says what is kept (history_size, history_ttl)"),
    ("tags", "a publication carries none of its publisher"),
    ("version", "offsets tell which delta is newer"),
    ("version_epoch", "offsets tell which delta is newer"),
];

/// The idempotency key of a command.
pub(super) fn idempotency_key(members: &mut Members<'_>) -> Result<Option<String>, Refusal> {
    let key = members.filled("idempotency_key")?;
    match &key {
        Some(key) if key.len() > IDEMPOTENCY_KEY_BYTES_MAX => {
            let bytes = key.len();
            let message = format!("`idempotency_key` has {bytes} bytes, the most is {IDEMPOTENCY_KEY_BYTES_MAX}");
            Err(Refusal::new(400, message))
        }
        _ => Ok(key),
    }
}

impl Prepared {
    /// Of a publish.
    pub(super) fn publish(state: &State, mut members: Members<'_>, room: &mut Room) -> Result<Self, Refusal> {
        let topic = members.named("channel", "topic")?;
        Self::rest(state, members, vec![topic], false, room)
    }

    /// Of a broadcast.
    pub(super) fn broadcast(state: &State, mut members: Members<'_>, room: &mut Room) -> Result<Self, Refusal> {
        let (channels, topics) =
            (members.texts("channels", BATCH_COMMANDS_MAX), members.texts("topics", BATCH_COMMANDS_MAX));
        let topics = match (channels?, topics?) {
            (Some(topics), None) | (None, Some(topics)) => topics,
            (None, None) => return Err(members.missing(&["channels", "topics"])),
            (Some(_), Some(_)) => {
                return Err(Refusal::new(400, "`channels` and `topics` mean the same; write one of them"));
            }
        };
        Self::rest(state, members, topics, true, room)
    }

    fn rest(
        state: &State,
        mut members: Members<'_>,
        topics: Vec<String>,
        is_broadcast: bool,
        room: &mut Room,
    ) -> Result<Self, Refusal> {
        let kind = members.filled("kind")?.unwrap_or_default();
        let kind = read_kind(&API_WORDS, kind.as_bytes()).map_err(|refusal| told(400, &refusal))?;
        let ts = members.event_time("ts")?;
        let once = idempotency_key(&mut members)?;
        // Deltas of deltas are made where the namespace has them, whether a publisher asks or not.
        members.flag("delta")?;
        members.idle(&UNSUPPORTED)?;
        let base64 = members.text("b64data")?;
        let data = members.raw("data");
        members.end()?;
        // Some clients send an empty text, or `null`, for what they do not use.
        let (json, base64) = match (data.map(RawValue::get), base64.as_deref()) {
            (Some(json), None | Some("")) => (Some(json), None),
            (None | Some("null"), Some(base64)) => (None, Some(base64)),
            // What a topic ends with does not matter.
            (None, None) if kind == Kind::Deletion => (Some("null"), None),
            (None, _) => {
                let remedy = "give one of `data` (JSON) and `b64data` (base64)";
                return Err(told(400, &refusals::Refusal::new(Reason::NoData, "it has no data", remedy)));
            }
            _ => return Err(Refusal::new(400, "give one of `data` (JSON) and `b64data` (base64)")),
        };
        room.take(topics.len(), json.or(base64).map_or(0, str::len))?;
        let most = state.config.limits.delta_bytes;
        let mut payloads: Vec<(PayloadForm, Result<Payload, BadPayload>)> = Vec::new();
        for topic in &topics {
            let form = state.topics.payload_form(topic);
            if payloads.iter().any(|(known, _)| *known == form) {
                continue;
            }
            let payload = match (json, base64) {
                (Some(json), _) => Payload::read(Bytes::copy_from_slice(json.as_bytes()), most, form),
                (None, base64) => Payload::from_base64(base64.unwrap_or_default(), most, form),
            };
            let payload = payload.map_err(|error| {
                let code = if matches!(error, PayloadError::TooLarge { .. }) { 413 } else { 400 };
                (code, refusals::Refusal::of_payload(&error, &head(json, base64, most)))
            });
            payloads.push((form, payload));
        }
        Ok(Self { topics, payloads, kind, ts, once, is_broadcast })
    }

    /// The data as a topic's namespace takes it.
    fn payload(&self, state: &State, topic: &str) -> Option<&Result<Payload, BadPayload>> {
        let form = state.topics.payload_form(topic);
        self.payloads.iter().find(|(known, _)| *known == form).map(|(_, payload)| payload)
    }

    /// With this idempotency key, unless it has one.
    pub(super) fn once(mut self, key: impl FnOnce() -> String) -> Self {
        self.once.get_or_insert_with(key);
        self
    }
}

/// The beginning of a command's data: of base64 the bytes, if it is some.
fn head(json: Option<&str>, base64: Option<&str>, bytes_max: usize) -> Head {
    let bytes = base64.map(|text| Payload::from_base64(text, bytes_max, PayloadForm::Bytes));
    match bytes {
        Some(Ok(bytes)) => Head::of(bytes.bytes()),
        _ => Head::of(json.or(base64).unwrap_or_default().as_bytes()),
    }
}

/// Refuses publishes, and whatever else has the publish API's key, before their body is read: a client without a key makes
/// this server hold nothing.
pub(super) async fn known(state: Shared, request: Request, next: Next) -> Response {
    if is_command(&request) {
        state.metrics.publish_requests.inc();
        if let Err(refused) = entitled(&state, request.headers()) {
            return refused;
        }
    }
    next.run(request).await
}

/// What publishers ask for, by the last part of its path.
const PUBLISHING: [&str; 3] = ["publish", "broadcast", "batch"];

/// Whether a request is one to the API with its keys. Other methods and paths have no use for a key.
pub(super) fn is_command(request: &Request) -> bool {
    let path = request.uri().path();
    let is_known = |name: &str| PUBLISHING.contains(&name) || super::operate::ORDERS.contains(&name);
    request.method() == Method::POST && (path == "/api" || path.strip_prefix("/api/").is_some_and(is_known))
}

/// A request whose key is known.
pub(super) struct Admitted<'a> {
    /// Whose request it is.
    pub(super) key: &'a ApiKey,
    _under_way: UnderWay<'a>,
}

/// Whether the request may do something at all.
#[allow(clippy::result_large_err, reason = "the error is the response itself, made once a refused request")]
pub(super) fn admit<'a>(state: &'a State, headers: &HeaderMap) -> Result<Admitted<'a>, Response> {
    // Counted before the look at `draining`: a drain waits for those that were counted, and refuses the others.
    let under_way = UnderWay::new(state);
    let key = entitled(state, headers)?;
    state.metrics.used_key(&key.name);
    Ok(Admitted { key, _under_way: under_way })
}

/// The key that a request shows: in `X-API-Key`, or as `Authorization: apikey …`.
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
    let Some(key) = state.keys.find(given(headers)) else {
        let message = "X-API-Key (or Authorization: apikey …) is missing or not known";
        return refuse("key", StatusCode::UNAUTHORIZED, message);
    };
    if !is_json(headers) {
        let kind = headers.get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or("no text"));
        let message = format!("Content-Type must be application/json, and is {}", kind.map_or("missing", shown));
        return refuse("content_type", StatusCode::UNSUPPORTED_MEDIA_TYPE, &message);
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
    let shown = topic.get(..topic.floor_char_boundary(TOPIC_NAME_BYTES_MAX)).unwrap_or_default();
    Refusal::new(403, format!("the key `{}` does not have the topic `{shown}` (topics)", key.name))
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

/// Publishes in order, all together. Returns an outcome for each.
pub(super) async fn publish_all(state: &State, key: &ApiKey, style: ErrorStyle, prepared: &[Prepared]) -> Vec<Outcome> {
    let mut outgoing = Vec::new();
    // For each topic of each: nothing where it goes out, or why it does not.
    let mut refused: Vec<Vec<Option<Refusal>>> = Vec::with_capacity(prepared.len());
    for one in prepared {
        let checked = one.topics.iter().map(|topic| {
            let checked = may_publish(state, key, topic).and_then(|()| match one.payload(state, topic) {
                Some(payload) => payload.clone().map_err(|(code, refusal)| {
                    state.metrics.refused_delta(refusal.reason.label());
                    told(code, &refusal)
                }),
                None => Err(Refusal::new(400, "`data` is missing")),
            });
            match checked {
                Ok(payload) => {
                    outgoing.push(Outgoing { topic, kind: one.kind, ts: one.ts, payload, once: one.once.as_deref() });
                    None
                }
                Err(refusal) => Some(refusal),
            }
        });
        refused.push(checked.collect());
    }
    let mut done = state.publisher.publish_all(&outgoing).await.into_iter();
    let mut outcomes = Vec::with_capacity(prepared.len());
    for (one, refused) in prepared.iter().zip(refused) {
        let mut responses = refused.into_iter().zip(&one.topics).map(|(refusal, topic)| match refusal {
            Some(refusal) => Err(refusal),
            None => published(state, one, topic, done.next()),
        });
        outcomes.push(match one.is_broadcast {
            false => responses.next().unwrap_or_else(|| written(&())),
            true => {
                let outcomes: Vec<Outcome> = responses.collect();
                let responses = outcomes.iter().map(|outcome| Reply::new("result", outcome, style));
                written(&BTreeMap::from([("responses", responses.collect::<Vec<_>>())]))
            }
        });
    }
    outcomes
}

fn may_publish(state: &State, key: &ApiKey, topic: &str) -> Result<(), Refusal> {
    if !key.has_topic(topic) {
        return Err(foreign(state, key, topic));
    }
    TopicName::new(topic).map(drop).map_err(|error| {
        let refusal = state.publisher.refusal(&error.into(), topic, &Payload::null());
        state.metrics.refused_delta(refusal.reason.label());
        told(400, &refusal)
    })
}

/// What a delta that was taken got.
#[derive(Serialize)]
struct Published<'a> {
    offset: Offset,
    epoch: &'a Epoch,
    /// What is wrong with it all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<[Warning; 1]>,
}

/// What a server that reads the delta logs of it.
#[derive(Serialize)]
struct Warning {
    reason: &'static str,
    text: String,
    remedy: String,
}

fn warning(state: &State, topic: &str) -> Option<Warning> {
    let refusals::Refusal { reason, text, remedy, .. } = state.publisher.suspicion(topic)?;
    state.metrics.publish_warned(reason.label());
    Some(Warning { reason: reason.label(), text, remedy })
}

fn published(state: &State, one: &Prepared, topic: &str, done: Option<Result<(Offset, Epoch), Failure>>) -> Outcome {
    match done {
        Some(Ok((offset, epoch))) => {
            let warnings = warning(state, topic).map(|warning| [warning]);
            written(&Published { offset, epoch: &epoch, warnings })
        }
        Some(Err(Failure::Refused(error))) => {
            let payload = one.payload(state, topic).and_then(|payload| payload.as_ref().ok());
            Err(refused(state, &error, topic, payload))
        }
        Some(Err(Failure::Unavailable(error))) => {
            state.metrics.refused_publish("unavailable");
            Err(Refusal::new(503, error))
        }
        None => {
            state.metrics.refused_publish("unavailable");
            Err(Refusal::new(503, "the publish was not carried out"))
        }
    }
}

fn refused(state: &State, error: &PublishError, topic: &str, payload: Option<&Payload>) -> Refusal {
    let refusal = state.publisher.refusal(error, topic, payload.unwrap_or(&Payload::null()));
    told(error.code(), &refusal)
}
