//! What this tick sends to whom. Pieces are shared; each session has a chain of them, kept in one array for all
//! sessions that is emptied at the end of the tick, so that a session needs no queue of its own.

use bytes::Bytes;

use super::subscribers::{Cursor, NONE};
use crate::topic::Slot;

/// Bytes for one or more sessions: one frame or several, whole.
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    /// The topic, if its frames may be replaced by newer state.
    pub(super) topic: Option<Slot>,
    /// Where a receiver stands before it.
    pub(super) start: Cursor,
    /// Ends of its frames and where a receiver stands after each; empty for a single frame.
    pub(super) cuts: Vec<Cut>,
    /// Deliveries in it.
    pub(super) deliveries: u32,
}

/// The end of one frame in a piece.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) end: usize,
    pub(super) cursor: Cursor,
}

impl Piece {
    /// A frame that must go out as it is.
    pub(super) fn control(bytes: Bytes) -> Self {
        Self { bytes, topic: None, start: Cursor::default(), cuts: Vec::new(), deliveries: 0 }
    }
}

/// A session's chain in this tick.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain {
    head: u32,
    tail: u32,
}

impl Default for Chain {
    fn default() -> Self {
        Self { head: NONE, tail: NONE }
    }
}

impl Chain {
    pub(super) fn is_empty(self) -> bool {
        self.head == NONE
    }
}

#[derive(Clone, Copy)]
struct Link {
    piece: u32,
    next: u32,
}

/// Pieces and chains of the tick.
#[derive(Default)]
pub(super) struct Outbox {
    pieces: Vec<Piece>,
    links: Vec<Link>,
    /// Sessions with a chain, in the order in which they got one.
    pub(super) dirty: Vec<u32>,
}

impl Outbox {
    /// Adds a piece.
    pub(super) fn piece(&mut self, piece: Piece) -> u32 {
        self.pieces.push(piece);
        u32::try_from(self.pieces.len() - 1).unwrap_or(NONE)
    }

    /// Appends a piece to a session's chain.
    pub(super) fn link(&mut self, session: u32, chain: &mut Chain, piece: u32) {
        let at = u32::try_from(self.links.len()).unwrap_or(NONE);
        self.links.push(Link { piece, next: NONE });
        match self.links.get_mut(chain.tail as usize) {
            Some(tail) if chain.head != NONE => tail.next = at,
            _ => {
                chain.head = at;
                self.dirty.push(session);
            }
        }
        chain.tail = at;
    }

    /// The pieces of a chain, in order.
    pub(super) fn chain(&self, chain: Chain) -> impl Iterator<Item = &Piece> {
        let mut at = chain.head;
        std::iter::from_fn(move || {
            let link = self.links.get(at as usize)?;
            at = link.next;
            self.pieces.get(link.piece as usize)
        })
    }

    /// The only piece of a chain, if it has just one.
    pub(super) fn only(&self, chain: Chain) -> Option<&Piece> {
        if chain.head != chain.tail {
            return None;
        }
        let link = self.links.get(chain.head as usize)?;
        self.pieces.get(link.piece as usize)
    }

    /// Forgets pieces and chains; `dirty` must have been emptied.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.links.clear();
        // A storm must not leave its high-water mark behind for good.
        self.pieces.shrink_to(16 * 1024);
        self.links.shrink_to(256 * 1024);
    }
}
