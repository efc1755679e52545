//! The API in Centrifugo's request form: one command by its own path, several in `/api/batch`, or
//! the older form: one after the other at `/api`, each with its `method`.

use std::collections::BTreeMap;

use axum::Extension;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::auth::ApiKey;
use crate::config::{ErrorStyle, Scope};
use crate::http::api::audience::Audience;
use crate::http::api::body::Text;
use crate::http::api::key::{Admitted, ORDERS, admit, beyond};
use crate::http::api::members;
use crate::http::api::members::{Members, shown};
use crate::http::api::operate;
use crate::http::api::publish::{Prepared, Room, publish_all};
use crate::http::api::style;
use crate::http::api::style::{Outcome, Reply, written};
use crate::http::state::{Shared, State};
use crate::limits::{ANSWER_BYTES_MAX, BATCH_COMMANDS_MAX};
use crate::metrics::PublishRefusal;
use crate::protocol::Refusal;

/// Methods of the older form, by number.
const NUMBERED: [&str; 13] = [
    "publish",
    "broadcast",
    "unsubscribe",
    "disconnect",
    "presence",
    "presence_stats",
    "history",
    "history_remove",
    "channels",
    "info",
    "rpc",
    "subscribe",
    "refresh",
];

/// A command that was read and checked as far as possible without executing it.
enum Command<'a> {
    Publish(Prepared),
    /// An operator's command.
    Order(&'static str, Members<'a>),
}

/// The sender of a request, and the listener that it came by.
struct Caller<'a> {
    state: &'a State,
    admitted: Admitted<'a>,
    audience: Audience,
    style: ErrorStyle,
}

impl<'a> Caller<'a> {
    /// The caller of a request. From here on, a clean stop waits for the request.
    fn of(state: &'a State, audience: Audience, headers: &HeaderMap) -> Result<Self, Box<Response>> {
        let admitted = admit(state, headers).map_err(Box::new)?;
        Ok(Self { state, admitted, audience, style: style::asked(state, headers) })
    }

    fn key(&self) -> &'a ApiKey {
        self.admitted.key
    }

    /// Counts a refused command. A missing scope was counted where scopes are checked, and a
    /// refused delta is counted by its fault.
    fn count(&self, refusal: &Refusal) {
        self.state.metrics.refused_publish(match refusal.code {
            403 | 429 => return,
            413 => PublishRefusal::BatchTooLong,
            404 | Refusal::UNKNOWN_TOPIC => PublishRefusal::Unknown,
            416 | 501 => PublishRefusal::NotAvailable,
            503 => PublishRefusal::Unavailable,
            _ => PublishRefusal::Malformed,
        });
    }

    /// Reads a command. The key's scope is checked before the parameters are read.
    fn read<'b>(&self, method: &str, params: &'b RawValue, room: &mut Room) -> Result<Command<'b>, Refusal> {
        let (state, audience, key) = (self.state, self.audience, self.key());
        if let "publish" | "broadcast" = method {
            if !key.may(Scope::Publish) {
                return Err(beyond(state, key));
            }
            let members = Members::of(params, "a command")?;
            let read = if method == "publish" { Prepared::publish } else { Prepared::broadcast };
            return read(state, members, room).map(Command::Publish);
        }
        let Some(order) = ORDERS.iter().find(|order| **order == method) else {
            let known = ORDERS.join(", ");
            let method = shown(method);
            return Err(Refusal::new(
                404,
                format!("`{method}` is not known here; known are publish, broadcast, {known}"),
            ));
        };
        if !audience.takes_orders() {
            return Err(Refusal::new(404, format!("{order} is for operator.listen")));
        }
        if !key.may(Scope::Operate) {
            return Err(beyond(state, key));
        }
        Ok(Command::Order(order, Members::of(params, "a command")?))
    }

    /// Executes commands in order. Consecutive publishes go to the source together.
    async fn run(&self, commands: Vec<Result<Command<'_>, Refusal>>) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(commands.len());
        let mut waiting: Vec<(usize, Prepared)> = Vec::new();
        let mut answered = 0;
        for (at, command) in commands.into_iter().enumerate() {
            match command {
                Ok(Command::Publish(prepared)) => {
                    waiting.push((at, prepared));
                    outcomes.push(written(&()));
                }
                Ok(Command::Order(order, members)) => {
                    self.publish(std::mem::take(&mut waiting), &mut outcomes).await;
                    if answered > ANSWER_BYTES_MAX {
                        self.state.metrics.refused_publish(PublishRefusal::AnswerTooLong);
                        let message = format!(
                            "the answers before it have {answered} bytes; ask for this in a request of its own"
                        );
                        outcomes.push(Err(Refusal::new(429, message)));
                        continue;
                    }
                    let outcome = operate::run(order, members, self.state, self.key()).await;
                    if let Err(refusal) = &outcome {
                        self.count(refusal);
                    }
                    answered += outcome.as_ref().map_or(0, |result| result.get().len());
                    outcomes.push(outcome);
                    tokio::task::yield_now().await;
                }
                Err(refusal) => {
                    self.count(&refusal);
                    outcomes.push(Err(refusal));
                }
            }
        }
        self.publish(waiting, &mut outcomes).await;
        outcomes
    }

    async fn publish(&self, waiting: Vec<(usize, Prepared)>, outcomes: &mut [Outcome]) {
        if waiting.is_empty() {
            return;
        }
        let (places, prepared): (Vec<usize>, Vec<Prepared>) = waiting.into_iter().unzip();
        let done = publish_all(self.state, self.key(), self.style, &prepared).await;
        for (at, outcome) in places.into_iter().zip(done) {
            if let Some(place) = outcomes.get_mut(at) {
                *place = outcome;
            }
        }
    }
}

