//! `rate`: the least interval between two deliveries of a subscription.

use crate::hub::fanout::Lagging;
use crate::hub::index::SessionIndex;
use crate::hub::shard::shard::Shard;
use crate::name::TopicName;
use crate::protocol::{CommandId, Op, Refusal, Refused};
use crate::topic::Slot;

/// Carries the command out for the subscriptions that may have a rate.
pub(super) fn run(
    shard: &mut Shard,
    index: SessionIndex,
    id: &CommandId,
    topics: &[TopicName],
    mut refused: Refused,
    max_rate: Option<f64>,
) {
    shard.input.turns.named(topics.len() + refused.len());
    shard.valid(index);
    let mut any = false;
    for topic in topics {
        let (traits, interval_ms) = shard.terms(topic, max_rate);
        let changed = check(shard, topic, traits.class.conflatable())
            .and_then(|slot| apply(shard, index, slot, interval_ms).ok_or_else(not_subscribed));
        match changed {
            Ok(()) => any = true,
            Err(refusal) => refused.add(refusal.about(topic.as_str())),
        }
    }
    shard.answer_topics(index, id, Op::Rate, any, None, &refused);
}

fn not_subscribed() -> Refusal {
    Refusal::new(404, "not subscribed")
}

fn check(shard: &Shard, topic: &TopicName, conflatable: bool) -> Result<Slot, Refusal> {
    if !conflatable {
        return Err(Refusal::new(400, "a `stream` has no rate: every delta of it counts"));
    }
    shard.fanout.topics.find(topic).ok_or_else(not_subscribed)
}

/// Moves a subscription to the group of another rate. It lags until it has caught up with that group. `None` if the
/// session has no such subscription.
fn apply(shard: &mut Shard, index: SessionIndex, slot: Slot, interval_ms: u64) -> Option<()> {
    shard.close_batches(slot);
    let session = shard.sessions.get_mut(index)?;
    let at = session.subscriptions.place_in(&shard.fanout.topics, slot)?;
    let from = session.subscriptions.get(at)?;
    let group = shard.fanout.topics.group(from.group)?;
    if group.interval_ms == interval_ms {
        return Some(());
    }
    let (encoding, compression, throttled, sent) =
        (group.encoding, group.compression, group.interval_ms > 0, group.sent);
    let last = shard.fanout.topics.topic(slot)?.last;
    let to = shard.fanout.topics.join(index, slot, encoding, compression, interval_ms)?;
    session.subscriptions.list.remove(at);
    session.subscriptions.add(to);
    let lagging = session.subscriptions.lagging_at(from);
    let lagging = lagging.map(|at| session.subscriptions.lagging.swap_remove(at));
    let cursor = lagging.map_or(if throttled { sent } else { last }, |lagging| lagging.cursor);
    session.subscriptions.lagging.push(Lagging::new(to, cursor));
    let (moved, _) = shard.fanout.topics.leave(from);
    if let Some(moved) = moved
        && let Some(session) = shard.sessions.get_mut(moved.session)
    {
        session.subscriptions.moved(moved.from, moved.to);
    }
    shard.fanout.topics.set_lagging(to, true);
    shard.to_catch_up.push(index);
    Some(())
}
