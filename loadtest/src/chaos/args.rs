//! The scenarios by name, and all parameters.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// The faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Redis, with its data on disk, is killed and started again
    RedisRestart,
    /// Redis is killed, loses its data, and is started again
    RedisWiped,
    /// Redis is stopped for 30 s (SIGSTOP)
    RedisPaused,
    /// The master is killed under Sentinel
    SentinelFailover,
    /// A slot of a Redis Cluster moves to another master
    ClusterSlotMoved,
    /// A master of a Redis Cluster is killed
    ClusterMasterKilled,
    /// One of two nodes is killed with -9 under load
    NodeKilled,
    /// One of two nodes is stopped for 10 s (SIGSTOP)
    NodeStopped,
    /// Clocks of Redis and of the server step back and ahead by a minute
    ClockStepped,
    /// Half of the clients are cut off without a close
    HalfOpen,
    /// One of two nodes is cut off from Redis
    Partition,
    /// Descriptors run out
    Descriptors,
    /// Clients that do not read, and growing history, under a memory limit
    Memory,
    /// A publisher sends garbage, repeats, and ten times its rate
    BadPublisher,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ChaosArgs {
    /// Scenarios [default: all]
    pub(crate) scenarios: Vec<Scenario>,
    /// List the scenarios
    #[arg(long)]
    pub(crate) list: bool,
    /// Duration of a fault that lasts [default: the scenario's]
    #[arg(long)]
    pub(crate) seconds: Option<f64>,
    /// Sessions
    #[arg(long, default_value_t = 200)]
    pub(crate) sessions: usize,
    /// Deltas per second, over all topics
    #[arg(long, default_value_t = 200)]
    pub(crate) rate: u64,
    /// Bytes of each delta's JSON
    #[arg(long, default_value_t = 200)]
    pub(crate) payload: usize,
    /// Server to start [default: nexus-push beside this program]
    #[arg(long)]
    pub(crate) server: Option<PathBuf>,
    /// Write the verdicts as JSON to this file
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Write the table between the marks of this document
    #[arg(long)]
    pub(crate) markdown: Option<PathBuf>,
    /// Seed of topic choice and payloads
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// No progress bar
    #[arg(long)]
    pub(crate) quiet: bool,
}
