//! Tests of fan-out, with sessions that only record what they are sent.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::fan_out::Fanout;
use super::receivers::{Followup, Receivers};
use super::subscriptions::Subscriptions;
use super::topics::Traits;
use super::{CatchUp, StateResult, Subscription};
use crate::config::Class;
use crate::hub::chunk::Chunk;
use crate::hub::compression::Compression;
use crate::hub::cursor::Cursor;
use crate::hub::index::{ChunkId, SessionId, SessionIndex};
use crate::limits::CONFLATE_WINDOW;
use crate::metrics::ShardStats;
use crate::name::TopicName;
use crate::position::Offset;
use crate::protocol::{Dialect, Encoding};
use crate::topic::{Delta, Kind, ShardId, Slot, Snapshot};
use crate::wire::frame::{frame_bytes, header_bytes};

/// Sessions without sockets: their subscriptions, and the chunks that they were sent.
#[derive(Default)]
struct Sessions {
    subscriptions: Vec<Subscriptions>,
    sent: Vec<Vec<ChunkId>>,
    chunks: Vec<Chunk>,
}

impl Receivers for Sessions {
    fn subscriptions(&mut self, session: SessionIndex) -> Option<&mut Subscriptions> {
        self.subscriptions.get_mut(session.at())
    }

    fn subscriptions_of(&mut self, session: SessionId) -> Option<&mut Subscriptions> {
        self.subscriptions(session.index)
    }

    fn compress(&mut self, frame: &Bytes) -> Bytes {
        frame.clone()
    }

    fn compress_joined<'a>(&mut self, frames: impl Iterator<Item = &'a Bytes>, _: Dialect) -> Bytes {
        Bytes::from(frames.flat_map(|frame| frame.to_vec()).collect::<Vec<u8>>())
    }

    fn share(&mut self, chunk: Chunk, sessions: impl Iterator<Item = SessionIndex>) -> ChunkId {
        let id = ChunkId::new(self.chunks.len());
        self.chunks.push(chunk);
        sessions.for_each(|session| self.sent[session.at()].push(id));
        id
    }
}

/// A shard's fan-out with one topic.
struct Bed {
    fanout: Fanout,
    sessions: Sessions,
    topic: TopicName,
    slot: Slot,
    offset: u64,
    now_ms: u64,
    /// The topic's state, for the length of a snapshot.
    state: HashMap<String, Value>,
}

fn id(session: usize) -> SessionId {
    SessionId { index: SessionIndex::new(session), generation: 0 }
}

impl Bed {
    fn new(class: Class, sessions: usize) -> Self {
        let mut fanout = Fanout::new(ShardId(0), None, Arc::new(ShardStats::default()));
        let topic = TopicName::new("t:x").unwrap();
        let slot = fanout.topics.slot(&topic, || Traits { class, flush_ms: 0 });
        let mut all = Sessions::default();
        all.subscriptions.resize_with(sessions, Subscriptions::default);
        all.sent.resize_with(sessions, Vec::new);
        fanout.begin_tick(1_000);
        Self { fanout, sessions: all, topic, slot, offset: 0, now_ms: 1_000, state: HashMap::new() }
    }

    fn join_as(&mut self, session: usize, encoding: Encoding, interval_ms: u64) -> Subscription {
        let index = SessionIndex::new(session);
        self.fanout.close_batches(self.slot, &mut self.sessions);
        let joined = self.fanout.topics.join(index, self.slot, encoding, Compression::Plain, interval_ms).unwrap();
        self.sessions.subscriptions[session].add(joined);
        joined
    }

    fn join(&mut self, session: usize) -> Subscription {
        self.join_as(session, Encoding::Plain, 0)
    }

