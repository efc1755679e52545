//! What is to be done, how it is told, and why it is not done.

use std::time::Duration;

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Resharding {
    /// The streams that topics are in.
    pub from: Vec<String>,
    /// The streams that they belong in from now on, in the order that tells which topic belongs where.
    pub to: Vec<String>,
    /// Say what would be moved, and move nothing.
    pub dry_run: bool,
    /// Time without deltas of moved topics in the old streams after which it is over.
    pub quiet: Duration,
    /// Go on though entries are gone that were not handed on.
    pub skip_lost: bool,
}

/// Why it did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReshardFailed {
    /// Nothing was done.
    #[error(transparent)]
    NotBegun(ReshardError),
    /// Run again it goes on where it was.
    #[error("not at its end; run it again to go on: {0}")]
    Broken(ReshardError),
}

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ReshardError(pub(super) String);

impl From<::redis::RedisError> for ReshardError {
    fn from(error: ::redis::RedisError) -> Self {
        Self(format!("Redis: {error}"))
    }
}

/// Where lines on how it goes are written.
pub(in super::super) type Say = dyn Fn(String) + Sync;

/// Redis has lost entries of this stream.
pub(super) fn lost_writes(stream: &str) -> ReshardError {
    ReshardError(format!(
        "Redis has lost entries of {stream}, and perhaps what was moved. Let publishers use the old list again, run this again, \
         and publish the topics whole once (kind=snapshot)"
    ))
}
