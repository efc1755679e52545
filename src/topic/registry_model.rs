//! Runs the registry in every interleaving (loom): publishing against subscribing and leaving. The hub relies on the
//! property that is checked: in a shard's queue, an answer is followed by exactly the deltas that came after it, and no
//! event of a slot follows the end of its interest.

use std::sync::Arc;

use loom::thread;

use super::exchange::{Attachment, Incoming, Outlet, ShardId, Slot};
use super::{
    account, deleted, delta, ended, exchange, freshness, gaps, lifetime, merge, names, passage, payload, progress,
    refused, related, relays, state, strays, trace, unpublished,
};
use crate::config::{Class, Config, Namespace};
use crate::metrics::Metrics;
use crate::name::TopicName;
use crate::position::{Epoch, Offset};
use crate::protocol::{Encoding, MembershipChange};

/// The atomics and locks that loom knows.
mod atomics {
    pub(super) use loom::sync::Mutex;
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
}

/// A map whose locks loom knows: one for all of it, as a shard of the real one has.
mod map {
    use std::collections::HashMap;
    use std::hash::Hash;
    use std::ops::{Deref, DerefMut};

    use loom::sync::{Mutex, MutexGuard};

    pub(super) struct DashMap<K, V>(Mutex<HashMap<K, V>>);

    pub(super) struct Ref<'a, K, V> {
        map: MutexGuard<'a, HashMap<K, V>>,
        key: K,
    }

    impl<K: Eq + Hash + Clone, V> DashMap<K, V> {
        pub(super) fn len(&self) -> usize {
            self.0.lock().unwrap().len()
        }
        pub(super) fn capacity(&self) -> usize {
            0
        }
        pub(super) fn shrink_to_fit(&self) {}
    }

    impl<K: Eq + Hash + Clone, V> Ref<'_, K, V> {
        pub(super) fn value(&self) -> &V {
            self
        }
    }

    impl<K: Eq + Hash, V> Deref for Ref<'_, K, V> {
        type Target = V;
        fn deref(&self) -> &V {
            &self.map[&self.key]
        }
    }

    impl<K: Eq + Hash, V> DerefMut for Ref<'_, K, V> {
        fn deref_mut(&mut self) -> &mut V {
            self.map.get_mut(&self.key).unwrap()
        }
    }

    pub(super) enum Entry<'a, K, V> {
        Occupied(Occupied<'a, K, V>),
        Vacant(Vacant<'a, K, V>),
    }
    pub(super) struct Occupied<'a, K, V>(Ref<'a, K, V>);
    pub(super) struct Vacant<'a, K, V>(Ref<'a, K, V>);

    impl<K: Eq + Hash, V> Occupied<'_, K, V> {
        pub(super) fn get_mut(&mut self) -> &mut V {
            &mut self.0
        }
    }

    impl<'a, K: Eq + Hash + Clone, V> Vacant<'a, K, V> {
        pub(super) fn key(&self) -> &K {
            &self.0.key
        }
        pub(super) fn insert(mut self, value: V) -> Ref<'a, K, V> {
            let key = self.0.key.clone();
            self.0.map.insert(key, value);
            self.0
        }
    }

    impl<K: Eq + Hash + Clone + std::borrow::Borrow<str>, V> DashMap<K, V> {
        pub(super) fn with_shard_amount(_: usize) -> Self {
            Self(Mutex::new(HashMap::new()))
        }
        pub(super) fn get_mut(&self, key: &str) -> Option<Ref<'_, K, V>> {
            let map = self.0.lock().unwrap();
            let key = map.get_key_value(key)?.0.clone();
            Some(Ref { map, key })
        }
        pub(super) fn get(&self, key: &str) -> Option<Ref<'_, K, V>> {
            self.get_mut(key)
        }
        pub(super) fn entry(&self, key: K) -> Entry<'_, K, V> {
            let map = self.0.lock().unwrap();
            match map.contains_key(key.borrow()) {
                true => Entry::Occupied(Occupied(Ref { map, key })),
                false => Entry::Vacant(Vacant(Ref { map, key })),
            }
        }
        pub(super) fn remove_if(&self, key: &K, condition: impl FnOnce(&K, &V) -> bool) -> Option<(K, V)> {
            let mut map = self.0.lock().unwrap();
            let unwanted = map.get_key_value(key.borrow()).is_some_and(|(k, v)| condition(k, v));
            if unwanted { map.remove_entry(key.borrow()) } else { None }
        }
        pub(super) fn iter_mut(&self) -> impl Iterator<Item = Ref<'_, K, V>> {
            let keys: Vec<K> = self.0.lock().unwrap().keys().cloned().collect();
            keys.into_iter().filter_map(|key| self.get_mut(key.borrow()))
        }
        pub(super) fn iter(&self) -> impl Iterator<Item = Ref<'_, K, V>> {
            self.iter_mut()
        }
    }
}

