//! A shard: its loop, and what it owns. The other files of the hub that say `impl Shard` hold its verbs: reading,
//! turns, reading, commands, connecting, asking, attaching, bringing, delivering, flushing, relieving, sweeping, shedding.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use smallvec::SmallVec;
use thin_vec::ThinVec;

use super::Part;
use super::allowance::Asking;
use super::asking::{Ask, AskKey, unseen_max};
use super::attaching::Group;
use super::conflate::Conflations;
use super::deflating::Deflating;
use super::delivering::Run;
use super::event::{Asked, Batch, Event, NewSession, Request, SessionKey};
use super::flush::{self, Flush};
use super::flushing::Visit;
use super::following::Following;
use super::gathering::{BATCH_BYTES, Gathering};
use super::memberships::{Memberships, Rates};
use super::outbox::{Chain, Outbox, Piece};
use super::pacing::{Load, Timers, clock32};
use super::queue::QueueReceiver;
use super::relieving::{Ceiling, outgoing_max};
use super::session::{Ping, Session, Stage};
use super::shedding::Shed;
use super::subscribers::{NONE, SHRINK_FROM, Subscribers, Subscription, Traits};
use super::turns::{Reading, Turns};
use super::waves::Waves;
use crate::clock::unix_ms;
use crate::config::{Class, Config};
use crate::limits::{self, STRETCH_MS_MAX};
use crate::metrics::ShardStats;
use crate::topic::{ShardId, Slot};
use crate::wire::close::CloseReason;
use crate::wire::frame;
use crate::wire::inflate::Inflater;
use crate::wire::tls::Sealed;

/// The token of the queue's waker; sessions have their slab index.
pub(super) const WAKER: Token = Token(usize::MAX);

/// Sockets that one poll reports at most.
const POLL_EVENTS: usize = 4_096;

/// Time that a busy shard leaves after a tick in which clients were heard.
const CROWD_GAP: Duration = Duration::from_micros(500);

/// Length of a reply from which on it is compressed.
const COMPRESS_REPLY_BYTES_MIN: usize = 1_024;

/// Bytes of memory of a request under way, with the list of who waits.
const ASK_BYTES: usize = size_of::<Ask>() + size_of::<usize>() + 32;

/// Time between two looks at rings that may be let go of, in ms.
const RINGS_EVERY_MS: u64 = 16;

/// Time between two slices of the sweep.
pub(super) const SWEEP_EVERY: Duration = Duration::from_millis(50);

