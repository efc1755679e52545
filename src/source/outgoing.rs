//! A delta that the publish API takes.

use crate::topic::{Kind, Payload};

/// A delta on its way out.
#[derive(Debug, Clone)]
pub struct Outgoing<'a> {
    /// Topic, not yet checked.
    pub topic: &'a str,
    /// What it does.
    pub kind: Kind,
    /// Time at its source, Unix ms.
    pub ts: Option<u64>,
    /// JSON.
    pub payload: Payload,
    /// The idempotency key: the same publish with it again is answered with the first one's result, for a while.
    pub once: Option<&'a str>,
}
