//! One workload at a growing number of sessions, to find the limit of this machine.

use crate::commands::once::once;
use crate::commands::workload::RunArgs;

const STEPS: [usize; 6] = [100, 500, 1_000, 2_000, 5_000, 10_000];

/// Seconds per step by default.
const STEP_SECONDS: f64 = 5.0;

pub(crate) fn run(args: &RunArgs) -> anyhow::Result<bool> {
    let objectives = args.slo.as_deref().map(crate::report::slo::parse).transpose()?.unwrap_or_default();
    let mut rows = Vec::new();
    let mut passed = true;
    for sessions in STEPS.into_iter().filter(|n| args.sessions.is_none_or(|most| *n <= most)) {
        let mut args = args.clone();
        args.sessions = Some(sessions);
        args.seconds = args.seconds.min(STEP_SECONDS);
        match once(&args) {
            Ok(mut report) => {
                report.judge(&objectives);
                let good = report.passed();
                passed &= good;
                println!(
                    "{}{sessions:>7} | p50 {:>8.2} ms | p95 {:>8.2} ms | p99 {:>8.2} ms | {:>9.0} deliveries/s | {:>6.2} µs CPU | {:>8.4}% success | {}",
                    if rows.is_empty() { HEAD } else { "" },
                    report.latency.p50_ms,
                    report.latency.p95_ms,
                    report.latency.p99_ms,
                    report.deliveries as f64 / report.total_s.max(0.001),
                    report.cpu_per_delivery_us(),
                    (1.0 - report.error_rate().min(1.0)) * 100.0,
                    if good { "ok" } else { "FAIL" },
                );
                rows.push(report);
            }
            Err(error) => {
                passed = false;
                println!("{sessions:>7} | FAIL: {error:#}");
            }
        }
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(passed)
}

const HEAD: &str = "sessions | response time (publish to receipt)\n";
