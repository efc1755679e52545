//! The options of `nexus-push publish`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::target::{FORMS, TargetArgs};

const EXAMPLES: &str = "\
Examples:
  nexus-push publish quotes:AAPL '{\"bid\":191.4}'
      to the server on http://127.0.0.1:8000
  nexus-push publish -c nexus-push.toml quotes:AAPL '{\"bid\":191.4}'
      to the stream that the servers read, as they read it
  nexus-push publish --to https://push:8443 --ca ca.crt --key-file key quotes:AAPL '{\"bid\":191.4}'
  nexus-push publish --to redis+sentinel://a:26379,b:26379/main a:b --kind snapshot --file a.json
  nexus-push publish --to redis://127.0.0.1 --stream deltas:0,deltas:1 quotes:AAPL --kind delete
  feed | nexus-push publish --to nats://127.0.0.1:4222 --lines -
  nexus-push publish -c nexus-push.toml --lines deltas.ndjson --keep-going

Each line is one delta, in either form (kind and ts are optional; b64data is data in base64):
  {\"topic\":\"quotes:AAPL\",\"data\":{\"bid\":191.4},\"kind\":\"snapshot\",\"ts\":1723161256313}
  quotes:AAPL {\"bid\":191.4}
Lines that are already available are sent together; a line that arrives alone is sent at once.

The command checks each delta as the servers do, and sends none that they would refuse. It then says
why, in the words of their log, and exits 1 (the reasons are in docs/redis.md). With --config it also
checks namespaces, classes and limits. For each published delta it prints the topic, and offset=,
id=, sequence=, stream= or epoch=, with tabs between them.";

fn help() -> String {
    format!("Targets (--to):\n{FORMS}\n\n{EXAMPLES}")
}

#[derive(Debug, Args)]
#[command(after_help = help())]
pub(in crate::cli) struct PublishArgs {
    /// Topic. Without it, deltas are read from standard input line by line (as with --lines -)
    pub(super) topic: Option<String>,
    /// The data, as JSON; - means standard input
    #[arg(requires = "topic", conflicts_with = "file", allow_negative_numbers = true)]
    pub(super) data: Option<String>,
    /// Read the data from a file; - means standard input
    #[arg(long, short, value_name = "FILE", requires = "topic")]
    pub(super) file: Option<PathBuf>,
    /// Read many deltas from a file, one per line; - means standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["topic", "kind", "snapshot", "ts"])]
    pub(super) lines: Option<PathBuf>,
    /// Kind: delta, snapshot (replaces the state), delete (ends the topic), history_remove (empties
    /// its history), move (a snapshot after which the topic is published in this stream; nexus-push
    /// reshard does this for many topics). A server's API takes the first three [default: delta]
    #[arg(long, value_name = "KIND")]
    pub(super) kind: Option<String>,
    /// The same as --kind snapshot
    #[arg(long, conflicts_with = "kind")]
    pub(super) snapshot: bool,
    /// When the event happened, Unix ms [default: when the stream takes it in]
    #[arg(long, value_name = "MS")]
    pub(super) ts: Option<String>,
    /// Lines: continue after a refused line, and exit 1 at the end
    #[arg(long)]
    pub(super) keep_going: bool,
    /// Lines: print the position of each delta, as for a single one
    #[arg(long)]
    pub(super) ids: bool,
    /// Print no progress, no target and no notes on missing checks
    #[arg(long, short)]
    pub(super) quiet: bool,
    #[command(flatten)]
    pub(super) target: TargetArgs,
}
