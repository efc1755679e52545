//! What operators read: health, status, metrics, memory.

pub(in crate::http) mod health;
pub(in crate::http) mod memory;
pub(in crate::http) mod node;
pub(in crate::http) mod readiness;
pub(in crate::http) mod status;
