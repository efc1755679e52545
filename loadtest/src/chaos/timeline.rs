//! Age of the sessions' data: that of the newest pulse that all of them have.

use serde::Serialize;

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    /// ns of the monotonic clock.
    pub(crate) at_ns: u64,
    /// Age of the newest pulse that every session has.
    pub(crate) age_ms: u64,
}

/// The timeline of one group.
#[derive(Debug)]
pub(crate) struct Timeline {
    samples: Vec<Sample>,
    /// A session whose data is not older than this is whole.
    whole_ms: u64,
}

impl Timeline {
    pub(crate) fn new(whole_ms: u64) -> Self {
        Self { samples: Vec::new(), whole_ms }
    }

    /// The pool reported at `at_ns` that all sessions have pulse number `pulse`; pulses were due at `due_ns`.
    pub(crate) fn take(&mut self, at_ns: u64, pulse: u64, due_ns: &[u64]) {
        // Before the first pulse no session can be behind.
        let Some(at) = usize::try_from(pulse).ok().and_then(|pulse| pulse.checked_sub(1)) else { return };
        let Some(due) = due_ns.get(at) else { return };
        self.samples.push(Sample { at_ns, age_ms: at_ns.saturating_sub(*due) / 1_000_000 });
    }

    pub(crate) fn last(&self) -> Option<Sample> {
        self.samples.last().copied()
    }

    /// Whether all sessions were up to date at every report since `from_ns`, and there was one.
    pub(crate) fn is_whole_since(&self, from_ns: u64) -> bool {
        let mut later = self.samples.iter().rev().take_while(|s| s.at_ns >= from_ns).peekable();
        later.peek().is_some() && later.all(|s| s.age_ms <= self.whole_ms)
    }

    /// Seconds from `from_ns` until the last look at which a session was not whole; 0 if there was none.
    pub(crate) fn whole_after_s(&self, from_ns: u64) -> f64 {
        let last = self.samples.iter().rev().find(|s| s.at_ns >= from_ns && s.age_ms > self.whole_ms);
        last.map_or(0.0, |s| s.at_ns.saturating_sub(from_ns) as f64 / 1e9)
    }

    /// The largest age since `from_ns`, in ms.
    pub(crate) fn oldest_ms(&self, from_ns: u64) -> u64 {
        self.samples.iter().filter(|s| s.at_ns >= from_ns).map(|s| s.age_ms).max().unwrap_or(0)
    }

    /// Forgets older samples, in a long run.
    pub(crate) fn forget_before(&mut self, before_ns: u64) {
        self.samples.retain(|s| s.at_ns >= before_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_ends_when_the_last_session_has_caught_up() {
        const S: u64 = 1_000_000_000;
        let due: Vec<u64> = (0..100).map(|n| n * S / 10).collect();
        let mut timeline = Timeline::new(1_000);
        // (when, in tenths of a second; the pulse that all have)
        for (at, pulse) in [(10, 10), (20, 20), (30, 20), (40, 20), (45, 30), (50, 49)] {
            timeline.take(at * S / 10, pulse, &due);
        }
        assert!((timeline.whole_after_s(2 * S) - 2.5).abs() < 1e-9, "{timeline:?}");
        assert_eq!((timeline.oldest_ms(0), timeline.oldest_ms(5 * S)), (2_100, 200));
        assert!(timeline.is_whole_since(5 * S) && !timeline.is_whole_since(3 * S) && !timeline.is_whole_since(6 * S));
        assert!(timeline.whole_after_s(5 * S) == 0.0);
    }
}
