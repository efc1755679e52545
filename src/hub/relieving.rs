//! The ceiling on what all sessions together are owed: past it, the sessions that are owed most are closed as slow.
//!
//! Each shard counts its own (`backlog_bytes` of its [`ShardStats`]) and looks at the others'
//! only while it has more than its share. If the sum is over the ceiling some shard has, so it is enough that each minds
//! itself: no lock, and no number that two write.

use std::cmp::Reverse;

use super::event::SessionKey;
use super::session::Stage;
use super::shard::Shard;
use crate::accounts;
use crate::metrics::ShardStats;
use crate::wire::close::CloseReason;

/// Time between two looks through all sessions for messages that are not whole, where that did not help, in ms.
const RELIEF_EVERY_MS: u64 = 10;

/// A shard's part of a ceiling on what waits for a write; 0 is none.
pub(super) fn outgoing_max(total: usize, shards: usize) -> usize {
    if total == 0 { usize::MAX } else { total / shards.max(1) }
}

/// A ceiling on the backlogs of all shards.
pub(super) struct Ceiling {
    total: u64,
    /// What a shard may have without asking how much the others do.
    share: u64,
    everybody: std::sync::Arc<[std::sync::Arc<ShardStats>]>,
}

impl Ceiling {
    /// `total` bytes for all of `everybody`; 0 is none.
    pub(super) fn new(total: usize, everybody: std::sync::Arc<[std::sync::Arc<ShardStats>]>) -> Self {
        let total = if total == 0 { u64::MAX } else { total as u64 };
        Self { total, share: total / everybody.len().max(1) as u64, everybody }
    }

    /// What a shard that has `own` bytes must come down to, if it must: an eighth below, so that it is not back at once.
    fn target(&self, own: u64) -> Option<u64> {
        let left = |bytes: u64| bytes / u64::from(accounts::WHOLE) * u64::from(accounts::share());
        let (total, share) = match accounts::share() {
            accounts::WHOLE => (self.total, self.share),
            _ => (left(self.total), left(self.share)),
        };
        if own <= share {
            return None;
        }
        let all: u64 = self.everybody.iter().map(|stats| stats.backlog_bytes.get()).sum();
        let excess = all.checked_sub(total).filter(|excess| *excess > 0)? + total / 8;
        Some(own.saturating_sub(excess).max(share - share / 8))
    }
}

impl Shard {
    /// Closes those who are owed most, while all together are owed too much.
    pub(super) fn relieve(&mut self) {
        let Some(target) = self.ceiling.target(self.stats.backlog_bytes.get()) else { return };
        let owed = |shard: &Self, closing: bool| -> Vec<(usize, SessionKey)> {
            let is_closing = |stage: Stage| matches!(stage, Stage::Closing { .. });
            let sessions = shard.sessions.iter().filter(|(_, s)| is_closing(s.stage) == closing);
            let owed = sessions.filter_map(|(index, session)| {
                Some((session.backlog.as_ref()?.len(), session.key(u32::try_from(index).ok()?)))
            });
            let mut owed: Vec<_> = owed.collect();
            owed.sort_unstable_by_key(|(bytes, _)| Reverse(*bytes));
            owed
        };
        for (_, key) in owed(self, false) {
            if self.stats.backlog_bytes.get() <= target {
                return;
            }
            self.stats.backlog_relieved.add(1);
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
}

impl Shard {
    /// Whether so much waits for a write that nothing may wait any longer. What sockets do not take is a backlog then.
    pub(super) fn must_hurry(&mut self) -> bool {
        if self.outbox.frame_bytes() <= self.outgoing_max {
            return false;
        }
        self.stats.outgoing_hurried.add(1);
        for (index, session) in &mut self.sessions {
            if std::mem::take(&mut session.chain.parked) {
                self.outbox.dirty.push(u32::try_from(index).unwrap_or(u32::MAX));
            }
        }
        true
    }
}

impl Shard {
    /// Closes sessions whose messages are not whole, while such messages of all sessions take too much: first sessions
    /// without a token, of them the largest.
    pub(super) fn relieve_incoming(&mut self) {
        let max = self.config.limits.incoming_total_bytes;
        if max == 0 || accounts::INCOMING.bytes() <= max || self.now_ms < self.next_relief_ms {
            return;
        }
        let holders = self.sessions.iter().filter_map(|(index, session)| {
            let bytes = session.incoming_bytes();
            let key = session.key(u32::try_from(index).ok()?);
            (bytes > 0).then_some((session.identity.is_some(), Reverse(bytes), key))
        });
        let mut holders: Vec<_> = holders.collect();
        holders.sort_unstable_by_key(|(known, bytes, _)| (*known, *bytes));
        for (_, _, key) in holders {
            if accounts::INCOMING.bytes() <= max - max / 8 {
                return;
            }
            if !self.keyed(key).is_some_and(|session| session.is_live()) {
                // It is closing already, and still sends.
                self.drop_session(key.index);
                continue;
            }
            self.stats.incoming_relieved.add(1);
            self.close(key.index, CloseReason::TooMuchIncoming);
            if let Some(session) = self.keyed(key) {
                session.inbox = None;
            }
        }
        // The others' turn: there is nothing here for a while.
        self.next_relief_ms = self.now_ms + RELIEF_EVERY_MS;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// (what two shards have, what the first must come down to), of 1,000 bytes.
    #[test]
    fn who_has_more_than_its_share_comes_down_when_all_have_too_much() {
        for (bytes, target) in [
            ([0, 0], None),
            ([1_000, 0], None),
            ([500, 501], None),
            ([501, 499], None),
            ([501, 500], Some(438)),
            ([1_100, 0], Some(875)),
            ([5_000, 0], Some(875)),
            ([1_100, 900], Some(438)),
            ([499, 900], None),
        ] {
            let stats: Vec<_> = bytes.iter().map(|_| Arc::new(ShardStats::default())).collect();
            stats.iter().zip(bytes).for_each(|(stats, bytes)| stats.backlog_bytes.set(bytes));
            let ceiling = Ceiling::new(1_000, stats.into());
            assert_eq!(ceiling.target(bytes[0]), target, "{bytes:?}");
        }
        let stats = Arc::new(ShardStats::default());
        stats.backlog_bytes.set(u64::MAX / 2);
        assert_eq!(Ceiling::new(0, [stats].into()).target(u64::MAX / 2), None);
    }
}
