//! The fan-out of a shard: a tick's deltas into batches, and batches into send queues.

use std::sync::Arc;

use super::batch::{Batch, BatchFrame};
use super::conflate::{Conflated, Conflations};
use super::groups::{Group, Subscription};
use super::receivers::{Followup, Receivers, compressed};
use super::recent::RecentDeltas;
use super::throttle::Throttle;
use super::topics::TopicTable;
use super::trace::{Span, Traces};
use crate::config::Class;
use crate::hub::chunk::Chunk;
use crate::hub::cursor::Cursor;
use crate::hub::index::{BatchId, GroupId, SessionIndex};
use crate::metrics::ShardStats;
use crate::protocol::Notice;
use crate::topic::{Delta, ShardId, Slot, Snapshot};

/// Number of a group's deltas in a tick from which an overloaded shard conflates them.
const OVERLOAD_FRAMES: usize = 4;

/// The fan-out of a shard.
pub(in crate::hub) struct Fanout {
    pub(in crate::hub) topics: TopicTable,
    /// The batches of this tick, in order of their first delta.
    batches: Vec<Batch>,
    /// Groups whose members needed a full delta and have just got one.
    promoting: Vec<GroupId>,
    pub(super) throttle: Throttle,
    pub(super) conflations: Conflations,
    pub(super) recent: RecentDeltas,
    pub(in crate::hub) trace: Traces,
    pub(super) followups: Vec<Followup>,
    pub(super) stats: Arc<ShardStats>,
    /// The shard is overloaded: deltas are conflated if their class allows it.
    overloaded: bool,
    pub(super) now_ms: u64,
}

impl Fanout {
    /// For one shard. All shards together may keep `deltas_max` bytes of deltas.
    pub(in crate::hub) fn new(shard: ShardId, deltas_max: Option<usize>, stats: Arc<ShardStats>) -> Self {
        Self {
            topics: TopicTable::default(),
            batches: Vec::new(),
            promoting: Vec::new(),
            throttle: Throttle::default(),
            conflations: Conflations::new(deltas_max),
            recent: RecentDeltas::default(),
            trace: Traces::new(shard),
            followups: Vec::new(),
            stats,
            overloaded: false,
            now_ms: 0,
        }
    }

    pub(in crate::hub) fn begin_tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    pub(in crate::hub) fn set_overloaded(&mut self, overloaded: bool) {
        self.overloaded = overloaded;
    }

    /// When the next delivery is due, in the shard's time.
    pub(in crate::hub) fn next_ms(&self) -> Option<u64> {
        self.throttle.next_ms()
    }

    /// Takes the follow-ups since the last call.
    pub(in crate::hub) fn take_followups(&mut self) -> Vec<Followup> {
        std::mem::take(&mut self.followups)
    }

    /// A topic has a delta: the shard's `event`th event of this tick.
    pub(in crate::hub) fn delta(&mut self, slot: Slot, delta: &Arc<Delta>, event: usize) {
        let Some((topic, groups)) = self.topics.topic_and_groups(slot) else { return };
        let start = topic.last;
        let cursor = Cursor { offset: delta.offset, seq: start.seq + 1 };
        topic.last = cursor;
        topic.moved_ms = self.now_ms;
        if topic.class.conflatable() || topic.subscribing > 0 {
            if topic.recent.is_empty() {
                self.recent.note(slot);
            }
            topic.keep(delta.clone());
        }
        for group_id in &topic.groups {
            let Some(group) = groups.get_mut(group_id.at()) else { continue };
            if group.interval_ms > 0 {
                if !group.pending {
                    group.pending = true;
                    topic.lagging += 1;
                    self.throttle.touch(*group_id);
                }
                continue;
            }
            let encoding = match group.needs_full && group.batch.is_none() {
                true => group.encoding.whole(),
                false => group.encoding,
            };
            let frame =
                BatchFrame { bytes: delta.frame(encoding), cursor, seen_ms: delta.ts.unwrap_or(delta.taken_ms) };
            match group.batch.and_then(|batch| self.batches.get_mut(batch.at())) {
                Some(batch) => batch.push(frame),
                None => {
                    group.batch = Some(BatchId::new(self.batches.len()));
                    self.batches.push(Batch::new(*group_id, start, frame));
                }
            }
        }
        if delta.trace.is_some() {
            let topic_groups = topic.groups.iter().filter_map(|id| Some((*id, groups.get(id.at())?)));
            self.trace.begin(slot, delta, cursor.seq, topic_groups, (self.stats.ticks.get(), event), self.now_ms);
        }
    }

