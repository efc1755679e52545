//! Reads the stream: what it holds at the start, then what comes, across failures.
//!
//! Offsets are the stream's sequences. The epoch is a key of the bucket, first made of the time at which the stream was
//! created, so that all nodes come to the same. It changes when offsets from before can no longer be compared: the stream
//! is another one, was purged, ends before what was read from it, or let messages go before this node had read them.
//! Whoever notices sets a new one; the others see it within a second. Then topics are loaded anew and subscribers get
//! snapshots.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{self, RetentionPolicy, Stream};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::bucket::{Agreement, Bucket};
use super::held::{Bounds, Break, Held, look};
use super::link::{self, Link};
use super::reading::{Entry, Reading, Start, Suspects};
use super::saver::Saver;
use super::subjects::Subjects;
use super::{Trouble, trouble, unix_ms_of};
use crate::clock::unix_ms;
use crate::config::{self, Config};
use crate::metrics::{Metrics, SourceLabel};
use crate::position::{Epoch, Offset};
use crate::random;
use crate::source::{Feed, Source, SourceStatus};
use crate::topic::{Incoming, SourceId};

/// Time between two looks at the stream and the epoch.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Waits after failures double from the first to the last, each with up to as much jitter.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(5);

/// Connections that end without a new message having been read, one behind the other, before messages are suspected of it.
const SUSPECT_AFTER: u32 = 2;

/// Bytes of a message beside the delta.
const HEADERS_BYTES: usize = 1_024;

/// The reader of the stream.
pub struct NatsSource {
    config: config::Nats,
    subjects: Subjects,
    link: Link,
    history_ttl: Duration,
    id: SourceId,
    delta_bytes_max: usize,
    status: Arc<SourceStatus>,
    metrics: Arc<Metrics>,
    progress: Arc<Mutex<Progress>>,
    agreed: Option<Agreement>,
    /// Highest sequence ever read.
    reached: u64,
    /// Whether this connection got as far as reading.
    began: bool,
    suspects: Suspects,
}

/// How far the stream was read.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// Which stream.
    pub(super) created: String,
    /// Sequence of the last message taken in.
    pub(super) last: u64,
    /// When the stream took it, Unix ms.
    pub(super) last_ms: u64,
    /// What the stream held at the last look.
    pub(super) held: Held,
    /// Whether what the stream held has been read.
    pub(super) loaded: bool,
}

/// Why reading ended.
enum End {
    /// The epoch is another now: what is known must be loaded again.
    EpochChanged,
    /// The connection is gone.
    Lost,
    Trouble(Trouble),
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// A stream that is open.
struct Opened {
    context: Context,
    stream: Stream,
    bucket: Bucket,
    bounds: Bounds,
}

impl NatsSource {
    /// The reader of `nats`' stream, whose connection `link` gives to others.
    pub fn new(config: &Config, nats: &config::Nats, link: Link, id: SourceId, metrics: Arc<Metrics>) -> Self {
        let lag_max_ms = u64::try_from(nats.max_lag.as_millis()).unwrap_or(u64::MAX);
        let longest = config.namespace.values().chain([&config.default]).map(|n| n.history_ttl).max();
        Self {
            config: nats.clone(),
            subjects: Subjects::new(&nats.subjects),
            link,
            history_ttl: longest.unwrap_or_default(),
            id,
            delta_bytes_max: config.limits.delta_bytes,
            status: SourceStatus::new(format!("nats {}", nats.stream), true, lag_max_ms),
            metrics,
            progress: Arc::default(),
            agreed: None,
            reached: 0,
            began: false,
            suspects: Suspects::default(),
        }
    }

    fn label(&self) -> SourceLabel {
        SourceLabel { source: self.status.name.clone() }
    }

