//! `[rpc]`: calls (RPC) of Centrifuge clients.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::secrets::{self, redacted};
use crate::limits;

/// `[rpc]`: the endpoint for calls of Centrifuge clients.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rpc {
    /// `http(s)://…`. It gets `{"client","user","method","data"}` by POST and answers
    /// `{"result":{"data":…}}` or `{"error":{"code":1000,"message":"…"}}`. Without one, calls are
    /// answered "not available".
    #[serde(serialize_with = "secrets::hide_some_url")]
    pub endpoint: Option<String>,
    /// Time in which the endpoint must answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Value of the `Authorization` header that it gets.
    #[serde(skip_serializing)]
    pub authorization: Option<String>,
    /// File that holds this value.
    pub authorization_file: Option<PathBuf>,
}

impl Default for Rpc {
    fn default() -> Self {
        Self { endpoint: None, timeout: limits::RPC_TIMEOUT, authorization: None, authorization_file: None }
    }
}

impl std::fmt::Debug for Rpc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let endpoint = self.endpoint.as_deref().map(redacted);
        f.debug_struct("Rpc").field("endpoint", &endpoint).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