    fn publish(&mut self, value: Value) {
        let prev = Offset::new(self.offset).unwrap_or(Offset::ZERO);
        self.offset += 1;
        let offset = Offset::new(self.offset).unwrap();
        self.state.extend(value.as_object().unwrap().clone());
        let state_bytes = json!(self.state).to_string().len();
        let delta = Delta::of(&self.topic, offset, prev, Kind::Delta, &value.to_string(), state_bytes);
        self.fanout.delta(self.slot, &delta, 1);
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Snapshot::of(&self.topic, Offset::new(self.offset).unwrap(), &json!(self.state).to_string())
    }

    /// Ends the tick, and begins the next one `ms` later.
    fn tick(&mut self, ms: u64) {
        self.fanout.deliver(&mut self.sessions);
        self.fanout.end_tick(None);
        self.now_ms += ms;
        self.fanout.begin_tick(self.now_ms);
    }

    /// What a session was sent since the last call, as (type, offset, count, data).
    fn got(&mut self, session: usize) -> Vec<Value> {
        let ids = std::mem::take(&mut self.sessions.sent[session]);
        let mut all = Vec::new();
        for id in ids {
            let mut rest = &self.sessions.chunks[id.at()].bytes[..];
            while !rest.is_empty() {
                let (frame, next) = rest.split_at(frame_bytes(rest));
                let message: Value = serde_json::from_slice(&frame[header_bytes(frame)..]).unwrap();
                all.push(message);
                rest = next;
            }
        }
        all
    }

    fn offsets(&mut self, session: usize) -> Vec<u64> {
        self.got(session).iter().map(|message| message["offset"].as_u64().unwrap()).collect()
    }

    /// The session cannot take deltas after the `seq`th.
    fn falls_behind(&mut self, session: usize, seq: u64) {
        let from = Cursor { offset: Offset::new(seq).unwrap_or(Offset::ZERO), seq };
        self.sessions.subscriptions[session].fall_behind(&mut self.fanout.topics, self.slot, from);
    }

    fn catch_up(&mut self, session: usize) -> CatchUp {
        self.fanout.catch_up(id(session), 0, &mut self.sessions)
    }

    fn caught_up_with(&mut self, session: usize) -> Value {
        let CatchUp::Level(Some(chunk)) = self.catch_up(session) else { panic!("session {session} did not catch up") };
        serde_json::from_slice(&chunk.bytes[header_bytes(&chunk.bytes)..]).unwrap()
    }

    fn lagging(&self, session: usize) -> usize {
        self.sessions.subscriptions[session].lagging.len()
    }
}

#[test]
fn members_of_a_group_share_one_chunk_and_each_rate_is_a_group() {
    let mut bed = Bed::new(Class::Latest, 3);
    let (one, other) = (bed.join(0), bed.join(1));
    let throttled = bed.join_as(2, Encoding::Plain, 100);
    assert_eq!(one.group, other.group);
    assert_ne!(one.group, throttled.group);
    bed.publish(json!({"p": 1}));
    bed.tick(1);
    assert_eq!(bed.sessions.sent[0], bed.sessions.sent[1]);
    assert_eq!([0, 1, 2].map(|session| bed.offsets(session)), [[1], [1], [1]]);
}

