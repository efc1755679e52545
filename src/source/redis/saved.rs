//! What is saved of a partition beside its stream, as it is written and read again.

use ::redis::{Pipeline, RedisResult, cmd, pipe};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::continuity::Facts;
use super::id::EntryId;
use super::keys::Keys;
use super::link::Link;
use super::masters::Masters;
use super::resp::VALUE_BYTES;
use crate::config::{Class, PayloadForm};
use crate::limits::OFFSET_MAX;
use crate::position::{Epoch, Offset};
use crate::source::saving::{Hole, read_lifetimes};
use crate::source::{Feed, SavedState, has_outer_blanks};
use crate::topic::{Known, Lifetime, Mark, Snapshot, SourceId, hash_of};

/// A state, as JSON.
#[derive(Serialize, Deserialize)]
pub(super) struct Saved<'a> {
    /// First, so that scripts find it.
    offset: Offset,
    #[serde(default)]
    ts: Option<u64>,
    /// When the source took the newest delta in, Unix ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
    /// Deltas of another partition are refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    moved: bool,
    /// Offset of the entry that moved it; older nodes do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moved_at: Option<Offset>,
    /// Offset of the snapshot that it rests on, where another stream has entries of the topic, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<Offset>,
    #[serde(borrow, default, deserialize_with = "crate::source::present", skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    /// How far a `stream` topic had come; its data is an empty list.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
    /// Any other class; older nodes do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    class: Option<Class>,
    /// In place of `data`: bytes, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
    /// In place of `data`: a state that may lack deltas.
    #[serde(borrow, default, deserialize_with = "crate::source::present", skip_serializing_if = "Option::is_none")]
    partial: Option<&'a RawValue>,
    /// In place of `b64data`: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    b64partial: Option<String>,
    /// The hole after which the node that saved it knew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hole: Option<Epoch>,
}

impl<'a> Saved<'a> {
    /// `None` if its data is not JSON though it should be.
    pub(super) fn of(state: &'a Snapshot, class: Class, hole: Option<&Epoch>) -> Option<Self> {
        let (offset, ts, at) = (state.offset, state.ts, Some(state.at_ms));
        let moved_at = Some(state.moved_at).filter(|at| *at > Offset::ZERO);
        let (data, b64data, partial, b64partial) = (None, None, None, None);
        let base = Some(state.base).filter(|base| *base > Offset::ZERO);
        let (moved, stream) = (moved_at.is_some(), class == Class::Stream);
        let class = Some(class).filter(|_| !stream);
        let whole = state.known == Known::Whole;
        let hole = hole.filter(|_| whole).cloned();
        let mut saved =
            Self { offset, ts, at, moved, moved_at, base, data, stream, class, b64data, partial, b64partial, hole };
        match state.form {
            // White space around JSON would not come back.
            PayloadForm::Json if !has_outer_blanks(&state.data) => {
                let data = Some(serde_json::from_slice(&state.data).ok()?);
                *(if whole { &mut saved.data } else { &mut saved.partial }) = data;
            }
            _ if whole => saved.b64data = Some(STANDARD.encode(&state.data)),
            _ => saved.b64partial = Some(STANDARD.encode(&state.data)),
        }
        Some(saved)
    }

    /// The state, as it was published.
    pub(super) fn read<'t>(self, topic: &'t str) -> Option<SavedState<'t>> {
        let incomplete = self.data.is_none() && self.b64data.is_none();
        let text = |raw: &RawValue| Bytes::copy_from_slice(raw.get().as_bytes());
        let base64 = |text: String| STANDARD.decode(text).ok().map(Bytes::from);
        let data = match (self.data.or(self.partial), self.b64data.or(self.b64partial)) {
            (Some(raw), _) => text(raw),
            (None, encoded) => encoded.and_then(base64)?,
        };
        // States that were saved before there was `at` have an ID's offset.
        let at_ms = self.at.or_else(|| Some(EntryId::of_offset(self.offset).ms));
        let moved_at = crate::source::moved_at(self.moved, self.moved_at, self.offset);
        let (offset, ts, is_stream, class, base) = (self.offset, self.ts, self.stream, self.class, self.base);
        let hole = self.hole;
        Some(SavedState { topic, offset, ts, at_ms, data, is_stream, class, moved_at, base, incomplete, hole })
    }
}

