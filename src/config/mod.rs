//! The configuration: types and defaults here, reading in `load`, checking in `check`.

mod check;
mod load;
mod memory;
mod nats;
mod operator;
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

pub use load::{ConfigError, Overrides, load};
pub use memory::MemoryLimit;
pub use nats::Nats;
pub use operator::Operator;
pub use proxies::{ForwardedHeader, ProxyProtocol};
pub use publish_key::{PublishKey, Scope};
pub use redis::{Redis, RedisAddress};
pub use secrets::redacted;
pub use tls::{TlsOptions, TlsVersion};
pub use trace::TraceOptions;

use crate::limits;

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

/// `[access]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// Let clients in without a token.
    pub anonymous: bool,
    /// Origins that may open a socket: `"https://app.example.com"`, or `"*"` for any. Requests without an
    /// `Origin` header (not browsers) are always let through to the token check.
    pub origins: Vec<String>,
    /// Topics a token gives when it carries no `topics` claim: exact names, or prefixes that end in `*`.
    pub default_topics: Vec<String>,
    /// Required `aud` of tokens, if any.
    pub audience: Option<String>,
    /// Required `iss` of tokens, if any.
    pub issuer: Option<String>,
    /// Keys that tokens are verified with.
    pub keys: Vec<TokenKey>,
    /// Keys that are fetched.
    pub jwks: Option<Jwks>,
    /// Time that a Centrifuge session goes on after its token, or a subscription's, has ended: its client asks for a new
    /// one when the old one ends, not before.
    #[serde(with = "humantime_serde")]
    pub expired_close_delay: Duration,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            anonymous: false,
            origins: Vec::new(),
            default_topics: Vec::new(),
            audience: None,
            issuer: None,
            keys: Vec::new(),
            jwks: None,
            expired_close_delay: limits::EXPIRED_CLOSE_DELAY,
        }
    }
}

/// `[access.jwks]`: a JSON Web Key Set (RFC 7517) by URL.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwks {
    /// `https://…`, or `http://` on a network that is trusted.
    #[serde(serialize_with = "secrets::hide_url")]
    pub url: String,
    /// Algorithms accepted from it. HS256 is never: a secret has no place in a public document.
    #[serde(default = "jwks_algorithms")]
    pub algorithms: Vec<TokenAlgorithm>,
    /// Age at which the set is fetched again.
    #[serde(default = "jwks_max_age", with = "humantime_serde")]
    pub max_age: Duration,
    /// Least time between two fetches, however many tokens name a key that is not known.
    #[serde(default = "jwks_min_interval", with = "humantime_serde")]
    pub min_interval: Duration,
}

impl std::fmt::Debug for Jwks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Jwks");
        shown.field("url", &redacted(&self.url)).field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

fn jwks_algorithms() -> Vec<TokenAlgorithm> {
    vec![TokenAlgorithm::RS256, TokenAlgorithm::ES256, TokenAlgorithm::EdDSA]
}

fn jwks_max_age() -> Duration {
    limits::JWKS_MAX_AGE
}

