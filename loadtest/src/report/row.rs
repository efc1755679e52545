//! A result of a benchmark.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) workload: String,
    pub(crate) server: String,
    pub(crate) round: u32,
    /// Values by name.
    pub(crate) values: BTreeMap<String, f64>,
}
