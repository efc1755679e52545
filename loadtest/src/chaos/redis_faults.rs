//! One Redis, one node: killed, wiped, paused.

use std::net::SocketAddr;
use std::time::Duration;

use crate::chaos::programs::{Node, NodeOptions, Redis};
use crate::chaos::test_bed::Props;
use crate::chaos::test_bed::{Habits, TestBed};

/// Time in which all sessions must be whole again.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// The section for a source on one Redis.
pub(crate) fn source(port: u16) -> String {
    format!("[source.redis]\nurl = \"redis://127.0.0.1:{port}\"\nmax_lag = \"2s\"\n")
}

/// Options of every namespace: history for longer than any fault, and a notice when topics go stale.
pub(super) const NAMESPACES: &str =
    "history_size = 8192\nhistory_ttl = \"10m\"\nhistory_bytes = 16777216\nstale_after = \"5s\"\n";

/// A server that reads one Redis.
pub(super) fn options(test_bed: &TestBed<'_>, port: u16) -> NodeOptions {
    NodeOptions {
        source: source(port),
        namespaces: NAMESPACES.to_owned(),
        program: test_bed.args.server.clone(),
        ..NodeOptions::default()
    }
}

/// Starts a Redis, nodes on it, sessions that use the nodes in turn, and a publisher to Redis.
pub(super) fn set_up(test_bed: &mut TestBed<'_>, nodes: usize) -> anyhow::Result<(Redis, Vec<Node>)> {
    let redis = Redis::persistent(test_bed.directory())?;
    let options = options(test_bed, redis.port);
    let start = |n: usize| Node::start(test_bed.directory(), &format!("node-{}", n + 1), &options);
    let nodes = (0..nodes).map(start).collect::<anyhow::Result<Vec<_>>>()?;
    let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.address).collect();
    test_bed.sessions(&addresses, test_bed.args.sessions, Habits::default())?;
    let store = test_bed.store(redis.port);
    test_bed.publish(store)?;
    Ok((redis, nodes))
}

pub(super) fn restart(test_bed: &mut TestBed<'_>) -> anyhow::Result<Props> {
    let (mut redis, nodes) = set_up(test_bed, 1)?;
    let away = test_bed.fault_time(Duration::from_secs(5));
    test_bed.fault("Redis is killed");
    redis.kill();
    test_bed.until("the node is not ready", LIMIT, |_| nodes.iter().all(|node| !node.is_ready()))?;
    let alive = nodes.iter().all(|node| node.code("/healthz") == 200);
    test_bed.check("not ready, but alive", alive, "/healthz while Redis is away".to_owned());
    test_bed.wait(away)?;
    redis.start_again()?;
    test_bed.healed();
    test_bed.whole(LIMIT)?;
    let ready = nodes.iter().all(Node::is_ready);
    test_bed.check("ready again", ready, "/readyz".to_owned());
    Ok(Box::new((redis, nodes)))
}

pub(super) fn wiped(test_bed: &mut TestBed<'_>) -> anyhow::Result<Props> {
    let (mut redis, nodes) = set_up(test_bed, 1)?;
    test_bed.may_lose_positions = true;
    let away = test_bed.fault_time(Duration::from_secs(2));
    test_bed.fault("Redis is killed and its files removed");
    redis.kill();
    redis.wipe()?;
    test_bed.wait(away)?;
    redis.start_again()?;
    test_bed.healed();
    test_bed.whole(LIMIT)?;
    let changes = nodes.first().map_or(Ok(0.0), |node| node.metric("epoch_changes_total"))?;
    test_bed.check("the epoch changed", changes >= 1.0, format!("{changes} times"));
    let lost = test_bed.publish_log()?.store_lost;
    test_bed.check("the publisher noticed and published its states again", lost == 1, format!("{lost} times"));
    Ok(Box::new((redis, nodes)))
}

pub(super) fn paused(test_bed: &mut TestBed<'_>) -> anyhow::Result<Props> {
    let (redis, nodes) = set_up(test_bed, 1)?;
    let time = test_bed.fault_time(Duration::from_secs(30));
    test_bed.fault("Redis is stopped (SIGSTOP)");
    redis.pause()?;
    test_bed.wait(time)?;
    redis.go_on()?;
    test_bed.healed();
    test_bed.whole(LIMIT)?;
    let ready = nodes.iter().all(Node::is_ready);
    test_bed.check("ready again", ready, "/readyz".to_owned());
    Ok(Box::new((redis, nodes)))
}
