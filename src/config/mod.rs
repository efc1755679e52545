//! The configuration: types and defaults here, reading in `load`, checking in `check`.

mod access;
mod check;
mod dashboard;
mod load;
mod memory;
mod namespace;
mod nats;
mod operator;
mod places;
mod plain;
mod proxies;
mod publish_key;
mod redis;
pub mod secrets;
mod tls;
mod trace;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use access::{Access, ChannelSyntax, Jwks, NameKind, TokenAlgorithm, TokenKey, UnknownNamespace};
pub use dashboard::Dashboard;
pub use load::{ConfigError, Overrides, load};
pub use memory::MemoryLimit;
pub use namespace::{Action, Class, DeltaType, Namespace, OPS};
pub use nats::Nats;
pub use operator::Operator;
pub use places::{NATS_FORMS, REDIS_FORMS};
pub use proxies::{ForwardedHeader, ProxyProtocol};
pub use publish_key::{PublishKey, Scope};
pub use redis::{Redis, RedisAddress};
pub use secrets::redacted;
pub use tls::{TlsOptions, TlsVersion};
pub use trace::TraceOptions;

pub use crate::form::PayloadForm;
use crate::limits;

/// Faults that `look` finds, as one text.
fn told(look: impl FnOnce(&mut dyn FnMut(&str, String))) -> Result<(), String> {
    let mut found = Vec::new();
    look(&mut |key, reason| found.push(format!("{key}: {reason}")));
    if found.is_empty() { Ok(()) } else { Err(found.join("; ")) }
}

/// The whole configuration file. Every section and key may be left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where and how the process serves.
    pub server: Server,
    /// The port that speaks TLS, if there is one.
    pub tls: Option<TlsOptions>,
    /// Who may connect, and with which tokens.
    pub access: Access,
    /// Who may publish.
    pub publish: Publish,
    /// How operators get in.
    pub operator: Operator,
    /// Bounds, see `docs/limits.md`.
    pub limits: Limits,
    /// Where deltas come from.
    pub source: Sources,
    /// What the server tells of itself.
    pub ops: Ops,
    /// Calls of Centrifuge clients.
    pub rpc: Rpc,
    /// Which deltas are followed through the log.
    pub trace: TraceOptions,
    /// What only tests need.
    pub debug: Debug,
    /// Options of topics whose namespace is not configured.
    pub default: Namespace,
    /// Options by namespace.
    pub namespace: BTreeMap<String, Namespace>,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// This node's name, for operators and other nodes; without one the host's name and the process id.
    pub name: Option<String>,
    /// Address of the one port.
    pub listen: SocketAddr,
    /// Address of a port with `/healthz` and `/readyz` and nothing else.
    pub health_listen: Option<SocketAddr>,
    /// Names under which clients reach this server, for the `Host` of their requests; `"*"` is any. Addresses and
    /// `localhost` need not be named.
    pub hosts: Vec<String>,
    /// Whether `/` and `/ops` are served.
    pub dashboard: Dashboard,
    /// Shard threads; 0 means one a core.
    pub shards: usize,
    /// Threads of the control plane; 0 means one a core, at most 4.
    pub control_threads: usize,
    /// Sessions held at most; 0 means the descriptor limit less the reserve.
    pub max_sessions: usize,
    /// Let clients negotiate permessage-deflate (RFC 7692).
    pub compression: bool,
    /// Window over which a drain closes its sessions.
    #[serde(with = "humantime_serde")]
    pub drain_window: Duration,
    /// Log as lines for people or as JSON.
    pub log_format: LogFormat,
    /// How shards write to sockets.
    pub flush: FlushBackend,
    /// Networks of proxies that are believed when they say whose connection theirs is.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether they say it before the connection begins.
    pub proxy_protocol: ProxyProtocol,
    /// The header in which they say it.
    pub forwarded_header: ForwardedHeader,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How shards write to sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlushBackend {
    /// What was measured to be best of what the kernel has.
    Auto,
    /// One `send` a visit.
    Epoll,
    /// A batch of visits a system call; epoll where the kernel lacks or forbids it.
    IoUring,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            name: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            health_listen: None,
            hosts: Vec::new(),
            dashboard: Dashboard::Auto,
            shards: 0,
            control_threads: 0,
            max_sessions: 0,
            compression: true,
            drain_window: Duration::from_secs(5),
            log_format: LogFormat::Text,
            flush: FlushBackend::Auto,
            trusted_proxies: Vec::new(),
            proxy_protocol: ProxyProtocol::Off,
            forwarded_header: ForwardedHeader::XForwardedFor,
        }
    }
}

