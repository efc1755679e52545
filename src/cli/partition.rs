//! `nexus-push partition`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::environment::environment;
use super::output::say;
use crate::config::{Overrides, load};
use crate::topic::home_of;

#[derive(Debug, Args)]
pub(super) struct PartitionArgs {
    /// Topics
    #[arg(required = true)]
    topics: Vec<String>,
    /// Number of streams
    #[arg(long, short = 'n', value_name = "N", required_unless_present = "config", value_parser = clap::value_parser!(u16).range(1..))]
    streams: Option<u16>,
    /// Configuration file with source.redis.streams; their names are printed too
    #[arg(long, short, value_name = "FILE", conflicts_with = "streams", env = "NEXUS_CONFIG")]
    config: Option<PathBuf>,
}

/// Prints a line for each topic: the topic, its partition (counted from 0) and, if it is known, the
/// stream's name.
pub(super) fn run(args: &PartitionArgs) -> anyhow::Result<()> {
    let names = match &args.config {
        Some(file) => {
            let config = load(Some(file), environment(), &Overrides::default())?;
            config.source.redis.map(|redis| redis.streams).unwrap_or_default()
        }
        None => Vec::new(),
    };
    let count = args.streams.map_or(names.len(), usize::from).max(1);
    for topic in &args.topics {
        let partition = home_of(topic, count).with_context(|| format!("{topic:?}"))?;
        match names.get(partition) {
            Some(name) => say(format_args!("{topic}\t{partition}\t{name}"))?,
            None => say(format_args!("{topic}\t{partition}"))?,
        }
    }
    Ok(())
}
