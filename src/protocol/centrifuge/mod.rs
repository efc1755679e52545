//! The `centrifuge` dialect: the Centrifuge client protocol, version 2 (github.com/centrifugal/protocol, `client.proto`),
//! in JSON and in Protobuf, so that its published SDKs work against this server. `docs/centrifugo-users.md` says what is
//! the same as in Centrifugo, what differs and what is absent.

mod commands;
mod messages;
mod replies;

pub(super) use commands::{command, split};
pub use replies::server_error;
pub(super) use replies::*;

/// The two formats of one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Commands and replies one a line; text frames.
    Json,
    /// Commands and replies each behind its length; binary frames.
    Protobuf,
}
