//! What the sessions of a shard share for reading: buffers, the inflater, and the turns of a tick.

use std::collections::HashMap;

use super::turns::{INFLATED, Turns};
use crate::hub::index::{SessionId, SessionIndex};
use crate::limits::READ_BUFFER_BYTES;
use crate::rate::Rate;
use crate::wire::inflate::Inflater;

/// The reading half of a shard.
pub(in crate::hub) struct Input {
    pub(in crate::hub) turns: Turns,
    /// Sessions that are read in the next tick even if the poll does not report their sockets.
    pub(in crate::hub) readable: Vec<SessionIndex>,
    pub(in crate::hub) buffer: Vec<u8>,
    /// Shared by all sessions; created for the first one that negotiated permessage-deflate.
    pub(in crate::hub) inflater: Option<Box<Inflater>>,
    /// Bytes of the last decrypted records.
    pub(in crate::hub) decrypted: Vec<u8>,
    /// The used part of each session's inflation rate ([`Rate`]), in ns.
    inflated: HashMap<SessionId, u64>,
    /// Whether any socket was readable in the last tick.
    pub(in crate::hub) was_busy: bool,
}

impl Input {
    pub(in crate::hub) fn new() -> Self {
        Self {
            turns: Turns::default(),
            readable: Vec::new(),
            buffer: vec![0; READ_BUFFER_BYTES],
            inflater: None,
            decrypted: Vec::new(),
            inflated: HashMap::new(),
            was_busy: false,
        }
    }

    /// Charges a session for the bytes that its messages gained by inflation.
    pub(in crate::hub) fn charge_inflated(&mut self, session: SessionId, bytes: usize, now_ns: u64) {
        if bytes > 0 {
            INFLATED.charge(self.inflated.entry(session).or_default(), now_ns, bytes as u64);
        }
    }

    /// Time until a session may inflate more, in ns; 0 if it may now.
    pub(in crate::hub) fn inflate_wait_ns(&self, session: SessionId, now_ns: u64) -> u64 {
        self.inflated.get(&session).map_or(0, |used_ns| INFLATED.wait_ns(*used_ns, now_ns))
    }

    /// Whether a session must wait before it may inflate more.
    pub(in crate::hub) fn must_wait_for_inflate(&self, session: SessionId, now_ns: u64) -> bool {
        self.inflate_wait_ns(session, now_ns) > 0
    }

    /// Removes charges that are paid back.
    pub(in crate::hub) fn sweep(&mut self, now_ns: u64) {
        self.inflated.retain(|_, used_ns| !Rate::is_unused(*used_ns, now_ns));
    }

    /// Frees memory that a large message needed.
    pub(in crate::hub) fn end_tick(&mut self) {
        if self.buffer.len() < READ_BUFFER_BYTES {
            self.buffer.resize(READ_BUFFER_BYTES, 0);
        }
        self.decrypted.shrink_to(READ_BUFFER_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{INFLATED_BYTES_BURST, INFLATED_BYTES_PER_SECOND};

    #[test]
    fn a_session_that_had_much_inflated_waits_until_it_is_paid_back() {
        let mut input = Input::new();
        let session = |at| SessionId { index: SessionIndex::new(at), generation: 1 };
        let (one, other, now_ns) = (session(1), session(2), 1_000_000_000_000);
        let burst = usize::try_from(INFLATED_BYTES_BURST).unwrap();
        input.charge_inflated(one, burst + INFLATED_BYTES_PER_SECOND as usize, now_ns);
        assert!(input.must_wait_for_inflate(one, now_ns) && !input.must_wait_for_inflate(other, now_ns));
        let wait_ns = input.inflate_wait_ns(one, now_ns);
        assert!((1..=2_000_000_000).contains(&wait_ns), "{wait_ns}");
        assert!(!input.must_wait_for_inflate(one, now_ns + wait_ns));
        input.sweep(now_ns + 3_600_000_000_000);
        assert!(input.inflated.is_empty());
    }
}
