//! What commands are answered with, and what the server says unasked.

use std::sync::Arc;

use bytes::Bytes;

use crate::form::PayloadForm;
use crate::name::TopicName;
use crate::position::{Epoch, Offset};

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

/// A session subscribed to a topic, or left it.
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
    /// As published.
    pub data: Bytes,
    /// What the namespace's deltas are made of.
    pub form: PayloadForm,
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
    /// Subscribes: what the next delta follows on; 0 where the state comes first.
    pub have: Offset,
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

/// Code of an unsubscribe by the server, for good.
pub const UNSUBSCRIBED_BY_SERVER: u16 = 2_000;

/// Code of an unsubscribe because a stream's past no longer counts: the client subscribes again, without recovery.
pub const INSUFFICIENT_STATE: u16 = 2_500;

/// Code of an unsubscribe whose token ended: the client subscribes again with a new one.
pub const SUBSCRIPTION_EXPIRED: u16 = 2_501;

/// Code of an unsubscribe because the session's present token does not give the topic, for good.
pub const NOT_ALLOWED_ANY_MORE: u16 = 2_403;
