//! A group's deltas of one tick, and the chunk that all its members share.

use bytes::Bytes;
use smallvec::SmallVec;

use super::receivers::{Receivers, compressed};
use crate::hub::chunk::{Chunk, Cut};
use crate::hub::compression::Compression;
use crate::hub::cursor::Cursor;
use crate::hub::index::GroupId;
use crate::protocol::Dialect;
use crate::topic::Slot;

/// The deltas of one group in this tick, in order.
pub(super) struct Batch {
    pub(super) group: GroupId,
    /// The group's position before them.
    pub(super) start: Cursor,
    pub(super) first: BatchFrame,
    more: Vec<BatchFrame>,
}

/// One delta, encoded for the group.
pub(super) struct BatchFrame {
    pub(super) bytes: Bytes,
    /// The position of a member after it.
    pub(super) cursor: Cursor,
    /// When its source, or else this server, received it, Unix ms.
    pub(super) seen_ms: u64,
}

impl Batch {
    pub(super) fn new(group: GroupId, start: Cursor, first: BatchFrame) -> Self {
        Self { group, start, first, more: Vec::new() }
    }

    pub(super) fn push(&mut self, frame: BatchFrame) {
        self.more.push(frame);
    }

    pub(super) fn len(&self) -> usize {
        1 + self.more.len()
    }

    fn frames(&self) -> impl Iterator<Item = &BatchFrame> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// The position of a member after the batch.
    pub(super) fn end(&self) -> Cursor {
        self.more.last().unwrap_or(&self.first).cursor
    }

    /// All frames as one chunk. Compressed batches and uncompressed Centrifuge frames are joined here, into messages
    /// within the dialect's limit.
    pub(super) fn chunk(
        &self,
        topic: Option<Slot>,
        dialect: Dialect,
        compression: Compression,
        to: &mut impl Receivers,
    ) -> Chunk {
        let deliveries = u32::try_from(self.len()).unwrap_or(u32::MAX);
        if self.more.is_empty() {
            return compressed(Chunk::delivery(self.first.bytes.clone(), topic, self.start), compression, to);
        }
        let inflated = self.frames().map(|f| f.bytes.len()).sum();
        // A `plain` list is built at the write, because other members of the group may want separate messages.
        let together =
            compression == Compression::DeflateRuns || (compression == Compression::Plain && dialect.is_centrifuge());
        let most = if together { dialect.joined_bytes_max() } else { 0 };
        let mut joined = Vec::with_capacity(inflated);
        let mut cuts = Vec::with_capacity(self.len());
        let (mut list, mut message) = (SmallVec::<[&Bytes; 16]>::new(), Vec::new());
        let mut rest = self.frames().peekable();
        while let Some(first) = rest.next() {
            let (mut bytes, mut last) = (first.bytes.len(), first);
            list.push(&first.bytes);
            while let Some(next) = rest.next_if(|next| bytes + next.bytes.len() <= most) {
                bytes += next.bytes.len();
                list.push(&next.bytes);
                last = next;
            }
            match (list.as_slice(), compression) {
                ([frame], Compression::Plain) => joined.extend_from_slice(frame),
                ([frame], _) => joined.extend_from_slice(&to.compress(frame)),
                (several, Compression::Plain) => {
                    let at = joined.len();
                    several.iter().for_each(|frame| joined.extend_from_slice(frame));
                    if dialect.join(joined.get(at..).unwrap_or_default(), &mut message) {
                        joined.truncate(at);
                        joined.extend_from_slice(&message);
                    }
                }
                (several, _) => joined.extend_from_slice(&to.compress_joined(several.iter().copied(), dialect)),
            }
            list.clear();
            cuts.push(Cut { end: joined.len(), cursor: last.cursor, inflated: bytes });
        }
        // The capacity was for uncompressed frames. A chunk may wait for seconds, and its length is what is counted.
        joined.shrink_to_fit();
        // A single message needs no cuts.
        let cuts = if cuts.len() == 1 { Vec::new() } else { cuts };
        let inflated = if compression == Compression::Plain { 0 } else { inflated };
        Chunk { deliveries, cuts, inflated, ..Chunk::delivery(Bytes::from(joined), topic, self.start) }
    }
}
