//! What topics send, and how it is encoded.

use bytes::Bytes;

use super::centrifuge::{self, Form, Format};
use super::{Dialect, fossil, plain};
use crate::name::TopicName;
use crate::position::{Epoch, Offset};

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
