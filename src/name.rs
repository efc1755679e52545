//! Topic names: `namespace:name`.

use std::fmt;
use std::sync::Arc;

use crate::limits::TOPIC_NAME_BYTES_MAX;

/// A valid topic name: 1 to 255 bytes, printable, no white space. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

/// Why a text is no topic name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("topic name is empty")]
    Empty,
    /// Over the bound.
    #[error("topic name has {0} bytes, the most is {TOPIC_NAME_BYTES_MAX}")]
    TooLong(usize),
    /// White space or a control character.
    #[error("topic name has a character that is not printable: {0:?}")]
    NotPrintable(char),
}

impl TopicName {
    /// Checks `text`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > TOPIC_NAME_BYTES_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        match text.chars().find(|c| c.is_control() || c.is_whitespace()) {
            Some(c) => Err(NameError::NotPrintable(c)),
            None => Ok(Self(Arc::from(text))),
        }
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first `:`, if there is one.
    pub fn namespace(&self) -> Option<&str> {
        self.0.split_once(':').map(|(namespace, _)| namespace)
    }
}

impl serde::Serialize for TopicName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for TopicName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Whether `name` fits a pattern in which `*` stands for any number of characters.
pub fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(first) = parts.next() else { return true };
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        last = Some(part);
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    // The last piece must be the end; where it was found first does not matter.
    last.map_or(rest.is_empty(), |last| last.is_empty() || name.ends_with(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(TopicName::new("quotes:BTCUSDT").unwrap().namespace(), Some("quotes"));
        assert_eq!(TopicName::new("a:b:c").unwrap().namespace(), Some("a"));
        assert_eq!(TopicName::new("plain").unwrap().namespace(), None);
        assert_eq!(TopicName::new(""), Err(NameError::Empty));
        assert_eq!(TopicName::new("a b"), Err(NameError::NotPrintable(' ')));
        assert_eq!(TopicName::new("a\u{7}"), Err(NameError::NotPrintable('\u{7}')));
        assert!(TopicName::new(&"x".repeat(255)).is_ok());
        assert_eq!(TopicName::new(&"x".repeat(256)), Err(NameError::TooLong(256)));
    }

    #[test]
    fn patterns() {
        for (pattern, name, fit) in [
            ("*", "a:b", true),
            ("a:*", "a:b", true),
            ("a:*", "b:a:", false),
            ("a:b", "a:b", true),
            ("a:b", "a:bc", false),
            ("*:b", "a:b", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c2b", false),
            ("a*b", "abab", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(fits(pattern, name), fit, "{pattern} {name}");
        }
    }
}
