//! The alarm in every interleaving that the memory model allows (loom): whatever is sent is taken, by a shard that sleeps and
//! by one that naps.

use std::collections::VecDeque;

use loom::sync::{Arc, Mutex, Notify};
use loom::thread;

/// What the alarm is made of here.
mod atomics {
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};
}

#[allow(clippy::duplicate_mod, reason = "once more, with atomics that loom knows")]
#[path = "alarm.rs"]
mod alarm;

use alarm::Alarm;

/// A queue and a poll, as far as they matter.
struct World {
    alarm: Alarm,
    events: Mutex<VecDeque<u32>>,
    /// As a poll with a waker: what was said before the wait counts. Nobody comes after a time-out here, so a wake-up that
    /// is missing is a wait for ever, which loom finds.
    waker: Notify,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self { alarm: Alarm::new(), events: Mutex::new(VecDeque::new()), waker: Notify::new() })
    }

    fn send(&self, event: u32, pressing: bool) {
        let deep = self.alarm.sending();
        self.events.lock().unwrap().push_back(event);
        if self.alarm.sent(pressing || deep) {
            self.waker.notify();
        }
    }

    fn take(&self) -> Option<u32> {
        let event = self.events.lock().unwrap().pop_front()?;
        self.alarm.gone();
        Some(event)
    }
}

#[test]
fn a_shard_that_sleeps_is_woken_by_anything() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let world = World::new();
        let producers: Vec<_> = [1, 2]
            .map(|event| {
                let world = world.clone();
                thread::spawn(move || world.send(event, event == 2))
            })
            .into();
        let mut taken = Vec::new();
        while taken.len() < 2 {
            if world.alarm.sleep(|| world.events.lock().unwrap().is_empty()) {
                world.waker.wait();
            }
            world.alarm.awake();
            while let Some(event) = world.take() {
                taken.push(event);
            }
        }
        producers.into_iter().for_each(|p| p.join().unwrap());
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
        assert_eq!(world.alarm.depth(), 0);
    });
}

#[test]
fn a_shard_that_naps_is_woken_by_what_is_pressing() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let world = World::new();
        let patient = {
            let world = world.clone();
            thread::spawn(move || world.send(1, false))
        };
        let pressing = {
            let world = world.clone();
            thread::spawn(move || world.send(2, true))
        };
        let mut taken = Vec::new();
        // What may wait is taken with what is pressing, or by the sleep that follows a nap.
        while !taken.contains(&2) {
            if world.alarm.nap() {
                world.waker.wait();
            }
            world.alarm.awake();
            while let Some(event) = world.take() {
                taken.push(event);
            }
        }
        while !taken.contains(&1) {
            if world.alarm.sleep(|| world.events.lock().unwrap().is_empty()) {
                world.waker.wait();
            }
            world.alarm.awake();
            taken.extend(world.take());
        }
        patient.join().unwrap();
        pressing.join().unwrap();
        assert_eq!(taken.len(), 2);
    });
}