/// `[ops]`: this server's own topic, `ops:nodes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ops {
    /// Time between two reports; `"0s"` is never.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

impl Default for Ops {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1) }
    }
}

/// `[rpc]`: where calls of Centrifuge clients go.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rpc {
    /// `http(s)://…`, sent `{"client","user","method","data"}` by POST; answers `{"result":{"data":…}}` or
    /// `{"error":{"code":1000,"message":"…"}}`. Without one, calls are answered "not available".
    #[serde(serialize_with = "secrets::hide_some_url")]
    pub endpoint: Option<String>,
    /// Time that it has to answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// What it is sent as `Authorization`.
    #[serde(skip_serializing)]
    pub authorization: Option<String>,
    /// File that holds that.
    pub authorization_file: Option<PathBuf>,
}

impl Default for Rpc {
    fn default() -> Self {
        Self { endpoint: None, timeout: limits::RPC_TIMEOUT, authorization: None, authorization_file: None }
    }
}

impl std::fmt::Debug for Rpc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let endpoint = self.endpoint.as_deref().map(redacted);
        f.debug_struct("Rpc").field("endpoint", &endpoint).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// `[debug]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Debug {
    /// Send every message back, for suites that test WebSocket servers: at `/debug/echo`, and at `/` to who asks for an
    /// upgrade there. Open to all, with limits of its own.
    pub echo: bool,
}

/// `[publish]`
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Publish {
    /// Keys accepted in `X-API-Key`. With none, and `open` false, the publish API is off.
    #[serde(skip_serializing)]
    pub keys: Vec<String>,
    /// Files that hold one key each.
    pub key_files: Vec<PathBuf>,
    /// Keys that may do some things; those above may do all.
    pub key: Vec<PublishKey>,
    /// Accept publishes only over connections whose clients showed a certificate that `tls.client_ca_file` vouches for; with
    /// a key too, if there are any.
    pub client_certificate: bool,
    /// Accept publishes without a key. For development on loopback.
    pub open: bool,
    /// How the API says that a command was refused, where the request does not ask for either way.
    pub error_style: ErrorStyle,
}

/// How the API says that a command was refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorStyle {
    /// Status 200, and an error with one of Centrifugo's codes.
    #[default]
    Centrifugo,
    /// An HTTP status, which is the error's code too.
    Http,
}

impl std::fmt::Debug for Publish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publish").field("keys", &self.keys.len()).field("open", &self.open).finish_non_exhaustive()
    }
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "each field is the constant of the same name in `limits`, documented there")]
pub struct Limits {
    pub fd_reserve: usize,
    /// Sessions one client address may hold; 0 is no limit.
    pub sessions_per_address: usize,
    /// HTTP connections of one client address that are served while others wait; 0 is no limit.
    pub connections_per_address: usize,
    /// New sessions one client address may open each second; 0 is no limit.
    pub new_sessions_per_address: u32,
    /// Topics one client address is listed each second by `GET /api/topics`; 0 is no limit.
    pub listed_topics_per_second: u32,
    /// Sessions one user (`sub` of tokens) may hold; 0 is no limit.
    pub sessions_per_user: usize,
    /// Tokens of one session that may fail; 0 is no limit.
    pub token_failures: u32,
    /// Tokens of requests of one address that may fail each second; 0 is no limit.
    pub token_failures_per_address: u32,
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub keep_alive_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub first_command_timeout: Duration,
    /// Time from the upgrade to a valid token, where no topic can be had without one.
    #[serde(with = "humantime_serde")]
    pub token_timeout: Duration,
    /// Share of all sessions that may be without a token, where no topic can be had without one.
    pub tokenless_share: f64,
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub pong_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    pub message_bytes: usize,
    /// Bytes of a `plain` session's message while it needs a token and has none.
    pub message_bytes_before_auth: usize,
    pub commands_per_second: u32,
    pub commands_burst: u32,
    /// Bytes of answers and states (not of deltas) that a session, or all sessions of one user, may ask for each second.
    pub reply_bytes_per_second: u32,
    /// The same at once.
    pub reply_bytes_burst: u32,
    /// Bytes of answers that the sessions of one address that name no user may ask for each second, all together; 0 is no
    /// limit.
    pub reply_bytes_per_address: u32,
    /// Bytes of joins and leaves of one topic that a node sends to all who watch, each second.
    pub membership_bytes_per_second: u32,
    pub subscriptions: usize,
    pub backlog_bytes: usize,
    pub delta_bytes: usize,
    /// What those below follow from, where they are not set.
    pub memory: MemoryLimit,
    /// Bytes that all sessions together may be owed; 0 is an eighth of `memory`.
    pub backlog_total_bytes: usize,
    /// Bytes of memory that the history of all topics may take; 0 is a quarter of `memory`.
    pub history_total_bytes: usize,
    /// Bytes of memory that the states of all topics may take; 0 is a quarter of `memory`.
    pub state_total_bytes: usize,
    /// Bytes of memory that deltas may take which no topic keeps: on their way to shards, and kept there for lagging
    /// subscriptions; 0 is an eighth of `memory`.
    pub deltas_total_bytes: usize,
    /// Bytes of memory that messages of clients may take which are not whole, or wait; 0 is 1/32 of `memory`.
    pub incoming_total_bytes: usize,
    /// Bytes of memory that what sessions asked for may take while it is under way; 0 is 1/64 of `memory`, 1 MiB at least.
    pub asked_total_bytes: usize,
    /// Bytes of memory that frames may take which wait for a write; 0 is 1/64 of `memory`.
    pub outgoing_total_bytes: usize,
    /// Bytes of memory that states may take which are on their way to shards, for lagging subscriptions and for snapshots
    /// that clients asked for; 0 is 1/32 of `memory`.
    pub snapshots_total_bytes: usize,
    /// Bytes of memory that bodies of HTTP requests may take; 0 is 1/32 of `memory`.
    pub requests_total_bytes: usize,
    /// Bytes of memory that HTTP answers may take which their clients have not taken; 0 is 1/32 of `memory`.
    pub answers_total_bytes: usize,
    /// Topics that nobody has published, and that exist for their subscribers alone; 0 is what 1/16 of `memory` holds of
    /// them, 262,144 at most.
    pub unpublished_topics: usize,
    pub topics: usize,
    /// Time after which a topic with neither subscribers nor deltas is kept in as little memory as it can be. Clients see no
    /// difference: `expire_after` of its namespace ends it.
    #[serde(with = "humantime_serde")]
    pub topic_idle: Duration,
}

