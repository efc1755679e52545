//! Putting saved states back while a source is loaded, and making an incomplete state whole with one that another node
//! has saved.

use super::super::atomics::Ordering;
use super::super::deleted::Verdict;
use super::super::delta::Kind;
use super::super::exchange::{Incoming, PublishError, SavedHole, SourceId};
use super::super::lifetime::{end_ms, over};
use super::super::payload::Payload;
use super::super::state::{StreamMark, Topic, When};
use super::super::strays::{At, Stray};
use super::source::SourceState;
use super::topics::Topics;
use crate::clock::unix_ms;
use crate::config::{Class, OPS};
use crate::name::{TopicName, is_in_namespace, namespace_of};
use crate::position::{Epoch, Offset};

impl Topics {
    /// Saved states of `source` contain everything that it took in up to `upto_ms`, Unix ms of its clock.
    pub fn saved_upto(&self, source: SourceId, upto_ms: u64) {
        if let Some(source) = self.source(source) {
            source.saved_upto_ms.store(upto_ms, Ordering::Release);
        }
    }

    /// The node that saved last had missed deltas: states that it did not know may be outdated.
    pub fn saved_after_a_hole(&self, source: SourceId, hole: SavedHole) {
        if let Some(state) = self.source(source) {
            state.hole().clone_from(&hole.name);
            *state.saved_hole() = Some(hole);
        }
    }

    /// Puts back a topic's saved state during a load. States that are not newer than the topic are ignored, and so are
    /// those that have expired. With `incomplete`, or if entries after the saved ones are gone, the state may lack
    /// deltas. `moved_at` is the offset of the entry that moved the topic to its source, or 0, and `base` that of the
    /// snapshot that the state rests on, if it is known.
    ///
    /// # Errors
    /// If the state is not one that the topic can have.
    pub fn restore(
        &self,
        incoming: Incoming<'_>,
        (moved_at, base): (Offset, Option<Offset>),
        (incomplete, hole): (bool, Option<&Epoch>),
    ) -> Result<(), PublishError> {
        let now_ms = unix_ms();
        let Incoming { topic, ts, at_ms, payload, offset, source, .. } = incoming;
        let Some(offset) = offset else { return Ok(()) };
        let when = When { at_ms: at_ms.unwrap_or(now_ms), now_ms };
        let Some(state) = self.source(source) else { return Ok(()) };
        // The node that saved last may not have known a topic that another had saved before the hole.
        let is_of_before = state.is_before_saved_hole(when.at_ms, hole);
        // Each state that this node saves after a hole carries the name of the hole.
        let is_unnamed = state.hole().as_ref().is_some_and(|own| hole != Some(own));
        let in_doubt = incomplete || is_of_before || state.restores_doubt.load(Ordering::Acquire);
        if source != self.local() && is_in_namespace(topic, OPS) {
            return Err(PublishError::Reserved);
        }
        if !in_doubt && self.was_over(state, topic, when.at_ms) {
            self.note_end(source, &TopicName::new(topic)?, offset);
            return Ok(());
        }
        if !self.is_conflatable(topic) {
            let incomplete = incomplete || is_of_before;
            let mark = StreamMark { offset, ts, at_ms: when.at_ms, moved_at, incomplete, is_unnamed };
            let (name, mut marks, max) = (TopicName::new(topic)?, state.marks(), self.config.limits.topics);
            if marks.len() >= max {
                return Err(PublishError::TooManyTopics { max });
            }
            marks.insert(name, mark);
            return Ok(());
        }
        if moved_at == Offset::ZERO {
            self.relate_home(source, topic);
        }
        self.published(topic, (source, when.at_ms), true, |topic| {
            if topic.known && topic.source == source && offset <= topic.offset {
                return Ok(());
            }
            if topic.source != source {
                topic.admits(Kind::Snapshot, &payload, true)?;
            }
            let (place, base_at) = ((offset, source), (base.unwrap_or_default(), source));
            let Some(strays) = self.saved_counts(topic, place, base_at, (moved_at, when.at_ms)) else {
                // An incomplete state has no members yet: the saved one has the most.
                return if topic.source != source && topic.is_bare() { topic.adopt(&payload) } else { Ok(()) };
            };
            if topic.source != source {
                self.restore_here(topic, source, offset.previous());
            }
            if topic.known && offset <= topic.offset {
                return Ok(());
            }
            topic.restore((offset, base), ts, payload, when)?;
            if topic.known {
                topic.moved_at = moved_at;
                let lacks = in_doubt || !strays.is_empty() || self.may_lack_newer(topic, when.at_ms);
                topic.incomplete = lacks && topic.options.class.conflatable();
                topic.awaits_home = lacks && !in_doubt && strays.is_empty() && self.is_home_unread(topic);
                for stray in strays {
                    topic.is_elsewhere = true;
                    self.note_stray(topic, stray);
                }
                // A state that is in doubt here was saved as whole.
                topic.unsaved |= topic.incomplete && !incomplete || is_unnamed;
                if topic.incomplete {
                    // A state that was saved at this offset does not make it whole.
                    topic.lose_history(offset.next());
                }
                self.list(topic);
            }
            Ok(())
        })
    }

    /// Whether a topic whose state was saved, and whose last delta came at `at_ms`, had ended by the time up to which
    /// states were saved. Where there are several sources, another may have more of it.
    fn was_over(&self, source: &SourceState, topic: &str, at_ms: u64) -> bool {
        let options = self.options_of(namespace_of(topic));
        let is_over = self.partitions() < 2 && over(options, at_ms, source.saved_upto_ms.load(Ordering::Acquire), true);
        if is_over {
            source.gaps.expire(end_ms(options, at_ms));
        }
        is_over
    }

