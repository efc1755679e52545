//! Publishing through the API: the rights of a key, the content of a publish, and its result.

use std::collections::BTreeMap;

use axum::body::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::auth::ApiKey;
use crate::config::{ErrorStyle, PayloadForm};
use crate::http::api::key::foreign;
use crate::http::api::members::Members;
use crate::http::api::style::told;
use crate::http::api::style::{Outcome, Reply, written};
use crate::http::state::State;
use crate::limits::{BATCH_COMMANDS_MAX, BROADCAST_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX};
use crate::metrics::PublishRefusal;
use crate::name::TopicName;
use crate::position::{Epoch, Offset};
use crate::protocol::Refusal;
use crate::source::entry::{API_WORDS, read_kind};
use crate::source::failure::Failure;
use crate::source::publish::Outgoing;
use crate::source::refusals::{self, Head, Reason};
use crate::topic::{Kind, Payload, PayloadError, PublishError};

/// The deltas and bytes that one request may still publish, because a body can name many topics in
/// few bytes.
pub(in crate::http) struct Room {
    deltas: usize,
    bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { deltas: BATCH_COMMANDS_MAX, bytes: BROADCAST_BYTES_MAX }
    }
}

impl Room {
    /// Takes room for `deltas` deltas of so many bytes each.
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

    /// Whether a request asked for more than its room.
    pub(in crate::http) fn is_spent(&self) -> bool {
        self.deltas == 0 && self.bytes == 0
    }
}

/// The code of the answer, and the fault of the payload.
type BadPayload = (u16, refusals::Refusal);

/// A publish or a broadcast, read and checked, apart from its topics.
pub(in crate::http) struct Prepared {
    topics: Vec<String>,
    /// The payload, for each form that a namespace may have.
    payloads: Vec<(PayloadForm, Result<Payload, BadPayload>)>,
    kind: Kind,
    ts: Option<u64>,
    /// The idempotency key.
    once: Option<String>,
    is_broadcast: bool,
}

/// Options of a publish that other servers support and this one does not, with the reason.
const UNSUPPORTED: [(&str, &str); 4] = [
    ("skip_history", "the namespace says what is kept (history_size, history_ttl)"),
    ("tags", "a publication carries none of its publisher"),
    ("version", "offsets tell which delta is newer"),
    ("version_epoch", "offsets tell which delta is newer"),
];

/// The idempotency key of a command.
pub(in crate::http) fn idempotency_key(members: &mut Members<'_>) -> Result<Option<String>, Refusal> {
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
    /// Reads a publish.
    pub(in crate::http) fn publish(state: &State, mut members: Members<'_>, room: &mut Room) -> Result<Self, Refusal> {
        let topic = members.named("channel", "topic")?;
        Self::rest(state, members, vec![topic], false, room)
    }

    /// Reads a broadcast.
    pub(in crate::http) fn broadcast(
        state: &State,
        mut members: Members<'_>,
        room: &mut Room,
    ) -> Result<Self, Refusal> {
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
        // The namespace decides about delta compression, not the publisher.
        members.flag("delta")?;
        members.idle(&UNSUPPORTED)?;
        let base64 = members.text("b64data")?;
        let data = members.raw("data");
        members.end()?;
        // Some clients send an empty text, or `null`, for options that they do not use.
        let (json, base64) = match (data.map(RawValue::get), base64.as_deref()) {
            (Some(json), None | Some("")) => (Some(json), None),
            (None | Some("null"), Some(base64)) => (None, Some(base64)),
            // The topic's suffix does not matter.
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

    /// The data in the form of a topic's namespace.
    fn payload(&self, state: &State, topic: &str) -> Option<&Result<Payload, BadPayload>> {
        let form = state.topics.payload_form(topic);
        self.payloads.iter().find(|(known, _)| *known == form).map(|(_, payload)| payload)
    }

    /// Sets this idempotency key, unless there is one.
    pub(in crate::http) fn once(mut self, key: impl FnOnce() -> String) -> Self {
        self.once.get_or_insert_with(key);
        self
    }
}

/// The beginning of a command's data, decoded if it is base64.
fn head(json: Option<&str>, base64: Option<&str>, bytes_max: usize) -> Head {
    let bytes = base64.map(|text| Payload::from_base64(text, bytes_max, PayloadForm::Bytes));
    match bytes {
        Some(Ok(bytes)) => Head::of(bytes.bytes()),
        _ => Head::of(json.or(base64).unwrap_or_default().as_bytes()),
    }
}

/// Publishes all, in order. Returns an outcome for each.
pub(in crate::http) async fn publish_all(
    state: &State,
    key: &ApiKey,
    style: ErrorStyle,
    prepared: &[Prepared],
) -> Vec<Outcome> {
    let mut outgoing = Vec::new();
    // For each topic of each publish: nothing if it is sent to the source, or why it is not.
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
    let mut done = state.api.publisher.publish_all(&outgoing).await.into_iter();
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
        let refusal = state.api.publisher.refusal(&error.into(), topic, &Payload::null());
        state.metrics.refused_delta(refusal.reason.label());
        told(400, &refusal)
    })
}

/// The result of an accepted delta.
#[derive(Serialize)]
struct Published<'a> {
    offset: Offset,
    epoch: &'a Epoch,
    /// A fault of an accepted delta.
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<[Warning; 1]>,
}

/// The log text of a server that reads the delta.
#[derive(Serialize)]
struct Warning {
    reason: &'static str,
    text: String,
    remedy: String,
}

fn warning(state: &State, topic: &str) -> Option<Warning> {
    let refusals::Refusal { reason, text, remedy, .. } = state.api.publisher.suspicion(topic)?;
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
            state.metrics.refused_publish(PublishRefusal::Unavailable);
            Err(Refusal::new(503, error))
        }
        None => {
            state.metrics.refused_publish(PublishRefusal::Unavailable);
            Err(Refusal::new(503, "the publish was not executed"))
        }
    }
}

fn refused(state: &State, error: &PublishError, topic: &str, payload: Option<&Payload>) -> Refusal {
    let refusal = state.api.publisher.refusal(error, topic, payload.unwrap_or(&Payload::null()));
    told(error.code(), &refusal)
}
