//! Descriptions of refused deltas and of their remedies: the one place for these words, for logs and answers alike.

use std::fmt::{self, Display, Formatter};

use super::exchange::PublishError;
use super::merge::ParseError;
use super::payload::PayloadError;
use crate::config::OPS;
use crate::limits::{JSON_DEPTH_MAX, REFUSAL_CHARS_SHOWN, STATE_BYTES_MAX};
use crate::name::{namespace_of, shown};

/// A refused delta, as far as it is known.
#[derive(Clone, Copy, Default)]
pub struct Seen<'a> {
    /// Its topic.
    pub topic: Option<&'a str>,
    /// The beginning of its data, as it can be shown.
    pub data: Option<&'a dyn Display>,
    /// The configured namespace that its own nearly is.
    pub meant: Option<&'a str>,
}

impl Seen<'_> {
    fn data(&self, before: &str) -> String {
        self.data.map(|data| format!("{before}{data}")).unwrap_or_default()
    }

    fn name(&self) -> String {
        self.topic
            .map_or_else(|| "it".to_owned(), |topic| format!("`{}`", shown(topic.as_bytes(), REFUSAL_CHARS_SHOWN)))
    }
}

/// The words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// What is wrong, with the faulty value.
    pub text: String,
    /// What to do.
    pub remedy: String,
}

impl Words {
    fn new(text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { text: text.into(), remedy: remedy.into() }
    }
}

impl Display for Words {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.text, self.remedy)
    }
}

impl PayloadError {
    /// What is wrong, and what to do.
    pub fn words(&self, seen: &Seen<'_>) -> Words {
        match self {
            Self::TooLarge { bytes, max } => Words::new(
                format!("its data has {bytes} bytes, and the most is {max}"),
                "publish less in one entry, or raise limits.delta_bytes",
            ),
            Self::NotUtf8(at) => Words::new(
                format!("its data is not UTF-8 from byte {at} on{}", seen.data(": ")),
                "publish JSON in UTF-8, or give the namespace payload = \"bytes\"",
            ),
            Self::NotJson(why) => Words::new(
                format!("its data is not JSON{}: it {why}", seen.data(", but ")),
                "let a JSON library write it; texts and names need double quotes",
            ),
            Self::TooDeep => Words::new(
                format!("its data is nested deeper than {JSON_DEPTH_MAX}{}", seen.data(": ")),
                "publish something flatter",
            ),
            Self::NotForBytes => Words::new(
                format!("its data is bytes, and the namespace takes JSON{}", seen.data(": ")),
                "publish JSON, or give the namespace payload = \"bytes\"",
            ),
            Self::NotBase64 => Words::new(
                format!("its data is no text in base64, which is how bytes are written in JSON{}", seen.data(": ")),
                "write it in the standard alphabet, padded or not",
            ),
        }
    }
}

impl Display for PayloadError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.words(&Seen::default()).fmt(f)
    }
}

impl PublishError {
    /// What is wrong, and what to do.
    pub fn words(&self, seen: &Seen<'_>) -> Words {
        match self {
            Self::Name(why) => Words::new(format!("{} is no topic: {why}", seen.name()), "correct the name"),
            Self::Payload(error) => error.words(seen),
            Self::Patch(ParseError::NotObject) => Words::new(
                format!(
                    "its data is {}, and topics of class merge take JSON objects, which are patches",
                    seen.data.map_or_else(|| "no object".to_owned(), ToString::to_string)
                ),
                "publish an object, such as {\"bid\":191.4}, or give the namespace class latest or stream",
            ),
            Self::Patch(ParseError::TooDeep) => PayloadError::TooDeep.words(seen),
            Self::Patch(ParseError::NotJson(why)) => PayloadError::NotJson(why.clone()).words(seen),
            Self::StreamSnapshot => Words::new(
                "its kind is `snapshot`, and topics of class stream have no state that it could replace",
                "leave the kind out, or give the namespace class latest or merge",
            ),
            Self::StateTooLarge { bytes } => Words::new(
                format!("the topic's state would have {bytes} bytes, and the most is {STATE_BYTES_MAX}"),
                "remove members (null), publish a smaller kind=snapshot, or spread them over topics",
            ),
            Self::StateTotal { max } => Words::new(
                format!("the states of all topics have {max} bytes, as many as they may"),
                "raise limits.memory or limits.state_total_bytes, or end topics (kind=delete, expire_after)",
            ),
            Self::UnknownNamespace => unknown_namespace(seen),
            Self::Reserved => {
                Words::new(format!("its namespace `{OPS}` is the server's own"), "publish in another namespace")
            }
            Self::WrongPartition => Words::new(
                "the topic is published in another stream, which has newer entries of it",
                "publish all of a topic in one stream, the one that `nexus-push partition` names",
            ),
            Self::TooManyTopics { max } => Words::new(
                format!("there are {max} topics already, as many as there may be"),
                "end topics that are over (kind=delete, expire_after), or raise limits.topics",
            ),
            Self::TooManyUnpublished { max } => Words::new(
                format!("there are {max} topics already that were never published, as many as there may be"),
                "try again later, or raise limits.unpublished_topics",
            ),
            Self::UnpublishedShare { max } => Words::new(
                format!(
                    "{max} topics that were never published are there for this caller already, as many as it may have"
                ),
                "leave some of them, or raise limits.unpublished_topics, of which this is a share",
            ),
        }
    }
}

fn unknown_namespace(seen: &Seen<'_>) -> Words {
    let text = match seen.topic.map(namespace_of) {
        Some(Some(namespace)) => {
            let namespace = shown(namespace.as_bytes(), REFUSAL_CHARS_SHOWN);
            format!("its namespace `{namespace}` is not configured, and such are refused")
        }
        Some(None) => "it names no namespace, and such are refused".to_owned(),
        None => "its namespace is not configured, and such are refused".to_owned(),
    };
    let remedy = match seen.meant {
        Some(meant) => {
            format!("did you mean `{meant}`? Or configure it ([namespace.…]), or set access.unknown_namespace")
        }
        None => "correct the name, configure the namespace ([namespace.…]), or set access.unknown_namespace".to_owned(),
    };
    Words::new(text, remedy)
}

impl Display for PublishError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.words(&Seen::default()).fmt(f)
    }
}
