//! The target of `publish` and `replay`: a server's publish API, a Redis stream, or a NATS stream.

mod api;
mod args;
mod outcome;
mod plan;
mod streams;

use anyhow::{Context as _, bail};

use self::api::Api;
pub(super) use self::args::TargetArgs;
pub(super) use self::outcome::{Fault, Placed, Sent, Warning};
pub(super) use self::plan::FORMS;
use self::plan::{Plan, To};
use self::streams::ListedBy;
use crate::source::direct::Direct;
use crate::source::draft::Draft;
use crate::source::failure::Failure;
use crate::source::precheck::{Checked, Precheck};
use crate::source::refusals::Refusal;

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
