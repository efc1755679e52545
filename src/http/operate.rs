//! What operators and backends ask for, in Centrifugo's request form: history, presence, channels, disconnect,
//! unsubscribe, info. For keys with the scope `operate`; what is about a topic, for those that have it.

use std::borrow::Cow;

use axum::body::Bytes as Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::publish::{admit, beyond, foreign, malformed};
use super::{Shared, State};
use crate::auth::{ApiKey, Denied};
use crate::cluster::Reporter;
use crate::config::{PayloadForm, Scope};
use crate::hub::{Order, Who};
use crate::name::TopicName;
use crate::position::{Epoch, Offset, Position};
use crate::protocol::{HistoryQuery, Refusal, base64_json};
use crate::wire::close::CloseReason;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    #[serde(alias = "topic")]
    channel: String,
    /// Below 0 is all.
    #[serde(default)]
    limit: i64,
    #[serde(default)]
    since: Option<Since>,
    #[serde(default)]
    reverse: bool,
}

#[derive(Deserialize)]
struct Since {
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    epoch: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Channel {
    #[serde(alias = "topic")]
    channel: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Channels {
    #[serde(default)]
    pattern: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Disconnect {
    user: String,
    #[serde(default)]
    client: Option<String>,
    #[serde(default)]
    whitelist: Vec<String>,
    #[serde(default)]
    disconnect: Option<Code>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Code {
    code: u16,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unsubscribe {
    user: String,
    #[serde(alias = "topic")]
    channel: String,
    #[serde(default)]
    client: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Info {}

/// A result, or why there is none.
pub(super) type Outcome = Result<Value, Refusal>;

/// A topic that an operator's key has.
fn topic(state: &State, key: &ApiKey, text: &str) -> Result<TopicName, Refusal> {
    operates(state, key)?;
    if !key.has_topic(text) {
        return Err(foreign(state, key, text));
    }
    let name = TopicName::new(text).map_err(|e| Refusal::new(400, e.to_string()))?;
    match state.config.knows_namespace(name.namespace()) {
        true => Ok(name),
        false => Err(Refusal::new(Refusal::UNKNOWN_TOPIC, Denied::UnknownNamespace.to_string())),
    }
}

/// Whether it is an operator's key.
fn operates(state: &State, key: &ApiKey) -> Result<(), Refusal> {
    if key.may(Scope::Operate) { Ok(()) } else { Err(beyond(state, key)) }
}

fn some(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

impl History {
    pub(super) fn run(self, state: &State, key: &ApiKey) -> Outcome {
        let topic = topic(state, key, &self.channel)?;
        let since = match self.since {
            Some(since) => Some(Position {
                offset: Offset::new(since.offset)
                    .ok_or_else(|| Refusal::new(400, format!("offset {} is larger than 2^53-1", since.offset)))?,
                epoch: Epoch::from_text(&since.epoch),
            }),
            None => None,
        };
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let query = HistoryQuery { limit, since, reverse: self.reverse };
        let page = state.topics.history(&topic, &query)?;
        let publications: Vec<Value> = page
            .publications
            .iter()
            .map(|p| {
                // As published: a number keeps its digits.
                let bytes = p.form == PayloadForm::Bytes;
                let data = if bytes { Cow::Owned(base64_json(&p.data)) } else { Cow::Borrowed(&*p.data) };
                let data = serde_json::from_slice::<&RawValue>(&data).ok();
                let mut publication = json!({"data": data, "offset": p.offset});
                if let (Some(ts), Some(members)) = (p.ts, publication.as_object_mut()) {
                    members.insert("time".into(), json!(ts));
                }
                let tags = [(p.snapshot, "kind", "snapshot"), (bytes, "encoding", "base64")];
                let tags: serde_json::Map<String, Value> =
                    tags.into_iter().filter(|tag| tag.0).map(|(_, name, value)| (name.into(), value.into())).collect();
                if let (false, Some(members)) = (tags.is_empty(), publication.as_object_mut()) {
                    members.insert("tags".into(), Value::Object(tags));
                }
                publication
            })
            .collect();
        Ok(json!({"publications": publications, "offset": page.offset, "epoch": page.epoch}))
    }
}

impl Channel {
    /// Presence, whatever its clients may see; but there is none where the namespace keeps none.
    fn counted(&self, state: &State, key: &ApiKey) -> Result<TopicName, Refusal> {
        let name = topic(state, key, &self.channel)?;
        match state.config.namespace(name.namespace()).presence {
            true => Ok(name),
            false => Err(Refusal::new(501, "the namespace has no presence")),
        }
    }

    pub(super) async fn presence(self, state: &State, key: &ApiKey) -> Outcome {
        let members = state.cluster.presence(&self.counted(state, key)?).await?;
        let json_or_null = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or(Value::Null);
        let presence: serde_json::Map<String, Value> = members
            .iter()
            .map(|(client, m)| {
                let mut info = json!({"client": m.client, "user": m.user});
                if let Some(info) = info.as_object_mut() {
                    for (key, bytes) in [("conn_info", &m.conn_info), ("chan_info", &m.chan_info)] {
                        if !bytes.is_empty() {
                            info.insert(key.into(), json_or_null(bytes));
                        }
                    }
                }
                (client.clone(), info)
            })
            .collect();
        Ok(json!({"presence": presence}))
    }

    pub(super) async fn stats(self, state: &State, key: &ApiKey) -> Outcome {
        let count = state.cluster.presence_stats(&self.counted(state, key)?).await?;
        Ok(json!({"num_clients": count.clients, "num_users": count.users}))
    }
}

impl Channels {
    pub(super) async fn run(self, state: &State, key: &ApiKey) -> Outcome {
        operates(state, key)?;
        let census = state.cluster.census(some(self.pattern)).await;
        let census = census.into_iter().filter(|(name, _)| key.has_topic(name));
        let channels: serde_json::Map<String, Value> =
            census.map(|(name, count)| (name, json!({"num_clients": count}))).collect();
        Ok(json!({"channels": channels}))
    }
}

impl Disconnect {
    pub(super) fn run(self, state: &State, key: &ApiKey) -> Outcome {
        operates(state, key)?;
        let Code { code, reason } = self
            .disconnect
            .unwrap_or(Code { code: CloseReason::Forced.code(), reason: CloseReason::Forced.reason().into() });
        if !(3_000..5_000).contains(&code) {
            return Err(Refusal::new(400, format!("close code {code} is not one of 3000 to 4999")));
        }
        let who = Who { user: self.user, client: some(self.client), except: self.whitelist };
        tracing::info!(key = %key.name, user = who.user, code, "disconnect");
        state.cluster.order(&who, &Order::Disconnect { code, reason });
        Ok(json!({}))
    }
}

impl Unsubscribe {
    pub(super) fn run(self, state: &State, key: &ApiKey) -> Outcome {
        let topic = topic(state, key, &self.channel)?;
        let who = Who { user: self.user, client: some(self.client), except: Vec::new() };
        tracing::info!(key = %key.name, user = who.user, topic = topic.as_str(), "unsubscribe");
        state.cluster.order(&who, &Order::Unsubscribe { topic });
        Ok(json!({}))
    }
}

impl Info {
    #[allow(clippy::unused_self, reason = "as the others")]
    pub(super) fn run(self, state: &State, key: &ApiKey) -> Outcome {
        operates(state, key)?;
        let mut reports = state.cluster.nodes.reports();
        // Where nodes do not report, this one is known all the same.
        if state.config.ops.interval.is_zero() {
            let mut report = state.report();
            Reporter::new().fill(&mut report, &state.hub.stats());
            reports.push((state.cluster.node().to_owned(), report));
        }
        let nodes: Vec<Value> = reports
            .into_iter()
            .map(|(uid, r)| {
                json!({
                    "uid": uid, "name": r.name, "version": r.version, "num_clients": r.sessions,
                    "num_subs": r.subscriptions, "num_channels": r.topics,
                    "uptime": r.at.saturating_sub(r.started_at) / 1_000, "ready": r.ready,
                })
            })
            .collect();
        Ok(json!({"nodes": nodes}))
    }
}

/// A refusal's status and body.
pub(super) fn refused(refusal: &Refusal) -> (StatusCode, Value) {
    let status = match refusal.code {
        501 => StatusCode::NOT_IMPLEMENTED,
        Refusal::UNKNOWN_TOPIC => StatusCode::NOT_FOUND,
        code => StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
    };
    (status, json!({"error": {"code": status.as_u16(), "message": refusal.reason}}))
}

fn answer(outcome: Outcome) -> Response {
    match outcome {
        Ok(result) => axum::Json(json!({"result": result})).into_response(),
        Err(refusal) => {
            let (status, body) = refused(&refusal);
            (status, axum::Json(body)).into_response()
        }
    }
}

/// Checks the key and reads the command. The guard of a publish is let go of: nothing here has to be waited for.
#[allow(clippy::result_large_err, reason = "the error is the response itself, made once a refused request")]
fn read<'a, T: DeserializeOwned>(
    state: &'a State,
    headers: &HeaderMap,
    body: &Body,
) -> Result<(T, &'a ApiKey), Response> {
    let key = admit(state, headers, Some(Scope::Operate))?.key;
    let body: &[u8] = if body.is_empty() { b"{}" } else { body };
    let command = serde_json::from_slice(body).map_err(|error| malformed(state, &error))?;
    Ok((command, key))
}

/// `POST /api/history`
pub(super) async fn history(state: Shared, headers: HeaderMap, body: Body) -> Response {
    match read::<History>(&state, &headers, &body) {
        Ok((command, key)) => answer(command.run(&state, key)),
        Err(refused) => refused,
    }
}

/// `POST /api/presence`
pub(super) async fn presence(state: Shared, headers: HeaderMap, body: Body) -> Response {
    match read::<Channel>(&state, &headers, &body) {
        Ok((command, key)) => answer(command.presence(&state, key).await),
        Err(refused) => refused,
    }
}

/// `POST /api/presence_stats`
pub(super) async fn presence_stats(state: Shared, headers: HeaderMap, body: Body) -> Response {
    match read::<Channel>(&state, &headers, &body) {
        Ok((command, key)) => answer(command.stats(&state, key).await),
        Err(refused) => refused,
    }
}

/// `POST /api/channels`
pub(super) async fn channels(state: Shared, headers: HeaderMap, body: Body) -> Response {
    match read::<Channels>(&state, &headers, &body) {
        Ok((command, key)) => answer(command.run(&state, key).await),
        Err(refused) => refused,
    }
}

/// `POST /api/disconnect`
pub(super) async fn disconnect(state: Shared, headers: HeaderMap, body: Body) -> Response {
    match read::<Disconnect>(&state, &headers, &body) {
        Ok((command, key)) => answer(command.run(&state, key)),
        Err(refused) => refused,
    }
}

/// `POST /api/unsubscribe`
pub(super) async fn unsubscribe(state: Shared, headers: HeaderMap, body: Body) -> Response {
    match read::<Unsubscribe>(&state, &headers, &body) {
        Ok((command, key)) => answer(command.run(&state, key)),
        Err(refused) => refused,
    }
}

/// `POST /api/info`
pub(super) async fn info(state: Shared, headers: HeaderMap, body: Body) -> Response {
    match read::<Info>(&state, &headers, &body) {
        Ok((command, key)) => answer(command.run(&state, key)),
        Err(refused) => refused,
    }
}