    /// Shares the batches of a topic so far among its current members. Must be called before a session joins, or
    /// catches up, in the middle of a tick.
    pub(in crate::hub) fn close_batches(&mut self, slot: Slot, to: &mut impl Receivers) {
        let batches: Vec<BatchId> = self.topics.topic(slot).map_or_else(Vec::new, |topic| {
            topic.groups.iter().filter_map(|id| self.topics.group(*id)).filter_map(|group| group.batch).collect()
        });
        for batch in batches {
            self.close_batch(batch, to);
        }
        self.promote(to);
    }

    /// Promotes members that have got a full delta. Only after all batches of their topic are closed; otherwise they
    /// would get this tick's deltas twice.
    fn promote(&mut self, to: &mut impl Receivers) {
        for group in std::mem::take(&mut self.promoting) {
            self.topics.promote(group, |session, from, place| {
                if let Some(subscriptions) = to.subscriptions(session) {
                    subscriptions.moved(from, place);
                }
            });
        }
    }

    fn close_batch(&mut self, id: BatchId, to: &mut impl Receivers) {
        let Some(batch) = self.batches.get(id.at()) else { return };
        let Some((group, topic)) = self.topics.group_and_topic(batch.group) else { return };
        if group.batch != Some(id) {
            return;
        }
        group.batch = None;
        if group.needs_full {
            self.promoting.push(batch.group);
        }
        let replaceable = topic.class.conflatable().then_some(group.slot);
        // With delta compression, a delta depends on the previous one, so nothing may replace that.
        let is_bound = group.encoding.is_fossil() && topic.class != Class::Latest;
        let mut chunk = None;
        if self.overloaded && replaceable.is_some() && !is_bound && batch.len() >= OVERLOAD_FRAMES {
            let made = self.conflations.between(group.slot, topic, group.encoding, batch.start, batch.end());
            if let Conflated::Frame(bytes, count) = made {
                self.stats.conflated.add((count - 1) * group.len() as u64);
                chunk = Some(compressed(Chunk::delivery(bytes, replaceable, batch.start), group.compression, to));
            }
        }
        let conflated = chunk.is_some();
        let chunk = chunk.unwrap_or_else(|| batch.chunk(replaceable, group.encoding.dialect(), group.compression, to));
        let chunk = Chunk { wait_ms: topic.flush_ms.max(1), seen_ms: batch.first.seen_ms, ..chunk };
        let span = Span { from: batch.start.seq, upto: batch.end().seq, conflated };
        self.trace.share(group.slot, &span, chunk, group, to);
    }

    /// At the end of the tick's deltas: sends the groups' batches to their members.
    pub(in crate::hub) fn deliver(&mut self, to: &mut impl Receivers) {
        for batch in 0..self.batches.len() {
            self.close_batch(BatchId::new(batch), to);
        }
        self.promote(to);
        self.deliver_throttled(to);
        self.trace.fanned_out();
    }

    /// Takes a session out of a group. Returns the topic's slot if no session of this shard needs it any more.
    pub(in crate::hub) fn leave(&mut self, subscription: Subscription, to: &mut impl Receivers) -> Option<Slot> {
        let (moved, unwanted) = self.topics.leave(subscription);
        if let Some(moved) = moved
            && let Some(subscriptions) = to.subscriptions(moved.session)
        {
            subscriptions.moved(moved.from, moved.to);
        }
        unwanted
    }