#[test]
fn a_chunk_has_the_position_before_and_after_each_frame() {
    let mut bed = Bed::new(Class::Merge, 1);
    bed.join(0);
    (1..=3).for_each(|n| bed.publish(json!({"p": n})));
    bed.tick(1);
    bed.publish(json!({"p": 4}));
    bed.tick(1);
    let [three, one] = &bed.sessions.chunks[..] else { panic!() };
    assert_eq!((three.start.seq, three.deliveries), (0, 3));
    assert_eq!(three.cuts.iter().map(|cut| cut.cursor.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((one.start.seq, one.start.offset.get(), one.deliveries), (3, 3, 1));
    assert_eq!(bed.offsets(0), [1, 2, 3, 4]);
}

#[test]
fn a_member_that_joins_within_a_tick_gets_only_later_deltas() {
    let mut bed = Bed::new(Class::Latest, 2);
    bed.join(0);
    bed.publish(json!({"p": 1}));
    bed.join(1);
    bed.publish(json!({"p": 2}));
    bed.tick(1);
    assert_eq!((bed.offsets(0), bed.offsets(1)), (vec![1, 2], vec![2]));
}

#[test]
fn the_last_member_that_leaves_frees_the_topic_for_a_new_slot() {
    let mut bed = Bed::new(Class::Latest, 2);
    let (one, other) = (bed.join(0), bed.join(1));
    // The last member takes the place of the one that left, and its session is updated.
    assert_eq!(bed.fanout.leave(one, &mut bed.sessions), None);
    let other = bed.sessions.subscriptions[1].get(0).filter(|moved| *moved != other).unwrap();
    assert_eq!(bed.fanout.leave(other, &mut bed.sessions), Some(bed.slot));
    assert_eq!(bed.fanout.topics.find(&bed.topic), None);
    // A subscribe in progress keeps the slot.
    let slot = bed.fanout.topics.slot(&bed.topic, || Traits { class: Class::Latest, flush_ms: 0 });
    bed.fanout.topics.topic_mut(slot).unwrap().subscribing = 1;
    assert_eq!(bed.fanout.topics.unwanted(slot), None);
    assert_eq!(bed.fanout.end_subscribing(slot), Some(slot));
}

#[test]
fn a_group_with_a_rate_gets_one_frame_per_interval() {
    let mut bed = Bed::new(Class::Merge, 2);
    bed.join(0);
    bed.join_as(1, Encoding::Plain, 100);
    bed.publish(json!({"a": 1}));
    bed.tick(10);
    assert_eq!(bed.offsets(1), [1], "the first is delivered immediately");
    for (key, n) in [("a", 2), ("b", 3), ("a", 4)] {
        bed.publish(json!({key: n}));
        bed.tick(10);
    }
    assert_eq!(bed.offsets(1), [0u64; 0], "the interval is not over");
    assert_eq!(bed.fanout.next_ms(), Some(1_100));
    bed.tick(60);
    bed.tick(0);
    let got = bed.got(1);
    assert_eq!(got.len(), 1);
    assert_eq!((&got[0]["offset"], &got[0]["prev"]), (&json!(4), &json!(1)));
    assert_eq!(got[0]["data"], json!({"a": 4, "b": 3}));
    assert_eq!(bed.offsets(0), [1, 2, 3, 4], "others get every delta");
}

#[test]
fn a_throttled_group_whose_patch_is_longer_than_the_state_gets_the_state() {
    let mut bed = Bed::new(Class::Merge, 2);
    let group = bed.join_as(0, Encoding::Plain, 100).group;
    bed.publish(json!({"a": 1}));
    bed.tick(10);
    // More than are kept: no patch can express them.
    (0..=CONFLATE_WINDOW).for_each(|n| bed.publish(json!({"a": n})));
    bed.tick(200);
    bed.tick(0);
    assert_eq!(bed.fanout.take_followups(), [Followup::NeedsState { topic: bed.topic.clone(), group }]);
    bed.tick(200);
    assert_eq!(bed.fanout.take_followups(), [], "it is requested once");
    let (snapshot, mut sessions) = (bed.snapshot(), std::mem::take(&mut bed.sessions));
    let state = bed.fanout.group_state(group, &snapshot).unwrap();
    bed.fanout.send_group_state(group, state, &mut sessions);
    bed.sessions = sessions;
    let got = bed.got(0);
    assert_eq!(got.last().unwrap()["type"], "snapshot");
    assert!(bed.fanout.group_state(group, &snapshot).is_none(), "it no longer waits for a state");
}

#[test]
fn a_state_of_another_offset_is_requested_again() {
    let mut bed = Bed::new(Class::Merge, 1);
    let group = bed.join_as(0, Encoding::Plain, 100).group;
    (0..=CONFLATE_WINDOW).for_each(|n| bed.publish(json!({"a": n})));
    bed.tick(0);
    assert_eq!(bed.fanout.take_followups().len(), 1);
    let old = bed.snapshot();
    bed.publish(json!({"a": 0}));
    assert!(bed.fanout.group_state(group, &old).is_none());
    bed.tick(0);
    assert_eq!(bed.fanout.take_followups().len(), 1);
    let topic = bed.topic.clone();
    bed.fanout.no_group_state(group, &topic, bed.now_ms + 50);
    assert_eq!(bed.fanout.next_ms(), Some(bed.now_ms + 50));
    bed.tick(50);
    bed.tick(0);
    assert_eq!(bed.fanout.take_followups().len(), 1, "a state that could not be read is requested again");
}

#[test]
fn a_lagging_member_gets_no_group_frames_until_it_catches_up() {
    for (class, data) in [(Class::Latest, json!({"b": 3})), (Class::Merge, json!({"a": 2, "b": 3}))] {
        let mut bed = Bed::new(class, 2);
        bed.join(0);
        bed.join(1);
        bed.publish(json!({"a": 1}));
        bed.tick(1);
        bed.falls_behind(0, 1);
        bed.publish(json!({"a": 2}));
        bed.publish(json!({"b": 3}));
        bed.tick(1);
        assert_eq!((bed.offsets(0), bed.offsets(1)), (vec![1], vec![1, 2, 3]));
        let message = bed.caught_up_with(0);
        assert_eq!(
            (&message["prev"], &message["offset"], &message["data"]),
            (&json!(1), &json!(3), &data),
            "{class:?}"
        );
        assert_eq!(bed.lagging(0), 0);
        bed.publish(json!({"a": 4}));
        bed.tick(1);
        assert_eq!((bed.offsets(0), bed.offsets(1)), (vec![4], vec![4]));
    }
}

#[test]
fn a_lagging_member_that_missed_nothing_is_level() {
    let mut bed = Bed::new(Class::Latest, 1);
    bed.join(0);
    bed.publish(json!({"a": 1}));
    bed.tick(1);
    bed.falls_behind(0, 1);
    assert!(matches!(bed.catch_up(0), CatchUp::Level(None)));
}

#[test]
fn a_position_goes_back_only_to_what_was_not_sent() {
    let mut bed = Bed::new(Class::Merge, 1);
    bed.join(0);
    (1..=5).for_each(|n| bed.publish(json!({"a": n})));
    bed.tick(1);
    bed.falls_behind(0, 3);
    bed.falls_behind(0, 4);
    assert_eq!(bed.sessions.subscriptions[0].lagging[0].cursor.seq, 3);
    let four = Cursor { offset: Offset::new(4).unwrap(), seq: 4 };
    bed.sessions.subscriptions[0].advance(&bed.fanout.topics, bed.slot, four);
    assert_eq!(bed.sessions.subscriptions[0].lagging[0].cursor.seq, 4);
    bed.sessions.subscriptions[0].fall_behind(&mut bed.fanout.topics, bed.slot, Cursor::NOWHERE);
    bed.sessions.subscriptions[0].advance(&bed.fanout.topics, bed.slot, four);
    assert_eq!(bed.sessions.subscriptions[0].lagging[0].cursor, Cursor::NOWHERE, "only the state helps");
    assert!(matches!(bed.catch_up(0), CatchUp::NeedsState { .. }));
}

#[test]
fn a_lagging_member_waits_for_its_topics_state_once() {
    let mut bed = Bed::new(Class::Merge, 1);
    let subscription = bed.join(0);
    bed.publish(json!({"a": 1}));
    bed.tick(1);
    bed.fanout.lags(SessionIndex::new(0), subscription, Cursor::NOWHERE, &mut bed.sessions);
    assert!(matches!(bed.catch_up(0), CatchUp::NeedsState { .. }));
    bed.sessions.subscriptions[0].lagging[0].awaiting = true;
    assert!(matches!(bed.catch_up(0), CatchUp::Waits));
    let snapshot = bed.snapshot();
    let full = bed.fanout.lagging_state(id(0), subscription.group, &snapshot, true, &mut bed.sessions);
    assert!(matches!(full, StateResult::Ignored), "its socket is full again");
    bed.sessions.subscriptions[0].lagging[0].awaiting = true;
    let sent = bed.fanout.lagging_state(id(0), subscription.group, &snapshot, false, &mut bed.sessions);
    let StateResult::Send { chunk, charged } = sent else { panic!("the state was not sent") };
    assert_eq!((chunk.start, charged), (Cursor::NOWHERE, chunk.bytes.len()));
    assert_eq!(bed.lagging(0), 0);
}

#[test]
fn every_delta_of_a_stream_is_replayed_one_subscription_at_a_time() {
    let mut bed = Bed::new(Class::Stream, 1);
    let subscription = bed.join(0);
    (1..=3).for_each(|n| bed.publish(json!({"n": n})));
    bed.tick(1);
    bed.falls_behind(0, 1);
    let CatchUp::NeedsReplay { after, group, .. } = bed.catch_up(0) else { panic!("a stream is replayed") };
    assert_eq!((after.get(), group), (1, subscription.group));
    bed.sessions.subscriptions[0].lagging[0].awaiting = true;
    assert!(matches!(bed.catch_up(0), CatchUp::Waits));
    // A state does not contain the deltas that it missed.
    let end = bed.fanout.topics.topic(bed.slot).unwrap().last;
    bed.fanout.is_at(id(0), group, end, &mut bed.sessions);
    assert_eq!(bed.sessions.subscriptions[0].lagging[0].cursor.seq, 1);
}

#[test]
fn a_session_ahead_of_its_throttled_group_goes_on_with_it_once_it_delivered() {
    let mut bed = Bed::new(Class::Merge, 2);
    bed.join_as(0, Encoding::Plain, 100);
    bed.publish(json!({"a": 1}));
    bed.tick(10);
    bed.publish(json!({"a": 2}));
    bed.tick(10);
    // It joins with the state of offset 2, which its group has not delivered yet.
    let group = bed.join_as(1, Encoding::Plain, 100).group;
    let end = bed.fanout.topics.topic(bed.slot).unwrap().last;
    bed.fanout.is_at(id(1), group, end, &mut bed.sessions);
    assert_eq!(bed.lagging(1), 1);
    assert!(matches!(bed.catch_up(1), CatchUp::Waits));
    bed.tick(100);
    bed.tick(0);
    assert_eq!((bed.offsets(0), bed.offsets(1)), (vec![1, 2], vec![]));
    assert_eq!(bed.fanout.take_followups(), [Followup::CanCatchUp { session: id(1), group }]);
    assert!(matches!(bed.catch_up(1), CatchUp::Level(None)));
    bed.publish(json!({"a": 3}));
    bed.tick(100);
    bed.tick(0);
    assert_eq!((bed.offsets(0), bed.offsets(1)), (vec![3], vec![3]));
}

#[test]
fn the_only_member_of_a_throttled_group_is_where_the_group_is() {
    let mut bed = Bed::new(Class::Merge, 1);
    let group = bed.join_as(0, Encoding::Plain, 100).group;
    let at = Cursor { offset: Offset::new(7).unwrap(), seq: 7 };
    bed.fanout.is_at(id(0), group, at, &mut bed.sessions);
    assert_eq!((bed.lagging(0), bed.fanout.topics.group(group).unwrap().sent), (0, at));
}

#[test]
fn with_delta_compression_a_member_takes_differences_once_it_has_a_whole_delta() {
    let mut bed = Bed::new(Class::Latest, 2);
    bed.join_as(0, Encoding::JsonFossil, 0);
    let group = |bed: &Bed, session: usize| {
        let at = bed.sessions.subscriptions[session].get(0).unwrap().group;
        (at, bed.fanout.topics.group(at).unwrap().needs_full)
    };
    let (first, needs_full) = group(&bed, 0);
    assert!(needs_full);
    bed.publish(json!({"a": 1}));
    bed.tick(1);
    let (promoted, needs_full) = group(&bed, 0);
    assert!(!needs_full && promoted != first);
    // A member that another frame caught up needs a full delta again.
    bed.falls_behind(0, 1);
    bed.publish(json!({"a": 2}));
    bed.tick(1);
    assert!(matches!(bed.catch_up(0), CatchUp::Level(Some(_))));
    assert!(group(&bed, 0).1);
}

#[test]
fn under_overload_many_deltas_of_a_group_are_sent_as_one() {
    for (class, frames) in [(Class::Latest, 1), (Class::Merge, 1), (Class::Stream, 4)] {
        let mut bed = Bed::new(class, 1);
        bed.join(0);
        bed.fanout.set_overloaded(true);
        (1..=4).for_each(|n| bed.publish(json!({"a": n})));
        bed.tick(1);
        let got = bed.got(0);
        assert_eq!((got.len(), &got.last().unwrap()["data"]), (frames, &json!({"a": 4})), "{class:?}");
    }
}

#[test]
fn a_reset_gives_every_subscriber_the_state_and_outdates_where_they_were() {
    let mut bed = Bed::new(Class::Merge, 3);
    bed.join(0);
    bed.join(1);
    bed.join_as(2, Encoding::Plain, 100);
    bed.publish(json!({"a": 1}));
    bed.tick(1);
    bed.falls_behind(1, 0);
    (0..3).for_each(|session| drop(bed.got(session)));
    let snapshot = bed.snapshot();
    bed.fanout.reset(bed.slot, &snapshot, &mut bed.sessions);
    assert_eq!([0, 1, 2].map(|session| bed.got(session).len()), [1, 0, 1]);
    assert_eq!(bed.sessions.subscriptions[1].lagging[0].cursor, Cursor::NOWHERE);
    assert!(matches!(bed.catch_up(1), CatchUp::NeedsState { .. }));
    assert_eq!(bed.sessions.chunks.last().unwrap().start, Cursor::NOWHERE);
}

#[test]
fn lagging_subscribers_too_learn_that_a_topic_went_quiet() {
    let mut bed = Bed::new(Class::Latest, 2);
    bed.join(0);
    bed.join(1);
    bed.falls_behind(1, 0);
    for (since_ms, kind) in [(Some(5), "stale"), (None, "fresh")] {
        bed.fanout.stale(bed.slot, since_ms, &mut bed.sessions);
        for session in [0, 1] {
            assert_eq!(bed.got(session)[0]["op"], kind);
        }
    }
}

#[test]
fn recent_deltas_are_kept_while_a_subscription_lags() {
    let mut bed = Bed::new(Class::Merge, 2);
    bed.join(0);
    bed.join(1);
    bed.publish(json!({"a": 1}));
    bed.tick(1);
    bed.falls_behind(0, 0);
    let kept = |bed: &Bed| bed.fanout.topics.topic(bed.slot).unwrap().recent.len();
    (0..5).for_each(|_| bed.tick(1_000));
    assert_eq!(kept(&bed), 1);
    assert_eq!(bed.caught_up_with(0)["data"], json!({"a": 1}));
    (0..5).for_each(|_| bed.tick(1_000));
    assert_eq!(kept(&bed), 0, "no subscription needs them");
}

#[test]
fn a_state_in_place_of_deltas_is_charged_for_the_excess() {
    let mut bed = Bed::new(Class::Latest, 1);
    bed.join(0);
    (0..3).for_each(|n| bed.publish(json!({"a": n})));
    let topic = bed.fanout.topics.topic(bed.slot).unwrap();
    let start = Cursor { offset: Offset::ZERO, seq: 0 };
    assert_eq!(topic.charged_bytes(100, Cursor::NOWHERE), 100, "the whole state");
    assert_eq!(topic.charged_bytes(100, start), 0, "no more bytes than the three deltas");
    assert_eq!(topic.charged_bytes(1 << 20, start), (1 << 20) - 3 * crate::limits::STATE_BYTES_PER_MISSED);
}
