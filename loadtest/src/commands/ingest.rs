//! How fast the server takes deltas from Redis into topics without subscribers.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::commands::workload::RunArgs;
use crate::publish::stream_entry::StreamEntry;
use crate::servers::process;
use crate::servers::process::{cpu_time, rss_bytes};

/// Time in which the server must read everything.
const TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Args)]
pub(crate) struct IngestArgs {
    /// Entries of the stream
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) entries: u64,
    /// Topics of the entries
    #[arg(long, default_value_t = 500)]
    pub(crate) topics: u64,
    /// Delivery class of the topics: stream, latest or merge
    #[arg(long, default_value = "merge")]
    pub(crate) class: crate::client::class::Class,
    #[command(flatten)]
    pub(crate) run: CommonArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CommonArgs {
    /// Program of the server that is started [default: nexus-push beside this program]
    #[arg(long)]
    pub(crate) server: Option<std::path::PathBuf>,
    /// No progress bars
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct Ingested {
    pub(crate) entries: u64,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    pub(crate) cpu_us: f64,
    pub(crate) rss_bytes: u64,
    pub(crate) longest_lag_ms: u64,
}

pub(crate) fn run(args: &IngestArgs) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = measure(args) => result,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })?;
    println!(
        "{} entries of 150 B on {} topics, class {}, no subscribers",
        result.entries,
        args.topics,
        args.class.name()
    );
    println!("server, Redis and this program share this machine's cores");
    println!("  ingested                   {:.2} s, {:.0} deltas/s", result.seconds, result.per_second);
    println!("  server CPU                 {:.2} µs per delta", result.cpu_us);
    println!("  longest lag in /status     {} ms, 0 at the end", result.longest_lag_ms);
    println!("  server memory              {:.1} MB", result.rss_bytes as f64 / 1e6);
    Ok(true)
}

/// Fills the stream while the server is stopped (SIGSTOP), then measures how long it reads.
pub(crate) async fn measure(args: &IngestArgs) -> anyhow::Result<Ingested> {
    let directory = tempfile::tempdir()?;
    let (_redis, url) = process::start_redis(directory.path())?;
    let run = RunArgs { server: args.run.server.clone(), ..RunArgs::of(crate::commands::workload::Name::W8) };
    let (server, address, _) = process::start_server(&run.own_server(), Some(&url), directory.path())?;
    let stopped = Stopped::new(server.id())?;
    let bar = if args.run.quiet { ProgressBar::hidden() } else { ProgressBar::new(args.entries) };
    bar.set_style(ProgressStyle::with_template("{msg:>12} [{bar:40}] {human_pos}/{human_len} {elapsed}")?);
    bar.set_message("filling");
    let mut connection = redis::Client::open(url.as_str())?.get_multiplexed_async_connection().await?;
    let filler = "x".repeat(110);
    let mut sent = 0;
    while sent < args.entries {
        let mut pipe = redis::pipe();
        for n in sent..(sent + 5_000).min(args.entries) {
            let topic = format!("{}:t{}", args.class.name(), n % args.topics.max(1));
            let data = format!("{{\"n\":{n},\"p{}\":\"{filler}\"}}", n % 8);
            pipe.add_command(StreamEntry::new(&topic, &data).append()).ignore();
        }
        let () = pipe.query_async(&mut connection).await?;
        sent = (sent + 5_000).min(args.entries);
        bar.set_position(sent);
    }
    bar.set_message("reading");
    bar.set_position(0);
    let cpu = cpu_time(server.id())?;
    let began = Instant::now();
    drop(stopped);
    let (mut taken, mut longest_lag_ms) = (0, 0);
    while taken < args.entries {
        if began.elapsed() > TIMEOUT {
            bail!("only {taken} of {} entries were read within {TIMEOUT:?}", args.entries);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let status = tokio::task::spawn_blocking(move || process::status(address)).await??;
        let source = status.pointer("/sources/0").context("/status has no source")?;
        taken = source.get("deltas").and_then(serde_json::Value::as_u64).unwrap_or(0);
        longest_lag_ms = longest_lag_ms.max(source.get("lag_ms").and_then(serde_json::Value::as_u64).unwrap_or(0));
        bar.set_position(taken);
    }
    let seconds = began.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let cpu = cpu_time(server.id())? - cpu;
    Ok(Ingested {
        entries: args.entries,
        seconds,
        per_second: args.entries as f64 / seconds,
        cpu_us: cpu.as_secs_f64() * 1e6 / args.entries as f64,
        rss_bytes: rss_bytes(server.id()),
        longest_lag_ms,
    })
}

/// A stopped process (SIGSTOP); dropping this continues it.
struct Stopped(rustix::process::Pid);

impl Stopped {
    fn new(pid: u32) -> anyhow::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).context("no process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::CONT);
    }
}
