//! All topics: a concurrent map from name to state. Written by sources alone; read by subscribes and REST.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::account::{Account, Levels, Sums};
use super::atomics::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Mutex, Ordering};
use super::deleted::{Deleted, Deletion, Verdict};
use super::delta::{Kind, Snapshot};
use super::exchange::{
    Attachment, Home, Incoming, Lifetime, Mark, Outlet, PublishError, Published, Replay, SavedHole, ShardId, Slot,
    SourceId, TopicView,
};
use super::freshness::{Freshness, Tally};
use super::gaps::Gaps;
use super::map::{DashMap, Entry};
use super::merge::{ParseError, members_bytes, parse_object};
use super::names::{NameRange, Names, Section};
use super::passage::{Passage, log_published};
use super::payload::{Payload, PayloadError};
use super::related::Related;
use super::relays::{Goes, Relays, Rule};
use super::state::{Floor, StreamMark, Topic, When, over};
use super::strays::{At, Marks, Stray};
use super::trace::Sampler;
use crate::clock::unix_ms;
use crate::config::{ChannelSyntax, Class, Config, Namespace, OPS, PayloadForm};
use crate::limits::{ENDED_TOPICS_MAX, STATE_BYTES_MAX, UNPUBLISHED_SHARE};
use crate::memory::ResolvedLimits;
use crate::metrics::Metrics;
use crate::name::{TopicName, is_in_namespace, namespace_of};
use crate::position::{Epoch, Offset, Position};
use crate::protocol::{Encoding, HistoryPage, HistoryQuery, MembershipChange, Refusal};

/// While a source is loaded and there is no room, topics that are over are looked for no more often than so many times in the
/// shortest time that one of them lives.
const ROOM_STEPS: u64 = 64;

/// Topics that the map keeps room for, however few there are.
const SHRINK_FROM: usize = 65_536;

/// FNV-1a (64 bit) of a topic's name: what its partition is told by.
pub fn hash_of(topic: &str) -> u64 {
    topic.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// The partition, from 0 on, that a topic belongs in: the hash of its name, modulo their number.
fn partition_of(topic: &str, partitions: usize) -> usize {
    usize::try_from(hash_of(topic) % partitions.max(1) as u64).unwrap_or(0)
}

/// The one of `streams` that a topic belongs in.
pub fn home_in<'a>(topic: &str, streams: &'a [String]) -> &'a str {
    streams.get(partition_of(topic, streams.len())).map_or("", String::as_str)
}

/// The same of a name that may be none.
///
/// # Errors
/// If no topic can have it.
pub fn home_of(topic: &str, partitions: usize) -> Result<usize, PublishError> {
    Ok(partition_of(TopicName::new(topic)?.as_str(), partitions))
}

struct SourceState {
    epoch: Mutex<Epoch>,
    /// Offsets up to here may have been given to deltas that are not known here.
    floor: AtomicU64,
    /// The source holds all that it ever had, and no topic of it was forgotten here.
    whole: AtomicBool,
    /// While true, deltas change topics but nobody is told: a reset follows.
    loading: AtomicBool,
    /// What was missed, so that topics may have had deltas that are not known here.
    gaps: Gaps,
    /// States that are put back may lack deltas.
    restores_doubt: AtomicBool,
    /// The name of the newest hole: a state that is saved with it was known after the hole.
    hole: Mutex<Option<Epoch>>,
    /// The hole up to which saved states may be out of date, while the source is loaded.
    saved_hole: Mutex<Option<SavedHole>>,
    /// Topics without a state here that had a delta for which there was no room, and its offset:
    /// saved states from before it are out of date.
    refused: Mutex<HashMap<TopicName, Offset>>,
    /// Everything that the source took in up to then has been read here: Unix ms of its clock.
    read_upto_ms: AtomicU64,
    /// Topics that belong in it were forgotten elsewhere: whoever had them here may have missed deltas.
    forgot_moved: AtomicBool,
    /// Topics that left it by then, Unix ms of its clock, are where they went; 0 if none left.
    left_by_ms: AtomicU64,
    /// By how much its clock is ahead of this node's, in ms.
    ahead_ms: AtomicI64,
    /// Topics whose states may lack deltas, as of the last sweep.
    incomplete: AtomicUsize,
    /// Topics whose deltas wait in another partition, as of the last sweep.
    waiting: AtomicUsize,
    /// When it took the oldest entry in that it holds, Unix ms of its clock; 0 if that is not known.
    first_ms: AtomicU64,
    /// The highest offset that was read.
    reached: AtomicU64,
    /// While it is loaded: everything up to then is in the states that are put back, Unix ms of its clock.
    saved_upto_ms: AtomicU64,
    /// No topic of it is over before that: Unix ms of its clock.
    roomless_until_ms: AtomicU64,
    /// Whether it was ever begun to be loaded, and whether it was.
    has_begun: AtomicBool,
    /// The epochs that it had when what was saved of other sources came to rest on it, until it is begun: more than one if it
    /// changed meanwhile. At most one for each other source.
    assumed: Mutex<Vec<Epoch>>,
    has_loaded: AtomicBool,
    /// Topics that ended and the offsets they ended at, until their saved states are removed.
    ended: Mutex<Option<Vec<(TopicName, Offset)>>>,
    /// Some of them ended because of an entry of another source.
    has_ended_elsewhere: AtomicBool,
    /// There were too many of them to remember.
    has_forgotten_ends: AtomicBool,
    /// `stream` topics that were put back, until all is read that is there of them.
    marks: Mutex<HashMap<TopicName, StreamMark>>,
    /// Namespaces of which states were saved while they had another class.
    reclassed: Mutex<HashSet<String>>,
    /// Such states were found by the present load.
    finds_reclassed: AtomicBool,
    /// What it has of topics that are in other sources.
    beside: Mutex<Marks>,
    /// Other sources that share topics with it.
    related: Related,
    /// The contents of such a source were replaced: this one is to be loaded again.
    needs_reload: AtomicBool,
}

impl SourceState {
    /// Whether it is being loaded, or was not yet.
    fn is_unread(&self) -> bool {
        self.loading.load(Ordering::Acquire) || !self.has_loaded.load(Ordering::Acquire) && self.gaps.is_open()
    }

