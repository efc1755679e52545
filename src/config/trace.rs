//! `[trace]`: which deltas are followed through the log.

use serde::{Deserialize, Serialize};

/// `[trace]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceOptions {
    /// Share of the deltas that are followed, 0 to 1; the same ones on every node that gives them the same offsets.
    pub sample: f64,
}
