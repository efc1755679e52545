//! Commands of operators and backends, in Centrifugo's request form: history, presence, channel
//! counts, and orders to sessions. They need a key with the scope `operate`, and topic commands
//! need the topic's rights too.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::auth::{ApiKey, Denied};
use crate::cluster::Reporter;
use crate::config::PayloadForm;
use crate::http::api::key::foreign;
use crate::http::api::key::needs_all_topics;
use crate::http::api::members::Members;
use crate::http::api::style::{Outcome, written};
use crate::http::state::State;
use crate::hub::{Order, Who};
use crate::metrics::PublishRefusal;
use crate::name::TopicName;
use crate::position::{Epoch, Offset, Position};
use crate::protocol::{HistoryQuery, Refusal, base64_json};
use crate::wire::close::CloseReason;

/// Executes a command for a key with the scope `operate`.
pub(in crate::http) async fn run(order: &str, mut members: Members<'_>, state: &State, key: &ApiKey) -> Outcome {
    let members = &mut members;
    match order {
        "history" => history(members, state, key),
        "history_remove" => history_remove(members, state, key).await,
        "presence" => presence(members, state, key).await,
        "presence_stats" => presence_stats(members, state, key).await,
        "channels" => channels(members, state, key).await,
        "info" => info(members, state),
        "disconnect" => disconnect(members, state, key),
        "unsubscribe" => unsubscribe(members, state, key),
        "subscribe" => subscribe(members, state, key),
        "refresh" => refresh(members, state, key),
        _ => Err(Refusal::new(404, format!("`{order}`: this server runs no functions for its API; see rpc.endpoint"))),
    }
}

/// Whether a key may act on whole sessions.
fn for_sessions(state: &State, key: &ApiKey) -> Result<(), Refusal> {
    if key.has_all_topics() {
        return Ok(());
    }
    state.metrics.refused_publish(PublishRefusal::Topic);
    Err(Refusal::new(403, needs_all_topics(key)))
}

/// The topic of a command, if the key has it.
fn topic(members: &mut Members<'_>, state: &State, key: &ApiKey) -> Result<TopicName, Refusal> {
    let text = members.named("channel", "topic")?;
    if !key.has_topic(&text) {
        return Err(foreign(state, key, &text));
    }
    let name = TopicName::new(&text).map_err(|error| Refusal::new(400, format!("`channel`: {error}")))?;
    match state.config.knows_namespace(name.namespace()) {
        true => Ok(name),
        false => Err(Refusal::new(Refusal::UNKNOWN_TOPIC, Denied::UnknownNamespace.to_string())),
    }
}

/// The sessions that a command selects.
fn who(members: &mut Members<'_>) -> Result<Who, Refusal> {
    let user = members.text("user")?.ok_or_else(|| members.missing(&["user"]))?;
    let client = members.filled("client")?;
    members.idle(&[
        ("session", "a session is named by its `client`"),
        ("label_filter", "sessions have no labels"),
        ("all_users", "sessions are named by their `user`"),
    ])?;
    Ok(Who { user, client, except: Vec::new() })
}

/// Finishes the reading of a command.
fn end(members: &mut Members<'_>) -> Result<(), Refusal> {
    std::mem::take(members).end()
}

/// A position; without both of its members there is none.
fn position(value: Option<&RawValue>, name: &str) -> Result<Option<Position>, Refusal> {
    let Some(value) = value else { return Ok(None) };
    let mut members = Members::of(value, &format!("`{name}`"))?;
    let (offset, epoch) = (members.number("offset")?, members.text("epoch")?);
    members.end()?;
    if offset.is_none() && epoch.is_none() {
        return Ok(None);
    }
    let offset = offset.unwrap_or_default();
    let too_large = || Refusal::new(400, format!("`{name}`: offset {offset} is larger than 2^53-1"));
    let offset = Offset::new(offset).ok_or_else(too_large)?;
    Ok(Some(Position { offset, epoch: Epoch::from_text(&epoch.unwrap_or_default()) }))
}

