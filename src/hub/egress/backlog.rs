//! Bytes that wait for a session whose socket is full.

use std::collections::VecDeque;

use crate::accounts::{self, Held, append};
use crate::wire::frame::frame_bytes;

/// Bytes of one part of a backlog: about what a socket takes at once. A part is freed when it is sent.
const PART_BYTES: usize = 64 * 1024;

/// Bytes that must be sent unchanged: the rest of a partly sent frame, frames of `stream` topics, replies.
#[derive(Debug)]
pub(in crate::hub) struct Backlog {
    /// In parts, so that the backlog grows and shrinks without moving bytes.
    parts: VecDeque<Vec<u8>>,
    /// Bytes of the first part that were sent.
    head: usize,
    /// Bytes in the backlog.
    len: usize,
    /// Unsent bytes of each frame, in order.
    frames: VecDeque<usize>,
    /// Whether a part of the first frame was sent.
    begun: bool,
    /// When a byte was last sent, in the shard's time.
    pub(in crate::hub) moved_ms: u64,
    /// Bytes of memory of the parts.
    room: usize,
    account: Held,
}

impl Backlog {
    pub(in crate::hub) fn new(now_ms: u64) -> Self {
        Self {
            parts: VecDeque::new(),
            head: 0,
            len: 0,
            frames: VecDeque::new(),
            begun: false,
            moved_ms: now_ms,
            room: 0,
            account: Held::of(&accounts::BACKLOGS, size_of::<Self>()),
        }
    }

    fn recount(&mut self) {
        self.account.set(size_of::<Self>() + self.room + self.frames.capacity() * size_of::<usize>());
    }

    fn put(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            let part = match self.parts.back_mut().filter(|part| part.len() < PART_BYTES) {
                Some(part) => part,
                None => {
                    self.parts.push_back(Vec::new());
                    continue;
                }
            };
            let (now, later) = bytes.split_at(bytes.len().min(PART_BYTES - part.len()));
            let before = part.capacity();
            append(part, now);
            self.room += part.capacity() - before;
            bytes = later;
        }
        self.recount();
    }

    /// Adds the rest of a frame whose beginning was sent. Only for an empty backlog.
    pub(in crate::hub) fn push_rest(&mut self, rest: &[u8]) {
        self.frames.push_back(rest.len());
        self.begun = true;
        self.put(rest);
    }

    /// Adds one or more whole frames.
    pub(in crate::hub) fn push(&mut self, frames: &[u8]) {
        let mut rest = frames;
        while !rest.is_empty() {
            let len = frame_bytes(rest).min(rest.len());
            self.frames.push_back(len);
            rest = rest.get(len..).unwrap_or_default();
        }
        self.put(frames);
    }

    /// Bytes in the backlog.
    pub(in crate::hub) fn len(&self) -> usize {
        self.len
    }

    /// Bytes behind the first frame. The first frame does not count: otherwise a session with a small limit could never
    /// receive a large frame.
    pub(in crate::hub) fn behind_first(&self) -> usize {
        self.len() - self.frames.front().copied().unwrap_or(0)
    }

    /// The bytes to write next; empty only if the backlog is.
    pub(in crate::hub) fn waiting(&self) -> &[u8] {
        self.parts.front().and_then(|part| part.get(self.head..)).unwrap_or_default()
    }

    /// Notes that `n` bytes were sent. Returns the number of frames that this completed.
    pub(in crate::hub) fn sent(&mut self, n: usize, now_ms: u64) -> u64 {
        let n = n.min(self.len);
        self.len -= n;
        self.head += n;
        while let Some(part) = self.parts.front().filter(|part| part.len() <= self.head) {
            self.head -= part.len();
            self.room -= part.capacity();
            self.parts.pop_front();
        }
        if n > 0 {
            self.moved_ms = now_ms;
        }
        let mut left = n;
        let mut completed = 0;
        while let Some(front) = self.frames.front_mut() {
            if left < *front {
                *front -= left;
                self.begun |= left > 0;
                break;
            }
            left -= *front;
            self.frames.pop_front();
            self.begun = false;
            completed += 1;
        }
        self.recount();
        completed
    }

    /// Drops everything except the rest of a partly sent frame, which must follow for the stream to stay valid.
    pub(in crate::hub) fn cut_short(&mut self) {
        let keep = if self.begun { self.frames.front().copied().unwrap_or(0) } else { 0 };
        let mut kept = self.waiting().to_vec();
        for part in self.parts.iter().skip(1) {
            kept.extend_from_slice(part);
        }
        kept.truncate(keep);
        // Into a new allocation, so that closing frees the rest immediately.
        kept.shrink_to_fit();
        (self.head, self.len, self.room) = (0, kept.len(), kept.capacity());
        self.parts.clear();
        self.parts.push_back(kept);
        self.frames.truncate(usize::from(self.begun));
        self.frames.shrink_to_fit();
        self.recount();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{Opcode, frame};
    use proptest::prelude::*;

    proptest! {
        /// With writes of any size, the socket sees whole frames in order. After `cut_short` it sees a whole number of
        /// them, and then what was pushed last.
        #[test]
        fn frames_stay_whole(
            sizes in prop::collection::vec(prop_oneof![4 => 0usize..400, 1 => 30_000usize..200_000], 1..12),
            writes in prop::collection::vec(prop_oneof![1usize..300, 1usize..100_000], 0..12),
            first_cut in 0usize..400,
        ) {
            let frames: Vec<_> = sizes.iter().map(|n| frame(Opcode::Text, &vec![b'x'; *n])).collect();
            let mut socket: Vec<u8> = Vec::new();
            let mut backlog = Backlog::new(0);
            let cut = first_cut % frames[0].len();
            socket.extend(&frames[0][..cut]);
            if cut > 0 { backlog.push_rest(&frames[0][cut..]) } else { backlog.push(&frames[0]) }
            for f in &frames[1..] { backlog.push(f); }
            let mut room = backlog.room;
            for n in writes {
                let n = n.min(backlog.waiting().len());
                socket.extend(&backlog.waiting()[..n]);
                backlog.sent(n, 0);
                prop_assert!(backlog.room <= room, "sent bytes are freed");
                room = backlog.room;
            }
            let whole: Vec<u8> = frames.concat();
            let rest = |backlog: &Backlog| {
                let parts: Vec<u8> = backlog.parts.iter().flatten().copied().collect();
                parts[backlog.head..].to_vec()
            };
            prop_assert_eq!(&[socket.clone(), rest(&backlog)].concat(), &whole);
            prop_assert_eq!(backlog.len(), rest(&backlog).len());
            backlog.cut_short();
            let last = frame(Opcode::Close, b"..");
            backlog.push(&last);
            let mut all = [socket.clone(), rest(&backlog)].concat();
            prop_assert_eq!(backlog.room, backlog.parts.iter().map(Vec::capacity).sum::<usize>());
            prop_assert!(all.ends_with(&last));
            all.truncate(all.len() - last.len());
            let mut at = 0;
            while at < all.len() { at += frame_bytes(&all[at..]); }
            prop_assert_eq!(at, all.len(), "a frame was cut");
        }
    }
}
