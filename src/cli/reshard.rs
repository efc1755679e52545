//! `nexus-push reshard`

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use super::environment::environment;
use super::output;
use crate::config::{Overrides, load};
use crate::source::redis::{Resharding, reshard};

const EXAMPLES: &str = "\
Examples:
  nexus-push reshard -c nexus-push.toml --to deltas:0,deltas:1 --dry-run      print what would be moved
  nexus-push reshard -c nexus-push.toml --to deltas:0,deltas:1                from source.redis.streams to two
  nexus-push reshard -c nexus-push.toml --from deltas:0,deltas:1 --to deltas  and back

All nodes must read both lists first (source.redis.read_also). The command can be run again after an interruption.
The whole procedure is in docs/redis.md, \"From n to m streams\".";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReshardArgs {
    /// Configuration file of the nodes: address of Redis, names of fields, namespaces
    #[arg(long, short, value_name = "FILE", env = "NEXUS_CONFIG")]
    config: PathBuf,
    /// Streams in which topics belong from now on, in order
    #[arg(long, value_name = "STREAMS", value_delimiter = ',', required = true)]
    to: Vec<String>,
    /// Streams that have the topics now [default: source.redis.streams of the file]
    #[arg(long, value_name = "STREAMS", value_delimiter = ',')]
    from: Vec<String>,
    /// Redis address, instead of the file's: redis://…, redis+sentinel://HOST,HOST/MASTER,
    /// redis+cluster://HOST,HOST
    #[arg(long, value_name = "URL", env = "NEXUS_REDIS_URL", hide_env_values = true)]
    redis: Option<String>,
    /// Print what would be moved; write nothing to Redis
    #[arg(long)]
    dry_run: bool,
    /// Seconds without deltas of moved topics after which an old stream ends
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    quiet: u32,
    /// Continue although entries were lost before they were relayed; states are incomplete until
    /// they are published whole
    #[arg(long)]
    skip_lost: bool,
}

pub(super) async fn run(args: ReshardArgs) -> anyhow::Result<()> {
    args.redis.as_deref().map_or(Ok(()), |redis| super::address::redis("--redis", redis))?;
    let overrides = Overrides { redis: args.redis.clone(), ..Overrides::default() };
    let mut config = load(Some(&args.config), environment(), &overrides)?;
    config.read_secrets()?;
    let Some(redis) = &config.source.redis else {
        bail!("{} has no [source.redis]: there are no streams to move topics between", args.config.display());
    };
    let from = if args.from.is_empty() { redis.streams.clone() } else { args.from };
    for (option, streams) in [("--from", &from), ("--to", &args.to)] {
        let mut seen = std::collections::HashSet::new();
        if let Some(wrong) = streams.iter().find(|stream| stream.is_empty() || !seen.insert(*stream)) {
            bail!("{option} {}: {wrong:?} is empty or named twice", streams.join(","));
        }
    }
    if from == args.to {
        bail!(
            "--from and --to are the same ({}): nothing would move. If source.redis.streams is already the new list, give \
             the old one as --from",
            from.join(",")
        );
    }
    output::log_to_stderr();
    let quiet = Duration::from_secs(args.quiet.into());
    let plan = Resharding { from, to: args.to, dry_run: args.dry_run, quiet, skip_lost: args.skip_lost };
    // A line that cannot be printed is no reason to stop half-way.
    let say = |line: String| drop(output::say(line));
    Ok(reshard(&config, &plan, &say).await?)
}
