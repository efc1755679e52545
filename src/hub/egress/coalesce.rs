//! From a session's chunks to the bytes of one write. Sessions with equal send queues, as in one group, share the
//! bytes: they are gathered once.

use std::ops::Range;

use smallvec::SmallVec;

use super::compress::{self, any_compressed};
use super::output::Output;
use super::send_queue::{Outbox, SendQueue};
use crate::hub::chunk::Chunk;
use crate::hub::index::ChunkId;
use crate::protocol::Dialect;
use crate::wire::frame::Opcode;

/// Coalesced bytes from which a batch of writes is made, even if it has few writes.
pub(in crate::hub) const BATCH_BYTES: usize = 1 << 20;

/// The bytes of one write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hub) struct Coalesced {
    lies: Lies,
    /// If frames were joined: the resulting messages, which cannot be cut. Otherwise empty.
    messages: SmallVec<[Message; 1]>,
}

/// A message of a write: its end among the gathered bytes, and among those of the chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    end: usize,
    chunks_end: usize,
}

impl Coalesced {
    /// For a write that stopped at `sent`: the end of the partly sent message, and the position in the chunks' bytes
    /// after its last whole frame.
    pub(in crate::hub) fn cut(&self, sent: usize) -> (usize, usize) {
        let begun = self.messages.partition_point(|message| message.end < sent);
        match self.messages.get(begun).filter(|_| sent > 0) {
            Some(message) => (message.end, message.chunks_end),
            None => (sent, sent),
        }
    }
}

/// Where the bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lies {
    /// In a chunk.
    Chunk(ChunkId),
    /// In the gathered bytes.
    Range(Range<usize>),
}

/// What determines a session's bytes apart from its chunks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::hub) struct Shape {
    dialect: Dialect,
    /// Several deliveries are sent as one list.
    list: bool,
    deflate: bool,
}

impl Shape {
    /// For a session that gets each delivery as a frame of its own.
    pub(in crate::hub) fn frames(dialect: Dialect) -> Self {
        Self { dialect, list: false, deflate: false }
    }

    pub(in crate::hub) fn of(output: &Output) -> Self {
        let Output { dialect, batch, deflate, .. } = *output;
        Self { dialect, list: batch && !dialect.is_centrifuge(), deflate }
    }
}

/// The bytes gathered for a batch of writes.
#[derive(Default)]
pub(in crate::hub) struct Coalescer {
    bytes: Vec<u8>,
    /// The message that is being built.
    message: Vec<u8>,
    /// The chunks of the previous session.
    last: Vec<ChunkId>,
    last_got: Option<(Shape, Coalesced)>,
}

