//! From the pieces that wait for a session to the bytes of one visit. Sessions that get the same, as those of one lane do,
//! share them: they are put together for the first.

use std::ops::Range;

use smallvec::SmallVec;

use super::backlog::frame_bytes;
use super::deflating::{self, any_compressed};
use super::outbox::{Chain, Outbox, Piece};
use super::session::Session;
use crate::limits::{DRAIN_CHUNK_BYTES, JOINED_BYTES_MAX};
use crate::protocol::Dialect;
use crate::wire::frame::{self, HEADER_BYTES_MAX, Opcode};

/// Gathered bytes from which on a batch of visits is made, however few they are.
pub(super) const BATCH_BYTES: usize = 1 << 20;

/// The bytes of one visit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gathered {
    lies: Lies,
    /// Where frames were put together: the messages that they became, which cannot be cut. Else empty.
    messages: SmallVec<[Message; 1]>,
}

/// A message of a visit: where it ends among the gathered bytes, and among those of the pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    end: usize,
    pieces_end: usize,
}

impl Gathered {
    /// Of a visit that got to `sent`: where the message ends that was begun, and how far its last whole frame got in the
    /// bytes of the pieces once that is sent too.
    pub(super) fn cut(&self, sent: usize) -> (usize, usize) {
        let begun = self.messages.partition_point(|message| message.end < sent);
        match self.messages.get(begun).filter(|_| sent > 0) {
            Some(message) => (message.end, message.pieces_end),
            None => (sent, sent),
        }
    }
}

/// Where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lies {
    /// In a piece, by its number.
    Piece(u32),
    /// Among the gathered.
    Range(Range<usize>),
}

/// What else than its pieces decides about a session's bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    dialect: Dialect,
    /// Several deliveries come as one list.
    list: bool,
    deflate: bool,
}

impl Shape {
    pub(super) fn of(session: &Session) -> Self {
        let Session { dialect, batch, deflate, .. } = *session;
        Self { dialect, list: batch && !dialect.is_centrifuge(), deflate }
    }
}

/// What was gathered for a batch of visits.
#[derive(Default)]
pub(super) struct Gathering {
    bytes: Vec<u8>,
    /// A message as it is put together.
    message: Vec<u8>,
    /// The pieces of the last session.
    last: Vec<u32>,
    last_got: Option<(Shape, Gathered)>,
}

impl Gathering {
    /// Whether it is time to make the visits.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES
    }

    /// The bytes of `chain` for a session of `shape`. They can be had until [`Gathering::clear`], as long as the chain is
    /// not released.
    pub(super) fn gather(&mut self, outbox: &Outbox, chain: Chain, shape: Shape) -> Gathered {
        if let Some((last_shape, got)) = &self.last_got
            && *last_shape == shape
            && outbox.numbers(chain).eq(self.last.iter().copied())
        {
            return got.clone();
        }
        self.last.clear();
        self.last.extend(outbox.numbers(chain));
        let got = self.put_together(outbox, chain, shape);
        self.last_got = Some((shape, got.clone()));
        got
    }

    fn put_together(&mut self, outbox: &Outbox, chain: Chain, shape: Shape) -> Gathered {
        // A compressed run of a tick is a list already.
        let whole = |piece: &Piece| !shape.list || piece.cuts.is_empty();
        if let [only] = self.last[..]
            && outbox.get(only).is_some_and(whole)
        {
            return Gathered { lies: Lies::Piece(only), messages: SmallVec::new() };
        }
        let begin = self.bytes.len();
        for piece in outbox.chain(chain) {
            self.bytes.extend_from_slice(&piece.bytes);
        }
        let messages = if shape.list || shape.dialect.is_centrifuge() {
            let inflated = outbox.chain(chain).map(Piece::inflated_bytes).sum();
            self.messages(begin, outbox, chain, shape, inflated)
        } else {
            SmallVec::new()
        };
        Gathered { lies: Lies::Range(begin..self.bytes.len()), messages }
    }

    /// Makes messages of what lies from `begin` on, each as large as it may be: few events for a browser in place of many.
    fn messages(
        &mut self,
        begin: usize,
        outbox: &Outbox,
        chain: Chain,
        shape: Shape,
        inflated: usize,
    ) -> SmallVec<[Message; 1]> {
        let most = message_bytes_max(shape.dialect);
        let pieces_end = self.bytes.len() - begin;
        if inflated <= most && self.join(begin, shape) {
            return SmallVec::from_buf([Message { end: self.bytes.len() - begin, pieces_end }]);
        }
        let frames = self.bytes.split_off(begin);
        let (mut messages, mut from, mut upto, mut size, mut count) = (SmallVec::new(), 0, 0, 0, 0);
        for (len, inflated) in outbox.chain(chain).flat_map(Piece::frames) {
            let whole = frames.get(upto..upto + len).unwrap_or_default();
            // A control frame stays alone, and so does what is too large.
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

    /// Appends these frames as one message; one alone as it is.
    fn message(&mut self, begin: usize, frames: &[u8], range: Range<usize>, count: usize, shape: Shape) -> Message {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(frames.get(range.clone()).unwrap_or_default());
        if count > 1 {
            self.join(at, shape);
        }
        Message { end: self.bytes.len() - begin, pieces_end: range.end }
    }

    /// Makes one message of what lies from `begin` on, if it can be done.
    fn join(&mut self, begin: usize, shape: Shape) -> bool {
        let frames = self.bytes.get(begin..).unwrap_or_default();
        if shape.deflate && any_compressed(frames) {
            let Some(message) = deflating::join(frames, shape.dialect) else { return false };
            self.bytes.truncate(begin);
            self.bytes.extend_from_slice(&message);
            return true;
        }
        if !join(frames, shape.dialect, &mut self.message) {
            return false;
        }
        self.bytes.truncate(begin);
        self.bytes.extend_from_slice(&self.message);
        true
    }

    /// The bytes themselves.
    pub(super) fn bytes<'a>(&'a self, outbox: &'a Outbox, gathered: &Gathered) -> &'a [u8] {
        match &gathered.lies {
            Lies::Piece(number) => outbox.get(*number).map_or(&[], |piece| &piece.bytes),
            Lies::Range(range) => self.bytes.get(range.clone()).unwrap_or_default(),
        }
    }

    /// The visits were made.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.last_got = None;
    }

    /// Gives back what a storm left behind.
    pub(super) fn end_tick(&mut self) {
        self.bytes.shrink_to(2 * BATCH_BYTES);
    }
}

