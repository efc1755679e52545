//! Where a session or a group is in a topic.

use crate::position::Offset;

/// How far a session or a group is in a topic. The sequence counts the deltas that this shard has seen, so that the difference
/// of two tells how many deltas one frame stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) offset: Offset,
    pub(super) seq: u64,
}

impl Cursor {
    /// Nowhere: only the whole state helps.
    pub(super) const NOWHERE: Self = Self { offset: Offset::ZERO, seq: u64::MAX };
}
