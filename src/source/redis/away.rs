//! Topics that leave a stream for another: `nexus-push reshard` moves them, a slice of all names at a time.
//!
//! An entry in the stream that is left, a **cut**, says that what comes after it of one slice's topics is not to be taken in:
//! the command appends it to the new stream, behind an entry that has the state as it was at the cut. So the order of a topic's
//! deltas is the same for all nodes, whatever they read first. Cuts are kept beside the stream, too, for nodes that start after.

use std::collections::HashMap;

use ::redis::{ErrorKind, RedisError, RedisResult, Value, cmd};
use serde::{Deserialize, Serialize};

use super::id::EntryId;
use super::keys::Keys;
use super::link::Link;
use super::masters::Masters;
use super::value::text;
use crate::limits::REFUSAL_CHARS_SHOWN;
use crate::name::shown;
use crate::source::refusal::{Reason, Refusal};
use crate::topic::{hash_of, home_in};

/// First field of a cut; its value says what it is.
pub(super) const CUT_FIELD: &str = "nexus:away";

/// First field of an entry that was handed on from another stream: that stream's name and the ID that it has there.
pub(super) const FROM_FIELD: &str = "nexus:from";

/// When the delta was taken in by the other stream, Unix ms; of a topic that moves, its last one.
pub(super) const AT_FIELD: &str = "nexus:at";

/// Of a topic that moves: there if its state may lack deltas.
pub(super) const PARTIAL_FIELD: &str = "nexus:partial";

/// Slices that names are divided into at most.
pub(super) const SLICES_MAX: u16 = 256;

/// The slice of a topic, of `slices`. Bits that say little of the partition.
pub(super) fn slice_of(topic: &str, slices: u16) -> u16 {
    u16::try_from((hash_of(topic) >> 24) % u64::from(slices.max(1))).unwrap_or(0)
}

/// What a cut says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cut {
    /// The run of the command.
    pub(super) run: String,
    /// The streams that topics belong in from now on.
    pub(super) streams: Vec<String>,
    pub(super) slices: u16,
    /// The slice that leaves with this; `None` if all have left, and no more is handed on after this.
    pub(super) slice: Option<u16>,
    /// The stream that it cuts: in another it is a copy. Versions before this member write none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stream: Option<String>,
}

impl Cut {
    /// The cut that an entry of `stream` is, if it is one. That is decided by the entry alone, as all nodes must agree on it: what
    /// is kept beside the stream is of the last run only, and may have changed since the entry was written.
    pub(super) fn of(fields: &[Value], stream: &str) -> Option<Result<Self, Refusal>> {
        let [name, value, others @ ..] = fields else { return None };
        if text(name) != Some(CUT_FIELD) {
            return None;
        }
        let value = text(value).unwrap_or_default();
        let read = serde_json::from_str(value)
            .map_err(drop)
            .and_then(|cut: Self| if cut.is_sound() { Ok(cut) } else { Err(()) });
        let fault = match &read {
            Err(()) => "which is no mark of `nexus-push reshard`".to_owned(),
            Ok(_) if !others.is_empty() => "and a mark of `nexus-push reshard` has no other field".to_owned(),
            Ok(Self { stream: Some(own), .. }) if own != stream => {
                format!(
                    "a mark of `nexus-push reshard` for the stream `{}`",
                    shown(own.as_bytes(), REFUSAL_CHARS_SHOWN)
                )
            }
            Ok(_) => return read.ok().map(Ok),
        };
        let told = format!("its field `{CUT_FIELD}` is `{}`, {fault}", shown(value.as_bytes(), REFUSAL_CHARS_SHOWN));
        let remedy = "leave fields that begin with `nexus:` to `nexus-push reshard`, and out of copies of its streams";
        Some(Err(Refusal::new(Reason::Cut, told, remedy)))
    }

    /// Whether the command can have written it.
    fn is_sound(&self) -> bool {
        let slice = self.slice.unwrap_or_default();
        !self.run.is_empty() && !self.streams.is_empty() && slice < self.slices
    }
}

/// An entry that was handed on from another stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Handed {
    /// The stream that it was in.
    pub(super) from: String,
    /// Its ID there; of a topic that moves, the cut.
    pub(super) id: EntryId,
    /// When it was taken in there; of a topic that moves, its last delta. Deletions do not say it.
    pub(super) at_ms: Option<u64>,
    /// The state may lack deltas.
    pub(super) is_partial: bool,
}

impl Handed {
    /// Of an entry's fields, if it was.
    pub(super) fn of(fields: &[Value]) -> Option<Self> {
        let [name, value, ..] = fields else { return None };
        if text(name) != Some(FROM_FIELD) {
            return None;
        }
        let (id, from) = text(value)?.split_once(' ')?;
        let mut handed = Self { from: from.to_owned(), id: id.parse().ok()?, at_ms: None, is_partial: false };
        for pair in fields.chunks_exact(2) {
            let [name, value] = pair else { continue };
            match text(name) {
                Some(AT_FIELD) => handed.at_ms = text(value).and_then(|at| at.parse().ok()),
                Some(PARTIAL_FIELD) => handed.is_partial = true,
                _ => {}
            }
        }
        Some(handed)
    }
}

