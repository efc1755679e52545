//! What is to be sent to whom. Pieces are shared; each session has a chain of them, kept in one array for all sessions,
//! so that a session needs no queue of its own. Most chains live for a tick; those that wait for a flush interval
//! live until it is over.

use bytes::Bytes;

use super::subscribers::{Cursor, NONE};
use crate::topic::Slot;

/// Bytes for one or more sessions: one frame or several, whole.
pub(super) struct Piece {
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
    /// How long after a session's last visit it may wait for others to go with it, ms: 0 is not at all, 1 as long as a busy
    /// shard makes it wait.
    pub(super) wait_ms: u16,
    /// When the first delta in it was seen, Unix ms, where its age is only known at the visit; else 0.
    pub(super) seen_ms: u64,
}

/// The end of one frame in a piece.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) end: usize,
    pub(super) cursor: Cursor,
    /// Bytes of that frame before it was compressed.
    pub(super) inflated: usize,
}

impl Piece {
    /// Bytes of memory. Those of a frame that others hold too count as well: most frames are not held elsewhere for long.
    fn weight(&self) -> usize {
        size_of::<Shelved>() + self.bytes.len() + self.cuts.capacity() * size_of::<Cut>()
    }

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

    /// One frame that delivers something to who stands at `start`; `topic` where newer state may take its place.
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

    /// Bytes of what a client gets of it, as it reads them.
    pub(super) fn inflated_bytes(&self) -> usize {
        self.inflated.max(self.bytes.len())
    }
}

/// A session's pieces, in order, and how long they may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain {
    head: u32,
    tail: u32,
    /// The shortest wait of its pieces.
    wait_ms: u16,
    /// Deliveries in it that newer state may replace.
    replaceable: u16,
    /// Bytes in it.
    bytes: u32,
    /// What the session asked for: deliveries wait at least so long after a visit.
    pub(super) floor_ms: u16,
    /// It was looked at, and waits.
    pub(super) parked: bool,
}

impl Default for Chain {
    fn default() -> Self {
        Self { head: NONE, tail: NONE, wait_ms: u16::MAX, replaceable: 0, bytes: 0, floor_ms: 0, parked: false }
    }
}

impl Chain {
    pub(super) fn is_empty(self) -> bool {
        self.head == NONE
    }

    /// How long after the last visit it may wait: 0 is not at all, 1 a little, if the shard is busy.
    pub(super) fn wait_ms(self) -> u16 {
        if self.is_empty() { 0 } else { self.wait_ms }
    }

    /// Deliveries in it that newer state may replace; past 65,535 no more are counted.
    pub(super) fn replaceable(self) -> u16 {
        self.replaceable
    }

    /// Bytes in it; past 4 GiB no more are counted.
    pub(super) fn bytes(self) -> u32 {
        self.bytes
    }

    /// Takes the pieces out.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self { floor_ms: self.floor_ms, ..Self::default() })
    }
}

#[derive(Clone, Copy)]
struct Link {
    piece: u32,
    next: u32,
}

struct Shelved {
    piece: Piece,
    links: u32,
    /// On the list of places that are free.
    free: bool,
}

/// All pieces and chains.
pub(super) struct Outbox {
    pieces: Vec<Shelved>,
    free_pieces: Vec<u32>,
    /// Made in this tick: who stays without a link is let go of at its end.
    made: Vec<u32>,
    links: Vec<Link>,
    /// First of the links that are free.
    free_links: u32,
    live_links: usize,
    /// Sessions to look at, in the order in which they got something.
    pub(super) dirty: Vec<u32>,
    /// Of memory of all pieces.
    bytes: usize,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            pieces: Vec::new(),
            free_pieces: Vec::new(),
            made: Vec::new(),
            links: Vec::new(),
            free_links: NONE,
            live_links: 0,
            dirty: Vec::new(),
            bytes: 0,
        }
    }
}

impl Outbox {
    /// Adds a piece; to be linked before the tick ends.
    pub(super) fn piece(&mut self, piece: Piece) -> u32 {
        self.bytes += piece.weight();
        let shelved = Shelved { piece, links: 0, free: false };
        let at = match self.free_pieces.pop() {
            Some(at) => {
                if let Some(place) = self.pieces.get_mut(at as usize) {
                    *place = shelved;
                }
                at
            }
            None => {
                self.pieces.push(shelved);
                u32::try_from(self.pieces.len() - 1).unwrap_or(NONE)
            }
        };
        self.made.push(at);
        at
    }