fn jwks_min_interval() -> Duration {
    limits::JWKS_MIN_INTERVAL
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

/// `[[access.keys]]`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenKey {
    /// Matches the token's `kid`; a key without one serves tokens without one.
    #[serde(default)]
    pub kid: Option<String>,
    /// The one algorithm this key is for.
    pub algorithm: TokenAlgorithm,
    /// HS256: the secret itself, at least 32 bytes.
    #[serde(default, skip_serializing)]
    pub secret: Option<String>,
    /// HS256: file that holds the secret.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// HS256: environment variable that holds the secret.
    #[serde(default)]
    pub secret_env: Option<String>,
    /// RS256, ES256, EdDSA: PEM file of the public key.
    #[serde(default)]
    pub public_key_file: Option<PathBuf>,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").field("kid", &self.kid).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// Signature algorithms of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256.
    HS256,
    /// RSA PKCS#1 v1.5 with SHA-256.
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
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
    /// New sessions one client address may open each second; 0 is no limit.
    pub new_sessions_per_address: u32,
    /// Sessions one user (`sub` of tokens) may hold; 0 is no limit.
    pub sessions_per_user: usize,
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub first_command_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub pong_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    pub message_bytes: usize,
    pub commands_per_second: u32,
    pub commands_burst: u32,
    pub subscriptions: usize,
    pub backlog_bytes: usize,
    pub delta_bytes: usize,
    /// What the three below follow from, where they are not set.
    pub memory: MemoryLimit,
    /// Bytes that all sessions together may be owed; 0 is an eighth of `memory`.
    pub backlog_total_bytes: usize,
    /// Bytes of memory that the history of all topics may take; 0 is a quarter of `memory`.
    pub history_total_bytes: usize,
    /// Bytes of memory that the states of all topics may take; 0 is a quarter of `memory`.
    pub state_total_bytes: usize,
    pub topics: usize,
    /// Time after which a topic with neither subscribers nor deltas is forgotten.
    #[serde(with = "humantime_serde")]
    pub topic_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fd_reserve: limits::FD_RESERVE,
            sessions_per_address: 0,
            new_sessions_per_address: 0,
            sessions_per_user: 0,
            handshake_timeout: limits::HANDSHAKE_TIMEOUT,
            request_timeout: limits::REQUEST_TIMEOUT,
            first_command_timeout: limits::FIRST_COMMAND_TIMEOUT,
            ping_interval: limits::PING_INTERVAL,
            pong_timeout: limits::PONG_TIMEOUT,
            stall_timeout: limits::STALL_TIMEOUT,
            message_bytes: limits::MESSAGE_BYTES_MAX,
            commands_per_second: limits::COMMANDS_PER_SECOND,
            commands_burst: limits::COMMANDS_BURST,
            subscriptions: limits::SUBSCRIPTIONS_MAX,
            backlog_bytes: limits::BACKLOG_BYTES_MAX,
            delta_bytes: limits::DELTA_BYTES_MAX,
            memory: MemoryLimit::Auto,
            backlog_total_bytes: 0,
            history_total_bytes: 0,
            state_total_bytes: 0,
            topics: limits::TOPICS_MAX,
            topic_idle: Duration::from_secs(24 * 3600),
        }
    }
}

/// What a subscriber who falls behind, or is throttled, gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Every delta in order.
    Stream,
    /// The newest value only.
    Latest,
    /// One merge patch in place of many, or the whole object.
    Merge,
}

impl Class {
    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Latest => "latest",
            Self::Merge => "merge",
        }
    }

    /// Whether deltas of this class may be replaced by newer state.
    pub fn conflatable(self) -> bool {
        self != Self::Stream
    }
}

/// `[namespace.NAME]` and `[default]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Namespace {
    /// Delivery class.
    pub class: Class,
    /// Deliveries a second and subscriber at most; the first change goes at once. Not for `stream`.
    pub max_rate: Option<f64>,
    /// A session that was visited less than this ago waits for its deltas, so that one visit carries more of them; one that
    /// was not gets them at once.
    #[serde(with = "humantime_serde")]
    pub flush_interval: Duration,
    /// Subscribers are told when a topic has had no delta for this long.
    #[serde(with = "humantime_serde")]
    pub stale_after: Option<Duration>,
    /// Deltas kept for recovery.
    pub history_size: usize,
    /// Age past which a kept delta goes.
    #[serde(with = "humantime_serde")]
    pub history_ttl: Duration,
    /// Bytes of payload kept for recovery.
    pub history_bytes: usize,
    /// Whether clients without a token may subscribe (where `access.anonymous` lets them in at all).
    #[serde(alias = "anonymous")]
    pub allow_subscribe_for_anonymous: bool,
    /// Whether any client with a token may subscribe, whatever topics its token names.
    pub allow_subscribe_for_client: bool,
    /// Who may publish over a socket.
    pub allow_publish_for_subscriber: bool,
    /// Any client with a token.
    pub allow_publish_for_client: bool,
    /// Any client at all.
    pub allow_publish_for_anonymous: bool,
    /// Who may read history over a socket.
    pub allow_history_for_subscriber: bool,
    /// Any client with a token.
    pub allow_history_for_client: bool,
    /// Any client at all.
    pub allow_history_for_anonymous: bool,
    /// Keep account of who is subscribed.
    pub presence: bool,
    /// Who may read that.
    pub allow_presence_for_subscriber: bool,
    /// Any client with a token.
    pub allow_presence_for_client: bool,
    /// Any client at all.
    pub allow_presence_for_anonymous: bool,
    /// Announce who comes and goes, to those who ask for it and may read presence.
    pub join_leave: bool,
    /// Announce it to every Centrifuge subscriber.
    pub force_push_join_leave: bool,
    /// Every Centrifuge subscriber can recover; without it, only who asks for it.
    pub force_recovery: bool,
    /// Every Centrifuge subscriber is told that its position is watched over; without it, only who asks for it.
    pub force_positioning: bool,
    /// Kinds of delta compression that subscribers may ask for.
    pub allowed_delta_types: Vec<DeltaType>,
}

