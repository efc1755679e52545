//! Deltas that this node has missed: which states may be incomplete because of them, and what nodes that start later
//! must know about them.

use super::super::atomics::Ordering;
use super::super::exchange::SourceId;
use super::super::state::Topic;
use super::source::SourceState;
use super::topics::Topics;
use crate::config::Class;
use crate::name::TopicName;
use crate::position::{Epoch, Offset};

impl Topics {
    /// Deltas of unknown topics of `source` after `after` may be missing here: states are incomplete until they are
    /// published whole, and no history reaches across the gap.
    pub fn doubt(&self, source: SourceId, after: Offset) {
        let Some(state) = self.source(source) else { return };
        state.gaps.open();
        state.restores_doubt.store(true, Ordering::Release);
        self.lose_history(source, after, |_, _| true);
        self.doubt_misplaced(source);
    }

    /// Deltas of `source` were missed, and it is about to be loaded again: topics that belong in it and are in other
    /// sources may have newer entries.
    pub fn open_gap(&self, source: SourceId) {
        let Some(state) = self.source(source) else { return };
        state.gaps.open();
        self.doubt_misplaced(source);
    }

    /// Deltas of `source` up to `after` are gone, and each topic has a newer one: only states made of patches are in
    /// doubt. A delta of an unknown topic that came by `until_ms`, Unix ms of the source's clock, may not be its first.
    pub fn doubt_patches(&self, source: SourceId, after: Offset, until_ms: u64) {
        let Some(state) = self.source(source) else { return };
        state.gaps.expire(until_ms);
        self.lose_history(source, after, |_, class| class == Class::Merge);
    }

    /// Deltas of `source` up to `after` are gone, and saved states contain them: no history reaches across. Topics
    /// whose states were saved with another class are in doubt.
    pub fn forget_history(&self, source: SourceId, after: Offset) {
        let state = self.source(source).filter(|state| !state.reclassed().is_empty());
        if let Some(state) = state {
            state.gaps.widen(state.saved_upto_ms.load(Ordering::Acquire));
        }
        self.lose_history(source, after, |name, _| state.is_some() && self.is_reclassed(source, name));
    }

    pub(super) fn lose_history(&self, source: SourceId, after: Offset, doubts: impl Fn(&str, Class) -> bool) {
        let Some(state) = self.source(source) else { return };
        state.whole.store(false, Ordering::Release);
        state.floor.fetch_max(after.get(), Ordering::AcqRel);
        let silent = state.loading.load(Ordering::Acquire);
        for mut topic in self.map.iter_mut().filter(|topic| topic.source == source) {
            // A state that rests on a later snapshot is whole.
            let doubted = doubts(topic.name.as_str(), topic.options.class) && topic.base <= after && topic.doubt();
            let may_exist = !topic.known && self.may_exist(source, &topic.name);
            topic.may_exist(may_exist);
            topic.lose_history(after);
            // Subscribers of a `latest` topic get the next value, which is whole.
            if !silent && (doubted || !topic.known || topic.options.class == Class::Stream) {
                self.tell_state(&mut topic);
            }
        }
    }

    /// A state lacks a delta that came in another partition. No state that was saved before makes it whole.
    pub(super) fn doubt_one(&self, topic: &mut Topic, silent: bool) {
        if !topic.options.class.conflatable() {
            return;
        }
        let is_new = topic.doubt();
        // Nor one that was saved at this very offset.
        topic.lose_history(topic.offset.next());
        if is_new && !silent {
            self.tell_state(topic);
        }
    }

    /// The source took in the newest missed delta of `source` by then: Unix ms of its clock. Topics without a delta
    /// since expire as usual, and topics that begin after that are whole.
    pub fn missed_until(&self, source: SourceId, until_ms: u64) {
        if let Some(state) = self.source(source) {
            state.gaps.ended_at(until_ms);
        }
    }

    /// That time, if the missed deltas may still matter; the maximum if it is not known.
    pub fn missed(&self, source: SourceId) -> Option<u64> {
        let gaps = &self.source(source)?.gaps;
        (!gaps.is_none()).then(|| gaps.until_ms().unwrap_or(u64::MAX))
    }

    /// Deltas of unknown topics of `source` were missed: the hole gets a name, and all states are saved again with it,
    /// so that nodes that start later can tell which states were known after the hole.
    pub fn name_hole(&self, source: SourceId) {
        if let Some(state) = self.source(source) {
            *state.hole() = Some(Epoch::random());
            self.mark_all_unsaved(source);
        }
    }

    /// The name of the hole after which states of `source` are saved, if the missed deltas may still matter.
    pub fn hole(&self, source: SourceId) -> Option<Epoch> {
        let state = self.source(source).filter(|state| !state.gaps.is_none())?;
        state.hole().clone()
    }

    /// The saved state of a topic cannot be put back.
    pub fn miss_saved(&self, source: SourceId, name: &str, at_ms: u64) {
        self.miss(name, source, None, at_ms);
    }

