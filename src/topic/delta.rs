//! One delta and one snapshot, with their frames: made at most once for each encoding, shared by all who get them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::payload::Payload;
use super::trace::Trace;
use crate::name::TopicName;
use crate::position::{Epoch, Offset};
use crate::protocol::{Delivery, Encoding, SnapshotDelivery};

/// What a run of shared bytes takes beside the bytes: its count, and what the allocator adds.
const FRAME_BYTES: usize = 48;

/// Frames, once made. Boxed, because most deltas that are kept were made for nobody, or for one encoding.
#[derive(Debug, Default)]
struct Frames(OnceLock<Box<[OnceLock<Bytes>; Encoding::COUNT]>>);

impl Frames {
    fn get(&self, encoding: Encoding, make: impl FnOnce() -> Bytes) -> Bytes {
        match self.0.get_or_init(Box::default).get(encoding.index()) {
            Some(slot) => slot.get_or_init(make).clone(),
            None => make(),
        }
    }

    /// What was made takes of memory.
    fn bytes(&self) -> usize {
        let Some(made) = self.0.get() else { return 0 };
        let frames = made.iter().filter_map(OnceLock::get).map(|frame| FRAME_BYTES + frame.len());
        size_of_val(&**made) + frames.sum::<usize>()
    }
}

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
    /// Set where it is followed through the log.
    pub trace: Option<Box<Trace>>,
    /// Data of the delta before it, where the namespace has delta compression and there is one.
    pub(super) before: Option<Bytes>,
    frames: Frames,
}

/// What is known of a delta beside what it says.
pub(super) struct Place {
    pub(super) topic: TopicName,
    pub(super) offset: Offset,
    pub(super) prev: Offset,
    pub(super) epoch: Epoch,
    pub(super) taken_ms: u64,
    pub(super) state_bytes: usize,
    pub(super) before: Option<Bytes>,
    pub(super) trace: Option<Box<Trace>>,
}

impl Delta {
    /// A delta whose frames are not made yet.
    pub(super) fn new(kind: Kind, ts: Option<u64>, payload: Payload, place: Place) -> Arc<Self> {
        let Place { topic, offset, prev, epoch, taken_ms, state_bytes, before, trace } = place;
        let frames = Frames::default();
        Arc::new(Self { topic, offset, prev, epoch, kind, ts, taken_ms, payload, state_bytes, trace, before, frames })
    }

    /// Bytes that it takes of memory, with the frames that were made so far.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + FRAME_BYTES + self.payload.bytes().len() + self.frames.bytes()
    }

    /// Its frame in `encoding`.
    pub fn frame(&self, encoding: Encoding) -> Bytes {
        // Without the delta before it, what changed since is everything: one frame does for both.
        let encoding = if self.before.is_some() { encoding } else { encoding.whole() };
        self.frames.get(encoding, || match self.kind {
            Kind::Delta => encoding.delivery(
                &Delivery {
                    topic: &self.topic,
                    offset: self.offset,
                    prev: self.prev,
                    count: 1,
                    ts: self.ts,
                    data: self.payload.bytes(),
                },
                self.before.as_deref(),
            ),
            Kind::Snapshot => encoding.snapshot(&SnapshotDelivery {
                topic: &self.topic,
                offset: self.offset,
                epoch: &self.epoch,
                ts: self.ts,
                data: self.payload.bytes(),
            }),
        })
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
    frames: Frames,
    digest: OnceLock<u64>,
}

impl Snapshot {
    pub(super) fn new(topic: TopicName, offset: Offset, epoch: Epoch, ts: Option<u64>, data: Bytes) -> Self {
        Self { topic, offset, epoch, ts, data, frames: Frames::default(), digest: OnceLock::new() }
    }

    /// Tells states at one position apart: what is kept of a `stream` goes with time. Made once.
    pub fn digest(&self) -> u64 {
        *self.digest.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            (self.ts, &self.data).hash(&mut hasher);
            hasher.finish()
        })
    }

    /// Bytes that it takes of memory with one frame: it is made for somebody.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + 2 * (FRAME_BYTES + self.data.len())
    }

    /// Its frame in `encoding`.
    pub fn frame(&self, encoding: Encoding) -> Bytes {
        let encoding = encoding.whole();
        self.frames.get(encoding, || {
            encoding.snapshot(&SnapshotDelivery {
                topic: &self.topic,
                offset: self.offset,
                epoch: &self.epoch,
                ts: self.ts,
                data: &self.data,
            })
        })
    }
}
