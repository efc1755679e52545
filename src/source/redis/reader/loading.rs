//! What a partition holds when a node starts, or when its epoch has changed: saved states, then the stream. A load goes on
//! where it was when the connection broke, so that over a slow or poor link it comes to an end.

use std::time::Duration;

use ::redis::{RedisResult, Value, cmd, pipe};
use tokio::time::Instant;

use super::super::appetite::Appetite;
use super::super::continuity::{self, Facts, Progress};
use super::super::entries::{Entry, entries};
use super::super::id::EntryId;
use super::super::link::Link;
use super::super::saved::{self, RestsOn, SavedUpto};
use super::{Away, RedisSource};
use crate::clock::unix_ms;
use crate::position::{Epoch, Offset};
use crate::source::Feed;
use crate::topic::{Floor, SourceId, hash_of};

/// Entries a read returns at most while loading.
const LOAD_BATCH: usize = 5_000;

/// Saved states a read returns at most, more or less.
const RESTORE_BATCH: usize = 500;

/// A load under way.
#[derive(Debug, Clone)]
pub(super) struct Loading {
    epoch: Epoch,
    /// The run of Redis that it is read from, where that says so.
    run: Option<String>,
    /// The newest entry when it began.
    newest: EntryId,
    /// Where saved states are read on; `None` once they are read.
    cursor: Option<u64>,
    restored: usize,
    /// Entries up to here are in the saved states.
    saved: Option<EntryId>,
    /// How many entries the stream had been given up to there.
    saved_count: Option<u64>,
    /// How many of those after it were read.
    after_saved: u64,
    /// The last entry taken in, and its fingerprint.
    last: EntryId,
    seen: Option<u64>,
    entries: usize,
    /// States that are saved are of another stream of this name.
    is_another: bool,
    /// The stream still had everything up to here that is not read, when it was last looked at.
    edge: EntryId,
    /// An entry lies there, and was not read yet.
    begins_at_edge: bool,
    appetite: Appetite,
}

impl RedisSource {
    /// Takes in everything that Redis holds.
    pub(super) async fn load(
        &mut self,
        link: &mut Link,
        feed: &Feed,
        epoch: Epoch,
        run: Option<String>,
    ) -> RedisResult<()> {
        // Another run may have lost what was read already: its saved states tell nothing of that.
        let is_same = |loading: &Loading| loading.epoch == epoch && loading.run == run;
        let mut loading = match self.loading.take() {
            // All of it is to be read again, and its past is what it was.
            Some(loading) if is_same(&loading) && feed.topics.is_outdated(self.id) => {
                Loading { run, ..self.begin(link, feed, epoch).await? }
            }
            Some(mut loading) if is_same(&loading) && self.joins_up(link, &loading).await? => {
                // Another Redis, or the same after a restart, counts otherwise where it was.
                loading.cursor = loading.cursor.map(|_| 0);
                tracing::info!(stream = self.keys.stream, entries = loading.entries, "the load goes on where it was");
                loading
            }
            broken_off => {
                if broken_off.is_some() {
                    // What was read of another past so far may have changed what other streams' topics are.
                    feed.topics.lose_past(self.id);
                }
                Loading { run, ..self.begin(link, feed, epoch).await? }
            }
        };
        let outcome = self.go_on(link, feed, &mut loading).await;
        if feed.topics.is_outdated(self.id) {
            return Err(
                (::redis::ErrorKind::Client, "another stream has another past than when this load began").into()
            );
        }
        match outcome {
            Ok(()) => self.finish(link, feed, &loading).await,
            Err(error) => {
                loading.appetite.failed();
                self.loading = Some(loading);
                Err(error)
            }
        }
    }

    /// Whether what was loaded so far is still what the stream holds.
    async fn joins_up(&self, link: &mut Link, loading: &Loading) -> RedisResult<bool> {
        if loading.seen.is_none() {
            let facts = Facts::of(link, &self.keys).await?;
            let is_there = facts.first.is_none_or(|first| first <= loading.edge);
            return Ok(facts.newest >= loading.newest && (is_there || facts.newest == loading.newest));
        }
        let (last, seen) = (loading.last, loading.seen);
        let progress = Progress { last, seen, ..Progress::default() };
        let why = continuity::broken(link, &self.keys, &progress).await?;
        Ok(why.is_none() && Facts::of(link, &self.keys).await?.newest >= loading.newest)
    }

