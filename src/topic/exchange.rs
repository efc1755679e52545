//! The values that enter topics and leave them.

use std::sync::Arc;

use bytes::Bytes;

use super::delta::{Delta, Kind, Snapshot};
use super::merge::ParseError;
use super::payload::{Payload, PayloadError};
use crate::name::{NameError, TopicName};
use crate::position::{Epoch, Offset};
use crate::protocol::{MembershipChange, Refusal};

/// A shard of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShardId(pub u16);

/// A shard's own index of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// The source of a topic's offsets: one partition of Redis, or this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u16);

/// Receives the events that subscribers must see. Called with the topic locked, so that events about a topic reach a
/// shard in the order in which they happened.
pub trait Outlet: Send + Sync {
    /// A delta of a topic the shard is interested in.
    fn delta(&self, shard: ShardId, slot: Slot, delta: &Arc<Delta>);
    /// The topic's past no longer counts: its epoch changed. This is its state now.
    fn reset(&self, shard: ShardId, slot: Slot, snapshot: &Arc<Snapshot>);
    /// The topic went quiet at this time (Unix ms), or is back (`None`).
    fn stale(&self, shard: ShardId, slot: Slot, topic: &TopicName, since_ms: Option<u64>);
    /// A client subscribed to a topic of a shard, here or on another node, or left it.
    fn membership(&self, shard: ShardId, slot: Slot, change: &Arc<MembershipChange>);
}

/// For topics without subscribers.
#[derive(Debug, Clone, Copy)]
pub struct Nowhere;

impl Outlet for Nowhere {
    fn delta(&self, _: ShardId, _: Slot, _: &Arc<Delta>) {}
    fn reset(&self, _: ShardId, _: Slot, _: &Arc<Snapshot>) {}
    fn stale(&self, _: ShardId, _: Slot, _: &TopicName, _: Option<u64>) {}
    fn membership(&self, _: ShardId, _: Slot, _: &Arc<MembershipChange>) {}
}

/// A delta as a source hands it in.
#[derive(Debug, Clone)]
pub struct Incoming<'a> {
    /// Topic, not yet checked.
    pub topic: &'a str,
    /// Delta or snapshot.
    pub kind: Kind,
    /// Time at its source, Unix ms.
    pub ts: Option<u64>,
    /// When the source took it in, Unix ms: what its age is measured by, and when its topic ends. `None` is now.
    pub at_ms: Option<u64>,
    /// As its namespace takes it; JSON is taken by all.
    pub payload: Payload,
    /// Its position, where the source gives one; otherwise the next.
    pub offset: Option<Offset>,
    /// The source that it comes from.
    pub source: SourceId,
    /// Set if topics were moved between sources and this topic belongs in this one.
    pub home: Option<Home>,
    /// It was published in the source that the topic has left, and relayed to this one some time after that.
    pub is_relayed: bool,
}

/// A topic belongs in a source, by the last list of moved topics.
#[derive(Debug, Clone, Copy)]
pub struct Home {
    /// From this offset on.
    pub since: Offset,
    /// By the list before, it belonged in another.
    pub is_back: bool,
}

/// A mark that is saved beside a source about a topic that is saved beside another: both have entries of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Topic.
    pub topic: TopicName,
    /// Its newest entry in the source.
    pub offset: Offset,
    /// When the source took that in, Unix ms.
    pub at_ms: u64,
    /// It is a deletion.
    pub is_deletion: bool,
}

/// Deltas that the node which saved last has missed: it may not have known some of the states that other nodes had
/// saved before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedHole {
    /// The newest delta that it can have missed, Unix ms of the source's clock.
    pub until_ms: u64,
    /// States saved with this name were known after the hole; `None` if states carry no names.
    pub name: Option<Epoch>,
}

/// How long topics of a namespace live without a delta, on the node that saved last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// The hash of the namespace's name, which is empty for the default.
    pub namespace: u64,
    /// After so many ms topics end; 0 is never.
    pub expire_ms: u64,
    /// Topics that had their last delta by then may have been ended by nodes with a shorter time,
    /// Unix ms of the source's clock; 0 if none may.
    pub ended_ms: u64,
}