/// `POST /api/publish` and the others: the method is the last part of the path.
pub(in crate::http) async fn one(
    state: Shared,
    Extension(audience): Extension<Audience>,
    uri: Uri,
    headers: HeaderMap,
    text: Text,
) -> Response {
    let (caller, params) = match Caller::of(&state, audience, &headers).and_then(|caller| Ok((caller, text.json()?))) {
        Ok(begun) => begun,
        Err(refused) => return *refused,
    };
    let method = uri.path().rsplit('/').next().unwrap_or_default();
    let command = caller.read(method, params, &mut Room::default());
    let outcome = caller.run(vec![command]).await.pop();
    caller.style.answer(outcome.unwrap_or_else(|| written(&())))
}

/// `POST /api/batch`
pub(in crate::http) async fn batch(
    state: Shared,
    Extension(audience): Extension<Audience>,
    headers: HeaderMap,
    text: Text,
) -> Response {
    let (caller, body) = match Caller::of(&state, audience, &headers).and_then(|caller| Ok((caller, text.json()?))) {
        Ok(begun) => begun,
        Err(refused) => return *refused,
    };
    let style = caller.style;
    let (methods, commands) = match batched(&caller, body) {
        Ok(read) => read,
        Err(refusal) => {
            caller.count(&refusal);
            return style.answer(Err(refusal));
        }
    };
    let outcomes = caller.run(commands).await;
    let replies = methods.iter().zip(&outcomes).map(|(method, outcome)| Reply::new(method, outcome, style));
    axum::Json(BTreeMap::from([("replies", replies.collect::<Vec<_>>())])).into_response()
}

type Batched<'a> = (Vec<String>, Vec<Result<Command<'a>, Refusal>>);