/// One thread's share of the sessions.
pub(super) struct Shard {
    pub(super) id: ShardId,
    /// This server's name, as clients are told.
    pub(super) node: Arc<str>,
    pub(super) config: Arc<Config>,
    pub(super) stats: Arc<ShardStats>,
    /// On what all sessions of all shards are owed.
    pub(super) ceiling: Ceiling,
    pub(super) poll: Poll,
    queue: QueueReceiver,
    pub(super) requests: flume::Sender<Batch>,
    /// Requests of this tick, and of earlier ones while the desk was full; and their bytes.
    pub(super) wanted: Vec<Asked>,
    pub(super) wanted_bytes: usize,
    /// Bytes of requests that the desk has not looked at yet, and how many there may be before clients wait.
    pub(super) unseen: Arc<AtomicUsize>,
    pub(super) unseen_max: usize,
    placed: Arc<AtomicUsize>,
    heartbeat_ms: Arc<AtomicU64>,
    pub(super) sessions: Slab<Session>,
    pub(super) generation: u32,
    pub(super) subscribers: Subscribers,
    pub(super) outbox: Outbox,
    /// Bytes in it from which on nothing waits.
    pub(super) outgoing_max: usize,
    pub(super) runs: Vec<Run>,
    /// Lanes that may deliver something this tick.
    pub(super) touched: Vec<u32>,
    /// Fresh lanes whose members have just got a whole delta.
    pub(super) graduating: Vec<u32>,
    /// When throttled lanes may deliver again.
    pub(super) dues: BinaryHeap<Reverse<(u64, u32)>>,
    /// Topics whose ring may be let go of some time.
    pub(super) ringed: Vec<Slot>,
    /// When that is looked at next.
    next_rings_ms: u64,
    pub(super) conflations: Conflations,
    pub(super) asks: Slab<Ask>,
    pub(super) tick_asks: HashMap<AskKey, u32>,
    pub(super) groups: Slab<Group>,
    /// Topics that sessions have asked to subscribe to and do not have yet.
    pub(super) joining: HashMap<SessionKey, HashSet<Slot>>,
    /// Topics of snapshot commands that wait, of each session that has some.
    pub(super) snapshotting: HashMap<SessionKey, usize>,
    /// What sessions have used of the rate at which they may make the server inflate ([`crate::rate::Rate`]), in ns.
    pub(super) inflating: HashMap<SessionKey, u64>,
    pub(super) asking: Asking,
    pub(super) memberships: Memberships,
    pub(super) turns: Turns,
    /// Sessions of all shards that have no token.
    pub(super) tokenless: Arc<AtomicUsize>,
    /// No topic can be had without a token.
    pub(super) needs_token: bool,
    /// Sessions that are owed something and whose socket is not known to be full.
    pub(super) owed: Vec<u32>,
    /// Sockets that became writable.
    pub(super) writable: Vec<u32>,
    /// Sockets that had more to read than their turn allows.
    pub(super) readable: Vec<u32>,
    pub(super) read_buffer: Vec<u8>,
    /// Made for the first session that negotiated permessage-deflate; all of them share it.
    pub(super) inflater: Option<Box<Inflater>>,
    pub(super) deflating: Deflating,
    pub(super) gathering: Gathering,
    pub(super) sealing: Sealed,
    /// What a client said in records that were just opened.
    pub(super) opened: Vec<u8>,
    /// Visits of the batch that is being put together.
    pub(super) visits: Vec<Visit>,
    /// Sessions whose visit did not bring all there is for them.
    pub(super) unfinished: Vec<u32>,
    pub(super) backend: Box<dyn Flush>,
    pub(super) timers: Timers,
    pub(super) load: Load,
    pub(super) following: Following,
    /// Events taken so far in this tick, and bytes of deltas among them.
    pub(super) taken: usize,
    tick_bytes: usize,
    /// There is more to do: no sleep before the next tick.
    pub(super) again: bool,
    /// Events were taken in the last tick.
    worked: bool,
    /// Clients were heard in the last tick.
    pub(super) heard: bool,
    started: Instant,
    pub(super) now_ms: u64,
    /// Wall clock of this tick.
    pub(super) unix_ms: u64,
    pub(super) next_sweep_ms: u64,
    pub(super) sweep_at: usize,
    /// Bytes of what sessions have in boxes, as the last sweep found it, and as far as this one has come.
    pub(super) boxed_bytes: usize,
    pub(super) boxed_so_far: usize,
    /// When sessions may be looked through next for messages that are not whole.
    pub(super) next_relief_ms: u64,
    /// Sessions on their way out, all of them.
    pub(super) drain: Option<Waves>,
    /// Sessions on their way to other nodes.
    pub(super) shed: Option<Shed>,
    /// Whether the queue was found long this tick.
    pub(super) overloaded: bool,
}

