//! Compares the accounts with the truth: after any change to topics, the sums equal those of a walk over all topics,
//! and the ceilings are kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::exchange::{Incoming, Nowhere, ShardId, Slot};
use super::{Kind, Payload, PublishError, Topics};
use crate::config::{Class, Config, DeltaType, Namespace, PayloadForm};
use crate::metrics::Metrics;
use crate::name::TopicName;
use crate::position::{Epoch, Offset, Position};
use crate::protocol::{Encoding, HistoryQuery};

const NAMESPACES: [&str; 4] = ["stream", "latest", "merge", "fossil"];
const NAMES: usize = 6;
const HISTORY_MAX: usize = 256 * 1024;
const STATE_MAX: usize = 96 * 1024;

#[derive(Debug, Clone)]
enum Op {
    /// So many deltas, or a whole state, of so many bytes.
    Publish {
        topic: usize,
        deltas: usize,
        bytes: usize,
        whole: bool,
    },
    /// A delta that is refused.
    Refused {
        topic: usize,
    },
    /// A client subscribes that has seen all but this many deltas.
    Attach {
        topic: usize,
        encoding: usize,
        behind: Option<u64>,
    },
    Detach {
        topic: usize,
    },
    /// A lagging client catches up.
    Replay {
        topic: usize,
        encoding: usize,
        behind: u64,
    },
    Snapshot {
        topic: usize,
    },
    History {
        topic: usize,
    },
    Restore {
        topic: usize,
        bytes: usize,
    },
    TakeUnsaved,
    Sweep,
    /// The past of all topics no longer counts.
    Load,
}

fn op() -> impl Strategy<Value = Op> {
    let topic = 0..NAMES * NAMESPACES.len();
    let encoding = 0..Encoding::COUNT;
    let bytes = prop::sample::select(vec![10usize, 200, 3_000, 30_000]);
    prop_oneof![
        12 => (topic.clone(), 1usize..12, bytes.clone(), prop::bool::weighted(0.1))
            .prop_map(|(topic, deltas, bytes, whole)| Op::Publish { topic, deltas, bytes, whole }),
        2 => topic.clone().prop_map(|topic| Op::Refused { topic }),
        3 => (topic.clone(), encoding.clone(), prop::option::of(0u64..20))
            .prop_map(|(topic, encoding, behind)| Op::Attach { topic, encoding, behind }),
        2 => topic.clone().prop_map(|topic| Op::Detach { topic }),
        2 => (topic.clone(), encoding, 0u64..20)
            .prop_map(|(topic, encoding, behind)| Op::Replay { topic, encoding, behind }),
        2 => topic.clone().prop_map(|topic| Op::Snapshot { topic }),
        1 => topic.clone().prop_map(|topic| Op::History { topic }),
        1 => (topic, bytes).prop_map(|(topic, bytes)| Op::Restore { topic, bytes }),
        1 => Just(Op::TakeUnsaved),
        2 => Just(Op::Sweep),
        1 => Just(Op::Load),
    ]
}

struct World {
    topics: Topics,
    published: u64,
}

fn name(topic: usize) -> TopicName {
    TopicName::new(&format!("{}:{}", NAMESPACES[topic % NAMESPACES.len()], topic / NAMESPACES.len())).unwrap()
}

impl World {
    fn new(history_total_bytes: usize, state_total_bytes: usize) -> Self {
        let mut config = Config::default();
        config.limits.history_total_bytes = history_total_bytes;
        config.limits.state_total_bytes = state_total_bytes;
        config.limits.topic_idle = Duration::ZERO;
        for (namespace, class) in
            NAMESPACES.into_iter().zip([Class::Stream, Class::Latest, Class::Merge, Class::Stream])
        {
            let mut options = Namespace { class, history_size: 40, ..Namespace::default() };
            if namespace == "fossil" {
                options.allowed_delta_types = vec![DeltaType::Fossil];
            }
            config.namespace.insert(namespace.to_owned(), options);
        }
        let topics = Topics::new(Arc::new(config), 1, Arc::new(Nowhere), Arc::new(Metrics::default()));
        Self { topics, published: 0 }
    }

