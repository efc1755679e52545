//! Of a topic's entries in several sources the same ones count on every node, in whichever order it reads the sources:
//! the newest, by offset and then by source; and if the topic was moved, those after the newest move, in the source
//! that it went to.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::exchange::{Incoming, Nowhere, Outlet, ShardId, Slot, SourceId};
use super::{Delta, Kind, MembershipChange, Payload, Snapshot, Topics};
use crate::config::{Class, Config, Namespace};
use crate::limits::ENDED_TOPICS_MAX;
use crate::metrics::Metrics;
use crate::name::TopicName;
use crate::position::{Epoch, Offset, Position};
use crate::protocol::{self, Encoding, HistoryQuery};

const SOURCES: u16 = 3;

const VALUE: Kind = Kind::Snapshot;
const DELETION: Kind = Kind::Deletion;
const MOVE: Kind = Kind::Move;

/// Source, kind, offset.
type Entry = (u16, Kind, u64);

/// The value that a node knows (the offset of the entry that it came with) and its source.
type Known = Option<(u64, u16)>;

struct Node {
    topics: Topics,
    name: TopicName,
}

impl Node {
    fn new(class: Class) -> Self {
        let node = Self::unread(class);
        for source in 0..SOURCES {
            node.load(SourceId(source), "e", true);
            node.topics.loaded(SourceId(source));
        }
        node
    }

    /// One that has read nothing.
    fn unread(class: Class) -> Self {
        let mut config = Config::default();
        let namespace = Namespace { class, ..Namespace::default() };
        config.namespace.insert("t".to_owned(), namespace);
        let topics = Topics::new(Arc::new(config), SOURCES.into(), Arc::new(Nowhere), Arc::new(Metrics::default()));
        (0..SOURCES).for_each(|source| topics.doubt(SourceId(source), Offset::ZERO));
        Self { topics, name: TopicName::new("t:x").unwrap() }
    }

    fn load(&self, source: SourceId, epoch: &str, complete: bool) {
        self.topics.load(source, &Epoch::from_text(epoch), Offset::ZERO, complete);
    }

    /// Where the topic belongs, and another source.
    fn home_and_other(&self) -> (SourceId, SourceId) {
        let home = self.topics.home(self.name.as_str());
        (home, SourceId((home.0 + 1) % SOURCES))
    }

    fn is_whole(&self) -> Option<bool> {
        Some(!self.topics.view(&self.name)?.snapshot.known.may_lack())
    }

    fn incoming(&self, entry: Entry) -> Incoming<'_> {
        incoming(self.name.as_str(), entry)
    }

    /// Whether it was taken in, or why it was not.
    fn read(&self, entry: Entry) -> Result<bool, &'static str> {
        self.topics.publish(self.incoming(entry)).map(|published| published.new).map_err(|error| error.label())
    }

    fn restore(&self, entry: Entry, moved_at: u64) {
        self.topics.restore(self.incoming(entry), (Offset::new(moved_at).unwrap(), None), (false, None)).unwrap();
    }

    fn known(&self) -> Known {
        let view = self.topics.view(&self.name)?;
        let value: serde_json::Value = serde_json::from_slice(&view.snapshot.data).unwrap();
        assert!(!view.snapshot.known.may_lack(), "{value}");
        Some((value["n"].as_u64().unwrap(), self.topics.source_of(self.name.as_str()).0))
    }
}

fn incoming(topic: &str, (source, kind, offset): Entry) -> Incoming<'_> {
    let data = Bytes::from(format!("{{\"n\":{offset}}}"));
    Incoming {
        topic,
        kind,
        ts: None,
        at_ms: Some(crate::clock::unix_ms()),
        payload: Payload::new(data, 100).unwrap(),
        offset: Offset::new(offset),
        source: SourceId(source),
        home: None,
        is_relayed: false,
    }
}

/// The value that results from them.
fn expected(entries: &[Entry]) -> Known {
    let order = |(source, _, offset): &Entry| (*offset, *source);
    let moved = entries.iter().filter(|entry| entry.1 == MOVE).max_by_key(|entry| order(entry));
    let counts = entries.iter().filter(|entry| match moved {
        Some(moved) => entry.0 == moved.0 && entry.2 >= moved.2,
        None => true,
    });
    let (source, kind, offset) = *counts.max_by_key(|entry| order(entry))?;
    (kind != DELETION).then_some((offset, source))
}

