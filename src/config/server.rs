//! `[server]`: where and how the process serves.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::dashboard::Dashboard;
use super::proxies::{ForwardedHeader, ProxyProtocol};

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
