//! JSON objects of clients, read member by member. An error names the wrong member, its value and
//! the expected form. Derived readers would accept a list for an object, member by member in order.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Refusal;
use super::command::{bounded, clipped};
use crate::spelling::nearest;

/// Bytes of a client's own text that an error may repeat.
const SHOWN_BYTES: usize = 64;

/// An object for a derived reader, which then cannot accept a list.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(std::marker::PhantomData))
    }
}

/// A member that is an object, or `null` or absent.
pub(super) fn object<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|object| object.0))
}

/// The known members of an object, as sent.
pub(super) struct Members<'a> {
    names: &'static [&'static str],
    values: Vec<Option<&'a RawValue>>,
    /// The first member that is unknown or repeated.
    stray: Option<String>,
}

impl<'a> Members<'a> {
    /// Reads an object. If it is malformed, the members before the fault are kept.
    pub(super) fn read(text: &'a [u8], names: &'static [&'static str]) -> (Self, Result<(), Refusal>) {
        let mut members = Self { names, values: vec![None; names.len()], stray: None };
        let mut json = serde_json::Deserializer::from_slice(text);
        let outcome = json.deserialize_map(&mut members).and_then(|()| json.end());
        let outcome = outcome.map_err(|error| Refusal::new(400, format!("malformed command: {}", bounded(&error))));
        (members, outcome)
    }

    /// Reads an object that is a whole command and has only known members.
    ///
    /// # Errors
    /// Its fault.
    pub(super) fn all(text: &'a [u8], names: &'static [&'static str]) -> Result<Self, Refusal> {
        let (members, outcome) = Self::read(text, names);
        outcome?;
        members.only(names)?;
        Ok(members)
    }

    /// A member as sent; `null` counts as absent.
    pub(super) fn raw(&self, name: &str) -> Option<&'a RawValue> {
        let at = self.names.iter().position(|known| *known == name)?;
        self.values.get(at).copied().flatten().filter(|value| value.get() != "null")
    }

    /// The first member that is unknown or repeated.
    pub(super) fn stray(&self) -> Option<&str> {
        self.stray.as_deref()
    }

    /// The value of a member that must be `kind`; `null` counts as absent.
    ///
    /// # Errors
    /// It has another kind.
    pub(super) fn value<T: Deserialize<'a>>(&self, name: &str, kind: impl fmt::Display) -> Result<Option<T>, Refusal> {
        let Some(value) = self.raw(name) else { return Ok(None) };
        let read = serde_json::from_str(value.get()).map(Some);
        read.map_err(|_| Refusal::new(400, format!("`{name}` must be {kind}, not {}", shown(value.get()))))
    }

    /// Checks that there are only these members, each once.
    ///
    /// # Errors
    /// There is another.
    pub(super) fn only(&self, names: &[&str]) -> Result<(), Refusal> {
        let others = self.names.iter().filter(|name| !names.contains(name));
        let other = others.copied().find_map(|name| Some((name, self.raw(name)?)));
        let reason = match (&self.stray, other) {
            (Some(stray), _) if self.names.contains(&stray.as_str()) => format!("`{stray}` is there twice"),
            (Some(stray), _) => {
                let meant = nearest(stray, names.iter().copied());
                let meant = meant.map_or_else(String::new, |meant| format!(" did you mean `{meant}`?"));
                format!("`{stray}` is no member of this;{meant} there are {}", names.join(", "))
            }
            (None, Some((name, value))) => {
                let value = shown(value.get());
                format!("`{name}` is {value}, but is no member of this; there are {}", names.join(", "))
            }
            (None, None) => return Ok(()),
        };
        Err(Refusal::new(400, reason))
    }
}

impl<'de> Visitor<'de> for &mut Members<'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let place = self.names.iter().position(|known| *known == name).and_then(|at| self.values.get_mut(at));
            match place {
                Some(place @ None) => *place = Some(map.next_value()?),
                _ => {
                    self.stray.get_or_insert_with(|| clipped(&name, SHOWN_BYTES).to_owned());
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// The part of a value that an error repeats.
pub(super) fn shown(json: &str) -> String {
    match clipped(json, SHOWN_BYTES) {
        all if all.len() == json.len() => all.to_owned(),
        start => format!("{start}…"),
    }
}
