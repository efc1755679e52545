//! The queue and its wake-up in every interleaving that the memory model allows (loom): whatever is sent is taken, by a
//! shard that sleeps, by one that parks, and by one whose queue is full. The code is the server's; its atomics, channel
//! and waker are replaced by those of loom.

use std::sync::Arc;

use loom::thread;

use crate::hub::event;
use crate::hub::event::Event;
use crate::metrics::Metrics;
use crate::topic::Slot;

/// loom's atomics, for the wake-up.
mod atomics {
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};
}

/// A channel that loom knows, for the queue.
mod channel {
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::sync::Arc;

    use loom::sync::{Condvar, Mutex, Notify};

    thread_local! {
        /// Small, so that the queue may be full.
        pub(super) static CAPACITY: Cell<usize> = const { Cell::new(1) };
    }

    struct Shared<T> {
        capacity: usize,
        waiting: Mutex<VecDeque<T>>,
        room: Condvar,
    }

    pub(super) struct Sender<T>(Arc<Shared<T>>);
    pub(super) struct Receiver<T>(Arc<Shared<T>>);

    #[derive(Debug)]
    pub(super) enum TrySendError<T> {
        Full(T),
        #[allow(dead_code, reason = "no receiver is dropped here")]
        Disconnected(T),
    }

    pub(super) fn bounded<T>(_: usize) -> (Sender<T>, Receiver<T>) {
        let shared =
            Arc::new(Shared { capacity: CAPACITY.get(), waiting: Mutex::new(VecDeque::new()), room: Condvar::new() });
        (Sender(shared.clone()), Receiver(shared))
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }

    impl<T> Sender<T> {
        pub(super) fn try_send(&self, event: T) -> Result<(), TrySendError<T>> {
            let mut waiting = self.0.waiting.lock().unwrap();
            if waiting.len() >= self.0.capacity {
                return Err(TrySendError::Full(event));
            }
            waiting.push_back(event);
            Ok(())
        }

        pub(super) fn send(&self, event: T) -> Result<(), T> {
            let mut waiting = self.0.waiting.lock().unwrap();
            while waiting.len() >= self.0.capacity {
                waiting = self.0.room.wait(waiting).unwrap();
            }
            waiting.push_back(event);
            Ok(())
        }
    }

    impl<T> Receiver<T> {
        pub(super) fn try_recv(&self) -> Result<T, ()> {
            let event = self.0.waiting.lock().unwrap().pop_front().ok_or(())?;
            self.0.room.notify_one();
            Ok(event)
        }

        pub(super) fn is_empty(&self) -> bool {
            self.0.waiting.lock().unwrap().is_empty()
        }
    }

    /// Like a poll with a waker: a wake-up before the wait counts. There is no time-out, so a missing wake-up is a wait
    /// forever, which loom finds.
    #[derive(Clone)]
    pub(super) struct Waker(Arc<Notify>);

    impl Waker {
        pub(super) fn new() -> Self {
            Self(Arc::new(Notify::new()))
        }

        #[allow(clippy::unnecessary_wraps, reason = "the signature of the real one")]
        pub(super) fn wake(&self) -> std::io::Result<()> {
            self.0.notify();
            Ok(())
        }

        pub(super) fn wait(&self) {
            self.0.wait();
        }
    }
}

#[allow(clippy::duplicate_mod, dead_code, reason = "compiled again, with a channel that loom knows")]
#[path = "../mailbox.rs"]
mod mailbox;
#[allow(clippy::duplicate_mod, reason = "compiled again, with loom's atomics")]
#[path = "../wakeup.rs"]
mod wakeup;

use channel::Waker;
use mailbox::{QueueReceiver, QueueSender, queue};

fn world() -> (QueueSender, QueueReceiver, Waker) {
    let waker = Waker::new();
    let (sender, receiver) = queue(waker.clone(), Arc::new(Metrics::default()));
    (sender, receiver, waker)
}

/// All interleavings with up to `preemptions` preemptions, of a queue with room for `capacity` events.
fn explore(preemptions: usize, capacity: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        channel::CAPACITY.set(capacity);
        test();
    });
}

/// An event that may wait a few ms.
fn patient(n: u32) -> Event {
    Event::Stale { slot: Slot(n), since_ms: None }
}

/// An urgent event.
fn pressing(n: u32) -> Event {
    Event::Detached { slot: Slot(n) }
}

fn number(event: &Event) -> u32 {
    match event {
        Event::Stale { slot, .. } | Event::Detached { slot } => slot.0,
        _ => panic!("an event that was not sent"),
    }
}

/// Takes all queued events, after resting as a shard does.
fn turn(receiver: &QueueReceiver, waker: &Waker, may_rest: bool, taken: &mut Vec<u32>) {
    if may_rest {
        waker.wait();
    }
    receiver.awake();
    while let Some(event) = receiver.take() {
        taken.push(number(&event));
    }
}

#[test]
fn a_shard_that_sleeps_is_woken_by_anything() {
    explore(3, 2, two_producers_and_a_shard_that_sleeps);
}

/// One of the producers may find the queue full: it waits for the shard, and the shard must not wait for it.
#[test]
fn a_shard_that_sleeps_is_woken_by_a_full_queue() {
    explore(2, 1, two_producers_and_a_shard_that_sleeps);
}

fn two_producers_and_a_shard_that_sleeps() {
    let (sender, receiver, waker) = world();
    let producers: Vec<_> = [patient(1), pressing(2)]
        .map(|event| {
            let sender = sender.clone();
            thread::spawn(move || sender.send(event))
        })
        .into();
    let mut taken = Vec::new();
    while taken.len() < 2 {
        let may_rest = receiver.sleep();
        turn(&receiver, &waker, may_rest, &mut taken);
    }
    producers.into_iter().for_each(|p| p.join().unwrap());
    taken.sort_unstable();
    assert_eq!(taken, [1, 2]);
    assert_eq!((sender.depth(), receiver.depth()), (0, 0));
}

/// The events of one producer come in its order, whether or not the queue is full.
#[test]
fn the_order_of_a_producer_is_kept() {
    explore(3, 1, || {
        let (sender, receiver, waker) = world();
        let producer = thread::spawn(move || (1..=3).for_each(|n| sender.send(patient(n))));
        let mut taken = Vec::new();
        while taken.len() < 3 {
            let may_rest = receiver.sleep();
            turn(&receiver, &waker, may_rest, &mut taken);
        }
        producer.join().unwrap();
        assert_eq!(taken, [1, 2, 3]);
    });
}

#[test]
fn a_parked_shard_is_woken_by_an_urgent_event() {
    explore(3, 2, || {
        let (sender, receiver, waker) = world();
        let producers: Vec<_> = [patient(1), pressing(2)]
            .map(|event| {
                let sender = sender.clone();
                thread::spawn(move || sender.send(event))
            })
            .into();
        let mut taken = Vec::new();
        // An event that may wait is taken with an urgent one, or by the sleep that follows a park.
        while !taken.contains(&2) {
            let may_rest = receiver.park();
            turn(&receiver, &waker, may_rest, &mut taken);
        }
        while !taken.contains(&1) {
            let may_rest = receiver.sleep();
            turn(&receiver, &waker, may_rest, &mut taken);
        }
        producers.into_iter().for_each(|p| p.join().unwrap());
        assert_eq!(taken.len(), 2);
    });
}
