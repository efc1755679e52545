//! Questions to the control plane, and who waits for their answers. Alike ones of one tick are asked once.

use super::event::{Request, SessionKey};
use super::shard::Shard;
use crate::name::TopicName;
use crate::position::{Offset, Position};
use crate::protocol::Encoding;
use crate::topic::Slot;

/// Requests of one tick that are alike are asked once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum AskKey {
    Attach(Slot, Encoding, Option<Position>, u32),
    Snapshot(TopicName),
    Replay(Slot, Encoding, Offset),
}

/// A request that waits for its answer.
pub(super) struct Ask {
    pub(super) waiters: Vec<Waiter>,
    pub(super) slot: Option<Slot>,
}

/// Who waits.
pub(super) enum Waiter {
    /// A topic of a subscribe.
    Subscribe { group: u32, item: usize },
    /// A topic of a snapshot command.
    Snapshot { group: u32 },
    /// A session that no patch can bring to where its lane is.
    Hold { session: SessionKey, lane: u32 },
    /// A lane with something pending that no patch can say.
    Lane { lane: u32 },
}

impl Shard {
    /// Asks, or waits for the answer of a request of this tick with the same key.
    pub(super) fn ask(
        &mut self,
        key: Option<AskKey>,
        slot: Option<Slot>,
        waiter: Waiter,
        request: impl FnOnce(u32) -> Request,
    ) {
        let same = key.as_ref().and_then(|key| self.tick_asks.get(key));
        if let Some(ask) = same.and_then(|ask| self.asks.get_mut(*ask as usize)) {
            ask.waiters.push(waiter);
            return;
        }
        let ask = u32::try_from(self.asks.insert(Ask { waiters: vec![waiter], slot })).unwrap_or(u32::MAX);
        if let Some(key) = key {
            self.tick_asks.insert(key, ask);
        }
        self.wanted.push(request(ask));
    }
}