/// That the stream has an entry of a topic which is saved beside another, or which it ended there, as JSON.
#[derive(Serialize, Deserialize)]
struct SavedMark {
    /// First, so that scripts find it.
    offset: Offset,
    /// When the stream took it in, Unix ms.
    at: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
}

pub(super) fn mark_text(mark: &Mark) -> String {
    let saved = SavedMark { offset: mark.offset, at: mark.at_ms, deleted: mark.is_deletion };
    serde_json::to_string(&saved).unwrap_or_default()
}

/// Puts back what is marked of topics that are saved beside other streams.
async fn restore_marks(
    link: &mut Link,
    keys: &Keys,
    source: SourceId,
    (newest, count): (Option<Offset>, usize),
    feed: &Feed,
) -> RedisResult<()> {
    let mut cursor: u64 = 0;
    loop {
        let (next, pairs): (u64, Vec<(String, String)>) =
            cmd("HSCAN").arg(&keys.strays).arg(cursor).arg("COUNT").arg(count).query_async(link).await?;
        for (topic, text) in pairs.into_iter().filter(|(topic, _)| topic != POSITION_FIELD) {
            let Ok(mark) = serde_json::from_str::<SavedMark>(&text) else {
                feed.leave_out(source, &topic, None, "what is marked of it cannot be read");
                continue;
            };
            // Past the newest entry it is of what a failover lost.
            if newest.is_none_or(|newest| mark.offset <= newest)
                && let Err(error) = feed.topics.restore_mark(source, &topic, (mark.offset, mark.at, mark.deleted))
            {
                feed.leave_out(source, &topic, Some(mark.at), &error.to_string());
            }
        }
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}

/// The field of a hash beside a stream that says up to where it was complete when it was last saved, and how many fields it has.
/// No topic has this name. Only with it does the position count: if one of the keys is deleted, or a field of a hash, what is left
/// is not what was saved.
pub(super) const POSITION_FIELD: &str = "";

/// The text of that field, as the last script that wrote to the hash left it.
#[derive(Serialize, Deserialize)]
struct PositionField {
    /// Nodes that do not know this field take it for a state past the newest entry, and pass it over.
    offset: Offset,
    at: u64,
    upto: String,
    /// With this one; older nodes do not say.
    #[serde(default)]
    fields: Option<u64>,
}

/// The text of that field before the script has counted the others.
pub(super) fn upto_text(position: &str) -> String {
    format!("{{\"offset\":{OFFSET_MAX},\"at\":0,\"upto\":\"{position}\",\"fields\":0}}")
}

/// Whether a hash with `fields` fields is as it was left when `position` was saved.
fn is_as_left(text: Option<&str>, fields: Option<&str>, position: &str) -> bool {
    let Some(field) = text.and_then(|text| serde_json::from_str::<PositionField>(text).ok()) else { return false };
    let fields = fields.and_then(|fields| fields.parse::<u64>().ok());
    field.upto == position && (field.fields.is_none() || field.fields == fields)
}

/// What is saved beside a stream.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The position, as it is written.
    pub(super) position: Option<String>,
    /// Up to where saved states are complete, if any were saved and are there.
    pub(super) upto: Option<SavedUpto>,
    /// The position, and not all that was saved with it.
    pub(super) is_torn: bool,
    /// Other streams that it depends on.
    pub(super) dependencies: Vec<Dependency>,
    /// What the node that saved says of states that it does not know.
    pub(super) hole: Hole,
    /// How long topics live on that node; older nodes do not say.
    pub(super) lifetimes: Vec<Lifetime>,
    /// Another one after all states were removed and saved again; older nodes do not say.
    pub(super) generation: Option<Epoch>,
}

/// Up to where saved states are complete.
#[derive(Debug, Clone, Copy)]
pub(super) struct SavedUpto {
    pub(super) upto: EntryId,
    /// How many entries the stream had been given up to there, where the server said.
    pub(super) count: Option<u64>,
    /// Up to when the node that saved may have missed deltas of topics that it does not know, Unix ms.
    pub(super) missed_ms: Option<u64>,
    /// The fingerprint of that entry.
    pub(super) seen: Option<u64>,
}

/// Another stream that what was saved of a stream depends on, because it had entries of the same topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dependency {
    /// The hash of the stream's name.
    pub(super) stream: u64,
    pub(super) epoch: String,
    /// Up to where it had been read.
    pub(super) reached: Offset,
}

