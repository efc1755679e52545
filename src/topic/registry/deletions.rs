//! Deletions of topics that more than one source may have entries of: they are kept until every source has been read up
//! to them.

use std::sync::PoisonError;

use super::super::atomics::Ordering;
use super::super::deleted::{Deleted, Deletion, Verdict};
use super::super::delta::Kind;
use super::super::exchange::{Home, SourceId};
use super::super::lifetime::end_ms;
use super::super::state::Topic;
use super::super::strays::Stray;
use super::source::SourceState;
use super::topics::Topics;
use crate::name::TopicName;
use crate::position::Offset;

impl Topics {
    /// Judges an entry of a topic that is not known here.
    pub(super) fn judge_deleted(
        &self,
        topic: &Topic,
        kind: Kind,
        offset: Offset,
        source: SourceId,
        home: Option<Home>,
    ) -> Verdict {
        let mut deleted = self.deleted();
        let verdict = deleted.judge(&topic.name, kind, offset, source, home);
        if let Some(deletion) = deleted.of(&topic.name).filter(|deletion| deletion.source != source) {
            self.relate(source, deletion.source);
        }
        // More than one source has the topic: that it ended must be saved, too.
        let stray = if verdict == Verdict::WrongSource { deleted.claim_mark(&topic.name, false) } else { None };
        drop(deleted);
        if let Some(stray) = stray {
            self.note_mark(stray.source, stray.mark(&topic.name));
        }
        verdict
    }

    /// The newest deletion of a topic, if it is in another source than `source`, and whether nodes that have not read
    /// it still have that source's older state at `at_ms`.
    pub(super) fn deletion_elsewhere(&self, topic: &Topic, source: SourceId, at_ms: u64) -> Option<(Stray, bool)> {
        if self.partitions() < 2 {
            return None;
        }
        let deleted = self.deleted();
        let deletion = deleted.of(&topic.name).filter(|deletion| deletion.source != source)?;
        Some((deletion.stray(), deletion.is_elsewhere && at_ms <= deletion.until_ms))
    }

    /// When a topic that is not known was deleted in `source`, Unix ms, if it was.
    pub(super) fn deleted_ms(&self, name: &TopicName, source: SourceId) -> Option<u64> {
        let deleted = self.deleted();
        deleted.of(name).filter(|deletion| deletion.source == source).map(|deletion| deletion.at_ms)
    }

    /// A topic's life begins after a deletion in its own source: entries of others from before that no longer matter.
    pub(super) fn rest_on_deletion(&self, topic: &mut Topic, source: SourceId) {
        if self.partitions() < 2 {
            return;
        }
        let deleted = self.deleted();
        if let Some(deletion) = deleted.of(&topic.name).filter(|deletion| deletion.source == source) {
            topic.base = topic.base.max(deletion.offset);
            topic.is_elsewhere |= deletion.is_elsewhere;
        }
    }

    pub(super) fn note_deletion(&self, topic: &Topic, source: SourceId, offset: Offset, at_ms: u64) {
        if self.partitions() < 2 || source == self.local() {
            return;
        }
        let until_ms = end_ms(&topic.options, at_ms);
        let home = self.home_elsewhere(topic);
        let is_misplaced = home.is_some();
        // States of the home may have been removed from what is saved because of this deletion.
        let is_unread = home.is_some_and(SourceState::is_unread);
        let (moved_at, is_elsewhere) = (topic.moved_at, topic.is_elsewhere || is_unread);
        self.keep_deletion(
            &topic.name,
            Deletion { source, offset, at_ms, moved_at, is_elsewhere, until_ms, is_marked: false },
        );
        let stray = self.deleted().claim_mark(&topic.name, is_misplaced);
        if let Some(stray) = stray {
            self.note_mark(stray.source, stray.mark(&topic.name));
        }
    }

    pub(super) fn keep_deletion(&self, name: &TopicName, deletion: Deletion) {
        let kept = self.deleted().insert(name, deletion);
        match kept {
            Ok(Some(over)) => self.end_stray(name, &over),
            Ok(None) => {}
            Err(()) => drop(self.metrics.deletions_forgotten.inc()),
        }
    }

    /// A topic of which more than one source may have entries ended at `end_ms`: what another still has to tell from
    /// before then was none of a new life.
    pub(super) fn note_expiry(&self, topic: &Topic, end_ms: u64) {
        let is_in_several = topic.is_elsewhere || self.home(topic.name.as_str()) != topic.source;
        if self.partitions() < 2 || !is_in_several || topic.is_moved() {
            return;
        }
        let (source, offset, moved_at) = (topic.source, topic.offset, Offset::ZERO);
        let (at_ms, until_ms) = (end_ms, end_ms);
        self.keep_deletion(
            &topic.name,
            Deletion { source, offset, at_ms, moved_at, is_elsewhere: true, until_ms, is_marked: false },
        );
    }

    /// Deletions that no source can have older deltas for any more.
    pub(super) fn forget_deletions(&self, sources: &[(u64, u64, usize, usize)]) {
        let times = |(source, read): (&SourceState, &(u64, u64, usize, usize))| {
            let read_ms = if source.has_loaded.load(Ordering::Acquire) { read.1 } else { 0 };
            (read_ms, source.progress.first_ms())
        };
        let times: Vec<(u64, u64)> = self.sources.iter().zip(sources).take(self.partitions()).map(times).collect();
        let marked = self.deleted().forget(&times);
        for (name, stray) in marked {
            self.end_stray(&name, &stray);
        }
    }

    pub(super) fn deleted(&self) -> impl std::ops::DerefMut<Target = Deleted> {
        self.deleted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
