//! Stream entries: as Redis sends them, and the deltas they are.

use ::redis::Value;
use bytes::Bytes;

use super::away::Handed;
use super::id::EntryId;
use super::resp::VALUE_BYTES;
use super::value::{raw, text};
use crate::config::{self, PayloadForm};
use crate::limits::REFUSAL_CHARS_SHOWN;
use crate::name::shown;
use crate::source::draft::Draft;
use crate::source::entry::{self, KINDS, Parts, ReadDelta, Words, missing};
use crate::source::refusal::{Reason, Refusal};

/// What publishers who know another system call the field of the topic.
const OTHER_TOPICS: [&str; 9] =
    ["channel", "topic", "subject", "symbol", "instrument", "topic_name", "channel_name", "name", "key"];

/// And that of the data.
const OTHER_DATA: [&str; 10] =
    ["payload", "message", "value", "body", "json", "msg", "delta", "content", "patch", "event"];

/// What fields begin with that say which entries `nexus-push reshard` wrote.
const RESERVED: &[u8] = b"nexus:";

/// Whether an entry may be one that `nexus-push reshard` wrote.
pub(super) fn is_of_reshard(fields: &[Value]) -> bool {
    fields.first().and_then(raw).is_some_and(|name| name.starts_with(RESERVED))
}

/// The field that is taken for the topic's where that is not there: the API takes both names.
fn alias(topic_field: &str) -> Option<&'static str> {
    match topic_field {
        "topic" => Some("channel"),
        "channel" => Some("topic"),
        _ => None,
    }
}

/// The topic of an entry that is refused unread: as [`decode_entry`] takes it, if it is UTF-8.
pub(super) fn topic_of<'a>(fields: &'a [Value], config: &config::Redis) -> Option<&'a str> {
    let named = |wanted: &str| {
        let is_it = |pair: &&[Value]| pair.first().and_then(raw) == Some(wanted.as_bytes());
        fields.chunks_exact(2).rev().find(is_it).and_then(|pair| pair.last())
    };
    named(&config.topic_field).or_else(|| named(alias(&config.topic_field)?)).and_then(text)
}

/// Reads `field value field value …` of an entry that Redis took in at `at_ms`. Fields that are not configured are ignored.
/// `form` says what a topic's deltas are made of.
pub(super) fn decode_entry(
    mut fields: Vec<Value>,
    config: &config::Redis,
    bytes_max: usize,
    at_ms: u64,
    form: impl Fn(&str) -> PayloadForm,
) -> Result<ReadDelta, Refusal> {
    if fields.len() < 2 {
        return Err(Refusal::new(
            Reason::Empty,
            "it has no fields",
            "publish a topic and data: `XADD … * topic … data …`",
        ));
    }
    let alias = alias(&config.topic_field);
    let (mut topic, mut other, mut data, mut kind, mut ts) = (None, None, None, None, None);
    let mut reserved = None;
    for pair in fields.chunks_exact_mut(2) {
        let [name, value] = pair else { continue };
        let Some(name) = raw(name) else { continue };
        let place = match name {
            name if name == config.topic_field.as_bytes() => &mut topic,
            name if name == config.data_field.as_bytes() => &mut data,
            name if name == config.kind_field.as_bytes() => &mut kind,
            name if name == config.ts_field.as_bytes() => &mut ts,
            name if alias.is_some_and(|alias| name == alias.as_bytes()) => &mut other,
            name => {
                if name.starts_with(RESERVED) {
                    reserved = reserved.or_else(|| Some(shown(name, REFUSAL_CHARS_SHOWN / 2)));
                }
                continue;
            }
        };
        *place = Some(bytes(std::mem::replace(value, Value::Nil)));
    }
    // Of an entry that was handed on, they are that command's.
    let reserved = reserved.filter(|_| Handed::of(&fields).is_none());
    let names = fields.iter().step_by(2).filter_map(raw);
    let Some(topic) = topic.or(other) else {
        return Err(missing(Reason::NoTopic, &config.topic_field, &OTHER_TOPICS, "source.redis.topic_field", names));
    };
    let topic = String::from_utf8(topic).map_err(|error| {
        let name = shown(error.as_bytes(), REFUSAL_CHARS_SHOWN);
        Refusal::new(Reason::Name, format!("its topic `{name}` is not UTF-8"), "write names in UTF-8")
    })?;
    let has_data = data.is_some();
    let words = Words {
        place: "field",
        kind: &config.kind_field,
        kinds: KINDS,
        ts: &config.ts_field,
        data: Some(&config.data_field),
    };
    let data = data.map(Bytes::from);
    let parts = Parts { topic, kind: kind.as_deref(), ts: ts.as_deref(), data, at_ms };
    let read = entry::read(&words, parts, bytes_max, form).map(|mut delta| {
        delta.suspicions.extend(reserved.map(|name| reserved_field(&name).of_topic(&delta.topic)));
        delta
    });
    read.map_err(|refusal| match (refusal.reason, &refusal.topic) {
        (Reason::NoData, Some(topic)) if !has_data => {
            missing(Reason::NoData, &config.data_field, &OTHER_DATA, "source.redis.data_field", names).of_topic(topic)
        }
        _ => refusal,
    })
}

