//! Saved topic states in the bucket.
//!
//! A state is written only over what was there before it was taken, and is taken only when everything has been read up to where
//! topics had ended and been removed by then. So a node that was held up brings nothing back: it knows what was removed before,
//! and what was removed since is not there as it was.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::kv::UpdateErrorKind;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::bucket::{ATTEMPTS, Bucket};
use super::held::Held;
use super::pull::{Pull, Pulled};
use super::read_size::ONE_MOST;
use super::reading::{FORGOTTEN_AFTER, is_lost};
use super::subjects::{self, token};
use super::trouble::{Trouble, trouble};
use crate::config::{Class, PayloadForm};
use crate::name::TopicName;
use crate::position::{Epoch, Offset};
use crate::source::{Feed, SavedState, has_outer_blanks, moved_at};
use crate::topic::{Known, Snapshot, SourceId};

/// Largest piece of a state in one message, in bytes: well below what any server takes.
const PART_BYTES: usize = 512 * 1024;

/// Time without a message after which the bucket is asked whether there are more.
const END_AFTER: Duration = Duration::from_secs(1);

/// States looked for and written at once.
pub(super) const CHUNK: usize = 256;

/// Bytes of pieces that are kept until the key comes that names them. Past it: they are fetched by their keys.
const PARTS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Empty values that a node clears away when it starts. Past it: later starts do.
const CLEARED_MAX: usize = 1_000;

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
    /// How far a `stream` topic had come; its data is an empty list.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
    /// Any other class; older nodes do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    class: Option<Class>,
    /// Pieces of the data, where it does not fit here.
    #[serde(default)]
    parts: usize,
    #[serde(borrow, default, deserialize_with = "crate::source::present", skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    /// In place of it: bytes, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
    /// The hole after which the node that saved it knew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hole: Option<Epoch>,
}

impl Saved<'_> {
    /// When the stream took the message of its offset, Unix ms; 0 where that cannot be said: what may lack deltas of a `stream`
    /// topic has come as far as something else.
    fn taken_ms(&self) -> u64 {
        self.at.filter(|_| !(self.stream && self.incomplete)).unwrap_or(0)
    }

    /// The state, with its data.
    fn with(self, topic: &str, data: Bytes) -> SavedState<'_> {
        let moved_at = moved_at(self.moved, self.moved_at, self.offset);
        let (offset, ts, at_ms, incomplete) = (self.offset, self.ts, self.at, self.incomplete);
        // There is one stream.
        let base = None;
        let (is_stream, class, hole) = (self.stream, self.class, self.hole);
        SavedState { topic, offset, ts, at_ms, data, is_stream, class, moved_at, base, incomplete, hole }
    }
}

/// What was there of a topic before its state was taken.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Before {
    revision: u64,
    /// Offset and pieces of the state, if there was one.
    saved: Option<(Offset, usize)>,
}

/// How far saved states have been put back.
#[derive(Debug, Clone, Default)]
pub(super) struct Restoring {
    /// The bucket's number of the last message that was read.
    after: u64,
    /// States that were put back.
    pub(super) count: usize,
    /// The highest offset of a state that was looked for in the stream; what is complete up to the saved position needs no look.
    looked_upto: u64,
    parts: HashMap<String, Bytes>,
    parts_bytes: usize,
    /// Empty values that were cleared away.
    cleared: usize,
    /// Bases of before, whose states no longer count.
    over: BTreeSet<String>,
}

impl Restoring {
    /// Of states that are complete up to there.
    pub(super) fn new(saved: u64) -> Self {
        Self { looked_upto: saved, ..Self::default() }
    }

    fn keep_part(&mut self, key: &str, part: Bytes) {
        if self.parts_bytes + part.len() > PARTS_BYTES_MAX {
            (self.parts, self.parts_bytes) = (HashMap::new(), 0);
        }
        self.parts_bytes += part.len();
        self.parts.insert(key.to_owned(), part);
    }

    fn take_part(&mut self, key: &str) -> Option<Bytes> {
        let part = self.parts.remove(key)?;
        self.parts_bytes = self.parts_bytes.saturating_sub(part.len());
        Some(part)
    }
}

