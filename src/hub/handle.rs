//! The control plane's handle on the shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::allowance::Answers;
use super::control::Control;
use super::event::{Event, Order, Who};
use super::lifecycle::{Share, apportion};
use super::mailbox::{self, QueueSender};
use super::new_session::{NewSession, NoRoom, Reservation};
use super::part::Part;
use super::shard::WAKER;
use super::start::Prepared;
use crate::accounts;
use crate::config::Config;
use crate::limits::SHED_SETTLE;
use crate::memory::ResolvedLimits;
use crate::metrics::{Metrics, ShardStats};
use crate::name::TopicName;
use crate::protocol::MembershipChange;
use crate::topic::{Delta, Outlet, ShardId, Slot, Snapshot};

/// Batches of requests that may wait for the control; a shard keeps gathering while it is full.
const REQUEST_BATCHES_MAX: usize = 1_024;

/// How long a count of subscribers waits for the shards.
const COUNT_TIMEOUT: Duration = Duration::from_secs(1);

/// The control plane's handle on the shards.
pub struct Hub {
    shards: Vec<ShardHandle>,
    sessions_max: usize,
    /// Number of sessions without a token.
    tokenless: Arc<AtomicUsize>,
    tokenless_max: usize,
    /// Number of sessions that still have to move to other nodes.
    shedding: Arc<AtomicUsize>,
    /// When the sessions closed last will have reconnected elsewhere, Unix ms.
    settled_ms: AtomicU64,
    /// Bytes of unprocessed deltas from which sources wait.
    deltas_max: Option<usize>,
}

struct ShardHandle {
    queue: QueueSender,
    sessions: Arc<AtomicUsize>,
    stats: Arc<ShardStats>,
    heartbeat_ms: Arc<AtomicU64>,
}

impl Hub {
    /// Sets up `shards` shards. Their requests go to the returned control plane; no thread runs before
    /// [`Prepared::start`].
    ///
    /// # Errors
    /// If the kernel gives no epoll or eventfd.
    pub fn new(
        shards: usize,
        sessions_max: usize,
        node: Arc<str>,
        config: Arc<Config>,
        limits: &Arc<ResolvedLimits>,
        metrics: &Arc<Metrics>,
    ) -> std::io::Result<(Arc<Self>, Prepared, Control)> {
        let (sender, receiver) = flume::bounded(REQUEST_BATCHES_MAX);
        let mut handles = Vec::new();
        let mut parts = Vec::new();
        let shards = u16::try_from(shards.max(1)).unwrap_or(u16::MAX);
        let tokenless = Arc::new(AtomicUsize::new(0));
        let all_stats: Arc<[Arc<ShardStats>]> = (0..shards).map(|_| Arc::default()).collect();
        for (id, stats) in (0..shards).zip(all_stats.iter().cloned()) {
            let poll = mio::Poll::new()?;
            let waker = mio::Waker::new(poll.registry(), WAKER)?;
            let (queue, receiver) = mailbox::queue(waker, metrics.clone());
            let sessions = Arc::new(AtomicUsize::new(0));
            let heartbeat_ms = Arc::new(AtomicU64::new(0));
            handles.push(ShardHandle {
                queue: queue.clone(),
                sessions: sessions.clone(),
                stats: stats.clone(),
                heartbeat_ms: heartbeat_ms.clone(),
            });
            let all_stats = all_stats.clone();
            let (id, tokenless) = (ShardId(id), tokenless.clone());
            parts.push(Part {
                id,
                poll,
                queue: receiver,
                sessions,
                tokenless,
                stats,
                all_stats,
                heartbeat_ms,
                limits: limits.clone(),
            });
        }
        let queues: Arc<[QueueSender]> = handles.iter().map(|h| h.queue.clone()).collect();
        let hub = Arc::new(Self {
            shards: handles,
            sessions_max,
            tokenless,
            tokenless_max: tokenless_max(&config, sessions_max),
            shedding: Arc::default(),
            settled_ms: AtomicU64::new(0),
            deltas_max: limits.deltas_total_bytes,
        });
        let control = Control::new(receiver, queues, Answers::new(&config.limits), limits.snapshots_total_bytes);
        Ok((hub, Prepared { parts, requests: sender, node, config }, control))
    }

