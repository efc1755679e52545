//! `snapshot`: the states of topics, without subscriptions. `shard/catch_up` fetches and sends them.

use std::collections::HashSet;

use crate::hub::index::SessionIndex;
use crate::hub::pending::Wanted;
use crate::hub::shard::shard::Shard;
use crate::name::TopicName;
use crate::protocol::{CommandId, Op, Refusal, Refused};

/// Carries the command out for the topics that the session may have.
pub(super) fn run(shard: &mut Shard, index: SessionIndex, id: CommandId, topics: Vec<TopicName>, mut refused: Refused) {
    shard.input.turns.named(topics.len() + refused.len());
    let mut seen = HashSet::with_capacity(topics.len());
    let mut wanted = Vec::with_capacity(topics.len());
    for topic in topics {
        if !seen.insert(topic.clone()) {
            continue;
        }
        match check(shard, index, &topic) {
            Ok(()) => wanted.push(Wanted { topic, since: None, options: None }),
            Err(refusal) => refused.add(refusal),
        }
    }
    match wanted.is_empty() {
        true => shard.answer_topics(index, &id, Op::Snapshot, false, None, &refused),
        false => apply(shard, index, id, wanted, refused),
    }
}

fn check(shard: &mut Shard, index: SessionIndex, topic: &TopicName) -> Result<(), Refusal> {
    shard.not_allowed(index, topic).map_or(Ok(()), Err)
}

fn apply(shard: &mut Shard, index: SessionIndex, id: CommandId, wanted: Vec<Wanted>, refused: Refused) {
    shard.valid(index);
    shard.snapshots(index, id, wanted, refused);
}
