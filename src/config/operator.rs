//! `[operator]`: how operators connect.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The operators' own port and key.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Operator {
    /// Port of `/metrics`, `/status`, `/ops`, `/admin/…` and the operators' commands of `/api`; no
    /// other port then serves them. Without it, the other ports do.
    pub listen: Option<SocketAddr>,
    /// The key that `/metrics` and `/status` need. `/admin/…` and the operators' commands accept it
    /// too.
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