/// Whether entries may lie so: of one source no two have one offset.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let kind = prop::sample::select(vec![VALUE, VALUE, DELETION, MOVE]);
    prop::collection::vec((0..SOURCES, kind, any::<bool>()), 1..12).prop_map(|drawn| {
        let (mut now, mut last) = (1, [0; SOURCES as usize]);
        let place = |(source, kind, is_tie): (u16, Kind, bool)| {
            let last = &mut last[usize::from(source)];
            now += u64::from(!is_tie || *last >= now);
            *last = now;
            (source, kind, now)
        };
        drawn.into_iter().map(place).collect()
    })
}

fn check(class: Class, entries: &[Entry], turns: &[usize]) -> Result<(), TestCaseError> {
    let node = Node::new(class);
    let mut left: Vec<Vec<Entry>> =
        (0..SOURCES).map(|source| entries.iter().filter(|entry| entry.0 == source).rev().copied().collect()).collect();
    let mut turns = turns.iter().cycle();
    while left.iter().any(|entries| !entries.is_empty()) {
        let waiting: Vec<usize> = (0..left.len()).filter(|at| !left[*at].is_empty()).collect();
        let entry = left[waiting[turns.next().unwrap() % waiting.len()]].pop().unwrap();
        let _ = node.read(entry);
    }
    prop_assert_eq!(node.known(), expected(entries));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn nodes_agree_in_whichever_order_they_read(
        entries in entries(), turns in prop::collection::vec(0usize..6, 12), class in prop::sample::select(vec![Class::Latest, Class::Merge]),
    ) {
        check(class, &entries, &turns)?;
    }
}

/// Each pair of entries with one offset, both ways round.
#[test]
fn of_two_entries_with_one_offset_the_later_sources_counts() {
    for one in [VALUE, DELETION, MOVE] {
        for other in [VALUE, DELETION, MOVE] {
            let entries = [(0, one, 5), (1, other, 5)];
            for order in [[0, 1], [1, 0]] {
                let node = Node::new(Class::Latest);
                for at in order {
                    let _ = node.read(entries[at]);
                }
                assert_eq!(node.known(), expected(&entries), "{entries:?}, {order:?}");
            }
        }
    }
}

/// Two moves, and a value in the source that the topic left: it is refused where both moves are known, and never
/// counts.
#[test]
fn what_comes_after_a_move_in_the_source_that_was_left_is_refused() {
    for (second, order) in
        [(6, [0, 1, 2]), (6, [1, 0, 2]), (6, [0, 2, 1]), (5, [0, 1, 2]), (5, [1, 0, 2]), (5, [0, 2, 1])]
    {
        let entries = [(0, MOVE, 5), (1, MOVE, second), (0, VALUE, 7)];
        let node = Node::new(Class::Latest);
        let outcomes = order.map(|at| (at, node.read(entries[at])));
        assert_eq!(node.known(), Some((second, 1)), "{outcomes:?}");
        let late = outcomes.iter().find(|(at, _)| *at == 2).unwrap().1;
        assert!(late == Err("wrong_partition") || order[1] == 2, "{outcomes:?}");
    }
}

/// There and back, and deleted: where the way there is read last, it brings nothing back and is no fault of a
/// publisher's.
#[test]
fn a_topic_that_moved_back_and_was_deleted_stays_deleted() {
    let there = [(1, MOVE, 10), (1, VALUE, 12)];
    let back = [(0, MOVE, 21), (0, DELETION, 30)];
    let node = Node::new(Class::Merge);
    for entry in back {
        assert_eq!(node.read(entry), Ok(true));
    }
    for entry in there {
        assert_eq!(node.read(entry), Ok(false));
    }
    node.restore((1, VALUE, 12), 10);
    assert_eq!(node.known(), None);
    assert_eq!(node.read((1, VALUE, 40)), Err("wrong_partition"), "it is still where it was moved to");
    assert_eq!(node.read((0, VALUE, 41)), Ok(true));
    assert_eq!(node.read((1, VALUE, 42)), Err("wrong_partition"));
    assert_eq!(node.known(), Some((41, 0)));
}

