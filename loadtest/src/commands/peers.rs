//! Every workload on our server and on others, interleaved (A B A B …), so that a slow minute of the machine
//! affects all of them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::client::class::Class;
use crate::client::protocol::Protocol;
use crate::commands::ingest;
use crate::commands::ingest::{CommonArgs, IngestArgs};
use crate::commands::once::once;
use crate::commands::workload::{Name, RunArgs};
use crate::report::row::Row;
use crate::servers::peer::Peer;

#[derive(Debug, Clone, Args)]
pub(crate) struct BenchArgs {
    /// Rounds
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: u32,
    /// Seconds that each run measures; W6 and W7 take four times as long
    #[arg(long, default_value_t = 8.0)]
    pub(crate) seconds: f64,
    /// Workloads, such as w1,w3
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<Name>,
    /// Servers, such as us,us-100-ms,uwebsockets,floor: the names in the tables, in small letters and with dashes
    #[arg(long, value_delimiter = ',')]
    pub(crate) servers: Vec<String>,
    /// Share of the sessions, for a trial run
    #[arg(long, default_value_t = 1.0)]
    pub(crate) scale: f64,
    /// Results, one per line; runs that are in it are skipped
    #[arg(long, default_value = "docs/benchmarks.jsonl")]
    pub(crate) results: PathBuf,
    /// Start over
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Only write the document from the results
    #[arg(long)]
    pub(crate) report_only: bool,
    /// The document
    #[arg(long, default_value = "docs/benchmarks.md")]
    pub(crate) out: PathBuf,
    /// Program of our server [default: nexus-push beside this program]
    #[arg(long)]
    pub(crate) server: Option<PathBuf>,
    /// No progress bar
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// A server in the configuration for a workload.
struct Contender {
    workload: &'static str,
    server: &'static str,
    args: RunArgs,
}

/// A server's name on the command line: `us-100-ms`.
fn slug(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_lowercase()
}

/// A share of `n`, at least one.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most `n`")]
fn scaled(n: usize, scale: f64) -> usize {
    (n as f64 * scale.clamp(0.0, 1.0)).ceil().max(1.0) as usize
}

fn contenders(args: &BenchArgs, capacity: f64) -> Vec<Contender> {
    let mut all = Vec::new();
    let base = |name: Name, factor: f64| RunArgs {
        seconds: args.seconds * factor,
        sessions: {
            let sessions = RunArgs::of(name).workload().sessions;
            Some(scaled(sessions, args.scale))
        },
        connect_rate: 5_000.0,
        quiet: true,
        server: args.server.clone(),
        ..RunArgs::of(name)
    };
    let peer = |args: RunArgs, peer: Peer| RunArgs { peer: Some(peer), ..args };
    let epoll = |args: RunArgs| RunArgs { flush: "epoll".into(), ..args };
    let mut add = |workload, server, args| all.push(Contender { workload, server, args });

    for (workload, name) in [("w1", Name::W1), ("w3", Name::W3)] {
        let run = || base(name, 1.0);
        add(workload, "us", run());
        add(workload, "us, epoll", epoll(run()));
        add(workload, "us, centrifuge", RunArgs { dialect: Protocol::Centrifuge, ..run() });
        for one in [Peer::Uws, Peer::Ws, Peer::Nchan, Peer::Nats, Peer::Sockudo, Peer::Floor, Peer::FloorUring] {
            add(workload, one.name(), peer(run(), one));
        }
    }
    let run = || base(Name::W2, 1.0);
    add("w2", "us", run());
    add("w2", "us, 100 ms", RunArgs { flush_interval: "100ms".into(), ..run() });
    add("w2", "us, epoll", epoll(run()));
    add("w2", "us, centrifuge", RunArgs { dialect: Protocol::Centrifuge, ..run() });
    for one in [Peer::Uws, Peer::Ws, Peer::Nats, Peer::Sockudo] {
        add("w2", one.name(), peer(run(), one));
    }
    for (workload, subscriptions) in [("w4", 1), ("w4, 20 topics", 20)] {
        let run = || RunArgs { subscriptions: Some(subscriptions), seconds: 1.0, ..base(Name::W4, 1.0) };
        add(workload, "us", run());
        add(workload, "us, centrifuge", RunArgs { dialect: Protocol::Centrifuge, ..run() });
        for one in [Peer::Uws, Peer::Ws, Peer::Nchan, Peer::Nats, Peer::Sockudo] {
            if subscriptions == 1 || one != Peer::Nchan {
                add(workload, one.name(), peer(run(), one));
            }
        }
    }
    // Two processes: one of our threads opens fewer connections than these servers accept.
    let run = || RunArgs { per_worker: scaled(5_000, args.scale), ..base(Name::W5, 1.0) };
    add("w5", "us", run());
    for one in [Peer::Uws, Peer::Ws, Peer::Nchan, Peer::Nats] {
        add("w5", one.name(), peer(run(), one));
    }
    let run = || base(Name::W6, 4.0);
    add("w6", "us", run());
    add("w6", "us, none slow", RunArgs { slow_every: Some(0), ..run() });
    add("w6", Peer::Uws.name(), peer(run(), Peer::Uws));
    add("w6", "uWebSockets, none slow", RunArgs { slow_every: Some(0), ..peer(run(), Peer::Uws) });
    let sessions = base(Name::W7, 4.0).workload().sessions as f64;
    let run = |class| RunArgs { class: Some(class), rate: Some(3.0 * capacity / sessions), ..base(Name::W7, 4.0) };
    add("w7", "us, latest", run(Class::Latest));
    add("w7", "us, merge", run(Class::Merge));
    add("w7", Peer::Uws.name(), peer(run(Class::Latest), Peer::Uws));

    let wanted = |c: &Contender| {
        let name = |n: &Name| format!("{n:?}").to_lowercase();
        (args.only.is_empty() || args.only.iter().any(|n| c.workload.starts_with(&name(n))))
            && (args.servers.is_empty() || args.servers.iter().any(|s| *s == slug(c.server)))
            && c.args.peer.is_none_or(Peer::is_installed)
    };
    all.retain(wanted);
    all
}

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<bool> {
    if args.fresh {
        let _ = std::fs::remove_file(&args.results);
    }
    let mut rows = load(&args.results)?;
    if !args.report_only {
        measure(args, &mut rows)?;
    }
    crate::report::benchmarks::write(&args.out, &rows)?;
    println!("{} runs, written to {}", rows.len(), args.out.display());
    Ok(true)
}

fn load(path: &std::path::Path) -> anyhow::Result<Vec<Row>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    text.lines().map(|line| serde_json::from_str(line).with_context(|| path.display().to_string())).collect()
}

