//! Values without a counter: they are read when metrics are requested.

use prometheus_client::encoding::{EncodeMetric as _, MetricEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The labels of a value.
pub type Labels = Vec<(&'static str, String)>;

/// Values that are read when metrics are requested.
pub trait GaugeSource: std::fmt::Debug + Send + Sync {
    /// Calls `put` with a name of the table, labels and a value, any number of times.
    fn gauges(&self, put: &mut dyn FnMut(&'static str, Labels, Reading));
}

/// A value that was read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reading {
    /// A counter.
    Total(u64),
    /// A gauge.
    Whole(i64),
    /// A gauge with a fraction.
    Real(f64),
}

impl Reading {
    pub(super) fn encode(self, encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        match self {
            Self::Total(n) => ConstCounter::new(n).encode(encoder),
            Self::Whole(n) => ConstGauge::new(n).encode(encoder),
            Self::Real(n) => ConstGauge::new(n).encode(encoder),
        }
    }
}
