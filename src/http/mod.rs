//! The HTTP side: accepts connections, upgrades them, and answers requests. An upgraded socket is
//! handed to a shard and forgotten here.
//!
//! - `accept`: listeners, the connection limiter, the PROXY header, TLS, time-outs, fast upgrades.
//! - `upgrade`: the WebSocket handshake and who is admitted.
//! - `api`: topics, publishing and operators' commands, one file for each family of endpoints.
//! - `ops`: health, status, metrics.
//! - `routes`: which path leads where, on which port.

mod accept;
mod addresses;
mod api;
mod failure;
mod ops;
#[cfg(feature = "dashboard")]
mod pages;
/// No route leads here: without the feature, [`crate::config::Config::has_dashboard`] is false.
#[cfg(not(feature = "dashboard"))]
mod pages {
    pub(super) async fn index(_: axum::http::HeaderMap) -> axum::response::Response {
        super::failure::nothing_here().await
    }

    pub(super) use super::failure::nothing_here as asset;
}
pub mod parts;
mod routes;
mod state;
mod upgrade;

pub use accept::certificates::Certificates;
pub use accept::connection_limiter::ConnectionLimiter;
pub use accept::fast_upgrade::handshake_bytes;
pub use accept::listener::{Listener, ListenerKind};
pub use accept::proxies::forwarded_client;
pub use accept::sockets::{adopt, bind};
pub use addresses::{AddressRate, Addresses};
pub use api::in_progress::InProgress;
pub(crate) use ops::memory::accounts;
pub use ops::readiness::Readiness;
pub use routes::{health_alone, operators, router};
pub use state::{Api, Clients, Core, Process, State};
