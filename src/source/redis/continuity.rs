//! Whether what a node has read joins up with what the stream holds.
//!
//! Replication keeps the order, so a master that has the entry that was read last has all before it too. One that lacks
//! it was promoted before it had got it: what was read here is in no other node's state, and never will be.

use std::time::Duration;

use ::redis::{Cmd, ErrorKind, RedisResult, Value, cmd};

use super::entries::{Entry, entries};
use super::id::EntryId;
use super::keys::Keys;
use super::link::Link;
use super::value::text;
use crate::position::Offset;

/// How far a partition was read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    /// Last entry taken in.
    pub(super) last: EntryId,
    /// How many had ever been added up to that one; `None` where the server does not say.
    pub(super) count: Option<u64>,
    /// Its fingerprint; `None` where it was not read but is only known to have been.
    pub(super) seen: Option<u64>,
    /// Highest offset that any had.
    pub(super) offset: Offset,
    /// Whether what the partition held has been read.
    pub(super) loaded: bool,
    /// States that are saved are of another stream of this name.
    pub(super) is_another: bool,
    /// Position of the saved states that were put back.
    pub(super) restored: EntryId,
}

/// What Redis says of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The last ID that it ever gave.
    pub(super) newest: EntryId,
    /// The oldest entry that it holds.
    pub(super) first: Option<EntryId>,
    /// Entries ever added to it, and those of them that are gone. Servers before Redis 7 do not say.
    counts: Option<(u64, u64)>,
    /// The newest of those that were deleted one by one (`XDEL`), where the server says.
    pub(super) deleted: Option<EntryId>,
    /// It holds nothing, and does not say what it ever held: `newest` is not known.
    pub(super) is_emptied: bool,
}

impl Facts {
    /// Asks for them. Servers that know no `XINFO` are asked for the first and the last entry.
    pub(super) async fn of(link: &mut Link, keys: &Keys) -> RedisResult<Self> {
        let reply: RedisResult<Value> = ask_facts(keys).query_async(link).await;
        let error = match reply {
            Ok(reply) => match Self::in_reply(reply) {
                Some(facts) => return Ok(facts),
                None => None,
            },
            Err(error) if error.detail().is_some_and(|detail| detail.contains("no such key")) => {
                return Ok(Self { counts: Some((0, 0)), ..Self::default() });
            }
            Err(error) if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => Some(error),
            Err(error) => return Err(error),
        };
        let last: Value =
            cmd("XREVRANGE").arg(&keys.stream).arg("+").arg("-").arg("COUNT").arg(1).query_async(link).await?;
        let first: Value = ask_first_entry(keys).query_async(link).await?;
        tracing::debug!(stream = keys.stream, ?error, "XINFO STREAM is not answered; what is gone cannot be counted");
        let (newest, first) = (first_id(last), first_id(first));
        if newest.is_none() && !cmd("EXISTS").arg(&keys.stream).query_async::<bool>(link).await? {
            return Ok(Self { counts: Some((0, 0)), ..Self::default() });
        }
        let newest_id = newest.unwrap_or_default();
        Ok(Self { newest: newest_id, first, counts: None, deleted: None, is_emptied: newest.is_none() })
    }

    /// What the answer to [`ask_facts`] says, if it is one.
    pub(super) fn in_reply(reply: Value) -> Option<Self> {
        match reply {
            Value::Array(fields) => Some(Self::read(&fields)),
            Value::Map(pairs) => {
                let fields: Vec<Value> = pairs.into_iter().flat_map(|(key, value)| [key, value]).collect();
                Some(Self::read(&fields))
            }
            _ => None,
        }
    }