impl Coalescer {
    /// Whether the batch should be written now.
    pub(in crate::hub) fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES
    }

    /// Gathers the bytes of `send_queue` for a session of `shape`. They are valid until [`Coalescer::clear`], as long
    /// as the send queue is not released.
    pub(in crate::hub) fn coalesce(&mut self, outbox: &Outbox, send_queue: SendQueue, shape: Shape) -> Coalesced {
        if let Some((last_shape, got)) = &self.last_got
            && *last_shape == shape
            && outbox.numbers(send_queue).eq(self.last.iter().copied())
        {
            return got.clone();
        }
        self.last.clear();
        self.last.extend(outbox.numbers(send_queue));
        let got = self.put_together(outbox, send_queue, shape);
        self.last_got = Some((shape, got.clone()));
        got
    }

    fn put_together(&mut self, outbox: &Outbox, send_queue: SendQueue, shape: Shape) -> Coalesced {
        // A compressed batch is a list already.
        let whole = |chunk: &Chunk| !shape.list || chunk.cuts.is_empty();
        if let [only] = self.last[..]
            && outbox.get(only).is_some_and(whole)
        {
            return Coalesced { lies: Lies::Chunk(only), messages: SmallVec::new() };
        }
        let begin = self.bytes.len();
        for chunk in outbox.chunks(send_queue) {
            self.bytes.extend_from_slice(&chunk.bytes);
        }
        let messages = if shape.list || shape.dialect.is_centrifuge() {
            let inflated = outbox.chunks(send_queue).map(Chunk::inflated_bytes).sum();
            self.messages(begin, outbox, send_queue, shape, inflated)
        } else {
            SmallVec::new()
        };
        Coalesced { lies: Lies::Range(begin..self.bytes.len()), messages }
    }

    /// Joins the frames from `begin` on into messages, each as large as allowed: a browser handles few large events
    /// faster.
    fn messages(
        &mut self,
        begin: usize,
        outbox: &Outbox,
        send_queue: SendQueue,
        shape: Shape,
        inflated: usize,
    ) -> SmallVec<[Message; 1]> {
        let most = shape.dialect.joined_bytes_max();
        let chunks_end = self.bytes.len() - begin;
        if inflated <= most && self.join(begin, shape) {
            return SmallVec::from_buf([Message { end: self.bytes.len() - begin, chunks_end }]);
        }
        let frames = self.bytes.split_off(begin);
        let (mut messages, mut from, mut upto, mut size, mut count) = (SmallVec::new(), 0, 0, 0, 0);
        for (len, inflated) in outbox.chunks(send_queue).flat_map(Chunk::frames) {
            let whole = frames.get(upto..upto + len).unwrap_or_default();
            // A control frame is not joined, nor is a frame that is too large.
            let is_data = whole.first().copied().and_then(Opcode::from_bits) == Some(shape.dialect.opcode());
            let inflated = if is_data { inflated } else { most + 1 };
            if count > 0 && size + inflated > most {
                messages.push(self.message(begin, &frames, from..upto, count, shape));
                (from, size, count) = (upto, 0, 0);
            }
            (upto, size, count) = (upto + len, size + inflated, count + 1);
        }
        if count > 0 {
            messages.push(self.message(begin, &frames, from..upto, count, shape));
        }
        messages
    }

    /// Appends these frames as one message; a single frame is copied unchanged.
    fn message(&mut self, begin: usize, frames: &[u8], range: Range<usize>, count: usize, shape: Shape) -> Message {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(frames.get(range.clone()).unwrap_or_default());
        if count > 1 {
            self.join(at, shape);
        }
        Message { end: self.bytes.len() - begin, chunks_end: range.end }
    }

    /// Joins the frames from `begin` on into one message, if they can be joined.
    fn join(&mut self, begin: usize, shape: Shape) -> bool {
        let frames = self.bytes.get(begin..).unwrap_or_default();
        if shape.deflate && any_compressed(frames) {
            let Some(message) = compress::join(frames, shape.dialect) else { return false };
            self.bytes.truncate(begin);
            self.bytes.extend_from_slice(&message);
            return true;
        }
        if !shape.dialect.join(frames, &mut self.message) {
            return false;
        }
        self.bytes.truncate(begin);
        self.bytes.extend_from_slice(&self.message);
        true
    }

    /// The bytes of a write.
    pub(in crate::hub) fn bytes<'a>(&'a self, outbox: &'a Outbox, coalesced: &Coalesced) -> &'a [u8] {
        match &coalesced.lies {
            Lies::Chunk(number) => outbox.get(*number).map_or(&[], |chunk| &chunk.bytes),
            Lies::Range(range) => self.bytes.get(range.clone()).unwrap_or_default(),
        }
    }

    /// Forgets the gathered bytes after the writes were made.
    pub(in crate::hub) fn clear(&mut self) {
        self.bytes.clear();
        self.last_got = None;
    }

    /// Frees memory that a burst needed.
    pub(in crate::hub) fn end_tick(&mut self) {
        self.bytes.shrink_to(2 * BATCH_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::hub::cursor::Cursor;
    use crate::hub::index::{ChunkId, SessionIndex};
    use crate::wire::frame;

    /// Sessions of one group share the gathered bytes. Other chunks, or another shape, are gathered separately.
    #[test]
    fn the_same_is_put_together_once() {
        let mut outbox = Outbox::default();
        let frames: Vec<Bytes> = ["1", "2", "3"].map(|m| frame::frame(Opcode::Text, m.as_bytes())).to_vec();
        let chunks: Vec<ChunkId> =
            frames.iter().map(|f| outbox.chunk(Chunk::delivery(f.clone(), None, Cursor::default()))).collect();
        let mut send_queues = [SendQueue::default(); 4];
        for (index, linked) in [(0, &chunks[..2]), (1, &chunks[..2]), (2, &chunks[1..]), (3, &chunks[..2])] {
            for chunk in linked {
                outbox.link(SessionIndex::new(index), &mut send_queues[index], *chunk);
            }
        }
        let plain = Shape { dialect: Dialect::Plain, list: false, deflate: false };
        let list = Shape { list: true, ..plain };
        let mut coalescer = Coalescer::default();
        let mut coalesce = |send_queue: usize, shape| {
            let coalesced = coalescer.coalesce(&outbox, send_queues[send_queue], shape);
            let bytes = coalescer.bytes(&outbox, &coalesced).to_vec();
            (coalesced, bytes)
        };
        let (first, bytes) = coalesce(0, plain);
        assert_eq!(bytes, [&frames[0][..], &frames[1]].concat());
        assert_eq!(coalesce(1, plain).0, first);
        let (other, bytes) = coalesce(2, plain);
        assert_ne!(other, first);
        assert_eq!(bytes, [&frames[1][..], &frames[2]].concat());
        let (listed, bytes) = coalesce(3, list);
        assert_eq!(listed.messages.len(), 1);
        assert_eq!(bytes, &frame::frame(Opcode::Text, b"[1,2]")[..]);
    }
}