    fn marks(&self) -> impl std::ops::DerefMut<Target = HashMap<TopicName, StreamMark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reclassed(&self) -> impl std::ops::DerefMut<Target = HashSet<String>> {
        self.reclassed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beside(&self) -> impl std::ops::DerefMut<Target = Marks> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hole(&self) -> impl std::ops::DerefMut<Target = Option<Epoch>> {
        self.hole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> impl std::ops::DerefMut<Target = HashMap<TopicName, Offset>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A delta at `offset` of a topic without a state here found no room. `false` if there are too many
    /// such topics: none is remembered any more.
    fn refuse(&self, name: &str, offset: Offset) -> bool {
        let Ok(name) = TopicName::new(name) else { return true };
        if !self.is_saved() {
            return true;
        }
        let mut refused = self.refused();
        if let Some(known) = refused.get_mut(&name) {
            *known = (*known).max(offset);
            return true;
        }
        let has_room = refused.len() < ENDED_TOPICS_MAX;
        if has_room {
            refused.insert(name, offset);
        } else {
            *refused = HashMap::new();
        }
        has_room
    }

    /// Whether a saved state may be out of date: the node that saved last had missed deltas, and
    /// did not know the state after that.
    fn is_before_saved_hole(&self, at_ms: u64, hole: Option<&Epoch>) -> bool {
        let saved_hole = self.saved_hole.lock().unwrap_or_else(PoisonError::into_inner);
        saved_hole
            .as_ref()
            .is_some_and(|saved| at_ms <= saved.until_ms && (saved.name.is_none() || saved.name.as_ref() != hole))
    }

    /// Whether it is saved by this process.
    fn is_saved(&self) -> bool {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// A topic was deleted at `offset`.
    fn forget_mark(&self, name: &TopicName, offset: Offset) {
        let mut marks = self.marks();
        if marks.get(name.as_str()).is_some_and(|mark| mark.offset < offset) {
            marks.remove(name.as_str());
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The offset before this one.
fn before(offset: Offset) -> Offset {
    Offset::new(offset.get().saturating_sub(1)).unwrap_or_default()
}

/// Whether a topic is one that this process alone may write. It does not count.
fn is_own(name: &TopicName) -> bool {
    name.namespace() == Some(OPS)
}

/// Topics that were subscribed to and never published.
#[derive(Default)]
struct Unpublished {
    count: usize,
    by_maker: HashMap<u64, usize>,
}

/// Parts of the map of topics. A walk over all topics holds one part at a time, and so does a part that grows: of a million
/// topics a thousand, for about a millisecond. Unit tests have few topics, and many maps.
const MAP_PARTS: usize = if cfg!(test) { 16 } else { 1_024 };

/// All topics.
pub struct Topics {
    /// Boxed: the map has room for up to twice as many as there are.
    map: DashMap<TopicName, Box<Topic>>,
    /// Of topics that were published. Changed under their topic's lock; no topic is locked while it is.
    names: Names,
    /// How many those are.
    count: AtomicUsize,
    /// Those that exist for subscribers alone, and by whom they were made.
    unpublished: Mutex<Unpublished>,
    unpublished_max: usize,
    config: Arc<Config>,
    namespaces: HashMap<String, Arc<Namespace>>,
    default: Arc<Namespace>,
    /// Those that were asked for, and at the end this process itself.
    sources: Vec<SourceState>,
    /// How many of these topics belong in, the first ones: others are only read.
    homes: usize,
    /// Topics that a delta of one source ended, until the others have been read up to then.
    deleted: Mutex<Deleted>,
    /// Topics that leave a source, and how far their deltas have followed them. Nothing else is locked while it is.
    relays: Mutex<Relays>,
    outlet: Arc<dyn Outlet>,
    metrics: Arc<Metrics>,
    sums: Arc<Sums>,
    sampler: Sampler,
    /// By namespace, as the last sweep found them.
    freshness: Mutex<std::collections::BTreeMap<String, Freshness>>,
}

impl Topics {
    /// No topics yet, fed by `sources` (at least one) that give offsets.
    pub fn new(config: Arc<Config>, sources: usize, outlet: Arc<dyn Outlet>, metrics: Arc<Metrics>) -> Self {
        let limits = ResolvedLimits::configured(&config.limits);
        Self::within(config, &limits, sources, outlet, metrics)
    }

    /// Like [`Self::new`], within these limits on memory.
    pub fn within(
        config: Arc<Config>,
        limits: &ResolvedLimits,
        sources: usize,
        outlet: Arc<dyn Outlet>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let options = |namespace: &Namespace| {
            let mut options = namespace.clone();
            // Where names say nothing, they say nothing of users.
            options.allow_user_limited_channels &= config.access.channel_syntax != ChannelSyntax::Plain;
            Arc::new(options)
        };
        let namespaces = config.namespace.iter().map(|(name, namespace)| (name.clone(), options(namespace))).collect();
        let source = || SourceState {
            epoch: Mutex::new(Epoch::random()),
            floor: AtomicU64::new(0),
            whole: AtomicBool::new(true),
            loading: AtomicBool::new(false),
            gaps: Gaps::default(),
            restores_doubt: AtomicBool::new(false),
            hole: Mutex::default(),
            saved_hole: Mutex::default(),
            refused: Mutex::default(),
            read_upto_ms: AtomicU64::new(u64::MAX),
            forgot_moved: AtomicBool::new(false),
            left_by_ms: AtomicU64::new(0),
            ahead_ms: AtomicI64::new(0),
            incomplete: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            first_ms: AtomicU64::new(0),
            reached: AtomicU64::new(0),
            saved_upto_ms: AtomicU64::new(0),
            roomless_until_ms: AtomicU64::new(0),
            has_begun: AtomicBool::new(false),
            assumed: Mutex::default(),
            has_loaded: AtomicBool::new(false),
            ended: Mutex::new(None),
            has_ended_elsewhere: AtomicBool::new(false),
            has_forgotten_ends: AtomicBool::new(false),
            marks: Mutex::default(),
            reclassed: Mutex::default(),
            finds_reclassed: AtomicBool::new(false),
            beside: Mutex::default(),
            related: Related::default(),
            needs_reload: AtomicBool::new(false),
        };
        let homes = config.source.redis.as_ref().map_or(sources, |redis| redis.streams.len());
        Self {
            map: DashMap::with_shard_amount(MAP_PARTS),
            names: Names::new(config.access.channel_syntax),
            count: AtomicUsize::new(0),
            unpublished: Mutex::default(),
            unpublished_max: limits.unpublished_topics,
            namespaces,
            default: options(&config.default),
            sums: Arc::new(Sums::new(limits)),
            sampler: Sampler::new(config.trace.sample),
            freshness: Mutex::default(),
            config,
            homes: homes.clamp(1, sources.max(1)),
            deleted: Mutex::new(Deleted::default()),
            relays: Mutex::new(Relays::default()),
            sources: std::iter::repeat_with(source).take(sources.max(1) + 1).collect(),
            outlet,
            metrics,
        }
    }

    /// How many there are that were never published, and their bytes of memory.
    pub fn unpublished(&self) -> (usize, usize) {
        let count = self.unpublished.lock().unwrap_or_else(PoisonError::into_inner).count;
        (count, self.sums.unpublished())
    }

    /// How many were published, the server's own apart.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Bytes of memory that their history takes: all that can be let go of.
    pub fn history_bytes(&self) -> usize {
        self.sums.history()
    }

    /// Bytes of memory that their states take.
    pub fn state_bytes(&self) -> usize {
        self.sums.state()
    }

    /// How the topics of each namespace fare, as of the last sweep.
    pub fn freshness(&self) -> std::collections::BTreeMap<String, Freshness> {
        self.freshness.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What [`Topics::history_bytes`], [`Topics::state_bytes`], [`Topics::unpublished`] and [`Topics::len`] must be.
    #[cfg(test)]
    pub(super) fn truth(&self) -> (usize, usize, (usize, usize), usize) {
        let (mut history, mut state, mut unpublished, mut published) = (0, 0, (0, 0), 0);
        for topic in self.map.iter() {
            let (h, s) = topic.true_weights();
            history += h;
            match topic.account.is_published() {
                true => (state, published) = (state + s, published + 1),
                false => unpublished = (unpublished.0 + 1, unpublished.1 + s),
            }
            assert_eq!(topic.account.is_published(), topic.maker.is_none());
            assert!(topic.account.is_published() || !topic.known);
        }
        (history, state, unpublished, published)
    }

    /// The same, as counted.
    #[cfg(test)]
    pub(super) fn counted(&self) -> (usize, usize, (usize, usize), usize) {
        (self.history_bytes(), self.state_bytes(), self.unpublished(), self.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The source that a topic nobody has published on yet is expected from. Publishers that spread topics over
    /// partitions do best to use the same rule: FNV-1a (64 bit) of the name, modulo the number of streams.
    pub fn home(&self, topic: &str) -> SourceId {
        SourceId(u16::try_from(partition_of(topic, self.homes)).unwrap_or(0))
    }

    /// The source that what is said of a topic is to come from: that of its deltas, if there are any.
    pub fn source_of(&self, topic: &str) -> SourceId {
        let known = self.map.get(topic).filter(|topic| topic.known).map(|topic| topic.source);
        known.unwrap_or_else(|| self.home(topic))
    }

    /// What this process says of itself: its offsets mean nothing elsewhere.
    pub fn local(&self) -> SourceId {
        SourceId(u16::try_from(self.sources.len() - 1).unwrap_or(0))
    }

    fn source(&self, id: SourceId) -> Option<&SourceState> {
        self.sources.get(usize::from(id.0)).or_else(|| self.sources.first())
    }

    /// Whether what `source` holds is being read, so that nothing that is made of it so far can be claimed to be whole.
    pub fn is_loading(&self, source: SourceId) -> bool {
        self.source(source).is_some_and(|source| source.loading.load(Ordering::Acquire))
    }

    /// The epoch in which `source` gives offsets now.
    pub fn epoch(&self, source: SourceId) -> Epoch {
        let state = self.source(source);
        state.map_or_else(Epoch::random, |s| s.epoch.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// `maker` is the subscriber on whose behalf it is made; `None` for a publisher.
    fn create(&self, name: TopicName, source: SourceId, now_ms: u64, maker: Option<u64>) -> Box<Topic> {
        let options = name.namespace().and_then(|n| self.namespaces.get(n)).unwrap_or(&self.default).clone();
        let own = is_own(&name);
        let source = if own { self.local() } else { source };
        let state = self.source(source);
        let is_whole = own || state.is_none_or(|s| s.whole.load(Ordering::Acquire));
        let floor = state.map_or_else(Floor::default, |s| {
            let offset = Offset::new(s.floor.load(Ordering::Acquire)).unwrap_or_default();
            Floor { offset, kept_after: if is_whole { Offset::ZERO } else { offset } }
        });
        let epoch = self.epoch(source);
        let mut topic = Topic::new(name, options, source, epoch, floor, now_ms, Account::new(self.sums.clone()));
        topic.maker = maker;
        // What came of a `stream` topic after the floor is here, unless the topic was forgotten elsewhere.
        let forgot_moved = || state.is_some_and(|s| s.forgot_moved.load(Ordering::Acquire));
        if !is_whole && (topic.options.class.conflatable() || forgot_moved()) {
            topic.may_have_ended();
        }
        topic.set_loads(!own && self.is_loading(source));
        topic.settle();
        Box::new(topic)
    }

    /// Whether a topic may be published that was not before.
    fn has_room(&self, name: &TopicName) -> Result<(), PublishError> {
        if is_own(name) {
            return Ok(());
        }
        if self.len() >= self.config.limits.topics {
            self.metrics.topics_refused.inc();
            return Err(PublishError::TooManyTopics { max: self.config.limits.topics });
        }
        if self.sums.is_full() {
            self.metrics.state_refused.inc();
            return Err(PublishError::StateTotal { max: self.sums.state_max() });
        }
        Ok(())
    }

    fn count_published(&self, topic: &mut Topic) {
        if !is_own(&topic.name) {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        topic.account.publish();
        self.no_longer_unpublished(topic.maker.take());
    }

    /// A topic that `maker` had made is published now, or gone.
    fn no_longer_unpublished(&self, maker: Option<u64>) {
        let Some(maker) = maker else { return };
        let mut unpublished = self.unpublished.lock().unwrap_or_else(PoisonError::into_inner);
        unpublished.count = unpublished.count.saturating_sub(1);
        if let Some(count) = unpublished.by_maker.get_mut(&maker) {
            *count -= 1;
            if *count == 0 {
                unpublished.by_maker.remove(&maker);
            }
        }
        if unpublished.by_maker.len() * 4 < unpublished.by_maker.capacity() {
            let room = unpublished.by_maker.len() * 2;
            unpublished.by_maker.shrink_to(room.max(1_024));
        }
    }

    /// Counts one more topic that nobody has published, if there may be one.
    fn admit_unpublished(&self, maker: u64) -> Result<(), PublishError> {
        let max = self.unpublished_max;
        let share = (max / UNPUBLISHED_SHARE).max(self.config.limits.subscriptions).min(max);
        let mut unpublished = self.unpublished.lock().unwrap_or_else(PoisonError::into_inner);
        let full = match unpublished.by_maker.get(&maker) {
            _ if unpublished.count >= max => Some(PublishError::TooManyUnpublished { max }),
            Some(count) if *count >= share => Some(PublishError::UnpublishedShare { max: share }),
            _ => None,
        };
        if let Some(full) = full {
            self.metrics.unpublished_refused.inc();
            return Err(full);
        }
        unpublished.count += 1;
        *unpublished.by_maker.entry(maker).or_default() += 1;
        Ok(())
    }

    /// Runs a publish on the topic, making it first if need be. It counts as published, and one that was not there stays,
    /// only once a delta was taken in. With `begins`, that takes room.
    fn published<R>(
        &self,
        name: &str,
        (source, now_ms): (SourceId, u64),
        begins: bool,
        publish: impl FnOnce(&mut Topic) -> Result<R, PublishError>,
    ) -> Result<R, PublishError> {
        if let Some(mut topic) = self.map.get_mut(name) {
            return self.published_on(&mut topic, begins, publish);
        }
        let name = TopicName::new(name)?;
        match self.map.entry(name) {
            Entry::Occupied(mut topic) => self.published_on(topic.get_mut(), begins, publish),
            Entry::Vacant(entry) => {
                if !self.config.knows_namespace(entry.key().namespace()) {
                    return Err(PublishError::UnknownNamespace);
                }
                let mut topic = self.create(entry.key().clone(), source, now_ms, None);
                let done = self.published_on(&mut topic, begins, publish)?;
                if topic.known {
                    entry.insert(topic);
                }
                Ok(done)
            }
        }
    }

    fn published_on<R>(
        &self,
        topic: &mut Topic,
        begins: bool,
        publish: impl FnOnce(&mut Topic) -> Result<R, PublishError>,
    ) -> Result<R, PublishError> {
        if topic.account.is_published() {
            return publish(topic);
        }
        if begins {
            self.has_room(&topic.name)?;
        }
        let done = publish(topic)?;
        if topic.known {
            self.count_published(topic);
        }
        Ok(done)
    }

    /// Runs `f` on the topic, making it on behalf of `maker` first if need be.
    fn subscribed_to<R>(
        &self,
        name: &TopicName,
        maker: u64,
        f: impl FnOnce(&mut Topic) -> R,
    ) -> Result<R, PublishError> {
        if let Some(mut topic) = self.map.get_mut(name.as_str()) {
            return Ok(f(&mut topic));
        }
        match self.map.entry(name.clone()) {
            Entry::Occupied(mut topic) => Ok(f(topic.get_mut())),
            Entry::Vacant(entry) => {
                if !self.config.knows_namespace(name.namespace()) {
                    return Err(PublishError::UnknownNamespace);
                }
                self.admit_unpublished(maker)?;
                let made = self.create(name.clone(), self.home(name.as_str()), unix_ms(), Some(maker));
                Ok(f(&mut entry.insert(made)))
            }
        }
    }

    /// The class of a topic's namespace.
    pub fn class_of(&self, topic: &str) -> Class {
        self.config.namespace(namespace_of(topic)).class
    }

    /// Whether deltas of a topic may be replaced by newer state.
    pub fn is_conflatable(&self, topic: &str) -> bool {
        self.class_of(topic).conflatable()
    }

    /// Whether a topic's saved state stands for what `source` has of it up to where states were saved.
    pub fn is_by_state(&self, source: SourceId, topic: &str) -> bool {
        self.is_conflatable(topic) && !self.is_reclassed(source, topic)
    }

    /// Whether states of `source` were saved while their namespaces had other classes: it is to be read from its
    /// first entry.
    pub fn has_reclassed(&self, source: SourceId) -> bool {
        self.source(source).is_some_and(|source| !source.reclassed().is_empty())
    }

    fn is_reclassed(&self, source: SourceId, topic: &str) -> bool {
        self.source(source).is_some_and(|source| source.reclassed().contains(self.configured(topic)))
    }

    /// The namespace that a topic has its options from; empty for the default.
    fn configured<'a>(&self, topic: &'a str) -> &'a str {
        namespace_of(topic).filter(|namespace| self.namespaces.contains_key(*namespace)).unwrap_or_default()
    }

    /// Deltas of `source` that came after `after` may be missing here, whatever their topics: states are in doubt until they
    /// are published whole, and no history reaches across.
    pub fn doubt(&self, source: SourceId, after: Offset) {
        let Some(state) = self.source(source) else { return };
        state.gaps.open();
        state.restores_doubt.store(true, Ordering::Release);
        self.lose_history(source, after, |_, _| true);
        self.doubt_misplaced(source);
    }

    /// Deltas of `source` were missed, and it is about to be loaded again: what other sources have of topics that belong in it may not
    /// be the newest.
    pub fn open_gap(&self, source: SourceId) {
        let Some(state) = self.source(source) else { return };
        state.gaps.open();
        self.doubt_misplaced(source);
    }

    /// Deltas of `source` up to `after` are gone, and of each topic a newer one is there: only states of patches are in doubt.
    /// What of topics that are not known here had come by `until_ms`, the source's time, may not be their first.
    pub fn doubt_patches(&self, source: SourceId, after: Offset, until_ms: u64) {
        let Some(state) = self.source(source) else { return };
        state.gaps.expire(until_ms);
        self.lose_history(source, after, |_, class| class == Class::Merge);
    }

    /// Deltas of `source` up to `after` are gone, and saved states tell what they came to: no history reaches across.
    /// Topics whose states were saved with another class are in doubt.
    pub fn forget_history(&self, source: SourceId, after: Offset) {
        let state = self.source(source).filter(|state| !state.reclassed().is_empty());
        if let Some(state) = state {
            state.gaps.widen(state.saved_upto_ms.load(Ordering::Acquire));
        }
        self.lose_history(source, after, |name, _| state.is_some() && self.is_reclassed(source, name));
    }

    fn lose_history(&self, source: SourceId, after: Offset, doubts: impl Fn(&str, Class) -> bool) {
        let Some(state) = self.source(source) else { return };
        state.whole.store(false, Ordering::Release);
        state.floor.fetch_max(after.get(), Ordering::AcqRel);
        let silent = state.loading.load(Ordering::Acquire);
        for mut topic in self.map.iter_mut().filter(|topic| topic.source == source) {
            // What rests on a later snapshot is known.
            let doubted = doubts(topic.name.as_str(), topic.options.class) && topic.base <= after && topic.doubt();
            let may_exist = !topic.known && self.may_exist(source, &topic.name);
            topic.may_exist(may_exist);
            topic.lose_history(after);
            // Subscribers of a value get the next one, which is whole.
            if !silent && (doubted || !topic.known || topic.options.class == Class::Stream) {
                self.tell_state(&mut topic);
            }
        }
    }

    /// What was missed of `source` last, it had taken in by then: Unix ms of its clock. Topics that had no delta since end in
    /// their time, and what begins after that is whole.
    pub fn missed_until(&self, source: SourceId, until_ms: u64) {
        if let Some(state) = self.source(source) {
            state.gaps.ended_at(until_ms);
        }
    }

    /// States that are put back of `source` have all that it took in up to `upto_ms`, Unix ms of its clock.
    pub fn saved_upto(&self, source: SourceId, upto_ms: u64) {
        if let Some(source) = self.source(source) {
            source.saved_upto_ms.store(upto_ms, Ordering::Release);
        }
    }

    /// The node that saved last had missed deltas: states that it did not know may be out of date.
    pub fn saved_after_a_hole(&self, source: SourceId, hole: SavedHole) {
        if let Some(state) = self.source(source) {
            state.hole().clone_from(&hole.name);
            *state.saved_hole.lock().unwrap_or_else(PoisonError::into_inner) = Some(hole);
        }
    }

    /// Deltas of `source` were missed, whatever their topics: the hole gets a name, and all states
    /// are saved again with it, so that nodes that start later can tell which states were known
    /// after the hole.
    pub fn name_hole(&self, source: SourceId) {
        if let Some(state) = self.source(source) {
            *state.hole() = Some(Epoch::random());
            self.mark_all_unsaved(source);
        }
    }

    /// The name of the hole after which states of `source` are saved, if something was missed that may matter still.
    pub fn hole(&self, source: SourceId) -> Option<Epoch> {
        let state = self.source(source).filter(|state| !state.gaps.is_none())?;
        state.hole().clone()
    }

    /// That time, if something was missed that may matter still; the maximum if it is not known.
    pub fn missed(&self, source: SourceId) -> Option<u64> {
        let gaps = &self.source(source)?.gaps;
        (!gaps.is_none()).then(|| gaps.until_ms().unwrap_or(u64::MAX))
    }

    /// Up to when topics of `source` were ended here for want of deltas, Unix ms of its clock.
    pub fn expired_ms(&self, source: SourceId) -> u64 {
        self.source(source).map_or(0, |source| source.gaps.expired_ms())
    }

    /// Another node did that, and removed what was saved of them: what comes with an earlier time may go on with one.
    pub fn expired_elsewhere(&self, source: SourceId, until_ms: u64) {
        if let Some(state) = self.source(source) {
            state.gaps.expire(until_ms);
        }
    }

    /// How long topics of `source` live here, by namespace.
    pub fn lifetimes(&self, source: SourceId) -> Vec<Lifetime> {
        let of = |(name, options): (&str, &Namespace)| Lifetime {
            namespace: hash_of(name),
            expire_ms: millis(options.expire_after),
            ended_ms: self.source(source).map_or(0, |state| state.gaps.ended_sooner_ms(Some(name))),
        };
        self.configured_namespaces().map(of).collect()
    }

    /// What was saved of `source` is of a node on which topics live so long, and some were ended by `expired_ms`: those that
    /// live longer here may be there still.
    pub fn ended_sooner(&self, source: SourceId, saved: &[Lifetime], expired_ms: u64) {
        let Some(state) = self.source(source) else { return };
        let find = |name: &str| saved.iter().find(|lifetime| lifetime.namespace == hash_of(name));
        let ended = |(name, options): (&str, &Namespace)| {
            let Some(lifetime) = find(name).or_else(|| find("")) else { return (name.to_owned(), 0) };
            let (own_ms, saved_ms) = (millis(options.expire_after), lifetime.expire_ms);
            let lives_longer = saved_ms > 0 && (own_ms == 0 || own_ms > saved_ms);
            let ended_ms = if lives_longer { expired_ms.saturating_sub(saved_ms) } else { 0 };
            (name.to_owned(), ended_ms.max(lifetime.ended_ms))
        };
        let ended: HashMap<String, u64> = self.configured_namespaces().map(ended).collect();
        if ended.values().any(|ended_ms| *ended_ms > 0) {
            state.gaps.set_ended_sooner(ended);
        }
    }

    /// All namespaces, and the default with an empty name.
    fn configured_namespaces(&self) -> impl Iterator<Item = (&str, &Namespace)> {
        let named = self.namespaces.iter().map(|(name, options)| (name.as_str(), &**options));
        named.chain([("", &*self.default)])
    }

    /// What the deltas of a topic are made of.
    pub fn payload_form(&self, topic: &str) -> PayloadForm {
        self.config.namespace(crate::name::namespace_of(topic)).payload
    }

    /// Takes a delta in: state, history, and on to every shard with a subscriber.
    ///
    /// # Errors
    /// Why it was refused; the topic is as it was.
    pub fn publish(&self, incoming: Incoming<'_>) -> Result<Published, PublishError> {
        if incoming.kind == Kind::HistoryRemoval {
            return self.remove_history(incoming.topic, incoming.offset, incoming.source);
        }
        let (name, source, offset, at_ms) = (incoming.topic, incoming.source, incoming.offset, incoming.at_ms);
        let may_make_room = self.len() >= self.config.limits.topics && self.is_loading(source);
        let again = may_make_room.then(|| incoming.clone());
        let mut result = self.take_in(incoming, false);
        if let (Err(PublishError::TooManyTopics { .. }), Some(again), Some(at_ms)) = (&result, again, at_ms)
            && self.make_room(source, at_ms)
        {
            result = self.take_in(again, false);
        }
        match &result {
            Ok(published) if published.new => {
                self.metrics.deltas.inc();
            }
            Ok(_) => {
                self.metrics.deltas_duplicate.inc();
            }
            Err(error) => {
                self.metrics.refused_delta(error.label());
                if matches!(error, PublishError::TooManyTopics { .. } | PublishError::StateTotal { .. }) {
                    self.miss(name, source, offset, at_ms.unwrap_or_else(unix_ms));
                }
            }
        }
        result
    }

    /// A state that was saved of a topic cannot be put back.
    pub fn miss_saved(&self, source: SourceId, name: &str, at_ms: u64) {
        self.miss(name, source, None, at_ms);
    }

    /// A topic's saved state is of another class than its namespace has now. Nothing is missed if the source is read
    /// from the first entry that it ever had. Tells whether it is the first such state of its namespace.
    pub fn miss_class(&self, source: SourceId, name: &str, at_ms: u64) -> bool {
        let Some(state) = self.source(source) else { return false };
        if !state.whole.load(Ordering::Acquire) {
            self.miss(name, source, None, at_ms);
        }
        state.finds_reclassed.store(true, Ordering::Release);
        state.reclassed().insert(self.configured(name).to_owned())
    }

    /// A delta of another process's source found no room here, or a saved state (`None`) could not be put back: the
    /// topic's state lacks it, and no history reaches across it.
    fn miss(&self, name: &str, source: SourceId, offset: Option<Offset>, at_ms: u64) {
        let Some(state) = self.source(source).filter(|_| source != self.local()) else { return };
        let mut topic = self.map.get_mut(name);
        if let Some(topic) = topic.as_mut().filter(|topic| topic.known) {
            let silent = self.is_loading(topic.source);
            self.doubt_one(topic, silent);
            if topic.source == source {
                return;
            }
        }
        state.gaps.miss(name, at_ms);
        let is_crowded = offset.is_some_and(|offset| !state.refuse(name, offset));
        // What this node counts itself is nowhere else: its publisher knows.
        let is_read = offset.is_some();
        let offset = offset.filter(|_| !self.is_conflatable(name));
        if let Some(offset) = offset {
            // Which topics were refused is not remembered: whatever begins later has no history from before.
            state.whole.store(false, Ordering::Release);
            state.floor.fetch_max(offset.get(), Ordering::AcqRel);
            if let Some(mark) = state.marks().get_mut(name) {
                (mark.offset, mark.at_ms) = (mark.offset.max(offset), mark.at_ms.max(at_ms));
                mark.incomplete = true;
            }
        }
        if let Some(topic) = topic.as_mut().filter(|topic| !topic.known && is_read) {
            let offset = offset.filter(|_| topic.source == source);
            if topic.leave_out(offset) && !self.is_loading(source) {
                self.tell_state(topic);
            }
        }
        drop(topic);
        if is_crowded {
            // Which states are out of date is not remembered: all that are not, are saved again.
            self.name_hole(source);
        }
    }

    /// Topics that had a delta for which there was no room, and its offset, since this was last
    /// asked: saved states of them from before it are out of date.
    pub fn take_refused(&self, source: SourceId) -> Vec<(TopicName, Offset)> {
        let Some(state) = self.source(source) else { return Vec::new() };
        std::mem::take(&mut *state.refused()).into_iter().collect()
    }

    /// Another node, which had room for these deltas, has saved what they came to up to this offset.
    pub fn forget_refused(&self, source: SourceId, upto: Offset) {
        if let Some(state) = self.source(source) {
            state.refused().retain(|_, offset| *offset > upto);
        }
    }

    /// What was taken could not be marked: it is to be taken again.
    pub fn put_back_refused(&self, source: SourceId, refused: &[(TopicName, Offset)]) {
        let Some(state) = self.source(source) else { return };
        if !refused.iter().all(|(name, offset)| state.refuse(name.as_str(), *offset)) {
            self.name_hole(source);
        }
    }

    /// With `is_mark` it is from before what is read, and nothing but where it lies is known of it.
    fn take_in(&self, incoming: Incoming<'_>, is_mark: bool) -> Result<Published, PublishError> {
        let now_ms = unix_ms();
        let Incoming { topic, kind, ts, at_ms, payload, offset, source, home, is_relayed } = incoming;
        let when = When { at_ms: at_ms.unwrap_or(now_ms), now_ms };
        let name = topic;
        if source != self.local() && is_in_namespace(topic, OPS) {
            return Err(PublishError::Reserved);
        }
        let silent = self.is_loading(source);
        // Where this process itself counts, nothing comes late.
        let first_ms = if offset.is_some() { when.at_ms } else { u64::MAX };
        let mut followed = None;
        let mut ended = false;
        // A deletion makes no topic. What it ends in other sources, it ends whether there is room or not.
        let begins = kind != Kind::Deletion;
        let outcome = self.published(topic, (source, when.at_ms), begins, |topic| {
            // What another source's offsets begin after says nothing of this one's.
            let (was_known, floor) = (topic.known, if topic.source == source { topic.offset } else { Offset::ZERO });
            if let Some(offset) = offset.filter(|_| is_mark && !topic.known) {
                topic.offset = floor.min(before(offset));
            }
            let comes = kind == Kind::Move && topic.source != source;
            let verdict = self.judge(topic, kind, source, offset, home);
            let mut is_back = false;
            let moved_at = match verdict {
                Verdict::Counts(moved_at) => moved_at,
                Verdict::Past => {
                    return Ok(Published { offset: topic.offset, epoch: topic.epoch.clone(), new: false });
                }
                Verdict::WrongSource => return Err(PublishError::WrongPartition),
            };
            if topic.source != source {
                // It was moved to where it was, and has come back by another move.
                let moved_at = topic.moved_at;
                let back = home.filter(|home| topic.is_moved() && home.since > moved_at);
                if back.is_some() {
                    topic.moved_at = Offset::ZERO;
                }
                let changed = self.change_source(topic, kind, &payload, (offset, when.at_ms), source, silent);
                if let Some(home) = back {
                    topic.moved_at = if changed.is_ok() { home.since } else { moved_at };
                }
                changed?;
            } else if let Some(home) = home.filter(|_| topic.known) {
                if home.is_back && topic.offset < home.since && kind != Kind::Move {
                    // What is here is from before it left, and with a state it would have come back by a move.
                    topic.admits(kind, &payload, true)?;
                    self.end_by_age(topic, silent);
                    is_back = true;
                }
                topic.moved_at = topic.moved_at.max(home.since);
            }
            if offset.is_some_and(|offset| offset <= topic.offset) {
                return Ok(Published { offset: topic.offset, epoch: topic.epoch.clone(), new: false });
            }
            let offset = offset.unwrap_or_else(|| topic.offset.next());
            let is_over = self.is_over(topic, when.at_ms, false);
            if is_over {
                topic.admits(kind, &payload, true)?;
                // The topic's next life is where the topic was moved to.
                let moved_at = topic.moved_at;
                self.end_by_age(topic, silent);
                topic.moved_at = moved_at;
            }
            match (kind, topic.options.class) {
                (Kind::Deletion, _) => {
                    ended = was_known;
                    self.note_deletion(topic, source, offset, when.at_ms);
                    if ended {
                        self.end(topic, offset, silent);
                    } else {
                        topic.offset = floor.max(topic.offset);
                    }
                    if let Some(source) = self.source(source) {
                        source.gaps.delete(&topic.name, when.at_ms);
                        source.forget_mark(&topic.name, offset);
                    }
                    self.look_at_home(topic, source);
                    return Ok(Published { offset, epoch: topic.epoch.clone(), new: ended });
                }
                (Kind::Move, Class::Stream) => {
                    topic.begin_empty(offset, when.at_ms);
                    self.move_here(topic, offset);
                    topic.unsaved = true;
                    self.names.insert(&topic.name, topic.options.allow_user_limited_channels);
                    // It may come back to where it is thought to be still.
                    if !silent {
                        self.tell_state(topic);
                    }
                    return Ok(Published { offset, epoch: topic.epoch.clone(), new: true });
                }
                _ => {}
            }
            let (before, known) = (topic.offset, topic.known);
            let tells_state = comes || topic.left_out;
            let (kind, moves) = if kind == Kind::Move { (Kind::Snapshot, true) } else { (kind, false) };
            // A delta that was relayed late makes no topic older than a later one has made it.
            let at_ms = if is_relayed && known { when.at_ms.max(topic.active_ms) } else { when.at_ms };
            let when = When { at_ms, ..when };
            // What is loaded in silence goes nowhere.
            let trace = if silent { None } else { self.sampler.pick(&topic.name, offset) };
            let delta = topic.publish(kind, ts, payload, offset, when, trace).inspect_err(|error| {
                if matches!(error, PublishError::StateTotal { .. }) {
                    self.metrics.state_refused.inc();
                }
            })?;
            if moves {
                self.move_here(topic, offset);
            }
            if kind == Kind::Snapshot {
                self.release_strays(topic);
            }
            if !known {
                let deletion = self.deletion_elsewhere(topic, source, when.at_ms);
                topic.moved_at = topic.moved_at.max(moved_at).max(home.map_or(Offset::ZERO, |home| home.since));
                // Of a topic that was there before, deltas may have come that are not known here.
                if kind == Kind::Delta && !is_over && topic.options.class == Class::Merge {
                    let gaps = self.source(source).map(|source| &source.gaps);
                    // Where it belongs there may be more of it.
                    let home = self.home(topic.name.as_str());
                    let is_misplaced = home != source && source != self.local();
                    let home = self.source(home).filter(|_| is_misplaced);
                    // No topic is ended for want of deltas while such wait to be relayed.
                    let is_first = |gaps: &Gaps| match is_relayed {
                        true => gaps.has_missed_none(&topic.name, &topic.options, first_ms),
                        false => gaps.is_first(&topic.name, &topic.options, first_ms),
                    };
                    // So may others that have had topics in common with its source. What they had before a deletion here
                    // does not count; what they have after it is noticed when it is read.
                    let deleted_ms = self.deleted_ms(&topic.name, source);
                    let is_over_there = |other: &SourceState| {
                        deleted_ms.is_some_and(|at_ms| other.is_unread() || other.gaps.last_ms(0) < at_ms)
                    };
                    let related = self.related(source).into_iter().filter_map(|other| self.source(other));
                    let is_in_doubt = is_back
                        || home.is_some_and(|home| !is_first(&home.gaps))
                        || related.into_iter().any(|other| !is_over_there(other) && !is_first(&other.gaps))
                        || !gaps.is_some_and(is_first);
                    let is_unread = home.is_some_and(SourceState::is_unread);
                    topic.incomplete = is_in_doubt || is_unread;
                    topic.awaits_home = !is_in_doubt && is_unread;
                    // For who has not read a deletion elsewhere, what was here goes on.
                    if let Some((stray, true)) = deletion {
                        topic.incomplete = true;
                        self.note_stray(topic, stray);
                    }
                }
                self.rest_on_deletion(topic, source);
                if let Some((stray, _)) = deletion {
                    topic.is_elsewhere = true;
                    if topic.strays.is_empty() {
                        self.end_stray(&topic.name, &stray);
                    }
                }
                self.names.insert(&topic.name, topic.options.allow_user_limited_channels);
            }
            let applied_us = delta.trace.as_ref().map(|trace| trace.us());
            // What is loaded silently tells nobody that the topic is back: the next sweep does.
            let back = !silent && !moves && !is_relayed && std::mem::take(&mut topic.stale);
            if is_relayed && !silent {
                let ahead_ms = self.source(source).map_or(0, |source| source.ahead_ms.load(Ordering::Relaxed));
                self.look_at_age(topic, when.now_ms.saturating_add_signed(ahead_ms));
            }
            let lacks = !topic.incomplete && self.may_lack_newer(topic, when.at_ms) && topic.doubt();
            if lacks {
                topic.awaits_home = self.is_home_unread(topic);
            }
            // Clients take a value or a snapshot for whole: one that may not be is told as the state.
            if (tells_state || lacks) && !silent {
                if back && lacks {
                    self.each_interest(topic, |shard, slot| self.outlet.stale(shard, slot, &topic.name, None));
                }
                self.tell_state(topic);
            } else if !silent {
                for interest in &topic.interest {
                    for encoding in Encoding::ALL.into_iter().filter(|e| interest.encodings & e.bit() != 0) {
                        delta.encode(encoding);
                    }
                    if back {
                        self.outlet.stale(interest.shard, interest.slot, &topic.name, None);
                    }
                    self.outlet.delta(interest.shard, interest.slot, &delta);
                }
            }
            if !known && topic.incomplete && !lacks && !silent {
                self.tell_state(topic);
            }
            self.evicted(topic.settle_delta(before));
            // A backfill may bring what has ended long ago.
            if !silent && over(&topic.options, when.at_ms, when.now_ms, true) {
                let state = self.source(source);
                let read_ms = state.map_or(0, |state| state.read_upto_ms.load(Ordering::Relaxed)).min(when.now_ms);
                ended |= !topic.incomplete && self.end_if_over(topic, read_ms, false);
            }
            if let (Some(trace), Some(applied_us)) = (&delta.trace, applied_us) {
                let encodings = topic.interest.iter().fold(0, |all, interest| all | interest.encodings).count_ones();
                let (queued_us, shards) = (trace.us(), topic.interest.len());
                followed = Some((delta.clone(), Passage { applied_us, queued_us, shards, encodings }));
            }
            Ok(Published { offset, epoch: topic.epoch.clone(), new: true })
        });
        if ended && let Ok(name) = TopicName::new(name) {
            self.remove_if(&name, |topic| topic.interest.is_empty() && !topic.known);
        }
        // Not with the topic locked: to write a line takes longer than all the rest.
        if let Some((delta, passage)) = &followed
            && let Some(trace) = &delta.trace
        {
            log_published(delta, trace, source.0, passage);
        }
        outcome
    }

    /// A delta of a topic has come from another source than the one before. The newest is where the topic is, by the sources'
    /// own order, whichever is read first; one that was moved stays. A `merge` topic's state is in doubt then, until there is
    /// a snapshot: what its deltas in two partitions come to depends on which is read first. That is to be saved beside both.
    fn change_source(
        &self,
        topic: &mut Topic,
        kind: Kind,
        payload: &Payload,
        (offset, at_ms): (Option<Offset>, u64),
        source: SourceId,
        silent: bool,
    ) -> Result<(), PublishError> {
        let floor = Floor::from(offset.map_or(Offset::ZERO, before));
        let epoch = self.epoch(source);
        if !topic.known {
            topic.admits(kind, payload, false)?;
            topic.reset(source, epoch, floor);
            topic.set_loads(silent);
            self.look_at_home(topic, source);
            if !silent && self.partitions() > 1 {
                // Tell subscribers the epoch of the deltas to come.
                self.tell_state(topic);
            }
            return Ok(());
        }
        let is_patch = kind == Kind::Delta && topic.options.class == Class::Merge;
        // Of two with one offset the later partition's counts, whichever is read first.
        let is_later = source.0 > topic.source.0;
        let is_older = offset.is_some_and(|offset| offset < topic.offset || offset == topic.offset && !is_later);
        if kind != Kind::Move && (topic.is_moved() || is_older) {
            let is_missing = topic.options.class == Class::Merge
                && !topic.is_moved()
                && offset.is_none_or(|offset| (offset, source) > (topic.base, topic.source))
                && !self.is_deleted(topic, source, offset);
            if is_missing {
                if let Some(offset) = offset {
                    let is_deletion = kind == Kind::Deletion;
                    self.note_stray(topic, Stray { source, offset, at_ms, is_deletion });
                }
                self.doubt_one(topic, self.is_loading(topic.source));
            }
            // It is to be saved what the state rests on.
            topic.unsaved |= !topic.is_elsewhere && topic.options.class == Class::Merge;
            topic.is_elsewhere = true;
            return Err(PublishError::WrongPartition);
        }
        topic.admits(kind, payload, false)?;
        match kind {
            _ if is_patch => {
                let left = topic.as_stray();
                if let Some(stray) = topic.strays.forget(source) {
                    self.end_stray(&topic.name, &stray);
                }
                topic.go_on_in(source, epoch, floor);
                topic.incomplete = true;
                self.note_stray(topic, left);
            }
            Kind::Delta | Kind::HistoryRemoval if topic.options.class.conflatable() => {
                // What was saved beside the other stream is not to come back.
                self.note_end_elsewhere(topic.source, &topic.name, topic.offset);
                topic.go_on_in(source, epoch, floor);
            }
            _ => {
                self.note_end_elsewhere(topic.source, &topic.name, topic.offset);
                self.release_strays(topic);
                self.names.remove(&topic.name);
                topic.reset(source, epoch, floor);
            }
        }
        topic.is_elsewhere = true;
        topic.set_loads(silent);
        self.metrics.topics_moved.inc();
        // With a move comes the state, and with a deletion that there is none.
        if !silent && !matches!(kind, Kind::Move | Kind::Deletion) {
            self.tell_state(topic);
        }
        Ok(())
    }

    /// What an entry comes to by the moves and deletions of its topic in other sources, whichever is read first.
    fn judge(
        &self,
        topic: &Topic,
        kind: Kind,
        source: SourceId,
        offset: Option<Offset>,
        home: Option<Home>,
    ) -> Verdict {
        let counts = Verdict::Counts(Offset::ZERO);
        let Some(offset) = offset.filter(|_| self.partitions() > 1) else { return counts };
        if topic.known {
            if topic.source != source && kind != Kind::Move && !topic.is_moved() {
                self.relate(source, topic.source);
            }
            let is_past = topic.source != source && (topic.moved_at, topic.source) > (offset, source);
            return if is_past && topic.is_moved() { Verdict::Past } else { counts };
        }
        self.judge_deleted(topic, kind, offset, source, home)
    }

    /// What an entry comes to whose topic is not there.
    fn judge_deleted(
        &self,
        topic: &Topic,
        kind: Kind,
        offset: Offset,
        source: SourceId,
        home: Option<Home>,
    ) -> Verdict {
        let mut deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = deleted.judge(&topic.name, kind, offset, source, home);
        if let Some(deletion) = deleted.of(&topic.name).filter(|deletion| deletion.source != source) {
            self.relate(source, deletion.source);
        }
        // More than one source has the topic: who saves must not forget that it ended.
        let stray = if verdict == Verdict::WrongSource { deleted.claim_mark(&topic.name, false) } else { None };
        drop(deleted);
        if let Some(stray) = stray {
            self.note_mark(stray.source, stray.mark(&topic.name));
        }
        verdict
    }

    /// Two sources have entries of one topic, so that each one's topics depend on what the other holds.
    pub fn relate(&self, one: SourceId, other: SourceId) {
        for (at, with) in [(one, other), (other, one)] {
            if let Some(source) = self.source(at).filter(|_| at != self.local() && with != self.local()) {
                source.related.add(with);
            }
        }
    }

    /// The other sources that share topics with `source`: if the contents of one of them are replaced, what is known of this one no
    /// longer counts.
    pub fn related(&self, source: SourceId) -> Vec<SourceId> {
        let all = self.source(source).map_or_else(Vec::new, |source| source.related.all(self.partitions()));
        all.into_iter().filter(|other| *other != source).collect()
    }

    /// Whether it is known in which epoch a source is.
    pub fn has_begun(&self, source: SourceId) -> bool {
        self.source(source).is_some_and(|source| source.has_begun.load(Ordering::Acquire))
    }

    /// Saved states of another source depend on what `source` had in `epoch`: if `source` turns out to be in another epoch once it
    /// is loaded, those that share topics with it are loaded again.
    pub fn assume_epoch(&self, source: SourceId, epoch: Epoch) {
        let Some(state) = self.source(source).filter(|state| !state.has_begun.load(Ordering::Acquire)) else { return };
        let mut assumed = state.assumed.lock().unwrap_or_else(PoisonError::into_inner);
        if !assumed.contains(&epoch) {
            assumed.push(epoch);
        }
    }

    /// Whether `source` is to be loaded again, in the same epoch, because the contents of a source that shares topics with it were
    /// replaced.
    pub fn needs_reload(&self, source: SourceId) -> bool {
        self.source(source).is_some_and(|source| source.needs_reload.load(Ordering::Acquire))
    }

    /// The newest deletion of a topic, if it lies in another source than `source`, and whether what that one has from before it
    /// goes on at `at_ms` for who has not read the deletion.
    fn deletion_elsewhere(&self, topic: &Topic, source: SourceId, at_ms: u64) -> Option<(Stray, bool)> {
        if self.partitions() < 2 {
            return None;
        }
        let deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        let deletion = deleted.of(&topic.name).filter(|deletion| deletion.source != source)?;
        Some((deletion.stray(), deletion.is_elsewhere && at_ms <= deletion.until_ms))
    }

    /// When a topic that is not known was deleted in `source`, Unix ms, if it was.
    fn deleted_ms(&self, name: &TopicName, source: SourceId) -> Option<u64> {
        let deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        deleted.of(name).filter(|deletion| deletion.source == source).map(|deletion| deletion.at_ms)
    }

    /// A topic's life begins after a deletion in its own source: whatever others have from before that matters no more.
    fn rest_on_deletion(&self, topic: &mut Topic, source: SourceId) {
        if self.partitions() < 2 {
            return;
        }
        let deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(deletion) = deleted.of(&topic.name).filter(|deletion| deletion.source == source) {
            topic.base = topic.base.max(deletion.offset);
            topic.is_elsewhere |= deletion.is_elsewhere;
        }
    }

    /// Another source has an entry after the snapshot that a topic's state rests on.
    fn note_stray(&self, topic: &mut Topic, stray: Stray) {
        topic.awaits_home = false;
        if topic.strays.note(stray) {
            topic.settle();
        }
        self.note_mark(stray.source, stray.mark(&topic.name));
    }

    /// A topic has begun anew, or ended: what others have from before it matters no more.
    fn release_strays(&self, topic: &mut Topic) {
        if topic.strays.is_empty() {
            return;
        }
        for stray in topic.strays.take() {
            self.end_stray(&topic.name, &stray);
        }
        topic.settle();
    }

    fn end_stray(&self, name: &TopicName, stray: &Stray) {
        let source = self.source(stray.source).filter(|source| source.is_saved());
        if source.is_some_and(|source| !source.beside().end(name, stray.offset)) {
            self.metrics.misplaced_marks_forgotten.inc();
        }
        if !stray.is_deletion {
            self.note_end_elsewhere(stray.source, name, stray.offset);
        }
    }

    /// It is to be saved beside `source` what it has of a topic that is saved beside another.
    fn note_mark(&self, source: SourceId, mark: Mark) {
        if let Some(source) = self.source(source).filter(|source| source.is_saved()) {
            source.beside().note(mark);
        }
    }

    /// What is to be saved beside `source` of topics that are in others: before it is said how far it was read.
    pub fn unsaved_marks(&self, source: SourceId) -> Vec<Mark> {
        self.source(source).map_or_else(Vec::new, |source| source.beside().unsaved())
    }

    /// These were saved.
    pub fn saved_marks(&self, source: SourceId, marks: &[Mark]) {
        if let Some(source) = self.source(source) {
            source.beside().saved(marks);
        }
    }

    /// Whether marks beside `source` are to be removed.
    pub fn has_marks_over(&self, source: SourceId) -> bool {
        self.source(source).is_some_and(|source| source.beside().has_over())
    }

    /// Marks beside `source` that count no more, up to these offsets.
    pub fn marks_over(&self, source: SourceId) -> Vec<(TopicName, Offset)> {
        self.source(source).map_or_else(Vec::new, |source| source.beside().over())
    }

    /// These were removed.
    pub fn removed_marks(&self, source: SourceId, over: &[(TopicName, Offset)]) {
        if let Some(source) = self.source(source) {
            source.beside().removed(over);
        }
    }

    /// A mark that was saved beside `source`, during a load: of an entry of which nothing is known but where it lies.
    ///
    /// # Errors
    /// If the topic cannot have it.
    pub fn restore_mark(&self, source: SourceId, name: &str, mark: (Offset, u64, bool)) -> Result<(), PublishError> {
        let (offset, at_ms, is_deletion) = mark;
        if !is_deletion && self.config.namespace(namespace_of(name)).class != Class::Merge {
            return Ok(());
        }
        let kind = if is_deletion { Kind::Deletion } else { Kind::Delta };
        let (offset, at_ms) = (Some(offset), Some(at_ms));
        let payload = Payload::new(bytes::Bytes::from_static(b"{}"), 2)?;
        let floor = self.source(source).map(|source| (source, source.floor.load(Ordering::Acquire)));
        let taken = self.take_in(
            Incoming { topic: name, kind, ts: None, at_ms, payload, offset, source, home: None, is_relayed: false },
            true,
        );
        if let Some((source, floor)) = floor {
            // What lies before it, of other topics, is still to be read.
            source.floor.store(floor, Ordering::Release);
        }
        if is_deletion {
            let (name, mut deleted) =
                (TopicName::new(name)?, self.deleted.lock().unwrap_or_else(PoisonError::into_inner));
            deleted.set_elsewhere(&name, source, mark.0);
            drop(deleted);
            // A later life of it, which will end one day.
            if let Some(mut topic) = self.map.get_mut(name.as_str()).filter(|topic| topic.source == source) {
                topic.is_elsewhere = true;
            }
        } else if let Some(mut topic) = self.map.get_mut(name)
            && topic.source == source
            && topic.known
            && topic.offset == mark.0
        {
            self.doubt_one(&mut topic, self.is_loading(source));
        }
        match taken {
            Ok(_) | Err(PublishError::WrongPartition) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether a delta of `source` is from before a deletion in another source, which was read first.
    fn is_deleted(&self, topic: &Topic, source: SourceId, offset: Option<Offset>) -> bool {
        let Some(offset) = offset.filter(|_| self.partitions() > 1) else { return false };
        self.judge_deleted(topic, Kind::Delta, offset, source, None) == Verdict::WrongSource
    }

    /// An entry with `kind=move` was taken in.
    fn move_here(&self, topic: &mut Topic, offset: Offset) {
        topic.moved_at = offset;
        if self.partitions() > 1 {
            let marked = self.deleted.lock().unwrap_or_else(PoisonError::into_inner).remove(&topic.name);
            if let Some(stray) = marked {
                self.end_stray(&topic.name, &stray);
            }
        }
    }

    /// When what had its last delta at `at_ms` has ended.
    fn until_ms(topic: &Topic, at_ms: u64) -> u64 {
        let after_ms = u64::try_from(topic.options.expire_after.as_millis()).unwrap_or(u64::MAX);
        if after_ms == 0 { u64::MAX } else { at_ms.saturating_add(after_ms) }
    }

    fn note_deletion(&self, topic: &Topic, source: SourceId, offset: Offset, at_ms: u64) {
        if self.partitions() < 2 || source == self.local() {
            return;
        }
        let until_ms = Self::until_ms(topic, at_ms);
        let home = self.home(topic.name.as_str());
        let is_misplaced = home != source;
        // What belongs there may have been removed from what is saved, for this very deletion.
        let is_unread = is_misplaced && self.source(home).is_some_and(SourceState::is_unread);
        let (moved_at, is_elsewhere) = (topic.moved_at, topic.is_elsewhere || is_unread);
        self.keep_deletion(
            &topic.name,
            Deletion { source, offset, at_ms, moved_at, is_elsewhere, until_ms, is_marked: false },
        );
        let stray = self.deleted.lock().unwrap_or_else(PoisonError::into_inner).claim_mark(&topic.name, is_misplaced);
        if let Some(stray) = stray {
            self.note_mark(stray.source, stray.mark(&topic.name));
        }
    }

    fn keep_deletion(&self, name: &TopicName, deletion: Deletion) {
        let kept = self.deleted.lock().unwrap_or_else(PoisonError::into_inner).insert(name, deletion);
        match kept {
            Ok(Some(over)) => self.end_stray(name, &over),
            Ok(None) => {}
            Err(()) => drop(self.metrics.deletions_forgotten.inc()),
        }
    }

    /// A topic of which more than one source may have entries ended at `end_ms`: what another still has to tell from before then
    /// was none of a new life.
    fn note_expiry(&self, topic: &Topic, end_ms: u64) {
        let is_in_several = topic.is_elsewhere || self.home(topic.name.as_str()) != topic.source;
        if self.partitions() < 2 || !is_in_several || topic.is_moved() {
            return;
        }
        let (source, offset, moved_at) = (topic.source, topic.offset, Offset::ZERO);
        let (at_ms, until_ms) = (end_ms, end_ms);
        self.keep_deletion(
            &topic.name,
            Deletion { source, offset, at_ms, moved_at, is_elsewhere: true, until_ms, is_marked: false },
        );
    }

    /// Deltas of a topic wait in a partition that it leaves, or has left: what is served may lack them, and says so.
    /// What is saved is whole all the same: the topic goes on from there.
    pub fn wait_for_relay(&self, name: &str) {
        self.set_waits(name, Topic::wait);
    }

    /// They have come.
    pub fn end_wait(&self, name: &str) {
        self.set_waits(name, |topic| !self.is_in_unread(topic.source, name) && topic.end_wait());
    }

    fn set_waits(&self, name: &str, change: impl Fn(&mut Topic) -> bool) {
        if let Some(mut topic) = self.map.get_mut(name)
            && change(&mut topic)
            && !self.is_loading(topic.source)
        {
            self.tell_state(&mut topic);
        }
    }

    /// Whether a topic is reported as one whose deltas wait.
    pub fn waits_for_relay(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|topic| topic.waits)
    }

    /// Topics leave `source` as `goes` says, or no longer do.
    pub fn set_leaving(&self, source: SourceId, goes: Option<Goes>) {
        self.relays().set(source, goes);
    }

    /// Topics of `source` belong where `rule` says, also after they have been moved. With `goes_unread` some belong in streams
    /// that are not read here: what is known of them may lack deltas.
    pub fn set_belonging(&self, source: SourceId, rule: Option<Rule>, goes_unread: bool) {
        self.relays().set_rule(source, rule);
        if !goes_unread || self.is_loading(source) {
            // After a load it is looked at again.
            return;
        }
        for mut topic in self.map.iter_mut() {
            let expected = if topic.known { topic.source } else { self.home(topic.name.as_str()) };
            if expected != source || !self.is_in_unread(source, topic.name.as_str()) {
                continue;
            }
            let is_new = if topic.known { topic.lack() } else { !topic.incomplete };
            topic.may_exist(true);
            if is_new {
                self.tell_state(&mut topic);
            }
        }
    }

    /// Whether a topic of `source` belongs in a stream that is not read here.
    fn is_in_unread(&self, source: SourceId, name: &str) -> bool {
        self.relays().trail(source, name).1
    }

    /// `source` has an entry of a topic that belongs in another source: what that one comes to depends on both.
    pub fn relate_home(&self, source: SourceId, name: &str) {
        let home = self.home(name);
        if home != source {
            self.relate(source, home);
        }
    }

    /// A delta was read in `from` that is to be relayed to `to`.
    pub fn left(&self, from: SourceId, to: SourceId, offset: Offset) {
        self.relays().left(from, to, offset);
    }

    /// Deltas of `from` were relayed to `to` up to this offset, and time (Unix ms), that they had there.
    pub fn relayed(&self, from: SourceId, to: SourceId, upto: (Offset, u64)) {
        self.relays().relayed(from, to, upto);
    }

    /// Whether no delta of `from` up to `offset` waits to be relayed to `to`.
    pub fn has_relayed(&self, from: SourceId, to: SourceId, offset: Offset) -> bool {
        self.relays().has_relayed(from, to, offset)
    }

    fn relays(&self) -> impl std::ops::DerefMut<Target = Relays> {
        self.relays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to when all deltas of a topic have come to it from sources that it leaves, or has left.
    fn relayed_upto_ms(&self, name: &str) -> u64 {
        let mut sources = self.sources.iter().take(self.partitions());
        if self.partitions() < 2 {
            return u64::MAX;
        }
        // Whether topics leave it is not known yet.
        if sources.any(|source| !source.has_begun.load(Ordering::Acquire) && source.gaps.is_open()) {
            return 0;
        }
        let read_ms = |source: &SourceState| match source.is_unread() {
            true => 0,
            false => source.read_upto_ms.load(Ordering::Relaxed),
        };
        self.relays().complete_upto_ms(name, |from| self.source(from).map_or(0, read_ms))
    }

    /// A state that was just moved here may lack deltas.
    pub fn doubt_moved(&self, source: SourceId, name: &str) {
        let silent = self.is_loading(source);
        if let Some(mut topic) = self.map.get_mut(name).filter(|topic| topic.source == source && topic.known) {
            self.doubt_one(&mut topic, silent);
        }
    }

    /// Whether a topic is published in `source` now, and whether it was moved there.
    pub fn place_in(&self, source: SourceId, name: &str) -> (bool, bool) {
        let topic = self.map.get(name).filter(|topic| topic.known && topic.source == source);
        topic.map_or((false, false), |topic| (true, topic.is_moved()))
    }

    /// Whether a topic was moved to another source than `source`.
    pub fn is_moved_from(&self, source: SourceId, name: &str) -> bool {
        self.map.get(name).is_some_and(|topic| topic.known && topic.is_moved() && topic.source != source)
    }

    /// Names of published topics and their sources, of those that `wanted` says.
    pub fn names_by(&self, wanted: impl Fn(&str, SourceId) -> bool) -> Vec<(TopicName, SourceId)> {
        let local = self.local();
        let known = self.map.iter().filter(|topic| topic.known && topic.source != local);
        known
            .filter(|topic| wanted(topic.name.as_str(), topic.source))
            .map(|topic| (topic.name.clone(), topic.source))
            .collect()
    }

    /// Whether a source was ever loaded.
    #[cfg(test)]
    pub(crate) fn has_loaded(&self, source: SourceId) -> bool {
        self.source(source).is_some_and(|source| source.has_loaded.load(Ordering::Acquire))
    }

    /// Everything up to `offset` has been read of a source.
    pub fn set_reached(&self, source: SourceId, offset: Offset) {
        if let Some(state) = self.source(source) {
            state.reached.store(offset.get(), Ordering::Release);
        }
    }

    /// The oldest entry that a source holds is from then, Unix ms of its clock; the maximum if it holds none.
    pub fn set_first(&self, source: SourceId, first_ms: u64) {
        if let Some(state) = self.source(source) {
            state.first_ms.store(first_ms, Ordering::Relaxed);
        }
    }

    /// Up to where a source has been read.
    pub fn reached(&self, source: SourceId) -> Offset {
        let reached = self.source(source).map_or(0, |state| state.reached.load(Ordering::Acquire));
        Offset::new(reached).unwrap_or_default()
    }

    /// Whether the stream that a topic belongs in, which is another than it is in, may have had newer entries of it, taken in by
    /// `at_ms` or later, that were missed.
    fn may_lack_newer(&self, topic: &Topic, at_ms: u64) -> bool {
        if self.partitions() < 2 || topic.is_moved() || topic.source == self.local() {
            return false;
        }
        let home = self.home(topic.name.as_str());
        home != topic.source && self.source(home).is_some_and(|home| home.gaps.last_ms(0) >= at_ms)
    }

    /// Whether the stream that a topic belongs in, which is another than it is in, is still to be read.
    fn is_home_unread(&self, topic: &Topic) -> bool {
        let home = self.home(topic.name.as_str());
        home != topic.source && self.source(home).is_some_and(SourceState::is_unread)
    }

    /// A topic that is not there in `source`: where it belongs there may be a newer life of it.
    fn look_at_home(&self, topic: &mut Topic, source: SourceId) {
        if self.partitions() < 2 || topic.known {
            return;
        }
        topic.may_exist(self.home(topic.name.as_str()) != source && self.may_exist(source, &topic.name));
    }

    /// Entries of `source` were missed: topics that belong in it and are in others may have newer ones there.
    fn doubt_misplaced(&self, source: SourceId) {
        if self.partitions() < 2 {
            return;
        }
        for mut topic in self.map.iter_mut().filter(|topic| topic.source != source) {
            if self.home(topic.name.as_str()) != source {
                continue;
            }
            let is_new = match topic.known {
                true => self.may_lack_newer(&topic, topic.active_ms) && topic.doubt(),
                false => !topic.incomplete && self.may_exist(source, &topic.name),
            };
            if is_new {
                topic.may_exist(true);
                if !self.is_loading(topic.source) {
                    self.tell_state(&mut topic);
                }
            }
        }
    }

    /// A state lacks a delta that came in another partition. No state that was saved before makes it whole.
    fn doubt_one(&self, topic: &mut Topic, silent: bool) {
        if !topic.options.class.conflatable() {
            return;
        }
        let is_new = topic.doubt();
        // Nor one that was saved at this very offset.
        topic.lose_history(topic.offset.next());
        if is_new && !silent {
            self.tell_state(topic);
        }
    }

    /// Whether a topic has ended by `at_ms`, by the time of its source. Of one whose state may lack deltas it is not known when
    /// the last came.
    fn is_over(&self, topic: &Topic, at_ms: u64, grace: bool) -> bool {
        topic.is_over(at_ms, grace)
            && (!topic.incomplete
                || self
                    .source(topic.source)
                    .is_some_and(|source| over(&topic.options, source.gaps.last_ms(topic.active_ms), at_ms, grace)))
    }

    /// Gives all subscribers the state as it is now.
    fn tell_state(&self, topic: &mut Topic) {
        topic.break_chain();
        if !topic.interest.is_empty() {
            let snapshot = topic.snapshot();
            self.each_interest(topic, |shard, slot| self.outlet.reset(shard, slot, &snapshot));
        }
    }

    /// A topic's history is gone: whoever comes with a position from before, of where it is or of where it belonged before it
    /// was moved, may have missed deltas.
    fn forget(&self, topic: &Topic) {
        let home = self.home(topic.name.as_str());
        for source in [topic.source, home] {
            if let Some(source) = self.source(source) {
                source.whole.store(false, Ordering::Release);
            }
        }
        if home != topic.source
            && let Some(home) = self.source(home)
        {
            home.forgot_moved.store(true, Ordering::Release);
        }
    }

    /// Ends a topic at `offset`; subscribers are told that it has no state.
    fn end(&self, topic: &mut Topic, offset: Offset, silent: bool) {
        topic.end(offset);
        self.has_ended(topic, offset, silent);
    }

    /// Ends a topic that no entry ends.
    fn end_by_age(&self, topic: &mut Topic, silent: bool) {
        topic.end_by_age();
        self.has_ended(topic, topic.offset, silent);
    }

    fn has_ended(&self, topic: &mut Topic, offset: Offset, silent: bool) {
        self.names.remove(&topic.name);
        self.release_strays(topic);
        topic.stale = false;
        self.forget(topic);
        self.note_end(topic.source, &topic.name, offset);
        self.metrics.topics_expired.inc();
        self.look_at_home(topic, topic.source);
        // Of a `stream` topic too, or its subscribers would take the next delta for a gap.
        if !silent {
            self.tell_state(topic);
        }
    }

    /// Removes a topic's history before `offset`; all of it where the source gives no offsets. What another source says of
    /// a topic counts for nothing: its offsets are others.
    fn remove_history(&self, name: &str, offset: Option<Offset>, source: SourceId) -> Result<Published, PublishError> {
        let nothing = || Published { offset: Offset::ZERO, epoch: self.epoch(source), new: false };
        let Some(mut topic) = self.map.get_mut(name).filter(|topic| topic.source == source || offset.is_none()) else {
            return Ok(nothing());
        };
        let before = offset.unwrap_or_else(|| topic.offset.next());
        topic.remove_history(before);
        Ok(Published { offset: topic.offset, epoch: topic.epoch.clone(), new: false })
    }

    fn evicted(&self, deltas: usize) {
        if deltas > 0 {
            self.metrics.history_evicted.inc_by(deltas as u64);
        }
    }

    fn each_interest(&self, topic: &Topic, mut f: impl FnMut(ShardId, Slot)) {
        for interest in &topic.interest {
            f(interest.shard, interest.slot);
        }
    }

    /// Registers a shard's interest (on behalf of `maker`, if the topic is not there) and hands what the subscriber
    /// gets to `answer`, both before any further delta of the topic can be handed to the shard.
    ///
    /// # Errors
    /// If the topic is not there and would be one too many of those that nobody has published.
    #[allow(clippy::too_many_arguments, reason = "one call site, each named there")]
    pub fn attach(
        &self,
        name: &TopicName,
        shard: ShardId,
        slot: Slot,
        encoding: Encoding,
        since: Option<&Position>,
        history: u32,
        maker: u64,
        answer: impl FnOnce(Attachment),
    ) -> Result<(), PublishError> {
        self.subscribed_to(name, maker, |topic| {
            topic.may_exist(self.may_exist(topic.source, name));
            topic.add_interest(shard, slot, encoding);
            answer(topic.attach(encoding, since, history, self.config.limits.recovery_bytes()));
        })
    }

    /// Whether a client holds more of a topic than this node has read: another node, which is ahead, gave it to it.
    pub fn is_behind(&self, name: &TopicName, position: &Position) -> bool {
        if let Some(topic) = self.map.get(name.as_str()) {
            let upto = topic.offset.max(self.reached(topic.source));
            return topic.epoch == position.epoch && position.offset > upto;
        }
        let home = self.home(name.as_str());
        let floor = self.source(home).map_or(0, |source| source.floor.load(Ordering::Acquire));
        self.epoch(home) == position.epoch && position.offset.get() > floor.max(self.reached(home).get())
    }

    /// Ends a shard's interest in a topic. `done` runs before anything else can be sent about it.
    pub fn detach(&self, name: &TopicName, shard: ShardId, slot: Slot, done: impl FnOnce()) {
        let mut unused = false;
        if let Some(mut topic) = self.map.get_mut(name.as_str()) {
            topic.remove_interest(shard, slot);
            unused = topic.interest.is_empty() && !topic.known;
            done();
        } else {
            done();
        }
        if unused {
            self.remove_if(name, |topic| topic.interest.is_empty() && !topic.known);
        }
    }

    /// `true` if it was removed.
    fn remove_if(&self, name: &TopicName, condition: impl FnOnce(&Topic) -> bool) -> bool {
        let removed = self.map.remove_if(name, |_, topic| {
            let unwanted = condition(topic);
            if unwanted {
                self.names.remove(name);
                if topic.known {
                    self.forget(topic);
                }
            }
            unwanted
        });
        if let Some((_, topic)) = &removed {
            if topic.account.is_published() && !is_own(name) {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
            self.no_longer_unpublished(topic.maker);
            if let Some(source) = self.source(topic.source) {
                source.floor.fetch_max(topic.offset.get(), Ordering::AcqRel);
            }
        }
        removed.is_some()
    }

    /// The topic's state, handed to `answer` in order with its deltas. An unknown topic has `null` for a state.
    pub fn snapshot_for(&self, name: &TopicName, answer: impl FnOnce(Arc<Snapshot>)) {
        match self.map.get_mut(name.as_str()) {
            Some(mut topic) => {
                let may_exist = self.may_exist(topic.source, name);
                topic.may_exist(may_exist);
                answer(topic.snapshot());
            }
            None => answer(self.unknown(name)),
        }
    }

    /// The state of a topic that is not there: `null`, and whether that may be otherwise.
    fn unknown(&self, name: &TopicName) -> Arc<Snapshot> {
        let source = self.home(name.as_str());
        let (options, epoch) = (self.default.clone(), self.epoch(source));
        let account = Account::new(self.sums.clone());
        let mut topic = Topic::new(name.clone(), options, source, epoch, Floor::default(), 0, account);
        topic.may_exist(self.may_exist(source, name));
        topic.snapshot()
    }

    /// The next deltas after `after`, handed to `answer` in order with those that are published; `None` if some of them
    /// are gone.
    pub fn replay_for(&self, name: &TopicName, encoding: Encoding, after: Offset, answer: impl FnOnce(Option<Replay>)) {
        match self.map.get_mut(name.as_str()) {
            Some(mut topic) => answer(topic.replay(encoding, after, self.config.limits.recovery_bytes())),
            None => answer(None),
        }
    }

    /// Some of the topic's past; an unknown topic has none.
    ///
    /// # Errors
    /// If the position asked from is not in the history.
    pub fn history(&self, name: &TopicName, query: &HistoryQuery) -> Result<HistoryPage, Refusal> {
        match self.map.get(name.as_str()) {
            Some(topic) => topic.history(query),
            None => {
                let epoch = self.epoch(self.home(name.as_str()));
                Ok(HistoryPage { offset: Offset::ZERO, epoch, publications: Vec::new() })
            }
        }
    }

    /// Tells subscribers of a join or a leave.
    pub fn announce(&self, name: &TopicName, change: &Arc<MembershipChange>) {
        if let Some(topic) = self.map.get(name.as_str()) {
            self.each_interest(&topic, |shard, slot| self.outlet.membership(shard, slot, change));
        }
    }

    /// Names and interested shards of topics that have subscribers on this node.
    pub fn subscribed(&self) -> Vec<(TopicName, Vec<(ShardId, Slot)>)> {
        let wanted = self.map.iter().filter(|topic| !topic.interest.is_empty());
        wanted.map(|topic| (topic.name.clone(), topic.interest.iter().map(|i| (i.shard, i.slot)).collect())).collect()
    }

    /// The topic as REST shows it; `None` where nothing was ever published. Where that cannot be known, there is a state of
    /// which nothing is known.
    pub fn view(&self, name: &TopicName) -> Option<TopicView> {
        if let Some(mut topic) = self.map.get_mut(name.as_str()).filter(|topic| topic.known) {
            return Some(TopicView { snapshot: topic.snapshot(), active_ms: topic.active_ms, stale: topic.stale });
        }
        if !self.config.knows_namespace(name.namespace()) {
            return None;
        }
        let snapshot = self.unknown(name);
        snapshot.known.may_lack().then_some(TopicView { snapshot, active_ms: 0, stale: false })
    }

    /// The first `max` names of a section that are in a range, in order: those of topics that were published in their
    /// sources' present epochs.
    pub fn names(&self, section: Section<'_>, range: &NameRange, max: usize) -> Vec<TopicName> {
        self.names.page(section, range, max)
    }

    /// Marks topics that went quiet, ends those that had no delta for too long, drops old history, gives back what idle topics
    /// can do without, and cuts the longest histories where all together keep too much. To be called about once a second.
    pub fn sweep(&self) {
        let now_ms = unix_ms();
        let idle_ms = millis(self.config.limits.topic_idle);
        let expiries = self.namespaces.values().chain([&self.default]).map(|options| millis(options.expire_after));
        let longest_ms = expiries.clone().all(|ms| ms > 0).then(|| expiries.max().unwrap_or(0));
        let mut forgotten = Vec::new();
        // By source: its present time, up to when it has been read, and topics whose states are in doubt, or wait.
        let mut sources: Vec<(u64, u64, usize, usize)> = self
            .sources
            .iter()
            .map(|source| {
                let now_ms = now_ms.saturating_add_signed(source.ahead_ms.load(Ordering::Relaxed));
                let loading = source.loading.load(Ordering::Acquire);
                let read_ms = if loading { 0 } else { source.read_upto_ms.load(Ordering::Relaxed).min(now_ms) };
                (now_ms, read_ms, 0, 0)
            })
            .collect();
        self.forget_deletions(&sources);
        let all_read_ms = self.all_read_by(now_ms);
        let mut levels = Levels::new();
        let mut tally = Tally::new();
        for mut topic in self.map.iter_mut() {
            topic.expire_history(now_ms);
            topic.add_level(&mut levels);
            let Some((now_ms, read_ms, doubtful, waiting)) = sources.get_mut(usize::from(topic.source.0)) else {
                continue;
            };
            let quiet_ms = now_ms.saturating_sub(topic.active_ms);
            let upto_ms = if topic.incomplete { all_read_ms } else { *read_ms };
            if self.end_if_over(&mut topic, upto_ms, false) {
                if topic.interest.is_empty() {
                    forgotten.push(topic.name.clone());
                }
                continue;
            }
            *doubtful += usize::from(topic.known && topic.incomplete && topic.options.class.conflatable());
            *waiting += usize::from(topic.waits && !topic.incomplete);
            self.look_at_age(&mut topic, *now_ms);
            if topic.known {
                tally.add(&topic.options, topic.stale, topic.active_ms);
            }
            if topic.interest.is_empty() && quiet_ms > idle_ms && !is_own(&topic.name) {
                if topic.known { topic.park() } else { forgotten.push(topic.name.clone()) }
            }
        }
        for name in forgotten {
            self.remove_if(&name, |topic| topic.interest.is_empty() && !topic.known);
        }
        self.names.settle();
        for (source, (_, read_ms, doubtful, waiting)) in self.sources.iter().zip(sources) {
            source.incomplete.store(doubtful, Ordering::Relaxed);
            source.waiting.store(waiting, Ordering::Relaxed);
            source.gaps.outlive(read_ms, longest_ms);
        }
        *self.freshness.lock().unwrap_or_else(PoisonError::into_inner) = tally.named(&self.namespaces);
        if self.map.len() * 4 < self.map.capacity() && self.map.capacity() > SHRINK_FROM {
            self.map.shrink_to_fit();
        }
        self.cut_to(&levels);
    }

    /// Up to when all sources have been read, Unix ms, `now_ms` at most. Of a topic that may lack deltas some may be in another
    /// source than its own.
    fn all_read_by(&self, now_ms: u64) -> u64 {
        let read_by = |source: &SourceState| match source.is_unread() {
            true => 0,
            false => {
                let now_ms = now_ms.saturating_add_signed(source.ahead_ms.load(Ordering::Relaxed));
                source.read_upto_ms.load(Ordering::Relaxed).min(now_ms)
            }
        };
        self.sources.iter().take(self.partitions()).map(read_by).min().unwrap_or(0)
    }

    /// Ends a topic that had no delta for too long by `upto_ms`; everything up to then has been read. Tells whether it has ended.
    fn end_if_over(&self, topic: &mut Topic, upto_ms: u64, silent: bool) -> bool {
        let is_over = |upto_ms| self.is_over(topic, upto_ms, true);
        if !is_over(upto_ms) || is_own(&topic.name) || !is_over(upto_ms.min(self.relayed_upto_ms(topic.name.as_str())))
        {
            return false;
        }
        if let Some(source) = self.source(topic.source) {
            let last_ms = if topic.incomplete { source.gaps.last_ms(topic.active_ms) } else { topic.active_ms };
            // Before it is noted as ended.
            let end_ms = last_ms.saturating_add(millis(topic.options.expire_after));
            source.gaps.expire(end_ms);
            self.note_expiry(topic, end_ms);
        }
        self.end_by_age(topic, silent);
        true
    }

    /// Marks a topic as stale, or as fresh again, by the time of its source.
    fn look_at_age(&self, topic: &mut Topic, now_ms: u64) {
        let quiet_ms = now_ms.saturating_sub(topic.active_ms);
        let quiet = topic.options.stale_after.is_some_and(|after| quiet_ms > millis(after));
        if topic.known && quiet != topic.stale {
            topic.stale = quiet;
            let since_ms = quiet.then_some(topic.active_ms);
            self.each_interest(topic, |shard, slot| self.outlet.stale(shard, slot, &topic.name, since_ms));
        }
    }

    /// There is no room for another topic while `source` is loaded, and everything up to `upto_ms` has been read of it: ends its
    /// topics that were over by then. A walk over all topics, which is not made again before another can be over. Tells whether
    /// any has ended.
    fn make_room(&self, source: SourceId, upto_ms: u64) -> bool {
        let Some(state) = self.source(source) else { return false };
        if upto_ms <= state.roomless_until_ms.load(Ordering::Acquire) {
            return false;
        }
        let (mut ended, mut next_ms, mut shortest_ms) = (Vec::new(), u64::MAX, u64::MAX);
        // Of one that may lack deltas, newer ones may be in another source.
        let is_told_here = |topic: &Topic| !topic.incomplete || self.partitions() < 2;
        let is_here = |topic: &Topic| topic.source == source && topic.known && is_told_here(topic);
        for mut topic in self.map.iter_mut().filter(|topic| is_here(topic)) {
            let after_ms = millis(topic.options.expire_after);
            if self.end_if_over(&mut topic, upto_ms, true) {
                ended.push(topic.name.clone());
            } else if after_ms > 0 {
                next_ms = next_ms.min(topic.active_ms.saturating_add(after_ms));
                shortest_ms = shortest_ms.min(after_ms);
            }
        }
        // Nor for each that ends one by one.
        let step_ms = shortest_ms / ROOM_STEPS;
        state.roomless_until_ms.store(next_ms.max(upto_ms.saturating_add(step_ms)), Ordering::Release);
        for name in &ended {
            self.remove_if(name, |topic| topic.interest.is_empty() && !topic.known);
        }
        !ended.is_empty()
    }

    /// Deletions that no source can have older deltas for any more.
    fn forget_deletions(&self, sources: &[(u64, u64, usize, usize)]) {
        let times = |(source, read): (&SourceState, &(u64, u64, usize, usize))| {
            let read_ms = if source.has_loaded.load(Ordering::Acquire) { read.1 } else { 0 };
            (read_ms, source.first_ms.load(Ordering::Relaxed))
        };
        let times: Vec<(u64, u64)> = self.sources.iter().zip(sources).take(self.partitions()).map(times).collect();
        let marked = self.deleted.lock().unwrap_or_else(PoisonError::into_inner).forget(&times);
        for (name, stray) in marked {
            self.end_stray(&name, &stray);
        }
    }

    /// Cuts the longest histories now, where all together keep too much. A walk over all topics.
    pub fn cut_history(&self) {
        let mut levels = Levels::new();
        self.map.iter().for_each(|topic| topic.add_level(&mut levels));
        self.cut_to(&levels);
    }

    fn cut_to(&self, levels: &Levels) {
        if let Some(level) = self.sums.set_level(levels) {
            let gone = self.map.iter_mut().map(|mut topic| topic.shrink_history(level)).sum();
            self.evicted(gone);
        }
    }

    /// `source` begins anew in `epoch`, knowing nothing up to `floor`: its topics are emptied and deltas taken in
    /// silence until [`Topics::loaded`]. With `complete`, every topic that it has will be known then; otherwise all of them may
    /// have had deltas that are known to nobody here, those too whose states are put back.
    pub fn load(&self, source: SourceId, epoch: &Epoch, floor: impl Into<Floor>, complete: bool) {
        let Some(state) = self.source(source) else { return };
        let floor = floor.into();
        state.loading.store(true, Ordering::Release);
        state.gaps.reset(complete);
        state.restores_doubt.store(!complete, Ordering::Release);
        state.marks().clear();
        state.finds_reclassed.store(false, Ordering::Release);
        *state.hole() = None;
        *state.saved_hole.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *state.refused() = HashMap::new();
        state.saved_upto_ms.store(0, Ordering::Release);
        state.roomless_until_ms.store(0, Ordering::Release);
        let is_another = self.epoch(source) != *epoch;
        let lost = is_another && self.mark_replaced(source);
        if is_another {
            // In the same one they may be gone from the source, and are as true as before.
            *state.beside() = Marks::default();
            // What ended in the epoch before may not have ended in this one.
            if let Some(ended) = state.ended.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                ended.clear();
            }
            state.has_ended_elsewhere.store(false, Ordering::Release);
            state.has_forgotten_ends.store(false, Ordering::Release);
        }
        state.read_upto_ms.store(0, Ordering::Release);
        state.whole.store(floor.kept_after == Offset::ZERO, Ordering::Release);
        state.floor.store(floor.offset.get(), Ordering::Release);
        state.forgot_moved.store(false, Ordering::Release);
        state.epoch.lock().unwrap_or_else(PoisonError::into_inner).clone_from(epoch);
        state.related.clear();
        state.needs_reload.store(false, Ordering::Release);
        for mut topic in self.map.iter_mut() {
            if topic.source != source {
                if self.needs_reload(topic.source) {
                    // The snapshot that it rests on may have been in the other past.
                    topic.base = Offset::ZERO;
                    if topic.set_loads(true) && topic.options.class.conflatable() {
                        // What subscribers hold is not known to be whole any more.
                        self.tell_state(&mut topic);
                    }
                }
                if is_another && topic.strays.forget(source).is_some() {
                    topic.settle();
                }
                continue;
            }
            if self.fall_back(&mut topic, !is_another) {
                continue;
            }
            if !complete && !is_another && topic.known && self.home(topic.name.as_str()) != source && !topic.is_moved()
            {
                // Where it belongs nothing tells of it: what it was is as true as it was, and may lack what is gone.
                topic.doubt();
                let after = topic.offset.next();
                topic.lose_history(after);
                topic.set_loads(true);
                continue;
            }
            if topic.known {
                self.names.remove(&topic.name);
            }
            let is_elsewhere = topic.is_elsewhere;
            topic.reset(source, epoch.clone(), floor);
            topic.is_elsewhere = is_elsewhere;
            topic.set_loads(true);
        }
        let assumed = std::mem::take(&mut *state.assumed.lock().unwrap_or_else(PoisonError::into_inner));
        if lost || assumed.iter().any(|assumed| assumed != epoch) {
            // Others may have read entries meanwhile that topics of the old past hid from them.
            self.mark_replaced(source);
        }
        if !complete {
            self.doubt_misplaced(source);
        }
    }

    /// The contents of a source were replaced by others: sources that share topics with it need a reload, and until then none of
    /// their states is whole. `false` if nothing of it was read yet.
    pub fn mark_replaced(&self, source: SourceId) -> bool {
        let Some(state) = self.source(source).filter(|_| self.partitions() > 1) else { return false };
        if !state.has_begun.swap(true, Ordering::AcqRel) {
            return false;
        }
        let mut deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        deleted.forget_source(source);
        for (at, other) in (0..).map(SourceId).zip(&self.sources) {
            if at != source && other.related.has(source) {
                deleted.forget_expiries(at);
                // In this order: who reads it again begins with the first, and ends with the second.
                other.loading.store(true, Ordering::Release);
                other.needs_reload.store(true, Ordering::Release);
            }
        }
        true
    }

    /// A topic's source is read anew: if another has entries of it that count, it is there until then. `false` if none has.
    /// With `comes_again` what the source had of it is as true as it was, though it may be gone from there.
    fn fall_back(&self, topic: &mut Topic, comes_again: bool) -> bool {
        let Some(stray) = topic.strays.newest().filter(|_| topic.known) else { return false };
        if stray.is_deletion {
            // What is read again of the topic is to be told by it, as it was before.
            let Stray { source, offset, at_ms, .. } = stray;
            let (until_ms, is_elsewhere, moved_at) = (Self::until_ms(topic, at_ms), true, Offset::ZERO);
            self.keep_deletion(
                &topic.name,
                Deletion { source, offset, at_ms, moved_at, is_elsewhere, until_ms, is_marked: true },
            );
            return false;
        }
        let left = topic.as_stray();
        topic.strays.forget(stray.source);
        topic.go_on_in(stray.source, self.epoch(stray.source), stray.offset.into());
        if comes_again {
            self.note_stray(topic, left);
        }
        (topic.incomplete, topic.unsaved, topic.base) = (true, true, Offset::ZERO);
        let silent = self.is_loading(stray.source);
        topic.set_loads(silent);
        if !silent {
            self.tell_state(topic);
        }
        true
    }

    /// Puts back a topic's saved state during a load. What is not newer than the topic is ignored, and so is what has ended.
    /// With `incomplete`, or where entries after those that were saved are gone, the state may lack deltas. `moved_at` is the
    /// offset of the entry that moved the topic to its source, or 0, and `base` that of the snapshot that the state rests on,
    /// where that is known.
    ///
    /// # Errors
    /// If the state is not one that the topic can have.
    pub fn restore(
        &self,
        incoming: Incoming<'_>,
        (moved_at, base): (Offset, Option<Offset>),
        (incomplete, hole): (bool, Option<&Epoch>),
    ) -> Result<(), PublishError> {
        let now_ms = unix_ms();
        let Incoming { topic, ts, at_ms, payload, offset, source, .. } = incoming;
        let Some(offset) = offset else { return Ok(()) };
        let when = When { at_ms: at_ms.unwrap_or(now_ms), now_ms };
        let Some(state) = self.source(source) else { return Ok(()) };
        // Whoever saved last may have known nothing of a topic that another had saved before the hole.
        let is_of_before = state.is_before_saved_hole(when.at_ms, hole);
        // What this node saves after a hole tells of each state that it was known after it.
        let is_unnamed = state.hole().as_ref().is_some_and(|own| hole != Some(own));
        let in_doubt = incomplete || is_of_before || state.restores_doubt.load(Ordering::Acquire);
        if source != self.local() && is_in_namespace(topic, OPS) {
            return Err(PublishError::Reserved);
        }
        if !in_doubt && self.was_over(state, topic, when.at_ms) {
            self.note_end(source, &TopicName::new(topic)?, offset);
            return Ok(());
        }
        if !self.is_conflatable(topic) {
            let incomplete = incomplete || is_of_before;
            let mark = StreamMark { offset, ts, at_ms: when.at_ms, moved_at, incomplete, is_unnamed };
            let (name, mut marks, max) = (TopicName::new(topic)?, state.marks(), self.config.limits.topics);
            if marks.len() >= max {
                return Err(PublishError::TooManyTopics { max });
            }
            marks.insert(name, mark);
            return Ok(());
        }
        if moved_at == Offset::ZERO {
            self.relate_home(source, topic);
        }
        self.published(topic, (source, when.at_ms), true, |topic| {
            if topic.known && topic.source == source && offset <= topic.offset {
                return Ok(());
            }
            if topic.source != source {
                topic.admits(Kind::Snapshot, &payload, true)?;
            }
            let (place, base_at) = ((offset, source), (base.unwrap_or_default(), source));
            let Some(strays) = self.saved_counts(topic, place, base_at, (moved_at, when.at_ms)) else {
                // Of what is known to be incomplete, this is most.
                return if topic.source != source && topic.is_bare() { topic.adopt(&payload) } else { Ok(()) };
            };
            if topic.source != source {
                self.restore_here(topic, source, before(offset));
            }
            if topic.known && offset <= topic.offset {
                return Ok(());
            }
            topic.restore((offset, base), ts, payload, when)?;
            if topic.known {
                topic.moved_at = moved_at;
                let lacks = in_doubt || !strays.is_empty() || self.may_lack_newer(topic, when.at_ms);
                topic.incomplete = lacks && topic.options.class.conflatable();
                topic.awaits_home = lacks && !in_doubt && strays.is_empty() && self.is_home_unread(topic);
                for stray in strays {
                    topic.is_elsewhere = true;
                    self.note_stray(topic, stray);
                }
                // What is in doubt here was saved as whole.
                topic.unsaved |= topic.incomplete && !incomplete || is_unnamed;
                if topic.incomplete {
                    // What was saved at this offset does not make it whole.
                    topic.lose_history(offset.next());
                }
                self.names.insert(&topic.name, topic.options.allow_user_limited_channels);
            }
            Ok(())
        })
    }

    /// Whether a topic whose state was saved, and whose last delta came at `at_ms`, had ended by the time up to which states were
    /// saved. Where there are several sources, another may have more of it.
    fn was_over(&self, source: &SourceState, topic: &str, at_ms: u64) -> bool {
        let options = namespace_of(topic).and_then(|n| self.namespaces.get(n)).unwrap_or(&self.default);
        let is_over = self.partitions() < 2 && over(options, at_ms, source.saved_upto_ms.load(Ordering::Acquire), true);
        if is_over {
            source.gaps.expire(at_ms.saturating_add(millis(options.expire_after)));
        }
        is_over
    }

    /// Whether what was saved in a source of a topic counts, at this place and resting on a snapshot at `base_at`: not if the
    /// topic was deleted or moved in another source after that, or has newer entries in another source. If it does: entries of
    /// other sources that have no order among what it is made of.
    fn saved_counts(
        &self,
        topic: &mut Topic,
        (offset, source): At,
        base_at: At,
        (moved_at, at_ms): (Offset, u64),
    ) -> Option<Vec<Stray>> {
        let is_moved = moved_at > Offset::ZERO;
        let (kind, from) = if is_moved { (Kind::Move, moved_at) } else { (Kind::Delta, offset) };
        if !topic.known && !matches!(self.judge(topic, kind, source, Some(from), None), Verdict::Counts(_)) {
            self.note_end_elsewhere(source, &topic.name, offset);
            return None;
        }
        let has_patches = topic.options.class == Class::Merge && !topic.is_moved();
        if !topic.known {
            let deletion = self.deletion_elsewhere(topic, source, at_ms).map(|(stray, _)| stray);
            let deletion = deletion.filter(|stray| has_patches && !is_moved && stray.at() > base_at);
            return Some(deletion.into_iter().collect());
        }
        if topic.source != source && !topic.is_moved() && !is_moved {
            self.relate(source, topic.source);
        }
        // One that was moved is where it was moved to last, whatever came late in the other partition.
        let is_there = match topic.is_moved() || is_moved {
            true => (topic.moved_at, topic.source) > (moved_at, source),
            false => (topic.offset, topic.source) > (offset, source),
        };
        if topic.source != source && is_there {
            topic.is_elsewhere = true;
            let is_missing = has_patches && (offset, source) > (topic.base, topic.source);
            if is_missing && !self.is_deleted(topic, source, Some(offset)) {
                self.note_stray(topic, Stray { source, offset, at_ms, is_deletion: false });
                self.doubt_one(topic, self.is_loading(topic.source));
            } else {
                self.note_end_elsewhere(source, &topic.name, offset);
            }
            return None;
        }
        let mut others = topic.strays.take();
        if topic.source != source {
            others.push(topic.as_stray());
        }
        let (mut missing, mut over) = (Vec::new(), Vec::new());
        for stray in others {
            let is_missing = has_patches && !is_moved && stray.source != source && stray.at() > base_at;
            if is_missing { missing.push(stray) } else { over.push(stray) }
        }
        over.iter().for_each(|stray| self.end_stray(&topic.name, stray));
        Some(missing)
    }

    /// A saved state takes a topic from another source to this one.
    fn restore_here(&self, topic: &mut Topic, source: SourceId, floor: Offset) {
        let is_elsewhere = topic.known;
        self.names.remove(&topic.name);
        topic.reset(source, self.epoch(source), floor.into());
        topic.is_elsewhere = is_elsewhere;
        topic.set_loads(self.is_loading(source));
    }

    /// Puts a `stream` topic back of which less is read than there was.
    fn restore_stream(&self, source: SourceId, name: &TopicName, mark: &StreamMark) -> Result<(), PublishError> {
        let Some(state) = self.source(source) else { return Ok(()) };
        // What came after the mark may not be known.
        let in_doubt = state.restores_doubt.load(Ordering::Acquire);
        let floor = match in_doubt {
            true => Offset::new(state.floor.load(Ordering::Acquire)).unwrap_or_default(),
            false => mark.offset,
        };
        self.published(name.as_str(), (source, mark.at_ms), true, |topic| {
            let place = (mark.offset, source);
            if self.saved_counts(topic, place, place, (mark.moved_at, mark.at_ms)).is_none() {
                return Ok(());
            }
            if topic.source != source {
                self.restore_here(topic, source, mark.offset);
            }
            // One of which nothing was read since has come as far as was saved.
            let is_passed = topic.known && topic.incomplete && !in_doubt;
            if !topic.known || topic.offset < mark.offset || is_passed {
                let in_doubt = in_doubt || self.may_lack_newer(topic, mark.at_ms);
                topic.restore_stream(mark, floor, in_doubt);
                self.names.insert(name, topic.options.allow_user_limited_channels);
            }
            topic.moved_at = topic.moved_at.max(mark.moved_at);
            Ok(())
        })
    }

    /// Everything that `source` took in up to `upto_ms`, Unix ms of its clock, has been read; that clock is `ahead_ms` ahead of
    /// this node's.
    pub fn read_upto(&self, source: SourceId, upto_ms: u64, ahead_ms: i64) {
        let Some(state) = self.source(source) else { return };
        state.read_upto_ms.store(upto_ms, Ordering::Relaxed);
        state.ahead_ms.store(ahead_ms, Ordering::Relaxed);
    }

    /// `source` is loaded at `now_ms` of its clock, and topics have left it: none of them is missing before all other sources
    /// have been read up to then.
    pub fn left_by(&self, source: SourceId, now_ms: u64) {
        if let Some(state) = self.source(source) {
            state.left_by_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    fn is_moving_unread(&self) -> bool {
        let is_read = |at: usize, by_ms: u64| {
            let others = self.sources.iter().enumerate().filter(|(other, _)| *other != at);
            others.into_iter().all(|(_, other)| other.read_upto_ms.load(Ordering::Relaxed) >= by_ms)
        };
        let left = self.sources.iter().map(|source| source.left_by_ms.load(Ordering::Relaxed));
        left.enumerate().any(|(at, by_ms)| by_ms > 0 && !is_read(at, by_ms))
    }

    /// Whether `source` may have a topic of this name that is not known here, or not yet.
    fn may_exist(&self, source: SourceId, name: &TopicName) -> bool {
        let Some(source) = self.source(source).filter(|_| !is_own(name)) else { return false };
        let options = name.namespace().and_then(|n| self.namespaces.get(n)).unwrap_or(&self.default);
        let may_have =
            |source: &SourceState| source.gaps.may_have(name, options, source.read_upto_ms.load(Ordering::Relaxed));
        let (trail, is_unread) = self.relays().trail(self.home(name.as_str()), name.as_str());
        // A stream that was not read yet may have what belongs in another.
        is_unread
            || self.sources.iter().any(SourceState::is_unread)
            || self.is_moving_unread()
            || self.may_be_of(name, source).any(may_have)
            || trail.into_iter().filter_map(|source| self.source(source)).any(may_have)
    }

    /// The sources that may have a topic: that in which it was expected, that in which it belongs, and those that have topics in common
    /// with this.
    fn may_be_of<'a>(&'a self, name: &TopicName, expected: &'a SourceState) -> impl Iterator<Item = &'a SourceState> {
        let home = self.source(self.home(name.as_str()));
        let related = home.map_or_else(Vec::new, |home| home.related.all(self.partitions()));
        [Some(expected), home].into_iter().chain(related.into_iter().map(|other| self.source(other))).flatten()
    }

    /// How many topics of `source` have states that may lack deltas, as of the last sweep.
    pub fn incomplete(&self, source: SourceId) -> usize {
        self.source(source).map_or(0, |source| source.incomplete.load(Ordering::Relaxed))
    }

    /// The same of all sources.
    pub fn incomplete_in_all(&self) -> usize {
        let of = |s: &SourceState| s.incomplete.load(Ordering::Relaxed) + s.waiting.load(Ordering::Relaxed);
        self.sources.iter().map(of).sum()
    }

    /// How many sources other than this process there are.
    pub fn partitions(&self) -> usize {
        self.sources.len() - 1
    }

    /// Their names, at most `max` of them behind the first `skip`.
    pub fn incomplete_names(&self, source: SourceId, skip: usize, max: usize) -> Vec<TopicName> {
        let is_doubtful = |topic: &Topic| {
            topic.source == source && topic.known && topic.incomplete && topic.options.class.conflatable()
        };
        let doubtful = self.map.iter().filter(|topic| is_doubtful(topic));
        doubtful.skip(skip).take(max).map(|topic| topic.name.clone()).collect()
    }

    /// Makes a topic's state whole with one that another node has saved, as it was `at` an offset in the present epoch, and the
    /// deltas that came since. It rests on a snapshot at the second offset, where that is known. Everything up to the third has
    /// been read here, but for what is in a hole. `times` are
    /// those of the newest delta in it: its own, and when the source took it in, Unix ms. `false` if that cannot be: some of
    /// the deltas are not kept any more.
    ///
    /// # Errors
    /// If it is no state that the topic can have.
    pub fn complete(
        &self,
        source: SourceId,
        name: &str,
        at: (Offset, Option<Offset>, Offset),
        times: (Option<u64>, Option<u64>),
        payload: Payload,
    ) -> Result<bool, PublishError> {
        let Some(mut topic) = self.map.get_mut(name).filter(|topic| topic.source == source) else { return Ok(false) };
        // What others have of it may not be known.
        if topic.options.class == Class::Merge
            && self.partitions() > 1
            && self.sources.iter().any(SourceState::is_unread)
        {
            return Ok(false);
        }
        // What belongs elsewhere was saved by who had read that, or had missed it; and so were patches elsewhere.
        let base = (at.1.unwrap_or_default(), source);
        let has_stray = topic.strays.newest().is_some_and(|stray| stray.at() > base);
        if has_stray || self.may_lack_newer(&topic, topic.active_ms) {
            return Ok(false);
        }
        let done = topic.complete(at, times, payload)?;
        if done {
            self.release_strays(&mut topic);
            self.tell_state(&mut topic);
        }
        Ok(done)
    }

    /// Topics of `source` that ended since this was last asked, and the offsets they ended at: states of them up to there
    /// that were saved are to be removed. Only where they are [remembered](Topics::remember_ended).
    pub fn take_ended(&self, source: SourceId) -> Vec<(TopicName, Offset)> {
        let Some(source) = self.source(source) else { return Vec::new() };
        let mut ended = source.ended.lock().unwrap_or_else(PoisonError::into_inner);
        source.has_ended_elsewhere.store(false, Ordering::Release);
        ended.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether some of those that were not taken yet ended because of an entry of another source: how far that was read is not to
    /// be saved before.
    pub fn has_ended_elsewhere(&self, source: SourceId) -> bool {
        self.source(source).is_some_and(|source| source.has_ended_elsewhere.load(Ordering::Acquire))
    }

    /// Whether more topics of `source` ended than are remembered: how far it was read is not to be saved any more, as saved
    /// states would count that have ended.
    pub fn has_forgotten_ends(&self, source: SourceId) -> bool {
        self.source(source).is_some_and(|source| source.has_forgotten_ends.load(Ordering::Acquire))
    }

    /// From now on it is remembered which topics of `source` end.
    pub fn remember_ended(&self, source: SourceId) {
        if let Some(source) = self.source(source) {
            source.ended.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default();
        }
    }

    /// A topic has no state in `source` any more, if it is to be remembered.
    fn note_end(&self, source: SourceId, name: &TopicName, offset: Offset) {
        let Some(source) = self.source(source) else { return };
        let mut ended = source.ended.lock().unwrap_or_else(PoisonError::into_inner);
        match ended.as_mut() {
            Some(ended) if ended.len() < ENDED_TOPICS_MAX => ended.push((name.clone(), offset)),
            Some(_) => self.forget_ends(source, 1),
            None => {}
        }
    }

    /// The same, where an entry of another source ended it.
    fn note_end_elsewhere(&self, source: SourceId, name: &TopicName, offset: Offset) {
        self.note_end(source, name, offset);
        if let Some(state) = self.source(source) {
            state.has_ended_elsewhere.store(true, Ordering::Release);
        }
    }

    fn forget_ends(&self, source: &SourceState, count: usize) {
        self.metrics.ends_forgotten.inc_by(count as u64);
        source.has_forgotten_ends.store(true, Ordering::Release);
    }

    /// What was taken could not be removed: it is to be taken again.
    pub fn put_back_ended(&self, source: SourceId, names: Vec<(TopicName, Offset)>) {
        let Some(state) = self.source(source) else { return };
        let mut ended = state.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = ended.get_or_insert_default();
        ended.extend(names);
        let forgotten = ended.len().saturating_sub(ENDED_TOPICS_MAX);
        if forgotten > 0 {
            ended.truncate(ENDED_TOPICS_MAX);
            self.forget_ends(state, forgotten);
        }
        state.has_ended_elsewhere.store(true, Ordering::Release);
    }

    /// The load of `source` is complete: subscribers are given the state of its topics.
    pub fn loaded(&self, source: SourceId) {
        let Some(state) = self.source(source) else { return };
        let marks = std::mem::take(&mut *state.marks());
        let (mut left_out, mut why) = (0_usize, None);
        for (name, mark) in &marks {
            if let Err(error) = self.restore_stream(source, name, mark) {
                left_out += 1;
                state.gaps.miss(name.as_str(), mark.at_ms);
                why.get_or_insert(error);
            }
        }
        if let Some(why) = why {
            tracing::warn!(topics = left_out, %why, "saved states were left out");
        }
        if state.needs_reload.load(Ordering::Acquire) {
            // It is to be read again at once.
            return;
        }
        if !state.finds_reclassed.load(Ordering::Acquire) {
            // They have been saved again since: the next load goes by states.
            state.reclassed().clear();
        }
        state.loading.store(false, Ordering::Release);
        state.has_loaded.store(true, Ordering::Release);
        let now_ms = unix_ms().saturating_add_signed(state.ahead_ms.load(Ordering::Relaxed));
        let read_ms = state.read_upto_ms.load(Ordering::Relaxed).min(now_ms);
        let (all_read_ms, mut ended) = (self.all_read_by(unix_ms()), Vec::new());
        for mut topic in self.map.iter_mut() {
            let is_here = topic.source == source;
            if is_here {
                // As it is by now, before anybody sees it: a load makes nothing younger.
                let upto_ms = if topic.incomplete { all_read_ms } else { read_ms };
                if self.end_if_over(&mut topic, upto_ms, true) {
                    ended.push(topic.name.clone());
                }
                topic.set_loads(false);
                if self.is_in_unread(source, topic.name.as_str()) {
                    topic.lack();
                }
                if topic.interest.is_empty() {
                    self.look_at_age(&mut topic, now_ms);
                }
            } else if topic.awaits_home && self.home(topic.name.as_str()) == source {
                // All that is there of it is known, and that is nothing.
                let may_live = state.gaps.may_live_longer(&topic.name, &topic.options, topic.active_ms, false);
                if topic.be_first(state.gaps.is_none() && !may_live) {
                    self.tell_state(&mut topic);
                }
                continue;
            }
            if topic.interest.is_empty() {
                continue;
            }
            if !is_here && topic.known && self.is_loading(topic.source) && self.home(topic.name.as_str()) == source {
                // Subscribers may hold what it was where it belongs. What it is now is told when its own source is loaded.
                self.tell_state(&mut topic);
                continue;
            }
            if !is_here && (topic.known || !topic.incomplete) {
                continue;
            }
            // Where a topic of another stream waits, that there is none here may be the news.
            let may_exist = self.may_exist(topic.source, &topic.name);
            if !is_here && may_exist {
                continue;
            }
            topic.may_exist(may_exist);
            topic.break_chain();
            let snapshot = topic.snapshot();
            self.each_interest(topic.value(), |shard, slot| self.outlet.reset(shard, slot, &snapshot));
            if is_here {
                self.look_at_age(&mut topic, now_ms);
            }
        }
        for name in &ended {
            self.remove_if(name, |topic| topic.interest.is_empty() && !topic.known);
        }
    }

    /// Whether there is room for another delta. History that shards still hold lets go of no more than they have room for;
    /// what it then has above its ceiling must fit into theirs.
    pub fn fits(&self) -> bool {
        self.sums.fits()
    }

    /// Names of `source`'s topics that changed since their states were last taken for saving elsewhere.
    pub fn unsaved(&self, source: SourceId) -> Vec<TopicName> {
        let is_unsaved = |topic: &Topic| topic.source == source && topic.unsaved;
        self.map.iter().filter(|topic| is_unsaved(topic)).map(|topic| topic.name.clone()).collect()
    }

    /// The states of the first of these topics, as many as have `bytes_max` of memory, and one at least; and how many names
    /// that is. What is not unsaved any more is passed over.
    pub fn take_unsaved(&self, source: SourceId, names: &[TopicName], bytes_max: usize) -> (Vec<Arc<Snapshot>>, usize) {
        let (mut states, mut bytes, mut looked) = (Vec::new(), 0, 0);
        for name in names {
            if bytes >= bytes_max {
                break;
            }
            looked += 1;
            let topic = self.map.get_mut(name.as_str());
            let Some(mut topic) = topic.filter(|topic| topic.source == source && topic.unsaved) else { continue };
            topic.unsaved = false;
            if !topic.known {
                continue;
            }
            let state = topic.snapshot_to_save();
            bytes += state.weight();
            states.push(state);
        }
        (states, looked)
    }

    /// What was taken could not be saved: it is to be taken again.
    pub fn mark_unsaved<'a>(&self, names: impl Iterator<Item = &'a TopicName>) {
        for name in names {
            if let Some(mut topic) = self.map.get_mut(name.as_str()) {
                topic.unsaved = true;
            }
        }
    }

    /// Everything that was saved of `source` is to be saved again.
    pub fn mark_all_unsaved(&self, source: SourceId) {
        let mut marks = Vec::new();
        for mut topic in self.map.iter_mut() {
            topic.unsaved |= topic.source == source;
            marks.extend(topic.strays.of(source).map(|stray| stray.mark(&topic.name)));
        }
        if let Some(source) = self.source(source) {
            let mut beside = source.beside();
            marks.into_iter().for_each(|mark| beside.note(mark));
        }
    }

    /// Whether a delta would be taken in, as far as can be told without the topic's state.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, topic: &str, kind: Kind, payload: &Payload) -> Result<(), PublishError> {
        let result = TopicName::new(topic).map_err(PublishError::from).and_then(|name| {
            let options = self.config.namespace(name.namespace());
            match options.class {
                _ if is_own(&name) => Err(PublishError::Reserved),
                _ if !self.config.knows_namespace(name.namespace()) => Err(PublishError::UnknownNamespace),
                // What a topic ends with does not matter.
                _ if matches!(kind, Kind::HistoryRemoval | Kind::Deletion) => Ok(()),
                _ if payload.form() == PayloadForm::Bytes && options.payload == PayloadForm::Json => {
                    Err(PayloadError::NotForBytes.into())
                }
                Class::Stream if kind == Kind::Snapshot => Err(PublishError::StreamSnapshot),
                Class::Merge if !payload.is_object() => Err(PublishError::Patch(ParseError::NotObject)),
                // Readers refuse names with half a surrogate, which the check for JSON lets pass. Such names have escapes.
                Class::Merge if payload.bytes().len() > STATE_BYTES_MAX || payload.bytes().contains(&b'\\') => {
                    let bytes = members_bytes(&parse_object(payload.as_str())?);
                    if bytes > STATE_BYTES_MAX { Err(PublishError::StateTooLarge { bytes }) } else { Ok(()) }
                }
                _ => Ok(()),
            }
        });
        if let Err(error) = &result {
            self.metrics.refused_delta(error.label());
        }
        result
    }
}
