//! Why entries are refused, or are taken though something about them is wrong: what publishers and operators learn of them. One
//! closed list of reasons serves metrics, logs, `/status` and docs/redis.md.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use serde::Serialize;

use crate::clock::unix_ms;
use crate::limits::{REFUSAL_CHARS_SHOWN, TOPIC_NAME_BYTES_MAX};
use crate::name::shown;
use crate::topic::merge::ParseError;
use crate::topic::{PayloadError, PublishError, Seen, Words};

/// Time for which a refusal stands in a source's note.
const NOTED_FOR: Duration = Duration::from_secs(600);

/// Bytes of a topic that a refusal keeps.
const TOPIC_BYTES_KEPT: usize = 4 * REFUSAL_CHARS_SHOWN + 4;

const _: () = assert!(TOPIC_BYTES_KEPT > TOPIC_NAME_BYTES_MAX);

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $label:literal,)*) => {
        /// Why an entry is refused, or is suspicious. The list is closed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])* $name,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As metrics, logs and `/status` call it.
            pub fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

reasons! {
    /// An entry without fields.
    Empty = "empty",
    /// Nothing says which topic it is of.
    NoTopic = "no_topic",
    /// The topic's name is none.
    Name = "name",
    /// The topic's namespace is not configured, and such are refused.
    UnknownNamespace = "unknown_namespace",
    /// The topic is in the server's own namespace.
    Reserved = "reserved",
    /// `kind` is none of those that are known.
    Kind = "kind",
    /// No data, or none in it.
    NoData = "no_data",
    /// More bytes than a delta may have.
    TooLarge = "too_large",
    /// Data that is not UTF-8.
    NotUtf8 = "not_utf8",
    /// Data that is not JSON.
    NotJson = "not_json",
    /// Bytes that are not in base64, which is how JSON has them.
    NotBase64 = "not_base64",
    /// Data that is nested too deep.
    TooDeep = "too_deep",
    /// A patch that is no JSON object.
    NotAnObject = "not_an_object",
    /// `kind=snapshot` on a topic that has no state.
    StreamSnapshot = "stream_snapshot",
    /// A state that would be too large.
    StateTooLarge = "state_too_large",
    /// The states of all topics have as much memory as they may.
    StateTotal = "state_total",
    /// As many topics as there may be.
    TooManyTopics = "too_many_topics",
    /// The topic is published in another stream.
    WrongPartition = "wrong_partition",
    /// What says that topics move to other streams cannot be read.
    Cut = "cut",
    /// An ID of before 2024.
    IdTooEarly = "id_too_early",
    /// An ID after all that have offsets.
    IdTooLate = "id_too_late",
    /// An ID with a sequence above all that have offsets.
    IdSequence = "id_sequence",
    /// Headers that are none.
    Headers = "headers",
    /// Suspicious: the event's time is in seconds.
    TsSeconds = "ts_seconds",
    /// Suspicious: in microseconds.
    TsMicroseconds = "ts_microseconds",
    /// Suspicious: in nanoseconds.
    TsNanoseconds = "ts_nanoseconds",
    /// Suspicious: a number with a fraction.
    TsFraction = "ts_fraction",
    /// Suspicious: a date in words.
    TsDate = "ts_date",
    /// Suspicious: no number.
    TsNotNumber = "ts_not_a_number",
    /// Suspicious: before 2000.
    TsTooEarly = "ts_too_early",
    /// Suspicious: more than a day ahead.
    TsTooLate = "ts_too_late",
    /// Suspicious: a field or header of a name that is this system's own, and says nothing where it is.
    ReservedField = "reserved_field",
    /// Suspicious: a namespace that is not configured and nearly is.
    NearNamespace = "near_namespace",
}

/// What is wrong with an entry, in plain words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which of all.
    pub reason: Reason,
    /// What is wrong, with the value that is.
    pub text: String,
    /// What to do.
    pub remedy: String,
    /// The topic, where that is known.
    pub topic: Option<String>,
    /// Whether it is in `deltas_refused` already.
    pub(super) is_counted: bool,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason, text: text.into(), remedy: remedy.into(), topic: None, is_counted: false }
    }

    pub(super) fn of_topic(mut self, topic: &str) -> Self {
        // Of one that is longer than names may be, as much as is shown, and that it goes on.
        self.topic = Some(topic.get(..topic.floor_char_boundary(TOPIC_BYTES_KEPT)).unwrap_or_default().to_owned());
        self
    }

    /// The same of an entry that is refused unread, if its topic can be told.
    pub(super) fn of_topic_if_known(self, topic: Option<&str>) -> Self {
        match topic.filter(|topic| !topic.is_empty()) {
            Some(topic) => self.of_topic(topic),
            None => self,
        }
    }

    /// Data that is no payload, and as much of it as is shown.
    pub(crate) fn of_payload(error: &PayloadError, head: &Head) -> Self {
        let reason = match error {
            PayloadError::NotJson(_) if head.is_blank() => {
                let remedy = "publish a JSON value; kind=delete ends a topic, and null is a value";
                return Self::new(Reason::NoData, "its data is empty", remedy);
            }
            PayloadError::NotJson(_) | PayloadError::NotForBytes => Reason::NotJson,
            PayloadError::NotBase64 => Reason::NotBase64,
            PayloadError::TooLarge { .. } => Reason::TooLarge,
            PayloadError::NotUtf8(_) => Reason::NotUtf8,
            PayloadError::TooDeep => Reason::TooDeep,
        };
        let Words { text, remedy } = error.words(&Seen { data: Some(head), ..Seen::default() });
        Self::new(reason, text, remedy)
    }

    /// A delta that topics do not take. `meant` is the namespace that its own is nearly.
    pub(super) fn of_publish(error: &PublishError, topic: &str, head: &Head, meant: Option<&str>) -> Self {
        let reason = match error {
            PublishError::Payload(error) => return Self::of_payload(error, head).counted(topic),
            PublishError::Patch(ParseError::TooDeep) => {
                return Self::of_payload(&PayloadError::TooDeep, head).counted(topic);
            }
            PublishError::Patch(ParseError::NotJson(why)) => {
                return Self::of_payload(&PayloadError::NotJson(why.clone()), head).counted(topic);
            }
            PublishError::Name(_) => Reason::Name,
            PublishError::Patch(ParseError::NotObject) => Reason::NotAnObject,
            PublishError::StreamSnapshot => Reason::StreamSnapshot,
            PublishError::StateTooLarge { .. } => Reason::StateTooLarge,
            PublishError::StateTotal { .. } => Reason::StateTotal,
            PublishError::UnknownNamespace => Reason::UnknownNamespace,
            PublishError::Reserved => Reason::Reserved,
            PublishError::WrongPartition => Reason::WrongPartition,
            // Those that only subscribers named are no obstacle to a publisher.
            PublishError::TooManyTopics { .. }
            | PublishError::TooManyUnpublished { .. }
            | PublishError::UnpublishedShare { .. } => Reason::TooManyTopics,
        };
        let Words { text, remedy } = error.words(&Seen { topic: Some(topic), data: Some(head), meant });
        Self::new(reason, text, remedy).counted(topic)
    }

    /// All of it in a line, for the publisher: the words of the log.
    pub fn told(&self, is_refused: bool) -> String {
        let Self { reason, text, remedy, topic, .. } = self;
        match is_refused {
            true => format!("{} was refused ({}): {text}; {remedy}", named(topic.as_deref()), reason.label()),
            false => suspicion(topic.as_deref(), reason.label(), text, remedy),
        }
    }

    pub(super) fn counted(mut self, topic: &str) -> Self {
        self.is_counted = true;
        self.of_topic(topic)
    }
}

