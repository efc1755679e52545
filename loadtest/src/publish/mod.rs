//! The deltas of a run, and how they are published.

pub(crate) mod publisher;
pub(crate) mod raw;
pub(crate) mod recording;
pub(crate) mod stream_entry;
