//! The workloads by name, and all parameters.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::client::class::Class;
use crate::client::protocol::Protocol;
use crate::servers::peer::Peer;
use crate::servers::process::OwnServer;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Name {
    /// Broadcast: 10,000 sessions, 1 topic, 150 B, 5/s
    W1,
    /// Watchlist: 5,000 sessions × 20 of 500 topics, 500 deltas/s
    W2,
    /// Firehose: 500 sessions, 1 topic, 1,000/s
    W3,
    /// Idle: 15,000 sessions, 1 subscription
    W4,
    /// Storm: 10,000 sessions drop and reconnect at once, each with recovery
    W5,
    /// Slow: W2 with 1 % of the sockets never reading
    W6,
    /// Overload: W3, class merge, at three times the highest rate of this machine
    W7,
    /// Replay: recorded market data through Redis to 1,000 sessions on all topics
    W8,
}

/// How deltas reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Via {
    /// The publish API.
    Api,
    /// A Redis stream.
    Redis,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// Workload
    pub(crate) workload: Name,
    /// Sessions
    #[arg(long)]
    pub(crate) sessions: Option<usize>,
    /// Number of topics
    #[arg(long)]
    pub(crate) topics: Option<usize>,
    /// Subscriptions per session
    #[arg(long)]
    pub(crate) subscriptions: Option<usize>,
    /// Deltas per second, over all topics
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Bytes of each delta's JSON
    #[arg(long)]
    pub(crate) payload: Option<usize>,
    /// Delivery class
    #[arg(long)]
    pub(crate) class: Option<Class>,
    /// Seconds that are measured
    #[arg(long, default_value_t = 20.0)]
    pub(crate) seconds: f64,
    /// Connections opened per second
    #[arg(long, default_value_t = 3_000.0)]
    pub(crate) connect_rate: f64,
    /// Highest rate that sessions ask for, in deliveries per second and topic
    #[arg(long)]
    pub(crate) max_rate: Option<f64>,
    /// How deltas reach the server
    #[arg(long)]
    pub(crate) via: Option<Via>,
    /// Protocol of the sessions
    #[arg(long, default_value = "plain")]
    pub(crate) dialect: Protocol,
    /// Offer permessage-deflate
    #[arg(long)]
    pub(crate) deflate: bool,
    /// Ask for one message per write (`plain`; in Centrifuge this is always so)
    #[arg(long)]
    pub(crate) batch: bool,
    /// Another server instead of ours, by name; see `make bench-peers`
    #[arg(long, conflicts_with_all = ["url", "via", "dialect"])]
    pub(crate) peer: Option<Peer>,
    /// One session in this many never reads [default: 100 in W6, else none]
    #[arg(long)]
    pub(crate) slow_every: Option<usize>,
    /// W8: multiple of the recorded pace
    #[arg(long, default_value_t = 1.0)]
    pub(crate) speed: f64,
    /// W8: folder of the recordings
    #[arg(long, default_value = "../shared/data")]
    pub(crate) data: PathBuf,
    /// W8: stop after this many seconds of the recording
    #[arg(long)]
    pub(crate) recording_seconds: Option<f64>,
    /// Server to load, instead of starting one: http://HOST:PORT
    #[arg(long, requires = "pid")]
    pub(crate) url: Option<String>,
    /// Process ID of that server, for its CPU time and memory
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// Publish key of that server
    #[arg(long, env = "NEXUS_API_KEY", hide_env_values = true)]
    pub(crate) key: Option<String>,
    /// Redis to use, instead of starting one
    #[arg(long)]
    pub(crate) redis: Option<String>,
    /// Shards of the started server
    #[arg(long)]
    pub(crate) shards: Option<usize>,
    /// How the started server writes to sockets: auto, epoll or io_uring
    #[arg(long, default_value = "auto", value_parser = ["auto", "epoll", "io_uring"])]
    pub(crate) flush: String,
    /// Sessions over TLS (1.3), to a started server
    #[arg(long, conflicts_with = "url")]
    pub(crate) tls: bool,
    /// Flush interval of its namespaces, such as 100ms
    #[arg(long, default_value = "0s")]
    pub(crate) flush_interval: String,
    /// Program of the started server [default: nexus-push beside this program]
    #[arg(long)]
    pub(crate) server: Option<PathBuf>,
    /// Receive buffer of each session's socket, in bytes. Unread data waits there, and above that in the server, which
    /// can conflate it
    #[arg(long, default_value_t = 131_072)]
    pub(crate) receive_buffer: u32,
    /// Most sessions per worker process
    #[arg(long, default_value_t = 15_000)]
    pub(crate) per_worker: usize,
    /// Objectives: p50=…ms, p95, p99, p99.9, max, errors=…%; missing one makes the exit code 2
    #[arg(long)]
    pub(crate) slo: Option<String>,
    /// Write the report as JSON to this file
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Seed of topic choice and payloads
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// No progress bars
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// A workload with all parameters set.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Workload {
    pub(crate) name: Name,
    pub(crate) sessions: usize,
    pub(crate) topics: usize,
    pub(crate) subscriptions: usize,
    pub(crate) rate: f64,
    pub(crate) payload: usize,
    pub(crate) class: Class,
    pub(crate) seconds: f64,
    pub(crate) via: Via,
    pub(crate) max_rate: Option<f64>,
    pub(crate) speed: f64,
    pub(crate) seed: u64,
    pub(crate) protocol: Protocol,
    pub(crate) peer: Option<Peer>,
    pub(crate) slow_every: usize,
    pub(crate) deflate: bool,
    pub(crate) batch: bool,
}

