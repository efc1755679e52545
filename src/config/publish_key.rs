//! `[[publish.key]]`: a key with restricted rights.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A key with a name and its rights.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishKey {
    /// The name in logs and metrics.
    pub name: String,
    /// The key itself, at least 16 bytes.
    #[serde(default, skip_serializing)]
    pub secret: Option<String>,
    /// File that holds it.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// Environment variable that holds it.
    #[serde(default)]
    pub secret_env: Option<String>,
    /// Topics that it may publish to or query: exact names, or prefixes that end in `*`.
    pub topics: Vec<String>,
    /// Commands that it may use.
    #[serde(default = "publish")]
    pub scopes: Vec<Scope>,
}

fn publish() -> Vec<Scope> {
    vec![Scope::Publish]
}

/// A group of commands that a key may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// `publish` and `broadcast`.
    Publish,
    /// The operators' commands: `history`, `presence`, `presence_stats`, `channels`, `info`,
    /// `disconnect`, `unsubscribe`; and `/admin/…`.
    Operate,
}

impl std::fmt::Debug for PublishKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, topics, scopes, .. } = self;
        let mut shown = f.debug_struct("PublishKey");
        shown.field("name", name).field("topics", topics).field("scopes", scopes).finish_non_exhaustive()
    }
}
