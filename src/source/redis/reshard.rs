//! Moving topics from some streams to others while they are published: see [`super::away`] for what nodes make of it.
//!
//! The command reads all streams as a node does. For each stream that topics leave it cuts one slice of names after another;
//! its own reader passes over what comes after a cut, as every node's does, so that it holds the states as they were there. It
//! appends them to the new streams, and after that, in their order, the entries that publishers still write to the old ones.
//! How far it has come is kept in the new stream's slot and changed in the script that appends: a command that was killed
//! goes on where it was, and nothing is appended twice.

mod ground;
mod mover;
mod scripts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{Value, cmd};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::away::{Away, CUT_FIELD, Cut, slice_of};
use super::continuity::Facts;
use super::keys::Keys;
use super::masters::Masters;
use super::reader::RedisSource;
use crate::config::{self, Config};
use crate::memory::ResolvedLimits;
use crate::metrics::Metrics;
use crate::position::Epoch;
use crate::source::{Feed, Room, Source as _, SourceStatus};
use crate::topic::{Known, Nowhere, SourceId, TopicName, Topics, home_in};
use mover::Mover;

/// Time for the streams to be loaded, as long as nothing is heard of them.
const LOAD_WAIT: Duration = Duration::from_secs(60);

/// Time without a word of a stream after which that is said.
const SAY_AFTER: Duration = Duration::from_secs(3);

/// Wait where there was nothing to hand on.
const IDLE: Duration = Duration::from_millis(10);

/// Time between two lines on how entries are handed on.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Wrong topics that are named.
const NAMED_MAX: usize = 10;

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Resharding {
    /// The streams that topics are in.
    pub from: Vec<String>,
    /// The streams that they belong in from now on, in the order that tells which topic belongs where.
    pub to: Vec<String>,
    /// Say what would be moved, and move nothing.
    pub dry_run: bool,
    /// Time without deltas of moved topics in the old streams after which it is over.
    pub quiet: Duration,
    /// Go on though entries are gone that were not handed on.
    pub skip_lost: bool,
}

/// Why it did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReshardFailed {
    /// Nothing was done.
    #[error(transparent)]
    NotBegun(ReshardError),
    /// Run again it goes on where it was.
    #[error("not at its end; run it again to go on: {0}")]
    Broken(ReshardError),
}

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ReshardError(String);

impl From<::redis::RedisError> for ReshardError {
    fn from(error: ::redis::RedisError) -> Self {
        Self(format!("Redis: {error}"))
    }
}

impl Room for Nowhere {
    fn has_room(&self) -> bool {
        true
    }
}

