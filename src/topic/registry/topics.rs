//! The table of all topics: finding one by its name, making it, and counting how many there are.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

use super::super::account::{Account, Sums};
use super::super::atomics::{AtomicUsize, Mutex, Ordering};
use super::super::deleted::Deleted;
use super::super::exchange::{Outlet, PublishError, SourceId};
use super::super::freshness::Freshness;
use super::super::map::{DashMap, Entry};
use super::super::names::Names;
use super::super::relays::Relays;
use super::super::state::{Floor, Topic};
use super::super::trace::Sampler;
use super::super::unpublished::Unpublished;
use super::source::SourceState;
use crate::clock::unix_ms;
use crate::config::{ChannelSyntax, Class, Config, Namespace, OPS, PayloadForm};
use crate::memory::ResolvedLimits;
use crate::metrics::Metrics;
use crate::name::{TopicName, namespace_of};
use crate::position::{Epoch, Offset};

/// Parts of the map of topics. A walk over all topics locks one part at a time, and so does a part that grows: of a
/// million topics a thousand, for about a millisecond. Unit tests have few topics, and many maps.
const MAP_PARTS: usize = if cfg!(test) { 16 } else { 1_024 };

/// Whether only this process may write to a topic. Such topics do not count.
pub(super) fn is_own(name: &TopicName) -> bool {
    name.namespace() == Some(OPS)
}

