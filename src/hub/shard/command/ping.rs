//! `ping`: a client asks for a sign of life.

use crate::hub::index::SessionIndex;
use crate::hub::shard::shard::Shard;
use crate::protocol::{CommandId, Op};

/// Carries the command out. Any session may.
pub(super) fn run(shard: &mut Shard, index: SessionIndex, id: &CommandId) {
    apply(shard, index);
    shard.done(index, id, Op::Ping);
}

fn apply(shard: &mut Shard, index: SessionIndex) {
    shard.valid(index);
}
