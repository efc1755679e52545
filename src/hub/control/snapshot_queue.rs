//! The limit on the bytes of states that are on their way to shards. Above it, requests wait until shards have handled
//! some. Clients' requests come first; those of lagging subscriptions get at most three quarters of the limit.

use crate::hub::index::RequestId;
use std::collections::VecDeque;
use std::time::Duration;

use crate::accounts::{self, Held};
use crate::name::TopicName;
use crate::topic::ShardId;

/// Interval at which room is checked while a request waits.
pub(in crate::hub) const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A topic's state that a shard requested. A shard requests at most one per group, one per lagging subscription and one
/// per topic of a snapshot command: their limits bound this queue.
pub(in crate::hub) struct Wanted {
    pub(in crate::hub) shard: ShardId,
    pub(in crate::hub) ask: RequestId,
    pub(in crate::hub) topic: TopicName,
}

/// The waiting requests, in order.
pub(in crate::hub) struct SnapshotQueue {
    /// Limit on the bytes of states on their way.
    max: Option<usize>,
    asked: VecDeque<Wanted>,
    lagging: VecDeque<Wanted>,
    held: Held,
}

impl SnapshotQueue {
    pub(in crate::hub) fn new(max: Option<usize>) -> Self {
        let held = Held::none(&accounts::SUBSCRIBING);
        Self { max, asked: VecDeque::new(), lagging: VecDeque::new(), held }
    }

    pub(in crate::hub) fn is_empty(&self) -> bool {
        self.asked.is_empty() && self.lagging.is_empty()
    }

    fn has_room(&self, lagging: bool) -> bool {
        let Some(max) = self.max.map(accounts::ceiling) else { return true };
        accounts::SNAPSHOTS_SENT.bytes() < if lagging { max / 4 * 3 } else { max }
    }

    /// Returns the request if there is room and none of its kind waits; otherwise queues it.
    pub(in crate::hub) fn admit(&mut self, wanted: Wanted, lagging: bool) -> Option<Wanted> {
        let has_room = self.has_room(lagging);
        let waiting = if lagging { &mut self.lagging } else { &mut self.asked };
        if has_room && waiting.is_empty() {
            return Some(wanted);
        }
        waiting.push_back(wanted);
        self.count();
        None
    }

    /// The next request that there is room for.
    pub(in crate::hub) fn next(&mut self) -> Option<Wanted> {
        let asked = if self.has_room(false) { self.asked.pop_front() } else { None };
        let next = match asked {
            None if self.has_room(true) => self.lagging.pop_front(),
            asked => asked,
        };
        for waiting in [&mut self.asked, &mut self.lagging] {
            if waiting.len() * 4 < waiting.capacity() {
                waiting.shrink_to(waiting.len() * 2);
            }
        }
        self.count();
        next
    }

    fn count(&mut self) {
        self.held.set((self.asked.capacity() + self.lagging.capacity()) * size_of::<Wanted>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(ask: usize) -> Wanted {
        Wanted { shard: ShardId(0), ask: RequestId::new(ask), topic: TopicName::new("t:x").unwrap() }
    }

    /// The counter is shared with other tests of the process, so only no limit and a limit that is always reached are
    /// tested.
    #[test]
    fn requests_without_room_wait_in_order_and_clients_go_first() {
        let mut free = SnapshotQueue::new(None);
        assert!(free.admit(wanted(1), true).is_some() && free.admit(wanted(2), false).is_some() && free.is_empty());
        let _sent = Held::of(&accounts::SNAPSHOTS_SENT, 4);
        let mut full = SnapshotQueue::new(Some(4));
        for ask in 0..4 {
            assert!(full.admit(wanted(ask), ask % 2 == 0).is_none());
        }
        assert!(full.next().is_none() && !full.is_empty());
        full.max = None;
        let order: Vec<usize> = std::iter::from_fn(|| full.next()).map(|wanted| wanted.ask.at()).collect();
        assert_eq!(order, [1, 3, 0, 2]);
        assert!(full.is_empty() && full.held.bytes() == 0);
    }
}
