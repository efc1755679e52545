//! What a valid token says.

use std::sync::Arc;

use bytes::Bytes;

use super::seats::Seat;
use super::topic_rules::TopicRules;
use crate::name::TopicName;
use crate::rate::Shared;

/// Contents of a valid token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// `sub`.
    pub user: String,
    /// `exp`, Unix s; [`super::has_ended`] adds the tolerance.
    pub expires_s: Option<u64>,
    /// Topics that may be subscribed to.
    pub topics: TopicRules,
    /// JSON that others see in presence, join and leave; empty if there is none.
    pub info: Bytes,
    /// Topics that the server subscribes its Centrifuge session to, sorted.
    pub subscribed: Vec<TopicName>,
    /// Bytes of answers that the user's sessions have requested.
    pub asked: Arc<Shared>,
    /// The session's place among the user's sessions, if sessions are counted by user.
    pub seat: Option<Arc<Seat>>,
}

impl Identity {
    /// Bytes of memory. Of data shared by sessions with the same token, it counts one share.
    pub fn bytes(&self) -> usize {
        let subscribed: usize = self.subscribed.iter().map(|name| 2 * size_of::<usize>() + name.as_str().len()).sum();
        let shared = (self.info.len() + self.topics.bytes()) / self.topics.holders();
        // With the counters of the shared parts.
        size_of::<Self>() + 4 * size_of::<usize>() + self.user.capacity() + shared + subscribed
    }

    /// Whether the server subscribes its sessions to a topic.
    pub fn is_subscribed(&self, topic: &TopicName) -> bool {
        self.subscribed.binary_search(topic).is_ok()
    }
}

/// Contents of a valid subscription token, which gives one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// `sub`: the user whose sessions may have it.
    pub user: String,
    /// `exp`, Unix s; see [`Identity::expires_s`].
    pub expires_s: Option<u64>,
    /// JSON that others see in presence, join and leave; empty if there is none.
    pub info: Bytes,
}
