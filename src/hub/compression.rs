//! How permessage-deflate (RFC 7692) is applied to what a group gets.

use crate::protocol::Dialect;

/// Whether a group's frames are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Compression {
    /// They are not.
    #[default]
    Plain,
    /// Each by itself.
    Deflate,
    /// Those of a tick as one.
    DeflateRuns,
}

impl Compression {
    /// That of sessions of `dialect` that negotiated it, or not, and that get several deliveries as one message, or not.
    pub(super) fn of(dialect: Dialect, deflate: bool, list: bool) -> Self {
        match (deflate, dialect) {
            (false, _) => Self::Plain,
            (true, Dialect::Plain) if !list => Self::Deflate,
            (true, _) => Self::DeflateRuns,
        }
    }
}
