//! `[limits]`, see `docs/limits.md`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::memory::MemoryLimit;
use crate::limits;

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
