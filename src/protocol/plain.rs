//! The `plain` dialect: one JSON object a message. `docs/protocol.md` is its specification.

use std::borrow::Cow;
use std::io::Write;

use bytes::Bytes;
use compact_str::CompactString;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    BadCommand, Command, CommandId, Delivery, Notice, Op, Refusal, Refused, SessionWishes, SnapshotDelivery, Standing,
    SubscribeItem, SubscribeTerms, lists,
};
use crate::form::PayloadForm;
use crate::name::TopicName;
use crate::wire::frame;

/// Longest string id.
const ID_BYTES_MAX: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(default)]
    id: Option<Id>,
    /// Read apart from the rest, no further than it may be long.
    #[serde(borrow, default)]
    args: Option<&'a RawValue>,
    #[serde(borrow, default)]
    since: Option<&'a RawValue>,
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
    #[serde(default)]
    id: Option<Id>,
}

/// As JSON, or how many bytes a string has that is too long.
enum Id {
    Json(CompactString),
    TooLong(usize),
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;

        impl serde::de::Visitor<'_> for IdVisitor {
            type Value = Id;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an id, which is a whole number or a string")
            }

            fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Id, E> {
                Ok(Id::Json(compact_str::format_compact!("{n}")))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Id, E> {
                match text.len() {
                    0..=ID_BYTES_MAX => {
                        serde_json::to_string(text).map(|json| Id::Json(json.into())).map_err(E::custom)
                    }
                    bytes => Ok(Id::TooLong(bytes)),
                }
            }
        }

        deserializer.deserialize_any(IdVisitor)
    }
}

impl CommandId {
    fn from_plain(id: Option<Id>) -> Result<Self, Refusal> {
        match id {
            None => Ok(Self(None)),
            Some(Id::Json(json)) => Ok(Self(Some(json))),
            Some(Id::TooLong(bytes)) => {
                Err(Refusal::new(400, format!("id has {bytes} bytes, the most is {ID_BYTES_MAX}")))
            }
        }
    }
}

