//! Load harness for nexus-push: workloads by name, open-loop publishing, checks on everything that arrived.

mod chaos;
mod client;
mod commands;
mod publish;
mod report;
mod servers;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Loads a nexus-push server and checks what arrives.
///
/// Starts its own server unless --url names one. Everything runs on this machine: server, load and publisher share its
/// cores, so the figures describe this machine.
#[derive(Debug, Parser)]
#[command(name = "nexus-loadtest", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  nexus-loadtest run w1                              10,000 sessions on one topic
  nexus-loadtest run w2 --sessions 1000 --seconds 5 --slo p99=50ms,errors=0.1%
  nexus-loadtest run w8 --speed 20 --data ../shared/data
  nexus-loadtest ladder w2                           100 to 10,000 sessions, a row each
  nexus-loadtest chaos                               every fault, each with the check that nothing was lost
  nexus-loadtest chaos redis-paused --seconds 10
  nexus-loadtest soak --minutes 10                   faults and churn for ten minutes; memory and descriptors flat";

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one value, made once")]
enum Command {
    /// Run one workload and report
    Run(commands::workload::RunArgs),
    /// Repeat one workload at 100, 500, 1,000, 2,000, 5,000 and 10,000 sessions
    Ladder(commands::workload::RunArgs),
    /// Deltas from Redis into topics without subscribers
    Ingest(commands::ingest::IngestArgs),
    /// Snapshots over REST, and the time from a subscribe to its snapshots, while W2 runs
    Reads(commands::reads::ReadsArgs),
    /// All workloads on our server and on others, interleaved; writes docs/benchmarks.md
    Peers(commands::peers::BenchArgs),
    /// Bytes that a user of the recorded market data costs, in each dialect; writes docs/benchmarks.md
    Egress(commands::egress::EgressArgs),
    /// Three nodes behind a real balancer: one drained, one killed, one added; writes docs/scale-out.md
    ScaleOut(commands::scale_out::ScaleOutArgs),
    /// As many sessions at once as several nodes and processes of this harness can have; writes docs/scale-out.md
    #[command(alias = "hold")]
    Connections(commands::connections::ConnectionsArgs),
    /// Faults on real processes, each with the check that nothing was lost
    Chaos(chaos::args::ChaosArgs),
    /// An hour of W2 with faults and churn: nothing lost, memory and descriptors flat
    Soak(commands::soak::SoakArgs),
    /// Run sessions of a run (started by `run`)
    #[command(hide = true)]
    Worker,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => commands::run::run(&args),
        Command::Ladder(args) => commands::ladder::run(&args),
        Command::Ingest(args) => commands::ingest::run(&args),
        Command::Reads(args) => commands::reads::run(&args),
        Command::Peers(args) => commands::peers::run(&args),
        Command::Egress(args) => commands::egress::run(&args),
        Command::ScaleOut(args) => commands::scale_out::run(&args),
        Command::Connections(args) => commands::connections::run(&args),
        Command::Chaos(args) => chaos::run(&args),
        Command::Soak(args) => commands::soak::run(&args),
        Command::Worker => worker::program::run().map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("nexus-loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
