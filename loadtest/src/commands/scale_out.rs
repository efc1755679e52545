//! Scale-out: nodes on one Redis behind a real balancer. One node is drained, one is killed, one is added. The run
//! measures how long it takes until every session is subscribed again and the nodes have equally many, how many
//! sessions reconnect in the busiest second, and whether anything was lost.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::client::class::Class;
use crate::client::protocol::Protocol;
use crate::commands::once::{assignments, bar};
use crate::commands::workload::{Name, RunArgs, Via, Workload};
use crate::publish::publisher::Publisher;
use crate::report::benchmarks::{Marks, machine, publish};
use crate::report::summary::Report;
use crate::servers::balancer::Balancer;
use crate::servers::node::{Node, Setup, acquainted, prime};
use crate::servers::process::{free_port, start_redis};
use crate::worker::message::{Order, Spec};
use crate::worker::pool::WorkerPool;

const HAPROXY_MARKS: Marks =
    Marks { begin: "<!-- scale-out, HAProxy: begin -->", end: "<!-- scale-out, HAProxy: end -->" };
const NGINX_MARKS: Marks = Marks { begin: "<!-- scale-out, nginx: begin -->", end: "<!-- scale-out, nginx: end -->" };

/// Longest wait for the end of an event.
const PATIENCE: Duration = Duration::from_secs(180);

/// Interval between two checks of the sessions, and between two of the nodes.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_AT_NODES: Duration = Duration::from_millis(250);

/// How long traffic runs before and after each event.
const QUIET: Duration = Duration::from_secs(3);

/// Most sockets of a balancer: it has 20,000 descriptors and needs two per socket.
const SOCKETS_MAX: usize = 9_000;

#[derive(Debug, Clone, Args)]
pub(crate) struct ScaleOutArgs {
    /// Balancer
    #[arg(long, default_value = "haproxy")]
    balancer: Balancer,
    /// Sessions
    #[arg(long, default_value_t = 6_000)]
    sessions: usize,
    /// Topics in all; class `stream`
    #[arg(long, default_value_t = 500)]
    topics: usize,
    /// Subscriptions of each session
    #[arg(long, default_value_t = 5)]
    subscriptions: usize,
    /// Deltas per second, over all topics
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Protocol of the sessions: plain or centrifuge
    #[arg(long, default_value = "plain")]
    dialect: Protocol,
    /// Time over which a node closes its sessions
    #[arg(long, default_value = "10s")]
    drain_window: String,
    /// Time over which a full node closes sessions so that a new one gets them [default: 20s behind HAProxy, whose slow
    /// start sends most of them back at first, else 5s]
    #[arg(long)]
    shed_window: Option<String>,
    /// Largest distance from the mean of a node that counts as even, in %
    #[arg(long, default_value_t = 10.0)]
    within: f64,
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

impl ScaleOutArgs {
    fn workload(&self) -> Workload {
        Workload {
            sessions: self.sessions,
            topics: self.topics,
            subscriptions: self.subscriptions.min(self.topics),
            rate: self.rate,
            class: Class::Stream,
            via: Via::Redis,
            protocol: self.dialect,
            ..RunArgs::of(Name::W2).workload()
        }
    }

    fn shed_window(&self) -> &str {
        let usual = if self.balancer == Balancer::Haproxy { "20s" } else { "5s" };
        self.shed_window.as_deref().unwrap_or(usual)
    }

    fn command(&self) -> String {
        let mut command = format!("nexus-loadtest scale-out --balancer {}", self.balancer.name().to_lowercase());
        if self.sessions != 6_000 {
            let _ = write!(command, " --sessions {}", self.sessions);
        }
        command
    }
}

/// The result of one event.
#[derive(Debug)]
struct Event {
    what: String,
    /// Sessions that had to move.
    moved: u64,
    /// Until all sessions were subscribed again.
    whole_s: f64,
    /// Until the nodes had equally many sessions.
    spread_s: f64,
    /// Most sessions that reconnected within one second.
    busiest_s: u64,
    /// Sessions of each node at the end.
    nodes: Vec<u64>,
}

/// Counts of all sessions at one time.
#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    subscribed: u64,
    standing: u64,
}

/// The workers, and their counts over time.
struct Watch {
    pool: RefCell<WorkerPool>,
    looks: RefCell<Vec<Look>>,
}

