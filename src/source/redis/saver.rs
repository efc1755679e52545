//! Saved topic states: written by one node at a time, read by a starting one, so that it need not read the stream
//! from its beginning and so that states outlive the trimming of the deltas that made them.
//!
//! What is saved is whole, or says that it is not; it never goes backwards; and what has ended is removed before a position
//! after its end is written, in whichever stream it was. A node whose states may lack deltas leaves saving to others, takes from them what it lacks, and
//! saves only when nobody else has for a while.

mod ends;
mod scripts;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::{ErrorKind, RedisError, RedisResult, cmd};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::continuity::{self, Facts, Progress};
use super::id::EntryId;
use super::keys::Keys;
use super::link::Link;
use super::masters::Masters;
use super::saved::{self, Dependency, Saved, mark_text, upto_text};
use crate::limits::SAVED_BYTES_AT_ONCE;
use crate::name::TopicName;
use crate::position::{Epoch, Offset};
use crate::source::saving::{self, EVERY_LEAST, Hole, Rounds, Saves, interval, lifetimes_text};
use crate::source::{Feed, SourceStatus, apart};
use crate::topic::{Snapshot, SourceId};
use scripts::{CLEAR, FINISH, RENEW, TAKE, WRITE};

/// States in one write or read.
const CHUNK: usize = 500;

/// Bytes of states in one write.
const CHUNK_BYTES: usize = 1 << 20;

/// Time that a reader has to finish the batch that states were taken in the middle of.
const SETTLE: Duration = Duration::from_secs(2);

/// Times that states are taken again in one save, because topics ended that this node had not read of.
const WRITE_ATTEMPTS: u32 = 8;

/// Renewals in the time of a lease.
const RENEWALS: u64 = 4;

/// Longest time between two looks at how far back the stream reaches.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// Saves a partition's states now and then, if no other node just did.
pub(super) struct Saver {
    masters: Masters,
    keys: Keys,
    source: SourceId,
    /// All streams, in their order.
    streams: Vec<String>,
    every: Duration,
    bytes_max: usize,
    progress: Arc<Mutex<Progress>>,
    status: Arc<SourceStatus>,
    /// This round, in the lease, and the last one that had it.
    node: Epoch,
    held: Option<Epoch>,
    rounds: Rounds<EntryId>,
    /// The last save removed the saved states and did not finish writing them again.
    is_unfinished: bool,
}

/// A saver and the topics whose states it saves.
struct Running {
    saver: Saver,
    feed: Feed,
}

impl Saves for Running {
    type Error = RedisError;

    const LOOK_EVERY: Duration = MEASURE_EVERY;

    fn wait(&self) -> Duration {
        self.saver.wait()
    }

    async fn look(&mut self) {
        if let Err(error) = self.saver.measure().await {
            tracing::debug!(stream = self.saver.keys.stream, %error, "how far the stream reaches back cannot be measured");
        }
    }

    async fn round(&mut self) -> RedisResult<()> {
        self.saver.round(&self.feed).await
    }
}

impl Saver {
    pub(super) fn new(
        masters: Masters,
        keys: Keys,
        (source, streams): (SourceId, Vec<String>),
        (every, bytes_max): (Duration, usize),
        progress: Arc<Mutex<Progress>>,
        status: Arc<SourceStatus>,
    ) -> Self {
        Self {
            masters,
            keys,
            source,
            streams,
            every,
            bytes_max,
            progress,
            status,
            node: Epoch::random(),
            held: None,
            rounds: Rounds::default(),
            is_unfinished: false,
        }
    }

    /// Saves again and again, until `stop`.
    pub(super) async fn run(self, feed: Feed, stop: CancellationToken) {
        let stream = self.keys.stream.clone();
        saving::run(Running { saver: self, feed }, &stream, &stop).await;
    }

    async fn measure(&self) -> RedisResult<()> {
        let mut link = self.masters.connect(&self.keys.stream).await?;
        self.status.set_reach(Facts::of(&mut link, &self.keys).await?.reach());
        Ok(())
    }

    /// Until the next save: sooner where the stream does not reach back far, or where nothing is saved for now.
    fn wait(&self) -> Duration {
        if self.is_unfinished {
            return self.every.min(EVERY_LEAST);
        }
        interval(self.every, self.status.reach())
    }

