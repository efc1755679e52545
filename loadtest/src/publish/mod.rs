//! Where a run's deltas come from, and how they are handed in.

pub(crate) mod publisher;
pub(crate) mod raw;
pub(crate) mod recording;
pub(crate) mod stream_entry;
