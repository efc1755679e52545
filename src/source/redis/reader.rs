//! Reads one partition: what it holds at the start, then what comes, across failures.
//!
//! The epoch of a partition is a key beside the stream, so that all nodes agree on it. It changes when offsets from
//! before can no longer be compared: the key is gone (a wiped database), or what was read last is not in the stream any more
//! (a failover that lost writes). Whoever notices sets a new one; the others see it within a second. Then the partition's
//! topics are loaded anew and subscribers get snapshots.
//!
//! A node that finds that entries were trimmed before it had read them loads anew by itself, in the same epoch: its offsets
//! are as good as before, and nodes that have read all are none the worse.

mod leaving;
mod loading;
mod steady_clock;

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use ::redis::{FromRedisValue as _, RedisResult, Value, cmd, pipe};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::appetite::{Appetite, READ_BYTES, bytes_max, one_bytes_max};
use super::away::{Away, Cut, Handed};
use super::continuity::{self, Break, Facts, Progress, Witness};
use super::entries::{Entry, Size, decode_entry, entries, is_of_reshard, streams, topic_of};
use super::id::EntryId;
use super::keys::Keys;
use super::link::Link;
use super::masters::Masters;
use super::refused::Copies;
use super::saver;
use super::value::text;
use super::wire::is_too_large;
use crate::clock::unix_ms;
use crate::config::{self, Config};
use crate::memory::ResolvedLimits;
use crate::metrics::{Metrics, SourceLabel};
use crate::position::{Epoch, Offset};
use crate::source::entry::ReadDelta;
use crate::source::refusals::{Head, Refusal, Refusals};
use crate::source::{Feed, Source, SourceStatus};
use crate::topic::{Incoming, Kind, SourceId};
use leaving::{Leaving, Residence};
use loading::{Loading, ahead_of, time_ms};
use steady_clock::SteadyClock;

/// Entries a read returns at most.
const BATCH: usize = 1_000;

/// Time a read waits for entries. Also how often the epoch is looked at when nothing comes.
const BLOCK_MS: usize = 1_000;

/// After batches from this length on, reading makes way for others.
const MAKE_WAY_FROM: usize = 32;

/// Batches of more bytes are taken in before the next is asked for, so that not two of them are held at once.
const READ_AHEAD_BYTES_MAX: usize = READ_BYTES;

/// What was read ahead and waited for no longer than this counts as read just now.
const READ_AHEAD_FRESH: Duration = Duration::from_millis(100);

/// Waits after failures double from the first to the last, each with up to as much jitter. Where another node takes over
/// from one that is gone, it does so within seconds, and is not to be kept waiting.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(5);
const BACKOFF_LAST_OF_SEVERAL: Duration = Duration::from_secs(1);

/// The entry that was read last is asked for again with each read, if it has no more bytes than this.
const LOOK_AGAIN_BYTES: usize = 4 * 1024;

/// The same of larger ones, if that comes to no more than so much.
const LOOK_AGAIN_BYTES_PER_MS: u128 = 64;

/// Time after which it is looked again whether all entries up to the newest have been read, while there are new ones.
const VERIFY_EVERY: Duration = Duration::from_secs(1);

/// Time between two attempts to change an epoch that is over, while Redis takes no writes.
const CHANGE_EVERY: Duration = Duration::from_secs(1);

/// Wait before a partition is loaded in another epoch.
const EPOCH_WAIT: Duration = Duration::from_millis(20);

/// Epochs that a reader had before, of which it knows how far it had read.
const PASTS_MAX: usize = 16;

/// Sets a new epoch if it still is the one that the caller knows; returns what it is then.
const CHANGE_EPOCH: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end \
                            return redis.call('GET', KEYS[1])";

/// Begins the next millisecond of IDs (`ARGV[2]`), if the last one given is still of the one before (`ARGV[1]`) and the clock
/// has not passed it.
const MOVE_ON: &str = "local now = redis.pcall('TIME')
if not now.err and now[1] * 1000 + math.floor(now[2] / 1000) > tonumber(ARGV[1]) then return 0 end
local info, last = redis.pcall('XINFO', 'STREAM', KEYS[1]), nil
if info.err then
  local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  last = newest and newest[1]
else
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
end
if not last or string.find(last, ARGV[1] .. '-', 1, true) ~= 1 then return 0 end
redis.call('XSETID', KEYS[1], ARGV[2])
return 1";

/// Time between two attempts at that.
const MOVE_ON_EVERY: Duration = Duration::from_secs(1);

/// Topics in the wrong partition that are said and remembered.
const MISPLACED_MAX: usize = 10_000;

/// The sequence from which on that is done: half of what a millisecond holds.
const MOVE_ON_FROM: u64 = 4_096;

/// The epoch of a stream for which none is written.
const UNWRITTEN_EPOCH: &str = "unwritten";

/// Whether Redis answers reads and refuses to be written to: it is out of memory, cannot save, or lacks replicas.
fn takes_no_writes(error: &::redis::RedisError) -> bool {
    matches!(error.code(), Some("OOM" | "MISCONF" | "NOREPLICAS" | "READONLY" | "NOPERM"))
}

