//! Sessions: what a shard keeps for each connected client, and how much of each is read in a tick.
//!
//! Knows no shard, no topics' state and no control plane; callers pass them in.

mod client;
mod entry;
mod input;
mod table;
mod turns;

pub(super) use client::{Client, Special};
pub(super) use entry::{Deferred, Session};
pub(super) use input::Input;
pub(super) use table::SessionTable;
pub(super) use turns::Reading;
