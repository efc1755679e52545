//! A rate limit: a token bucket stored as one number (GCRA, the generic cell rate algorithm of
//! ITU-T I.371, in its virtual scheduling form).
//!
//! The limit itself is a constant. The use by a client is its *theoretical arrival time*: the time
//! at which the bucket would be full again, in ns of any clock that does not go backwards. So a
//! rate-limited thing costs eight bytes and no timer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;

/// So many units per second, and a burst after a time without use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_second: u64,
    burst: u64,
}

impl Rate {
    /// `per_second` units per second (at least 1), `burst` of them at once (at least 1).
    pub const fn new(per_second: u64, burst: u64) -> Self {
        let per_second = if per_second == 0 { 1 } else { per_second };
        Self { per_second, burst: if burst == 0 { 1 } else { burst } }
    }

    /// Time in which so many units are paid back.
    fn cost_ns(self, units: u64) -> u64 {
        let ns = u128::from(units) * u128::from(SECOND_NS) / u128::from(self.per_second);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// Takes `units` if that many are left. More than the burst are never left.
    pub fn spend(self, used_ns: &mut u64, now_ns: u64, units: u64) -> bool {
        let after = (*used_ns).max(now_ns).saturating_add(self.cost_ns(units));
        if after - now_ns > self.cost_ns(self.burst) {
            return false;
        }
        *used_ns = after;
        true
    }

    /// Takes `units` even if fewer are left, for work whose size is known only afterwards. The debt
    /// is paid back at the same rate, and until then no unit is left.
    pub fn charge(self, used_ns: &mut u64, now_ns: u64, units: u64) {
        *used_ns = (*used_ns).max(now_ns).saturating_add(self.cost_ns(units));
    }

    /// Gives back units that were taken but not used.
    pub fn give_back(self, used_ns: &mut u64, units: u64) {
        *used_ns = used_ns.saturating_sub(self.cost_ns(units));
    }

    /// Whether at least one unit is left.
    pub fn has_room(self, used_ns: u64, now_ns: u64) -> bool {
        self.wait_ns(used_ns, now_ns) == 0
    }

    /// Time until one unit is left; 0 if one is.
    pub fn wait_ns(self, used_ns: u64, now_ns: u64) -> u64 {
        let after = used_ns.max(now_ns).saturating_add(self.cost_ns(1));
        (after - now_ns).saturating_sub(self.cost_ns(self.burst))
    }

    /// Whether the bucket is full: such an entry has no information and can be removed.
    pub fn is_unused(used_ns: u64, now_ns: u64) -> bool {
        used_ns <= now_ns
    }
}

/// A limit shared by several callers on any threads; it has its own clock.
#[derive(Debug)]
pub struct Shared {
    used_ns: AtomicU64,
    started: Instant,
}

impl Default for Shared {
    fn default() -> Self {
        Self { used_ns: AtomicU64::new(0), started: Instant::now() }
    }
}

impl Shared {
    /// As [`Rate::charge`].
    pub fn charge(&self, rate: Rate, units: u64) {
        self.reserve(rate, units);
    }

    /// As [`Rate::charge`]. Returns the time until one unit would have been left before this call,
    /// in ns: callers that each wait for their result take turns at the rate.
    pub fn reserve(&self, rate: Rate, units: u64) -> u64 {
        let now_ns = self.now_ns();
        let charged = |used_ns| {
            let mut used_ns = used_ns;
            rate.charge(&mut used_ns, now_ns, units);
            Some(used_ns)
        };
        let (Ok(before) | Err(before)) = self.used_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charged);
        rate.wait_ns(before, now_ns)
    }