/// Which run of Redis this is: another after each start. `None` where it does not say.
async fn run_of(link: &mut Link) -> RedisResult<Option<String>> {
    match cmd("INFO").arg("server").query_async::<Value>(link).await {
        Ok(info) => {
            let lines = text(&info).unwrap_or_default().lines();
            Ok(lines.filter_map(|line| line.strip_prefix("run_id:")).map(str::to_owned).next())
        }
        Err(error) if error.is_io_error() || error.is_timeout() => Err(error),
        Err(_) => Ok(None),
    }
}

/// The reader of one partition.
pub struct RedisSource {
    masters: Masters,
    config: config::Redis,
    history_ttl: Duration,
    keys: Keys,
    id: SourceId,
    delta_bytes_max: usize,
    status: Arc<SourceStatus>,
    metrics: Arc<Metrics>,
    progress: Arc<Mutex<Progress>>,
    /// Highest offset that was given.
    reached: Offset,
    epoch: Option<Epoch>,
    /// Earlier ones, the newest last, and how far was read in them: after a backup was put back, one of them may come again and
    /// mean another past.
    pasts: VecDeque<(Epoch, Progress)>,
    /// The run of Redis that was read from last, where it says so.
    run: Option<String>,
    /// Whether there is no key for the epoch, because Redis takes no writes.
    is_unwritten: bool,
    /// The stream was empty when it was last looked at, and does not say what it ever held.
    is_emptied: bool,
    /// Whether Redis says what time it is.
    has_time: bool,
    /// By how much its clock is ahead of this node's, in ms.
    ahead_ms: i64,
    /// The same, as far as topics may end by it.
    clock: SteadyClock,
    /// A load that broke off.
    loading: Option<Loading>,
    /// When the entry that was read last was asked for again.
    looked_again: Instant,
    /// When it was last known that all entries up to the newest had been read.
    verified: Instant,
    /// An epoch that has another past than was read, and could not be changed; and when that was tried last.
    over: Option<(Epoch, Instant)>,
    appetite: Appetite,
    /// Bytes that an answer to one entry may have.
    one_bytes_max: usize,
    /// The oldest entry, which comes with each read, when it last did.
    first_size: Size,
    /// Topics that were found here and belong elsewhere.
    misplaced: HashSet<String>,
    /// The millisecond beyond which the stream's IDs were last moved.
    moved_on: u64,
    /// That for which this was last tried, and when.
    move_tried: Option<(u64, Instant)>,
    /// Topics that leave the stream, while some do.
    away: Option<Away>,
    /// What is not as it should be while topics move.
    leaving: Leaving,
    refusals: Refusals,
    /// Where refused entries are copied to, if they are.
    copies: Option<Copies>,
    /// Nothing is written: who reads only wants to know what there is.
    only_looks: bool,
    /// Entries that were taken in, and whether no saved state stood for them.
    #[cfg(test)]
    pub(super) taken: Arc<Mutex<std::collections::BTreeMap<EntryId, bool>>>,
}

/// What is known must be loaded again: the epoch is another now, or entries were missed. Or, with nothing wrong, there must be
/// another connection, as an answer was given up for its size.
struct LoadAgain;

/// What was asked for, and what was answered.
struct Answer {
    /// How many entries were asked for.
    asked: usize,
    /// The fingerprint that the entry which was read last had, if it was asked for again.
    seen: Option<u64>,
    /// Whether it was asked what the stream is.
    verifies: bool,
    /// Whether its oldest entry was asked for.
    has_first: bool,
    replies: Vec<Value>,
}

/// The entry that was read last.
#[derive(Debug, Clone, Copy)]
struct LastRead {
    id: EntryId,
    /// Its fingerprint, if it was read.
    seen: Option<u64>,
    size: Size,
}

/// What a read gave.
struct Read {
    epoch: Option<String>,
    batch: Vec<Entry>,
    /// The oldest entry of the stream, if it was asked for; or else one that is not older, if there is one.
    first: Option<EntryId>,
    has_first: bool,
    /// How many entries were asked for.
    asked: usize,
    /// What time it was by Redis' clock, Unix ms.
    time_ms: Option<u64>,
    /// Whether the entry that was read last was still what it had been.
    witness: Witness,
    /// What the stream was just then, where that was asked for.
    facts: Option<Facts>,
}

impl RedisSource {
    /// The reader of `redis`'s stream number `partition`.
    pub fn new(
        config: &Config,
        redis: &config::Redis,
        masters: Masters,
        partition: u16,
        metrics: Arc<Metrics>,
    ) -> Self {
        let stream = redis.all_streams().nth(usize::from(partition)).cloned().unwrap_or_default();
        let lag_max_ms = u64::try_from(redis.max_lag.as_millis()).unwrap_or(u64::MAX);
        let longest = config.namespace.values().chain([&config.default]).map(|n| n.history_ttl).max();
        let status = SourceStatus::new(format!("redis {stream}"), true, lag_max_ms);
        Self {
            refusals: Refusals::new(config, status.clone(), metrics.clone()),
            masters,
            config: redis.clone(),
            history_ttl: longest.unwrap_or_default(),
            keys: Keys::new(&stream),
            id: SourceId(partition),
            delta_bytes_max: config.limits.delta_bytes,
            status,
            metrics,
            progress: Arc::default(),
            reached: Offset::ZERO,
            epoch: None,
            pasts: VecDeque::new(),
            run: None,
            is_unwritten: false,
            is_emptied: false,
            has_time: false,
            ahead_ms: 0,
            clock: SteadyClock::new(),
            loading: None,
            looked_again: Instant::now(),
            verified: Instant::now(),
            over: None,
            appetite: Appetite::new(BATCH),
            one_bytes_max: one_bytes_max(ResolvedLimits::of(&config.limits).memory),
            first_size: Size::default(),
            misplaced: HashSet::new(),
            moved_on: 0,
            move_tried: None,
            away: None,
            leaving: Leaving::default(),
            copies: None,
            only_looks: false,
            #[cfg(test)]
            taken: Arc::default(),
        }
    }

