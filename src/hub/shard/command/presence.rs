//! `presence` and `presence_stats`: the members of a topic. The backend answers.

use super::backend_request;
use crate::config::Action;
use crate::hub::event::Ask;
use crate::hub::index::SessionIndex;
use crate::hub::shard::shard::Shard;
use crate::name::TopicName;
use crate::protocol::{CommandId, Op, Refusal};

/// Carries the command out; `stats` asks for counts alone.
pub(super) fn run(shard: &mut Shard, index: SessionIndex, id: CommandId, topic: TopicName, stats: bool) {
    let op = if stats { Op::PresenceStats } else { Op::Presence };
    match check(shard, index, &topic) {
        Ok(()) => apply(shard, index, id, topic, stats),
        Err(refusal) => shard.refuse(index, &id, op, &refusal),
    }
}

fn check(shard: &mut Shard, index: SessionIndex, topic: &TopicName) -> Result<(), Refusal> {
    backend_request::check(shard, index, topic, Action::Presence, 0)
}

fn apply(shard: &mut Shard, index: SessionIndex, id: CommandId, topic: TopicName, stats: bool) {
    let ask = if stats { Ask::PresenceStats } else { Ask::Presence };
    backend_request::apply(shard, index, id, topic, ask);
}
