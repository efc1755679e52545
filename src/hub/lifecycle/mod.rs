//! Which session is late, the sweep over all sessions, and closing sessions gradually.
//!
//! Knows no shard, no topics and no sockets: it judges the sessions that it is given, and returns what is to be done.

mod paced_close;
mod rebalance;
mod sweep;
mod timeouts;

pub(super) use paced_close::{PacedClose, millis};
pub(super) use rebalance::{Rebalance, Share, apportion};
#[cfg(test)]
pub(super) use sweep::SWEEP_EVERY;
pub(super) use sweep::Sweep;
pub(super) use timeouts::{HURRY_MS, Timeouts, Verdict, is_past};
