//! Reads under load: snapshots over REST, and the time from a subscribe to its snapshots.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use fastwebsockets::{OpCode, Payload, Role, WebSocket};
use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::client::shared::LATENCY_US_MAX;
use crate::commands::once::once;
use crate::commands::workload::{Name, RunArgs, Via};
use crate::report::benchmarks::{Marks, rewrite};
use crate::report::summary::{Latency, Report};
use crate::servers::process;
use crate::servers::process::until;

/// Marks of the table in its document.
const MARKS: Marks = Marks { begin: "<!-- reads: begin -->", end: "<!-- reads: end -->" };

/// How long the background load runs before the reads begin, and after them.
const AROUND: Duration = Duration::from_secs(6);

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Number of topics in a subscribe: a watchlist.
const WATCHLIST: usize = 20;

/// Pause of a session between two subscribes: fewer commands per second than a session may send.
const REST: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Args)]
pub(crate) struct ReadsArgs {
    /// Requests per second, open-loop
    #[arg(long, default_value_t = 5_000.0)]
    rate: f64,
    /// Connections for them, kept alive
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Sessions that subscribe to 20 topics, wait for all snapshots, unsubscribe, and begin again
    #[arg(long, default_value_t = 20)]
    watchers: usize,
    /// Seconds that are measured
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Sessions of the W2 in the background
    #[arg(long, default_value_t = 2_000)]
    sessions: usize,
    /// Write the figures as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the table into this document, between its marks
    #[arg(long)]
    out: Option<PathBuf>,
}

/// The results.
#[derive(Debug, Serialize)]
struct Measured {
    requests: u64,
    per_second: f64,
    not_modified: u64,
    errors: u64,
    rest: Latency,
    subscribes: u64,
    snapshot: Latency,
    /// Commands to Redis beside those that follow the stream.
    redis_reads: u64,
    pushed: Latency,
    pushed_sessions: usize,
    closed: u64,
}

pub(crate) fn run(args: &ReadsArgs) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = LocalSet::new().block_on(&runtime, async {
        tokio::select! {
            measured = measure(args) => measured,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })?;
    let table = table(args, &measured);
    println!("{table}");
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&measured)?).with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &args.out {
        rewrite(path, &MARKS, &table)?;
    }
    Ok(measured.errors == 0 && measured.closed == 0)
}

/// Latencies and counts of all tasks.
struct Tally {
    rest_us: Histogram<u64>,
    snapshot_us: Histogram<u64>,
    not_modified: u64,
    errors: u64,
}

async fn measure(args: &ReadsArgs) -> anyhow::Result<Measured> {
    let directory = tempfile::tempdir()?;
    let (_redis, redis) = process::start_redis(directory.path())?;
    let own = RunArgs::of(Name::W2);
    let (server, address, _) = process::start_server(&own.own_server(), Some(&redis), directory.path())?;
    let load = RunArgs {
        url: Some(format!("http://{address}")),
        pid: Some(server.id()),
        redis: Some(redis.clone()),
        via: Some(Via::Redis),
        sessions: Some(args.sessions),
        seconds: args.seconds + 2.0 * AROUND.as_secs_f64(),
        ..own
    };
    let topics = load.workload().topics;
    let behind = tokio::task::spawn_blocking(move || once(&load));
    // Nearly all topics have a state: the sessions are subscribed, and deltas flow.
    let names = tokio::task::spawn_blocking(move || {
        let mut names = Vec::new();
        until(Duration::from_secs(120), || {
            names = listed(address).unwrap_or_default();
            names.len() * 100 >= topics * 95
        })
        .map(|()| names)
    })
    .await?
    .context("the background load did not start")?;

    let mut connection = redis::Client::open(redis.as_str())?.get_multiplexed_async_connection().await?;
    let before = redis_reads(&mut connection).await?;
    let tally = Rc::new(RefCell::new(Tally {
        rest_us: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?,
        snapshot_us: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?,
        not_modified: 0,
        errors: 0,
    }));
    let names: Rc<[String]> = names.into();
    let began = Instant::now() + Duration::from_millis(200);
    let ends = began + Duration::from_secs_f64(args.seconds);
    let mut tasks = Vec::new();
    for n in 0..args.connections {
        let every = args.connections as f64 / args.rate;
        let first = began + Duration::from_secs_f64(n as f64 / args.rate);
        let (names, tally) = (names.clone(), tally.clone());
        tasks.push(tokio::task::spawn_local(async move { read(address, n, first, every, ends, &names, &tally).await }));
    }
    for n in 0..args.watchers {
        let (names, tally) = (names.clone(), tally.clone());
        tasks.push(tokio::task::spawn_local(async move { watch(address, n, ends, &names, &tally).await }));
    }
    for task in tasks {
        task.await??;
    }
    let seconds = began.elapsed().as_secs_f64();
    let redis_reads = redis_reads(&mut connection).await?.saturating_sub(before);
    let report: Report = behind.await??;
    let tally = tally.borrow();
    Ok(Measured {
        requests: tally.rest_us.len(),
        per_second: tally.rest_us.len() as f64 / seconds,
        not_modified: tally.not_modified,
        errors: tally.errors,
        rest: Latency::of(&tally.rest_us),
        subscribes: tally.snapshot_us.len(),
        snapshot: Latency::of(&tally.snapshot_us),
        redis_reads,
        pushed_sessions: args.sessions,
        closed: report.losses().0,
        pushed: report.latency,
    })
}

