//! Whether a session is late: with its first command, its token, its messages, its pong, or in reading what it is sent.
//! Sessions have no timers: the sweep checks each of them.

use super::paced_close::millis;
use crate::auth::has_ended;
use crate::config::Config;
use crate::hub::clock::clock32;
use crate::hub::index::SessionIndex;
use crate::hub::session::{Reading, Session};
use crate::hub::stage::{Ping, Stage};
use crate::limits::DEFERRED_MAX;
use crate::wire::close::CloseReason;

/// How long a hurried drain waits for clients' close frames, in ms.
pub(in crate::hub) const HURRY_MS: u64 = 200;

/// Whether `at`, in the low half of the clock, has been reached.
pub(in crate::hub) fn is_past(at: u32, now_ms: u64) -> bool {
    clock32(now_ms).wrapping_sub(at) < 1 << 31
}

/// What is to be done with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hub) enum Verdict {
    /// It is ending, and has time left.
    Leave,
    /// Its client did not answer the close frame in time.
    Drop,
    Close(CloseReason),
    /// It is not late.
    Keep,
}

/// The time-outs of sessions, in ms of the shard's clock.
#[derive(Debug, Clone, Copy)]
pub(in crate::hub) struct Timeouts {
    first_command_ms: u64,
    stall_ms: u64,
    ping_ms: u64,
    pong_ms: u64,
    token_ms: u64,
    deferred_ms: u64,
    /// Grace period of a Centrifuge session after its token expired, in s.
    expired_delay_s: u64,
    /// Clients need a token to subscribe.
    needs_token: bool,
}

impl Timeouts {
    pub(in crate::hub) fn new(config: &Config) -> Self {
        let limits = &config.limits;
        Self {
            first_command_ms: millis(limits.first_command_timeout),
            stall_ms: millis(limits.stall_timeout),
            ping_ms: millis(limits.ping_interval),
            pong_ms: millis(limits.pong_timeout),
            token_ms: millis(limits.token_timeout),
            deferred_ms: millis(DEFERRED_MAX),
            expired_delay_s: config.access.expired_close_delay.as_secs(),
            needs_token: config.needs_token(),
        }
    }

    /// Subscription tokens that expire before this time, Unix s, are treated as expired.
    pub(in crate::hub) fn expired_until_s(&self, unix_ms: u64) -> u64 {
        (unix_ms / 1_000).saturating_sub(self.expired_delay_s)
    }

    /// What is to be done with a session now, in ms of the shard's clock and of the wall clock.
    pub(in crate::hub) fn judge(&self, session: &Session, now_ms: u64, unix_ms: u64) -> Verdict {
        let age = |since: u32| u64::from(clock32(now_ms).wrapping_sub(since));
        let output = &session.output;
        let reason = match output.stage {
            Stage::Closing if is_past(output.close_by_ms, now_ms) => return Verdict::Drop,
            Stage::Ending | Stage::Closing | Stage::Done | Stage::Dropped => return Verdict::Leave,
            Stage::New if age(session.opened_ms) > self.first_command_ms => CloseReason::NoCommand,
            _ if self.is_message_late(session, now_ms) => CloseReason::SlowMessage,
            _ if self.lacks_token(session) && age(session.opened_ms) > self.token_ms => CloseReason::NoToken,
            _ if session
                .deferred
                .as_ref()
                .is_some_and(|d| !d.ready && now_ms.saturating_sub(d.since_ms) > self.deferred_ms) =>
            {
                CloseReason::NoAnswer
            }
            _ if output.backlog.as_ref().is_some_and(|b| now_ms.saturating_sub(b.moved_ms) > self.stall_ms) => {
                CloseReason::Slow
            }
            _ if self.is_expired(session, unix_ms / 1_000) => CloseReason::Expired,
            // While its socket is full, the backlog's progress is checked instead of the pong.
            _ if output.ping == Ping::Written && output.backlog.is_none() && age(session.heard_ms) > self.pong_ms => {
                CloseReason::NoPong
            }
            _ => return Verdict::Keep,
        };
        Verdict::Close(reason)
    }

    /// A session that waits for its turn is not late, because the server does not read it.
    fn is_message_late(&self, session: &Session, now_ms: u64) -> bool {
        let begun = |since_ms: u64| now_ms.saturating_sub(since_ms) > self.first_command_ms;
        session.reading == Reading::Free && session.inbox.as_ref().is_some_and(|inbox| begun(inbox.since_ms))
    }

    /// A subscription token for a topic counts as a token.
    fn lacks_token(&self, session: &Session) -> bool {
        self.needs_token
            && session.identity.is_none()
            && session.subscriptions.is_empty()
            && session.attaching == 0
            && !session.deferred.as_ref().is_some_and(|deferred| deferred.authenticating)
    }

    fn is_expired(&self, session: &Session, now_s: u64) -> bool {
        let delay_s = if session.output.dialect.is_centrifuge() { self.expired_delay_s } else { 0 };
        let expires_s = session.identity.as_ref().map(|identity| identity.expires_s);
        expires_s.is_some_and(|expires_s| has_ended(expires_s, now_s.saturating_sub(delay_s)))
    }

