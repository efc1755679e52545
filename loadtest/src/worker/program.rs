//! A worker process: runs its share of the sessions. It takes lines of JSON on standard input and writes lines of JSON
//! to standard output.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2Serializer};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, LocalSet};

use crate::client::check::{Repeats, State, States, Track};
use crate::client::churn;
use crate::client::class::Class;
use crate::client::decode::Decoder;
use crate::client::inflate::Inflated;
use crate::client::session::{BUFFER_BYTES, Session};
use crate::client::shared::{Clock, Counts, LATENCY_US_MAX, Shared, monotonic_ns};
use crate::client::transport;
use crate::worker::message::{Message, Order, Outcome, Progress, Spec};

/// Largest number of connections that a worker opens at once.
const OPENING_MAX: usize = 384;

fn send(message: &Message) {
    let mut out = std::io::stdout().lock();
    let _ = serde_json::to_writer(&mut out, message);
    let _ = out.write_all(b"\n");
    let _ = out.flush();
}

pub(crate) fn run() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, work())
}

/// The addresses to connect from: each has some 28,000 ports. Only if the server is on loopback.
fn sources(servers: &[SocketAddr], addresses: u8) -> Vec<IpAddr> {
    if !servers.iter().all(|server| server.ip().is_loopback() && server.is_ipv4()) {
        return Vec::new();
    }
    let [_, a, b, _] = std::process::id().to_be_bytes();
    (1..=addresses.clamp(1, 254)).map(|n| IpAddr::V4(Ipv4Addr::new(127, a, b.max(1), n))).collect()
}

