//! Fan-out: from the deltas of a tick to chunks in the send queues of those who get them.
//!
//! A topic's subscribers are in groups that are served the same bytes. A delta is encoded once per group; a group's deltas of a
//! tick are one chunk, which all members share. A member that cannot take it lags, and catches up by one frame in place of
//! many. Groups with a rate deliver what is pending when their interval is over.
//!
//! Knows no sockets, no sessions and no egress. [`Receivers`] is all that it asks of them; what others have to do for it comes
//! back as an [`Followup`] or as the value of a call.

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
