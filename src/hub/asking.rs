//! Questions to the control plane, and who waits for their answers. Alike ones of one tick are asked once.

use std::sync::atomic::Ordering;

use super::event::{Asked, Batch, Request, SessionKey};
use super::shard::Shard;
use crate::accounts;
use crate::limits::{ASKED_BYTES_SMALL, SHARD_REQUESTS_MAX, UNSEEN_BYTES_MAX, UNSEEN_PART};
use crate::name::TopicName;
use crate::position::{Offset, Position};
use crate::protocol::{Encoding, Refusal};
use crate::topic::Slot;

/// Bytes of memory of a request that has nothing of its own.
const REQUEST_BYTES: usize = size_of::<Asked>();

/// Bytes of requests that the control plane has not looked at, of one of so many shards, of a ceiling on all that is asked.
pub(super) fn unseen_max(asked_max: usize, shards: usize) -> usize {
    match asked_max {
        0 => UNSEEN_BYTES_MAX,
        max => (max / UNSEEN_PART / shards.max(1)).min(UNSEEN_BYTES_MAX),
    }
}

/// Requests of one tick that are alike are asked once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum AskKey {
    Attach(Slot, Encoding, Option<Position>, u32),
    /// Of a topic, for who lags or not.
    Snapshot(TopicName, bool),
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
    /// A session that no patch can bring to where its lane is, charged for so many bytes already.
    Hold { session: SessionKey, lane: u32, charged: usize },
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
        self.request(request(ask));
    }

    /// Hands a request to the control plane, at the end of the tick.
    pub(super) fn request(&mut self, request: Request) {
        let asked = Asked::new(request);
        self.wanted_bytes += asked.held.bytes();
        self.wanted.push(asked);
    }

    /// Whether the requests waiting for the control plane leave room for `more` without anything of their own.
    pub(super) fn desk_has_room(&self, more: usize) -> bool {
        self.wanted.len() + more <= SHARD_REQUESTS_MAX && self.has_room_under_way(more * REQUEST_BYTES)
    }

    /// Why no request with so many bytes of its own can be under way; nothing if it can.
    pub(super) fn nothing_more_under_way(&self, bytes: usize) -> Option<Refusal> {
        if self.has_room_under_way(bytes + REQUEST_BYTES) {
            return None;
        }
        self.stats.asked_refused.add(1);
        let reason = "too much that sessions asked for is under way (limits.asked_total_bytes): try again";
        Some(Refusal::new(503, reason))
    }

    /// What sessions have asked for and is under way has a ceiling, of which large requests have one half.
    fn has_room_under_way(&self, bytes: usize) -> bool {
        let max = self.config.limits.asked_total_bytes;
        let then = accounts::ASKED.bytes().saturating_add(bytes);
        max == 0 || then <= max / 2 || (bytes <= ASKED_BYTES_SMALL && then <= max)
    }

    /// Whether the control plane has so much to look at that clients are not heard until it has looked at some.
    pub(super) fn desk_is_behind(&self) -> bool {
        self.wanted_bytes + self.unseen.load(Ordering::Relaxed) > self.unseen_max
    }

    /// Sends the requests of this tick, and of those before in which the desk had no room for them.
    pub(super) fn send_requests(&mut self) {
        if self.wanted.is_empty() {
            return;
        }
        let batch = Batch::new(std::mem::take(&mut self.wanted), self.wanted_bytes, &self.unseen);
        match self.requests.try_send(batch) {
            Ok(()) | Err(flume::TrySendError::Disconnected(_)) => self.wanted_bytes = 0,
            Err(flume::TrySendError::Full(mut batch)) => self.wanted = std::mem::take(&mut batch.requests),
        }
    }
}
