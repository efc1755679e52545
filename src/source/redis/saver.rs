//! Saved topic states: written by one node at a time, read by a starting one, so that it need not read the stream
//! from its beginning and so that states outlive the trimming of the deltas that made them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::{ErrorKind, RedisError, RedisResult, cmd, pipe};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::continuity::{self, Progress};
use super::id::EntryId;
use super::keys::Keys;
use super::link::Link;
use super::masters::Masters;
use crate::config::PayloadForm;
use crate::limits::SAVED_BYTES_AT_ONCE;
use crate::name::TopicName;
use crate::position::{Epoch, Offset};
use crate::source::Feed;
use crate::topic::{Snapshot, SourceId};

/// States in one write.
const CHUNK: usize = 500;

/// Time that a reader has to finish the batch that states were taken in the middle of.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Serialize, Deserialize)]
struct Saved<'a> {
    offset: Offset,
    #[serde(default)]
    ts: Option<u64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    /// In place of it: bytes, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
}

impl Saved<'_> {
    /// The state, as it was published.
    fn bytes(self) -> Option<Bytes> {
        match (self.data, self.b64data) {
            (Some(data), _) => Some(Bytes::copy_from_slice(data.get().as_bytes())),
            (None, text) => text.and_then(|text| STANDARD.decode(text).ok()).map(Bytes::from),
        }
    }
}

fn not_taken(_: tokio::task::JoinError) -> RedisError {
    RedisError::from((ErrorKind::Client, "the states could not be taken"))
}

/// Saves a partition's states now and then, if no other node just did.
pub(super) struct Saver {
    masters: Masters,
    keys: Keys,
    source: SourceId,
    every: Duration,
    progress: Arc<Mutex<Progress>>,
    /// This node, in the lease.
    node: Epoch,
}

impl Saver {
    pub(super) fn new(
        masters: Masters,
        keys: Keys,
        source: SourceId,
        every: Duration,
        progress: Arc<Mutex<Progress>>,
    ) -> Self {
        Self { masters, keys, source, every, progress, node: Epoch::random() }
    }