    /// Time for which a node is the one that saves: enough for what it waits for, and no more than until the next round.
    fn lease_ms(&self) -> u64 {
        let round = self.wait().mul_f32(0.9);
        let least = if self.every < EVERY_LEAST { round } else { SETTLE + EVERY_LEAST };
        u64::try_from(round.max(least).as_millis()).unwrap_or(u64::MAX).max(1)
    }

    async fn round(&mut self, feed: &Feed) -> RedisResult<()> {
        let progress = self.progress();
        if !progress.loaded || progress.last.is_zero() || feed.topics.needs_reload(self.source) {
            return Ok(());
        }
        let mut link = self.masters.connect(&self.keys.stream).await?;
        let facts = Facts::of(&mut link, &self.keys).await?;
        self.status.set_reach(facts.reach());
        let epoch = feed.topics.epoch(self.source);
        let found: Option<String> = cmd("GET").arg(&self.keys.epoch).query_async(&mut link).await?;
        if found.as_deref() != Some(epoch.as_str()) {
            return Ok(());
        }
        let saved::Found { position, upto, is_torn, generation, .. } = saved::found(&mut link, &self.keys).await?;
        // A position past the newest entry is of a stream that is gone.
        let saved = upto.filter(|saved| saved.upto <= facts.newest).map_or(EntryId::default(), |saved| saved.upto);
        let is_lost = {
            let found = position.as_deref().and_then(|position| position.parse().ok()).unwrap_or_default();
            self.rounds.is_lost(&epoch, found, progress.restored) || is_torn
        };
        self.rounds.begin(saved, progress.last, upto.map(|upto| upto.missed_ms.is_some()));
        self.vouch(&mut link, Offset::ZERO).await?;
        self.remove_ended(&mut link, feed).await?;
        let expired_ms = saved::expired_ms(&mut link, &self.keys).await?;
        self.rounds.look_at_ends(feed, self.source, expired_ms, progress.restored);
        if !is_torn {
            self.complete(&mut link, feed).await?;
        }
        if let Some(upto) = upto.filter(|upto| upto.missed_ms.is_none()) {
            // The node that saved had room for them.
            feed.topics.forget_refused(self.source, upto.upto.ceiling());
        }
        if self.rounds.gives_way(feed, self.source) {
            return Ok(());
        }
        // Another node has saved what this one has not read yet: never backwards.
        if progress.last < saved {
            return Ok(());
        }
        let mut take = cmd("EVAL");
        take.arg(TAKE).arg(3).arg(&self.keys.saver).arg(&self.keys.position).arg(&self.keys.ended);
        self.node = Epoch::random();
        take.arg(self.node.as_str()).arg(self.lease_ms());
        take.arg(position.unwrap_or_default()).arg(facts.newest.ceiling().get());
        take.arg(self.held.as_ref().map_or("", Epoch::as_str));
        if !take.query_async::<bool>(&mut link).await? {
            return Ok(());
        }
        self.held = Some(self.node.clone());
        // This node holds the lease: no other node writes the position now.
        if is_lost {
            self.save_all(feed, &epoch);
        } else {
            self.rounds.save_again(feed, self.source, (&self.keys.stream, &epoch));
        }
        let progress = Progress { is_another: progress.is_another || is_lost, ..progress };
        let generation = generation.filter(|_| !progress.is_another).unwrap_or_else(Epoch::random);
        self.is_unfinished = progress.is_another;
        let is_saved = tokio::select! {
            saved = self.save(&mut link, feed, (&epoch, &generation), progress) => saved?,
            never = self.renew() => match never {},
        };
        if is_saved {
            self.rounds.finish(epoch, progress.last);
            self.is_unfinished = false;
        }
        Ok(())
    }

    /// Keeps the lease while a save goes on, however slow the link. On a connection of its own: a large write holds up
    /// the other.
    async fn renew(&self) -> Infallible {
        let mut link = None;
        loop {
            tokio::time::sleep(Duration::from_millis(self.lease_ms() / RENEWALS)).await;
            let renewed = async {
                let link = match &mut link {
                    Some(link) => link,
                    none => none.insert(self.masters.connect(&self.keys.stream).await?),
                };
                let mut renew = cmd("EVAL");
                renew.arg(RENEW).arg(1).arg(&self.keys.saver).arg(self.node.as_str()).arg(self.lease_ms());
                renew.query_async::<bool>(link).await
            };
            match renewed.await {
                Ok(true) => {}
                // The save finds out by itself.
                Ok(false) => std::future::pending().await,
                Err(error) => {
                    tracing::debug!(stream = self.keys.stream, %error, "the saver's lease was not renewed");
                    link = None;
                }
            }
        }
    }

