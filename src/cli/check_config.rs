//! `nexus-push check-config`

use std::path::PathBuf;

use clap::Args;

use super::environment::environment;
use super::output::say;
use crate::config::{Config, Overrides, load};

#[derive(Debug, Args)]
pub(super) struct CheckConfigArgs {
    /// The file
    file: PathBuf,
}

/// Prints the resulting configuration, or what is wrong with it.
pub(super) fn run(args: &CheckConfigArgs) -> anyhow::Result<()> {
    let file = args.file.as_path();
    let config: Config = load(Some(file), environment(), &Overrides::default())?;
    let filled_in = toml::to_string_pretty(&config)?;
    say(format_args!("{} is good. With defaults filled in (secrets left out):\n\n{filled_in}", file.display()))
}