/// The suspicion against a field that only `nexus-push reshard` writes, where it did not.
fn reserved_field(name: &str) -> Refusal {
    let text =
        format!("its field `{name}` says nothing there: names that begin with `nexus:` are `nexus-push reshard`'s");
    Refusal::new(Reason::ReservedField, text, "leave it out, or give it a name that begins otherwise")
}

/// Reads a delta that is to be appended, as nodes will read its entry.
pub(in crate::source) fn read_draft(
    draft: Draft<'_>,
    config: &config::Redis,
    bytes_max: usize,
    at_ms: u64,
    form: impl Fn(&str) -> PayloadForm,
) -> Result<ReadDelta, Refusal> {
    let fields = fields_of(draft, config).flat_map(|(name, value)| [name.as_bytes().to_vec(), value]);
    decode_entry(fields.map(Value::BulkString).collect(), config, bytes_max, at_ms, form)
}

/// Names and values of a delta's entry: what [`decode_entry`] reads.
pub(super) fn fields_of<'a>(
    draft: Draft<'_>,
    config: &'a config::Redis,
) -> impl Iterator<Item = (&'a str, Vec<u8>)> + use<'a> {
    let Draft { topic, kind, ts, data } = draft;
    let fields = [
        Some((config.topic_field.as_str(), topic.into_owned().into_bytes())),
        data.map(|data| (config.data_field.as_str(), data.into())),
        kind.map(|kind| (config.kind_field.as_str(), kind.into_owned().into_bytes())),
        ts.map(|ts| (config.ts_field.as_str(), ts.into_owned().into_bytes())),
    ];
    fields.into_iter().flatten()
}

/// The bytes of a value; of what is no text, none.
fn bytes(value: Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes,
        Value::SimpleString(text) => text.into_bytes(),
        _ => Vec::new(),
    }
}

/// An entry as Redis sends it.
pub(super) struct Entry {
    pub(super) id: EntryId,
    pub(super) fields: Vec<Value>,
}

/// How large an entry is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Size {
    /// Bytes of its fields.
    pub(super) bytes: usize,
    /// Memory that it takes, in bytes.
    pub(super) cost: usize,
}

impl Entry {
    pub(super) fn size(&self) -> Size {
        let bytes = self.fields.iter().filter_map(raw).map(<[u8]>::len).sum();
        // The entry, its ID and the list of its fields are values too.
        let cost = (self.fields.len() + 3) * VALUE_BYTES + bytes;
        Size { bytes, cost }
    }

    /// Memory that it takes, in bytes.
    pub(super) fn cost(&self) -> usize {
        self.size().cost
    }

    /// Tells entries of one ID apart: after a failover that lost writes, a clock that is behind gives IDs again.
    /// FNV-1a (64 bit) of the fields and their lengths: saved, and so the same in every version.
    pub(super) fn fingerprint(&self) -> u64 {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        self.fields.iter().filter_map(raw).fold(0xcbf2_9ce4_8422_2325, |hash, field| {
            let hash = field.len().to_le_bytes().iter().fold(hash, step);
            field.iter().fold(hash, step)
        })
    }
}

/// Entries of an `XRANGE` reply. One without fields (deleted meanwhile) or with an ID that is none is left out.
pub(super) fn entries(reply: Value) -> Vec<Entry> {
    let Value::Array(list) = reply else { return Vec::new() };
    list.into_iter()
        .filter_map(|entry| {
            let Value::Array(parts) = entry else { return None };
            let mut parts = parts.into_iter();
            let id = text(&parts.next()?)?.parse().ok()?;
            let fields = match parts.next() {
                Some(Value::Array(fields)) => fields,
                _ => Vec::new(),
            };
            Some(Entry { id, fields })
        })
        .collect()
}

/// An entry as it was read: topic and bytes, or what was wrong.
pub type ReadEntry = (EntryId, Result<(String, usize), String>);

/// The entries of any reply to `XRANGE` or `XREAD`, read as the source reads those of topics of JSON.
pub fn read_entries(reply: Value, config: &config::Redis, bytes_max: usize) -> Vec<ReadEntry> {
    let found = [entries(reply.clone()), streams(reply)].into_iter().flatten();
    found
        .map(|entry| {
            let delta = decode_entry(entry.fields, config, bytes_max, entry.id.ms, |_| PayloadForm::Json);
            let told = delta.map(|delta| (delta.topic, delta.payload.bytes().len()));
            (entry.id, told.map_err(|refusal| format!("{}; {}", refusal.text, refusal.remedy)))
        })
        .collect()
}

