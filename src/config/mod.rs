//! The configuration: its types and defaults are here, `load` reads it, and `check` checks it.

mod access;
mod check;
mod dashboard;
mod features;
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
pub use features::not_built;
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

/// All faults that `look` finds, as one text.
fn told(look: impl FnOnce(&mut dyn FnMut(&str, String))) -> Result<(), String> {
    let mut found = Vec::new();
    look(&mut |key, reason| found.push(format!("{key}: {reason}")));
    if found.is_empty() { Ok(()) } else { Err(found.join("; ")) }
}

/// The whole configuration file. Every section and every key is optional.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where and how the process serves.
    pub server: Server,
    /// The TLS port, if there is one.
    pub tls: Option<TlsOptions>,
    /// Which clients may connect, and with which tokens.
    pub access: Access,
    /// Which publishers may publish.
    pub publish: Publish,
    /// How operators connect.
    pub operator: Operator,
    /// Limits; see `docs/limits.md`.
    pub limits: Limits,
    /// Where deltas come from.
    pub source: Sources,
    /// Reports of the server about itself.
    pub ops: Ops,
    /// Calls (RPC) of Centrifuge clients.
    pub rpc: Rpc,
    /// Which deltas are followed through the log.
    pub trace: TraceOptions,
    /// Options for tests alone.
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
    /// This node's name for operators and other nodes. By default it is the host's name and the
    /// process id.
    pub name: Option<String>,
    /// Address of the port for clients.
    pub listen: SocketAddr,
    /// Address of a port that serves only `/healthz` and `/readyz`.
    pub health_listen: Option<SocketAddr>,
    /// Names of this server that clients may send in `Host`; `"*"` means any. IP addresses and
    /// `localhost` need not be listed.
    pub hosts: Vec<String>,
    /// Which ports serve `/` and `/ops`.
    pub dashboard: Dashboard,
    /// Number of shard threads; 0 means one per core.
    pub shards: usize,
    /// Number of control threads; 0 means one per core, at most 4.
    pub control_threads: usize,
    /// Most sessions at a time; 0 means the descriptor limit less the reserve.
    pub max_sessions: usize,
    /// Let clients negotiate permessage-deflate (RFC 7692).
    pub compression: bool,
    /// Time over which a drain closes all sessions.
    #[serde(with = "humantime_serde")]
    pub drain_window: Duration,
    /// Log format: text for people, or JSON.
    pub log_format: LogFormat,
    /// How shards write to sockets.
    pub flush: FlushBackend,
    /// Networks of proxies whose statements about the client's address are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether they send the address before the connection begins (PROXY protocol).
    pub proxy_protocol: ProxyProtocol,
    /// The header in which they send it.
    pub forwarded_header: ForwardedHeader,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// How shards write to sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlushBackend {
    /// The way that was measured to be fastest, if the kernel supports it.
    Auto,
    /// One `send` per write.
    Epoll,
    /// One system call for a batch of writes. Falls back to epoll if the kernel lacks io_uring or
    /// forbids it.
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
    /// Time between two reports; `"0s"` means never.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

impl Default for Ops {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1) }
    }
}

/// `[rpc]`: the endpoint for calls of Centrifuge clients.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rpc {
    /// `http(s)://…`. It gets `{"client","user","method","data"}` by POST and answers
    /// `{"result":{"data":…}}` or `{"error":{"code":1000,"message":"…"}}`. Without one, calls are
    /// answered "not available".
    #[serde(serialize_with = "secrets::hide_some_url")]
    pub endpoint: Option<String>,
    /// Time in which the endpoint must answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Value of the `Authorization` header that it gets.
    #[serde(skip_serializing)]
    pub authorization: Option<String>,
    /// File that holds this value.
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
    /// Sends every message back, for test suites of WebSocket servers: at `/debug/echo`, and at `/`
    /// for requests with an upgrade. Open to all clients, with limits of its own.
    pub echo: bool,
}