    /// A topic's saved state is of another class than its namespace has now. Nothing is missed if the source is read
    /// from the first entry that it ever had. Returns whether it is the first such state of its namespace.
    pub fn miss_class(&self, source: SourceId, name: &str, at_ms: u64) -> bool {
        let Some(state) = self.source(source) else { return false };
        if !state.whole.load(Ordering::Acquire) {
            self.miss(name, source, None, at_ms);
        }
        state.finds_reclassed.store(true, Ordering::Release);
        state.reclassed().insert(self.configured(name).to_owned())
    }

    /// A delta of another process's source found no room here, or a saved state (`None`) could not be put back: the
    /// topic's state lacks it, and no history reaches across it.
    pub(super) fn miss(&self, name: &str, source: SourceId, offset: Option<Offset>, at_ms: u64) {
        let Some(state) = self.source(source).filter(|_| source != self.local()) else { return };
        let mut topic = self.map.get_mut(name);
        if let Some(topic) = topic.as_mut().filter(|topic| topic.known) {
            let silent = self.is_loading(topic.source);
            self.doubt_one(topic, silent);
            if topic.source == source {
                return;
            }
        }
        state.gaps.miss(name, at_ms);
        let is_crowded = offset.is_some_and(|offset| !state.refuse(name, offset));
        // What this node counts itself is nowhere else: its publisher knows.
        let is_read = offset.is_some();
        let offset = offset.filter(|_| !self.is_conflatable(name));
        if let Some(offset) = offset {
            // Refused topics are not remembered: a topic that begins later has no history from before.
            state.whole.store(false, Ordering::Release);
            state.floor.fetch_max(offset.get(), Ordering::AcqRel);
            if let Some(mark) = state.marks().get_mut(name) {
                (mark.offset, mark.at_ms) = (mark.offset.max(offset), mark.at_ms.max(at_ms));
                mark.incomplete = true;
            }
        }
        if let Some(topic) = topic.as_mut().filter(|topic| !topic.known && is_read) {
            let offset = offset.filter(|_| topic.source == source);
            if topic.leave_out(offset) && !self.is_loading(source) {
                self.tell_state(topic);
            }
        }
        drop(topic);
        if is_crowded {
            // Outdated states are not remembered: all others are saved again.
            self.name_hole(source);
        }
    }

    /// Topics that had a delta for which there was no room, and its offset, since this was last
    /// asked: saved states of them from before it are out of date.
    pub fn take_refused(&self, source: SourceId) -> Vec<(TopicName, Offset)> {
        self.source(source).map_or_else(Vec::new, |source| source.refused.take())
    }

    /// Another node, which had room for these deltas, has saved what they came to up to this offset.
    pub fn forget_refused(&self, source: SourceId, upto: Offset) {
        if let Some(state) = self.source(source) {
            state.refused.forget(upto);
        }
    }

    /// The topics that were taken could not be marked: they are to be taken again.
    pub fn put_back_refused(&self, source: SourceId, refused: &[(TopicName, Offset)]) {
        let Some(state) = self.source(source) else { return };
        if !refused.iter().all(|(name, offset)| state.refuse(name.as_str(), *offset)) {
            self.name_hole(source);
        }
    }

    /// Whether states of `source` were saved while their namespaces had other classes: it is to be read from its
    /// first entry.
    pub fn has_reclassed(&self, source: SourceId) -> bool {
        self.source(source).is_some_and(|source| !source.reclassed().is_empty())
    }

    fn is_reclassed(&self, source: SourceId, topic: &str) -> bool {
        self.source(source).is_some_and(|source| source.reclassed().contains(self.configured(topic)))
    }

    /// Whether a topic's saved state contains everything that `source` has of it up to the position of the save.
    pub fn is_by_state(&self, source: SourceId, topic: &str) -> bool {
        self.is_conflatable(topic) && !self.is_reclassed(source, topic)
    }

    /// How many topics of `source` have states that may lack deltas, as of the last sweep.
    pub fn incomplete(&self, source: SourceId) -> usize {
        self.source(source).map_or(0, |source| source.incomplete.load(Ordering::Relaxed))
    }

    /// The same for all sources.
    pub fn incomplete_in_all(&self) -> usize {
        let of = |s: &SourceState| s.incomplete.load(Ordering::Relaxed) + s.waiting.load(Ordering::Relaxed);
        self.sources.iter().map(of).sum()
    }

    /// Their names, at most `max` of them behind the first `skip`.
    pub fn incomplete_names(&self, source: SourceId, skip: usize, max: usize) -> Vec<TopicName> {
        let is_doubtful = |topic: &Topic| {
            topic.source == source && topic.known && topic.incomplete && topic.options.class.conflatable()
        };
        let doubtful = self.map.iter().filter(|topic| is_doubtful(topic));
        doubtful.skip(skip).take(max).map(|topic| topic.name.clone()).collect()
    }
}
