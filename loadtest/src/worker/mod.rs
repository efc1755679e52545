//! Worker processes: each runs a part of the sessions.

pub(crate) mod message;
pub(crate) mod pool;
pub(crate) mod program;
