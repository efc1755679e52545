//! The `plain` dialect: one JSON object a message. `docs/protocol.md` is its specification.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;

use bytes::Bytes;
use compact_str::CompactString;
use serde::Deserialize;

use super::{
    BadCommand, Command, CommandId, Delivery, Notice, Op, Refusal, SessionWishes, SnapshotDelivery, Standing,
    SubscribeItem, SubscribeTerms,
};
use crate::name::TopicName;
use crate::position::Position;
use crate::wire::frame;

/// Longest string id.
const ID_BYTES_MAX: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(default)]
    id: Option<Id<'a>>,
    #[serde(borrow, default)]
    args: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow, default)]
    since: HashMap<Cow<'a, str>, Position>,
    #[serde(default)]
    max_rate: Option<f64>,
    #[serde(default)]
    history: Option<u32>,
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    flush_interval_ms: Option<u16>,
    #[serde(default)]
    bytes_per_second: Option<u32>,
    #[serde(default)]
    batch: Option<bool>,
}

/// Read before, and apart from, the rest, so that an error can name the command it answers.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default)]
    op: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Option<Id<'a>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Id<'a> {
    Number(u64),
    Text(Cow<'a, str>),
}

impl CommandId {
    fn from_plain(id: Option<Id<'_>>) -> Result<Self, Refusal> {
        Ok(Self(match id {
            None => None,
            Some(Id::Number(n)) => Some(compact_str::format_compact!("{n}")),
            Some(Id::Text(text)) if text.len() <= ID_BYTES_MAX => {
                Some(CompactString::from(serde_json::to_string(&text).unwrap_or_default()))
            }
            Some(Id::Text(text)) => {
                return Err(Refusal::new(400, format!("id has {} bytes, the most is {ID_BYTES_MAX}", text.len())));
            }
        }))
    }
}

impl Op {
    fn name(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Rate => "rate",
            Self::Session => "session",
            Self::Snapshot => "snapshot",
            Self::Auth => "auth",
            Self::Ping => "ping",
            // The others are of another dialect.
            _ => "unknown",
        }
    }

    fn from_name(name: &str) -> Self {
        match name {
            "subscribe" => Self::Subscribe,
            "unsubscribe" => Self::Unsubscribe,
            "rate" => Self::Rate,
            "session" => Self::Session,
            "snapshot" => Self::Snapshot,
            "auth" => Self::Auth,
            "ping" => Self::Ping,
            _ => Self::Unknown,
        }
    }
}

