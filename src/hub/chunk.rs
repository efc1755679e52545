//! Bytes on their way to sessions. Fan-out makes chunks and egress sends them. The topic data in a chunk is for the
//! reader of egress' outcomes.

use bytes::Bytes;

use super::cursor::Cursor;
use crate::topic::Slot;

/// Bytes for one or more sessions: one or more whole frames.
pub(super) struct Chunk {
    pub(super) bytes: Bytes,
    /// The topic, if newer state may replace the frames.
    pub(super) topic: Option<Slot>,
    /// The receiver's position before it; [`Cursor::NOWHERE`] if the earlier position does not matter.
    pub(super) start: Cursor,
    /// For a requested state, which nothing may replace: the topic, and the receiver's position after it.
    pub(super) stands: Option<(Slot, Cursor)>,
    /// The end of each frame and the receiver's position after it; empty for a single frame.
    pub(super) cuts: Vec<Cut>,
    /// Bytes of its frames before compression; 0 if none is compressed.
    pub(super) inflated: usize,
    /// Number of deliveries in it.
    pub(super) deliveries: u32,
    /// How long after a session's last write it may wait to be coalesced, in ms. 0: not at all. 1: as long as a busy
    /// shard delays writes.
    pub(super) wait_ms: u16,
    /// When its first delta was received, Unix ms, if the age can only be measured at the write; else 0.
    pub(super) seen_ms: u64,
}

/// The end of one frame in a chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) end: usize,
    pub(super) cursor: Cursor,
    /// Bytes of the frame before compression.
    pub(super) inflated: usize,
}

impl Chunk {
    /// A frame that must be sent unchanged and without delay.
    pub(super) fn control(bytes: Bytes) -> Self {
        Self {
            bytes,
            topic: None,
            start: Cursor::default(),
            stands: None,
            cuts: Vec::new(),
            inflated: 0,
            deliveries: 0,
            wait_ms: 0,
            seen_ms: 0,
        }
    }

    /// One frame for receivers at `start`. Newer state may replace it if `topic` is set.
    pub(super) fn delivery(bytes: Bytes, topic: Option<Slot>, start: Cursor) -> Self {
        Self { topic, start, deliveries: 1, ..Self::control(bytes) }
    }

    /// The same chunk, compressed by `compress`.
    pub(super) fn compressed(self, compress: impl FnOnce(&Bytes) -> Bytes) -> Self {
        Self { bytes: compress(&self.bytes), inflated: self.bytes.len(), ..self }
    }

    /// The length of each frame, as sent and before compression.
    pub(super) fn frames(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut at = 0;
        let cuts = self.cuts.iter().map(move |cut| (cut.end - std::mem::replace(&mut at, cut.end), cut.inflated));
        let whole = (self.cuts.is_empty() && !self.bytes.is_empty()).then(|| (self.bytes.len(), self.inflated_bytes()));
        cuts.chain(whole)
    }

    /// Bytes of a state that were charged when it was enqueued. If it is not sent, they are charged again with the
    /// next.
    pub(super) fn state_bytes(&self) -> usize {
        if self.start == Cursor::NOWHERE { self.inflated_bytes() } else { 0 }
    }

    /// Bytes as the client reads them, after decompression.
    pub(super) fn inflated_bytes(&self) -> usize {
        self.inflated.max(self.bytes.len())
    }
}
