//! Reads one partition: what it holds at the start, then what comes, across failures.
//!
//! The epoch of a partition is a key beside the stream, so that all nodes agree on it. It changes when offsets from
//! before can no longer be compared: the key is gone (a wiped database), the stream's IDs went backwards (a failover
//! that lost writes), or entries were trimmed before this node had read them. Whoever notices sets a new one; the
//! others see it within a second. Then the partition's topics are loaded anew and subscribers get snapshots.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{RedisResult, Value, cmd, pipe};
use bytes::Bytes;
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;

use super::id::{EntryId, OffsetPacker};
use super::keys::Keys;
use super::saver;
use crate::clock::unix_ms;
use crate::config::{self, Config};
use crate::metrics::{Metrics, SourceLabel};
use crate::position::{Epoch, Offset};
use crate::source::{Feed, Source, SourceStatus};
use crate::topic::{Incoming, Kind, Payload, SourceId};

/// Entries a read returns at most.
const BATCH: usize = 1_000;

/// Entries a read returns at most while loading.
const LOAD_BATCH: usize = 5_000;

/// Time a read waits for entries. Also how often the epoch is looked at when nothing comes.
const BLOCK_MS: usize = 1_000;

/// Batches from this length on are checked for entries that were trimmed before they were read.
const CHECK_FROM: usize = 32;

/// Waits after failures double from the first to the last, each with up to as much jitter.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(5);

/// Sets a new epoch if it still is the one that the caller knows; returns what it is then.
const CHANGE_EPOCH: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end \
                            return redis.call('GET', KEYS[1])";

/// The reader of one partition.
pub struct RedisSource {
    client: ::redis::Client,
    config: config::Redis,
    history_ttl: Duration,
    keys: Keys,
    id: SourceId,
    delta_bytes_max: usize,
    status: Arc<SourceStatus>,
    metrics: Arc<Metrics>,
    progress: Arc<Mutex<Progress>>,
    packer: OffsetPacker,
    epoch: Option<Epoch>,
}

/// How far a partition was read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    /// Last entry taken in.
    pub(super) last: EntryId,
    /// Whether what the partition held has been read.
    pub(super) loaded: bool,
}

/// The epoch is another now: what is known must be loaded again.
struct EpochChanged;

impl RedisSource {
    /// The reader of `config`'s stream number `partition`.
    ///
    /// # Errors
    /// If the URL cannot be read.
    pub fn new(config: &Config, redis: &config::Redis, partition: u16, metrics: Arc<Metrics>) -> RedisResult<Self> {
        let stream = redis.streams.get(usize::from(partition)).cloned().unwrap_or_default();
        let lag_max_ms = u64::try_from(redis.max_lag.as_millis()).unwrap_or(u64::MAX);
        let longest = config.namespace.values().chain([&config.default]).map(|n| n.history_ttl).max();
        Ok(Self {
            client: ::redis::Client::open(redis.url.as_str())?,
            config: redis.clone(),
            history_ttl: longest.unwrap_or_default(),
            keys: Keys::new(&stream),
            id: SourceId(partition),
            delta_bytes_max: config.limits.delta_bytes,
            status: SourceStatus::new(format!("redis {stream}"), true, lag_max_ms),
            metrics,
            progress: Arc::default(),
            packer: OffsetPacker::default(),
            epoch: None,
        })
    }

    fn label(&self) -> SourceLabel {
        SourceLabel { source: self.status.name.clone() }
    }

