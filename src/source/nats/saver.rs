//! Saved topic states: written by one node at a time, read by a starting one, so that it need not read the stream from its
//! beginning and so that states outlive the deltas that made them.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bucket::{Agreement, Bucket, Position, Seen};
use super::progress::Progress;
use super::sequence;
use super::states::CHUNK;
use super::trouble::Trouble;
use crate::limits::SAVED_BYTES_AT_ONCE;
use crate::name::TopicName;
use crate::position::{Epoch, Offset};
use crate::source::saving::{self, EVERY_LEAST, Hole, Rounds, Saves, interval, lifetimes_text};
use crate::source::{Feed, SourceStatus};
use crate::topic::{Snapshot, SourceId};

/// Time between two writes that tell other nodes that this one saves.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// Time that the reader has to come to where other nodes have read of ends of topics, and between two looks.
const SETTLE: Duration = Duration::from_secs(2);
const CATCH_UP_LOOK_EVERY: Duration = Duration::from_millis(10);

/// Times that states are taken again in one save, because other nodes had changed what was saved of them.
const WRITE_ATTEMPTS: u32 = 8;

/// Saves states now and then, if no other node just did.
pub(super) struct Saver {
    pub(super) bucket: Bucket,
    /// What the nodes went by when this one began, and the base of it.
    pub(super) agreed: Agreement,
    pub(super) base: Epoch,
    pub(super) source: SourceId,
    pub(super) every: Duration,
    pub(super) bytes_max: usize,
    pub(super) progress: Arc<Mutex<Progress>>,
    /// This node.
    pub(super) node: Epoch,
    pub(super) rounds: Arc<tokio::sync::Mutex<Rounds<u64>>>,
    pub(super) feed: Feed,
    /// How far back the stream reaches stands there.
    pub(super) status: Arc<SourceStatus>,
}

/// What a save is written over.
struct Over {
    /// The bucket's number of the position.
    revision: u64,
    /// What was saved is gone, or of an older copy: what is left is to be removed first.
    is_lost: bool,
    /// Of the states that are there.
    generation: Option<Epoch>,
}

/// Topics whose states are being saved; if they are not, they are to be taken again.
struct Taken<'a> {
    feed: &'a Feed,
    names: Vec<TopicName>,
    saved: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.saved {
            self.feed.topics.mark_unsaved(self.names.iter());
        }
    }
}

/// Topics that ended whose saved states are being removed; those that are not are to be taken again.
struct Ended<'a> {
    feed: &'a Feed,
    source: SourceId,
    names: Vec<(TopicName, Offset)>,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if !self.names.is_empty() {
            self.feed.topics.put_back_ended(self.source, std::mem::take(&mut self.names));
        }
    }
}

/// Topics with a delta for which there was no room, while saved states from before it are marked; those that are not are to be
/// taken again.
struct Refused<'a> {
    feed: &'a Feed,
    source: SourceId,
    names: Vec<(TopicName, Offset)>,
}

impl Drop for Refused<'_> {
    fn drop(&mut self) {
        self.feed.topics.put_back_refused(self.source, &self.names);
    }
}

/// A saver, and what it knows from earlier rounds.
struct Running {
    saver: Saver,
    seen: Seen,
    rounds: OwnedMutexGuard<Rounds<u64>>,
}

impl Saves for Running {
    type Error = Trouble;

    const LOOK_EVERY: Duration = EVERY_LEAST;

    fn wait(&self) -> Duration {
        interval(self.saver.every, self.saver.status.reach())
    }

    /// The reader looks.
    async fn look(&mut self) {}

    async fn round(&mut self) -> Result<(), Trouble> {
        self.saver.save(&mut self.seen, &mut self.rounds).await
    }
}

impl Saver {
    /// Until it is dropped.
    pub(super) async fn run(self) {
        // The saver of the connection before ends soon, if it has not.
        let rounds = self.rounds.clone().lock_owned().await;
        let stream = self.status.name.clone();
        let running = Running { saver: self, seen: Seen::default(), rounds };
        saving::run(running, &stream, &CancellationToken::new()).await;
    }

