//! Commands of the API: JSON objects whose members are read one by one, so that an error names the
//! faulty member, and a member that cannot be honoured is refused by name.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::clock::unix_ms;
use crate::http::api::style::told;
use crate::protocol::Refusal;
use crate::source::entry::{API_WORDS, wrong_time};
use crate::source::event_time::read_time;
use crate::source::refusals::{self, Reason};
use crate::spelling::nearest;

/// Members of one command.
const MEMBERS_MAX: usize = 64;

/// Bytes of a client's own text that an error repeats.
const SHOWN_BYTES: usize = 64;

/// The members of a command that were not read yet.
#[derive(Debug, Default)]
pub(in crate::http) struct Members<'a> {
    left: Vec<(String, &'a RawValue)>,
    /// The names read so far, which an error lists as known.
    known: Vec<&'static str>,
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(400, message)
}

/// The type of a JSON value, in words.
fn described(value: &RawValue) -> Cow<'static, str> {
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'{') => "an object".into(),
        Some(b'[') => "a list".into(),
        Some(b'"') => "a string".into(),
        Some(b'n') => "null".into(),
        _ => Cow::Owned(shown(text).to_owned()),
    }
}

/// The part of a text that an error shows.
pub(in crate::http) fn shown(text: &str) -> &str {
    text.get(..text.floor_char_boundary(SHOWN_BYTES)).unwrap_or_default()
}

impl<'a> Members<'a> {
    /// The members of an object; `[]` is an empty one, as PHP writes it.
    ///
    /// # Errors
    /// The value is not an object.
    pub(in crate::http) fn of(command: &'a RawValue, what: &str) -> Result<Self, Refusal> {
        let left = match command.get().as_bytes().first() {
            Some(b'{') => serde_json::from_str::<Listed<'a>>(command.get()).map_err(|error| bad(plain(&error)))?.0,
            Some(b'[') if command.get().bytes().filter(|byte| !byte.is_ascii_whitespace()).count() == 2 => Vec::new(),
            _ => return Err(bad(format!("{what} must be a JSON object, not {}", described(command)))),
        };
        Ok(Self { left, known: Vec::new() })
    }

    /// The only member, if there is exactly one.
    pub(in crate::http) fn only(mut self) -> Option<(String, &'a RawValue)> {
        let only = self.left.pop();
        only.filter(|_| self.left.is_empty())
    }

    /// The value of a member, `null` included.
    pub(in crate::http) fn raw(&mut self, name: &'static str) -> Option<&'a RawValue> {
        self.known.push(name);
        let at = self.left.iter().position(|(known, _)| known == name)?;
        Some(self.left.swap_remove(at).1)
    }

    /// The value of a member; `null` counts as absent.
    pub(in crate::http) fn value(&mut self, name: &'static str) -> Option<&'a RawValue> {
        self.raw(name).filter(|value| value.get() != "null")
    }

    fn read<T: Deserialize<'a>>(&mut self, name: &'static str, kind: &str) -> Result<Option<T>, Refusal> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let read = serde_json::from_str(value.get());
        read.map(Some).map_err(|_| bad(format!("`{name}` must be {kind}, not {}", described(value))))
    }

    /// A text.
    pub(in crate::http) fn text(&mut self, name: &'static str) -> Result<Option<String>, Refusal> {
        self.read(name, "a string")
    }

    /// A text that is not empty.
    pub(in crate::http) fn filled(&mut self, name: &'static str) -> Result<Option<String>, Refusal> {
        Ok(self.text(name)?.filter(|text| !text.is_empty()))
    }

    /// A required text, under either name.
    pub(in crate::http) fn named(&mut self, name: &'static str, other: &'static str) -> Result<String, Refusal> {
        match (self.text(name)?, self.text(other)?) {
            (Some(text), None) | (None, Some(text)) => Ok(text),
            (None, None) => Err(self.missing(&[name, other])),
            (Some(_), Some(_)) => Err(bad(format!("`{name}` and `{other}` mean the same; write one of them"))),
        }
    }

