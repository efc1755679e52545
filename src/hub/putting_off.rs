//! The ceiling on states that are on their way to shards. What is past it waits at the desk until shards have dealt with
//! some: what clients asked for first, then what lagging subscriptions need, which has three quarters of the room.

use std::collections::VecDeque;
use std::time::Duration;

use crate::accounts::{self, Held};
use crate::name::TopicName;
use crate::topic::ShardId;

/// Time after which it is looked again whether there is room, while something waits.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A topic's state that a shard asked for. A shard has asked once at most for each of its lanes, of what is held and of the
/// snapshots that clients wait for: those bounds are this queue's.
pub(super) struct Wanted {
    pub(super) shard: ShardId,
    pub(super) ask: u32,
    pub(super) topic: TopicName,
}

/// Those that wait, in order.
pub(super) struct PutOff {
    /// Bytes of states on their way; 0 is no ceiling.
    max: usize,
    asked: VecDeque<Wanted>,
    lagging: VecDeque<Wanted>,
    held: Held,
}

impl PutOff {
    pub(super) fn new(max: usize) -> Self {
        let held = Held::none(&accounts::SUBSCRIBING);
        Self { max, asked: VecDeque::new(), lagging: VecDeque::new(), held }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_empty() && self.lagging.is_empty()
    }

    fn has_room(&self, lagging: bool) -> bool {
        let max = accounts::ceiling(self.max);
        let max = if lagging { max / 4 * 3 } else { max };
        self.max == 0 || accounts::SNAPSHOTS_SENT.bytes() < max
    }

    /// Gives it back where there is room for it and none of its kind waits; else it waits.
    pub(super) fn admit(&mut self, wanted: Wanted, lagging: bool) -> Option<Wanted> {
        let has_room = self.has_room(lagging);
        let waiting = if lagging { &mut self.lagging } else { &mut self.asked };
        if has_room && waiting.is_empty() {
            return Some(wanted);
        }
        waiting.push_back(wanted);
        self.count();
        None
    }

    /// The next that there is room for.
    pub(super) fn next(&mut self) -> Option<Wanted> {
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

    fn wanted(ask: u32) -> Wanted {
        Wanted { shard: ShardId(0), ask, topic: TopicName::new("t:x").unwrap() }
    }

    /// Other tests of the same process send states, too: without a ceiling, and with one that is always reached.
    #[test]
    fn what_there_is_no_room_for_waits_in_order_and_clients_go_first() {
        let mut free = PutOff::new(0);
        assert!(free.admit(wanted(1), true).is_some() && free.admit(wanted(2), false).is_some() && free.is_empty());
        let _sent = Held::of(&accounts::SNAPSHOTS_SENT, 4);
        let mut full = PutOff::new(4);
        for ask in 0..4 {
            assert!(full.admit(wanted(ask), ask % 2 == 0).is_none());
        }
        assert!(full.next().is_none() && !full.is_empty());
        full.max = 0;
        let order: Vec<u32> = std::iter::from_fn(|| full.next()).map(|wanted| wanted.ask).collect();
        assert_eq!(order, [1, 3, 0, 2]);
        assert!(full.is_empty() && full.held.bytes() == 0);
    }
}
