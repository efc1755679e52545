//! The ceiling on deltas that shards keep: for lagging subscriptions, and while a subscribe is under way. Past it the topics
//! with the most of them keep none: lagging subscriptions get the topic's state there, or a replay of a stream's
//! history.

use super::shard::Shard;
use super::subscribers::TopicSlot;
use crate::accounts;
use crate::topic::Delta;

/// What a kept delta takes beside its payload and the frame made of it: its entry, its frames' boxes, its place in the ring.
const KEPT_BYTES: usize = size_of::<Delta>() + 256;

impl TopicSlot {
    /// Bytes of memory that the kept deltas take, about.
    fn recent_bytes(&self) -> usize {
        2 * self.ring_bytes + self.ring.len() * KEPT_BYTES
    }
}

impl Shard {
    /// Keeps fewer deltas while those of all shards together are near their ceiling. Each shard drops its part of the
    /// excess, so that none needs to know what the others keep.
    pub(super) fn trim_recent(&mut self) {
        let (max, all) = (accounts::ceiling(self.config.limits.deltas_total_bytes), accounts::DELTAS.bytes());
        // Below the ceiling, at which sources wait for shards.
        if max == 0 || all <= max - max / 8 {
            return;
        }
        let mut sizes = [(0usize, 0usize); usize::BITS as usize + 1];
        let level = |bytes: usize| (usize::BITS - bytes.leading_zeros()) as usize;
        let mut own = 0usize;
        self.ringed.sort_unstable();
        self.ringed.dedup();
        for topic in self.ringed.iter().filter_map(|slot| self.subscribers.topic(*slot)) {
            let bytes = topic.recent_bytes();
            if let Some((count, sum)) = sizes.get_mut(level(bytes)) {
                *count += 1;
                *sum += bytes;
            }
            own += bytes;
        }
        // Of what is there now, what all may have then.
        let part = ((max / 2) as u128 * own as u128 / all.max(1) as u128).min(own as u128);
        let mut left = usize::try_from(part).unwrap_or(usize::MAX);
        let mut kept = 0;
        for (at, (_, sum)) in sizes.iter().enumerate() {
            let Some(rest) = left.checked_sub(*sum) else { break };
            (left, kept) = (rest, at);
        }
        let (subscribers, mut dropped) = (&mut self.subscribers, 0);
        self.ringed.retain(|slot| {
            let Some(topic) = subscribers.topic_mut(*slot) else { return false };
            if level(topic.recent_bytes()) <= kept {
                return true;
            }
            topic.clear_ring();
            topic.ring.shrink_to(0);
            dropped += 1;
            false
        });
        self.stats.deltas_relieved.add(dropped);
    }
}