impl Dependency {
    pub(super) fn new(stream: &str, epoch: &Epoch, reached: Offset) -> Self {
        Self { stream: hash_of(stream), epoch: epoch.as_str().to_owned(), reached }
    }

    /// Several, in a word.
    pub(super) fn text(all: &[Self]) -> String {
        let one = |on: &Self| format!("{:x}={}={}", on.stream, on.reached, on.epoch);
        if all.is_empty() { "-".to_owned() } else { all.iter().map(one).collect::<Vec<_>>().join(",") }
    }

    fn read(text: &str) -> Vec<Self> {
        let one = |text: &str| {
            let (stream, rest) = text.split_once('=')?;
            let (reached, epoch) = rest.split_once('=')?;
            let (stream, reached) = (u64::from_str_radix(stream, 16).ok()?, reached.parse().ok()?);
            Some(Self { stream, epoch: epoch.to_owned(), reached: Offset::new(reached)? })
        };
        text.split(',').filter_map(one).collect()
    }

    /// Whether that stream still has the epoch and the entries that it had then, as far as can be told.
    pub(super) async fn is_current(&self, masters: &Masters, stream: &str) -> RedisResult<bool> {
        let mut link = masters.connect(stream).await?;
        let keys = Keys::new(stream);
        let epoch: Option<String> = cmd("GET").arg(&keys.epoch).query_async(&mut link).await?;
        let facts = Facts::of(&mut link, &keys).await?;
        let is_there = facts.is_emptied || facts.newest.ceiling() >= self.reached;
        Ok(epoch.as_deref() == Some(&*self.epoch) && is_there)
    }
}

/// Whether saved states that were read belonged together: none were removed meanwhile because a key was lost.
pub(super) async fn is_still(link: &mut Link, keys: &Keys, generation: Option<&Epoch>) -> RedisResult<bool> {
    let found = found(link, keys).await?;
    Ok(found.upto.is_some() && found.generation.as_ref() == generation)
}

/// Up to when topics ended for want of deltas and were removed, Unix ms of the stream's clock; 0 if none were.
pub(super) async fn expired_ms(link: &mut Link, keys: &Keys) -> RedisResult<u64> {
    let expired: Option<u64> = cmd("GET").arg(&keys.expired).query_async(link).await?;
    Ok(expired.unwrap_or(0))
}

/// Looks for what is saved.
pub(super) async fn found(link: &mut Link, keys: &Keys) -> RedisResult<Found> {
    // A save that ends meanwhile is in what is read before the position, or in what is read after it.
    let mut look = pipe();
    let look_at_hashes = |look: &mut Pipeline| {
        for hash in [&keys.snapshots, &keys.strays] {
            look.cmd("HGET").arg(hash).arg(POSITION_FIELD).cmd("HLEN").arg(hash);
        }
    };
    look_at_hashes(&mut look);
    look.cmd("GET").arg(&keys.position).cmd("GET").arg(&keys.count);
    look_at_hashes(&mut look);
    let found: [Option<String>; 10] = look.query_async(link).await?;
    let [states_before, fields_before, strays_before, stray_fields_before, position, counted, rest @ ..] = found;
    let [states, fields, strays, stray_fields] = rest;
    let upto: Option<EntryId> = position.as_ref().and_then(|text| text.parse().ok());
    let (Some(upto), Some(text)) = (upto, position.as_deref()) else {
        return Ok(Found { position, ..Found::default() });
    };
    let mut words = counted.as_deref().unwrap_or_default().split(' ');
    // One of another position was not saved with this: by a node that knows no count.
    let mut word = |is_count: bool| if is_count { words.next() } else { None };
    let is_count = word(true) == Some(text);
    let count = word(is_count).and_then(|count| count.parse().ok());
    let is_partial = word(is_count) == Some("partial");
    let seen = word(is_count).and_then(|seen| u64::from_str_radix(seen, 16).ok());
    // Older nodes do not say when: before that entry.
    let missed_ms =
        word(is_count).and_then(|missed_ms| missed_ms.parse().ok()).map_or(upto.ms, |ms: u64| ms.min(upto.ms));
    let hashes: u32 = word(is_count).and_then(|hashes| hashes.parse().ok()).unwrap_or(0);
    let dependencies = word(is_count).map_or_else(Vec::new, Dependency::read);
    let hole = word(is_count).map_or(Hole::Unsaid, Hole::read);
    let lifetimes = word(is_count).map_or_else(Vec::new, read_lifetimes);
    let generation = word(is_count).map(Epoch::from_text);
    let is_left = |left: &Option<String>, fields: &Option<String>| is_as_left(left.as_deref(), fields.as_deref(), text);
    let has_states = is_left(&states_before, &fields_before) || is_left(&states, &fields);
    let has_strays = is_left(&strays_before, &stray_fields_before) || is_left(&strays, &stray_fields);
    // Saved with a count, which is gone, or without what goes with it.
    let has_nothing = !is_count && fields.as_deref() == Some("0");
    let is_torn = has_nothing || !is_count && has_states || hashes > 0 && !has_states || hashes > 1 && !has_strays;
    let upto = SavedUpto { upto, count, missed_ms: is_partial.then_some(missed_ms), seen };
    Ok(Found { position, upto: Some(upto).filter(|_| !is_torn), is_torn, dependencies, hole, lifetimes, generation })
}