/// `[publish]`
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Publish {
    /// Keys accepted in `X-API-Key`. Without any key, and with `open` false, the publish API is
    /// off.
    #[serde(skip_serializing)]
    pub keys: Vec<String>,
    /// Files that hold one key each.
    pub key_files: Vec<PathBuf>,
    /// Keys with restricted rights. The keys above may do everything.
    pub key: Vec<PublishKey>,
    /// Accept publishes only over connections with a client certificate that `tls.client_ca_file`
    /// vouches for. If there are keys, a key is needed too.
    pub client_certificate: bool,
    /// Accept publishes without a key. For development on loopback.
    pub open: bool,
    /// How the API reports a refused command, unless the request asks for one of the two ways.
    pub error_style: ErrorStyle,
}

/// How the API reports a refused command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorStyle {
    /// Status 200, and an error with Centrifugo's code.
    #[default]
    Centrifugo,
    /// An HTTP status, which is also the error's code.
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
    /// Most sessions per client address; 0 means no limit.
    pub sessions_per_address: usize,
    /// HTTP connections per client address that are served while others wait; 0 means no limit.
    pub connections_per_address: usize,
    /// New sessions per second and client address; 0 means no limit.
    pub new_sessions_per_address: u32,
    /// Topics per second that `GET /api/topics` lists for one client address; 0 means no limit.
    pub listed_topics_per_second: u32,
    /// Most sessions per user (`sub` of tokens); 0 means no limit.
    pub sessions_per_user: usize,
    /// Failed tokens per session; 0 means no limit.
    pub token_failures: u32,
    /// Failed tokens per second in requests of one address; 0 means no limit.
    pub token_failures_per_address: u32,
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub keep_alive_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub first_command_timeout: Duration,
    /// Time from the upgrade to a valid token, if no topic is available without one.
    #[serde(with = "humantime_serde")]
    pub token_timeout: Duration,
    /// Largest share of all sessions without a token, if no topic is available without one.
    pub tokenless_share: f64,
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub pong_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    pub message_bytes: usize,
    /// Largest message, in bytes, of a `plain` session that still needs a token.
    pub message_bytes_before_auth: usize,
    pub commands_per_second: u32,
    pub commands_burst: u32,
    /// Bytes of answers and states (not of deltas) per second that a session, or all sessions of
    /// one user, may request.
    pub reply_bytes_per_second: u32,
    /// Bytes of the same that may be requested at once.
    pub reply_bytes_burst: u32,
    /// Bytes of answers per second that all sessions of one address without a user may request
    /// together; 0 means no limit.
    pub reply_bytes_per_address: u32,
    /// Bytes of one topic's joins and leaves that a node sends per second, over all subscribers
    /// that watch them.
    pub membership_bytes_per_second: u32,
    pub subscriptions: usize,
    pub backlog_bytes: usize,
    pub delta_bytes: usize,
    /// Total memory, from which the limits below follow unless they are set.
    pub memory: MemoryLimit,
    /// Bytes of backlog of all sessions together; 0 means an eighth of `memory`.
    pub backlog_total_bytes: usize,
    /// Bytes of history of all topics together; 0 means a quarter of `memory`.
    pub history_total_bytes: usize,
    /// Bytes of state of all topics together; 0 means a quarter of `memory`.
    pub state_total_bytes: usize,
    /// Bytes of deltas that no topic keeps: those in queues to shards, and those kept in shards for
    /// lagging subscriptions; 0 means an eighth of `memory`.
    pub deltas_total_bytes: usize,
    /// Bytes of clients' messages that are unfinished or waiting; 0 means 1/32 of `memory`.
    pub incoming_total_bytes: usize,
    /// Bytes of pending requests of sessions; 0 means 1/64 of `memory`, at least 1 MiB.
    pub asked_total_bytes: usize,
    /// Bytes of frames that wait for a write; 0 means 1/64 of `memory`.
    pub outgoing_total_bytes: usize,
    /// Bytes of states on their way to shards, for lagging subscriptions and for requested
    /// snapshots; 0 means 1/32 of `memory`.
    pub snapshots_total_bytes: usize,
    /// Bytes of bodies of HTTP requests; 0 means 1/32 of `memory`.
    pub requests_total_bytes: usize,
    /// Bytes of HTTP answers that clients have not taken yet; 0 means 1/32 of `memory`.
    pub answers_total_bytes: usize,
    /// Topics that were never published and exist only for their subscribers. 0 means as many as
    /// fit into 1/16 of `memory`, at most 262,144.
    pub unpublished_topics: usize,
    pub topics: usize,
    /// Time after which a topic without subscribers and deltas is kept in as little memory as
    /// possible. Clients see no difference: the namespace's `expire_after` ends a topic.
    #[serde(with = "humantime_serde")]
    pub topic_idle: Duration,
}

