//! Encoding replies, deliveries and notices as whole frames.

use std::collections::BTreeMap;
use std::io::Write as _;

use bytes::{BufMut as _, Bytes};
use prost::Message as _;

use super::format::Format;
use super::messages::{
    self, ClientInfo, ConnectResult, Data, Error, HistoryResult, Membership, Nothing, PresenceResult,
    PresenceStatsResult, Publication, Push, RefreshResult, Reply, SubRefreshResult, SubscribePush, SubscribeResult,
    Unsubscribe,
};
use crate::form::PayloadForm;
use crate::name::TopicName;
use crate::protocol::{
    CommandId, Connected, Delivery, MemberInfo, MembershipChange, Notice, Op, Refusal, SnapshotDelivery, Subscribed,
};
use crate::wire::frame::{self, Opcode};

/// Field numbers of messages that are encoded by hand: `ClientInfo`,
/// `SubscribeResult.publications`, `Reply` and others.
mod tag {
    pub(super) const REPLY_ID: u8 = 1 << 3;
    pub(super) const REPLY_CONNECT: u8 = 5 << 3 | 2;
    pub(super) const REPLY_SUBSCRIBE: u8 = 6 << 3 | 2;
    pub(super) const SUBSCRIBE_PUBLICATION: u8 = 7 << 3 | 2;
    pub(super) const CONNECT_SUBS: u8 = 6 << 3 | 2;
    pub(super) const ENTRY_KEY: u8 = 1 << 3 | 2;
    pub(super) const ENTRY_VALUE: u8 = 2 << 3 | 2;
}

/// A refusal's code, meaning and whether to try again, as the SDKs know them.
fn error(refusal: &Refusal) -> Error {
    let (code, meaning, temporary) = match refusal.code {
        400 => (107, "bad request", false),
        401 | 403 => (103, "permission denied", false),
        404 => (104, "method not found", false),
        409 => (105, "already subscribed", false),
        416 => (112, "unrecoverable position", false),
        413 | 429 => (106, "limit exceeded", false),
        Refusal::UNKNOWN_TOPIC => (102, "unknown channel", false),
        Refusal::TOKEN_EXPIRED => (109, "token expired", false),
        501 => (108, "not available", false),
        code @ 1_000..2_000 => (code, "", false),
        _ => (100, "internal server error", true),
    };
    let message = match (meaning, refusal.reason.as_str()) {
        ("", reason) => reason.to_owned(),
        (meaning, "") => meaning.to_owned(),
        (meaning, reason) => format!("{meaning}: {reason}"),
    };
    Error { code: code.into(), message, temporary }
}

/// A refusal's code and message in Centrifugo's server API.
pub fn server_error(refusal: &Refusal) -> (u32, String) {
    let Error { code, message, .. } = error(refusal);
    (code, message)
}

fn number(id: &CommandId) -> u32 {
    id.0.as_ref().and_then(|id| id.parse().ok()).unwrap_or(0)
}

fn encode(format: Format, reply: &Reply) -> Bytes {
    match format {
        Format::Json => frame::text(128, |out| {
            // Its contents were checked to be JSON when they came in, and writing to memory cannot
            // fail.
            let _ = serde_json::to_writer(out, reply);
        }),
        Format::Protobuf => frame::binary(reply.encoded_len() + 5, |out| {
            let _ = reply.encode_length_delimited(out);
        }),
    }
}

fn push(format: Format, push: Push) -> Bytes {
    encode(format, &Reply { push: Some(push), ..Reply::default() })
}

/// Form of the data of a delivery under delta compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocol) enum Form<'a> {
    /// As published: the receiver did not ask for delta compression.
    Usual,
    /// Whole, for receivers that take differences. In JSON it is then a string.
    Whole,
    /// The difference to the delivery before it.
    Fossil(&'a [u8]),
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(out, text);
}

