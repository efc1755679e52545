//! The epoch of a partition: agreeing on it, and leaving it.

use std::time::Duration;

use ::redis::{RedisResult, Value, cmd};
use tokio::time::Instant;

use super::super::continuity::{Break, Progress};
use super::super::link::Link;
use super::source::RedisSource;
use crate::position::Epoch;
use crate::source::Feed;

/// Time between two attempts to change an epoch that is over, while Redis takes no writes.
const CHANGE_EVERY: Duration = Duration::from_secs(1);

/// Epochs that a reader had before, of which it knows how far it had read.
const PASTS_MAX: usize = 16;

/// Sets a new epoch if it still is the one that the caller knows; returns what it is then.
const CHANGE_EPOCH: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end \
                            return redis.call('GET', KEYS[1])";

/// The epoch of a stream for which none is written.
const UNWRITTEN_EPOCH: &str = "unwritten";

/// Whether Redis answers reads and refuses to be written to: it is out of memory, cannot save, or lacks replicas.
fn takes_no_writes(error: &::redis::RedisError) -> bool {
    matches!(error.code(), Some("OOM" | "MISCONF" | "NOREPLICAS" | "READONLY" | "NOPERM"))
}

/// What is known must be loaded again: the epoch is another now, or entries were missed. Or, with nothing wrong, there must be
/// another connection, as an answer was given up for its size.
pub(super) struct LoadAgain;

impl RedisSource {
    /// The epoch that all nodes have. It is written only where there is none: a node that can read serves, though Redis takes
    /// no writes. Where there is none and none can be written, all nodes take the same.
    pub(super) async fn agree_on_epoch(&mut self, link: &mut Link) -> RedisResult<Epoch> {
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
    pub(super) fn is_epoch(&self, found: Option<&str>) -> bool {
        match found {
            None => self.is_unwritten,
            Some(_) => found == self.epoch.as_ref().map(Epoch::as_str),
        }
    }

    /// Whether an epoch that is over, and could not be changed when that was found, is another by now.
    pub(super) async fn is_over_now(&mut self, link: &mut Link) -> RedisResult<bool> {
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
    pub(super) fn reload_after_other(&self) -> LoadAgain {
        tracing::warn!(
            stream = self.keys.stream,
            "another stream, which has entries of the same topics, has another past now: this one is loaded again"
        );
        LoadAgain
    }

    /// What was read does not join up with what the stream holds.
    pub(super) async fn load_again(&mut self, link: &mut Link, feed: &Feed, found: Break) -> RedisResult<LoadAgain> {
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
    pub(super) fn leave_epoch(&mut self) {
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
    pub(super) async fn change_epoch(&self, link: &mut Link, known: &Epoch, why: &str) -> RedisResult<bool> {
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
    pub(super) fn epoch_stays(&mut self, feed: &Feed, epoch: Epoch, why: &str) {
        tracing::warn!(
            stream = self.keys.stream,
            why,
            "Redis takes no writes: all is loaded again, and the epoch changes once it takes them"
        );
        feed.topics.mark_replaced(self.id);
        self.over = Some((epoch, Instant::now())).filter(|_| !self.only_looks);
    }
}