/// All streams, read as a node reads them.
struct Node {
    streams: Vec<String>,
    topics: Arc<Topics>,
    statuses: Vec<Arc<SourceStatus>>,
    metrics: Arc<Metrics>,
    masters: Masters,
    config: Arc<Config>,
    stop: CancellationToken,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Node {
    fn start(config: &Config, masters: Masters, plan: &Resharding) -> Result<Self, ReshardError> {
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

    async fn loaded(&self, say: &Say) -> Result<(), ReshardError> {
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

    fn source(&self, stream: &str) -> Option<SourceId> {
        let at = self.streams.iter().position(|known| known == stream)?;
        u16::try_from(at).ok().map(SourceId)
    }

    fn stream(&self, source: SourceId) -> &str {
        self.streams.get(usize::from(source.0)).map_or("", String::as_str)
    }

    fn epochs(&self) -> Vec<Epoch> {
        (0..self.streams.len()).map(|at| self.topics.epoch(SourceId(u16::try_from(at).unwrap_or_default()))).collect()
    }

    /// A Redis that has lost writes may have lost marks and moves that publishers have acted on.
    fn lost_nothing(&self, before: &[Epoch]) -> Result<(), ReshardError> {
        let now = self.epochs();
        let Some((stream, _)) = self.streams.iter().zip(before.iter().zip(&now)).find(|(_, (a, b))| a != b) else {
            return Ok(());
        };
        Err(lost_writes(stream))
    }

    /// Topics that leave `from`, by where they go.
    fn leaving(&self, from: &str, to: &[String]) -> BTreeMap<String, Vec<TopicName>> {
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
    async fn caught_up(&self) -> Result<(), ReshardError> {
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

/// Where lines on how it goes are written.
pub(super) type Say = dyn Fn(String) + Sync;

/// Does it, telling `say` how it goes.
///
/// # Errors
/// What keeps it from its end.
pub async fn reshard(config: &Config, plan: &Resharding, say: &Say) -> Result<(), ReshardFailed> {
    let none = || ReshardFailed::NotBegun(ReshardError("the configuration has no [source.redis]".into()));
    let redis = config.source.redis.as_ref().ok_or_else(none)?;
    let masters = Masters::new(redis).map_err(|error| ReshardFailed::NotBegun(error.into()))?;
    reshard_at(masters, config, redis, plan, say).await
}

/// The same, with a way to Redis.
pub(super) async fn reshard_at(
    masters: Masters,
    config: &Config,
    redis: &config::Redis,
    plan: &Resharding,
    say: &Say,
) -> Result<(), ReshardFailed> {
    let begun = begin(masters, config, redis, plan, say).await.map_err(ReshardFailed::NotBegun)?;
    match begun {
        Some(begun) => go_on(begun, plan, say).await.map_err(ReshardFailed::Broken),
        None => Ok(()),
    }
}

/// What is known before anything is done.
struct Begun {
    node: Node,
    /// The run that is under way, if one was broken off.
    run: Option<String>,
    /// What is kept of it, and of earlier ones, by stream.
    kept: BTreeMap<String, Away>,
}

/// Looks at what is to be done, and says it. `None` if that is all that was asked for.
async fn begin(
    masters: Masters,
    config: &Config,
    redis: &config::Redis,
    plan: &Resharding,
    say: &Say,
) -> Result<Option<Begun>, ReshardError> {
    let streams: Vec<&String> = plan.from.iter().chain(&plan.to).collect();
    ground::reach(redis, &masters, &streams, say).await?;
    ground::look_for(redis, &masters, &plan.from).await?;
    let node = Node::start(config, masters, plan)?;
    node.loaded(say).await?;
    let mut run = None;
    let mut kept: BTreeMap<String, Away> = BTreeMap::new();
    for stream in &node.streams {
        let mut link = node.masters.connect(stream).await?;
        let Some(away) = Away::read(&mut link, &Keys::new(stream)).await? else { continue };
        let is_other = away.streams != plan.to || !plan.from.contains(stream);
        if !away.is_done && is_other {
            return Err(ReshardError(format!(
                "topics are on their way from {stream} to {:?}: run that to its end first, with --to {}",
                away.streams,
                away.streams.join(",")
            )));
        }
        if !away.is_done {
            run.get_or_insert(away.run.clone());
        }
        kept.insert(stream.clone(), away);
    }
    match &run {
        Some(_) => say("a run that was broken off goes on".into()),
        None => say(format!("from {} to {}", plan.from.join(","), plan.to.join(","))),
    }
    let mut total = 0;
    for stream in &plan.from {
        for (to, names) in node.leaving(stream, &plan.to) {
            let partial = names
                .iter()
                .filter(|name| node.topics.view(name).is_some_and(|view| view.snapshot.known == Known::Incomplete));
            let (count, partial) = (names.len(), partial.count());
            total += count;
            let note = match partial {
                0 => String::new(),
                n => format!(" ({n} of them incomplete: publish them whole, kind=snapshot, or they stay so)"),
            };
            say(format!("{count} topics go from {stream} to {to}{note}"));
        }
    }
    if plan.dry_run {
        say(format!("{total} of {} topics would be moved; nothing was done", node.topics.len()));
        return Ok(None);
    }
    Ok(Some(Begun { node, run, kept }))
}

/// Moves topics, and hands on what comes after them, to the end.
async fn go_on(begun: Begun, plan: &Resharding, say: &Say) -> Result<(), ReshardError> {
    let Begun { node, run, mut kept } = begun;
    let run = run.unwrap_or_else(|| Epoch::random().as_str().to_owned());
    for to in plan.to.iter().filter(|to| !plan.from.contains(to) || plan.to.len() == 1) {
        settle(&node, &run, plan, to).await?;
    }
    let mut movers = Vec::new();
    for stream in &plan.from {
        let away = kept.remove(stream).filter(|away| away.run == run);
        let topics = node.leaving(stream, &plan.to).values().map(Vec::len).sum();
        if plan.to.iter().any(|to| to != stream) && !away.as_ref().is_some_and(|away| away.is_done) {
            movers.push(Mover::new(&node, plan, stream, (run.clone(), away, topics)).await?);
        }
    }
    let mut said = Instant::now();
    let mut was_moving = true;
    let epochs = node.epochs();
    while movers.iter().any(|mover| !mover.is_done()) {
        let mut is_idle = true;
        node.lost_nothing(&epochs)?;
        for mover in movers.iter_mut().filter(|mover| !mover.is_done()) {
            is_idle &= !mover.step(&node, say).await?;
        }
        let moving = movers.iter().any(Mover::is_moving);
        if was_moving && !moving {
            let moved: usize = movers.iter().map(Mover::moved).sum();
            say(format!(
                "all {moved} topics are moved; switch the publishers now: until the old streams are quiet for {:?}, what is \
                 written to them is handed on",
                plan.quiet
            ));
        }
        if !moving && (said.elapsed() >= SAY_EVERY || was_moving) {
            said = Instant::now();
            movers.iter().filter(|mover| !mover.is_done()).for_each(|mover| say(mover.progress()));
        }
        was_moving = moving;
        if is_idle {
            tokio::time::sleep(IDLE).await;
        }
    }
    check(&node, plan, movers.iter().map(Mover::refused).sum(), say).await
}

/// Says in a stream that no topic leaves which belong in it now: those that an earlier run took away would be refused there.
async fn settle(node: &Node, run: &str, plan: &Resharding, to: &str) -> Result<(), ReshardError> {
    let keys = Keys::new(to);
    let streams = plan.to.clone();
    let mark = Cut { run: run.to_owned(), streams, slices: 1, slice: None, stream: Some(to.to_owned()) };
    let json = |error: serde_json::Error| ReshardError(error.to_string());
    let mut settle = cmd("EVAL");
    settle.arg(scripts::SETTLE).arg(2).arg(to).arg(&keys.away).arg(run);
    settle.arg(serde_json::to_string(&plan.to).map_err(json)?);
    settle.arg(CUT_FIELD).arg(serde_json::to_string(&mark).map_err(json)?);
    let mut link = node.masters.connect(to).await?;
    settle.query_async::<Value>(&mut link).await?;
    Ok(())
}

/// The check at the end: every topic is where it belongs.
async fn check(node: &Node, plan: &Resharding, unrelayed: u64, say: &Say) -> Result<(), ReshardError> {
    node.caught_up().await?;
    let refused = node.metrics.topics_refused.get() + node.metrics.state_refused.get();
    if refused > 0 {
        return Err(ReshardError(format!("{refused} deltas found no room here: what was moved cannot be checked")));
    }
    let wrong = node.topics.names_by(|name, source| node.stream(source) != home_in(name, &plan.to));
    if wrong.is_empty() {
        let refused = match unrelayed {
            0 => String::new(),
            count => format!("; {count} entries of moved topics were not handed on, as every node refuses them"),
        };
        say(format!("checked: {} topics, all where they belong{refused}", node.topics.len()));
        return Ok(());
    }
    let named: Vec<String> = wrong
        .iter()
        .take(NAMED_MAX)
        .map(|(name, source)| format!("{name} in {} (not {})", node.stream(*source), home_in(name.as_str(), &plan.to)))
        .collect();
    Err(ReshardError(format!(
        "{} topics are where they do not belong: {}; a publisher still uses the old list of streams, or published in the new \
         streams before topics were moved. Set it right and run this again",
        wrong.len(),
        named.join(", ")
    )))
}

fn lost_writes(stream: &str) -> ReshardError {
    ReshardError(format!(
        "Redis has lost entries of {stream}, and perhaps what was moved. Let publishers use the old list again, run this again, \
         and publish the topics whole once (kind=snapshot)"
    ))
}

/// How many slices names are divided into.
fn slices_for(topics: usize) -> u16 {
    u16::try_from(topics / mover::SLICE_TOPICS + 1).unwrap_or(u16::MAX).min(super::away::SLICES_MAX)
}

fn is_in_slice(name: &str, slice: u16, slices: u16) -> bool {
    slice_of(name, slices) == slice
}
