//! Bytes owed to a session whose socket is full.

use std::collections::VecDeque;

/// Bytes that must go out as they are: the rest of a frame that was begun, frames of `stream` topics, replies.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    /// How many of `bytes` have gone.
    head: usize,
    /// Bytes left of each frame, in order.
    frames: VecDeque<usize>,
    /// Whether a part of the first frame has gone.
    begun: bool,
    /// When a byte last went, by the shard's clock.
    pub(super) moved_ms: u64,
}

impl Backlog {
    pub(super) fn new(now_ms: u64) -> Self {
        Self { moved_ms: now_ms, ..Self::default() }
    }

    /// The rest of a frame whose beginning has gone. Only into an empty backlog.
    pub(super) fn push_rest(&mut self, rest: &[u8]) {
        self.bytes.extend_from_slice(rest);
        self.frames.push_back(rest.len());
        self.begun = true;
    }

    /// A whole frame, or several.
    pub(super) fn push(&mut self, frames: &[u8]) {
        if self.head > 0 && self.head >= self.bytes.len() / 2 {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
        let mut rest = frames;
        while !rest.is_empty() {
            let len = frame_bytes(rest).min(rest.len());
            self.frames.push_back(len);
            rest = rest.get(len..).unwrap_or_default();
        }
        self.bytes.extend_from_slice(frames);
    }

    /// Bytes waiting.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Bytes waiting behind the first frame. That one is bounded by what a frame may be, and must get through, or who
    /// subscribed to something large could never have it.
    pub(super) fn behind_first(&self) -> usize {
        self.len() - self.frames.front().copied().unwrap_or(0)
    }

    /// What is to be written next.
    pub(super) fn waiting(&self) -> &[u8] {
        self.bytes.get(self.head..).unwrap_or_default()
    }

    /// `n` bytes have gone. Returns how many frames that completed.
    pub(super) fn sent(&mut self, n: usize, now_ms: u64) -> u64 {
        self.head = (self.head + n).min(self.bytes.len());
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
        completed
    }

    /// Drops all but what must follow for the stream of frames to stay whole.
    pub(super) fn cut_short(&mut self) {
        let keep = if self.begun { self.frames.front().copied().unwrap_or(0) } else { 0 };
        // Into memory of its own: closing is to give the rest back at once.
        self.bytes = self.waiting().get(..keep).unwrap_or_default().to_vec();
        self.head = 0;
        self.frames.truncate(usize::from(self.begun));
        self.frames.shrink_to_fit();
    }
}

/// Bytes of the server frame at the front of `bytes`.
pub(super) fn frame_bytes(bytes: &[u8]) -> usize {
    match *bytes {
        [_, n @ 0..126, ..] => 2 + usize::from(n),
        [_, 126, a, b, ..] => 4 + usize::from(u16::from_be_bytes([a, b])),
        [_, 127, a, b, c, d, e, f, g, h, ..] => {
            10 + usize::try_from(u64::from_be_bytes([a, b, c, d, e, f, g, h])).unwrap_or(usize::MAX / 2)
        }
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{Opcode, frame};
    use proptest::prelude::*;

    proptest! {
        /// However the writes fall, the socket sees whole frames in order; cut short, it sees a whole number of
        /// them and then what is pushed last.
        #[test]
        fn frames_stay_whole(
            sizes in prop::collection::vec(0usize..400, 1..12),
            writes in prop::collection::vec(1usize..300, 0..12),
            first_cut in 0usize..400,
        ) {
            let frames: Vec<_> = sizes.iter().map(|n| frame(Opcode::Text, &vec![b'x'; *n])).collect();
            let mut socket: Vec<u8> = Vec::new();
            let mut backlog = Backlog::new(0);
            let cut = first_cut % frames[0].len();
            socket.extend(&frames[0][..cut]);
            if cut > 0 { backlog.push_rest(&frames[0][cut..]) } else { backlog.push(&frames[0]) }
            for f in &frames[1..] { backlog.push(f); }
            for n in writes {
                let n = n.min(backlog.len());
                socket.extend(&backlog.waiting()[..n]);
                backlog.sent(n, 0);
            }
            let whole: Vec<u8> = frames.concat();
            prop_assert_eq!(&[socket.as_slice(), backlog.waiting()].concat(), &whole);
            backlog.cut_short();
            let last = frame(Opcode::Close, b"..");
            backlog.push(&last);
            let mut all = [socket.as_slice(), backlog.waiting()].concat();
            prop_assert!(all.ends_with(&last));
            all.truncate(all.len() - last.len());
            let mut at = 0;
            while at < all.len() { at += frame_bytes(&all[at..]); }
            prop_assert_eq!(at, all.len(), "a frame was left in pieces");
        }
    }
}
