//! Reads the stream: what it holds at the start, then what comes, across failures.
//!
//! Offsets are the stream's sequences. The epoch is a key of the bucket, first made of the time at which the stream was
//! created, so that all nodes come to the same. It changes when offsets from before can no longer be compared: the stream
//! is another one, was purged, or ends before what was read from it. Whoever notices sets a new one; the others see it within
//! a second. Then topics are loaded anew and subscribers get snapshots. A node that has missed messages loads again by itself.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{self, RetentionPolicy, Stream};
use futures_util::future::BoxFuture;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::bucket::{Agreement, Bucket};
use super::flow::Flow;
use super::held::{Bounds, Break, Held, look};
use super::link::{self, Connection, Link};
use super::loading::{Gaps, Loading};
use super::read_size::ReadSize;
use super::reading::{Entry, Reading, Start, Suspects, is_other};
use super::saver::Saver;
use super::sequence;
use super::subjects::Subjects;
use super::{Trouble, trouble};
use crate::clock::unix_ms;
use crate::config::{self, Config};
use crate::memory::ResolvedLimits;
use crate::metrics::{Metrics, SourceLabel};
use crate::position::{Epoch, Offset};
use crate::source::refusals::{Head, Refusals};
use crate::source::saving::Rounds;
use crate::source::{Feed, Source, SourceStatus};
use crate::topic::{Incoming, SourceId};

/// Time between two looks at the stream and the epoch.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Waits after failures double from the first to the last, each with up to as much jitter.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(5);

/// Connections that end without a new message having been read, one behind the other, before messages are suspected of it.
const SUSPECT_AFTER: u32 = 2;

/// Epochs remembered that this node has left.
const LEFT_MAX: usize = 16;

/// Bytes of a message beside the delta.
const HEADERS_BYTES: usize = 1_024;

/// The share of `limits.memory` that a message may take: one that is fetched as JSON takes about four times its bytes.
const MESSAGE_SHARE_MAX: u64 = 16;

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
    /// The last message that was read in the epoch, and when the stream took it, Unix ms.
    seen: Option<(u64, u64)>,
    /// Epochs that this node has left.
    left: VecDeque<Epoch>,
    /// Whether this connection got as far as reading.
    began: bool,
    suspects: Suspects,
    read_size: ReadSize,
    /// `limits.memory`, if there is one.
    memory: Option<u64>,
    /// A load under way, or one that broke off.
    pub(super) loading: Option<Loading>,
    /// What this node goes by, where it could not be said in the bucket.
    unsaid: Option<Agreement>,
    /// Whether this connection has said that messages are missing.
    pub(super) has_warned: bool,
    refusals: Refusals,
    /// What savers know from earlier rounds. Each connection has a saver of its own.
    rounds: Arc<tokio::sync::Mutex<Rounds<u64>>>,
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
    /// Sequence up to which the saved states were complete that were put back; 0 if none were.
    pub(super) restored: u64,
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
    pub(super) connection: Connection,
    stream: Stream,
    pub(super) bucket: Bucket,
    pub(super) bounds: Bounds,
}

/// What a look at the stream and at the bucket found.
struct Looked {
    /// How far the stream was read when the server was asked.
    before: Progress,
    asked_ms: u64,
    held: Held,
    bounds: Bounds,
    agreement: Option<Agreement>,
}

