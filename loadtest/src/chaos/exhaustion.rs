//! Exhausted resources: descriptors, memory.

use std::time::Duration;

use anyhow::Context as _;

use crate::chaos::programs::{Node, NodeOptions, Redis};
use crate::chaos::redis_faults::{LIMIT, options};
use crate::chaos::test_bed::Props;
use crate::chaos::test_bed::{Habits, TestBed};
use crate::client::shared::monotonic_ns;
use crate::publish::stream_entry::StreamEntry;

/// Descriptors reserved from sessions (`limits.fd_reserve`).
const RESERVE: usize = 64;

/// First, more sessions than the node has descriptors for: they get an error. Then it has no descriptor left: they wait
/// until it has one.
pub(super) fn descriptors(test_bed: &mut TestBed<'_>) -> anyhow::Result<Props> {
    let redis = Redis::in_memory(test_bed.directory())?;
    let sessions = test_bed.args.sessions;
    let most = u64::try_from(sessions + RESERVE)?;
    let limits = format!("fd_reserve = {RESERVE}\n");
    let full = NodeOptions { descriptors: Some(most), limits: limits.clone(), ..options(test_bed, redis.port) };
    let full = Node::start(test_bed.directory(), "full", &full)?;
    let wide = NodeOptions { descriptors: Some(4 * most), limits, ..options(test_bed, redis.port) };
    let wide = Node::start(test_bed.directory(), "wide", &wide)?;
    test_bed.sessions(&[full.address], sessions, Habits::default())?;
    test_bed.sessions(&[wide.address], sessions, Habits::default())?;
    let store = test_bed.store(redis.port);
    test_bed.publish(store)?;

    test_bed.fault("more sessions than descriptors");
    let began_ns = monotonic_ns();
    let time = test_bed.fault_time(Duration::from_secs(5));
    let unawaited = Habits { unawaited: true, ..Habits::default() };
    test_bed.sessions(&[full.address], sessions / 2, unawaited)?;
    test_bed.wait(time)?;
    let refused = full.metric("upgrades_refused_total")?;
    let head = crate::servers::process::get(full.address, "/healthz").unwrap_or_default();
    let last = test_bed.dismiss()?;
    test_bed.check(
        "who is too many is told so",
        refused > 0.0 && last.connected == 0 && last.connect_failures > 0,
        format!("{refused} upgrades answered 503, {} sessions were accepted", last.connected),
    );
    test_bed.check("HTTP is served all the same", head.starts_with("HTTP/1.1 200"), "/healthz".to_owned());

    test_bed.say("no descriptor left");
    let open = wide.open_descriptors()?;
    wide.limit_descriptors(u64::try_from(open + sessions / 10)?)?;
    test_bed.sessions(&[wide.address], sessions / 2, unawaited)?;
    test_bed.wait(time)?;
    let connected = test_bed.groups.last().map_or(0, |group| group.last.connected);
    // As many as there were descriptors, and a few that HTTP connections freed.
    let few = connected < (sessions / 4) as u64;
    test_bed.check(
        "with no descriptor left no session connects",
        few,
        format!("{connected} of {} had got the last", sessions / 2),
    );
    let oldest = test_bed.groups.iter().take(2).map(|group| group.timeline.oldest_ms(began_ns)).max().unwrap_or(0);
    test_bed.check(
        "those who were there noticed nothing",
        oldest < 1_000,
        format!("their data was never older than {oldest} ms"),
    );
    wide.limit_descriptors(4 * most)?;
    test_bed.healed();
    test_bed.until("all get in", LIMIT, |test_bed| {
        test_bed.groups.last().is_some_and(|group| group.last.connected >= (sessions / 2) as u64)
    })?;
    test_bed.whole(LIMIT)?;
    Ok(Box::new((redis, full, wide)))
}

/// The limit (`limits.memory`), in MiB.
const CEILING_MIB: u64 = 256;

/// Sessions that never read, and the bytes of each of their deltas.
const SLOW: usize = 400;
const FLOOD_BYTES: usize = 8 * 1_024;

/// Deltas per batch of the flood, and its topics.
const FLOOD_TOGETHER: usize = 200;

/// Length of the stream during the flood, about.
const FLOOD_STREAM_MAX: usize = 20_000;
const FLOOD_TOPICS: usize = 4_000;
/// Topics of the flood that slow sessions have.
const FLOOD_WATCHED: usize = 20;

/// Sockets that are not read and endless history, under a limit on memory: the limit holds, and
/// sessions that read are not affected.
pub(super) fn memory(test_bed: &mut TestBed<'_>) -> anyhow::Result<Props> {
    let redis = Redis::in_memory(test_bed.directory())?;
    let limits = format!("memory = \"{CEILING_MIB}MiB\"\n");
    let node = NodeOptions { limits, ..options(test_bed, redis.port) };
    let node = Node::start(test_bed.directory(), "node-1", &node)?;
    test_bed.sessions(&[node.address], test_bed.args.sessions, Habits::default())?;
    let store = test_bed.store(redis.port);
    test_bed.publish(store)?;
    test_bed.fault("a flood, and sessions that do not read");
    let began_ns = monotonic_ns();
    let watched: Vec<String> = (0..FLOOD_WATCHED).map(|n| format!("stream:flood{n}")).collect();
    test_bed.slow_readers(node.address, &watched, SLOW)?;
    let until_ns = began_ns + u64::try_from(test_bed.fault_time(Duration::from_secs(20)).as_nanos())?;
    let mut connection = crate::chaos::store::open(&format!("127.0.0.1:{}", redis.port))?;
    let filler = "x".repeat(FLOOD_BYTES);
    let (mut highest, mut sent) = (0, 0_usize);
    while monotonic_ns() < until_ns {
        let mut pipe = redis::pipe();
        for n in sent..sent + FLOOD_TOGETHER {
            // Every other delta is for the sessions that do not read.
            let topic = if n % 2 == 0 { n / 2 % FLOOD_WATCHED } else { n / 2 % FLOOD_TOPICS };
            let data = format!("{{\"flood\":{n},\"x\":\"{filler}\"}}");
            let topic = format!("stream:flood{topic}");
            let entry = StreamEntry { max_len: Some(FLOOD_STREAM_MAX), ..StreamEntry::new(&topic, &data) };
            pipe.add_command(entry.append()).ignore();
        }
        pipe.query::<()>(&mut connection).context("the flood")?;
        sent += FLOOD_TOGETHER;
        test_bed.wait(Duration::from_millis(100))?;
        highest = highest.max(node.rss_bytes()?);
    }
    test_bed.healed();
    let ceiling = CEILING_MIB << 20;
    test_bed.check(
        "memory stays below the ceiling",
        highest < ceiling,
        format!("{:.0} MiB at most, the ceiling is {CEILING_MIB} MiB", highest as f64 / (1 << 20) as f64),
    );
    let (evicted, relieved) = (node.metric("history_evicted_total")?, node.metric("backlog_evictions_total")?);
    test_bed.check(
        "history and backlogs were cut",
        evicted > 0.0 && relieved > 0.0,
        format!("{evicted} deltas left history early, {relieved} sessions were closed because of their backlogs"),
    );
    test_bed.note(format!("{} MB were published beside the checked topics", sent * FLOOD_BYTES / 1_000_000));
    test_bed.whole(LIMIT)?;
    Ok(Box::new((redis, node)))
}