/// The result of taking a delta in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its position.
    pub offset: Offset,
    /// Epoch of that.
    pub epoch: Epoch,
    /// False where the topic was already past this offset: nothing happened.
    pub new: bool,
}

/// Why a delta was refused; `words` describes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the words say it")]
pub enum PublishError {
    Name(#[from] NameError),
    Payload(#[from] PayloadError),
    Patch(#[from] ParseError),
    StreamSnapshot,
    StateTooLarge { bytes: usize },
    StateTotal { max: usize },
    UnknownNamespace,
    Reserved,
    WrongPartition,
    TooManyTopics { max: usize },
    TooManyUnpublished { max: usize },
    UnpublishedShare { max: usize },
}

impl PublishError {
    /// The code of the refusal: 400 where the delta is at fault, 503 where it may be taken later.
    pub fn code(&self) -> u16 {
        match self {
            Self::UnknownNamespace => Refusal::UNKNOWN_TOPIC,
            Self::StateTotal { .. }
            | Self::TooManyTopics { .. }
            | Self::TooManyUnpublished { .. }
            | Self::UnpublishedShare { .. } => 503,
            Self::Name(_)
            | Self::Payload(_)
            | Self::Patch(_)
            | Self::StreamSnapshot
            | Self::StateTooLarge { .. }
            | Self::WrongPartition
            | Self::Reserved => 400,
        }
    }

    /// Short name for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Name(_) => "name",
            Self::Payload(PayloadError::TooLarge { .. }) => "too_large",
            Self::Payload(PayloadError::NotUtf8(_)) => "not_utf8",
            Self::Payload(PayloadError::NotJson(_) | PayloadError::NotForBytes)
            | Self::Patch(ParseError::NotJson(_)) => "not_json",
            Self::Payload(PayloadError::TooDeep) | Self::Patch(ParseError::TooDeep) => "too_deep",
            Self::Payload(PayloadError::NotBase64) => "not_base64",
            Self::Patch(ParseError::NotObject) => "not_an_object",
            Self::StreamSnapshot => "stream_snapshot",
            Self::StateTooLarge { .. } => "state_too_large",
            Self::StateTotal { .. } => "state_total",
            Self::UnknownNamespace => "unknown_namespace",
            Self::Reserved => "reserved",
            Self::WrongPartition => "wrong_partition",
            Self::TooManyTopics { .. } => "too_many_topics",
            Self::TooManyUnpublished { .. } | Self::UnpublishedShare { .. } => "unpublished_topics",
        }
    }
}

/// The answer to a new subscriber, and the position of the topic.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Newest delta.
    pub offset: Offset,
    /// Epoch of that.
    pub epoch: Epoch,
    /// Whether nothing is missing since the position that the client named.
    pub recovered: bool,
    /// The state, or what was missed.
    pub missed: Replay,
    /// Set while the topic is stale.
    pub stale_since_ms: Option<u64>,
}

/// Whole frames, in order.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The position before them; 0 where they are the state, which needs nothing before it.
    pub after: Offset,
    /// The position after them.
    pub upto: Offset,
    /// The frames.
    pub frames: Vec<Bytes>,
    /// Whether nothing more follows up to now.
    pub complete: bool,
}

impl Replay {
    /// No frames, at this position.
    pub fn nothing(at: Offset) -> Self {
        Self { after: at, upto: at, frames: Vec::new(), complete: true }
    }

    /// Bytes of the frames.
    pub fn bytes(&self) -> usize {
        self.frames.iter().map(Bytes::len).sum()
    }
}

/// A topic as REST shows it.
#[derive(Debug, Clone)]
pub struct TopicView {
    /// Its whole state.
    pub snapshot: Arc<Snapshot>,
    /// When its source took its last delta in, Unix ms.
    pub active_ms: u64,
    /// Whether it is overdue.
    pub stale: bool,
}
