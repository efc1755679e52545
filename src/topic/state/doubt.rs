//! Whether a topic's state may lack deltas, and why: some were missed, or wait in another source, or are about to be
//! read.

use super::topic::Topic;
use crate::config::Class;
use crate::position::{Epoch, Offset};

impl Topic {
    /// Its home is loaded: with `is_first` that has no entry of it, so that the topic began here. Returns whether it is
    /// whole now.
    pub(in crate::topic) fn be_first(&mut self, is_first: bool) -> bool {
        let is_whole = std::mem::take(&mut self.awaits_home) && is_first && self.known && self.incomplete;
        if is_whole {
            (self.incomplete, self.unsaved, self.snapshot) = (false, true, None);
            self.settle();
        }
        is_whole
    }

    /// Deltas wait for the topic's move from now on. Returns whether that is new.
    pub(in crate::topic) fn wait(&mut self) -> bool {
        self.options.class.conflatable() && self.lack()
    }

    /// Deltas of the topic do not come here any more. Returns whether that is new.
    pub(in crate::topic) fn lack(&mut self) -> bool {
        let is_new = self.known && !self.waits;
        if is_new {
            (self.waits, self.snapshot) = (true, None);
            self.settle();
        }
        is_new
    }

    /// The deltas that waited have come. Returns whether the state was reported as lacking them.
    pub(in crate::topic) fn end_wait(&mut self) -> bool {
        let waited = std::mem::take(&mut self.waits);
        if waited {
            self.snapshot = None;
            self.settle();
        }
        waited
    }

    /// The state may lack deltas from now on. Returns whether that is new.
    pub(in crate::topic) fn doubt(&mut self) -> bool {
        self.awaits_home = false;
        let is_new = self.known && !self.incomplete;
        if is_new {
            (self.incomplete, self.unsaved) = (true, true);
            self.snapshot = None;
            self.settle();
        }
        is_new
    }

    /// Sets whether a topic that is not published here may exist all the same.
    pub(in crate::topic) fn may_exist(&mut self, incomplete: bool) {
        if !self.known && self.incomplete != incomplete {
            self.incomplete = incomplete;
            self.snapshot = None;
            self.settle();
        }
    }

    /// A delta of a topic that is not published here found no room; for a `stream` topic at this offset. Returns
    /// whether it is new that the topic may exist.
    pub(in crate::topic) fn leave_out(&mut self, offset: Option<Offset>) -> bool {
        let is_new = !self.incomplete;
        self.may_exist(true);
        if let Some(offset) = offset {
            self.lose_history(offset);
            self.left_out |= !is_new;
        }
        is_new
    }

    /// The history up to `after` and the next delta have a gap between them.
    pub(in crate::topic) fn lose_history(&mut self, after: Offset) {
        let is_passed = self.offset < after;
        if is_passed && (!self.known || self.options.class == Class::Stream) {
            // As far as this node can tell, the next delta is the first after this. There may have been others.
            (self.offset, self.incomplete) = (after, self.incomplete || self.known);
        }
        self.history.lose(after.max(self.offset));
        (self.before, self.snapshot) = (None, None);
        self.settle();
    }

    /// Whether deltas may be missing in the state, or wait elsewhere, or are about to be read.
    pub(super) fn may_lack(&self) -> bool {
        self.incomplete || self.waits || self.loads
    }

    /// Sets whether its source is being loaded. Returns whether that has changed.
    pub(in crate::topic) fn set_loads(&mut self, loads: bool) -> bool {
        let is_new = self.loads != loads;
        if is_new {
            (self.loads, self.snapshot) = (loads, None);
            self.settle();
        }
        is_new
    }

    /// The epoch that is reported with the state.
    pub(super) fn told_epoch(&self, incomplete: bool) -> Epoch {
        let is_in_doubt = incomplete && self.options.class.conflatable();
        if is_in_doubt { self.epoch.in_doubt() } else { self.epoch.clone() }
    }
}
