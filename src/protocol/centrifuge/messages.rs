//! The messages of the Centrifuge client protocol, version 2, as its `client.proto` defines them:
//! one set of types for JSON and Protobuf. Fields that this server neither reads nor sends are left
//! out, and readers of both formats skip them.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::limits::CONNECT_SUBS_MAX;
use crate::protocol::members::{Object, object};

/// A `bytes` field, which in JSON is the JSON value itself.
mod json {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, ser};
    use serde_json::value::RawValue;

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_slice(bytes).map_err(ser::Error::custom)?;
        raw.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let raw = Option::<Box<RawValue>>::deserialize(deserializer)?;
        Ok(raw.map_or_else(Bytes::new, |raw| Bytes::from(String::from(Box::<str>::from(raw)))))
    }
}

fn unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A nullable member of a command: `null` counts as absent.
fn nullable<'de, T: Deserialize<'de> + Default, D: serde::Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The error for a connect with too many positions.
pub(super) fn too_many_subs() -> String {
    format!("a connect with more than {CONNECT_SUBS_MAX} subs")
}

/// The positions of a connect. Reading stops after [`CONNECT_SUBS_MAX`]; `null` counts as none.
fn subs<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<HashMap<String, SubscribeRequest>, D::Error> {
    struct Subs;

    impl<'de> Visitor<'de> for Subs {
        type Value = HashMap<String, SubscribeRequest>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("subscriptions by channel")
        }

        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            Ok(HashMap::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let (mut subs, mut entries) = (HashMap::new(), 0);
            while let Some(channel) = map.next_key()? {
                entries += 1;
                if entries > CONNECT_SUBS_MAX {
                    return Err(serde::de::Error::custom(too_many_subs()));
                }
                let Object(sub) = map.next_value()?;
                subs.insert(channel, sub);
            }
            Ok(subs)
        }
    }

    deserializer.deserialize_any(Subs)
}

/// Number of positions in a Protobuf connect, without decoding them. `None` if it cannot be
/// counted: the message is malformed or has groups, which the protocol does not use and whose end
/// only decoding finds.
pub(super) fn connect_subs(command: &[u8]) -> Option<usize> {
    const CONNECT: u32 = 4;
    const SUBS: u32 = 3;
    let mut count = 0;
    for field in fields(command) {
        if let (CONNECT, connect) = field? {
            for field in fields(connect) {
                count += usize::from(field?.0 == SUBS);
            }
        }
    }
    Some(count)
}

/// The fields of a message that have a length, by number. Yields `None` once, at the end, if the
/// rest cannot be read.
fn fields(message: &[u8]) -> impl Iterator<Item = Option<(u32, &[u8])>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            match field(&mut rest) {
                Some((_, None)) => {}
                Some((tag, Some(bytes))) => return Some(Some((tag, bytes))),
                None => {
                    rest = &[];
                    return Some(None);
                }
            }
        }
        None
    })
}

/// One field: its number, and its bytes if it has a length.
fn field<'a>(rest: &mut &'a [u8]) -> Option<(u32, Option<&'a [u8]>)> {
    let (tag, kind) = decode_key(rest).ok()?;
    let bytes = match kind {
        WireType::Varint => {
            decode_varint(rest).ok()?;
            return Some((tag, None));
        }
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::LengthDelimited => usize::try_from(decode_varint(rest).ok()?).ok()?,
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    let (field, after) = rest.split_at_checked(bytes)?;
    *rest = after;
    Some((tag, (kind == WireType::LengthDelimited).then_some(field)))
}

/// A client's message: an id and one of the others. With none of them it is a pong.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct Command {
    #[prost(uint32, tag = "1")]
    pub(super) id: u32,
    #[prost(message, optional, tag = "4")]
    #[serde(deserialize_with = "object")]
    pub(super) connect: Option<ConnectRequest>,
    #[prost(message, optional, tag = "5")]
    #[serde(deserialize_with = "object")]
    pub(super) subscribe: Option<SubscribeRequest>,
    #[prost(message, optional, tag = "6")]
    #[serde(deserialize_with = "object")]
    pub(super) unsubscribe: Option<ChannelRequest>,
    #[prost(message, optional, tag = "7")]
    #[serde(deserialize_with = "object")]
    pub(super) publish: Option<PublishRequest>,
    #[prost(message, optional, tag = "8")]
    #[serde(deserialize_with = "object")]
    pub(super) presence: Option<ChannelRequest>,
    #[prost(message, optional, tag = "9")]
    #[serde(deserialize_with = "object")]
    pub(super) presence_stats: Option<ChannelRequest>,
    #[prost(message, optional, tag = "10")]
    #[serde(deserialize_with = "object")]
    pub(super) history: Option<HistoryRequest>,
    #[prost(message, optional, tag = "11")]
    #[serde(deserialize_with = "object")]
    pub(super) ping: Option<Nothing>,
    #[prost(message, optional, tag = "12")]
    #[serde(deserialize_with = "object")]
    pub(super) send: Option<SendRequest>,
    #[prost(message, optional, tag = "13")]
    #[serde(deserialize_with = "object")]
    pub(super) rpc: Option<RpcRequest>,
    #[prost(message, optional, tag = "14")]
    #[serde(deserialize_with = "object")]
    pub(super) refresh: Option<RefreshRequest>,
    #[prost(message, optional, tag = "15")]
    #[serde(deserialize_with = "object")]
    pub(super) sub_refresh: Option<SubRefreshRequest>,
}

