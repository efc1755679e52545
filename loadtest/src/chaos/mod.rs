//! Faults on real processes. Each scenario starts what it needs, lets sessions check everything that arrives, does
//! something terrible, and ends with the proof that nothing was lost.

mod bad_publisher;
mod clock;
mod exhaustion;
mod failover;
pub(crate) mod interrupt;
mod ledger;
mod network;
mod network_faults;
mod node_faults;
mod programs;
mod publisher;
mod redis_faults;
mod report;
mod stage;
mod store;
mod timeline;
mod verdict;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

pub(crate) use programs::{Node, NodeOptions, Redis};
pub(crate) use redis_faults::source;
pub(crate) use stage::{Habits, Plan, Stage};
pub(crate) use verdict::Verdict;

/// The faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Redis, with its data on disk, is killed and started again
    RedisRestart,
    /// Redis is killed, loses its data, and is started again
    RedisWiped,
    /// Redis stands still for 30 s (SIGSTOP)
    RedisPaused,
    /// The master is killed under Sentinel
    SentinelFailover,
    /// A slot of a Redis Cluster moves to another master
    ClusterSlotMoved,
    /// A master of a Redis Cluster is killed
    ClusterMasterKilled,
    /// One of two nodes is killed with -9 under load
    NodeKilled,
    /// One of two nodes stands still for 10 s (SIGSTOP)
    NodeStopped,
    /// Clocks of Redis and of the server step back and ahead by a minute
    ClockStepped,
    /// Half of the clients are cut off without a word
    HalfOpen,
    /// One of two nodes is cut off from Redis
    Partition,
    /// Descriptors run out
    Descriptors,
    /// Readers that do not read and history without end, under a ceiling on memory
    Memory,
    /// A publisher sends garbage, repeats, and ten times its rate
    BadPublisher,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ChaosArgs {
    /// Scenarios [default: all]
    pub(crate) scenarios: Vec<Scenario>,
    /// List the scenarios
    #[arg(long)]
    pub(crate) list: bool,
    /// How long a fault lasts, where it lasts [default: what the scenario says]
    #[arg(long)]
    pub(crate) seconds: Option<f64>,
    /// Sessions
    #[arg(long, default_value_t = 200)]
    pub(crate) sessions: usize,
    /// Deltas a second, over all topics
    #[arg(long, default_value_t = 200)]
    pub(crate) rate: u64,
    /// Bytes of each delta's JSON
    #[arg(long, default_value_t = 200)]
    pub(crate) payload: usize,
    /// Server to start [default: nexus-push beside this program]
    #[arg(long)]
    pub(crate) server: Option<PathBuf>,
    /// Write the verdicts as JSON to this file
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Write the table between the marks of this document
    #[arg(long)]
    pub(crate) markdown: Option<PathBuf>,
    /// Seed of topic choice and payloads
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// No progress bar
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// What must live until the ends are compared.
type Props = Box<dyn std::any::Any>;

type Play = fn(&mut Stage<'_>) -> anyhow::Result<Props>;

impl Scenario {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What happens, in one line.
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

/// Plays the scenarios and prints what they came to. False if anything was lost.
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
    let mut stage = Stage::new(args, Plan::default(), bar.clone())?;
    let props = scenario.play()(&mut stage)?;
    let verdict = stage.finish(&scenario.name(), &scenario.fault())?;
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
