//! Who may be visited when: flush intervals, and ceilings on a session's bytes a second. Both only ever delay a visit;
//! what there is to bring by then is decided as for a full socket.

use std::collections::BTreeMap;

use super::backlog::Backlog;
use super::shard::Shard;
use super::turns::Reading;
use crate::limits::{BYTES_PER_SECOND_MIN, DRAIN_CHUNK_BYTES, NAP_MS_MAX, STRETCH_FROM, STRETCH_FULL, STRETCH_MS_MAX};

/// The low half of the shard's clock. Of two times of it the difference is right, as long as it is below seven weeks.
#[allow(clippy::cast_possible_truncation, reason = "that is what it does")]
pub(super) fn clock32(ms: u64) -> u32 {
    ms as u32
}

/// The time at which a session that waits `wait_ms` is visited: a little later than it could be, together with others.
/// Visits made together cost half of what they cost one by one.
pub(super) fn in_step(at_ms: u64, wait_ms: u32) -> u64 {
    at_ms.next_multiple_of(step_ms(wait_ms))
}

fn step_ms(wait_ms: u32) -> u64 {
    match wait_ms {
        ..6 => 1,
        6..24 => STRETCH_STEP_MS,
        24..100 => 2 * STRETCH_STEP_MS,
        _ => 25,
    }
}

/// The time that counts as that of a visit made at `now_ms`, `since_ms` after the last, by a session that waits
/// `wait_ms`: the one it was due at, if the shard is only a little late, so that being late once does not put off all
/// visits to come.
pub(super) fn visit_time(now_ms: u64, since_ms: u32, wait_ms: u32) -> u64 {
    let due_ms = in_step((now_ms + u64::from(wait_ms)).saturating_sub(u64::from(since_ms)), wait_ms);
    let late = due_ms < now_ms && now_ms - due_ms < step_ms(wait_ms);
    if late { due_ms } else { now_ms }
}

/// How busy a shard is, and how long it therefore lets a session that was just visited wait for more: the busier, the
/// longer, so that visits carry more and the shard becomes less busy. Nobody waits who was not visited for so long.
#[derive(Debug, Default)]
pub(super) struct Load {
    window_began_us: u64,
    busy_us: u64,
    /// Share of the time spent in ticks, in 1/1,000, smoothed.
    busy: u64,
}

/// The stretch is a multiple of this, ms, so that visits stay in step.
const STRETCH_STEP_MS: u64 = 3;

/// Time over which a shard's busy share is taken.
const LOAD_WINDOW_US: u64 = 20_000;

impl Load {
    /// A tick has ended at `now` after so many µs.
    pub(super) fn ticked(&mut self, now: std::time::Duration, took_us: u64) {
        let now_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        self.busy_us += took_us;
        let window_us = now_us.saturating_sub(self.window_began_us);
        if window_us < LOAD_WINDOW_US {
            return;
        }
        let busy = (self.busy_us * 1_000 / window_us).min(1_000);
        // A quiet time is forgotten as fast as it was long.
        let weight = (window_us / LOAD_WINDOW_US).clamp(1, 4);
        self.busy = (self.busy * (4 - weight) + busy * weight) / 4;
        self.window_began_us = now_us;
        self.busy_us = 0;
    }

    /// The wait, in ms.
    pub(super) fn stretch_ms(&self) -> u32 {
        let ms = self.busy.saturating_sub(STRETCH_FROM) * u64::from(STRETCH_MS_MAX) / (STRETCH_FULL - STRETCH_FROM);
        let ms = u32::try_from(ms - ms % STRETCH_STEP_MS).unwrap_or(STRETCH_MS_MAX);
        ms.min(STRETCH_MS_MAX)
    }

    /// How long the shard lets deltas wait for more before it looks at them; zero with a quiet one.
    pub(super) fn nap(&self) -> std::time::Duration {
        std::time::Duration::from_millis(u64::from(self.stretch_ms() / 4).min(NAP_MS_MAX))
    }
}

/// A ceiling on a session's bytes a second: after each write it is silent until the bytes are paid for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    bytes_per_second: u32,
    /// When all that was written is paid for, in µs of the shard's clock.
    free_us: u64,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u32) -> Self {
        Self { bytes_per_second: bytes_per_second.max(BYTES_PER_SECOND_MIN), free_us: 0 }
    }

    /// `bytes` were written.
    pub(super) fn spend(&mut self, bytes: usize, now_ms: u64) {
        let cost_us = (bytes as u64).saturating_mul(1_000_000) / u64::from(self.bytes_per_second);
        self.free_us = self.free_us.max(now_ms * 1_000) + cost_us;
    }

    /// When the next may be written, in ms of the shard's clock; `None` is now.
    pub(super) fn wait_until(&self, now_ms: u64) -> Option<u64> {
        (self.free_us > now_ms * 1_000).then(|| self.free_us.div_ceil(1_000))
    }
}

/// Sessions to look at, by time in ms of the shard's clock.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeMap<u64, Vec<u32>>);

