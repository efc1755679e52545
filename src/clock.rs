//! Wall-clock time in the unit that the wire uses.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, Unix ms.
pub fn unix_ms() -> u64 {
    #[cfg(test)]
    if let Some(now_ms) = simulated::now_ms() {
        return now_ms;
    }
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Time that follows tokio's paused clock, on the thread of a simulation.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::Cell;

    use tokio::time::Instant;

    thread_local! {
        static BEGAN: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
    }

    /// Starts virtual time at `unix_ms`; `None` ends it.
    pub(crate) fn set(unix_ms: Option<u64>) {
        BEGAN.set(unix_ms.map(|ms| (Instant::now(), ms)));
    }

    /// Virtual time, on the thread of a simulation.
    pub(crate) fn now_ms() -> Option<u64> {
        let (began, ms) = BEGAN.get()?;
        Some(ms + u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}
