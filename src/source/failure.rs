//! Why a publish failed.

use crate::topic::PublishError;

/// Why a publish failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The delta is at fault.
    #[error(transparent)]
    Refused(#[from] PublishError),
    /// Something else is; it may be sent again.
    #[error("{0}")]
    Unavailable(String),
}