fn named(topic: Option<&str>) -> String {
    topic.map_or_else(|| "the delta".to_owned(), |topic| format!("`{}`", shown(topic.as_bytes(), REFUSAL_CHARS_SHOWN)))
}

/// What is wrong with a delta that is taken, in a line, for its publisher.
pub fn suspicion(topic: Option<&str>, label: &str, text: &str, remedy: &str) -> String {
    format!("{} is taken, but {text} ({label}); {remedy}", named(topic))
}

/// Bytes of [`Head`].
const HEAD_BYTES: usize = 48;

/// The beginning of an entry's data, kept for the case that it is refused.
pub(crate) struct Head {
    bytes: [u8; HEAD_BYTES],
    kept: usize,
    whole: usize,
}

impl Head {
    pub(crate) fn of(data: &[u8]) -> Self {
        // Of nearly all data, so many bytes at once: it is done for each entry.
        if let Some(bytes) = data.first_chunk() {
            return Self { bytes: *bytes, kept: bytes.len(), whole: data.len() };
        }
        let mut bytes = [0; HEAD_BYTES];
        let kept = data.len();
        if let (Some(to), Some(from)) = (bytes.get_mut(..kept), data.get(..kept)) {
            to.copy_from_slice(from);
        }
        Self { bytes, kept, whole: data.len() }
    }

    fn kept(&self) -> &[u8] {
        self.bytes.get(..self.kept).unwrap_or_default()
    }

    fn is_blank(&self) -> bool {
        self.kept == self.whole && self.kept().trim_ascii().is_empty()
    }
}

impl Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = self.kept();
        if self.whole > self.kept {
            // The last character may be cut.
            while bytes.last().is_some_and(|byte| byte & 0xc0 == 0x80) {
                bytes = bytes.get(..bytes.len() - 1).unwrap_or_default();
            }
            let cut = bytes.get(..bytes.len().saturating_sub(1)).unwrap_or_default();
            return write!(f, "`{}…`", shown(cut, REFUSAL_CHARS_SHOWN));
        }
        write!(f, "`{}`", shown(bytes, REFUSAL_CHARS_SHOWN))
    }
}

