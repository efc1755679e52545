//! The most that this machine delivers, found by doubling the rate.

use crate::client::class::Class;
use crate::commands::once::once;
use crate::commands::workload::{Name, RunArgs};

/// Deltas per second of the first step.
const FIRST_RATE: f64 = 1_000.0;

/// Age above which a step counts as too much for the machine, p99 in ms.
const TOO_OLD_MS: f64 = 250.0;

/// Seconds per step.
const STEP_SECONDS: f64 = 3.0;

/// Deliveries per second of W3 without conflation, before they get old or sessions are closed.
pub(crate) fn find(args: &RunArgs) -> anyhow::Result<f64> {
    let mut best = 0.0_f64;
    let mut rate = FIRST_RATE;
    loop {
        let step = RunArgs {
            workload: Name::W3,
            class: Some(Class::Stream),
            rate: Some(rate),
            seconds: STEP_SECONDS,
            quiet: true,
            json: None,
            slo: None,
            ..args.clone()
        };
        let report = once(&step)?;
        best = best.max(report.deliveries as f64 / report.total_s.max(0.1));
        if report.latency.p99_ms > TOO_OLD_MS || report.losses().0 > 0 {
            return Ok(best);
        }
        rate *= 2.0;
    }
}
