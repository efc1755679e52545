//! The key-value bucket beside the stream.
//!
//! `epoch` is what all nodes go by; it is changed by compare-and-set. `position.BASE` and the keys under `state.BASE.` are
//! topic states and the sequence up to which they are complete; a state that is larger than one message may be lies in
//! parts, which are written before the key that names them ([`super::states`]). `ended.BASE` is the highest sequence at which a
//! topic ended whose state was removed, and `expired.BASE` up to when topics ended for want of messages. The base is the epoch with which the past began: a purged
//! stream, or another one, has a new base, so that what a node still saves that has not noticed counts for nothing.
//! `saver` names the node that saves, so that one does at a time; a node writes it again and again while it saves.

use std::time::Duration;

use async_nats::jetstream::kv::{self, Store};
use async_nats::jetstream::stream::{DiscardPolicy, LastRawMessageErrorKind};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::link::Connection;
use super::trouble::{Trouble, trouble};
use crate::config;
use crate::position::Epoch;
use crate::source::saving::Hole;
use crate::topic::SavedHole;

const EPOCH: &str = "epoch";
const SAVER: &str = "saver";

/// What stands behind the saver's name while it saves. It writes that again and again.
const SAVING: &str = " saving";

/// Time after which a node that is said to save, and has not said so again, does not.
const SAVING_MAX: Duration = Duration::from_secs(6);

/// Times that a change is tried again because another node was quicker.
pub(super) const ATTEMPTS: usize = 8;

/// What the nodes go by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Agreement {
    /// Which stream, see [`super::held::Held::created`].
    pub(super) created: String,
    pub(super) epoch: Epoch,
    /// The epoch with which the past began: what was saved under another does not count.
    pub(super) base: Epoch,
    /// The bucket's number of this.
    #[serde(skip)]
    pub(super) revision: u64,
}

impl Agreement {
    /// A new epoch after this one; with a new base, what was saved no longer counts. It has this one's revision: that
    /// is what it is to replace.
    pub(super) fn next(&self, has_new_base: bool) -> Self {
        let epoch = Epoch::random();
        let base = if has_new_base { epoch.clone() } else { self.base.clone() };
        Self { created: self.created.clone(), epoch, base, revision: self.revision }
    }
}

/// Up to where saved states are complete.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) sequence: u64,
    /// When the stream took that message, Unix ms.
    pub(super) ms: u64,
    /// Up to when the node that saved may have missed deltas of topics that it does not know, Unix ms.
    #[serde(default)]
    pub(super) missed_ms: Option<u64>,
    /// What the node that saved says of states that it does not know.
    #[serde(default)]
    pub(super) hole: Hole,
    /// How long topics live on that node, as [`crate::source::saving::lifetimes_text`] writes it; older nodes do not say.
    #[serde(default)]
    pub(super) lifetimes: String,
    /// Another one after all states were removed and saved again; older nodes do not say.
    #[serde(default)]
    pub(super) generation: Option<Epoch>,
}

/// The node that saves, or did last.
struct Holder {
    revision: u64,
    name: String,
    is_saving: bool,
}

/// What a node saw of another that saves, and since when.
#[derive(Debug, Default)]
pub(super) struct Seen {
    revision: u64,
    since: Option<Instant>,
}

/// The bucket beside the stream.
#[derive(Clone)]
pub(super) struct Bucket {
    pub(super) connection: Connection,
    pub(super) store: Store,
    /// It removes what was saved, by age or where there is much.
    may_drop: bool,
}

impl Bucket {
    /// Opens it; makes it where it is missing and `config` lets.
    pub(super) async fn open(connection: &Connection, config: &config::Nats) -> Result<Self, Trouble> {
        let name = config.bucket();
        let tried = format!("bucket {name}");
        let context = &connection.context;
        let found = connection.flow.wait(context.get_key_value(&name)).await.map_err(trouble(&tried))?;
        match found {
            Ok(store) => Ok(Self::of(connection, store)),
            Err(_) if config.create => {
                let made = context.create_key_value(kv::Config {
                    bucket: name,
                    description: format!("nexus-push: epoch and saved states of the stream {}", config.stream),
                    history: 1,
                    num_replicas: config.replicas,
                    ..kv::Config::default()
                });
                Ok(Self::of(connection, connection.ask(&tried, made).await?))
            }
            Err(error) => Err(Trouble(format!("{tried}: {error}; create it, or set source.nats.create"))),
        }
    }

