//! Answers to subscribers and REST: attaching, snapshots, replays, history and listings.

use std::sync::Arc;

use super::super::account::Account;
use super::super::atomics::Ordering;
use super::super::delta::Snapshot;
use super::super::exchange::{Attachment, PublishError, Replay, ShardId, Slot, TopicView};
use super::super::names::{NameRange, Section};
use super::super::state::{Floor, Topic};
use super::topics::Topics;
use crate::name::TopicName;
use crate::position::{Offset, Position};
use crate::protocol::{Encoding, HistoryPage, HistoryQuery, MembershipChange, Refusal};

impl Topics {
    /// Registers a shard's interest (on behalf of `maker`, if the topic is not there) and hands what the subscriber
    /// gets to `answer`, both before any further delta of the topic can be handed to the shard.
    ///
    /// # Errors
    /// If there is no such topic, and it would exceed the limit on topics that were never published.
    #[allow(clippy::too_many_arguments, reason = "one call site, each named there")]
    pub fn attach(
        &self,
        name: &TopicName,
        shard: ShardId,
        slot: Slot,
        encoding: Encoding,
        since: Option<&Position>,
        history: u32,
        maker: u64,
        answer: impl FnOnce(Attachment),
    ) -> Result<(), PublishError> {
        self.subscribed_to(name, maker, |topic| {
            topic.may_exist(self.may_exist(topic.source, name));
            topic.add_interest(shard, slot, encoding);
            answer(topic.attach(encoding, since, history, self.config.limits.recovery_bytes()));
        })
    }

    /// Ends a shard's interest in a topic. `done` runs before anything else can be sent about it.
    pub fn detach(&self, name: &TopicName, shard: ShardId, slot: Slot, done: impl FnOnce()) {
        let mut unused = false;
        if let Some(mut topic) = self.map.get_mut(name.as_str()) {
            topic.remove_interest(shard, slot);
            unused = topic.interest.is_empty() && !topic.known;
            done();
        } else {
            done();
        }
        if unused {
            self.remove_if(name, |topic| topic.interest.is_empty() && !topic.known);
        }
    }

    /// Whether a client has a newer position of a topic than this node has read: another node, which is ahead, gave it
    /// to the client.
    pub fn is_behind(&self, name: &TopicName, position: &Position) -> bool {
        if let Some(topic) = self.map.get(name.as_str()) {
            let upto = topic.offset.max(self.reached(topic.source));
            return topic.epoch == position.epoch && position.offset > upto;
        }
        let home = self.home(name.as_str());
        let floor = self.source(home).map_or(0, |source| source.floor.load(Ordering::Acquire));
        self.epoch(home) == position.epoch && position.offset.get() > floor.max(self.reached(home).get())
    }

    /// The topic's state, handed to `answer` in order with its deltas. An unknown topic has `null` for a state.
    pub fn snapshot_for(&self, name: &TopicName, answer: impl FnOnce(Arc<Snapshot>)) {
        match self.map.get_mut(name.as_str()) {
            Some(mut topic) => {
                let may_exist = self.may_exist(topic.source, name);
                topic.may_exist(may_exist);
                answer(topic.snapshot());
            }
            None => answer(self.unknown(name)),
        }
    }

    /// The state of a topic that is not there: `null`, and whether that may be otherwise.
    fn unknown(&self, name: &TopicName) -> Arc<Snapshot> {
        let source = self.home(name.as_str());
        let (options, epoch) = (self.default.clone(), self.epoch(source));
        let account = Account::new(self.sums.clone());
        let mut topic = Topic::new(name.clone(), options, source, epoch, Floor::default(), 0, account);
        topic.may_exist(self.may_exist(source, name));
        topic.snapshot()
    }

    /// The next deltas after `after`, handed to `answer` in order with those that are published; `None` if some of them
    /// are gone.
    pub fn replay_for(&self, name: &TopicName, encoding: Encoding, after: Offset, answer: impl FnOnce(Option<Replay>)) {
        match self.map.get_mut(name.as_str()) {
            Some(mut topic) => answer(topic.replay(encoding, after, self.config.limits.recovery_bytes())),
            None => answer(None),
        }
    }

    /// Some of the topic's past; an unknown topic has none.
    ///
    /// # Errors
    /// If the position asked from is not in the history.
    pub fn history(&self, name: &TopicName, query: &HistoryQuery) -> Result<HistoryPage, Refusal> {
        match self.map.get(name.as_str()) {
            Some(topic) => topic.history(query),
            None => {
                let epoch = self.epoch(self.home(name.as_str()));
                Ok(HistoryPage { offset: Offset::ZERO, epoch, publications: Vec::new() })
            }
        }
    }

    /// Tells subscribers of a join or a leave.
    pub fn announce(&self, name: &TopicName, change: &Arc<MembershipChange>) {
        if let Some(topic) = self.map.get(name.as_str()) {
            self.each_interest(&topic, |shard, slot| self.outlet.membership(shard, slot, change));
        }
    }

    /// Names and interested shards of topics that have subscribers on this node.
    pub fn subscribed(&self) -> Vec<(TopicName, Vec<(ShardId, Slot)>)> {
        let wanted = self.map.iter().filter(|topic| !topic.interest.is_empty());
        wanted.map(|topic| (topic.name.clone(), topic.interest.iter().map(|i| (i.shard, i.slot)).collect())).collect()
    }

    /// The topic as REST shows it; `None` where nothing was ever published. Where that cannot be known, there is a
    /// state of which nothing is known.
    pub fn view(&self, name: &TopicName) -> Option<TopicView> {
        if let Some(mut topic) = self.map.get_mut(name.as_str()).filter(|topic| topic.known) {
            return Some(TopicView { snapshot: topic.snapshot(), active_ms: topic.active_ms, stale: topic.stale });
        }
        if !self.config.knows_namespace(name.namespace()) {
            return None;
        }
        let snapshot = self.unknown(name);
        snapshot.known.may_lack().then_some(TopicView { snapshot, active_ms: 0, stale: false })
    }

    /// The first `max` names of a section that are in a range, in order: those of topics that were published in their
    /// sources' present epochs.
    pub fn names(&self, section: Section<'_>, range: &NameRange, max: usize) -> Vec<TopicName> {
        self.names.page(section, range, max)
    }

    /// Sends all subscribers the present state.
    pub(super) fn tell_state(&self, topic: &mut Topic) {
        topic.break_chain();
        if !topic.interest.is_empty() {
            let snapshot = topic.snapshot();
            self.each_interest(topic, |shard, slot| self.outlet.reset(shard, slot, &snapshot));
        }
    }

    pub(super) fn each_interest(&self, topic: &Topic, mut f: impl FnMut(ShardId, Slot)) {
        for interest in &topic.interest {
            f(interest.shard, interest.slot);
        }
    }
}
