//! The last deltas of a topic, bounded by number, bytes and age, for recovery.

use std::collections::VecDeque;
use std::sync::Arc;

use super::delta::Delta;
use crate::config::Namespace;
use crate::position::Offset;

/// Kept deltas, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    deltas: VecDeque<Arc<Delta>>,
    bytes: usize,
    /// Everything after this offset is here.
    floor: Offset,
}

impl History {
    /// Nothing kept; everything up to `floor` is gone.
    pub(super) fn from_floor(floor: Offset) -> Self {
        Self { floor, ..Self::default() }
    }

    /// Keeps `delta`, letting go of what is over the bounds.
    pub(super) fn push(&mut self, delta: Arc<Delta>, options: &Namespace) {
        self.bytes += delta.payload.bytes().len();
        let now_ms = delta.taken_ms;
        self.deltas.push_back(delta);
        while self.deltas.len() > options.history_size || (self.bytes > options.history_bytes && self.deltas.len() > 1)
        {
            self.pop();
        }
        self.expire(now_ms, options);
    }

    /// Lets go of what is too old.
    pub(super) fn expire(&mut self, now_ms: u64, options: &Namespace) {
        let ttl_ms = u64::try_from(options.history_ttl.as_millis()).unwrap_or(u64::MAX);
        while self.deltas.front().is_some_and(|d| now_ms.saturating_sub(d.taken_ms) > ttl_ms) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(gone) = self.deltas.pop_front() {
            self.bytes = self.bytes.saturating_sub(gone.payload.bytes().len());
            self.floor = gone.offset;
        }
    }

    /// Every delta after `offset`, if all of them are still here.
    pub(super) fn since(&self, offset: Offset) -> Option<impl Iterator<Item = &Arc<Delta>>> {
        let from = self.deltas.partition_point(|d| d.offset <= offset);
        (offset >= self.floor).then(|| self.deltas.range(from..))
    }

    /// The position before the last `count` deltas; `None` for none.
    pub(super) fn before_last(&self, count: usize) -> Option<Offset> {
        let first = self.deltas.len().saturating_sub(count.min(self.deltas.len()));
        match (count, first.checked_sub(1)) {
            (0, _) => None,
            (_, None) => Some(self.floor),
            (_, Some(before)) => self.deltas.get(before).map(|d| d.offset),
        }
    }

    /// The last `count` deltas.
    pub(super) fn last(&self, count: usize) -> impl Iterator<Item = &Arc<Delta>> {
        self.deltas.range(self.deltas.len().saturating_sub(count)..)
    }

    /// How many are kept.
    pub(super) fn len(&self) -> usize {
        self.deltas.len()
    }
}
