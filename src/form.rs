//! The form of a namespace's payloads.

use serde::{Deserialize, Serialize};

/// The form of a namespace's payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadForm {
    /// One JSON value, checked on arrival.
    #[default]
    Json,
    /// Any bytes. Protobuf sessions get them as they are; JSON sessions get them in base64.
    Bytes,
}
