//! The shard owns the parts of the hub and is the only place that knows all of them. Each file passes one part's
//! outcomes to others; no part gets a reference to the shard.
//!
//! A shard has no async, no locks, and no task or buffer per session.

mod allowances;
mod catch_up;
mod close;
mod command;
mod deliver;
mod flush;
mod input;
mod lifecycle;
mod membership;
mod reading;
mod receivers;
mod relief;
#[allow(clippy::module_inception, reason = "mod.rs is only the table of contents")]
mod shard;
mod subscribe;
mod tick;

pub(super) use shard::{Shard, WAKER};