fn publication_frame(
    format: Format,
    topic: &TopicName,
    form: Form<'_>,
    data: &[u8],
    offset: u64,
    ts: Option<u64>,
    tags: &[(&str, &str)],
) -> Bytes {
    let bytes = if let Form::Fossil(delta) = form { delta } else { data };
    let capacity = topic.as_str().len() + bytes.len() + bytes.len() / 8 + 128;
    match format {
        Format::Json => frame::text(capacity, |out| {
            put_json_head(out, topic);
            out.extend_from_slice(b"{\"data\":");
            match form {
                Form::Usual => out.extend_from_slice(bytes),
                Form::Whole | Form::Fossil(_) => put_str(out, std::str::from_utf8(bytes).unwrap_or_default()),
            }
            if offset > 0 {
                let _ = write!(out, ",\"offset\":{offset}");
            }
            for (i, (name, value)) in tags.iter().enumerate() {
                let before = if i == 0 { ",\"tags\":{" } else { "," };
                let _ = write!(out, "{before}\"{name}\":\"{value}\"");
            }
            if !tags.is_empty() {
                out.push(b'}');
            }
            if let Form::Fossil(_) = form {
                out.extend_from_slice(b",\"delta\":true");
            }
            if let Some(ts) = ts {
                let _ = write!(out, ",\"time\":{ts}");
            }
            out.extend_from_slice(b"}}}");
        }),
        Format::Protobuf => {
            let tags = tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let publication = Publication {
                data: Bytes::copy_from_slice(bytes),
                offset,
                tags: BTreeMap::from_iter(tags),
                delta: matches!(form, Form::Fossil(_)),
                time: ts.and_then(|ts| i64::try_from(ts).ok()).unwrap_or(0),
            };
            push(format, Push { channel: topic.as_str().to_owned(), publication: Some(publication), ..Push::default() })
        }
    }
}

fn put_json_head(out: &mut Vec<u8>, topic: &TopicName) {
    out.extend_from_slice(b"{\"push\":{\"channel\":");
    put_str(out, topic.as_str());
    out.extend_from_slice(b",\"pub\":");
}

/// The publication inside a frame of [`delivery`] or [`snapshot`], without a copy, for use in a
/// reply.
fn publication_of(format: Format, topic: &TopicName, frame: &Bytes) -> Bytes {
    let payload = frame.slice(frame::header_bytes(frame)..);
    match format {
        Format::Json => {
            let mut head = Vec::with_capacity(64);
            put_json_head(&mut head, topic);
            let end = payload.len().saturating_sub(2);
            payload.slice(head.len().min(end)..end)
        }
        // Length, tag of the push, its length, the channel, tag of the publication, its length. The
        // publication is the last field.
        Format::Protobuf => {
            let mut rest = payload.clone();
            let mut inner = || -> Result<(), prost::DecodeError> {
                prost::decode_length_delimiter(&mut rest)?;
                prost::encoding::decode_key(&mut rest)?;
                prost::decode_length_delimiter(&mut rest)?;
                prost::encoding::decode_key(&mut rest)?;
                let channel = prost::decode_length_delimiter(&mut rest)?;
                let channel = channel.min(rest.len());
                bytes::Buf::advance(&mut rest, channel);
                prost::encoding::decode_key(&mut rest)?;
                prost::decode_length_delimiter(&mut rest)?;
                Ok(())
            };
            match inner() {
                Ok(()) => rest,
                Err(_) => Bytes::new(),
            }
        }
    }
}

/// Whether JSON carries bytes as base64, which a tag then says.
fn is_base64(format: Format, form: PayloadForm) -> bool {
    format == Format::Json && form == PayloadForm::Bytes
}

pub(in crate::protocol) fn delivery(format: Format, form: Form<'_>, d: &Delivery<'_>) -> Bytes {
    let count = d.count.to_string();
    let (conflated, base64) = (("conflated", count.as_str()), ("encoding", "base64"));
    let tags: &[_] = match (d.count > 1, is_base64(format, d.form)) {
        (false, false) => &[],
        (true, false) => &[conflated],
        (false, true) => &[base64],
        (true, true) => &[conflated, base64],
    };
    publication_frame(format, d.topic, form, d.data, d.offset.get(), d.ts, tags)
}