/// States that were saved beside two sources, put back in both orders.
#[test]
fn of_two_saved_states_the_same_counts_in_both_orders() {
    // Offset and move of each, and the source that counts.
    for (one, other, counts) in [
        ((5, 0), (5, 0), 1),
        ((6, 0), (5, 0), 0),
        ((9, 5), (5, 0), 0),
        ((9, 0), (5, 5), 1),
        ((9, 5), (7, 7), 1),
        ((5, 5), (5, 5), 1),
    ] {
        for order in [[0, 1], [1, 0]] {
            let node = Node::new(Class::Latest);
            let saved = [(0, one), (1, other)];
            for at in order {
                node.restore((saved[at].0, VALUE, saved[at].1.0), saved[at].1.1);
            }
            assert_eq!(node.known().unwrap().1, counts, "{one:?} {other:?} {order:?}");
        }
    }
}

/// A deleted topic stays deleted when another source is loaded again: its older entries come again.
#[test]
fn a_load_of_another_source_brings_nothing_back_that_was_deleted() {
    for is_read_first in [false, true] {
        let node = Node::new(Class::Latest);
        let entries = [(0, VALUE, 5), (1, DELETION, 6)];
        let order = if is_read_first { [1, 0] } else { [0, 1] };
        for at in order {
            let _ = node.read(entries[at]);
        }
        let later_ms = crate::clock::unix_ms() + 1_000;
        for source in 0..SOURCES {
            node.topics.read_upto(SourceId(source), later_ms, 1_000_000);
            node.topics.set_first(SourceId(source), later_ms);
        }
        node.topics.set_first(SourceId(0), 1);
        node.topics.sweep();
        node.topics.load(SourceId(0), &Epoch::from_text("e"), Offset::ZERO, true);
        assert_eq!(node.read(entries[0]), Err("wrong_partition"));
        node.topics.loaded(SourceId(0));
        assert_eq!(node.known(), None);
        // Once the other source has nothing from before it, and its state would have expired, it is forgotten.
        let later_ms = later_ms + 31 * 86_400_000;
        for source in 0..SOURCES {
            node.topics.read_upto(SourceId(source), later_ms, 31 * 86_400_000);
            node.topics.set_first(SourceId(source), later_ms);
        }
        node.topics.sweep();
        assert_eq!(node.read((0, VALUE, 5)), Ok(true));
    }
}

/// A state saved beside a source is to be removed if an entry of another source ends it.
#[test]
fn ends_because_of_another_source_are_told_apart() {
    let (one, other) = (SourceId(0), SourceId(1));
    for (ends, is_known_first) in
        [((1, DELETION, 6), true), ((1, MOVE, 6), true), ((1, DELETION, 6), false), ((1, MOVE, 6), false)]
    {
        let node = Node::new(Class::Latest);
        node.topics.remember_ended(one);
        node.topics.remember_ended(other);
        if is_known_first {
            node.restore((0, VALUE, 5), 0);
        }
        assert!(node.read(ends).is_ok());
        if !is_known_first {
            node.restore((0, VALUE, 5), 0);
        }
        assert!(node.topics.has_ended_elsewhere(one) && !node.topics.has_ended_elsewhere(other), "{ends:?}");
        let ended = node.topics.take_ended(one);
        assert_eq!(ended.iter().map(|(_, offset)| offset.get()).collect::<Vec<_>>(), [5], "{ends:?}");
        assert!(!node.topics.has_ended_elsewhere(one));
        node.topics.put_back_ended(one, ended);
        assert!(node.topics.has_ended_elsewhere(one), "they are still to be removed");
    }
}

/// More topics end than are remembered: that is known until the source is loaded again, whether they were new or put
/// back.
#[test]
fn ends_that_are_too_many_are_not_forgotten_in_silence() {
    let node = Node::new(Class::Latest);
    let source = SourceId(0);
    node.topics.remember_ended(source);
    let offset = std::cell::Cell::new(0);
    let end = |n: usize| {
        let name = format!("t:{n}");
        offset.set(offset.get() + 2);
        for (kind, offset) in [(VALUE, offset.get()), (DELETION, offset.get() + 1)] {
            assert!(node.topics.publish(incoming(&name, (0, kind, offset))).unwrap().new);
        }
    };
    (0..ENDED_TOPICS_MAX).for_each(end);
    assert!(!node.topics.has_forgotten_ends(source));
    end(ENDED_TOPICS_MAX);
    assert!(node.topics.has_forgotten_ends(source) && !node.topics.has_forgotten_ends(SourceId(1)));
    node.topics.load(source, &Epoch::from_text("e"), Offset::ZERO, true);
    assert!(node.topics.has_forgotten_ends(source), "in the same epoch they are still to be removed");
    node.topics.load(source, &Epoch::from_text("f"), Offset::ZERO, true);
    assert!(!node.topics.has_forgotten_ends(source) && node.topics.take_ended(source).is_empty());
    node.topics.loaded(source);
    (0..ENDED_TOPICS_MAX).for_each(end);
    let taken = node.topics.take_ended(source);
    assert_eq!(taken.len(), ENDED_TOPICS_MAX);
    end(ENDED_TOPICS_MAX);
    node.topics.put_back_ended(source, taken);
    assert!(node.topics.has_forgotten_ends(source));
    assert_eq!(node.topics.take_ended(source).len(), ENDED_TOPICS_MAX);
}

