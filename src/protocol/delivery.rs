//! Deliveries of topics: what their encodings are made from.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

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
