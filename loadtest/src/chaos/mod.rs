//! Faults on real processes. Each scenario starts its processes, lets sessions check everything that arrives, injects a
//! fault, and ends with the proof that nothing was lost.

pub(crate) mod args;
mod bad_publisher;
mod clock;
mod exhaustion;
mod failover;
pub(crate) mod interrupt;
mod network;
mod network_faults;
mod node_faults;
mod programs;
mod publish_log;
mod publisher;
mod redis_faults;
mod report;
mod store;
mod test_bed;
mod timeline;
mod verdict;

use std::time::Duration;

use clap::ValueEnum as _;
use indicatif::{ProgressBar, ProgressStyle};

use args::{ChaosArgs, Scenario};
pub(crate) use programs::{Node, NodeOptions, Redis};
pub(crate) use redis_faults::source;
use test_bed::Props;
pub(crate) use test_bed::{Habits, Plan, TestBed};
pub(crate) use verdict::Verdict;

type Play = fn(&mut TestBed<'_>) -> anyhow::Result<Props>;

impl Scenario {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The fault, in one line.
    fn fault(self) -> String {
        let help = self.to_possible_value().and_then(|value| value.get_help().map(ToString::to_string));
        help.unwrap_or_default()
    }

    fn play(self) -> Play {
        match self {
            Self::RedisRestart => redis_faults::restart,
            Self::RedisWiped => redis_faults::wiped,
            Self::RedisPaused => redis_faults::paused,
            Self::SentinelFailover => failover::sentinel,
            Self::ClusterSlotMoved => failover::slot_moved,
            Self::ClusterMasterKilled => failover::cluster_master_killed,
            Self::NodeKilled => node_faults::killed,
            Self::NodeStopped => node_faults::stopped,
            Self::ClockStepped => clock::stepped,
            Self::HalfOpen => network_faults::half_open,
            Self::Partition => network_faults::partition,
            Self::Descriptors => exhaustion::descriptors,
            Self::Memory => exhaustion::memory,
            Self::BadPublisher => bad_publisher::misbehaves,
        }
    }
}

/// Runs the scenarios and prints their results. False if anything was lost.
pub(crate) fn run(args: &ChaosArgs) -> anyhow::Result<bool> {
    if args.list {
        for scenario in Scenario::value_variants() {
            println!("{:<22} {}", scenario.name(), scenario.fault());
        }
        return Ok(true);
    }
    interrupt::watch();
    let scenarios = if args.scenarios.is_empty() { Scenario::value_variants() } else { &args.scenarios };
    let bar = bar(args.quiet, scenarios.len() as u64)?;
    let mut verdicts = Vec::new();
    for scenario in scenarios {
        let (name, fault) = (scenario.name(), scenario.fault());
        bar.set_prefix(name.clone());
        let verdict = play(args, *scenario, &bar).unwrap_or_else(|error| Verdict::failed(&name, &fault, &error));
        bar.suspend(|| report::print(&verdict));
        verdicts.push(verdict);
        bar.inc(1);
        if interrupt::came() {
            break;
        }
    }
    bar.finish_and_clear();
    report::table(&verdicts);
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&verdicts)?)?;
    }
    if let Some(path) = &args.markdown {
        report::write(path, args, &verdicts)?;
    }
    Ok(verdicts.iter().all(Verdict::passed))
}

fn play(args: &ChaosArgs, scenario: Scenario, bar: &ProgressBar) -> anyhow::Result<Verdict> {
    let mut test_bed = TestBed::new(args, Plan::default(), bar.clone())?;
    let props = scenario.play()(&mut test_bed)?;
    let verdict = test_bed.finish(&scenario.name(), &scenario.fault())?;
    drop(props);
    Ok(verdict)
}

fn bar(quiet: bool, length: u64) -> anyhow::Result<ProgressBar> {
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(length) };
    let style = "{prefix:>20} [{bar:30}] {pos}/{len} {elapsed} {msg}";
    bar.set_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(200));
    Ok(bar)
}
