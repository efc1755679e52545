//! The options that name a target.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(next_help_heading = "Target")]
pub(in crate::cli) struct TargetArgs {
    /// Target, in one of the forms below [default: the stream that --config names, else
    /// http://127.0.0.1:8000]
    #[arg(long, value_name = "URL", env = "NEXUS_TO", hide_env_values = true)]
    pub(super) to: Option<String>,
    /// Configuration file of the servers: the stream's address, names of fields, namespaces and
    /// limits for checks
    #[arg(long, short, value_name = "FILE", env = "NEXUS_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Redis: all streams in the order of source.redis.streams [default: nexus:deltas]; NATS: the
    /// stream [default: NEXUS]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) stream: Vec<String>,
    /// Redis: publish even if streams of the list do not exist; the first entry creates a stream
    #[arg(long)]
    pub(super) create_stream: bool,
    /// Redis: MAXLEN ~ of the stream [default: 1000000, or source.redis.max_len]
    #[arg(long, value_name = "N")]
    pub(super) max_len: Option<u64>,
    /// NATS: subjects of the stream, as in source.nats.subjects [default: nexus.deltas.>]
    #[arg(long, value_name = "SUBJECT")]
    pub(super) subject: Option<String>,
    /// Server: publish key
    #[arg(long, value_name = "KEY", env = "NEXUS_API_KEY", hide_env_values = true)]
    pub(super) key: Option<String>,
    /// Server: file that holds the publish key
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    pub(super) key_file: Option<PathBuf>,
    /// https:// and NATS over TLS: PEM file of the authorities that may vouch for the server,
    /// instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// Without --config: the topics' namespaces have payload = "bytes", so data may be any bytes
    #[arg(long)]
    pub(super) bytes: bool,
}