    /// Begins to save everything again.
    fn save_all(&mut self, feed: &Feed, epoch: &Epoch) {
        tracing::warn!(stream = self.keys.stream, "Redis has lost topic states that were saved: all are saved again");
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        (progress.is_another, progress.restored) = (true, EntryId::default());
        drop(progress);
        self.rounds.forget_seen(epoch);
        feed.topics.mark_all_unsaved(self.source);
    }

    /// Saves what is unsaved, if this node may.
    async fn save(
        &self,
        link: &mut Link,
        feed: &Feed,
        (epoch, generation): (&Epoch, &Epoch),
        progress: Progress,
    ) -> RedisResult<bool> {
        // Everything up to `progress` is in the states that are taken from now on, or was saved before.
        let (topics, source) = (feed.topics.clone(), self.source);
        let pasts = self.epochs(feed);
        // A walk over all topics: not on a thread that others wait for.
        let names = apart(move || topics.unsaved(source)).await.ok_or_else(not_taken)?;
        let outcome = self.save_states(link, feed, &names, (epoch, generation, &pasts), progress).await;
        if !matches!(outcome, Ok(true)) {
            feed.topics.mark_unsaved(names.iter());
        }
        if matches!(outcome, Ok(false)) {
            tracing::info!(
                stream = self.keys.stream,
                "topic states were not saved: another node saves, this one's lease ran out, or they are in doubt"
            );
        }
        outcome
    }

    /// Saves the states of these topics, a few at a time so that they take little memory, and then up to where they are.
    /// `false` if another node saves by now, or the epoch is another.
    async fn save_states(
        &self,
        link: &mut Link,
        feed: &Feed,
        names: &[TopicName],
        (epoch, generation, pasts): (&Epoch, &Epoch, &[Epoch]),
        progress: Progress,
    ) -> RedisResult<bool> {
        let (mut rest, mut saved, mut attempts) = (names.to_vec(), 0, WRITE_ATTEMPTS);
        let hole = feed.topics.hole(self.source);
        if progress.is_another && !self.clear(link, epoch).await? {
            return Ok(false);
        }
        loop {
            // Of all that ended and was removed elsewhere this node has to know before it takes states.
            let ended: Option<u64> = cmd("GET").arg(&self.keys.ended).query_async(link).await?;
            self.vouch(link, ended.and_then(Offset::new).unwrap_or_default()).await?;
            let read = self.progress().offset;
            let (topics, source) = (feed.topics.clone(), self.source);
            let taken = apart(move || {
                let (states, looked) = topics.take_unsaved(source, &rest, SAVED_BYTES_AT_ONCE);
                let left = rest.split_off(looked);
                (states, rest, left)
            });
            let (states, looked_at, left) = taken.await.ok_or_else(not_taken)?;
            // In doubt since it was last counted: left to others, as above.
            let may_lack =
                |state: &Snapshot| state.known.may_lack() && feed.topics.is_conflatable(state.topic.as_str());
            if !self.rounds.is_overdue() && states.iter().any(|state| may_lack(state)) {
                return Ok(false);
            }
            let newest = states.iter().map(|state| state.offset).max().unwrap_or_default();
            self.vouch(link, newest).await?;
            if feed.topics.epoch(self.source) != *epoch {
                return Ok(false);
            }
            match self.write(link, feed, &states, (epoch, hole.as_ref()), read).await? {
                Written::Done => {}
                // Another node has removed what ended meanwhile: they are taken again.
                Written::Outdated if attempts > 0 => {
                    attempts -= 1;
                    feed.topics.mark_unsaved(looked_at.iter());
                    rest = [looked_at, left].concat();
                    continue;
                }
                Written::Outdated | Written::Refused => return Ok(false),
            }
            (rest, saved) = (left, saved + states.len());
            if rest.is_empty() {
                break;
            }
        }
        if !self.save_marks(link, feed, epoch).await? {
            return Ok(false);
        }
        // What ended meanwhile is not to come back.
        self.remove_ended(link, feed).await?;
        self.outdate_refused(link, feed).await?;
        if !self.remove_ended_elsewhere(feed).await? {
            return Ok(false);
        }
        let dependencies = self.dependencies(feed);
        // What other streams had a say in was taken while they had one past.
        let related = feed.topics.related(self.source);
        let is_known = related.iter().all(|other| feed.topics.has_begun(*other));
        let is_same_hole = feed.topics.hole(self.source) == hole;
        if feed.topics.needs_reload(self.source) || self.epochs(feed) != pasts || !is_known || !is_same_hole {
            return Ok(false);
        }
        let missed = (feed.topics.missed(self.source), hole.as_ref());
        let lifetimes = format!("{} {generation}", lifetimes_text(&feed.topics.lifetimes(self.source)));
        let done = self.finish(link, epoch, (progress, missed), (&dependencies, &lifetimes), saved).await?;
        if done && progress.is_another {
            self.progress.lock().unwrap_or_else(PoisonError::into_inner).is_another = false;
        }
        Ok(done)
    }

