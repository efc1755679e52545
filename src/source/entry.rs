//! What an entry of a stream says, whichever source it is of: its topic, what it does, when that happened, and its data. Or
//! why it says none of it.

use bytes::Bytes;

use super::event_time::{TimeFault, read_time};
use super::refusal::{Head, Reason, Refusal};
use crate::config::PayloadForm;
use crate::limits::{REFUSAL_CHARS_SHOWN, STATE_BYTES_MAX};
use crate::name::shown;
use crate::spelling::nearest;
use crate::topic::{Kind, Payload};

/// Kinds that a publisher may name.
pub(super) const KINDS: &[&str] = &["delta", "snapshot", "delete", "move", "history_remove"];

/// What other systems call them.
const OTHER_KINDS: [(&str, &str); 18] = [
    ("full", "snapshot"),
    ("whole", "snapshot"),
    ("snap", "snapshot"),
    ("state", "snapshot"),
    ("image", "snapshot"),
    ("replace", "snapshot"),
    ("set", "snapshot"),
    ("reset", "snapshot"),
    ("update", "delta"),
    ("patch", "delta"),
    ("partial", "delta"),
    ("upsert", "delta"),
    ("incremental", "delta"),
    ("remove", "delete"),
    ("del", "delete"),
    ("end", "delete"),
    ("tombstone", "delete"),
    ("expire", "delete"),
];

/// What a command of the publish API calls the parts of a delta. What only streams carry is not for it.
pub(crate) const API_WORDS: Words<'static> =
    Words { place: "member", kind: "kind", kinds: &["delta", "snapshot", "delete"], ts: "ts", data: Some("data") };

/// Fields that a refusal names.
const FIELDS_SHOWN: usize = 8;

/// A delta as an entry or a message gives it.
#[derive(Debug)]
#[allow(unreachable_pub, reason = "`nats` exports it, where that is built in")]
pub struct ReadDelta {
    /// Its topic, not yet checked.
    pub topic: String,
    /// What it does to the topic's state.
    pub kind: Kind,
    /// The source's time, Unix ms.
    pub ts: Option<u64>,
    /// As its topic's namespace takes it.
    pub payload: Payload,
    /// What is wrong with it, though it is taken.
    pub suspicions: Vec<Refusal>,
}

/// What a source calls the parts of an entry, and where it has them.
pub(crate) struct Words<'a> {
    /// `field`, `header`.
    pub(super) place: &'static str,
    pub(super) kind: &'a str,
    /// Kinds that it may name.
    pub(super) kinds: &'static [&'static str],
    pub(super) ts: &'a str,
    /// `None` where there is nothing else.
    pub(super) data: Option<&'a str>,
}

/// An entry's parts, as they came.
pub(super) struct Parts<'a> {
    pub(super) topic: String,
    pub(super) kind: Option<&'a [u8]>,
    pub(super) ts: Option<&'a [u8]>,
    pub(super) data: Option<Bytes>,
    /// When the source took it in, Unix ms.
    pub(super) at_ms: u64,
}