fn history(members: &mut Members<'_>, state: &State, key: &ApiKey) -> Outcome {
    let topic = topic(members, state, key)?;
    // Below 0 means all.
    let limit = usize::try_from(members.signed("limit")?.unwrap_or(0)).unwrap_or(usize::MAX);
    let since = position(members.value("since"), "since")?;
    let reverse = members.flag("reverse")?;
    end(members)?;
    let page = state.topics.history(&topic, &HistoryQuery { limit, since, reverse })?;
    let data: Vec<Cow<'_, [u8]>> = page
        .publications
        .iter()
        .map(|p| match p.form {
            PayloadForm::Bytes => Cow::Owned(base64_json(&p.data)),
            PayloadForm::Json => Cow::Borrowed(&*p.data),
        })
        .collect();
    let publications = page.publications.iter().zip(&data).map(|(p, data)| {
        let tags = [(p.snapshot, "kind", "snapshot"), (p.form == PayloadForm::Bytes, "encoding", "base64")];
        PublicationOut {
            data: raw(data),
            offset: p.offset,
            time: p.ts,
            tags: tags.into_iter().filter(|tag| tag.0).map(|(_, name, value)| (name, value)).collect(),
        }
    });
    written(&HistoryOut { publications: publications.collect(), offset: page.offset, epoch: page.epoch })
}

/// JSON that was checked on arrival, as it was written.
fn raw(json: &[u8]) -> &RawValue {
    serde_json::from_slice(json).unwrap_or(RawValue::NULL)
}

fn raw_if_any(json: &[u8]) -> Option<&RawValue> {
    (!json.is_empty()).then(|| raw(json))
}

#[derive(Serialize)]
struct HistoryOut<'a> {
    publications: Vec<PublicationOut<'a>>,
    offset: Offset,
    epoch: Epoch,
}

#[derive(Serialize)]
struct PublicationOut<'a> {
    data: &'a RawValue,
    offset: Offset,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<&'static str, &'static str>,
}

async fn history_remove(members: &mut Members<'_>, state: &State, key: &ApiKey) -> Outcome {
    let topic = topic(members, state, key)?;
    end(members)?;
    tracing::info!(key = %key.name, topic = topic.as_str(), "history is removed");
    state.api.publisher.remove_history(&topic).await.map_err(|error| Refusal::new(503, error.to_string()))?;
    written(&json!({}))
}

/// Presence, whatever its clients may see; an error if the namespace keeps none.
fn counted(members: &mut Members<'_>, state: &State, key: &ApiKey) -> Result<TopicName, Refusal> {
    let name = topic(members, state, key)?;
    end(members)?;
    match state.config.namespace(name.namespace()).presence {
        true => Ok(name),
        false => Err(Refusal::new(501, "the namespace has no presence")),
    }
}

async fn presence(members: &mut Members<'_>, state: &State, key: &ApiKey) -> Outcome {
    let members = state.api.cluster.presence(&counted(members, state, key)?).await?;
    let presence: BTreeMap<&str, MemberOut<'_>> = members
        .iter()
        .map(|(id, m)| {
            let member = MemberOut {
                client: &m.client,
                user: &m.user,
                conn_info: raw_if_any(&m.conn_info),
                chan_info: raw_if_any(&m.chan_info),
            };
            (id.as_str(), member)
        })
        .collect();
    written(&BTreeMap::from([("presence", presence)]))
}

#[derive(Serialize)]
struct MemberOut<'a> {
    client: &'a str,
    user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    conn_info: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chan_info: Option<&'a RawValue>,
}

async fn presence_stats(members: &mut Members<'_>, state: &State, key: &ApiKey) -> Outcome {
    let count = state.api.cluster.presence_stats(&counted(members, state, key)?).await?;
    written(&json!({"num_clients": count.clients, "num_users": count.users}))
}

async fn channels(members: &mut Members<'_>, state: &State, key: &ApiKey) -> Outcome {
    let pattern = members.filled("pattern")?;
    end(members)?;
    let counts = state.api.cluster.channel_counts(pattern).await;
    let counts = counts.into_iter().filter(|(name, _)| key.has_topic(name));
    let channels: serde_json::Map<String, Value> =
        counts.map(|(name, count)| (name, json!({"num_clients": count}))).collect();
    written(&json!({"channels": channels}))
}