    /// Saves what this stream has of topics that are saved beside others. `false` as above.
    async fn save_marks(&self, link: &mut Link, feed: &Feed, epoch: &Epoch) -> RedisResult<bool> {
        let marks = feed.topics.unsaved_marks(self.source);
        let newest = marks.iter().map(|mark| mark.offset).max().unwrap_or_default();
        if marks.is_empty() {
            return Ok(true);
        }
        self.vouch(link, newest).await?;
        if feed.topics.epoch(self.source) != *epoch {
            return Ok(false);
        }
        for chunk in marks.chunks(CHUNK) {
            let mut write = self.write_to(&self.keys.strays, epoch, newest.max(self.progress().offset));
            for mark in chunk {
                write.arg(mark.topic.as_str()).arg(mark_text(mark));
            }
            if write.query_async::<u8>(link).await? != 1 {
                return Ok(false);
            }
        }
        feed.topics.saved_marks(self.source, &marks);
        Ok(true)
    }

    /// The command that writes to a hash beside the stream, without what is to be written.
    fn write_to(&self, hash: &str, epoch: &Epoch, read: Offset) -> ::redis::Cmd {
        let mut write = cmd("EVAL");
        write.arg(WRITE).arg(4).arg(hash).arg(&self.keys.saver).arg(&self.keys.epoch).arg(&self.keys.ended);
        write.arg(self.node.as_str()).arg(epoch.as_str()).arg(self.lease_ms()).arg(read.get());
        write
    }

    fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that this master has every delta up to `newest`: one that was promoted without the last of them must not
    /// be given states that hold them, before the reader has noticed too and changed the epoch.
    async fn vouch(&self, link: &mut Link, newest: Offset) -> RedisResult<()> {
        let until = Instant::now() + SETTLE;
        let progress = loop {
            let progress = self.progress();
            if progress.loaded && progress.offset >= newest {
                break progress;
            }
            if Instant::now() > until {
                return Err(RedisError::from((ErrorKind::Client, "the reader is in the middle of something")));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        match continuity::broken(link, &self.keys, &progress).await? {
            None => Ok(()),
            Some(found) => {
                let why = found.why().to_owned();
                Err(RedisError::from((ErrorKind::Client, "the states are not this master's", why)))
            }
        }
    }

    /// Writes states that were taken when everything up to `read` had been taken in.
    async fn write(
        &self,
        link: &mut Link,
        feed: &Feed,
        states: &[Arc<Snapshot>],
        (epoch, hole): (&Epoch, Option<&Epoch>),
        read: Offset,
    ) -> RedisResult<Written> {
        let mut left = states.iter().peekable();
        while left.peek().is_some() {
            let mut write = self.write_to(&self.keys.snapshots, epoch, read);
            let (mut count, mut bytes) = (0, 0);
            while count < CHUNK && bytes < CHUNK_BYTES {
                let Some(state) = left.next() else { break };
                // What ended since it was taken is to be removed, not saved.
                let class = feed.topics.class_of(state.topic.as_str());
                let Some(saved) = Saved::of(state, class, hole).filter(|_| state.known.is_some()) else { continue };
                let text = serde_json::to_string(&saved).unwrap_or_default();
                (count, bytes) = (count + 1, bytes + text.len());
                write.arg(state.topic.as_str()).arg(text);
            }
            if count > 0 {
                match write.query_async::<u8>(link).await? {
                    1 => {}
                    2 => return Ok(Written::Outdated),
                    _ => return Ok(Written::Refused),
                }
            }
        }
        Ok(Written::Done)
    }

    /// Removes the states of another stream of this name. `false` as above.
    async fn clear(&self, link: &mut Link, epoch: &Epoch) -> RedisResult<bool> {
        let mut clear = cmd("EVAL");
        clear.arg(CLEAR).arg(8).arg(&self.keys.snapshots).arg(&self.keys.saver).arg(&self.keys.epoch);
        clear.arg(&self.keys.position).arg(&self.keys.count).arg(&self.keys.ended).arg(&self.keys.expired);
        clear.arg(&self.keys.strays).arg(self.node.as_str()).arg(epoch.as_str()).query_async(link).await
    }

    fn sources(&self) -> impl Iterator<Item = SourceId> {
        (0..self.streams.len()).filter_map(|at| u16::try_from(at).ok()).map(SourceId)
    }

    /// The epochs of all streams, as they are here.
    fn epochs(&self, feed: &Feed) -> Vec<Epoch> {
        self.sources().map(|source| feed.topics.epoch(source)).collect()
    }

    /// The streams that what is saved of this one depends on.
    fn dependencies(&self, feed: &Feed) -> Vec<Dependency> {
        let related = feed.topics.related(self.source).into_iter();
        let one = |other: SourceId| {
            let stream = self.streams.get(usize::from(other.0))?;
            Some(Dependency::new(stream, &feed.topics.epoch(other), feed.topics.reached(other)))
        };
        related.filter_map(one).collect()
    }

    /// Says up to where states are saved. `false` as above.
    async fn finish(
        &self,
        link: &mut Link,
        epoch: &Epoch,
        (progress, (missed_ms, hole)): (Progress, (Option<u64>, Option<&Epoch>)),
        (dependencies, lifetimes): (&[Dependency], &str),
        states: usize,
    ) -> RedisResult<bool> {
        let last = progress.last.to_string();
        let count = progress.count.map_or("-".to_owned(), |count| count.to_string());
        let complete = if missed_ms.is_some() { "partial" } else { "complete" };
        let seen = progress.seen.map_or("-".to_owned(), |seen| format!("{seen:x}"));
        let missed_ms = missed_ms.map_or("-".to_owned(), |missed_ms| missed_ms.to_string());
        // Topics of one stream alone have no marks beside it.
        let hashes = [&self.keys.snapshots, &self.keys.strays];
        let hashes = if self.streams.len() > 1 { &hashes[..] } else { &hashes[..1] };
        let (dependencies, hole) = (Dependency::text(dependencies), Hole::of(hole));
        let hole = hole.word();
        let count =
            format!("{last} {count} {complete} {seen} {missed_ms} {} {dependencies} {hole} {lifetimes}", hashes.len());
        let mut finish = cmd("EVAL");
        finish.arg(FINISH).arg(4 + hashes.len()).arg(&self.keys.position).arg(&self.keys.saver).arg(&self.keys.epoch);
        finish.arg(&self.keys.count).arg(hashes);
        finish
            .arg(self.node.as_str())
            .arg(epoch.as_str())
            .arg(&last)
            .arg(count)
            .arg(saved::POSITION_FIELD)
            .arg(upto_text(&last));
        let done = finish.query_async(link).await?;
        tracing::debug!(stream = self.keys.stream, states, upto = last, done, "topic states saved");
        Ok(done)
    }

    /// Takes states that may lack deltas here from what another node has saved.
    async fn complete(&mut self, link: &mut Link, feed: &Feed) -> RedisResult<()> {
        let reached = self.progress().offset;
        let names = self.rounds.incomplete(feed, self.source);
        let mut done = 0;
        for name in &names {
            let text: Option<String> =
                cmd("HGET").arg(&self.keys.snapshots).arg(name.as_str()).query_async(link).await?;
            let saved = text.as_deref().and_then(|text| serde_json::from_str::<Saved<'_>>(text).ok());
            let saved = saved.and_then(|saved| saved.read(name.as_str())).filter(|saved| !saved.incomplete);
            done += usize::from(saved.is_some_and(|saved| feed.complete(self.source, saved, reached, self.bytes_max)));
        }
        if done > 0 {
            tracing::info!(
                stream = self.keys.stream,
                topics = done,
                "states are whole again, with what another node saved"
            );
        }
        Ok(())
    }
}

/// What became of states that were to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Done,
    /// A topic ended, and was removed, that had not been read to be when they were taken.
    Outdated,
    /// Another node saves by now, or the epoch is another.
    Refused,
}

fn not_taken() -> RedisError {
    RedisError::from((ErrorKind::Client, "the states could not be taken"))
}
