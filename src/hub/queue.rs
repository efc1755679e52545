//! The one way into a shard: a bounded queue and a waker.
//!
//! Producers wake the shard only if it sleeps: with the shard busy, a thousand deltas cost no system call. A busy shard
//! that has nothing to do naps: only what cannot wait a few ms wakes it, so that deltas are taken several at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};

use super::event::Event;
use crate::limits::{QUEUE_EVENTS_MAX, QUEUE_HIGH_WATER};
use crate::metrics::Metrics;

/// The shard turns: it will look at the queue by itself.
const AWAKE: u8 = 0;
/// It is woken by what is pressing.
const NAPPING: u8 = 1;
/// It is woken by anything.
const ASLEEP: u8 = 2;

/// Events waiting from which on a nap is over.
const NAP_DEPTH: usize = QUEUE_HIGH_WATER / 16;

#[derive(Default)]
struct Shared {
    state: AtomicU8,
    /// Something pressing was sent since the shard last looked.
    pressing: AtomicBool,
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
        let depth = self.shared.depth.fetch_add(1, Ordering::Relaxed) + 1;
        let pressing = !event.may_wait() || depth >= NAP_DEPTH;
        let outcome = self.events.try_send(event).or_else(|e| match e {
            flume::TrySendError::Full(event) => {
                self.metrics.queue_full.inc();
                self.wake(true);
                self.events.send(event).map_err(drop)
            }
            flume::TrySendError::Disconnected(_) => Err(()),
        });
        if outcome.is_err() {
            self.shared.depth.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.wake(pressing);
    }

    fn wake(&self, pressing: bool) {
        if pressing {
            self.shared.pressing.store(true, Ordering::Release);
        }
        // Pairs with the fences in `sleep` and `nap`: either the shard sees the event, or this sees that it rests.
        fence(Ordering::SeqCst);
        let state = self.shared.state.load(Ordering::Relaxed);
        let wakes = state == ASLEEP || state == NAPPING && pressing;
        if wakes && self.shared.state.swap(AWAKE, Ordering::Relaxed) != AWAKE {
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
        self.shared.state.store(ASLEEP, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.events.is_empty() {
            return true;
        }
        self.shared.state.store(AWAKE, Ordering::Relaxed);
        false
    }

    /// Announces that the shard is about to rest for a few ms, whatever comes that may wait so long. `true` if it may.
    pub(super) fn nap(&self) -> bool {
        self.shared.state.store(NAPPING, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !self.shared.pressing.load(Ordering::Relaxed) && self.depth() < NAP_DEPTH {
            return true;
        }
        self.shared.state.store(AWAKE, Ordering::Relaxed);
        false
    }

    /// Ends the rest: what is there will be taken now.
    pub(super) fn awake(&self) {
        self.shared.state.store(AWAKE, Ordering::Relaxed);
        // What was pressing is in the queue by now: it was put there before that was said.
        self.shared.pressing.swap(false, Ordering::Acquire);
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
