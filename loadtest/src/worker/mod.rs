//! Worker processes: each holds a part of a run's sessions.

pub(crate) mod message;
pub(crate) mod pool;
pub(crate) mod program;