impl Timers {
    /// The earliest.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.0.first_key_value().map(|(at, _)| *at)
    }

    fn set(&mut self, at_ms: u64, session: u32) {
        self.0.entry(at_ms).or_default().push(session);
    }

    fn due(&mut self, now_ms: u64) -> Option<(u64, Vec<u32>)> {
        self.0.first_entry().filter(|entry| *entry.key() <= now_ms).map(|entry| entry.remove_entry())
    }
}

impl Shard {
    /// Sees to it that a session is looked at by `at_ms`.
    pub(super) fn set_timer(&mut self, index: u32, at_ms: u64) {
        let at_ms = at_ms.max(1);
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        let ahead = |ms: u64| clock32(ms).wrapping_sub(clock32(self.now_ms));
        if session.timer_ms != 0 && session.timer_ms.wrapping_sub(clock32(self.now_ms)) <= ahead(at_ms) {
            return;
        }
        session.timer_ms = clock32(at_ms).max(1);
        self.timers.set(at_ms, index);
    }

    /// Those whose time has come are looked at in this tick. A timer may be an earlier session's, or too early by now: whoever
    /// still has to wait sets another.
    pub(super) fn wake_timers(&mut self) {
        while let Some((at_ms, due)) = self.timers.due(self.now_ms) {
            for index in due {
                let Some(session) = self.sessions.get_mut(index as usize) else { continue };
                if session.timer_ms == clock32(at_ms).max(1) {
                    session.timer_ms = 0;
                }
                if session.reading == Reading::Quota {
                    session.reading = Reading::Turn;
                    self.readable.push(index);
                }
                // What it is owed may go now.
                if self.asking.waits(session.key(index)) {
                    self.owed.push(index);
                }
                if session.backlog.is_some() {
                    self.writable.push(index);
                } else if std::mem::take(&mut session.chain.parked) {
                    self.outbox.dirty.push(index);
                }
            }
        }
    }

    /// Whether a session's ceiling lets it be written to. If not, it is as one whose socket is full, until its time comes.
    pub(super) fn may_send(&mut self, index: u32) -> bool {
        let now_ms = self.now_ms;
        let Some(session) = self.sessions.get_mut(index as usize) else { return false };
        let Some(until_ms) = session.pace.as_ref().and_then(|pace| pace.wait_until(now_ms)) else { return true };
        // Who goes is told why.
        if !session.is_live() {
            return true;
        }
        // Until then it is not the socket that stands still.
        match &mut session.backlog {
            Some(backlog) => backlog.moved_ms = until_ms,
            None => {
                session.backlog = Some(Box::new(Backlog::new(until_ms)));
                self.stats.slow_sessions.add(1);
            }
        }
        self.set_timer(index, until_ms);
        false
    }

    /// Bytes gathered for one write to a session that is being paid what it is owed.
    pub(super) fn drain_chunk(&self, index: u32) -> usize {
        let pace = self.sessions.get(index as usize).and_then(|session| session.pace.as_ref());
        pace.map_or(DRAIN_CHUNK_BYTES, |pace| (pace.bytes_per_second as usize / 8).clamp(1, DRAIN_CHUNK_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_is_kept_over_time() {
        let mut pace = Pace::new(10_000);
        let (mut now_ms, mut bytes) = (0u64, 0u64);
        while now_ms < 10_000 {
            match pace.wait_until(now_ms) {
                Some(until) => now_ms = until,
                None => {
                    pace.spend(700, now_ms);
                    bytes += 700;
                }
            }
        }
        assert!((99_000..=101_400).contains(&bytes), "{bytes} B in 10 s");
        // A quiet time is not saved up.
        let mut pace = Pace::new(10_000);
        pace.spend(1_000, 50_000);
        assert_eq!(pace.wait_until(50_000), Some(50_100));
        assert_eq!(pace.wait_until(50_100), None);
    }

    #[test]
    fn the_busier_the_longer_and_rest_is_noticed() {
        let at = std::time::Duration::from_millis;
        let mut load = Load::default();
        assert_eq!(load.stretch_ms(), 0);
        (1..=40).for_each(|n| load.ticked(at(20 * n), 1_000));
        let quiet = load.stretch_ms();
        (41..=80).for_each(|n| load.ticked(at(20 * n), 19_000));
        assert!(quiet < 3 && load.stretch_ms() == STRETCH_MS_MAX, "{quiet} {load:?}");
        load.ticked(at(5_000), 100);
        assert_eq!(load.stretch_ms(), 0);
        // Evenly from a twentieth of the time on, in steps.
        let waits = [50, 76, 77, 142, 235, 1_000].map(|busy| Load { busy, ..Load::default() }.stretch_ms());
        assert_eq!(waits, [0, 0, 3, 9, 21, 21]);
    }

    #[test]
    fn timers_come_due_in_order() {
        let mut timers = Timers::default();
        for (at, session) in [(30, 1), (10, 2), (20, 3), (10, 4)] {
            timers.set(at, session);
        }
        assert_eq!(timers.next_ms(), Some(10));
        assert_eq!(timers.due(9), None);
        assert_eq!(timers.due(25), Some((10, vec![2, 4])));
        assert_eq!(timers.due(25), Some((20, vec![3])));
        assert_eq!(timers.due(25), None);
    }
}
