//! Wall-clock time in the unit that the wire uses.

#[cfg(not(test))]
use std::time::{SystemTime, UNIX_EPOCH};

/// Now, Unix ms.
#[cfg(not(test))]
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
pub use simulated::unix_ms;

/// A clock that tests may set.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::Cell;
    use std::time::{SystemTime, UNIX_EPOCH};

    use tokio::time::Instant;

    thread_local! {
        static BEGINNING: Cell<Option<(u64, Instant)>> = const { Cell::new(None) };
    }

    /// From now on it is `at_ms` on this thread, and goes on with tokio's clock; or as the system says again.
    #[allow(dead_code)]
    pub(crate) fn set(at_ms: Option<u64>) {
        BEGINNING.set(at_ms.map(|at_ms| (at_ms, Instant::now())));
    }

    /// Now, Unix ms.
    pub fn unix_ms() -> u64 {
        match BEGINNING.get() {
            Some((at_ms, began)) => at_ms + u64::try_from(began.elapsed().as_millis()).unwrap(),
            None => u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap(),
        }
    }
}
