//! Encodings of deliveries.

use bytes::Bytes;

use super::centrifuge::{self, Form, Format};
use super::delivery::{Delivery, SnapshotDelivery, base64_json};
use super::{fossil, plain};
use crate::form::PayloadForm;

/// Encoding of a delivery. A delta is encoded at most once for each encoding with a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// `plain`.
    Plain = 0,
    /// `centrifuge`, JSON.
    Json = 1,
    /// `centrifuge`, Protobuf. Also a whole value for subscribers that take differences.
    Protobuf = 2,
    /// `centrifuge`, JSON: a whole value for subscribers that take differences.
    JsonWhole = 3,
    /// `centrifuge`, JSON: the difference to the delta before it.
    JsonFossil = 4,
    /// `centrifuge`, Protobuf: the difference to the delta before it.
    ProtobufFossil = 5,
}

impl Encoding {
    /// Number of encodings.
    pub const COUNT: usize = 6;
    /// All encodings, in the order of their indices.
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

    /// The encoding for a receiver that does not hold the delta before.
    #[must_use]
    pub fn whole(self) -> Self {
        match self {
            Self::JsonFossil => Self::JsonWhole,
            Self::ProtobufFossil => Self::Protobuf,
            same => same,
        }
    }

    /// Whether it can carry any bytes: Protobuf.
    fn is_binary(self) -> bool {
        matches!(self, Self::Protobuf | Self::ProtobufFossil)
    }

    /// Whether it carries the difference to the delta before.
    pub fn is_fossil(self) -> bool {
        matches!(self, Self::JsonFossil | Self::ProtobufFossil)
    }

    /// A whole frame with a delta. `before` is the data of the delivery that the receiver holds.
    /// Without it, or if the difference is not shorter, the frame has the whole data.
    pub fn delivery(self, delivery: &Delivery<'_>, before: Option<&[u8]>) -> Bytes {
        if delivery.form == PayloadForm::Json || self.is_binary() {
            return self.encode(delivery, before);
        }
        // Such a receiver holds the JSON, so the difference is between JSON texts.
        let (data, before) = (base64_json(delivery.data), before.map(base64_json));
        self.encode(&Delivery { data: &data, ..*delivery }, before.as_deref())
    }

    fn encode(self, delivery: &Delivery<'_>, before: Option<&[u8]>) -> Bytes {
        let text = !(self.is_binary() && delivery.form == PayloadForm::Bytes);
        let fossil = |format| {
            let delta = before.and_then(|before| fossil::delta(before, delivery.data, text));
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
        if snapshot.form == PayloadForm::Json || self.is_binary() {
            return self.encode_snapshot(snapshot);
        }
        if !snapshot.known.is_some() {
            return self.encode_snapshot(&SnapshotDelivery { data: b"null", form: PayloadForm::Json, ..*snapshot });
        }
        self.encode_snapshot(&SnapshotDelivery { data: &base64_json(snapshot.data), ..*snapshot })
    }

    fn encode_snapshot(self, snapshot: &SnapshotDelivery<'_>) -> Bytes {
        match self {
            Self::Plain => plain::snapshot(snapshot),
            Self::Json => centrifuge::snapshot(Format::Json, Form::Usual, snapshot),
            Self::JsonWhole | Self::JsonFossil => centrifuge::snapshot(Format::Json, Form::Whole, snapshot),
            Self::Protobuf | Self::ProtobufFossil => centrifuge::snapshot(Format::Protobuf, Form::Usual, snapshot),
        }
    }
}
