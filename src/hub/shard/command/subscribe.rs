//! `subscribe`: which of its topics begin. `shard/subscribe` begins them and replies.

use std::collections::HashSet;

use crate::hub::index::SessionIndex;
use crate::hub::pending::Wanted;
use crate::hub::shard::shard::Shard;
use crate::name::TopicName;
use crate::protocol::{CommandId, Op, Refusal, Refused, SubscribeItem, SubscribeTerms};

/// Carries the command out for the topics that the session may have.
pub(super) fn run(
    shard: &mut Shard,
    index: SessionIndex,
    id: CommandId,
    items: Vec<SubscribeItem>,
    mut refused: Refused,
    terms: SubscribeTerms,
) {
    shard.input.turns.named(items.len() + refused.len());
    let mut seen = HashSet::with_capacity(items.len());
    let mut wanted = Vec::with_capacity(items.len());
    for item in items {
        if !seen.insert(item.topic.clone()) {
            continue;
        }
        match check(shard, index, &item) {
            Ok(()) => {
                let SubscribeItem { topic, since, options } = item;
                wanted.push(Wanted { topic, since, options });
            }
            Err(refusal) => refused.add(refusal),
        }
    }
    match wanted.is_empty() {
        true => shard.answer_topics(index, &id, Op::Subscribe, false, None, &refused),
        false => apply(shard, index, id, wanted, terms, refused),
    }
}

fn check(shard: &mut Shard, index: SessionIndex, item: &SubscribeItem) -> Result<(), Refusal> {
    // A subscription token gives the topic by itself.
    let has_token = item.options.as_ref().is_some_and(|o| o.token.is_some());
    match shard.not_allowed(index, &item.topic) {
        Some(refusal) if !has_token || refusal.code == Refusal::UNKNOWN_TOPIC => Err(refusal),
        _ => check_new(shard, index, &item.topic),
    }
}

/// A Centrifuge session may not subscribe to a topic that it has. In `plain` the subscription begins again.
fn check_new(shard: &Shard, index: SessionIndex, topic: &TopicName) -> Result<(), Refusal> {
    let Some(session) = shard.sessions.get(index).filter(|s| s.output.dialect.is_centrifuge()) else { return Ok(()) };
    let Some(slot) = shard.fanout.topics.find(topic) else { return Ok(()) };
    let under_way = shard.pending.is_joining(session.key(index), slot);
    match under_way || shard.is_subscribed(index, slot) {
        true => Err(Refusal::new(409, "").about(topic.as_str())),
        false => Ok(()),
    }
}

fn apply(
    shard: &mut Shard,
    index: SessionIndex,
    id: CommandId,
    wanted: Vec<Wanted>,
    terms: SubscribeTerms,
    refused: Refused,
) {
    shard.valid(index);
    shard.subscribe(index, id, Op::Subscribe, wanted, terms, refused);
}
