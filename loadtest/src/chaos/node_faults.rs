//! Two nodes on one Redis: one is killed under load, or stopped.

use std::time::Duration;

use crate::chaos::programs::{Node, Redis};
use crate::chaos::redis_faults::{LIMIT, options, set_up};
use crate::chaos::test_bed::Props;
use crate::chaos::test_bed::{Habits, TestBed};

/// Publishing goes through the API of the node that is killed.
pub(super) fn killed(test_bed: &mut TestBed<'_>) -> anyhow::Result<Props> {
    let redis = Redis::in_memory(test_bed.directory())?;
    let options = options(test_bed, redis.port);
    let mut first = Node::start(test_bed.directory(), "node-1", &options)?;
    let second = Node::start(test_bed.directory(), "node-2", &options)?;
    let both = [first.address, second.address];
    test_bed.sessions(&both, test_bed.args.sessions, Habits::default())?;
    let store = test_bed.store(redis.port).through(both.to_vec());
    test_bed.publish(store)?;
    let on_first = first.metric("sessions")?;
    test_bed.fault("a node is killed (SIGKILL)");
    first.kill();
    test_bed.whole(LIMIT)?;
    let moved = second.metric("sessions")?;
    let all = test_bed.args.sessions as f64;
    test_bed.check(
        "its clients went to the other",
        moved >= all,
        format!("{moved} sessions on it, {on_first} were on the dead one"),
    );
    // It comes back, and no session notices.
    first.start_again()?;
    test_bed.wait(Duration::from_secs(2))?;
    Ok(Box::new((redis, first, second)))
}

pub(super) fn stopped(test_bed: &mut TestBed<'_>) -> anyhow::Result<Props> {
    let (redis, nodes) = set_up(test_bed, 2)?;
    let time = test_bed.fault_time(Duration::from_secs(10));
    test_bed.fault("a node is stopped (SIGSTOP)");
    if let Some(node) = nodes.first() {
        node.pause()?;
        test_bed.wait(time)?;
        node.go_on()?;
    }
    test_bed.healed();
    test_bed.whole(LIMIT)?;
    let ready = nodes.iter().all(Node::is_ready);
    test_bed.check("both are ready", ready, "/readyz".to_owned());
    Ok(Box::new((redis, nodes)))
}
