//! Reads the stream: what it holds at the start, then what comes, across failures.
//!
//! Offsets are the stream's sequences. The epoch is a key of the bucket, first made of the time at which the stream was
//! created, so that all nodes come to the same. It changes when offsets from before can no longer be compared: the stream
//! is another one, was purged, or ends before what was read from it. Whoever notices sets a new one; the others see it within
//! a second. Then topics are loaded anew and subscribers get snapshots. A node that has missed messages loads again by itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{self, RetentionPolicy, Stream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::bucket::Bucket;
use super::flow::Flow;
use super::held::{Bounds, Break, Held};
use super::link::{self, Connection};
use super::progress::{LOOK_EVERY, Progress};
use super::reading::{Start, is_other};
use super::saver::Saver;
use super::source::{End, NatsSource, Opened};
use super::trouble::{Trouble, trouble};
use crate::position::{Epoch, Offset};
use crate::source::retry::{self, Retry};
use crate::source::{Feed, Source, SourceStatus};

/// Connections that end without a new message having been read, one behind the other, before messages are suspected of it.
const SUSPECT_AFTER: u32 = 2;

/// Bytes of a message beside the delta.
const HEADERS_BYTES: usize = 1_024;

/// The share of `limits.memory` that a message may take: one that is fetched as JSON takes about four times its bytes.
const MESSAGE_SHARE_MAX: u64 = 16;

impl NatsSource {
    async fn run(mut self, feed: Feed, stop: CancellationToken) {
        // Until it is loaded, nothing is known of what it has.
        feed.topics.doubt(self.id, Offset::ZERO);
        if !self.config.snapshot_every.is_zero() {
            feed.topics.remember_ended(self.id);
        }
        let mut retry = Retry::new(retry::LAST);
        let mut fruitless = 0;
        loop {
            let reached = self.reached;
            self.began = false;
            let end = tokio::select! {
                () = stop.cancelled() => return,
                end = self.connected(&feed, &mut retry) => end,
            };
            let (error, is_lost) = match end {
                End::EpochChanged | End::LoadAgain => continue,
                End::Lost => (Trouble("the connection was lost".into()), true),
                End::Trouble(trouble) => (trouble, false),
            };
            if self.reached > reached {
                // A poor way, on which a load goes on.
                retry.reset();
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
            tokio::select! {
                () = stop.cancelled() => return,
                () = retry.after(&error, "NATS", &self.status, &self.metrics) => {}
            }
        }
    }

    /// One connection's life.
    async fn connected(&mut self, feed: &Feed, retry: &mut Retry) -> End {
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
            outcome = self.read(connection, feed, retry) => match outcome {
                Ok(end) | Err(end) => end,
            },
        };
        match end {
            End::Trouble(_) if flow.is_lost() => End::Lost,
            end => end,
        }
    }

    async fn read(&mut self, connection: Connection, feed: &Feed, retry: &mut Retry) -> Result<End, End> {
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
        retry.reset();
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

    /// The same of a node that has to load again, of everything that it read in this epoch.
    async fn parted(&self, opened: &Opened, held: &Held) -> Result<Option<Break>, Trouble> {
        let Some((sequence, ms)) = self.seen else { return Ok(None) };
        if held.last < sequence {
            return Ok(Some(Break::Backwards));
        }
        let other = is_other(&opened.connection, &self.config.stream, sequence, ms).await?;
        Ok(other.then_some(Break::Rewritten))
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
