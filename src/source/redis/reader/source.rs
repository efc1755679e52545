//! The reader's state.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::appetite::{Appetite, one_bytes_max};
use super::super::away::Away;
use super::super::continuity::Progress;
use super::super::entries::Size;
use super::super::keys::Keys;
use super::super::masters::Masters;
use super::super::refused::Copies;
use super::load::Loading;
use super::steady_clock::SteadyClock;
use super::waits::Leaving;
use crate::config::{self, Config};
use crate::memory::ResolvedLimits;
use crate::metrics::{Metrics, SourceLabel};
use crate::position::{Epoch, Offset};
use crate::source::SourceStatus;
use crate::source::refusals::Refusals;
use crate::topic::SourceId;

/// Entries a read returns at most.
const BATCH: usize = 1_000;

/// The entry that was read last is asked for again with each read, if it has no more bytes than this.
pub(super) const LOOK_AGAIN_BYTES: usize = 4 * 1024;

/// The reader of one partition.
pub struct RedisSource {
    pub(super) masters: Masters,
    pub(super) config: config::Redis,
    pub(super) history_ttl: Duration,
    pub(super) keys: Keys,
    pub(super) id: SourceId,
    pub(super) delta_bytes_max: usize,
    pub(super) status: Arc<SourceStatus>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) progress: Arc<Mutex<Progress>>,
    /// Highest offset that was given.
    pub(super) reached: Offset,
    pub(super) epoch: Option<Epoch>,
    /// Earlier ones, the newest last, and how far was read in them: after a backup was put back, one of them may come again and
    /// mean another past.
    pub(super) pasts: VecDeque<(Epoch, Progress)>,
    /// The run of Redis that was read from last, where it says so.
    pub(super) run: Option<String>,
    /// Whether there is no key for the epoch, because Redis takes no writes.
    pub(super) is_unwritten: bool,
    /// The stream was empty when it was last looked at, and does not say what it ever held.
    pub(super) is_emptied: bool,
    /// Whether Redis says what time it is.
    pub(super) has_time: bool,
    /// By how much its clock is ahead of this node's, in ms.
    pub(super) ahead_ms: i64,
    /// The same, as far as topics may end by it.
    pub(super) clock: SteadyClock,
    /// A load that broke off.
    pub(super) loading: Option<Loading>,
    /// When the entry that was read last was asked for again.
    pub(super) looked_again: Instant,
    /// When it was last known that all entries up to the newest had been read.
    pub(super) verified: Instant,
    /// An epoch that has another past than was read, and could not be changed; and when that was tried last.
    pub(super) over: Option<(Epoch, Instant)>,
    pub(super) appetite: Appetite,
    /// Bytes that an answer to one entry may have.
    pub(super) one_bytes_max: usize,
    /// The oldest entry, which comes with each read, when it last did.
    pub(super) first_size: Size,
    /// Topics that were found here and belong elsewhere.
    pub(super) misplaced: HashSet<String>,
    /// The millisecond beyond which the stream's IDs were last moved.
    pub(super) moved_on: u64,
    /// That for which this was last tried, and when.
    pub(super) move_tried: Option<(u64, Instant)>,
    /// Topics that leave the stream, while some do.
    pub(super) away: Option<Away>,
    /// What is not as it should be while topics move.
    pub(super) leaving: Leaving,
    pub(super) refusals: Refusals,
    /// Where refused entries are copied to, if they are.
    pub(super) copies: Option<Copies>,
    /// Nothing is written: who reads only wants to know what there is.
    pub(super) only_looks: bool,
    /// Entries that were taken in, and whether no saved state stood for them.
    #[cfg(test)]
    pub(in super::super) taken: Arc<Mutex<std::collections::BTreeMap<super::super::id::EntryId, bool>>>,
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
    pub(in super::super) fn that_only_looks(mut self) -> Self {
        self.only_looks = true;
        self
    }

    /// How far it has read, as it goes on.
    #[cfg(test)]
    pub(in super::super) fn progress_of(&self) -> Arc<Mutex<Progress>> {
        self.progress.clone()
    }

    pub(super) fn label(&self) -> SourceLabel {
        SourceLabel { source: self.status.name.clone() }
    }

    pub(super) fn change_progress(&self, change: impl FnOnce(Progress) -> Progress) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        *progress = change(*progress);
    }

    pub(super) fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_progress(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }
}