pub(super) fn command(message: &[u8]) -> Result<Command, BadCommand> {
    let bad = |id: CommandId, op: Op, refusal: Refusal| BadCommand { id, op, refusal, fatal: false };
    let parsed: Message<'_> = match serde_json::from_slice(message) {
        Ok(parsed) => parsed,
        Err(error) => {
            let head = serde_json::from_slice::<Head<'_>>(message).ok();
            let op = head.as_ref().and_then(|h| h.op.as_deref()).map_or(Op::Unknown, Op::from_name);
            let id = head.and_then(|h| CommandId::from_plain(h.id).ok()).unwrap_or_default();
            return Err(bad(id, op, Refusal::new(400, format!("malformed command: {error}"))));
        }
    };
    let op = Op::from_name(&parsed.op);
    let id = CommandId::from_plain(parsed.id).map_err(|refusal| bad(CommandId::default(), op, refusal))?;
    let refuse = |reason: String| bad(id.clone(), op, Refusal::new(400, reason));
    let mut refused = Vec::new();
    let mut names = |args: Option<Vec<Cow<'_, str>>>| -> Result<Vec<TopicName>, BadCommand> {
        let args = args.filter(|args| !args.is_empty()).ok_or_else(|| refuse("`args` names no topic".into()))?;
        let mut good = Vec::with_capacity(args.len());
        for arg in args {
            match TopicName::new(&arg) {
                Ok(name) => good.push(name),
                Err(e) => refused.push(Refusal::new(400, e.to_string()).about(arg.into_owned())),
            }
        }
        Ok(good)
    };
    match op {
        Op::Subscribe => {
            let terms = SubscribeTerms::new(parsed.max_rate, parsed.history.unwrap_or(0))
                .map_err(|refusal| bad(id.clone(), op, refusal))?;
            let mut since = parsed.since;
            let items = names(parsed.args)?
                .into_iter()
                .map(|topic| SubscribeItem { since: since.remove(topic.as_str()), topic, options: None })
                .collect();
            if let Some(stray) = since.keys().next() {
                return Err(refuse(format!("`since` names {stray:?}, which is not in `args`")));
            }
            Ok(Command::Subscribe { id, items, refused, terms })
        }
        Op::Unsubscribe => Ok(Command::Unsubscribe { topics: names(parsed.args)?, id, refused }),
        Op::Rate => {
            let terms = SubscribeTerms::new(parsed.max_rate, 0).map_err(|refusal| bad(id.clone(), op, refusal))?;
            Ok(Command::Rate { topics: names(parsed.args)?, id, refused, max_rate: terms.max_rate })
        }
        Op::Session => {
            let Message { flush_interval_ms, bytes_per_second, batch, .. } = parsed;
            let wishes = SessionWishes { flush_interval_ms, bytes_per_second, batch };
            let wishes = wishes.check().map_err(|refusal| bad(id.clone(), op, refusal))?;
            Ok(Command::Session { id, wishes })
        }
        Op::Snapshot => Ok(Command::Snapshot { topics: names(parsed.args)?, id, refused }),
        Op::Auth => match parsed.token {
            Some(token) => Ok(Command::Auth { id, token }),
            None => Err(refuse("`token` is missing".into())),
        },
        Op::Ping => Ok(Command::Ping { id }),
        _ => Err(refuse(format!(
            "unknown op {:?}; there are subscribe, unsubscribe, rate, session, snapshot, auth and ping",
            parsed.op.chars().take(40).collect::<String>()
        ))),
    }
}

/// JSON text of a string. Writing to a `Vec` cannot fail.
fn put_str(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(out, text);
}

fn put_delivery_head(out: &mut Vec<u8>, topic: &TopicName, kind: &str) {
    out.extend_from_slice(b"{\"topic\":");
    put_str(out, topic.as_str());
    let _ = write!(out, ",\"type\":\"{kind}\"");
}

fn put_delivery_tail(out: &mut Vec<u8>, ts: Option<u64>, data: &[u8]) {
    if let Some(ts) = ts {
        let _ = write!(out, ",\"ts\":{ts}");
    }
    out.extend_from_slice(b",\"data\":");
    out.extend_from_slice(data);
    out.push(b'}');
}

pub(super) fn delivery(d: &Delivery<'_>) -> Bytes {
    frame::text(d.topic.as_str().len() + d.data.len() + 128, |out| {
        put_delivery_head(out, d.topic, "delta");
        let _ = write!(out, ",\"offset\":{},\"prev\":{}", d.offset, d.prev);
        if d.count > 1 {
            let _ = write!(out, ",\"conflated\":{}", d.count);
        }
        put_delivery_tail(out, d.ts, d.data);
    })
}

pub(super) fn snapshot(s: &SnapshotDelivery<'_>) -> Bytes {
    frame::text(s.topic.as_str().len() + s.data.len() + 128, |out| {
        put_delivery_head(out, s.topic, "snapshot");
        let _ = write!(out, ",\"offset\":{},\"epoch\":", s.offset);
        put_str(out, s.epoch.as_str());
        put_delivery_tail(out, s.ts, s.data);
    })
}

