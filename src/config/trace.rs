//! `[trace]`: which deltas are followed through the log.

use serde::{Deserialize, Serialize};

/// `[trace]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceOptions {
    /// Share of deltas that are followed, 0 to 1. Nodes that give the same offsets follow the same
    /// deltas.
    pub sample: f64,
}
