//! The control plane of the hub: it answers what shards ask. The one place in the hub that may say `async`.
//!
//! Knows no sessions and no sockets: an answer goes to a shard's queue, in order with the deltas.

mod catch_up_slots;
mod promise;
mod replies;
mod responder;
mod snapshot_queue;
mod task;

pub use task::Control;
