//! The `plain` dialect: one JSON object per message. `docs/protocol.md` is its specification.

use std::borrow::Cow;
use std::io::Write;

use bytes::Bytes;
use compact_str::CompactString;
use serde::Deserialize;

use super::members::Members;
use super::{
    BadCommand, Command, CommandId, Delivery, Notice, Op, Refusal, Refused, SessionWishes, SnapshotDelivery, Standing,
    SubscribeItem, SubscribeTerms, lists,
};
use crate::form::PayloadForm;
use crate::limits::FLUSH_INTERVAL_MAX;
use crate::name::TopicName;
use crate::wire::frame;

/// Longest string id.
const ID_BYTES_MAX: usize = 64;

/// All members that a command may have.
const MEMBERS: &[&str] =
    &["op", "id", "args", "since", "max_rate", "history", "token", "flush_interval_ms", "bytes_per_second", "batch"];

/// The expected form of a 32-bit number.
const WHOLE: &str = "a whole number from 0 to 4294967295";

/// The expected form of a rate.
const RATE: &str = "a number";

/// An id as JSON, or the length in bytes of a string that is too long.
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
            // The other commands belong to another dialect.
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

impl Op {
    /// The members that this command may have.
    fn members(self) -> &'static [&'static str] {
        match self {
            Self::Subscribe => &["op", "id", "args", "since", "max_rate", "history"],
            Self::Unsubscribe | Self::Snapshot => &["op", "id", "args"],
            Self::Rate => &["op", "id", "args", "max_rate"],
            Self::Session => &["op", "id", "flush_interval_ms", "bytes_per_second", "batch"],
            Self::Auth => &["op", "id", "token"],
            _ => &["op", "id"],
        }
    }
}

/// Reads a command; its lists of topics may have `topics_max` entries. An error carries the
/// command's `id` and `op`, if they can be read.
pub(super) fn command(message: &[u8], topics_max: usize) -> Result<Command, BadCommand> {
    let (members, outcome) = Members::read(message, MEMBERS);
    let id_kind = format!("a whole number up to 2^64-1 or a string up to {ID_BYTES_MAX} bytes");
    let id = members.value::<Id>("id", id_kind).and_then(CommandId::from_plain);
    let name = members.value::<Cow<'_, str>>("op", "a string");
    let op = name.as_ref().ok().and_then(Option::as_deref).map_or(Op::Unknown, Op::from_name);
    let known = id.clone().unwrap_or_default();
    let bad = |refusal: Refusal| BadCommand { id: known.clone(), op, refusal, fatal: false };
    outcome.map_err(bad)?;
    let id = id.map_err(bad)?;
    let name = name.map_err(bad)?;
    if op == Op::Unknown {
        let ops = "there are subscribe, unsubscribe, rate, session, snapshot, auth and ping";
        let reason = match name {
            Some(name) => format!("unknown op {:?}; {ops}", name.chars().take(40).collect::<String>()),
            None => match members.stray() {
                Some(stray) => format!("`op` is missing, and `{stray}` is no member of a command; {ops}"),
                None => format!("`op` is missing; {ops}"),
            },
        };
        return Err(bad(Refusal::new(400, reason)));
    }
    members.only(op.members()).map_err(bad)?;
    read(&members, op, id, topics_max).map_err(bad)
}

/// Reads the members of a particular command.
fn read(members: &Members<'_>, op: Op, id: CommandId, topics_max: usize) -> Result<Command, Refusal> {
    let names = || lists::names("args", members.raw("args"), topics_max);
    Ok(match op {
        Op::Subscribe => {
            let history = members.value("history", WHOLE)?.unwrap_or(0);
            let terms = SubscribeTerms::new(members.value("max_rate", RATE)?, history)?;
            let lists::Names { topics, refused } = names()?;
            let mut since = lists::positions("since", members.raw("since"), topics_max)?;
            let items = topics
                .into_iter()
                .map(|topic| SubscribeItem { since: since.remove(topic.as_str()), topic, options: None })
                .collect();
            if let Some(stray) = since.keys().find(|topic| TopicName::new(topic).is_ok()) {
                return Err(Refusal::new(400, format!("`since` names {stray:?}, which is not in `args`")));
            }
            Command::Subscribe { id, items, refused, terms }
        }
        Op::Unsubscribe => {
            let lists::Names { topics, refused } = names()?;
            Command::Unsubscribe { id, topics, refused }
        }
        Op::Rate => {
            let max_rate = SubscribeTerms::new(members.value("max_rate", RATE)?, 0)?.max_rate;
            let lists::Names { topics, refused } = names()?;
            Command::Rate { id, topics, refused, max_rate }
        }
        Op::Session => Command::Session { id, wishes: SessionWishes::read(members)? },
        Op::Snapshot => {
            let lists::Names { topics, refused } = names()?;
            Command::Snapshot { id, topics, refused }
        }
        Op::Auth => match members.value("token", "a string")? {
            Some(token) => Command::Auth { id, token },
            None => return Err(Refusal::new(400, "`token` is missing")),
        },
        _ => Command::Ping { id },
    })
}