impl Limits {
    /// Bytes of snapshots and missed deltas that a subscribe or a replay sends at once: so little that a client that reads
    /// is never taken for a slow one.
    pub fn recovery_bytes(&self) -> usize {
        limits::RECOVERY_BYTES.min(self.backlog_bytes / 2)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fd_reserve: limits::FD_RESERVE,
            sessions_per_address: 0,
            connections_per_address: limits::CONNECTIONS_PER_ADDRESS,
            new_sessions_per_address: 0,
            listed_topics_per_second: limits::LISTED_TOPICS_PER_SECOND,
            sessions_per_user: 0,
            token_failures: limits::TOKEN_FAILURES,
            token_failures_per_address: limits::TOKEN_FAILURES_PER_ADDRESS,
            handshake_timeout: limits::HANDSHAKE_TIMEOUT,
            keep_alive_timeout: limits::KEEP_ALIVE_TIMEOUT,
            request_timeout: limits::REQUEST_TIMEOUT,
            first_command_timeout: limits::FIRST_COMMAND_TIMEOUT,
            token_timeout: limits::TOKEN_TIMEOUT,
            tokenless_share: limits::TOKENLESS_SHARE,
            ping_interval: limits::PING_INTERVAL,
            pong_timeout: limits::PONG_TIMEOUT,
            stall_timeout: limits::STALL_TIMEOUT,
            message_bytes: limits::MESSAGE_BYTES_MAX,
            message_bytes_before_auth: limits::MESSAGE_BYTES_BEFORE_AUTH_MAX,
            commands_per_second: limits::COMMANDS_PER_SECOND,
            commands_burst: limits::COMMANDS_BURST,
            reply_bytes_per_second: limits::REPLY_BYTES_PER_SECOND,
            reply_bytes_burst: limits::REPLY_BYTES_BURST,
            reply_bytes_per_address: limits::REPLY_BYTES_PER_ADDRESS,
            membership_bytes_per_second: limits::MEMBERSHIP_BYTES_PER_SECOND,
            subscriptions: limits::SUBSCRIPTIONS_MAX,
            backlog_bytes: limits::BACKLOG_BYTES_MAX,
            delta_bytes: limits::DELTA_BYTES_MAX,
            memory: MemoryLimit::Auto,
            backlog_total_bytes: 0,
            history_total_bytes: 0,
            state_total_bytes: 0,
            deltas_total_bytes: 0,
            incoming_total_bytes: 0,
            asked_total_bytes: 0,
            outgoing_total_bytes: 0,
            snapshots_total_bytes: 0,
            requests_total_bytes: 0,
            answers_total_bytes: 0,
            unpublished_topics: 0,
            topics: limits::TOPICS_MAX,
            topic_idle: Duration::from_secs(24 * 3600),
        }
    }
}

