//! How far a load of a partition has come.

use super::super::appetite::Appetite;
use super::super::continuity::Facts;
use super::super::entries::Size;
use super::super::id::EntryId;
use crate::position::Epoch;
use crate::topic::Lifetime;

/// A load under way.
#[derive(Debug, Clone)]
pub(super) struct Loading {
    pub(super) epoch: Epoch,
    /// The run of Redis that it is read from, where that says so.
    pub(super) run: Option<String>,
    /// The newest entry when it began.
    pub(super) newest: EntryId,
    /// Where saved states are read on; `None` once they are read.
    pub(super) cursor: Option<u64>,
    pub(super) restored: usize,
    /// Entries up to here are in the saved states.
    pub(super) saved: Option<EntryId>,
    /// How long topics live on the node that saved.
    pub(super) lifetimes: Vec<Lifetime>,
    /// Of the saved states.
    pub(super) generation: Option<Epoch>,
    /// How many entries the stream had been given up to there.
    pub(super) saved_count: Option<u64>,
    /// How many of those after it were read.
    pub(super) after_saved: u64,
    /// The last entry taken in, and its fingerprint.
    pub(super) last: EntryId,
    pub(super) seen: Option<u64>,
    pub(super) last_size: Size,
    pub(super) entries: usize,
    /// States that are saved are of another stream of this name.
    pub(super) is_another: bool,
    /// The stream still had everything up to here that is not read, when it was last looked at.
    pub(super) edge: EntryId,
    /// Where it began then.
    pub(super) begins_at: EntryId,
    /// An entry lies there, and was not read yet.
    pub(super) begins_at_edge: bool,
    /// What time it was by Redis' clock when entries were last read, Unix ms.
    pub(super) time_ms: Option<u64>,
    pub(super) appetite: Appetite,
    /// It broke off for the size of an answer, and nothing else: saved states are read on where that was.
    pub(super) is_overfed: bool,
}

impl Loading {
    /// An answer was given up for its size.
    pub(super) fn overfed(&mut self) {
        if self.cursor.is_some() && self.run.is_none() {
            // Saved states are read from their beginning, and would be given up at the same place.
            self.appetite = Appetite::new(1);
        }
        self.appetite.overfed();
        self.is_overfed = true;
    }

    /// Up to where entries may be missing that were deleted one by one and are in no saved state, if any are: behind the first that
    /// the stream still had. `last` was read last.
    pub(super) fn missing_upto(&self, facts: &Facts, last: EntryId) -> Option<EntryId> {
        let known = self.saved.unwrap_or_default().max(self.begins_at);
        if let Some(deleted) = facts.deleted {
            return (deleted > known).then_some(deleted.min(last));
        }
        // Without that they leave no trace but that they were counted.
        let expected = self.saved_count.map(|saved| saved + self.after_saved);
        facts.count_upto(last).zip(expected).is_some_and(|(count, expected)| count > expected).then_some(last)
    }
}