    async fn begin(&mut self, link: &mut Link, feed: &Feed, epoch: Epoch) -> RedisResult<Loading> {
        if self.epoch.as_ref().is_some_and(|known| *known != epoch) {
            self.metrics.epoch_changes.get_or_create(&self.label()).inc();
        }
        self.status.set_loaded(false);
        self.leave_epoch();
        self.epoch = Some(epoch.clone());
        let facts = Facts::of(link, &self.keys).await?;
        let saved::Found { upto: saved_at, is_torn, rests_on, .. } = saved::found(link, &self.keys).await?;
        // A stream that is empty and does not say what it ever held is taken for the one of which states are saved.
        let newest = match saved_at {
            Some(saved) if facts.is_emptied => saved.upto,
            _ => facts.newest,
        };
        let first = facts.first;
        self.status.set_reach(facts.reach());
        self.status.set_fault("");
        if let Err(error) = newest.offset()
            && error.is_for_good()
        {
            self.fail(&error.to_string());
        }
        self.forget_leaving();
        self.away = Away::read(link, &self.keys).await?;
        if self.away.is_some() {
            feed.topics.left_by(self.id, unix_ms().saturating_add_signed(self.ahead_ms));
        }
        let mut saved = saved_at.filter(|saved| saved.upto <= newest);
        // After a failover that lost entries, what was saved may hold them.
        if let Some(SavedUpto { upto, seen: Some(seen), .. }) = saved
            && first.is_some_and(|first| first <= upto)
            && continuity::fingerprint_of(link, &self.keys, upto).await? != Some(seen)
        {
            saved = None;
        }
        if saved.is_some_and(|saved| facts.is_another(saved.upto, saved.count)) {
            saved = None;
        }
        if is_torn {
            tracing::warn!(
                stream = self.keys.stream,
                "a part of what was saved beside the stream is gone: the rest does not count"
            );
        }
        let (others, is_so) = if saved.is_some() { self.rests_on(&rests_on).await } else { (Vec::new(), true) };
        // Topics may have been left out for what the other stream had of them. If all entries are there, they are read again.
        let hides_some = !is_so && !facts.is_untrimmed();
        if !is_so {
            tracing::warn!(
                stream = self.keys.stream,
                is_read_again = !hides_some,
                "what was saved of the stream rests on another, which had entries of the same topics and has another past now: topics may \
                 have been left out"
            );
            saved = saved.filter(|_| hides_some);
        }
        let is_another = is_torn || saved_at.is_some() && saved.is_none();
        if is_another && !is_torn && is_so {
            tracing::warn!(
                stream = self.keys.stream,
                "the saved states are of another stream of this name: they do not count"
            );
        }
        // Far enough back for the history that recovery needs, and never after what was saved.
        let ttl_ms = u64::try_from(self.history_ttl.as_millis()).unwrap_or(u64::MAX);
        let recent = EntryId { ms: newest.ms.min(unix_ms()).saturating_sub(ttl_ms), seq: 0 };
        let start = saved.map_or(EntryId::default(), |saved| saved.upto.min(recent));
        // Whether states that are put back lack nothing that the stream does not hold.
        let complete = match saved {
            _ if facts.is_emptied => false,
            Some(saved) => !facts.is_gone_after(saved.upto, saved.count),
            None => facts.is_untrimmed(),
        };
        // Up to when deltas were missed, of topics that are in no saved state either.
        let missed_ms = match saved {
            Some(saved) if complete && hides_some => Some(saved.upto.ms),
            Some(saved) if complete => saved.missed_ms,
            _ if complete => None,
            _ if facts.is_emptied => Some(self.now_ms(link).await?),
            _ => Some(first.unwrap_or(newest).ms),
        };
        // An older hole, which saved states tell of, is no news: nothing is gone that they do not make up for.
        if !complete {
            tracing::warn!(
                stream = self.keys.stream,
                saved = %saved.map_or(EntryId::default(), |saved| saved.upto),
                first = %first.unwrap_or_default(),
                "entries are gone that are in no saved state: states that they changed are incomplete until they are published whole (kind=snapshot)"
            );
        } else if let Some(reach) = facts.reach().filter(|reach| *reach < self.config.snapshot_every * 2) {
            tracing::warn!(
                stream = self.keys.stream,
                ?reach,
                snapshot_every = ?self.config.snapshot_every,
                "the stream reaches back hardly further than states are saved: let it keep more (MAXLEN), or a node that is away for so long misses entries"
            );
        }
        // What came before the first entry that is read here is not known here.
        let floor = match first {
            // What lies up to there is in the stream, and not read.
            Some(first) if start >= first => start.ceiling(),
            // An entry without an offset is none.
            Some(first) if first.offset().is_err() => first.ceiling(),
            Some(first) => Offset::new(first.ceiling().get().saturating_sub(1)).unwrap_or_default(),
            None => newest.ceiling(),
        };
        // States that were saved of entries that are not there tell that there was another stream.
        let is_same = !is_another && saved.is_none_or(|saved| first.is_some_and(|first| first <= saved.upto));
        let reads_all = is_same && first.is_some_and(|first| start <= first);
        let is_whole = reads_all && facts.is_untrimmed() && !self.is_unwritten;
        let kept_after = if is_whole { Offset::ZERO } else { floor };
        feed.topics.load(self.id, &epoch, Floor { offset: floor, kept_after }, complete);
        for other in others.into_iter().filter(|_| saved.is_some()) {
            feed.topics.rests_on(self.id, other);
        }
        if let Some(outdated_ms) = saved.and_then(|saved| saved.missed_ms) {
            feed.topics.saved_after_a_hole(self.id, outdated_ms);
        }
        if let Some(missed_ms) = missed_ms {
            feed.topics.missed_until(self.id, missed_ms);
        }
        self.reached = floor;
        Ok(Loading {
            epoch,
            run: None,
            newest,
            cursor: saved.map(|_| 0),
            restored: 0,
            saved: saved.map(|saved| saved.upto),
            saved_count: saved.and_then(|saved| saved.count),
            after_saved: 0,
            last: start,
            seen: None,
            entries: 0,
            is_another,
            edge: first.unwrap_or(newest).max(start),
            begins_at_edge: first.is_some_and(|first| first > start),
            appetite: Appetite::new(RESTORE_BATCH),
        })
    }

