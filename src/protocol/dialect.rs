//! The dialects: each message in the form of each dialect.

use std::sync::Arc;

use bytes::Bytes;

use super::centrifuge::{self, Format};
use super::{
    BadCommand, Command, CommandId, Connected, Encoding, HistoryPage, MemberInfo, MembershipChange, Notice, Op,
    Refusal, Refused, Standing, Subscribed, plain,
};
use crate::name::TopicName;
use crate::wire::close::CloseReason;
use crate::wire::frame::{self, Opcode};

/// The dialect of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// JSON that can be read and written by hand: `docs/protocol.md`.
    Plain,
    /// The Centrifuge client protocol in JSON.
    CentrifugeJson,
    /// The Centrifuge client protocol in Protobuf.
    CentrifugeProtobuf,
}

impl Dialect {
    fn format(self) -> Option<Format> {
        match self {
            Self::Plain => None,
            Self::CentrifugeJson => Some(Format::Json),
            Self::CentrifugeProtobuf => Some(Format::Protobuf),
        }
    }

    /// The messages that only the Centrifuge protocol has; `None` in `plain`.
    pub fn centrifuge(self) -> Option<Centrifuge> {
        self.format().map(Centrifuge)
    }

    /// Whether it is the Centrifuge protocol.
    pub fn is_centrifuge(self) -> bool {
        self != Self::Plain
    }

    /// The code of a close frame for this reason. Centrifuge clients tell by the code whether to come back.
    pub fn close_code(self, reason: CloseReason) -> u16 {
        if self.is_centrifuge() { reason.centrifuge_code() } else { reason.code() }
    }

    /// Encoding of deliveries to such a session; `fossil` if it takes differences.
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

    /// Takes the first command off a client's message; `None` at its end. In `plain` a message is
    /// one command.
    pub fn split<'a>(self, message: &mut &'a [u8]) -> Option<&'a [u8]> {
        match self.format() {
            None => Some(std::mem::take(message)).filter(|message| !message.is_empty()),
            Some(format) => centrifuge::split(format, message),
        }
    }

    /// Reads one command of a client. A list of topics may have `topics_max` entries; a longer one
    /// is refused and not read to its end.
    ///
    /// # Errors
    /// The fault, ready to be sent back.
    pub fn command(self, bytes: &[u8], topics_max: usize) -> Result<Command, BadCommand> {
        match self.format() {
            None => plain::command(bytes, topics_max),
            Some(format) => centrifuge::command(format, bytes, topics_max),
        }
    }

    /// A whole frame with a notice.
    pub fn notice(self, notice: Notice<'_>) -> Bytes {
        match self.format() {
            None => plain::notice(notice),
            Some(format) => centrifuge::notice(format, notice),
        }
    }

    /// A whole frame that the client must answer to show that it is alive.
    pub fn ping(self) -> Bytes {
        match self.format() {
            None => frame::frame(Opcode::Ping, b""),
            Some(format) => centrifuge::ping(format),
        }
    }

    /// The reply to a command about topics. `any` says that it was carried out for at least one.
    /// `standings` are their positions, for commands whose reply has them. Centrifuge's own
    /// commands are about one topic, and its rate call is for all topics or none.
    pub fn outcome(
        self,
        id: &CommandId,
        op: Op,
        any: bool,
        standings: Option<&[Standing]>,
        refused: &Refused,
    ) -> Bytes {
        match (self.format(), refused.first()) {
            (None, _) => plain::outcome(id, op, any, standings, refused),
            (Some(format), Some(first)) => centrifuge::refusal(format, id, first),
            (Some(format), None) => centrifuge::done(format, id, op),
        }
    }

    /// The reply to a command that was carried out, without further contents.
    pub fn done(self, id: &CommandId, op: Op) -> Bytes {
        match self.format() {
            None => plain::done(id, op),
            Some(format) => centrifuge::done(format, id, op),
        }
    }

    /// The reply to a refused command, or about one refused topic of it.
    pub fn refusal(self, id: &CommandId, op: Op, refusal: &Refusal) -> Bytes {
        match self.format() {
            None => plain::refusal(id, op, refusal),
            Some(format) => centrifuge::refusal(format, id, refusal),
        }
    }

    /// The server ended a subscription. With a code below 2500 it is for good; otherwise the client
    /// subscribes again.
    pub fn unsubscribed(self, topic: &TopicName, code: u16, reason: &str) -> Bytes {
        match self.format() {
            None => plain::unsubscribed(topic, code, reason),
            Some(format) => centrifuge::unsubscribed(format, topic, code, reason),
        }
    }
}

impl Encoding {
    /// The dialect of the sessions that get it.
    pub fn dialect(self) -> Dialect {
        match self {
            Self::Plain => Dialect::Plain,
            Self::Json | Self::JsonWhole | Self::JsonFossil => Dialect::CentrifugeJson,
            Self::Protobuf | Self::ProtobufFossil => Dialect::CentrifugeProtobuf,
        }
    }
}

/// The Centrifuge protocol in one of its two forms: what it has and `plain` has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Centrifuge(Format);

impl Centrifuge {
    /// In JSON.
    pub const JSON: Self = Self(Format::Json);

    /// The dialect that it is.
    pub fn dialect(self) -> Dialect {
        match self.0 {
            Format::Json => Dialect::CentrifugeJson,
            Format::Protobuf => Dialect::CentrifugeProtobuf,
        }
    }

    /// The reply to a subscribe.
    pub fn subscribed(self, id: &CommandId, subscribed: &Subscribed<'_>) -> Bytes {
        centrifuge::subscribed(self.0, id, subscribed)
    }

    /// The notice of a subscription that the server began.
    pub fn subscribed_by_server(self, subscribed: &Subscribed<'_>) -> Bytes {
        centrifuge::subscribed_by_server(self.0, subscribed)
    }

    /// The reply to a connect.
    pub fn connected(self, id: &CommandId, connected: &Connected<'_>) -> Bytes {
        centrifuge::connected(self.0, id, connected)
    }

    /// The reply to a history command.
    pub fn history(self, id: &CommandId, page: &HistoryPage) -> Bytes {
        centrifuge::history(self.0, id, page)
    }

    /// The reply to a presence command.
    pub fn presence(self, id: &CommandId, members: &[Arc<MemberInfo>]) -> Bytes {
        centrifuge::presence(self.0, id, members)
    }

    /// The reply to a command for presence statistics.
    pub fn presence_stats(self, id: &CommandId, clients: usize, users: usize) -> Bytes {
        centrifuge::presence_stats(self.0, id, clients, users)
    }

    /// The reply to a refresh.
    pub fn refreshed(self, id: &CommandId, client: &str, ttl_s: Option<u64>) -> Bytes {
        centrifuge::refreshed(self.0, id, client, ttl_s)
    }

    /// The reply to a refresh of a subscription.
    pub fn sub_refreshed(self, id: &CommandId, ttl_s: Option<u64>) -> Bytes {
        centrifuge::sub_refreshed(self.0, id, ttl_s)
    }

    /// The reply to a call.
    pub fn rpc(self, id: &CommandId, data: &Bytes) -> Bytes {
        centrifuge::rpc(self.0, id, data)
    }

    /// A join or a leave.
    pub fn membership(self, topic: &TopicName, change: &MembershipChange) -> Bytes {
        centrifuge::membership(self.0, topic, change)
    }
}