/// Puts back saved states, some at a time, from `cursor` on. Those that are past the stream's newest entry hold deltas that a
/// failover lost: they are left out. Returns how many were put back, how many bytes were read, and where to go on.
pub(super) async fn restore(
    link: &mut Link,
    keys: &Keys,
    source: SourceId,
    (cursor, count): (u64, usize),
    (answer_bytes_max, bytes_max): (usize, usize),
    feed: &Feed,
) -> RedisResult<(usize, Vec<usize>, u64)> {
    let mut restored = 0;
    let (next, pairs): (u64, Vec<(String, String)>) = cmd("HSCAN")
        .arg(&keys.snapshots)
        .arg(cursor)
        .arg("COUNT")
        .arg(count)
        .query_async(&mut link.within(answer_bytes_max))
        .await?;
    // As of now: other nodes go on to save while this one loads.
    let facts = Facts::of(link, keys).await?;
    let newest = facts.newest.ceiling();
    let sizes = pairs.iter().map(|(topic, text)| 2 * VALUE_BYTES + topic.len() + text.len()).collect();
    for (topic, text) in pairs.into_iter().filter(|(topic, _)| topic != POSITION_FIELD) {
        let saved = serde_json::from_str::<Saved<'_>>(&text);
        if saved.as_ref().is_ok_and(|saved| saved.offset > newest) && !facts.is_emptied {
            continue;
        }
        let Some(saved) = saved.ok().and_then(|saved| saved.read(&topic)) else {
            feed.leave_out(source, &topic, None, "it cannot be read");
            continue;
        };
        restored += usize::from(feed.restore(source, saved, bytes_max));
    }
    if next == 0 && feed.topics.partitions() > 1 {
        let newest = Some(newest).filter(|_| !facts.is_emptied);
        restore_marks(link, keys, source, (newest, count), feed).await?;
    }
    Ok((restored, sizes, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_again_and_what_older_nodes_saved_too() {
        for (text, data, at_ms, incomplete) in [
            (r#"{"offset":8192,"b64data":"IDEg"}"#, " 1 ", 1_704_067_200_001, false),
            (r#"{"offset":8192,"ts":5,"data":{"a":1.50}}"#, r#"{"a":1.50}"#, 1_704_067_200_001, false),
            (r#"{"offset":8192,"data":null}"#, "null", 1_704_067_200_001, false),
            (r#"{"offset":8192,"b64data":"AAE="}"#, "\u{0}\u{1}", 1_704_067_200_001, false),
            (r#"{"offset":8192,"at":7,"partial":{"a":1}}"#, r#"{"a":1}"#, 7, true),
            (r#"{"offset":8192,"at":7,"b64partial":"AAE="}"#, "\u{0}\u{1}", 7, true),
        ] {
            let saved = serde_json::from_str::<Saved<'_>>(text).unwrap().read("t").unwrap();
            let seen = (saved.data.as_ref(), saved.at_ms, saved.incomplete);
            assert_eq!(seen, (data.as_bytes(), Some(at_ms), incomplete), "{text}");
        }
        assert!(serde_json::from_str::<Saved<'_>>(r#"{"offset":1}"#).unwrap().read("t").is_none());
    }
}