/// Entries of an `XREAD` reply for one stream.
pub(super) fn streams(reply: Value) -> Vec<Entry> {
    let Value::Array(streams) = reply else { return Vec::new() };
    match streams.into_iter().next() {
        Some(Value::Array(parts)) => parts.into_iter().nth(1).map(entries).unwrap_or_default(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::entry::tests::is_plain;
    use crate::topic::Kind;
    use proptest::prelude::*;

    fn fields(pairs: &[(&str, &str)]) -> Vec<Value> {
        let bulk = |s: &str| Value::BulkString(s.as_bytes().to_vec());
        pairs.iter().flat_map(|(k, v)| [bulk(k), bulk(v)]).collect()
    }

    const AT_MS: u64 = 1_723_161_256_313;

    fn read(pairs: &[(&str, &str)]) -> Result<ReadDelta, Refusal> {
        decode_entry(fields(pairs), &config::Redis::default(), 1_000, AT_MS, |_| PayloadForm::Json)
    }

    #[test]
    fn entries_are_read_or_refused_with_a_reason() {
        let ts = AT_MS.to_string();
        let good = read(&[("x", "y"), ("topic", "a:b"), ("data", "{}"), ("ts", &ts), ("kind", "snapshot")]).unwrap();
        assert_eq!((good.topic.as_str(), good.kind, good.ts), ("a:b", Kind::Snapshot, Some(AT_MS)));
        for (pairs, label, text, remedy) in [
            (&[("data", "{}")][..], "no_topic", "no field `topic`, only `data`", "source.redis.topic_field"),
            (&[("data", "{}"), ("Topic", "a")], "no_topic", "only `data`, `Topic`", "did you mean `topic` by `Topic`?"),
            (&[("data", "{}"), ("tpoic", "a")], "no_topic", "`tpoic`", "did you mean `topic` by `tpoic`?"),
            (&[("data", "{}"), ("symbol", "a")], "no_topic", "`symbol`", "did you mean `topic` by `symbol`?"),
            (&[("", "")], "no_topic", "no field `topic`", "source.redis.topic_field"),
            (&[("topic", "a")], "no_data", "no field `data`, only `topic`", "source.redis.data_field"),
            (&[("topic", "a"), ("payload", "1")], "no_data", "`payload`", "did you mean `data` by `payload`?"),
            (&[("topic", "a"), ("data", "")], "no_data", "`data` is empty", "kind=delete"),
            (&[("topic", "a"), ("data", "{")], "not_json", "`{`: it ends in the middle of an object", "double quotes"),
            (&[("topic", "a"), ("data", "1"), ("kind", "full")], "kind", "`kind` is `full`", "mean `snapshot`?"),
        ] {
            let refusal = read(pairs).unwrap_err();
            assert_eq!(refusal.reason.label(), label);
            assert!(refusal.text.contains(text) && refusal.remedy.contains(remedy), "{refusal:?}");
            is_plain(&refusal);
        }
        let end = read(&[("topic", "a"), ("kind", "delete")]).unwrap();
        assert_eq!((end.kind, end.payload.as_str()), (Kind::Deletion, "null"));
        for nothing in [vec![Value::Nil], vec![]] {
            let empty = decode_entry(nothing, &config::Redis::default(), 10, AT_MS, |_| PayloadForm::Json);
            assert_eq!(empty.unwrap_err().reason, Reason::Empty);
        }
    }

    /// In first place they make a mark of the command, or an entry that it handed on; elsewhere they say nothing.
    #[test]
    fn fields_of_names_that_are_reserved_are_told_and_the_delta_is_taken() {
        let ts = "1723161256";
        for pairs in [
            &[("topic", "a:b"), ("data", "{}"), ("nexus:away", "{}")][..],
            &[("topic", "a:b"), ("nexus:from", "1-1 other"), ("data", "{}"), ("nexus:at", "5")],
            &[("nexus:from", "no id"), ("topic", "a:b"), ("data", "{}")],
            &[("nexus:mine", "1"), ("topic", "a:b"), ("data", "{}"), ("ts", ts)],
        ] {
            let delta = read(pairs).unwrap();
            assert_eq!(delta.payload.as_str(), "{}");
            let suspicion = delta.suspicions.last().unwrap();
            assert_eq!(
                (suspicion.reason, suspicion.topic.as_deref()),
                (Reason::ReservedField, Some("a:b")),
                "{pairs:?}"
            );
            is_plain(suspicion);
            let with_time = usize::from(pairs.iter().any(|(name, _)| *name == "ts"));
            assert_eq!(delta.suspicions.len(), 1 + with_time, "{pairs:?}");
        }
        let handed = [("nexus:from", "1-1 other"), ("nexus:at", "5"), ("topic", "a:b"), ("data", "{}")];
        assert!(read(&handed).unwrap().suspicions.is_empty(), "the command's own");
        let config = config::Redis { topic_field: "nexus:topic".into(), ..config::Redis::default() };
        let own = fields(&[("nexus:topic", "a:b"), ("data", "{}")]);
        let own = decode_entry(own, &config, 10, AT_MS, |_| PayloadForm::Json).unwrap();
        assert!(own.suspicions.is_empty(), "a name that is configured");
    }

    #[test]
    fn a_topic_may_be_called_a_channel_where_no_other_name_is_configured() {
        assert_eq!(read(&[("channel", "a"), ("data", "1")]).unwrap().topic, "a");
        for pairs in
            [[("topic", "a"), ("channel", "b"), ("data", "1")], [("channel", "b"), ("topic", "a"), ("data", "1")]]
        {
            assert_eq!(read(&pairs).unwrap().topic, "a", "the field that is configured counts");
        }
        let config = config::Redis { topic_field: "sym".into(), ..config::Redis::default() };
        let other =
            |name| decode_entry(fields(&[(name, "a"), ("data", "1")]), &config, 10, AT_MS, |_| PayloadForm::Json);
        assert_eq!(other("sym").unwrap().topic, "a");
        assert!(other("channel").unwrap_err().remedy.contains("did you mean `sym` by `channel`?"));
    }

    #[test]
    fn the_topic_of_an_entry_is_told_without_reading_the_rest() {
        let config = config::Redis::default();
        for (pairs, topic) in [
            (&[("data", "{"), ("topic", "a")][..], Some("a")),
            (&[("channel", "b"), ("topic", "a")], Some("a")),
            (&[("channel", "b")], Some("b")),
            (&[("topic", "a"), ("topic", "b")], Some("b")),
            (&[("topic", "")], Some("")),
            (&[("data", "topic"), ("x", "a")], None),
            (&[], None),
        ] {
            assert_eq!(topic_of(&fields(pairs), &config), topic, "{pairs:?}");
            let read = read(&[pairs, &[("data", "1")]].concat()).ok().map(|delta| delta.topic);
            assert_eq!(read.as_deref(), topic, "{pairs:?}");
        }
        let mut bytes = fields(&[("topic", "a")]);
        bytes[1] = Value::BulkString(vec![0xff]);
        assert_eq!(topic_of(&bytes, &config), None);
        let own = config::Redis { topic_field: "sym".into(), ..config };
        assert_eq!(topic_of(&fields(&[("topic", "a"), ("sym", "b")]), &own), Some("b"));
        assert_eq!(topic_of(&fields(&[("topic", "a")]), &own), None);
    }

    #[test]
    fn bytes_pass_where_the_namespace_takes_them() {
        let config = config::Redis::default();
        let raw = vec![0xff, b'\n', 0];
        let mut bytes = fields(&[("topic", "raw:a"), ("data", "")]);
        bytes[3] = Value::BulkString(raw.clone());
        let form = |topic: &str| if topic == "raw:a" { PayloadForm::Bytes } else { PayloadForm::Json };
        assert_eq!(decode_entry(bytes.clone(), &config, 3, AT_MS, form).unwrap().payload.bytes(), &raw);
        assert!(decode_entry(bytes.clone(), &config, 2, AT_MS, form).unwrap_err().text.contains("the most is 2"));
        let refusal = decode_entry(bytes.clone(), &config, 3, AT_MS, |_| PayloadForm::Json).unwrap_err();
        assert_eq!(refusal.reason, Reason::NotUtf8);
        bytes[1] = Value::BulkString(vec![0xff]);
        let refusal = decode_entry(bytes, &config, 3, AT_MS, form).unwrap_err();
        assert_eq!(refusal.reason, Reason::Name);
        is_plain(&refusal);
    }

    proptest! {
        #[test]
        fn any_entry_is_read_or_refused_in_plain_words(
            pairs in proptest::collection::vec((
                prop_oneof!["topic|data|kind|ts|channel".prop_map(String::into_bytes), any::<Vec<u8>>()],
                any::<Vec<u8>>(),
            ), 0..12),
        ) {
            let fields = pairs.into_iter().flat_map(|(name, value)| [name, value]).map(Value::BulkString).collect();
            if let Err(refusal) = decode_entry(fields, &config::Redis::default(), 20, AT_MS, |_| PayloadForm::Json) {
                is_plain(&refusal);
            }
        }
    }
}
