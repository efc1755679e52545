//! When a session is written to: flush intervals, the adaptive flush delay, and timers.

use std::collections::BTreeMap;

use super::output::Output;
use crate::hub::clock::clock32;
use crate::hub::index::SessionIndex;
use crate::limits::{FLUSH_DELAY_FROM, FLUSH_DELAY_FULL, FLUSH_DELAY_MS_MAX, PARK_MS_MAX};

/// The time at which a session that waits `wait_ms` is written to. It is rounded up, so that several sessions are
/// written together: a write in a batch costs half as much.
pub(in crate::hub) fn in_step(at_ms: u64, wait_ms: u32) -> u64 {
    at_ms.next_multiple_of(step_ms(wait_ms))
}

fn step_ms(wait_ms: u32) -> u64 {
    match wait_ms {
        ..6 => 1,
        6..24 => FLUSH_DELAY_STEP_MS,
        24..100 => 2 * FLUSH_DELAY_STEP_MS,
        _ => 25,
    }
}

/// The nominal time of a write made at `now_ms`, `since_ms` after the last, with a flush interval of `wait_ms`. If the
/// shard is only a little late, it is the time at which the write was due, so that one late write does not delay all
/// later ones.
pub(in crate::hub) fn write_time(now_ms: u64, since_ms: u32, wait_ms: u32) -> u64 {
    let due_ms = in_step((now_ms + u64::from(wait_ms)).saturating_sub(u64::from(since_ms)), wait_ms);
    let late = due_ms < now_ms && now_ms - due_ms < step_ms(wait_ms);
    if late { due_ms } else { now_ms }
}

/// How busy a shard is, and the adaptive flush delay that follows from it: the busier, the longer, so that writes carry
/// more and cost less. A session that was not written to for that long does not wait.
#[derive(Debug, Default)]
pub(in crate::hub) struct Load {
    window_began_us: u64,
    busy_us: u64,
    /// Share of time spent in ticks, in 1/1,000, smoothed.
    busy: u64,
}

/// The flush delay is a multiple of this, in ms, so that sessions are written together.
const FLUSH_DELAY_STEP_MS: u64 = 3;

/// Interval over which the share is measured.
const LOAD_WINDOW_US: u64 = 20_000;

impl Load {
    /// Counts a tick that ended at `now` and took `took_us`.
    pub(in crate::hub) fn ticked(&mut self, now: std::time::Duration, took_us: u64) {
        let now_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        self.busy_us += took_us;
        let window_us = now_us.saturating_sub(self.window_began_us);
        if window_us < LOAD_WINDOW_US {
            return;
        }
        let busy = (self.busy_us * 1_000 / window_us).min(1_000);
        // A long idle time has more weight.
        let weight = (window_us / LOAD_WINDOW_US).clamp(1, 4);
        self.busy = (self.busy * (4 - weight) + busy * weight) / 4;
        self.window_began_us = now_us;
        self.busy_us = 0;
    }

    /// The adaptive flush delay, in ms.
    pub(in crate::hub) fn flush_delay_ms(&self) -> u32 {
        let ms = self.busy.saturating_sub(FLUSH_DELAY_FROM) * u64::from(FLUSH_DELAY_MS_MAX)
            / (FLUSH_DELAY_FULL - FLUSH_DELAY_FROM);
        let ms = u32::try_from(ms - ms % FLUSH_DELAY_STEP_MS).unwrap_or(FLUSH_DELAY_MS_MAX);
        ms.min(FLUSH_DELAY_MS_MAX)
    }

    /// How long the shard may park; zero for a shard that is not busy.
    pub(in crate::hub) fn park(&self) -> std::time::Duration {
        std::time::Duration::from_millis(u64::from(self.flush_delay_ms() / 4).min(PARK_MS_MAX))
    }
}

/// Sessions to check, by time in ms of the shard's clock.
#[derive(Debug, Default)]
pub(in crate::hub) struct Timers(BTreeMap<u64, Vec<SessionIndex>>);

impl Timers {
    /// The time of the first.
    pub(in crate::hub) fn next_ms(&self) -> Option<u64> {
        self.0.first_key_value().map(|(at, _)| *at)
    }

    pub(super) fn set(&mut self, at_ms: u64, session: SessionIndex) {
        self.0.entry(at_ms).or_default().push(session);
    }

    /// Ensures that a session is checked at `at_ms`, unless it has an earlier timer.
    pub(super) fn look_at(&mut self, session: SessionIndex, output: &mut Output, at_ms: u64, now_ms: u64) {
        let at_ms = at_ms.max(1);
        let ahead = |ms: u32| ms.wrapping_sub(clock32(now_ms));
        if output.timer_ms != 0 && ahead(output.timer_ms) <= ahead(clock32(at_ms)) {
            return;
        }
        output.timer_ms = clock32(at_ms).max(1);
        self.set(at_ms, session);
    }

    pub(super) fn due(&mut self, now_ms: u64) -> Option<(u64, Vec<SessionIndex>)> {
        self.0.first_entry().filter(|entry| *entry.key() <= now_ms).map(|entry| entry.remove_entry())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busier_the_longer_and_rest_is_noticed() {
        let at = std::time::Duration::from_millis;
        let mut load = Load::default();
        assert_eq!(load.flush_delay_ms(), 0);
        (1..=40).for_each(|n| load.ticked(at(20 * n), 1_000));
        let quiet = load.flush_delay_ms();
        (41..=80).for_each(|n| load.ticked(at(20 * n), 19_000));
        assert!(quiet < 3 && load.flush_delay_ms() == FLUSH_DELAY_MS_MAX, "{quiet} {load:?}");
        load.ticked(at(5_000), 100);
        assert_eq!(load.flush_delay_ms(), 0);
        // The delay rises evenly with the share from 5 % on, in steps.
        let waits = [50, 76, 77, 142, 235, 1_000].map(|busy| Load { busy, ..Load::default() }.flush_delay_ms());
        assert_eq!(waits, [0, 0, 3, 9, 21, 21]);
    }

    #[test]
    fn timers_come_due_in_order() {
        let mut timers = Timers::default();
        for (at, session) in [(30, 1), (10, 2), (20, 3), (10, 4)] {
            timers.set(at, SessionIndex::new(session));
        }
        assert_eq!(timers.next_ms(), Some(10));
        assert_eq!(timers.due(9), None);
        assert_eq!(timers.due(25), Some((10, [2, 4].map(SessionIndex::new).to_vec())));
        assert_eq!(timers.due(25), Some((20, vec![SessionIndex::new(3)])));
        assert_eq!(timers.due(25), None);
    }
}