#[derive(Clone, PartialEq, Message, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Nothing {}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct ConnectRequest {
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "nullable")]
    pub(super) token: String,
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(with = "json")]
    pub(super) data: Bytes,
    #[prost(map = "string, message", tag = "3")]
    #[serde(deserialize_with = "subs")]
    pub(super) subs: HashMap<String, SubscribeRequest>,
    #[prost(string, tag = "4")]
    pub(super) name: String,
    #[prost(string, tag = "5")]
    pub(super) version: String,
}

/// The bit of a subscribe's `flag` that asks for an error if it cannot be recovered.
pub(super) const REJECT_UNRECOVERED: i64 = 2;

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct SubscribeRequest {
    #[prost(string, tag = "1")]
    pub(super) channel: String,
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "nullable")]
    pub(super) token: String,
    #[prost(bool, tag = "3")]
    pub(super) recover: bool,
    #[prost(string, tag = "6")]
    pub(super) epoch: String,
    #[prost(uint64, tag = "7")]
    pub(super) offset: u64,
    #[prost(bytes = "bytes", tag = "8")]
    #[serde(with = "json")]
    pub(super) data: Bytes,
    #[prost(bool, tag = "9")]
    pub(super) positioned: bool,
    #[prost(bool, tag = "10")]
    pub(super) recoverable: bool,
    #[prost(bool, tag = "11")]
    pub(super) join_leave: bool,
    #[prost(string, tag = "12")]
    pub(super) delta: String,
    /// A filter by tags; deltas here have no tags of their own.
    #[prost(message, optional, tag = "13")]
    #[serde(deserialize_with = "object")]
    pub(super) tf: Option<Nothing>,
    /// Bits; this server knows only [`REJECT_UNRECOVERED`].
    #[prost(int64, tag = "14")]
    #[serde(deserialize_with = "nullable")]
    pub(super) flag: i64,
    /// Kind of subscription; this server has only the first (0).
    #[prost(int32, tag = "15")]
    #[serde(rename = "type")]
    pub(super) kind: i32,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct ChannelRequest {
    #[prost(string, tag = "1")]
    pub(super) channel: String,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct PublishRequest {
    #[prost(string, tag = "1")]
    pub(super) channel: String,
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(with = "json")]
    pub(super) data: Bytes,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct HistoryRequest {
    #[prost(string, tag = "1")]
    pub(super) channel: String,
    /// 0 asks for the position alone; a negative number means all.
    #[prost(int32, tag = "7")]
    pub(super) limit: i32,
    #[prost(message, optional, tag = "8")]
    #[serde(deserialize_with = "object")]
    pub(super) since: Option<StreamPosition>,
    #[prost(bool, tag = "9")]
    pub(super) reverse: bool,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct StreamPosition {
    #[prost(uint64, tag = "1")]
    pub(super) offset: u64,
    #[prost(string, tag = "2")]
    pub(super) epoch: String,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct SendRequest {
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(with = "json")]
    pub(super) data: Bytes,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct RpcRequest {
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(with = "json")]
    pub(super) data: Bytes,
    #[prost(string, tag = "2")]
    pub(super) method: String,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct RefreshRequest {
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "nullable")]
    pub(super) token: String,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default)]
pub(super) struct SubRefreshRequest {
    #[prost(string, tag = "1")]
    pub(super) channel: String,
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "nullable")]
    pub(super) token: String,
}

