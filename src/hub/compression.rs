//! How permessage-deflate (RFC 7692) applies to the frames of a group.

use crate::protocol::Dialect;

/// Whether a group's frames are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Compression {
    /// Not compressed.
    #[default]
    Plain,
    /// Each frame is compressed on its own.
    Deflate,
    /// The frames of one tick are compressed together.
    DeflateRuns,
}

impl Compression {
    /// The compression for sessions of `dialect`, by whether they negotiated deflate and whether several deliveries
    /// form one message.
    pub(super) fn of(dialect: Dialect, deflate: bool, list: bool) -> Self {
        match (deflate, dialect) {
            (false, _) => Self::Plain,
            (true, Dialect::Plain) if !list => Self::Deflate,
            (true, _) => Self::DeflateRuns,
        }
    }
}
