//! One run of a workload, from starting its processes to the report.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::index;

use crate::client::class::Class;
use crate::commands::workload::{Name, RunArgs, Via, Workload};
use crate::publish::publisher::{Expected, Publisher};
use crate::publish::recording;
use crate::report::summary::{Report, Storm};
use crate::servers::process;
use crate::servers::process::{Process, cpu_time, rss_bytes};
use crate::worker::message::{Order, Outcome, Spec};
use crate::worker::pool::WorkerPool;

/// Time in which sessions must get the last deltas at the end.
const FINISH_TIMEOUT_S: f64 = 60.0;

/// Pause before memory is read.
const SETTLE: Duration = Duration::from_secs(3);

/// The same for workloads that are not about memory.
const SETTLE_SHORT: Duration = Duration::from_secs(1);

/// Time for which sessions stay away in W5.
const AWAY: Duration = Duration::from_secs(1);

impl WorkerPool {
    /// Waits until `subscribed` sessions are subscribed.
    pub(crate) async fn all_subscribed(
        &mut self,
        sessions: u64,
        limit: Duration,
        bar: &ProgressBar,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let progress = self.listen();
            bar.set_position(progress.subscribed);
            if progress.subscribed >= sessions {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "only {} of {sessions} sessions are subscribed after {limit:?}, {} attempts failed",
                    progress.subscribed,
                    progress.connect_failures
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn finish(&mut self, offsets: Vec<u64>) -> anyhow::Result<Vec<Outcome>> {
        self.order(&Order::Finish { offsets, numbers: Vec::new(), timeout_s: FINISH_TIMEOUT_S })?;
        let deadline = Instant::now() + Duration::from_secs_f64(FINISH_TIMEOUT_S + 60.0);
        loop {
            self.listen();
            if self.outcomes.iter().all(Option::is_some) {
                return Ok(self.outcomes.iter_mut().filter_map(Option::take).collect());
            }
            if Instant::now() > deadline {
                bail!("a worker does not report");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(crate) fn bar(quiet: bool, length: u64, what: &'static str) -> anyhow::Result<ProgressBar> {
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(length) };
    bar.set_style(
        ProgressStyle::with_template("{msg:>12} [{bar:40}] {human_pos}/{human_len} {elapsed}")?.progress_chars("=> "),
    );
    bar.set_message(what);
    Ok(bar)
}

pub(crate) fn once(args: &RunArgs) -> anyhow::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            report = measure(args) => report,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })
}

/// The server under load.
struct Target {
    /// Address for sessions.
    server: SocketAddr,
    /// Address for publishing.
    publish: SocketAddr,
    pid: u32,
    redis: Option<String>,
    // Ended in this order after the run.
    _server: Option<Process>,
    _redis: Option<Process>,
    _directory: tempfile::TempDir,
}

fn target(args: &RunArgs, workload: &Workload) -> anyhow::Result<Target> {
    let directory = tempfile::tempdir()?;
    let (redis_process, redis) = match (&args.redis, workload.via) {
        (Some(url), _) => (None, Some(url.clone())),
        (None, Via::Redis) if args.url.is_none() => {
            let (process, url) = process::start_redis(directory.path())?;
            (Some(process), Some(url))
        }
        (None, Via::Redis) => bail!("with --url, name the Redis that the server reads: --redis"),
        (None, Via::Api) => (None, None),
    };
    let (process, server, publish, pid) = match (&args.url, args.pid) {
        (Some(url), Some(pid)) => {
            let host = url.strip_prefix("http://").context("--url: write http://HOST:PORT")?.trim_end_matches('/');
            let address = host
                .to_socket_addrs()
                .with_context(|| format!("--url {url}"))?
                .next()
                .context("--url has no address")?;
            (None, address, address, pid)
        }
        _ => {
            let (process, address, publish) = match args.peer {
                Some(peer) => peer.start(directory.path())?,
                None => {
                    let (process, address, sessions) =
                        process::start_server(&args.own_server(), redis.as_deref(), directory.path())?;
                    (process, sessions, address)
                }
            };
            let pid = process.id();
            (Some(process), address, publish, pid)
        }
    };
    Ok(Target { server, publish, pid, redis, _server: process, _redis: redis_process, _directory: directory })
}

/// The topics of each session.
pub(crate) fn assignments(workload: &Workload) -> Vec<Vec<u32>> {
    let mut rng = StdRng::seed_from_u64(workload.seed ^ 0x5eed);
    let all = workload.subscriptions >= workload.topics;
    let pick = |rng: &mut StdRng| -> Vec<u32> {
        if all {
            return (0..).take(workload.topics).collect();
        }
        index::sample(rng, workload.topics, workload.subscriptions)
            .into_iter()
            .filter_map(|i| u32::try_from(i).ok())
            .collect()
    };
    (0..workload.sessions).map(|_| pick(&mut rng)).collect()
}

async fn measure(args: &RunArgs) -> anyhow::Result<Report> {
    let mut workload = args.workload();
    let (files, names, length) = if workload.is_replay() {
        let files = recording::files(&args.data)?;
        let (names, length) = recording::topics(&files, args.recording_seconds)?;
        workload.topics = names.len();
        workload.subscriptions = names.len();
        workload.seconds = length.as_secs_f64() / workload.speed;
        (files, names, length)
    } else {
        (Vec::new(), (0..workload.topics).map(|n| workload.topic(n)).collect(), Duration::ZERO)
    };
    let classes: Vec<Class> = names
        .iter()
        .map(|name| if workload.is_replay() { recording::class_of(name) } else { workload.class })
        .collect();
    let target = target(args, &workload)?;
    let mut report = Report::new(&workload, target.pid);

    let assigned = assignments(&workload);
    let specs: Vec<Spec> = assigned
        .chunks(args.per_worker.max(1))
        .enumerate()
        .map(|(i, chunk)| Spec {
            tls: args.tls,
            protocol: workload.protocol,
            max_rate: workload.max_rate,
            slow_every: workload.slow_every,
            deflate: workload.deflate,
            batch: workload.batch,
            payload_clock: !workload.is_replay(),
            receive_buffer: args.receive_buffer,
            sessions: chunk.to_vec(),
            first: i * args.per_worker,
            ..Spec::of(vec![target.server], names.clone(), classes.clone())
        })
        .collect();
    let mut pool = WorkerPool::start(&specs, None)?;
    report.workers = specs.len();

    // Memory that the first session causes once is not counted as the sessions' memory.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let rss_before = rss_bytes(target.pid);
    let sessions = workload.sessions as u64;
    let connecting = bar(args.quiet, sessions, "connecting")?;
    let began = Instant::now();
    pool.order(&Order::Connect { rate: args.connect_rate / specs.len() as f64 })?;
    let limit = Duration::from_secs_f64(60.0 + workload.sessions as f64 / args.connect_rate);
    pool.all_subscribed(sessions, limit, &connecting).await?;
    report.connect_s = began.elapsed().as_secs_f64();
    connecting.finish_and_clear();
    tokio::time::sleep(if workload.name == Name::W4 { SETTLE } else { SETTLE_SHORT }).await;
    report.rss_before = rss_before;
    report.rss_connected = rss_bytes(target.pid);

    pool.order(&Order::Mark)?;
    let deliveries_before = pool.listen().deliveries;
    let cpu_before = cpu_time(target.pid)?;
    let running = bar(args.quiet, Duration::from_secs_f64(workload.seconds).as_secs() + 1, "running")?;
    let clock = Instant::now();
    let expected: Vec<Expected> = if workload.is_replay() {
        let url = target.redis.clone().context("W8 needs Redis")?;
        running.set_length(length.as_secs());
        let (sent, counts) = recording::play(&url, &files, workload.speed, args.recording_seconds, |at, _| {
            running.set_position(at.as_secs())
        })
        .await?;
        report.published = sent;
        report.recording = Some(counts);
        report.publish_s = clock.elapsed().as_secs_f64();
        let mut by_name = recording::expected(&url).await?;
        names.iter().map(|name| by_name.remove(name).map(|(_, e)| e).unwrap_or_default()).collect()
    } else {
        let redis = target.redis.as_deref().filter(|_| workload.via == Via::Redis);
        let mut publisher = Publisher::connect(&workload, target.publish, args.key.clone(), redis).await?;
        let duration = Duration::from_secs_f64(workload.seconds);
        let ticking = async {
            loop {
                running.set_position(clock.elapsed().as_secs());
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let storming = async {
            if workload.name == Name::W5 {
                tokio::time::sleep(duration / 4).await;
                let storm = storm(&mut pool, sessions).await?;
                return anyhow::Ok(Some(storm));
            }
            Ok(None)
        };
        let both = async { tokio::join!(publisher.run(duration), storming) };
        let (published, storm) = tokio::select! {
            both = both => both,
            () = ticking => bail!("unreachable"),
        };
        report.published = published?;
        report.storm = storm?;
        report.publish_s = clock.elapsed().as_secs_f64();
        report.publisher_late_ms = publisher.latest.as_secs_f64() * 1_000.0;
        publisher.expected
    };
    running.finish_and_clear();

    let outcomes = pool.finish(expected.iter().map(|e| e.offset).collect()).await?;
    report.total_s = clock.elapsed().as_secs_f64();
    report.cpu_s = (cpu_time(target.pid)? - cpu_before).as_secs_f64();
    report.rss_after = rss_bytes(target.pid);
    report.add(&outcomes, deliveries_before)?;
    report.check(&workload, &names, &classes, &expected, &outcomes, &assigned);
    Ok(report)
}

/// Cuts all sessions off, waits a moment, and lets all reconnect at once.
async fn storm(pool: &mut WorkerPool, sessions: u64) -> anyhow::Result<Storm> {
    pool.order(&Order::Drop)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while pool.listen().connected > 0 {
        if Instant::now() > deadline {
            bail!("sessions cannot be cut off");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(AWAY).await;
    pool.listen();
    let began = Instant::now();
    pool.order(&Order::Connect { rate: f64::MAX })?;
    pool.all_subscribed(sessions, Duration::from_secs(120), &ProgressBar::hidden()).await?;
    let whole_s = began.elapsed().as_secs_f64();
    Ok(Storm { whole_s, connects_per_s: sessions as f64 / whole_s })
}
