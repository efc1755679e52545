//! `nexus-push serve`

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::environment::environment;
use super::output::log_to_stdout;
use super::{address, argv};
use crate::config::{Overrides, load};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
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

/// Runs the server until it is told to stop.
pub(super) fn run(args: ServeArgs) -> anyhow::Result<()> {
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