impl SessionWishes {
    /// The members of session settings, in either dialect.
    pub(super) const MEMBERS: &[&str] = &["flush_interval_ms", "bytes_per_second", "batch"];

    /// Reads them.
    ///
    /// # Errors
    /// A value has the wrong kind, or is out of bounds.
    pub(super) fn read(members: &Members<'_>) -> Result<Self, Refusal> {
        let longest = FLUSH_INTERVAL_MAX.as_millis();
        let wishes = Self {
            flush_interval_ms: members.value("flush_interval_ms", format!("a whole number from 0 to {longest}"))?,
            bytes_per_second: members.value("bytes_per_second", WHOLE)?,
            batch: members.value("batch", "true or false")?,
        };
        wishes.check()
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
        if s.known.may_lack() {
            out.extend_from_slice(b",\"incomplete\":true");
        }
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

/// The reply to a command about topics: the positions of topics for which it was carried out (if
/// the command's reply has them), and the refused ones. `any` says that it was carried out for at
/// least one.
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
        // A single topic is named in `error` alone.
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
    use crate::protocol::Known;
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
            ("[]", "expected an object"),
            ("7", "expected an object"),
            ("{\"op\":\"ping\",\"id\":3} {}", "\"id\":3,\"op\":\"pong\",\"ok\":false"),
            (
                "{\"op\":\"subscribe\",\"id\":7}",
                "\"id\":7,\"op\":\"subscribe\",\"ok\":false,\"error\":{\"code\":400,\"reason\":\"`args` names no topic",
            ),
            ("{\"op\":\"subscribe\",\"id\":7,\"args\":[]}", "names no topic"),
            ("{\"op\":\"subscribe\",\"id\":7,\"args\":[1]}", "\"id\":7"),
            ("{\"op\":\"dance\",\"id\":\"x\"}", "\"id\":\"x\",\"op\":\"unknown\""),
            ("{\"op\":\"dance\"}", "there are subscribe"),
            ("{\"op\":\"auth\",\"id\":1}", "`token` is missing"),
            ("{\"op\":\"subscribe\",\"args\":[\"a\"],\"max_rate\":-1}", "the least is 0.1"),
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

    /// An error has the fault, the value and the expected form, under the command's own `id` and
    /// `op` if those are valid.
    #[test]
    fn a_member_that_is_wrong_is_named_with_its_value() {
        let table: &[(&str, &str, &[&str])] = &[
            (r#"["subscribe",1,["a"]]"#, r#"{"op":"unknown""#, &["sequence", "expected an object"]),
            (r#"["ping"]"#, r#"{"op":"unknown""#, &["expected an object"]),
            (r#"{"op":"ping","id":1.5}"#, r#"{"op":"pong""#, &["`id`", "1.5", "a whole number", "64 bytes"]),
            (r#"{"op":"ping","id":-1}"#, r#"{"op":"pong""#, &["`id`", "-1", "a whole number"]),
            (r#"{"op":"ping","id":[1]}"#, r#"{"op":"pong""#, &["`id`", "[1]", "a whole number"]),
            (r#"{"op":["ping"],"id":1}"#, r#"{"id":1,"op":"unknown""#, &["`op`", "a string"]),
            (r#"{"id":1}"#, r#"{"id":1,"op":"unknown""#, &["`op` is missing"]),
            (r#"{"id":1,"opp":"ping"}"#, r#"{"id":1,"op":"unknown""#, &["`op` is missing, and `opp` is no member"]),
            (r#"{"op":"auth","id":1,"tokn":"t"}"#, r#"{"id":1"#, &["`tokn` is no member", "did you mean `token`?"]),
            (r#"{"op":"subscribe","id":1,"arg":["a"]}"#, r#"{"id":1"#, &["`arg` is no member", "did you mean `args`?"]),
            (r#"{"op":"ping","id":1,"args":["a"]}"#, r#"{"id":1,"op":"pong""#, &["`args`", "there are op, id"]),
            (r#"{"op":"unsubscribe","id":1,"args":["a"],"max_rate":2}"#, r#"{"id":1"#, &["`max_rate`", "is 2"]),
            (r#"{"op":"rate","id":1,"args":["a"],"history":2}"#, r#"{"id":1"#, &["`history`", "is 2"]),
            (r#"{"op":"subscribe","id":1,"args":["a"],"token":"t"}"#, r#"{"id":1"#, &["`token`"]),
            (r#"{"op":"ping","id":1,"id":2}"#, r#"{"id":1,"op":"pong""#, &["`id` is there twice"]),
            (r#"{"op":"subscribe","id":1,"args":["a"],"max_rate":1e-300}"#, r#"{"id":1"#, &["max_rate", "0.1"]),
            (r#"{"op":"rate","id":1,"args":["a"],"max_rate":0.09}"#, r#"{"id":1"#, &["max_rate is 0.09", "0.1"]),
            (
                r#"{"op":"rate","id":1,"args":["a"],"max_rate":1e999}"#,
                r#"{"id":1"#,
                &["`max_rate`", "1e999", "a number"],
            ),
            (r#"{"op":"rate","id":1,"args":["a"],"max_rate":"2"}"#, r#"{"id":1"#, &["`max_rate`", "a number"]),
            (r#"{"op":"subscribe","id":1,"args":["a"],"history":-1}"#, r#"{"id":1"#, &["`history`", "-1", "from 0"]),
            (r#"{"op":"subscribe","id":1,"args":"a"}"#, r#"{"id":1"#, &["`args`", "a list of topics"]),
            (
                r#"{"op":"subscribe","id":1,"args":["a"],"since":{"a":[1,"e"]}}"#,
                r#"{"id":1"#,
                &["`since`", "an object"],
            ),
            (r#"{"op":"subscribe","id":1,"args":["a"],"since":[]}"#, r#"{"id":1"#, &["`since`", "positions"]),
            (
                r#"{"op":"session","id":1,"flush_interval_ms":9999}"#,
                r#"{"id":1"#,
                &["flush_interval_ms is 9999", "5000"],
            ),
            (
                r#"{"op":"session","id":1,"flush_interval_ms":70000}"#,
                r#"{"id":1"#,
                &["`flush_interval_ms`", "70000", "5000"],
            ),
            (r#"{"op":"session","id":1,"batch":1}"#, r#"{"id":1"#, &["`batch`", "not 1", "true or false"]),
            (r#"{"op":"session","id":1,"bytes_per_second":1.5}"#, r#"{"id":1"#, &["`bytes_per_second`", "1.5"]),
            (r#"{"op":"auth","id":1,"token":7}"#, r#"{"id":1,"op":"auth""#, &["`token`", "not 7", "a string"]),
        ];
        for (message, head, needles) in table {
            let bad = Dialect::Plain.command(message.as_bytes(), 512).expect_err(message);
            let reply = text(&Dialect::Plain.refusal(&bad.id, bad.op, &bad.refusal));
            assert!(reply.starts_with(head), "{message} → {reply}");
            for needle in *needles {
                assert!(reply.replace("\\\"", "\"").contains(needle), "{needle}: {message} → {reply}");
            }
        }
        // `null` counts as absent.
        let nulls = r#"{"op":"ping","id":null,"args":null,"token":null}"#;
        assert_eq!(Dialect::Plain.command(nulls.as_bytes(), 512), Ok(Command::Ping { id: CommandId::default() }));
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

    /// Whatever a command is, its answer is short: repeated text is cut.
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
            known: Known::Whole,
        };
        assert_eq!(
            text(&snapshot(&whole)),
            r#"{"topic":"quotes:\"X\"","type":"snapshot","offset":12,"epoch":"e","data":1}"#
        );
        assert_eq!(
            text(&snapshot(&SnapshotDelivery { known: Known::Incomplete, ..whole })),
            r#"{"topic":"quotes:\"X\"","type":"snapshot","offset":12,"epoch":"e","incomplete":true,"data":1}"#
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

        /// Whatever its members are, a command is carried out, or refused once, under its `id` if
        /// that is valid, with a short reason. Members of other commands are never ignored.
        #[test]
        fn any_members_give_a_command_or_an_error_that_names_one(
            op in prop::sample::select(vec!["subscribe", "unsubscribe", "rate", "session", "snapshot", "auth", "ping"]),
            members in prop::collection::btree_map(
                prop::sample::select(&MEMBERS[1..]),
                prop::sample::select(vec![
                    "1", "1.5", "-1", "1e-300", "1e999", "\"a\"", "[]", "[\"a\"]", "[1]", "{}", "true", "{\"a\":[1,\"e\"]}",
                    "{\"a\":{\"offset\":1,\"epoch\":\"e\"}}",
                ]),
                0..6,
            ),
        ) {
            let mut message = format!("{{\"op\":\"{op}\"");
            members.iter().for_each(|(name, value)| message.push_str(&format!(",\"{name}\":{value}")));
            message.push('}');
            let read = Dialect::Plain.command(message.as_bytes(), 512);
            let foreign = members.keys().any(|name| !Op::from_name(op).members().contains(name));
            prop_assert!(read.is_err() || !foreign, "{}", message);
            if let Err(bad) = read {
                prop_assert_eq!(bad.op, Op::from_name(op));
                let id = members.get("id").filter(|id| matches!(**id, "1" | "\"a\""));
                prop_assert_eq!(bad.id.0.as_deref(), id.copied());
                let named = members.keys().any(|name| bad.refusal.reason.contains(name))
                    || ["`args`", "`token`"].iter().any(|name| bad.refusal.reason.contains(name));
                prop_assert!(named, "{}: {}", message, bad.refusal.reason);
            }
        }

        /// A list is not an object, whatever its contents.
        #[test]
        fn a_list_is_no_command(entries in prop::collection::vec(
            prop::sample::select(vec!["\"ping\"", "\"subscribe\"", "1", "null", "[\"a\"]", "{}"]), 0..6,
        )) {
            let message = format!("[{}]", entries.join(","));
            prop_assert!(Dialect::Plain.command(message.as_bytes(), 512).is_err());
            prop_assert!(Dialect::CentrifugeJson.command(message.as_bytes(), 512).is_err());
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
