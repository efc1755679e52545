//! Messages between a run and its worker processes: lines of JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::client::churn::Churn;
use crate::client::class::Class;
use crate::client::protocol::Protocol;
use crate::client::shared::Endurance;

/// The first message to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Sessions begin with one of the first `homes` servers, in turn.
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) homes: usize,
    /// Set if sessions must survive faults, and deltas are numbered.
    pub(crate) endurance: Option<Endurance>,
    /// Whether to use TLS.
    pub(crate) tls: bool,
    pub(crate) topics: Vec<String>,
    /// Their classes.
    pub(crate) classes: Vec<Class>,
    pub(crate) protocol: Protocol,
    pub(crate) max_rate: Option<f64>,
    /// One session in this many never reads; 0 means none.
    pub(crate) slow_every: usize,
    pub(crate) deflate: bool,
    pub(crate) batch: bool,
    pub(crate) payload_clock: bool,
    pub(crate) receive_buffer: u32,
    /// Loopback addresses of the sessions, at most 254. Each has some 28,000 ports, and balancers count by address.
    pub(crate) addresses: u8,
    /// Reconnect as the SDKs do, not as fast as possible.
    pub(crate) polite: bool,
    /// Topics of each session.
    pub(crate) sessions: Vec<Vec<u32>>,
    /// Number of the first session.
    pub(crate) first: usize,
}

impl Spec {
    /// No sessions yet, for these topics: `plain`, one message per delivery, on loopback.
    pub(crate) fn of(servers: Vec<SocketAddr>, topics: Vec<String>, classes: Vec<Class>) -> Self {
        Self {
            homes: servers.len(),
            servers,
            endurance: None,
            tls: false,
            topics,
            classes,
            protocol: Protocol::Plain,
            max_rate: None,
            slow_every: 0,
            deflate: false,
            batch: false,
            payload_clock: true,
            receive_buffer: 131_072,
            addresses: 4,
            polite: false,
            sessions: Vec::new(),
            first: 0,
        }
    }
}

/// Later messages to a worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "lowercase")]
pub(crate) enum Order {
    /// Open all sessions, this many per second.
    Connect { rate: f64 },
    /// Measure latency from now on.
    Mark,
    /// Cut all sessions off, without telling the server.
    Drop,
    /// From now on, sessions leave, come back, and change their subscriptions.
    Churn(Churn),
    /// Wait until every session has these offsets (or these numbers, if deltas are numbered), or for this time; then
    /// report.
    Finish { offsets: Vec<u64>, numbers: Vec<u64>, timeout_s: f64 },
}

/// Sent by a worker a few times per second.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) connected: u64,
    pub(crate) subscribed: u64,
    #[serde(default)]
    pub(crate) standing: u64,
    pub(crate) deliveries: u64,
    pub(crate) connect_failures: u64,
    /// The time of this report, ns of the monotonic clock.
    pub(crate) at_ns: u64,
    /// Numbered deltas: the lowest number that a session has on the first topic, which all have. Sessions that are
    /// intentionally away do not count.
    pub(crate) pulse: u64,
    pub(crate) faults: u64,
    pub(crate) stale: u64,
    pub(crate) fresh: u64,
    pub(crate) recovered: u64,
    pub(crate) not_recovered: u64,
}

/// What a worker reports at the end.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) deliveries: u64,
    pub(crate) represented: u64,
    pub(crate) snapshots: u64,
    pub(crate) bytes: u64,
    pub(crate) connect_failures: u64,
    pub(crate) recovered: u64,
    pub(crate) not_recovered: u64,
    pub(crate) faults: u64,
    pub(crate) fault_texts: Vec<String>,
    pub(crate) closes: BTreeMap<String, u64>,
    pub(crate) refusals: BTreeMap<String, u64>,
    pub(crate) epochs: u64,
    pub(crate) stale: u64,
    pub(crate) fresh: u64,
    pub(crate) turns: u64,
    /// Topic, number and count of repeated deltas, over all sessions.
    pub(crate) repeats: Vec<(u32, u64, u64)>,
    /// Sessions that did not get to the end of a topic, each counted once.
    pub(crate) incomplete: u64,
    /// By topic: digests of the final states, and the number of sessions with each.
    pub(crate) finals: Vec<Vec<(u64, u64)>>,
    /// Latency histogram (V2), hex.
    pub(crate) latency: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Message {
    Progress(Progress),
    Outcome(Box<Outcome>),
}
