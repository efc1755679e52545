//! nexus-push: a WebSocket push server for market data.
//!
//! The data path, in ten lines:
//!
//! 1. A [`source`] hands in a delta: a topic's name, an offset, a payload.
//! 2. [`topic`] adds it to the topic's state and history, under the topic's lock.
//! 3. If a shard has subscribers, [`protocol`] makes its frame: once per dialect in use.
//! 4. The frame goes into the queue of each such shard of the [`hub`]: the control plane is done.
//! 5. The shard, one thread, takes everything that has arrived: a tick.
//! 6. Each group (subscribers of one topic that get the same bytes) joins its frames to one chunk.
//! 7. The chunk is linked to every member's send queue; nothing is copied per session.
//! 8. Each session with a send queue gets one write.
//! 9. A full socket is sent newer state later, not old bytes: what it missed is conflated.
//! 10. The tick's memory is freed; an idle session is a slab entry and nothing else.
//!
//! `ARCHITECTURE.md` has the details. A program can run the server as `nexus-push serve` does:
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let config = nexus_push::config::Config::embedded();
//! nexus_push::server::run(config, false) // until SIGTERM, and a drain after it
//! # }
//! ```

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