/// Tags of publications.
const SNAPSHOT: (&str, &str) = ("kind", "snapshot");
const BASE64: (&str, &str) = ("encoding", "base64");
const INCOMPLETE: (&str, &str) = ("incomplete", "true");

pub(in crate::protocol) fn snapshot(format: Format, form: Form<'_>, s: &SnapshotDelivery<'_>) -> Bytes {
    let tags = match (is_base64(format, s.form), s.known.may_lack()) {
        (false, false) => &[SNAPSHOT][..],
        (true, false) => &[SNAPSHOT, BASE64],
        (false, true) => &[SNAPSHOT, INCOMPLETE],
        (true, true) => &[SNAPSHOT, BASE64, INCOMPLETE],
    };
    publication_frame(format, s.topic, form, s.data, s.offset.get(), s.ts, tags)
}

pub(in crate::protocol) fn notice(format: Format, notice: Notice<'_>) -> Bytes {
    let data = match notice {
        Notice::Stale { topic, since_ms } => {
            serde_json::json!({"kind": "stale", "topic": topic.as_str(), "since": since_ms})
        }
        Notice::Fresh { topic } => serde_json::json!({"kind": "fresh", "topic": topic.as_str()}),
        Notice::Closing { retry_after_ms } => {
            serde_json::json!({"kind": "closing", "retry_after_ms": retry_after_ms})
        }
    };
    push(format, Push { message: Some(Data { data: Bytes::from(data.to_string()) }), ..Push::default() })
}

/// The server's ping: an empty reply.
pub(in crate::protocol) fn ping(format: Format) -> Bytes {
    encode(format, &Reply::default())
}

fn info(member: &MemberInfo) -> ClientInfo {
    ClientInfo {
        user: member.user.clone(),
        client: member.client.clone(),
        conn_info: member.conn_info.clone(),
        chan_info: member.chan_info.clone(),
    }
}

pub(in crate::protocol) fn membership(format: Format, topic: &TopicName, change: &MembershipChange) -> Bytes {
    let membership = Some(Membership { info: Some(info(&change.info)) });
    let (join, leave) = if change.joined { (membership, None) } else { (None, membership) };
    push(format, Push { channel: topic.as_str().to_owned(), join, leave, ..Push::default() })
}

pub(in crate::protocol) fn unsubscribed(format: Format, topic: &TopicName, code: u16, reason: &str) -> Bytes {
    let unsubscribe = Some(Unsubscribe { code: code.into(), reason: reason.to_owned() });
    push(format, Push { channel: topic.as_str().to_owned(), unsubscribe, ..Push::default() })
}

fn ttl(ttl_s: Option<u64>) -> (bool, u32) {
    // 0 would mean "does not end".
    (ttl_s.is_some(), ttl_s.map_or(0, |s| u32::try_from(s).unwrap_or(u32::MAX).max(1)))
}

/// The result without its publications, and the publications.
fn subscribe_result(format: Format, s: &Subscribed<'_>) -> (SubscribeResult, Vec<Bytes>) {
    let (expires, ttl) = ttl(s.ttl_s);
    let result = SubscribeResult {
        expires,
        ttl,
        recoverable: s.recoverable,
        epoch: s.epoch.as_str().to_owned(),
        publications: Vec::new(),
        recovered: s.recovered,
        offset: s.offset.get(),
        positioned: s.positioned,
        data: Bytes::from(format!("{{\"class\":\"{}\"}}", s.class)),
        was_recovering: s.was_recovering,
        delta: s.fossil,
    };
    let publications = s.frames.iter().map(|frame| publication_of(format, s.topic, frame)).collect();
    (result, publications)
}

