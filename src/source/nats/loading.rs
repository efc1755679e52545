//! What the stream holds when a node starts, or has to load again: saved states, then messages. A load goes on where it was when
//! the connection broke, so that over a slow or poor link it comes to an end.

use tokio::time::Instant;

use super::bucket::{Agreement, Position};
use super::held::{Break, Held, look};
use super::progress::{LOOK_EVERY, Loading, Progress};
use super::reading::{Entry, FORGOTTEN_AFTER, Reading, Start, is_lost, is_other};
use super::sequence;
use super::source::{End, NatsSource, Opened};
use super::states::Restoring;
use super::trouble::Trouble;
use crate::clock::unix_ms;
use crate::position::Epoch;
use crate::source::Feed;
use crate::source::saving::{Hole, read_lifetimes};

impl NatsSource {
    /// Takes in everything that NATS holds.
    pub(super) async fn load(
        &mut self,
        opened: &Opened,
        feed: &Feed,
        agreement: Agreement,
        held: &Held,
    ) -> Result<Reading, End> {
        let began_ms = unix_ms();
        let broken_off = self.loading.take().filter(|loading| loading.epoch == agreement.epoch);
        let begun = match broken_off {
            Some(loading) if self.joins_up(opened, &loading, held).await? => {
                let (states, messages) = (loading.restoring.count, loading.count);
                tracing::info!(stream = self.config.stream, states, messages, "the load goes on where it was");
                let start = if messages == 0 { loading.start } else { Start::After(self.last()) };
                self.loading = Some(loading);
                Err(start)
            }
            _ => Ok(self.begin(opened, feed, &agreement, held).await?),
        };
        let restoring_since = Instant::now();
        self.put_back(opened, feed, &agreement.base, held).await?;
        let (mut reading, mut chunk) = match begun {
            // Its consumer may be gone.
            Ok((_, chunk)) if restoring_since.elapsed() > FORGOTTEN_AFTER => {
                let first = chunk.last().map(|entry| Start::After(entry.sequence));
                let start = first.or(self.loading.as_ref().map(|loading| loading.start));
                let mut reading = self.open(opened, start.unwrap_or(Start::After(0))).await?;
                let chunk = if chunk.is_empty() { self.first(&mut reading).await? } else { chunk };
                (reading, chunk)
            }
            Ok(begun) => begun,
            Err(start) => {
                let mut reading = self.open(opened, start).await?;
                let chunk = self.first(&mut reading).await?;
                (reading, chunk)
            }
        };
        while !chunk.is_empty() {
            let at_end = chunk.last().is_some_and(|entry| entry.pending == 0 || entry.sequence >= held.last);
            self.take_in_loading(opened, chunk, feed).await;
            if at_end {
                break;
            }
            let count = self.loading.as_ref().map_or(0, |loading| loading.count);
            self.status.note(format!("loading, {count} messages so far"));
            chunk = self.load_next(&mut reading).await?;
        }
        let Some(loading) = self.loading.take() else { return Err(Trouble("the load was given up".into()).into()) };
        let base = loading.saved.unwrap_or(0);
        // The last messages may have gone one by one.
        if loading.expected <= held.last && base < held.last && loading.count > 0 {
            self.miss(opened, feed, held.last, held.last_ms, base);
        }
        // What was there when the load began has been read.
        let slack_ms = 2 * u64::try_from(LOOK_EVERY.as_millis()).unwrap_or(0);
        feed.topics.read_upto(self.id, began_ms.saturating_sub(slack_ms), 0);
        feed.topics.loaded(self.id);
        self.change_progress(|progress| {
            // An empty stream may have had messages: reading goes on after the last that it ever had.
            if progress.last < held.last {
                (progress.last, progress.last_ms) = (held.last, held.last_ms);
            }
            progress.created.clone_from(&held.created);
            progress.held = held.clone();
            progress.restored = base;
            progress.loaded = true;
        });
        self.status.set_loaded(true);
        let (restored, count) = (loading.restoring.count, loading.count);
        tracing::info!(stream = self.config.stream, epoch = %agreement.epoch, restored, messages = count, "loaded");
        Ok(reading)
    }

