//! A delta as a publisher hands it to `nexus-push publish`: its parts, not yet checked; and the lines of a file of them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use serde_json::value::RawValue;

use crate::limits::REFUSAL_CHARS_SHOWN;
use crate::name::shown;
use crate::spelling::nearest;
use crate::topic::{Payload, PayloadError};

/// Members that the object of a line may have.
const MEMBERS: [&str; 6] = ["topic", "channel", "data", "b64data", "kind", "ts"];

/// A delta that is to be published, as its publisher wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft<'a> {
    /// Topic.
    pub topic: Cow<'a, str>,
    /// What it does; a delta if it says nothing.
    pub kind: Option<Cow<'a, str>>,
    /// When the event happened, Unix ms, as text.
    pub ts: Option<Cow<'a, str>>,
    /// The data, as it is to be delivered.
    pub data: Option<Bytes>,
}

/// Why a line is no delta: what is wrong, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LineFault(String);

impl Draft<'static> {
    /// Reads a line: `{"topic":"quotes:A","data":{…},"kind":"snapshot","ts":1723161256313}`, or `TOPIC DATA`. A line that
    /// begins with `{` is of the first form.
    ///
    /// # Errors
    /// Why it is neither.
    pub fn of_line(line: Bytes) -> Result<Self, LineFault> {
        let line = line.slice_ref(line.trim_ascii());
        if line.first() == Some(&b'{') {
            return Self::of_object(&line);
        }
        let told = || shown(&line, REFUSAL_CHARS_SHOWN);
        let fault = |what: &str| {
            let form = "write {\"topic\":…,\"data\":…}, or the topic, a blank and the data";
            LineFault(format!("`{}` {what}: {form}", told()))
        };
        let at = line.iter().position(u8::is_ascii_whitespace).ok_or_else(|| fault("has no data behind the topic"))?;
        let (topic, data) = line.split_at_checked(at).unwrap_or_default();
        let topic = std::str::from_utf8(topic).map_err(|_| fault("begins with a topic that is not UTF-8"))?;
        let data = line.slice_ref(data.trim_ascii_start());
        Ok(Self { topic: topic.to_owned().into(), kind: None, ts: None, data: Some(data) })
    }

    fn of_object(line: &Bytes) -> Result<Self, LineFault> {
        let mut members: BTreeMap<Cow<'_, str>, &RawValue> =
            serde_json::from_slice(line).map_err(|_| not_an_object(line))?;
        let mut text = |name: &str| match members.remove(name).map(RawValue::get) {
            None | Some("null") => Ok(None),
            Some(json) => serde_json::from_str::<String>(json)
                .map(Some)
                .map_err(|_| LineFault(format!("its `{name}` is {}, and must be a text", told(json)))),
        };
        let (topic, channel) = (text("topic")?, text("channel")?);
        let (kind, base64) = (text("kind")?, text("b64data")?);
        let ts = match members.remove("ts").map(RawValue::get) {
            None | Some("null") => None,
            Some(json) => Some(serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned()).into()),
        };
        let json = members.remove("data").map(|data| line.slice_ref(data.get().as_bytes()));
        if let Some(name) = members.keys().next() {
            let meant = nearest(name, MEMBERS).map(|meant| format!("did you mean `{meant}`? ")).unwrap_or_default();
            return Err(LineFault(format!(
                "its `{}` is no member of a line; {meant}It may have {}",
                shown(name.as_bytes(), REFUSAL_CHARS_SHOWN),
                MEMBERS.join(", ")
            )));
        }
        let topic = match (topic, channel) {
            (Some(topic), None) | (None, Some(topic)) => topic,
            (None, None) => return Err(LineFault("it names no topic; add \"topic\":\"…\"".into())),
            (Some(_), Some(_)) => {
                return Err(LineFault("its `topic` and `channel` mean the same; write one of them".into()));
            }
        };
        let data = match (json, base64) {
            (Some(_), Some(_)) => return Err(LineFault("give one of `data` (JSON) and `b64data` (base64)".into())),
            (data, None) => data,
            (None, Some(base64)) => Some(Bytes::from(BASE64.decode(base64.trim_end_matches('=')).map_err(|_| {
                LineFault(format!("its `b64data` is {}, which is no base64 (standard alphabet)", told(&base64)))
            })?)),
        };
        Ok(Self { topic: topic.into(), kind: kind.map(Cow::Owned), ts, data })
    }
}

