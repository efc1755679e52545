//! What goes wrong with NATS, and how its answers are read.

use std::fmt::Display;

/// What went wrong with NATS, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(pub(super) String);

/// Says what was tried.
pub(super) fn trouble<E: Display>(tried: &str) -> impl FnOnce(E) -> Trouble {
    move |error| Trouble(format!("{tried}: {error}"))
}

/// A time of a server as Unix ms; 0 for what it calls the year 1.
pub(super) fn unix_ms_of(time: async_nats::datetime::DateTime) -> u64 {
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}