/// Largest message that several deliveries are put into, as the client reads it.
pub(super) fn message_bytes_max(dialect: Dialect) -> usize {
    if dialect.is_centrifuge() { JOINED_BYTES_MAX } else { DRAIN_CHUNK_BYTES }
}

/// What stands before, between and behind messages that are put into one: in `plain` they become a list, in Centrifuge's
/// JSON a line each, in Protobuf one follows the other, as they carry their lengths.
pub(super) fn seams(dialect: Dialect) -> [&'static [u8]; 3] {
    match dialect {
        Dialect::Plain => [b"[", b",", b"]"],
        Dialect::CentrifugeJson => [b"", b"\n", b""],
        Dialect::CentrifugeProtobuf => [b"", b"", b""],
    }
}

/// Puts data frames into one. `false` if one of them is no data frame.
pub(super) fn join(frames: &[u8], dialect: Dialect, out: &mut Vec<u8>) -> bool {
    let opcode = dialect.opcode();
    let [open, between, close] = seams(dialect);
    out.clear();
    out.resize(HEADER_BYTES_MAX, 0);
    out.extend_from_slice(open);
    let mut rest = frames;
    while !rest.is_empty() {
        let (whole, next) = rest.split_at(frame_bytes(rest).min(rest.len()));
        if whole.first().copied().and_then(Opcode::from_bits) != Some(opcode) {
            return false;
        }
        if out.len() > HEADER_BYTES_MAX + open.len() {
            out.extend_from_slice(between);
        }
        out.extend_from_slice(whole.get(frame::header_bytes(whole)..).unwrap_or_default());
        rest = next;
    }
    out.extend_from_slice(close);
    let mut header = Vec::with_capacity(HEADER_BYTES_MAX);
    frame::put_header(&mut header, opcode, out.len() - HEADER_BYTES_MAX);
    out.drain(..HEADER_BYTES_MAX - header.len());
    if let Some(room) = out.get_mut(..header.len()) {
        room.copy_from_slice(&header);
    }
    true
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::hub::subscribers::Cursor;

    /// Sessions of one lane share what was put together; another's pieces, or another shape, are put together anew.
    #[test]
    fn the_same_is_put_together_once() {
        let mut outbox = Outbox::default();
        let frames: Vec<Bytes> = ["1", "2", "3"].map(|m| frame::frame(Opcode::Text, m.as_bytes())).to_vec();
        let pieces: Vec<u32> =
            frames.iter().map(|f| outbox.piece(Piece::delivery(f.clone(), None, Cursor::default()))).collect();
        let mut chains = [Chain::default(); 4];
        for (index, linked) in [(0, &pieces[..2]), (1, &pieces[..2]), (2, &pieces[1..]), (3, &pieces[..2])] {
            for piece in linked {
                outbox.link(index, &mut chains[index as usize], *piece);
            }
        }
        let plain = Shape { dialect: Dialect::Plain, list: false, deflate: false };
        let list = Shape { list: true, ..plain };
        let mut gathering = Gathering::default();
        let mut gather = |chain: usize, shape| {
            let gathered = gathering.gather(&outbox, chains[chain], shape);
            let bytes = gathering.bytes(&outbox, &gathered).to_vec();
            (gathered, bytes)
        };
        let (first, bytes) = gather(0, plain);
        assert_eq!(bytes, [&frames[0][..], &frames[1]].concat());
        assert_eq!(gather(1, plain).0, first);
        let (other, bytes) = gather(2, plain);
        assert_ne!(other, first);
        assert_eq!(bytes, [&frames[1][..], &frames[2]].concat());
        let (listed, bytes) = gather(3, list);
        assert_eq!(listed.messages.len(), 1);
        assert_eq!(bytes, &frame::frame(Opcode::Text, b"[1,2]")[..]);
    }
}