    /// One that writes nothing. It saves no states either if `snapshot_every` says so.
    #[must_use]
    pub(super) fn that_only_looks(mut self) -> Self {
        self.only_looks = true;
        self
    }

    /// How far it has read, as it goes on.
    #[cfg(test)]
    pub(super) fn progress_of(&self) -> Arc<Mutex<Progress>> {
        self.progress.clone()
    }

    fn label(&self) -> SourceLabel {
        SourceLabel { source: self.status.name.clone() }
    }

    async fn run(mut self, feed: Feed, stop: CancellationToken) {
        // Until it is loaded, nothing is known of what it has.
        feed.topics.doubt(self.id, Offset::ZERO);
        let every = self.config.snapshot_every;
        if !every.is_zero() {
            feed.topics.remember_ended(self.id);
            let (masters, keys, bounds) = (self.masters.clone(), self.keys.clone(), (every, self.delta_bytes_max));
            let place = (self.id, self.config.all_streams().cloned().collect());
            let saver = saver::Saver::new(masters, keys, place, bounds, self.progress.clone(), self.status.clone());
            tokio::spawn(saver.run(feed.clone(), stop.clone()));
        }
        if self.config.refused {
            let (stream, metrics) = (&self.keys.stream, self.metrics.clone());
            let max_len = self.config.refused_max_len;
            self.copies = Some(Copies::start(&self.masters, stream, max_len, metrics, stop.clone()));
        }
        let last = if self.masters.is_one() { BACKOFF_LAST } else { BACKOFF_LAST_OF_SEVERAL };
        let mut backoff = BACKOFF_FIRST;
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.connected(&feed, &mut backoff) => outcome,
            };
            match outcome {
                // Not at once: what changes all the time is not to be run after.
                Ok(LoadAgain) => {
                    tokio::time::sleep(EPOCH_WAIT).await;
                    continue;
                }
                Err(error) => {
                    if is_too_large(&error) {
                        tracing::error!(
                            stream = self.keys.stream,
                            bytes_max = self.one_bytes_max / 2,
                            "an entry is larger than this node reads: delete it (XDEL), or raise limits.memory, an eighth of which it may take"
                        );
                    }
                    self.appetite.failed();
                    self.status.set_connected(false);
                    self.status.note(format!("{error}"));
                    self.metrics.source_errors.get_or_create(&self.label()).inc();
                    tracing::warn!(stream = self.keys.stream, %error, wait_ms = backoff.as_millis(), "Redis cannot be read, trying again");
                }
            }
            let jitter = backoff.mul_f64(crate::random::share());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff + jitter) => {}
            }
            backoff = (backoff * 2).min(last);
        }
    }

    /// One connection's life.
    async fn connected(&mut self, feed: &Feed, backoff: &mut Duration) -> RedisResult<LoadAgain> {
        let mut link = self.masters.connect(&self.keys.stream).await?.within(self.one_bytes_max);
        // Users may not be let to ask for it, and proxies may not know it.
        self.has_time = match cmd("TIME").query_async::<Value>(&mut link).await {
            Err(error) if error.is_io_error() || error.is_timeout() => return Err(error),
            answer => answer.is_ok(),
        };
        let run = run_of(&mut link).await?;
        let epoch = self.agree_on_epoch(&mut link).await?;
        let progress = self.progress();
        let is_known = self.epoch.as_ref() == Some(&epoch) && progress.loaded;
        if is_known && let Some(found) = continuity::broken(&mut link, &self.keys, &progress).await? {
            // After a restart of Redis, or a failover, it may have lost what was read last: that cannot be
            // told from what is trimmed.
            let is_same_run = run.is_some() && run == self.run;
            let found = if is_same_run { found } else { Break::Rewritten(found.why().to_owned()) };
            self.run = run;
            return self.load_again(&mut link, feed, found).await;
        }
        if is_known && !feed.topics.needs_reload(self.id) {
            tracing::info!(stream = self.keys.stream, node = %link.place(), after = %progress.last, "Redis is back, reading on");
        } else {
            let past = self.pasts.iter().find(|(known, _)| *known == epoch).map(|(_, progress)| *progress);
            if let Some(past) = past
                && let Some(Break::Rewritten(why)) = continuity::broken(&mut link, &self.keys, &past).await?
            {
                if !self.change_epoch(&mut link, &epoch, &why).await? {
                    // It is the only one that there can be until Redis takes writes again.
                    self.pasts.retain(|(known, _)| *known != epoch);
                    self.epoch_stays(feed, epoch, &why);
                }
                return Ok(LoadAgain);
            }
            if !self.load(&mut link, feed, epoch, run.clone()).await? {
                return Ok(if feed.topics.needs_reload(self.id) { self.reload_after_other() } else { LoadAgain });
            }
        }
        self.run = run;
        self.status.set_connected(true);
        self.status.note("");
        *backoff = BACKOFF_FIRST;
        self.follow(&mut link, feed).await
    }

    fn change_progress(&self, change: impl FnOnce(Progress) -> Progress) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        *progress = change(*progress);
    }

    fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_progress(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// The epoch that all nodes have. It is written only where there is none: a node that can read serves, though Redis takes
    /// no writes. Where there is none and none can be written, all nodes take the same.
    async fn agree_on_epoch(&mut self, link: &mut Link) -> RedisResult<Epoch> {
        let key = &self.keys.epoch;
        self.is_unwritten = false;
        let known: Option<String> = cmd("GET").arg(key).query_async(link).await?;
        if let Some(known) = known {
            return Ok(Epoch::from_text(&known));
        }
        if self.only_looks {
            self.is_unwritten = true;
            return Ok(Epoch::from_text(UNWRITTEN_EPOCH));
        }
        let proposed = Epoch::random();
        let set: RedisResult<Value> = cmd("SET").arg(key).arg(proposed.as_str()).arg("NX").query_async(link).await;
        let agreed: Option<String> = cmd("GET").arg(key).query_async(link).await?;
        match (agreed, set) {
            (Some(agreed), _) => Ok(Epoch::from_text(&agreed)),
            (None, Err(error)) if takes_no_writes(&error) => {
                tracing::warn!(stream = self.keys.stream, %error, "Redis takes no writes: there is no epoch yet, and none can be set");
                self.is_unwritten = true;
                Ok(Epoch::from_text(UNWRITTEN_EPOCH))
            }
            (None, Err(error)) => Err(error),
            (None, Ok(_)) => Err((::redis::ErrorKind::Io, "the epoch was set, and is gone").into()),
        }
    }

    /// Whether this is the epoch in which is read.
    fn is_epoch(&self, found: Option<&str>) -> bool {
        match found {
            None => self.is_unwritten,
            Some(_) => found == self.epoch.as_ref().map(Epoch::as_str),
        }
    }

    /// Whether an epoch that is over, and could not be changed when that was found, is another by now.
    async fn is_over_now(&mut self, link: &mut Link) -> RedisResult<bool> {
        let Some((over, tried)) = &mut self.over else { return Ok(false) };
        if self.epoch.as_ref() != Some(over) {
            self.over = None;
            return Ok(false);
        }
        if self.only_looks || tried.elapsed() < CHANGE_EVERY {
            return Ok(false);
        }
        *tried = Instant::now();
        let over = over.clone();
        let why = "what was read in it was lost while Redis took no writes";
        let is_changed = self.change_epoch(link, &over, why).await?;
        if is_changed {
            self.over = None;
        }
        Ok(is_changed)
    }

    /// Another stream, which shares topics with this one, was replaced.
    fn reload_after_other(&self) -> LoadAgain {
        tracing::warn!(
            stream = self.keys.stream,
            "another stream, which has entries of the same topics, has another past now: this one is loaded again"
        );
        LoadAgain
    }

    /// What was read does not join up with what the stream holds.
    async fn load_again(&mut self, link: &mut Link, feed: &Feed, found: Break) -> RedisResult<LoadAgain> {
        match found {
            Break::Rewritten(why) => {
                let known = self.epoch.clone().unwrap_or_else(Epoch::random);
                self.leave_epoch();
                if !self.change_epoch(link, &known, &why).await? {
                    self.epoch_stays(feed, known, &why);
                }
            }
            Break::Missed(why) => {
                // What was read stays a witness: the stream may be gone, and not only what it held.
                self.leave_epoch();
                // Until it is loaded again, others may come to have what belongs here.
                feed.topics.open_gap(self.id);
                self.metrics.source_missed.get_or_create(&self.label()).inc();
                tracing::warn!(
                    stream = self.keys.stream,
                    why,
                    "this node has missed entries and loads again: let the stream keep more (MAXLEN)"
                );
            }
        }
        Ok(LoadAgain)
    }

    /// What is known here is loaded again, whatever comes of it. How far it was read is remembered.
    fn leave_epoch(&mut self) {
        let progress = self.progress();
        self.set_progress(Progress::default());
        let Some(epoch) = self.epoch.clone().filter(|_| progress.loaded) else { return };
        self.pasts.retain(|(known, _)| *known != epoch);
        if self.pasts.len() >= PASTS_MAX {
            self.pasts.pop_front();
        }
        self.pasts.push_back((epoch, progress));
    }

    /// Sets another epoch in the place of `known`, whose past is not what it was. `false` if none can be set.
    async fn change_epoch(&self, link: &mut Link, known: &Epoch, why: &str) -> RedisResult<bool> {
        let known = known.as_str();
        if self.only_looks {
            return Ok(false);
        }
        let new: RedisResult<Option<String>> = cmd("EVAL")
            .arg(CHANGE_EPOCH)
            .arg(1)
            .arg(&self.keys.epoch)
            .arg(known)
            .arg(Epoch::random().as_str())
            .query_async(link)
            .await;
        match new {
            Ok(new) => {
                tracing::warn!(
                    stream = self.keys.stream,
                    why,
                    old = known,
                    new,
                    "offsets can no longer be compared: the epoch changes"
                );
            }
            Err(error) if takes_no_writes(&error) => {
                tracing::debug!(stream = self.keys.stream, %error, "Redis takes no writes: the epoch stays");
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// An epoch cannot be changed, though what was read in it is not what the stream holds: it is as soon as that can be.
    fn epoch_stays(&mut self, feed: &Feed, epoch: Epoch, why: &str) {
        tracing::warn!(
            stream = self.keys.stream,
            why,
            "Redis takes no writes: all is loaded again, and the epoch changes once it takes them"
        );
        feed.topics.mark_replaced(self.id);
        self.over = Some((epoch, Instant::now())).filter(|_| !self.only_looks);
    }

    /// Reads on until something breaks or the epoch changes. While what was read is taken in, the next read is under way,
    /// so that Redis and this node work at the same time.
    async fn follow(&mut self, link: &mut Link, feed: &Feed) -> RedisResult<LoadAgain> {
        let masters = self.masters.clone();
        let moved = masters.moved(link.place().clone());
        tokio::pin!(moved);
        let Progress { last: mut before, seen, .. } = self.progress();
        let mut last_read = LastRead { id: before, seen, size: Size::default() };
        let mut reading = self.read(link, last_read);
        // How long the answer may have waited until it was looked at.
        let mut waited = Duration::ZERO;
        loop {
            // Only this may be given up half-way: what was read is taken in whole, or it would be read again.
            let replies = tokio::select! {
                biased;
                error = &mut moved => return Err(error),
                replies = reading => match replies {
                    Err(error) if self.appetite.count() > 1 && is_too_large(&error) => {
                        self.appetite.overfed();
                        self.note_overfed(before);
                        return Ok(LoadAgain);
                    }
                    replies => replies?,
                },
            };
            let read = self.look_at(link, replies)?;
            self.look_for_moves(link, feed).await?;
            if read.has_first {
                feed.topics.set_first(self.id, read.first.map_or(u64::MAX, |first| first.ms));
            }
            if !self.is_epoch(read.epoch.as_deref()) {
                tracing::warn!(
                    stream = self.keys.stream,
                    found = read.epoch,
                    "another epoch: the database was wiped, or another node changed it"
                );
                return Ok(LoadAgain);
            }
            if feed.topics.needs_reload(self.id) {
                return Ok(self.reload_after_other());
            }
            if self.is_over_now(link).await? {
                return Ok(LoadAgain);
            }
            // Where a backup is put back, entries may come to have the IDs of those that were read.
            if let Some(found) = read.witness.broken(link, &self.keys, before).await? {
                return self.load_again(link, feed, found).await;
            }
            let count = read.batch.len();
            let Some((last, seen)) = read.batch.last().map(|entry| (entry.id, entry.fingerprint())) else {
                self.status.read(0, 0);
                self.note_time(feed, read.time_ms, before, waited);
                if self.is_unwritten && Some(self.agree_on_epoch(link).await?) != self.epoch {
                    return Ok(LoadAgain);
                }
                self.move_on(link, before).await;
                let facts = Facts::of(link, &self.keys).await?;
                if facts.is_emptied && !self.is_emptied {
                    let why = format!("the stream is empty and tells nothing of what came after {before}");
                    return self.load_again(link, feed, Break::Missed(why)).await;
                }
                if !facts.is_emptied && facts.newest < before || facts.is_another(before, self.progress().count) {
                    let why = "the stream's IDs went backwards, or it has been given fewer entries than were read";
                    return self.load_again(link, feed, Break::Rewritten(why.into())).await;
                }
                // Where it is not known how many were read, an empty stream that has had newer ones says enough.
                let count = self.progress().count;
                let came_and_went = count.is_none() && facts.first.is_none() && facts.newest > before;
                let is_missed = facts.is_surely_gone_after(before, count) || facts.is_deleted_unread(before, count);
                if came_and_went || is_missed {
                    return self.load_again(link, feed, Break::missed(before)).await;
                }
                self.verified = Instant::now();
                let mut progress = self.progress();
                progress.count = progress.count.or(facts.count_upto(before));
                self.set_progress(progress);
                reading = self.read(link, last_read);
                waited = Duration::ZERO;
                continue;
            };
            self.is_emptied = false;
            let progress = self.progress();
            let first = read.first.or((read.witness == Witness::Same).then_some(before));
            let found = continuity::broken_before(link, &self.keys, &progress, &read.batch, first).await?;
            if let Some(found) = found {
                return self.load_again(link, feed, found).await;
            }
            let counted = progress.count.map(|before| before + count as u64);
            if let Some(facts) = read.facts
                && facts.newest == last
            {
                if facts.is_deleted_unread(last, counted) {
                    return self.load_again(link, feed, Break::missed(before)).await;
                }
                self.verified = Instant::now();
            }
            self.move_on(link, last).await;
            before = last;
            let size = read.batch.last().map(Entry::size).unwrap_or_default();
            last_read = LastRead { id: last, seen: Some(seen), size };
            // Whether the answer was slow in coming cannot be told from a read that waits.
            let mut bytes = 0;
            let sizes = read.batch.iter().map(Entry::cost).inspect(|size| bytes += size);
            self.appetite.fed(sizes, read.asked, Duration::ZERO);
            reading = self.read(link, last_read);
            let mut early = Poll::Pending;
            if bytes <= READ_AHEAD_BYTES_MAX {
                early = futures_util::poll!(&mut reading);
                if count >= MAKE_WAY_FROM {
                    // What sends it is another task, which does not run on this thread until this one makes way.
                    tokio::task::yield_now().await;
                }
            }
            // A batch that is not full left nothing behind when it was read, which may have been a while ago.
            let is_behind = count == read.asked || waited >= READ_AHEAD_FRESH;
            let began = Instant::now();
            let had_waited = waited;
            self.take_in(read.batch, feed, None).await;
            waited = began.elapsed();
            self.note_time(feed, read.time_ms.filter(|_| count < read.asked), last, had_waited);
            feed.topics.set_reached(self.id, self.reached);
            let offset = self.reached;
            self.change_progress(|before| Progress {
                last,
                count: counted,
                seen: Some(seen),
                offset,
                loaded: true,
                ..before
            });
            let lag_ms = if is_behind { unix_ms().saturating_sub(last.ms) } else { 0 };
            self.status.read(count as u64, lag_ms);
            if let Poll::Ready(replies) = early {
                reading = std::future::ready(replies).boxed();
            }
        }
    }

    /// Says that entries after `last` are larger than was expected of them.
    fn note_overfed(&self, last: EntryId) {
        tracing::info!(
            stream = self.keys.stream,
            after = %last,
            "entries or saved states are larger than those before: they are read one by one, over another connection"
        );
    }

    /// A read of what comes after an entry.
    fn read(&mut self, link: &Link, last: LastRead) -> BoxFuture<'static, RedisResult<Answer>> {
        let mut read = pipe();
        read.cmd("GET").arg(&self.keys.epoch);
        let asked = self.appetite.count();
        let verifies = self.may_verify(asked, last.size.bytes);
        read.cmd("XREAD").arg("COUNT").arg(asked).arg("BLOCK").arg(BLOCK_MS);
        read.arg("STREAMS").arg(&self.keys.stream).arg(last.id.to_string());
        let seen = last.seen.filter(|_| self.may_look_again(last.size.bytes));
        // Where the stream began just then: later it may have lost more, which was read all the same. If the entry that was read
        // last is there, nothing after it was trimmed: a large oldest one is not fetched with each read for that.
        let has_first = self.first_size.bytes <= LOOK_AGAIN_BYTES || seen.is_none();
        if has_first {
            read.add_command(continuity::ask_first_entry(&self.keys));
        }
        let known = if has_first { self.first_size.cost } else { 0 } + if seen.is_some() { last.size.cost } else { 0 };
        let known = if verifies { 2 * known + LOOK_AGAIN_BYTES } else { known };
        let mut link = link.within(bytes_max(asked, known, self.one_bytes_max));
        if seen.is_some() {
            read.add_command(continuity::ask_entry(&self.keys, last.id));
        }
        // A stream that is not there, and a server that does not say, answer with an error.
        let facts_at = verifies.then(|| read.len());
        if verifies {
            read.add_command(continuity::ask_facts(&self.keys)).ignore_errors();
        }
        if self.has_time {
            read.cmd("TIME");
        }
        if link.has_role() {
            read.cmd("ROLE");
        }
        async move {
            let replies = match facts_at {
                None => read.query_async(&mut link).await?,
                Some(facts_at) => {
                    let replies: Vec<RedisResult<Value>> = read.query_async(&mut link).await?;
                    let reply = |(at, reply): (usize, RedisResult<Value>)| match reply {
                        Err(_) if at == facts_at => Ok(Value::Nil),
                        reply => reply,
                    };
                    replies.into_iter().enumerate().map(reply).collect::<RedisResult<_>>()?
                }
            };
            Ok(Answer { asked, seen, verifies, has_first, replies })
        }
        .boxed()
    }

    /// Whether a read also asks what the stream is, to know that none of its entries was deleted before it was read. The answer has
    /// the oldest and the newest entry once more.
    fn may_verify(&self, asked: usize, last_bytes: usize) -> bool {
        let is_small = asked > 1 && self.first_size.bytes.max(last_bytes) <= LOOK_AGAIN_BYTES;
        is_small && self.progress().count.is_some() && self.verified.elapsed() >= VERIFY_EVERY
    }

    /// Whether an entry of so many bytes is asked for again.
    fn may_look_again(&mut self, bytes: usize) -> bool {
        if bytes <= LOOK_AGAIN_BYTES {
            return true;
        }
        let since = self.looked_again.elapsed().as_millis();
        let is_time = since * LOOK_AGAIN_BYTES_PER_MS >= bytes as u128;
        if is_time {
            self.looked_again = Instant::now();
        }
        is_time
    }

    /// What a read's answers say, if they are a master's.
    fn look_at(&mut self, link: &Link, answer: Answer) -> RedisResult<Read> {
        let Answer { asked, seen, verifies, has_first, mut replies } = answer;
        // A master that was made a replica may have what others wrote meanwhile, without what was read here.
        if link.has_role() {
            link.check_role(&replies.pop().unwrap_or(Value::Nil))?;
        }
        let time_ms = if self.has_time { replies.pop().as_ref().and_then(time_ms) } else { None };
        let facts = if verifies { replies.pop().and_then(Facts::in_reply) } else { None };
        let witness = match seen {
            Some(seen) => Witness::of(replies.pop().unwrap_or(Value::Nil), seen),
            None => Witness::Unasked,
        };
        let first = if has_first { self.note_first(replies.pop().unwrap_or(Value::Nil)) } else { None };
        let batch = streams(replies.pop().unwrap_or(Value::Nil));
        let epoch = Option::<String>::from_redis_value(replies.pop().unwrap_or(Value::Nil))?;
        Ok(Read { epoch, batch, first, has_first, asked, time_ms, witness, facts })
    }

    /// The ID of the oldest entry.
    fn note_first(&mut self, reply: Value) -> Option<EntryId> {
        let first = entries(reply);
        self.first_size = first.first().map(Entry::size).unwrap_or_default();
        first.first().map(|entry| entry.id)
    }

    /// Says up to when the stream has been read: up to the time of the read, if that left nothing behind, or up to `last`.
    fn note_time(&mut self, feed: &Feed, time_ms: Option<u64>, last: EntryId, waited: Duration) {
        // An answer that waited tells an old time.
        if let Some(time_ms) = time_ms.filter(|_| waited < READ_AHEAD_FRESH) {
            self.look_at_clock(unix_ms(), time_ms);
        }
        feed.topics.read_upto(self.id, self.believed_ms(time_ms, last), self.ahead_ms);
    }

    /// Redis' clock says `time_ms`, and this node's `own_ms`.
    fn look_at_clock(&mut self, own_ms: u64, time_ms: u64) {
        self.ahead_ms = ahead_of(own_ms, time_ms);
        self.clock.look(self.ahead_ms);
    }

    /// Up to when topics end that had no delta, where everything was read up to `last` and, by Redis' clock, up to `time_ms`:
    /// the time of an entry is a fact, and that of a clock is one once it has been so for long enough.
    fn believed_ms(&self, time_ms: Option<u64>, last: EntryId) -> u64 {
        let believed_ms = unix_ms().saturating_add_signed(self.clock.ahead_ms());
        time_ms.map_or(last.ms, |time_ms| time_ms.min(believed_ms.max(last.ms)))
    }

    /// Takes entries in. Up to `saved`, states that were saved say what deltas have come to.
    async fn take_in(&mut self, batch: Vec<Entry>, feed: &Feed, saved: Option<EntryId>) {
        for entry in batch {
            let id = entry.id;
            #[cfg(test)]
            {
                let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
                *taken.entry(id).or_default() |= saved.is_none_or(|saved| id > saved);
            }
            let offset = match id.offset() {
                Ok(offset) => offset,
                Err(error) => {
                    if error.is_for_good() {
                        self.status.fail(&error.to_string());
                    }
                    let refusal = error.refusal().of_topic_if_known(topic_of(&entry.fields, &self.config));
                    self.refuse(id, refusal);
                    continue;
                }
            };
            self.reached = self.reached.max(offset);
            // Nothing is awaited as a rule: what is, lives in this future, which costs more than the stack.
            if !feed.has_room() {
                feed.wait_for_room().await;
            }
            if !is_of_reshard(&entry.fields) {
                if let Some((delta, residence)) = self.read_entry((id, offset), entry.fields, None, feed, saved) {
                    self.publish((id, offset), delta, residence, None, feed);
                }
                continue;
            }
            if let Some(cut) = Cut::of(&entry.fields, &self.keys.stream) {
                let cut = cut.map_err(|refusal| refusal.of_topic_if_known(topic_of(&entry.fields, &self.config)));
                self.cut(cut, id, feed);
                continue;
            }
            let handed = Handed::of(&entry.fields);
            let read = self.read_entry((id, offset), entry.fields, handed.as_ref(), feed, saved);
            let Some((delta, residence)) = read else { continue };
            if let Some(handed) = handed.as_ref().filter(|_| delta.kind == Kind::Move) {
                self.wait_for_cut(handed, feed).await;
                feed.wait_for_room().await;
            }
            self.publish((id, offset), delta, residence, handed.as_ref(), feed);
        }
    }

    /// What an entry says, if topics are to have it, and where its topic is.
    fn read_entry(
        &mut self,
        (id, offset): (EntryId, Offset),
        fields: Vec<Value>,
        handed: Option<&Handed>,
        feed: &Feed,
        saved: Option<EntryId>,
    ) -> Option<(ReadDelta, Residence)> {
        let form = |topic: &str| feed.topics.payload_form(topic);
        let delta = match decode_entry(fields, &self.config, self.delta_bytes_max, id.ms, form) {
            Ok(delta) => delta,
            Err(refusal) => {
                self.refuse(id, refusal);
                return None;
            }
        };
        if let Some(handed) = handed.filter(|_| delta.kind != Kind::Move) {
            self.note_relayed(handed, feed);
        }
        let residence = self.residence_of(&delta.topic, delta.kind, (id, offset), feed);
        match residence {
            Residence::Left => {
                // It is relayed without what is wrong with it.
                delta.suspicions.iter().for_each(|suspicion| self.refusals.suspect(&id, suspicion));
                return None;
            }
            Residence::Late if handed.is_none() => {
                self.refuse_late(id, &delta.topic);
                return None;
            }
            _ => {}
        }
        // No state tells of a deletion, which may be of what another stream has that is in no saved state yet.
        let is_saved = saved.is_some_and(|saved| id <= saved) && delta.kind != Kind::Deletion;
        if is_saved && feed.topics.is_by_state(self.id, &delta.topic) {
            return None;
        }
        if handed.is_none() {
            self.look_for_place(&delta.topic, residence, feed);
        }
        Some((delta, residence))
    }

    /// Hands a delta to topics.
    fn publish(
        &mut self,
        (id, offset): (EntryId, Offset),
        delta: ReadDelta,
        residence: Residence,
        handed: Option<&Handed>,
        feed: &Feed,
    ) {
        for suspicion in &delta.suspicions {
            self.refusals.suspect(&id, suspicion);
        }
        let head = Head::of(delta.payload.bytes());
        let incoming = Incoming {
            topic: &delta.topic,
            kind: delta.kind,
            ts: delta.ts.or(Some(id.ms)),
            at_ms: handed.and_then(|handed| handed.at_ms).or(Some(id.ms)),
            payload: delta.payload,
            offset: Some(offset),
            source: self.id,
            home: if let Residence::Here(home) = residence { home } else { None },
            is_relayed: handed.is_some() && delta.kind != Kind::Move,
        };
        match feed.topics.publish(incoming) {
            Ok(_) => {
                if handed.is_some_and(|handed| handed.is_partial) {
                    feed.topics.doubt_moved(self.id, &delta.topic);
                }
                self.refusals.look_at_namespace(&id, &delta.topic);
            }
            Err(error) => {
                let refusal = self.refusals.refuse_publish(&id, &delta.topic, &error, &head);
                self.copy(id, refusal);
            }
        }
    }

    fn refuse(&mut self, id: EntryId, refusal: Refusal) {
        self.refusals.refuse(&id, &refusal);
        self.copy(id, refusal);
    }

    /// Has a refused entry copied. What is read again by a load was copied when it was new.
    fn copy(&self, id: EntryId, refusal: Refusal) {
        if let Some(copies) = self.copies.as_ref().filter(|_| self.status.is_loaded()) {
            copies.hand_in(id, refusal);
        }
    }

    /// Says once of each topic that it belongs in another partition: publishers do not agree on where, or streams were added
    /// and it was not moved.
    fn look_for_place(&mut self, topic: &str, residence: Residence, feed: &Feed) {
        if feed.topics.partitions() < 2 {
            return;
        }
        let home = feed.topics.home(topic);
        if home == self.id {
            return;
        }
        // One that was moved here, or is being moved from here, is where another list of streams says.
        if !matches!(residence, Residence::Here(_)) || feed.topics.place_in(self.id, topic).1 {
            return;
        }
        feed.topics.relate_home(self.id, topic);
        if self.misplaced.len() >= MISPLACED_MAX || !self.misplaced.insert(topic.to_owned()) {
            return;
        }
        self.status.misplace();
        self.metrics.topics_misplaced.inc();
        let belongs = self.config.streams.get(usize::from(home.0)).map(String::as_str).unwrap_or_default();
        tracing::warn!(
            topic,
            stream = self.keys.stream,
            belongs,
            "a topic is published here that belongs in the stream that is named: see `nexus-push partition`"
        );
    }

    /// Where Redis' clock stands still or went back, all entries get the last one's millisecond, which holds only so many.
    /// The next millisecond is begun before it is full.
    async fn move_on(&mut self, link: &mut Link, last: EntryId) {
        let is_tried = self.move_tried.is_some_and(|(ms, when)| ms == last.ms && when.elapsed() < MOVE_ON_EVERY);
        let is_last_of_all = last.offset().is_err_and(|error| error.is_for_good());
        if self.only_looks || last.seq < MOVE_ON_FROM || last.ms == self.moved_on || is_tried || is_last_of_all {
            return;
        }
        self.move_tried = Some((last.ms, Instant::now()));
        let next = EntryId { ms: last.ms + 1, seq: 0 };
        let mut command = cmd("EVAL");
        command.arg(MOVE_ON).arg(1).arg(&self.keys.stream).arg(last.ms).arg(next.to_string());
        match command.query_async::<bool>(link).await {
            Ok(true) => {
                self.moved_on = last.ms;
                tracing::info!(stream = self.keys.stream, %last, "a millisecond of IDs is nearly used up: the next is begun");
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(stream = self.keys.stream, %last, %error, "a millisecond of IDs is nearly used up, and the next cannot be begun yet");
            }
        }
    }
}

impl Source for RedisSource {
    fn status(&self) -> Arc<SourceStatus> {
        self.status.clone()
    }

    fn run(self: Box<Self>, feed: Feed, stop: CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin((*self).run(feed, stop))
    }
}
