//! `[ops]`: reports of the server about itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[ops]`: this server's own topic, `ops:nodes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ops {
    /// Time between two reports; `"0s"` means never.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

impl Default for Ops {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1) }
    }
}
