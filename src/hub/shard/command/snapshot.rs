//! `snapshot`: which topics of it are asked for. `shard/catch_up` does the rest.

use crate::hub::index::SessionIndex;
use crate::hub::pending::Wanted;
use crate::hub::shard::shard::Shard;
use crate::name::TopicName;
use crate::protocol::{CommandId, Op, Refused};
use std::collections::HashSet;

impl Shard {
    /// `snapshot`: the states of topics, without subscriptions.
    pub(super) fn snapshot_command(
        &mut self,
        index: SessionIndex,
        id: CommandId,
        topics: Vec<TopicName>,
        mut refused: Refused,
    ) {
        self.input.turns.named(topics.len() + refused.len());
        let mut seen = HashSet::with_capacity(topics.len());
        let mut wanted = Vec::with_capacity(topics.len());
        for topic in topics {
            if !seen.insert(topic.clone()) {
                continue;
            }
            match self.not_allowed(index, &topic) {
                Some(refusal) => refused.add(refusal),
                None => wanted.push(Wanted { topic, since: None, options: None }),
            }
        }
        if wanted.is_empty() {
            self.answer_topics(index, &id, Op::Snapshot, false, None, &refused);
            return;
        }
        self.valid(index);
        self.snapshots(index, id, wanted, refused);
    }
}