impl Op {
    fn name(self) -> &'static str {
        match self {
            Self::Subscribe | Self::ServerSubscribe => "subscribe",
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

/// Reads a command; its lists of topics may have `topics_max` entries.
pub(super) fn command(message: &[u8], topics_max: usize) -> Result<Command, BadCommand> {
    let bad = |id: CommandId, op: Op, refusal: Refusal| BadCommand { id, op, refusal, fatal: false };
    let parsed: Message<'_> = match serde_json::from_slice(message) {
        Ok(parsed) => parsed,
        Err(error) => {
            let head = serde_json::from_slice::<Head<'_>>(message).ok();
            let op = head.as_ref().and_then(|h| h.op.as_deref()).map_or(Op::Unknown, Op::from_name);
            let id = head.and_then(|h| CommandId::from_plain(h.id).ok()).unwrap_or_default();
            return Err(bad(id, op, Refusal::new(400, format!("malformed command: {}", lists::bounded(&error)))));
        }
    };
    let op = Op::from_name(&parsed.op);
    let id = CommandId::from_plain(parsed.id).map_err(|refusal| bad(CommandId::default(), op, refusal))?;
    let refuse = |reason: String| bad(id.clone(), op, Refusal::new(400, reason));
    let refused = |refusal: Refusal| bad(id.clone(), op, refusal);
    let names = || lists::names("args", parsed.args, topics_max).map_err(refused);
    match op {
        Op::Subscribe => {
            let terms = SubscribeTerms::new(parsed.max_rate, parsed.history.unwrap_or(0)).map_err(refused)?;
            let lists::Names { topics, refused: others } = names()?;
            let mut since = lists::positions("since", parsed.since, topics_max).map_err(refused)?;
            let items = topics
                .into_iter()
                .map(|topic| SubscribeItem { since: since.remove(topic.as_str()), topic, options: None })
                .collect();
            if let Some(stray) = since.keys().find(|topic| TopicName::new(topic).is_ok()) {
                return Err(refuse(format!("`since` names {stray:?}, which is not in `args`")));
            }
            Ok(Command::Subscribe { id, items, refused: others, terms })
        }
        Op::Unsubscribe => {
            let lists::Names { topics, refused } = names()?;
            Ok(Command::Unsubscribe { id, topics, refused })
        }
        Op::Rate => {
            let terms = SubscribeTerms::new(parsed.max_rate, 0).map_err(refused)?;
            let lists::Names { topics, refused } = names()?;
            Ok(Command::Rate { id, topics, refused, max_rate: terms.max_rate })
        }
        Op::Session => {
            let Message { flush_interval_ms, bytes_per_second, batch, .. } = parsed;
            let wishes = SessionWishes { flush_interval_ms, bytes_per_second, batch };
            let wishes = wishes.check().map_err(refused)?;
            Ok(Command::Session { id, wishes })
        }
        Op::Snapshot => {
            let lists::Names { topics, refused } = names()?;
            Ok(Command::Snapshot { id, topics, refused })
        }
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

fn put_delivery_tail(out: &mut Vec<u8>, ts: Option<u64>, form: PayloadForm, data: &[u8]) {
    if let Some(ts) = ts {
        let _ = write!(out, ",\"ts\":{ts}");
    }
    if form == PayloadForm::Bytes {
        out.extend_from_slice(b",\"encoding\":\"base64\"");
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
        put_delivery_tail(out, d.ts, d.form, d.data);
    })
}

pub(super) fn snapshot(s: &SnapshotDelivery<'_>) -> Bytes {
    frame::text(s.topic.as_str().len() + s.data.len() + 128, |out| {
        put_delivery_head(out, s.topic, "snapshot");
        let _ = write!(out, ",\"offset\":{},\"epoch\":", s.offset);
        put_str(out, s.epoch.as_str());
        put_delivery_tail(out, s.ts, s.form, s.data);
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

/// The one reply to a command about topics: where those stand that it was carried out for (of commands whose replies say
/// it), and which were refused. `any`: it was carried out for one at least.
pub(super) fn outcome(id: &CommandId, op: Op, any: bool, standings: Option<&[Standing]>, refused: &Refused) -> Bytes {
    let told: usize = refused.groups().iter().map(|g| 64 + g.reason.len() + g.topics.len() * 24).sum();
    frame::text(64 + standings.map_or(0, |s| s.len() * 96) + told, |out| {
        put_reply_head(out, id, op);
        let _ = write!(out, ",\"ok\":{any}");
        if let Some(standings) = standings.filter(|_| any) {
            put_standings(out, op, standings);
        }
        if let Some(first) = refused.first() {
            put_error(out, first);
        }
        // One topic alone is named in `error`.
        if refused.len() > 1 || (any && !refused.is_empty()) {
            put_refused(out, refused);
        }
        out.push(b'}');
    })
}

fn put_standings(out: &mut Vec<u8>, op: Op, standings: &[Standing]) {
    out.extend_from_slice(b",\"topics\":{");
    for (i, s) in standings.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        put_str(out, s.topic.as_str());
        let _ = write!(out, ":{{\"offset\":{},\"epoch\":", s.offset);
        put_str(out, s.epoch.as_str());
        if op == Op::Subscribe {
            let _ = write!(out, ",\"recovered\":{},\"have\":{}", s.recovered, s.have);
        }
        out.push(b'}');
    }
    out.push(b'}');
}

fn put_error(out: &mut Vec<u8>, refusal: &Refusal) {
    let code = told_code(refusal.code);
    let _ = write!(out, ",\"error\":{{\"code\":{code},\"reason\":");
    put_str(out, &refusal.reason);
    if let Some(topic) = &refusal.topic {
        out.extend_from_slice(b",\"topic\":");
        put_str(out, topic);
    }
    out.push(b'}');
}

fn put_refused(out: &mut Vec<u8>, refused: &Refused) {
    out.extend_from_slice(b",\"refused\":[");
    for (i, group) in refused.groups().iter().enumerate() {
        let _ = write!(out, "{}{{\"code\":{},\"reason\":", if i > 0 { "," } else { "" }, told_code(group.code));
        put_str(out, &group.reason);
        out.extend_from_slice(b",\"topics\":");
        let _ = serde_json::to_writer(&mut *out, &group.topics);
        if group.more > 0 {
            let _ = write!(out, ",\"more\":{}", group.more);
        }
        out.push(b'}');
    }
    out.push(b']');
}

fn told_code(code: u16) -> u16 {
    match code {
        Refusal::TOKEN_EXPIRED => 401,
        Refusal::UNKNOWN_TOPIC => 404,
        code => code,
    }
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
        out.extend_from_slice(b",\"ok\":false");
        put_error(out, refusal);
        out.push(b'}');
    })
}

#[cfg(test)]
mod tests {
    use super::super::Dialect;
    use super::*;
    use crate::limits::{REASON_BYTES_MAX, REFUSED_NAME_BYTES_MAX};
    use crate::position::{Epoch, Offset, Position};
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
            let bad = Dialect::Plain.command(message.as_bytes(), 512).expect_err(message);
            let reply = text(&Dialect::Plain.refusal(&bad.id, bad.op, &bad.refusal));
            assert!(reply.contains(needle), "{message} → {reply}");
            serde_json::from_str::<serde_json::Value>(&reply).unwrap();
        }
    }

