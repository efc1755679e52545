//! Index types: the numbers of a shard's sessions, groups, chunks and requests, each with a type of its own.

use std::cmp::Ordering;
use std::fmt;
use std::num::NonZeroU32;

/// Capacity below which a list does not shrink.
pub(super) const SHRINK_FROM: usize = 1_024;

macro_rules! indices {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        // The complement is stored, so that `Option` of it takes no extra space.
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub(super) struct $name(NonZeroU32);

        impl $name {
            /// The index as a type. Lists are shorter than `u32::MAX`: memory and descriptors run out first.
            #[inline]
            pub(super) fn new(at: usize) -> Self {
                let number = u32::try_from(at).ok().and_then(|at| NonZeroU32::new(!at));
                debug_assert!(number.is_some(), "place {at} in a list");
                Self(number.unwrap_or(NonZeroU32::MIN))
            }

            /// The index as a number.
            #[inline]
            pub(super) fn at(self) -> usize {
                !self.0.get() as usize
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                self.at().cmp(&other.at())
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(to, "{}", self.at())
            }
        }
    )*};
}

indices! {
    /// A session's entry in the slab. A later session may reuse it.
    SessionIndex;
    /// A group of a topic.
    GroupId;
    /// A batch: a group's deltas of this tick.
    BatchId;
    /// A chunk in the outbox.
    ChunkId;
    /// A link in a send queue.
    LinkId;
    /// A request to the control plane.
    RequestId;
    /// A command that waits for answers.
    PendingId;
}

#[cfg(test)]
impl SessionIndex {
    /// The first place.
    pub(super) const FIRST: Self = Self(NonZeroU32::MAX);
}

/// A session of one shard. The generation tells a session from a later one in the same slab entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SessionId {
    pub(super) index: SessionIndex,
    pub(super) generation: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_its_place_and_none_takes_no_room() {
        for at in [0, 1, 70_000, 4_294_967_294] {
            assert_eq!(GroupId::new(at).at(), at);
        }
        assert!(GroupId::new(3) < GroupId::new(20));
        assert_eq!(size_of::<Option<GroupId>>(), 4);
    }
}
