//! Loading a source, from its first entry or from saved states, and how far it has been read: its epoch, which of its
//! entries count, and what subscribers get once it is loaded.

use super::super::atomics::Ordering;
use super::super::deleted::Deletion;
use super::super::exchange::SourceId;
use super::super::lifetime::end_ms;
use super::super::state::{Floor, Topic};
use super::super::strays::Stray;
use super::topics::Topics;
use crate::clock::unix_ms;
use crate::position::{Epoch, Offset};

impl Topics {
    /// Begins to load `source` in `epoch`, knowing nothing up to `floor`: its topics are emptied, and deltas are taken
    /// in without telling subscribers until [`Topics::loaded`]. With `complete`, every topic that it has will be known
    /// then; otherwise all of them may have had deltas that this node cannot know, even those whose states are put
    /// back.
    pub fn load(&self, source: SourceId, epoch: &Epoch, floor: impl Into<Floor>, complete: bool) {
        let Some(state) = self.source(source) else { return };
        let floor = floor.into();
        state.begin_load(complete);
        let is_another = self.epoch(source) != *epoch;
        let was_replaced = is_another && self.mark_replaced(source);
        if is_another {
            state.forget_saved();
        }
        state.begin_epoch(epoch, floor);
        for mut topic in self.map.iter_mut() {
            if topic.source == source {
                self.empty_for_load(&mut topic, (epoch, floor), complete, is_another);
            } else {
                self.update_other_for_load(&mut topic, source, is_another);
            }
            if !complete {
                self.doubt_if_misplaced(&mut topic, source);
            }
        }
        let assumed = std::mem::take(&mut *state.assumed());
        if was_replaced || assumed.iter().any(|assumed| assumed != epoch) {
            // Others may have read entries meanwhile that topics of the replaced contents hid from them.
            self.mark_replaced(source);
        }
    }

    /// Empties a topic of a source that is loaded, unless it has a state that outlives the load.
    fn empty_for_load(&self, topic: &mut Topic, (epoch, floor): (&Epoch, Floor), complete: bool, is_another: bool) {
        let source = topic.source;
        if self.fall_back(topic, !is_another) {
            return;
        }
        if !complete && !is_another && topic.known && self.home(topic.name.as_str()) != source && !topic.is_moved() {
            // Its home has no entry of it: its state is as true as before, and may lack entries that are gone.
            topic.doubt();
            topic.lose_history(topic.offset.next());
            topic.set_loads(true);
            return;
        }
        if topic.known {
            self.names.remove(&topic.name);
        }
        let is_elsewhere = topic.is_elsewhere;
        topic.reset(source, epoch.clone(), floor);
        topic.is_elsewhere = is_elsewhere;
        topic.set_loads(true);
    }

    /// Updates a topic of another source when a load of `source` begins.
    fn update_other_for_load(&self, topic: &mut Topic, source: SourceId, is_another: bool) {
        if self.needs_reload(topic.source) {
            // The snapshot that it rests on may have been in the replaced contents.
            topic.base = Offset::ZERO;
            if topic.set_loads(true) && topic.options.class.conflatable() {
                // The state that subscribers have may not be whole any more.
                self.tell_state(topic);
            }
        }
        if is_another && topic.strays.forget(source).is_some() {
            topic.settle();
        }
    }

    /// The contents of a source were replaced by others: sources that share topics with it need a reload, and until
    /// then none of their states is whole. `false` if nothing of it was read yet.
    pub fn mark_replaced(&self, source: SourceId) -> bool {
        let Some(state) = self.source(source).filter(|_| self.partitions() > 1) else { return false };
        if !state.has_begun.swap(true, Ordering::AcqRel) {
            return false;
        }
        let mut deleted = self.deleted();
        deleted.forget_source(source);
        for (at, other) in (0..).map(SourceId).zip(&self.sources) {
            if at != source && other.related.has(source) {
                deleted.forget_expiries(at);
                // In this order: a load sets the first at its beginning, and clears the second after that.
                other.loading.store(true, Ordering::Release);
                other.needs_reload.store(true, Ordering::Release);
            }
        }
        true
    }

    /// A topic's source is loaded again: if another source has entries of it that count, the topic is there until then.
    /// `false` if none has. With `comes_again` the entries of the old source are as true as before, though they may be
    /// gone from there.
    fn fall_back(&self, topic: &mut Topic, comes_again: bool) -> bool {
        let Some(stray) = topic.strays.newest().filter(|_| topic.known) else { return false };
        if stray.is_deletion {
            // Entries of the topic that are read again are judged by the deletion, as before.
            let Stray { source, offset, at_ms, .. } = stray;
            let (until_ms, is_elsewhere, moved_at) = (end_ms(&topic.options, at_ms), true, Offset::ZERO);
            self.keep_deletion(
                &topic.name,
                Deletion { source, offset, at_ms, moved_at, is_elsewhere, until_ms, is_marked: true },
            );
            return false;
        }
        let left = topic.as_stray();
        topic.strays.forget(stray.source);
        topic.go_on_in(stray.source, self.epoch(stray.source), stray.offset.into());
        if comes_again {
            self.note_stray(topic, left);
        }
        (topic.incomplete, topic.unsaved, topic.base) = (true, true, Offset::ZERO);
        let silent = self.is_loading(stray.source);
        topic.set_loads(silent);
        if !silent {
            self.tell_state(topic);
        }
        true
    }