impl Shard {
    /// To be called on the thread that will run it.
    pub(super) fn new(part: Part, requests: flume::Sender<Batch>, node: Arc<str>, config: Arc<Config>) -> Self {
        let backend = flush::backend(config.server.flush);
        let memberships = Memberships::new(Rates::new(&config.limits, part.everybody.len()));
        tracing::debug!(shard = part.id.0, backend = backend.name(), "shard starts");
        part.stats.io_uring.set(u64::from(backend.name() == "io_uring"));
        let conflations = Conflations::new(config.limits.deltas_total_bytes);
        Self {
            id: part.id,
            node,
            tokenless: part.tokenless,
            needs_token: config.needs_token(),
            unseen_max: unseen_max(config.limits.asked_total_bytes, part.everybody.len()),
            outgoing_max: outgoing_max(config.limits.outgoing_total_bytes, part.everybody.len()),
            ceiling: Ceiling::new(config.limits.backlog_total_bytes, part.everybody),
            config,
            stats: part.stats,
            poll: part.poll,
            queue: part.queue,
            requests,
            wanted: Vec::new(),
            wanted_bytes: 0,
            unseen: Arc::default(),
            placed: part.sessions,
            heartbeat_ms: part.heartbeat_ms,
            sessions: Slab::new(),
            generation: 0,
            subscribers: Subscribers::default(),
            outbox: Outbox::default(),
            runs: Vec::new(),
            touched: Vec::new(),
            graduating: Vec::new(),
            dues: BinaryHeap::new(),
            ringed: Vec::new(),
            next_rings_ms: 0,
            conflations,
            asks: Slab::new(),
            tick_asks: HashMap::new(),
            groups: Slab::new(),
            joining: HashMap::new(),
            snapshotting: HashMap::new(),
            inflating: HashMap::new(),
            asking: Asking::default(),
            memberships,
            turns: Turns::default(),
            owed: Vec::new(),
            writable: Vec::new(),
            readable: Vec::new(),
            read_buffer: vec![0; limits::READ_BUFFER_BYTES],
            inflater: None,
            deflating: Deflating::default(),
            gathering: Gathering::default(),
            sealing: Sealed::default(),
            opened: Vec::new(),
            visits: Vec::new(),
            unfinished: Vec::new(),
            backend,
            timers: Timers::default(),
            load: Load::default(),
            following: Following::default(),
            taken: 0,
            tick_bytes: 0,
            again: false,
            worked: false,
            heard: false,
            started: Instant::now(),
            now_ms: 0,
            unix_ms: unix_ms(),
            next_sweep_ms: 0,
            sweep_at: 0,
            boxed_bytes: 0,
            boxed_so_far: 0,
            next_relief_ms: 0,
            drain: None,
            shed: None,
            overloaded: false,
        }
    }