    /// Appends a piece to a session's chain.
    pub(super) fn link(&mut self, session: u32, chain: &mut Chain, piece: u32) {
        let Some(shelved) = self.pieces.get_mut(piece as usize) else { return };
        shelved.links += 1;
        let wait_ms = match shelved.piece.wait_ms {
            // Replies, and what brings somebody on, which is asked for piece by piece.
            0 => 0,
            wait_ms => wait_ms.max(chain.floor_ms),
        };
        let link = Link { piece, next: NONE };
        let at = match self.links.get_mut(self.free_links as usize) {
            Some(place) if self.free_links != NONE => {
                let at = std::mem::replace(&mut self.free_links, place.next);
                *place = link;
                at
            }
            _ => {
                self.links.push(link);
                u32::try_from(self.links.len() - 1).unwrap_or(NONE)
            }
        };
        self.live_links += 1;
        if chain.is_empty() {
            chain.head = at;
            self.dirty.push(session);
        } else {
            if let Some(tail) = self.links.get_mut(chain.tail as usize) {
                tail.next = at;
            }
            if std::mem::take(&mut chain.parked) {
                self.dirty.push(session);
            }
        }
        chain.tail = at;
        chain.wait_ms = chain.wait_ms.min(wait_ms);
        chain.bytes = chain.bytes.saturating_add(u32::try_from(shelved.piece.bytes.len()).unwrap_or(u32::MAX));
        if shelved.piece.topic.is_some() {
            let deliveries = u16::try_from(shelved.piece.deliveries).unwrap_or(u16::MAX);
            chain.replaceable = chain.replaceable.saturating_add(deliveries);
        }
    }

