//! The position of a session or a group in a topic.

use crate::position::Offset;

/// The position of a session or a group in a topic. `seq` counts the deltas that this shard has seen: the difference of
/// two says how many deltas one conflated frame replaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) offset: Offset,
    pub(super) seq: u64,
}

impl Cursor {
    /// No usable position: only a whole state helps.
    pub(super) const NOWHERE: Self = Self { offset: Offset::ZERO, seq: u64::MAX };
}
