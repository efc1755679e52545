//! `[operator]`: how operators get in.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A port for operators alone, and their key.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Operator {
    /// Where `/metrics`, `/status`, `/ops`, `/admin/…` and the operators' commands of `/api` are served; then they are
    /// nowhere else. Without it, on the other ports.
    pub listen: Option<SocketAddr>,
    /// What `/metrics` and `/status` ask for, where set; and one of the keys that `/admin/…` and the operators' commands
    /// take.
    #[serde(skip_serializing)]
    pub key: Option<String>,
    /// File that holds it.
    pub key_file: Option<PathBuf>,
    /// Serve `/metrics` and `/status` without a key although clients need tokens.
    pub open: bool,
}

impl Operator {
    /// Whether there is a key.
    pub fn has_key(&self) -> bool {
        self.key.is_some() || self.key_file.is_some()
    }
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operator").field("listen", &self.listen).field("key", &self.has_key()).finish_non_exhaustive()
    }
}
