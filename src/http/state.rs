//! What the handlers share.

use std::ops::Deref;
use std::sync::Arc;

use axum::extract::FromRef;
use prometheus_client::registry::Registry;

use crate::auth::{ApiKeys, Users, Verifier};
use crate::cluster::Cluster;
use crate::config::{Config, Scope};
use crate::http::addresses::{AddressRate, Addresses};
use crate::http::api::in_progress::InProgress;
use crate::http::ops::readiness::Readiness;
use crate::hub::Hub;
use crate::memory::ResolvedLimits;
use crate::metrics::Metrics;
use crate::source::publish::Publisher;
use crate::topic::Topics;

/// What the handlers share, by the part of them that needs it.
pub struct State {
    /// The configuration as loaded.
    pub(in crate::http) config: Arc<Config>,
    /// The limits on memory that follow from it.
    pub(in crate::http) limits: Arc<ResolvedLimits>,
    pub(in crate::http) topics: Arc<Topics>,
    pub(in crate::http) hub: Arc<Hub>,
    pub(in crate::http) metrics: Arc<Metrics>,
    pub(in crate::http) readiness: Arc<Readiness>,
    pub(in crate::http) clients: Arc<Clients>,
    pub(in crate::http) api: Arc<Api>,
    pub(in crate::http) process: Arc<Process>,
}

/// What every part of the server works on.
pub struct Core {
    /// The configuration as loaded.
    pub config: Arc<Config>,
    /// The limits on memory that follow from it.
    pub limits: Arc<ResolvedLimits>,
    /// All topics.
    pub topics: Arc<Topics>,
    /// All shards.
    pub hub: Arc<Hub>,
    /// The metrics of the control plane.
    pub metrics: Arc<Metrics>,
    /// Whether clients should connect.
    pub readiness: Arc<Readiness>,
}

/// Who clients are, and how much each may use.
pub struct Clients {
    /// Verifies tokens.
    pub verifier: Arc<Verifier>,
    /// Sessions by user.
    pub users: Arc<Users>,
    /// Clients by address.
    pub addresses: Arc<Addresses>,
    /// Listed topics per client address.
    pub listings: AddressRate,
}

/// What the API of publishers and operators works on.
pub struct Api {
    /// Publishes to the source.
    pub publisher: Arc<Publisher>,
    /// API keys of publishers and operators.
    pub keys: ApiKeys,
    /// The other nodes.
    pub cluster: Arc<Cluster>,
    /// Publish requests in progress.
    pub in_progress: InProgress,
}

/// What `/metrics` and `/status` show of the process.
pub struct Process {
    /// The registry behind `/metrics`.
    pub registry: Registry,
    /// When the process started.
    pub started: std::time::Instant,
    /// `VmRSS` before the first session, in bytes.
    pub base_rss_bytes: u64,
}

impl State {
    /// All of it.
    pub fn new(core: Core, clients: Clients, api: Api, process: Process) -> Self {
        let Core { config, limits, topics, hub, metrics, readiness } = core;
        let (clients, api, process) = (Arc::new(clients), Arc::new(api), Arc::new(process));
        Self { config, limits, topics, hub, metrics, readiness, clients, api, process }
    }

    /// The number of keys that may publish.
    pub fn publish_keys(&self) -> usize {
        self.api.keys.count(Scope::Publish)
    }

    /// Publish requests in progress.
    pub fn in_progress(&self) -> &InProgress {
        &self.api.in_progress
    }
}

/// The argument of a handler that needs most of the state.
pub(in crate::http) type Shared = axum::extract::State<Arc<State>>;

/// The argument of a handler that needs this part.
pub(in crate::http) type Of<T> = axum::extract::State<Part<T>>;

/// A part of the state.
pub(in crate::http) struct Part<T>(Arc<T>);

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

macro_rules! parts {
    ($($name:ident: $part:ty),*) => {
        $(impl FromRef<Arc<State>> for Part<$part> {
            fn from_ref(state: &Arc<State>) -> Self {
                Self(state.$name.clone())
            }
        })*
    };
}

parts!(config: Config, hub: Hub, metrics: Metrics, readiness: Readiness, api: Api, process: Process);
