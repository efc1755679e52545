//! Time: pings, time-outs and the drain. A coarse sweep looks at a slice of the sessions at a time and at all of
//! them about once a second; no session has a timer.

use super::event::SessionKey;
use super::pacing::clock32;
use super::session::{Ping, Stage};
use super::shard::{SWEEP_EVERY, Shard};
use super::subscribers::SHRINK_FROM;
use super::turns::Reading;
use super::waves::Waves;
use crate::auth::has_ended;
use crate::limits::DEFERRED_MAX;
use crate::protocol::Notice;
use crate::wire::close::CloseReason;

/// Slices in which a whole sweep is done.
const SLICES: usize = 20;

/// Time that a hurried drain leaves for close frames to be answered.
const HURRY_MS: u64 = 200;

/// Whether `at`, of the low half of the clock, is not ahead.
fn is_past(at: u32, now_ms: u64) -> bool {
    clock32(now_ms).wrapping_sub(at) < 1 << 31
}

pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Shard {
    /// Does the next slice, if it is time.
    pub(super) fn sweep(&mut self) {
        if self.now_ms < self.next_sweep_ms {
            return;
        }
        self.next_sweep_ms = self.now_ms + millis(SWEEP_EVERY);
        let capacity = self.sessions.capacity();
        let slice = if self.sessions.is_empty() { 0 } else { capacity.div_ceil(SLICES).max(1) };
        for _ in 0..slice.min(capacity) {
            if self.sweep_at >= capacity {
                self.sweep_at = 0;
                self.forget_inflated();
            }
            let index = u32::try_from(self.sweep_at).unwrap_or(u32::MAX);
            self.sweep_at += 1;
            self.boxed_so_far += self.session(index).map_or(0, |session| session.boxed_bytes());
            self.check(index);
            // A slice may go on behind the end: what is summed up is that of one sweep.
            if self.sweep_at >= capacity {
                self.swept();
            }
        }
        if self.sessions.is_empty() {
            // An empty shard turns once a second, and there is nothing to look at: all of it is one slice.
            (self.sweep_at, self.boxed_so_far) = (0, 0);
            self.forget_inflated();
            self.swept();
        }
        self.relieve_incoming();
        if self.shed.is_some() {
            self.shed_wave();
        }
        if self.drain.is_some() {
            self.drain_wave();
        }
    }

    /// All sessions have been looked at.
    fn swept(&mut self) {
        self.boxed_bytes = std::mem::take(&mut self.boxed_so_far);
        self.subscribers.shrink();
        if self.asks.is_empty() && self.asks.capacity() > SHRINK_FROM {
            self.asks.shrink_to_fit();
        }
        if self.groups.is_empty() && self.groups.capacity() > SHRINK_FROM {
            self.groups.shrink_to_fit();
        }
        if self.sessions.len() * 4 < self.sessions.capacity() && self.sessions.capacity() > SHRINK_FROM {
            self.sessions.shrink_to_fit();
        }
        crate::allocator::give_back();
    }

    /// Looks at one session's time-outs.
    fn check(&mut self, index: u32) {
        let limits = &self.config.limits;
        let (first_command_ms, stall_ms) = (millis(limits.first_command_timeout), millis(limits.stall_timeout));
        let (ping_ms, pong_ms) = (millis(limits.ping_interval), millis(limits.pong_timeout));
        let (needs_token, token_ms) = (self.needs_token, millis(limits.token_timeout));
        let deferred_ms = millis(DEFERRED_MAX);
        let expired_delay_s = self.config.access.expired_close_delay.as_secs();
        let (now_ms, now_s) = (self.now_ms, self.unix_ms / 1_000);
        let Some(session) = self.session(index) else { return };
        let age = |since: u32| u64::from(clock32(now_ms).wrapping_sub(since));
        let reason = match session.stage {
            Stage::Closing { until_ms } if is_past(until_ms, now_ms) => {
                self.drop_session(index);
                return;
            }
            Stage::Closing { .. } | Stage::Done => return,
            Stage::New if age(session.opened_ms) > first_command_ms => Some(CloseReason::NoCommand),
            // One that waits for its turn is not late: it is not listened to.
            _ if session.reading == Reading::Free
                && session.inbox.as_ref().is_some_and(|i| now_ms.saturating_sub(i.since_ms) > first_command_ms) =>
            {
                Some(CloseReason::SlowMessage)
            }
            // One that got a topic by a token of the topic's own has shown one.
            _ if needs_token
                && session.identity.is_none()
                && session.subscriptions.is_empty()
                && session.attaching == 0
                && !session.deferred.as_ref().is_some_and(|d| d.authenticating)
                && age(session.opened_ms) > token_ms =>
            {
                Some(CloseReason::NoToken)
            }
            _ if session
                .deferred
                .as_ref()
                .is_some_and(|d| !d.ready && now_ms.saturating_sub(d.since_ms) > deferred_ms) =>
            {
                Some(CloseReason::NoAnswer)
            }
            _ if session.backlog.as_ref().is_some_and(|b| now_ms.saturating_sub(b.moved_ms) > stall_ms) => {
                Some(CloseReason::Slow)
            }
            _ if session.identity.as_ref().is_some_and(|i| {
                let delay_s = if session.dialect.is_centrifuge() { expired_delay_s } else { 0 };
                has_ended(i.expires_s, now_s.saturating_sub(delay_s))
            }) =>
            {
                Some(CloseReason::Expired)
            }
            // While its socket is full, whether it takes bytes decides, not its pong.
            _ if session.ping == Ping::Written && session.backlog.is_none() && age(session.heard_ms) > pong_ms => {
                Some(CloseReason::NoPong)
            }
            _ => None,
        };
        if let Some(reason) = reason {
            self.close(index, reason);
            return;
        }
        // Spread by index, so that clients that came together are not pinged together for ever.
        let spread = ping_ms / 4 * u64::from(index % 16) / 16;
        self.expire_subscriptions(index, now_s.saturating_sub(expired_delay_s));
        let Some(session) = self.session(index) else { return };
        if session.dialect.is_centrifuge() {
            // Its client counts on pings, whatever else comes.
            if session.stage == Stage::Open
                && let Some(client) = &mut session.client
                && now_ms.saturating_sub(client.pinged_ms) > ping_ms - spread
            {
                client.pinged_ms = now_ms;
                // The time to answer begins with the first of several that were not answered.
                if session.ping == Ping::None {
                    session.ping = Ping::Queued;
                }
                let ping = session.dialect.ping();
                self.send(index, ping);
                self.stats.pings.add(1);
            }
            return;
        }
        if session.ping == Ping::None && session.backlog.is_none() && age(session.heard_ms) > ping_ms - spread {
            session.ping = Ping::Queued;
            let ping = session.dialect.ping();
            self.send(index, ping);
            self.stats.pings.add(1);
        }
    }

    /// Tells everybody, and begins to close sessions in waves.
    pub(super) fn begin_drain(&mut self, window: std::time::Duration) {
        if self.drain.is_some() {
            return;
        }
        // Who was to go elsewhere goes with the others.
        self.shed = None;
        let window_ms = millis(window);
        let waiting: Vec<SessionKey> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.is_live())
            .map(|(index, session)| session.key(u32::try_from(index).unwrap_or(u32::MAX)))
            .collect();
        for key in &waiting {
            let retry_after_ms = rand::random_range(0..=window_ms.max(1_000));
            if let Some(session) = self.keyed(*key) {
                let notice = session.dialect.notice(Notice::Closing { retry_after_ms });
                self.send(key.index, notice);
            }
        }
        self.drain = Some(Waves::new(self.now_ms, window, waiting));
        self.next_sweep_ms = self.now_ms;
    }

    fn drain_wave(&mut self) {
        let now_ms = self.now_ms;
        let Some(drain) = &mut self.drain else { return };
        for key in drain.due(now_ms) {
            if self.keyed(key).is_some() {
                self.close(key.index, CloseReason::ServiceRestart);
            }
        }
        // Also those whose turn in the ordinary sweep is up to a second away.
        let late: Vec<u32> = self
            .sessions
            .iter()
            .filter(|(_, s)| matches!(s.stage, Stage::Closing { until_ms } if is_past(until_ms, now_ms)))
            .map(|(index, _)| u32::try_from(index).unwrap_or(u32::MAX))
            .collect();
        for index in late {
            self.drop_session(index);
        }
    }

    /// Ends the drain now.
    pub(super) fn hurry(&mut self) {
        self.begin_drain(std::time::Duration::ZERO);
        if let Some(drain) = &mut self.drain {
            drain.hurry();
        }
        self.drain_wave();
        let until_ms = clock32(self.now_ms + HURRY_MS);
        for (_, session) in &mut self.sessions {
            if let Stage::Closing { until_ms: until } = &mut session.stage
                && is_past(until_ms, u64::from(*until))
            {
                *until = until_ms;
            }
        }
        self.next_sweep_ms = self.now_ms;
    }
}