#[derive(Debug, clap::Parser)]
struct Defaults {
    #[command(flatten)]
    run: RunArgs,
}

impl RunArgs {
    /// A workload with default parameters.
    pub(crate) fn of(workload: Name) -> Self {
        let name = workload.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        <Defaults as clap::Parser>::parse_from(["defaults", &name]).run
    }

    /// How the server of our own is started.
    pub(crate) fn own_server(&self) -> OwnServer<'_> {
        OwnServer {
            program: self.server.as_deref(),
            tls: self.tls,
            flush_interval: &self.flush_interval,
            flush: &self.flush,
            shards: self.shards.unwrap_or(0),
        }
    }

    pub(crate) fn workload(&self) -> Workload {
        let (sessions, topics, subscriptions, rate, class, via) = match self.workload {
            Name::W1 => (10_000, 1, 1, 5.0, Class::Stream, Via::Api),
            Name::W2 => (5_000, 500, 20, 500.0, Class::Merge, Via::Api),
            Name::W3 => (500, 1, 1, 1_000.0, Class::Stream, Via::Api),
            Name::W4 => (15_000, 500, 1, 0.0, Class::Merge, Via::Api),
            Name::W5 => (10_000, 50, 1, 50.0, Class::Stream, Via::Api),
            Name::W6 => (5_000, 500, 20, 500.0, Class::Merge, Via::Api),
            Name::W7 => (500, 1, 1, 0.0, Class::Merge, Via::Api),
            Name::W8 => (1_000, 0, 0, 0.0, Class::Merge, Via::Redis),
        };
        let topics = self.topics.unwrap_or(topics);
        Workload {
            name: self.workload,
            sessions: self.sessions.unwrap_or(sessions),
            topics,
            subscriptions: self.subscriptions.unwrap_or(subscriptions).min(topics),
            rate: self.rate.unwrap_or(rate),
            payload: self.payload.unwrap_or(150).max(60),
            class: self.class.unwrap_or(class),
            seconds: self.seconds,
            via: self.via.unwrap_or(via),
            max_rate: self.max_rate,
            speed: self.speed,
            seed: self.seed,
            protocol: self.peer.map_or(self.dialect, Peer::protocol),
            peer: self.peer,
            deflate: self.deflate,
            batch: self.batch && self.dialect == Protocol::Plain,
            slow_every: self.slow_every.unwrap_or(if self.workload == Name::W6 { 100 } else { 0 }),
        }
    }
}

impl Workload {
    /// Name of topic `n`.
    pub(crate) fn topic(&self, n: usize) -> String {
        format!("{}:t{n}", self.class.name())
    }

    /// Whether it runs on recordings.
    pub(crate) fn is_replay(&self) -> bool {
        self.name == Name::W8
    }
}
