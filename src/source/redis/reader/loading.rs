//! What a partition holds when a node starts, or when its epoch has changed: saved states, then the stream. A load goes on
//! where it was when the connection broke, so that over a slow or poor link it comes to an end.

use ::redis::{RedisResult, Value, cmd, pipe};
use tokio::time::Instant;

use super::super::appetite::{Appetite, bytes_max};
use super::super::away::Away;
use super::super::continuity::{self, Facts, Progress};
use super::super::entries::{Entry, Size, entries};
use super::super::id::EntryId;
use super::super::link::Link;
use super::super::saved::{self, Dependency, SavedUpto};
use super::super::wire::is_too_large;
use super::load::Loading;
use super::source::{LOOK_AGAIN_BYTES, RedisSource};
use super::time::time_ms;
use crate::clock::unix_ms;
use crate::position::{Epoch, Offset};
use crate::source::Feed;
use crate::source::saving::Hole;
use crate::topic::{Floor, SourceId, hash_of};

/// Entries a read returns at most while loading.
const LOAD_BATCH: usize = 5_000;

/// Saved states a read returns at most, more or less.
const RESTORE_BATCH: usize = 500;

impl RedisSource {
    /// Takes in everything that Redis holds. `false` if another stream has come to have another past meanwhile, so that this one is
    /// to be loaded again; or if an answer was given up for its size, so that the load goes on over another connection.
    pub(super) async fn load(
        &mut self,
        link: &mut Link,
        feed: &Feed,
        epoch: Epoch,
        run: Option<String>,
    ) -> RedisResult<bool> {
        // Another run may have lost what was read already: its saved states tell nothing of that.
        let is_same = |loading: &Loading| loading.epoch == epoch && loading.run == run;
        let mut loading = match self.loading.take() {
            // All of it is to be read again, and its past is what it was.
            Some(loading) if is_same(&loading) && feed.topics.needs_reload(self.id) => {
                Loading { run, ..self.begin(link, feed, epoch).await? }
            }
            Some(mut loading) if is_same(&loading) && self.joins_up(link, &loading).await? => {
                // Another Redis, or the same after a restart, counts otherwise where it was.
                if !std::mem::take(&mut loading.is_overfed) || loading.run.is_none() {
                    loading.cursor = loading.cursor.map(|_| 0);
                }
                tracing::info!(stream = self.keys.stream, entries = loading.entries, "the load goes on where it was");
                loading
            }
            broken_off => {
                if broken_off.is_some() {
                    // What was read of another past so far may have changed what other streams' topics are.
                    feed.topics.mark_replaced(self.id);
                }
                Loading { run, ..self.begin(link, feed, epoch).await? }
            }
        };
        let outcome = self.go_on(link, feed, &mut loading).await;
        if feed.topics.needs_reload(self.id) {
            return Ok(false);
        }
        match outcome {
            Ok(()) => self.finish(link, feed, &loading).await.map(|()| true),
            Err(error) if loading.appetite.count() > 1 && is_too_large(&error) => {
                self.note_overfed(loading.last);
                loading.overfed();
                self.loading = Some(loading);
                Ok(false)
            }
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
        let saved::Found { upto: saved_at, is_torn, dependencies, hole, lifetimes, generation, .. } =
            saved::found(link, &self.keys).await?;
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
            self.status.fail(&error.to_string());
        }
        self.away = Away::read(link, &self.keys).await?;
        if self.away.is_some() {
            feed.topics.left_by(self.id, unix_ms().saturating_add_signed(self.ahead_ms));
        }
        let relayed = self.begin_leaving(feed).await;
        let mut saved = saved_at.filter(|saved| saved.upto <= newest);
        // After a failover that lost entries, what was saved may hold them.
        if let Some(SavedUpto { upto, seen: Some(seen), .. }) = saved
            && first.is_some_and(|first| first <= upto)
        {
            let found = continuity::fingerprint_of(link, &self.keys, upto).await?;
            let is_deleted = found.is_none() && facts.is_deleted(upto);
            saved = saved.filter(|_| found == Some(seen) || is_deleted);
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
        let (others, are_current) =
            if saved.is_some() { self.dependencies(&dependencies).await } else { (Vec::new(), true) };
        // Topics may have been left out for what the other stream had of them. If all entries are there, they are read again.
        let hides_some = !are_current && !facts.is_untrimmed();
        if !are_current {
            tracing::warn!(
                stream = self.keys.stream,
                is_read_again = !hides_some,
                "what was saved of the stream rests on another, which had entries of the same topics and has another past now: topics may \
                 have been left out"
            );
            saved = saved.filter(|_| hides_some);
        }
        let is_another = is_torn || saved_at.is_some() && saved.is_none();
        if is_another && !is_torn && are_current {
            tracing::warn!(
                stream = self.keys.stream,
                "the saved states are of another stream of this name: they do not count"
            );
        }
        // Far enough back for what recovery needs and for what waits to be relayed, and never after what was saved.
        let ttl_ms = u64::try_from(self.history_ttl.as_millis()).unwrap_or(u64::MAX);
        let recent = EntryId { ms: newest.ms.min(unix_ms()).saturating_sub(ttl_ms), seq: 0 };
        let by_states = saved.filter(|_| !feed.topics.has_reclassed(self.id));
        let until_recent = |saved: SavedUpto| saved.upto.min(recent).min(relayed.unwrap_or(recent));
        let start = by_states.map_or(EntryId::default(), until_recent);
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
        }
        if let Some(reach) = facts.reach().filter(|reach| *reach < self.config.snapshot_every * 2) {
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
        for (other, epoch) in others.into_iter().filter(|_| saved.is_some()) {
            feed.topics.relate(self.id, other);
            if let Some(epoch) = epoch {
                feed.topics.assume_epoch(other, epoch);
            }
        }
        feed.topics.saved_upto(self.id, saved.map_or(0, |saved| saved.upto.ms));
        let saved_missed_ms = saved.and_then(|saved| saved.missed_ms);
        let is_unsaid = saved_missed_ms.is_some() && hole == Hole::Unsaid;
        if let Some(hole) = saved_missed_ms.and_then(|until_ms| hole.outdates(until_ms)) {
            feed.topics.saved_after_a_hole(self.id, hole);
        }
        if let Some(missed_ms) = missed_ms {
            feed.topics.missed_until(self.id, missed_ms);
        }
        // What is missed here is not what the node that saved had missed.
        if !complete || hides_some || is_unsaid {
            feed.topics.name_hole(self.id);
        }
        self.reached = floor;
        Ok(Loading {
            epoch,
            run: None,
            newest,
            cursor: saved.map(|_| 0),
            restored: 0,
            saved: saved.map(|saved| saved.upto),
            lifetimes,
            generation,
            saved_count: saved.and_then(|saved| saved.count),
            after_saved: 0,
            last: start,
            seen: None,
            last_size: Size::default(),
            entries: 0,
            is_another,
            edge: first.unwrap_or(newest).max(start),
            begins_at: first.unwrap_or(newest),
            begins_at_edge: first.is_some_and(|first| first > start),
            time_ms: None,
            appetite: Appetite::new(if saved.is_some() { RESTORE_BATCH } else { LOAD_BATCH }),
            is_overfed: false,
        })
    }

    /// The sources that saved states depend on, each with its epoch if it has not been replaced since, as far as can be told; and
    /// whether none has.
    async fn dependencies(&self, all: &[Dependency]) -> (Vec<(SourceId, Option<Epoch>)>, bool) {
        let mut others = Vec::new();
        for (at, stream) in (0..).zip(self.config.all_streams()) {
            if let Some(dependency) = all.iter().find(|dependency| dependency.stream == hash_of(stream)) {
                let is_current = dependency.is_current(&self.masters, stream).await.unwrap_or(false);
                others.push((SourceId(at), is_current.then(|| Epoch::from_text(&dependency.epoch))));
            }
        }
        let are_current = others.iter().all(|(_, epoch)| epoch.is_some());
        (others, are_current)
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
            let bounds = (bytes_max(asked, 0, self.one_bytes_max), self.delta_bytes_max);
            let (restored, sizes, next) =
                saved::restore(link, &self.keys, self.id, (cursor, asked), bounds, feed).await?;
            loading.appetite.fed(sizes, asked.min(1), began.elapsed());
            loading.restored += restored;
            self.status.note(format!("loading, {} saved states so far", loading.restored));
            let is_lost = next == 0 && !saved::is_still(link, &self.keys, loading.generation.as_ref()).await?;
            // Entries tell what states of another class do not: from the first on.
            let is_reclassed = feed.topics.has_reclassed(self.id) && loading.last > loading.begins_at;
            if is_lost || next == 0 && is_reclassed {
                *loading = Loading { run: loading.run.take(), ..self.begin(link, feed, loading.epoch.clone()).await? };
                continue;
            }
            loading.cursor = (next != 0).then_some(next);
            if next == 0 {
                // After the last of them: what was removed meanwhile is in it.
                let expired_ms = saved::expired_ms(link, &self.keys).await?;
                feed.topics.expired_elsewhere(self.id, expired_ms);
                feed.topics.ended_sooner(self.id, &loading.lifetimes, expired_ms);
                loading.appetite = Appetite::new(LOAD_BATCH);
            }
        }
        loop {
            let from = if loading.last.is_zero() { "-".to_owned() } else { format!("({}", loading.last) };
            let asked = loading.appetite.count();
            let mut read = pipe();
            if self.has_time {
                read.cmd("TIME");
            }
            read.cmd("XRANGE").arg(&self.keys.stream).arg(from).arg("+").arg("COUNT").arg(asked);
            // If the entry that was read last is there, nothing after it was trimmed: a large oldest one is not fetched for that.
            let is_witness = loading.seen.is_some() && loading.last_size.bytes <= LOOK_AGAIN_BYTES;
            let has_first = self.first_size.bytes <= LOOK_AGAIN_BYTES || !is_witness;
            read.add_command(match has_first {
                true => continuity::ask_first_entry(&self.keys),
                false => continuity::ask_entry(&self.keys, loading.last),
            });
            let (began, asked_ms) = (Instant::now(), unix_ms());
            let known = if has_first { self.first_size.cost } else { loading.last_size.cost };
            let mut bounded = link.within(bytes_max(asked, known, self.one_bytes_max));
            let mut replies: Vec<Value> = read.query_async(&mut bounded).await?;
            let reply = replies.pop().unwrap_or(Value::Nil);
            let first = if has_first { self.note_first(reply) } else { continuity::first_id(reply) };
            let batch = entries(replies.pop().unwrap_or(Value::Nil));
            // By the answer to a batch that is not full, everything that came before it was asked for has been read.
            loading.time_ms = replies.pop().as_ref().and_then(time_ms);
            if let Some(time_ms) = loading.time_ms {
                self.look_at_clock(asked_ms, time_ms);
            }
            // It was trimmed since, or deleted: then the oldest tells.
            let first = match first {
                None if !has_first => {
                    let mut one = link.within(self.one_bytes_max);
                    self.note_first(continuity::ask_first_entry(&self.keys).query_async(&mut one).await?)
                }
                first => first,
            };
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
                feed.topics.name_hole(self.id);
            }
            loading.appetite.fed(batch.iter().map(Entry::cost), asked, began.elapsed());
            loading.entries += batch.len();
            let is_after = |entry: &&Entry| loading.saved.is_some_and(|saved| entry.id > saved);
            loading.after_saved += batch.iter().filter(is_after).count() as u64;
            if let Some(entry) = batch.last() {
                (loading.last, loading.seen, loading.edge) = (entry.id, Some(entry.fingerprint()), entry.id);
                loading.last_size = entry.size();
                loading.begins_at_edge = false;
            }
            let is_last = batch.len() < asked;
            self.take_in(batch, feed, loading.saved).await;
            self.status.note(format!("loading, {} entries so far", loading.entries));
            if is_last || feed.topics.needs_reload(self.id) {
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
        if let Some(deleted) = facts.deleted.filter(|deleted| *deleted >= loading.begins_at) {
            // Saved states may make up for it, but for the past of `stream` topics.
            feed.topics.forget_history(self.id, deleted.ceiling().min(last.ceiling()));
        }
        if let Some(deleted) = loading.missing_upto(&facts, last) {
            tracing::warn!(
                stream = self.keys.stream,
                after = %loading.saved.unwrap_or_default(),
                upto = %deleted,
                "entries were deleted that are in no saved state: states are incomplete until they are published whole (kind=snapshot)"
            );
            feed.topics.doubt(self.id, deleted.ceiling());
            feed.topics.missed_until(self.id, deleted.ms);
            feed.topics.name_hole(self.id);
        }
        feed.topics.read_upto(self.id, self.believed_ms(loading.time_ms, last), self.ahead_ms);
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
