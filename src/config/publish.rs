//! `[publish]`: which publishers may publish.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::publish_key::PublishKey;

/// `[publish]`
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Publish {
    /// Keys accepted in `X-API-Key`. Without any key, and with `open` false, the publish API is
    /// off.
    #[serde(skip_serializing)]
    pub keys: Vec<String>,
    /// Files that hold one key each.
    pub key_files: Vec<PathBuf>,
    /// Keys with restricted rights. The keys above may do everything.
    pub key: Vec<PublishKey>,
    /// Accept publishes only over connections with a client certificate that `tls.client_ca_file`
    /// vouches for. If there are keys, a key is needed too.
    pub client_certificate: bool,
    /// Accept publishes without a key. For development on loopback.
    pub open: bool,
    /// How the API reports a refused command, unless the request asks for one of the two ways.
    pub error_style: ErrorStyle,
}

/// How the API reports a refused command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorStyle {
    /// Status 200, and an error with Centrifugo's code.
    #[default]
    Centrifugo,
    /// An HTTP status, which is also the error's code.
    Http,
}

impl std::fmt::Debug for Publish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publish").field("keys", &self.keys.len()).field("open", &self.open).finish_non_exhaustive()
    }
}
