//! Dialects: what a command and a delivery look like on the wire. Knows frames, but no sockets and no topics'
//! state: what it needs to know of them is handed in.

mod centrifuge;
mod fossil;
mod plain;

use std::sync::Arc;

use bytes::Bytes;

use crate::name::TopicName;
use crate::position::{Epoch, Offset, Position};
use crate::wire::frame::{self, Opcode};
use centrifuge::{Form, Format};

/// How a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// JSON that can be read and written by hand: `docs/protocol.md`.
    Plain,
    /// The Centrifuge client protocol in JSON.
    CentrifugeJson,
    /// The Centrifuge client protocol in Protobuf.
    CentrifugeProtobuf,
}

/// How a delivery looks. A delta is encoded at most once for each that has a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// `plain`.
    Plain = 0,
    /// `centrifuge`, JSON.
    Json = 1,
    /// `centrifuge`, Protobuf. Also a whole value for those who take deltas.
    Protobuf = 2,
    /// `centrifuge`, JSON: a whole value for those who take deltas.
    JsonWhole = 3,
    /// `centrifuge`, JSON: what changed since the delta before it.
    JsonFossil = 4,
    /// `centrifuge`, Protobuf: what changed since the delta before it.
    ProtobufFossil = 5,
}

impl Encoding {
    /// How many there are.
    pub const COUNT: usize = 6;
    /// All of them, in the order of their indices.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Plain, Self::Json, Self::Protobuf, Self::JsonWhole, Self::JsonFossil, Self::ProtobufFossil];

    /// Index into per-encoding arrays.
    pub fn index(self) -> usize {
        self as usize
    }

    /// This encoding's bit in an interest mask.
    pub fn bit(self) -> u8 {
        1 << (self as u8)
    }

    /// The same for a receiver that does not hold the delta before.
    #[must_use]
    pub fn whole(self) -> Self {
        match self {
            Self::JsonFossil => Self::JsonWhole,
            Self::ProtobufFossil => Self::Protobuf,
            same => same,
        }
    }

    /// Of the sessions that it is for.
    pub fn dialect(self) -> Dialect {
        match self {
            Self::Plain => Dialect::Plain,
            Self::Json | Self::JsonWhole | Self::JsonFossil => Dialect::CentrifugeJson,
            Self::Protobuf | Self::ProtobufFossil => Dialect::CentrifugeProtobuf,
        }
    }

    /// Whether it says what changed since the delta before.
    pub fn is_fossil(self) -> bool {
        matches!(self, Self::JsonFossil | Self::ProtobufFossil)
    }

    /// A whole frame with a delta. `before` is the data of the delivery that the receiver holds; without one, or where
    /// nothing is gained by it, the data is whole.
    pub fn delivery(self, delivery: &Delivery<'_>, before: Option<&[u8]>) -> Bytes {
        let fossil = |format| {
            let delta = before.and_then(|before| fossil::delta(before, delivery.data));
            centrifuge::delivery(format, delta.as_deref().map_or(Form::Whole, Form::Fossil), delivery)
        };
        match self {
            Self::Plain => plain::delivery(delivery),
            Self::Json => centrifuge::delivery(Format::Json, Form::Usual, delivery),
            Self::Protobuf => centrifuge::delivery(Format::Protobuf, Form::Usual, delivery),
            Self::JsonWhole => centrifuge::delivery(Format::Json, Form::Whole, delivery),
            Self::JsonFossil => fossil(Format::Json),
            Self::ProtobufFossil => fossil(Format::Protobuf),
        }
    }

    /// A whole frame with a snapshot.
    pub fn snapshot(self, snapshot: &SnapshotDelivery<'_>) -> Bytes {
        match self {
            Self::Plain => plain::snapshot(snapshot),
            Self::Json => centrifuge::snapshot(Format::Json, Form::Usual, snapshot),
            Self::JsonWhole | Self::JsonFossil => centrifuge::snapshot(Format::Json, Form::Whole, snapshot),
            Self::Protobuf | Self::ProtobufFossil => centrifuge::snapshot(Format::Protobuf, Form::Usual, snapshot),
        }
    }
}