#[allow(
    clippy::duplicate_mod,
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "it is the registry as it is, for its own map"
)]
#[path = "registry/mod.rs"]
mod registry;

use registry::Topics;

/// An event in a shard's queue.
#[derive(Debug, Clone, PartialEq)]
enum Event {
    Delta(u32, u64),
    Attached(u32, u64),
    Reset(u32, u64),
    Detached(u32),
}

#[derive(Default)]
struct Queue(loom::sync::Mutex<Vec<Event>>);

impl Queue {
    fn push(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Outlet for Queue {
    fn delta(&self, _: ShardId, slot: Slot, delta: &Arc<delta::Delta>) {
        self.push(Event::Delta(slot.0, delta.offset.get()));
    }
    fn reset(&self, _: ShardId, slot: Slot, snapshot: &Arc<delta::Snapshot>) {
        self.push(Event::Reset(slot.0, snapshot.offset.get()));
    }
    fn stale(&self, _: ShardId, _: Slot, _: &TopicName, _: Option<u64>) {}
    fn membership(&self, _: ShardId, _: Slot, _: &Arc<MembershipChange>) {}
}

const TOPIC: &str = "s:a";

fn world() -> (Arc<Queue>, Arc<Topics>) {
    let mut config = Config::default();
    config.namespace.insert("s".to_owned(), Namespace { class: Class::Stream, ..Namespace::default() });
    let queue = Arc::new(Queue::default());
    (queue.clone(), Arc::new(Topics::new(Arc::new(config), 1, queue, Arc::new(Metrics::default()))))
}

fn publish(topics: &Topics) {
    let payload = payload::Payload::new("{}".into(), 1_024).unwrap();
    let source = topics.home(TOPIC);
    let incoming = Incoming {
        topic: TOPIC,
        kind: delta::Kind::Delta,
        ts: None,
        at_ms: None,
        payload,
        offset: None,
        source,
        home: None,
        is_relayed: false,
    };
    topics.publish(incoming).unwrap();
}

fn attach(topics: &Topics, queue: &Queue, slot: u32) {
    let name = TopicName::new(TOPIC).unwrap();
    let answer = |attachment: Attachment| queue.push(Event::Attached(slot, attachment.offset.get()));
    topics.attach(&name, ShardId(0), Slot(slot), Encoding::ALL[0], None, 0, 0, answer).unwrap();
}

fn detach(topics: &Topics, queue: &Queue, slot: u32) {
    topics.detach(&TopicName::new(TOPIC).unwrap(), ShardId(0), Slot(slot), || queue.push(Event::Detached(slot)));
}

/// The order that a shard relies on: after an answer come all later deltas, once and in order, until the interest ends;
/// before an answer and after an end comes nothing.
fn check(events: &[Event], last: u64) {
    let mut at: std::collections::HashMap<u32, u64> = std::collections::HashMap::new();
    for event in events {
        match *event {
            Event::Attached(slot, offset) => drop(at.insert(slot, offset)),
            Event::Delta(slot, offset) => {
                let before = at.insert(slot, offset);
                assert_eq!(before, Some(offset - 1), "slot {slot}: {events:?}");
            }
            Event::Reset(slot, offset) => assert!(at.insert(slot, offset).is_some(), "slot {slot}: {events:?}"),
            Event::Detached(slot) => drop(at.remove(&slot)),
        }
    }
    assert!(at.values().all(|offset| *offset == last), "{last}: {events:?}");
}

fn explore(test: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(test);
}

#[test]
fn an_answer_is_followed_by_what_came_after_it() {
    explore(|| {
        let (queue, topics) = world();
        let publisher = {
            let topics = topics.clone();
            thread::spawn(move || {
                publish(&topics);
                publish(&topics);
            })
        };
        attach(&topics, &queue, 7);
        publisher.join().unwrap();
        check(&queue.0.lock().unwrap(), 2);
    });
}

#[test]
fn a_client_that_leaves_and_comes_back_gets_nothing_of_the_time_between() {
    explore(|| {
        let (queue, topics) = world();
        attach(&topics, &queue, 7);
        let publisher = {
            let topics = topics.clone();
            thread::spawn(move || {
                publish(&topics);
                publish(&topics);
            })
        };
        detach(&topics, &queue, 7);
        attach(&topics, &queue, 7);
        publisher.join().unwrap();
        check(&queue.0.lock().unwrap(), 2);
    });
}

/// A topic without subscribers is forgotten; at the same time a client subscribes and a delta comes.
#[test]
fn a_topic_is_not_forgotten_under_a_new_subscriber() {
    explore(|| {
        let (queue, topics) = world();
        attach(&topics, &queue, 7);
        let leaver = {
            let (queue, topics) = (queue.clone(), topics.clone());
            thread::spawn(move || detach(&topics, &queue, 7))
        };
        let publisher = {
            let topics = topics.clone();
            thread::spawn(move || publish(&topics))
        };
        attach(&topics, &queue, 8);
        leaver.join().unwrap();
        publisher.join().unwrap();
        check(&queue.0.lock().unwrap(), 1);
    });
}

/// A source is loaded in another epoch while a client subscribes: a client that was told the old state is told that it
/// no longer counts, and any other is told the new one. The offsets tell which.
#[test]
fn no_client_keeps_a_state_that_does_not_count() {
    const FLOOR: u64 = 40;
    explore(|| {
        let (queue, topics) = world();
        publish(&topics);
        let source = {
            let topics = topics.clone();
            thread::spawn(move || {
                let source = topics.home(TOPIC);
                topics.load(source, &Epoch::from_text("new"), Offset::new(FLOOR).unwrap(), true);
                topics.loaded(source);
                publish(&topics);
            })
        };
        attach(&topics, &queue, 7);
        source.join().unwrap();
        check(&queue.0.lock().unwrap(), FLOOR + 1);
    });
}

/// Two clients subscribe and leave at once, while the subscribed topics are listed: a topic has as many interests as
/// there are subscribers.
#[test]
fn interests_are_counted() {
    explore(|| {
        let (queue, topics) = world();
        let other = {
            let (queue, topics) = (queue.clone(), topics.clone());
            thread::spawn(move || {
                attach(&topics, &queue, 8);
                detach(&topics, &queue, 8);
            })
        };
        attach(&topics, &queue, 7);
        let slots = || topics.subscribed().into_iter().flat_map(|(_, slots)| slots).map(|(_, slot)| slot.0);
        assert!(slots().any(|slot| slot == 7));
        other.join().unwrap();
        assert_eq!(slots().collect::<Vec<_>>(), [7]);
        assert_eq!((topics.len(), topics.unpublished().0), (0, 1));
        detach(&topics, &queue, 7);
        // Nothing was ever published on it.
        assert!(topics.unpublished() == (0, 0) && slots().next().is_none());
    });
}
