//! Wall-clock time in the unit that the wire uses.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, Unix ms.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