    /// Whether a saved state of a source counts, at this position and resting on a snapshot at `base_at`: not if the
    /// topic was deleted or moved in another source after that, or has newer entries in another source. If it counts:
    /// entries of other sources that have no order among those that it is made of.
    fn saved_counts(
        &self,
        topic: &mut Topic,
        (offset, source): At,
        base_at: At,
        (moved_at, at_ms): (Offset, u64),
    ) -> Option<Vec<Stray>> {
        let is_moved = moved_at > Offset::ZERO;
        let (kind, from) = if is_moved { (Kind::Move, moved_at) } else { (Kind::Delta, offset) };
        if !topic.known && !matches!(self.judge(topic, kind, source, Some(from), None), Verdict::Counts(_)) {
            self.note_end_elsewhere(source, &topic.name, offset);
            return None;
        }
        let has_patches = topic.options.class == Class::Merge && !topic.is_moved();
        if !topic.known {
            let deletion = self.deletion_elsewhere(topic, source, at_ms).map(|(stray, _)| stray);
            let deletion = deletion.filter(|stray| has_patches && !is_moved && stray.at() > base_at);
            return Some(deletion.into_iter().collect());
        }
        if topic.source != source && !topic.is_moved() && !is_moved {
            self.relate(source, topic.source);
        }
        // A moved topic is where it was moved to last, even if later entries came in the other partition.
        let is_there = match topic.is_moved() || is_moved {
            true => (topic.moved_at, topic.source) > (moved_at, source),
            false => (topic.offset, topic.source) > (offset, source),
        };
        if topic.source != source && is_there {
            topic.is_elsewhere = true;
            let is_missing = has_patches && (offset, source) > (topic.base, topic.source);
            if is_missing && !self.is_deleted(topic, source, Some(offset)) {
                self.note_stray(topic, Stray { source, offset, at_ms, is_deletion: false });
                self.doubt_one(topic, self.is_loading(topic.source));
            } else {
                self.note_end_elsewhere(source, &topic.name, offset);
            }
            return None;
        }
        let mut others = topic.strays.take();
        if topic.source != source {
            others.push(topic.as_stray());
        }
        let (mut missing, mut over) = (Vec::new(), Vec::new());
        for stray in others {
            let is_missing = has_patches && !is_moved && stray.source != source && stray.at() > base_at;
            if is_missing { missing.push(stray) } else { over.push(stray) }
        }
        over.iter().for_each(|stray| self.end_stray(&topic.name, stray));
        Some(missing)
    }

    /// A saved state takes a topic from another source to this one.
    fn restore_here(&self, topic: &mut Topic, source: SourceId, floor: Offset) {
        let is_elsewhere = topic.known;
        self.names.remove(&topic.name);
        topic.reset(source, self.epoch(source), floor.into());
        topic.is_elsewhere = is_elsewhere;
        topic.set_loads(self.is_loading(source));
    }

    /// Puts back a `stream` topic of which fewer entries are read than there were.
    pub(super) fn restore_stream(
        &self,
        source: SourceId,
        name: &TopicName,
        mark: &StreamMark,
    ) -> Result<(), PublishError> {
        let Some(state) = self.source(source) else { return Ok(()) };
        // Entries after the mark may be unknown.
        let in_doubt = state.restores_doubt.load(Ordering::Acquire);
        let floor = match in_doubt {
            true => Offset::new(state.floor.load(Ordering::Acquire)).unwrap_or_default(),
            false => mark.offset,
        };
        self.published(name.as_str(), (source, mark.at_ms), true, |topic| {
            let place = (mark.offset, source);
            if self.saved_counts(topic, place, place, (mark.moved_at, mark.at_ms)).is_none() {
                return Ok(());
            }
            if topic.source != source {
                self.restore_here(topic, source, mark.offset);
            }
            // A topic of which nothing was read since is at the saved position.
            let is_passed = topic.known && topic.incomplete && !in_doubt;
            if !topic.known || topic.offset < mark.offset || is_passed {
                let in_doubt = in_doubt || self.may_lack_newer(topic, mark.at_ms);
                topic.restore_stream(mark, floor, in_doubt);
                self.list(topic);
            }
            topic.moved_at = topic.moved_at.max(mark.moved_at);
            Ok(())
        })
    }

    /// Makes a topic's state whole with a state that another node has saved, `at` an offset in the present epoch, and
    /// the deltas that came since. It rests on a snapshot at the second offset, if that is known. Everything up to the
    /// third has been read here, except for missed deltas. `times` are those of the newest delta in it: its own, and
    /// when the source took it in, Unix ms. `false` if that cannot be: some of the deltas are no longer kept.
    ///
    /// # Errors
    /// If it is no state that the topic can have.
    pub fn complete(
        &self,
        source: SourceId,
        name: &str,
        at: (Offset, Option<Offset>, Offset),
        times: (Option<u64>, Option<u64>),
        payload: Payload,
    ) -> Result<bool, PublishError> {
        let Some(mut topic) = self.map.get_mut(name).filter(|topic| topic.source == source) else { return Ok(false) };
        // The entries of other sources may be unknown.
        if topic.options.class == Class::Merge
            && self.partitions() > 1
            && self.sources.iter().any(SourceState::is_unread)
        {
            return Ok(false);
        }
        // A state of a topic that belongs elsewhere, or has patches elsewhere, was saved by a node that may not have
        // read those.
        let base = (at.1.unwrap_or_default(), source);
        let has_stray = topic.strays.newest().is_some_and(|stray| stray.at() > base);
        if has_stray || self.may_lack_newer(&topic, topic.active_ms) {
            return Ok(false);
        }
        let done = topic.complete(at, times, payload)?;
        if done {
            self.release_strays(&mut topic);
            self.tell_state(&mut topic);
        }
        Ok(done)
    }
}