    fn read(fields: &[Value]) -> Self {
        let number = |name: &str| match field(fields, name) {
            Some(Value::Int(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        let first = match field(fields, "first-entry") {
            Some(Value::Array(parts)) => parts.first().and_then(|id| text(id)?.parse().ok()),
            _ => None,
        };
        let added = number("entries-added");
        let id = |name: &str| field(fields, name).and_then(|id| text(id)?.parse().ok());
        Self {
            newest: id("last-generated-id").unwrap_or_default(),
            deleted: id("max-deleted-entry-id"),
            first,
            counts: added.zip(number("length")).map(|(added, length)| (added, added.saturating_sub(length))),
            is_emptied: false,
        }
    }

    /// How far back the stream reaches, if it has let go of entries. A stream that holds all it ever had reaches back to its
    /// beginning.
    pub(super) fn reach(&self) -> Option<Duration> {
        let first = self.first.filter(|_| !self.is_untrimmed())?;
        Some(Duration::from_millis(self.newest.ms.saturating_sub(first.ms)))
    }

    /// How many entries had been added up to the newest, if that is the one that was read last.
    pub(super) fn count_upto(&self, last: EntryId) -> Option<u64> {
        self.counts.filter(|_| self.newest == last).map(|(added, _)| added)
    }

    /// Whether the stream still holds every entry that was ever added to it, as far as is known.
    pub(super) fn is_untrimmed(&self) -> bool {
        self.counts.is_some_and(|(_, gone)| gone == 0)
    }

    /// Whether entries are gone that were added after `last`, the `count`th. Where that cannot be counted, what begins after
    /// it is taken to have lost some.
    pub(super) fn is_gone_after(&self, last: EntryId, count: Option<u64>) -> bool {
        let counts = self.counts.zip(count);
        if self.newest <= last {
            // Deleted one by one before they were read, or another stream that has come as far.
            return self.newest == last && counts.is_some_and(|((added, _), count)| added != count);
        }
        if self.first.is_some_and(|first| first <= last) {
            return false;
        }
        // All that was read is gone, and nothing else may be; fewer are gone only from another stream of this name.
        counts.is_none_or(|((_, gone), count)| gone != count)
    }

    /// Whether this is certainly another stream than the one whose `count`th entry was `last`: it has been given fewer, or it
    /// begins after that and has not lost as many.
    pub(super) fn is_another(&self, last: EntryId, count: Option<u64>) -> bool {
        let begins_after = self.newest > last && self.first.is_none_or(|first| first > last);
        let counts = self.counts.zip(count);
        counts.is_some_and(|((added, gone), count)| added < count || begins_after && gone < count)
    }

    /// Whether entries were deleted one by one before they were read, where the one that was read last, `last`, is the `count`th.
    /// Where there are newer ones in the stream only those behind them can be told.
    pub(super) fn is_deleted_unread(&self, last: EntryId, count: Option<u64>) -> bool {
        let has_more = self.counts.zip(count).is_some_and(|((added, _), count)| added > count);
        self.deleted.is_some_and(|deleted| deleted > last) || self.newest == last && has_more
    }

    /// Whether an entry may be one of those that were deleted one by one.
    pub(super) fn is_deleted(&self, id: EntryId) -> bool {
        self.deleted.is_some_and(|deleted| id <= deleted)
    }

    /// Whether entries are gone that were added after `last`, where that is certain.
    pub(super) fn is_surely_gone_after(&self, last: EntryId, count: Option<u64>) -> bool {
        count.is_some() && self.counts.is_some() && self.is_gone_after(last, count)
    }

    /// The same of entries between `last` and `batch`, which was read after it; these are facts from after that. Where nothing
    /// was read before, what cannot be counted may have lost some too.
    pub(super) fn is_gone_between(&self, count: Option<u64>, batch: &[Entry]) -> bool {
        let Some(((_, gone), count)) = self.counts.zip(count) else { return true };
        // Those of the batch that have gone since they were read.
        let read = batch.iter().filter(|entry| self.first.is_none_or(|first| entry.id < first)).count() as u64;
        gone != count + read
    }
}

/// How what a node has read does not join up with what the stream holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Break {
    /// Entries went before this node had read them; what it has read is in the stream's past.
    Missed(String),
    /// What it has read may be in no other node's state, and never will be.
    Rewritten(String),
}

impl Break {
    /// Entries after `last` are gone.
    pub(super) fn missed(last: EntryId) -> Self {
        Self::Missed(format!("entries after {last} were trimmed or deleted before they were read"))
    }

    fn another(last: EntryId) -> Self {
        Self::Rewritten(format!("the stream has been given fewer entries than were read from it up to {last}"))
    }

    fn other(last: EntryId) -> Self {
        Self::Rewritten(format!("{last} is another entry than the one that was read"))
    }

    fn lost(last: EntryId) -> Self {
        Self::Rewritten(format!("{last} was read from the stream, but is not in it"))
    }

    /// The reason, for logs.
    pub(super) fn why(&self) -> &str {
        match self {
            Self::Missed(why) | Self::Rewritten(why) => why,
        }
    }
}

/// Whether what this node knows does not join up with what the stream holds.
pub(super) async fn broken(link: &mut Link, keys: &Keys, progress: &Progress) -> RedisResult<Option<Break>> {
    let last = progress.last;
    if last.is_zero() {
        return Ok(None);
    }
    let facts = Facts::of(link, keys).await?;
    if facts.is_emptied {
        return Ok(Some(Break::Missed(format!("the stream is empty and tells nothing of what came after {last}"))));
    }
    if facts.newest < last {
        let why = format!("the stream's last ID is {}, but {last} was read from it", facts.newest);
        return Ok(Some(Break::Rewritten(why)));
    }
    if facts.is_another(last, progress.count) {
        return Ok(Some(Break::another(last)));
    }
    if facts.is_gone_after(last, progress.count) || facts.is_deleted_unread(last, progress.count) {
        return Ok(Some(Break::missed(last)));
    }
    let (Some(seen), Some(first)) = (progress.seen, facts.first) else { return Ok(None) };
    if first > last {
        return Ok(None);
    }
    Ok(match fingerprint_of(link, keys, last).await? {
        Some(found) if found == seen => None,
        Some(_) => Some(Break::other(last)),
        None if facts.is_deleted(last) => None,
        None => Some(Break::lost(last)),
    })
}

/// What an entry is to be that was read last, and whether a read finds it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Witness {
    /// It was not asked for.
    Unasked,
    /// It is as it was.
    Same,
    /// Another entry has its ID.
    Other,
    /// There is none.
    Gone,
}

impl Witness {
    /// What the answer to [`ask_entry`] says of an entry that had the fingerprint `seen`.
    pub(super) fn of(reply: Value, seen: u64) -> Self {
        match entries(reply).first().map(Entry::fingerprint) {
            Some(found) if found == seen => Self::Same,
            Some(_) => Self::Other,
            None => Self::Gone,
        }
    }

