//! Two nodes on one Redis: one is killed under load, or stopped.

use std::time::Duration;

use super::Props;
use super::programs::{Node, Redis};
use super::redis_faults::{LIMIT, ground, options};
use super::stage::{Habits, Stage};

/// Publishing goes through the API of the node that is killed.
pub(super) fn killed(stage: &mut Stage<'_>) -> anyhow::Result<Props> {
    let redis = Redis::in_memory(stage.directory())?;
    let options = options(stage, redis.port);
    let mut first = Node::start(stage.directory(), "node-1", &options)?;
    let second = Node::start(stage.directory(), "node-2", &options)?;
    let both = [first.address, second.address];
    stage.sessions(&both, stage.args.sessions, Habits::default())?;
    let store = stage.store(redis.port).through(both.to_vec());
    stage.publish(store)?;
    let on_first = first.metric("sessions")?;
    stage.fault("a node is killed (SIGKILL)");
    first.kill();
    stage.whole(LIMIT)?;
    let moved = second.metric("sessions")?;
    let all = stage.args.sessions as f64;
    stage.check(
        "its clients went to the other",
        moved >= all,
        format!("{moved} sessions on it, {on_first} were on the dead one"),
    );
    // It comes back, and nobody notices.
    first.start_again()?;
    stage.wait(Duration::from_secs(2))?;
    Ok(Box::new((redis, first, second)))
}

pub(super) fn stopped(stage: &mut Stage<'_>) -> anyhow::Result<Props> {
    let (redis, nodes) = ground(stage, 2)?;
    let time = stage.fault_time(Duration::from_secs(10));
    stage.fault("a node is stopped (SIGSTOP)");
    if let Some(node) = nodes.first() {
        node.pause()?;
        stage.wait(time)?;
        node.go_on()?;
    }
    stage.healed();
    stage.whole(LIMIT)?;
    let ready = nodes.iter().all(Node::is_ready);
    stage.check("both are ready", ready, "/readyz".to_owned());
    Ok(Box::new((redis, nodes)))
}