    async fn run(mut self, feed: Feed, stop: CancellationToken) {
        let every = self.config.snapshot_every;
        if !every.is_zero() {
            let saver =
                saver::Saver::new(self.client.clone(), self.keys.clone(), self.id, every, self.progress.clone());
            tokio::spawn(saver.run(feed.clone(), stop.clone()));
        }
        let mut backoff = BACKOFF_FIRST;
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.connected(&feed, &mut backoff) => outcome,
            };
            match outcome {
                Ok(EpochChanged) => continue,
                Err(error) => {
                    self.status.set_connected(false);
                    self.status.note(format!("{error}"));
                    self.metrics.source_errors.get_or_create(&self.label()).inc();
                    tracing::warn!(stream = self.keys.stream, %error, wait_ms = backoff.as_millis(), "Redis cannot be read, trying again");
                }
            }
            let jitter = backoff.mul_f64(rand::rng().random::<f64>());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff + jitter) => {}
            }
            backoff = (backoff * 2).min(BACKOFF_LAST);
        }
    }

    /// One connection's life.
    async fn connected(&mut self, feed: &Feed, backoff: &mut Duration) -> RedisResult<EpochChanged> {
        let mut connection = super::connect(&self.client).await?;
        let epoch = self.agree_on_epoch(&mut connection).await?;
        let progress = self.progress();
        if self.epoch.as_ref() == Some(&epoch) && progress.loaded {
            if let Some(why) = self.discontinuity(&mut connection, progress.last).await? {
                self.change_epoch(&mut connection, &why).await?;
                return Ok(EpochChanged);
            }
            tracing::info!(stream = self.keys.stream, after = %progress.last, "Redis is back, reading on");
        } else {
            self.load(&mut connection, feed, epoch).await?;
        }
        self.status.set_connected(true);
        self.status.note("");
        *backoff = BACKOFF_FIRST;
        self.follow(&mut connection, feed).await
    }

    fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_progress(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    async fn agree_on_epoch(&self, connection: &mut MultiplexedConnection) -> RedisResult<Epoch> {
        let proposed = Epoch::random();
        let (agreed,): (String,) = pipe()
            .cmd("SET")
            .arg(&self.keys.epoch)
            .arg(proposed.as_str())
            .arg("NX")
            .ignore()
            .cmd("GET")
            .arg(&self.keys.epoch)
            .query_async(connection)
            .await?;
        Ok(Epoch::from_text(&agreed))
    }

    async fn change_epoch(&self, connection: &mut MultiplexedConnection, why: &str) -> RedisResult<()> {
        let known = self.epoch.as_ref().map_or("", Epoch::as_str);
        let new: Option<String> = cmd("EVAL")
            .arg(CHANGE_EPOCH)
            .arg(1)
            .arg(&self.keys.epoch)
            .arg(known)
            .arg(Epoch::random().as_str())
            .query_async(connection)
            .await?;
        tracing::warn!(
            stream = self.keys.stream,
            why,
            old = known,
            new,
            "offsets can no longer be compared: the epoch changes"
        );
        Ok(())
    }

    /// Why what this node knows does not join up with what the stream holds, if it does not.
    async fn discontinuity(
        &self,
        connection: &mut MultiplexedConnection,
        last: EntryId,
    ) -> RedisResult<Option<String>> {
        if last.is_zero() {
            return Ok(None);
        }
        let newest = self.last_generated(connection).await?;
        if newest < last {
            return Ok(Some(format!("the stream's last ID is {newest}, but {last} was read from it")));
        }
        let first = self.first_entry(connection).await?;
        let lost = match first {
            Some(first) => first > last && newest > last,
            None => newest > last,
        };
        Ok(lost.then(|| format!("entries after {last} were trimmed before they were read")))
    }

    async fn last_generated(&self, connection: &mut MultiplexedConnection) -> RedisResult<EntryId> {
        let reply: RedisResult<Value> = cmd("XINFO").arg("STREAM").arg(&self.keys.stream).query_async(connection).await;
        match reply {
            Ok(Value::Array(fields)) => {
                let mut pairs = fields.chunks(2);
                let found = pairs.find_map(|pair| match pair {
                    [name, value] if text(name) == Some("last-generated-id") => text(value)?.parse().ok(),
                    _ => None,
                });
                Ok(found.unwrap_or_default())
            }
            Ok(_) => Ok(EntryId::default()),
            // No such key: an empty stream.
            Err(error) if error.code() == Some("ERR") => Ok(EntryId::default()),
            Err(error) => Err(error),
        }
    }

    async fn first_entry(&self, connection: &mut MultiplexedConnection) -> RedisResult<Option<EntryId>> {
        let reply: Value =
            cmd("XRANGE").arg(&self.keys.stream).arg("-").arg("+").arg("COUNT").arg(1).query_async(connection).await?;
        Ok(entries(reply).first().map(|entry| entry.id))
    }

    /// Takes in everything that Redis holds: saved states, then the stream.
    async fn load(&mut self, connection: &mut MultiplexedConnection, feed: &Feed, epoch: Epoch) -> RedisResult<()> {
        let changed = self.epoch.as_ref().is_some_and(|known| *known != epoch);
        if changed {
            self.metrics.epoch_changes.get_or_create(&self.label()).inc();
        }
        self.status.set_loaded(false);
        self.set_progress(Progress::default());
        self.epoch = Some(epoch.clone());

        let newest = self.last_generated(connection).await?;
        let saved = saver::position(connection, &self.keys).await?.filter(|at| *at <= newest);
        // Far enough back for the history that recovery needs, and never after what was saved.
        let ttl_ms = u64::try_from(self.history_ttl.as_millis()).unwrap_or(u64::MAX);
        let recent = EntryId { ms: newest.ms.min(unix_ms()).saturating_sub(ttl_ms), seq: 0 };
        let start = saved.map_or(EntryId::default(), |at| at.min(recent));
        let first = self.first_entry(connection).await?;
        if let (Some(at), Some(first)) = (saved, first)
            && first > at
        {
            tracing::warn!(stream = self.keys.stream, saved = %at, %first, "the stream begins after the saved states end: changes in between are lost until they are published again");
        }
        // What came before the first entry that is read here is not known here.
        let before_first =
            first.map_or(newest, |first| first.max(start)).offset().map_or(0, |o| o.get().saturating_sub(1));
        let floor = if first.is_none() {
            newest.offset().unwrap_or_default()
        } else {
            Offset::new(before_first).unwrap_or_default()
        };
        feed.topics.load(self.id, &epoch, floor);
        let mut restored = 0;
        if saved.is_some() {
            restored = saver::restore(connection, &self.keys, self.id, newest, self.delta_bytes_max, feed).await?;
        }
        self.packer = OffsetPacker::after(floor);
        let mut last = start;
        let mut count = 0;
        loop {
            let from = if last.is_zero() { "-".to_owned() } else { format!("({last}") };
            let reply: Value = cmd("XRANGE")
                .arg(&self.keys.stream)
                .arg(from)
                .arg("+")
                .arg("COUNT")
                .arg(LOAD_BATCH)
                .query_async(connection)
                .await?;
            let batch = entries(reply);
            let whole = batch.len() == LOAD_BATCH;
            count += batch.len();
            last = batch.last().map_or(last, |entry| entry.id);
            self.take_in(batch, feed).await;
            self.status.note(format!("loading, {count} entries so far"));
            if !whole {
                break;
            }
        }
        feed.topics.loaded(self.id);
        // An empty stream may have had entries: reading goes on after the last that it ever had.
        self.set_progress(Progress { last: last.max(if count == 0 { newest } else { last }), loaded: true });
        self.status.set_loaded(true);
        tracing::info!(stream = self.keys.stream, %epoch, restored, entries = count, "loaded");
        Ok(())
    }

    /// Reads on until something breaks or the epoch changes.
    async fn follow(&mut self, connection: &mut MultiplexedConnection, feed: &Feed) -> RedisResult<EpochChanged> {
        loop {
            let before = self.progress().last;
            let (epoch, reply): (Option<String>, Value) = pipe()
                .cmd("GET")
                .arg(&self.keys.epoch)
                .cmd("XREAD")
                .arg("COUNT")
                .arg(BATCH)
                .arg("BLOCK")
                .arg(BLOCK_MS)
                .arg("STREAMS")
                .arg(&self.keys.stream)
                .arg(before.to_string())
                .query_async(connection)
                .await?;
            if epoch.as_deref() != self.epoch.as_ref().map(Epoch::as_str) {
                tracing::warn!(
                    stream = self.keys.stream,
                    found = epoch,
                    "another epoch: the database was wiped, or another node changed it"
                );
                return Ok(EpochChanged);
            }
            let batch = streams(reply);
            let count = batch.len();
            let Some(last) = batch.last().map(|entry| entry.id) else {
                self.status.read(0, 0);
                if self.last_generated(connection).await? < before {
                    self.change_epoch(connection, "the stream's IDs went backwards").await?;
                    return Ok(EpochChanged);
                }
                continue;
            };
            if count >= CHECK_FROM
                && !before.is_zero()
                && self.first_entry(connection).await?.is_some_and(|first| first > before)
            {
                self.change_epoch(connection, "entries were trimmed before they were read").await?;
                return Ok(EpochChanged);
            }
            self.take_in(batch, feed).await;
            self.set_progress(Progress { last, loaded: true });
            // Less than a full batch: nothing more was waiting.
            let lag_ms = if count < BATCH { 0 } else { unix_ms().saturating_sub(last.ms) };
            self.status.read(count as u64, lag_ms);
        }
    }

    async fn take_in(&mut self, batch: Vec<Entry>, feed: &Feed) {
        for entry in batch {
            let Some((offset, raised)) = self.packer.pack(entry.id) else {
                self.skip(entry.id, "its ID is past the last that fits an offset");
                continue;
            };
            if raised {
                self.metrics.offset_carries.inc();
            }
            let id = entry.id;
            match self.delta(entry.fields) {
                Ok(delta) => {
                    let incoming = Incoming {
                        topic: &delta.topic,
                        kind: delta.kind,
                        ts: delta.ts.or(Some(id.ms)),
                        payload: delta.payload,
                        offset: Some(offset),
                        source: self.id,
                    };
                    if let Err(error) = feed.publish(incoming).await {
                        self.skip(id, &error.to_string());
                    }
                }
                Err(reason) => {
                    self.metrics.refused_delta("entry");
                    self.skip(id, &reason);
                }
            }
        }
    }

    fn skip(&self, id: EntryId, reason: &str) {
        self.status.skip();
        self.metrics.source_skipped.get_or_create(&self.label()).inc();
        tracing::debug!(stream = self.keys.stream, %id, reason, "an entry was skipped");
    }

    /// Reads an entry's fields.
    fn delta(&self, fields: Vec<Value>) -> Result<EntryDelta, String> {
        decode_entry(fields, &self.config, self.delta_bytes_max)
    }
}

