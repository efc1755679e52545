//! Deliveries of topics, and their encodings.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::centrifuge::{self, Form, Format};
use super::{Dialect, fossil, plain};
use crate::form::PayloadForm;
use crate::name::TopicName;
use crate::position::{Epoch, Offset};

/// A delta, or one in place of several, to be delivered.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// Topic.
    pub topic: &'a TopicName,
    /// Position of the newest delta in it.
    pub offset: Offset,
    /// The receiver has no gap if it has reached this position.
    pub prev: Offset,
    /// Number of deltas that this one stands for; 1 for a delta as published.
    pub count: u64,
    /// Time at the source, Unix ms.
    pub ts: Option<u64>,
    /// As published.
    pub data: &'a [u8],
    /// The form of the namespace's deltas.
    pub form: PayloadForm,
}

/// A topic's whole state, to be delivered.
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
    /// JSON, or bytes. Empty for a topic of bytes without a known state.
    pub data: &'a [u8],
    /// Which of the two.
    pub form: PayloadForm,
    /// Completeness of the state. If none is known, the data in JSON is `null`.
    pub known: Known,
}

/// How much of a topic's state is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// There is no state: nothing was published, or the topic has ended.
    Nothing,
    /// There may be a state, but none of it is known here.
    Unknown,
    /// Some deltas may be missing: it may lack members, or have old values.
    Incomplete,
    /// It is the result of all deltas up to its offset.
    Whole,
}

impl Known {
    /// Whether the state may have more than is known.
    pub fn may_lack(self) -> bool {
        matches!(self, Self::Unknown | Self::Incomplete)
    }

    /// Whether there is a state.
    pub fn is_some(self) -> bool {
        matches!(self, Self::Incomplete | Self::Whole)
    }
}

/// Bytes in JSON: base64, in quotes.
pub fn base64_json(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; bytes.len().div_ceil(3) * 4 + 2];
    let (first, rest) = out.split_at_mut(1);
    first.fill(b'"');
    let written = STANDARD.encode_slice(bytes, rest).unwrap_or(0);
    out.truncate(written + 1);
    out.push(b'"');
    out
}

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

    /// The dialect of the sessions that get it.
    pub fn dialect(self) -> Dialect {
        match self {
            Self::Plain => Dialect::Plain,
            Self::Json | Self::JsonWhole | Self::JsonFossil => Dialect::CentrifugeJson,
            Self::Protobuf | Self::ProtobufFossil => Dialect::CentrifugeProtobuf,
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_in_json_are_base64_in_quotes(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let text: String = serde_json::from_slice(&base64_json(&bytes)).unwrap();
            prop_assert_eq!(STANDARD.decode(text).unwrap(), bytes);
        }
    }
}
