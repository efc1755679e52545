//! Which of a topic's entries count if several sources have some: the newest, in whichever order the sources are read;
//! and if the topic was moved, those after the newest move, in the source that it went to.

use super::super::deleted::Verdict;
use super::super::delta::Kind;
use super::super::exchange::{Home, PublishError, SourceId};
use super::super::payload::Payload;
use super::super::state::{Floor, Topic};
use super::super::strays::Stray;
use super::topics::Topics;
use crate::config::Class;
use crate::position::Offset;

impl Topics {
    /// A delta of a topic has come from another source than the one before. The newest is where the topic is, by the
    /// sources' own order, whichever is read first; one that was moved stays. A `merge` topic's state is in doubt then,
    /// until there is a snapshot: what its deltas in two partitions come to depends on which is read first. That is to
    /// be saved beside both.
    pub(super) fn change_source(
        &self,
        topic: &mut Topic,
        kind: Kind,
        payload: &Payload,
        (offset, at_ms): (Option<Offset>, u64),
        source: SourceId,
        silent: bool,
    ) -> Result<(), PublishError> {
        let floor = Floor::from(offset.map_or(Offset::ZERO, Offset::previous));
        let epoch = self.epoch(source);
        if !topic.known {
            topic.admits(kind, payload, false)?;
            topic.reset(source, epoch, floor);
            topic.set_loads(silent);
            self.set_may_exist_at_home(topic);
            if !silent && self.partitions() > 1 {
                // Tell subscribers the epoch of the deltas to come.
                self.tell_state(topic);
            }
            return Ok(());
        }
        let is_patch = kind == Kind::Delta && topic.options.class == Class::Merge;
        // Of two with one offset the later partition's counts, whichever is read first.
        let is_later = source.0 > topic.source.0;
        let is_older = offset.is_some_and(|offset| offset < topic.offset || offset == topic.offset && !is_later);
        if kind != Kind::Move && (topic.is_moved() || is_older) {
            let is_missing = topic.options.class == Class::Merge
                && !topic.is_moved()
                && offset.is_none_or(|offset| (offset, source) > (topic.base, topic.source))
                && !self.is_deleted(topic, source, offset);
            if is_missing {
                if let Some(offset) = offset {
                    let is_deletion = kind == Kind::Deletion;
                    self.note_stray(topic, Stray { source, offset, at_ms, is_deletion });
                }
                self.doubt_one(topic, self.is_loading(topic.source));
            }
            // It is to be saved what the state rests on.
            topic.unsaved |= !topic.is_elsewhere && topic.options.class == Class::Merge;
            topic.is_elsewhere = true;
            return Err(PublishError::WrongPartition);
        }
        topic.admits(kind, payload, false)?;
        match kind {
            _ if is_patch => {
                let left = topic.as_stray();
                if let Some(stray) = topic.strays.forget(source) {
                    self.end_stray(&topic.name, &stray);
                }
                topic.go_on_in(source, epoch, floor);
                topic.incomplete = true;
                self.note_stray(topic, left);
            }
            Kind::Delta | Kind::HistoryRemoval if topic.options.class.conflatable() => {
                // The state that was saved beside the other stream is to be removed.
                self.note_end_elsewhere(topic.source, &topic.name, topic.offset);
                topic.go_on_in(source, epoch, floor);
            }
            _ => {
                self.note_end_elsewhere(topic.source, &topic.name, topic.offset);
                self.release_strays(topic);
                self.names.remove(&topic.name);
                topic.reset(source, epoch, floor);
            }
        }
        topic.is_elsewhere = true;
        topic.set_loads(silent);
        self.metrics.topics_moved.inc();
        // With a move comes the state, and with a deletion that there is none.
        if !silent && !matches!(kind, Kind::Move | Kind::Deletion) {
            self.tell_state(topic);
        }
        Ok(())
    }

    /// Judges an entry by the moves and deletions of its topic in other sources, in whichever order they are read.
    pub(super) fn judge(
        &self,
        topic: &Topic,
        kind: Kind,
        source: SourceId,
        offset: Option<Offset>,
        home: Option<Home>,
    ) -> Verdict {
        let counts = Verdict::Counts(Offset::ZERO);
        let Some(offset) = offset.filter(|_| self.partitions() > 1) else { return counts };
        if topic.known {
            if topic.source != source && kind != Kind::Move && !topic.is_moved() {
                self.relate(source, topic.source);
            }
            let is_past = topic.source != source && (topic.moved_at, topic.source) > (offset, source);
            return if is_past && topic.is_moved() { Verdict::Past } else { counts };
        }
        self.judge_deleted(topic, kind, offset, source, home)
    }

    /// An entry with `kind=move` was taken in.
    pub(super) fn move_here(&self, topic: &mut Topic, offset: Offset) {
        topic.moved_at = offset;
        if self.partitions() > 1 {
            let marked = self.deleted().remove(&topic.name);
            if let Some(stray) = marked {
                self.end_stray(&topic.name, &stray);
            }
        }
    }

    /// Two sources have entries of one topic, so that each one's topics depend on the entries of the other.
    pub fn relate(&self, one: SourceId, other: SourceId) {
        for (at, with) in [(one, other), (other, one)] {
            if let Some(source) = self.source(at).filter(|_| at != self.local() && with != self.local()) {
                source.related.add(with);
            }
        }
    }

    /// The other sources that share topics with `source`: if the contents of one of them are replaced, what is known of
    /// this one no longer counts.
    pub fn related(&self, source: SourceId) -> Vec<SourceId> {
        let all = self.source(source).map_or_else(Vec::new, |source| source.related.all(self.partitions()));
        all.into_iter().filter(|other| *other != source).collect()
    }

    /// Whether a delta of `source` is from before a deletion in another source, which was read first.
    pub(super) fn is_deleted(&self, topic: &Topic, source: SourceId, offset: Option<Offset>) -> bool {
        let Some(offset) = offset.filter(|_| self.partitions() > 1) else { return false };
        self.judge_deleted(topic, Kind::Delta, offset, source, None) == Verdict::WrongSource
    }
}