    /// Whether what was loaded so far is still what the stream holds. What was removed meanwhile is found when it is read on.
    async fn joins_up(&self, opened: &Opened, loading: &Loading, held: &Held) -> Result<bool, Trouble> {
        let before = &loading.held;
        if before.created != held.created || held.last < before.last {
            return Ok(false);
        }
        if is_other(&opened.connection, &self.config.stream, before.last, before.last_ms).await? {
            return Ok(false);
        }
        let progress = Progress { held: loading.held.clone(), ..self.progress() };
        let found = match look(progress.last, &progress.held, held, &opened.bounds, unix_ms()) {
            None => self.discontinuity(opened, &progress, held).await?,
            found => found,
        };
        Ok(matches!(found, None | Some(Break::Missed)))
    }

    /// Puts saved states back. Where that breaks off, what was put back so far stays.
    async fn put_back(&mut self, opened: &Opened, feed: &Feed, base: &Epoch, held: &Held) -> Result<(), End> {
        let Some(loading) = self.loading.as_mut().filter(|loading| !loading.is_restored) else { return Ok(()) };
        let stream = self.config.stream.as_str();
        let bounds = (held, self.id, self.delta_bytes_max);
        if !opened.bucket.restore(&mut loading.restoring, stream, base, bounds, feed).await? {
            self.loading = None;
            return Err(self.break_off(opened, Break::Saved).await?);
        }
        let (_, found) = opened.bucket.position(base).await?;
        let is_still = found.is_some_and(|found| found.generation == loading.generation);
        if loading.saved.is_some() && !is_still {
            // They were removed and saved again meanwhile, or are gone.
            self.loading = None;
            return Err(End::LoadAgain);
        }
        // After the last of them: what was removed meanwhile is in it.
        let expired_ms = opened.bucket.expired_ms(base).await?;
        feed.topics.expired_elsewhere(self.id, expired_ms);
        feed.topics.ended_sooner(self.id, &loading.lifetimes, expired_ms);
        if let Some(before) = loading.patches_gone {
            feed.topics.doubt_patches(self.id, sequence::ceiling(before), loading.held.last_ms);
        }
        if feed.topics.has_reclassed(self.id) && !matches!(loading.start, Start::After(0)) {
            // Messages tell what states of another class do not: from the first on.
            self.loading = None;
            return Err(End::LoadAgain);
        }
        loading.is_restored = true;
        Ok(())
    }

