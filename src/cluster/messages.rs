//! Messages between nodes. Their names on the wire stay as they are: nodes of two versions run side
//! by side.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::NodeReport;
use crate::hub::{Order, Who};
use crate::name::TopicName;
use crate::protocol::MemberInfo;

/// A message and its sender.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    pub(super) from: String,
    #[serde(rename = "said")]
    pub(super) message: ClusterMessage,
}

/// A message.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ClusterMessage {
    /// The sender's health.
    Report { report: Box<NodeReport> },
    /// The sender stops.
    #[serde(rename = "bye")]
    Leave,
    /// A session subscribed on the sender, or left.
    Membership { topic: TopicName, joined: bool, info: Arc<MemberInfo> },
    /// An operator's order.
    Order { who: Who, order: Order },
    /// A request for the number of subscribers per topic.
    #[serde(rename = "census")]
    ChannelCounts { question: u64, pattern: Option<String> },
    /// The reply to it.
    Counted { to: String, question: u64, topics: Vec<(String, u64)> },
}
