//! As many sessions at once as several nodes and several processes of this harness can have on one
//! machine, with the traffic of watchlists. A process has 20,000 descriptors here, so each node and
//! each worker has a part. Sessions connect to the nodes directly, each worker to its own: a balancer
//! would need two descriptors for each.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;

use crate::client::class::Class;
use crate::client::protocol::Protocol;
use crate::commands::once::{assignments, bar};
use crate::commands::scale_out::grouped;
use crate::commands::workload::{Name, RunArgs, Via, Workload};
use crate::publish::publisher::Publisher;
use crate::report::benchmarks::{Marks, machine, publish};
use crate::report::summary::Report;
use crate::servers::node::{Node, Setup};
use crate::servers::process::{free_port, start_redis};
use crate::worker::message::{Order, Spec};
use crate::worker::pool::WorkerPool;

const MARKS: Marks = Marks { begin: "<!-- connections: begin -->", end: "<!-- connections: end -->" };

/// Pause before memory is read.
const SETTLE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Args)]
pub(crate) struct ConnectionsArgs {
    /// Sessions
    #[arg(long, default_value_t = 60_000)]
    sessions: usize,
    /// Sessions per node and per worker process
    #[arg(long, default_value_t = 15_000)]
    per_node: usize,
    /// Topics in all; class `merge`
    #[arg(long, default_value_t = 500)]
    topics: usize,
    /// Subscriptions of each session
    #[arg(long, default_value_t = 5)]
    subscriptions: usize,
    /// Deltas per second, over all topics
    #[arg(long, default_value_t = 60.0)]
    rate: f64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Connections opened per second, over all nodes
    #[arg(long, default_value_t = 2_000.0)]
    connect_rate: f64,
    /// Document whose table is written; "-" is none
    #[arg(long, default_value = "docs/scale-out.md")]
    out: PathBuf,
    /// Program of the server [default: nexus-push beside this program]
    #[arg(long)]
    server: Option<PathBuf>,
    /// No progress bars
    #[arg(long)]
    quiet: bool,
}

impl ConnectionsArgs {
    fn workload(&self) -> Workload {
        Workload {
            sessions: self.sessions,
            topics: self.topics,
            subscriptions: self.subscriptions.min(self.topics),
            rate: self.rate,
            class: Class::Merge,
            via: Via::Redis,
            protocol: Protocol::Plain,
            seconds: self.seconds,
            ..RunArgs::of(Name::W2).workload()
        }
    }
}

/// Resources of one node.
struct Used {
    name: String,
    sessions: u64,
    rss_before: u64,
    rss_connected: u64,
    rss_after: u64,
    cpu: Duration,
}

pub(crate) fn run(args: &ConnectionsArgs) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (report, used) = runtime.block_on(async {
        tokio::select! {
            outcome = measure(args) => outcome,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })?;
    let text = table(args, &report, &used);
    publish(&report, &text, &args.out, &MARKS)
}