impl Source for RedisSource {
    fn status(&self) -> Arc<SourceStatus> {
        self.status.clone()
    }

    fn run(self: Box<Self>, feed: Feed, stop: CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin((*self).run(feed, stop))
    }
}

/// A delta as an entry gives it.
pub(super) struct EntryDelta {
    topic: String,
    kind: Kind,
    ts: Option<u64>,
    payload: Payload,
}

/// Reads `field value field value …`. Fields that are not configured are ignored.
fn decode_entry(fields: Vec<Value>, config: &config::Redis, bytes_max: usize) -> Result<EntryDelta, String> {
    let (mut topic, mut data, mut kind, mut ts) = (None, None, Kind::Delta, None);
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        let Some(name) = text(&name) else { continue };
        if name == config.topic_field {
            topic = text(&value).map(str::to_owned);
        } else if name == config.data_field {
            data = match value {
                Value::BulkString(bytes) => Some(Bytes::from(bytes)),
                Value::SimpleString(text) => Some(Bytes::from(text)),
                _ => None,
            };
        } else if name == config.kind_field {
            kind = match text(&value) {
                Some("snapshot") => Kind::Snapshot,
                Some("delta" | "") => Kind::Delta,
                other => {
                    return Err(format!("field {:?} is {other:?}, it may be delta or snapshot", config.kind_field));
                }
            };
        } else if name == config.ts_field {
            ts = text(&value).and_then(|t| t.parse().ok());
        }
    }
    let topic = topic.ok_or_else(|| format!("field {:?} is missing", config.topic_field))?;
    let data = data.ok_or_else(|| format!("field {:?} is missing", config.data_field))?;
    let payload = Payload::new(data, bytes_max).map_err(|e| e.to_string())?;
    Ok(EntryDelta { topic, kind, ts, payload })
}

