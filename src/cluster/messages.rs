//! What nodes say to each other.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::NodeReport;
use crate::hub::{Order, Who};
use crate::name::TopicName;
use crate::protocol::MemberInfo;

/// A message and who says it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    pub(super) from: String,
    pub(super) said: Said,
}

/// A message.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said {
    /// How the node fares.
    Report { report: Box<NodeReport> },
    /// It stops.
    Bye,
    /// Somebody subscribed there, or left.
    Membership { topic: TopicName, joined: bool, info: Arc<MemberInfo> },
    /// An operator's order.
    Order { who: Who, order: Order },
    /// How many are subscribed to what?
    Census { question: u64, pattern: Option<String> },
    /// So many.
    Counted { to: String, question: u64, topics: Vec<(String, u64)> },
}