/// Reads the parts of an entry. `form` says what a topic's deltas are made of. A time that is none does not cost the delta:
/// clients get that of the entry, which is the same on every node.
pub(super) fn read(
    words: &Words<'_>,
    parts: Parts<'_>,
    bytes_max: usize,
    form: impl Fn(&str) -> PayloadForm,
) -> Result<ReadDelta, Refusal> {
    let Parts { topic, kind, ts, data, at_ms } = parts;
    let kind = match kind {
        None => Kind::Delta,
        Some(named) => read_kind(words, named).map_err(|refusal| refusal.of_topic(&topic))?,
    };
    let mut suspicions = Vec::new();
    let ts = match ts.filter(|ts| !ts.is_empty()) {
        None => None,
        Some(given) => {
            match std::str::from_utf8(given).map_or_else(|_| read_time("", at_ms), |ts| read_time(ts, at_ms)) {
                Ok(ts) => Some(ts),
                Err(fault) => {
                    let mut refusal = wrong_time(words, given, fault).of_topic(&topic);
                    refusal.text.push_str(OWN_TIME_INSTEAD);
                    suspicions.push(refusal);
                    None
                }
            }
        }
    };
    if matches!(kind, Kind::Deletion | Kind::HistoryRemoval) {
        // What a topic ends with does not matter.
        return Ok(ReadDelta { topic, kind, ts, payload: Payload::null(), suspicions });
    }
    let form = form(&topic);
    let Some(data) = data.filter(|data| !data.is_empty() || form == PayloadForm::Bytes) else {
        let text = match words.data {
            Some(name) => format!("its {} `{name}` is empty", words.place),
            None => "it has no payload".to_owned(),
        };
        return Err(Refusal::new(Reason::NoData, text, NO_DATA_REMEDY).of_topic(&topic));
    };
    // A topic that moves brings its whole state.
    let bytes_max = if kind == Kind::Move { bytes_max.max(STATE_BYTES_MAX) } else { bytes_max };
    let head = Head::of(&data);
    match Payload::read(data, bytes_max, form) {
        Ok(payload) => Ok(ReadDelta { topic, kind, ts, payload, suspicions }),
        Err(error) => Err(Refusal::of_payload(&error, &head).of_topic(&topic)),
    }
}

/// What becomes of a delta whose time is none.
const OWN_TIME_INSTEAD: &str = ": clients get the time at which the source took it in";

/// A suspicion as the refusal of a delta that is not published: without what a server does in spite of it.
pub(super) fn without_what_is_done(mut suspicion: Refusal) -> Refusal {
    if let Some(text) = suspicion.text.strip_suffix(OWN_TIME_INSTEAD) {
        suspicion.text = text.to_owned();
    }
    suspicion
}

const NO_DATA_REMEDY: &str = "publish the delta as JSON there; an entry that ends a topic has kind=delete";

/// The refusal of a time of an event that is none.
pub(crate) fn wrong_time(words: &Words<'_>, given: &[u8], fault: TimeFault) -> Refusal {
    let (place, name, value) = (words.place, words.ts, shown(given, REFUSAL_CHARS_SHOWN));
    Refusal::new(fault.reason(), format!("its {place} `{name}` is `{value}`, {}", fault.what()), fault.remedy())
}

/// The kind of this name.
///
/// # Errors
/// If there is none, or it is not for who asks.
pub(crate) fn read_kind(words: &Words<'_>, named: &[u8]) -> Result<Kind, Refusal> {
    let known = std::str::from_utf8(named).ok().and_then(|named| Some((named, Kind::from_name(named)?)));
    match known {
        Some((named, kind)) if named.is_empty() || words.kinds.contains(&named) => Ok(kind),
        Some((named, _)) => {
            let (place, name, kinds) = (words.place, words.kind, words.kinds.join(", "));
            let text = format!("its {place} `{name}` is `{named}`, which is not taken here");
            Err(Refusal::new(
                Reason::Kind,
                text,
                format!("it may be {kinds}, or left out; publish others to the stream"),
            ))
        }
        None => Err(unknown_kind(words, named)),
    }
}

fn unknown_kind(words: &Words<'_>, named: &[u8]) -> Refusal {
    let (place, name) = (words.place, words.kind);
    let given = String::from_utf8_lossy(named);
    let lower = given.to_ascii_lowercase();
    let other = OTHER_KINDS.iter().find(|(other, _)| *other == lower).map(|(_, kind)| *kind);
    let meant = other.or_else(|| nearest(&given, words.kinds.iter().copied()));
    let meant = meant.map(|meant| format!("did you mean `{meant}`? ")).unwrap_or_default();
    Refusal::new(
        Reason::Kind,
        format!("its {place} `{name}` is `{}`, which is no kind", shown(named, REFUSAL_CHARS_SHOWN)),
        format!("{meant}It may be {}, or left out", words.kinds.join(", ")),
    )
}

