//! For `benches/` alone: the way from pieces to gathered bytes, without sockets.

use bytes::Bytes;

use super::outbox::{Chain, Outbox, Piece};
use super::subscribers::Cursor;

/// Sessions that all get every piece.
pub struct FanOut {
    outbox: Outbox,
    chains: Vec<Chain>,
    scratch: Vec<u8>,
}

impl FanOut {
    /// So many sessions.
    pub fn new(sessions: usize) -> Self {
        Self { outbox: Outbox::default(), chains: vec![Chain::default(); sessions], scratch: Vec::new() }
    }

    /// One tick: links each of `frames` to every session, then gathers what each gets. Returns the bytes gathered.
    pub fn tick(&mut self, frames: &[Bytes]) -> usize {
        for frame in frames {
            let piece = self.outbox.piece(Piece::delivery(frame.clone(), None, Cursor::default()));
            for (chain, index) in self.chains.iter_mut().zip(0..) {
                self.outbox.link(index, chain, piece);
            }
        }
        let mut gathered = 0;
        for chain in &mut self.chains {
            let chain = chain.take();
            self.scratch.clear();
            for piece in self.outbox.chain(chain) {
                self.scratch.extend_from_slice(&piece.bytes);
            }
            gathered += self.scratch.len();
            self.outbox.release(chain);
        }
        self.outbox.dirty.clear();
        self.outbox.end_tick();
        gathered
    }
}
