//! How much of what clients send is heard in a tick: of one session as much as leaves the others their turn, of a session
//! that does not take its answers nothing. What is not heard waits in the kernel, but for what one read brought.

use mio::Events;

use super::session::Session;
use super::shard::{Shard, WAKER};
use crate::limits::{
    INFLATED_BYTES_BURST, INFLATED_BYTES_PER_SECOND, TICK_BYTES, TICK_TOPICS, TURN_BYTES, TURN_REPLY_BYTES, TURN_TOPICS,
};
use crate::rate::Rate;

/// What a session may make the server inflate.
const INFLATED: Rate = Rate::new(INFLATED_BYTES_PER_SECOND as u64, INFLATED_BYTES_BURST);

/// Whether a session is read, or what it waits for first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Reading {
    /// It is read when there is something.
    #[default]
    Free,
    /// Its turn in the next tick: it is in `Shard::readable`.
    Turn,
    /// The answer to a command that those behind it depend on.
    Answer,
    /// That its client takes what it is owed.
    Room,
    /// The time at which what it had inflated is paid back.
    Quota,
}

/// What was heard of one session, or of all.
#[derive(Debug, Default)]
struct Heard {
    topics: usize,
    bytes: usize,
}

/// What was heard in this tick.
#[derive(Debug, Default)]
pub(super) struct Turns {
    session: Heard,
    tick: Heard,
}

impl Turns {
    /// Another session has its turn.
    pub(super) fn begin(&mut self) {
        self.session = Heard::default();
    }

    /// A command named so many topics.
    pub(super) fn named(&mut self, topics: usize) {
        self.session.topics += topics;
        self.tick.topics += topics;
    }

    /// A message had so many bytes.
    pub(super) fn heard(&mut self, bytes: usize) {
        self.session.bytes += bytes;
        self.tick.bytes += bytes;
    }

    /// Bytes heard of the session whose turn it is.
    pub(super) fn bytes(&self) -> usize {
        self.session.bytes
    }

    fn session_is_over(&self) -> bool {
        self.session.topics >= TURN_TOPICS || self.session.bytes >= TURN_BYTES
    }

    fn tick_is_over(&self) -> bool {
        self.tick.topics >= TICK_TOPICS || self.tick.bytes >= TICK_BYTES
    }
}

impl Shard {
    /// Reads the sockets that have something, first those that had to wait in the tick before, until enough was heard for
    /// one tick.
    pub(super) fn hear(&mut self, events: &Events) {
        let mut ready = std::mem::take(&mut self.readable);
        self.heard = false;
        for event in events {
            let token = event.token();
            if token == WAKER {
                continue;
            }
            let index = u32::try_from(token.0).unwrap_or(u32::MAX);
            if event.is_writable() {
                self.writable.push(index);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.heard = true;
                // One that waits is read when it has waited: the socket keeps what it has.
                if self.session(index).is_some_and(|s| s.reading == Reading::Free) {
                    ready.push(index);
                }
            }
        }
        self.turns.tick = Heard::default();
        let mut ready = ready.into_iter();
        while let Some(index) = ready.next() {
            let behind = self.desk_is_behind();
            if behind || self.turns.tick_is_over() || self.outbox.frame_bytes() > self.outgoing_max {
                self.stats.hearing_held_up.add(u64::from(behind));
                for index in std::iter::once(index).chain(ready.by_ref()) {
                    self.wait_for(index, Reading::Turn);
                }
                break;
            }
            self.read(index);
        }
    }

    /// What a session has to wait for before more of it is heard; nothing where it is closing, so that it can.
    pub(super) fn must_wait(&self, index: u32) -> Option<Reading> {
        let session = self.sessions.get(index as usize).filter(|s| s.is_live())?;
        if let Some(reading) = self.is_held_up(index, session) {
            return Some(reading);
        }
        let over = self.turns.session_is_over() || session.chain.bytes() > TURN_REPLY_BYTES;
        over.then_some(Reading::Turn)
    }

    /// The same, but for its turn.
    fn is_held_up(&self, index: u32, session: &Session) -> Option<Reading> {
        if session.deferred.as_ref().is_some_and(|deferred| !deferred.ready) {
            return Some(Reading::Answer);
        }
        // The other half is for deltas, and for what was asked for already.
        if session.backlog.as_ref().is_some_and(|b| b.len() > self.config.limits.backlog_bytes / 2) {
            return Some(Reading::Room);
        }
        // Nearly no session has anything to pay back.
        let used_ns = self.inflating.get(&session.key(index)).copied().filter(|_| session.deflate)?;
        (!INFLATED.has_room(used_ns, self.now_ns())).then_some(Reading::Quota)
    }

    /// Begins a session's turn; `false` if it has to wait.
    pub(super) fn begin_turn(&mut self, index: u32) -> bool {
        self.turns.begin();
        let Some(session) = self.sessions.get(index as usize) else { return false };
        let held_up = if session.is_live() { self.is_held_up(index, session) } else { None };
        match held_up {
            Some(reading) => self.wait_for(index, reading),
            None => {
                if let Some(session) = self.session(index) {
                    session.reading = Reading::Free;
                }
            }
        }
        held_up.is_none()
    }

    /// Lets a session wait.
    pub(super) fn wait_for(&mut self, index: u32, reading: Reading) {
        let (now_ns, now_ms) = (self.now_ns(), self.now_ms);
        let Some(session) = self.session(index) else { return };
        let key = session.key(index);
        session.reading = reading;
        match reading {
            Reading::Turn => self.readable.push(index),
            Reading::Quota => {
                let used_ns = self.inflating.get(&key).copied().unwrap_or_default();
                let wait_ns = INFLATED.wait_ns(used_ns, now_ns);
                self.stats.inflating_held_up.add(1);
                self.set_timer(index, now_ms + wait_ns.div_ceil(1_000_000));
            }
            Reading::Room => self.stats.reading_held_up.add(1),
            Reading::Free | Reading::Answer => {}
        }
    }

    /// A session may no longer have to wait for this: it is looked at in the next tick.
    pub(super) fn resume(&mut self, index: u32, waited_for: Reading) {
        if self.sessions.get(index as usize).is_some_and(|s| s.reading == waited_for) {
            self.wait_for(index, Reading::Turn);
        }
    }

    /// The same, if what it is owed is little enough.
    pub(super) fn resume_if_there_is_room(&mut self, index: u32) {
        let Some(session) = self.sessions.get(index as usize) else { return };
        if self.is_held_up(index, session) != Some(Reading::Room) {
            self.resume(index, Reading::Room);
        }
    }

    /// A session's messages inflated to so many bytes more than came.
    pub(super) fn inflated(&mut self, index: u32, bytes: usize) {
        let now_ns = self.now_ns();
        if let Some(session) = self.session(index).filter(|_| bytes > 0) {
            let key = session.key(index);
            INFLATED.charge(self.inflating.entry(key).or_default(), now_ns, bytes as u64);
        }
    }

    /// Forgets what was paid back.
    pub(super) fn forget_inflated(&mut self) {
        let now_ns = self.now_ns();
        self.inflating.retain(|_, used_ns| !Rate::is_unused(*used_ns, now_ns));
        self.asking.sweep();
    }

    /// The shard's clock, for rates.
    pub(super) fn now_ns(&self) -> u64 {
        self.now_ms * 1_000_000
    }
}
