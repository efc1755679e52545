//! The front door: one port. HTTP, the upgrade, and everything that is not a socket. An upgraded socket goes to a
//! shard and is forgotten here.

mod addresses;
mod admin;
mod answers;
mod authorization;
mod body;
mod budget;
mod certificates;
mod commands;
mod cors;
mod deadlines;
mod echo;
mod express;
mod handover;
mod handshake;
mod heads;
mod health;
mod hosts;
mod listener;
mod listing;
mod lobby;
mod members;
pub(crate) mod memory;
mod node;
mod operate;
mod operator;
mod origin;
mod pages;
mod parser;
pub mod parts;
mod proxies;
mod publish;
mod query;
mod rest;
mod secure;
mod sockets;
mod strict;
mod style;
mod tenure;
mod upgrade;
mod visible;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use prometheus_client::registry::Registry;
use serde_json::json;

use crate::auth::{ApiKeys, Users, Verifier};
use crate::cluster::Cluster;
use crate::config::Config;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::source::SourceStatus;
use crate::source::publish::Publisher;
use crate::topic::Topics;

use operator::Door;

pub use addresses::{AddressRate, Addresses};
pub use certificates::Certificates;
pub use express::handshake_bytes;
pub use listener::{Entrance, Listener};
pub use lobby::Lobby;
pub use proxies::forwarded_client;
pub use sockets::{adopt, bind};

/// What every handler may use.
pub struct State {
    /// As loaded.
    pub config: Arc<Config>,
    /// All topics.
    pub topics: Arc<Topics>,
    /// All shards.
    pub hub: Arc<Hub>,
    /// What the publish API does.
    pub publisher: Arc<Publisher>,
    /// The other nodes.
    pub cluster: Arc<Cluster>,
    /// Keys of publishers and operators.
    pub keys: ApiKeys,
    /// Verifies tokens.
    pub verifier: Arc<Verifier>,
    /// Sessions by user.
    pub users: Arc<Users>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// What `/metrics` shows.
    pub registry: Registry,
    /// All sources.
    pub sources: Vec<Arc<SourceStatus>>,
    /// Clients by address.
    pub addresses: Arc<Addresses>,
    /// Topics listed, by client address.
    pub listings: AddressRate,
    /// Set once every source has read what it held at the start.
    pub loaded: AtomicBool,
    /// Set when the server is on its way out.
    pub draining: AtomicBool,
    /// Publish requests under way.
    pub publishing: AtomicUsize,
    /// When the process began.
    pub started: std::time::Instant,
    /// `VmRSS` before there were sessions, in bytes.
    pub base_rss_bytes: u64,
}

impl State {
    /// Whether the server is on its way out.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether there is something to recover from: a client that came before would be told that it lost what is only not
    /// read yet.
    pub fn is_loaded(&self) -> bool {
        if self.loaded.load(Ordering::Acquire) {
            return true;
        }
        let loaded = self.sources.iter().all(|source| source.is_loaded());
        if loaded {
            self.loaded.store(true, Ordering::Release);
        }
        loaded
    }

    /// Why the server is not ready; empty if it is.
    pub fn not_ready(&self) -> Vec<String> {
        let draining = self.is_draining().then(|| "draining".to_owned());
        draining.into_iter().chain(self.sources.iter().filter_map(|s| s.not_ready())).collect()
    }
}

type Shared = axum::extract::State<Arc<State>>;

/// The routes of the ports for all; of operators' too, if they have no port of their own.
pub fn router(state: Arc<State>) -> Router {
    let has_dashboard = state.config.has_dashboard(false);
    let mut public = common().merge(publishing()).merge(reading(&state));
    public = match (state.config.debug.echo, has_dashboard) {
        (true, true) => public.route("/", get(echo::or_index)),
        (true, false) => public.route("/", get(echo::echo)),
        (false, true) => public.route("/", get(pages::index)),
        (false, false) => public,
    };
    if state.config.debug.echo {
        public = public.route("/debug/echo", get(echo::echo));
    }
    if has_dashboard {
        public = public.merge(assets());
    }
    match state.config.operator.listen {
        None => finished(state, public.merge(operating(has_dashboard)), Door::All),
        Some(_) => finished(state, public, Door::Public),
    }
}