/// An entry as Redis sends it.
struct Entry {
    id: EntryId,
    fields: Vec<Value>,
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// Entries of an `XRANGE` reply. One without fields (deleted meanwhile) or with an ID that is none is left out.
fn entries(reply: Value) -> Vec<Entry> {
    let Value::Array(list) = reply else { return Vec::new() };
    list.into_iter()
        .filter_map(|entry| {
            let Value::Array(parts) = entry else { return None };
            let mut parts = parts.into_iter();
            let id = text(&parts.next()?)?.parse().ok()?;
            let fields = match parts.next() {
                Some(Value::Array(fields)) => fields,
                _ => Vec::new(),
            };
            Some(Entry { id, fields })
        })
        .collect()
}

/// An entry as it was read: topic and bytes, or what was wrong.
pub type ReadEntry = (EntryId, Result<(String, usize), String>);

/// The entries of any reply to `XRANGE` or `XREAD`, read as the source reads them.
pub fn read_entries(reply: Value, config: &config::Redis, bytes_max: usize) -> Vec<ReadEntry> {
    let found = [entries(reply.clone()), streams(reply)].into_iter().flatten();
    found
        .map(|entry| {
            let delta = decode_entry(entry.fields, config, bytes_max);
            (entry.id, delta.map(|delta| (delta.topic, delta.payload.bytes().len())))
        })
        .collect()
}

/// Entries of an `XREAD` reply for one stream.
fn streams(reply: Value) -> Vec<Entry> {
    let Value::Array(streams) = reply else { return Vec::new() };
    match streams.into_iter().next() {
        Some(Value::Array(parts)) => parts.into_iter().nth(1).map(entries).unwrap_or_default(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Vec<Value> {
        let bulk = |s: &str| Value::BulkString(s.as_bytes().to_vec());
        pairs.iter().flat_map(|(k, v)| [bulk(k), bulk(v)]).collect()
    }

    #[test]
    fn entries_are_read_or_refused_with_a_reason() {
        let config = config::Redis::default();
        let read = |pairs: &[(&str, &str)]| decode_entry(fields(pairs), &config, 1_000);
        let good =
            read(&[("x", "y"), ("topic", "a:b"), ("data", "{}"), ("ts", "5"), ("kind", "snapshot")]).ok().unwrap();
        assert_eq!((good.topic.as_str(), good.kind, good.ts), ("a:b", Kind::Snapshot, Some(5)));
        for (pairs, needle) in [
            (&[("data", "{}")][..], "\"topic\" is missing"),
            (&[("topic", "a")], "\"data\" is missing"),
            (&[("topic", "a"), ("data", "{")], "not JSON"),
            (&[("topic", "a"), ("data", "1"), ("kind", "x")], "delta or snapshot"),
        ] {
            assert!(read(pairs).err().unwrap().contains(needle), "{needle}");
        }
        assert!(decode_entry(vec![Value::Nil], &config, 10).is_err());
    }
}