/// A delta, or one in place of several, as it is delivered.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// Topic.
    pub topic: &'a TopicName,
    /// Position of the newest delta in it.
    pub offset: Offset,
    /// Position the receiver must have reached for this to follow without a gap.
    pub prev: Offset,
    /// How many deltas this stands for; 1 for one as published.
    pub count: u64,
    /// Time the source saw it, Unix ms.
    pub ts: Option<u64>,
    /// JSON.
    pub data: &'a [u8],
}

/// A topic's whole state as it is delivered.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotDelivery<'a> {
    /// Topic.
    pub topic: &'a TopicName,
    /// Position of the newest delta in it.
    pub offset: Offset,
    /// Epoch of that position.
    pub epoch: &'a Epoch,
    /// Time of that delta at its source, Unix ms.
    pub ts: Option<u64>,
    /// JSON.
    pub data: &'a [u8],
}

/// The client's name for a command, echoed in its reply: a number or a short string, kept as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandId(Option<compact_str::CompactString>);

/// One topic of a subscribe.
#[derive(Debug, Clone, PartialEq)]
pub struct SubscribeItem {
    /// Topic.
    pub topic: TopicName,
    /// Where the last connection ended. An empty epoch is any.
    pub since: Option<Position>,
    /// What only `centrifuge` has.
    pub options: Option<Box<SubscribeOptions>>,
}

/// What a Centrifuge client may ask for with a subscribe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// A subscription token (JWT).
    pub token: Option<String>,
    /// It wants to recover later.
    pub recoverable: bool,
    /// It wants to be told if its position is lost.
    pub positioned: bool,
    /// It wants to know who comes and goes.
    pub join_leave: bool,
    /// It can apply Fossil deltas.
    pub fossil: bool,
}

/// What any subscriber may ask for beside topics.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SubscribeTerms {
    /// Deliveries a second at most, each topic.
    pub max_rate: Option<f64>,
    /// Deltas of history wanted first (`stream` topics).
    pub history: u32,
}

impl SubscribeTerms {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// If the rate is none.
    pub fn new(max_rate: Option<f64>, history: u32) -> Result<Self, Refusal> {
        match max_rate {
            Some(rate) if !(rate.is_finite() && rate > 0.0) => {
                Err(Refusal::new(400, format!("max_rate is {rate}, it must be above 0")))
            }
            _ => Ok(Self { max_rate, history }),
        }
    }
}

/// Which part of a topic's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Deltas at most; 0 asks for the position alone.
    pub limit: usize,
    /// Only those after this (or before it, in reverse).
    pub since: Option<Position>,
    /// Newest first.
    pub reverse: bool,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "`id` is echoed, `topic` is the topic, and the rest is named as in the protocols")]
pub enum Command {
    /// Start deliveries. `items` have valid names; each of the others is answered by itself.
    Subscribe { id: CommandId, items: Vec<SubscribeItem>, refused: Vec<Refusal>, terms: SubscribeTerms },
    /// End deliveries.
    Unsubscribe { id: CommandId, topics: Vec<TopicName>, refused: Vec<Refusal> },
    /// Send the state now.
    Snapshot { id: CommandId, topics: Vec<TopicName>, refused: Vec<Refusal> },
    /// Prove who the client is, or prolong it.
    Auth { id: CommandId, token: String },
    /// Round trip.
    Ping { id: CommandId },
    /// The first of a Centrifuge session: who the client is, and what it recovers of what the server subscribed it to.
    Connect { id: CommandId, token: Option<String>, items: Vec<SubscribeItem> },
    /// Hand in a delta.
    Publish { id: CommandId, topic: TopicName, data: Bytes },
    /// Some of a topic's past.
    History { id: CommandId, topic: TopicName, query: HistoryQuery },
    /// Who is subscribed, or only how many.
    Presence { id: CommandId, topic: TopicName, stats: bool },
    /// Prolong the session.
    Refresh { id: CommandId, token: String },
    /// Prolong a subscription.
    SubRefresh { id: CommandId, topic: TopicName, token: String },
    /// Call something behind this server.
    Rpc { id: CommandId, method: String, data: Bytes },
    /// A message that wants no answer.
    Send,
    /// The answer to a ping of the server.
    Pong,
}

