//! Dialects: what a command and a delivery look like on the wire. Knows frames, but no sockets and no topics'
//! state: what it needs to know of them is handed in.

mod plain;

use bytes::Bytes;

use crate::name::TopicName;
use crate::position::{Epoch, Offset, Position};

/// How commands and deliveries look. A delta is encoded once for each that has a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Dialect {
    /// JSON that can be read and written by hand: `docs/protocol.md`.
    Plain = 0,
}

impl Dialect {
    /// How many there are.
    pub const COUNT: usize = 1;
    /// All of them, in the order of their indices.
    pub const ALL: [Self; Self::COUNT] = [Self::Plain];

    /// Index into per-dialect arrays.
    pub fn index(self) -> usize {
        self as usize
    }

    /// This dialect's bit in an interest mask.
    pub fn bit(self) -> u8 {
        1 << (self as u8)
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
    /// Where the last connection ended.
    pub since: Option<Position>,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Start deliveries.
    Subscribe {
        /// Echoed.
        id: CommandId,
        /// Topics with valid names.
        items: Vec<SubscribeItem>,
        /// Topics with invalid names: each is answered by itself.
        refused: Vec<Refusal>,
        /// Deliveries a second that the client wants at most, each topic.
        max_rate: Option<f64>,
        /// Deltas of history wanted first (`stream` topics).
        history: u32,
    },
    /// End deliveries.
    Unsubscribe {
        /// Echoed.
        id: CommandId,
        /// Topics, as sent.
        topics: Vec<TopicName>,
        /// Topics with invalid names.
        refused: Vec<Refusal>,
    },
    /// Send the state now.
    Snapshot {
        /// Echoed.
        id: CommandId,
        /// Topics.
        topics: Vec<TopicName>,
        /// Topics with invalid names.
        refused: Vec<Refusal>,
    },
    /// Prove who the client is, or prolong it.
    Auth {
        /// Echoed.
        id: CommandId,
        /// JWT.
        token: String,
    },
    /// Round trip.
    Ping {
        /// Echoed.
        id: CommandId,
    },
}

/// Why something was refused; with the topic where it is about one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In the manner of HTTP: 400 malformed, 401 no token, 403 not allowed, 429 over a limit, 503 try again.
    pub code: u16,
    /// For people.
    pub reason: String,
    /// The topic, as sent.
    pub topic: Option<String>,
}

impl Refusal {
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
    /// Reads one message of a client.
    ///
    /// # Errors
    /// What was wrong with it, ready to be sent back.
    pub fn command(self, message: &[u8]) -> Result<Command, BadCommand> {
        match self {
            Self::Plain => plain::command(message),
        }
    }

    /// A whole frame with a delta.
    pub fn delivery(self, delivery: &Delivery<'_>) -> Bytes {
        match self {
            Self::Plain => plain::delivery(delivery),
        }
    }

    /// A whole frame with a snapshot.
    pub fn snapshot(self, snapshot: &SnapshotDelivery<'_>) -> Bytes {
        match self {
            Self::Plain => plain::snapshot(snapshot),
        }
    }

    /// A whole frame with a notice.
    pub fn notice(self, notice: Notice<'_>) -> Bytes {
        match self {
            Self::Plain => plain::notice(notice),
        }
    }

    /// The reply to a command about topics that was carried out.
    pub fn standings(self, id: &CommandId, op: Op, standings: &[Standing]) -> Bytes {
        match self {
            Self::Plain => plain::standings(id, op, standings),
        }
    }

    /// The reply to a command that was carried out and has nothing more to say.
    pub fn done(self, id: &CommandId, op: Op) -> Bytes {
        match self {
            Self::Plain => plain::done(id, op),
        }
    }

    /// The reply to a command, or to one topic of it, that was refused.
    pub fn refusal(self, id: &CommandId, op: Op, refusal: &Refusal) -> Bytes {
        match self {
            Self::Plain => plain::refusal(id, op, refusal),
        }
    }
}