    /// The refusal of a command that lacks a required member, under any of these names. It may be
    /// there, misspelt.
    pub(in crate::http) fn missing(&self, names: &[&'static str]) -> Refusal {
        let meant = |given: &str| nearest(given, names.iter().copied());
        match self.left.iter().find_map(|(given, _)| Some((given, meant(given)?))) {
            Some((given, meant)) => bad(format!("`{}` is not known here; did you mean `{meant}`?", shown(given))),
            None => bad(format!("`{}` is missing", names.first().copied().unwrap_or_default())),
        }
    }

    /// A flag: whether it is set.
    pub(in crate::http) fn flag(&mut self, name: &'static str) -> Result<bool, Refusal> {
        Ok(self.read(name, "true or false")?.unwrap_or(false))
    }

    /// A number from 0 up.
    pub(in crate::http) fn number(&mut self, name: &'static str) -> Result<Option<u64>, Refusal> {
        self.read(name, "a whole number from 0 up")
    }

    /// The time of an event, Unix ms.
    pub(in crate::http) fn event_time(&mut self, name: &'static str) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let json = value.get();
        let text = serde_json::from_str::<Cow<'_, str>>(json).ok();
        let wrong = |fault| told(400, &wrong_time(&API_WORDS, json.as_bytes(), fault));
        match (&text, json.as_bytes().first()) {
            // An empty text counts as absent, as elsewhere.
            (Some(text), _) if text.is_empty() => Ok(None),
            (Some(text), _) => Err(match read_time(text, unix_ms()) {
                Ok(_) => {
                    let text = format!("its member `{name}` is `{}`, a text", shown(json));
                    told(400, &refusals::Refusal::new(Reason::TsNotNumber, text, "give the number without quotes"))
                }
                Err(fault) => wrong(fault),
            }),
            (None, Some(b'-' | b'0'..=b'9')) => read_time(json, unix_ms()).map(Some).map_err(wrong),
            _ => Err(bad(format!("`{name}` must be Unix milliseconds, not {}", described(value)))),
        }
    }

    /// A number.
    pub(in crate::http) fn signed(&mut self, name: &'static str) -> Result<Option<i64>, Refusal> {
        self.read(name, "a whole number")
    }

    /// Texts, at most `max` of them.
    pub(in crate::http) fn texts(&mut self, name: &'static str, max: usize) -> Result<Option<Vec<String>>, Refusal> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let mut values = serde_json::Deserializer::from_str(value.get());
        let read = values.deserialize_seq(Texts { max });
        read.map(Some).map_err(|error| match error.to_string().starts_with(TOO_MANY) {
            true => Refusal::new(413, format!("`{name}` has more than {max} entries")),
            false => bad(format!("`{name}` must be a list of strings")),
        })
    }

    /// Members that are accepted if they change nothing: null, `false`, 0 or empty.
    ///
    /// # Errors
    /// The first that asks for something else.
    pub(in crate::http) fn idle(&mut self, members: &[(&'static str, &str)]) -> Result<(), Refusal> {
        for (name, why) in members {
            let Some(value) = self.value(name) else { continue };
            let text: String = value.get().chars().filter(|c| !c.is_ascii_whitespace()).collect();
            if !matches!(text.as_str(), "false" | "0" | "\"\"" | "{}" | "[]") {
                return Err(bad(format!("`{name}` is not supported: {why}; leave it out")));
            }
        }
        Ok(())
    }

    /// Refuses members that are not known.
    ///
    /// # Errors
    /// The first such member, with the known names.
    pub(in crate::http) fn end(self) -> Result<(), Refusal> {
        match self.left.first() {
            None => Ok(()),
            Some((name, _)) => {
                let known: Vec<String> = self.known.iter().map(|known| format!("`{known}`")).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let meant = nearest(name, self.known.iter().copied());
                let meant = meant.map_or_else(String::new, |meant| format!(" did you mean `{meant}`?"));
                Err(bad(format!("`{}` is not known here;{meant} known are {known}", shown(name))))
            }
        }
    }
}

/// A JSON error in plain words, without the position, which the client cannot see.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

/// Members in order.
struct Listed<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Listed<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Listed<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(String, &'de RawValue)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if members.len() == MEMBERS_MAX {
                        return Err(A::Error::custom(format!("a command has more than {MEMBERS_MAX} members")));
                    }
                    if members.iter().any(|(known, _)| *known == name) {
                        return Err(A::Error::custom(format!("`{}` is there twice", shown(&name))));
                    }
                    members.push((name, value));
                }
                Ok(Listed(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

const TOO_MANY: &str = "too many entries";

/// Reads texts until there are too many; the rest is skipped.
struct Texts {
    max: usize,
}

impl<'de> Visitor<'de> for Texts {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = seq.next_element::<String>()? {
            if texts.len() == self.max {
                return Err(A::Error::custom(TOO_MANY));
            }
            texts.push(text);
        }
        Ok(texts)
    }
}

/// The values of a list, at most `max`.
///
/// # Errors
/// It is not a list, or has more.
pub(in crate::http) fn list<'a>(value: &'a RawValue, name: &str, max: usize) -> Result<Vec<&'a RawValue>, Refusal> {
    struct Values(usize);
    impl<'de> Visitor<'de> for Values {
        type Value = Vec<&'de RawValue>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut values = Vec::new();
            while let Some(value) = seq.next_element::<&'de RawValue>()? {
                if values.len() == self.0 {
                    return Err(A::Error::custom(TOO_MANY));
                }
                values.push(value);
            }
            Ok(values)
        }
    }
    let mut values = serde_json::Deserializer::from_str(value.get());
    values.deserialize_seq(Values(max)).map_err(|error| match error.to_string().starts_with(TOO_MANY) {
        true => Refusal::new(413, format!("`{name}` has more than {max} entries")),
        false => bad(format!("`{name}` must be a list, not {}", described(value))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(text: &str) -> Result<Members<'_>, Refusal> {
        Members::of(serde_json::from_str(text).unwrap(), "a command")
    }

    #[test]
    fn errors_name_the_member_in_plain_words() {
        let told = |text: &str| {
            let mut read = match members(text) {
                Ok(read) => read,
                Err(refusal) => return refusal.reason,
            };
            let outcome = (|| {
                read.named("channel", "topic")?;
                read.number("ts")?;
                read.flag("reverse")?;
                read.texts("channels", 2)?;
                read.idle(&[("tags", "publications carry none")])?;
                read.end()
            })();
            outcome.err().map(|refusal: Refusal| refusal.reason).unwrap_or_default()
        };
        for (text, reason) in [
            (r#"{"channel":"a","tags":{},"reverse":null}"#, ""),
            (r#"{"topic":"a","channels":["x","y"],"ts":5}"#, ""),
            ("{}", "`channel` is missing"),
            (r#"{"payload":1}"#, "`channel` is missing"),
            (r#"{"chanel":"a","data":1}"#, "`chanel` is not known here; did you mean `channel`?"),
            (r#"{"data":1,"Topic":"a"}"#, "`Topic` is not known here; did you mean `topic`?"),
            ("[]", "`channel` is missing"),
            ("[1]", "a command must be a JSON object, not a list"),
            ("7", "a command must be a JSON object, not 7"),
            (r#"{"channel":5}"#, "`channel` must be a string, not 5"),
            (r#"{"channel":{"a":1}}"#, "`channel` must be a string, not an object"),
            (r#"{"channel":"a","topic":"b"}"#, "`channel` and `topic` mean the same; write one of them"),
            (r#"{"channel":"a","channel":"b"}"#, "`channel` is there twice"),
            (r#"{"channel":"a","ts":-1}"#, "`ts` must be a whole number from 0 up, not -1"),
            (r#"{"channel":"a","ts":"1"}"#, "`ts` must be a whole number from 0 up, not a string"),
            (r#"{"channel":"a","reverse":1}"#, "`reverse` must be true or false, not 1"),
            (r#"{"channel":"a","channels":["x","y","z"]}"#, "`channels` has more than 2 entries"),
            (r#"{"channel":"a","channels":["x",1]}"#, "`channels` must be a list of strings"),
            (r#"{"channel":"a","channels":"x"}"#, "`channels` must be a list of strings"),
            (r#"{"channel":"a","tags":{"k":"v"}}"#, "`tags` is not supported: publications carry none; leave it out"),
        ] {
            assert_eq!(told(text), reason, "{text}");
        }
        let twice = told(r#"{"channel":"a","chanel":"b"}"#);
        assert!(
            twice.starts_with("`chanel` is not known here; did you mean `channel`? known are `channel`"),
            "{twice}"
        );
        let other = told(r#"{"channel":"a","payload":"b"}"#);
        assert!(other.starts_with("`payload` is not known here; known are `channel`"), "{other}");
        let many: String = (0..65).map(|n| format!("\"m{n}\":0,")).collect();
        assert!(told(&format!("{{{many}\"channel\":\"a\"}}")).contains("more than 64 members"));
    }

    #[test]
    fn the_time_of_an_event_is_in_milliseconds_or_what_it_is_is_said() {
        let read = |json: &str| {
            let text = format!("{{\"ts\":{json}}}");
            let mut read = members(&text).unwrap();
            read.event_time("ts").map_err(|refusal| refusal.reason)
        };
        assert_eq!(read("1723161256313"), Ok(Some(1_723_161_256_313)));
        for none in ["null", "\"\""] {
            assert_eq!(read(none), Ok(None), "{none}");
        }
        for (json, told) in [
            (
                "1723161256",
                "its member `ts` is `1723161256`, a time in seconds; give Unix milliseconds, 1,000 for each second: 1723161256000",
            ),
            ("1723161256.5", "its member `ts` is `1723161256.5`, a time in seconds; "),
            ("1723161256313000", "a time in microseconds; "),
            ("1723161256313000000", "a time in nanoseconds; "),
            ("1723161256313.25", "a number with a fraction or an exponent; "),
            ("1.7e12", "a number with a fraction or an exponent; "),
            ("-1", "its member `ts` is `-1`, a time before the year 2000; "),
            ("5", "a time before the year 2000; "),
            ("9999999999999", "a time more than a day ahead; "),
            (
                "\"2024-08-08T00:14:16Z\"",
                "its member `ts` is `\"2024-08-08T00:14:16Z\"`, a date in words; give Unix milliseconds, such as",
            ),
            ("\"1723161256\"", "a time in seconds; "),
            ("\"1723161256313\"", "a text; give the number without quotes"),
            ("true", "`ts` must be Unix milliseconds, not true"),
            ("[1]", "`ts` must be Unix milliseconds, not a list"),
            ("{}", "`ts` must be Unix milliseconds, not an object"),
        ] {
            let reason = read(json).unwrap_err();
            assert!(reason.contains(told), "{json}: {reason}");
        }
    }

    proptest! {
        /// Any JSON is read or refused, and an error does not grow with the input.
        #[test]
        fn any_json_is_read_or_refused(text in r#"[\[\]{}:,"0-9a-z\\ntrue ]{0,40}"#, long in "[a-zé]{0,400}") {
            for text in [text, format!("{{\"{long}\":1}}"), format!("{{\"channel\":\"{long}\",\"{long}\":[]}}")] {
                let Ok(value) = serde_json::from_str::<&RawValue>(&text) else { continue };
                let outcome = Members::of(value, "a command").and_then(|mut read| {
                    read.named("channel", "topic")?;
                    read.end()
                });
                if let Err(refusal) = outcome {
                    prop_assert!(refusal.reason.len() < 200, "{}", refusal.reason);
                }
            }
        }
    }
}