    /// Bytes of memory of all that waits for a write.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.links.len() * size_of::<Link>()
    }

    /// The same, of the frames alone.
    pub(super) fn frame_bytes(&self) -> usize {
        self.bytes
    }

    /// Links of all chains.
    #[cfg(test)]
    pub(super) fn links(&self) -> usize {
        self.live_links
    }

    /// A piece by its number.
    pub(super) fn get(&self, number: u32) -> Option<&Piece> {
        self.pieces.get(number as usize).map(|shelved| &shelved.piece)
    }

    /// Whether somebody waits for a piece.
    pub(super) fn is_linked(&self, number: u32) -> bool {
        self.pieces.get(number as usize).is_some_and(|shelved| shelved.links > 0)
    }

    /// The numbers of a chain's pieces, in order.
    pub(super) fn numbers(&self, chain: Chain) -> impl Iterator<Item = u32> {
        let mut at = chain.head;
        std::iter::from_fn(move || {
            let link = self.links.get(at as usize)?;
            at = link.next;
            Some(link.piece)
        })
    }

    /// The pieces of a chain, in order.
    pub(super) fn chain(&self, chain: Chain) -> impl Iterator<Item = &Piece> {
        let mut at = chain.head;
        std::iter::from_fn(move || {
            let link = self.links.get(at as usize)?;
            at = link.next;
            self.pieces.get(link.piece as usize).map(|shelved| &shelved.piece)
        })
    }

    /// Cuts a chain behind the piece with which it has `bytes` or more, and returns the rest, which may not wait.
    pub(super) fn split(&mut self, chain: &mut Chain, bytes: u32) -> Chain {
        let mut rest = Chain { head: NONE, wait_ms: 0, ..*chain };
        let (mut at, mut got) = (chain.head, 0u32);
        while let Some(link) = self.links.get_mut(at as usize) {
            let piece = self.pieces.get(link.piece as usize).map_or(0, |shelved| shelved.piece.bytes.len());
            got = got.saturating_add(u32::try_from(piece).unwrap_or(u32::MAX));
            if got >= bytes {
                rest.head = std::mem::replace(&mut link.next, NONE);
                chain.tail = at;
                break;
            }
            at = link.next;
        }
        rest.bytes = chain.bytes.saturating_sub(got);
        chain.bytes = got;
        if rest.head == NONE { Chain { floor_ms: chain.floor_ms, ..Chain::default() } } else { rest }
    }

    /// Lets go of a chain that was taken out of its session.
    pub(super) fn release(&mut self, chain: Chain) {
        let mut at = chain.head;
        while let Some(link) = self.links.get(at as usize).copied() {
            self.live_links -= 1;
            if let Some(shelved) = self.pieces.get_mut(link.piece as usize) {
                shelved.links -= 1;
            }
            self.drop_unlinked(link.piece);
            at = link.next;
        }
        if let Some(tail) = self.links.get_mut(chain.tail as usize) {
            tail.next = self.free_links;
            self.free_links = chain.head;
        }
    }

    fn drop_unlinked(&mut self, at: u32) {
        if let Some(shelved) = self.pieces.get_mut(at as usize)
            && shelved.links == 0
            && !shelved.free
        {
            shelved.free = true;
            self.bytes -= shelved.piece.weight();
            shelved.piece = Piece::control(Bytes::new());
            self.free_pieces.push(at);
        }
    }

    /// Ends a tick; `dirty` must have been emptied.
    pub(super) fn end_tick(&mut self) {
        if self.live_links == 0 {
            self.pieces.clear();
            self.bytes = 0;
            self.free_pieces.clear();
            self.made.clear();
            self.links.clear();
            self.free_links = NONE;
            // A storm must not leave its high-water mark behind for good.
            self.pieces.shrink_to(4 * 1024);
            self.links.shrink_to(64 * 1024);
            self.dirty.shrink_to(64 * 1024);
            return;
        }
        while let Some(piece) = self.made.pop() {
            self.drop_unlinked(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is linked, visited and parked in whatever order over many ticks, every session reads its own pieces in
        /// order, and nothing stays behind when all have been visited.
        #[test]
        fn chains_read_what_was_linked(
            ops in prop::collection::vec((0u8..5, 0usize..4), 0..300),
        ) {
            let mut outbox = Outbox::default();
            let mut chains = [Chain::default(); 4];
            let mut model: [Vec<u8>; 4] = Default::default();
            let mut next = 0u8;
            for (op, session) in ops {
                match op {
                    0 => {
                        // One piece for several sessions.
                        next = next.wrapping_add(1);
                        let piece = outbox.piece(Piece::delivery(Bytes::copy_from_slice(&[next]), None, Cursor::default()));
                        for index in session..4 {
                            outbox.link(u32::try_from(index).unwrap(), &mut chains[index], piece);
                            model[index].push(next);
                        }
                    }
                    1 => { outbox.piece(Piece::control(Bytes::from_static(b"nobody's"))); }
                    2 => {
                        // In two parts.
                        let mut chain = chains[session].take();
                        let half = chain.bytes() / 2;
                        let rest = outbox.split(&mut chain, half);
                        prop_assert_eq!(chain.bytes() + rest.bytes(), u32::try_from(model[session].len()).unwrap());
                        prop_assert!(chain.bytes() >= half);
                        let mut read: Vec<u8> = Vec::new();
                        for part in [chain, rest] {
                            read.extend(outbox.chain(part).flat_map(|p| p.bytes.to_vec()));
                        }
                        prop_assert_eq!(&read, &model[session]);
                        outbox.release(chain);
                        outbox.release(rest);
                        model[session].clear();
                    }
                    3 => {
                        let chain = chains[session].take();
                        let read: Vec<u8> = outbox.chain(chain).flat_map(|p| p.bytes.to_vec()).collect();
                        prop_assert_eq!(&read, &model[session]);
                        prop_assert_eq!(usize::from(chain.replaceable()), 0);
                        outbox.release(chain);
                        model[session].clear();
                    }
                    _ => {
                        for chain in chains.iter_mut().filter(|c| !c.is_empty()) { chain.parked = true; }
                        outbox.dirty.clear();
                        outbox.end_tick();
                    }
                }
                let live: usize = model.iter().map(Vec::len).sum();
                prop_assert_eq!(outbox.live_links, live);
            }
            for chain in &mut chains { let chain = chain.take(); outbox.release(chain); }
            outbox.dirty.clear();
            outbox.end_tick();
            prop_assert!(outbox.pieces.is_empty() && outbox.links.is_empty());
        }
    }
}
