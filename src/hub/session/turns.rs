//! How much of what clients send is read in a tick: of each session a share that leaves the others their turn, and nothing of
//! one that does not take its answers. The rest waits in the kernel, except for what one read has brought.

use crate::limits::{
    INFLATED_BYTES_BURST, INFLATED_BYTES_PER_SECOND, TICK_BYTES, TICK_TOPICS, TURN_BYTES, TURN_TOPICS,
};
use crate::rate::Rate;

/// The rate at which a session may make the server inflate.
pub(super) const INFLATED: Rate = Rate::new(INFLATED_BYTES_PER_SECOND as u64, INFLATED_BYTES_BURST);

/// Whether a session is read, or what it waits for first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::hub) enum Reading {
    /// It is read when there is something.
    #[default]
    Free,
    /// Its turn in the next tick: it is in the shard's list of these.
    Turn,
    /// The answer to a command that those behind it depend on.
    Answer,
    /// That its client takes what waits for it.
    Room,
    /// That it may make the server inflate more.
    Quota,
}

/// What was read of one session, or of all.
#[derive(Debug, Default)]
struct Heard {
    topics: usize,
    bytes: usize,
}

/// What was read in this tick.
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

    /// Another session has its turn.
    pub(in crate::hub) fn begin(&mut self) {
        self.session = Heard::default();
    }

    /// A command named so many topics.
    pub(in crate::hub) fn named(&mut self, topics: usize) {
        self.session.topics += topics;
        self.tick.topics += topics;
    }

    /// A message had so many bytes.
    pub(in crate::hub) fn heard(&mut self, bytes: usize) {
        self.session.bytes += bytes;
        self.tick.bytes += bytes;
    }

    /// Bytes read of the session whose turn it is.
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
        assert!(!turns.session_is_over(), "another session has its own");
        turns.named(TURN_TOPICS);
        assert!(turns.session_is_over());
        turns.begin();
        turns.named(TICK_TOPICS - TURN_TOPICS);
        assert!(turns.tick_is_over());
        turns.begin_tick();
        assert!(!turns.tick_is_over());
    }
}
