//! Two nodes on one Redis: one is killed under load, or stopped.

use std::time::Duration;

use crate::chaos::programs::{Node, Redis};
use crate::chaos::redis_faults::{LIMIT, ground, options};
use crate::chaos::test_bed::Props;
use crate::chaos::test_bed::{Habits, TestBed};

/// Publishing goes through the API of the node that is killed.
pub(super) fn killed(bed: &mut TestBed<'_>) -> anyhow::Result<Props> {
    let redis = Redis::in_memory(bed.directory())?;
    let options = options(bed, redis.port);
    let mut first = Node::start(bed.directory(), "node-1", &options)?;
    let second = Node::start(bed.directory(), "node-2", &options)?;
    let both = [first.address, second.address];
    bed.sessions(&both, bed.args.sessions, Habits::default())?;
    let store = bed.store(redis.port).through(both.to_vec());
    bed.publish(store)?;
    let on_first = first.metric("sessions")?;
    bed.fault("a node is killed (SIGKILL)");
    first.kill();
    bed.whole(LIMIT)?;
    let moved = second.metric("sessions")?;
    let all = bed.args.sessions as f64;
    bed.check(
        "its clients went to the other",
        moved >= all,
        format!("{moved} sessions on it, {on_first} were on the dead one"),
    );
    // It comes back, and nobody notices.
    first.start_again()?;
    bed.wait(Duration::from_secs(2))?;
    Ok(Box::new((redis, first, second)))
}

pub(super) fn stopped(bed: &mut TestBed<'_>) -> anyhow::Result<Props> {
    let (redis, nodes) = ground(bed, 2)?;
    let time = bed.fault_time(Duration::from_secs(10));
    bed.fault("a node is stopped (SIGSTOP)");
    if let Some(node) = nodes.first() {
        node.pause()?;
        bed.wait(time)?;
        node.go_on()?;
    }
    bed.healed();
    bed.whole(LIMIT)?;
    let ready = nodes.iter().all(Node::is_ready);
    bed.check("both are ready", ready, "/readyz".to_owned());
    Ok(Box::new((redis, nodes)))
}
