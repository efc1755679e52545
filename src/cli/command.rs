//! The commands of `nexus-push`, and which code runs each.

use std::process::ExitCode;

#[cfg(not(all(feature = "replay", feature = "top")))]
use clap::Args;
use clap::{Parser, Subcommand};

#[cfg(feature = "replay")]
use super::replay;
#[cfg(feature = "top")]
use super::top;
use super::{argv, check_config, drain, healthcheck, partition, publish, reshard, serve};

/// Push market data to tens of thousands of WebSockets.
///
/// Clients subscribe to topics over one socket. Deltas arrive on a Redis stream or the publish API.
/// Each is encoded once, and all subscribers get the same bytes.
#[derive(Debug, Parser)]
#[command(name = "nexus-push", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  nexus-push serve                                   simulated instruments on http://127.0.0.1:8000
  nexus-push serve --redis redis://127.0.0.1:6379    deltas of the stream nexus:deltas
  nexus-push serve --nats nats://127.0.0.1:4222      deltas of the JetStream stream NEXUS
  nexus-push serve --config /etc/nexus-push.toml
  nexus-push top push-1:8000 push-2:8000             the nodes' state, in the terminal
  nexus-push publish quotes:BTCUSDT '{\"p\":\"61800.2\"}'
  redis-cli XADD nexus:deltas '*' topic quotes:BTCUSDT data '{\"p\":\"61800.2\"}'
  nats pub nexus.deltas.quotes.BTCUSDT '{\"p\":\"61800.2\"}'";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server; without a configuration, with simulated instruments on loopback
    Serve(serve::ServeArgs),
    /// Check a configuration file and print the resulting configuration
    CheckConfig(check_config::CheckConfigArgs),
    /// Replay recorded exchange traffic into Redis or a server
    #[cfg(feature = "replay")]
    Replay(replay::ReplayArgs),
    #[cfg(not(feature = "replay"))]
    #[command(hide = true)]
    Replay(NotBuilt),
    /// Publish deltas to a server, Redis or NATS: one, or many line by line
    Publish(publish::PublishArgs),
    /// Print the stream of each topic, if there are several streams
    Partition(partition::PartitionArgs),
    /// Move topics from some Redis streams to others while they are published
    Reshard(reshard::ReshardArgs),
    /// Send some of a node's sessions to other nodes, so that a new node fills
    Drain(drain::DrainArgs),
    /// Watch one or several nodes in the terminal, or print their state
    #[cfg(feature = "top")]
    Top(top::TopArgs),
    #[cfg(not(feature = "top"))]
    #[command(hide = true)]
    Top(NotBuilt),
    /// Exit 0 if a server is healthy (GET /healthz), 1 if not; for containers, which have no curl
    Healthcheck(healthcheck::HealthcheckArgs),
}

/// A command whose feature is not built in takes any arguments, to say so.
#[cfg(not(all(feature = "replay", feature = "top")))]
#[derive(Debug, Args)]
struct NotBuilt {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<std::ffi::OsString>,
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    // There are no other threads yet.
    argv::hide_secrets();
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::run(args),
        Command::CheckConfig(args) => check_config::run(&args),
        #[cfg(feature = "replay")]
        Command::Replay(args) => in_background(replay::run(args)),
        #[cfg(not(feature = "replay"))]
        Command::Replay(_) => Err(anyhow::anyhow!("replay: {}", crate::config::not_built("replay"))),
        Command::Publish(args) => on_this_thread(publish::run(args)),
        Command::Partition(args) => partition::run(&args),
        Command::Reshard(args) => in_background(reshard::run(args)),
        Command::Drain(args) => in_background(drain::run(args)),
        #[cfg(feature = "top")]
        Command::Top(args) => in_background(top::run(args)),
        #[cfg(not(feature = "top"))]
        Command::Top(_) => Err(anyhow::anyhow!("top: {}", crate::config::not_built("top"))),
        Command::Healthcheck(args) => in_background(healthcheck::run(args)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nexus-push: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command that Ctrl-C ends at any point.
fn in_background(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    on_this_thread(async {
        tokio::select! {
            outcome = task => outcome,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        }
    })
}

fn on_this_thread(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(task);
    // Does not wait for a pending read of standard input.
    runtime.shutdown_background();
    outcome
}