impl Watch {
    fn look(&self) -> Look {
        let progress = self.pool.borrow_mut().listen();
        let look = Look { at: Instant::now(), subscribed: progress.subscribed, standing: progress.standing };
        self.looks.borrow_mut().push(look);
        look
    }

    /// Takes counts until it is dropped.
    async fn keep_looking(&self) {
        loop {
            self.look();
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Sessions that subscribed in the busiest second since `began`.
    fn busiest_second(&self, began: Instant) -> u64 {
        busiest(self.looks.borrow().iter().filter(|look| look.at >= began).map(|look| (look.at, look.subscribed)))
    }
}

/// Largest growth of a counter within one second.
fn busiest(counts: impl Iterator<Item = (Instant, u64)>) -> u64 {
    let counts: Vec<(Instant, u64)> = counts.collect();
    let mut most = 0;
    let mut first = 0;
    for (at, count) in &counts {
        while counts.get(first).is_some_and(|(then, _)| at.duration_since(*then) > Duration::from_secs(1)) {
            first += 1;
        }
        most = most.max(count.saturating_sub(counts.get(first).map_or(0, |(_, then)| *then)));
    }
    most
}

/// Whether no node is further than `within` % from the mean.
fn is_spread(nodes: &[u64], within: f64) -> bool {
    let mean = nodes.iter().sum::<u64>() as f64 / nodes.len().max(1) as f64;
    mean > 0.0 && nodes.iter().all(|n| (*n as f64 - mean).abs() <= mean * within / 100.0)
}

pub(crate) fn run(args: &ScaleOutArgs) -> anyhow::Result<bool> {
    // Requests to nodes in between must not delay the connection to Redis.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (report, events) = runtime.block_on(async {
        tokio::select! {
            outcome = measure(args) => outcome,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })?;
    let text = table(args, &report, &events);
    let marks = if args.balancer == Balancer::Haproxy { &HAPROXY_MARKS } else { &NGINX_MARKS };
    publish(&report, &text, &args.out, marks)
}

async fn measure(args: &ScaleOutArgs) -> anyhow::Result<(Report, Vec<Event>)> {
    let workload = args.workload();
    let names: Vec<String> = (0..workload.topics).map(|n| workload.topic(n)).collect();
    let classes = vec![workload.class; names.len()];
    let directory = tempfile::tempdir()?;
    let (_redis, url) = start_redis(directory.path())?;
    prime(&url, &names).await?;
    let setup = Setup { drain_window: args.drain_window.clone(), ..Setup::new(args.server.as_deref(), &url) };
    let ports: Vec<u16> = (0..4).map(|_| free_port()).collect::<anyhow::Result<_>>()?;
    let node = |n: usize| {
        let port = ports.get(n).copied().context("no port")?;
        Node::start(&format!("node {}", n + 1), port, &setup)
    };
    let (mut first, second, third) = (node(0)?, node(1)?, node(2)?);
    let (_front, front) = args.balancer.start(&ports, SOCKETS_MAX, directory.path())?;

    let assigned = assignments(&workload);
    let per_worker = args.sessions.div_ceil(2).max(1);
    let specs: Vec<Spec> = assigned
        .chunks(per_worker)
        .enumerate()
        .map(|(i, chunk)| Spec {
            protocol: workload.protocol,
            // Many client addresses with a dozen sessions each, because balancers limit sessions by address.
            addresses: 250,
            polite: true,
            sessions: chunk.to_vec(),
            first: i * per_worker,
            ..Spec::of(vec![front], names.clone(), classes.clone())
        })
        .collect();
    let mut report = Report::new(&workload, 0);
    report.closes_are_meant = true;
    report.workers = specs.len();
    let mut pool = WorkerPool::start(&specs, None)?;
    let sessions = args.sessions as u64;
    let connecting = bar(args.quiet, sessions, "connecting")?;
    let began = Instant::now();
    pool.order(&Order::Connect { rate: 1_000.0 / specs.len() as f64 })?;
    pool.all_subscribed(sessions, PATIENCE, &connecting).await?;
    report.connect_s = began.elapsed().as_secs_f64();
    connecting.finish_and_clear();
    pool.order(&Order::Mark)?;

    let watch = Watch { pool: RefCell::new(pool), looks: RefCell::default() };
    let start: Vec<u64> = [&first, &second, &third].iter().map(|n| n.sessions()).collect::<anyhow::Result<_>>()?;
    let mut events = vec![Event {
        what: "three nodes, all connected".into(),
        moved: sessions,
        whole_s: report.connect_s,
        spread_s: report.connect_s,
        busiest_s: 0,
        nodes: start,
    }];
    let clock = Instant::now();
    let mut publisher = Publisher::connect(&workload, front, None, Some(&url)).await?;
    let over = Cell::new(false);
    let publishing = async {
        let mut published = 0;
        while !over.get() {
            published += publisher.run(Duration::from_secs(1)).await?;
        }
        anyhow::Ok(published)
    };
    let happening = async {
        // Publishing ends in any case.
        let outcome = async {
            tokio::time::sleep(QUIET).await;

            let before = Before::now(&watch, first.sessions()?);
            first.terminate()?;
            let gone = || first.is_gone();
            events.push(watched("one drained (SIGTERM)", args, &watch, before, &[&second, &third], gone).await?);
            tokio::time::sleep(QUIET).await;

            let before = Before::now(&watch, second.sessions()?);
            second.kill()?;
            events.push(watched("one killed (SIGKILL)", args, &watch, before, &[&third], || Ok(true)).await?);
            tokio::time::sleep(QUIET).await;

            let before = Before::now(&watch, 0);
            let (port, its) = (ports.get(3).copied().context("no port")?, setup.clone());
            let fourth = tokio::task::spawn_blocking(move || Node::start("node 4", port, &its)).await??;
            while !acquainted(&[&third, &fourth]) {
                tokio::time::sleep(LOOK_AT_NODES).await;
            }
            events.push(filled(args, &watch, before, &third, &fourth).await?);
            tokio::time::sleep(QUIET).await;
            anyhow::Ok((third, fourth))
        }
        .await;
        over.set(true);
        outcome
    };
    let both = async { tokio::join!(publishing, happening) };
    let (published, nodes) = tokio::select! {
        both = both => both,
        () = watch.keep_looking() => bail!("unreachable"),
    };
    let _nodes = nodes?;
    report.published = published?;
    report.publish_s = clock.elapsed().as_secs_f64();
    let expected = publisher.expected;
    let outcomes = watch.pool.into_inner().finish(expected.iter().map(|e| e.offset).collect()).await?;
    report.total_s = clock.elapsed().as_secs_f64();
    report.add(&outcomes, 0)?;
    report.check(&workload, &names, &classes, &expected, &outcomes, &assigned);
    Ok((report, events))
}

/// Counts at the beginning of an event.
struct Before {
    at: Instant,
    subscribed: u64,
    /// Number of sessions that must move.
    moved: u64,
}

impl Before {
    fn now(watch: &Watch, moved: u64) -> Self {
        let look = watch.look();
        Self { at: look.at, subscribed: look.subscribed, moved }
    }
}

/// Waits until all sessions that had to move are back and the remaining nodes have equally many.
async fn watched(
    what: &str,
    args: &ScaleOutArgs,
    watch: &Watch,
    before: Before,
    nodes: &[&Node],
    mut done: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<Event> {
    let mut whole_s = None;
    loop {
        let look = watch.look();
        let whole = look.standing >= args.sessions as u64 && look.subscribed >= before.subscribed + before.moved;
        let counts: Vec<u64> = nodes.iter().map(|node| node.sessions()).collect::<anyhow::Result<_>>()?;
        if whole && done()? {
            let now_s = before.at.elapsed().as_secs_f64();
            let whole_s = *whole_s.get_or_insert(now_s);
            if is_spread(&counts, args.within) && counts.iter().sum::<u64>() == args.sessions as u64 {
                let busiest_s = watch.busiest_second(before.at);
                let (what, moved) = (what.to_owned(), before.moved);
                return Ok(Event { what, moved, whole_s, spread_s: now_s, busiest_s, nodes: counts });
            }
        }
        if before.at.elapsed() > PATIENCE {
            bail!(
                "{what}: not over after {PATIENCE:?}: {} sessions subscribed, the nodes have {counts:?}",
                look.standing
            );
        }
        tokio::time::sleep(LOOK_AT_NODES).await;
    }
}

/// Asks the full node to close the sessions that it has above the mean, until the new one has as many.
async fn filled(args: &ScaleOutArgs, watch: &Watch, before: Before, full: &Node, new: &Node) -> anyhow::Result<Event> {
    let mut moved = 0;
    loop {
        let look = watch.look();
        let counts = vec![full.sessions()?, new.sessions()?];
        let whole = look.standing >= args.sessions as u64 && look.subscribed >= before.subscribed + moved;
        if whole && is_spread(&counts, args.within) {
            let spread_s = before.at.elapsed().as_secs_f64();
            let what = "one added, `to=mean` sent to the full one".to_owned();
            let busiest_s = watch.busiest_second(before.at);
            return Ok(Event { what, moved, whole_s: spread_s, spread_s, busiest_s, nodes: counts });
        }
        if whole {
            moved += full.shed(args.shed_window())?.unwrap_or(0);
        }
        if before.at.elapsed() > PATIENCE {
            bail!(
                "one added: not over after {PATIENCE:?}: {} sessions subscribed, the nodes have {counts:?}",
                look.standing
            );
        }
        tokio::time::sleep(LOOK_AT_NODES).await;
    }
}

fn table(args: &ScaleOutArgs, report: &Report, events: &[Event]) -> String {
    let (machine, date) = machine();
    let w = &report.workload;
    let mut text = format!(
        "Taken on {date} by `{}`:\n\
         {machine}.\n\
         The nodes, {} {}, Redis, sessions and publisher share it.\n\
         {} sessions ({}) × {} of {} `stream` topics, {} deltas/s of {} B.\n\
         Drain window {}, rebalancing window {}; nodes count as even within {} % of the mean.\n\n\
         | event | sessions that moved | all subscribed after | nodes even after | peak of reconnects per second | sessions of each node |\n\
         |---|---|---|---|---|---|\n",
        args.command(),
        args.balancer.name(),
        args.balancer.version(),
        grouped(w.sessions as u64),
        if w.protocol == Protocol::Plain { "`plain`" } else { "Centrifuge" },
        w.subscriptions,
        w.topics,
        w.rate,
        w.payload,
        args.drain_window,
        args.shed_window(),
        args.within,
    );
    for event in events {
        let busiest = if event.busiest_s > 0 { grouped(event.busiest_s) } else { "paced at 1,000".into() };
        let nodes: Vec<String> = event.nodes.iter().map(|n| grouped(*n)).collect();
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} s | {:.1} s | {busiest} | {} |",
            event.what,
            grouped(event.moved),
            event.whole_s,
            event.spread_s,
            nodes.join(", ")
        );
    }
    let closes: Vec<String> = report.closes.iter().map(|(why, n)| format!("{why}: {}", grouped(*n))).collect();
    let _ = write!(
        text,
        "\n{} deltas published, {} delivered; {} subscriptions recovered, {} not.\n\
         {} faults, {} sessions without the last delta of every topic.\n\
         Latency of deliveries, recovered ones included: p50 {:.1}, p99 {:.0}, max {:.0} ms.\n\
         Reasons of connections that ended or failed: {}.\n{}",
        grouped(report.published),
        grouped(report.represented),
        grouped(report.recovered),
        grouped(report.not_recovered),
        report.faults,
        report.incomplete,
        report.latency.p50_ms,
        report.latency.p99_ms,
        report.latency.max_ms,
        closes.join("; "),
        if report.passed() { "Nothing was lost." } else { "**Some checks failed.**" },
    );
    text
}

/// With commas between thousands.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_second_is_found_wherever_it_is() {
        let began = Instant::now();
        let at = |ms: u64, count: u64| (began + Duration::from_millis(ms), count);
        assert_eq!(busiest([].into_iter()), 0);
        assert_eq!(busiest([at(0, 5), at(500, 9), at(1_400, 20), at(1_600, 21), at(9_000, 30)].into_iter()), 11);
    }

    #[test]
    fn spread_is_within_a_share_of_the_mean() {
        assert!(is_spread(&[100, 91, 109], 10.0));
        assert!(!is_spread(&[100, 80, 120], 10.0));
        assert!(!is_spread(&[0, 0], 10.0), "no sessions");
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
