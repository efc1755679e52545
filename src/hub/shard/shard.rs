//! A shard: one thread with its share of the sessions, and the parts that it is made of.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use mio::{Interest, Poll, Token};

use crate::config::{Class, Config};
use crate::hub::allowance::Answers;
use crate::hub::allowances::Allowances;
use crate::hub::chunk::Chunk;
use crate::hub::clock::{Clock, clock32};
use crate::hub::close_queue::CloseQueue;
use crate::hub::egress::{Ceiling, Egress, Output, backend, outgoing_max};
use crate::hub::event::{Request, RequestBatch};
use crate::hub::fanout::{Fanout, Subscription, Traits};
use crate::hub::index::SessionIndex;
use crate::hub::lifecycle::{PacedClose, Rebalance, Sweep, Timeouts};
use crate::hub::mailbox::QueueReceiver;
use crate::hub::memberships::{Memberships, Rates};
use crate::hub::new_session::NewSession;
use crate::hub::part::Part;
use crate::hub::pending::Pending;
use crate::hub::requests::Requests;
use crate::hub::session::{Input, Session, SessionTable};
use crate::limits;
use crate::memory::ResolvedLimits;
use crate::metrics::ShardStats;
use crate::topic::{ShardId, Slot};
use crate::wire::close::CloseReason;

/// The poll token of the queue's waker; a session's token is its index.
pub(in crate::hub) const WAKER: Token = Token(usize::MAX);

/// Length from which a reply is compressed.
const COMPRESS_REPLY_BYTES_MIN: usize = 1_024;

/// One thread's share of the sessions.
pub(in crate::hub) struct Shard {
    pub(in crate::hub) id: ShardId,
    /// This server's name, as sent to clients.
    pub(super) node: Arc<str>,
    pub(in crate::hub) config: Arc<Config>,
    pub(super) limits: Arc<ResolvedLimits>,
    pub(in crate::hub) stats: Arc<ShardStats>,
    pub(in crate::hub) clock: Clock,
    pub(super) heartbeat_ms: Arc<AtomicU64>,
    /// Events from the control plane and the sources.
    pub(super) queue: QueueReceiver,
    pub(super) poll: Poll,
    pub(in crate::hub) sessions: SessionTable,
    pub(super) input: Input,
    pub(in crate::hub) fanout: Fanout,
    pub(in crate::hub) egress: Egress,
    /// Limit on the backlogs of all sessions of all shards.
    pub(super) ceiling: Ceiling,
    /// Bytes in the outbox from which nothing waits longer.
    pub(super) outgoing_max: usize,
    pub(in crate::hub) requests: Requests,
    pub(in crate::hub) pending: Pending,
    pub(in crate::hub) allowances: Allowances,
    pub(super) memberships: Memberships,
    pub(super) timeouts: Timeouts,
    pub(in crate::hub) sweep: Sweep,
    /// Set while all sessions are being closed.
    pub(in crate::hub) drain: Option<PacedClose>,
    /// Set while some sessions are closed, to move to other nodes.
    pub(super) rebalance: Option<Rebalance>,
    pub(super) close_queue: CloseQueue,
    /// When sessions may be searched for incomplete messages next.
    pub(super) next_relief_ms: u64,
    /// Sessions with lagging subscriptions that may catch up in this tick.
    pub(super) to_catch_up: Vec<SessionIndex>,
    /// Sessions whose full sockets have room again.
    pub(super) writable: Vec<SessionIndex>,
    /// Number of events taken in this tick, and bytes of deltas among them.
    pub(super) taken: usize,
    pub(super) taken_bytes: usize,
    /// There is more to do: the next tick follows without a sleep.
    pub(super) again: bool,
    /// Events were taken in the last tick.
    pub(super) was_busy: bool,
}

impl Shard {
    /// Must be called on the thread that runs it.
    pub(in crate::hub) fn new(
        part: Part,
        requests: flume::Sender<RequestBatch>,
        node: Arc<str>,
        config: Arc<Config>,
    ) -> Self {
        let (limits, shards) = (&config.limits, part.all_stats.len());
        let backend = backend(config.server.flush);
        tracing::debug!(shard = part.id.0, backend = backend.name(), "shard starts");
        part.stats.io_uring.set(u64::from(backend.name() == "io_uring"));
        Self {
            id: part.id,
            node,
            clock: Clock::new(),
            heartbeat_ms: part.heartbeat_ms,
            queue: part.queue,
            poll: part.poll,
            sessions: SessionTable::new(part.sessions, part.tokenless),
            input: Input::new(),
            fanout: Fanout::new(part.id, part.limits.deltas_total_bytes, part.stats.clone()),
            egress: Egress::new(backend, limits.backlog_bytes, part.stats.clone()),
            ceiling: Ceiling::new(part.limits.backlog_total_bytes, part.all_stats),
            outgoing_max: outgoing_max(part.limits.outgoing_total_bytes, shards),
            requests: Requests::new(requests, part.limits.asked_total_bytes, shards),
            pending: Pending::default(),
            allowances: Allowances::new(Answers::new(limits)),
            memberships: Memberships::new(Rates::new(limits, shards)),
            timeouts: Timeouts::new(&config),
            sweep: Sweep::default(),
            drain: None,
            rebalance: None,
            close_queue: CloseQueue::default(),
            next_relief_ms: 0,
            to_catch_up: Vec::new(),
            writable: Vec::new(),
            taken: 0,
            taken_bytes: 0,
            again: false,
            was_busy: false,
            limits: part.limits,
            stats: part.stats,
            config,
        }
    }

