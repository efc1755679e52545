//! Answers to commands, and notices of the server.

use std::sync::Arc;

use bytes::Bytes;

use crate::form::PayloadForm;
use crate::name::TopicName;
use crate::position::{Epoch, Offset};

/// A new subscription, for the reply to a Centrifuge client.
#[derive(Debug, Clone, Copy)]
pub struct Subscribed<'a> {
    /// Topic.
    pub topic: &'a TopicName,
    /// The class of its namespace.
    pub class: &'static str,
    /// The position before `frames`, or the topic's position.
    pub offset: Offset,
    /// Epoch of this position.
    pub epoch: &'a Epoch,
    /// Whether the client may recover later.
    pub recoverable: bool,
    /// Whether the server checks its position.
    pub positioned: bool,
    /// Whether the client asked to recover.
    pub was_recovering: bool,
    /// Whether nothing was lost.
    pub recovered: bool,
    /// Whether deltas are compressed.
    pub fossil: bool,
    /// Seconds until its token ends.
    pub ttl_s: Option<u64>,
    /// Deliveries of the state or of the missed deltas: whole frames in the session's encoding.
    pub frames: &'a [Bytes],
}

/// A new session, for the reply to a Centrifuge client.
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
    /// The topics that the server subscribed it to.
    pub subs: &'a [Subscribed<'a>],
}

/// A subscriber of a topic, as others see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MemberInfo {
    /// `sub` of its token; empty without a token.
    pub user: String,
    /// Id of its session.
    pub client: String,
    /// JSON of the token's `info`; empty if there is none.
    #[serde(with = "json_text")]
    pub conn_info: Bytes,
    /// JSON of the subscription token's `info`; empty if there is none.
    #[serde(with = "json_text")]
    pub chan_info: Bytes,
}

/// JSON bytes, stored inside other JSON as text.
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
    /// Whether it joined.
    pub joined: bool,
    /// The session.
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
    /// The form of the namespace's deltas.
    pub form: PayloadForm,
    /// Whether it replaced the state.
    pub snapshot: bool,
}

/// A part of a topic's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPage {
    /// The topic's position.
    pub offset: Offset,
    /// Epoch of this position.
    pub epoch: Epoch,
    /// In the requested order.
    pub publications: Vec<HistoryDelta>,
}

/// A topic's position when a command about it was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Topic.
    pub topic: TopicName,
    /// Newest delta.
    pub offset: Offset,
    /// Epoch of that offset.
    pub epoch: Epoch,
    /// Whether the client has lost nothing since the position in its command.
    pub recovered: bool,
    /// In a subscribe: the offset that the next delta follows; 0 if the state comes first.
    pub have: Offset,
}

/// A notice of the server.
#[derive(Debug, Clone, Copy)]
pub enum Notice<'a> {
    /// No delta for longer than `stale_after`.
    Stale {
        /// Topic.
        topic: &'a TopicName,
        /// Time of the last delta, Unix ms.
        since_ms: u64,
    },
    /// Deltas arrive again.
    Fresh {
        /// Topic.
        topic: &'a TopicName,
    },
    /// The socket will be closed soon; reconnect after this time.
    Closing {
        /// Differs between sessions, so that they do not all reconnect at once.
        retry_after_ms: u64,
    },
}

/// Code of an unsubscribe by the server, for good.
pub const UNSUBSCRIBED_BY_SERVER: u16 = 2_000;

/// Code of an unsubscribe because a stream's past no longer counts. The client subscribes again,
/// without recovery.
pub const INSUFFICIENT_STATE: u16 = 2_500;

/// Code of an unsubscribe because its token has expired. The client subscribes again with a new
/// one.
pub const SUBSCRIPTION_EXPIRED: u16 = 2_501;

/// Code of an unsubscribe, for good, because the session's current token does not allow the topic.
pub const NOT_ALLOWED_ANY_MORE: u16 = 2_403;
