//! Moving topics from some streams to others while they are published: see [`super::away`] for what nodes make of it.
//!
//! The command reads all streams as a node does. For each stream that topics leave it cuts one slice of names after another;
//! its own reader passes over what comes after a cut, as every node's does, so that it holds the states as they were there. It
//! appends them to the new streams, and after that, in their order, the entries that publishers still write to the old ones.
//! How far it has come is kept in the new stream's slot and changed in the script that appends: a command that was killed
//! goes on where it was, and nothing is appended twice.

mod ground;
mod mover;
mod node;
mod plan;
mod scripts;

use std::collections::BTreeMap;
use std::time::Duration;

use ::redis::{Value, cmd};
use tokio::time::Instant;

use super::away::{Away, CUT_FIELD, Cut};
use super::keys::Keys;
use super::masters::Masters;
use crate::config::{self, Config};
use crate::position::Epoch;
use crate::topic::{Known, home_in};
use mover::Mover;
use node::Node;
pub(super) use plan::ReshardFailed;
use plan::Say;
pub use plan::{ReshardError, Resharding};

/// Wait where there was nothing to hand on.
const IDLE: Duration = Duration::from_millis(10);

/// Time between two lines on how entries are handed on.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Wrong topics that are named.
const NAMED_MAX: usize = 10;

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