impl Looked {
    async fn ask(opened: &Opened, stream: String, before: Progress) -> Result<Self, Trouble> {
        let (asked_ms, connection) = (unix_ms(), &opened.connection);
        let stream = connection.ask("looking at the stream", connection.context.get_stream(&stream)).await?;
        let info = stream.cached_info();
        let (held, bounds) = (Held::of(info), Bounds::of(&info.config));
        Ok(Self { before, asked_ms, held, bounds, agreement: opened.bucket.agreement().await? })
    }
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
            seen: None,
            left: VecDeque::new(),
            began: false,
            suspects: Suspects::default(),
            read_size: ReadSize::new(ResolvedLimits::of(&config.limits).memory, config.limits.delta_bytes),
            memory: ResolvedLimits::of(&config.limits).memory,
            loading: None,
            unsaid: None,
            has_warned: false,
            rounds: Arc::default(),
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
            let (error, is_lost) = match end {
                End::EpochChanged | End::LoadAgain => continue,
                End::Lost => (Trouble("the connection was lost".into()), true),
                End::Trouble(trouble) => (trouble, false),
            };
            if self.reached > reached {
                // A poor way, on which a load goes on.
                backoff = BACKOFF_FIRST;
            }
            // The library ends a connection for what it cannot parse; a silent one says nothing of messages.
            fruitless = if self.began && is_lost && self.reached == reached { fruitless + 1 } else { 0 };
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
        let connection = match link::connect(&self.config, self.read_size.clone()).await {
            Ok(connection) => connection,
            Err(trouble) => return trouble.into(),
        };
        let max_payload = connection.context.client().max_payload();
        if max_payload < self.delta_bytes_max + HEADERS_BYTES {
            tracing::warn!(
                max_payload,
                delta_bytes = self.delta_bytes_max,
                "NATS takes messages of fewer bytes than limits.delta_bytes"
            );
        }
        if let Some(memory) = self.memory.filter(|memory| max_payload as u64 > memory / MESSAGE_SHARE_MAX) {
            tracing::warn!(
                max_payload,
                memory,
                "NATS takes messages for which limits.memory may have no room: lower its max_payload, or raise the limit"
            );
        }
        let _held = self.link.hold(connection.clone());
        let (flow, progress) = (connection.flow.clone(), self.progress.clone());
        let end = tokio::select! {
            () = read_out(flow.clone(), progress) => End::Lost,
            outcome = self.read(connection, feed, backoff) => match outcome {
                Ok(end) | Err(end) => end,
            },
        };
        match end {
            End::Trouble(_) if flow.is_lost() => End::Lost,
            end => end,
        }
    }

    async fn read(&mut self, connection: Connection, feed: &Feed, backoff: &mut Duration) -> Result<End, End> {
        let stream = self.stream(&connection).await?;
        let bucket = Bucket::open(&connection, &self.config).await?;
        let (held, bounds) = (Held::of(stream.cached_info()), Bounds::of(&stream.cached_info().config));
        self.read_size.begin(held.bytes.saturating_add(bucket.bytes()));
        let opened = Opened { connection, stream, bucket, bounds };
        let agreement = opened.bucket.agree(&held.created, self.agreed.as_ref()).await?;
        let agreement = self.said(&opened, agreement).await?;
        let (base, agreed) = (agreement.base.clone(), agreement.clone());
        self.has_warned = false;
        let progress = self.progress();
        let same = self.agreed.as_ref().is_some_and(|known| known.epoch == agreement.epoch);
        if same {
            self.agreed = Some(agreement.clone());
            let found = match progress.loaded {
                true => self.discontinuity(&opened, &progress, &held).await?,
                false => self.parted(&opened, &held).await?,
            };
            if let Some(why) = found {
                return self.break_off(&opened, why).await;
            }
        }
        let reading = if same && progress.loaded {
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
                rounds: self.rounds.clone(),
                feed: feed.clone(),
                status: self.status.clone(),
            };
            AbortOnDropHandle::new(tokio::spawn(saver.run()))
        });
        self.follow(&opened, reading, feed).await
    }

    /// The stream; made where it is missing.
    async fn stream(&self, connection: &Connection) -> Result<Stream, Trouble> {
        let name = &self.config.stream;
        let tried = format!("stream {name}");
        let context = &connection.context;
        let found = connection.flow.wait(context.get_stream(name)).await.map_err(trouble(&tried))?;
        let stream = match found {
            Ok(stream) => stream,
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(inner) if inner.code() == 404 && self.config.create => {
                    let made = connection.ask(&tried, context.create_stream(self.new_stream())).await?;
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
        Reading::open(opened.connection.clone(), opened.stream.clone(), start, self.suspects.clone()).await
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
        let other = is_other(&opened.connection, &self.config.stream, progress.last, progress.last_ms).await?;
        Ok(other.then_some(Break::Rewritten))
    }

    /// The same of a node that has to load again, of everything that it read in this epoch.
    async fn parted(&self, opened: &Opened, held: &Held) -> Result<Option<Break>, Trouble> {
        let Some((sequence, ms)) = self.seen else { return Ok(None) };
        if held.last < sequence {
            return Ok(Some(Break::Backwards));
        }
        let other = is_other(&opened.connection, &self.config.stream, sequence, ms).await?;
        Ok(other.then_some(Break::Rewritten))
    }

    /// Remembers an epoch that has ended for this node.
    pub(super) fn leave(&mut self, epoch: Epoch) {
        self.seen = None;
        if self.left.len() >= LEFT_MAX {
            self.left.pop_front();
        }
        self.left.push_back(epoch);
    }

    /// Whether this node has left the epoch before. Says so once: if no other can be set, it is the only one that there is.
    pub(super) fn is_back(&mut self, epoch: &Epoch) -> bool {
        let found = self.left.iter().position(|left| left == epoch);
        found.and_then(|at| self.left.remove(at)).is_some()
    }

    /// Offsets can no longer be compared: says so to all nodes. What this node alone has missed is no affair of theirs.
    pub(super) async fn break_off(&mut self, opened: &Opened, why: Break) -> Result<End, End> {
        // Whatever comes of it, what is known here is loaded again.
        self.change_progress(|progress| progress.loaded = false);
        if why == Break::Missed {
            self.metrics.source_missed.get_or_create(&self.label()).inc();
            let (stream, why) = (&self.config.stream, why.reason());
            tracing::warn!(stream, why, "this node has missed messages and loads again: let the stream keep more");
            return Ok(End::LoadAgain);
        }
        self.seen = None;
        let Some(known) = &self.agreed else { return Ok(End::EpochChanged) };
        let next = known.next(why.ends_the_past());
        if let Err(error) = opened.bucket.set(&next, known.revision).await {
            tracing::warn!(%error, "the bucket takes no writes: this node goes by an epoch of its own until it does");
            self.unsaid = Some(next);
        }
        let (stream, why) = (&self.config.stream, why.reason());
        tracing::warn!(stream, why, old = %known.epoch, "offsets can no longer be compared: the epoch changes");
        Ok(End::EpochChanged)
    }

    /// What this node goes by, where the bucket holds this: its own, as long as that could not be said there and no other
    /// node has said anything since.
    async fn said(&mut self, opened: &Opened, found: Agreement) -> Result<Agreement, Trouble> {
        let is_current = |unsaid: &Agreement| unsaid.created == found.created && unsaid.revision == found.revision;
        let Some(unsaid) = self.unsaid.take().filter(is_current) else { return Ok(found) };
        match opened.bucket.set(&unsaid, unsaid.revision).await {
            Ok(Some(revision)) => {
                tracing::info!(epoch = %unsaid.epoch, "the bucket takes writes again: the epoch of this node is that of all");
                Ok(Agreement { revision, ..unsaid })
            }
            Ok(None) => opened.bucket.agree(&found.created, None).await,
            Err(_) => {
                self.unsaid = Some(unsaid.clone());
                Ok(unsaid)
            }
        }
    }

    /// Reads on until something breaks or the epoch changes.
    async fn follow(&mut self, opened: &Opened, mut reading: Reading, feed: &Feed) -> Result<End, End> {
        let mut clock = interval_at(Instant::now(), LOOK_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut behind_since = None;
        // On a slow link the answer comes behind messages, which are taken in meanwhile.
        let mut looking: Option<BoxFuture<'_, Result<Looked, Trouble>>> = None;
        loop {
            let is_idle = looking.is_none();
            let answer = async {
                match &mut looking {
                    Some(looking) => looking.await,
                    None => std::future::pending().await,
                }
            };
            let chunk = tokio::select! {
                chunk = reading.next() => chunk?,
                looked = answer => {
                    looking = None;
                    let looked = looked?;
                    let (before, now_ms) = (looked.before.clone(), looked.asked_ms);
                    if let Some(end) = self.judge(opened, looked).await? {
                        return Ok(end);
                    }
                    // Longer than since the last look, and nothing on its way: the last messages went one by one.
                    let (held, is_still) = (before.held, before.last == self.last());
                    if behind_since.is_some() && is_still && held.last > before.last && reading.is_at_end().await? {
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
                    self.status.read(0, behind_since.map_or(0, |since| unix_ms().saturating_sub(since)));
                    continue;
                }
                _ = clock.tick(), if is_idle => {
                    looking = Some(Box::pin(Looked::ask(opened, self.config.stream.clone(), self.progress())));
                    continue;
                }
            };
            let (mut count, mut lag_ms) = (0, 0);
            let gaps = Gaps::of(&chunk, self.last() + 1);
            if !gaps.is_none() && !opened.bounds.others {
                let looked = Looked::ask(opened, self.config.stream.clone(), self.progress()).await?;
                // Of another stream, of a purge, let go of before they were read, or deleted one by one.
                return match self.judge(opened, looked).await? {
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

    /// Why to stop reading after a look, if that is so.
    async fn judge(&mut self, opened: &Opened, looked: Looked) -> Result<Option<End>, End> {
        let Looked { before, held, bounds, agreement, .. } = looked;
        // The stream's limits may have been changed meanwhile.
        if bounds != opened.bounds {
            tracing::info!(stream = self.config.stream, "the stream is configured anew: it is opened again");
            return Err(Trouble("the stream is configured anew".into()).into());
        }
        if held.created != before.created {
            tracing::warn!(stream = self.config.stream, "another stream of this name: it was deleted and created anew");
            return Ok(Some(End::EpochChanged));
        }
        let known = self.agreed.clone();
        let found = match agreement {
            Some(found) => found,
            // Nothing could be written there; whoever saves tries again.
            None => match known.clone().filter(|known| known.revision == 0) {
                Some(known) => known,
                None => opened.bucket.agree(&held.created, known.as_ref()).await?,
            },
        };
        let found = self.said(opened, found).await?;
        if known.is_none_or(|known| known.epoch != found.epoch) {
            tracing::warn!(stream = self.config.stream, found = %found.epoch, "another node changed the epoch");
            return Ok(Some(End::EpochChanged));
        }
        self.agreed = Some(found);
        self.look_at_end(&held);
        self.status.set_reach(held.reach(&opened.bounds));
        match look(before.last, &before.held, &held, &opened.bounds, unix_ms()) {
            // Messages from before the answer may still be on their way, or wait to be taken in: gaps between them tell.
            None | Some(Break::Missed) => {}
            Some(why) => return self.break_off(opened, why).await.map(Some),
        }
        self.change_progress(|progress| progress.held = held);
        Ok(None)
    }

    /// Takes a message in. Up to `saved`, states that were saved say what deltas have come to.
    pub(super) async fn take_in(&mut self, entry: Entry, feed: &Feed, saved: Option<u64>) {
        let (sequence, ms) = (entry.sequence, entry.ms);
        match sequence::offset(sequence) {
            Ok(offset) => self.publish(entry, offset, feed, saved).await,
            Err(error) => {
                self.status.fail(&error.to_string());
                let topic = entry.topic(&self.subjects);
                self.refusals.refuse(&sequence, &error.refusal().of_topic_if_known(topic.as_deref()));
            }
        }
        self.reached = self.reached.max(sequence);
        if self.seen.is_none_or(|(seen, _)| seen < sequence) {
            self.seen = Some((sequence, ms));
        }
        self.change_progress(|progress| (progress.last, progress.last_ms) = (sequence, ms));
    }

    /// Hands what a message says to topics.
    async fn publish(&mut self, entry: Entry, offset: Offset, feed: &Feed, saved: Option<u64>) {
        let (sequence, ms) = (entry.sequence, entry.ms);
        let form = |topic: &str| feed.topics.payload_form(topic);
        match entry.delta(&self.subjects, self.delta_bytes_max, &form) {
            Ok(delta)
                if saved.is_some_and(|saved| sequence <= saved) && feed.topics.is_by_state(self.id, &delta.topic) => {}
            Ok(delta) => {
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
                    is_relayed: false,
                };
                match feed.publish(incoming).await {
                    Ok(_) => self.refusals.look_at_namespace(&sequence, &delta.topic),
                    Err(error) => {
                        self.refusals.refuse_publish(&sequence, &delta.topic, &error, &head);
                    }
                }
            }
            Err(refusal) => self.refusals.refuse(&sequence, &refusal),
        }
    }

    /// The stream may have used up all sequences that have offsets, and have removed those messages since.
    pub(super) fn look_at_end(&self, held: &Held) {
        if let Err(error) = sequence::offset(held.last) {
            self.status.fail(&error.to_string());
        }
    }
}

/// Waits until the connection is lost, and then until nothing more is taken in of what had come over it.
async fn read_out(flow: Flow, progress: Arc<Mutex<Progress>>) {
    flow.lost().await;
    let last = || progress.lock().unwrap_or_else(PoisonError::into_inner).last;
    let mut before = None;
    while before != Some(last()) {
        before = Some(last());
        tokio::time::sleep(LOOK_EVERY).await;
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