/// Why something was refused; with the topic where it is about one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In the manner of HTTP: 400 malformed, 401 no token, 403 not allowed, 404 unknown command, 409 already subscribed,
    /// 416 position gone, 429 over a limit, [`Refusal::TOKEN_EXPIRED`], 501 not available, 503 try again; from 1000 on
    /// a backend's own.
    pub code: u16,
    /// For people.
    pub reason: String,
    /// The topic, as sent.
    pub topic: Option<String>,
}

impl Refusal {
    /// A token that was good: `plain` clients are told 401, the others to get a new one.
    pub const TOKEN_EXPIRED: u16 = 498;

    /// A refusal that is about no topic.
    pub fn new(code: u16, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), topic: None }
    }

    /// The same, about `topic`.
    #[must_use]
    pub fn about(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }
}

/// Names of commands, for replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in `Command`")]
pub enum Op {
    Subscribe,
    Unsubscribe,
    Snapshot,
    Auth,
    Ping,
    Connect,
    Publish,
    History,
    Presence,
    PresenceStats,
    Refresh,
    SubRefresh,
    Rpc,
    Unknown,
}

/// A command that could not be understood.
#[derive(Debug, Clone, PartialEq)]
pub struct BadCommand {
    /// Echoed if it could be read.
    pub id: CommandId,
    /// Which command it was, if that could be read.
    pub op: Op,
    /// What was wrong.
    pub refusal: Refusal,
    /// There is nothing to answer: the session must be closed.
    pub fatal: bool,
}

/// A subscription that began, as a Centrifuge client is told.
#[derive(Debug, Clone, Copy)]
pub struct Subscribed<'a> {
    /// Topic.
    pub topic: &'a TopicName,
    /// The class of its namespace.
    pub class: &'static str,
    /// The position before `frames`, or where the topic stood.
    pub offset: Offset,
    /// Epoch of that.
    pub epoch: &'a Epoch,
    /// Whether the client may recover later.
    pub recoverable: bool,
    /// Whether the server watches over its position.
    pub positioned: bool,
    /// Whether it asked to recover.
    pub was_recovering: bool,
    /// Whether it lost nothing.
    pub recovered: bool,
    /// Whether deltas are compressed.
    pub fossil: bool,
    /// Seconds until its token ends.
    pub ttl_s: Option<u64>,
    /// Deliveries of the state or of what was missed: whole frames in the session's encoding.
    pub frames: &'a [Bytes],
}

/// A session that began, as a Centrifuge client is told.
#[derive(Debug, Clone, Copy)]
pub struct Connected<'a> {
    /// Its id.
    pub client: &'a str,
    /// This server's name.
    pub node: &'a str,
    /// Seconds between two pings.
    pub ping_s: u32,
    /// Seconds until its token ends.
    pub ttl_s: Option<u64>,
    /// Unix ms.
    pub time_ms: u64,
    /// What the server subscribed it to.
    pub subs: &'a [Subscribed<'a>],
}

/// A subscriber of a topic, as others see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MemberInfo {
    /// `sub` of its token; empty without one.
    pub user: String,
    /// Id of its session.
    pub client: String,
    /// JSON of the token's `info`; empty without one.
    #[serde(with = "json_text")]
    pub conn_info: Bytes,
    /// JSON of the subscription token's `info`; empty without one.
    #[serde(with = "json_text")]
    pub chan_info: Bytes,
}

