//! What gives way where a limit on the memory of all sessions is reached: the sessions that hold most of it.

use std::cmp::Reverse;

use super::shard::Shard;
use crate::accounts;
use crate::hub::index::SessionId;
use crate::wire::close::CloseReason;

/// Time between two looks through all sessions for messages that are not whole, where that did not help, in ms.
const RELIEF_EVERY_MS: u64 = 10;

impl Shard {
    /// Closes the sessions with the largest backlogs, while all backlogs together are too large.
    pub(in crate::hub) fn relieve(&mut self) {
        let Some(target) = self.ceiling.target(self.stats.backlog_bytes.get()) else { return };
        let owed = |shard: &Self, closing: bool| -> Vec<(usize, SessionId)> {
            let sessions = shard.sessions.iter().filter(|(_, s)| s.is_live() != closing);
            let owed = sessions
                .filter_map(|(index, session)| Some((session.output.backlog.as_ref()?.len(), session.key(index))));
            let mut owed: Vec<_> = owed.collect();
            owed.sort_unstable_by_key(|(bytes, _)| Reverse(*bytes));
            owed
        };
        for (_, key) in owed(self, false) {
            if self.stats.backlog_bytes.get() <= target {
                return;
            }
            self.stats.backlog_evictions.add(1);
            self.close(key.index, CloseReason::Slow);
        }
        // What is left are frames that were begun: without their ends no close frame can follow, so the sockets just
        // close.
        for (_, key) in owed(self, true) {
            if self.stats.backlog_bytes.get() <= target {
                return;
            }
            self.drop_session(key.index);
        }
    }

    /// Whether so much waits for a write that nothing may wait any longer. What sockets do not take is a backlog then.
    pub(in crate::hub) fn must_hurry(&mut self) -> bool {
        if self.egress.outbox.frame_bytes() <= self.outgoing_max {
            return false;
        }
        self.stats.writes_early.add(1);
        for (index, session) in self.sessions.iter_mut() {
            if std::mem::take(&mut session.output.send_queue.parked) {
                self.egress.outbox.dirty.push(index);
            }
        }
        true
    }

    /// Closes sessions whose messages are not whole, while such messages of all sessions take too much: first sessions
    /// without a token, of them the largest.
    pub(in crate::hub) fn relieve_incoming(&mut self) {
        let Some(max) = self.limits.incoming_total_bytes else { return };
        if accounts::INCOMING.bytes() <= max || self.clock.now_ms < self.next_relief_ms {
            return;
        }
        let holders = self.sessions.iter().filter_map(|(index, session)| {
            let bytes = session.incoming_bytes();
            let key = session.key(index);
            (bytes > 0).then_some((session.identity.is_some(), Reverse(bytes), key))
        });
        let mut holders: Vec<_> = holders.collect();
        holders.sort_unstable_by_key(|(known, bytes, _)| (*known, *bytes));
        for (_, _, key) in holders {
            if accounts::INCOMING.bytes() <= max - max / 8 {
                return;
            }
            if !self.sessions.by_id(key).is_some_and(|session| session.is_live()) {
                // It is closing already, and still sends.
                self.drop_session(key.index);
                continue;
            }
            self.stats.incoming_evictions.add(1);
            self.close(key.index, CloseReason::TooMuchIncoming);
            if let Some(session) = self.sessions.by_id(key) {
                session.inbox = None;
            }
        }
        // The others' turn: there is nothing here for a while.
        self.next_relief_ms = self.clock.now_ms + RELIEF_EVERY_MS;
    }
}