fn put_json_result(out: &mut Vec<u8>, s: &Subscribed<'_>) {
    let (result, publications) = subscribe_result(Format::Json, s);
    let _ = serde_json::to_writer(&mut *out, &result);
    if publications.is_empty() {
        return;
    }
    // Publications are added as they are: one copy serves all receivers.
    out.pop();
    for (i, publication) in publications.iter().enumerate() {
        out.extend_from_slice(if i == 0 { b",\"publications\":[".as_slice() } else { b"," });
        out.extend_from_slice(publication);
    }
    out.extend_from_slice(b"]}");
}

fn protobuf_result(s: &Subscribed<'_>) -> Vec<u8> {
    let (result, publications) = subscribe_result(Format::Protobuf, s);
    let mut out = result.encode_to_vec();
    for publication in publications {
        put_field(&mut out, tag::SUBSCRIBE_PUBLICATION, &publication);
    }
    out
}

fn put_field(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.put_u8(tag);
    let _ = prost::encode_length_delimiter(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn protobuf_reply(id: u32, tag: u8, bytes: &[u8]) -> Bytes {
    let mut reply = Vec::with_capacity(bytes.len() + 16);
    reply.push(tag::REPLY_ID);
    prost::encoding::encode_varint(id.into(), &mut reply);
    put_field(&mut reply, tag, bytes);
    frame::binary(reply.len() + 5, |out| {
        let _ = prost::encode_length_delimiter(reply.len(), out);
        out.extend_from_slice(&reply);
    })
}

pub(in crate::protocol) fn subscribed(format: Format, id: &CommandId, s: &Subscribed<'_>) -> Bytes {
    let id = number(id);
    match format {
        Format::Json => frame::text(192 + s.frames.iter().map(Bytes::len).sum::<usize>(), |out| {
            let _ = write!(out, "{{\"id\":{id},\"subscribe\":");
            put_json_result(out, s);
            out.push(b'}');
        }),
        Format::Protobuf => protobuf_reply(id, tag::REPLY_SUBSCRIBE, &protobuf_result(s)),
    }
}

/// A subscription that the server began; its publications follow.
pub(in crate::protocol) fn subscribed_by_server(format: Format, s: &Subscribed<'_>) -> Bytes {
    let subscribe = SubscribePush {
        recoverable: s.recoverable,
        epoch: s.epoch.as_str().to_owned(),
        offset: s.offset.get(),
        positioned: s.positioned,
        data: Bytes::from(format!("{{\"class\":\"{}\"}}", s.class)),
    };
    push(format, Push { channel: s.topic.as_str().to_owned(), subscribe: Some(subscribe), ..Push::default() })
}

pub(in crate::protocol) fn connected(format: Format, id: &CommandId, c: &Connected<'_>) -> Bytes {
    let (expires, ttl) = ttl(c.ttl_s);
    let result = ConnectResult {
        client: c.client.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        expires,
        ttl,
        data: Bytes::new(),
        subs: std::collections::HashMap::new(),
        ping: c.ping_s,
        pong: true,
        node: c.node.to_owned(),
        time: i64::try_from(c.time_ms).unwrap_or(0),
    };
    let id = number(id);
    match format {
        Format::Json => frame::text(256, |out| {
            let _ = write!(out, "{{\"id\":{id},\"connect\":");
            let _ = serde_json::to_writer(&mut *out, &result);
            if !c.subs.is_empty() {
                out.pop();
                for (i, sub) in c.subs.iter().enumerate() {
                    out.extend_from_slice(if i == 0 { b",\"subs\":{".as_slice() } else { b"," });
                    put_str(out, sub.topic.as_str());
                    out.push(b':');
                    put_json_result(out, sub);
                }
                out.extend_from_slice(b"}}");
            }
            out.push(b'}');
        }),
        Format::Protobuf => {
            let mut bytes = result.encode_to_vec();
            for sub in c.subs {
                let mut entry = Vec::new();
                put_field(&mut entry, tag::ENTRY_KEY, sub.topic.as_str().as_bytes());
                put_field(&mut entry, tag::ENTRY_VALUE, &protobuf_result(sub));
                put_field(&mut bytes, tag::CONNECT_SUBS, &entry);
            }
            protobuf_reply(id, tag::REPLY_CONNECT, &bytes)
        }
    }
}

fn reply(format: Format, id: &CommandId, fill: impl FnOnce(&mut Reply)) -> Bytes {
    let mut reply = Reply { id: number(id), ..Reply::default() };
    fill(&mut reply);
    encode(format, &reply)
}

pub(in crate::protocol) fn done(format: Format, id: &CommandId, op: Op) -> Bytes {
    reply(format, id, |reply| match op {
        Op::Unsubscribe => reply.unsubscribe = Some(Nothing {}),
        Op::Publish => reply.publish = Some(Nothing {}),
        Op::Rate | Op::Session => reply.rpc = Some(messages::Data { data: Bytes::from_static(b"{}") }),
        _ => reply.ping = Some(Nothing {}),
    })
}

pub(in crate::protocol) fn refusal(format: Format, id: &CommandId, refusal: &Refusal) -> Bytes {
    reply(format, id, |reply| reply.error = Some(error(refusal)))
}

pub(in crate::protocol) fn presence(format: Format, id: &CommandId, members: &[std::sync::Arc<MemberInfo>]) -> Bytes {
    let presence = members.iter().map(|member| (member.client.clone(), info(member))).collect();
    reply(format, id, |reply| reply.presence = Some(PresenceResult { presence }))
}

pub(in crate::protocol) fn presence_stats(format: Format, id: &CommandId, clients: usize, users: usize) -> Bytes {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    reply(format, id, |reply| {
        reply.presence_stats = Some(PresenceStatsResult { num_clients: count(clients), num_users: count(users) });
    })
}

pub(in crate::protocol) fn history(format: Format, id: &CommandId, h: &crate::protocol::HistoryPage) -> Bytes {
    let publications = h.publications.iter().map(|p| {
        let base64 = is_base64(format, p.form);
        let tags = [(p.snapshot, "kind", "snapshot"), (base64, "encoding", "base64")];
        let tags = tags.into_iter().filter(|(has, ..)| *has);
        Publication {
            data: if base64 { crate::protocol::base64_json(&p.data).into() } else { p.data.clone() },
            offset: p.offset.get(),
            tags: tags.map(|(_, name, value)| (name.to_owned(), value.to_owned())).collect(),
            delta: false,
            time: p.ts.and_then(|ts| i64::try_from(ts).ok()).unwrap_or(0),
        }
    });
    let result = HistoryResult {
        publications: publications.collect(),
        epoch: h.epoch.as_str().to_owned(),
        offset: h.offset.get(),
    };
    reply(format, id, |reply| reply.history = Some(result))
}

pub(in crate::protocol) fn refreshed(format: Format, id: &CommandId, client: &str, ttl_s: Option<u64>) -> Bytes {
    let (expires, ttl) = ttl(ttl_s);
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let result = RefreshResult { client: client.to_owned(), version, expires, ttl };
    reply(format, id, |reply| reply.refresh = Some(result))
}

pub(in crate::protocol) fn sub_refreshed(format: Format, id: &CommandId, ttl_s: Option<u64>) -> Bytes {
    let (expires, ttl) = ttl(ttl_s);
    reply(format, id, |reply| reply.sub_refresh = Some(SubRefreshResult { expires, ttl }))
}

pub(in crate::protocol) fn rpc(format: Format, id: &CommandId, data: &Bytes) -> Bytes {
    reply(format, id, |reply| reply.rpc = Some(messages::Data { data: data.clone() }))
}

/// The opcode of this format's data frames.
pub(in crate::protocol) fn opcode(format: Format) -> Opcode {
    match format {
        Format::Json => Opcode::Text,
        Format::Protobuf => Opcode::Binary,
    }
}