fn measure(args: &BenchArgs, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let wants = |name: Name| args.only.is_empty() || args.only.contains(&name);
    let has = |rows: &[Row], workload: &str, server: &str, round: u32| {
        rows.iter().any(|r| r.workload == workload && r.server == server && r.round == round)
    };
    let known = rows.iter().find_map(|r| r.values.get("capacity").copied());
    let capacity = match known {
        Some(capacity) => capacity,
        None if wants(Name::W7) => {
            println!("finding out what this machine delivers…");
            crate::commands::capacity::find(&RunArgs { server: args.server.clone(), ..RunArgs::of(Name::W7) })?
        }
        None => 0.0,
    };
    let all = contenders(args, capacity);
    let total = all.len() as u64 * u64::from(args.rounds);
    let bar = if args.quiet { ProgressBar::hidden() } else { ProgressBar::new(total) };
    bar.set_style(ProgressStyle::with_template("[{bar:30}] {pos}/{len} {elapsed_precise} (left {eta}) {msg}")?);
    if let Some(folder) = args.results.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = std::fs::File::options().create(true).append(true).open(&args.results)?;
    let mut keep = |rows: &mut Vec<Row>, row: Row| -> anyhow::Result<()> {
        writeln!(file, "{}", serde_json::to_string(&row)?)?;
        rows.push(row);
        Ok(())
    };
    for round in 1..=args.rounds {
        for contender in &all {
            bar.inc(1);
            bar.set_message(format!("round {round}: {} on {}", contender.workload, contender.server));
            if has(rows, contender.workload, contender.server, round) {
                continue;
            }
            let mut values = match once(&contender.args) {
                Ok(report) => report.values(),
                // A failed workload is a result too.
                Err(error) if error.to_string() != "interrupted" => {
                    bar.println(format!("{} on {}: {error:#}", contender.workload, contender.server));
                    BTreeMap::from([("failed".to_owned(), 1.0)])
                }
                Err(error) => return Err(error),
            };
            if contender.workload == "w7" {
                values.insert("capacity".into(), capacity);
            }
            let (workload, server) = (contender.workload.to_owned(), contender.server.to_owned());
            keep(rows, Row { workload, server, round, values })?;
        }
        if args.only.is_empty() && !has(rows, "ingest", "us", round) {
            bar.set_message(format!("round {round}: ingest"));
            let run = CommonArgs { server: args.server.clone(), quiet: true };
            let entries = scaled(1_000_000, args.scale) as u64;
            let ingest = IngestArgs { entries, topics: 500, class: Class::Merge, run };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let got = runtime.block_on(ingest::measure(&ingest))?;
            let values = BTreeMap::from([("per_s".to_owned(), got.per_second), ("cpu_us".to_owned(), got.cpu_us)]);
            keep(rows, Row { workload: "ingest".into(), server: "us".into(), round, values })?;
        }
    }
    bar.finish_and_clear();
    Ok(())
}
