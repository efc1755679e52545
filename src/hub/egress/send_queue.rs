//! Chunks and send queues. Chunks are shared; the send queues of all sessions are linked lists in one array, so that a
//! session needs no allocation. Most send queues exist for one tick; those that wait for a flush interval exist until
//! it ends.

use bytes::Bytes;

use crate::hub::chunk::{Chunk, Cut};
use crate::hub::index::{ChunkId, LinkId, SessionIndex};

/// A session's chunks, in order, and how long they may wait.
#[derive(Debug, Clone, Copy)]
pub(in crate::hub) struct SendQueue {
    head: Option<LinkId>,
    tail: Option<LinkId>,
    /// The shortest wait of its chunks, in ms.
    wait_ms: u16,
    /// Number of deliveries that newer state may replace.
    replaceable: u16,
    /// Bytes in it.
    bytes: u32,
    /// The flush interval that the session requested: deliveries wait at least this long after a write, in ms.
    pub(in crate::hub) floor_ms: u16,
    /// It was checked, and waits for its time.
    pub(in crate::hub) parked: bool,
}

impl Default for SendQueue {
    fn default() -> Self {
        Self { head: None, tail: None, wait_ms: u16::MAX, replaceable: 0, bytes: 0, floor_ms: 0, parked: false }
    }
}

impl SendQueue {
    pub(in crate::hub) fn is_empty(self) -> bool {
        self.head.is_none()
    }

    /// How long after the last write it may wait. 0: not at all. 1: only if the shard is busy.
    pub(in crate::hub) fn wait_ms(self) -> u16 {
        if self.is_empty() { 0 } else { self.wait_ms }
    }

    /// Number of deliveries that newer state may replace; the count stops at 65,535.
    pub(in crate::hub) fn replaceable(self) -> u16 {
        self.replaceable
    }

    /// Bytes in it; the count stops at 4 GiB.
    pub(in crate::hub) fn bytes(self) -> u32 {
        self.bytes
    }

    /// Takes the send queue out of its session.
    pub(in crate::hub) fn take(&mut self) -> Self {
        std::mem::replace(self, Self { floor_ms: self.floor_ms, ..Self::default() })
    }
}

/// Bytes of memory of a chunk. A shared frame counts for each chunk: few are shared for long.
fn weight(chunk: &Chunk) -> usize {
    size_of::<Shelved>() + chunk.bytes.len() + chunk.cuts.capacity() * size_of::<Cut>()
}

#[derive(Clone, Copy)]
struct Link {
    chunk: ChunkId,
    next: Option<LinkId>,
}

struct Shelved {
    chunk: Chunk,
    links: u32,
    /// It is in the list of free entries.
    free: bool,
}

/// All chunks and send queues.
#[derive(Default)]
pub(in crate::hub) struct Outbox {
    chunks: Vec<Shelved>,
    free_chunks: Vec<ChunkId>,
    /// Chunks of this tick. Those without a link are dropped at its end.
    made: Vec<ChunkId>,
    links: Vec<Link>,
    /// The first free link.
    free_links: Option<LinkId>,
    live_links: usize,
    /// Sessions to write to, in the order in which they got something.
    pub(in crate::hub) dirty: Vec<SessionIndex>,
    /// Bytes of memory of all chunks.
    bytes: usize,
}

impl Outbox {
    /// Adds a chunk. It must be linked before the tick ends.
    pub(in crate::hub) fn chunk(&mut self, chunk: Chunk) -> ChunkId {
        self.bytes += weight(&chunk);
        let shelved = Shelved { chunk, links: 0, free: false };
        let at = match self.free_chunks.pop() {
            Some(at) => {
                if let Some(place) = self.chunks.get_mut(at.at()) {
                    *place = shelved;
                }
                at
            }
            None => {
                self.chunks.push(shelved);
                ChunkId::new(self.chunks.len() - 1)
            }
        };
        self.made.push(at);
        at
    }