impl Bucket {
    /// What is there of these topics, before their states are taken. Where nothing is, something is left that is gone when
    /// another node removes the topic.
    pub(super) async fn before(&self, base: &Epoch, names: &[TopicName]) -> Result<HashMap<String, Before>, Trouble> {
        let mut found = HashMap::with_capacity(names.len());
        for chunk in names.chunks(CHUNK) {
            let looks = chunk.iter().map(|name| async move {
                Ok::<_, Trouble>((name.as_str().to_owned(), self.before_one(base, name.as_str()).await?))
            });
            found.extend(try_join_all(looks).await?);
        }
        Ok(found)
    }

    async fn before_one(&self, base: &Epoch, topic: &str) -> Result<Before, Trouble> {
        let head = head_key(base, &token(topic));
        for _ in 0..ATTEMPTS {
            if let Some((revision, value)) = self.value(&head).await? {
                let saved = serde_json::from_slice::<Saved<'_>>(&value).ok().map(|saved| (saved.offset, saved.parts));
                return Ok(Before { revision, saved });
            }
            if let Some(revision) = self.put_over(&head, Bytes::new(), 0).await? {
                return Ok(Before { revision, saved: None });
            }
        }
        Err(Trouble(format!("key {head}: other nodes change it all the time")))
    }

    /// Writes states over what was there before they were taken. Returns the topics for which something else is there by
    /// now: their states are to be taken again.
    pub(super) async fn save_states(
        &self,
        base: &Epoch,
        states: &[Arc<Snapshot>],
        before: &HashMap<String, Before>,
        hole: Option<&Epoch>,
        feed: &Feed,
    ) -> Result<Vec<TopicName>, Trouble> {
        let mut outdated = Vec::new();
        for chunk in states.chunks(CHUNK) {
            // What ended since it was taken is to be removed, not saved.
            let writes = chunk.iter().filter(|state| state.known.is_some()).map(|state| async move {
                let before = before.get(state.topic.as_str()).copied().unwrap_or_default();
                let class = feed.topics.class_of(state.topic.as_str());
                let is_written = self.save_one(base, state, (class, hole), before).await?;
                Ok::<_, Trouble>((!is_written).then(|| state.topic.clone()))
            });
            outdated.extend(try_join_all(writes).await?.into_iter().flatten());
        }
        Ok(outdated)
    }

    /// `false` if something else is there by now than before the state was taken.
    async fn save_one(
        &self,
        base: &Epoch,
        state: &Snapshot,
        (class, hole): (Class, Option<&Epoch>),
        before: Before,
    ) -> Result<bool, Trouble> {
        let tried = state.topic.as_str();
        let key = token(tried);
        if before.saved.is_some_and(|(offset, _)| offset > state.offset) {
            // This node was held up, and another has saved what came since.
            return Ok(true);
        }
        let moved_at = Some(state.moved_at).filter(|at| *at > Offset::ZERO);
        let mut saved = Saved {
            topic: tried.to_owned(),
            offset: state.offset,
            ts: state.ts,
            at: Some(state.at_ms),
            incomplete: state.known != Known::Whole,
            moved: moved_at.is_some(),
            moved_at,
            stream: class == Class::Stream,
            class: Some(class).filter(|class| class.conflatable()),
            parts: 0,
            data: None,
            b64data: None,
            hole: hole.filter(|_| state.known == Known::Whole).cloned(),
        };
        let as_bytes = state.form == PayloadForm::Bytes || has_outer_blanks(&state.data);
        if state.data.len() <= PART_BYTES && as_bytes {
            saved.b64data = Some(STANDARD.encode(&state.data));
        } else if state.data.len() <= PART_BYTES {
            saved.data = Some(serde_json::from_slice(&state.data).map_err(trouble(tried))?);
        } else {
            for (i, part) in state.data.chunks(PART_BYTES).enumerate() {
                self.put(&part_key(base, &key, state.offset, i), Bytes::copy_from_slice(part)).await?;
                saved.parts = i + 1;
            }
        }
        let value = serde_json::to_vec(&saved).map_err(trouble(tried))?;
        if self.put_over(&head_key(base, &key), value.into(), before.revision).await?.is_none() {
            return Ok(false);
        }
        if let Some((offset, parts)) = before.saved.filter(|(offset, _)| *offset != state.offset) {
            self.remove_parts(base, &key, offset, parts).await?;
        }
        Ok(true)
    }

