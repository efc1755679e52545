//! `nexus-push replay`

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::output::say;
use super::target::{Fault, Target, TargetArgs};
use crate::source::draft::Draft;
use crate::source::precheck::Checked;
use crate::source::replay::Pace;

/// Deltas that are sent together when the pace requires it.
const TOGETHER: usize = 500;

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// Recordings, plain or gzip; their names tell the venue (binance-spot-…, binance-usdm-…,
    /// bybit-linear-…)
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Speed, as a multiple of the recorded pace
    #[arg(long, default_value_t = 1.0, value_parser = speed)]
    speed: f64,
    /// Start again at the end
    #[arg(long = "loop")]
    repeat: bool,
    /// No progress bar
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    target: TargetArgs,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if (0.01..=1_000.0).contains(&speed) { Ok(speed) } else { Err(format!("{speed} is outside 0.01 to 1000")) }
}

pub(super) async fn run(args: ReplayArgs) -> anyhow::Result<()> {
    let mut target = Target::connect(&args.target).await?;
    target.look_for_streams().await?;
    let bar = if args.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    bar.set_style(ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    if !args.quiet {
        target.notes().iter().for_each(|note| eprintln!("nexus-push: {note}"));
    }
    let (mut refused, mut first) = (0, None);
    loop {
        let mut pace = Pace::open(&args.files, args.speed)?;
        let mut waiting: Vec<Checked> = Vec::new();
        let mut sent = 0usize;
        loop {
            // All deltas that are due go together.
            let next = if waiting.is_empty() { pace.next().await? } else { pace.due().await? };
            let at = next.as_ref().map(|moment| moment.at);
            let ended = next.is_none() && waiting.is_empty();
            let idle = next.is_none();
            if let Some(moment) = next {
                for delta in moment.deltas {
                    let draft = Draft {
                        topic: delta.topic.into(),
                        kind: delta.kind.name().map(Into::into),
                        ts: delta.ts.map(|ts| ts.to_string().into()),
                        data: Some(delta.data.to_string().into()),
                    };
                    match target.check(draft) {
                        Ok(delta) => waiting.push(delta),
                        Err(refusal) => {
                            refused += 1;
                            first.get_or_insert_with(|| refusal.told(true));
                        }
                    }
                }
            }
            if waiting.len() >= TOGETHER || (idle && !waiting.is_empty()) {
                let deltas: Vec<&Checked> = waiting.iter().collect();
                for result in target.send(&deltas).await {
                    match result {
                        Ok(_) => sent += 1,
                        Err(fault @ Fault::Refused(..)) => {
                            refused += 1;
                            first.get_or_insert_with(|| fault.to_string());
                        }
                        Err(Fault::Failed(why)) => bail!("{why}"),
                    }
                }
                waiting.clear();
            }
            if let Some(at) = at {
                bar.set_message(format!(
                    "{sent} deltas, {:.1} s into the recording at {}×",
                    at.as_secs_f64(),
                    args.speed
                ));
            }
            if ended {
                break;
            }
        }
        let counts = pace.counts();
        bar.println(format!(
            "{} lines: {} deltas, {} unchanged, {} outdated, {} of unknown kind, {} malformed, {} gaps in the recording; {refused} refused",
            counts.lines, counts.deltas, counts.unchanged, counts.outdated, counts.unknown, counts.malformed, counts.gaps
        ));
        if let Some(fault) = &counts.first_fault {
            bar.println(format!("first malformed: {fault}"));
        }
        if let Some(first) = &first {
            bar.suspend(|| eprintln!("nexus-push: first refused: {first}"));
        }
        if args.quiet {
            say(serde_json::to_string(&counts)?)?;
        }
        if !args.repeat {
            bar.finish_and_clear();
            return Ok(());
        }
    }
}
