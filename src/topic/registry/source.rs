//! What the registry knows of one source: its epoch, how far it has been read, missed deltas, and what is to be saved
//! beside it.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;

use super::super::atomics::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering};
use super::super::ended::EndedTopics;
use super::super::exchange::SavedHole;
use super::super::gaps::Gaps;
use super::super::progress::Progress;
use super::super::refused::RefusedTopics;
use super::super::related::Related;
use super::super::state::{Floor, StreamMark};
use super::super::strays::Marks;
use crate::name::TopicName;
use crate::position::{Epoch, Offset};

/// One source.
pub(super) struct SourceState {
    pub(super) epoch: Mutex<Epoch>,
    /// Offsets up to here may have been given to deltas that are not known here.
    pub(super) floor: AtomicU64,
    /// The source has everything that it ever had, and no topic of it was forgotten here.
    pub(super) whole: AtomicBool,
    /// While true, deltas change topics but no subscriber is told: a reset follows.
    pub(super) loading: AtomicBool,
    /// Missed deltas, because of which topics may have had deltas that are not known here.
    pub(super) gaps: Gaps,
    pub(super) progress: Progress,
    /// States that are put back may lack deltas.
    pub(super) restores_doubt: AtomicBool,
    /// The name of the newest hole: a state that is saved with it was known after the hole.
    hole: Mutex<Option<Epoch>>,
    /// While the source is loaded: the hole up to which saved states may be out of date.
    saved_hole: Mutex<Option<SavedHole>>,
    /// Topics without a state here that had a delta for which there was no room.
    pub(super) refused: RefusedTopics,
    /// Topics that belong in it were forgotten elsewhere: clients that had them here may have missed deltas.
    pub(super) forgot_moved: AtomicBool,
    /// Topics that left it by then, Unix ms of its clock, are where they went; 0 if none left.
    pub(super) left_by_ms: AtomicU64,
    /// Topics whose states may lack deltas, as of the last sweep.
    pub(super) incomplete: AtomicUsize,
    /// Topics whose deltas wait in another partition, as of the last sweep.
    pub(super) waiting: AtomicUsize,
    /// While it is loaded: everything up to then is in the states that are put back, Unix ms of its clock.
    pub(super) saved_upto_ms: AtomicU64,
    /// No topic of it is over before that: Unix ms of its clock.
    pub(super) roomless_until_ms: AtomicU64,
    /// Whether a load of it was ever begun.
    pub(super) has_begun: AtomicBool,
    /// Whether a load of it was ever completed.
    pub(super) has_loaded: AtomicBool,
    /// Until its first load begins: the epochs that saved states of other sources assume it to be in. At most one for
    /// each of them.
    assumed: Mutex<Vec<Epoch>>,
    pub(super) ended: EndedTopics,
    /// `stream` topics that were put back, until all their entries in the source are read.
    marks: Mutex<HashMap<TopicName, StreamMark>>,
    /// Namespaces of which states were saved while they had another class.
    reclassed: Mutex<HashSet<String>>,
    /// Such states were found by the present load.
    pub(super) finds_reclassed: AtomicBool,
    /// Its entries of topics that are in other sources.
    beside: Mutex<Marks>,
    /// Other sources that share topics with it.
    pub(super) related: Related,
    /// The contents of such a source were replaced: this one is to be loaded again.
    pub(super) needs_reload: AtomicBool,
}

impl Default for SourceState {
    fn default() -> Self {
        Self {
            epoch: Mutex::new(Epoch::random()),
            floor: AtomicU64::new(0),
            whole: AtomicBool::new(true),
            loading: AtomicBool::new(false),
            gaps: Gaps::default(),
            progress: Progress::new(),
            restores_doubt: AtomicBool::new(false),
            hole: Mutex::default(),
            saved_hole: Mutex::default(),
            refused: RefusedTopics::default(),
            forgot_moved: AtomicBool::new(false),
            left_by_ms: AtomicU64::new(0),
            incomplete: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            saved_upto_ms: AtomicU64::new(0),
            roomless_until_ms: AtomicU64::new(0),
            has_begun: AtomicBool::new(false),
            has_loaded: AtomicBool::new(false),
            assumed: Mutex::default(),
            ended: EndedTopics::new(),
            marks: Mutex::default(),
            reclassed: Mutex::default(),
            finds_reclassed: AtomicBool::new(false),
            beside: Mutex::default(),
            related: Related::default(),
            needs_reload: AtomicBool::new(false),
        }
    }
}