    /// Forgets what was known. Returns the first messages.
    async fn begin(
        &mut self,
        opened: &Opened,
        feed: &Feed,
        agreement: &Agreement,
        held: &Held,
    ) -> Result<(Reading, Vec<Entry>), End> {
        let known = self.agreed.replace(agreement.clone());
        if let Some(known) = known.filter(|known| known.epoch != agreement.epoch) {
            self.metrics.epoch_changes.get_or_create(&self.label()).inc();
            self.leave(known.epoch);
        }
        self.status.set_loaded(false);
        self.change_progress(|progress| *progress = Progress::default());
        if self.is_back(&agreement.epoch) {
            return Err(self.break_off(opened, Break::Ended).await?);
        }
        self.status.set_fault("");
        self.look_at_end(held);
        self.status.set_reach(held.reach(&opened.bounds));
        let (_, saved) = opened.bucket.position(&agreement.base).await?;
        if let Some(&Position { sequence, ms, .. }) = saved.as_ref() {
            let mut last = held.last;
            if is_lost(&opened.connection, &self.config.stream, (sequence, ms), &mut last).await? {
                return Err(self.break_off(opened, Break::Saved).await?);
            }
            if sequence > held.last {
                // Another node has read and saved more since the stream was looked at.
                return Err(End::LoadAgain);
            }
        }
        let base = saved.as_ref().map_or(0, |saved| saved.sequence);
        let is_gone = held.first > base + 1 && held.last > base;
        let keeps_the_newest = opened.bounds.keeps_the_newest(held);
        // Whether states that are put back lack nothing that the stream does not hold.
        let complete = !is_gone || keeps_the_newest;
        // Up to when deltas were missed, of topics that are in no saved state either.
        let missed_ms = match &saved {
            Some(saved) if complete => opened.bucket.missed_ms(saved),
            _ if complete => None,
            _ if held.messages == 0 => Some(held.last_ms),
            _ => Some(held.first_ms),
        };
        self.warn_of(opened, held, base, is_gone);
        let by_states = saved.as_ref().filter(|_| !feed.topics.has_reclassed(self.id));
        let (start, mut reading) = self.start(opened, by_states, held).await?;
        let chunk = self.first(&mut reading).await?;
        // What came before the first message that is read here is not known here.
        let floor = chunk.first().map_or(held.last, |entry| entry.sequence.saturating_sub(1));
        feed.topics.load(self.id, &agreement.epoch, sequence::ceiling(floor), complete);
        feed.topics.saved_upto(self.id, saved.as_ref().map_or(0, |saved| saved.ms));
        let outdated = saved.as_ref().and_then(|saved| opened.bucket.outdated(saved));
        let is_unsaid = outdated.is_some() && saved.as_ref().is_some_and(|saved| saved.hole == Hole::Unsaid);
        if let Some(hole) = outdated {
            feed.topics.saved_after_a_hole(self.id, hole);
        }
        if let Some(missed_ms) = missed_ms {
            feed.topics.missed_until(self.id, missed_ms);
        }
        // What is missed here is not what the node that saved had missed.
        if !complete || is_unsaid {
            feed.topics.name_hole(self.id);
        }
        let patches_gone = (is_gone && keeps_the_newest).then(|| held.first.saturating_sub(1));
        let first = chunk.first().map_or(held.last + 1, |entry| entry.sequence);
        let expected = match start {
            Start::After(last) => held.first.max(last + 1),
            // By time: the first that is read, unless some are gone before it.
            Start::At(_) => first.min(held.first.max(base + 1)),
        };
        let lifetimes = saved.as_ref().map_or_else(Vec::new, |saved| read_lifetimes(&saved.lifetimes));
        let generation = saved.as_ref().and_then(|saved| saved.generation.clone());
        let (epoch, held, saved) = (agreement.epoch.clone(), held.clone(), saved.map(|saved| saved.sequence));
        self.loading = Some(Loading {
            epoch,
            held,
            saved,
            generation,
            expected,
            start,
            restoring: Restoring::new(base),
            is_restored: false,
            patches_gone,
            lifetimes,
            count: 0,
        });
        Ok((reading, chunk))
    }

    /// Opens the stream far enough back for the history that recovery needs, and never after what was saved.
    async fn start(
        &mut self,
        opened: &Opened,
        saved: Option<&Position>,
        held: &Held,
    ) -> Result<(Start, Reading), Trouble> {
        let ttl_ms = u64::try_from(self.history_ttl.as_millis()).unwrap_or(u64::MAX);
        let recent_ms = held.last_ms.min(unix_ms()).saturating_sub(ttl_ms);
        let start = match saved {
            None => Start::After(0),
            Some(saved) if saved.ms <= recent_ms => Start::After(saved.sequence),
            Some(_) => Start::At(i128::from(recent_ms) * 1_000_000),
        };
        Ok((start, self.open(opened, start).await?))
    }

    /// Says what the operator has to know of a stream.
    fn warn_of(&self, opened: &Opened, held: &Held, saved: u64, is_gone: bool) {
        let (stream, every) = (&self.config.stream, self.config.snapshot_every);
        if is_gone {
            tracing::warn!(
                stream,
                saved,
                first = held.first,
                "messages are gone that are in no saved state: states that they changed are incomplete until they are published whole (kind: snapshot)"
            );
        } else if let Some(reach) = held.reach(&opened.bounds).filter(|reach| *reach < every * 2) {
            tracing::warn!(
                stream,
                ?reach,
                snapshot_every = ?every,
                "the stream reaches back hardly further than states are saved: let it keep more (max_messages, max_bytes, max_age), or a node that is away for so long misses messages"
            );
        }
        if opened.bounds.by_subject {
            tracing::warn!(
                stream,
                "the stream lets go of messages by subject (max_messages_per_subject, allow_rollup): values of `latest` topics are whole, states made of patches are incomplete where one is gone; publish `merge` topics in a stream without that, or each message as kind: snapshot"
            );
        }
    }