/// Up to where a run has handed on entries of `from` to `to`; `None` if it has not begun to.
pub(super) async fn handed_on(masters: &Masters, from: &str, to: &str, run: &str) -> RedisResult<Option<EntryId>> {
    let mut link = masters.connect(to).await?;
    let state: Option<String> = cmd("GET").arg(Keys::new(to).relay(from)).query_async(&mut link).await?;
    let words = state.as_deref().and_then(|state| state.split_once(' '));
    Ok(words.filter(|(of, _)| *of == run).and_then(|(_, rest)| rest.split(' ').next()?.parse().ok()))
}

/// Which topics have left a stream, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Away {
    pub(super) run: String,
    pub(super) streams: Vec<String>,
    /// The streams that topics belonged in by the run before; none if there was none.
    pub(super) before: Vec<String>,
    pub(super) slices: u16,
    /// The cuts so far, by slice.
    pub(super) cuts: Vec<EntryId>,
    /// The cut after which no more is handed on.
    pub(super) end: Option<EntryId>,
    /// Everything up to the end has been handed on.
    pub(super) is_done: bool,
}

impl Away {
    /// What is kept beside a stream.
    pub(super) async fn read(link: &mut Link, keys: &Keys) -> RedisResult<Option<Self>> {
        let kept: RedisResult<HashMap<String, String>> = cmd("HGETALL").arg(&keys.away).query_async(link).await;
        match kept {
            Ok(kept) => Ok(Self::kept(&kept)),
            // Cuts may have been trimmed: without the key, topics that have left are told as they were.
            Err(error) if error.code() == Some("NOPERM") => {
                let told = "the user may not read which topics have moved: allow HGETALL on the key";
                Err(RedisError::from((ErrorKind::Client, told, keys.away.clone())))
            }
            Err(error) => Err(error),
        }
    }

    fn kept(kept: &HashMap<String, String>) -> Option<Self> {
        let field = |name: &str| kept.get(name).map(String::as_str);
        let cuts = field("cuts")?.split(',').filter(|cut| !cut.is_empty());
        Some(Self {
            run: field("run")?.to_owned(),
            streams: serde_json::from_str(field("streams")?).ok()?,
            before: field("before").and_then(|before| serde_json::from_str(before).ok()).unwrap_or_default(),
            slices: field("slices")?.parse().ok()?,
            cuts: cuts.map(|cut| cut.parse().ok()).collect::<Option<_>>()?,
            end: field("end").and_then(|end| end.parse().ok()),
            is_done: kept.contains_key("done"),
        })
    }

    /// Takes a cut in. One that was taken in already changes nothing.
    pub(super) fn take_in(known: &mut Option<Self>, cut: Cut, id: EntryId) {
        let away = match known {
            Some(away) if away.run == cut.run => away,
            _ => {
                let before = known.take().map(|before| before.streams).unwrap_or_default();
                known.insert(Self {
                    run: cut.run,
                    streams: cut.streams,
                    before,
                    slices: cut.slices,
                    cuts: Vec::new(),
                    end: None,
                    is_done: false,
                })
            }
        };
        match cut.slice {
            // There is one end. What comes after it is not handed on, whatever is copied behind it.
            None => drop(away.end.get_or_insert(id)),
            Some(slice) if usize::from(slice) == away.cuts.len() => away.cuts.push(id),
            // Of a run whose first cuts were not read: they lie before everything that is.
            Some(slice) if usize::from(slice) > away.cuts.len() => {
                away.cuts.resize(usize::from(slice), EntryId::default());
                away.cuts.push(id);
            }
            Some(_) => {}
        }
    }

    /// The stream that a topic belongs in.
    pub(super) fn home(&self, topic: &str) -> &str {
        home_in(topic, &self.streams)
    }

    /// Whether a topic belonged in another stream by the run before.
    pub(super) fn was_elsewhere(&self, stream: &str, topic: &str) -> bool {
        !self.before.is_empty() && home_in(topic, &self.before) != stream
    }

    /// The first that is known of it in the stream.
    pub(super) fn begin(&self) -> Option<EntryId> {
        self.cuts.iter().copied().find(|cut| *cut > EntryId::default()).or(self.end)
    }

    /// Whether nothing that comes with this ID is handed on any more.
    pub(super) fn has_ended_before(&self, id: EntryId) -> bool {
        self.end.is_some_and(|end| id > end)
    }

    /// Whether an entry of a topic in `stream` is handed on to another.
    pub(super) fn covers(&self, stream: &str, topic: &str, id: EntryId) -> bool {
        self.home(topic) != stream && !self.has_ended_before(id) && self.is_cut_before(topic, id)
    }

    /// Whether an entry comes after the cut of its topic's slice.
    pub(super) fn is_cut_before(&self, topic: &str, id: EntryId) -> bool {
        self.cut_of(topic).is_some_and(|cut| id > cut)
    }

