//! Which sources have a say in what another's topics are: publishers should keep to one source for each topic, and where they do
//! not, what a source comes to depends on the others' pasts.

use super::atomics::{AtomicU64, Ordering};
use super::exchange::SourceId;

/// Sources that are told apart. Of more, any may be one of those that are meant.
const TOLD_APART: usize = 63;

/// A set of sources.
#[derive(Debug, Default)]
pub(super) struct Crossed(AtomicU64);

impl Crossed {
    fn bit(source: SourceId) -> u64 {
        1 << usize::from(source.0).min(TOLD_APART)
    }

    pub(super) fn has(&self, source: SourceId) -> bool {
        self.0.load(Ordering::Acquire) & Self::bit(source) != 0
    }

    pub(super) fn add(&self, source: SourceId) {
        let bit = Self::bit(source);
        // Next to always it is there already.
        if self.0.load(Ordering::Relaxed) & bit == 0 {
            self.0.fetch_or(bit, Ordering::AcqRel);
        }
    }

    /// Of the first `count` sources.
    pub(super) fn all(&self, count: usize) -> Vec<SourceId> {
        let sources = (0..count).filter_map(|at| u16::try_from(at).ok()).map(SourceId);
        sources.filter(|source| self.has(*source)).collect()
    }

    pub(super) fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_not_told_apart_are_all_in_it() {
        let crossed = Crossed::default();
        crossed.add(SourceId(1));
        crossed.add(SourceId(1));
        assert_eq!(crossed.all(100), [SourceId(1)]);
        crossed.add(SourceId(70));
        let all = crossed.all(66);
        assert_eq!(all, [1, 63, 64, 65].map(SourceId));
        assert!(crossed.all(1).is_empty());
        crossed.clear();
        assert!(crossed.all(100).is_empty());
    }
}