    /// Appends a chunk to a session's send queue.
    pub(in crate::hub) fn link(&mut self, session: SessionIndex, send_queue: &mut SendQueue, chunk: ChunkId) {
        let Some(shelved) = self.chunks.get_mut(chunk.at()) else { return };
        shelved.links += 1;
        let wait_ms = match shelved.chunk.wait_ms {
            // Replies, and chunks that catch a subscription up, are not delayed.
            0 => 0,
            wait_ms => wait_ms.max(send_queue.floor_ms),
        };
        let link = Link { chunk, next: None };
        let free = self.free_links.and_then(|at| Some((at, self.links.get_mut(at.at())?)));
        let at = match free {
            Some((at, place)) => {
                self.free_links = std::mem::replace(place, link).next;
                at
            }
            None => {
                self.links.push(link);
                LinkId::new(self.links.len() - 1)
            }
        };
        self.live_links += 1;
        if send_queue.is_empty() {
            send_queue.head = Some(at);
            self.dirty.push(session);
        } else {
            if let Some(tail) = send_queue.tail.and_then(|tail| self.links.get_mut(tail.at())) {
                tail.next = Some(at);
            }
            if std::mem::take(&mut send_queue.parked) {
                self.dirty.push(session);
            }
        }
        send_queue.tail = Some(at);
        send_queue.wait_ms = send_queue.wait_ms.min(wait_ms);
        send_queue.bytes =
            send_queue.bytes.saturating_add(u32::try_from(shelved.chunk.bytes.len()).unwrap_or(u32::MAX));
        if shelved.chunk.topic.is_some() {
            let deliveries = u16::try_from(shelved.chunk.deliveries).unwrap_or(u16::MAX);
            send_queue.replaceable = send_queue.replaceable.saturating_add(deliveries);
        }
    }

    /// Bytes of memory of everything that waits for a write.
    pub(in crate::hub) fn bytes(&self) -> usize {
        self.bytes + self.links.len() * size_of::<Link>()
    }

    /// Bytes of the waiting frames.
    pub(in crate::hub) fn frame_bytes(&self) -> usize {
        self.bytes
    }

    /// Number of links in all send queues.
    #[cfg(test)]
    pub(in crate::hub) fn links(&self) -> usize {
        self.live_links
    }

    /// A chunk by its id.
    pub(in crate::hub) fn get(&self, number: ChunkId) -> Option<&Chunk> {
        self.chunks.get(number.at()).map(|shelved| &shelved.chunk)
    }

    /// Whether a send queue still contains a chunk.
    pub(in crate::hub) fn is_linked(&self, number: ChunkId) -> bool {
        self.chunks.get(number.at()).is_some_and(|shelved| shelved.links > 0)
    }

    /// The ids of a send queue's chunks, in order.
    pub(in crate::hub) fn numbers(&self, send_queue: SendQueue) -> impl Iterator<Item = ChunkId> {
        let mut at = send_queue.head;
        std::iter::from_fn(move || {
            let link = self.links.get(at?.at())?;
            at = link.next;
            Some(link.chunk)
        })
    }

    /// The chunks of a send queue, in order.
    pub(in crate::hub) fn chunks(&self, send_queue: SendQueue) -> impl Iterator<Item = &Chunk> {
        let mut at = send_queue.head;
        std::iter::from_fn(move || {
            let link = self.links.get(at?.at())?;
            at = link.next;
            self.chunks.get(link.chunk.at()).map(|shelved| &shelved.chunk)
        })
    }

    /// Cuts a send queue after the chunk with which it reaches `bytes`. Returns the rest, which may not wait.
    pub(in crate::hub) fn split(&mut self, send_queue: &mut SendQueue, bytes: u32) -> SendQueue {
        let mut rest = SendQueue { head: None, wait_ms: 0, ..*send_queue };
        let (mut at, mut got) = (send_queue.head, 0u32);
        while let Some(link) = at.and_then(|at| self.links.get_mut(at.at())) {
            let chunk = self.chunks.get(link.chunk.at()).map_or(0, |shelved| shelved.chunk.bytes.len());
            got = got.saturating_add(u32::try_from(chunk).unwrap_or(u32::MAX));
            if got >= bytes {
                rest.head = link.next.take();
                send_queue.tail = at;
                break;
            }
            at = link.next;
        }
        rest.bytes = send_queue.bytes.saturating_sub(got);
        send_queue.bytes = got;
        if rest.head.is_none() { SendQueue { floor_ms: send_queue.floor_ms, ..SendQueue::default() } } else { rest }
    }

