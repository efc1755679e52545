//! Networks that are cut: between clients and the server, and between a node and Redis.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;

use super::Props;
use super::network::{Namespace, Proxy};
use super::programs::{Node, NodeOptions, Redis};
use super::redis_faults::{LIMIT, options};
use super::stage::{Habits, Stage};
use crate::shared::monotonic_ns;

/// A full socket may stand still for so long (`limits.stall_timeout`, shorter here).
const STALL: &str = "stall_timeout = \"10s\"\n";

/// Time that a server may take to notice that clients are gone: a full socket's time-out and some.
const NOTICE: Duration = Duration::from_secs(40);

/// Half of the clients are in a namespace, and its link is cut: nobody is told.
pub(super) fn half_open(stage: &mut Stage<'_>) -> anyhow::Result<Props> {
    let namespace = Namespace::new()?;
    let redis = Redis::in_memory(stage.directory())?;
    let options = NodeOptions { listen_everywhere: true, limits: STALL.to_owned(), ..options(stage, redis.port) };
    let node = Node::start(stage.directory(), "node-1", &options)?;
    let half = stage.args.sessions / 2;
    stage.sessions(&[node.address], half, Habits::default())?;
    let from_inside = SocketAddr::new(namespace.host, node.address.port());
    let inside = Habits { namespace: Some(&namespace.name), ..Habits::default() };
    stage.sessions(&[from_inside], half, inside)?;
    let store = stage.store(redis.port);
    stage.publish(store)?;
    stage.fault("half of the clients are cut off");
    let cut_ns = monotonic_ns();
    namespace.cut()?;
    stage.until("the server lets the dead sessions go", NOTICE, |_| {
        node.metric("sessions").is_ok_and(|sessions| sessions <= half as f64)
    })?;
    let freed_s = (monotonic_ns() - cut_ns) as f64 / 1e9;
    stage.note(format!("the server had let all of them go after {freed_s:.1} s"));
    let oldest = stage.groups.first().map_or(0, |group| group.timeline.oldest_ms(cut_ns));
    stage.check("the others noticed nothing", oldest < 1_000, format!("nothing they held was older than {oldest} ms"));
    namespace.heal()?;
    stage.healed();
    stage.whole(LIMIT)?;
    // The workers in it end before it does.
    Ok(Box::new((redis, node, namespace)))
}

/// One of two nodes is cut off from Redis.
pub(super) fn partition(stage: &mut Stage<'_>) -> anyhow::Result<Props> {
    let redis = Redis::in_memory(stage.directory())?;
    let proxy = Proxy::start(redis.port)?;
    let (near, far) = (options(stage, redis.port), options(stage, proxy.port));
    let near = Node::start(stage.directory(), "node-1", &near)?;
    let far = Node::start(stage.directory(), "node-2", &far)?;
    let half = stage.args.sessions / 2;
    stage.sessions(&[near.address], half, Habits::default())?;
    stage.sessions(&[far.address], half, Habits::default())?;
    let store = stage.store(redis.port);
    stage.publish(store)?;
    // Longer than `stale_after`, and than any time-out of the server's.
    let time = stage.fault_time(Duration::from_secs(15)).max(Duration::from_secs(8));
    stage.fault("a node is cut off from Redis");
    let cut_ns = monotonic_ns();
    proxy.cut();
    stage.until("the node is not ready", LIMIT, |_| !far.is_ready())?;
    let unready_s = (monotonic_ns() - cut_ns) as f64 / 1e9;
    stage.note(format!("it was not ready after {unready_s:.1} s"));
    stage.until("all its clients are told that their topics are stale", LIMIT, |stage| {
        stage.groups.get(1).is_some_and(|group| group.last.stale >= (half * stage.plan.subscriptions) as u64)
    })?;
    let elapsed = Duration::from_nanos(monotonic_ns() - cut_ns);
    stage.wait(time.saturating_sub(elapsed))?;
    let first = stage.groups.first().context("no sessions")?;
    let (stale, oldest) = (first.last.stale, first.timeline.oldest_ms(cut_ns));
    let undisturbed = stale == 0 && oldest < 1_000 && near.is_ready();
    stage.check(
        "clients of the other node noticed nothing",
        undisturbed,
        format!("{stale} notices; nothing they held was older than {oldest} ms"),
    );
    proxy.heal();
    stage.healed();
    stage.whole(LIMIT)?;
    stage.until("the node is ready again", LIMIT, |_| far.is_ready())?;
    stage.until("all its clients are told that topics are fresh", LIMIT, |stage| {
        stage.groups.get(1).is_some_and(|group| group.last.fresh >= (half * stage.plan.subscriptions) as u64)
    })?;
    Ok(Box::new((redis, proxy, near, far)))
}
