//! Stream entries: as Redis sends them, and the deltas they are.

use ::redis::Value;
use bytes::Bytes;

use super::id::EntryId;
use crate::config::{self, PayloadForm};
use crate::limits::STATE_BYTES_MAX;
use crate::topic::{Kind, Payload};

/// A delta as an entry gives it.
pub(super) struct EntryDelta {
    pub(super) topic: String,
    pub(super) kind: Kind,
    pub(super) ts: Option<u64>,
    pub(super) payload: Payload,
}

/// Reads `field value field value …`. Fields that are not configured are ignored. `form` says what a topic's deltas are
/// made of.
pub(super) fn decode_entry(
    fields: Vec<Value>,
    config: &config::Redis,
    bytes_max: usize,
    form: impl Fn(&str) -> PayloadForm,
) -> Result<EntryDelta, String> {
    let (mut topic, mut data, mut kind, mut ts) = (None, None, Kind::Delta, None);
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        let Some(name) = text(&name) else { continue };
        if name == config.topic_field {
            topic = text(&value).map(str::to_owned);
        } else if name == config.data_field {
            data = match value {
                Value::BulkString(bytes) => Some(Bytes::from(bytes)),
                Value::SimpleString(text) => Some(Bytes::from(text)),
                _ => None,
            };
        } else if name == config.kind_field {
            let named = text(&value);
            kind = named.and_then(Kind::from_name).ok_or_else(|| {
                let field = &config.kind_field;
                format!("field {field:?} is {named:?}, it may be delta, snapshot, delete, move or history_remove")
            })?;
        } else if name == config.ts_field {
            ts = text(&value).and_then(|t| t.parse().ok());
        }
    }
    let topic = topic.ok_or_else(|| format!("field {:?} is missing", config.topic_field))?;
    if kind == Kind::Deletion {
        // What a topic ends with does not matter.
        return Ok(EntryDelta { topic, kind, ts, payload: Payload::null() });
    }
    let data = data.ok_or_else(|| format!("field {:?} is missing", config.data_field))?;
    // A topic that moves brings its whole state.
    let bytes_max = if kind == Kind::Move { bytes_max.max(STATE_BYTES_MAX) } else { bytes_max };
    let payload = Payload::read(data, bytes_max, form(&topic)).map_err(|e| e.to_string())?;
    Ok(EntryDelta { topic, kind, ts, payload })
}

/// An entry as Redis sends it.
pub(super) struct Entry {
    pub(super) id: EntryId,
    pub(super) fields: Vec<Value>,
}

impl Entry {
    /// Bytes of its fields.
    pub(super) fn bytes(&self) -> usize {
        self.fields.iter().filter_map(raw).map(<[u8]>::len).sum()
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

fn raw(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

pub(super) fn text(value: &Value) -> Option<&str> {
    raw(value).and_then(|bytes| std::str::from_utf8(bytes).ok())
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
            let delta = decode_entry(entry.fields, config, bytes_max, |_| PayloadForm::Json);
            (entry.id, delta.map(|delta| (delta.topic, delta.payload.bytes().len())))
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

    fn fields(pairs: &[(&str, &str)]) -> Vec<Value> {
        let bulk = |s: &str| Value::BulkString(s.as_bytes().to_vec());
        pairs.iter().flat_map(|(k, v)| [bulk(k), bulk(v)]).collect()
    }

    #[test]
    fn entries_are_read_or_refused_with_a_reason() {
        let config = config::Redis::default();
        let read = |pairs: &[(&str, &str)]| decode_entry(fields(pairs), &config, 1_000, |_| PayloadForm::Json);
        let good =
            read(&[("x", "y"), ("topic", "a:b"), ("data", "{}"), ("ts", "5"), ("kind", "snapshot")]).ok().unwrap();
        assert_eq!((good.topic.as_str(), good.kind, good.ts), ("a:b", Kind::Snapshot, Some(5)));
        for (pairs, needle) in [
            (&[("data", "{}")][..], "\"topic\" is missing"),
            (&[("topic", "a")], "\"data\" is missing"),
            (&[("topic", "a"), ("data", "{")], "not JSON"),
            (&[("topic", "a"), ("data", "1"), ("kind", "x")], "delta, snapshot, delete, move or history_remove"),
        ] {
            assert!(read(pairs).err().unwrap().contains(needle), "{needle}");
        }
        let end = read(&[("topic", "a"), ("kind", "delete")]).ok().unwrap();
        assert_eq!((end.kind, end.payload.as_str()), (Kind::Deletion, "null"));
        assert!(decode_entry(vec![Value::Nil], &config, 10, |_| PayloadForm::Json).is_err());
        let raw = vec![0xff, b'\n', 0];
        let mut bytes = fields(&[("topic", "raw:a"), ("data", "")]);
        bytes[3] = Value::BulkString(raw.clone());
        let form = |topic: &str| if topic == "raw:a" { PayloadForm::Bytes } else { PayloadForm::Json };
        assert_eq!(decode_entry(bytes.clone(), &config, 3, form).ok().unwrap().payload.bytes(), &raw);
        assert!(decode_entry(bytes.clone(), &config, 2, form).err().unwrap().contains("the most is 2"));
        assert!(decode_entry(bytes, &config, 3, |_| PayloadForm::Json).err().unwrap().contains("not UTF-8"));
    }
}
