//! Which sources share topics with another. Publishers should keep to one source per topic; where they do not, what a
//! source's topics come to depends on what the other sources hold.

use super::atomics::{AtomicU64, Ordering};
use super::exchange::SourceId;

/// Sources that have a bit of their own; all later ones share the last bit.
const OWN_BITS: usize = 63;

/// A set of sources.
#[derive(Debug, Default)]
pub(super) struct Related(AtomicU64);

impl Related {
    fn bit(source: SourceId) -> u64 {
        1 << usize::from(source.0).min(OWN_BITS)
    }

    pub(super) fn has(&self, source: SourceId) -> bool {
        self.0.load(Ordering::Acquire) & Self::bit(source) != 0
    }

    pub(super) fn add(&self, source: SourceId) {
        let bit = Self::bit(source);
        // Nearly always it is there already.
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
    fn sources_that_share_a_bit_are_all_in_it() {
        let related = Related::default();
        related.add(SourceId(1));
        related.add(SourceId(1));
        assert_eq!(related.all(100), [SourceId(1)]);
        related.add(SourceId(70));
        let all = related.all(66);
        assert_eq!(all, [1, 63, 64, 65].map(SourceId));
        assert!(related.all(1).is_empty());
        related.clear();
        assert!(related.all(100).is_empty());
    }
}
