//! Requests to the control plane, and the parties that wait for their answers. Equal requests of one tick are sent
//! once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use slab::Slab;

use super::event::{Asked, Request, RequestBatch};
use super::index::{GroupId, PendingId, RequestId, SHRINK_FROM, SessionId};
use crate::accounts;
use crate::limits::{ASKED_BYTES_SMALL, SHARD_REQUESTS_MAX, SUBSCRIPTIONS_MAX, UNSEEN_BYTES_MAX, UNSEEN_PART};
use crate::name::TopicName;
use crate::position::{Offset, Position};
use crate::protocol::{Encoding, Refusal};
use crate::topic::Slot;

/// Bytes of memory of a request without data of its own.
const REQUEST_BYTES: usize = size_of::<Asked>();

/// Bytes of memory of a request in progress, with its list of waiting parties.
const ASK_BYTES: usize = size_of::<Ask>() + size_of::<usize>() + 32;

/// Bytes of unread requests that one of `shards` shards may have in the control plane's queue.
fn unseen_max(asked_max: usize, shards: usize) -> usize {
    (asked_max / UNSEEN_PART / shards.max(1)).min(UNSEEN_BYTES_MAX)
}

// A subscribe to as many topics as a session may have fits.
const _: () = assert!(SHARD_REQUESTS_MAX >= SUBSCRIPTIONS_MAX);

/// Requests with equal keys are sent once per tick.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum AskKey {
    Attach(Slot, Encoding, Option<Position>, u32),
    /// The state of a topic; `true` is for lagging subscriptions.
    Snapshot(TopicName, bool),
    Replay(Slot, Encoding, Offset),
}

/// A request that waits for its answer.
pub(super) struct Ask {
    pub(super) waiters: Vec<Waiter>,
    pub(super) slot: Option<Slot>,
}

/// A party that waits for an answer.
#[derive(Debug)]
pub(super) enum Waiter {
    /// A topic of a subscribe.
    Subscribe { pending: PendingId, item: usize },
    /// A topic of a snapshot command.
    Snapshot { pending: PendingId },
    /// A lagging subscription that needs a state, with the bytes charged in advance.
    Lagging { session: SessionId, group: GroupId, charged: usize },
    /// A group with a rate whose pending deltas no patch can express.
    Group { group: GroupId },
}

/// A shard's requests.
pub(super) struct Requests {
    to_control: flume::Sender<RequestBatch>,
    /// Requests of this tick, and earlier ones that the control plane had no room for.
    waiting: Vec<Asked>,
    waiting_bytes: usize,
    /// Bytes of requests that the control plane has not read yet.
    unseen: Arc<AtomicUsize>,
    /// Above this many unread bytes, clients are not read.
    unseen_max: usize,
    /// Limit on the bytes of requests in progress for sessions of all shards.
    asked_max: usize,
    asks: Slab<Ask>,
    /// Requests of this tick, by key.
    tick: HashMap<AskKey, RequestId>,
}

impl Requests {
    /// For one of `shards` shards; `asked_max` bytes may be in progress in all shards together.
    pub(super) fn new(to_control: flume::Sender<RequestBatch>, asked_max: usize, shards: usize) -> Self {
        Self {
            to_control,
            waiting: Vec::new(),
            waiting_bytes: 0,
            unseen: Arc::default(),
            unseen_max: unseen_max(asked_max, shards),
            asked_max,
            asks: Slab::new(),
            tick: HashMap::new(),
        }
    }

    /// Sends a request, or joins an equal request of this tick.
    pub(super) fn ask(
        &mut self,
        key: Option<AskKey>,
        slot: Option<Slot>,
        waiter: Waiter,
        request: impl FnOnce(RequestId) -> Request,
    ) {
        let same = key.as_ref().and_then(|key| self.tick.get(key));
        if let Some(ask) = same.and_then(|ask| self.asks.get_mut(ask.at())) {
            ask.waiters.push(waiter);
            return;
        }
        let ask = RequestId::new(self.asks.insert(Ask { waiters: vec![waiter], slot }));
        if let Some(key) = key {
            self.tick.insert(key, ask);
        }
        self.send(request(ask));
    }

    /// Queues a request without an answer; it is sent at the end of the tick.
    pub(super) fn send(&mut self, request: Request) {
        let asked = Asked::new(request);
        self.waiting_bytes += asked.held.bytes();
        self.waiting.push(asked);
    }

    /// Removes and returns the request that is answered now.
    pub(super) fn answered(&mut self, ask: RequestId) -> Option<Ask> {
        self.asks.try_remove(ask.at())
    }