/// The server's topics.
fn listed(address: SocketAddr) -> anyhow::Result<Vec<String>> {
    let answer: Value = serde_json::from_str(&process::body(address, "/api/topics?prefix=merge:")?)?;
    let names = answer.get("topics").and_then(Value::as_array).context("no list")?;
    Ok(names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// One connection's share of the requests, each measured from its due time. Every other request is conditional on the
/// answer before it.
async fn read(
    address: SocketAddr,
    number: usize,
    first: Instant,
    every: f64,
    ends: Instant,
    names: &[String],
    tally: &RefCell<Tally>,
) -> anyhow::Result<()> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(connection);
    let mut tags: HashMap<&str, String> = HashMap::new();
    for n in 0.. {
        let due = first + Duration::from_secs_f64(n as f64 * every);
        if due >= ends {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
        // Two consecutive requests are for the same topic.
        let name = names.get((number * 31 + n / 2 * 7) % names.len().max(1)).context("no topics")?;
        let tag = (n % 2 == 1).then(|| tags.get(name.as_str())).flatten().cloned();
        let outcome = tokio::time::timeout(PATIENCE, get(&mut sender, address, name, tag.as_deref())).await;
        let mut tally = tally.borrow_mut();
        match outcome {
            Ok(Ok((200, Some(tag)))) => drop(tags.insert(name, tag)),
            Ok(Ok((304, _))) => tally.not_modified += 1,
            _ => tally.errors += 1,
        }
        tally.rest_us.saturating_record(u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(())
}

async fn get(
    sender: &mut SendRequest<Empty<Bytes>>,
    address: SocketAddr,
    topic: &str,
    tag: Option<&str>,
) -> anyhow::Result<(u16, Option<String>)> {
    let mut request = hyper::Request::get(format!("/api/topics/{topic}")).header("Host", address.to_string());
    if let Some(tag) = tag {
        request = request.header("If-None-Match", tag);
    }
    let answer = sender.send_request(request.body(Empty::new())?).await?;
    let status = answer.status().as_u16();
    let tag = answer.headers().get("ETag").and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    answer.into_body().collect().await?;
    Ok((status, tag))
}

/// Subscribes to a watchlist repeatedly, and measures the time until its last snapshot.
async fn watch(
    address: SocketAddr,
    number: usize,
    ends: Instant,
    names: &[String],
    tally: &RefCell<Tally>,
) -> anyhow::Result<()> {
    let mut socket = tokio::time::timeout(PATIENCE, upgrade(address)).await.context("no upgrade in time")??;
    let mut round = 0;
    while Instant::now() < ends {
        let at = |i: usize| names.get((number * 57 + round * 23 + i * 3) % names.len().max(1));
        let wanted: std::collections::BTreeSet<&str> = (0..WATCHLIST).filter_map(at).map(String::as_str).collect();
        let asked = Instant::now();
        send(&mut socket, &json!({"op": "subscribe", "id": 1, "args": wanted})).await?;
        let mut missing = wanted.len();
        while missing > 0 {
            let message = receive(&mut socket).await?;
            if message.get("ok") == Some(&Value::Bool(false)) {
                bail!("a subscribe was refused: {message}");
            }
            missing -= usize::from(message.get("type").is_some_and(|kind| kind == "snapshot"));
        }
        tally
            .borrow_mut()
            .snapshot_us
            .saturating_record(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX));
        send(&mut socket, &json!({"op": "unsubscribe", "id": 2, "args": wanted})).await?;
        while receive(&mut socket).await?.get("id") != Some(&json!(2)) {}
        tokio::time::sleep(REST).await;
        round += 1;
    }
    Ok(())
}

async fn upgrade(address: SocketAddr) -> anyhow::Result<WebSocket<TcpStream>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // The server sends nothing before the first command.
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.context("closed during the upgrade")?);
    }
    if !head.starts_with(b"HTTP/1.1 101") {
        bail!("upgrade refused: {}", String::from_utf8_lossy(&head).lines().next().unwrap_or(""));
    }
    let mut socket = WebSocket::after_handshake(stream, Role::Client);
    socket.set_auto_pong(true);
    Ok(socket)
}

