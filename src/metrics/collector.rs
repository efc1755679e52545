//! Writes the values of all metrics, in the order of the table.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::counts::Metrics;
use super::sampled::{Labels, Reading};
use super::stats::{ShardStats, Stat};
use super::table::{Metric, Read, metrics};

/// All counts and values of a server.
#[derive(Debug)]
pub(super) struct Values {
    pub(super) shards: Vec<Arc<ShardStats>>,
    pub(super) metrics: Arc<Metrics>,
}

type Sampled = BTreeMap<&'static str, Vec<(Labels, Reading)>>;

impl Collector for Values {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut sampled = self.sampled();
        for metric in metrics() {
            let values = sampled.remove(metric.name);
            if matches!(metric.read, Read::Sampled) && values.is_none() {
                continue;
            }
            let (name, unit) = metric.unit();
            let family = encoder.encode_descriptor(name, metric.help, unit.as_ref(), metric.kind)?;
            self.encode_metric(metric, values.unwrap_or_default(), family)?;
        }
        debug_assert!(sampled.is_empty(), "not in the table: {:?}", sampled.keys());
        Ok(())
    }
}

impl Values {
    fn sampled(&self) -> Sampled {
        let mut sampled = Sampled::new();
        for source in self.metrics.gauges.get().into_iter().flatten() {
            source.gauges(&mut |name, labels, value| sampled.entry(name).or_default().push((labels, value)));
        }
        sampled
    }

    fn encode_metric(
        &self,
        metric: &Metric,
        sampled: Vec<(Labels, Reading)>,
        mut encoder: MetricEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        match metric.read {
            Read::Shards(read) if matches!(metric.kind, MetricType::Counter) => {
                ConstCounter::new(sum(&self.shards, read)).encode(encoder)
            }
            Read::Shards(read) => {
                ConstGauge::new(i64::try_from(sum(&self.shards, read)).unwrap_or(i64::MAX)).encode(encoder)
            }
            Read::ShardTimes(second, read) => {
                let seconds = seconds(sum(&self.shards, read), second);
                match metric.kind {
                    MetricType::Counter => ConstCounter::new(seconds).encode(encoder),
                    _ => ConstGauge::new(seconds).encode(encoder),
                }
            }
            Read::Histogram { bounds, second, counts, sum: read } => {
                let (buckets, total) = self.buckets(bounds, second, counts);
                let sum = seconds(sum(&self.shards, read), second);
                encoder.encode_histogram::<[(&str, &str); 0]>(sum, total, &buckets, None)
            }
            Read::ControlPlane(read) => read(&self.metrics).encode(encoder),
            Read::Family(read) => {
                let label = metric.labels.first().map_or("", |label| label.name);
                for (value, count) in read(&self.metrics, &self.shards) {
                    ConstCounter::new(count).encode(encoder.encode_family(&[(label, value)])?)?;
                }
                Ok(())
            }
            Read::Sampled => {
                for (labels, value) in sampled {
                    if labels.is_empty() {
                        return value.encode(encoder);
                    }
                    let labels: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
                    value.encode(encoder.encode_family(&labels)?)?;
                }
                Ok(())
            }
        }
    }

    /// The buckets of a histogram over all shards, in seconds; `bounds` count `second`
    /// units per second. Also returns the total count.
    #[allow(clippy::cast_precision_loss, reason = "bounds are small")]
    fn buckets(&self, bounds: &[u64], second: f64, of: fn(&ShardStats) -> &[Stat]) -> (Vec<(f64, u64)>, u64) {
        let counts = |i: usize| self.shards.iter().filter_map(|s| of(s).get(i)).map(Stat::get).sum::<u64>();
        let bounds = bounds.iter().map(|bound| *bound as f64 / second).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.enumerate().map(|(i, bound)| (bound, counts(i))).collect();
        let total = buckets.iter().map(|(_, n)| n).sum();
        (buckets, total)
    }
}

fn sum(shards: &[Arc<ShardStats>], read: fn(&ShardStats) -> u64) -> u64 {
    shards.iter().map(|shard| read(shard)).sum()
}

#[allow(clippy::cast_precision_loss, reason = "2^53 µs are 285 years")]
fn seconds(units: u64, second: f64) -> f64 {
    units as f64 / second
}

/// The totals of all shards that `/status` shows, by their names.
pub(super) fn totals(shards: &[Arc<ShardStats>]) -> impl Iterator<Item = (&'static str, u64)> {
    metrics().filter(|metric| metric.in_status).filter_map(|metric| match metric.read {
        Read::Shards(read) => Some((metric.name, sum(shards, read))),
        _ => None,
    })
}
