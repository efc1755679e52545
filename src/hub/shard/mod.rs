//! The shard: what holds the parts of the hub together. It is the one place that knows all of them. Each of its files hands
//! one part's outcomes to the others; no part is handed the shard.
//!
//! A shard has no async, no locks, and no task or buffer for each session.

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
#[allow(clippy::module_inception, reason = "mod.rs is the table of contents alone")]
mod shard;
mod subscribe;
mod tick;

pub(super) use shard::{Shard, WAKER};
