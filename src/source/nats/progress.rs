//! How far the stream was read, and how far a load of it has come.

use std::time::Duration;

use super::held::Held;
use super::reading::Start;
use super::states::Restoring;
use crate::position::Epoch;
use crate::topic::Lifetime;

/// Time between two looks at the stream and the epoch.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How far the stream was read.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// Which stream.
    pub(super) created: String,
    /// Sequence of the last message taken in.
    pub(super) last: u64,
    /// When the stream took it, Unix ms.
    pub(super) last_ms: u64,
    /// What the stream held at the last look.
    pub(super) held: Held,
    /// Whether what the stream held has been read.
    pub(super) loaded: bool,
    /// Sequence up to which the saved states were complete that were put back; 0 if none were.
    pub(super) restored: u64,
}

/// A load under way; the last message that was taken in is in the progress.
#[derive(Debug, Clone)]
pub(super) struct Loading {
    pub(super) epoch: Epoch,
    /// What the stream held when it began.
    pub(super) held: Held,
    /// Messages up to here are in the saved states.
    pub(super) saved: Option<u64>,
    /// Which saved states these are.
    pub(super) generation: Option<Epoch>,
    /// Sequence of the next message, if none is missing.
    pub(super) expected: u64,
    /// Where messages are read from.
    pub(super) start: Start,
    /// How far saved states are put back.
    pub(super) restoring: Restoring,
    pub(super) is_restored: bool,
    /// Messages up to here are gone of whose topics a newer one is there.
    pub(super) patches_gone: Option<u64>,
    /// How long topics live on the node that saved.
    pub(super) lifetimes: Vec<Lifetime>,
    pub(super) count: usize,
}