    /// The load of `source` is complete: subscribers are given the state of its topics.
    pub fn loaded(&self, source: SourceId) {
        let Some(state) = self.source(source) else { return };
        let marks = std::mem::take(&mut *state.marks());
        let (mut left_out, mut why) = (0_usize, None);
        for (name, mark) in &marks {
            if let Err(error) = self.restore_stream(source, name, mark) {
                left_out += 1;
                state.gaps.miss(name.as_str(), mark.at_ms);
                why.get_or_insert(error);
            }
        }
        if let Some(why) = why {
            tracing::warn!(topics = left_out, %why, "saved states were left out");
        }
        if state.needs_reload.load(Ordering::Acquire) {
            // It is to be read again at once.
            return;
        }
        if !state.finds_reclassed.load(Ordering::Acquire) {
            // Their states have been saved again since: the next load uses them.
            state.reclassed().clear();
        }
        state.loading.store(false, Ordering::Release);
        state.has_loaded.store(true, Ordering::Release);
        let local_ms = unix_ms();
        let (now_ms, read_ms) = (state.progress.now_ms(local_ms), state.progress.read_by(local_ms));
        let (all_read_ms, mut ended) = (self.all_read_by(local_ms), Vec::new());
        for mut topic in self.map.iter_mut() {
            let is_here = topic.source == source;
            if is_here {
                // Expired topics end before any client sees them: a load makes no topic younger.
                let upto_ms = if topic.incomplete { all_read_ms } else { read_ms };
                if self.end_if_over(&mut topic, upto_ms, true) {
                    ended.push(topic.name.clone());
                }
                topic.set_loads(false);
                if self.is_in_unread(source, topic.name.as_str()) {
                    topic.lack();
                }
                if topic.interest.is_empty() {
                    self.update_staleness(&mut topic, now_ms);
                }
            } else if topic.awaits_home && self.home(topic.name.as_str()) == source {
                // Its home is read, and has no entry of it.
                let may_live = state.gaps.may_live_longer(&topic.name, &topic.options, topic.active_ms, false);
                if topic.be_first(state.gaps.is_none() && !may_live) {
                    self.tell_state(&mut topic);
                }
                continue;
            }
            if topic.interest.is_empty() {
                continue;
            }
            if !is_here && topic.known && self.is_loading(topic.source) && self.home(topic.name.as_str()) == source {
                // Subscribers may have its state from its home. They get the present one when its own source is loaded.
                self.tell_state(&mut topic);
                continue;
            }
            if !is_here && (topic.known || !topic.incomplete) {
                continue;
            }
            // Its subscribers may have waited to hear that its home has no such topic.
            let may_exist = self.may_exist(topic.source, &topic.name);
            if !is_here && may_exist {
                continue;
            }
            topic.may_exist(may_exist);
            topic.break_chain();
            let snapshot = topic.snapshot();
            self.each_interest(topic.value(), |shard, slot| self.outlet.reset(shard, slot, &snapshot));
            if is_here {
                self.update_staleness(&mut topic, now_ms);
            }
        }
        for name in &ended {
            self.remove_if(name, |topic| topic.interest.is_empty() && !topic.known);
        }
    }

    /// Whether the epoch of a source is known.
    pub fn has_begun(&self, source: SourceId) -> bool {
        self.source(source).is_some_and(|source| source.has_begun.load(Ordering::Acquire))
    }

    /// Saved states of another source depend on what `source` had in `epoch`: if `source` turns out to be in another
    /// epoch once it is loaded, those that share topics with it are loaded again.
    pub fn assume_epoch(&self, source: SourceId, epoch: Epoch) {
        let Some(state) = self.source(source).filter(|state| !state.has_begun.load(Ordering::Acquire)) else { return };
        let mut assumed = state.assumed();
        if !assumed.contains(&epoch) {
            assumed.push(epoch);
        }
    }

    /// Whether `source` is to be loaded again, in the same epoch, because the contents of a source that shares topics
    /// with it were replaced.
    pub fn needs_reload(&self, source: SourceId) -> bool {
        self.source(source).is_some_and(|source| source.needs_reload.load(Ordering::Acquire))
    }

    /// Whether a source was ever loaded.
    #[cfg(test)]
    pub(crate) fn has_loaded(&self, source: SourceId) -> bool {
        self.source(source).is_some_and(|source| source.has_loaded.load(Ordering::Acquire))
    }

    /// Everything up to `offset` has been read of a source.
    pub fn set_reached(&self, source: SourceId, offset: Offset) {
        if let Some(state) = self.source(source) {
            state.progress.set_reached(offset);
        }
    }

    /// When the oldest entry that a source holds was taken in, Unix ms of its clock; the maximum if it holds none.
    pub fn set_first(&self, source: SourceId, first_ms: u64) {
        if let Some(state) = self.source(source) {
            state.progress.set_first_ms(first_ms);
        }
    }

    /// Up to where a source has been read.
    pub fn reached(&self, source: SourceId) -> Offset {
        self.source(source).map_or(Offset::ZERO, |state| state.progress.reached())
    }

    /// Everything that `source` took in up to `upto_ms`, Unix ms of its clock, has been read; that clock is `ahead_ms`
    /// ahead of this node's.
    pub fn read_upto(&self, source: SourceId, upto_ms: u64, ahead_ms: i64) {
        if let Some(state) = self.source(source) {
            state.progress.set_read(upto_ms, ahead_ms);
        }
    }
}
