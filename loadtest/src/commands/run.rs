//! The command `run`: one workload, checked and reported.

use anyhow::Context as _;

use crate::commands::once::once;
use crate::commands::workload::{Name, RunArgs};

pub(crate) fn run(args: &RunArgs) -> anyhow::Result<bool> {
    let objectives = args.slo.as_deref().map(crate::report::slo::parse).transpose()?.unwrap_or_default();
    let mut args = args.clone();
    if args.workload == Name::W7 && args.rate.is_none() {
        let capacity = crate::commands::capacity::find(&args)?;
        println!(
            "this machine delivers {capacity:.0} per second to {} sessions; the load is three times that",
            args.workload().sessions
        );
        args.rate = Some(3.0 * capacity / args.workload().sessions as f64);
    }
    let args = &args;
    let mut report = once(args)?;
    report.judge(&objectives);
    report.print();
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?).with_context(|| path.display().to_string())?;
    }
    Ok(report.passed())
}