/// Padding is taken off before.
const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD_NO_PAD;

fn told(json: &str) -> String {
    format!("`{}`", shown(json.as_bytes(), REFUSAL_CHARS_SHOWN))
}

/// Why a line that begins as an object does is none.
fn not_an_object(line: &Bytes) -> LineFault {
    let why = match Payload::new(line.clone(), usize::MAX) {
        Err(PayloadError::NotJson(why)) => format!("it {why}"),
        Err(PayloadError::NotUtf8(at)) => format!("it is not UTF-8 from byte {at} on"),
        Err(PayloadError::TooDeep) => format!("it is nested deeper than {}", crate::limits::JSON_DEPTH_MAX),
        _ => "let a JSON library write it".to_owned(),
    };
    LineFault(format!("`{}` is no JSON object: {why}", shown(line, REFUSAL_CHARS_SHOWN)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(line: &str) -> Result<Draft<'static>, LineFault> {
        Draft::of_line(Bytes::copy_from_slice(line.as_bytes()))
    }

    #[test]
    fn both_forms_of_a_line() {
        let draft = |topic: &'static str, kind: Option<&'static str>, ts: Option<&'static str>, data| Draft {
            topic: topic.into(),
            kind: kind.map(Into::into),
            ts: ts.map(Into::into),
            data: Option::map(data, |data: &'static str| Bytes::from_static(data.as_bytes())),
        };
        for (line, expected) in [
            ("a:b {\"x\": 1}\r", draft("a:b", None, None, Some("{\"x\": 1}"))),
            ("a:b\t  two words ", draft("a:b", None, None, Some("two words"))),
            ("{\"topic\":\"a:b\",\"data\":1.50}", draft("a:b", None, None, Some("1.50"))),
            ("{\"channel\":\"a\",\"data\":null}", draft("a", None, None, Some("null"))),
            (
                " {\"ts\":17, \"kind\":\"snapshot\", \"data\":{ \"a\" : 1 }, \"topic\":\"\\u0061\"}",
                draft("a", Some("snapshot"), Some("17"), Some("{ \"a\" : 1 }")),
            ),
            ("{\"topic\":\"a\",\"kind\":\"delete\",\"ts\":\"soon\"}", draft("a", Some("delete"), Some("soon"), None)),
            ("{\"topic\":\"a\",\"b64data\":\"AAE=\",\"kind\":null}", draft("a", None, None, Some("\0\u{1}"))),
        ] {
            assert_eq!(read(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn a_line_of_neither_form_says_what_is_wrong() {
        for (line, needle) in [
            ("nonsense", "`nonsense` has no data behind the topic"),
            ("{\"topic\":\"a\",\"data\":{}", "it ends in the middle of an object"),
            ("{topic:1}", "without double quotes"),
            ("{\"topic\":1,\"data\":1}", "its `topic` is `1`, and must be a text"),
            ("{\"data\":1}", "it names no topic"),
            ("{\"topic\":\"a\",\"channel\":\"a\",\"data\":1}", "mean the same"),
            ("{\"topic\":\"a\",\"dta\":1}", "its `dta` is no member of a line; did you mean `data`?"),
            ("{\"topic\":\"a\",\"data\":1,\"b64data\":\"AA\"}", "one of `data`"),
            ("{\"topic\":\"a\",\"b64data\":\"?\"}", "its `b64data` is `?`, which is no base64"),
        ] {
            let fault = read(line).unwrap_err().to_string();
            assert!(fault.contains(needle), "{line}: {fault}");
        }
        let fault = Draft::of_line(Bytes::from_static(b"a\xff 1")).unwrap_err().to_string();
        assert!(fault.contains("not UTF-8"), "{fault}");
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused_in_short(line in prop_oneof![
            any::<Vec<u8>>(),
            r#"\{("(topic|channel|data|b64data|kind|ts|x)":("[a-z:\\u]{0,5}"|[0-9.e]{1,5}|null|\{\}|),?){0,5}\}?"#
                .prop_map(String::into_bytes),
        ]) {
            if let Err(fault) = Draft::of_line(line.into()) {
                let fault = fault.to_string();
                prop_assert!(fault.len() < 800 && fault.chars().all(|c| !c.is_control()), "{:?}", fault);
            }
        }
    }
}
