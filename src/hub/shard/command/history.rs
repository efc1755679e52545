//! `history`: the last deltas of a topic. The backend answers.

use super::backend_request;
use crate::config::Action;
use crate::hub::event::Ask;
use crate::hub::index::SessionIndex;
use crate::hub::shard::shard::Shard;
use crate::name::TopicName;
use crate::protocol::{CommandId, HistoryQuery, Op, Refusal};

/// Carries the command out.
pub(super) fn run(shard: &mut Shard, index: SessionIndex, id: CommandId, topic: TopicName, query: HistoryQuery) {
    match check(shard, index, &topic) {
        Ok(()) => apply(shard, index, id, topic, query),
        Err(refusal) => shard.refuse(index, &id, Op::History, &refusal),
    }
}

fn check(shard: &mut Shard, index: SessionIndex, topic: &TopicName) -> Result<(), Refusal> {
    backend_request::check(shard, index, topic, Action::History, 0)
}

fn apply(shard: &mut Shard, index: SessionIndex, id: CommandId, topic: TopicName, query: HistoryQuery) {
    backend_request::apply(shard, index, id, topic, Ask::History(query));
}