    /// The sources that saved states rest on, and whether these are as they were then, as far as they say.
    async fn rests_on(&self, all: &[RestsOn]) -> (Vec<SourceId>, bool) {
        let (mut others, mut is_so) = (Vec::new(), true);
        for (at, stream) in (0..).zip(self.config.all_streams()) {
            if let Some(rests_on) = all.iter().find(|rests_on| rests_on.stream == hash_of(stream)) {
                is_so &= rests_on.is_so(&self.masters, stream).await.unwrap_or(false);
                others.push(SourceId(at));
            }
        }
        (others, is_so)
    }

    /// What time it is by Redis' clock, or by this node's where that is not told.
    async fn now_ms(&self, link: &mut Link) -> RedisResult<u64> {
        if !self.has_time {
            return Ok(unix_ms());
        }
        Ok(time_ms(&cmd("TIME").query_async::<Value>(link).await?).unwrap_or_else(unix_ms))
    }

    async fn go_on(&mut self, link: &mut Link, feed: &Feed, loading: &mut Loading) -> RedisResult<()> {
        while let Some(cursor) = loading.cursor {
            let began = Instant::now();
            let asked = loading.appetite.count();
            let (restored, sizes, next) =
                saved::restore(link, &self.keys, self.id, (cursor, asked), self.delta_bytes_max, feed).await?;
            loading.appetite.fed(sizes, asked.min(1), began.elapsed());
            loading.restored += restored;
            self.status.note(format!("loading, {} saved states so far", loading.restored));
            loading.cursor = (next != 0).then_some(next);
            if next == 0 {
                loading.appetite = Appetite::new(LOAD_BATCH);
            }
        }
        if loading.saved.is_none() && loading.entries == 0 {
            loading.appetite = Appetite::new(LOAD_BATCH);
        }
        loop {
            let from = if loading.last.is_zero() { "-".to_owned() } else { format!("({}", loading.last) };
            let asked = loading.appetite.count();
            let mut read = pipe();
            read.cmd("XRANGE").arg(&self.keys.stream).arg(from).arg("+").arg("COUNT").arg(asked);
            read.add_command(continuity::ask_first_entry(&self.keys));
            let began = Instant::now();
            let (batch, first): (Value, Value) = read.query_async(link).await?;
            let (batch, first) = (entries(batch), continuity::first_id(first));
            let is_gone = match first {
                // Nothing is left: of what there was when the load began, all that is not read is gone.
                None => loading.newest > loading.edge || loading.begins_at_edge && batch.is_empty(),
                // Nothing was there when the load began.
                Some(_) if loading.edge.is_zero() => {
                    Facts::of(link, &self.keys).await?.is_gone_between(Some(0), &batch)
                }
                Some(first) => first > loading.edge,
            };
            let saved = loading.saved.unwrap_or_default();
            if is_gone && first.unwrap_or(loading.newest) <= saved {
                // All of it is in the states that were put back, but for the past of `stream` topics.
                let before = first.unwrap_or(loading.newest).ceiling().get().saturating_sub(1);
                feed.topics.forget_history(self.id, Offset::new(before).unwrap_or_default());
            } else if is_gone {
                tracing::warn!(
                    stream = self.keys.stream,
                    after = %loading.last,
                    "entries were trimmed before they were read: states are incomplete until they are published whole (kind=snapshot)"
                );
                let end = batch.first().map_or(loading.newest, |entry| entry.id);
                let before = Offset::new(end.ceiling().get().saturating_sub(1)).unwrap_or_default();
                feed.topics.doubt(self.id, before.max(self.reached));
                feed.topics.missed_until(self.id, end.ms);
            }
            loading.appetite.fed(batch.iter().map(Entry::bytes), asked, began.elapsed());
            loading.entries += batch.len();
            let is_after = |entry: &&Entry| loading.saved.is_some_and(|saved| entry.id > saved);
            loading.after_saved += batch.iter().filter(is_after).count() as u64;
            if let Some(entry) = batch.last() {
                (loading.last, loading.seen, loading.edge) = (entry.id, Some(entry.fingerprint()), entry.id);
                loading.begins_at_edge = false;
            }
            let is_last = batch.len() < asked;
            self.take_in(batch, feed, loading.saved).await;
            self.status.note(format!("loading, {} entries so far", loading.entries));
            if is_last {
                return Ok(());
            }
        }
    }

