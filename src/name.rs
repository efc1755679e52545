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
}