    /// What this says of a stream of which `last` was read last.
    pub(super) async fn broken(self, link: &mut Link, keys: &Keys, last: EntryId) -> RedisResult<Option<Break>> {
        match self {
            Self::Unasked | Self::Same => Ok(None),
            Self::Other => Ok(Some(Break::other(last))),
            Self::Gone => {
                let facts = Facts::of(link, keys).await?;
                // Trimmed, as what was read may be; or deleted.
                let is_gone = facts.first.is_none_or(|first| first > last) || facts.is_deleted(last);
                Ok((!is_gone).then(|| Break::lost(last)))
            }
        }
    }
}

/// Asks what the stream is.
pub(super) fn ask_facts(keys: &Keys) -> Cmd {
    cmd("XINFO").arg("STREAM").arg(&keys.stream).to_owned()
}

/// Asks for one entry.
pub(super) fn ask_entry(keys: &Keys, id: EntryId) -> Cmd {
    cmd("XRANGE").arg(&keys.stream).arg(id.to_string()).arg(id.to_string()).to_owned()
}

/// The fingerprint of an entry, if it is in the stream.
pub(super) async fn fingerprint_of(link: &mut Link, keys: &Keys, id: EntryId) -> RedisResult<Option<u64>> {
    let reply: Value = ask_entry(keys, id).query_async(link).await?;
    Ok(entries(reply).first().map(Entry::fingerprint))
}

/// How entries between the last that was taken in and `batch` are gone, if they are; `first` is the oldest that the stream held just
/// after `batch` was read.
pub(super) async fn broken_before(
    link: &mut Link,
    keys: &Keys,
    progress: &Progress,
    batch: &[Entry],
    first: Option<EntryId>,
) -> RedisResult<Option<Break>> {
    let last = progress.last;
    if first.is_some_and(|first| first <= last) {
        return Ok(None);
    }
    let facts = Facts::of(link, keys).await?;
    if !facts.is_gone_between(progress.count, batch) {
        return Ok(None);
    }
    let is_behind = !facts.is_emptied && batch.last().is_some_and(|entry| facts.newest < entry.id);
    Ok(Some(match is_behind || facts.is_another(last, progress.count) {
        true => Break::another(last),
        false => Break::missed(last),
    }))
}

fn field<'a>(info: &'a [Value], name: &str) -> Option<&'a Value> {
    info.chunks(2).find_map(|pair| match pair {
        [key, value] if text(key) == Some(name) => Some(value),
        _ => None,
    })
}

/// Asks for the oldest entry that the stream holds.
pub(super) fn ask_first_entry(keys: &Keys) -> Cmd {
    cmd("XRANGE").arg(&keys.stream).arg("-").arg("+").arg("COUNT").arg(1).to_owned()
}