/// `[source]`: any of them, or none (then deltas come by the publish API alone).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sources {
    /// Redis streams.
    pub redis: Option<Redis>,
    /// A NATS JetStream stream.
    pub nats: Option<Nats>,
    /// The embedded simulation.
    pub simulator: Option<Simulator>,
    /// A recording.
    pub replay: Option<Replay>,
}

/// `[source.simulator]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Simulator {
    /// Instruments that move.
    pub instruments: usize,
    /// Deltas a second over all of them.
    pub rate: f64,
    /// Same seed, same prices.
    pub seed: u64,
}

impl Default for Simulator {
    fn default() -> Self {
        Self { instruments: 300, rate: 600.0, seed: 20_240_808 }
    }
}

/// `[source.replay]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// Recordings, plain or gzip, merged by their times.
    pub files: Vec<PathBuf>,
    /// Multiple of the recorded pace.
    #[serde(default = "one")]
    pub speed: f64,
    /// Start over at the end.
    #[serde(default, rename = "loop")]
    pub repeat: bool,
}

fn one() -> f64 {
    1.0
}

impl Config {
    /// What `nexus-push serve` runs with no configuration file: the simulator, loopback only, anonymous
    /// clients from any Origin, publishing without a key.
    pub fn embedded() -> Self {
        let namespace = BTreeMap::from([
            (
                "quotes".to_owned(),
                Namespace { class: Class::Merge, stale_after: Some(Duration::from_secs(30)), ..Namespace::default() },
            ),
            ("book".to_owned(), Namespace { class: Class::Merge, max_rate: Some(20.0), ..Namespace::default() }),
            ("trades".to_owned(), Namespace::default()),
            ("signals".to_owned(), Namespace { history_ttl: Duration::from_secs(3600), ..Namespace::default() }),
            (OPS.to_owned(), Namespace::ops(true)),
        ]);
        Self {
            access: Access { anonymous: true, origins: vec!["*".into()], ..Access::default() },
            publish: Publish { open: true, ..Publish::default() },
            source: Sources { simulator: Some(Simulator::default()), ..Sources::default() },
            namespace,
            ..Self::default()
        }
    }

    /// Whether the dashboard is served, at the operators' own port or at one for all.
    pub fn has_dashboard(&self, operators: bool) -> bool {
        match self.server.dashboard {
            Dashboard::On => true,
            Dashboard::Off => false,
            Dashboard::Auto => operators || !self.access.asks_for_tokens(),
        }
    }

    /// Whether `/metrics` and `/status` are closed for lack of a key: clients need tokens, and nothing says how operators
    /// get in.
    pub fn closes_operators_pages(&self) -> bool {
        let operator = &self.operator;
        self.access.asks_for_tokens() && !operator.open && !operator.has_key() && operator.listen.is_none()
    }

    /// Whether anyone may publish, without a key and without a certificate.
    pub fn publishes_openly(&self) -> bool {
        self.publish.open && !self.publish.client_certificate
    }

    /// Adds the namespace of the server's own topics, unless it is configured. Only who has a token that names it may
    /// subscribe there, except where everything is open.
    pub fn add_ops(&mut self, open: bool) {
        let ops = self.namespace.entry(OPS.to_owned()).or_insert_with(|| Namespace::ops(open));
        // What is published there are patches.
        ops.class = Class::Merge;
        ops.payload = PayloadForm::Json;
    }

    /// Whether no topic can be had without a token.
    pub fn needs_token(&self) -> bool {
        let mut namespaces = self.namespace.values().chain([&self.default]);
        !(self.access.anonymous && namespaces.any(|n| n.allow_subscribe_for_anonymous))
    }

    /// Whether there may be topics of `namespace` (the part before the first `:`, if there is one).
    pub fn knows_namespace(&self, namespace: Option<&str>) -> bool {
        self.access.unknown_namespace == UnknownNamespace::Default
            || namespace.is_none_or(|name| self.namespace.contains_key(name))
    }

    /// Options for the topics of `namespace` (the part before the first `:`, if there is one).
    pub fn namespace(&self, namespace: Option<&str>) -> &Namespace {
        namespace.and_then(|name| self.namespace.get(name)).unwrap_or(&self.default)
    }
}
