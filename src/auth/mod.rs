//! Who a client is and which topics it may have.

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

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `sub`.
    pub user: String,
    /// `exp`, Unix s; [`has_ended`] says when it counts no more.
    pub expires_s: Option<u64>,
    /// What may be subscribed to.
    pub topics: TopicRules,
    /// JSON shown to others in presence, join and leave; empty without.
    pub info: Bytes,
    /// What the server subscribes its Centrifuge session to, sorted.
    pub subscribed: Vec<TopicName>,
    /// Bytes of answers that the user's sessions have asked for.
    pub asked: Arc<Shared>,
    /// Kept as long as the session is this user's, where sessions are counted by user.
    pub seat: Option<Arc<Seat>>,
}

impl Identity {
    /// Bytes of memory; of what it shares with those of the same token its part.
    pub fn bytes(&self) -> usize {
        let rules: usize = self.topics.0.iter().map(|rule| size_of::<String>() + rule.capacity()).sum();
        let subscribed: usize = self.subscribed.iter().map(|name| 2 * size_of::<usize>() + name.as_str().len()).sum();
        let shared = (self.info.len() + rules) / Arc::strong_count(&self.topics.0);
        // With the counts of what is shared.
        size_of::<Self>() + 4 * size_of::<usize>() + self.user.capacity() + shared + subscribed
    }

    /// Whether the server subscribes its sessions to a topic.
    pub fn is_subscribed(&self, topic: &TopicName) -> bool {
        self.subscribed.binary_search(topic).is_ok()
    }
}

/// What a valid subscription token says: its bearer may have the one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// `sub`: whose session may have it.
    pub user: String,
    /// `exp`, Unix s; likewise.
    pub expires_s: Option<u64>,
    /// JSON shown to others in presence, join and leave; empty without.
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

    /// Whether one of them fits.
    pub fn allow(&self, topic: &TopicName) -> bool {
        self.allow_str(topic.as_str())
    }

    /// Whether one of them fits and has `mark` itself: as a name, or before its `*`.
    pub(super) fn name_with(&self, topic: &TopicName, mark: char) -> bool {
        let topic = topic.as_str();
        self.0.iter().any(|rule| match rule.strip_suffix('*') {
            Some(prefix) => prefix.contains(mark) && topic.starts_with(prefix),
            None => rule == topic,
        })
    }

    /// Whether one of them fits and names the topic's namespace: as a name, or before its `*`.
    pub(super) fn name_itself(&self, topic: &TopicName) -> bool {
        let topic = topic.as_str();
        let named = self.rules().filter(|rule| namespace_of(rule) == namespace_of(topic));
        named.into_iter().any(|rule| rule.strip_suffix('*').map_or(rule == topic, |prefix| topic.starts_with(prefix)))
    }

    /// The same of a name that nobody has looked at yet.
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
