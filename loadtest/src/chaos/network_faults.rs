//! Networks that are cut between clients and the server, or between a node and Redis.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;

use crate::chaos::network::{Namespace, Proxy};
use crate::chaos::programs::{Node, NodeOptions, Redis};
use crate::chaos::redis_faults::{LIMIT, options};
use crate::chaos::test_bed::Props;
use crate::chaos::test_bed::{Habits, TestBed};
use crate::client::shared::monotonic_ns;

/// Time that a full socket may stall (`limits.stall_timeout`, shorter here).
const STALL: &str = "stall_timeout = \"10s\"\n";

/// Time in which a server must notice that clients are gone: a full socket's time-out and some more.
const NOTICE: Duration = Duration::from_secs(40);

/// Half of the clients are in a network namespace, and its link is cut: neither end is told.
pub(super) fn half_open(test_bed: &mut TestBed<'_>) -> anyhow::Result<Props> {
    let namespace = Namespace::new()?;
    let redis = Redis::in_memory(test_bed.directory())?;
    let options = NodeOptions { listen_everywhere: true, limits: STALL.to_owned(), ..options(test_bed, redis.port) };
    let node = Node::start(test_bed.directory(), "node-1", &options)?;
    let half = test_bed.args.sessions / 2;
    test_bed.sessions(&[node.address], half, Habits::default())?;
    let from_inside = SocketAddr::new(namespace.host, node.address.port());
    let inside = Habits { namespace: Some(&namespace.name), ..Habits::default() };
    test_bed.sessions(&[from_inside], half, inside)?;
    let store = test_bed.store(redis.port);
    test_bed.publish(store)?;
    test_bed.fault("half of the clients are cut off");
    let cut_ns = monotonic_ns();
    namespace.cut()?;
    test_bed.until("the server lets the dead sessions go", NOTICE, |_| {
        node.metric("sessions").is_ok_and(|sessions| sessions <= half as f64)
    })?;
    let freed_s = (monotonic_ns() - cut_ns) as f64 / 1e9;
    test_bed.note(format!("the server had let all of them go after {freed_s:.1} s"));
    let oldest = test_bed.groups.first().map_or(0, |group| group.timeline.oldest_ms(cut_ns));
    test_bed.check(
        "the others noticed nothing",
        oldest < 1_000,
        format!("nothing they held was older than {oldest} ms"),
    );
    namespace.heal()?;
    test_bed.healed();
    test_bed.whole(LIMIT)?;
    // The workers in the namespace must end before it does.
    Ok(Box::new((redis, node, namespace)))
}

/// One of two nodes is cut off from Redis.
pub(super) fn partition(test_bed: &mut TestBed<'_>) -> anyhow::Result<Props> {
    let redis = Redis::in_memory(test_bed.directory())?;
    let proxy = Proxy::start(redis.port)?;
    let (near, far) = (options(test_bed, redis.port), options(test_bed, proxy.port));
    let near = Node::start(test_bed.directory(), "node-1", &near)?;
    let far = Node::start(test_bed.directory(), "node-2", &far)?;
    let half = test_bed.args.sessions / 2;
    test_bed.sessions(&[near.address], half, Habits::default())?;
    test_bed.sessions(&[far.address], half, Habits::default())?;
    let store = test_bed.store(redis.port);
    test_bed.publish(store)?;
    // Longer than `stale_after` and than any time-out of the server.
    let time = test_bed.fault_time(Duration::from_secs(15)).max(Duration::from_secs(8));
    test_bed.fault("a node is cut off from Redis");
    let cut_ns = monotonic_ns();
    proxy.cut();
    test_bed.until("the node is not ready", LIMIT, |_| !far.is_ready())?;
    let unready_s = (monotonic_ns() - cut_ns) as f64 / 1e9;
    test_bed.note(format!("it was not ready after {unready_s:.1} s"));
    test_bed.until("all its clients are told that their topics are stale", LIMIT, |test_bed| {
        test_bed.groups.get(1).is_some_and(|group| group.last.stale >= (half * test_bed.plan.subscriptions) as u64)
    })?;
    let elapsed = Duration::from_nanos(monotonic_ns() - cut_ns);
    test_bed.wait(time.saturating_sub(elapsed))?;
    let first = test_bed.groups.first().context("no sessions")?;
    let (stale, oldest) = (first.last.stale, first.timeline.oldest_ms(cut_ns));
    let undisturbed = stale == 0 && oldest < 1_000 && near.is_ready();
    test_bed.check(
        "clients of the other node noticed nothing",
        undisturbed,
        format!("{stale} notices; their data was never older than {oldest} ms"),
    );
    proxy.heal();
    test_bed.healed();
    test_bed.whole(LIMIT)?;
    test_bed.until("the node is ready again", LIMIT, |_| far.is_ready())?;
    test_bed.until("all its clients are told that topics are fresh", LIMIT, |test_bed| {
        test_bed.groups.get(1).is_some_and(|group| group.last.fresh >= (half * test_bed.plan.subscriptions) as u64)
    })?;
    Ok(Box::new((redis, proxy, near, far)))
}