    /// A subscribe is no longer in progress. Returns the slot if no session of this shard needs the topic any more.
    pub(in crate::hub) fn end_subscribing(&mut self, slot: Slot) -> Option<Slot> {
        if let Some(topic) = self.topics.topic_mut(slot) {
            topic.subscribing = topic.subscribing.saturating_sub(1);
            self.recent.note(slot);
        }
        self.topics.unwanted(slot)
    }

    /// The topic's state does not follow from its deltas, or its epoch changed: every subscriber gets the new state,
    /// and earlier positions do not count. The topic's batches must be closed.
    pub(in crate::hub) fn reset(&mut self, slot: Slot, snapshot: &Snapshot, to: &mut impl Receivers) {
        let Some(topic) = self.topics.topic_mut(slot) else { return };
        topic.clear_recent();
        topic.last = Cursor { offset: snapshot.offset, seq: topic.last.seq + 1 };
        let (conflatable, groups) = (topic.class.conflatable(), topic.groups.clone());
        let is_closed = |id: &GroupId| self.topics.group(*id).is_none_or(|group| group.batch.is_none());
        debug_assert!(groups.iter().all(is_closed), "a topic with open batches was reset");
        // The conflated frames were made from outdated deltas.
        self.conflations.clear();
        for group_id in groups {
            let Some((group, _)) = self.topics.group_and_topic(group_id) else { continue };
            if conflatable {
                // Lagging members get it when they can; their earlier positions do not count.
                for session in group.lagging() {
                    let lagging = to.subscriptions(session).into_iter().flat_map(|s| s.lagging.iter_mut());
                    lagging.filter(|l| l.subscription.group == group_id).for_each(|l| l.cursor = Cursor::NOWHERE);
                }
            }
            group.base = None;
            let chunk = Chunk::delivery(snapshot.frame(group.encoding), conflatable.then_some(slot), Cursor::NOWHERE);
            let chunk = compressed(chunk, group.compression, to);
            self.stats.snapshots.add(group.len() as u64);
            to.share(chunk, group.receivers());
            self.delivered(group_id);
        }
    }

    /// Members of those groups of a topic for which `groups` is true.
    fn members_where(
        &self,
        slot: Slot,
        groups: impl Fn(&Group) -> bool,
        members: impl Fn(&Group) -> Vec<SessionIndex>,
    ) -> Vec<SessionIndex> {
        let topic = self.topics.topic(slot).into_iter();
        let all = topic.flat_map(|topic| &topic.groups).filter_map(|id| self.topics.group(*id));
        all.filter(|group| groups(group)).flat_map(members).collect()
    }

    /// All members of a topic's groups of Centrifuge clients.
    pub(in crate::hub) fn centrifuge_members(&self, slot: Slot) -> Vec<SessionIndex> {
        self.members_where(slot, |group| group.encoding.dialect().is_centrifuge(), |group| group.members().collect())
    }

    /// Members of a topic that lag.
    pub(in crate::hub) fn lagging_members(&self, slot: Slot) -> Vec<SessionIndex> {
        self.members_where(slot, |_| true, |group| group.lagging().collect())
    }

    /// Informs every subscriber that a topic is stale, or no longer stale.
    pub(in crate::hub) fn stale(&self, slot: Slot, since_ms: Option<u64>, to: &mut impl Receivers) {
        let Some(topic) = self.topics.topic(slot) else { return };
        let notice = match since_ms {
            Some(since_ms) => Notice::Stale { topic: &topic.name, since_ms },
            None => Notice::Fresh { topic: &topic.name },
        };
        for group in topic.groups.iter().filter_map(|id| self.topics.group(*id)) {
            to.share(Chunk::control(group.encoding.dialect().notice(notice)), group.members());
        }
    }

    /// Ends a tick: frees its temporary data. All shards together may keep `deltas_max` bytes of deltas.
    pub(in crate::hub) fn end_tick(&mut self, deltas_max: Option<usize>) {
        self.batches.clear();
        self.conflations.clear();
        self.recent.drop_unneeded(&mut self.topics, self.now_ms);
        let dropped = self.recent.trim(&mut self.topics, deltas_max);
        self.stats.recent_deltas_evicted.add(dropped);
    }
}