    /// Removes saved states of topics that have ended.
    async fn remove_ended(&self) -> Result<(), Trouble> {
        let names = self.feed.topics.take_ended(self.source);
        let mut ended = Ended { feed: &self.feed, source: self.source, names };
        let Some(highest) = ended.names.iter().map(|(_, offset)| *offset).max() else { return Ok(()) };
        let expired_ms = self.feed.topics.expired_ms(self.source);
        if expired_ms > 0 {
            self.bucket.save_expired(&self.base, expired_ms).await?;
        }
        // Before anything is removed: who saves has to have read as far.
        self.bucket.save_ended(&self.base, highest.get()).await?;
        while let Some((name, offset)) = ended.names.last() {
            self.bucket.remove(&self.base, name.as_str(), *offset).await?;
            ended.names.pop();
        }
        Ok(())
    }

    /// Marks saved states from before deltas for which there was no room here: this node does not know what they came to.
    async fn outdate_refused(&self) -> Result<(), Trouble> {
        let names = self.feed.topics.take_refused(self.source);
        let mut refused = Refused { feed: &self.feed, source: self.source, names };
        while let Some((name, offset)) = refused.names.last() {
            self.bucket.outdate(&self.base, name.as_str(), *offset).await?;
            refused.names.pop();
        }
        Ok(())
    }

    /// Takes states that may lack deltas here from what another node has saved.
    async fn complete(&self, names: Vec<TopicName>) -> Result<(), Trouble> {
        let mut done = 0;
        let reached = self.progress.lock().unwrap_or_else(PoisonError::into_inner).last;
        let bounds = (sequence::ceiling(reached), self.bytes_max);
        for name in names {
            let whole = self.bucket.complete(&self.base, self.source, name.as_str(), bounds, &self.feed).await?;
            done += usize::from(whole);
        }
        if done > 0 {
            tracing::info!(topics = done, "states are whole again, with what another node saved");
        }
        Ok(())
    }

    /// Waits until everything up to this sequence has been taken in.
    async fn catch_up(&self, sequence: u64) -> Result<(), Trouble> {
        let until = Instant::now() + SETTLE;
        loop {
            let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if progress.loaded && progress.last >= sequence {
                return Ok(());
            }
            if Instant::now() > until {
                // What the stream has lost will never be read.
                let is_lost = progress.loaded && progress.held.last < sequence && progress.last >= progress.held.last;
                return match is_lost {
                    true => Ok(()),
                    false => Err(Trouble(format!("the reader is at {}, topics ended up to {sequence}", progress.last))),
                };
            }
            tokio::time::sleep(CATCH_UP_LOOK_EVERY).await;
        }
    }

    async fn save(&self, seen: &mut Seen, rounds: &mut Rounds<u64>) -> Result<(), Trouble> {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !progress.loaded || progress.last == 0 {
            return Ok(());
        }
        if self.bucket.agreement().await?.is_none() {
            // The bucket took no writes when this node began; another would go on as this one does.
            self.bucket.agree(&progress.created, Some(&self.agreed)).await?;
        }
        let (revision, found) = self.bucket.position(&self.base).await?;
        let saved = found.as_ref().map_or(0, |found| found.sequence);
        let is_lost = rounds.is_lost(&self.base, saved, progress.restored);
        let generation = found.as_ref().and_then(|found| found.generation.clone()).filter(|_| !is_lost);
        rounds.begin(saved, progress.last, found.as_ref().map(|found| found.missed_ms.is_some()));
        self.remove_ended().await?;
        let expired_ms = self.bucket.expired_ms(&self.base).await?;
        rounds.look_at_ends(&self.feed, self.source, expired_ms, progress.restored);
        self.complete(rounds.incomplete(&self.feed, self.source)).await?;
        if let Some(found) = found.filter(|found| found.missed_ms.is_none()) {
            // The node that saved had room for them.
            self.feed.topics.forget_refused(self.source, sequence::ceiling(found.sequence));
        }
        if rounds.gives_way(&self.feed, self.source) {
            return Ok(());
        }
        // Another node has saved what this one has not read yet: never backwards.
        if progress.last < saved || !self.bucket.may_save(self.node.as_str(), seen).await? {
            return Ok(());
        }
        if self.bucket.position(&self.base).await?.0 != revision {
            // Another node has saved since this one looked.
            self.bucket.still_saves(self.node.as_str(), false).await?;
            return Ok(());
        }
        if is_lost {
            self.save_all();
        } else {
            rounds.save_again(&self.feed, self.source, (&self.status.name, &self.base));
        }
        let last = progress.last;
        let over = Over { revision, is_lost, generation };
        let outcome = tokio::select! {
            outcome = self.save_upto(progress, over, rounds.is_overdue()) => outcome,
            never = self.renew() => match never {},
        };
        if matches!(outcome, Ok(true)) {
            rounds.finish(self.base.clone(), last);
        }
        // Others need not wait until it is clear that this node has ended.
        self.bucket.still_saves(self.node.as_str(), false).await?;
        outcome.map(drop)
    }

