//! The states of a source that are to be saved, and the ended topics whose saved states are to be removed.

use std::sync::Arc;

use super::super::delta::Snapshot;
use super::super::exchange::SourceId;
use super::super::state::Topic;
use super::topics::Topics;
use crate::name::TopicName;
use crate::position::Offset;

impl Topics {
    /// Names of `source`'s topics that changed since their states were last taken for saving elsewhere.
    pub fn unsaved(&self, source: SourceId) -> Vec<TopicName> {
        let is_unsaved = |topic: &Topic| topic.source == source && topic.unsaved;
        self.map.iter().filter(|topic| is_unsaved(topic)).map(|topic| topic.name.clone()).collect()
    }

    /// The states of the first of these topics, as many as have `bytes_max` of memory, and one at least; and how many
    /// names that is. What is not unsaved any more is passed over.
    pub fn take_unsaved(&self, source: SourceId, names: &[TopicName], bytes_max: usize) -> (Vec<Arc<Snapshot>>, usize) {
        let (mut states, mut bytes, mut looked) = (Vec::new(), 0, 0);
        for name in names {
            if bytes >= bytes_max {
                break;
            }
            looked += 1;
            let topic = self.map.get_mut(name.as_str());
            let Some(mut topic) = topic.filter(|topic| topic.source == source && topic.unsaved) else { continue };
            topic.unsaved = false;
            if !topic.known {
                continue;
            }
            let state = topic.snapshot_to_save();
            bytes += state.weight();
            states.push(state);
        }
        (states, looked)
    }

    /// The states that were taken could not be saved: they are to be taken again.
    pub fn mark_unsaved<'a>(&self, names: impl Iterator<Item = &'a TopicName>) {
        for name in names {
            if let Some(mut topic) = self.map.get_mut(name.as_str()) {
                topic.unsaved = true;
            }
        }
    }

    /// Everything that was saved of `source` is to be saved again.
    pub fn mark_all_unsaved(&self, source: SourceId) {
        let mut marks = Vec::new();
        for mut topic in self.map.iter_mut() {
            topic.unsaved |= topic.source == source;
            marks.extend(topic.strays.of(source).map(|stray| stray.mark(&topic.name)));
        }
        if let Some(source) = self.source(source) {
            let mut beside = source.beside();
            marks.into_iter().for_each(|mark| beside.note(mark));
        }
    }

    /// Topics of `source` that ended since this was last asked, and the offsets they ended at: states of them up to
    /// there that were saved are to be removed. Only where they are [remembered](Topics::remember_ended).
    pub fn take_ended(&self, source: SourceId) -> Vec<(TopicName, Offset)> {
        self.source(source).map_or_else(Vec::new, |source| source.ended.take())
    }

    /// Whether some of those that were not taken yet ended because of an entry of another source: how far that was read
    /// is not to be saved before.
    pub fn has_ended_elsewhere(&self, source: SourceId) -> bool {
        self.source(source).is_some_and(|source| source.ended.has_some_elsewhere())
    }

    /// Whether more topics of `source` ended than are remembered: how far it was read is not to be saved any more, as
    /// saved states would count that have ended.
    pub fn has_forgotten_ends(&self, source: SourceId) -> bool {
        self.source(source).is_some_and(|source| source.ended.has_forgotten_some())
    }

    /// From now on it is remembered which topics of `source` end.
    pub fn remember_ended(&self, source: SourceId) {
        if let Some(source) = self.source(source) {
            source.ended.remember();
        }
    }

    /// A topic has no state in `source` any more.
    pub(super) fn note_end(&self, source: SourceId, name: &TopicName, offset: Offset) {
        if let Some(source) = self.source(source) {
            self.count_forgotten_ends(source.ended.note(name, offset));
        }
    }

    /// The same, where an entry of another source ended it.
    pub(super) fn note_end_elsewhere(&self, source: SourceId, name: &TopicName, offset: Offset) {
        if let Some(source) = self.source(source) {
            self.count_forgotten_ends(source.ended.note_elsewhere(name, offset));
        }
    }

    /// The topics that were taken could not be removed: they are to be taken again.
    pub fn put_back_ended(&self, source: SourceId, names: Vec<(TopicName, Offset)>) {
        if let Some(source) = self.source(source) {
            self.count_forgotten_ends(source.ended.put_back(names));
        }
    }

    fn count_forgotten_ends(&self, count: usize) {
        if count > 0 {
            self.metrics.ends_forgotten.inc_by(count as u64);
        }
    }
}