    #[test]
    fn one_bad_name_does_not_spoil_the_others() {
        let Ok(Command::Subscribe { items, refused, .. }) = Dialect::Plain.command(
            b"{\"op\":\"subscribe\",\"args\":[\"a:b\",\"c d\"],\"since\":{\"a:b\":{\"offset\":9,\"epoch\":\"x\"}}}",
            512,
        ) else {
            panic!()
        };
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].since, Some(Position { offset: Offset::new(9).unwrap(), epoch: Epoch::from_text("x") }));
        assert_eq!(refused.first().unwrap().topic.as_deref(), Some("c d"));
    }

    #[test]
    fn refused_topics_read_as_the_specification_says() {
        let id = CommandId(Some("1".into()));
        let refuse = |reason: &str, topics: &[&str]| {
            let mut refused = Refused::default();
            topics.iter().for_each(|t| refused.add(Refusal::new(403, reason).about(*t)));
            refused
        };
        let one = refuse("no", &["a"]);
        assert_eq!(
            text(&outcome(&id, Op::Subscribe, false, Some(&[]), &one)),
            r#"{"id":1,"op":"subscribe","ok":false,"error":{"code":403,"reason":"no","topic":"a"}}"#
        );
        assert_eq!(
            text(&outcome(&id, Op::Unsubscribe, true, None, &one)),
            r#"{"id":1,"op":"unsubscribe","ok":true,"error":{"code":403,"reason":"no","topic":"a"},"refused":[{"code":403,"reason":"no","topics":["a"]}]}"#
        );
        let two = refuse("no", &["a", "b"]);
        assert_eq!(
            text(&outcome(&id, Op::Rate, false, None, &two)),
            r#"{"id":1,"op":"rate","ok":false,"error":{"code":403,"reason":"no","topic":"a"},"refused":[{"code":403,"reason":"no","topics":["a","b"]}]}"#
        );
    }

    /// Whatever a command is, its answer is short: what it repeats is cut.
    #[test]
    fn the_answer_to_a_long_command_is_short() {
        let long = "x".repeat(60_000);
        let names = vec![long.as_str(); 3];
        let many: Vec<String> = (0..500).map(|n| format!("bad name {n}")).collect();
        for message in [
            format!("{{\"op\":\"{long}\"}}"),
            format!("{{\"op\":\"ping\",\"{long}\":1}}"),
            format!("{{\"op\":\"ping\",\"id\":\"{long}\"}}"),
            format!("{{\"op\":\"ping\",\"id\":[[[\"{long}\"]]]}}"),
            format!("{{\"op\":\"subscribe\",\"args\":[\"a\"],\"since\":{{\"{long}\":7}}}}"),
            serde_json::json!({"op": "subscribe", "args": names}).to_string(),
            serde_json::json!({"op": "subscribe", "args": many}).to_string(),
            serde_json::json!({"op": "subscribe", "args": vec!["a"; 16_300]}).to_string(),
            serde_json::json!({"op": "snapshot", "args": vec![""; 16_300]}).to_string(),
        ] {
            let reply = match Dialect::Plain.command(message.as_bytes(), 512) {
                Err(bad) => refusal(&bad.id, bad.op, &bad.refusal),
                Ok(Command::Subscribe { id, refused, .. }) => outcome(&id, Op::Subscribe, false, None, &refused),
                Ok(other) => panic!("{other:?}"),
            };
            let most = REFUSED_NAME_BYTES_MAX + 4 * REASON_BYTES_MAX;
            assert!(reply.len() <= most, "{} bytes: {}", reply.len(), text(&reply));
            serde_json::from_str::<serde_json::Value>(&text(&reply)).unwrap();
        }
    }

    #[test]
    fn deliveries_read_as_the_specification_says() {
        let topic = TopicName::new("quotes:\"X\"").unwrap();
        let offset = |n| Offset::new(n).unwrap();
        let form = PayloadForm::Json;
        let delta =
            Delivery { topic: &topic, offset: offset(19), prev: offset(13), count: 6, ts: Some(5), data: b"{}", form };
        assert_eq!(
            text(&delivery(&delta)),
            r#"{"topic":"quotes:\"X\"","type":"delta","offset":19,"prev":13,"conflated":6,"ts":5,"data":{}}"#
        );
        assert_eq!(
            text(&delivery(&Delivery { count: 1, ts: None, ..delta })),
            r#"{"topic":"quotes:\"X\"","type":"delta","offset":19,"prev":13,"data":{}}"#
        );
        let epoch = Epoch::from_text("e");
        let whole = SnapshotDelivery {
            topic: &topic,
            offset: offset(12),
            epoch: &epoch,
            ts: None,
            data: b"1",
            form,
            known: true,
        };
        assert_eq!(
            text(&snapshot(&whole)),
            r#"{"topic":"quotes:\"X\"","type":"snapshot","offset":12,"epoch":"e","data":1}"#
        );
        let id = CommandId(Some("1".into()));
        let standing = Standing { topic, offset: offset(12), epoch, recovered: false, have: offset(9) };
        assert_eq!(
            text(&outcome(&id, Op::Subscribe, true, Some(&[standing]), &Refused::default())),
            r#"{"id":1,"op":"subscribe","ok":true,"topics":{"quotes:\"X\"":{"offset":12,"epoch":"e","recovered":false,"have":9}}}"#
        );
        assert_eq!(text(&done(&id, Op::Ping)), r#"{"id":1,"op":"pong"}"#);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_command_or_a_reason(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Dialect::Plain.command(&bytes, 512);
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
