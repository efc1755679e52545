//! An hour of W2 with churn and faults: sessions leave, come back and change their subscriptions; Redis, a second node
//! and clients fail in turn. One node runs all the time. At the end its memory and descriptors must be as at the
//! beginning, and no session may lack a delta.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::chaos::args::ChaosArgs;
use crate::chaos::{Habits, Node, NodeOptions, Plan, Redis, TestBed, Verdict, interrupt, source};
use crate::client::churn::Churn;
use crate::client::shared::Endurance;
use crate::report::benchmarks::{median, taken};
use crate::report::chart::{Panel, lines};
use crate::worker::message::Order;

#[derive(Debug, Clone, Args)]
pub(crate) struct SoakArgs {
    /// Duration in minutes
    #[arg(long, default_value_t = 60.0)]
    pub(crate) minutes: f64,
    /// Sessions
    #[arg(long, default_value_t = 5_000)]
    pub(crate) sessions: usize,
    /// Topics: one in 20 of class stream, one in 20 latest, the others merge
    #[arg(long, default_value_t = 500)]
    pub(crate) topics: usize,
    /// Subscriptions of each session
    #[arg(long, default_value_t = 20)]
    pub(crate) subscriptions: usize,
    /// Deltas per second
    #[arg(long, default_value_t = 500)]
    pub(crate) rate: u64,
    /// Bytes of each delta's JSON
    #[arg(long, default_value_t = 150)]
    pub(crate) payload: usize,
    /// Sessions that leave and come back per second [default: one in 100 of all]
    #[arg(long)]
    pub(crate) leaves: Option<f64>,
    /// Subscriptions that are exchanged per second [default: one session in 100]
    #[arg(long)]
    pub(crate) switches: Option<f64>,
    /// Server to start [default: nexus-push beside this program]
    #[arg(long)]
    pub(crate) server: Option<PathBuf>,
    /// Memory and descriptors over time, as a picture
    #[arg(long, default_value = "target/soak.svg")]
    pub(crate) svg: PathBuf,
    /// Write the report as JSON to this file
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Seed of all random choices
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// No progress bar
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// Time between two samples of the node.
const SAMPLE: Duration = Duration::from_secs(2);

/// Interval of pings, and how long clients wait for one: a busy machine answers late.
const PING: Duration = Duration::from_secs(5);
const CLIENTS: Endurance = Endurance { silence: Duration::from_secs(12), connect: Duration::from_secs(10) };

/// Longest time between two faults; a short run has them closer together.
const BETWEEN: Duration = Duration::from_secs(45);

/// Time after a fault in which all sessions must be whole again.
const LIMIT: Duration = Duration::from_secs(60);

/// Warm-up: a twelfth of the run, at least this, at most half of the run. Histories fill up in two minutes.
const WARM_UP_MIN: Duration = Duration::from_secs(150);

/// The windows that are compared, at the beginning and at the end: a quarter of the rest, at most this.
const WINDOW_MAX: Duration = Duration::from_secs(600);

/// Growth that counts as noise.
const RSS_SLACK: f64 = 0.05;
const RSS_SLACK_BYTES: f64 = 4e6;
const DESCRIPTORS_SLACK: f64 = 0.01;
const DESCRIPTORS_SLACK_COUNT: f64 = 16.0;

#[derive(Debug, Clone, Copy, Serialize)]
struct Sample {
    s: f64,
    rss_bytes: u64,
    descriptors: usize,
    sessions: f64,
}

/// The faults, in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    RedisKilled,
    ClientsCut,
    NodeKilled,
    RedisPaused,
    ClientsHang,
    NodePaused,
}

const TURNS: [Fault; 6] = [
    Fault::RedisKilled,
    Fault::ClientsCut,
    Fault::NodeKilled,
    Fault::RedisPaused,
    Fault::ClientsHang,
    Fault::NodePaused,
];

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::RedisKilled => "Redis killed, back after 3 s",
            Self::ClientsCut => "clients cut off, back after 3 s",
            Self::NodeKilled => "second node killed, back after 5 s",
            Self::RedisPaused => "Redis stopped for 10 s",
            Self::ClientsHang => "clients hang for 8 s",
            Self::NodePaused => "second node stopped for 18 s",
        }
    }
}