    /// Begins to save everything again. Until that is done, what was saved counts as lost, and the next round begins it anew.
    fn save_all(&self) {
        tracing::warn!(
            bucket = self.bucket.store.name,
            "the bucket has lost topic states that were saved, or an older copy of it was put back: all are saved again"
        );
        self.feed.topics.mark_all_unsaved(self.source);
    }

    /// Says again and again that this node saves.
    async fn renew(&self) -> Infallible {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            if let Err(error) = self.bucket.still_saves(self.node.as_str(), true).await {
                tracing::debug!(%error, "other nodes could not be told that this one saves");
            }
        }
    }

    /// Saves what is unsaved, up to what was read. `false` if it is left to others.
    async fn save_upto(&self, progress: Progress, over: Over, is_overdue: bool) -> Result<bool, Trouble> {
        let Over { mut revision, is_lost, generation } = over;
        if is_lost {
            self.bucket.clear(self.base.as_str()).await?;
            revision = 0;
        }
        // Everything up to here is in the states that are taken from now on, or was saved before.
        let names = self.feed.topics.unsaved(self.source);
        let hole = self.feed.topics.hole(self.source);
        let mut taken = Taken { feed: &self.feed, names, saved: false };
        let (mut at, mut attempts) = (0, WRITE_ATTEMPTS);
        while let Some(rest) = taken.names.get(at..).filter(|rest| !rest.is_empty()) {
            let rest = rest.get(..CHUNK).unwrap_or(rest);
            let before = self.bucket.before(&self.base, rest).await?;
            // Of all that ended and was removed elsewhere this node has to know before it takes states.
            self.catch_up(self.bucket.ended(&self.base).await?).await?;
            let (states, looked) = self.feed.topics.take_unsaved(self.source, rest, SAVED_BYTES_AT_ONCE);
            // In doubt since it was last counted: left to others, as above.
            let may_lack =
                |state: &Snapshot| state.known.may_lack() && self.feed.topics.is_conflatable(state.topic.as_str());
            if !is_overdue && states.iter().any(|state| may_lack(state)) {
                return Ok(false);
            }
            let outdated = self.bucket.save_states(&self.base, &states, &before, hole.as_ref(), &self.feed).await?;
            if outdated.is_empty() {
                at += looked;
                continue;
            }
            // Another node has saved or removed them meanwhile: they are taken again.
            self.feed.topics.mark_unsaved(outdated.iter());
            if attempts == 0 {
                tracing::info!(topics = outdated.len(), "topic states were not saved: another node saves");
                return Ok(false);
            }
            attempts -= 1;
        }
        // What ended meanwhile is not to come back.
        self.remove_ended().await?;
        self.outdate_refused().await?;
        if self.feed.topics.hole(self.source) != hole {
            tracing::info!("topic states were not saved: messages were missed meanwhile");
            return Ok(false);
        }
        if self.feed.topics.has_forgotten_ends(self.source) {
            tracing::warn!(
                "more topics ended than this node remembers, so that it cannot remove all their saved states: it saves no more; \
                 start it again"
            );
            return Ok(false);
        }
        if !self.bucket.still_saves(self.node.as_str(), true).await? {
            tracing::info!("topic states were not saved: it took so long that another node saves");
            return Ok(false);
        }
        let missed_ms = self.feed.topics.missed(self.source).map(|missed_ms| missed_ms.min(progress.last_ms));
        let position = Position {
            sequence: progress.last,
            ms: progress.last_ms,
            missed_ms,
            hole: Hole::of(hole.as_ref()),
            lifetimes: lifetimes_text(&self.feed.topics.lifetimes(self.source)),
            generation: Some(generation.unwrap_or_else(Epoch::random)),
        };
        if !self.bucket.save_position(&self.base, &position, revision).await? {
            tracing::info!("topic states were not saved: another node saves");
            return Ok(false);
        }
        taken.saved = true;
        tracing::debug!(states = taken.names.len(), upto = position.sequence, "topic states saved");
        Ok(true)
    }
}