    fn of(connection: &Connection, store: Store) -> Self {
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
        Self { connection: connection.clone(), may_drop, store }
    }

    /// Bytes that it held when it was opened.
    pub(super) fn bytes(&self) -> u64 {
        self.store.stream.cached_info().state.bytes
    }

    /// Waits for what the bucket answers for as long as bytes come.
    pub(super) async fn wait<F: Future>(&self, key: &str, asked: F) -> Result<F::Output, Trouble> {
        let waited = self.connection.flow.wait(asked).await;
        waited.map_err(|ended| Trouble(format!("bucket {}, key {key}: {ended}", self.store.name)))
    }

    /// A key's value and its revision, from the bucket's leader: a follower may not have the newest.
    pub(super) async fn value(&self, key: &str) -> Result<Option<(u64, Bytes)>, Trouble> {
        let subject = format!("{}{key}", self.store.prefix);
        let found = self.wait(key, self.store.stream.get_last_raw_message_by_subject(&subject)).await?;
        match found {
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
        for _ in 0..ATTEMPTS {
            let found = self.value(EPOCH).await?;
            let revision = found.as_ref().map_or(0, |(revision, _)| *revision);
            let agreement = found.and_then(|(_, value)| serde_json::from_slice::<Agreement>(&value).ok());
            let of = match agreement {
                Some(agreement) if agreement.created == created => return Ok(Agreement { revision, ..agreement }),
                // A stream may come back that was there before another: not in the epoch that it had.
                Some(other) => format!("{created} {}", other.epoch),
                None => created.to_owned(),
            };
            let proposed = known.cloned().unwrap_or_else(|| {
                let epoch = Epoch::from_text(&epoch_of(&of));
                Agreement { created: created.to_owned(), base: epoch.clone(), epoch, revision: 0 }
            });
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

    /// Sets what the nodes go by, unless another node did meanwhile. The new revision, or nothing if that is so.
    pub(super) async fn set(&self, agreement: &Agreement, revision: u64) -> Result<Option<u64>, Trouble> {
        let tried = format!("bucket {}: changing the epoch", self.store.name);
        let value = serde_json::to_vec(agreement).map_err(trouble(&tried))?;
        self.put_over(EPOCH, value.into(), revision).await
    }

    /// The node that saves, or did last.
    async fn saver(&self) -> Result<Option<Holder>, Trouble> {
        let found = self.value(SAVER).await?;
        Ok(found.map(|(revision, value)| {
            let (name, is_saving) = match value.strip_suffix(SAVING.as_bytes()) {
                Some(name) => (name, true),
                None => (&value[..], false),
            };
            Holder { revision, name: String::from_utf8_lossy(name).into_owned(), is_saving }
        }))
    }

    /// Whether this node is to save now: no other node has since it looked before, or is in the middle of it.
    pub(super) async fn may_save(&self, node: &str, seen: &mut Seen) -> Result<bool, Trouble> {
        let holder = self.saver().await?;
        let revision = holder.as_ref().map_or(0, |holder| holder.revision);
        if let Some(holder) = holder.filter(|holder| holder.name != node) {
            if seen.revision != revision {
                *seen = Seen { revision, since: Some(Instant::now()) };
                return Ok(false);
            }
            if holder.is_saving && seen.since.is_some_and(|since| since.elapsed() < SAVING_MAX) {
                return Ok(false);
            }
        }
        self.hold_saver(node, revision, true).await
    }

    /// Writes that this node saves, or no longer does, over what has this revision. `false` if another was quicker.
    async fn hold_saver(&self, node: &str, revision: u64, is_saving: bool) -> Result<bool, Trouble> {
        let value = format!("{node}{}", if is_saving { SAVING } else { "" });
        Ok(self.put_over(SAVER, value.into(), revision).await?.is_some())
    }

    /// Whether this node still is the one that saves. Says so again, or that it has finished.
    pub(super) async fn still_saves(&self, node: &str, is_saving: bool) -> Result<bool, Trouble> {
        for _ in 0..ATTEMPTS {
            let holder = self.saver().await?;
            let Some(holder) = holder.filter(|holder| holder.name == node) else { return Ok(false) };
            if self.hold_saver(node, holder.revision, is_saving).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) async fn put(&self, key: &str, value: Bytes) -> Result<(), Trouble> {
        let done = self.wait(key, self.store.put(key, value)).await?;
        done.map(drop).map_err(|error| Trouble(format!("bucket {}, key {key}: {error}", self.store.name)))
    }

    /// Writes the position that the states are complete up to, over the one with this revision. `false` if there is another.
    pub(super) async fn save_position(
        &self,
        base: &Epoch,
        position: &Position,
        revision: u64,
    ) -> Result<bool, Trouble> {
        let key = format!("position.{base}");
        let value = serde_json::to_vec(position).map_err(trouble(&key))?;
        Ok(self.put_over(&key, value.into(), revision).await?.is_some())
    }

    /// The number under a key, and its revision.
    pub(super) async fn number(&self, key: &str) -> Result<Option<(u64, u64)>, Trouble> {
        let found = self.value(key).await?;
        Ok(found.and_then(|(revision, text)| Some((revision, std::str::from_utf8(&text).ok()?.parse().ok()?))))
    }

    /// Sees to it that the number under a key is no lower than this.
    async fn raise(&self, key: &str, least: u64) -> Result<(), Trouble> {
        for _ in 0..ATTEMPTS {
            let revision = match self.number(key).await? {
                Some((_, number)) if number >= least => return Ok(()),
                Some((revision, _)) => revision,
                None => self.value(key).await?.map_or(0, |(revision, _)| revision),
            };
            if self.put_over(key, least.to_string().into(), revision).await?.is_some() {
                return Ok(());
            }
        }
        Err(Trouble(format!("bucket {}, key {key}: other nodes change it all the time", self.store.name)))
    }

    /// Says up to when topics have ended for want of deltas, Unix ms: before their states are removed.
    pub(super) async fn save_expired(&self, base: &Epoch, expired_ms: u64) -> Result<(), Trouble> {
        self.raise(&format!("expired.{base}"), expired_ms).await
    }

    /// Says up to which sequence topics have ended: before their states are removed.
    pub(super) async fn save_ended(&self, base: &Epoch, ended: u64) -> Result<(), Trouble> {
        self.raise(&format!("ended.{base}"), ended).await
    }

    /// Up to which sequence topics have ended whose states were removed.
    pub(super) async fn ended(&self, base: &Epoch) -> Result<u64, Trouble> {
        Ok(self.number(&format!("ended.{base}")).await?.map_or(0, |(_, ended)| ended))
    }

    /// Up to where states are saved, if they are, and the bucket's number of that; 0 if there is nothing.
    pub(super) async fn position(&self, base: &Epoch) -> Result<(u64, Option<Position>), Trouble> {
        let Some((revision, value)) = self.value(&format!("position.{base}")).await? else { return Ok((0, None)) };
        Ok((revision, serde_json::from_slice(&value).ok()))
    }

    /// Up to when topics may have had deltas that are in no saved state, Unix ms.
    pub(super) fn missed_ms(&self, position: &Position) -> Option<u64> {
        // A topic whose state has gone is not known to have been there.
        if self.may_drop { Some(position.ms) } else { position.missed_ms }
    }

    /// Which saved states may be out of date.
    pub(super) fn outdated(&self, position: &Position) -> Option<SavedHole> {
        // Where states may be dropped, older nodes always say that they missed some.
        let is_said = !(self.may_drop && position.hole == Hole::Unsaid);
        position.missed_ms.filter(|_| is_said).and_then(|missed_ms| position.hole.clone().outdates(missed_ms))
    }

    /// Up to when topics have ended for want of deltas and were removed, Unix ms; 0 if none were.
    pub(super) async fn expired_ms(&self, base: &Epoch) -> Result<u64, Trouble> {
        Ok(self.number(&format!("expired.{base}")).await?.map_or(0, |(_, expired_ms)| expired_ms))
    }
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