    /// Reserves room for a session in the shard with the fewest sessions. Two simultaneous requests for the last room
    /// may both be refused; the limits are never exceeded.
    ///
    /// # Errors
    /// If the limit on sessions, or on sessions without a token, is reached.
    pub fn reserve(&self, has_token: bool) -> Result<Reservation, NoRoom> {
        let shards = self.shards.iter().enumerate();
        let fewest = shards.min_by_key(|(_, shard)| shard.sessions.load(Ordering::Relaxed));
        let (index, shard) = fewest.ok_or(NoRoom::Full)?;
        let reservation = Reservation::new(index, &shard.sessions, (!has_token).then_some(&self.tokenless));
        if self.sessions() > self.sessions_max {
            return Err(NoRoom::Full);
        }
        if !has_token && self.tokenless() > self.tokenless_max {
            return Err(NoRoom::Tokenless);
        }
        Ok(reservation)
    }

    /// Hands a session to the shard in which it has its reservation.
    pub fn place(&self, session: Box<NewSession>) {
        if let Some(shard) = self.shards.get(session.reservation.shard) {
            shard.queue.send(Event::Open(session));
        }
    }

    /// Number of sessions now.
    pub fn sessions(&self) -> usize {
        self.shards.iter().map(|s| s.sessions.load(Ordering::Relaxed)).sum()
    }

    /// Largest number of sessions.
    pub fn sessions_max(&self) -> usize {
        self.sessions_max
    }

    /// Number of sessions without a token now.
    pub fn tokenless(&self) -> usize {
        self.tokenless.load(Ordering::Relaxed)
    }

    /// Number of sessions in each shard.
    pub fn sessions_by_shard(&self) -> Vec<usize> {
        self.shards.iter().map(|s| s.sessions.load(Ordering::Relaxed)).collect()
    }

    /// The counters of the shards.
    pub fn stats(&self) -> Vec<Arc<ShardStats>> {
        self.shards.iter().map(|s| s.stats.clone()).collect()
    }

    /// Number of events in the longest queue.
    pub fn queue_depth(&self) -> usize {
        self.shards.iter().map(|s| s.queue.depth()).max().unwrap_or(0)
    }

    /// Bytes of memory of the shards' queues, without deltas.
    pub fn queue_bytes(&self) -> usize {
        let room = |s: &ShardHandle| usize::try_from(s.stats.queue_high.get()).unwrap_or(usize::MAX);
        self.shards.iter().map(|s| room(s).max(s.queue.depth()).next_power_of_two() * size_of::<Event>()).sum()
    }

    /// Whether sources may send more deltas.
    pub fn has_room(&self) -> bool {
        let fit = self.deltas_max.is_none_or(|max| accounts::DELTAS.bytes() < accounts::ceiling(max));
        fit && self.shards.iter().all(|s| s.queue.has_room())
    }

    /// Age of the oldest heartbeat of a shard, in ms. A sleeping shard wakes up once a second to renew it.
    pub fn heartbeat_age_ms(&self) -> u64 {
        let now = crate::clock::unix_ms();
        let beats = self.shards.iter().map(|s| s.heartbeat_ms.load(Ordering::Relaxed)).filter(|beat| *beat != 0);
        beats.map(|beat| now.saturating_sub(beat)).max().unwrap_or(0)
    }

    /// Closes all sessions gradually over `window`. Each shard ends with its last session.
    pub fn drain(&self, window: Duration) {
        for shard in &self.shards {
            shard.queue.send(Event::Drain { window });
        }
    }

