//! The one way into a shard: a bounded queue and a waker.
//!
//! Producers wake the shard only if it sleeps: a thousand deltas for a busy shard cost no system call. A busy shard
//! without work parks: only urgent events wake it, so that it takes several deltas at a time.

use std::sync::Arc;

use super::channel::{Receiver, Sender, TrySendError, Waker, bounded};
use super::event::Event;
use super::wakeup::Wakeup;
use crate::limits::{QUEUE_EVENTS_MAX, QUEUE_HIGH_WATER};
use crate::metrics::Metrics;

/// The producers' end.
#[derive(Clone)]
pub(super) struct QueueSender {
    events: Sender<Event>,
    waker: Arc<Waker>,
    wakeup: Arc<Wakeup>,
    metrics: Arc<Metrics>,
}

/// The shard's end.
pub(super) struct QueueReceiver {
    events: Receiver<Event>,
    wakeup: Arc<Wakeup>,
}

/// A queue whose consumer is woken by `waker`.
pub(super) fn queue(waker: Waker, metrics: Arc<Metrics>) -> (QueueSender, QueueReceiver) {
    let (sender, receiver) = bounded(QUEUE_EVENTS_MAX);
    let wakeup = Arc::new(Wakeup::new());
    (
        QueueSender { events: sender, waker: Arc::new(waker), wakeup: wakeup.clone(), metrics },
        QueueReceiver { events: receiver, wakeup },
    )
}

impl QueueSender {
    /// Sends `event` to the shard. Blocks while the queue is full; sources avoid that with [`QueueSender::has_room`].
    /// Ignored after the shard has ended.
    pub(super) fn send(&self, event: Event) {
        let deep = self.wakeup.sending();
        let pressing = !event.may_wait() || deep;
        let outcome = self.events.try_send(event).or_else(|e| match e {
            TrySendError::Full(event) => {
                self.metrics.queue_full.inc();
                self.wake(true);
                self.events.send(event).map_err(drop)
            }
            TrySendError::Disconnected(_) => Err(()),
        });
        if outcome.is_err() {
            self.wakeup.gone();
            return;
        }
        self.wake(pressing);
    }

    fn wake(&self, pressing: bool) {
        if self.wakeup.sent(pressing) {
            // Fails only if the shard's poll was dropped; then no thread waits.
            let _ = self.waker.wake();
        }
    }

    /// Whether a source may send more.
    pub(super) fn has_room(&self) -> bool {
        self.depth() < QUEUE_HIGH_WATER
    }

    /// Number of queued events.
    pub(super) fn depth(&self) -> usize {
        self.wakeup.depth()
    }
}

impl QueueReceiver {
    /// The shard is about to sleep. Returns `true` if the queue is empty and it may.
    pub(super) fn sleep(&self) -> bool {
        self.wakeup.sleep(|| self.events.is_empty())
    }

    /// The shard is about to park: for a few ms, only urgent events wake it. Returns `true` if it may.
    pub(super) fn park(&self) -> bool {
        self.wakeup.park()
    }

    /// Ends sleep or park: the shard reads the queue now.
    pub(super) fn awake(&self) {
        self.wakeup.awake();
    }

    /// Takes the next event.
    pub(super) fn take(&self) -> Option<Event> {
        let event = self.events.try_recv().ok()?;
        self.wakeup.gone();
        Some(event)
    }

    /// Number of queued events.
    pub(super) fn depth(&self) -> usize {
        self.wakeup.depth()
    }
}
