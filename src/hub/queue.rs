//! The one way into a shard: a bounded queue and a waker.
//!
//! Producers wake the shard only if it sleeps: with the shard busy, a thousand deltas cost no system call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use super::event::Event;
use crate::limits::{QUEUE_EVENTS_MAX, QUEUE_HIGH_WATER};
use crate::metrics::Metrics;

#[derive(Default)]
struct Shared {
    asleep: AtomicBool,
    depth: AtomicUsize,
}

/// The producers' end.
#[derive(Clone)]
pub(super) struct QueueSender {
    events: flume::Sender<Event>,
    waker: Arc<mio::Waker>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
}

/// The shard's end.
pub(super) struct QueueReceiver {
    events: flume::Receiver<Event>,
    shared: Arc<Shared>,
}

/// A queue whose consumer is woken by `waker`.
pub(super) fn queue(waker: mio::Waker, metrics: Arc<Metrics>) -> (QueueSender, QueueReceiver) {
    let (sender, receiver) = flume::bounded(QUEUE_EVENTS_MAX);
    let shared = Arc::new(Shared::default());
    (
        QueueSender { events: sender, waker: Arc::new(waker), shared: shared.clone(), metrics },
        QueueReceiver { events: receiver, shared },
    )
}

impl QueueSender {
    /// Hands `event` to the shard. Blocks while the queue is full, which sources avoid by asking
    /// [`QueueSender::has_room`] first. After the shard has ended, nothing happens.
    pub(super) fn send(&self, event: Event) {
        self.shared.depth.fetch_add(1, Ordering::Relaxed);
        let outcome = self.events.try_send(event).or_else(|e| match e {
            flume::TrySendError::Full(event) => {
                self.metrics.queue_full.inc();
                self.wake();
                self.events.send(event).map_err(drop)
            }
            flume::TrySendError::Disconnected(_) => Err(()),
        });
        if outcome.is_err() {
            self.shared.depth.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.wake();
    }

    fn wake(&self) {
        // Pairs with the fence in `sleep`: either the shard sees the event, or this sees that it sleeps.
        fence(Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::Relaxed) && self.shared.asleep.swap(false, Ordering::Relaxed) {
            // Fails only when the shard's poll is gone, and then there is nobody to wake.
            let _ = self.waker.wake();
        }
    }

    /// Whether a source may hand over more.
    pub(super) fn has_room(&self) -> bool {
        self.depth() < QUEUE_HIGH_WATER
    }

    /// Events waiting.
    pub(super) fn depth(&self) -> usize {
        self.shared.depth.load(Ordering::Relaxed)
    }
}

impl QueueReceiver {
    /// Announces that the shard is about to sleep. `true` if it may: nothing is waiting.
    pub(super) fn sleep(&self) -> bool {
        self.shared.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.events.is_empty() {
            return true;
        }
        self.shared.asleep.store(false, Ordering::Relaxed);
        false
    }

    /// Ends the sleep.
    pub(super) fn awake(&self) {
        self.shared.asleep.store(false, Ordering::Relaxed);
    }

    /// The next event.
    pub(super) fn take(&self) -> Option<Event> {
        let event = self.events.try_recv().ok()?;
        self.shared.depth.fetch_sub(1, Ordering::Relaxed);
        Some(event)
    }

    /// Events waiting.
    pub(super) fn depth(&self) -> usize {
        self.shared.depth.load(Ordering::Relaxed)
    }
}