    /// Closes `count` randomly chosen sessions of all shards over `window`, so that they reconnect to other nodes. The
    /// shards keep running.
    ///
    /// # Errors
    /// If an earlier call is still in progress: the number of sessions that it has yet to close.
    pub fn shed(&self, count: usize, window: Duration) -> Result<(), usize> {
        let mut shares = apportion(count, &self.sessions_by_shard());
        let count = shares.iter().sum();
        self.shedding.compare_exchange(0, count, Ordering::AcqRel, Ordering::Acquire)?;
        if count > 0 {
            let settles = u64::try_from((window + SHED_SETTLE).as_millis()).unwrap_or(u64::MAX);
            self.settled_ms.store(crate::clock::unix_ms().saturating_add(settles), Ordering::Relaxed);
        }
        for (shard, count) in self.shards.iter().zip(shares.drain(..)).filter(|(_, count)| *count > 0) {
            let share = Share::new(self.shedding.clone(), count);
            shard.queue.send(Event::Rebalance { share, window });
        }
        Ok(())
    }

    /// Number of sessions that still have to move to other nodes.
    pub fn shedding(&self) -> usize {
        self.shedding.load(Ordering::Acquire)
    }

    /// Time until the sessions closed last will have reconnected and been counted elsewhere.
    pub fn settling(&self) -> Duration {
        let settled_ms = self.settled_ms.load(Ordering::Relaxed);
        Duration::from_millis(settled_ms.saturating_sub(crate::clock::unix_ms()))
    }

    /// Carries out an operator's order on the sessions that it selects.
    pub fn order(&self, who: &Who, order: &Order) {
        for shard in &self.shards {
            shard.queue.send(Event::Order(Box::new((who.clone(), order.clone()))));
        }
    }

    /// Topics of all shards that match a pattern (`*` matches any number of characters), with their numbers of
    /// subscribers; at most `max` topics of each shard.
    pub async fn census(&self, pattern: Option<String>, max: usize) -> Vec<(TopicName, u64)> {
        let (counts, counted) = flume::bounded(self.shards.len().max(1));
        let fits: Arc<dyn Fn(&str) -> bool + Send + Sync> = match pattern {
            Some(pattern) => Arc::new(move |name| crate::name::fits(&pattern, name)),
            None => Arc::new(|_| true),
        };
        for shard in &self.shards {
            shard.queue.send(Event::CountSubscribers { fits: fits.clone(), max, counts: counts.clone() });
        }
        drop(counts);
        let mut all = Vec::new();
        let until = tokio::time::Instant::now() + COUNT_TIMEOUT;
        while let Ok(Ok(counts)) = tokio::time::timeout_at(until, counted.recv_async()).await {
            all.extend(counts);
        }
        all
    }

    /// Ends a drain immediately.
    pub fn hurry(&self) {
        for shard in &self.shards {
            shard.queue.send(Event::Hurry);
        }
    }
}

/// Limit on sessions without a token: only a share of all sessions if such sessions may subscribe to nothing.
fn tokenless_max(config: &Config, sessions_max: usize) -> usize {
    if !config.needs_token() {
        return usize::MAX;
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of the descriptor limit fits"
    )]
    let share = (sessions_max as f64 * config.limits.tokenless_share).ceil() as usize;
    share.max(1)
}

impl Outlet for Hub {
    fn delta(&self, shard: ShardId, slot: Slot, delta: &Arc<Delta>) {
        if let Some(shard) = self.shards.get(usize::from(shard.0)) {
            shard.queue.send(Event::Delta { slot, delta: delta.clone() });
        }
    }

    fn reset(&self, shard: ShardId, slot: Slot, snapshot: &Arc<Snapshot>) {
        if let Some(shard) = self.shards.get(usize::from(shard.0)) {
            shard.queue.send(Event::Reset { slot, snapshot: snapshot.clone() });
        }
    }

    fn stale(&self, shard: ShardId, slot: Slot, _topic: &TopicName, since_ms: Option<u64>) {
        if let Some(shard) = self.shards.get(usize::from(shard.0)) {
            shard.queue.send(Event::Stale { slot, since_ms });
        }
    }

    fn membership(&self, shard: ShardId, slot: Slot, change: &Arc<MembershipChange>) {
        if let Some(shard) = self.shards.get(usize::from(shard.0)) {
            shard.queue.send(Event::Membership { slot, change: change.clone() });
        }
    }
}