/// Groups of sessions: on the long-lived node; on that node and cut off at times; on the second node.
const STEADY: usize = 0;
const UNLUCKY: usize = 1;
const ELSEWHERE: usize = 2;

/// The servers that faults happen to.
struct Servers {
    redis: Redis,
    node: Node,
    second: Node,
}

/// Runs it; false if anything was lost or grew.
pub(crate) fn run(args: &SoakArgs) -> anyhow::Result<bool> {
    interrupt::watch();
    let chaos = ChaosArgs {
        scenarios: Vec::new(),
        list: false,
        seconds: None,
        sessions: args.sessions,
        rate: args.rate,
        payload: args.payload,
        server: args.server.clone(),
        json: None,
        markdown: None,
        seed: args.seed,
        quiet: args.quiet,
    };
    let twentieth = (args.topics / 20).max(1);
    let plan = Plan {
        streams: twentieth,
        latest: twentieth,
        merge: args.topics.saturating_sub(2 * twentieth + 1).max(1),
        subscriptions: args.subscriptions,
        pulse: Duration::from_secs(1),
        whole: Duration::from_secs(4),
        clients: CLIENTS,
    };
    let total = Duration::from_secs_f64(args.minutes * 60.0);
    let bar = if args.quiet { ProgressBar::hidden() } else { ProgressBar::new(total.as_secs()) };
    bar.set_style(ProgressStyle::with_template("[{bar:30}] {elapsed_precise} {msg}")?.progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(500));
    let mut test_bed = TestBed::new(&chaos, plan, ProgressBar::hidden())?;
    let mut servers = start_servers(&mut test_bed, args)?;
    let mut soak = Soak::new(total, bar);
    let outcome = soak.go(&mut test_bed, &mut servers);
    soak.bar.finish_and_clear();
    if let Err(error) = outcome {
        // Ctrl-C ends it early, with a report of the time so far.
        if !interrupt::came() {
            return Err(error);
        }
        println!("interrupted after {:.1} of {} minutes", soak.elapsed_s() / 60.0, args.minutes);
    }
    interrupt::forget();
    let checks = soak.flat();
    for (name, passed, detail) in checks {
        test_bed.check(&name, passed, detail);
    }
    let verdict = test_bed.finish("soak", "one hour of W2 with churn and faults")?;
    drop(servers);
    soak.report(args, &verdict)?;
    Ok(verdict.passed())
}

fn start_servers(test_bed: &mut TestBed<'_>, args: &SoakArgs) -> anyhow::Result<Servers> {
    let redis = Redis::persistent(test_bed.directory())?;
    let options = NodeOptions {
        source: source(redis.port),
        namespaces: "history_size = 2048\nhistory_ttl = \"2m\"\n".to_owned(),
        ping: Some(PING),
        program: args.server.clone(),
        ..NodeOptions::default()
    };
    let node = Node::start(test_bed.directory(), "long-lived", &options)?;
    let second = Node::start(test_bed.directory(), "second", &options)?;
    let (few, one_home) = (args.sessions / 10, true);
    let habits = Habits { one_home, ..Habits::default() };
    test_bed.sessions(&[node.address], args.sessions.saturating_sub(2 * few), habits)?;
    test_bed.sessions(&[node.address], few, habits)?;
    test_bed.sessions(&[second.address, node.address], few, habits)?;
    let store = test_bed.store(redis.port);
    test_bed.publish(store)?;
    let hundredth = args.sessions as f64 / 100.0;
    for group in [STEADY, ELSEWHERE] {
        let share = if group == STEADY { 0.9 } else { 0.1 };
        let churn = Churn {
            leaves: args.leaves.unwrap_or(hundredth) * share,
            switches: args.switches.unwrap_or(hundredth) * share,
            seed: args.seed + group as u64,
        };
        test_bed.order(group, &Order::Churn(churn))?;
    }
    Ok(Servers { redis, node, second })
}

