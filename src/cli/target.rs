//! The target of `publish` and `replay`: a server's publish API, a Redis stream, or a NATS stream.

mod api;
mod plan;
mod streams;

use std::fmt::Display;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;

use self::api::Api;
pub(super) use self::plan::FORMS;
use self::plan::{Plan, To};
use self::streams::ListedBy;
use crate::source::direct::Direct;
use crate::source::draft::Draft;
use crate::source::failure::Failure;
use crate::source::precheck::{Checked, Precheck};
use crate::source::refusals::Refusal;

#[derive(Debug, Args)]
#[command(next_help_heading = "Target")]
pub(super) struct TargetArgs {
    /// Target, in one of the forms below [default: the stream that --config names, else
    /// http://127.0.0.1:8000]
    #[arg(long, value_name = "URL", env = "NEXUS_TO", hide_env_values = true)]
    to: Option<String>,
    /// Configuration file of the servers: the stream's address, names of fields, namespaces and
    /// limits for checks
    #[arg(long, short, value_name = "FILE", env = "NEXUS_CONFIG")]
    config: Option<PathBuf>,
    /// Redis: all streams in the order of source.redis.streams [default: nexus:deltas]; NATS: the
    /// stream [default: NEXUS]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    stream: Vec<String>,
    /// Redis: publish even if streams of the list do not exist; the first entry creates a stream
    #[arg(long)]
    create_stream: bool,
    /// Redis: MAXLEN ~ of the stream [default: 1000000, or source.redis.max_len]
    #[arg(long, value_name = "N")]
    max_len: Option<u64>,
    /// NATS: subjects of the stream, as in source.nats.subjects [default: nexus.deltas.>]
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// Server: publish key
    #[arg(long, value_name = "KEY", env = "NEXUS_API_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Server: file that holds the publish key
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    key_file: Option<PathBuf>,
    /// https:// and NATS over TLS: PEM file of the authorities that may vouch for the server,
    /// instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Without --config: the topics' namespaces have payload = "bytes", so data may be any bytes
    #[arg(long)]
    bytes: bool,
}

/// A delta that was not published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server refused it; it may accept others. The cause's name in metrics and log, if the
    /// server gives one, and the reason.
    Refused(Option<String>, String),
    /// The target confirmed nothing, for whatever reason.
    Failed(String),
}

impl Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(None, why) => write!(f, "the server refused it: {why}"),
            Self::Refused(Some(reason), why) => write!(f, "the server refused it ({reason}): {why}"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// A warning of the server about a delta that it accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Warning {
    pub(super) text: String,
    /// The warning as one line.
    pub(super) told: String,
}

/// The position of a delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    /// The position, for scripts.
    pub(super) place: String,
    /// Warnings about the delta.
    pub(super) warnings: Vec<Warning>,
}

impl From<String> for Placed {
    fn from(place: String) -> Self {
        Self { place, warnings: Vec::new() }
    }
}

/// Outcome of a delta: its position, or why it was not published.
pub(super) type Sent = Result<Placed, Fault>;

enum Way {
    Api(Api),
    Stream(Box<Direct>),
}

/// A target, with the checks of its servers.
pub(super) struct Target {
    check: Precheck,
    way: Way,
    notes: Vec<String>,
    listed_by: ListedBy,
    may_create: bool,
}

impl Target {
    pub(super) async fn connect(args: &TargetArgs) -> anyhow::Result<Self> {
        let Plan { to, config, led, unchecked, bytes_max, listed_by } = plan::plan(args)?;
        let check = Precheck::new(&config);
        let check = match bytes_max {
            Some(bytes_max) => check.with_bytes_max(bytes_max),
            None => check,
        };
        let way = match to {
            To::Api { url, key, authorities } => Way::Api(Api::new(&url, key.as_deref(), authorities.as_ref())?),
            To::Stream => match Direct::open(&config, &check).await? {
                Some(direct) => Way::Stream(Box::new(direct)),
                None => bail!("no stream is named"),
            },
        };
        let notes = led.into_iter().chain(unchecked).collect();
        Ok(Self { check, way, notes, listed_by, may_create: args.create_stream })
    }

    /// Checks that the streams exist, before anything is sent.
    ///
    /// # Errors
    /// A stream is missing and may be misspelt, or Redis cannot be reached.
    pub(super) async fn look_for_streams(&mut self) -> anyhow::Result<()> {
        let Way::Stream(direct) = &self.way else { return Ok(()) };
        let streams = direct.streams().await.context("publishing failed")?;
        let note = streams::judge(&streams, self.listed_by, self.may_create);
        self.notes.extend(note.map_err(anyhow::Error::msg)?);
        Ok(())
    }

    /// Notes before anything is sent: the target, if no option names it, and checks that are not
    /// possible.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Largest data, in bytes.
    pub(super) fn bytes_max(&self) -> usize {
        self.check.bytes_max()
    }

    /// Checks a delta as the servers that read it do.
    pub(super) fn check(&mut self, draft: Draft<'_>) -> Result<Checked, Box<Refusal>> {
        self.check.check(draft)
    }

    /// Sends deltas in order; each has an outcome.
    pub(super) async fn send(&self, deltas: &[&Checked]) -> Vec<Sent> {
        if deltas.is_empty() {
            return Vec::new();
        }
        match &self.way {
            Way::Api(api) => match api.send(deltas).await {
                Ok(sent) => sent,
                Err(why) => vec![Err(Fault::Failed(why)); deltas.len()],
            },
            Way::Stream(direct) => {
                let placed = direct.append_all(deltas).await.into_iter();
                placed
                    .map(|placed| match placed {
                        Ok(placed) => Ok(Placed::from(match placed.id {
                            Some(id) => format!("offset={}\tid={id}\tstream={}", placed.offset, placed.stream),
                            None => format!("sequence={}\tstream={}", placed.offset, placed.stream),
                        })),
                        Err(Failure::Refused(error)) => {
                            Err(Fault::Refused(Some(error.label().to_owned()), error.to_string()))
                        }
                        Err(Failure::Unavailable(why)) => Err(Fault::Failed(why)),
                    })
                    .collect()
            }
        }
    }
}