async fn measure(args: &ConnectionsArgs) -> anyhow::Result<(Report, Vec<Used>)> {
    let workload = args.workload();
    let names: Vec<String> = (0..workload.topics).map(|n| workload.topic(n)).collect();
    let classes = vec![workload.class; names.len()];
    let directory = tempfile::tempdir()?;
    let (_redis, url) = start_redis(directory.path())?;
    let setup = Setup::new(args.server.as_deref(), &url);
    let per_node = args.per_node.max(1);
    let nodes: Vec<Node> = (1..=args.sessions.div_ceil(per_node))
        .map(|n| Node::start(&format!("node {n}"), free_port()?, &setup))
        .collect::<anyhow::Result<_>>()?;

    let assigned = assignments(&workload);
    let specs: Vec<Spec> = assigned
        .chunks(per_node)
        .zip(&nodes)
        .enumerate()
        .map(|(i, (chunk, node))| Spec {
            protocol: workload.protocol,
            sessions: chunk.to_vec(),
            first: i * per_node,
            ..Spec::of(vec![node.address], names.clone(), classes.clone())
        })
        .collect();
    let mut report = Report::new(&workload, 0);
    report.workers = specs.len();
    let mut pool = WorkerPool::start(&specs, None)?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before: Vec<u64> = nodes.iter().map(Node::rss_bytes).collect();

    let sessions = args.sessions as u64;
    let connecting = bar(args.quiet, sessions, "connecting")?;
    let began = Instant::now();
    pool.order(&Order::Connect { rate: args.connect_rate / specs.len() as f64 })?;
    let limit = Duration::from_secs_f64(60.0 + args.sessions as f64 / args.connect_rate);
    pool.all_subscribed(sessions, limit, &connecting).await?;
    report.connect_s = began.elapsed().as_secs_f64();
    connecting.finish_and_clear();
    tokio::time::sleep(SETTLE).await;
    let connected: Vec<u64> = nodes.iter().map(Node::rss_bytes).collect();
    let held: Vec<u64> = nodes.iter().map(Node::sessions).collect::<anyhow::Result<_>>()?;

    pool.order(&Order::Mark)?;
    let deliveries_before = pool.listen().deliveries;
    let cpu: Vec<Duration> = nodes.iter().map(Node::cpu_time).collect::<anyhow::Result<_>>()?;
    let running = bar(args.quiet, Duration::from_secs_f64(args.seconds).as_secs() + 1, "running")?;
    let clock = Instant::now();
    let address = nodes.first().map_or_else(|| ([127, 0, 0, 1], 0).into(), |node| node.address);
    let mut publisher = Publisher::connect(&workload, address, None, Some(&url)).await?;
    let ticking = async {
        loop {
            running.set_position(clock.elapsed().as_secs());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    report.published = tokio::select! {
        published = publisher.run(Duration::from_secs_f64(args.seconds)) => published?,
        () = ticking => bail!("unreachable"),
    };
    report.publish_s = clock.elapsed().as_secs_f64();
    report.publisher_late_ms = publisher.latest.as_secs_f64() * 1_000.0;
    running.finish_and_clear();

    let expected = publisher.expected;
    let outcomes = pool.finish(expected.iter().map(|e| e.offset).collect()).await?;
    report.total_s = clock.elapsed().as_secs_f64();
    let mut used = Vec::new();
    for (i, node) in nodes.iter().enumerate() {
        let at = |list: &[u64]| list.get(i).copied().unwrap_or(0);
        let cpu = node.cpu_time()?.saturating_sub(cpu.get(i).copied().unwrap_or_default());
        report.cpu_s += cpu.as_secs_f64();
        used.push(Used {
            name: node.name.clone(),
            sessions: at(&held),
            rss_before: at(&before),
            rss_connected: at(&connected),
            rss_after: node.rss_bytes(),
            cpu,
        });
    }
    report.add(&outcomes, deliveries_before)?;
    report.check(&workload, &names, &classes, &expected, &outcomes, &assigned);
    Ok((report, used))
}

fn table(args: &ConnectionsArgs, report: &Report, used: &[Used]) -> String {
    let (machine, date) = machine();
    let w = &report.workload;
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let mut text = format!(
        "Taken on {date} by `nexus-loadtest connections --sessions {}`:\n\
         {machine}.\n\
         The nodes (one shard each), Redis, {} worker processes of the harness and the publisher share it.\n\
         Sessions connect to the nodes directly.\n\
         {} sessions × {} of {} `merge` topics, {} deltas/s of {} B through Redis, {} s.\n\n\
         | node | sessions | CPU of one core | resident memory before, connected, at the end | user memory per session |\n|---|---|---|---|---|\n",
        args.sessions,
        report.workers,
        grouped(w.sessions as u64),
        w.subscriptions,
        w.topics,
        w.rate,
        w.payload,
        w.seconds,
    );
    for node in used {
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} % | {:.0}, {:.0}, {:.0} MB | {:.0} B |",
            node.name,
            grouped(node.sessions),
            node.cpu.as_secs_f64() / report.total_s.max(0.001) * 100.0,
            mb(node.rss_before),
            mb(node.rss_connected),
            mb(node.rss_after),
            node.rss_connected.saturating_sub(node.rss_before) as f64 / node.sessions.max(1) as f64,
        );
    }
    let l = &report.latency;
    let closed: u64 = report.closes.values().sum();
    let _ = write!(
        text,
        "\n| all nodes | |\n|---|---|\n\
         | sessions held at once | {} |\n| connected in | {:.1} s ({:.0}/s, {} attempts failed) |\n\
         | published | {} deltas |\n| delivered | {} ({:.0}/s), for {} deltas |\n| server CPU per delivery | {:.2} µs |\n\
         | latency from publishing to receipt | p50 {:.1}, p95 {:.1}, p99 {:.1}, max {:.1} ms |\n\
         | sessions closed | {closed} |\n| faults | {} |\n| sessions without the last delta of every topic | {} |\n\
         | {} |",
        grouped(used.iter().map(|node| node.sessions).sum()),
        report.connect_s,
        w.sessions as f64 / report.connect_s.max(0.001),
        report.connect_failures,
        grouped(report.published),
        grouped(report.deliveries),
        report.deliveries as f64 / report.total_s.max(0.001),
        grouped(report.represented),
        report.cpu_per_delivery_us(),
        l.p50_ms,
        l.p95_ms,
        l.p99_ms,
        l.max_ms,
        report.faults,
        report.incomplete,
        ends(report),
    );
    text
}

/// Whether every session ended with the state of the source, from the report's check.
fn ends(report: &Report) -> String {
    let check = report.checks.iter().find(|check| check.name.starts_with("every session ended"));
    check.map_or_else(String::new, |check| {
        format!("{} | {} ({})", check.name, if check.passed { "yes" } else { "**no**" }, check.detail.trim())
    })
}
