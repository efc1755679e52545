//! What happens at a limit on the memory of all sessions: those that use most of it are closed.

use std::cmp::Reverse;

use super::shard::Shard;
use crate::accounts;
use crate::hub::index::SessionId;
use crate::wire::close::CloseReason;

/// How often sessions are searched for incomplete messages while nothing can be closed, in ms.
const RELIEF_EVERY_MS: u64 = 10;

impl Shard {
    /// Closes the sessions with the largest backlogs, while all backlogs together exceed the limit.
    pub(in crate::hub) fn relieve(&mut self) {
        let Some(target) = self.ceiling.target(self.stats.backlog_bytes.get()) else { return };
        let backlogs = |shard: &Self, closing: bool| -> Vec<(usize, SessionId)> {
            let sessions = shard.sessions.iter().filter(|(_, s)| s.is_live() != closing);
            let backlogs = sessions
                .filter_map(|(index, session)| Some((session.output.backlog.as_ref()?.len(), session.key(index))));
            let mut backlogs: Vec<_> = backlogs.collect();
            backlogs.sort_unstable_by_key(|(bytes, _)| Reverse(*bytes));
            backlogs
        };
        for (_, key) in backlogs(self, false) {
            if self.stats.backlog_bytes.get() <= target {
                return;
            }
            self.stats.backlog_evictions.add(1);
            self.close(key.index, CloseReason::Slow);
        }
        // Only partly sent frames are left. No close frame can follow an incomplete frame, so these sockets just close.
        for (_, key) in backlogs(self, true) {
            if self.stats.backlog_bytes.get() <= target {
                return;
            }
            self.drop_session(key.index);
        }
    }

    /// Whether so many bytes wait for a write that nothing may wait longer. What the sockets do not take becomes
    /// backlog.
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

    /// Closes sessions with incomplete messages, while such messages of all sessions exceed the limit: first sessions
    /// without a token, the largest first.
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
        // This shard has nothing to close for a while; others may have.
        self.next_relief_ms = self.clock.now_ms + RELIEF_EVERY_MS;
    }
}