async fn send(socket: &mut WebSocket<TcpStream>, command: &Value) -> anyhow::Result<()> {
    let frame = fastwebsockets::Frame::text(Payload::Owned(command.to_string().into_bytes()));
    Ok(tokio::time::timeout(PATIENCE, socket.write_frame(frame)).await.context("the server did not read in time")??)
}

async fn receive(socket: &mut WebSocket<TcpStream>) -> anyhow::Result<Value> {
    loop {
        let frame = tokio::time::timeout(PATIENCE, socket.read_frame()).await.context("no answer in time")??;
        match frame.opcode {
            OpCode::Text => return Ok(serde_json::from_slice(&frame.payload)?),
            OpCode::Close => bail!("closed by the server"),
            _ => {}
        }
    }
}

/// Number of commands that read something and do not follow a stream (`XREAD`, each with one `GET` of its epoch).
async fn redis_reads(connection: &mut redis::aio::MultiplexedConnection) -> anyhow::Result<u64> {
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(connection).await?;
    let calls = |name: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
        line.and_then(|rest| rest.split(',').next()).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    let others: u64 = ["hget", "hmget", "hgetall", "hvals", "mget", "xrange", "xrevrange"].into_iter().map(calls).sum();
    Ok(calls("get").saturating_sub(calls("xread")) + others)
}

fn table(args: &ReadsArgs, m: &Measured) -> String {
    let mut text = format!(
        "By `nexus-loadtest reads`: {:.0} requests/s over {} connections, and {} sessions that subscribe to\n\
         {WATCHLIST} topics again and again, for {:.0} s. Meanwhile W2 runs with {} sessions, through Redis. Server,\n\
         Redis, load and readers share 2 cores.\n\n\
         | request | p50, ms | p95, ms | p99, ms | max, ms | count |\n|---|---|---|---|---|---|\n",
        args.rate, args.connections, args.watchers, args.seconds, args.sessions
    );
    let mut row = |what: &str, l: &Latency, more: String| {
        let _ = writeln!(
            text,
            "| {what} | {:.1} | {:.1} | {:.1} | {:.1} | {more} |",
            l.p50_ms, l.p95_ms, l.p99_ms, l.max_ms
        );
    };
    let errors = 100.0 * m.errors as f64 / m.requests.max(1) as f64;
    row(
        "snapshot over REST",
        &m.rest,
        format!(
            "{} requests, {:.0}/s, {errors:.3} % errors, {} answered 304",
            m.requests, m.per_second, m.not_modified
        ),
    );
    row("subscribe, until the last of 20 snapshots", &m.snapshot, format!("{} subscribes", m.subscribes));
    row("a pushed delta", &m.pushed, format!("{} sessions, {} closed", m.pushed_sessions, m.closed));
    let reads = m.requests + m.subscribes * WATCHLIST as u64;
    let _ = writeln!(
        text,
        "\nReads served from memory: {:.3} % ({} of {reads} asked Redis).",
        100.0 * (1.0 - m.redis_reads as f64 / reads.max(1) as f64),
        m.redis_reads
    );
    text
}
