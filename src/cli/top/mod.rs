//! `nexus-push top`: `fetch` asks the nodes, `model` keeps and evaluates their answers, `view`
//! draws them, `table` prints them, `screen` owns the terminal.

mod fetch;
mod model;
mod screen;
mod table;
mod view;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

use self::fetch::{Answers, Target};
use self::model::Board;

/// Most nodes at a time.
const NODES_MAX: usize = 64;

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct TopArgs {
    /// Nodes: http://HOST:PORT (or https://); HOST:PORT is http
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:8000")]
    urls: Vec<String>,
    /// Time between two requests, from 200ms to 1m
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// File that holds the nodes' key (X-API-Key), if they need one
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Ask twice, print a table and exit, with 1 if a node could not be reached. This is the
    /// default without a terminal
    #[arg(long)]
    once: bool,
    /// Print one line of JSON about all nodes per request, until stopped; with --once, a single
    /// line
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
On the screen: ↑ ↓ (or k j) choose a node, s sort, p pause, h help, q quit. NO_COLOR=1 removes colours.

Rates cover the last interval. A delivery's age runs from the source's time of the delta to the write to the socket.
Busy is the share of its time that the busiest shard works.

Examples:
  nexus-push top
  nexus-push top push-1:8000 push-2:8000 push-3:8000
  nexus-push top --once push-1:8000 | column -t
  nexus-push top --json push-1:8000 | jq '.nodes[0].rates.deliveries'";

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime_serde::re::humantime::parse_duration(text).map_err(|e| format!("{text:?}: {e}"))?;
    match interval.as_millis() {
        200..=60_000 => Ok(interval),
        _ => Err(format!("{text} is outside 200ms to 1m")),
    }
}

pub(super) async fn run(args: TopArgs) -> anyhow::Result<()> {
    if args.urls.len() > NODES_MAX {
        bail!("{} nodes are too many, the most is {NODES_MAX}", args.urls.len());
    }
    let key = match &args.key_file {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("--key-file {}", path.display()))?;
            Some(text.trim().to_owned())
        }
        None => None,
    };
    let targets = args.urls.iter().map(|url| Target::new(url, key.clone())).collect::<anyhow::Result<Vec<_>>>()?;
    let board = Board::new(targets.iter().map(|target| target.label().to_owned()).collect(), args.interval);
    let answers = Answers::of(targets, args.interval)?;
    if args.json || args.once || !std::io::stdout().is_terminal() {
        // Without a terminal, no key could end it.
        return print(board, answers, args.json, args.once || !args.json).await;
    }
    screen::run(board, answers).await
}

/// Prints the state of all nodes whenever all have answered or failed to.
async fn print(mut board: Board, mut answers: Answers, json: bool, once: bool) -> anyhow::Result<()> {
    // Rates need two answers.
    let mut looks = 0;
    while let Some(answer) = answers.next().await {
        board.take(answer);
        if board.looks() == looks {
            continue;
        }
        looks = board.looks();
        if looks < 2 {
            continue;
        }
        let text = if json { serde_json::to_string(&board.to_json())? + "\n" } else { table::of(&board) };
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // The reader has closed the pipe.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            outcome => outcome?,
        }
        if once {
            let down = board.down();
            if !down.is_empty() {
                bail!("could not be reached: {}", down.join(", "));
            }
            return Ok(());
        }
    }
    Ok(())
}