/// The ID in the answer to that.
pub(super) fn first_id(reply: Value) -> Option<EntryId> {
    entries(reply).first().map(|entry| entry.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64) -> EntryId {
        EntryId { ms, seq: 0 }
    }

    fn batch(ids: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
        ids.map(|ms| Entry { id: id(ms), fields: Vec::new() }).collect()
    }

    /// Ten entries with the IDs 1 to 10 were added; `gone` of them from the front.
    fn facts(added: u64, gone: u64) -> Facts {
        Facts {
            newest: id(added),
            first: (gone < added).then(|| id(gone + 1)),
            counts: Some((added, gone)),
            deleted: Some(id(0)),
            is_emptied: false,
        }
    }

    #[test]
    fn every_hole_is_found_and_none_is_made_up() {
        for (last, gone) in (0..10).flat_map(|last| (0..=10).map(move |gone| (last, gone))) {
            let lost = gone > last;
            let at = |count| facts(10, gone).is_gone_after(id(last), count);
            assert_eq!(at(Some(last)), lost, "{last} read, {gone} gone");
            assert!(at(None) || !lost, "{last} read, {gone} gone, not counted");
        }
        assert!(!facts(10, 10).is_gone_after(id(10), Some(10)), "all that is gone was read");
        let another = Facts { counts: Some((3, 0)), ..facts(10, 7) };
        assert!(another.is_gone_after(id(5), Some(5)), "another stream of the name");
        assert!(another.is_gone_between(Some(5), &batch(8..=10)));
    }

    /// Ten were added, and entries deleted one by one, the newest of them with the ID `deleted`.
    #[test]
    fn entries_that_were_deleted_before_they_were_read_are_found() {
        for (last, count, deleted, unread) in [
            (10, Some(10), 0, false),
            (10, Some(10), 7, false),
            (10, Some(9), 7, true),
            (10, None, 7, false),
            (5, Some(5), 4, false),
            (5, Some(5), 5, false),
            (5, Some(5), 8, true),
            (5, None, 8, true),
        ] {
            let facts = Facts { deleted: Some(id(deleted)), ..facts(10, 0) };
            let found = facts.is_deleted_unread(id(last), count);
            assert_eq!(found, unread, "{last} read, the {count:?}th; {deleted} deleted");
        }
    }

    /// (last read, first of the batch, gone afterwards, hole)
    #[test]
    fn a_hole_before_a_batch_is_told_from_entries_that_went_after_it_was_read() {
        for (last, from, gone, hole) in [
            (5, 6, 5, false),
            (5, 6, 7, false),
            (5, 7, 6, true),
            (5, 7, 8, true),
            (0, 1, 0, false),
            (0, 1, 3, false),
            (0, 2, 1, true),
            (5, 6, 10, false),
            (5, 7, 10, true),
        ] {
            let found = facts(10, gone).is_gone_between(Some(last), &batch(from..=10));
            assert_eq!(found, hole, "{last} read, then from {from} on, {gone} gone since");
        }
        let uncounted = Facts { counts: None, ..facts(10, 5) };
        assert!(uncounted.is_gone_between(Some(5), &batch(6..=10)), "in doubt, a hole");
        assert!(uncounted.is_gone_between(None, &batch(1..=10)), "also where nothing was read before");
        assert!(!facts(15, 10).is_gone_between(Some(5), &batch(6..=10)), "what came after the batch is still there");
    }

    /// Five entries were read; the stream was deleted, and others were added to one of the same name.
    #[test]
    fn another_stream_of_the_name_is_told_however_many_entries_it_has() {
        for (added, gone) in [(1, 0), (5, 0), (6, 0), (2_000, 0), (8, 3), (8, 4)] {
            let facts = Facts {
                newest: id(100 + added),
                first: Some(id(101 + gone)),
                counts: Some((added, gone)),
                ..Facts::default()
            };
            assert!(
                facts.is_gone_after(id(5), Some(5)) && facts.is_another(id(5), Some(5)),
                "{added} added, {gone} gone"
            );
            assert!(facts.is_gone_between(Some(5), &batch(101 + gone..=100 + added)), "{added} added, {gone} gone");
        }
        assert!(!facts(10, 7).is_another(id(5), Some(5)), "it has lost more than was read");
        let behind = Facts { newest: id(5), first: Some(id(5)), counts: Some((7, 6)), ..Facts::default() };
        assert!(behind.is_gone_after(id(5), Some(5)), "two were deleted before they were read");
    }
}
