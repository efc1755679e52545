//! A message as a delta: the topic by its subject, the payload its data. Headers say more: `Nexus-Topic` names the topic
//! in place of the subject, `Nexus-Kind: snapshot` replaces its state, `Nexus-Ts` is the source's time in ms.

use bytes::Bytes;

use super::subjects::Subjects;
use crate::config::PayloadForm;
use crate::topic::{Kind, Payload};

/// Names the topic in place of the subject.
pub(super) const TOPIC: &str = "Nexus-Topic";

/// `delta` or `snapshot`.
pub(super) const KIND: &str = "Nexus-Kind";

/// Unix ms.
pub(super) const TS: &str = "Nexus-Ts";

/// A delta as a message gives it.
#[derive(Debug)]
pub struct ReadDelta {
    /// Its topic, not yet checked.
    pub topic: String,
    /// What it does to the topic's state.
    pub kind: Kind,
    /// The source's time, Unix ms.
    pub ts: Option<u64>,
    /// As its topic's namespace takes it.
    pub payload: Payload,
}

/// Reads a message. `form` says what a topic's deltas are made of. Headers' names are read in any case; what is not known is ignored.
///
/// # Errors
/// Why it is no delta.
pub fn read_message(
    subjects: &Subjects,
    subject: &str,
    headers: &mut dyn Iterator<Item = (&str, &str)>,
    payload: Bytes,
    bytes_max: usize,
    form: &dyn Fn(&str) -> PayloadForm,
) -> Result<ReadDelta, String> {
    let (mut topic, mut kind, mut ts) = (None, Kind::Delta, None);
    for (name, value) in headers {
        if name.eq_ignore_ascii_case(TOPIC) {
            topic = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case(KIND) {
            kind = Kind::from_name(value).ok_or_else(|| {
                format!("header {KIND} is {value:?}, it may be delta, snapshot, delete or history_remove")
            })?;
        } else if name.eq_ignore_ascii_case(TS) {
            ts = value.parse().ok();
        }
    }
    let topic = match topic {
        Some(topic) => topic,
        None if subject.contains(char::REPLACEMENT_CHARACTER) => return Err("its subject is not UTF-8".into()),
        None => subjects.topic(subject).ok_or_else(|| {
            format!("subject {subject:?} is none of source.nats.subjects, and there is no header {TOPIC}")
        })?,
    };
    if topic.is_empty() {
        return Err(format!("its topic, by header {TOPIC} or by subject {subject:?}, is empty"));
    }
    if kind == Kind::Deletion {
        // What a topic ends with does not matter.
        return Ok(ReadDelta { topic, kind, ts, payload: Payload::null() });
    }
    let payload = Payload::read(payload, bytes_max, form(&topic)).map_err(|e| e.to_string())?;
    Ok(ReadDelta { topic, kind, ts, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_or_refused_with_a_reason() {
        let subjects = Subjects::new(&["nexus.deltas.>".to_owned()]);
        let read = |subject: &str, headers: &[(&'static str, &'static str)], payload: &'static str| {
            let (headers, payload) = (&mut headers.iter().copied(), Bytes::from_static(payload.as_bytes()));
            read_message(&subjects, subject, headers, payload, 100, &|topic| match topic {
                "raw:X" => PayloadForm::Bytes,
                _ => PayloadForm::Json,
            })
        };
        let plain = read("nexus.deltas.quotes.X", &[], "{}").unwrap();
        assert_eq!((plain.topic.as_str(), plain.kind, plain.ts), ("quotes:X", Kind::Delta, None));
        assert_eq!(read("nexus.deltas.raw.X", &[], "{\n").unwrap().payload.bytes(), "{\n");
        let headers = [("nexus-topic", "a.b"), ("Nexus-Kind", "snapshot"), ("NEXUS-TS", "5"), ("x", "y")];
        let full = read("elsewhere", &headers, "1").unwrap();
        assert_eq!((full.topic.as_str(), full.kind, full.ts), ("a.b", Kind::Snapshot, Some(5)));
        for (subject, headers, payload, needle) in [
            ("elsewhere.x", &[][..], "1", "none of source.nats.subjects"),
            ("nexus.deltas.a\u{fffd}", &[], "1", "not UTF-8"),
            ("nexus.deltas.a", &[("Nexus-Topic", "")], "1", "is empty"),
            ("nexus.deltas.", &[], "1", "is empty"),
            ("nexus.deltas.a", &[], "", "not JSON"),
            ("nexus.deltas.a", &[], "{", "not JSON"),
            ("nexus.deltas.a", &[("Nexus-Kind", "x")], "1", "delta, snapshot, delete or history_remove"),
        ] {
            let error = read(subject, headers, payload).unwrap_err();
            assert!(error.contains(needle), "{needle} missing in {error}");
        }
    }
}