    async fn finish(&mut self, link: &mut Link, feed: &Feed, loading: &Loading) -> RedisResult<()> {
        let facts = Facts::of(link, &self.keys).await?;
        let epoch: Option<String> = cmd("GET").arg(&self.keys.epoch).query_async(link).await?;
        // What was read so far, and what that left out, is of a stream that is no more: it is loaded from its beginning.
        if !self.is_epoch(epoch.as_deref()) || !facts.is_emptied && facts.newest < loading.newest.max(loading.last) {
            return Err((::redis::ErrorKind::Client, "the stream was replaced while it was loaded").into());
        }
        // The stream may have had entries after the last that it holds: reading goes on after the last that it ever had.
        let (last, seen) = match loading.newest > loading.last {
            true => (loading.newest, None),
            false => (loading.last, loading.seen),
        };
        self.is_emptied = facts.is_emptied;
        let count = facts.count_upto(last);
        // Entries that were deleted one by one leave no trace but that they were counted.
        let expected = loading.saved_count.map(|saved| saved + loading.after_saved);
        if count.zip(expected).is_some_and(|(count, expected)| count > expected) {
            tracing::warn!(
                stream = self.keys.stream,
                after = %loading.saved.unwrap_or_default(),
                gone = count.zip(expected).map_or(0, |(count, expected)| count - expected),
                "entries were deleted that are in no saved state: states are incomplete until they are published whole (kind=snapshot)"
            );
            feed.topics.doubt(self.id, last.ceiling().max(self.reached));
            feed.topics.missed_until(self.id, last.ms);
        }
        feed.topics.read_upto(self.id, last.ms, 0);
        feed.topics.loaded(self.id);
        feed.topics.set_reached(self.id, self.reached.max(last.ceiling()));
        let is_another = loading.is_another;
        let (offset, restored) = (self.reached, loading.saved.unwrap_or_default());
        self.set_progress(Progress { last, count, seen, offset, loaded: true, is_another, restored });
        self.status.set_loaded(true);
        let (epoch, restored, entries) = (&loading.epoch, loading.restored, loading.entries);
        tracing::info!(stream = self.keys.stream, node = %link.place(), %epoch, restored, entries, "loaded");
        Ok(())
    }
}

/// An answer to `TIME`, in Unix ms.
pub(super) fn time_ms(time: &Value) -> Option<u64> {
    let Value::Array(parts) = time else { return None };
    let number = |at: usize| super::super::entries::text(parts.get(at)?)?.parse::<u64>().ok();
    u64::try_from((Duration::from_secs(number(0)?) + Duration::from_micros(number(1)?)).as_millis()).ok()
}
