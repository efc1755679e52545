//! The key-value bucket beside the stream.
//!
//! `epoch` is what all nodes go by; it is changed by compare-and-set. `position.BASE` and the keys under `state.BASE.` are
//! topic states and the sequence up to which they are complete; a state that is larger than one message may be lies in
//! parts, which are written before the key that names them. The base is the epoch with which the past began: a purged
//! stream, or another one, has a new base, so that what a node still saves that has not noticed counts for nothing.
//! `saver` is written by whoever saves, so that one does at a time.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::kv::{self, Operation, Store, UpdateErrorKind};
use async_nats::jetstream::stream::{DiscardPolicy, LastRawMessageErrorKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::held::Held;
use super::subjects::token;
use super::{Trouble, trouble};
use crate::config::{self, PayloadForm};
use crate::position::{Epoch, Offset};
use crate::source::{Feed, SavedState, has_outer_blanks};
use crate::topic::{Known, Snapshot, SourceId};

const EPOCH: &str = "epoch";
const SAVER: &str = "saver";

/// Largest piece of a state in one message, in bytes: well below what any server takes.
const PART_BYTES: usize = 512 * 1024;

/// States written at once.
const CHUNK: usize = 256;

/// Longest wait for the next of what the bucket holds.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Times that a change is tried again because another node was quicker.
const ATTEMPTS: usize = 8;

/// What the nodes go by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Agreement {
    /// Which stream, see [`Held::created`].
    pub(super) created: String,
    pub(super) epoch: Epoch,
    /// The epoch with which the past began: what was saved under another does not count.
    pub(super) base: Epoch,
    /// The bucket's number of this.
    #[serde(skip)]
    pub(super) revision: u64,
}

/// Up to where saved states are complete.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) sequence: u64,
    /// When the stream took that message, Unix ms.
    pub(super) ms: u64,
    /// Up to when the node that saved may have missed deltas of topics that it does not know, Unix ms.
    #[serde(default)]
    pub(super) missed_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Saved<'a> {
    topic: String,
    offset: Offset,
    #[serde(default)]
    ts: Option<u64>,
    /// When the stream took the newest message in, Unix ms.
    #[serde(default)]
    at: Option<u64>,
    /// It may lack deltas.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    incomplete: bool,
    /// Deltas of another partition are refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    moved: bool,
    /// Sequence of the message that moved it; older nodes do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moved_at: Option<Offset>,
    /// Pieces of the data, where it does not fit here.
    #[serde(default)]
    parts: usize,
    #[serde(borrow, default, deserialize_with = "crate::source::present", skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    /// In place of it: bytes, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
}

/// The bucket beside the stream.
#[derive(Clone)]
pub(super) struct Bucket {
    store: Store,
    /// It removes what was saved, by age or where there is much.
    may_drop: bool,
}

impl Bucket {
    /// Opens it; makes it where it is missing and `config` lets.
    pub(super) async fn open(context: &Context, config: &config::Nats) -> Result<Self, Trouble> {
        let name = config.bucket();
        let tried = format!("bucket {name}");
        match context.get_key_value(&name).await {
            Ok(store) => Ok(Self::of(store)),
            Err(_) if config.create => {
                let made = context.create_key_value(kv::Config {
                    bucket: name,
                    description: format!("nexus-push: epoch and saved states of the stream {}", config.stream),
                    history: 1,
                    num_replicas: config.replicas,
                    ..kv::Config::default()
                });
                Ok(Self::of(made.await.map_err(trouble(&tried))?))
            }
            Err(error) => Err(Trouble(format!("{tried}: {error}; create it, or set source.nats.create"))),
        }
    }

    fn of(store: Store) -> Self {
        let config = &store.stream.cached_info().config;
        let is_bounded = config.max_bytes > 0 || config.max_messages > 0;
        let may_drop = !config.max_age.is_zero() || (is_bounded && config.discard == DiscardPolicy::Old);
        if may_drop {
            tracing::warn!(
                bucket = store.name,
                max_age = ?config.max_age,
                "the bucket lets go of saved states: a topic whose state has gone begins incomplete; give it no TTL, and let it \
                 refuse what is too much (discard: new)"
            );
        }
        Self { may_drop, store }
    }