    /// The cut of a topic's slice, if there is one yet.
    pub(super) fn cut_of(&self, topic: &str) -> Option<EntryId> {
        self.cuts.get(usize::from(slice_of(topic, self.slices))).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(ms: u64) -> EntryId {
        EntryId { ms, seq: 0 }
    }

    fn cut(slice: Option<u16>) -> Cut {
        Cut { run: "r".into(), streams: vec!["a".into(), "b".into()], slices: 3, slice, stream: None }
    }

    #[test]
    fn what_comes_after_a_slices_cut_is_covered_until_the_end() {
        let mut away = None;
        for (slice, at) in [(Some(0), 10), (Some(0), 11), (Some(1), 20), (Some(2), 30), (None, 40)] {
            Away::take_in(&mut away, cut(slice), id(at));
        }
        let away = away.unwrap();
        assert_eq!((away.cuts.as_slice(), away.end), (&[id(10), id(20), id(30)][..], Some(id(40))));
        for topic in (0..100).map(|n| format!("t:{n}")) {
            let cut_ms = 10 * (u64::from(slice_of(&topic, 3)) + 1);
            for ms in [5, 10, 11, 20, 21, 30, 31, 40, 41] {
                let expected = away.home(&topic) == "b" && ms > cut_ms && ms <= 40;
                assert_eq!(away.covers("a", &topic, id(ms)), expected, "{topic} at {ms}");
            }
        }
    }

    #[test]
    fn an_end_that_is_copied_behind_the_end_moves_it_not() {
        let mut away = None;
        for (slice, at) in [(Some(0), 10), (None, 20), (None, 30), (Some(0), 40)] {
            Away::take_in(&mut away, cut(slice), id(at));
        }
        let away = away.unwrap();
        assert_eq!((away.cuts.as_slice(), away.end), (&[id(10)][..], Some(id(20))));
    }

    #[test]
    fn a_cut_is_alone_in_its_entry_and_in_its_own_stream() {
        let read = |stream: &str, fields: &[&str]| {
            let fields: Vec<Value> = fields.iter().map(|field| Value::BulkString(field.as_bytes().to_vec())).collect();
            Cut::of(&fields, stream).map(|read| read.map_err(|refusal| refusal.told(false)))
        };
        let own = Cut { stream: Some("a".to_owned()), ..cut(Some(2)) };
        for whole in [cut(None), cut(Some(2)), own.clone()] {
            let text = serde_json::to_string(&whole).unwrap();
            assert_eq!(read("a", &[CUT_FIELD, &text]), Some(Ok(whole)));
            assert_eq!(read("a", &["topic", "t:x", CUT_FIELD, &text]), None);
            let told = read("a", &[CUT_FIELD, &text, "topic", "t:x"]).unwrap().unwrap_err();
            assert!(told.contains("no other field"), "{told}");
        }
        // As it was written before there was the member.
        let old = r#"{"run":"r","streams":["a","b"],"slices":3,"slice":2}"#;
        assert_eq!(read("b", &[CUT_FIELD, old]), Some(Ok(cut(Some(2)))));
        let copy = read("b", &[CUT_FIELD, &serde_json::to_string(&own).unwrap()]).unwrap().unwrap_err();
        assert!(copy.contains("for the stream `a`"), "{copy}");
        for unsound in [
            "{}",
            "1",
            r#"{"run":"","streams":["a"],"slices":1,"slice":0}"#,
            r#"{"run":"r","streams":[],"slices":1,"slice":0}"#,
            r#"{"run":"r","streams":["a"],"slices":1,"slice":1}"#,
            r#"{"run":"r","streams":["a"],"slices":0,"slice":null}"#,
        ] {
            let told = read("a", &[CUT_FIELD, unsound]).unwrap().unwrap_err();
            assert!(told.contains("no mark of `nexus-push reshard`"), "{told}");
        }
    }

    #[test]
    fn cuts_that_were_not_read_lie_before_all_that_is() {
        let mut away = None;
        Away::take_in(&mut away, cut(Some(2)), id(30));
        assert_eq!(away.unwrap().cuts, [id(0), id(0), id(30)]);
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let kept =
            [("run", "r"), ("streams", r#"["a","b"]"#), ("slices", "3"), ("cuts", ",10-0,20-0"), ("end", "40-0")];
        let mut kept: HashMap<String, String> = kept.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        let away = Away::kept(&kept).unwrap();
        assert_eq!((away.cuts.as_slice(), away.end, away.is_done), (&[id(10), id(20)][..], Some(id(40)), false));
        kept.insert("cuts".into(), "10".into());
        assert_eq!(Away::kept(&kept), None);
    }

    proptest! {
        #[test]
        fn fields_of_any_kind_are_read_without_panics(fields in proptest::collection::vec(".*", 0..6)) {
            for first in [CUT_FIELD, FROM_FIELD] {
                let all = std::iter::once(first).chain(fields.iter().map(String::as_str));
                let values: Vec<Value> = all.map(|field| Value::BulkString(field.as_bytes().to_vec())).collect();
                let _ = (Cut::of(&values, "a"), Handed::of(&values));
            }
        }
    }
}
