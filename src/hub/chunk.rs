//! Bytes on their way to sessions. Fan-out makes chunks and egress sends them; what a chunk says about topics is for who reads
//! egress' outcomes.

use bytes::Bytes;

use super::cursor::Cursor;
use crate::topic::Slot;

/// Bytes for one or more sessions: one frame or several, whole.
pub(super) struct Chunk {
    pub(super) bytes: Bytes,
    /// The topic, if its frames may be replaced by newer state.
    pub(super) topic: Option<Slot>,
    /// Where a receiver stands before it; [`Cursor::NOWHERE`] if what it had before does not count.
    pub(super) start: Cursor,
    /// Where a receiver stands in a topic after it, though nothing may take its place: state that was asked for.
    pub(super) stands: Option<(Slot, Cursor)>,
    /// Ends of its frames and where a receiver stands after each; empty for a single frame.
    pub(super) cuts: Vec<Cut>,
    /// Bytes of its frames before they were compressed; 0 where none is.
    pub(super) inflated: usize,
    /// Deliveries in it.
    pub(super) deliveries: u32,
    /// How long after a session's last write it may wait for others to go with it, ms: 0 is not at all, 1 as long as a busy
    /// shard makes it wait.
    pub(super) wait_ms: u16,
    /// When the first delta in it was seen, Unix ms, where its age is only known at the write; else 0.
    pub(super) seen_ms: u64,
}

/// The end of one frame in a chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) end: usize,
    pub(super) cursor: Cursor,
    /// Bytes of that frame before it was compressed.
    pub(super) inflated: usize,
}

impl Chunk {
    /// A frame that must go out as it is, at once.
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

    /// One frame for receivers that are at `start`; `topic` is set where newer state may take its place.
    pub(super) fn delivery(bytes: Bytes, topic: Option<Slot>, start: Cursor) -> Self {
        Self { topic, start, deliveries: 1, ..Self::control(bytes) }
    }

    /// The same as `compress` makes it.
    pub(super) fn compressed(self, compress: impl FnOnce(&Bytes) -> Bytes) -> Self {
        Self { bytes: compress(&self.bytes), inflated: self.bytes.len(), ..self }
    }

    /// The length of each of its frames, and what it was before it was compressed.
    pub(super) fn frames(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut at = 0;
        let cuts = self.cuts.iter().map(move |cut| (cut.end - std::mem::replace(&mut at, cut.end), cut.inflated));
        let whole = (self.cuts.is_empty() && !self.bytes.is_empty()).then(|| (self.bytes.len(), self.inflated_bytes()));
        cuts.chain(whole)
    }

    /// Bytes of a state that was charged when it was put into a send queue: without it, it will be charged once more.
    pub(super) fn state_bytes(&self) -> usize {
        if self.start == Cursor::NOWHERE { self.inflated_bytes() } else { 0 }
    }

    /// Bytes of what a client gets of it, as it reads them.
    pub(super) fn inflated_bytes(&self) -> usize {
        self.inflated.max(self.bytes.len())
    }
}
