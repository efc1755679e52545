//! `session`: settings of how the client is written to.

use crate::hub::egress::Pace;
use crate::hub::index::SessionIndex;
use crate::hub::shard::shard::Shard;
use crate::protocol::{CommandId, Op, SessionWishes};

/// Carries the command out. Any session may.
pub(super) fn run(shard: &mut Shard, index: SessionIndex, id: &CommandId, wishes: SessionWishes) {
    apply(shard, index, wishes);
    shard.done(index, id, Op::Session);
}

fn apply(shard: &mut Shard, index: SessionIndex, wishes: SessionWishes) {
    shard.valid(index);
    let Some(session) = shard.sessions.get_mut(index) else { return };
    if let Some(floor_ms) = wishes.flush_interval_ms {
        session.output.send_queue.floor_ms = floor_ms;
    }
    if let Some(batch) = wishes.batch {
        session.output.batch = batch;
    }
    match wishes.bytes_per_second {
        None => {}
        Some(0) => session.output.pace = None,
        Some(rate) => session.output.pace = Some(Box::new(Pace::new(rate))),
    }
    // Bytes that wait because of the old limit may go now.
    if session.output.backlog.is_some() {
        shard.writable.push(index);
    }
}
