//! `nexus-push publish`

mod lines;
mod many;

use std::borrow::Cow;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::say;
use super::target::{FORMS, Fault, Placed, Target, TargetArgs};
use crate::source::draft::Draft;
use crate::source::precheck::Checked;

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
pub(super) struct PublishArgs {
    /// Topic. Without it, deltas are read from standard input line by line (as with --lines -)
    topic: Option<String>,
    /// The data, as JSON; - means standard input
    #[arg(requires = "topic", conflicts_with = "file", allow_negative_numbers = true)]
    data: Option<String>,
    /// Read the data from a file; - means standard input
    #[arg(long, short, value_name = "FILE", requires = "topic")]
    file: Option<PathBuf>,
    /// Read many deltas from a file, one per line; - means standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["topic", "kind", "snapshot", "ts"])]
    lines: Option<PathBuf>,
    /// Kind: delta, snapshot (replaces the state), delete (ends the topic), history_remove (empties
    /// its history), move (a snapshot after which the topic is published in this stream; nexus-push
    /// reshard does this for many topics). A server's API takes the first three [default: delta]
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// The same as --kind snapshot
    #[arg(long, conflicts_with = "kind")]
    snapshot: bool,
    /// When the event happened, Unix ms [default: when the stream takes it in]
    #[arg(long, value_name = "MS")]
    ts: Option<String>,
    /// Lines: continue after a refused line, and exit 1 at the end
    #[arg(long)]
    keep_going: bool,
    /// Lines: print the position of each delta, as for a single one
    #[arg(long)]
    ids: bool,
    /// Print no progress, no target and no notes on missing checks
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) async fn run(args: PublishArgs) -> anyhow::Result<()> {
    let mut interrupts = Interrupts::new()?;
    let Some(topic) = &args.topic else {
        if args.kind.is_some() || args.snapshot || args.ts.is_some() {
            bail!("--kind, --snapshot and --ts are for one TOPIC; each line has its own");
        }
        if args.lines.is_none() && std::io::stdin().is_terminal() {
            bail!("the topic is missing: nexus-push publish TOPIC DATA, or --lines FILE (- is standard input)");
        }
        return many::run(&args, &mut interrupts).await;
    };
    if args.keep_going || args.ids {
        bail!("--keep-going and --ids are for --lines");
    }
    let ready = async {
        let (mut target, delta) = checked(&args, topic).await?;
        target.look_for_streams().await?;
        anyhow::Ok((target, delta))
    };
    let (target, delta) = tokio::select! {
        ready = ready => ready?,
        () = interrupts.next() => bail!("interrupted before anything was published"),
    };
    let suspicion = delta.suspicion.as_ref();
    if let Some(suspicion) = suspicion {
        eprintln!("nexus-push: {}", suspicion.told(false));
    }
    for note in target.notes().iter().filter(|_| !args.quiet) {
        eprintln!("nexus-push: {note}");
    }
    let deltas = [&delta];
    let mut sent = tokio::select! {
        sent = target.send(&deltas) => sent,
        () = interrupts.next() => bail!("interrupted; it is not known whether the delta was published"),
    };
    match sent.pop() {
        Some(Ok(Placed { place, warnings })) => {
            // Warnings that were printed before sending are not repeated.
            for warning in warnings.iter().filter(|warning| suspicion.is_none_or(|known| known.text != warning.text)) {
                eprintln!("nexus-push: {}", warning.told);
            }
            say(format_args!("{topic}\t{place}"))
        }
        Some(Err(fault @ Fault::Refused(..))) => bail!("{fault}"),
        Some(Err(Fault::Failed(why))) => bail!("publishing failed: {why}"),
        None => bail!("not published"),
    }
}

/// The delta in the arguments, and its target.
async fn checked(args: &PublishArgs, topic: &str) -> anyhow::Result<(Target, Checked)> {
    let mut target = Target::connect(&args.target).await?;
    let bytes_max = target.bytes_max();
    let data = match (&args.data, &args.file) {
        (Some(data), None) if data != "-" => Some(Bytes::copy_from_slice(data.as_bytes())),
        (Some(_), None) => Some(whole(Path::new("-"), bytes_max).await?),
        (_, Some(file)) => Some(whole(file, bytes_max).await?),
        (None, None) if args.kind.is_none() => {
            bail!("the data is missing: nexus-push publish TOPIC DATA, or --file FILE (- is standard input)")
        }
        (None, None) => None,
    };
    let kind = if args.snapshot { Some("snapshot") } else { args.kind.as_deref() };
    let ts = args.ts.as_deref().map(Cow::Borrowed);
    let draft = Draft { topic: topic.into(), kind: kind.map(Cow::Borrowed), ts, data };
    let delta = target.check(draft).map_err(|refusal| anyhow::anyhow!(refusal.told(true)))?;
    Ok((target, delta))
}

/// The file or standard input, and its size if it is known.
async fn input(path: &Path) -> anyhow::Result<(Box<dyn AsyncRead + Unpin>, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((Box::new(tokio::io::stdin()), None));
    }
    let file = tokio::fs::File::open(path).await.with_context(|| shown(path))?;
    let about = file.metadata().await.with_context(|| shown(path))?;
    let bytes = about.is_file().then_some(about.len());
    Ok((Box::new(file), bytes))
}

fn shown(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

/// A whole file, or all of standard input, unless it is far larger than a delta may be.
async fn whole(path: &Path, bytes_max: usize) -> anyhow::Result<Bytes> {
    let (input, _) = input(path).await?;
    // White space around the data does not count.
    let most = bytes_max.saturating_mul(2);
    let mut data = Vec::new();
    let read = input.take(most as u64 + 1).read_to_end(&mut data).await;
    if read.with_context(|| shown(path))? > most {
        bail!("{} has more than {most} bytes, and a delta may have {bytes_max} (limits.delta_bytes)", shown(path));
    }
    Ok(data.into())
}

/// Ctrl-C, and SIGTERM.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
