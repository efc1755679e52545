//! How much of clients' input is read in a tick: a share of each session that leaves the others their turn, and nothing
//! of a session that does not read its answers. The rest waits in the kernel, apart from bytes that were already read.

use crate::limits::{
    INFLATED_BYTES_BURST, INFLATED_BYTES_PER_SECOND, TICK_BYTES, TICK_TOPICS, TURN_BYTES, TURN_TOPICS,
};
use crate::rate::Rate;

/// Limit on the bytes that a session may make the server inflate.
pub(super) const INFLATED: Rate = Rate::new(INFLATED_BYTES_PER_SECOND as u64, INFLATED_BYTES_BURST);

/// Whether a session is read, or what it waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::hub) enum Reading {
    /// It is read when its socket is readable.
    #[default]
    Free,
    /// Its turn in the next tick; it is in the shard's list of these.
    Turn,
    /// The answer to a command on which later ones depend.
    Answer,
    /// Room: its client must first read what waits for it.
    Room,
    /// Its inflation rate must have room.
    Quota,
}

/// Amounts read of one session, or of all.
#[derive(Debug, Default)]
struct Heard {
    topics: usize,
    bytes: usize,
}

/// Amounts read in this tick.
#[derive(Debug, Default)]
pub(in crate::hub) struct Turns {
    session: Heard,
    tick: Heard,
}

impl Turns {
    /// A tick begins.
    pub(in crate::hub) fn begin_tick(&mut self) {
        self.tick = Heard::default();
    }

    /// The turn of the next session begins.
    pub(in crate::hub) fn begin(&mut self) {
        self.session = Heard::default();
    }

    /// A command named this many topics.
    pub(in crate::hub) fn named(&mut self, topics: usize) {
        self.session.topics += topics;
        self.tick.topics += topics;
    }

    /// A message had this many bytes.
    pub(in crate::hub) fn heard(&mut self, bytes: usize) {
        self.session.bytes += bytes;
        self.tick.bytes += bytes;
    }

    /// Bytes read of the current session.
    pub(in crate::hub) fn bytes(&self) -> usize {
        self.session.bytes
    }

    pub(in crate::hub) fn session_is_over(&self) -> bool {
        self.session.topics >= TURN_TOPICS || self.session.bytes >= TURN_BYTES
    }

    pub(in crate::hub) fn tick_is_over(&self) -> bool {
        self.tick.topics >= TICK_TOPICS || self.tick.bytes >= TICK_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_leaves_the_others_their_turn_and_a_tick_ends() {
        let mut turns = Turns::default();
        turns.begin_tick();
        turns.begin();
        turns.heard(TURN_BYTES - 1);
        assert!(!turns.session_is_over());
        turns.heard(1);
        assert!(turns.session_is_over() && !turns.tick_is_over());
        turns.begin();
        assert!(!turns.session_is_over(), "another session has its own turn");
        turns.named(TURN_TOPICS);
        assert!(turns.session_is_over());
        turns.begin();
        turns.named(TICK_TOPICS - TURN_TOPICS);
        assert!(turns.tick_is_over());
        turns.begin_tick();
        assert!(!turns.tick_is_over());
    }
}
