//! The reader's state, and what each of its parts does with it: taking messages in, and leaving an epoch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::stream::Stream;

use super::bucket::{Agreement, Bucket};
use super::held::{Bounds, Break, Held, look};
use super::link::{Connection, Link};
use super::progress::{Loading, Progress};
use super::read_size::ReadSize;
use super::reading::{Entry, Reading, Start, Suspects, is_other};
use super::sequence;
use super::subjects::Subjects;
use super::trouble::Trouble;
use crate::clock::unix_ms;
use crate::config::{self, Config};
use crate::memory::ResolvedLimits;
use crate::metrics::{Metrics, SourceLabel};
use crate::position::{Epoch, Offset};
use crate::source::refusal::Head;
use crate::source::refusals::Refusals;
use crate::source::saving::Rounds;
use crate::source::{Feed, SourceStatus};
use crate::topic::{Incoming, SourceId};

/// Epochs remembered that this node has left.
const LEFT_MAX: usize = 16;

/// The reader of the stream.
pub struct NatsSource {
    pub(super) config: config::Nats,
    pub(super) subjects: Subjects,
    pub(super) link: Link,
    pub(super) history_ttl: Duration,
    pub(super) id: SourceId,
    pub(super) delta_bytes_max: usize,
    pub(super) status: Arc<SourceStatus>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) progress: Arc<Mutex<Progress>>,
    pub(super) agreed: Option<Agreement>,
    /// Highest sequence ever read.
    pub(super) reached: u64,
    /// The last message that was read in the epoch, and when the stream took it, Unix ms.
    pub(super) seen: Option<(u64, u64)>,
    /// Epochs that this node has left.
    pub(super) left: VecDeque<Epoch>,
    /// Whether this connection got as far as reading.
    pub(super) began: bool,
    pub(super) suspects: Suspects,
    pub(super) read_size: ReadSize,
    /// `limits.memory`, if there is one.
    pub(super) memory: Option<u64>,
    /// A load under way, or one that broke off.
    pub(super) loading: Option<Loading>,
    /// What this node goes by, where it could not be said in the bucket.
    pub(super) unsaid: Option<Agreement>,
    /// Whether this connection has said that messages are missing.
    pub(super) has_warned: bool,
    pub(super) refusals: Refusals,
    /// What savers know from earlier rounds. Each connection has a saver of its own.
    pub(super) rounds: Arc<tokio::sync::Mutex<Rounds<u64>>>,
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
    pub(super) stream: Stream,
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
    pub(super) async fn said(&mut self, opened: &Opened, found: Agreement) -> Result<Agreement, Trouble> {
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
