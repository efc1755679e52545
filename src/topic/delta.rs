//! One delta and one snapshot, with their frames: made at most once for each dialect, shared by all who get them.

use std::sync::OnceLock;

use bytes::Bytes;

use super::payload::Payload;
use crate::name::TopicName;
use crate::position::{Epoch, Offset};
use crate::protocol::{Delivery, Dialect, SnapshotDelivery};

/// What a delta does to the state of its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Changes it, as the topic's class says.
    Delta,
    /// Replaces it.
    Snapshot,
}

/// One delta of a topic as published.
#[derive(Debug)]
pub struct Delta {
    /// Topic.
    pub topic: TopicName,
    /// Position.
    pub offset: Offset,
    /// Position of the delta before it.
    pub prev: Offset,
    /// Epoch of both.
    pub epoch: Epoch,
    /// What it does.
    pub kind: Kind,
    /// Time the source saw it, Unix ms.
    pub ts: Option<u64>,
    /// Time this server took it in, Unix ms.
    pub taken_ms: u64,
    /// JSON.
    pub payload: Payload,
    /// Bytes of the topic's whole state after it (`merge`), to judge whether a snapshot is shorter than a patch.
    pub state_bytes: usize,
    frames: [OnceLock<Bytes>; Dialect::COUNT],
}

impl Delta {
    /// A delta whose frames are not made yet.
    #[allow(clippy::too_many_arguments, reason = "each is one field, named at its only caller")]
    pub(super) fn new(
        topic: TopicName,
        offset: Offset,
        prev: Offset,
        epoch: Epoch,
        kind: Kind,
        ts: Option<u64>,
        taken_ms: u64,
        payload: Payload,
        state_bytes: usize,
    ) -> Self {
        Self { topic, offset, prev, epoch, kind, ts, taken_ms, payload, state_bytes, frames: Default::default() }
    }

    /// Its frame in `dialect`.
    pub fn frame(&self, dialect: Dialect) -> Bytes {
        let make = || match self.kind {
            Kind::Delta => dialect.delivery(&Delivery {
                topic: &self.topic,
                offset: self.offset,
                prev: self.prev,
                count: 1,
                ts: self.ts,
                data: self.payload.bytes(),
            }),
            Kind::Snapshot => dialect.snapshot(&SnapshotDelivery {
                topic: &self.topic,
                offset: self.offset,
                epoch: &self.epoch,
                ts: self.ts,
                data: self.payload.bytes(),
            }),
        };
        match self.frames.get(dialect.index()) {
            Some(slot) => slot.get_or_init(make).clone(),
            None => make(),
        }
    }
}

/// A topic's whole state at one offset.
#[derive(Debug)]
pub struct Snapshot {
    /// Topic.
    pub topic: TopicName,
    /// Position of the newest delta in it.
    pub offset: Offset,
    /// Epoch of that offset.
    pub epoch: Epoch,
    /// Time of that delta at its source, Unix ms.
    pub ts: Option<u64>,
    /// JSON: the value, the object, or (`stream`) the list of kept deltas. `null` where nothing is known.
    pub data: Bytes,
    frames: [OnceLock<Bytes>; Dialect::COUNT],
}

impl Snapshot {
    pub(super) fn new(topic: TopicName, offset: Offset, epoch: Epoch, ts: Option<u64>, data: Bytes) -> Self {
        Self { topic, offset, epoch, ts, data, frames: Default::default() }
    }

    /// Its frame in `dialect`.
    pub fn frame(&self, dialect: Dialect) -> Bytes {
        let make = || {
            dialect.snapshot(&SnapshotDelivery {
                topic: &self.topic,
                offset: self.offset,
                epoch: &self.epoch,
                ts: self.ts,
                data: &self.data,
            })
        };
        match self.frames.get(dialect.index()) {
            Some(slot) => slot.get_or_init(make).clone(),
            None => make(),
        }
    }
}
