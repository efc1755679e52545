//! The state of a topic in the form that its class needs.

use bytes::Bytes;

use super::super::account::{MEMBER_BYTES, VALUE_STEP_BYTES};
use super::super::delta::{Delta, Keep};
use super::super::merge::{self, Members, ParseError};
use crate::accounts::allocated;
use crate::config::Class;

/// The state of a topic.
#[derive(Debug)]
pub(super) enum Value {
    /// The history is the state.
    Stream,
    /// The last delta.
    Latest(Option<Keep<Delta>>),
    /// The object, taken apart.
    Merge {
        members: Members,
        /// Bytes of its JSON text.
        bytes: usize,
        /// Members, those of inner objects too.
        count: usize,
    },
    /// The object of a `merge` topic as text, once it was neither read nor changed for long.
    Prepared(Bytes),
}

impl Value {
    pub(super) fn empty(class: Class) -> Self {
        match class {
            Class::Stream => Self::Stream,
            Class::Latest => Self::Latest(None),
            Class::Merge => Self::Merge { members: Members::new(), bytes: 2, count: 0 },
        }
    }

    /// The object of a `merge` topic.
    pub(super) fn of_members(members: Members) -> Self {
        let (bytes, count) = (merge::members_bytes(&members), merge::count_members(&members));
        Self::Merge { members, bytes, count }
    }

    /// Bytes that it takes of memory.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Stream | Self::Latest(None) => 0,
            Self::Latest(Some(delta)) => value_weight(delta.payload.bytes().len()),
            Self::Merge { bytes, count, .. } => bytes + count * MEMBER_BYTES,
            Self::Prepared(text) => allocated(text.len()),
        }
    }

    /// What [`Value::weight`] must be.
    #[cfg(test)]
    pub(super) fn true_weight(&self) -> usize {
        match self {
            Self::Merge { members, .. } => Self::of_members(members.clone()).weight(),
            _ => self.weight(),
        }
    }

    /// Bytes of the object's JSON text; 0 of a class that has no object.
    pub(super) fn object_bytes(&self) -> usize {
        match self {
            Self::Stream | Self::Latest(_) => 0,
            Self::Merge { bytes, .. } => *bytes,
            Self::Prepared(text) => text.len(),
        }
    }

    /// Whether it is an object without members.
    pub(super) fn is_empty_object(&self) -> bool {
        matches!(self, Self::Merge { count: 0, .. })
    }

    /// Whether it is an object that is taken apart.
    pub(super) fn is_apart(&self) -> bool {
        matches!(self, Self::Merge { .. })
    }

    /// Keeps an object as its text, if that takes less memory.
    pub(super) fn prepare(&mut self) {
        if let Self::Merge { members, bytes, .. } = &*self
            && allocated(*bytes) < self.weight()
        {
            let mut text = Vec::with_capacity(*bytes);
            merge::write_members(members, &mut text);
            *self = Self::Prepared(text.into());
        }
    }

    /// Takes an object apart that was kept as text. Tells whether it was.
    ///
    /// # Errors
    /// If the text is no object.
    pub(super) fn take_apart(&mut self) -> Result<bool, ParseError> {
        let Self::Prepared(text) = self else { return Ok(false) };
        let members = merge::parse_object(std::str::from_utf8(text).unwrap_or_default())?;
        *self = Self::of_members(members);
        Ok(true)
    }
}

/// Bytes of memory that a value of so many bytes takes.
pub(super) fn value_weight(bytes: usize) -> usize {
    (size_of::<Delta>() + bytes).next_multiple_of(VALUE_STEP_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_kept_as_text_is_the_same_object() {
        let members = merge::parse_object(r#"{"a":{"b":1},"c":[2]}"#).unwrap();
        let mut value = Value::of_members(members.clone());
        let (apart, bytes) = (value.weight(), value.object_bytes());
        value.prepare();
        assert!(!value.is_apart() && value.weight() < apart);
        assert_eq!(value.object_bytes(), bytes);
        assert!(value.take_apart().unwrap() && !value.take_apart().unwrap());
        assert!(matches!(&value, Value::Merge { members: found, .. } if *found == members) && value.weight() == apart);
    }

    #[test]
    fn only_an_object_without_members_is_empty() {
        assert!(Value::empty(Class::Merge).is_empty_object());
        for value in [Value::empty(Class::Stream), Value::empty(Class::Latest)] {
            assert!(!value.is_empty_object() && value.weight() == 0 && value.object_bytes() == 0);
        }
    }
}