    /// Whether a session must be pinged; notes the ping. Centrifuge clients expect pings even while they get other
    /// messages; others are pinged after a silence. Sessions that connected together are not all pinged together.
    pub(in crate::hub) fn must_ping(&self, session: &mut Session, index: SessionIndex, now_ms: u64) -> bool {
        let spread_ms = self.ping_ms / 4 * (index.at() % 16) as u64 / 16;
        let every_ms = self.ping_ms - spread_ms;
        if session.output.dialect.is_centrifuge() {
            let Some(client) = session.client.as_mut().filter(|_| session.output.stage == Stage::Open) else {
                return false;
            };
            if now_ms.saturating_sub(client.pinged_ms) <= every_ms {
                return false;
            }
            client.pinged_ms = now_ms;
        } else {
            let silent_ms = u64::from(clock32(now_ms).wrapping_sub(session.heard_ms));
            if session.output.ping != Ping::None || session.output.backlog.is_some() || silent_ms <= every_ms {
                return false;
            }
        }
        // The time to answer starts with the first unanswered ping.
        if session.output.ping == Ping::None {
            session.output.ping = Ping::Queued;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::session::{Client, Deferred};
    use crate::protocol::Dialect;

    const NOW_MS: u64 = 1_000_000;

    fn timeouts() -> Timeouts {
        Timeouts {
            first_command_ms: 100,
            stall_ms: 200,
            ping_ms: 1_000,
            pong_ms: 300,
            token_ms: 400,
            deferred_ms: 500,
            expired_delay_s: 10,
            needs_token: false,
        }
    }

    /// A session that connected `age_ms` ago and has sent a valid command.
    fn session(dialect: Dialect, age_ms: u64) -> Session {
        let mut session = Session::unserved(dialect, 1, clock32(NOW_MS - age_ms));
        session.output.stage = Stage::Open;
        session
    }

    fn judged(session: &Session) -> Verdict {
        timeouts().judge(session, NOW_MS, 0)
    }

    #[test]
    fn the_first_command_has_a_time() {
        for (age_ms, verdict) in [(100, Verdict::Keep), (101, Verdict::Close(CloseReason::NoCommand))] {
            let mut new = session(Dialect::Plain, age_ms);
            new.output.stage = Stage::New;
            assert_eq!(judged(&new), verdict);
        }
        assert_eq!(judged(&session(Dialect::Plain, 101)), Verdict::Keep, "it has sent one");
    }

    #[test]
    fn a_token_has_a_time_unless_it_is_being_checked() {
        let needs = Timeouts { needs_token: true, ..timeouts() };
        let mut late = session(Dialect::Plain, 401);
        assert_eq!(needs.judge(&late, NOW_MS, 0), Verdict::Close(CloseReason::NoToken));
        assert_eq!(judged(&late), Verdict::Keep, "no token is needed");
        late.deferred = Some(Box::new(Deferred::new(true, NOW_MS)));
        assert_eq!(needs.judge(&late, NOW_MS, 0), Verdict::Keep);
        late.deferred = Some(Box::new(Deferred::new(true, NOW_MS - 501)));
        assert_eq!(needs.judge(&late, NOW_MS, 0), Verdict::Close(CloseReason::NoAnswer));
    }

    #[test]
    fn a_pong_has_a_time_from_when_the_ping_was_written() {
        let mut pinged = session(Dialect::Plain, 301);
        pinged.output.ping = Ping::Queued;
        assert_eq!(judged(&pinged), Verdict::Keep);
        pinged.output.ping = Ping::Written;
        assert_eq!(judged(&pinged), Verdict::Close(CloseReason::NoPong));
    }

    #[test]
    fn a_closing_session_is_dropped_once_its_time_is_over() {
        let mut closing = session(Dialect::Plain, 0);
        (closing.output.stage, closing.output.close_by_ms) = (Stage::Closing, clock32(NOW_MS + 1));
        assert_eq!(judged(&closing), Verdict::Leave);
        closing.output.close_by_ms = clock32(NOW_MS);
        assert_eq!(judged(&closing), Verdict::Drop);
    }

    #[test]
    fn silent_clients_are_pinged_and_centrifuge_clients_always() {
        let first = SessionIndex::new(0);
        assert!(!timeouts().must_ping(&mut session(Dialect::Plain, 1_000), first, NOW_MS));
        let mut silent = session(Dialect::Plain, 1_001);
        assert!(timeouts().must_ping(&mut silent, first, NOW_MS));
        assert!(!timeouts().must_ping(&mut silent, first, NOW_MS + 5_000), "a ping is unanswered");
        let mut centrifuge = session(Dialect::CentrifugeJson, 0);
        assert!(!timeouts().must_ping(&mut centrifuge, first, NOW_MS), "it is not connected");
        centrifuge.client = Some(Client::new(NOW_MS - 1_001));
        assert!(timeouts().must_ping(&mut centrifuge, first, NOW_MS));
        assert!(timeouts().must_ping(&mut centrifuge, first, NOW_MS + 1_001));
        // Another of the same age is pinged earlier.
        assert!(timeouts().must_ping(&mut session(Dialect::Plain, 900), SessionIndex::new(15), NOW_MS));
    }
}
