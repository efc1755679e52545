//! Which sockets are read in a tick, and when a session must wait.

use mio::Events;

use super::shard::{Shard, WAKER};
use crate::hub::index::SessionIndex;
use crate::hub::session::{Reading, Session};
use crate::limits::TURN_REPLY_BYTES;

/// What a session waits for before it is read again; the first of several.
fn held_up(
    awaits_answer: bool,
    backlog: usize,
    backlog_max: usize,
    has_inflated_too_much: impl FnOnce() -> bool,
) -> Option<Reading> {
    match () {
        () if awaits_answer => Some(Reading::Answer),
        // The other half of the backlog is for deltas, and for replies to what was read already.
        () if backlog > backlog_max / 2 => Some(Reading::Room),
        () if has_inflated_too_much() => Some(Reading::Quota),
        () => None,
    }
}

impl Shard {
    /// Reads the sockets that are readable, those left from the previous tick first, until the limit of a tick is
    /// reached.
    pub(in crate::hub) fn read_sockets(&mut self, events: &Events) {
        let mut ready = std::mem::take(&mut self.input.readable);
        self.input.was_busy = false;
        for event in events {
            let token = event.token();
            if token == WAKER {
                continue;
            }
            let index = SessionIndex::new(token.0);
            if event.is_writable() {
                self.writable.push(index);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.input.was_busy = true;
                // A session that waits is read later; its bytes stay in the socket.
                if self.sessions.get_mut(index).is_some_and(|s| s.reading == Reading::Free) {
                    ready.push(index);
                }
            }
        }
        self.input.turns.begin_tick();
        let mut ready = ready.into_iter();
        while let Some(index) = ready.next() {
            let behind = self.requests.is_control_behind();
            if behind || self.input.turns.tick_is_over() || self.egress.outbox.frame_bytes() > self.outgoing_max {
                self.stats.reads_paused_control.add(u64::from(behind));
                for index in std::iter::once(index).chain(ready.by_ref()) {
                    self.wait_for(index, Reading::Turn);
                }
                break;
            }
            self.read(index);
        }
    }

    /// What a session must wait for before more of it is read. A closing session never waits, so that its end is seen.
    pub(in crate::hub) fn must_wait(&self, index: SessionIndex) -> Option<Reading> {
        let session = self.sessions.get(index).filter(|s| s.is_live())?;
        if let Some(reading) = self.waits_for(index, session) {
            return Some(reading);
        }
        let over = self.input.turns.session_is_over() || session.output.send_queue.bytes() > TURN_REPLY_BYTES;
        over.then_some(Reading::Turn)
    }

    /// The same, but for its turn.
    fn waits_for(&self, index: SessionIndex, session: &Session) -> Option<Reading> {
        let awaits_answer = session.deferred.as_ref().is_some_and(|deferred| !deferred.ready);
        let backlog = session.output.backlog.as_ref().map_or(0, |backlog| backlog.len());
        held_up(awaits_answer, backlog, self.config.limits.backlog_bytes, || {
            session.output.deflate && self.input.must_wait_for_inflate(session.key(index), self.clock.now_ns())
        })
    }

    /// Begins a session's turn. Returns `false` if it must wait.
    pub(in crate::hub) fn begin_turn(&mut self, index: SessionIndex) -> bool {
        self.input.turns.begin();
        let Some(session) = self.sessions.get(index).filter(|s| s.output.stage.is_read()) else { return false };
        let reason = if session.is_live() { self.waits_for(index, session) } else { None };
        match reason {
            Some(reading) => self.wait_for(index, reading),
            None => {
                if let Some(session) = self.sessions.get_mut(index) {
                    session.reading = Reading::Free;
                }
            }
        }
        reason.is_none()
    }

    /// Makes a session wait.
    pub(in crate::hub) fn wait_for(&mut self, index: SessionIndex, reading: Reading) {
        let (now_ns, now_ms) = (self.clock.now_ns(), self.clock.now_ms);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let key = session.key(index);
        session.reading = reading;
        match reading {
            Reading::Turn => self.input.readable.push(index),
            Reading::Quota => {
                let wait_ns = self.input.inflate_wait_ns(key, now_ns);
                self.stats.reads_paused_inflate.add(1);
                self.set_timer(index, now_ms + wait_ns.div_ceil(1_000_000));
            }
            Reading::Room => self.stats.reads_paused_backlog.add(1),
            Reading::Free | Reading::Answer => {}
        }
    }

    /// A session may not have to wait for this any more: it is read in the next tick.
    pub(in crate::hub) fn resume(&mut self, index: SessionIndex, waited_for: Reading) {
        if self.sessions.get(index).is_some_and(|s| s.reading == waited_for) {
            self.wait_for(index, Reading::Turn);
        }
    }

    /// As `resume`, if the backlog is small enough.
    pub(in crate::hub) fn resume_if_there_is_room(&mut self, index: SessionIndex) {
        let Some(session) = self.sessions.get(index) else { return };
        if self.waits_for(index, session) != Some(Reading::Room) {
            self.resume(index, Reading::Room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_waits_for_an_answer_then_for_room_then_for_its_quota() {
        let half = 500;
        for (awaits_answer, backlog, quota_is_spent, expected) in [
            (false, 0, false, None),
            (false, half, false, None),
            (false, half + 1, false, Some(Reading::Room)),
            (false, half, true, Some(Reading::Quota)),
            (false, half + 1, true, Some(Reading::Room)),
            (true, 0, false, Some(Reading::Answer)),
            (true, half + 1, true, Some(Reading::Answer)),
        ] {
            let found = held_up(awaits_answer, backlog, 2 * half, || quota_is_spent);
            assert_eq!(found, expected, "{awaits_answer} {backlog} {quota_is_spent}");
        }
    }

    /// Whether too much was inflated is a look into a table, which is spared where it does not matter.
    #[test]
    fn the_quota_is_not_looked_up_for_a_session_that_waits_anyway() {
        assert_eq!(held_up(true, 0, 1_000, || unreachable!()), Some(Reading::Answer));
    }
}