    async fn run(mut self, feed: Feed, stop: CancellationToken) {
        // Until it is loaded, nothing is known of what it has.
        feed.topics.doubt(self.id, Offset::ZERO);
        if !self.config.snapshot_every.is_zero() {
            feed.topics.remember_ended(self.id);
        }
        let mut backoff = BACKOFF_FIRST;
        let mut fruitless = 0;
        loop {
            let reached = self.reached;
            self.began = false;
            let end = tokio::select! {
                () = stop.cancelled() => return,
                end = self.connected(&feed, &mut backoff) => end,
            };
            let error = match end {
                End::EpochChanged => continue,
                End::Lost => Trouble("the connection was lost".into()),
                End::Trouble(trouble) => trouble,
            };
            fruitless = if self.began && self.reached == reached { fruitless + 1 } else { 0 };
            if fruitless >= SUSPECT_AFTER {
                tracing::warn!(
                    stream = self.config.stream,
                    after = self.reached,
                    "connections end here again and again: the next messages are fetched one by one"
                );
                self.suspects.add(self.reached);
                fruitless = 0;
            }
            self.status.set_connected(false);
            self.status.note(format!("{error}"));
            self.metrics.source_errors.get_or_create(&self.label()).inc();
            tracing::warn!(stream = self.config.stream, %error, wait_ms = backoff.as_millis(), "NATS cannot be read, trying again");
            let jitter = backoff.mul_f64(random::fraction());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff + jitter) => {}
            }
            backoff = (backoff * 2).min(BACKOFF_LAST);
        }
    }

    /// One connection's life.
    async fn connected(&mut self, feed: &Feed, backoff: &mut Duration) -> End {
        let (client, mut lost) = match link::connect(&self.config).await {
            Ok(connected) => connected,
            Err(trouble) => return trouble.into(),
        };
        let max_payload = client.max_payload();
        if max_payload < self.delta_bytes_max + HEADERS_BYTES {
            tracing::warn!(
                max_payload,
                delta_bytes = self.delta_bytes_max,
                "NATS takes messages of fewer bytes than limits.delta_bytes"
            );
        }
        let context = link::jetstream(client);
        let _held = self.link.hold(context.clone());
        tokio::select! {
            _ = lost.wait_for(|lost| *lost) => End::Lost,
            outcome = self.read(context, feed, backoff) => match outcome {
                Ok(end) | Err(end) => end,
            },
        }
    }

    async fn read(&mut self, context: Context, feed: &Feed, backoff: &mut Duration) -> Result<End, End> {
        let stream = self.stream(&context).await?;
        let bucket = Bucket::open(&context, &self.config).await?;
        let (held, bounds) = (Held::of(stream.cached_info()), Bounds::of(&stream.cached_info().config));
        let opened = Opened { context, stream, bucket, bounds };
        let agreement = opened.bucket.agree(&held.created, self.agreed.as_ref()).await?;
        let base = agreement.base.clone();
        let progress = self.progress();
        let same = self.agreed.as_ref().is_some_and(|known| known.epoch == agreement.epoch);
        let reading = if same && progress.loaded {
            self.agreed = Some(agreement);
            if let Some(why) = self.discontinuity(&opened, &progress, &held).await? {
                return self.break_off(&opened, why).await;
            }
            tracing::info!(stream = self.config.stream, after = progress.last, "NATS is back, reading on");
            self.open(&opened, Start::After(progress.last)).await?
        } else {
            self.load(&opened, feed, agreement, &held).await?
        };
        self.status.set_connected(true);
        self.status.note("");
        *backoff = BACKOFF_FIRST;
        let _saving = (!self.config.snapshot_every.is_zero()).then(|| {
            let saver = Saver {
                bucket: opened.bucket.clone(),
                base: base.clone(),
                source: self.id,
                every: self.config.snapshot_every,
                bytes_max: self.delta_bytes_max,
                progress: self.progress.clone(),
                node: Epoch::random(),
                feed: feed.clone(),
            };
            AbortOnDropHandle::new(tokio::spawn(saver.run()))
        });
        self.follow(&opened, reading, feed).await
    }

    /// The stream; made where it is missing.
    async fn stream(&self, context: &Context) -> Result<Stream, Trouble> {
        let name = &self.config.stream;
        let tried = format!("stream {name}");
        let stream = match context.get_stream(name).await {
            Ok(stream) => stream,
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(inner) if inner.code() == 404 && self.config.create => {
                    let made = context.create_stream(self.new_stream()).await.map_err(trouble(&tried))?;
                    tracing::info!(stream = name, "the stream was missing and was created");
                    made
                }
                GetStreamErrorKind::JetStream(inner) if inner.code() == 404 => {
                    return Err(Trouble(format!("{tried}: {inner}; create it, or set source.nats.create")));
                }
                _ => return Err(Trouble(format!("{tried}: {error}"))),
            },
        };
        if stream.cached_info().config.retention != RetentionPolicy::Limits {
            return Err(Trouble(format!(
                "{tried}: its retention is not limits, so that nodes would take messages from each other"
            )));
        }
        Ok(stream)
    }

    fn new_stream(&self) -> stream::Config {
        let bound = |n: u64| if n == 0 { -1 } else { i64::try_from(n).unwrap_or(i64::MAX) };
        stream::Config {
            name: self.config.stream.clone(),
            subjects: self.config.subjects.clone(),
            description: Some("deltas for nexus-push".into()),
            max_messages: bound(self.config.max_messages),
            max_bytes: bound(self.config.max_bytes),
            max_age: self.config.max_age,
            num_replicas: self.config.replicas,
            allow_direct: true,
            ..stream::Config::default()
        }
    }

    async fn open(&mut self, opened: &Opened, start: Start) -> Result<Reading, Trouble> {
        self.began = true;
        Reading::open(opened.context.clone(), opened.stream.clone(), start, self.suspects.clone()).await
    }

    fn progress(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn last(&self) -> u64 {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).last
    }

    fn change_progress(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Why what this node knows does not join up with what the stream holds now that it is back, if it does not.
    async fn discontinuity(&self, opened: &Opened, progress: &Progress, held: &Held) -> Result<Option<Break>, Trouble> {
        let found = look(progress.last, &progress.held, held, &opened.bounds, unix_ms());
        if found.is_some() || progress.last == 0 || progress.last < held.first {
            return Ok(found);
        }
        // The stream may have come back without its last messages, and have taken others since.
        let other = match opened.stream.get_raw_message(progress.last).await {
            Ok(message) => progress.last_ms != 0 && unix_ms_of(message.time) != progress.last_ms,
            // Deleted by itself, or not to be parsed.
            Err(_) => false,
        };
        Ok(other.then_some(Break::Rewritten))
    }

    /// Offsets can no longer be compared: says so to all nodes.
    async fn break_off(&self, opened: &Opened, why: Break) -> Result<End, End> {
        let Some(known) = &self.agreed else { return Ok(End::EpochChanged) };
        opened.bucket.change(known, why.ends_the_past()).await?;
        let (stream, why) = (&self.config.stream, why.reason());
        tracing::warn!(stream, why, old = %known.epoch, "offsets can no longer be compared: the epoch changes");
        Ok(End::EpochChanged)
    }

    /// Takes in everything that NATS holds: saved states, then the stream.
    async fn load(&mut self, opened: &Opened, feed: &Feed, agreement: Agreement, held: &Held) -> Result<Reading, End> {
        if self.agreed.as_ref().is_some_and(|known| known.epoch != agreement.epoch) {
            self.metrics.epoch_changes.get_or_create(&self.label()).inc();
        }
        self.status.set_loaded(false);
        self.change_progress(|progress| *progress = Progress::default());
        self.agreed = Some(agreement.clone());
        let saved = opened.bucket.position(&agreement.base, held).await?;
        let base = saved.as_ref().map_or(0, |saved| saved.sequence);
        // Whether every topic is known once what was saved and what the stream holds is read.
        let complete = held.first <= base + 1 && (opened.bounds.others || held.is_without_holes());
        if !complete && held.last > base {
            tracing::warn!(
                stream = self.config.stream,
                saved = base,
                first = held.first,
                "messages are gone that are in no saved state: states that they changed are incomplete until they are published whole (kind: snapshot)"
            );
        }
        let complete = complete || held.last <= base;
        let upto = saved.as_ref().map(|saved| saved.sequence);
        // Far enough back for the history that recovery needs, and never after what was saved.
        let ttl_ms = u64::try_from(self.history_ttl.as_millis()).unwrap_or(u64::MAX);
        let recent_ms = held.last_ms.min(unix_ms()).saturating_sub(ttl_ms);
        let start = match &saved {
            None => Start::After(0),
            Some(saved) if saved.ms <= recent_ms => Start::After(saved.sequence),
            Some(_) => Start::At(i128::from(recent_ms) * 1_000_000),
        };
        let mut reading = self.open(opened, start).await?;
        let mut chunk = match reading.is_at_end().await? {
            true => Vec::new(),
            false => self.load_next(&mut reading).await?,
        };
        // What came before the first message that is read here is not known here.
        let floor = chunk.first().map_or(held.last, |entry| entry.sequence.saturating_sub(1));
        feed.topics.load(self.id, &agreement.epoch, Offset::new(floor).unwrap_or_default(), complete);
        // What was saved under another base is cleared away, whether anything is put back or not.
        let restored = opened
            .bucket
            .restore((&opened.context, &self.config.stream), &agreement.base, held, self.id, self.delta_bytes_max, feed)
            .await?;
        let mut count = 0;
        let mut expected = chunk.first().map_or(0, |entry| entry.sequence).min(held.first.max(base + 1));
        while !chunk.is_empty() {
            count += chunk.len();
            for entry in &chunk {
                if entry.sequence > expected.max(base + 1) && expected > 0 && !opened.bounds.others {
                    tracing::warn!(
                        stream = self.config.stream,
                        before = entry.sequence,
                        "messages were let go of before they were read: states are incomplete until they are published whole (kind: snapshot)"
                    );
                    feed.topics.doubt(self.id, Offset::new(entry.sequence - 1).unwrap_or_default());
                }
                expected = entry.sequence + 1;
            }
            let at_end = chunk.last().is_some_and(|entry| entry.pending == 0 || entry.sequence >= held.last);
            for entry in chunk {
                self.take_in(entry, feed, upto).await;
            }
            if at_end {
                break;
            }
            self.status.note(format!("loading, {count} messages so far"));
            chunk = self.load_next(&mut reading).await?;
        }
        feed.topics.loaded(self.id);
        self.change_progress(|progress| {
            // An empty stream may have had messages: reading goes on after the last that it ever had.
            progress.last = if count == 0 { held.last } else { progress.last };
            progress.created.clone_from(&held.created);
            progress.held = held.clone();
            progress.loaded = true;
        });
        self.status.set_loaded(true);
        tracing::info!(stream = self.config.stream, epoch = %agreement.epoch, restored, messages = count, "loaded");
        Ok(reading)
    }

    /// The next messages of a load; none at the end.
    async fn load_next(&self, reading: &mut Reading) -> Result<Vec<Entry>, Trouble> {
        loop {
            if let Ok(chunk) = tokio::time::timeout(LOOK_EVERY, reading.next()).await {
                return chunk;
            }
            if reading.is_at_end().await? {
                return Ok(Vec::new());
            }
        }
    }

    /// Reads on until something breaks or the epoch changes.
    async fn follow(&mut self, opened: &Opened, mut reading: Reading, feed: &Feed) -> Result<End, End> {
        let mut clock = interval_at(Instant::now(), LOOK_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut behind_since = None;
        loop {
            let chunk = tokio::select! {
                chunk = reading.next() => chunk?,
                _ = clock.tick() => {
                    let (before, now_ms) = (self.progress(), unix_ms());
                    if let Some(end) = self.look(opened, &before).await? {
                        return Ok(end);
                    }
                    // What is there for longer than since the last look should have been read.
                    behind_since = (before.held.last > before.last).then(|| behind_since.unwrap_or(now_ms));
                    if behind_since.is_none() {
                        // What was there at the look before this one has been read.
                        let looked_ms = u64::try_from(LOOK_EVERY.as_millis()).unwrap_or(0);
                        feed.topics.read_upto(self.id, now_ms.saturating_sub(2 * looked_ms), 0);
                    }
                    self.status.read(0, behind_since.map_or(0, |since| now_ms.saturating_sub(since)));
                    continue;
                }
            };
            let (mut count, mut lag_ms) = (0, 0);
            for entry in chunk {
                let last = self.last();
                if entry.sequence <= last {
                    continue;
                }
                // Deleted one by one, or let go before they were read?
                if entry.sequence > last + 1 && !opened.bounds.others {
                    let before = self.progress();
                    if let Some(end) = self.look(opened, &before).await? {
                        return Ok(end);
                    }
                }
                count += 1;
                lag_ms = if entry.pending == 0 { 0 } else { unix_ms().saturating_sub(entry.ms) };
                let upto_ms = entry.ms;
                self.take_in(entry, feed, None).await;
                feed.topics.read_upto(self.id, upto_ms, 0);
            }
            self.status.read(count, lag_ms);
        }
    }

    /// Looks at the stream and at what the other nodes go by; why to stop reading, if that is so.
    async fn look(&self, opened: &Opened, before: &Progress) -> Result<Option<End>, End> {
        let stream = opened.context.get_stream(&self.config.stream).await.map_err(trouble("looking at the stream"))?;
        let held = Held::of(stream.cached_info());
        let known = self.agreed.as_ref();
        if held.created != before.created {
            tracing::warn!(stream = self.config.stream, "another stream of this name: it was deleted and created anew");
            return Ok(Some(End::EpochChanged));
        }
        let agreement = match opened.bucket.agreement().await? {
            Some(agreement) => agreement,
            None => opened.bucket.agree(&held.created, known).await?,
        };
        if known.is_none_or(|known| known.epoch != agreement.epoch) {
            tracing::warn!(stream = self.config.stream, found = %agreement.epoch, "another node changed the epoch");
            return Ok(Some(End::EpochChanged));
        }
        let bounds = Bounds::of(&stream.cached_info().config);
        if let Some(why) = look(before.last, &before.held, &held, &bounds, unix_ms()) {
            return self.break_off(opened, why).await.map(Some);
        }
        self.change_progress(|progress| progress.held = held);
        Ok(None)
    }

    /// Takes a message in. Up to `saved`, states that were saved say what deltas have come to.
    async fn take_in(&mut self, entry: Entry, feed: &Feed, saved: Option<u64>) {
        let (sequence, ms) = (entry.sequence, entry.ms);
        let form = |topic: &str| feed.topics.payload_form(topic);
        match (entry.delta(&self.subjects, self.delta_bytes_max, &form), Offset::new(sequence)) {
            (Ok(delta), Some(_))
                if saved.is_some_and(|saved| sequence <= saved) && feed.topics.is_conflatable(&delta.topic) => {}
            (Ok(delta), Some(offset)) => {
                let incoming = Incoming {
                    topic: &delta.topic,
                    kind: delta.kind,
                    ts: delta.ts.or(Some(ms)),
                    at_ms: Some(ms),
                    payload: delta.payload,
                    offset: Some(offset),
                    source: self.id,
                };
                if let Err(error) = feed.publish(incoming).await {
                    self.skip(sequence, &error.to_string());
                }
            }
            (Ok(_), None) => self.skip(sequence, "its sequence is past the last that fits an offset"),
            (Err(reason), _) => {
                self.metrics.refused_delta("entry");
                self.skip(sequence, &reason);
            }
        }
        self.reached = self.reached.max(sequence);
        self.change_progress(|progress| (progress.last, progress.last_ms) = (sequence, ms));
    }

    fn skip(&self, sequence: u64, reason: &str) {
        self.status.skip();
        self.metrics.source_skipped.get_or_create(&self.label()).inc();
        tracing::debug!(stream = self.config.stream, sequence, reason, "a message was skipped");
    }
}

impl Source for NatsSource {
    fn status(&self) -> Arc<SourceStatus> {
        self.status.clone()
    }

    fn run(self: Box<Self>, feed: Feed, stop: CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin((*self).run(feed, stop))
    }
}