impl Limits {
    /// Bytes of snapshots and missed deltas that a subscribe or a replay sends at once. It is small
    /// enough that a client that reads never counts as slow.
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

/// `[source]`: any of these, or none. Without one, deltas come by the publish API alone.
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
    /// Number of instruments.
    pub instruments: usize,
    /// Deltas per second of all instruments together.
    pub rate: f64,
    /// The same seed gives the same prices.
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
    /// Recordings, plain or gzip, merged by time.
    pub files: Vec<PathBuf>,
    /// Speed, as a multiple of the recorded pace.
    #[serde(default = "one")]
    pub speed: f64,
    /// Start again at the end.
    #[serde(default, rename = "loop")]
    pub repeat: bool,
}

fn one() -> f64 {
    1.0
}

impl Config {
    /// The configuration of `nexus-push serve` without a file: the simulator, loopback only,
    /// anonymous clients from any Origin, publishing without a key.
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

    /// Whether the dashboard is served on the operators' port (`operators`) or on the other ports.
    pub fn has_dashboard(&self, operators: bool) -> bool {
        match self.server.dashboard {
            _ if cfg!(not(feature = "dashboard")) => false,
            Dashboard::On => true,
            Dashboard::Off => false,
            Dashboard::Auto => operators || !self.access.asks_for_tokens(),
        }
    }

    /// Whether `/metrics` and `/status` are closed because clients need tokens and no access for
    /// operators is configured.
    pub fn closes_operators_pages(&self) -> bool {
        let operator = &self.operator;
        self.access.asks_for_tokens() && !operator.open && !operator.has_key() && operator.listen.is_none()
    }

    /// Whether anyone may publish, without a key and without a certificate.
    pub fn publishes_openly(&self) -> bool {
        self.publish.open && !self.publish.client_certificate
    }

    /// Adds the namespace of the server's own topics, unless it is configured. Only clients whose
    /// token names it may subscribe there, except where everything is open.
    pub fn add_ops(&mut self, open: bool) {
        let ops = self.namespace.entry(OPS.to_owned()).or_insert_with(|| Namespace::ops(open));
        // Its deltas are patches.
        ops.class = Class::Merge;
        ops.payload = PayloadForm::Json;
    }

    /// Whether every topic needs a token.
    pub fn needs_token(&self) -> bool {
        let mut namespaces = self.namespace.values().chain([&self.default]);
        !(self.access.anonymous && namespaces.any(|n| n.allow_subscribe_for_anonymous))
    }

    /// Whether topics of `namespace` (the part before the first `:`, if any) may exist.
    pub fn knows_namespace(&self, namespace: Option<&str>) -> bool {
        self.access.unknown_namespace == UnknownNamespace::Default
            || namespace.is_none_or(|name| self.namespace.contains_key(name))
    }

    /// Options of topics of `namespace` (the part before the first `:`, if any).
    pub fn namespace(&self, namespace: Option<&str>) -> &Namespace {
        namespace.and_then(|name| self.namespace.get(name)).unwrap_or(&self.default)
    }
}
