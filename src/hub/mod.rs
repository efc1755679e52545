//! The hub: all shards, and the way into them.
//!
//! A shard is one thread that owns a share of the sessions; no other thread touches them. It uses no async, no locks,
//! and no task or buffer per session. It sends requests to the control plane as messages, and the answers come through
//! its queue in order with the deltas. This order makes a subscribe atomic.
//!
//! The hub is made of parts, each with its own data and tests. A part takes other parts as arguments and returns
//! outcomes; only `shard` knows all of them:
//!
//! - `session`: the clients of a shard, and how much of each is read. Knows no shard and no topics.
//! - `fanout`: from deltas to the chunks that groups of subscribers share. Knows no sockets, sessions or egress.
//! - `egress`: from send queues to sockets. Knows no topics and no groups, and closes no session.
//! - `lifecycle`: which session is late; gradual closes. Knows no topics and no sockets.
//! - `control`: answers the requests of shards. The only place here that may use `async`.
//! - `shard`: the tick, which hands the outcomes of one part to the next.
//!
//! The hub knows no HTTP and no Redis.

mod allowance;
mod allowances;
mod atomics;
mod backend;
#[doc(hidden)]
pub mod bench;
mod channel;
mod chunk;
mod clock;
mod close_queue;
mod compression;
mod control;
mod cursor;
mod egress;
mod event;
mod fanout;
mod handle;
mod index;
mod lifecycle;
mod mailbox;
mod memberships;
mod new_session;
mod part;
mod pending;
mod requests;
mod session;
mod shard;
mod stage;
mod start;
#[cfg(test)]
mod tests;
mod wakeup;

pub use allowance::Answers;
pub use backend::{Answer, Backend, Member, MemberCount};
pub use control::Control;
pub use event::{Order, Who};
pub use handle::Hub;
pub use new_session::{NewSession, NoRoom, Permit, Reservation};
pub use start::Prepared;
