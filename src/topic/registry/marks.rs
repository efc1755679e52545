//! Entries of a topic in other sources than its own, and the marks that are saved beside those sources so that such
//! entries outlive this process.

use super::super::atomics::Ordering;
use super::super::delta::Kind;
use super::super::exchange::{Incoming, Mark, PublishError, SourceId};
use super::super::payload::Payload;
use super::super::state::Topic;
use super::super::strays::Stray;
use super::topics::Topics;
use crate::config::Class;
use crate::name::{TopicName, namespace_of};
use crate::position::Offset;

impl Topics {
    /// Another source has an entry after the snapshot that a topic's state rests on.
    pub(super) fn note_stray(&self, topic: &mut Topic, stray: Stray) {
        topic.awaits_home = false;
        if topic.strays.note(stray) {
            topic.settle();
        }
        self.note_mark(stray.source, stray.mark(&topic.name));
    }

    /// A topic has begun a new life, or ended: entries of others from before no longer matter.
    pub(super) fn release_strays(&self, topic: &mut Topic) {
        if topic.strays.is_empty() {
            return;
        }
        for stray in topic.strays.take() {
            self.end_stray(&topic.name, &stray);
        }
        topic.settle();
    }

    pub(super) fn end_stray(&self, name: &TopicName, stray: &Stray) {
        let source = self.source(stray.source).filter(|source| source.is_saved());
        if source.is_some_and(|source| !source.beside().end(name, stray.offset)) {
            self.metrics.misplaced_marks_forgotten.inc();
        }
        if !stray.is_deletion {
            self.note_end_elsewhere(stray.source, name, stray.offset);
        }
    }

    /// The entry that `source` has of a topic of another source is to be saved beside it.
    pub(super) fn note_mark(&self, source: SourceId, mark: Mark) {
        if let Some(source) = self.source(source).filter(|source| source.is_saved()) {
            source.beside().note(mark);
        }
    }

    /// Marks that are to be saved beside `source`, before the position up to which it was read is saved.
    pub fn unsaved_marks(&self, source: SourceId) -> Vec<Mark> {
        self.source(source).map_or_else(Vec::new, |source| source.beside().unsaved())
    }

    /// These marks were saved.
    pub fn saved_marks(&self, source: SourceId, marks: &[Mark]) {
        if let Some(source) = self.source(source) {
            source.beside().saved(marks);
        }
    }

    /// Whether marks beside `source` are to be removed.
    pub fn has_marks_over(&self, source: SourceId) -> bool {
        self.source(source).is_some_and(|source| source.beside().has_over())
    }

    /// Marks beside `source` that no longer count, up to these offsets.
    pub fn marks_over(&self, source: SourceId) -> Vec<(TopicName, Offset)> {
        self.source(source).map_or_else(Vec::new, |source| source.beside().over())
    }

    /// These marks were removed.
    pub fn removed_marks(&self, source: SourceId, over: &[(TopicName, Offset)]) {
        if let Some(source) = self.source(source) {
            source.beside().removed(over);
        }
    }

    /// Puts back a mark that was saved beside `source`, during a load: of an entry of which only the position is known.
    ///
    /// # Errors
    /// If the topic cannot have it.
    pub fn restore_mark(&self, source: SourceId, name: &str, mark: (Offset, u64, bool)) -> Result<(), PublishError> {
        let (offset, at_ms, is_deletion) = mark;
        if !is_deletion && self.config.namespace(namespace_of(name)).class != Class::Merge {
            return Ok(());
        }
        let kind = if is_deletion { Kind::Deletion } else { Kind::Delta };
        let (offset, at_ms) = (Some(offset), Some(at_ms));
        let payload = Payload::new(bytes::Bytes::from_static(b"{}"), 2)?;
        let floor = self.source(source).map(|source| (source, source.floor.load(Ordering::Acquire)));
        let taken = self.take_in(
            Incoming { topic: name, kind, ts: None, at_ms, payload, offset, source, home: None, is_relayed: false },
            true,
        );
        if let Some((source, floor)) = floor {
            // Entries of other topics before it are still to be read.
            source.floor.store(floor, Ordering::Release);
        }
        if is_deletion {
            let (name, mut deleted) = (TopicName::new(name)?, self.deleted());
            deleted.set_elsewhere(&name, source, mark.0);
            drop(deleted);
            // It is a later life, which will end one day.
            if let Some(mut topic) = self.map.get_mut(name.as_str()).filter(|topic| topic.source == source) {
                topic.is_elsewhere = true;
            }
        } else if let Some(mut topic) = self.map.get_mut(name)
            && topic.source == source
            && topic.known
            && topic.offset == mark.0
        {
            self.doubt_one(&mut topic, self.is_loading(source));
        }
        match taken {
            Ok(_) | Err(PublishError::WrongPartition) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
