//! A message as a delta: the topic by its subject, the payload its data. Headers say more: `Nexus-Topic` names the topic
//! in place of the subject, `Nexus-Kind: snapshot` replaces its state, `Nexus-Ts` is the source's time in ms.

use bytes::Bytes;

use super::subjects::Subjects;
use crate::config::PayloadForm;
use crate::limits::REFUSAL_CHARS_SHOWN;
use crate::name::shown;
use crate::source::draft::Draft;
pub use crate::source::entry::ReadDelta;
use crate::source::entry::{self, KINDS, Parts, Words};
use crate::source::refusal::{Reason, Refusal};
use crate::spelling::nearest;

/// What headers of this system begin with, in any case.
const PREFIX: &str = "Nexus-";

/// Names the topic in place of the subject.
pub(super) const TOPIC: &str = "Nexus-Topic";

/// `delta` or `snapshot`.
pub(super) const KIND: &str = "Nexus-Kind";

/// Unix ms.
pub(super) const TS: &str = "Nexus-Ts";

/// Reads a message that the stream took in at `at_ms`. `form` says what a topic's deltas are made of. Headers' names are read in
/// any case; what is not known is ignored.
///
/// # Errors
/// Why it is no delta.
pub fn read_message(
    subjects: &Subjects,
    subject: &str,
    headers: &mut dyn Iterator<Item = (&str, &str)>,
    payload: Bytes,
    (bytes_max, at_ms): (usize, u64),
    form: &dyn Fn(&str) -> PayloadForm,
) -> Result<ReadDelta, Refusal> {
    let (mut topic, mut kind, mut ts, mut reserved) = (None, None, None, None);
    for (name, value) in headers {
        if name.eq_ignore_ascii_case(TOPIC) {
            topic = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case(KIND) {
            kind = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case(TS) {
            ts = Some(value.to_owned());
        } else if reserved.is_none() && is_reserved(name) {
            reserved = Some(reserved_header(name));
        }
    }
    let told = || shown(subject.as_bytes(), REFUSAL_CHARS_SHOWN);
    let topic = match topic {
        Some(topic) => topic,
        None if subject.contains(char::REPLACEMENT_CHARACTER) => {
            let text = format!("its subject `{}` is not UTF-8", told());
            return Err(Refusal::new(Reason::Name, text, "write names in UTF-8"));
        }
        None => subjects.topic(subject).ok_or_else(|| {
            let text = format!("its subject `{}` names no topic, and it has no header `{TOPIC}`", told());
            Refusal::new(
                Reason::NoTopic,
                text,
                "publish below one of source.nats.subjects, or name the topic in that header",
            )
        })?,
    };
    if topic.is_empty() {
        let text = format!("its topic is empty, by its header `{TOPIC}` or by its subject `{}`", told());
        return Err(Refusal::new(Reason::Name, text, "name the topic behind the prefix of source.nats.subjects"));
    }
    let words = Words { place: "header", kind: KIND, kinds: KINDS, ts: TS, data: None };
    let (kind, ts) = (kind.as_deref().map(str::as_bytes), ts.as_deref().map(str::as_bytes));
    let mut delta = entry::read(&words, Parts { topic, kind, ts, data: Some(payload), at_ms }, bytes_max, form)?;
    delta.suspicions.extend(reserved.map(|suspicion| suspicion.of_topic(&delta.topic)));
    Ok(delta)
}

/// The topic of a message that is refused unread: as [`read_message`] takes it, if it is UTF-8.
pub(super) fn topic_of<'a>(
    subjects: &Subjects,
    subject: &str,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<String> {
    let named = headers.filter(|(name, _)| name.eq_ignore_ascii_case(TOPIC)).last();
    let topic = named.map_or_else(|| subjects.topic(subject), |(_, topic)| Some(topic.to_owned()));
    topic.filter(|topic| !topic.contains(char::REPLACEMENT_CHARACTER))
}

/// Whether a header's name begins as this system's do.
fn is_reserved(name: &str) -> bool {
    name.get(..PREFIX.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(PREFIX))
}

/// The suspicion against a header that is nearly one of them, or none.
fn reserved_header(name: &str) -> Refusal {
    let known = [TOPIC, KIND, TS];
    let meant = nearest(name, known).map(|meant| format!("did you mean `{meant}`? ")).unwrap_or_default();
    let name = shown(name.as_bytes(), REFUSAL_CHARS_SHOWN / 2);
    let text = format!("its header `{name}` says nothing: names that begin with `{PREFIX}` are this system's own");
    Refusal::new(Reason::ReservedField, text, format!("{meant}There are {}; name others otherwise", known.join(", ")))
}

/// Reads a delta that is to be published, as nodes will read its message.
pub(in crate::source) fn read_draft(
    subjects: &Subjects,
    draft: Draft<'_>,
    bounds: (usize, u64),
    form: &dyn Fn(&str) -> PayloadForm,
) -> Result<ReadDelta, Refusal> {
    let Draft { topic, kind, ts, data } = draft;
    let (subject, is_named) = subjects.subject(&topic);
    let headers =
        [is_named.then_some((TOPIC, &topic)), kind.as_ref().map(|kind| (KIND, kind)), ts.as_ref().map(|ts| (TS, ts))];
    let mut headers = headers.iter().flatten().map(|(name, value)| (*name, value.as_ref()));
    read_message(subjects, &subject, &mut headers, data.unwrap_or_default(), bounds, form)
}

/// The refusal of a message whose headers cannot be read.
pub(super) fn malformed_headers() -> Refusal {
    let text = "its headers are malformed: each is a name, a colon and a value in UTF-8";
    Refusal::new(Reason::Headers, text, "let a NATS library write them")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::entry::tests::is_plain;
    use crate::topic::Kind;

    const AT_MS: u64 = 1_723_161_256_313;

    #[test]
    fn the_topic_of_a_message_is_told_without_reading_the_rest() {
        let subjects = Subjects::new(&["nexus.deltas.>".to_owned()]);
        for (subject, headers, topic) in [
            ("nexus.deltas.quotes.X", &[][..], Some("quotes:X")),
            ("nexus.deltas._topic.a=2Eb", &[("nexus-topic", "a.b")], Some("a.b")),
            ("nexus.deltas.quotes.X", &[("Nexus-Topic", "a"), ("x", "y"), ("Nexus-Topic", "b")], Some("b")),
            ("nexus.deltas.quotes.X", &[("Nexus-Topic", "a\u{fffd}")], None),
            ("nexus.deltas.quotes.X\u{fffd}", &[], None),
            ("elsewhere", &[], None),
        ] {
            let told = topic_of(&subjects, subject, headers.iter().copied());
            assert_eq!(told.as_deref(), topic, "{subject} {headers:?}");
        }
    }

    #[test]
    fn messages_are_read_or_refused_with_a_reason() {
        let subjects = Subjects::new(&["nexus.deltas.>".to_owned()]);
        let read = |subject: &str, headers: &[(&'static str, &'static str)], payload: &'static str| {
            let (headers, payload) = (&mut headers.iter().copied(), Bytes::from_static(payload.as_bytes()));
            read_message(&subjects, subject, headers, payload, (100, AT_MS), &|topic| match topic {
                "raw:X" => PayloadForm::Bytes,
                _ => PayloadForm::Json,
            })
        };
        let plain = read("nexus.deltas.quotes.X", &[], "{}").unwrap();
        assert_eq!((plain.topic.as_str(), plain.kind, plain.ts), ("quotes:X", Kind::Delta, None));
        assert_eq!(read("nexus.deltas.raw.X", &[], "{\n").unwrap().payload.bytes(), "{\n");
        let headers = [("nexus-topic", "a.b"), ("Nexus-Kind", "snapshot"), ("NEXUS-TS", "1723161256000"), ("x", "y")];
        let full = read("elsewhere", &headers, "1").unwrap();
        assert_eq!((full.topic.as_str(), full.kind, full.ts), ("a.b", Kind::Snapshot, Some(1_723_161_256_000)));
        for (subject, headers, payload, label, needle) in [
            ("elsewhere.x", &[][..], "1", "no_topic", "`elsewhere.x` names no topic"),
            ("nexus.deltas.a\u{fffd}", &[], "1", "name", "not UTF-8"),
            ("nexus.deltas.a", &[("Nexus-Topic", "")], "1", "name", "is empty"),
            ("nexus.deltas.", &[], "1", "name", "is empty"),
            ("nexus.deltas.a", &[], "", "no_data", "no payload"),
            ("nexus.deltas.a", &[], "{", "not_json", "not JSON"),
            ("nexus.deltas.a", &[("Nexus-Kind", "full")], "1", "kind", "header `Nexus-Kind` is `full`"),
        ] {
            let refusal = read(subject, headers, payload).unwrap_err();
            assert_eq!(refusal.reason.label(), label, "{refusal:?}");
            assert!(refusal.text.contains(needle), "{needle} missing in {refusal:?}");
            is_plain(&refusal);
        }
        is_plain(&malformed_headers());
        let seconds = read("nexus.deltas.a", &[("Nexus-Ts", "1723161256")], "1").unwrap();
        let suspicion = &seconds.suspicions[0];
        assert_eq!((seconds.ts, suspicion.reason), (None, Reason::TsSeconds));
        assert!(suspicion.text.contains("header `Nexus-Ts` is `1723161256`"), "{suspicion:?}");
        for (name, needle) in [("nexus-knd", "did you mean `Nexus-Kind`?"), ("Nexus-Sequence", "There are Nexus-Topic")]
        {
            let taken = read("nexus.deltas.a", &[(name, "snapshot")], "1").unwrap();
            let suspicion = &taken.suspicions[0];
            assert_eq!((suspicion.reason, taken.kind), (Reason::ReservedField, Kind::Delta));
            assert!(suspicion.text.contains(name) && suspicion.remedy.contains(needle), "{suspicion:?}");
            is_plain(suspicion);
        }
        assert!(read("nexus.deltas.a", &[("Nexu", "é"), ("Nats-Msg-Id", "1")], "1").unwrap().suspicions.is_empty());
    }
}
