//! NATS JetStream: one stream, read whole by every node; an appender for the publish API; and a key-value bucket beside
//! the stream, in which nodes agree on the epoch and keep topic states.

mod append;
mod bucket;
mod flow;
mod held;
mod link;
mod loading;
mod message;
mod pull;
mod read_size;
mod reader;
mod reading;
mod saver;
mod sequence;
mod states;
mod subjects;

pub use append::NatsAppender;
pub use link::Link;
pub(super) use link::OpenLink;
pub(super) use message::read_draft;
pub use message::{ReadDelta, read_message};
pub use reader::NatsSource;
pub use subjects::Subjects;

use std::fmt::Display;

/// What went wrong with NATS, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(String);

/// Says what was tried.
fn trouble<E: Display>(tried: &str) -> impl FnOnce(E) -> Trouble {
    move |error| Trouble(format!("{tried}: {error}"))
}

/// A time of a server as Unix ms; 0 for what it calls the year 1.
fn unix_ms_of(time: async_nats::datetime::DateTime) -> u64 {
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}