    /// Marks a topic's saved state from before `offset` as incomplete, if there is one.
    pub(super) async fn outdate(&self, base: &Epoch, topic: &str, offset: Offset) -> Result<(), Trouble> {
        let head = head_key(base, &token(topic));
        for _ in 0..ATTEMPTS {
            let Some((revision, value)) = self.value(&head).await? else { return Ok(()) };
            let Ok(saved) = serde_json::from_slice::<Saved<'_>>(&value) else { return Ok(()) };
            if saved.incomplete || saved.offset >= offset {
                return Ok(());
            }
            let outdated =
                serde_json::to_vec(&Saved { incomplete: true, hole: None, ..saved }).map_err(trouble(topic))?;
            if self.put_over(&head, outdated.into(), revision).await?.is_some() {
                return Ok(());
            }
        }
        Err(Trouble(format!("key {head}: other nodes change it all the time")))
    }

    /// Removes what is under a key up to this revision. A marker in its place, as of [`purge`](async_nats::jetstream::kv::Store::purge), would stay
    /// for ever.
    async fn remove_upto(&self, key: &str, revision: u64) -> Result<(), Trouble> {
        let purge = self.store.stream.purge().filter(format!("{}{key}", self.store.prefix));
        let purged = self.wait(key, purge.sequence(revision.saturating_add(1)).into_future()).await?;
        purged.map(drop).map_err(trouble(&format!("bucket {}, key {key}", self.store.name)))
    }

    async fn remove_parts(&self, base: &Epoch, key: &str, offset: Offset, parts: usize) -> Result<(), Trouble> {
        if parts == 0 {
            return Ok(());
        }
        let key = format!("part.{base}.{key}.{offset}.*");
        let purge = self.store.stream.purge().filter(format!("{}{key}", self.store.prefix));
        let purged = self.wait(&key, purge.into_future()).await?;
        purged.map(drop).map_err(trouble(&format!("bucket {}, key {key}", self.store.name)))
    }

    /// Removes the saved state of a topic that ended, unless it is of a later offset. A node that is about to save an older
    /// one finds that something has changed.
    pub(super) async fn remove(&self, base: &Epoch, topic: &str, upto: Offset) -> Result<(), Trouble> {
        let key = token(topic);
        let head = head_key(base, &key);
        for _ in 0..ATTEMPTS {
            let Some((revision, value)) = self.value(&head).await? else { return Ok(()) };
            let saved = serde_json::from_slice::<Saved<'_>>(&value).ok();
            if saved.as_ref().is_some_and(|saved| saved.offset > upto) {
                return Ok(());
            }
            self.remove_upto(&head, revision).await?;
            let (offset, parts) = saved.map_or((Offset::ZERO, 0), |saved| (saved.offset, saved.parts));
            self.remove_parts(base, &key, offset, parts).await?;
            // Another node may have saved it meanwhile.
        }
        Err(Trouble(format!("key {head}: other nodes change it all the time")))
    }