pub(super) fn notice(notice: Notice<'_>) -> Bytes {
    frame::text(128, |out| match notice {
        Notice::Stale { topic, since_ms } => {
            out.extend_from_slice(b"{\"op\":\"stale\",\"topic\":");
            put_str(out, topic.as_str());
            let _ = write!(out, ",\"since\":{since_ms}}}");
        }
        Notice::Fresh { topic } => {
            out.extend_from_slice(b"{\"op\":\"fresh\",\"topic\":");
            put_str(out, topic.as_str());
            out.push(b'}');
        }
        Notice::Closing { retry_after_ms } => {
            let _ = write!(out, "{{\"op\":\"closing\",\"retry_after_ms\":{retry_after_ms}}}");
        }
    })
}

pub(super) fn unsubscribed(topic: &TopicName, code: u16, reason: &str) -> Bytes {
    frame::text(128, |out| {
        out.extend_from_slice(b"{\"op\":\"unsubscribed\",\"topic\":");
        put_str(out, topic.as_str());
        let _ = write!(out, ",\"code\":{code},\"reason\":");
        put_str(out, reason);
        out.push(b'}');
    })
}

fn put_reply_head(out: &mut Vec<u8>, id: &CommandId, op: Op) {
    out.push(b'{');
    if let Some(id) = &id.0 {
        let _ = write!(out, "\"id\":{id},");
    }
    let name = if op == Op::Ping { "pong" } else { op.name() };
    let _ = write!(out, "\"op\":\"{name}\"");
}

pub(super) fn standings(id: &CommandId, op: Op, standings: &[Standing]) -> Bytes {
    frame::text(64 + standings.len() * 96, |out| {
        put_reply_head(out, id, op);
        out.extend_from_slice(b",\"ok\":true,\"topics\":{");
        for (i, s) in standings.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            put_str(out, s.topic.as_str());
            let _ = write!(out, ":{{\"offset\":{},\"epoch\":", s.offset);
            put_str(out, s.epoch.as_str());
            if op == Op::Subscribe {
                let _ = write!(out, ",\"recovered\":{}", s.recovered);
            }
            out.push(b'}');
        }
        out.extend_from_slice(b"}}");
    })
}

pub(super) fn done(id: &CommandId, op: Op) -> Bytes {
    frame::text(64, |out| {
        put_reply_head(out, id, op);
        out.extend_from_slice(if op == Op::Ping { b"}".as_slice() } else { b",\"ok\":true}" });
    })
}

pub(super) fn refusal(id: &CommandId, op: Op, refusal: &Refusal) -> Bytes {
    frame::text(192, |out| {
        put_reply_head(out, id, op);
        let code = if refusal.code == Refusal::TOKEN_EXPIRED { 401 } else { refusal.code };
        let _ = write!(out, ",\"ok\":false,\"error\":{{\"code\":{code},\"reason\":");
        put_str(out, &refusal.reason);
        if let Some(topic) = &refusal.topic {
            out.extend_from_slice(b",\"topic\":");
            put_str(out, topic);
        }
        out.extend_from_slice(b"}}");
    })
}

#[cfg(test)]
mod tests {
    use super::super::Dialect;
    use super::*;
    use crate::position::{Epoch, Offset};
    use proptest::prelude::*;