    /// Turns until it is drained.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(POLL_EVENTS);
        loop {
            if self.heard && self.load.stretch_ms() > 0 {
                // Clients that speak come in crowds: to wait for a few more costs less than to be woken by each.
                std::thread::sleep(CROWD_GAP);
            }
            let timeout = self.rest();
            self.turn(&mut events, timeout);
            if self.drain.is_some() && self.sessions.is_empty() {
                return;
            }
        }
    }

    /// So much time has passed.
    #[cfg(test)]
    pub(super) fn pass(&mut self, time: Duration) {
        self.started -= time;
    }

    /// Waits at most so long for something to do, and does it.
    pub(super) fn turn(&mut self, events: &mut Events, timeout: Duration) {
        if let Err(error) = self.poll.poll(events, Some(timeout))
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            tracing::error!(shard = self.id.0, %error, "poll failed");
        }
        self.queue.awake();
        let began = Instant::now();
        self.tick(events);
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.stats.ticks.add(1);
        self.stats.tick(took);
        self.load.ticked(self.started.elapsed(), took);
        self.stats.stretch_ms.set(u64::from(self.load.stretch_ms()));
    }

    /// One turn: take all that has arrived, fan it out, flush.
    fn tick(&mut self, events: &Events) {
        self.now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.unix_ms = unix_ms();
        self.heartbeat_ms.store(self.unix_ms, Ordering::Relaxed);

        self.hear(events);

        self.stats.queue_high.set(self.stats.queue_high.get().max(self.queue.depth() as u64));
        self.overloaded = self.queue.depth() > limits::QUEUE_HIGH_WATER / 16;
        (self.taken, self.tick_bytes) = (0, 0);
        while self.taken < limits::TICK_EVENTS_MAX
            && (self.taken == 0 || self.tick_bytes.max(self.outbox.frame_bytes()) <= self.outgoing_max)
            && let Some(event) = self.queue.take()
        {
            self.taken += 1;
            self.handle(event);
        }
        self.stats.events.add(self.taken as u64);
        self.worked = self.taken > 0;

        self.tell_memberships();
        self.deliver();
        self.sweep();
        self.flush();
        self.send_requests();
        self.end_tick();
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Open(session) => self.open(*session),
            Event::Delta { slot, delta } => {
                self.tick_bytes += delta.payload.bytes().len();
                self.delta(slot, delta);
            }
            Event::Reset { slot, snapshot } => self.reset(slot, &snapshot),
            Event::Stale { slot, since_ms } => self.stale(slot, since_ms),
            Event::Attached { ask, result } => self.attached(ask, result),
            Event::Snapshot { ask, snapshot } => self.snapshot_came(ask, &snapshot.snapshot),
            Event::Replayed { ask, replay } => self.replayed(ask, replay),
            Event::Unanswered { ask, topic } => self.unanswered(ask, &topic),
            Event::Detached { slot } => {
                self.memberships.forget(slot);
                self.subscribers.free(slot);
            }
            Event::Membership { slot, change } => self.membership(slot, &change),
            Event::Authenticated { session, id, purpose, result } => {
                self.authenticated(session, id, purpose, result);
            }
            Event::SubRefreshed { session, id, slot, result } => self.sub_refreshed(session, &id, slot, result),
            Event::Answered { session, reply } => self.answered(session, reply),
            Event::Order(order) => self.obey(&order.0, &order.1),
            Event::Census { fits, max, counts } => {
                // Nobody may wait for it any more.
                let _ = counts.try_send(self.subscribers.census(&*fits, max));
            }
            Event::Drain { window } => self.begin_drain(window),
            Event::Shed { share, window } => self.begin_shed(share, window),
            Event::Hurry => self.hurry(),
        }
    }

    fn end_tick(&mut self) {
        self.outbox.end_tick();
        if !self.following.is_empty() {
            self.unfollow();
        }
        self.runs.clear();
        self.tick_asks.clear();
        self.tick_asks.shrink_to(SHRINK_FROM);
        self.conflations.clear();
        self.deflating.end_tick();
        self.clear_rings();
        self.trim_recent();
        if self.read_buffer.len() < limits::READ_BUFFER_BYTES {
            self.read_buffer.resize(limits::READ_BUFFER_BYTES, 0);
        }
        self.gathering.end_tick();
        self.sealing.shrink_to(2 * BATCH_BYTES);
        self.opened.shrink_to(limits::READ_BUFFER_BYTES);
        self.stats.topics.set(self.subscribers.topics() as u64);
        self.stats.outgoing_bytes.set(self.outbox.bytes() as u64);
        let entries = self.sessions.len() * (size_of::<Session>() + size_of::<usize>());
        self.stats.session_bytes.set((entries + self.boxed_bytes) as u64);
        let asked = self.asks.capacity() * ASK_BYTES;
        self.stats
            .subscription_bytes
            .set((self.subscribers.bytes() + asked + self.asking.bytes() + self.memberships.bytes()) as u64);
    }

    /// Lets go of the deltas that nobody needs any more: nobody is behind, and whoever waits for a visit has been visited.
    fn clear_rings(&mut self) {
        if self.now_ms < self.next_rings_ms {
            return;
        }
        self.next_rings_ms = self.now_ms + RINGS_EVERY_MS;
        let (now_ms, subscribers) = (self.now_ms, &mut self.subscribers);
        self.ringed.sort_unstable();
        self.ringed.dedup();
        self.ringed.retain(|slot| {
            let Some(topic) = subscribers.topic_mut(*slot) else { return false };
            let waits_ms = u64::from(STRETCH_MS_MAX).max(u64::from(topic.flush_ms)) + RINGS_EVERY_MS;
            if now_ms.saturating_sub(topic.moved_ms) < 2 * waits_ms {
                return true;
            }
            if topic.behind > 0 || topic.waiting > 0 {
                return true;
            }
            topic.clear_ring();
            topic.ring.shrink_to(8);
            false
        });
    }

    /// How long the shard may rest, as its queue was told.
    fn rest(&self) -> Duration {
        let sleep = self.sleep_time();
        // Naps follow work; one in which nothing comes is followed by a sleep.
        let nap = if self.worked { self.load.nap() } else { Duration::ZERO };
        let may_rest = !sleep.is_zero() && if nap.is_zero() { self.queue.sleep() } else { self.queue.nap() };
        match may_rest {
            false => Duration::ZERO,
            true if nap.is_zero() => sleep,
            true => sleep.min(nap),
        }
    }

    fn sleep_time(&self) -> Duration {
        if self.again {
            return Duration::ZERO;
        }
        if !self.readable.is_empty() || !self.wanted.is_empty() {
            // A full desk is asked again soon, without spinning.
            let at_once = self.wanted.is_empty() && !self.desk_is_behind();
            return if at_once { Duration::ZERO } else { Duration::from_millis(1) };
        }
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        // With nobody here, once a second is enough to show that the shard lives.
        let idle = self.sessions.is_empty();
        let sweep_ms = if idle && self.drain.is_none() { now_ms + 1_000 } else { self.next_sweep_ms };
        let due_ms = self.dues.peek().map_or(u64::MAX, |Reverse((due, _))| *due);
        let timer_ms = self.timers.next_ms().unwrap_or(u64::MAX);
        let timer_ms = timer_ms.min(self.memberships.next_ms().unwrap_or(u64::MAX));
        Duration::from_millis(sweep_ms.min(due_ms).min(timer_ms).saturating_sub(now_ms))
    }

    /// Has the poll tell when a full socket takes bytes again; from then on for good.
    pub(super) fn watch_for_room(&mut self, index: u32) {
        let Some(session) = self.session(index).filter(|s| !s.watched) else { return };
        session.watched = true;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        if let Err(error) = self.poll.registry().reregister(&mut session.socket, Token(index as usize), interest) {
            tracing::warn!(shard = self.id.0, %error, "a full socket could not be watched");
            self.drop_session(index);
        }
    }

    fn open(&mut self, new: NewSession) {
        let mut socket = mio::net::TcpStream::from_std(new.socket);
        let entry = self.sessions.vacant_entry();
        let index = entry.key();
        // For room nobody waits yet: to watch for it would wake the shard once for nothing.
        if let Err(error) = self.poll.registry().register(&mut socket, Token(index), Interest::READABLE) {
            tracing::warn!(shard = self.id.0, %error, "a socket could not be watched");
            self.placed.fetch_sub(1, Ordering::Relaxed);
            self.tokenless.fetch_sub(usize::from(new.identity.is_none()), Ordering::Relaxed);
            return;
        }
        self.generation = self.generation.wrapping_add(1);
        entry.insert(Session {
            socket,
            tls: new.tls,
            dialect: new.dialect,
            deflate: new.deflate,
            stage: Stage::New,
            ping: Ping::None,
            watched: false,
            generation: self.generation,
            reading: Reading::Free,
            attaching: 0,
            chain: Chain::default(),
            batch: false,
            // Long enough ago for the first delivery to go at once.
            visited_ms: clock32(self.now_ms).wrapping_sub(1 << 30),
            timer_ms: 0,
            pace: None,
            opened_ms: clock32(self.now_ms),
            heard_ms: clock32(self.now_ms),
            commands_used_ns: 0,
            subscriptions: SmallVec::new(),
            inbox: None,
            backlog: None,
            holds: ThinVec::new(),
            deferred: None,
            identity: new.identity.map(Arc::new),
            client: None,
            permit: new.permit.map(Box::new),
        });
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        if self.drain.is_some() {
            self.close(index, CloseReason::ServiceRestart);
        } else if !new.early.is_empty() {
            let mut early = new.early.to_vec();
            self.turns.begin();
            self.received(index, &mut early);
        }
    }

    pub(super) fn session(&mut self, index: u32) -> Option<&mut Session> {
        self.sessions.get_mut(index as usize)
    }

    /// The session, if it is still the one that the key was made for.
    pub(super) fn keyed(&mut self, key: SessionKey) -> Option<&mut Session> {
        self.session(key.index).filter(|s| s.generation == key.generation)
    }

    /// Sends one frame to one session, as it is.
    pub(super) fn send(&mut self, index: u32, bytes: bytes::Bytes) {
        self.send_piece(index, Piece::control(bytes));
    }

    pub(super) fn send_piece(&mut self, index: u32, piece: Piece) {
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        // Replies are each session's own: only the long ones, of a recovery, are worth it.
        let piece = match session.deflate && (piece.deliveries > 0 || piece.bytes.len() >= COMPRESS_REPLY_BYTES_MIN) {
            true => piece.compressed(|bytes| self.deflating.frame(bytes)),
            false => piece,
        };
        let piece = self.outbox.piece(piece);
        self.outbox.link(index, &mut session.chain, piece);
    }

    /// Begins the closing handshake.
    pub(super) fn close(&mut self, index: u32, reason: CloseReason) {
        let centrifuge = self.session(index).is_some_and(|s| s.dialect.is_centrifuge());
        let code = if centrifuge { reason.centrifuge_code() } else { reason.code() };
        self.close_with(index, reason, code, reason.reason());
    }

    /// The same with another code and reason than the usual.
    pub(super) fn close_with(&mut self, index: u32, reason: CloseReason, code: u16, text: &str) {
        let until_ms = clock32(self.now_ms + u64::try_from(limits::CLOSE_TIMEOUT.as_millis()).unwrap_or(0));
        let Some(session) = self.session(index).filter(|s| s.is_live()) else { return };
        session.stage = Stage::Closing { until_ms };
        let backlog = session.backlog.as_mut().map(|b| {
            let before = b.len();
            b.cut_short();
            before - b.len()
        });
        if backlog.is_some() {
            // What this tick holds for it comes after what was just dropped: it would look like a hole.
            let chain = session.chain.take();
            self.outbox.release(chain);
        }
        if let Some(freed) = backlog {
            self.stats.backlog_bytes.sub(freed as u64);
        }
        self.stats.close(reason);
        self.leave_all(index);
        self.send(index, frame::close_with(code, text));
        // The client's answer is waited for, whatever else was.
        if self.session(index).is_some_and(|s| s.reading != Reading::Free) {
            self.wait_for(index, Reading::Turn);
        }
    }

    /// Takes a session out of all its topics.
    pub(super) fn leave_all(&mut self, index: u32) {
        let Some(session) = self.session(index) else { return };
        session.deferred = None;
        let key = session.key(index);
        let holds = std::mem::replace(&mut session.holds, ThinVec::new());
        let specials = session.client.as_mut().map(|c| std::mem::take(&mut c.specials)).unwrap_or_default();
        for special in specials {
            self.depart(special);
        }
        for hold in holds.iter().filter(|hold| hold.snapshot != NONE) {
            self.snapshot_answered(hold.snapshot);
        }
        while let Some(subscription) = self.session(index).and_then(|s| s.subscriptions.pop()) {
            self.leave(subscription);
        }
        if let Some(session) = self.session(index) {
            session.subscriptions = SmallVec::new();
        }
        self.needs_nothing(key);
    }

    /// Ends a subscription that was taken out of its session already.
    pub(super) fn leave(&mut self, subscription: Subscription) {
        let (moved, unwanted) = self.subscribers.leave(subscription);
        self.stats.subscriptions.sub(1);
        if let Some(moved) = moved
            && let Some(session) = self.session(moved.session)
        {
            session.moved(moved.from, moved.to);
        }
        if let Some(slot) = unwanted {
            self.detach(slot);
        }
    }

    /// Tells the control plane that nobody here wants this topic.
    pub(super) fn detach(&mut self, slot: Slot) {
        if let Some(topic) = self.subscribers.topic(slot) {
            let topic = topic.name.clone();
            self.request(Request::Detach { shard: self.id, slot, topic });
        }
    }

    /// Forgets a session; its socket closes.
    pub(super) fn drop_session(&mut self, index: u32) {
        self.leave_all(index);
        let Some(mut session) = self.sessions.try_remove(index as usize) else { return };
        self.asks_no_more(session.key(index));
        self.outbox.release(session.chain.take());
        if let Some(backlog) = &session.backlog {
            self.stats.slow_sessions.sub(1);
            self.stats.backlog_bytes.sub(backlog.len() as u64);
        }
        if session.is_live() {
            self.stats.disconnects.add(1);
        }
        self.say_goodbye(&mut session);
        // To close the socket, which nothing else holds, also ends the poll's watch over it.
        let tokenless = session.identity.is_none();
        drop(session);
        self.placed.fetch_sub(1, Ordering::Relaxed);
        self.tokenless.fetch_sub(usize::from(tokenless), Ordering::Relaxed);
    }

    /// What a topic is, and its least interval for a subscriber who asks for `max_rate`.
    pub(super) fn terms(&self, topic: &crate::name::TopicName, max_rate: Option<f64>) -> (Traits, u64) {
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
            // Faster than the fastest step is as good as unlimited.
            (None, Some(b)) if max_rate.is_some_and(|r| r > 200.0) && b >= 200.0 => return (traits, 0),
            (None, Some(b)) => b,
            (None, None) => return (traits, 0),
        };
        (traits, Duration::from_secs_f64(1.0 / rate).as_millis().try_into().unwrap_or(1_000))
    }
}