    /// The data of a saved state; `None` if some of its pieces are gone.
    async fn data_of(
        &self,
        base: &Epoch,
        saved: &Saved<'_>,
        restoring: Option<&mut Restoring>,
    ) -> Result<Option<Bytes>, Trouble> {
        // Nodes of before wrote `null` beside what is elsewhere.
        let data = saved.data.filter(|_| saved.parts == 0 && saved.b64data.is_none());
        if let Some(data) = data {
            return Ok(Some(Bytes::copy_from_slice(data.get().as_bytes())));
        }
        if let Some(text) = &saved.b64data {
            return Ok(Some(STANDARD.decode(text).map_err(trouble(&saved.topic))?.into()));
        }
        let (key, mut all, mut restoring) = (token(&saved.topic), Vec::new(), restoring);
        for i in 0..saved.parts {
            let at = part_key(base, &key, saved.offset, i);
            let part = match restoring.as_mut().and_then(|restoring| restoring.take_part(&at)) {
                Some(part) => part,
                None => match self.value(&at).await?.filter(|(_, part)| !part.is_empty()) {
                    Some((_, part)) => part,
                    None => return Ok(None),
                },
            };
            all.extend_from_slice(&part);
        }
        Ok(Some(all.into()))
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
        let found = self.value(&head_key(base, &token(topic))).await?;
        let Some((_, value)) = found.filter(|(_, value)| !value.is_empty()) else { return Ok(false) };
        let saved = serde_json::from_slice::<Saved<'_>>(&value).map_err(trouble(topic))?;
        if saved.incomplete {
            return Ok(false);
        }
        let Some(data) = self.data_of(base, &saved, None).await? else { return Ok(false) };
        Ok(feed.complete(source, saved.with(topic, data), reached, bytes_max))
    }

    /// Puts saved states back as they come, and clears away those that no longer count. Where it breaks off, it goes on with
    /// what is in `restoring`. `false` if some are of messages that the stream has lost: then none of them counts.
    pub(super) async fn restore(
        &self,
        restoring: &mut Restoring,
        stream: &str,
        base: &Epoch,
        (held, source, bytes_max): (&Held, SourceId, usize),
        feed: &Feed,
    ) -> Result<bool, Trouble> {
        let tried = format!("bucket {}: reading saved states", self.store.name);
        // Where the bucket keeps what was there before, too, only the newest of each key counts.
        let keeps_newest = self.store.stream.cached_info().config.max_messages_per_subject == 1;
        let deliver_policy = match restoring.after {
            after if after > 0 && keeps_newest => DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
            _ => DeliverPolicy::LastPerSubject,
        };
        let config = pull::Config {
            deliver_policy,
            filter_subject: format!("{}>", self.store.prefix),
            ack_policy: AckPolicy::None,
            inactive_threshold: FORGOTTEN_AFTER,
            memory_storage: true,
            num_replicas: 1,
            description: Some("nexus-push: saved states".into()),
            ..pull::Config::default()
        };
        let mut pull = self.connection.pull(&self.store.stream, config, ONE_MOST).await?;
        let mut last = held.last;
        // A state that is saved meanwhile moves to the end, so that how many there were at first does not say how many will come.
        let mut left = pull.pending_at_first();
        while let Some(chunk) = next_saved(&mut pull, left).await.map_err(trouble(&tried))? {
            if chunk.is_empty() {
                return Err(Trouble(format!("{tried}: the next message has more than {ONE_MOST} bytes")));
            }
            for pulled in chunk {
                left = pulled.pending;
                if !self.restore_next(restoring, pulled, stream, base, (&mut last, source, bytes_max), feed).await? {
                    return Ok(false);
                }
            }
        }
        for base in std::mem::take(&mut restoring.over) {
            if let Err(error) = self.clear(&base).await {
                tracing::debug!(%error, "states of another stream cannot be removed");
            }
        }
        (restoring.parts, restoring.parts_bytes) = (HashMap::new(), 0);
        Ok(true)
    }

