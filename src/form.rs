//! What a namespace's deltas are made of.

use serde::{Deserialize, Serialize};

/// What a namespace's deltas are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadForm {
    /// One JSON value, checked when it comes in.
    #[default]
    Json,
    /// Any bytes. Protobuf sessions get them as they are, sessions that speak JSON get them in base64.
    Bytes,
}