/// The refusal of an entry without its field `wanted`: it may be there under another name. `others` are names that such a
/// field often has.
pub(super) fn missing<'a>(
    reason: Reason,
    wanted: &str,
    others: &[&str],
    key: &str,
    given: impl Iterator<Item = &'a [u8]> + Clone,
) -> Refusal {
    let names = given.clone().filter_map(|name| std::str::from_utf8(name).ok());
    let meant = |name: &&str| {
        nearest(name, [wanted]).is_some()
            || others.iter().any(|other| other.eq_ignore_ascii_case(name) && *other != wanted)
    };
    let meant = names.clone().find(meant);
    let mut shown_names: Vec<String> =
        given.clone().take(FIELDS_SHOWN).map(|name| format!("`{}`", shown(name, REFUSAL_CHARS_SHOWN / 2))).collect();
    if given.count() > FIELDS_SHOWN {
        shown_names.push("others".to_owned());
    }
    let remedy = match meant {
        Some(meant) => format!(
            "did you mean `{wanted}` by `{}`? Rename it, or set {key}",
            shown(meant.as_bytes(), REFUSAL_CHARS_SHOWN / 2)
        ),
        None if reason == Reason::NoData => format!("{NO_DATA_REMEDY} ({key} names the field)"),
        None => format!("add the field `{wanted}` with the name of the topic, or set {key}"),
    };
    Refusal::new(reason, format!("it has no field `{wanted}`, only {}", shown_names.join(", ")), remedy)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Words of libraries and of Rust, which no publisher has to know.
    const FOREIGN: [&str; 30] = [
        "invalid",
        "expected",
        "parse",
        "serde",
        "struct",
        "enum",
        "variant",
        "missing field",
        "usize",
        "u64",
        "utf8error",
        "EOF",
        "Some(",
        "None",
        "Err",
        "Ok(",
        "unwrap",
        "panicked",
        "deserial",
        "trailing characters",
        "recursion",
        "line 1",
        "column",
        "String",
        "Vec<",
        "Option",
        "token",
        "ident",
        "nobody",
        "somebody",
    ];

    /// Holds a refusal against them, but for what it repeats of the entry.
    pub(in super::super) fn is_plain(refusal: &Refusal) {
        assert!(!refusal.text.is_empty() && !refusal.remedy.is_empty(), "{refusal:?}");
        assert!(refusal.text.len() + refusal.remedy.len() < 1_000, "{refusal:?}");
        for text in [&refusal.text, &refusal.remedy] {
            assert!(text.chars().all(|c| c == ' ' || crate::name::unprintable(&c.to_string()).is_none()), "{text:?}");
            let own: String = text.split('`').step_by(2).collect();
            for word in FOREIGN {
                assert!(!own.contains(word), "`{word}` in {text}");
            }
        }
    }

    const WORDS: Words<'_> = Words { place: "field", kind: "kind", kinds: KINDS, ts: "ts", data: Some("data") };

    fn parts<'a>(kind: Option<&'a [u8]>, ts: Option<&'a [u8]>, data: Option<&[u8]>) -> Parts<'a> {
        let data = data.map(Bytes::copy_from_slice);
        Parts { topic: "quotes:A".into(), kind, ts, data, at_ms: 1_723_161_256_313 }
    }

    fn json(parts: Parts<'_>) -> Result<ReadDelta, Refusal> {
        read(&WORDS, parts, 100, |_| PayloadForm::Json)
    }

    #[test]
    fn an_event_time_that_is_none_does_not_cost_the_delta() {
        for (ts, reason) in [
            ("1723161256", "ts_seconds"),
            ("1723161256.5", "ts_seconds"),
            ("1723161256313000", "ts_microseconds"),
            ("1723161256313000000", "ts_nanoseconds"),
            ("1723161256313.5", "ts_fraction"),
            ("2024-08-08T00:14:16Z", "ts_date"),
            ("soon", "ts_not_a_number"),
            ("5", "ts_too_early"),
            ("1823161256313", "ts_too_late"),
        ] {
            let delta = json(parts(None, Some(ts.as_bytes()), Some(b"{}"))).unwrap();
            assert_eq!((delta.ts, delta.payload.as_str()), (None, "{}"));
            let suspicion = delta.suspicions.first().unwrap();
            assert_eq!(suspicion.reason.label(), reason);
            assert!(suspicion.text.contains(ts), "{suspicion:?}");
            is_plain(suspicion);
        }
        let good = json(parts(None, Some(b"1723161256313"), Some(b"{}"))).unwrap();
        assert!(good.ts == Some(1_723_161_256_313) && good.suspicions.is_empty());
        assert!(json(parts(None, Some(b""), Some(b"{}"))).unwrap().suspicions.is_empty(), "an empty one is none");
        assert_eq!(json(parts(None, Some(b"\xff"), Some(b"1"))).unwrap().suspicions[0].reason, Reason::TsNotNumber);
    }

    #[test]
    fn a_kind_that_is_none_is_refused_with_what_was_meant() {
        for (kind, meant) in [
            ("full", "`snapshot`"),
            ("FULL", "`snapshot`"),
            ("Snapshot", "`snapshot`"),
            ("snaphsot", "`snapshot`"),
            ("update", "`delta`"),
            ("tombstone", "`delete`"),
            ("frobnicate", "It may be delta, snapshot, delete, move, history_remove"),
        ] {
            let refusal = json(parts(Some(kind.as_bytes()), None, Some(b"1"))).unwrap_err();
            assert_eq!(refusal.reason, Reason::Kind);
            assert!(refusal.text.contains(kind) && refusal.remedy.contains(meant), "{refusal:?}");
            is_plain(&refusal);
        }
        assert_eq!(json(parts(Some(b"\xff"), None, Some(b"1"))).unwrap_err().reason, Reason::Kind);
        assert_eq!(json(parts(Some(b""), None, Some(b"1"))).unwrap().kind, Kind::Delta);
        for kind in [&b"delete"[..], b"history_remove"] {
            assert_eq!(json(parts(Some(kind), None, None)).unwrap().payload.as_str(), "null");
        }
    }

    #[test]
    fn data_that_is_none_is_refused_with_what_it_is() {
        let long = format!("\"{}\"", "x".repeat(200));
        for (data, reason) in [
            (&b""[..], Reason::NoData),
            (b" \n", Reason::NoData),
            (b"{bid:1}", Reason::NotJson),
            (b"\xff\xfe", Reason::NotUtf8),
            (long.as_bytes(), Reason::TooLarge),
            (&[b'['; 90], Reason::TooDeep),
        ] {
            let refusal = json(parts(None, None, Some(data))).unwrap_err();
            assert_eq!(refusal.reason, reason, "{refusal:?}");
            is_plain(&refusal);
        }
        let empty = read(&WORDS, parts(None, None, Some(b"")), 100, |_| PayloadForm::Bytes).unwrap();
        assert_eq!(empty.payload.bytes(), "", "of bytes, none is a value too");
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_taken_or_refused_in_plain_words(
            kind in proptest::option::of(prop_oneof!["[a-z]{0,8}".prop_map(String::into_bytes), any::<Vec<u8>>()]),
            ts in proptest::option::of(prop_oneof!["[0-9.eTZ:+-]{0,24}".prop_map(String::into_bytes), any::<Vec<u8>>()]),
            data in proptest::option::of(prop_oneof![
                r#"[\[\]{}:, "\\u0-9a-fnrtx.\n]{0,24}"#.prop_map(String::into_bytes),
                any::<Vec<u8>>()
            ]),
        ) {
            match json(parts(kind.as_deref(), ts.as_deref(), data.as_deref())) {
                Ok(delta) => delta.suspicions.iter().for_each(is_plain),
                Err(refusal) => is_plain(&refusal),
            }
        }
    }
}
