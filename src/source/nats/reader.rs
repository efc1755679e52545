//! Reads the stream: what it holds at the start, then what comes, across failures.
//!
//! Offsets are the stream's sequences. The epoch is a key of the bucket, first made of the time at which the stream was
//! created, so that all nodes come to the same. It changes when offsets from before can no longer be compared: the stream
//! is another one, was purged, or ends before what was read from it. Whoever notices sets a new one; the others see it within
//! a second. Then topics are loaded anew and subscribers get snapshots. A node that has missed messages loads again by itself.

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
use super::loading::{Gaps, Loading};
use super::reading::{Entry, Reading, Start, Suspects};
use super::saver::Saver;
use super::subjects::Subjects;
use super::{Trouble, trouble, unix_ms_of};
use crate::clock::unix_ms;
use crate::config::{self, Config};
use crate::metrics::{Metrics, SourceLabel};
use crate::position::{Epoch, Offset};
use crate::source::refusals::{Head, Reason, Refusal, Refusals};
use crate::source::{Feed, Source, SourceStatus};
use crate::topic::{Incoming, SourceId};

/// Time between two looks at the stream and the epoch.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Waits after failures double from the first to the last, each with up to as much jitter.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(5);

/// Connections that end without a new message having been read, one behind the other, before messages are suspected of it.
const SUSPECT_AFTER: u32 = 2;

/// Bytes of a message beside the delta.
const HEADERS_BYTES: usize = 1_024;

/// The reader of the stream.
pub struct NatsSource {
    pub(super) config: config::Nats,
    subjects: Subjects,
    link: Link,
    pub(super) history_ttl: Duration,
    pub(super) id: SourceId,
    pub(super) delta_bytes_max: usize,
    pub(super) status: Arc<SourceStatus>,
    pub(super) metrics: Arc<Metrics>,
    progress: Arc<Mutex<Progress>>,
    pub(super) agreed: Option<Agreement>,
    /// Highest sequence ever read.
    reached: u64,
    /// Whether this connection got as far as reading.
    began: bool,
    suspects: Suspects,
    /// A load under way, or one that broke off.
    pub(super) loading: Option<Loading>,
    /// The base of a past that has ended, where that could not be said in the bucket.
    pub(super) over: Option<Epoch>,
    /// Whether this connection has said that messages are missing.
    pub(super) has_warned: bool,
    refusals: Refusals,
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
pub(super) enum End {
    /// The epoch is another now: what is known must be loaded again.
    EpochChanged,
    /// So it must in the same epoch: this node has missed messages.
    LoadAgain,
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
pub(super) struct Opened {
    pub(super) context: Context,
    stream: Stream,
    pub(super) bucket: Bucket,
    pub(super) bounds: Bounds,
}

impl NatsSource {
    /// The reader of `nats`' stream, whose connection `link` gives to others.
    pub fn new(config: &Config, nats: &config::Nats, link: Link, id: SourceId, metrics: Arc<Metrics>) -> Self {
        let lag_max_ms = u64::try_from(nats.max_lag.as_millis()).unwrap_or(u64::MAX);
        let longest = config.namespace.values().chain([&config.default]).map(|n| n.history_ttl).max();
        let status = SourceStatus::new(format!("nats {}", nats.stream), true, lag_max_ms);
        Self {
            refusals: Refusals::new(config, status.clone(), metrics.clone()),
            config: nats.clone(),
            subjects: Subjects::new(&nats.subjects),
            link,
            history_ttl: longest.unwrap_or_default(),
            id,
            delta_bytes_max: config.limits.delta_bytes,
            status,
            metrics,
            progress: Arc::default(),
            agreed: None,
            reached: 0,
            began: false,
            suspects: Suspects::default(),
            loading: None,
            over: None,
            has_warned: false,
        }
    }

    pub(super) fn label(&self) -> SourceLabel {
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
                End::EpochChanged | End::LoadAgain => continue,
                End::Lost => Trouble("the connection was lost".into()),
                End::Trouble(trouble) => trouble,
            };
            if self.reached > reached {
                // A poor way, on which a load goes on.
                backoff = BACKOFF_FIRST;
            }
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
            let jitter = backoff.mul_f64(crate::random::share());
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
        let (base, agreed) = (agreement.base.clone(), agreement.clone());
        self.has_warned = false;
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
                agreed: self.agreed.clone().unwrap_or_else(|| agreed.clone()),
                base: base.clone(),
                source: self.id,
                every: self.config.snapshot_every,
                bytes_max: self.delta_bytes_max,
                progress: self.progress.clone(),
                node: Epoch::random(),
                feed: feed.clone(),
                status: self.status.clone(),
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

    pub(super) async fn open(&mut self, opened: &Opened, start: Start) -> Result<Reading, Trouble> {
        self.began = true;
        Reading::open(opened.context.clone(), opened.stream.clone(), start, self.suspects.clone()).await
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn last(&self) -> u64 {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).last
    }