struct Soak {
    began: Instant,
    total: Duration,
    bar: ProgressBar,
    samples: Vec<Sample>,
    sampled: Option<Instant>,
    /// Seconds until recovery, by fault.
    whole_s: BTreeMap<Fault, Vec<f64>>,
    late: Vec<String>,
}

impl Soak {
    fn new(total: Duration, bar: ProgressBar) -> Self {
        Self {
            began: Instant::now(),
            total,
            bar,
            samples: Vec::new(),
            sampled: None,
            whole_s: BTreeMap::new(),
            late: Vec::new(),
        }
    }

    fn elapsed_s(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    fn go(&mut self, test_bed: &mut TestBed<'_>, servers: &mut Servers) -> anyhow::Result<()> {
        let between = BETWEEN.min(self.total / 12);
        for turn in TURNS.into_iter().cycle() {
            let next = Instant::now() + between;
            let left = self.total.saturating_sub(self.began.elapsed());
            // The last fault needs time for recovery.
            if left < between.max(Duration::from_secs(20)) {
                return self.wait(test_bed, servers, left, "no more faults");
            }
            self.wait(test_bed, servers, between / 3, "no fault")?;
            self.hurt(test_bed, servers, turn)?;
            if let Err(error) = self.heal(test_bed, servers) {
                if interrupt::came() {
                    return Err(error);
                }
                // The error is about the last check only.
                let why = if test_bed.has_ended() { format!("{error:#}") } else { format!("not within {LIMIT:?}") };
                self.late.push(format!("{}: {why}", turn.name()));
            }
            self.whole_s.entry(turn).or_default().push(test_bed.whole_after_s());
            test_bed.forget_timeline();
            self.wait(test_bed, servers, next.saturating_duration_since(Instant::now()), "no fault")?;
        }
        Ok(())
    }

    fn hurt(&mut self, test_bed: &mut TestBed<'_>, servers: &mut Servers, fault: Fault) -> anyhow::Result<()> {
        test_bed.fault(fault.name());
        match fault {
            Fault::RedisKilled => {
                servers.redis.kill();
                self.wait(test_bed, servers, Duration::from_secs(3), fault.name())?;
                servers.redis.start_again()?;
            }
            Fault::RedisPaused => {
                servers.redis.pause()?;
                self.wait(test_bed, servers, Duration::from_secs(10), fault.name())?;
                servers.redis.go_on()?;
            }
            Fault::NodeKilled => {
                servers.second.kill();
                self.wait(test_bed, servers, Duration::from_secs(5), fault.name())?;
                servers.second.start_again()?;
            }
            Fault::NodePaused => {
                servers.second.pause()?;
                self.wait(test_bed, servers, Duration::from_secs(18), fault.name())?;
                servers.second.go_on()?;
            }
            Fault::ClientsCut => {
                test_bed.order(UNLUCKY, &Order::Drop)?;
                self.wait(test_bed, servers, Duration::from_secs(3), fault.name())?;
                test_bed.order(UNLUCKY, &Order::Connect { rate: 1_000.0 })?;
            }
            Fault::ClientsHang => {
                test_bed.pause_group(UNLUCKY, true)?;
                let waited = self.wait(test_bed, servers, Duration::from_secs(8), fault.name());
                test_bed.pause_group(UNLUCKY, false)?;
                waited?;
            }
        }
        test_bed.healed();
        Ok(())
    }

    /// Waits until all sessions are whole, and samples the node meanwhile.
    fn heal(&mut self, test_bed: &mut TestBed<'_>, servers: &Servers) -> anyhow::Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match test_bed.whole(SAMPLE) {
                Ok(()) => return Ok(()),
                Err(error) if interrupt::came() || Instant::now() > deadline || test_bed.has_ended() => {
                    return Err(error);
                }
                Err(_) => self.sample(servers)?,
            }
        }
    }

    fn wait(
        &mut self,
        test_bed: &mut TestBed<'_>,
        servers: &Servers,
        time: Duration,
        what: &str,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            if self.sampled.is_none_or(|at| at.elapsed() >= SAMPLE) {
                self.sample(servers)?;
            }
            self.bar.set_position(self.began.elapsed().as_secs());
            if let Some(last) = self.samples.last() {
                let (mb, faults) = (last.rss_bytes as f64 / 1e6, test_bed.faults());
                self.bar.set_message(format!(
                    "{mb:.1} MB, {} descriptors, oldest {} ms, {faults} faults | {what}",
                    last.descriptors,
                    test_bed.age_ms()
                ));
            }
            test_bed.wait(left.min(Duration::from_millis(500)))?;
        }
    }

    fn sample(&mut self, servers: &Servers) -> anyhow::Result<()> {
        self.sampled = Some(Instant::now());
        self.samples.push(Sample {
            s: self.elapsed_s(),
            rss_bytes: servers.node.rss_bytes()?,
            descriptors: servers.node.open_descriptors()?,
            // A busy node may answer late, which must not end the run.
            sessions: servers.node.metric("sessions").unwrap_or_default(),
        });
        Ok(())
    }

    /// The two windows that are compared, in seconds.
    fn windows(&self) -> [(f64, f64); 2] {
        let end = self.samples.last().map_or(0.0, |s| s.s);
        let warm = (end / 12.0).max(WARM_UP_MIN.as_secs_f64()).min(end / 2.0);
        let width = ((end - warm) / 4.0).min(WINDOW_MAX.as_secs_f64());
        [(warm, warm + width), (end - width, end)]
    }

    fn median(&self, (from, to): (f64, f64), of: fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().filter(|s| s.s >= from && s.s <= to).map(of).collect()).unwrap_or(0.0)
    }

    /// Growth per second after the warm-up, by least squares.
    fn slope(&self, of: fn(&Sample) -> f64) -> f64 {
        let [(from, _), _] = self.windows();
        let points: Vec<(f64, f64)> = self.samples.iter().filter(|s| s.s >= from).map(|s| (s.s, of(s))).collect();
        slope(&points)
    }

    /// Name, result and figures of each check.
    fn flat(&self) -> Vec<(String, bool, String)> {
        let [first, last] = self.windows();
        let rss: fn(&Sample) -> f64 = |s| s.rss_bytes as f64;
        let descriptors: fn(&Sample) -> f64 = |s| s.descriptors as f64;
        let (rss_first, rss_last) = (self.median(first, rss), self.median(last, rss));
        let (fd_first, fd_last) = (self.median(first, descriptors), self.median(last, descriptors));
        let minutes = |(from, to): (f64, f64)| format!("minutes {:.0} to {:.0}", from / 60.0, to / 60.0);
        vec![
            (
                "memory is flat".to_owned(),
                rss_last <= rss_first * (1.0 + RSS_SLACK) + RSS_SLACK_BYTES,
                format!(
                    "median of {}: {:.1} MB, of {}: {:.1} MB; {:+.2} MB per hour",
                    minutes(first),
                    rss_first / 1e6,
                    minutes(last),
                    rss_last / 1e6,
                    self.slope(rss) * 3_600.0 / 1e6
                ),
            ),
            (
                "descriptors are flat".to_owned(),
                fd_last <= fd_first * (1.0 + DESCRIPTORS_SLACK) + DESCRIPTORS_SLACK_COUNT,
                format!("{fd_first:.0}, then {fd_last:.0}; {:+.1} per hour", self.slope(descriptors) * 3_600.0),
            ),
            (
                format!("whole within {LIMIT:?} after every fault"),
                self.late.is_empty(),
                format!("{} faults {}", self.whole_s.values().map(Vec::len).sum::<usize>(), self.late.join("; ")),
            ),
        ]
    }

    fn report(&self, args: &SoakArgs, verdict: &Verdict) -> anyhow::Result<()> {
        let minutes = self.elapsed_s() / 60.0;
        println!(
            "\nsoak: {minutes:.0} minutes, {} sessions × {} of {} topics, {} deltas/s; {}",
            args.sessions,
            args.subscriptions,
            args.topics,
            args.rate,
            taken()
        );
        let row = |name: &str, value: String| println!("  {name:<36} {value}");
        row("deliveries", format!("{} of {} deltas", verdict.seen.deliveries, verdict.acknowledged));
        row("sessions left, returned or changed", format!("{} times", verdict.seen.turns));
        for (fault, whole) in &self.whole_s {
            let worst = whole.iter().copied().fold(0.0, f64::max);
            row(fault.name(), format!("{} times; recovered at most {worst:.1} s after it", whole.len()));
        }
        row("clients saw", verdict.saw.clone());
        for check in &verdict.checks {
            println!("  {} {} ({})", if check.passed { "ok  " } else { "FAIL" }, check.name, check.detail);
        }
        let points = |of: fn(&Sample) -> f64| self.samples.iter().map(|s| (s.s / 60.0, of(s))).collect::<Vec<_>>();
        let (rss, descriptors) = (points(|s| s.rss_bytes as f64 / 1e6), points(|s| s.descriptors as f64));
        let sessions = points(|s| s.sessions);
        let panels = [
            Panel { title: "resident memory of the node that runs throughout, MB", points: &rss },
            Panel { title: "its open descriptors", points: &descriptors },
            Panel { title: "its sessions", points: &sessions },
        ];
        let shaded = self.windows().map(|(from, to)| (from / 60.0, to / 60.0));
        if let Some(folder) = args.svg.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let title = format!("W2 with churn and faults, {minutes:.0} minutes; the shaded windows are compared");
        std::fs::write(&args.svg, lines(&title, &panels, &shaded)).with_context(|| args.svg.display().to_string())?;
        println!("  picture: {}", args.svg.display());
        if let Some(path) = &args.json {
            let whole: BTreeMap<&str, &Vec<f64>> = self.whole_s.iter().map(|(f, w)| (f.name(), w)).collect();
            let report = serde_json::json!({
                "minutes": minutes, "verdict": verdict, "samples": self.samples, "whole_s": whole, "windows_s": self.windows(),
            });
            std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
        }
        Ok(())
    }
}

