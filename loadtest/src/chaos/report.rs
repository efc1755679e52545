//! Verdicts for people: one line each, a table at the end, the table of a document.

use std::fmt::Write as _;
use std::path::Path;

use crate::chaos::args::ChaosArgs;
use crate::chaos::verdict::Verdict;
use crate::report::benchmarks::{Marks, rewrite, taken};

pub(super) fn print(verdict: &Verdict) {
    println!("\n{}: {}", verdict.scenario, verdict.fault);
    let row = |name: &str, value: &str| println!("  {name:<14} {value}");
    if let Some(error) = &verdict.error {
        row("FAILED", error);
        return;
    }
    row("clients saw", &verdict.saw);
    row("whole", &verdict.whole());
    row(
        "published",
        &format!(
            "{} acknowledged; {} uncertain, of which {} had arrived; {} sent again",
            verdict.acknowledged, verdict.uncertain, verdict.arrived, verdict.sent_again
        ),
    );
    for note in &verdict.notes {
        row("", note);
    }
    for check in &verdict.checks {
        println!("  {} {} ({})", if check.passed { "ok  " } else { "FAIL" }, check.name, check.detail);
    }
}

pub(super) fn table(verdicts: &[Verdict]) {
    println!("\n{:<22} {:<10} {:<24} {:<8} what clients saw", "scenario", "lost", "whole after", "seconds");
    for verdict in verdicts {
        let lost = if verdict.passed() { "nothing" } else { "FAILED" };
        println!(
            "{:<22} {lost:<10} {:<24} {:<8.0} {}",
            verdict.scenario,
            verdict.whole(),
            verdict.seconds,
            verdict.error.as_deref().unwrap_or(&verdict.saw)
        );
    }
}

const MARKS: Marks = Marks { begin: "<!-- chaos: begin -->", end: "<!-- chaos: end -->" };

/// Writes the table between the marks of a document.
pub(super) fn write(path: &Path, args: &ChaosArgs, verdicts: &[Verdict]) -> anyhow::Result<()> {
    let mut text = format!(
        "Taken by `make chaos`:\n\
         {}.\n\
         {} sessions, each on 8 of 17 topics of all three classes, {} deltas/s of {} B.\n\
         Server, sessions, publisher and Redis share the machine.\n\n\
         | fault | what clients saw | lost | whole again after | command |\n|---|---|---|---|---|\n",
        taken(),
        args.sessions,
        args.rate,
        args.payload
    );
    for verdict in verdicts {
        let cell = |text: &str| text.replace('|', "\\|");
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | `nexus-loadtest chaos {}` |",
            cell(&verdict.fault),
            cell(&verdict.saw),
            cell(&verdict.lost()),
            verdict.whole(),
            verdict.scenario
        );
    }
    rewrite(path, &MARKS, &text)
}
