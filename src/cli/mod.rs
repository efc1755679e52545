//! The command line.

mod address;
mod argv;
mod authorities;
mod drain;
mod healthcheck;
mod partition;
mod publish;
#[cfg(feature = "replay")]
mod replay;
mod reshard;
mod target;
#[cfg(feature = "top")]
mod top;

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat, Overrides, load};

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
    Serve(ServeArgs),
    /// Check a configuration file and print the resulting configuration
    CheckConfig {
        /// The file
        file: PathBuf,
    },
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

#[derive(Debug, Args)]
struct ServeArgs {
    /// Configuration file (TOML); NEXUS_SECTION__KEY variables override it
    #[arg(short, long, value_name = "FILE", env = "NEXUS_CONFIG")]
    config: Option<PathBuf>,
    /// Address to listen on [default: 127.0.0.1:8000]
    #[arg(short, long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Read deltas from Redis at this URL; redis+sentinel://HOST,HOST/MASTER and
    /// redis+cluster://HOST,HOST too
    #[arg(long, value_name = "URL", env = "NEXUS_REDIS_URL", hide_env_values = true)]
    redis: Option<String>,
    /// Read deltas from NATS JetStream at this URL
    #[arg(long, value_name = "URL", conflicts_with = "redis", env = "NEXUS_NATS_URL", hide_env_values = true)]
    nats: Option<String>,
    /// Shard threads [default: one per core]
    #[arg(long, value_name = "N")]
    shards: Option<usize>,
    /// Anonymous clients, any Origin, publishing without a key, on any address. For development
    #[arg(long)]
    insecure: bool,
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    // There are no other threads yet.
    argv::hide_secrets();
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve(args),
        Command::CheckConfig { file } => check_config(&file),
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

fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let ServeArgs { config: _, listen, redis, nats, shards, insecure } = &args;
    let (listen, redis, nats, shards) = (*listen, redis.clone(), nats.clone(), *shards);
    redis.as_deref().map_or(Ok(()), |redis| address::redis("--redis", redis))?;
    nats.as_deref().map_or(Ok(()), |nats| address::nats("--nats", nats))?;
    let overrides = Overrides { listen, redis, nats, shards, insecure: *insecure };
    let config = load(args.config.as_deref(), environment(), &overrides)?;
    log_to_stdout(config.server.log_format);
    if let Some(variables) = argv::moved() {
        tracing::warn!(
            "the command line had a secret, which the shell's history may keep; give it as {variables}, or in a file \
             (docs/security.md, Keys)"
        );
    }
    if args.insecure {
        tracing::warn!("INSECURE by --insecure: anonymous clients, any Origin, publishing without a key");
    }
    crate::server::run(config, args.insecure)
}

/// `NEXUS_…` variables that are configuration; `NEXUS_CONFIG`, `NEXUS_LOG`, `NEXUS_REDIS_URL` and
/// the like are not.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars().filter(|(name, _)| name.contains("__"))
}

fn check_config(file: &std::path::Path) -> anyhow::Result<()> {
    let config: Config = load(Some(file), environment(), &Overrides::default())?;
    let filled_in = toml::to_string_pretty(&config)?;
    say(format_args!("{} is good. With defaults filled in (secrets left out):\n\n{filled_in}", file.display()))
}

/// Prints a line. A closed pipe (`| head`) is not a failure.
fn say(text: impl Display) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}

fn log_to_stdout(format: LogFormat) {
    let filter = EnvFilter::try_from_env("NEXUS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // The library logs each message and, below that, its credentials.
    let quiet = "async_nats=warn".parse().ok().filter(|_| !filter.to_string().contains("async_nats"));
    let filter = quiet.into_iter().fold(filter, EnvFilter::add_directive);
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(std::io::stdout().is_terminal());
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// Logs only warnings, for commands whose output is their own.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("NEXUS_LOG").unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(std::io::stderr).init();
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
