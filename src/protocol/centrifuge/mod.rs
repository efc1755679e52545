//! The `centrifuge` dialect: the Centrifuge client protocol, version 2
//! (github.com/centrifugal/protocol, `client.proto`), in JSON and Protobuf, so that its published
//! SDKs work with this server. `docs/centrifugo-users.md` compares it with Centrifugo.

mod commands;
mod messages;
mod replies;

pub(super) use commands::{command, split};
pub use replies::server_error;
pub(super) use replies::*;

/// The two formats of one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// One command or reply per line; text frames.
    Json,
    /// Each command or reply follows its length; binary frames.
    Protobuf,
}