    /// Frees a send queue that was taken out of its session.
    pub(in crate::hub) fn release(&mut self, send_queue: SendQueue) {
        let mut at = send_queue.head;
        while let Some(link) = at.and_then(|at| self.links.get(at.at())).copied() {
            self.live_links -= 1;
            if let Some(shelved) = self.chunks.get_mut(link.chunk.at()) {
                shelved.links -= 1;
            }
            self.drop_unlinked(link.chunk);
            at = link.next;
        }
        if let Some(tail) = send_queue.tail.and_then(|tail| self.links.get_mut(tail.at())) {
            tail.next = self.free_links;
            self.free_links = send_queue.head;
        }
    }

    fn drop_unlinked(&mut self, at: ChunkId) {
        if let Some(shelved) = self.chunks.get_mut(at.at())
            && shelved.links == 0
            && !shelved.free
        {
            shelved.free = true;
            self.bytes -= weight(&shelved.chunk);
            shelved.chunk = Chunk::control(Bytes::new());
            self.free_chunks.push(at);
        }
    }

    /// Ends a tick. `dirty` must be empty.
    pub(in crate::hub) fn end_tick(&mut self) {
        if self.live_links == 0 {
            self.chunks.clear();
            self.bytes = 0;
            self.free_chunks.clear();
            self.made.clear();
            self.links.clear();
            self.free_links = None;
            // Free the memory that a burst needed.
            self.chunks.shrink_to(4 * 1024);
            self.links.shrink_to(64 * 1024);
            self.dirty.shrink_to(64 * 1024);
            return;
        }
        while let Some(chunk) = self.made.pop() {
            self.drop_unlinked(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::cursor::Cursor;
    use proptest::prelude::*;

    proptest! {
        /// However chunks are linked, written and parked over many ticks, each session reads its own chunks in order,
        /// and no memory is left once all were written.
        #[test]
        fn send_queues_read_what_was_linked(
            ops in prop::collection::vec((0u8..5, 0usize..4), 0..300),
        ) {
            let mut outbox = Outbox::default();
            let mut send_queues = [SendQueue::default(); 4];
            let mut model: [Vec<u8>; 4] = Default::default();
            let mut next = 0u8;
            for (op, session) in ops {
                match op {
                    0 => {
                        // One chunk is shared by several sessions.
                        next = next.wrapping_add(1);
                        let chunk = outbox.chunk(Chunk::delivery(Bytes::copy_from_slice(&[next]), None, Cursor::default()));
                        for index in session..4 {
                            outbox.link(SessionIndex::new(index), &mut send_queues[index], chunk);
                            model[index].push(next);
                        }
                    }
                    1 => { outbox.chunk(Chunk::control(Bytes::from_static(b"reply"))); }
                    2 => {
                        // Written in two parts.
                        let mut send_queue = send_queues[session].take();
                        let half = send_queue.bytes() / 2;
                        let rest = outbox.split(&mut send_queue, half);
                        prop_assert_eq!(send_queue.bytes() + rest.bytes(), u32::try_from(model[session].len()).unwrap());
                        prop_assert!(send_queue.bytes() >= half);
                        let mut read: Vec<u8> = Vec::new();
                        for part in [send_queue, rest] {
                            read.extend(outbox.chunks(part).flat_map(|p| p.bytes.to_vec()));
                        }
                        prop_assert_eq!(&read, &model[session]);
                        outbox.release(send_queue);
                        outbox.release(rest);
                        model[session].clear();
                    }
                    3 => {
                        let send_queue = send_queues[session].take();
                        let read: Vec<u8> = outbox.chunks(send_queue).flat_map(|p| p.bytes.to_vec()).collect();
                        prop_assert_eq!(&read, &model[session]);
                        prop_assert_eq!(usize::from(send_queue.replaceable()), 0);
                        outbox.release(send_queue);
                        model[session].clear();
                    }
                    _ => {
                        for send_queue in send_queues.iter_mut().filter(|c| !c.is_empty()) { send_queue.parked = true; }
                        outbox.dirty.clear();
                        outbox.end_tick();
                    }
                }
                let live: usize = model.iter().map(Vec::len).sum();
                prop_assert_eq!(outbox.live_links, live);
            }
            for send_queue in &mut send_queues { let send_queue = send_queue.take(); outbox.release(send_queue); }
            outbox.dirty.clear();
            outbox.end_tick();
            prop_assert!(outbox.chunks.is_empty() && outbox.links.is_empty());
        }
    }
}
