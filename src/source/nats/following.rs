//! Reads on, once the stream is loaded, until something breaks or the epoch changes.

use futures_util::future::BoxFuture;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::bucket::Agreement;
use super::held::{Bounds, Break, Held, look};
use super::loading::Gaps;
use super::progress::{LOOK_EVERY, Progress};
use super::reading::Reading;
use super::source::{End, NatsSource, Opened};
use super::trouble::Trouble;
use crate::clock::unix_ms;
use crate::source::Feed;

/// What a look at the stream and at the bucket found.
struct Looked {
    /// How far the stream was read when the server was asked.
    before: Progress,
    asked_ms: u64,
    held: Held,
    bounds: Bounds,
    agreement: Option<Agreement>,
}

impl Looked {
    async fn ask(opened: &Opened, stream: String, before: Progress) -> Result<Self, Trouble> {
        let (asked_ms, connection) = (unix_ms(), &opened.connection);
        let stream = connection.ask("looking at the stream", connection.context.get_stream(&stream)).await?;
        let info = stream.cached_info();
        let (held, bounds) = (Held::of(info), Bounds::of(&info.config));
        Ok(Self { before, asked_ms, held, bounds, agreement: opened.bucket.agreement().await? })
    }
}

impl NatsSource {
    /// Reads on until something breaks or the epoch changes.
    pub(super) async fn follow(&mut self, opened: &Opened, mut reading: Reading, feed: &Feed) -> Result<End, End> {
        let mut clock = interval_at(Instant::now(), LOOK_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut behind_since = None;
        // On a slow link the answer comes behind messages, which are taken in meanwhile.
        let mut looking: Option<BoxFuture<'_, Result<Looked, Trouble>>> = None;
        loop {
            let is_idle = looking.is_none();
            let answer = async {
                match &mut looking {
                    Some(looking) => looking.await,
                    None => std::future::pending().await,
                }
            };
            let chunk = tokio::select! {
                chunk = reading.next() => chunk?,
                looked = answer => {
                    looking = None;
                    let looked = looked?;
                    let (before, now_ms) = (looked.before.clone(), looked.asked_ms);
                    if let Some(end) = self.judge(opened, looked).await? {
                        return Ok(end);
                    }
                    // Longer than since the last look, and nothing on its way: the last messages went one by one.
                    let (held, is_still) = (before.held, before.last == self.last());
                    if behind_since.is_some() && is_still && held.last > before.last && reading.is_at_end().await? {
                        if !opened.bounds.others {
                            return self.break_off(opened, Break::Missed).await;
                        }
                        self.miss(opened, feed, held.last, held.last_ms, 0);
                        self.change_progress(|progress| {
                            (progress.last, progress.last_ms) = (held.last, held.last_ms);
                        });
                    }
                    let before = self.progress();
                    // What is there for longer than since the last look should have been read.
                    behind_since = (before.held.last > before.last).then(|| behind_since.unwrap_or(now_ms));
                    if behind_since.is_none() {
                        // What was there at the look before this one has been read.
                        let looked_ms = u64::try_from(LOOK_EVERY.as_millis()).unwrap_or(0);
                        feed.topics.read_upto(self.id, now_ms.saturating_sub(2 * looked_ms), 0);
                    }
                    self.status.read(0, behind_since.map_or(0, |since| unix_ms().saturating_sub(since)));
                    continue;
                }
                _ = clock.tick(), if is_idle => {
                    looking = Some(Box::pin(Looked::ask(opened, self.config.stream.clone(), self.progress())));
                    continue;
                }
            };
            let (mut count, mut lag_ms) = (0, 0);
            let gaps = Gaps::of(&chunk, self.last() + 1);
            if !gaps.is_none() && !opened.bounds.others {
                let looked = Looked::ask(opened, self.config.stream.clone(), self.progress()).await?;
                // Messages are missing: the stream is another one, was purged, dropped them by its limits, or they were deleted.
                return match self.judge(opened, looked).await? {
                    Some(end) => Ok(end),
                    None => self.break_off(opened, Break::Missed).await,
                };
            }
            for (at, entry) in chunk.into_iter().enumerate() {
                if gaps.counts(at) {
                    self.miss(opened, feed, entry.sequence - 1, entry.ms, 0);
                }
                if entry.sequence <= self.last() {
                    continue;
                }
                count += 1;
                lag_ms = if entry.pending == 0 { 0 } else { unix_ms().saturating_sub(entry.ms) };
                let upto_ms = entry.ms;
                self.take_in(entry, feed, None).await;
                feed.topics.read_upto(self.id, upto_ms, 0);
            }
            self.status.read(count, lag_ms);
        }
    }

    /// Why to stop reading after a look, if that is so.
    async fn judge(&mut self, opened: &Opened, looked: Looked) -> Result<Option<End>, End> {
        let Looked { before, held, bounds, agreement, .. } = looked;
        // The stream's limits may have been changed meanwhile.
        if bounds != opened.bounds {
            tracing::info!(stream = self.config.stream, "the stream's configuration changed: opening it again");
            return Err(Trouble("the stream's configuration changed".into()).into());
        }
        if held.created != before.created {
            tracing::warn!(stream = self.config.stream, "the stream was deleted and created again under this name");
            return Ok(Some(End::EpochChanged));
        }
        let known = self.agreed.clone();
        let found = match agreement {
            Some(found) => found,
            // Nothing could be written there; whoever saves tries again.
            None => match known.clone().filter(|known| known.revision == 0) {
                Some(known) => known,
                None => opened.bucket.agree(&held.created, known.as_ref()).await?,
            },
        };
        let found = self.said(opened, found).await?;
        if known.is_none_or(|known| known.epoch != found.epoch) {
            tracing::warn!(stream = self.config.stream, found = %found.epoch, "another node changed the epoch");
            return Ok(Some(End::EpochChanged));
        }
        self.agreed = Some(found);
        self.look_at_end(&held);
        self.status.set_reach(held.reach(&opened.bounds));
        match look(before.last, &before.held, &held, &opened.bounds, unix_ms()) {
            // Messages from before the answer may still be on their way, or wait to be taken in: gaps between them tell.
            None | Some(Break::Missed) => {}
            Some(why) => return self.break_off(opened, why).await.map(Some),
        }
        self.change_progress(|progress| progress.held = held);
        Ok(None)
    }
}