fn info(members: &mut Members<'_>, state: &State) -> Outcome {
    end(members)?;
    let mut reports = state.api.cluster.nodes.reports();
    // If nodes do not report, this one is still known.
    if state.config.ops.interval.is_zero() {
        let mut report = state.report();
        Reporter::new().fill(&mut report, &state.hub.stats());
        reports.push((state.api.cluster.node().to_owned(), report));
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
    written(&json!({"nodes": nodes}))
}

fn disconnect(members: &mut Members<'_>, state: &State, key: &ApiKey) -> Outcome {
    for_sessions(state, key)?;
    let mut who = who(members)?;
    who.except = members.texts("whitelist", crate::limits::BATCH_COMMANDS_MAX)?.unwrap_or_default();
    let (mut code, mut reason) = (CloseReason::Forced.code(), CloseReason::Forced.reason().to_owned());
    if let Some(value) = members.value("disconnect") {
        let mut asked = Members::of(value, "`disconnect`")?;
        let (number, text) = (asked.number("code")?.unwrap_or_default(), asked.text("reason")?.unwrap_or_default());
        asked.idle(&[("reconnect", "the code says whether clients come back")])?;
        asked.end()?;
        // Go's client writes an empty one for none.
        if number != 0 || !text.is_empty() {
            code = u16::try_from(number).ok().filter(|code| (3_000..5_000).contains(code)).ok_or_else(|| {
                Refusal::new(400, format!("`disconnect`: close code {number} is not one of 3000 to 4999"))
            })?;
            reason = text;
        }
    }
    end(members)?;
    tracing::info!(key = %key.name, user = who.user, code, "disconnect");
    state.api.cluster.order(&who, &Order::Disconnect { code, reason });
    written(&json!({}))
}

fn unsubscribe(members: &mut Members<'_>, state: &State, key: &ApiKey) -> Outcome {
    let topic = topic(members, state, key)?;
    let who = who(members)?;
    end(members)?;
    tracing::info!(key = %key.name, user = who.user, topic = topic.as_str(), "unsubscribe");
    state.api.cluster.order(&who, &Order::Unsubscribe { topic });
    written(&json!({}))
}

/// Options that a subscribe by the server cannot have.
const NOT_GIVEN: [(&str, &str); 6] = [
    ("expire_at", "the subscription lasts as long as the session"),
    ("info", "presence shows the `info` of the session's token"),
    ("b64info", "presence shows the `info` of the session's token"),
    ("data", "the client is told the class of the topic"),
    ("b64data", "the client is told the class of the topic"),
    ("label_filter", "sessions have no labels"),
];

fn subscribe(members: &mut Members<'_>, state: &State, key: &ApiKey) -> Outcome {
    let topic = topic(members, state, key)?;
    let who = who(members)?;
    let since = position(members.value("recover_since"), "recover_since")?;
    if let Some(value) = members.value("override") {
        let mut options = Members::of(value, "`override`")?;
        for option in ["presence", "join_leave", "force_recovery", "force_positioning", "force_push_join_leave"] {
            if options.value(option).is_some() {
                let message =
                    format!("`override`: `{option}` is not supported: the namespace's options hold; leave it out");
                return Err(Refusal::new(400, message));
            }
        }
        options.end()?;
    }
    members.idle(&NOT_GIVEN)?;
    end(members)?;
    tracing::info!(key = %key.name, user = who.user, topic = topic.as_str(), "subscribe");
    state.api.cluster.order(&who, &Order::Subscribe { topic, since });
    written(&json!({}))
}

fn refresh(members: &mut Members<'_>, state: &State, key: &ApiKey) -> Outcome {
    for_sessions(state, key)?;
    let who = who(members)?;
    let expired = members.flag("expired")?;
    let expires_s = members.number("expire_at")?.filter(|at| *at != 0);
    members.idle(&[("info", "a session's `info` is its token's")])?;
    end(members)?;
    if let Some(at) = expires_s.filter(|at| *at > EXPIRE_AT_MAX) {
        let message =
            format!("`expire_at` is in Unix seconds; {at} is later than the year 9999: are those milliseconds?");
        return Err(Refusal::new(400, message));
    }
    tracing::info!(key = %key.name, user = who.user, expired, expires_s, "refresh");
    state.api.cluster.order(&who, &Order::Refresh { expired, expires_s });
    written(&json!({}))
}

/// The last second of the year 9999.
const EXPIRE_AT_MAX: u64 = 253_402_300_799;