/// The commands of a batch. A fault in one command is that command's error.
fn batched<'a>(caller: &Caller<'_>, body: &'a RawValue) -> Result<Batched<'a>, Refusal> {
    let mut batch = Members::of(body, "a batch")?;
    let commands = batch.value("commands").ok_or_else(|| batch.missing(&["commands"]))?;
    // Publishes to one topic keep their order either way; others do not wait for each other.
    batch.flag("parallel")?;
    let once = crate::http::api::publish::idempotency_key(&mut batch)?;
    batch.end()?;
    let commands = members::list(commands, "commands", BATCH_COMMANDS_MAX)?;
    let mut room = Room::default();
    let mut methods = Vec::with_capacity(commands.len());
    let mut read = Vec::with_capacity(commands.len());
    for (at, command) in commands.into_iter().enumerate() {
        let named = single(command);
        let (method, command) = match named {
            Ok((method, params)) => {
                let command = caller.read(&method, params, &mut room);
                (method, command)
            }
            Err(refusal) => (String::new(), Err(refusal)),
        };
        // The whole request is refused before any of it is executed.
        if let Err(refusal) = &command
            && refusal.code == 413
            && room.is_spent()
        {
            return Err(refusal.clone());
        }
        methods.push(method);
        read.push(command.map(|command| match (command, &once) {
            (Command::Publish(prepared), Some(once)) => Command::Publish(prepared.once(|| format!("{once}\0{at}"))),
            (command, _) => command,
        }));
    }
    Ok((methods, read))
}

/// A command of a batch: an object with one member, whose name is the method.
fn single(command: &RawValue) -> Result<(String, &RawValue), Refusal> {
    Members::of(command, "a command")?.only().ok_or_else(|| {
        Refusal::new(400, "a command has one member, whose name is the method, such as {\"publish\":{…}}")
    })
}

/// `POST /api`: `{"method":…,"params":{…}}`, one or several, usually one per line; answered in the
/// same form.
pub(in crate::http) async fn older(
    state: Shared,
    Extension(audience): Extension<Audience>,
    headers: HeaderMap,
    text: Text,
) -> Response {
    let (caller, envelopes) = match Caller::of(&state, audience, &headers).and_then(|c| Ok((c, text.values()?))) {
        Ok(begun) => begun,
        Err(refused) => return *refused,
    };
    let style = caller.style;
    let mut room = Room::default();
    let mut ids = Vec::with_capacity(envelopes.len());
    let mut commands = Vec::with_capacity(envelopes.len());
    for envelope in envelopes {
        let mut id = None;
        let command = enveloped(&caller, envelope, &mut id, &mut room);
        if let Err(refusal) = &command
            && refusal.code == 413
            && room.is_spent()
        {
            caller.count(refusal);
            return style.answer(Err(refusal.clone()));
        }
        ids.push(id);
        commands.push(command);
    }
    let outcomes = caller.run(commands).await;
    if let (ErrorStyle::Http, [Err(refusal)]) = (style, outcomes.as_slice()) {
        return style.answer(Err(refusal.clone()));
    }
    let lines = ids.into_iter().zip(outcomes).map(|(id, outcome)| {
        serde_json::to_string(&ReplyLine { reply: Reply::new("result", &outcome, style), id }).unwrap_or_default()
    });
    let lines: Vec<String> = lines.collect();
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], lines.join("\n")).into_response()
}

/// A reply in the older form.
#[derive(Serialize)]
struct ReplyLine<'a> {
    #[serde(flatten)]
    reply: Reply<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
}

fn enveloped<'a>(
    caller: &Caller<'_>,
    envelope: &'a RawValue,
    id: &mut Option<u64>,
    room: &mut Room,
) -> Result<Command<'a>, Refusal> {
    let mut members = Members::of(envelope, "a command")?;
    *id = members.number("id")?.filter(|id| *id != 0);
    let method = members.value("method").map(RawValue::get);
    let params = members.value("params");
    members.end()?;
    let numbered = |number: &str| number.parse::<usize>().ok().and_then(|number| NUMBERED.get(number)).copied();
    let method = match method {
        // As in Centrifugo: number 0 may be left out.
        None => "publish".to_owned(),
        Some(text) if text.starts_with('"') => {
            serde_json::from_str::<String>(text).unwrap_or_default().to_ascii_lowercase()
        }
        Some(number) => numbered(number)
            .ok_or_else(|| Refusal::new(404, format!("method {} is not known here", shown(number))))?
            .to_owned(),
    };
    let empty = serde_json::from_str::<&RawValue>("{}").ok();
    let params = params.or(empty).ok_or_else(|| Refusal::new(400, "`params` is missing"))?;
    caller.read(&method, params, room)
}
