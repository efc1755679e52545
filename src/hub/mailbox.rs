//! The one way into a shard: a bounded queue and a waker.
//!
//! Producers wake the shard only if it sleeps: with the shard busy, a thousand deltas cost no system call. A busy shard
//! that has nothing to do parks: only what cannot wait a few ms wakes it, so that deltas are taken several at a time.

use std::sync::Arc;

use super::channel::{Receiver, Sender, TrySendError, Waker, bounded};
use super::event::Event;
use super::wakeup::Alarm;
use crate::limits::{QUEUE_EVENTS_MAX, QUEUE_HIGH_WATER};
use crate::metrics::Metrics;

/// The producers' end.
#[derive(Clone)]
pub(super) struct QueueSender {
    events: Sender<Event>,
    waker: Arc<Waker>,
    alarm: Arc<Alarm>,
    metrics: Arc<Metrics>,
}

/// The shard's end.
pub(super) struct QueueReceiver {
    events: Receiver<Event>,
    alarm: Arc<Alarm>,
}

/// A queue whose consumer is woken by `waker`.
pub(super) fn queue(waker: Waker, metrics: Arc<Metrics>) -> (QueueSender, QueueReceiver) {
    let (sender, receiver) = bounded(QUEUE_EVENTS_MAX);
    let alarm = Arc::new(Alarm::new());
    (
        QueueSender { events: sender, waker: Arc::new(waker), alarm: alarm.clone(), metrics },
        QueueReceiver { events: receiver, alarm },
    )
}

impl QueueSender {
    /// Hands `event` to the shard. Blocks while the queue is full, which sources avoid by asking
    /// [`QueueSender::has_room`] first. After the shard has ended, nothing happens.
    pub(super) fn send(&self, event: Event) {
        let deep = self.alarm.sending();
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
            self.alarm.gone();
            return;
        }
        self.wake(pressing);
    }

    fn wake(&self, pressing: bool) {
        if self.alarm.sent(pressing) {
            // Fails only when the shard's poll is gone: then no thread waits.
            let _ = self.waker.wake();
        }
    }

    /// Whether a source may hand over more.
    pub(super) fn has_room(&self) -> bool {
        self.depth() < QUEUE_HIGH_WATER
    }

    /// Events waiting.
    pub(super) fn depth(&self) -> usize {
        self.alarm.depth()
    }
}

impl QueueReceiver {
    /// Announces that the shard is about to sleep. `true` if it may: nothing is waiting.
    pub(super) fn sleep(&self) -> bool {
        self.alarm.sleep(|| self.events.is_empty())
    }

    /// Announces that the shard is about to rest for a few ms, whatever comes that may wait so long. `true` if it may.
    pub(super) fn park(&self) -> bool {
        self.alarm.park()
    }

    /// Ends the rest: what is there will be taken now.
    pub(super) fn awake(&self) {
        self.alarm.awake();
    }

    /// The next event.
    pub(super) fn take(&self) -> Option<Event> {
        let event = self.events.try_recv().ok()?;
        self.alarm.gone();
        Some(event)
    }

    /// Events waiting.
    pub(super) fn depth(&self) -> usize {
        self.alarm.depth()
    }
}
