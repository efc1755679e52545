//! Where `publish` and `replay` send deltas: a server's publish API, a Redis stream, or a NATS stream.

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
use crate::source::precheck::{Checked, Precheck};
use crate::source::publish::Failure;
use crate::source::refusals::Refusal;

#[derive(Debug, Args)]
#[command(next_help_heading = "Target")]
pub(super) struct TargetArgs {
    /// Where to: see below [default: the stream that --config names, else http://127.0.0.1:8000]
    #[arg(long, value_name = "URL", env = "NEXUS_TO", hide_env_values = true)]
    to: Option<String>,
    /// Configuration file of the servers: where the stream is, names of fields, namespaces and limits to check by
    #[arg(long, short, value_name = "FILE", env = "NEXUS_CONFIG")]
    config: Option<PathBuf>,
    /// Redis: the streams, all and in the order of source.redis.streams [default: nexus:deltas]; NATS: the stream
    /// [default: NEXUS]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    stream: Vec<String>,
    /// Redis: publish though streams of the list are not there yet: the first entry creates a stream
    #[arg(long)]
    create_stream: bool,
    /// Redis: MAXLEN ~ of the stream [default: 1000000, or source.redis.max_len]
    #[arg(long, value_name = "N")]
    max_len: Option<u64>,
    /// NATS: subjects of the stream, as source.nats.subjects has them [default: nexus.deltas.>]
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// Server: publish key
    #[arg(long, value_name = "KEY", env = "NEXUS_API_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Server: file that holds the publish key
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    key_file: Option<PathBuf>,
    /// https:// and NATS over TLS: PEM file of the authorities that may vouch for the server, in place of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Without --config: the topics' namespaces have payload = "bytes", so that data may be anything
    #[arg(long)]
    bytes: bool,
}

/// A delta that was not published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server refused it; others may be taken. The reason as its metrics and its log call it, where it says that, and why.
    Refused(Option<String>, String),
    /// The target did not confirm it, whatever it is.
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

/// What the server says is wrong with a delta that it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Warning {
    pub(super) text: String,
    /// All of it in a line.
    pub(super) told: String,
}

/// Where a delta is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    /// In words for scripts.
    pub(super) place: String,
    /// What is wrong with it all the same.
    pub(super) warnings: Vec<Warning>,
}

impl From<String> for Placed {
    fn from(place: String) -> Self {
        Self { place, warnings: Vec::new() }
    }
}

/// What became of a delta: where it is, or why it was not published.
pub(super) type Sent = Result<Placed, Fault>;

enum Way {
    Api(Api),
    Stream(Box<Direct>),
}

/// A target that deltas are checked for and sent to.
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

    /// Looks whether the streams are there, before anything is sent.
    ///
    /// # Errors
    /// A stream is missing that may be misspelt, or Redis cannot be asked.
    pub(super) async fn look_for_streams(&mut self) -> anyhow::Result<()> {
        let Way::Stream(direct) = &self.way else { return Ok(()) };
        let streams = direct.streams().await.context("publishing failed")?;
        let note = streams::judge(&streams, self.listed_by, self.may_create);
        self.notes.extend(note.map_err(anyhow::Error::msg)?);
        Ok(())
    }

    /// What is to be known before anything is sent: where it goes, where nobody has said that, and what cannot be checked.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Largest data, in bytes.
    pub(super) fn bytes_max(&self) -> usize {
        self.check.bytes_max()
    }

    /// Checks a delta as the servers that read it will.
    pub(super) fn check(&mut self, draft: Draft<'_>) -> Result<Checked, Box<Refusal>> {
        self.check.check(draft)
    }

    /// Sends deltas in their order; each has a result.
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