/// JSON bytes kept inside other JSON as text.
mod json_text {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        std::str::from_utf8(bytes).unwrap_or_default().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        Ok(Bytes::from(String::deserialize(deserializer)?))
    }
}

/// Somebody subscribed to a topic, or left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipChange {
    /// Whether it came.
    pub joined: bool,
    /// Who.
    pub info: Arc<MemberInfo>,
}

/// A kept delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryDelta {
    /// Position.
    pub offset: Offset,
    /// Time at its source, Unix ms.
    pub ts: Option<u64>,
    /// JSON.
    pub data: Bytes,
    /// Whether it replaced the state.
    pub snapshot: bool,
}

/// Some of a topic's past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPage {
    /// Where the topic stands.
    pub offset: Offset,
    /// Epoch of that.
    pub epoch: Epoch,
    /// In the order asked for.
    pub publications: Vec<HistoryDelta>,
}

/// Where a topic stood when a command about it was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Topic.
    pub topic: TopicName,
    /// Newest delta.
    pub offset: Offset,
    /// Epoch of that offset.
    pub epoch: Epoch,
    /// Whether the client lost nothing since the position it named.
    pub recovered: bool,
}

/// What the server says of itself.
#[derive(Debug, Clone, Copy)]
pub enum Notice<'a> {
    /// No delta for longer than `stale_after`.
    Stale {
        /// Topic.
        topic: &'a TopicName,
        /// Time of the last delta, Unix ms.
        since_ms: u64,
    },
    /// Deltas have come again.
    Fresh {
        /// Topic.
        topic: &'a TopicName,
    },
    /// The socket will be closed soon; come back after this long.
    Closing {
        /// Spread per session so that not all come back at once.
        retry_after_ms: u64,
    },
}

impl Dialect {
    fn format(self) -> Option<Format> {
        match self {
            Self::Plain => None,
            Self::CentrifugeJson => Some(Format::Json),
            Self::CentrifugeProtobuf => Some(Format::Protobuf),
        }
    }

    /// Whether it is the Centrifuge protocol.
    pub fn is_centrifuge(self) -> bool {
        self != Self::Plain
    }

    /// How deliveries to such a session look; `fossil` if it takes deltas of deltas.
    pub fn encoding(self, fossil: bool) -> Encoding {
        match (self, fossil) {
            (Self::Plain, _) => Encoding::Plain,
            (Self::CentrifugeJson, false) => Encoding::Json,
            (Self::CentrifugeJson, true) => Encoding::JsonFossil,
            (Self::CentrifugeProtobuf, false) => Encoding::Protobuf,
            (Self::CentrifugeProtobuf, true) => Encoding::ProtobufFossil,
        }
    }

    /// The opcode of its data frames, in both directions.
    pub fn opcode(self) -> Opcode {
        self.format().map_or(Opcode::Text, centrifuge::opcode)
    }

