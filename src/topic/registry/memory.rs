//! The memory that all topics take, and cutting their histories if that is too much.

use super::super::account::Levels;
use super::topics::Topics;

impl Topics {
    /// Bytes of memory of all histories: everything that can be freed.
    pub fn history_bytes(&self) -> usize {
        self.sums.history()
    }

    /// Bytes of memory of all states.
    pub fn state_bytes(&self) -> usize {
        self.sums.state()
    }

    /// Whether there is room for another delta. History that shards refer to can be freed only as far as their account
    /// has room for it; the rest must fit into both ceilings together.
    pub fn fits(&self) -> bool {
        self.sums.fits()
    }

    /// Cuts the longest histories now, if all together keep too much. A walk over all topics.
    pub fn cut_history(&self) {
        let mut levels = Levels::new();
        self.map.iter().for_each(|topic| topic.add_level(&mut levels));
        self.cut_to(&levels);
    }

    pub(super) fn cut_to(&self, levels: &Levels) {
        if let Some(level) = self.sums.set_level(levels) {
            let gone = self.map.iter_mut().map(|mut topic| topic.shrink_history(level)).sum();
            self.evicted(gone);
        }
    }

    pub(super) fn evicted(&self, deltas: usize) {
        if deltas > 0 {
            self.metrics.history_evicted.inc_by(deltas as u64);
        }
    }
}