    pub(super) fn change_progress(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Why what this node knows does not join up with what the stream holds now that it is back, if it does not.
    pub(super) async fn discontinuity(
        &self,
        opened: &Opened,
        progress: &Progress,
        held: &Held,
    ) -> Result<Option<Break>, Trouble> {
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

    /// Offsets can no longer be compared: says so to all nodes. What this node alone has missed is no affair of theirs.
    async fn break_off(&mut self, opened: &Opened, why: Break) -> Result<End, End> {
        // Whatever comes of it, what is known here is loaded again.
        self.change_progress(|progress| progress.loaded = false);
        if why == Break::Missed {
            self.metrics.source_missed.get_or_create(&self.label()).inc();
            let (stream, why) = (&self.config.stream, why.reason());
            tracing::warn!(stream, why, "this node has missed messages and loads again: let the stream keep more");
            return Ok(End::LoadAgain);
        }
        let Some(known) = &self.agreed else { return Ok(End::EpochChanged) };
        if let Err(error) = opened.bucket.change(known, why.ends_the_past()).await {
            tracing::warn!(%error, "the bucket takes no writes: the epoch stays, and all is loaded again");
            self.over = why.ends_the_past().then(|| known.base.clone()).or(self.over.take());
        }
        let (stream, why) = (&self.config.stream, why.reason());
        tracing::warn!(stream, why, old = %known.epoch, "offsets can no longer be compared: the epoch changes");
        Ok(End::EpochChanged)
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
                    // Longer than since the last look, and nothing on its way: the last messages went one by one.
                    let held = before.held;
                    if behind_since.is_some() && held.last > self.last() && reading.is_at_end().await? {
                        if !opened.bounds.others {
                            return self.break_off(opened, Break::Missed).await;
                        }
                        self.miss(opened, feed, held.last, held.last_ms, 0);
                        self.change_progress(|progress| {
                            (progress.last, progress.last_ms) = (held.last, held.last_ms);
                        });
                    }
                    let before = self.progress();
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
            let gaps = Gaps::of(&chunk, self.last() + 1);
            if !gaps.is_none() && !opened.bounds.others {
                let before = self.progress();
                // Of another stream, of a purge, let go of before they were read, or deleted one by one.
                return match self.look(opened, &before).await? {
                    Some(end) => Ok(end),
                    None => self.break_off(opened, Break::Missed).await,
                };
            }
            for (at, entry) in chunk.into_iter().enumerate() {
                if gaps.counts(at) {
                    self.miss(opened, feed, entry.sequence - 1, entry.ms, 0);
                }
                if entry.sequence <= self.last() {
                    continue;
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
    async fn look(&mut self, opened: &Opened, before: &Progress) -> Result<Option<End>, End> {
        let stream = opened.context.get_stream(&self.config.stream).await.map_err(trouble("looking at the stream"))?;
        let held = Held::of(stream.cached_info());
        let known = self.agreed.as_ref();
        // What it lets go of may be configured anew while it is read.
        if Bounds::of(&stream.cached_info().config) != opened.bounds {
            tracing::info!(stream = self.config.stream, "the stream is configured anew: it is opened again");
            return Err(Trouble("the stream is configured anew".into()).into());
        }
        if held.created != before.created {
            tracing::warn!(stream = self.config.stream, "another stream of this name: it was deleted and created anew");
            return Ok(Some(End::EpochChanged));
        }
        let agreement = match opened.bucket.agreement().await? {
            Some(agreement) => agreement,
            // Nothing could be written there; whoever saves tries again.
            None if known.is_some_and(|known| known.revision == 0) => return self.look_on(opened, held, before).await,
            None => opened.bucket.agree(&held.created, known).await?,
        };
        if known.is_none_or(|known| known.epoch != agreement.epoch) {
            tracing::warn!(stream = self.config.stream, found = %agreement.epoch, "another node changed the epoch");
            return Ok(Some(End::EpochChanged));
        }
        self.look_on(opened, held, before).await
    }

    /// The same of what the stream holds now.
    async fn look_on(&mut self, opened: &Opened, held: Held, before: &Progress) -> Result<Option<End>, End> {
        self.status.set_reach(held.reach(&opened.bounds));
        if let Some(why) = look(before.last, &before.held, &held, &opened.bounds, unix_ms()) {
            return self.break_off(opened, why).await.map(Some);
        }
        self.change_progress(|progress| progress.held = held);
        Ok(None)
    }

    /// Takes a message in. Up to `saved`, states that were saved say what deltas have come to.
    pub(super) async fn take_in(&mut self, entry: Entry, feed: &Feed, saved: Option<u64>) {
        let (sequence, ms) = (entry.sequence, entry.ms);
        let form = |topic: &str| feed.topics.payload_form(topic);
        match (entry.delta(&self.subjects, self.delta_bytes_max, &form), Offset::new(sequence)) {
            (Ok(delta), Some(_))
                if saved.is_some_and(|saved| sequence <= saved) && feed.topics.is_conflatable(&delta.topic) => {}
            (Ok(delta), Some(offset)) => {
                for suspicion in &delta.suspicions {
                    self.refusals.suspect(&sequence, suspicion);
                }
                let head = Head::of(delta.payload.bytes());
                let incoming = Incoming {
                    topic: &delta.topic,
                    kind: delta.kind,
                    ts: delta.ts.or(Some(ms)),
                    at_ms: Some(ms),
                    payload: delta.payload,
                    offset: Some(offset),
                    source: self.id,
                    home: None,
                };
                match feed.publish(incoming).await {
                    Ok(_) => self.refusals.look_at_namespace(&sequence, &delta.topic),
                    Err(error) => {
                        self.refusals.refuse_publish(&sequence, &delta.topic, &error, &head);
                    }
                }
            }
            (Ok(delta), None) => {
                let text = format!("its sequence {sequence} is past the last that clients can read");
                let refusal = Refusal::new(Reason::IdTooLate, text, "publish to a new stream");
                self.refusals.refuse(&sequence, &refusal.of_topic(&delta.topic));
            }
            (Err(refusal), _) => self.refusals.refuse(&sequence, &refusal),
        }
        self.reached = self.reached.max(sequence);
        self.change_progress(|progress| (progress.last, progress.last_ms) = (sequence, ms));
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
