//! For `benches/` only: the path from chunks to the bytes of each session's write, without sockets.

use bytes::Bytes;

use super::chunk::Chunk;
use super::cursor::Cursor;
use super::egress::{Coalescer, Outbox, SendQueue, Shape};
use super::index::SessionIndex;
use crate::protocol::Dialect;

/// Sessions that each get every chunk.
pub struct FanOut {
    outbox: Outbox,
    coalescer: Coalescer,
    send_queues: Vec<SendQueue>,
}

impl FanOut {
    /// Creates this many sessions.
    pub fn new(sessions: usize) -> Self {
        let send_queues = vec![SendQueue::default(); sessions];
        Self { outbox: Outbox::default(), coalescer: Coalescer::default(), send_queues }
    }

    /// Runs one tick: enqueues each of `frames` for every session, then gathers the bytes of each write. Returns their
    /// sum.
    pub fn tick(&mut self, frames: &[Bytes]) -> usize {
        for frame in frames {
            let chunk = self.outbox.chunk(Chunk::delivery(frame.clone(), None, Cursor::default()));
            for (send_queue, index) in self.send_queues.iter_mut().zip(0..) {
                self.outbox.link(SessionIndex::new(index), send_queue, chunk);
            }
        }
        let (shape, mut bytes) = (Shape::frames(Dialect::Plain), 0);
        for send_queue in &mut self.send_queues {
            let send_queue = send_queue.take();
            let coalesced = self.coalescer.coalesce(&self.outbox, send_queue, shape);
            bytes += self.coalescer.bytes(&self.outbox, &coalesced).len();
            self.outbox.release(send_queue);
        }
        self.coalescer.clear();
        self.outbox.dirty.clear();
        self.outbox.end_tick();
        bytes
    }
}
