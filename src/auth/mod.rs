//! Identities of clients, and the topics that they may have.

mod api_keys;
mod claims;
mod jwks;
mod keys;
mod rights;
mod tokens;
mod users;
mod verified;
mod verifier;

use std::sync::Arc;

use bytes::Bytes;

use crate::name::{TopicName, namespace_of};
use crate::rate::Shared;

pub use api_keys::{ApiKey, ApiKeys};
pub use claims::{has_ended, read_claims};
pub use rights::{Denied, may_have, names_its_users};
pub use tokens::{TokenError, Tokens, Verdict};
pub use users::{Seat, Users};
pub use verifier::{Caller, Verifier};

/// Contents of a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `sub`.
    pub user: String,
    /// `exp`, Unix s; [`has_ended`] adds the tolerance.
    pub expires_s: Option<u64>,
    /// Topics that may be subscribed to.
    pub topics: TopicRules,
    /// JSON that others see in presence, join and leave; empty if there is none.
    pub info: Bytes,
    /// Topics that the server subscribes its Centrifuge session to, sorted.
    pub subscribed: Vec<TopicName>,
    /// Bytes of answers that the user's sessions have requested.
    pub asked: Arc<Shared>,
    /// Its place among the user's sessions, if sessions are counted by user.
    pub seat: Option<Arc<Seat>>,
}

impl Identity {
    /// Bytes of memory. Of data shared by sessions with the same token, it counts one share.
    pub fn bytes(&self) -> usize {
        let rules: usize = self.topics.0.iter().map(|rule| size_of::<String>() + rule.capacity()).sum();
        let subscribed: usize = self.subscribed.iter().map(|name| 2 * size_of::<usize>() + name.as_str().len()).sum();
        let shared = (self.info.len() + rules) / Arc::strong_count(&self.topics.0);
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

/// Topics by exact name, or by prefix where a rule ends in `*`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicRules(Arc<[String]>);

impl TopicRules {
    /// From the rules' texts.
    pub fn new(rules: impl IntoIterator<Item = String>) -> Self {
        Self(rules.into_iter().collect())
    }

    /// The rules' texts.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether a rule matches.
    pub fn allow(&self, topic: &TopicName) -> bool {
        self.allow_str(topic.as_str())
    }

    /// Whether a rule matches and contains `mark` itself: in a name, or before its `*`.
    pub(super) fn name_with(&self, topic: &TopicName, mark: char) -> bool {
        let topic = topic.as_str();
        self.0.iter().any(|rule| match rule.strip_suffix('*') {
            Some(prefix) => prefix.contains(mark) && topic.starts_with(prefix),
            None => rule == topic,
        })
    }

    /// Whether a rule matches and names the topic's namespace: in a name, or before its `*`.
    pub(super) fn name_itself(&self, topic: &TopicName) -> bool {
        let topic = topic.as_str();
        let named = self.rules().filter(|rule| namespace_of(rule) == namespace_of(topic));
        named.into_iter().any(|rule| rule.strip_suffix('*').map_or(rule == topic, |prefix| topic.starts_with(prefix)))
    }

    /// The same for a name that is not checked yet.
    pub fn allow_str(&self, topic: &str) -> bool {
        self.0.iter().any(|rule| match rule.strip_suffix('*') {
            Some(prefix) => topic.starts_with(prefix),
            None => rule == topic,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_exact_or_prefixes() {
        let rules = TopicRules::new(["quotes:*".to_owned(), "signals:mine".to_owned()]);
        for (topic, allowed) in [
            ("quotes:A", true),
            ("quotes:", true),
            ("quote:A", false),
            ("signals:mine", true),
            ("signals:mine2", false),
        ] {
            assert_eq!(rules.allow(&TopicName::new(topic).unwrap()), allowed, "{topic}");
        }
        assert!(!TopicRules::default().allow(&TopicName::new("a").unwrap()));
    }
}