    fn payload(frame: &Bytes) -> &[u8] {
        let header = match frame[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        &frame[header..]
    }

    fn text(frame: &Bytes) -> String {
        String::from_utf8(payload(frame).to_vec()).unwrap()
    }

    #[test]
    fn malformed_commands_are_answered_with_what_was_wrong() {
        let table: &[(&str, &str)] = &[
            ("", "EOF"),
            ("[]", "invalid"),
            (
                "{\"op\":\"subscribe\",\"id\":7}",
                "\"id\":7,\"op\":\"subscribe\",\"ok\":false,\"error\":{\"code\":400,\"reason\":\"`args` names no topic",
            ),
            ("{\"op\":\"subscribe\",\"id\":7,\"args\":[]}", "names no topic"),
            ("{\"op\":\"subscribe\",\"id\":7,\"args\":[1]}", "\"id\":7"),
            ("{\"op\":\"dance\",\"id\":\"x\"}", "\"id\":\"x\",\"op\":\"unknown\""),
            ("{\"op\":\"dance\"}", "there are subscribe"),
            ("{\"op\":\"auth\",\"id\":1}", "`token` is missing"),
            ("{\"op\":\"subscribe\",\"args\":[\"a\"],\"max_rate\":-1}", "above 0"),
            (
                "{\"op\":\"subscribe\",\"args\":[\"a\"],\"since\":{\"b\":{\"offset\":1,\"epoch\":\"e\"}}}",
                "not in `args`",
            ),
            ("{\"op\":\"subscribe\",\"args\":[\"a\"],\"sinse\":{}}", "sinse"),
        ];
        for (message, needle) in table {
            let bad = Dialect::Plain.command(message.as_bytes()).expect_err(message);
            let reply = text(&Dialect::Plain.refusal(&bad.id, bad.op, &bad.refusal));
            assert!(reply.contains(needle), "{message} → {reply}");
            serde_json::from_str::<serde_json::Value>(&reply).unwrap();
        }
    }

    #[test]
    fn one_bad_name_does_not_spoil_the_others() {
        let Ok(Command::Subscribe { items, refused, .. }) = Dialect::Plain.command(
            b"{\"op\":\"subscribe\",\"args\":[\"a:b\",\"c d\"],\"since\":{\"a:b\":{\"offset\":9,\"epoch\":\"x\"}}}",
        ) else {
            panic!()
        };
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].since, Some(Position { offset: Offset::new(9).unwrap(), epoch: Epoch::from_text("x") }));
        assert_eq!(refused[0].topic.as_deref(), Some("c d"));
    }

    #[test]
    fn deliveries_read_as_the_specification_says() {
        let topic = TopicName::new("quotes:\"X\"").unwrap();
        let offset = |n| Offset::new(n).unwrap();
        let delta =
            Delivery { topic: &topic, offset: offset(19), prev: offset(13), count: 6, ts: Some(5), data: b"{}" };
        assert_eq!(
            text(&delivery(&delta)),
            r#"{"topic":"quotes:\"X\"","type":"delta","offset":19,"prev":13,"conflated":6,"ts":5,"data":{}}"#
        );
        assert_eq!(
            text(&delivery(&Delivery { count: 1, ts: None, ..delta })),
            r#"{"topic":"quotes:\"X\"","type":"delta","offset":19,"prev":13,"data":{}}"#
        );
        let epoch = Epoch::from_text("e");
        let whole = SnapshotDelivery { topic: &topic, offset: offset(12), epoch: &epoch, ts: None, data: b"1" };
        assert_eq!(
            text(&snapshot(&whole)),
            r#"{"topic":"quotes:\"X\"","type":"snapshot","offset":12,"epoch":"e","data":1}"#
        );
        let id = CommandId(Some("1".into()));
        let standing = Standing { topic, offset: offset(12), epoch, recovered: false };
        assert_eq!(
            text(&standings(&id, Op::Subscribe, &[standing])),
            r#"{"id":1,"op":"subscribe","ok":true,"topics":{"quotes:\"X\"":{"offset":12,"epoch":"e","recovered":false}}}"#
        );
        assert_eq!(text(&done(&id, Op::Ping)), r#"{"id":1,"op":"pong"}"#);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_command_or_a_reason(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Dialect::Plain.command(&bytes);
        }

        #[test]
        fn any_text_in_a_refusal_is_sent_as_valid_json(reason in ".{0,60}", topic in ".{0,60}") {
            let frame = refusal(&CommandId::default(), Op::Unknown, &Refusal::new(400, reason.clone()).about(topic.clone()));
            let value: serde_json::Value = serde_json::from_slice(payload(&frame)).unwrap();
            prop_assert_eq!(value["error"]["reason"].as_str(), Some(&*reason));
            prop_assert_eq!(value["error"]["topic"].as_str(), Some(&*topic));
        }
    }
}
