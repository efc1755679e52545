//! Recent deltas that topics keep for lagging subscriptions, and while a subscribe is in progress.

use super::topics::{TopicEntry, TopicTable};
use crate::accounts;
use crate::limits::FLUSH_DELAY_MS_MAX;
use crate::topic::{Delta, Slot};

/// Interval at which deltas that no subscription needs are dropped, in ms.
const LOOK_EVERY_MS: u64 = 16;

/// Bytes of memory of a kept delta apart from its payload and frame: its entry, its frames' boxes, its place in the
/// list.
const KEPT_BYTES: usize = size_of::<Delta>() + 256;

impl TopicEntry {
    /// Approximate bytes of memory of its recent deltas.
    fn recent_memory(&self) -> usize {
        2 * self.recent_bytes + self.recent.len() * KEPT_BYTES
    }
}

/// The topics that keep recent deltas.
#[derive(Default)]
pub(super) struct RecentDeltas {
    /// The topics; some are listed more than once.
    topics: Vec<Slot>,
    /// When they are checked next, in the shard's time.
    next_ms: u64,
}

impl RecentDeltas {
    /// Adds a topic that keeps deltas, or may soon not need them.
    pub(super) fn note(&mut self, slot: Slot) {
        self.topics.push(slot);
    }

    /// Drops deltas that no subscription needs: none lags, and all sends that waited are done.
    pub(super) fn drop_unneeded(&mut self, topics: &mut TopicTable, now_ms: u64) {
        if now_ms < self.next_ms {
            return;
        }
        self.next_ms = now_ms + LOOK_EVERY_MS;
        self.topics.sort_unstable();
        self.topics.dedup();
        self.topics.retain(|slot| {
            let Some(topic) = topics.topic_mut(*slot) else { return false };
            let waits_ms = u64::from(FLUSH_DELAY_MS_MAX).max(u64::from(topic.flush_ms)) + LOOK_EVERY_MS;
            if now_ms.saturating_sub(topic.moved_ms) < 2 * waits_ms {
                return true;
            }
            if topic.lagging > 0 || topic.subscribing > 0 {
                return true;
            }
            topic.clear_recent();
            topic.recent.shrink_to(8);
            false
        });
    }

    /// Drops deltas while those of all shards are near `max` bytes. The topics with the most bytes keep none: their
    /// lagging subscriptions get the state, or a replay of a stream's history. Each shard drops its share of the
    /// excess. Returns the number of topics affected.
    pub(super) fn trim(&mut self, topics: &mut TopicTable, max: Option<usize>) -> u64 {
        let Some(max) = max.map(accounts::ceiling) else { return 0 };
        let all = accounts::DELTAS.bytes();
        // Below the limit, from which on sources wait for shards.
        if all <= max - max / 8 {
            return 0;
        }
        let mut sizes = [(0usize, 0usize); usize::BITS as usize + 1];
        let level = |bytes: usize| (usize::BITS - bytes.leading_zeros()) as usize;
        let mut own = 0usize;
        self.topics.sort_unstable();
        self.topics.dedup();
        for topic in self.topics.iter().filter_map(|slot| topics.topic(*slot)) {
            let bytes = topic.recent_memory();
            if let Some((count, sum)) = sizes.get_mut(level(bytes)) {
                *count += 1;
                *sum += bytes;
            }
            own += bytes;
        }
        // This shard's share of what may be kept.
        let part = ((max / 2) as u128 * own as u128 / all.max(1) as u128).min(own as u128);
        let mut left = usize::try_from(part).unwrap_or(usize::MAX);
        let mut kept = 0;
        for (at, (_, sum)) in sizes.iter().enumerate() {
            let Some(rest) = left.checked_sub(*sum) else { break };
            (left, kept) = (rest, at);
        }
        let mut dropped = 0;
        self.topics.retain(|slot| {
            let Some(topic) = topics.topic_mut(*slot) else { return false };
            if level(topic.recent_memory()) <= kept {
                return true;
            }
            topic.clear_recent();
            topic.recent.shrink_to(0);
            dropped += 1;
            false
        });
        dropped
    }
}
