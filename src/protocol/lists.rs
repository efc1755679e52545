//! Lists of topics in commands, limited while they are read: after the limit nothing more is read
//! or kept.

use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::command::{bounded, clipped};
use super::members::Object;
use super::{Refusal, Refused};
use crate::limits::REASON_BYTES_MAX;
use crate::name::TopicName;
use crate::position::Position;

/// The topics of a command: valid names, and why the others are refused.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) topics: Vec<TopicName>,
    pub(super) refused: Refused,
}

/// Reads a list of topics.
///
/// # Errors
/// 429 if it has more than `most`; 400 if it is not a list of strings, or is empty.
pub(super) fn names(member: &str, list: Option<&RawValue>, most: usize) -> Result<Names, Refusal> {
    let mut reading = NamesReading { names: Names::default(), left: Left::new(most) };
    if let Some(list) = list {
        let outcome = serde_json::Deserializer::from_str(list.get()).deserialize_seq(&mut reading);
        outcome.map_err(|error| reading.left.refusal(member, &error))?;
    }
    let names = reading.names;
    match names.topics.is_empty() && names.refused.is_empty() {
        true => Err(Refusal::new(400, format!("`{member}` names no topic"))),
        false => Ok(names),
    }
}

/// Reads positions by topic.
///
/// # Errors
/// 429 if there are more than `most`; 400 if they are not positions.
pub(super) fn positions(
    member: &str,
    map: Option<&RawValue>,
    most: usize,
) -> Result<HashMap<String, Position>, Refusal> {
    let mut reading = PositionsReading { positions: HashMap::new(), left: Left::new(most) };
    if let Some(map) = map {
        let outcome = serde_json::Deserializer::from_str(map.get()).deserialize_map(&mut reading);
        outcome.map_err(|error| reading.left.refusal(member, &error))?;
    }
    Ok(reading.positions)
}

/// Number of entries that a list may still have.
struct Left {
    most: usize,
    entries: usize,
}

impl Left {
    fn new(most: usize) -> Self {
        Self { most, entries: most }
    }

    /// Takes one; `false` if none is left.
    fn take(&mut self) -> bool {
        let any = self.entries > 0;
        self.entries = if any { self.entries - 1 } else { usize::MAX };
        any
    }

    fn refusal(&self, member: &str, error: &serde_json::Error) -> Refusal {
        if self.entries == usize::MAX {
            let most = self.most;
            return Refusal::new(429, format!("`{member}` has more than {most} topics (limits.subscriptions)"));
        }
        Refusal::new(400, format!("malformed command: `{member}`: {}", bounded(error)))
    }
}

struct NamesReading {
    names: Names,
    left: Left,
}

impl<'de> Visitor<'de> for &mut NamesReading {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of topics")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(NameSeed(self))?.is_some() {}
        Ok(())
    }
}

/// One name of a list, without a copy of it.
struct NameSeed<'a>(&'a mut NamesReading);

impl<'de> DeserializeSeed<'de> for NameSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if !self.0.left.take() {
            return Err(D::Error::custom("too many"));
        }
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a topic")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        let names = &mut self.0.names;
        match TopicName::new(text) {
            Ok(name) => names.topics.push(name),
            Err(e) => names.refused.add(Refusal::new(400, e.to_string()).about(clipped(text, REASON_BYTES_MAX))),
        }
        Ok(())
    }
}

struct PositionsReading {
    positions: HashMap<String, Position>,
    left: Left,
}

impl<'de> Visitor<'de> for &mut PositionsReading {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("positions by topic")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(topic) = map.next_key::<String>()? {
            if !self.left.take() {
                return Err(A::Error::custom("too many"));
            }
            let Object(position) = map.next_value()?;
            self.positions.insert(topic, position);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn a_list_that_is_too_long_is_refused_as_a_whole() {
        let most = names("args", Some(&raw(r#"["a","b"]"#)), 2).unwrap();
        assert_eq!(most.topics.len(), 2);
        for long in [r#"["a","b","c"]"#, r#"["","",""]"#, r#"["a","a","a"]"#] {
            assert_eq!(names("args", Some(&raw(long)), 2).unwrap_err().code, 429, "{long}");
        }
        let position = r#"{"offset":1,"epoch":"e"}"#;
        assert_eq!(positions("since", Some(&raw(&format!(r#"{{"a":{position}}}"#))), 1).unwrap().len(), 1);
        let long = format!(r#"{{"a":{position},"b":{position}}}"#);
        assert_eq!(positions("since", Some(&raw(&long)), 1).unwrap_err().code, 429);
    }

    /// Elements after the limit are not parsed.
    #[test]
    fn reading_stops_at_the_bound() {
        let list = format!(r#"["a",{}"b"]"#, "7,".repeat(10_000));
        assert_eq!(names("args", Some(&raw(&list)), 1).unwrap_err().code, 429);
        assert_eq!(names("args", Some(&raw(&list)), 2).unwrap_err().code, 400);
    }

    proptest! {
        #[test]
        fn all_that_are_in_a_list_are_told_of(texts in prop::collection::vec(".{0,300}", 1..20), most in 1usize..25) {
            let json = serde_json::to_string(&texts).unwrap();
            match names("args", Some(&raw(&json)), most) {
                Ok(names) => {
                    prop_assert!(texts.len() <= most);
                    prop_assert_eq!(names.topics.len() + names.refused.len(), texts.len());
                }
                Err(refusal) => {
                    prop_assert_eq!(refusal.code, 429);
                    prop_assert!(texts.len() > most);
                }
            }
        }
    }
}
