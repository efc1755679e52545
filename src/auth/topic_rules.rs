//! The topics that a token or a key gives.

use std::sync::Arc;

use crate::name::{TopicName, namespace_of};

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

    /// Bytes of memory of the rules.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|rule| size_of::<String>() + rule.capacity()).sum()
    }

    /// Number of holders that share the rules.
    pub(super) fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
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