async fn work() -> anyhow::Result<()> {
    let mut lines = BufReader::with_capacity(1 << 20, tokio::io::stdin()).lines();
    let spec = lines.next_line().await?.context("no specification")?;
    let spec: Spec = serde_json::from_str(&spec)?;
    let shared = Rc::new(Shared {
        sources: sources(&spec.servers, spec.addresses),
        servers: spec.servers,
        homes: spec.homes,
        repeats: spec.endurance.is_some().then(RefCell::default),
        endurance: spec.endurance,
        tls: if spec.tls { Some(transport::connector()?) } else { None },
        decoder: RefCell::new(Decoder::new(&spec.topics)),
        topics: spec.topics,
        classes: spec.classes,
        protocol: spec.protocol,
        batch: spec.batch,
        inflated: spec.deflate.then(|| RefCell::new(Inflated::default())),
        max_rate: spec.max_rate,
        receive_buffer: spec.receive_buffer,
        clock: if spec.payload_clock { Clock::Payload } else { Clock::None },
        polite: spec.polite,
        states: RefCell::new(States::default()),
        latency_us: RefCell::new(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?),
        counts: Counts::default(),
        faults: RefCell::default(),
        closes: RefCell::default(),
        refusals: RefCell::default(),
        buffer: RefCell::new(vec![0; BUFFER_BYTES]),
        now_ns: Cell::new(0),
        ending: Cell::new(false),
    });
    let sessions: Vec<Rc<Session>> = spec
        .sessions
        .iter()
        .enumerate()
        .map(|(i, topics)| {
            let slow = spec.slow_every > 0 && (spec.first + i).is_multiple_of(spec.slow_every);
            Session::new(spec.first + i, topics, slow)
        })
        .collect();
    let tasks: Rc<RefCell<Vec<JoinHandle<()>>>> = Rc::default();

    let (ticker, told) = (shared.clone(), sessions.clone());
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            send(&Message::Progress(progress(&ticker, &told)));
        }
    });
    let mut churning: Option<JoinHandle<()>> = None;
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str(&line)? {
            Order::Connect { rate } => {
                tokio::task::spawn_local(open_all(sessions.clone(), shared.clone(), tasks.clone(), rate));
            }
            Order::Mark => shared.latency_us.borrow_mut().clear(),
            Order::Drop => {
                for task in tasks.borrow_mut().drain(..) {
                    task.abort();
                }
                shared.counts.subscribed.set(0);
            }
            Order::Churn(churn) => {
                let task = tokio::task::spawn_local(churn::run(sessions.clone(), shared.topics.len(), churn));
                churning = Some(task);
            }
            Order::Finish { offsets, numbers, timeout_s } => {
                if let Some(task) = churning.take() {
                    task.abort();
                }
                let incomplete = wait_for(&sessions, &offsets, &numbers, Duration::from_secs_f64(timeout_s)).await;
                shared.ending.set(true);
                send(&Message::Outcome(Box::new(outcome(&shared, &sessions, incomplete)?)));
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn open_all(sessions: Vec<Rc<Session>>, shared: Rc<Shared>, tasks: Rc<RefCell<Vec<JoinHandle<()>>>>, rate: f64) {
    let opening = Arc::new(Semaphore::new(OPENING_MAX));
    let began = Instant::now();
    for (i, session) in sessions.into_iter().enumerate() {
        if rate.is_finite() && rate > 0.0 {
            let due = began + Duration::from_secs_f64(i as f64 / rate);
            if due > Instant::now() {
                tokio::time::sleep_until(due.into()).await;
            }
        }
        // The permit is released once the session is subscribed.
        *session.opening.borrow_mut() = opening.clone().acquire_owned().await.ok();
        tasks.borrow_mut().push(tokio::task::spawn_local(session.run(shared.clone())));
    }
}

fn progress(shared: &Shared, sessions: &[Rc<Session>]) -> Progress {
    let counts = &shared.counts;
    let pulse = match shared.endurance {
        None => 0,
        Some(_) => {
            let there = sessions.iter().filter(|s| !s.is_slow() && !s.away.get());
            // A new session has none yet; whether it got any is checked at the end.
            there.filter_map(|s| s.tracks.borrow().first().and_then(|t| t.number)).min().unwrap_or(0)
        }
    };
    Progress {
        at_ns: monotonic_ns(),
        pulse,
        faults: counts.faults.get(),
        stale: counts.stale.get(),
        fresh: counts.fresh.get(),
        recovered: counts.recovered.get(),
        not_recovered: counts.not_recovered.get(),
        connected: counts.connected.get(),
        subscribed: counts.subscribed.get(),
        standing: counts.standing.get(),
        deliveries: counts.deliveries.get(),
        connect_failures: counts.connect_failures.get(),
    }
}

/// Sessions that have not reached the end when the time is over.
async fn wait_for(sessions: &[Rc<Session>], offsets: &[u64], numbers: &[u64], timeout: Duration) -> u64 {
    let deadline = Instant::now() + timeout;
    let end = |ends: &[u64], t: &Track| ends.get(t.topic as usize).copied().unwrap_or(0);
    let mut open: Vec<&Rc<Session>> = sessions.iter().filter(|s| !s.is_slow()).collect();
    loop {
        open.retain(|s| {
            s.tracks.borrow().iter().any(|t| match t.number {
                Some(number) => number < end(numbers, t),
                None => t.offset < end(offsets, t),
            })
        });
        if open.is_empty() || Instant::now() >= deadline {
            return open.len() as u64;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn flat(repeats: &Repeats) -> Vec<(u32, u64, u64)> {
    repeats.iter().map(|((topic, number), times)| (*topic, *number, *times)).collect()
}

fn outcome(shared: &Shared, sessions: &[Rc<Session>], incomplete: u64) -> anyhow::Result<Outcome> {
    let counts = &shared.counts;
    let mut digests: HashMap<*const State, u64> = HashMap::new();
    let mut finals: Vec<BTreeMap<u64, u64>> = vec![BTreeMap::new(); shared.topics.len()];
    for session in sessions.iter().filter(|s| !s.is_slow()) {
        for track in session.tracks.borrow().iter() {
            let class = shared.classes.get(track.topic as usize).copied().unwrap_or(Class::Merge);
            let digest = track.final_digest(class, &mut digests);
            if let Some(by_digest) = finals.get_mut(track.topic as usize) {
                *by_digest.entry(digest).or_default() += 1;
            }
        }
    }
    let mut latency = Vec::new();
    V2Serializer::new().serialize(&shared.latency_us.borrow(), &mut latency)?;
    Ok(Outcome {
        deliveries: counts.deliveries.get(),
        represented: counts.represented.get(),
        snapshots: counts.snapshots.get(),
        bytes: counts.bytes.get(),
        connect_failures: counts.connect_failures.get(),
        recovered: counts.recovered.get(),
        not_recovered: counts.not_recovered.get(),
        faults: counts.faults.get(),
        fault_texts: shared.faults.borrow().clone(),
        closes: shared.closes.borrow().clone(),
        refusals: shared.refusals.borrow().clone(),
        epochs: counts.epochs.get(),
        stale: counts.stale.get(),
        fresh: counts.fresh.get(),
        turns: counts.turns.get(),
        repeats: shared.repeats.as_ref().map_or_else(Vec::new, |repeats| flat(&repeats.borrow())),
        incomplete,
        finals: finals.into_iter().map(|m| m.into_iter().collect()).collect(),
        latency: latency.iter().map(|b| format!("{b:02x}")).collect(),
    })
}
