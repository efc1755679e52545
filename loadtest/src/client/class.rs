//! Delivery classes.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Delivery class of the published topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Class {
    /// Every delta counts.
    Stream,
    /// The newest value counts.
    Latest,
    /// Merge patches.
    Merge,
}

impl Class {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Latest => "latest",
            Self::Merge => "merge",
        }
    }
}
