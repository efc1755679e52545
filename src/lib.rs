//! nexus-push: a WebSocket push server for market data.
//!
//! The data path, in ten lines:
//!
//! 1. A [`source`] hands in a delta: a topic's name, an offset, JSON.
//! 2. [`topic`] puts it into the topic's state and history, under the topic's lock.
//! 3. If any shard has a subscriber, [`protocol`] makes its frame: once for each dialect in use.
//! 4. The frame goes into the queue of each interested shard of the [`hub`]. That ends the control plane's part.
//! 5. The shard, one thread, takes all that has arrived: a tick.
//! 6. Each lane (the subscribers of one topic that are served alike) gathers its frames into one piece.
//! 7. The piece is linked to every member's chain; nothing is copied for a session.
//! 8. Each session with a chain gets one visit: one contiguous write.
//! 9. A full socket is owed state, not bytes: what it missed is conflated when it takes bytes again.
//! 10. The tick's memory is given back; an idle session is a slab entry and nothing else.
//!
//! `ARCHITECTURE.md` tells it at length.

pub mod accounts;
pub mod allocator;
pub mod auth;
pub mod backend;
pub mod cli;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod form;
pub mod http;
pub mod hub;
pub mod limits;
pub mod memory;
pub mod metrics;
pub mod name;
pub mod position;
pub mod protocol;
mod random;
pub mod rate;
pub mod server;
pub mod source;
pub mod spelling;
pub mod systemd;
pub mod topic;
pub mod wire;