/// All topics.
pub struct Topics {
    /// Boxed: the map has room for up to twice as many as there are.
    pub(super) map: DashMap<TopicName, Box<Topic>>,
    /// Of topics that were published. Changed under their topic's lock; no topic is locked while it is.
    pub(super) names: Names,
    /// How many those are.
    count: AtomicUsize,
    /// Topics that exist for subscribers alone.
    unpublished: Unpublished,
    pub(super) config: Arc<Config>,
    pub(super) namespaces: HashMap<String, Arc<Namespace>>,
    pub(super) default: Arc<Namespace>,
    /// The configured sources, and at the end this process itself.
    pub(super) sources: Vec<SourceState>,
    /// How many of these topics belong in, the first ones: the others are only read.
    pub(super) homes: usize,
    /// Topics that a delta of one source ended, until the others have been read up to then.
    pub(super) deleted: Mutex<Deleted>,
    /// Topics that leave a source, and how far their deltas have followed them. Nothing else is locked while it is.
    pub(super) relays: Mutex<Relays>,
    pub(super) outlet: Arc<dyn Outlet>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) sums: Arc<Sums>,
    pub(super) sampler: Sampler,
    /// By namespace, as of the last sweep.
    pub(super) freshness: Mutex<BTreeMap<String, Freshness>>,
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
            // If names have no access marks, they list no users.
            options.allow_user_limited_channels &= config.access.channel_syntax != ChannelSyntax::Plain;
            Arc::new(options)
        };
        let namespaces = config.namespace.iter().map(|(name, namespace)| (name.clone(), options(namespace))).collect();
        let homes = config.source.redis.as_ref().map_or(sources, |redis| redis.streams.len());
        Self {
            map: DashMap::with_shard_amount(MAP_PARTS),
            names: Names::new(config.access.channel_syntax),
            count: AtomicUsize::new(0),
            unpublished: Unpublished::new(limits.unpublished_topics, config.limits.subscriptions),
            namespaces,
            default: options(&config.default),
            sums: Arc::new(Sums::new(limits)),
            sampler: Sampler::new(config.trace.sample),
            freshness: Mutex::default(),
            config,
            homes: homes.clamp(1, sources.max(1)),
            deleted: Mutex::new(Deleted::default()),
            relays: Mutex::new(Relays::default()),
            sources: std::iter::repeat_with(SourceState::default).take(sources.max(1) + 1).collect(),
            outlet,
            metrics,
        }
    }

    /// How many were published, the server's own apart.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there are that were never published, and their bytes of memory.
    pub fn unpublished(&self) -> (usize, usize) {
        (self.unpublished.count(), self.sums.unpublished())
    }

    /// How fresh the topics of each namespace are, as of the last sweep.
    pub fn freshness(&self) -> std::collections::BTreeMap<String, Freshness> {
        self.freshness.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The true values of [`Topics::history_bytes`], [`Topics::state_bytes`], [`Topics::unpublished`] and
    /// [`Topics::len`].
    #[cfg(test)]
    pub(in crate::topic) fn truth(&self) -> (usize, usize, (usize, usize), usize) {
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
    pub(in crate::topic) fn counted(&self) -> (usize, usize, (usize, usize), usize) {
        (self.history_bytes(), self.state_bytes(), self.unpublished(), self.len())
    }

    /// The source of this process's own topics: its offsets mean nothing elsewhere.
    pub fn local(&self) -> SourceId {
        SourceId(u16::try_from(self.sources.len() - 1).unwrap_or(0))
    }

    /// How many sources other than this process there are.
    pub fn partitions(&self) -> usize {
        self.sources.len() - 1
    }

    pub(super) fn source(&self, id: SourceId) -> Option<&SourceState> {
        self.sources.get(usize::from(id.0)).or_else(|| self.sources.first())
    }

    /// Whether `source` is being loaded, so that no state of it can be claimed to be whole.
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
        let options = self.options_of(name.namespace()).clone();
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
        // All entries of a `stream` topic after the floor are here, unless the topic was forgotten elsewhere.
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
        if let Some(maker) = topic.maker.take() {
            self.unpublished.release(maker);
        }
    }

    /// Adds a topic to the index of names.
    pub(super) fn list(&self, topic: &Topic) {
        self.names.insert(&topic.name, topic.options.allow_user_limited_channels);
    }

    /// Runs a publish on the topic, making it first if need be. It counts as published, and one that was not there
    /// stays, only once a delta was taken in. With `begins`, that takes room.
    pub(super) fn published<R>(
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
    pub(super) fn subscribed_to<R>(
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
                self.unpublished.admit(maker).inspect_err(|_| {
                    self.metrics.unpublished_refused.inc();
                })?;
                let made = self.create(name.clone(), self.home(name.as_str()), unix_ms(), Some(maker));
                Ok(f(&mut entry.insert(made)))
            }
        }
    }

    /// `true` if it was removed.
    pub(super) fn remove_if(&self, name: &TopicName, condition: impl FnOnce(&Topic) -> bool) -> bool {
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
            if let Some(maker) = topic.maker {
                self.unpublished.release(maker);
            }
            if let Some(source) = self.source(topic.source) {
                source.floor.fetch_max(topic.offset.get(), Ordering::AcqRel);
            }
        }
        removed.is_some()
    }

    /// The class of a topic's namespace.
    pub fn class_of(&self, topic: &str) -> Class {
        self.config.namespace(namespace_of(topic)).class
    }

    /// Whether deltas of a topic may be replaced by newer state.
    pub fn is_conflatable(&self, topic: &str) -> bool {
        self.class_of(topic).conflatable()
    }

    /// The form of the payloads of a topic.
    pub fn payload_form(&self, topic: &str) -> PayloadForm {
        self.config.namespace(crate::name::namespace_of(topic)).payload
    }

    /// The options of a namespace, or the default where it is not configured.
    pub(super) fn options_of(&self, namespace: Option<&str>) -> &Arc<Namespace> {
        namespace.and_then(|namespace| self.namespaces.get(namespace)).unwrap_or(&self.default)
    }

    /// The namespace that a topic has its options from; empty for the default.
    pub(super) fn configured<'a>(&self, topic: &'a str) -> &'a str {
        namespace_of(topic).filter(|namespace| self.namespaces.contains_key(*namespace)).unwrap_or_default()
    }

    /// All namespaces, and the default with an empty name.
    pub(super) fn configured_namespaces(&self) -> impl Iterator<Item = (&str, &Namespace)> {
        let named = self.namespaces.iter().map(|(name, options)| (name.as_str(), &**options));
        named.chain([("", &*self.default)])
    }
}