    /// Takes in one message of the bucket. `false` as above.
    async fn restore_next(
        &self,
        restoring: &mut Restoring,
        Pulled { message, sequence, .. }: Pulled,
        stream: &str,
        base: &Epoch,
        (last, source, bytes_max): (&mut u64, SourceId, usize),
        feed: &Feed,
    ) -> Result<bool, Trouble> {
        let key = message.subject.strip_prefix(self.store.prefix.as_str()).unwrap_or_default();
        let mut tokens = key.split('.');
        match (tokens.next(), tokens.next()) {
            (Some("state" | "part" | "position" | "expired" | "ended"), Some(other)) if other != base.as_str() => {
                restoring.over.insert(other.to_owned());
            }
            (Some("part"), _) if !message.payload.is_empty() => {
                restoring.keep_part(key, message.payload.clone());
            }
            // A client removed it, so the state is unknown.
            (Some("state"), _) if message.payload.is_empty() && is_removal(&message) => {
                if let Some(topic) = tokens.next().and_then(subjects::text_of) {
                    feed.leave_out(source, &topic, None, "it was removed from the bucket");
                }
            }
            // Left by a save that was broken off, of a topic that may never come again, or in place of what earlier
            // versions removed. A node that is about to write over it takes the state again.
            (Some("state" | "part"), _) if message.payload.is_empty() && restoring.cleared < CLEARED_MAX => {
                restoring.cleared += 1;
                if let Err(error) = self.remove_upto(key, sequence).await {
                    tracing::debug!(%error, "an empty value is not cleared away");
                }
            }
            (Some("state"), _) => {
                if let Ok(saved) = serde_json::from_slice::<Saved<'_>>(&message.payload) {
                    let offset = saved.offset.get();
                    if offset > restoring.looked_upto {
                        if is_lost(&self.connection, stream, (offset, saved.taken_ms()), last).await? {
                            return Ok(false);
                        }
                        restoring.looked_upto = offset;
                    }
                    self.restore_one(restoring, (key, sequence), base, saved, (source, bytes_max), feed).await?;
                }
            }
            _ => {}
        }
        restoring.after = sequence;
        Ok(true)
    }

    async fn restore_one(
        &self,
        restoring: &mut Restoring,
        (key, revision): (&str, u64),
        base: &Epoch,
        saved: Saved<'_>,
        (source, bytes_max): (SourceId, usize),
        feed: &Feed,
    ) -> Result<(), Trouble> {
        let Some(data) = self.data_of(base, &saved, Some(restoring)).await? else {
            // A newer one comes, or it is broken.
            if self.value(key).await?.is_some_and(|(found, _)| found == revision) {
                feed.leave_out(source, &saved.topic, saved.at, "pieces of it are missing");
            }
            return Ok(());
        };
        let topic = saved.topic.clone();
        restoring.count += usize::from(feed.restore(source, saved.with(&topic, data), bytes_max));
        Ok(())
    }

    /// Removes what was saved under a base. The position first: without it, nothing that is left counts.
    pub(super) async fn clear(&self, base: &str) -> Result<(), Trouble> {
        for key in ["position.BASE", "state.BASE.>", "part.BASE.>", "expired.BASE", "ended.BASE"] {
            let subject = format!("{}{}", self.store.prefix, key.replace("BASE", base));
            let purged = self.wait(key, self.store.stream.purge().filter(subject).into_future()).await?;
            purged.map_err(trouble(key))?;
        }
        Ok(())
    }

    /// Writes a value over what has this revision (0: nothing); the new revision, or nothing if something else is there.
    pub(super) async fn put_over(&self, key: &str, value: Bytes, revision: u64) -> Result<Option<u64>, Trouble> {
        match self.wait(key, self.store.update(key, value, revision)).await? {
            Ok(revision) => Ok(Some(revision)),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(None),
            Err(error) => Err(Trouble(format!("bucket {}, key {key}: {error}", self.store.name))),
        }
    }
}

/// The next messages of the bucket; none at its end. `left` were behind the last one.
async fn next_saved(pull: &mut Pull, left: u64) -> Result<Option<Vec<Pulled>>, Trouble> {
    let mut may_end = left == 0;
    loop {
        if may_end && pull.is_at_end().await? {
            return Ok(None);
        }
        if let Ok(chunk) = tokio::time::timeout(END_AFTER, pull.next()).await {
            return chunk.map(Some);
        }
        // What was left may have been removed since.
        may_end = true;
    }
}

/// Whether this is what the bucket keeps in place of a value that a client removed, or that became too old.
fn is_removal(message: &async_nats::Message) -> bool {
    let has = |name| message.headers.as_ref().is_some_and(|headers| headers.get(name).is_some());
    has("KV-Operation") || has("Nats-Marker-Reason")
}

fn head_key(base: &Epoch, key: &str) -> String {
    format!("state.{base}.{key}")
}

fn part_key(base: &Epoch, key: &str, offset: Offset, part: usize) -> String {
    format!("part.{base}.{key}.{offset}.{part}")
}