    /// Whether `more` requests without data of their own fit.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.waiting.len() + more <= SHARD_REQUESTS_MAX && self.has_room_under_way(more * REQUEST_BYTES)
    }

    /// Why a request with this many bytes of its own is refused; `None` if it is accepted.
    pub(super) fn refusal(&self, bytes: usize) -> Option<Refusal> {
        if self.has_room_under_way(bytes + REQUEST_BYTES) {
            return None;
        }
        let reason = "requests in progress exceed limits.asked_total_bytes: try again";
        Some(Refusal::new(503, reason))
    }

    /// Requests in progress are limited; large requests get half of the limit.
    fn has_room_under_way(&self, bytes: usize) -> bool {
        let then = accounts::ASKED.bytes().saturating_add(bytes);
        then <= self.asked_max / 2 || (bytes <= ASKED_BYTES_SMALL && then <= self.asked_max)
    }

    /// Whether the control plane has so many unread requests that clients are not read.
    pub(super) fn is_control_behind(&self) -> bool {
        self.waiting_bytes + self.unseen.load(Ordering::Relaxed) > self.unseen_max
    }

    /// Whether some requests could not be sent yet.
    pub(super) fn are_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends the requests of this tick, and those that still wait, to the control plane.
    pub(super) fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let batch = RequestBatch::new(std::mem::take(&mut self.waiting), self.waiting_bytes, &self.unseen);
        match self.to_control.try_send(batch) {
            Ok(()) | Err(flume::TrySendError::Disconnected(_)) => self.waiting_bytes = 0,
            Err(flume::TrySendError::Full(mut batch)) => self.waiting = std::mem::take(&mut batch.requests),
        }
    }

    pub(super) fn end_tick(&mut self) {
        self.tick.clear();
        self.tick.shrink_to(SHRINK_FROM);
    }

    /// Number of requests in progress.
    #[cfg(test)]
    pub(super) fn under_way(&self) -> usize {
        self.asks.len()
    }

    /// One of the requests in progress.
    #[cfg(test)]
    pub(super) fn first_under_way(&self) -> Option<RequestId> {
        self.asks.iter().next().map(|(ask, _)| RequestId::new(ask))
    }

    /// Bytes of memory of the requests in progress.
    pub(super) fn bytes(&self) -> usize {
        self.asks.capacity() * ASK_BYTES
    }

    /// Frees unused memory. Called periodically.
    pub(super) fn shrink(&mut self) {
        if self.asks.is_empty() && self.asks.capacity() > SHRINK_FROM {
            self.asks.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::ShardId;

    fn requests(batches: usize, asked_max: usize) -> (Requests, flume::Receiver<RequestBatch>) {
        let (sender, receiver) = flume::bounded(batches);
        (Requests::new(sender, asked_max, 1), receiver)
    }

    fn snapshot(requests: &mut Requests, topic: &str, pending: usize) {
        let topic = TopicName::new(topic).unwrap();
        let (key, waiter) =
            (AskKey::Snapshot(topic.clone(), false), Waiter::Snapshot { pending: PendingId::new(pending) });
        let request = |ask| Request::Snapshot { shard: ShardId(0), ask, topic, lagging: false };
        requests.ask(Some(key), None, waiter, request);
    }

    fn asks(batch: &RequestBatch) -> Vec<RequestId> {
        let asks = batch.requests.iter().map(|asked| match &asked.request {
            Request::Snapshot { ask, .. } => *ask,
            other => panic!("{other:?}"),
        });
        asks.collect()
    }

    #[test]
    fn equal_requests_of_a_tick_are_sent_once_and_all_parties_are_answered() {
        let (mut requests, control) = requests(4, 1 << 30);
        snapshot(&mut requests, "t:a", 1);
        snapshot(&mut requests, "t:b", 2);
        snapshot(&mut requests, "t:a", 3);
        requests.flush();
        requests.end_tick();
        let [a, _] = asks(&control.recv().unwrap())[..] else { panic!("two requests") };
        assert_eq!(requests.answered(a).unwrap().waiters.len(), 2);
        assert!(requests.answered(a).is_none(), "a request is answered once");
        // The next tick sends a request of its own: the answer may have changed.
        snapshot(&mut requests, "t:b", 4);
        requests.flush();
        assert_eq!(asks(&control.recv().unwrap()).len(), 1);
        assert_eq!(requests.under_way(), 2);
    }

    #[test]
    fn requests_without_room_are_sent_later_and_in_order() {
        let (mut requests, control) = requests(1, 1 << 30);
        for topic in ["t:a", "t:b", "t:c"] {
            snapshot(&mut requests, topic, 1);
            requests.flush();
        }
        assert!(requests.are_waiting());
        assert_eq!(asks(&control.recv().unwrap()), [RequestId::new(0)]);
        requests.flush();
        assert!(!requests.are_waiting());
        assert_eq!(asks(&control.recv().unwrap()), [RequestId::new(1), RequestId::new(2)]);
    }

    #[test]
    fn clients_are_not_read_while_the_control_plane_is_behind() {
        let (mut requests, control) = requests(8, 8 * 1024);
        let mut sent = 0;
        while !requests.is_control_behind() {
            snapshot(&mut requests, &format!("t:{sent}"), 1);
            requests.flush();
            sent += 1;
        }
        assert!(sent > 1);
        drop(control.drain().collect::<Vec<_>>());
        assert!(!requests.is_control_behind(), "it has read them");
    }

    #[test]
    fn large_requests_have_one_half_of_the_limit() {
        let (requests, _control) = requests(1, 1 << 40);
        assert!(requests.refusal(1 << 38).is_none());
        assert!(requests.refusal((1 << 39) + (1 << 38)).is_some_and(|refusal| refusal.code == 503));
    }
}
