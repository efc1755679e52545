//! JSON or Protobuf.

/// The two formats of one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocol) enum Format {
    /// One command or reply per line; text frames.
    Json,
    /// Each command or reply follows its length; binary frames.
    Protobuf,
}
