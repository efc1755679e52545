//! All streams, read as a node reads them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::continuity::Facts;
use super::super::keys::Keys;
use super::super::masters::Masters;
use super::super::reader::RedisSource;
use super::plan::{ReshardError, Resharding, Say, lost_writes};
use crate::config::Config;
use crate::memory::ResolvedLimits;
use crate::metrics::Metrics;
use crate::position::Epoch;
use crate::source::{Feed, Room, Source as _, SourceStatus};
use crate::topic::{Nowhere, SourceId, TopicName, Topics, home_in};

/// Time for the streams to be loaded, as long as nothing is heard of them.
const LOAD_WAIT: Duration = Duration::from_secs(60);

/// Time without a word of a stream after which that is said.
const SAY_AFTER: Duration = Duration::from_secs(3);

impl Room for Nowhere {
    fn has_room(&self) -> bool {
        true
    }
}

/// All streams, read as a node reads them.
pub(super) struct Node {
    pub(super) streams: Vec<String>,
    pub(super) topics: Arc<Topics>,
    pub(super) statuses: Vec<Arc<SourceStatus>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) masters: Masters,
    pub(super) config: Arc<Config>,
    pub(super) stop: CancellationToken,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Node {
    pub(super) fn start(config: &Config, masters: Masters, plan: &Resharding) -> Result<Self, ReshardError> {
        let mut config = config.clone();
        let Some(redis) = config.source.redis.as_mut() else {
            return Err(ReshardError("the configuration has no [source.redis]".into()));
        };
        redis.streams.clone_from(&plan.from);
        redis.read_also = plan.to.iter().filter(|stream| !plan.from.contains(stream)).cloned().collect();
        // Nothing is saved from here, and nothing is forgotten for want of room.
        redis.snapshot_every = Duration::ZERO;
        config.limits.topics = usize::MAX;
        let limits = ResolvedLimits { state_total_bytes: None, ..ResolvedLimits::configured(&config.limits) };
        for namespace in config.namespace.values_mut().chain([&mut config.default]) {
            (namespace.history_size, namespace.history_ttl) = (1, Duration::ZERO);
        }
        // Nodes do that.
        redis.refused = false;
        let redis = redis.clone();
        let streams: Vec<String> = redis.all_streams().cloned().collect();
        let (config, metrics) = (Arc::new(config), Arc::new(Metrics::default()));
        let topics = Topics::within(config.clone(), &limits, streams.len(), Arc::new(Nowhere), metrics.clone());
        let topics = Arc::new(topics);
        let (feed, stop) = (Feed::new(topics.clone(), Arc::new(Nowhere)), CancellationToken::new());
        let mut statuses = Vec::new();
        for partition in 0..streams.len() {
            let partition = u16::try_from(partition).map_err(|_| ReshardError("too many streams".into()))?;
            let source = RedisSource::new(&config, &redis, masters.clone(), partition, metrics.clone()).for_moving();
            let source = if plan.dry_run { source.that_only_looks() } else { source };
            statuses.push(source.status());
            tokio::spawn(Box::new(source).run(feed.clone(), stop.clone()));
        }
        let (sweeping, stopped) = (topics.clone(), stop.clone());
        tokio::spawn(async move {
            while !stopped.is_cancelled() {
                sweeping.sweep();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        Ok(Self { streams, topics, statuses, metrics, masters, config, stop })
    }

    pub(super) async fn loaded(&self, say: &Say) -> Result<(), ReshardError> {
        let (mut since, mut heard, mut is_said) = (Instant::now(), Vec::new(), false);
        while let Some(status) = self.statuses.iter().find(|status| !status.is_loaded()) {
            let notes: Vec<String> = self.statuses.iter().map(|status| status.last_note()).collect();
            if notes != heard {
                (since, heard, is_said) = (Instant::now(), notes, false);
            }
            if since.elapsed() > SAY_AFTER && !std::mem::replace(&mut is_said, true) {
                let (name, note) = (&status.name, status.last_note());
                say(format!("{name} is not read yet ({note}); it is waited for, {LOAD_WAIT:?} at most"));
            }
            if since.elapsed() > LOAD_WAIT {
                return Err(ReshardError(format!("{} cannot be read: {}", status.name, status.last_note())));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if let Some(fault) = self.statuses.iter().find(|status| !status.fault().is_empty()) {
            return Err(ReshardError(format!("{}: {}", fault.name, fault.fault())));
        }
        Ok(())
    }

    pub(super) fn source(&self, stream: &str) -> Option<SourceId> {
        let at = self.streams.iter().position(|known| known == stream)?;
        u16::try_from(at).ok().map(SourceId)
    }

    pub(super) fn stream(&self, source: SourceId) -> &str {
        self.streams.get(usize::from(source.0)).map_or("", String::as_str)
    }

    pub(super) fn epochs(&self) -> Vec<Epoch> {
        (0..self.streams.len()).map(|at| self.topics.epoch(SourceId(u16::try_from(at).unwrap_or_default()))).collect()
    }

    /// A Redis that has lost writes may have lost marks and moves that publishers have acted on.
    pub(super) fn lost_nothing(&self, before: &[Epoch]) -> Result<(), ReshardError> {
        let now = self.epochs();
        let Some((stream, _)) = self.streams.iter().zip(before.iter().zip(&now)).find(|(_, (a, b))| a != b) else {
            return Ok(());
        };
        Err(lost_writes(stream))
    }

    /// Topics that leave `from`, by where they go.
    pub(super) fn leaving(&self, from: &str, to: &[String]) -> BTreeMap<String, Vec<TopicName>> {
        let Some(source) = self.source(from) else { return BTreeMap::new() };
        let mut leaving: BTreeMap<String, Vec<TopicName>> = BTreeMap::new();
        for (name, _) in self.topics.names_by(|_, found| found == source) {
            let home = home_in(name.as_str(), to);
            if home != from {
                leaving.entry(home.to_owned()).or_default().push(name);
            }
        }
        leaving
    }

    /// Waits until everything has been read that the streams hold now.
    pub(super) async fn caught_up(&self) -> Result<(), ReshardError> {
        for (at, stream) in self.streams.iter().enumerate() {
            let mut link = self.masters.connect(stream).await?;
            let newest = Facts::of(&mut link, &Keys::new(stream)).await?.newest.ceiling();
            let source = SourceId(u16::try_from(at).unwrap_or_default());
            let until = Instant::now() + LOAD_WAIT;
            while self.topics.reached(source) < newest {
                if Instant::now() > until {
                    return Err(ReshardError(format!("the stream {stream} cannot be read to its end")));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }
}