/// Slope of the line that fits the points best.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len().max(1) as f64;
    let (mean_x, mean_y) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let (over, under) = points.iter().fold((0.0, 0.0), |(over, under), (x, y)| {
        (over + (x - mean_x) * (y - mean_y), under + (x - mean_x) * (x - mean_x))
    });
    if under > 0.0 { over / under } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_slope() {
        let points: Vec<(f64, f64)> = (0..50).map(|n| (f64::from(n), 3.0 * f64::from(n) + 7.0)).collect();
        assert!((slope(&points) - 3.0).abs() < 1e-9);
        assert!(slope(&points[..1]) == 0.0 && slope(&[]) == 0.0);
    }

    #[test]
    fn growth_is_detected_and_noise_is_not() {
        let soak = |growth: u64| {
            let mut soak = Soak::new(Duration::ZERO, ProgressBar::hidden());
            soak.samples = (0..1_800u64)
                .map(|n| Sample {
                    s: n as f64 * 2.0,
                    rss_bytes: 100_000_000 + n % 7 * 300_000 + n * growth,
                    descriptors: 5_000 + usize::from(n % 3 == 0) * 400,
                    sessions: 4_500.0,
                })
                .collect();
            soak.flat().into_iter().map(|(_, passed, _)| passed).collect::<Vec<_>>()
        };
        assert_eq!(soak(0), [true, true, true]);
        assert_eq!(soak(10_000), [false, true, true]);
    }
}