/// The newest refusal of one reason, and how many there were.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Told {
    /// Since the start.
    pub count: u64,
    /// When the newest was read here, Unix ms.
    pub at_ms: u64,
    /// Of which topic, as far as it can be shown.
    pub topic: Option<String>,
    /// The entry's ID, or the message's sequence.
    pub id: String,
    /// What was wrong.
    pub text: String,
    /// What to do.
    pub remedy: String,
}

/// What is known of a source's refusals: the newest of each reason.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// Since when they are counted, Unix ms: since this node began to read. Another counts from its own start.
    pub since_ms: u64,
    /// The newest of all.
    pub last: Option<&'static str>,
    /// By reason.
    pub reasons: BTreeMap<&'static str, Told>,
}

impl Record {
    /// Without any, from now on.
    pub(super) fn begun() -> Self {
        Self { since_ms: unix_ms(), last: None, reasons: BTreeMap::new() }
    }

    /// The newest of all.
    pub fn newest(&self) -> Option<&Told> {
        self.last.and_then(|reason| self.reasons.get(reason))
    }

    /// A word on the newest, while it is not long ago.
    pub(super) fn note(&self) -> Option<String> {
        let told = self.newest()?;
        let age = Duration::from_millis(unix_ms().saturating_sub(told.at_ms));
        let topic = told.topic.as_ref().map(|topic| format!(" of `{topic}`")).unwrap_or_default();
        let reason = self.last.unwrap_or_default();
        (age < NOTED_FOR)
            .then(|| format!("entry {}{topic} was refused ({reason}): {}; {}", told.id, told.text, told.remedy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use crate::source::entry::tests::is_plain;
    use crate::topic::Payload;
    use bytes::Bytes;

    #[test]
    fn labels_are_each_used_once_and_are_those_of_topics() {
        let labels: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
        for label in labels {
            assert!(
                label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
                "{label}"
            );
        }
        for error in publish_errors() {
            let refusal = Refusal::of_publish(&error, "quotes:A", &Head::of(b"[1]"), None);
            assert_eq!(refusal.reason.label(), error.label(), "{error}");
        }
    }

    fn publish_errors() -> Vec<PublishError> {
        let read = |bytes: &'static [u8]| Payload::new(Bytes::from_static(bytes), 10).unwrap_err();
        let patch = |text: &str| crate::topic::merge::parse_object(text).unwrap_err();
        let name = |text: &str| crate::name::TopicName::new(text).unwrap_err();
        vec![
            name("").into(),
            name("a b").into(),
            name(&"x".repeat(300)).into(),
            read(b"12345678901").into(),
            read(b"\"\xff\"").into(),
            read(b"{bid:1}").into(),
            PayloadError::TooDeep.into(),
            PayloadError::NotForBytes.into(),
            PayloadError::NotBase64.into(),
            patch("[1]").into(),
            patch("{").into(),
            patch(&"{\"a\":".repeat(100)).into(),
            PublishError::StreamSnapshot,
            PublishError::StateTooLarge { bytes: 5_000_000 },
            PublishError::StateTotal { max: 1 },
            PublishError::UnknownNamespace,
            PublishError::Reserved,
            PublishError::WrongPartition,
            PublishError::TooManyTopics { max: 1 },
        ]
    }

    #[test]
    fn what_topics_do_not_take_is_told_in_plain_words() {
        for error in publish_errors() {
            for (topic, head) in [("qoutes:A", &b"{bid:1}"[..]), ("a\n`b", b"\xff\xfe"), ("plain", b"")] {
                let refusal = Refusal::of_publish(&error, topic, &Head::of(head), Some("quotes"));
                is_plain(&refusal);
            }
            let (text, refusal) = (error.to_string(), Refusal::of_publish(&error, "quotes:A", &Head::of(b"[1]"), None));
            is_plain(&Refusal::new(Reason::Name, text.clone(), "where nothing else is known"));
            assert!(text.ends_with(&format!("; {}", refusal.remedy)), "{text}: {refusal:?}");
        }
        let unknown = Refusal::of_publish(&PublishError::UnknownNamespace, "qoutes:A", &Head::of(b""), Some("quotes"));
        assert!(unknown.text.contains("`qoutes`") && unknown.remedy.contains("did you mean `quotes`?"), "{unknown:?}");
    }

    #[test]
    fn the_head_of_data_is_cut_between_characters() {
        assert_eq!(Head::of(b"[1]").to_string(), "`[1]`");
        for extra in 0..4 {
            let text = format!("{}{}", "x".repeat(extra), "€".repeat(30));
            let shown = Head::of(text.as_bytes()).to_string();
            assert!(shown.ends_with("…`") && !shown.contains('\u{fffd}'), "{shown}");
        }
        assert!(Head::of(b" \n").is_blank() && Head::of(b"").is_blank() && !Head::of(b" 1").is_blank());
        assert!(!Head::of(&[b' '; 100]).is_blank(), "more than what is kept may follow");
    }
}
