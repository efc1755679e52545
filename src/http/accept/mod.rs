//! Connections, from their acceptance to the request or the upgrade.
//!
//! It knows no topics and no sessions.

pub(in crate::http) mod certificates;
pub(in crate::http) mod connection_limiter;
pub(in crate::http) mod deadlines;
pub(in crate::http) mod fast_upgrade;
pub(in crate::http) mod handover;
pub(in crate::http) mod heads;
pub(in crate::http) mod hosts;
pub(in crate::http) mod keep_alive;
pub(in crate::http) mod listener;
pub(in crate::http) mod normalize;
pub(in crate::http) mod parser;
pub(in crate::http) mod proxies;
pub(in crate::http) mod sockets;
pub(in crate::http) mod tls_stream;