/// The namespace of the server's own topics.
pub const OPS: &str = "ops";

impl Namespace {
    fn ops(open: bool) -> Self {
        Self { class: Class::Merge, history_size: 2, allow_subscribe_for_anonymous: open, ..Self::default() }
    }
}

/// A kind of delta compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeltaType {
    /// Fossil SCM's format.
    Fossil,
}

/// Something that a client does with a topic, beside subscribing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Hand in a delta.
    Publish,
    /// Read its past.
    History,
    /// Read who is subscribed.
    Presence,
}

impl Namespace {
    /// Whether subscribers may ask for Fossil deltas.
    pub fn has_fossil(&self) -> bool {
        self.allowed_delta_types.contains(&DeltaType::Fossil)
    }

    /// Whether it has to be known who is subscribed.
    pub fn counts_members(&self) -> bool {
        self.presence || self.join_leave
    }

    /// Whether a client may do something: one with a token or without, subscribed to the topic or not.
    pub fn allows(&self, action: Action, with_token: bool, subscribed: bool) -> bool {
        let (subscriber, client, anonymous) = match action {
            Action::Publish => {
                (self.allow_publish_for_subscriber, self.allow_publish_for_client, self.allow_publish_for_anonymous)
            }
            Action::History => {
                (self.allow_history_for_subscriber, self.allow_history_for_client, self.allow_history_for_anonymous)
            }
            Action::Presence => {
                (self.allow_presence_for_subscriber, self.allow_presence_for_client, self.allow_presence_for_anonymous)
            }
        };
        (subscriber && subscribed) || (client && with_token) || anonymous
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self {
            class: Class::Stream,
            max_rate: None,
            flush_interval: Duration::ZERO,
            stale_after: None,
            history_size: limits::HISTORY_DELTAS,
            history_ttl: limits::HISTORY_TTL,
            history_bytes: limits::HISTORY_BYTES,
            allow_subscribe_for_anonymous: true,
            allow_subscribe_for_client: false,
            allow_publish_for_subscriber: false,
            allow_publish_for_client: false,
            allow_publish_for_anonymous: false,
            allow_history_for_subscriber: true,
            allow_history_for_client: false,
            allow_history_for_anonymous: false,
            presence: false,
            allow_presence_for_subscriber: false,
            allow_presence_for_client: false,
            allow_presence_for_anonymous: false,
            join_leave: false,
            force_push_join_leave: false,
            force_recovery: true,
            force_positioning: true,
            allowed_delta_types: Vec::new(),
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

    /// Adds the namespace of the server's own topics, unless it is configured. Only who has a token that names it may
    /// subscribe there, except where everything is open.
    pub fn add_ops(&mut self, open: bool) {
        let ops = self.namespace.entry(OPS.to_owned()).or_insert_with(|| Namespace::ops(open));
        // What is published there are patches.
        ops.class = Class::Merge;
    }

    /// Options for the topics of `namespace` (the part before the first `:`, if there is one).
    pub fn namespace(&self, namespace: Option<&str>) -> &Namespace {
        namespace.and_then(|name| self.namespace.get(name)).unwrap_or(&self.default)
    }
}