    /// Takes the first command off a message of a client; `None` at its end. In `plain` a message is one command.
    pub fn split<'a>(self, message: &mut &'a [u8]) -> Option<&'a [u8]> {
        match self.format() {
            None => Some(std::mem::take(message)).filter(|message| !message.is_empty()),
            Some(format) => centrifuge::split(format, message),
        }
    }

    /// Reads one command of a client.
    ///
    /// # Errors
    /// What was wrong with it, ready to be sent back.
    pub fn command(self, bytes: &[u8]) -> Result<Command, BadCommand> {
        match self.format() {
            None => plain::command(bytes),
            Some(format) => centrifuge::command(format, bytes),
        }
    }

    /// A whole frame with a notice.
    pub fn notice(self, notice: Notice<'_>) -> Bytes {
        match self.format() {
            None => plain::notice(notice),
            Some(format) => centrifuge::notice(format, notice),
        }
    }

    /// A whole frame that the client must answer to show that it lives.
    pub fn ping(self) -> Bytes {
        match self.format() {
            None => frame::frame(Opcode::Ping, b""),
            Some(format) => centrifuge::ping(format),
        }
    }

    /// The reply to a command about topics that was carried out. `plain` alone has it.
    pub fn standings(self, id: &CommandId, op: Op, standings: &[Standing]) -> Bytes {
        plain::standings(id, op, standings)
    }

    /// The reply to a subscribe. `centrifuge` alone has it.
    pub fn subscribed(self, id: &CommandId, subscribed: &Subscribed<'_>) -> Bytes {
        centrifuge::subscribed(self.format().unwrap_or(Format::Json), id, subscribed)
    }

    /// The reply to a connect.
    pub fn connected(self, id: &CommandId, connected: &Connected<'_>) -> Bytes {
        centrifuge::connected(self.format().unwrap_or(Format::Json), id, connected)
    }

    /// The reply to a command that was carried out and has nothing more to say.
    pub fn done(self, id: &CommandId, op: Op) -> Bytes {
        match self.format() {
            None => plain::done(id, op),
            Some(format) => centrifuge::done(format, id, op),
        }
    }

    /// The reply to a command, or to one topic of it, that was refused.
    pub fn refusal(self, id: &CommandId, op: Op, refusal: &Refusal) -> Bytes {
        match self.format() {
            None => plain::refusal(id, op, refusal),
            Some(format) => centrifuge::refusal(format, id, refusal),
        }
    }

    /// The reply to a history command.
    pub fn history(self, id: &CommandId, page: &HistoryPage) -> Bytes {
        centrifuge::history(self.format().unwrap_or(Format::Json), id, page)
    }

    /// The reply to a presence command.
    pub fn presence(self, id: &CommandId, members: &[Arc<MemberInfo>]) -> Bytes {
        centrifuge::presence(self.format().unwrap_or(Format::Json), id, members)
    }

    /// The reply to a command for presence statistics.
    pub fn presence_stats(self, id: &CommandId, clients: usize, users: usize) -> Bytes {
        centrifuge::presence_stats(self.format().unwrap_or(Format::Json), id, clients, users)
    }

    /// The reply to a refresh.
    pub fn refreshed(self, id: &CommandId, client: &str, ttl_s: Option<u64>) -> Bytes {
        centrifuge::refreshed(self.format().unwrap_or(Format::Json), id, client, ttl_s)
    }

    /// The reply to a refresh of a subscription.
    pub fn sub_refreshed(self, id: &CommandId, ttl_s: Option<u64>) -> Bytes {
        centrifuge::sub_refreshed(self.format().unwrap_or(Format::Json), id, ttl_s)
    }

    /// The reply to a call.
    pub fn rpc(self, id: &CommandId, data: &Bytes) -> Bytes {
        centrifuge::rpc(self.format().unwrap_or(Format::Json), id, data)
    }

    /// Somebody came or went. `None` in `plain`, which has no word for it.
    pub fn membership(self, topic: &TopicName, change: &MembershipChange) -> Option<Bytes> {
        self.format().map(|format| centrifuge::membership(format, topic, change))
    }

    /// The server ended a subscription. Below 2500 for good; from there on the client subscribes again.
    pub fn unsubscribed(self, topic: &TopicName, code: u16, reason: &str) -> Bytes {
        match self.format() {
            None => plain::unsubscribed(topic, code, reason),
            Some(format) => centrifuge::unsubscribed(format, topic, code, reason),
        }
    }
}

/// Code of an unsubscribe by the server, for good.
pub const UNSUBSCRIBED_BY_SERVER: u16 = 2_000;

/// Code of an unsubscribe whose token ended: the client subscribes again with a new one.
pub const SUBSCRIPTION_EXPIRED: u16 = 2_501;