    /// A key's value and its revision, from the bucket's leader: a follower may not have the newest.
    async fn value(&self, key: &str) -> Result<Option<(u64, Bytes)>, Trouble> {
        match self.store.stream.get_last_raw_message_by_subject(&format!("{}{key}", self.store.prefix)).await {
            Ok(message) => Ok(Some((message.sequence, message.payload))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(Trouble(format!("bucket {}, key {key}: {error}", self.store.name))),
        }
    }

    /// What the nodes go by, if they do by anything.
    pub(super) async fn agreement(&self) -> Result<Option<Agreement>, Trouble> {
        let Some((revision, value)) = self.value(EPOCH).await? else { return Ok(None) };
        Ok(serde_json::from_slice::<Agreement>(&value).ok().map(|agreement| Agreement { revision, ..agreement }))
    }

    /// What the nodes go by for the stream created then; where they go by nothing yet, or by another stream, `known` or
    /// what all of them would come to is proposed.
    pub(super) async fn agree(&self, created: &str, known: Option<&Agreement>) -> Result<Agreement, Trouble> {
        let known = known.filter(|known| known.created == created);
        let proposed = known.cloned().unwrap_or_else(|| {
            let epoch = Epoch::from_text(&epoch_of(created));
            Agreement { created: created.to_owned(), base: epoch.clone(), epoch, revision: 0 }
        });
        for _ in 0..ATTEMPTS {
            let found = self.value(EPOCH).await?;
            let revision = found.as_ref().map_or(0, |(revision, _)| *revision);
            let agreement = found.and_then(|(_, value)| serde_json::from_slice::<Agreement>(&value).ok());
            if let Some(agreement) = agreement.filter(|agreement| agreement.created == created) {
                return Ok(Agreement { revision, ..agreement });
            }
            match self.set(&proposed, revision).await {
                Ok(Some(revision)) => return Ok(Agreement { revision, ..proposed }),
                Ok(None) => {}
                // A node that can read serves. All nodes propose the same for a stream that is new to them.
                Err(error) => {
                    tracing::warn!(%error, "the bucket takes no writes: there is no epoch in it, and none can be set");
                    return Ok(Agreement { revision: 0, ..proposed });
                }
            }
        }
        Err(Trouble(format!("bucket {}: the nodes do not come to an agreement on the epoch", self.store.name)))
    }

    /// Sets a new epoch, unless another node did meanwhile; with a new base, what was saved no longer counts.
    pub(super) async fn change(&self, known: &Agreement, new_base: bool) -> Result<(), Trouble> {
        let epoch = Epoch::random();
        let base = if new_base { epoch.clone() } else { known.base.clone() };
        let new = Agreement { created: known.created.clone(), epoch, base, revision: 0 };
        self.set(&new, known.revision).await?;
        Ok(())
    }

    /// The new revision, or nothing if another node was quicker.
    async fn set(&self, agreement: &Agreement, revision: u64) -> Result<Option<u64>, Trouble> {
        let tried = format!("bucket {}: changing the epoch", self.store.name);
        let value = serde_json::to_vec(agreement).map_err(trouble(&tried))?;
        match self.store.update(EPOCH, value.into(), revision).await {
            Ok(revision) => Ok(Some(revision)),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(None),
            Err(error) => Err(Trouble(format!("{tried}: {error}"))),
        }
    }

    /// Whether this node still is the one that saves, as it was when it saw `seen`.
    pub(super) async fn saves(&self, seen: &Option<u64>) -> Result<bool, Trouble> {
        Ok(self.value(SAVER).await?.map(|(revision, _)| revision) == *seen)
    }

    /// Whether this node is to save now: nobody has since it looked before. `seen` is what it saw then.
    pub(super) async fn may_save(&self, node: &str, seen: &mut Option<u64>) -> Result<bool, Trouble> {
        let revision = self.value(SAVER).await?.map_or(0, |(revision, _)| revision);
        if revision != 0 && *seen != Some(revision) {
            *seen = Some(revision);
            return Ok(false);
        }
        match self.store.update(SAVER, Bytes::copy_from_slice(node.as_bytes()), revision).await {
            Ok(own) => {
                *seen = Some(own);
                Ok(true)
            }
            // Another node just did.
            Err(_) => Ok(false),
        }
    }

    /// Writes states.
    pub(super) async fn save_states(&self, base: &Epoch, states: &[std::sync::Arc<Snapshot>]) -> Result<(), Trouble> {
        let tried = format!("bucket {}: saving", self.store.name);
        for chunk in states.chunks(CHUNK) {
            let mut writes = Vec::with_capacity(chunk.len());
            // What ended since it was taken is to be removed, not saved.
            for state in chunk.iter().filter(|state| state.known.is_some()) {
                writes.push(self.save_one(base, state));
            }
            try_join_all(writes).await.map_err(trouble(&tried))?;
        }
        Ok(())
    }

    /// Writes the position that the states are complete up to.
    pub(super) async fn save_position(&self, base: &Epoch, position: Position) -> Result<(), Trouble> {
        let tried = format!("bucket {}: saving", self.store.name);
        let value = serde_json::to_vec(&position).map_err(trouble(&tried))?;
        self.store.put(format!("position.{base}"), value.into()).await.map_err(trouble(&tried))?;
        Ok(())
    }

    /// Says up to when topics have ended for want of deltas, Unix ms: before their states are removed.
    pub(super) async fn save_expired(&self, base: &Epoch, expired_ms: u64) -> Result<(), Trouble> {
        let key = format!("expired.{base}");
        let found = self.value(&key).await?;
        let revision = found.as_ref().map_or(0, |(revision, _)| *revision);
        let before = found.and_then(|(_, text)| std::str::from_utf8(&text).ok()?.parse::<u64>().ok());
        if before.is_some_and(|before| before >= expired_ms) {
            return Ok(());
        }
        self.store.update(&key, expired_ms.to_string().into(), revision).await.map_err(trouble(&key))?;
        Ok(())
    }

    /// Removes the saved state of a topic that ended, unless it is of a later offset.
    pub(super) async fn remove(&self, base: &Epoch, topic: &str, upto: Offset) -> Result<(), Trouble> {
        let key = token(topic);
        let head = format!("state.{base}.{key}");
        // What was removed leaves an empty value behind.
        let found = self.value(&head).await?.filter(|(_, value)| !value.is_empty());
        let Some((revision, value)) = found else { return Ok(()) };
        let saved = serde_json::from_slice::<Saved<'_>>(&value).map_err(trouble(topic))?;
        if saved.offset > upto {
            return Ok(());
        }
        if self.store.purge_expect_revision(&head, Some(revision)).await.is_err() {
            // Another node has saved it, or removed it.
            return Ok(());
        }
        for i in 0..saved.parts {
            self.store.purge(part_key(base, &key, saved.offset, i)).await.map_err(trouble(topic))?;
        }
        Ok(())
    }

    /// Makes the state of a topic whole that may lack deltas here, if a whole one was saved.
    pub(super) async fn complete(
        &self,
        base: &Epoch,
        source: SourceId,
        topic: &str,
        (reached, bytes_max): (Offset, usize),
        feed: &Feed,
    ) -> Result<bool, Trouble> {
        let key = token(topic);
        let found = self.value(&format!("state.{base}.{key}")).await?.filter(|(_, value)| !value.is_empty());
        let Some((_, value)) = found else { return Ok(false) };
        let saved = serde_json::from_slice::<Saved<'_>>(&value).map_err(trouble(topic))?;
        let data = saved.data.filter(|_| saved.parts == 0 && saved.b64data.is_none());
        let data = match (data, saved.b64data) {
            (Some(data), _) => Bytes::copy_from_slice(data.get().as_bytes()),
            (None, Some(text)) => STANDARD.decode(text).map_err(trouble(topic))?.into(),
            (None, None) => {
                let mut all = Vec::new();
                for i in 0..saved.parts {
                    let part = self.value(&part_key(base, &key, saved.offset, i)).await?;
                    let Some((_, part)) = part else { return Ok(false) };
                    all.extend_from_slice(&part);
                }
                all.into()
            }
        };
        if saved.incomplete {
            return Ok(false);
        }
        let (offset, ts, at_ms) = (saved.offset, saved.ts, saved.at);
        let moved_at = crate::source::moved_at(saved.moved, saved.moved_at, offset);
        let state = SavedState { topic, offset, ts, at_ms, data, moved_at, incomplete: false };
        Ok(feed.complete(source, state, reached, bytes_max))
    }

    async fn save_one(&self, base: &Epoch, state: &Snapshot) -> Result<(), Trouble> {
        let tried = state.topic.as_str();
        let key = token(tried);
        let mut saved = Saved {
            topic: tried.to_owned(),
            offset: state.offset,
            ts: state.ts,
            at: Some(state.at_ms),
            incomplete: state.known != Known::Whole,
            moved: state.moved_at > Offset::ZERO,
            moved_at: Some(state.moved_at).filter(|at| *at > Offset::ZERO),
            parts: 0,
            data: None,
            b64data: None,
        };
        let as_bytes = state.form == PayloadForm::Bytes || has_outer_blanks(&state.data);
        if state.data.len() <= PART_BYTES && as_bytes {
            saved.b64data = Some(STANDARD.encode(&state.data));
        } else if state.data.len() <= PART_BYTES {
            saved.data = Some(serde_json::from_slice(&state.data).map_err(trouble(tried))?);
        } else {
            for (i, part) in state.data.chunks(PART_BYTES).enumerate() {
                let at = part_key(base, &key, state.offset, i);
                self.store.put(&at, Bytes::copy_from_slice(part)).await.map_err(trouble(tried))?;
                saved.parts = i + 1;
            }
        }
        let head = format!("state.{base}.{key}");
        let found = self.value(&head).await?;
        let revision = found.as_ref().map_or(0, |(revision, _)| *revision);
        let before = found.as_ref().and_then(|(_, value)| serde_json::from_slice::<Saved<'_>>(value).ok());
        if before.as_ref().is_some_and(|before| before.offset > state.offset) {
            // This node was held up, and another has saved what came since.
            return Ok(());
        }
        let value = serde_json::to_vec(&saved).map_err(trouble(tried))?;
        match self.store.update(&head, value.into(), revision).await {
            Ok(_) => {}
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => return Ok(()),
            Err(error) => return Err(trouble(tried)(error)),
        }
        if let Some(before) = before.filter(|before| before.offset != state.offset) {
            for i in 0..before.parts {
                self.store.purge(part_key(base, &key, before.offset, i)).await.map_err(trouble(tried))?;
            }
        }
        Ok(())
    }

    /// Up to where states are saved, if they are.
    pub(super) async fn position(&self, base: &Epoch, held: &Held) -> Result<Option<Position>, Trouble> {
        let Some((_, value)) = self.value(&format!("position.{base}")).await? else { return Ok(None) };
        let position = serde_json::from_slice::<Position>(&value).ok();
        Ok(position.filter(|position| position.sequence <= held.last).map(|position| Position {
            // A topic whose state has gone is not known to have been there.
            missed_ms: if self.may_drop { Some(position.ms) } else { position.missed_ms },
            ..position
        }))
    }

    /// Puts saved states back, and clears away those that no longer count. Returns how many were put back.
    pub(super) async fn restore(
        &self,
        (context, stream): (&Context, &str),
        base: &Epoch,
        held: &Held,
        source: SourceId,
        bytes_max: usize,
        feed: &Feed,
    ) -> Result<usize, Trouble> {
        let tried = format!("bucket {}: reading saved states", self.store.name);
        let mut parts: HashMap<String, Bytes> = HashMap::new();
        let mut heads: Vec<(String, Bytes)> = Vec::new();
        let mut over: BTreeSet<String> = BTreeSet::new();
        let status = self.store.status().await.map_err(trouble(&tried))?;
        if status.values() == 0 {
            return Ok(0);
        }
        let mut entries = self.store.watch_with_history(">").await.map_err(trouble(&tried))?;
        loop {
            let entry = tokio::time::timeout(READ_TIMEOUT, entries.next()).await.map_err(trouble(&tried))?;
            let Some(entry) = entry else { break };
            let entry = entry.map_err(trouble(&tried))?;
            let last = entry.seen_current;
            let mut tokens = entry.key.split('.');
            match (tokens.next(), tokens.next()) {
                (Some("state" | "part" | "position" | "expired"), Some(other)) if other != base.as_str() => {
                    over.insert(other.to_owned());
                }
                (Some("part"), _) if entry.operation == Operation::Put => {
                    parts.insert(entry.key, entry.value);
                }
                (Some("state"), _) if entry.operation == Operation::Put => heads.push((entry.key, entry.value)),
                _ => {}
            }
            if last {
                break;
            }
        }
        // As of now: other nodes go on to save while this one loads.
        let info = context.get_stream(stream).await.map_err(trouble(&tried))?;
        let last = Held::of(info.cached_info()).last.max(held.last);
        let mut restored = 0;
        for (at, head) in heads {
            let Ok(saved) = serde_json::from_slice::<Saved<'_>>(&head) else { continue };
            // Of deltas that are lost: it must not count again once the stream has come as far.
            if saved.offset.get() > last {
                if let Err(error) = self.store.purge(&at).await {
                    tracing::warn!(topic = saved.topic, %error, "a saved state of lost deltas cannot be removed");
                }
                continue;
            }
            let key = token(&saved.topic);
            // Nodes of before wrote `null` beside what is elsewhere.
            let data = saved.data.filter(|_| saved.parts == 0 && saved.b64data.is_none());
            let data = match (data, saved.b64data) {
                (Some(data), _) => Some(Bytes::copy_from_slice(data.get().as_bytes())),
                (None, Some(text)) => STANDARD.decode(text).ok().map(Bytes::from),
                (None, None) => (0..saved.parts)
                    .map(|i| parts.remove(&part_key(base, &key, saved.offset, i)))
                    .collect::<Option<Vec<Bytes>>>()
                    .map(|parts| Bytes::from(parts.concat())),
            };
            let Some(data) = data else {
                tracing::warn!(topic = saved.topic, "a saved state is not whole and was left out");
                continue;
            };
            let state = SavedState {
                topic: &saved.topic,
                offset: saved.offset,
                ts: saved.ts,
                at_ms: saved.at,
                data,
                moved_at: crate::source::moved_at(saved.moved, saved.moved_at, saved.offset),
                incomplete: saved.incomplete,
            };
            restored += usize::from(feed.restore(source, state, bytes_max));
        }
        for base in over {
            for keys in [
                format!("state.{base}.>"),
                format!("part.{base}.>"),
                format!("position.{base}"),
                format!("expired.{base}"),
            ] {
                let subject = format!("{}{keys}", self.store.prefix);
                if let Err(error) = self.store.stream.purge().filter(subject).await {
                    tracing::debug!(%error, "states of another stream cannot be removed");
                }
            }
        }
        let expired = self.value(&format!("expired.{base}")).await?;
        let expired = expired.and_then(|(_, text)| std::str::from_utf8(&text).ok()?.parse().ok());
        feed.topics.expired_elsewhere(source, expired.unwrap_or(0));
        Ok(restored)
    }
}

fn part_key(base: &Epoch, key: &str, offset: Offset, part: usize) -> String {
    format!("part.{base}.{key}.{offset}.{part}")
}

/// The first epoch of a stream created then: the same on whichever node gets to it first.
fn epoch_of(created: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let hash =
        created.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let letter = |i: u32| ALPHABET.get((hash >> (5 * i) & 31) as usize).copied().map_or('a', char::from);
    (0..8).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::epoch_of;

    #[test]
    fn a_streams_first_epoch_is_its_own() {
        let of = epoch_of("1795548000000000001");
        assert_eq!(of, epoch_of("1795548000000000001"));
        assert_ne!(of, epoch_of("1795548000000000002"));
        assert_eq!(of.len(), 8);
    }
}