/// The routes of the operators' own port. Backends find all of the API there.
pub fn operators(state: Arc<State>) -> Router {
    let has_dashboard = state.config.has_dashboard(true);
    let mut routes = common().merge(publishing()).merge(operating(has_dashboard));
    if has_dashboard {
        routes = routes.merge(assets());
    }
    finished(state, routes, Door::Operators)
}

/// The routes of `server.health_listen`.
pub fn health_alone(state: Arc<State>) -> Router {
    health_routes().fallback(nothing_here).method_not_allowed_fallback(other_method).with_state(state)
}

fn health_routes() -> Router<Arc<State>> {
    Router::new().route("/healthz", get(health::health)).route("/readyz", get(health::ready))
}

/// What every port but that for health has: whether the process is well, and sockets.
fn common() -> Router<Arc<State>> {
    // What is no GET is no handshake: it is answered as such.
    health_routes().route("/ws", any(upgrade::plain)).route("/connection/websocket", any(upgrade::centrifuge))
}

/// The files of the dashboard's pages.
fn assets() -> Router<Arc<State>> {
    Router::new().route("/assets/{*name}", get(pages::asset))
}

/// What clients read; pages of other origins too.
fn reading(state: &Arc<State>) -> Router<Arc<State>> {
    Router::new()
        .route("/api/topics", get(listing::topics).options(cors::preflight))
        .route("/api/topics/{*topic}", get(rest::topic).options(cors::preflight))
        .route_layer(axum::middleware::from_fn_with_state(state.clone(), cors::readable))
}

/// What publishers send. Operators' commands may be among those of a batch, where [`Door::takes_orders`].
fn publishing() -> Router<Arc<State>> {
    Router::new()
        .route("/api", post(commands::older))
        .route("/api/publish", post(commands::one))
        .route("/api/broadcast", post(commands::one))
        .route("/api/batch", post(commands::batch))
}

/// What operators read and do; [`operator::guard`] asks for a key, at `/admin/…` always.
fn operating(has_dashboard: bool) -> Router<Arc<State>> {
    let pages = match has_dashboard {
        true => Router::new().route("/ops", get(pages::index)),
        false => Router::new(),
    };
    let orders = operate::ORDERS.iter();
    orders
        .fold(pages, |router, order| router.route(&format!("/api/{order}"), post(commands::one)))
        .route("/status", get(rest::status))
        .route("/metrics", get(rest::metrics))
        .route("/admin/drain", post(admin::drain))
}

/// Every method but those of a path. Which those are is in `Allow`, which the router sets.
async fn other_method(method: Method) -> Response {
    let method = members::shown(method.as_str());
    failure(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is no method of this path; Allow has those that are"))
}

async fn nothing_here() -> Response {
    failure(StatusCode::NOT_FOUND, "there is nothing at this path; see docs/protocol.md")
}

fn finished(state: Arc<State>, router: Router<Arc<State>>, door: Door) -> Router {
    router
        .fallback(nothing_here)
        .method_not_allowed_fallback(other_method)
        .layer(axum::middleware::from_fn_with_state(state.clone(), publish::known))
        .layer(axum::middleware::from_fn_with_state(state.clone(), certificates::publishers))
        .layer(axum::middleware::from_fn_with_state(state.clone(), operator::guard))
        .layer(axum::Extension(door))
        .layer(axum::extract::DefaultBodyLimit::max(crate::limits::PUBLISH_BODY_BYTES_MAX))
        .with_state(state)
}

/// An error as JSON that says when to try again: after `wait`, in whole seconds.
fn failure_for(wait: Duration, status: StatusCode, reason: impl Into<String>) -> Response {
    let mut response = failure(status, reason);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().saturating_add(1)));
    response
}

/// An error as JSON.
fn failure(status: StatusCode, reason: impl Into<String>) -> Response {
    (status, axum::Json(json!({"error": {"code": status.as_u16(), "message": reason.into()}}))).into_response()
}