    fn incoming<'a>(&mut self, topic: &'a str, bytes: usize, kind: Kind, offset: Option<Offset>) -> Incoming<'a> {
        self.published += 1;
        let n = self.published;
        let data = match topic.starts_with("merge") {
            true => {
                serde_json::json!({(format!("k{}", n % 17)): {"n": n, "pad": "x".repeat(bytes)}, (format!("k{}", n % 5)): null})
            }
            false => serde_json::json!({"n": n, "pad": "x".repeat(bytes)}),
        };
        let payload = Payload::new(Bytes::from(data.to_string()), 1 << 20).unwrap();
        Incoming {
            topic,
            kind,
            ts: None,
            at_ms: None,
            payload,
            offset,
            source: self.topics.home(topic),
            home: None,
            is_relayed: false,
        }
    }

    /// A publish of what the topic cannot be: bytes where JSON is meant.
    fn refused(&self, topic: usize) {
        let name = name(topic);
        let payload = Payload::read(Bytes::from_static(b"\xff"), 100, PayloadForm::Bytes).unwrap();
        let source = self.topics.home(name.as_str());
        let incoming = Incoming {
            topic: name.as_str(),
            kind: Kind::Delta,
            ts: None,
            at_ms: None,
            payload,
            offset: None,
            source,
            home: None,
            is_relayed: false,
        };
        assert!(self.topics.publish(incoming).is_err());
    }

    fn at(&self, topic: &TopicName, behind: u64) -> Offset {
        let query = HistoryQuery { limit: 0, since: None, reverse: false };
        let now = self.topics.history(topic, &query).unwrap().offset.get();
        Offset::new(now.saturating_sub(behind)).unwrap()
    }

    fn do_one(&mut self, op: &Op) {
        match *op {
            Op::Publish { topic, deltas, bytes, whole } => {
                let name = name(topic);
                let kind = if whole && !matches!(topic % 4, 0 | 3) { Kind::Snapshot } else { Kind::Delta };
                for _ in 0..deltas {
                    let incoming = self.incoming(name.as_str(), bytes, kind, None);
                    match self.topics.publish(incoming) {
                        Ok(_) | Err(PublishError::StateTotal { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            }
            Op::Refused { topic } => self.refused(topic),
            Op::Attach { topic, encoding, behind } => {
                let name = name(topic);
                let since = behind.map(|behind| Position {
                    offset: self.at(&name, behind),
                    epoch: self.topics.epoch(self.topics.home(name.as_str())),
                });
                // Refused where there is no room for one more.
                let _ =
                    self.topics.attach(&name, ShardId(0), Slot(0), Encoding::ALL[encoding], since.as_ref(), 3, 0, drop);
            }
            Op::Detach { topic } => self.topics.detach(&name(topic), ShardId(0), Slot(0), || ()),
            Op::Replay { topic, encoding, behind } => {
                let name = name(topic);
                self.topics.replay_for(&name, Encoding::ALL[encoding], self.at(&name, behind), drop);
            }
            Op::Snapshot { topic } => self.topics.snapshot_for(&name(topic), drop),
            Op::History { topic } => {
                let query = HistoryQuery { limit: 10, since: None, reverse: false };
                self.topics.history(&name(topic), &query).unwrap();
            }
            Op::Restore { topic, bytes } => {
                let name = name(topic);
                let offset = Offset::new(self.at(&name, 0).get() + 5);
                let incoming = self.incoming(name.as_str(), bytes, Kind::Snapshot, offset);
                let _ = self.topics.restore(incoming, (Offset::ZERO, None), (false, None));
            }
            Op::TakeUnsaved => {
                let source = self.topics.home("");
                drop(self.topics.take_unsaved(source, &self.topics.unsaved(source), usize::MAX));
            }
            Op::Sweep => self.topics.sweep(),
            Op::Load => {
                let source = self.topics.home("");
                self.topics.load(source, &Epoch::random(), Offset::new(self.published % 3).unwrap(), true);
                self.topics.loaded(source);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_sums_are_the_truth_and_the_ceilings_hold(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new(HISTORY_MAX, STATE_MAX);
        for op in &ops {
            let before = world.topics.history_bytes();
            world.do_one(op);
            let counted = world.topics.counted();
            prop_assert_eq!(counted, world.topics.truth(), "after {:?}", op);
            match op {
                // Nothing that is published, or asked for whole, brings the sum over its ceiling.
                Op::Publish { .. } | Op::Snapshot { .. } | Op::Restore { .. } | Op::TakeUnsaved | Op::Load => {
                    prop_assert!(counted.0 <= HISTORY_MAX.max(before), "{} after {op:?}", counted.0);
                }
                Op::Sweep => prop_assert!(counted.0 <= HISTORY_MAX / 8 * 7, "{} after a sweep", counted.0),
                // Catching up makes frames of kept deltas.
                _ => {}
            }
            // An eighth more than the ceiling, and the one delta or topic that reached it.
            prop_assert!(counted.1 <= STATE_MAX / 8 * 9 + 32_000, "{} bytes of state after {op:?}", counted.1);
        }
        // Whatever has ended is no longer counted.
        for topic in 0..NAMES * NAMESPACES.len() {
            world.topics.detach(&name(topic), ShardId(0), Slot(0), || ());
            let name = name(topic);
            let incoming = world.incoming(name.as_str(), 1, Kind::Deletion, None);
            let _ = world.topics.publish(incoming);
        }
        world.topics.sweep();
        prop_assert_eq!(world.topics.counted(), (0, 0, (0, 0), 0));
    }
}

/// Those with much give, those with little keep what they have; with room again, all get their past back.
#[test]
fn the_longest_histories_are_cut_first() {
    let mut world = World::new(HISTORY_MAX, 0);
    // Every topic keeps some history.
    for topic in 0..NAMES * NAMESPACES.len() {
        world.do_one(&Op::Attach { topic, encoding: 0, behind: None });
    }
    let mut publish = |topic: &str, bytes: usize, deltas: usize| {
        for _ in 0..deltas {
            let incoming = world.incoming(topic, bytes, Kind::Delta, None);
            world.topics.publish(incoming).unwrap();
        }
        world.topics.sweep();
        let name = TopicName::new(topic).unwrap();
        let query = HistoryQuery { limit: 1_000, since: None, reverse: false };
        world.topics.history(&name, &query).unwrap().publications.len()
    };
    for small in 0..4 {
        assert_eq!(publish(&format!("latest:{small}"), 100, 10), 10);
    }
    for _ in 0..3 {
        for large in 0..6 {
            let kept = publish(&format!("stream:{large}"), 2_000, 10);
            assert!((2..=40).contains(&kept), "{kept} are kept of stream:{large}");
        }
    }
    for small in 0..4 {
        let kept = publish(&format!("latest:{small}"), 100, 1);
        assert_eq!(kept, 11, "latest:{small} had little");
    }
    assert!(world.topics.history_bytes() > HISTORY_MAX / 2, "room is used");
}

/// Only published topics count as published: a refused delta changes no count, makes no topic, and takes no topic from
/// a client's share of unpublished ones.
#[test]
fn a_refused_first_publish_counts_for_nothing() {
    let mut world = World::new(0, 0);
    world.do_one(&Op::Attach { topic: 2, encoding: 0, behind: None });
    let before = world.topics.counted();
    assert_eq!((before.2.0, before.3), (1, 0));
    // One that a subscriber waits for, and one that is not there.
    for topic in [2, 6] {
        world.refused(topic);
        assert_eq!(world.topics.counted(), before);
        assert_eq!(world.topics.truth(), before);
    }
    world.do_one(&Op::Publish { topic: 2, deltas: 1, bytes: 10, whole: false });
    let after = world.topics.counted();
    assert_eq!((after.2, after.3), ((0, 0), 1));
    assert_eq!(after, world.topics.truth());
}