impl SourceState {
    /// Whether it is being loaded, or was not yet.
    pub(super) fn is_unread(&self) -> bool {
        self.loading.load(Ordering::Acquire) || !self.has_loaded.load(Ordering::Acquire) && self.gaps.is_open()
    }

    /// A load begins: notes for the load before no longer count.
    pub(super) fn begin_load(&self, complete: bool) {
        self.loading.store(true, Ordering::Release);
        self.gaps.reset(complete);
        self.restores_doubt.store(!complete, Ordering::Release);
        self.marks().clear();
        self.finds_reclassed.store(false, Ordering::Release);
        *self.hole() = None;
        *self.saved_hole() = None;
        self.refused.clear();
        self.saved_upto_ms.store(0, Ordering::Release);
        self.roomless_until_ms.store(0, Ordering::Release);
    }

    /// The load is of another epoch: the lists of what is to be saved and removed do not apply to it. In the same epoch
    /// they are as true as before, though entries may be gone from the source.
    pub(super) fn forget_saved(&self) {
        *self.beside() = Marks::default();
        self.ended.clear();
    }

    /// The load reads `epoch`, and knows nothing up to `floor`.
    pub(super) fn begin_epoch(&self, epoch: &Epoch, floor: Floor) {
        self.progress.begin_load();
        self.whole.store(floor.kept_after == Offset::ZERO, Ordering::Release);
        self.floor.store(floor.offset.get(), Ordering::Release);
        self.forgot_moved.store(false, Ordering::Release);
        self.epoch.lock().unwrap_or_else(PoisonError::into_inner).clone_from(epoch);
        self.related.clear();
        self.needs_reload.store(false, Ordering::Release);
    }

    pub(super) fn marks(&self) -> impl std::ops::DerefMut<Target = HashMap<TopicName, StreamMark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reclassed(&self) -> impl std::ops::DerefMut<Target = HashSet<String>> {
        self.reclassed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn beside(&self) -> impl std::ops::DerefMut<Target = Marks> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hole(&self) -> impl std::ops::DerefMut<Target = Option<Epoch>> {
        self.hole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn saved_hole(&self) -> impl std::ops::DerefMut<Target = Option<SavedHole>> {
        self.saved_hole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn assumed(&self) -> impl std::ops::DerefMut<Target = Vec<Epoch>> {
        self.assumed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A delta at `offset` of a topic without a state here found no room. `false` if there are too many such topics:
    /// none is remembered any more.
    pub(super) fn refuse(&self, name: &str, offset: Offset) -> bool {
        let Ok(name) = TopicName::new(name) else { return true };
        !self.is_saved() || self.refused.note(name, offset)
    }

    /// Whether a saved state may be out of date: the node that saved last had missed deltas, and did not know the state
    /// after that.
    pub(super) fn is_before_saved_hole(&self, at_ms: u64, hole: Option<&Epoch>) -> bool {
        let saved_hole = self.saved_hole();
        saved_hole
            .as_ref()
            .is_some_and(|saved| at_ms <= saved.until_ms && (saved.name.is_none() || saved.name.as_ref() != hole))
    }

    /// Whether it is saved by this process.
    pub(super) fn is_saved(&self) -> bool {
        self.ended.is_remembered()
    }

    /// A topic was deleted at `offset`.
    pub(super) fn forget_mark(&self, name: &TopicName, offset: Offset) {
        let mut marks = self.marks();
        if marks.get(name.as_str()).is_some_and(|mark| mark.offset < offset) {
            marks.remove(name.as_str());
        }
    }
}