    /// Takes messages in, and finds those that are missing between them.
    async fn take_in_loading(&mut self, opened: &Opened, chunk: Vec<Entry>, feed: &Feed) {
        let Some((saved, mut expected)) = self.loading.as_ref().map(|loading| (loading.saved, loading.expected)) else {
            return;
        };
        let gaps = Gaps::of(&chunk, expected);
        for (at, entry) in chunk.into_iter().enumerate() {
            if gaps.counts(at) {
                self.miss(opened, feed, entry.sequence - 1, entry.ms, saved.unwrap_or(0));
            }
            expected = entry.sequence + 1;
            self.take_in(entry, feed, saved).await;
            if let Some(loading) = &mut self.loading {
                (loading.expected, loading.count) = (expected, loading.count + 1);
            }
        }
    }

    /// Messages up to `before`, which the stream took by `until_ms`, are gone before they were read.
    pub(super) fn miss(&mut self, opened: &Opened, feed: &Feed, before: u64, until_ms: u64, saved: u64) {
        let after = sequence::ceiling(before);
        if before <= saved {
            feed.topics.forget_history(self.id, after);
            return;
        }
        self.metrics.source_missed.get_or_create(&self.label()).inc();
        let held = self.loading.as_ref().map_or_else(|| self.progress().held, |loading| loading.held.clone());
        if opened.bounds.keeps_the_newest(&held) {
            // Whatever was gone by now has its newest up to now, which the last look may not have seen.
            feed.topics.doubt_patches(self.id, after, until_ms.max(held.last_ms).max(unix_ms()));
        } else {
            feed.topics.doubt(self.id, after);
            feed.topics.missed_until(self.id, until_ms);
            feed.topics.name_hole(self.id);
        }
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                stream = self.config.stream,
                before,
                "messages were let go of before they were read: states that they changed are incomplete until they are published whole (kind: snapshot)"
            );
        }
    }

    /// The first messages of a load; none if the stream has none.
    async fn first(&self, reading: &mut Reading) -> Result<Vec<Entry>, Trouble> {
        if reading.is_at_end().await? { Ok(Vec::new()) } else { self.load_next(reading).await }
    }

    /// The next messages of a load; none at the end.
    async fn load_next(&self, reading: &mut Reading) -> Result<Vec<Entry>, Trouble> {
        loop {
            if let Ok(chunk) = tokio::time::timeout(LOOK_EVERY, reading.next()).await {
                return chunk;
            }
            if reading.is_at_end().await? {
                return Ok(Vec::new());
            }
        }
    }
}

/// Where messages are missing in some that were read. To look at all topics for each would cost too much: for the first, so that
/// nothing behind it is told as if it were whole, and for the last.
pub(super) struct Gaps(Option<(usize, usize)>);

impl Gaps {
    /// `expected` is the sequence of the first, if none is missing.
    pub(super) fn of(chunk: &[Entry], mut expected: u64) -> Self {
        let mut found = None;
        for (at, entry) in chunk.iter().enumerate() {
            if entry.sequence > expected {
                found = Some((found.map_or(at, |(first, _)| first), at));
            }
            expected = entry.sequence + 1;
        }
        Self(found)
    }

    /// Whether what is missing before the message at `at` is to be looked at.
    pub(super) fn counts(&self, at: usize) -> bool {
        self.0.is_some_and(|(first, last)| at == first || at == last)
    }

    /// Whether nothing is missing.
    pub(super) fn is_none(&self) -> bool {
        self.0.is_none()
    }
}