/// A patch in the wrong source, read while the one in which its topic belongs is loaded: whole once that had nothing of
/// it.
#[test]
fn what_is_read_before_its_home_is_whole_if_there_was_nothing() {
    for (is_there, missed, expected) in [(false, false, true), (true, false, false), (false, true, false)] {
        let node = Node::new(Class::Merge);
        let home = node.topics.home("t:x");
        let other = SourceId((home.0 + 1) % SOURCES);
        node.topics.load(home, &Epoch::from_text("e"), Offset::ZERO, !missed);
        assert_eq!(node.read((other.0, Kind::Delta, 8)), Ok(true));
        let is_whole = || !node.topics.view(&node.name).unwrap().snapshot.known.may_lack();
        assert!(!is_whole(), "it may be there");
        if is_there {
            node.restore((home.0, VALUE, 5), 0);
        }
        node.topics.loaded(home);
        assert_eq!(is_whole(), expected, "there {is_there}, missed {missed}");
    }
}

/// A life that begins after a deletion in its own source rests on that, and says so where it is saved: what another
/// source has from before it puts nothing in doubt.
#[test]
fn a_life_after_a_deletion_rests_on_it() {
    let node = Node::new(Class::Merge);
    for entry in [(0, Kind::Delta, 5), (1, Kind::Deletion, 6), (1, Kind::Delta, 7)] {
        assert_eq!(node.read(entry), Ok(true));
    }
    let snapshot = node.topics.view(&node.name).unwrap().snapshot;
    assert_eq!((snapshot.offset.get(), snapshot.base.get()), (7, 6));
}

/// Another source that has topics in common with a topic's own is not read yet. What it has from before a deletion does
/// not count, so the life after the deletion is whole; without a deletion it may have had the topic before.
#[test]
fn a_life_after_a_deletion_waits_for_no_other_source() {
    for (is_deleted, expected) in [(true, Some(true)), (false, Some(false))] {
        let node = Node::unread(Class::Merge);
        let (home, other) = node.home_and_other();
        node.load(home, "e", true);
        let misplaced = (0..).map(|n| format!("t:{n}")).find(|name| node.topics.home(name) == other).unwrap();
        node.topics.relate_home(home, &misplaced);
        assert_eq!(node.topics.related(home), [other]);
        if is_deleted {
            assert_eq!(node.read((home.0, DELETION, 6)), Ok(false));
        }
        assert_eq!(node.read((home.0, Kind::Delta, 7)), Ok(true));
        node.topics.loaded(home);
        assert_eq!(node.is_whole(), expected, "deleted {is_deleted}");
        if is_deleted {
            node.load(other, "e", true);
            assert_eq!(node.read((other.0, Kind::Delta, 5)), Err("wrong_partition"));
            node.topics.loaded(other);
            assert_eq!(node.is_whole(), expected, "the other source is read");
        }
    }
}

/// A deletion in the wrong source, read while the one in which the topic belongs is loaded again, hides nothing that
/// comes there.
#[test]
fn a_deletion_elsewhere_hides_nothing_of_a_source_that_is_loaded_again() {
    let node = Node::new(Class::Merge);
    let home = node.topics.home("t:x");
    let other = (home.0 + 1) % SOURCES;
    node.topics.set_reached(home, Offset::new(100).unwrap());
    node.topics.load(home, &Epoch::from_text("f"), Offset::ZERO, true);
    assert_eq!(node.read((other, VALUE, 5)), Ok(true));
    assert_eq!(node.read((other, DELETION, 6)), Ok(true));
    assert_eq!(node.read((home.0, VALUE, 7)), Ok(true));
    node.topics.loaded(home);
    assert_eq!(node.known(), Some((7, home.0)));
}