    /// Adds a new session.
    pub(super) fn open(&mut self, new: NewSession) {
        let mut socket = mio::net::TcpStream::from_std(new.socket);
        let index = self.sessions.next_index();
        // Only readable: to watch a new socket for room would wake the shard once for nothing.
        if let Err(error) = self.poll.registry().register(&mut socket, Token(index.at()), Interest::READABLE) {
            tracing::warn!(shard = self.id.0, %error, "a socket could not be registered with the poll; its session is dropped");
            return;
        }
        let now_ms = clock32(self.clock.now_ms);
        let output = Output::new(socket, new.tls, new.dialect, new.deflate, now_ms);
        let index = self.sessions.add(|generation| Session::new(output, generation, now_ms, new.identity, new.permit));
        new.reservation.taken();
        if self.drain.is_some() {
            self.close(index, CloseReason::ServiceRestart);
        } else if !new.early.is_empty() {
            let mut early = new.early.to_vec();
            self.input.turns.begin();
            self.received(index, &mut early);
        }
    }

    /// Sends one frame to one session unchanged.
    pub(in crate::hub) fn send(&mut self, index: SessionIndex, bytes: bytes::Bytes) {
        self.send_chunk(index, Chunk::control(bytes));
    }

    pub(in crate::hub) fn send_chunk(&mut self, index: SessionIndex, chunk: Chunk) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        // Replies are not shared, so only long ones, after a recovery, are worth compressing.
        let chunk =
            match session.output.deflate && (chunk.deliveries > 0 || chunk.bytes.len() >= COMPRESS_REPLY_BYTES_MIN) {
                true => chunk.compressed(|bytes| self.egress.compressor.frame(bytes)),
                false => chunk,
            };
        let chunk = self.egress.outbox.chunk(chunk);
        self.egress.outbox.link(index, &mut session.output.send_queue, chunk);
    }

    /// Ends a subscription that was already removed from its session.
    pub(in crate::hub) fn leave(&mut self, subscription: Subscription) {
        let (fanout, mut to) = self.fan_out();
        let unwanted = fanout.leave(subscription, &mut to);
        self.stats.subscriptions.sub(1);
        if let Some(slot) = unwanted {
            self.detach(slot);
        }
    }

    /// Informs the control plane that no session of this shard needs this topic.
    pub(in crate::hub) fn detach(&mut self, slot: Slot) {
        if let Some(topic) = self.fanout.topics.topic(slot) {
            let topic = topic.name.clone();
            self.requests.send(Request::Detach { shard: self.id, slot, topic });
        }
    }

    /// The traits of a topic, and the least interval in ms for a subscriber that requests `max_rate`.
    pub(in crate::hub) fn terms(&self, topic: &crate::name::TopicName, max_rate: Option<f64>) -> (Traits, u64) {
        let options = self.config.namespace(topic.namespace());
        let flush_ms = u16::try_from(options.flush_interval.as_millis()).unwrap_or(u16::MAX);
        let traits = Traits { class: options.class, flush_ms };
        if options.class == Class::Stream {
            return (traits, 0);
        }
        let asked = max_rate.map(|rate| {
            let steps = limits::RATE_STEPS.iter().rev().copied();
            steps.into_iter().find(|step| *step <= rate).unwrap_or(limits::RATE_STEPS[0])
        });
        let rate = match (options.max_rate, asked) {
            (Some(a), Some(b)) => a.min(b),
            (Some(a), None) => a,
            // A rate above the fastest step counts as unlimited.
            (None, Some(b)) if max_rate.is_some_and(|r| r > 200.0) && b >= 200.0 => return (traits, 0),
            (None, Some(b)) => b,
            (None, None) => return (traits, 0),
        };
        (traits, Duration::from_secs_f64(1.0 / rate).as_millis().try_into().unwrap_or(1_000))
    }
}
