//! `nexus-push publish`

use anyhow::bail;
use clap::Args;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::target::{Outgoing, Target, TargetArgs};
use crate::topic::Kind;

/// Lines that are sent together when many are waiting.
const TOGETHER: usize = 500;

#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// Topic; without it, lines `TOPIC JSON` are read from standard input
    topic: Option<String>,
    /// The delta, as JSON
    #[arg(requires = "topic")]
    data: Option<String>,
    /// Replace the topic's state in place of changing it
    #[arg(long)]
    snapshot: bool,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) async fn run(args: PublishArgs) -> anyhow::Result<()> {
    let kind = if args.snapshot { Kind::Snapshot } else { Kind::Delta };
    let mut target = Target::connect(&args.target).await?;
    let outgoing =
        |topic: &str, data: &str| Outgoing { topic: topic.to_owned(), kind, ts: None, data: data.to_owned() };
    match (&args.topic, &args.data) {
        (Some(topic), Some(data)) => {
            let faults = target.send(&[outgoing(topic, data)]).await?;
            if let Some(fault) = faults.first() {
                bail!("refused: {fault}");
            }
            return Ok(());
        }
        (Some(_), None) => bail!("the delta is missing: nexus-push publish TOPIC JSON"),
        _ => {}
    }
    let mut lines = BufReader::with_capacity(1 << 20, tokio::io::stdin()).lines();
    let (mut sent, mut refused) = (0usize, 0usize);
    let mut waiting: Vec<Outgoing> = Vec::new();
    let mut number = 0;
    loop {
        // What is there already goes together; a line that comes alone goes at once.
        let line = if waiting.is_empty() {
            lines.next_line().await?
        } else {
            match tokio::time::timeout(std::time::Duration::from_millis(2), lines.next_line()).await {
                Ok(line) => line?,
                Err(_) => Some(String::new()),
            }
        };
        let ended = line.is_none();
        let text = line.unwrap_or_default();
        let idle = text.is_empty();
        if !idle {
            number += 1;
            match text.split_once(char::is_whitespace) {
                Some((topic, data)) => waiting.push(outgoing(topic, data.trim())),
                None => {
                    refused += 1;
                    eprintln!("line {number}: no JSON behind the topic");
                }
            }
        }
        if !waiting.is_empty() && (ended || idle || waiting.len() >= TOGETHER) {
            let faults = target.send(&waiting).await?;
            sent += waiting.len() - faults.len();
            refused += faults.len();
            for fault in faults {
                eprintln!("refused: {fault}");
            }
            waiting.clear();
        }
        if ended {
            break;
        }
    }
    eprintln!("{sent} published, {refused} refused");
    if refused > 0 {
        bail!("{refused} lines were refused");
    }
    Ok(())
}