/// What docs/state-streams.md says of patches in another source, beside a life that rests on a deletion.
#[test]
fn patches_in_another_source_are_older_than_the_deletion_or_put_the_state_in_doubt() {
    for (at, taken, is_whole, data, source) in [
        (5, Err("wrong_partition"), true, r#"{"n":9}"#, 1),
        (7, Err("wrong_partition"), false, r#"{"n":9}"#, 1),
        (10, Ok(true), false, r#"{"n":10}"#, 0),
    ] {
        let node = Node::new(Class::Merge);
        for entry in [(1, VALUE, 4), (1, DELETION, 6), (1, Kind::Delta, 9)] {
            assert_eq!(node.read(entry), Ok(true));
        }
        assert_eq!(node.read((0, Kind::Delta, at)), taken, "{at}");
        let snapshot = node.topics.view(&node.name).unwrap().snapshot;
        assert_eq!((!snapshot.known.may_lack(), snapshot.data.as_ref()), (is_whole, data.as_bytes()), "{at}");
        assert_eq!(node.topics.source_of("t:x"), SourceId(source), "{at}");
        assert_eq!(node.read((source, VALUE, 11)), Ok(true));
        assert_eq!(node.known(), Some((11, source)), "whole again by a snapshot");
    }
}

/// A value in the wrong source, which is read first: whole once the source in which the topic belongs has no newer one,
/// and in doubt if that has missed some.
#[test]
fn a_misplaced_value_is_whole_if_its_home_missed_nothing() {
    for (missed, expected) in [(false, Some(true)), (true, Some(false))] {
        let node = Node::unread(Class::Latest);
        let (home, other) = node.home_and_other();
        node.load(other, "e", true);
        assert_eq!(node.read((other.0, VALUE, 8)), Ok(true));
        node.topics.loaded(other);
        assert_eq!(node.is_whole(), Some(false), "its home was not read yet");
        node.load(home, "e", !missed);
        node.topics.loaded(home);
        assert_eq!(node.is_whole(), expected, "missed {missed}");
    }
    // The same where it comes later, and where the home misses some after it.
    let node = Node::new(Class::Latest);
    let (home, other) = node.home_and_other();
    assert_eq!(node.read((other.0, VALUE, 8)), Ok(true));
    assert_eq!(node.is_whole(), Some(true));
    node.topics.doubt(home, Offset::ZERO);
    assert_eq!(node.is_whole(), Some(false), "there may be a newer one");
}

/// The contents of a source are replaced: their effect on topics of others is undone by reading those again, and until
/// then none of these topics is reported as whole, or as missing.
#[test]
fn replaced_contents_no_longer_hide_topics_of_others() {
    for (class, replaced) in [(Class::Latest, VALUE), (Class::Latest, DELETION), (Class::Merge, VALUE)] {
        let node = Node::new(class);
        let (home, other) = node.home_and_other();
        assert_eq!(node.read((other.0, VALUE, 5)), Ok(true));
        assert_eq!(node.read((home.0, replaced, 9)), Ok(true));
        assert_eq!(node.topics.related(other), [home], "{replaced:?}");
        node.load(home, "f", true);
        node.topics.loaded(home);
        assert!(node.topics.needs_reload(other), "{replaced:?}: its value counts again");
        assert_eq!(node.is_whole(), Some(false), "{replaced:?}");
        node.load(other, "e", true);
        assert!(!node.topics.needs_reload(other));
        assert_eq!(node.read((other.0, VALUE, 5)), Ok(true));
        node.topics.loaded(other);
        assert_eq!(node.known(), Some((5, other.0)), "{replaced:?}");
        assert!(!node.topics.needs_reload(home), "its past is what it was");
    }
    // A source that is loaded for the first time has no past to lose.
    let node = Node::unread(Class::Latest);
    let (home, other) = node.home_and_other();
    node.load(other, "e", true);
    assert_eq!(node.read((other.0, VALUE, 5)), Ok(true));
    node.topics.relate(other, home);
    node.topics.assume_epoch(home, Epoch::from_text("e"));
    node.topics.loaded(other);
    node.load(home, "e", true);
    assert!(!node.topics.needs_reload(other));
    // But what was saved of others may rest on one that is no more.
    let node = Node::unread(Class::Latest);
    node.load(other, "e", true);
    node.topics.relate(other, home);
    node.topics.assume_epoch(home, Epoch::from_text("e"));
    node.topics.loaded(other);
    node.load(home, "f", true);
    assert!(node.topics.needs_reload(other));
    // Sources that have no topic in common have nothing to do with each other.
    let node = Node::new(Class::Latest);
    assert_eq!(node.read((0, VALUE, 5)), Ok(true));
    node.load(SourceId(1), "f", true);
    assert!((0..SOURCES).all(|source| !node.topics.needs_reload(SourceId(source))));
}

/// The events that a shard gets, in a word each.
#[derive(Default)]
struct Told(std::sync::Mutex<Vec<String>>);

impl Outlet for Told {
    fn delta(&self, _: ShardId, _: Slot, delta: &Arc<Delta>) {
        self.0.lock().unwrap().push(format!("{} after {}", delta.offset, delta.prev));
    }

    fn reset(&self, _: ShardId, _: Slot, snapshot: &Arc<Snapshot>) {
        self.0.lock().unwrap().push(format!("{:?} at {}", snapshot.known, snapshot.offset));
    }

    fn stale(&self, _: ShardId, _: Slot, _: &TopicName, _: Option<u64>) {}
    fn membership(&self, _: ShardId, _: Slot, _: &Arc<MembershipChange>) {}
}

/// A node with room for one topic, and the events that its subscribers get.
fn crowded(class: Class) -> (Node, Arc<Told>) {
    let (mut config, told) = (Config::default(), Arc::new(Told::default()));
    config.namespace.insert("t".to_owned(), Namespace { class, ..Namespace::default() });
    config.limits.topics = 1;
    let topics = Topics::new(Arc::new(config), 1, told.clone(), Arc::new(Metrics::default()));
    let node = Node { topics, name: TopicName::new("t:x").unwrap() };
    node.load(SourceId(0), "e", true);
    (node, told)
}

impl Node {
    /// The same of another topic.
    fn read_other(&self, kind: Kind, offset: u64) -> bool {
        self.topics.publish(incoming("other", (0, kind, offset))).unwrap().new
    }

    fn known_at(&self) -> (protocol::Known, u64) {
        let snapshot = self.topics.view(&self.name).unwrap().snapshot;
        (snapshot.known, snapshot.offset.get())
    }

    fn history_since(&self, offset: u64) -> Option<usize> {
        let since = Some(Position { offset: Offset::new(offset).unwrap(), epoch: Epoch::from_text("e") });
        let query = HistoryQuery { limit: 9, since, reverse: false };
        self.topics.history(&self.name, &query).ok().map(|page| page.publications.len())
    }
}

/// The home of a topic may have had newer entries that were missed: what comes elsewhere is told as a state that may
/// not be whole, and never as a delta alone, which clients take for whole.
#[test]
fn a_misplaced_value_that_may_not_be_the_newest_is_told_as_the_state() {
    for class in [Class::Latest, Class::Merge] {
        let (mut config, told) = (Config::default(), Arc::new(Told::default()));
        config.namespace.insert("t".to_owned(), Namespace { class, ..Namespace::default() });
        let topics = Topics::new(Arc::new(config), SOURCES.into(), told.clone(), Arc::new(Metrics::default()));
        let node = Node { topics, name: TopicName::new("t:x").unwrap() };
        for source in 0..SOURCES {
            node.load(SourceId(source), "e", true);
            node.topics.loaded(SourceId(source));
        }
        let (home, other) = node.home_and_other();
        node.topics.attach(&node.name, ShardId(0), Slot(0), Encoding::Plain, None, 0, 0, |_| {}).unwrap();
        node.topics.doubt(home, Offset::ZERO);
        for offset in [8, 9] {
            assert_eq!(node.read((other.0, VALUE, offset)), Ok(true));
            assert_eq!(node.is_whole(), Some(false), "{class:?}");
            let last = told.0.lock().unwrap().last().cloned();
            assert_eq!(last, Some(format!("{:?} at {offset}", protocol::Known::Incomplete)), "{class:?}");
        }
    }
}

/// A topic's first deltas find no room: subscribers are told once that it may exist, and get the state when it goes
/// on. No history reaches across.
#[test]
fn deltas_without_room_leave_a_hole() {
    let no_room = Err("too_many_topics");
    for (class, expected) in [
        (Class::Stream, &["Unknown at 2", "Whole at 5", "6 after 5"][..]),
        (Class::Latest, &["Unknown at 0", "5 after 0", "6 after 5"]),
        (Class::Merge, &["Unknown at 0", "5 after 0", "Incomplete at 5", "6 after 5"]),
    ] {
        let (node, told) = crowded(class);
        node.topics.loaded(SourceId(0));
        node.topics.attach(&node.name, ShardId(0), Slot(0), Encoding::Plain, None, 0, 0, drop).unwrap();
        assert!(node.read_other(Kind::Delta, 1));
        assert_eq!([2, 3].map(|offset| node.read((0, Kind::Delta, offset))), [no_room; 2]);
        assert!(node.read_other(DELETION, 4));
        assert_eq!([5, 6].map(|offset| node.read((0, Kind::Delta, offset))), [Ok(true); 2]);
        assert_eq!(*told.0.lock().unwrap(), expected, "{class:?}");
        assert_eq!(node.known_at().0.may_lack(), class == Class::Merge);
        if class == Class::Stream {
            assert_eq!([2, 3, 5].map(|offset| node.history_since(offset)), [None, Some(2), Some(1)]);
        }
    }
}

/// A `stream` topic that was saved has come further, by deltas that found no room during the load.
#[test]
fn a_saved_stream_whose_newest_delta_found_no_room_is_incomplete() {
    let (node, _) = crowded(Class::Stream);
    node.restore((0, VALUE, 1), 0);
    assert!(node.read_other(Kind::Delta, 2));
    assert_eq!(node.read((0, Kind::Delta, 3)), Err("too_many_topics"));
    assert!(node.read_other(DELETION, 4));
    node.topics.loaded(SourceId(0));
    assert_eq!(node.known_at(), (protocol::Known::Incomplete, 3));
    assert_eq!(node.read((0, Kind::Delta, 5)), Ok(true));
    assert_eq!((node.known_at(), node.history_since(1)), ((protocol::Known::Whole, 5), None));
}

/// A deletion needs no room, and what follows it is whole.
#[test]
fn a_deletion_is_taken_where_there_is_no_room() {
    let (node, _) = crowded(Class::Merge);
    node.topics.loaded(SourceId(0));
    assert!(node.read_other(Kind::Delta, 1));
    assert_eq!(node.read((0, Kind::Delta, 2)), Err("too_many_topics"));
    assert_eq!(node.read((0, DELETION, 3)), Ok(false));
    assert!(node.read_other(DELETION, 4));
    assert_eq!(node.read((0, Kind::Delta, 5)), Ok(true));
    assert_eq!(node.known(), Some((5, 0)));
}

/// States that were saved with another class are made of entries if all entries are read; else they are missed.
#[test]
fn a_state_of_another_class_is_missed_unless_all_entries_are_there() {
    for (floor, gone, expected) in
        [(0, 0, protocol::Known::Whole), (2, 0, protocol::Known::Incomplete), (0, 2, protocol::Known::Incomplete)]
    {
        let (node, _) = crowded(Class::Merge);
        node.topics.load(SourceId(0), &Epoch::from_text("e"), Offset::new(floor).unwrap(), true);
        node.topics.saved_upto(SourceId(0), crate::clock::unix_ms() + 1_000);
        assert!(node.topics.is_by_state(SourceId(0), "t:x"));
        assert!(node.topics.miss_class(SourceId(0), "t:x", crate::clock::unix_ms()));
        assert!(!node.topics.miss_class(SourceId(0), "t:y", crate::clock::unix_ms()), "told once");
        assert!(!node.topics.is_by_state(SourceId(0), "t:x") && node.topics.has_reclassed(SourceId(0)));
        if gone > 0 {
            node.topics.forget_history(SourceId(0), Offset::new(gone).unwrap());
        }
        assert_eq!(node.read((0, Kind::Delta, 3)), Ok(true));
        node.topics.loaded(SourceId(0));
        assert_eq!(node.known_at(), (expected, 3), "from {floor} on, {gone} gone");
        assert!(node.topics.has_reclassed(SourceId(0)), "they are saved still");
        node.topics.load(SourceId(0), &Epoch::from_text("e"), Offset::ZERO, true);
        assert!(node.topics.has_reclassed(SourceId(0)), "this load does not go by states");
        node.topics.loaded(SourceId(0));
        assert!(node.topics.is_by_state(SourceId(0), "t:x"), "none was found");
    }
}
