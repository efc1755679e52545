//! The dialects: each verb in the words of each.

use std::sync::Arc;

use bytes::Bytes;

use super::centrifuge::{self, Format};
use super::{
    BadCommand, Command, CommandId, Connected, Encoding, HistoryPage, MemberInfo, MembershipChange, Notice, Op,
    Refusal, Refused, Standing, Subscribed, plain,
};
use crate::name::TopicName;
use crate::wire::frame::{self, Opcode};

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

    /// Reads one command of a client. A list of topics in it may have `topics_max` entries: a longer one is refused, and not
    /// read to its end.
    ///
    /// # Errors
    /// What was wrong with it, ready to be sent back.
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

    /// A whole frame that the client must answer to show that it lives.
    pub fn ping(self) -> Bytes {
        match self.format() {
            None => frame::frame(Opcode::Ping, b""),
            Some(format) => centrifuge::ping(format),
        }
    }

    /// The one reply to a command about topics. `any`: it was carried out for one at least; `standings`: where those stand,
    /// of commands whose reply says it. Centrifuge has commands about one topic, and a rate that is for all or none.
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

    /// The reply to a subscribe. `centrifuge` alone has it.
    pub fn subscribed(self, id: &CommandId, subscribed: &Subscribed<'_>) -> Bytes {
        centrifuge::subscribed(self.format().unwrap_or(Format::Json), id, subscribed)
    }

    /// What is said of a subscription that the server began. `centrifuge` alone has it.
    pub fn subscribed_by_server(self, subscribed: &Subscribed<'_>) -> Bytes {
        centrifuge::subscribed_by_server(self.format().unwrap_or(Format::Json), subscribed)
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

    /// A join or a leave. `None` in `plain`, which has no such message.
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
