//! The `centrifuge` dialect: the Centrifuge client protocol, version 2
//! (github.com/centrifugal/protocol, `client.proto`), in JSON and Protobuf, so that its published
//! SDKs work with this server. `docs/centrifugo-users.md` compares it with Centrifugo.

mod commands;
mod format;
mod messages;
mod replies;

pub(super) use commands::{command, split};
pub(super) use format::Format;
pub use replies::server_error;
pub(super) use replies::*;
