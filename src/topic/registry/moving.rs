//! Topics that leave one source for another while they are published: what waits to be relayed, and where they belong
//! afterwards.

use std::sync::PoisonError;

use super::super::atomics::Ordering;
use super::super::exchange::SourceId;
use super::super::relays::{Goes, Relays, Rule};
use super::super::state::Topic;
use super::source::SourceState;
use super::topics::Topics;
use crate::name::TopicName;
use crate::position::Offset;

impl Topics {
    /// Deltas of a topic wait in a partition that it leaves, or has left: its state may lack them, and is reported as
    /// such. The saved state is whole all the same: the topic continues from there.
    pub fn wait_for_relay(&self, name: &str) {
        self.set_waits(name, Topic::wait);
    }

    /// The deltas that waited have come.
    pub fn end_wait(&self, name: &str) {
        self.set_waits(name, |topic| !self.is_in_unread(topic.source, name) && topic.end_wait());
    }

    fn set_waits(&self, name: &str, change: impl Fn(&mut Topic) -> bool) {
        if let Some(mut topic) = self.map.get_mut(name)
            && change(&mut topic)
            && !self.is_loading(topic.source)
        {
            self.tell_state(&mut topic);
        }
    }

    /// Whether a topic is reported as one whose deltas wait.
    pub fn waits_for_relay(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|topic| topic.waits)
    }

    /// Sets where topics of `source` go that leave it; `None` if none leaves it.
    pub fn set_leaving(&self, source: SourceId, goes: Option<Goes>) {
        self.relays().set(source, goes);
    }

    /// Sets where topics of `source` belong, also after they have been moved. With `goes_unread` some belong in streams
    /// that are not read here: their states may lack deltas.
    pub fn set_belonging(&self, source: SourceId, rule: Option<Rule>, goes_unread: bool) {
        self.relays().set_rule(source, rule);
        if !goes_unread || self.is_loading(source) {
            // After a load it is looked at again.
            return;
        }
        for mut topic in self.map.iter_mut() {
            let expected = if topic.known { topic.source } else { self.home(topic.name.as_str()) };
            if expected != source || !self.is_in_unread(source, topic.name.as_str()) {
                continue;
            }
            let is_new = if topic.known { topic.lack() } else { !topic.incomplete };
            topic.may_exist(true);
            if is_new {
                self.tell_state(&mut topic);
            }
        }
    }

    /// Whether a topic of `source` belongs in a stream that is not read here.
    pub(super) fn is_in_unread(&self, source: SourceId, name: &str) -> bool {
        self.relays().trail(source, name).1
    }

    /// A delta was read in `from` that is to be relayed to `to`.
    pub fn left(&self, from: SourceId, to: SourceId, offset: Offset) {
        self.relays().left(from, to, offset);
    }

    /// Deltas of `from` were relayed to `to` up to this offset, and time (Unix ms), that they had there.
    pub fn relayed(&self, from: SourceId, to: SourceId, upto: (Offset, u64)) {
        self.relays().relayed(from, to, upto);
    }

    /// Whether no delta of `from` up to `offset` waits to be relayed to `to`.
    pub fn has_relayed(&self, from: SourceId, to: SourceId, offset: Offset) -> bool {
        self.relays().has_relayed(from, to, offset)
    }

    pub(super) fn relays(&self) -> impl std::ops::DerefMut<Target = Relays> {
        self.relays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to when all deltas of a topic have come to it from sources that it leaves, or has left.
    pub(super) fn relayed_upto_ms(&self, name: &str) -> u64 {
        let mut sources = self.sources.iter().take(self.partitions());
        if self.partitions() < 2 {
            return u64::MAX;
        }
        // Whether topics leave this source is not known yet.
        if sources.any(|source| !source.has_begun.load(Ordering::Acquire) && source.gaps.is_open()) {
            return 0;
        }
        let read_ms = |source: &SourceState| match source.is_unread() {
            true => 0,
            false => source.progress.read_ms(),
        };
        self.relays().complete_upto_ms(name, |from| self.source(from).map_or(0, read_ms))
    }

    /// A state that was just moved here may lack deltas.
    pub fn doubt_moved(&self, source: SourceId, name: &str) {
        let silent = self.is_loading(source);
        if let Some(mut topic) = self.map.get_mut(name).filter(|topic| topic.source == source && topic.known) {
            self.doubt_one(&mut topic, silent);
        }
    }

    /// Whether a topic is published in `source` now, and whether it was moved there.
    pub fn place_in(&self, source: SourceId, name: &str) -> (bool, bool) {
        let topic = self.map.get(name).filter(|topic| topic.known && topic.source == source);
        topic.map_or((false, false), |topic| (true, topic.is_moved()))
    }

    /// Whether a topic was moved to another source than `source`.
    pub fn is_moved_from(&self, source: SourceId, name: &str) -> bool {
        self.map.get(name).is_some_and(|topic| topic.known && topic.is_moved() && topic.source != source)
    }

    /// Names of published topics and their sources, filtered by `wanted`.
    pub fn names_by(&self, wanted: impl Fn(&str, SourceId) -> bool) -> Vec<(TopicName, SourceId)> {
        let local = self.local();
        let known = self.map.iter().filter(|topic| topic.known && topic.source != local);
        known
            .filter(|topic| wanted(topic.name.as_str(), topic.source))
            .map(|topic| (topic.name.clone(), topic.source))
            .collect()
    }

    /// `source` is loaded at `now_ms` of its clock, and topics have left it: none of them is missing before all other
    /// sources have been read up to then.
    pub fn left_by(&self, source: SourceId, now_ms: u64) {
        if let Some(state) = self.source(source) {
            state.left_by_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    pub(super) fn is_moving_unread(&self) -> bool {
        let is_read = |at: usize, by_ms: u64| {
            let others = self.sources.iter().enumerate().filter(|(other, _)| *other != at);
            others.into_iter().all(|(_, other)| other.progress.read_ms() >= by_ms)
        };
        let left = self.sources.iter().map(|source| source.left_by_ms.load(Ordering::Relaxed));
        left.enumerate().any(|(at, by_ms)| by_ms > 0 && !is_read(at, by_ms))
    }
}
