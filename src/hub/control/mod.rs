//! The control plane of the hub: it answers the requests of shards. The only place in the hub that may use `async`.
//!
//! Knows no sessions and no sockets: an answer goes to a shard's queue, in order with the deltas.

mod catch_up_slots;
mod promise;
mod replies;
mod responder;
mod snapshot_queue;
mod task;

pub use task::Control;
