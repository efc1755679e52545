//! Results of runs: checked, printed, drawn.

pub(crate) mod benchmarks;
pub(crate) mod chart;
pub(crate) mod row;
pub(crate) mod slo;
pub(crate) mod summary;