/// A server's message: an answer with the command's id, or a push. An empty message is a ping.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct Reply {
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) id: u32,
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Error>,
    #[prost(message, optional, tag = "4")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) push: Option<Push>,
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connect: Option<ConnectResult>,
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subscribe: Option<SubscribeResult>,
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unsubscribe: Option<Nothing>,
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) publish: Option<Nothing>,
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) presence: Option<PresenceResult>,
    #[prost(message, optional, tag = "10")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) presence_stats: Option<PresenceStatsResult>,
    #[prost(message, optional, tag = "11")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) history: Option<HistoryResult>,
    #[prost(message, optional, tag = "12")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ping: Option<Nothing>,
    #[prost(message, optional, tag = "13")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rpc: Option<Data>,
    #[prost(message, optional, tag = "14")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refresh: Option<RefreshResult>,
    #[prost(message, optional, tag = "15")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sub_refresh: Option<SubRefreshResult>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct Error {
    #[prost(uint32, tag = "1")]
    pub(super) code: u32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) temporary: bool,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct Push {
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) channel: String,
    #[prost(message, optional, tag = "4")]
    #[serde(rename = "pub", skip_serializing_if = "Option::is_none")]
    pub(super) publication: Option<Publication>,
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) join: Option<Membership>,
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) leave: Option<Membership>,
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unsubscribe: Option<Unsubscribe>,
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<Data>,
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subscribe: Option<SubscribePush>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct SubscribePush {
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) recoverable: bool,
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) epoch: String,
    #[prost(uint64, tag = "5")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) offset: u64,
    #[prost(bool, tag = "6")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) positioned: bool,
    #[prost(bytes = "bytes", tag = "7")]
    #[serde(with = "json", skip_serializing_if = "unset")]
    pub(super) data: Bytes,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct Data {
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(with = "json", skip_serializing_if = "unset")]
    pub(super) data: Bytes,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct Publication {
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(with = "json")]
    pub(super) data: Bytes,
    #[prost(uint64, tag = "6")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) offset: u64,
    #[prost(btree_map = "string, string", tag = "7")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) tags: std::collections::BTreeMap<String, String>,
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) delta: bool,
    /// Unix ms.
    #[prost(int64, tag = "9")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) time: i64,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct Membership {
    #[prost(message, optional, tag = "1")]
    pub(super) info: Option<ClientInfo>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct ClientInfo {
    #[prost(string, tag = "1")]
    pub(super) user: String,
    #[prost(string, tag = "2")]
    pub(super) client: String,
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(with = "json", skip_serializing_if = "unset")]
    pub(super) conn_info: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(with = "json", skip_serializing_if = "unset")]
    pub(super) chan_info: Bytes,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct Unsubscribe {
    #[prost(uint32, tag = "2")]
    pub(super) code: u32,
    #[prost(string, tag = "3")]
    pub(super) reason: String,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct ConnectResult {
    #[prost(string, tag = "1")]
    pub(super) client: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) expires: bool,
    /// Seconds.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) ttl: u32,
    #[prost(bytes = "bytes", tag = "5")]
    #[serde(with = "json", skip_serializing_if = "unset")]
    pub(super) data: Bytes,
    #[prost(map = "string, message", tag = "6")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) subs: HashMap<String, SubscribeResult>,
    /// Seconds between two pings.
    #[prost(uint32, tag = "7")]
    pub(super) ping: u32,
    #[prost(bool, tag = "8")]
    pub(super) pong: bool,
    #[prost(string, tag = "10")]
    pub(super) node: String,
    /// Unix ms.
    #[prost(int64, tag = "11")]
    pub(super) time: i64,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct SubscribeResult {
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) expires: bool,
    /// Seconds.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) ttl: u32,
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) recoverable: bool,
    #[prost(string, tag = "6")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) epoch: String,
    #[prost(message, repeated, tag = "7")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) publications: Vec<Publication>,
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) recovered: bool,
    #[prost(uint64, tag = "9")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) offset: u64,
    #[prost(bool, tag = "10")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) positioned: bool,
    #[prost(bytes = "bytes", tag = "11")]
    #[serde(with = "json", skip_serializing_if = "unset")]
    pub(super) data: Bytes,
    #[prost(bool, tag = "12")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) was_recovering: bool,
    #[prost(bool, tag = "13")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) delta: bool,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct PresenceResult {
    #[prost(map = "string, message", tag = "1")]
    pub(super) presence: HashMap<String, ClientInfo>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct PresenceStatsResult {
    #[prost(uint32, tag = "1")]
    pub(super) num_clients: u32,
    #[prost(uint32, tag = "2")]
    pub(super) num_users: u32,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct HistoryResult {
    #[prost(message, repeated, tag = "1")]
    pub(super) publications: Vec<Publication>,
    #[prost(string, tag = "2")]
    pub(super) epoch: String,
    #[prost(uint64, tag = "3")]
    pub(super) offset: u64,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct RefreshResult {
    #[prost(string, tag = "1")]
    pub(super) client: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) expires: bool,
    /// Seconds.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) ttl: u32,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct SubRefreshResult {
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) expires: bool,
    /// Seconds.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "unset")]
    pub(super) ttl: u32,
}
