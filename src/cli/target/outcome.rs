//! What became of a delta that was sent.

use std::fmt::Display;

/// A delta that was not published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Fault {
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
pub(in crate::cli) struct Warning {
    pub(in crate::cli) text: String,
    /// The warning as one line.
    pub(in crate::cli) told: String,
}

/// The position of a delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Placed {
    /// The position, for scripts.
    pub(in crate::cli) place: String,
    /// Warnings about the delta.
    pub(in crate::cli) warnings: Vec<Warning>,
}

impl From<String> for Placed {
    fn from(place: String) -> Self {
        Self { place, warnings: Vec::new() }
    }
}

/// Outcome of a delta: its position, or why it was not published.
pub(in crate::cli) type Sent = Result<Placed, Fault>;