    pub(super) async fn run(self, feed: Feed, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.every) => {}
            }
            if let Err(error) = self.save(&feed).await {
                tracing::warn!(stream = self.keys.stream, %error, "topic states could not be saved");
            }
        }
    }

    async fn save(&self, feed: &Feed) -> RedisResult<()> {
        let progress = self.progress();
        if !progress.loaded || progress.last.is_zero() {
            return Ok(());
        }
        let mut link = self.masters.connect(&self.keys.stream).await?;
        let lease_ms = u64::try_from(self.every.as_millis()).unwrap_or(u64::MAX).saturating_mul(9) / 10;
        let taken: Option<String> = cmd("SET")
            .arg(&self.keys.saver)
            .arg(self.node.as_str())
            .arg("NX")
            .arg("PX")
            .arg(lease_ms.max(1))
            .query_async(&mut link)
            .await?;
        if taken.is_none() {
            return Ok(());
        }
        let epoch = feed.topics.epoch(self.source);
        // Everything up to here is in the states that are taken from now on, or was saved before.
        let (topics, source) = (feed.topics.clone(), self.source);
        // A walk over all topics: not on a thread that others wait for.
        let names = tokio::task::spawn_blocking(move || topics.unsaved(source)).await.map_err(not_taken)?;
        let outcome = self.save_states(feed, &mut link, &names, &epoch, progress.last).await;
        if outcome.is_err() {
            feed.topics.mark_unsaved(names.iter());
        }
        outcome
    }

    /// Saves the states of these topics, a few at a time so that they take little memory, and then up to where they are.
    async fn save_states(
        &self,
        feed: &Feed,
        link: &mut Link,
        names: &[TopicName],
        epoch: &Epoch,
        last: EntryId,
    ) -> RedisResult<()> {
        let (mut rest, mut saved) = (names.to_vec(), 0);
        loop {
            let (topics, source) = (feed.topics.clone(), self.source);
            let taken = tokio::task::spawn_blocking(move || {
                let (states, looked) = topics.take_unsaved(source, &rest, SAVED_BYTES_AT_ONCE);
                (states, rest.split_off(looked))
            });
            let (states, left) = taken.await.map_err(not_taken)?;
            rest = left;
            let newest = states.iter().map(|state| state.offset).max().unwrap_or_default();
            self.vouch(link, newest).await?;
            if feed.topics.epoch(self.source) != *epoch {
                // What was taken is no longer what this node knows.
                return Ok(());
            }
            self.write(link, &states).await?;
            saved += states.len();
            if rest.is_empty() {
                break;
            }
        }
        cmd("SET").arg(&self.keys.position).arg(last.to_string()).query_async::<()>(link).await?;
        tracing::debug!(stream = self.keys.stream, states = saved, upto = %last, "topic states saved");
        Ok(())
    }

    fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that this master has every delta up to `newest`: one that was promoted without the last of them must not
    /// be given states that hold them, before the reader has noticed too and changed the epoch.
    async fn vouch(&self, link: &mut Link, newest: Offset) -> RedisResult<()> {
        let until = tokio::time::Instant::now() + SETTLE;
        let progress = loop {
            let progress = self.progress();
            if progress.loaded && progress.offset >= newest {
                break progress;
            }
            if tokio::time::Instant::now() > until {
                return Err(RedisError::from((ErrorKind::Client, "the reader is in the middle of something")));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        match continuity::broken(link, &self.keys, &progress).await? {
            None => Ok(()),
            Some(why) => Err(RedisError::from((ErrorKind::Client, "the states are not this master's", why))),
        }
    }

    async fn write(&self, link: &mut Link, states: &[Arc<Snapshot>]) -> RedisResult<()> {
        for chunk in states.chunks(CHUNK) {
            let mut write = pipe();
            for state in chunk {
                let mut saved = Saved { offset: state.offset, ts: state.ts, data: None, b64data: None };
                match state.form {
                    PayloadForm::Bytes => saved.b64data = Some(STANDARD.encode(&state.data)),
                    PayloadForm::Json => match serde_json::from_slice(&state.data) {
                        Ok(data) => saved.data = Some(data),
                        Err(_) => continue,
                    },
                }
                let text = serde_json::to_string(&saved).unwrap_or_default();
                write.cmd("HSET").arg(&self.keys.snapshots).arg(state.topic.as_str()).arg(text).ignore();
            }
            write.query_async::<()>(link).await?;
        }
        Ok(())
    }
}

/// The entry up to which saved states are complete, if any were saved.
pub(super) async fn position(link: &mut Link, keys: &Keys) -> RedisResult<Option<EntryId>> {
    let text: Option<String> = cmd("GET").arg(&keys.position).query_async(link).await?;
    Ok(text.and_then(|text| text.parse().ok()))
}

/// Puts saved states back. Those that are past the stream's newest entry hold deltas that a failover lost: they are
/// left out. Returns how many were put back.
pub(super) async fn restore(
    link: &mut Link,
    keys: &Keys,
    source: SourceId,
    newest: EntryId,
    bytes_max: usize,
    feed: &Feed,
) -> RedisResult<usize> {
    let newest = newest.ceiling();
    let mut cursor = 0u64;
    let mut restored = 0;
    loop {
        let (next, pairs): (u64, Vec<(String, String)>) =
            cmd("HSCAN").arg(&keys.snapshots).arg(cursor).arg("COUNT").arg(CHUNK).query_async(link).await?;
        for (topic, text) in pairs {
            let Ok(saved) = serde_json::from_str::<Saved<'_>>(&text) else { continue };
            if saved.offset > newest {
                continue;
            }
            let (offset, ts) = (saved.offset, saved.ts);
            let Some(data) = saved.bytes() else { continue };
            restored += usize::from(feed.restore(source, &topic, offset, ts, data, bytes_max));
        }
        cursor = next;
        if cursor == 0 {
            return Ok(restored);
        }
    }
}