    /// As [`Rate::give_back`].
    pub fn give_back(&self, rate: Rate, units: u64) {
        let given = |used_ns| {
            let mut used_ns = used_ns;
            rate.give_back(&mut used_ns, units);
            Some(used_ns)
        };
        let _ = self.used_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, given);
    }

    /// As [`Rate::wait_ns`].
    pub fn wait_ns(&self, rate: Rate) -> u64 {
        rate.wait_ns(self.used_ns.load(Ordering::Relaxed), self.now_ns())
    }

    /// As [`Rate::is_unused`].
    pub fn is_unused(&self) -> bool {
        Rate::is_unused(self.used_ns.load(Ordering::Relaxed), self.now_ns())
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Decides when to sweep the entries of a table: if there are many, and at most once per second.
#[derive(Debug)]
pub struct Sweep {
    from: usize,
    swept_ns: AtomicU64,
    started: Instant,
}

impl Sweep {
    /// Tables with more than `from` entries are swept.
    pub fn new(from: usize) -> Self {
        Self { from, swept_ns: AtomicU64::new(0), started: Instant::now() }
    }

    /// Whether a sweep of so many entries is due. Of several concurrent callers, one gets `true`.
    pub fn is_due(&self, entries: usize) -> bool {
        if entries <= self.from {
            return false;
        }
        let now_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(SECOND_NS);
        let swept_ns = self.swept_ns.load(Ordering::Relaxed);
        now_ns.saturating_sub(swept_ns) >= SECOND_NS
            && self.swept_ns.compare_exchange(swept_ns, now_ns, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// All counters are equal, so that types that contain one can derive `PartialEq`.
impl PartialEq for Shared {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Shared {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_use_together_is_one_sum() {
        let (rate, shared) = (Rate::new(1, 100), Shared::default());
        (0..4).for_each(|_| shared.charge(rate, 25));
        assert!(shared.wait_ns(rate) > 0);
        assert_eq!(Shared::default().wait_ns(rate), 0);
    }

    #[test]
    fn reserving_callers_take_turns() {
        let (rate, shared) = (Rate::new(1, 100), Shared::default());
        assert_eq!(shared.reserve(rate, 1_000), 0, "it is charged though there is less");
        let waits: Vec<u64> = (0..3).map(|_| shared.reserve(rate, 50) / SECOND_NS).collect();
        for (wait, seconds) in waits.into_iter().zip([901, 951, 1_001]) {
            assert!((seconds - 2..=seconds).contains(&wait), "{wait} s, not {seconds}");
        }
        shared.give_back(rate, 1_150);
        assert_eq!(shared.wait_ns(rate), 0);
    }

    #[test]
    fn a_burst_then_the_rate() {
        let rate = Rate::new(10, 5);
        let mut used = 0;
        let spent = (0..8).filter(|_| rate.spend(&mut used, 0, 1)).count();
        assert_eq!(spent, 5);
        assert_eq!(rate.wait_ns(used, 0), SECOND_NS / 10);
        assert!(!rate.has_room(used, SECOND_NS / 10 - 1) && rate.has_room(used, SECOND_NS / 10));
        assert!(rate.spend(&mut used, SECOND_NS / 10, 1) && !rate.spend(&mut used, SECOND_NS / 10, 1));
        // After a pause the whole burst is available, and no more.
        let later = 100 * SECOND_NS;
        assert!(Rate::is_unused(used, later));
        assert_eq!((0..8).filter(|_| rate.spend(&mut used, later, 1)).count(), 5);
    }

    #[test]
    fn several_units_at_once() {
        let bytes = Rate::new(1_000, 4_000);
        let mut used = 0;
        assert!(!bytes.spend(&mut used, 0, 4_001), "more than the burst is never left");
        assert!(bytes.spend(&mut used, 0, 4_000) && !bytes.spend(&mut used, 0, 1));
        assert!(bytes.spend(&mut used, SECOND_NS, 1_000) && !bytes.has_room(used, SECOND_NS));
    }

    #[test]
    fn charges_are_paid_back() {
        let bytes = Rate::new(1_000, 1_000);
        let mut used = 0;
        bytes.charge(&mut used, 0, 11_000);
        assert!(!bytes.has_room(used, 10 * SECOND_NS));
        assert!(bytes.has_room(used, 10 * SECOND_NS + SECOND_NS / 1_000));
    }

    #[test]
    fn large_tables_are_looked_through_now_and_then() {
        let sweep = Sweep::new(10);
        assert!(!sweep.is_due(10), "it is small");
        assert!(sweep.is_due(11) && !sweep.is_due(1_000), "it was looked through a moment ago");
    }

    #[test]
    fn returned_units_were_never_taken() {
        let rate = Rate::new(1_000, 1_000);
        let (mut once, mut twice) = (0, 0);
        rate.charge(&mut once, 7, 100);
        rate.charge(&mut twice, 7, 700);
        rate.give_back(&mut twice, 600);
        assert_eq!(once, twice);
        rate.give_back(&mut twice, u64::MAX);
        assert_eq!(twice, 0);
    }

    #[test]
    fn no_input_overflows() {
        let rate = Rate::new(0, 0);
        let mut used = u64::MAX - 1;
        rate.charge(&mut used, 5, u64::MAX);
        assert_eq!(used, u64::MAX);
        assert!(!rate.spend(&mut used, 5, u64::MAX) && !rate.has_room(used, 5));
        assert!(Rate::new(u64::MAX, u64::MAX).spend(&mut 0, 0, 1));
    }
}
