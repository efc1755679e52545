//! How long a topic lives without a delta.

use std::time::Duration;

use crate::config::Namespace;

/// Most by which a topic outlives its time before it is ended without a delta: clocks differ a little.
const GRACE_MS_MAX: u64 = 60_000;

/// A duration in whole ms.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// After so many ms without a delta a topic ends; 0 is never.
pub(super) fn expire_ms(options: &Namespace) -> u64 {
    millis(options.expire_after)
}

/// When a topic ends whose last delta came at `last_ms`, Unix ms; the maximum if it never does.
pub(super) fn end_ms(options: &Namespace, last_ms: u64) -> u64 {
    let after_ms = expire_ms(options);
    if after_ms == 0 { u64::MAX } else { last_ms.saturating_add(after_ms) }
}

/// Whether a topic whose last delta came at `last_ms` has ended by `at_ms`. A delta after its time ends it exactly;
/// `grace` is for ending it without one.
pub(super) fn over(options: &Namespace, last_ms: u64, at_ms: u64, grace: bool) -> bool {
    let after_ms = expire_ms(options);
    let grace_ms = if grace { (after_ms / 10).min(GRACE_MS_MAX) } else { 0 };
    after_ms > 0 && at_ms.saturating_sub(last_ms) > after_ms.saturating_add(grace_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_ends_after_its_time_and_without_a_delta_a_tenth_later() {
        let options = |ms| Namespace { expire_after: Duration::from_millis(ms), ..Namespace::default() };
        let lives = options(1_000);
        for (at_ms, by_a_delta, without) in
            [(1_100, false, false), (1_101, true, false), (1_200, true, false), (1_201, true, true)]
        {
            assert_eq!(
                (over(&lives, 100, at_ms, false), over(&lives, 100, at_ms, true)),
                (by_a_delta, without),
                "{at_ms}"
            );
        }
        assert_eq!((end_ms(&lives, 100), end_ms(&options(0), 100)), (1_100, u64::MAX));
        assert!(!over(&options(0), 0, u64::MAX, false), "it never ends");
        let long = options(3_600_000);
        assert!(!over(&long, 0, 3_660_000, true) && over(&long, 0, 3_660_001, true), "a minute at most");
    }
}
