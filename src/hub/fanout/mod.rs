//! Fan-out: from the deltas of a tick to chunks in the send queues of subscribers.
//!
//! A topic's subscribers are in groups that get the same bytes. A delta is encoded once per group; a group's deltas of
//! a tick form one chunk, which all members share. A member that cannot take it lags, and catches up with one frame in
//! place of many. Groups with a rate deliver when their interval is over.
//!
//! Knows no sockets, no sessions and no egress. It uses sessions through [`Receivers`]; work for others is returned as
//! a [`Followup`] or as the value of a call.

mod batch;
mod catch_up;
mod conflate;
mod fan_out;
mod groups;
mod members;
mod receivers;
mod recent;
mod subscriptions;
#[cfg(test)]
mod tests;
mod throttle;
mod throttled;
mod topics;
mod trace;

pub(super) use catch_up::{CatchUp, StateResult};
pub(super) use fan_out::Fanout;
pub(super) use groups::Subscription;
pub(super) use receivers::{Followup, Receivers};
pub(super) use subscriptions::{Lagging, Subscriptions};
pub(super) use topics::Traits;
pub(super) use trace::Traces;
