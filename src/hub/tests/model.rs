//! A whole shard against a model. Random subscribes, recoveries, deltas, full sockets, rates, limits, snapshots, closes
//! and idle times come in any order, on real sockets with small buffers, in both dialects, compressed or not. The
//! control plane answers at random times. In every case the deliveries of each session join up, no delta of a stream is
//! missing, no message is too large, and only clients that were pinged are closed for a missing pong. At the end all
//! clients have the state of the source, and the shard holds nothing more. Then all clients reconnect and recover
//! everything, and none is closed as slow.
//!
//! Each test prints its seed and takes one: `NEXUS_TEST_SEED=7`. `PROPTEST_CASES` is the number of worlds.

mod cases;
mod peer;
mod sizes;
mod worlds;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::Events;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};

use self::peer::{Followed, Peer, Recovery};
use self::sizes::{CLIENTS, TOPICS};
use self::worlds::{Op, Ways, ops, ways};
use crate::auth::Tokens;
use crate::config::{Class, Config, FlushBackend, Namespace};
use crate::hub::backend::{Answer, Backend, Member, MemberCount};
use crate::hub::index::SessionIndex;
use crate::hub::lifecycle::{SWEEP_EVERY, millis};
use crate::hub::new_session::NewSession;
use crate::hub::session::Session;
use crate::hub::shard::Shard;
use crate::hub::stage::Ping;
use crate::hub::{Control, Hub, Prepared};
use crate::limits::{DEFERRED_MAX, DELTA_BYTES_MAX};
use crate::memory::ResolvedLimits;
use crate::metrics::Metrics;
use crate::name::TopicName;
use crate::position::{Epoch, Offset};
use crate::protocol::{Dialect, MemberInfo, Refusal};
use crate::topic::{Floor, Incoming, Kind, Payload, Topics};
use crate::wire::close::CloseReason;
use crate::wire::tls;

/// Time limit for the end, with the flush intervals and rates of this test.
const PATIENCE: Duration = Duration::from_secs(5);

/// The members of topics, as others see them. The model needs nothing else of a backend.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<SeenMembers>>);

#[derive(Default)]
struct SeenMembers {
    there: HashSet<(String, String)>,
    /// Number of joins and leaves.
    told: usize,
    /// A member that joined twice, or left without having joined.
    odd: Option<String>,
}

impl Seen {
    fn lock(&self) -> std::sync::MutexGuard<'_, SeenMembers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Seen {
    fn publish(&self, _: TopicName, _: Payload) -> Answer<()> {
        Box::pin(async { Err(Refusal::new(403, "")) })
    }
    fn joined(&self, topic: &TopicName, member: &Member) {
        let mut seen = self.lock();
        seen.told += 1;
        let client = &member.info.client;
        if !seen.there.insert((topic.to_string(), client.clone())) {
            seen.odd = Some(format!("{client} joined {topic} twice"));
        }
    }
    fn left(&self, topic: &TopicName, member: &Member) {
        let mut seen = self.lock();
        seen.told += 1;
        let client = &member.info.client;
        if !seen.there.remove(&(topic.to_string(), client.clone())) {
            seen.odd = Some(format!("{client} left {topic} without having joined"));
        }
    }
    fn presence(&self, _: TopicName) -> Answer<Vec<Arc<MemberInfo>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn presence_stats(&self, _: TopicName) -> Answer<MemberCount> {
        Box::pin(async { Ok(MemberCount { clients: 0, users: 0 }) })
    }
    fn call(&self, _: String, _: String, _: String, _: Bytes) -> Answer<Bytes> {
        Box::pin(async { Err(Refusal::new(404, "")) })
    }
}

struct World {
    hub: Arc<Hub>,
    shard: Shard,
    topics: Arc<Topics>,
    answer_all: Box<dyn FnMut()>,
    seen: Seen,
    events: Events,
    peers: [Option<Peer>; CLIENTS],
    /// TLS versions of the clients; none if they use no TLS.
    sealed: &'static [&'static rustls::SupportedProtocolVersion],
    ways: Ways,
    published: u64,
    /// The positions in topics that clients remember.
    marks: [HashMap<String, Followed>; CLIENTS],
    /// When a session's unanswered ping was written, by index and generation, in ms of the shard's clock.
    pinged: HashMap<(SessionIndex, u32), u64>,
    /// The offset from which an epoch's deltas are kept, if all are.
    kept_after: HashMap<String, u64>,
    /// The epoch changed since the last turn, or ever.
    epoch_changed: bool,
    epochs: bool,
    /// When the control plane last answered requests, in the shard's time.
    answered_ms: u64,
}

impl World {
    fn new(flush: FlushBackend, sealed: &'static [&'static rustls::SupportedProtocolVersion], ways: Ways) -> Self {
        let mut config = Config::default();
        config.limits.backlog_total_bytes = ways.backlog_total_bytes;
        config.limits.deltas_total_bytes = ways.deltas_total_bytes;
        // One per topic: no session is refused a subscription.
        config.limits.subscriptions = TOPICS.len();
        config.server.flush = flush;
        config.access.anonymous = true;
        config.limits.backlog_bytes = ways.backlog_bytes;
        // Not tested here: the clients send many commands in a short time.
        config.limits.commands_burst = 1_000_000;
        config.limits.reply_bytes_per_second = ways.reply_bytes_per_second;
        config.limits.reply_bytes_burst = if ways.reply_bytes_per_second == u32::MAX { u32::MAX } else { 10_000 };
        config.limits.reply_bytes_per_address = 0;
        let long = Duration::from_secs(86_400);
        (config.limits.stall_timeout, config.limits.first_command_timeout) = (long, long);
        for (name, class) in [("merge", Class::Merge), ("latest", Class::Latest), ("stream", Class::Stream)] {
            let (history_size, history_bytes) = (ways.history_size, 1 << 30);
            let namespace = Namespace { class, history_size, history_bytes, presence: true, ..Namespace::default() };
            config.namespace.insert(name.to_owned(), namespace);
        }
        let config = Arc::new(config);
        let metrics = Arc::new(Metrics::default());
        let limits = Arc::new(ResolvedLimits::configured(&config.limits));
        let (hub, prepared, control) = Hub::new(1, 100, "model".into(), config.clone(), &limits, &metrics).unwrap();
        let Prepared { mut parts, requests, node, .. } = prepared;
        let topics = Arc::new(Topics::new(config.clone(), 1, hub.clone(), metrics.clone()));
        let tokens = Arc::new(Tokens::load(&config.access, &metrics).unwrap());
        let shard = Shard::new(parts.remove(0), requests, node, config);
        let seen = Seen::default();
        let answer = Control::at_hand(control, topics.clone(), tokens, Arc::new(seen.clone()), metrics);
        let events = Events::with_capacity(64);
        let kept_after = HashMap::from([(topics.epoch(topics.home("")).to_string(), 0)]);
        Self {
            hub,
            shard,
            topics,
            answer_all: Box::new(answer),
            seen,
            events,
            peers: Default::default(),
            sealed,
            ways,
            published: 0,
            marks: Default::default(),
            pinged: HashMap::new(),
            kept_after,
            epoch_changed: false,
            epochs: false,
            answered_ms: 0,
        }
    }

    fn do_one(&mut self, op: Op) -> Result<(), TestCaseError> {
        let names = |topics: &[usize]| topics.iter().map(|t| TOPICS[*t]).collect::<Vec<_>>();
        let mut tell = |client: usize, command: Value| {
            if let Some(peer) = &mut self.peers[client] {
                peer.send(&command);
            }
        };
        match op {
            Op::Come(client) => self.come(client),
            Op::Go(client) => self.go(client),
            Op::Mark(client) => {
                if let Some(peer) = &self.peers[client] {
                    self.marks[client].extend(peer.followed.clone());
                }
            }
            Op::Recover { client, topics, old, reject } => {
                if let Some(peer) = &mut self.peers[client] {
                    let known = |topic: &&str| {
                        let (now, once) = (peer.followed.get(*topic), self.marks[client].get(*topic));
                        Some(((*topic).to_owned(), if old { once.or(now) } else { now.or(once) }?.clone()))
                    };
                    let topics = names(&topics);
                    let from = topics.iter().filter_map(known).collect();
                    peer.recover(&topics, &from, reject);
                }
            }
            Op::Lull(ms) => self.lull(ms)?,
            Op::Subscribe(client, topics, rate) => {
                let mut command = json!({"op": "subscribe", "args": names(&topics)});
                if let Some(rate) = rate {
                    command["max_rate"] = json!(rate);
                }
                tell(client, command);
            }
            Op::Unsubscribe(client, topic) => {
                tell(client, json!({"op": "unsubscribe", "args": [TOPICS[topic]]}));
            }
            Op::Snapshot(client, topics) => tell(client, json!({"op": "snapshot", "args": names(&topics)})),
            Op::Rate(client, topic, rate) => {
                tell(client, json!({"op": "rate", "args": [TOPICS[topic]], "max_rate": rate}));
            }
            Op::Session { client, flush_ms, bytes_per_second, batch } => tell(
                client,
                json!({"op": "session", "flush_interval_ms": flush_ms, "bytes_per_second": bytes_per_second, "batch": batch}),
            ),
            Op::Publish { topic, deltas, bytes } => (0..deltas).for_each(|_| self.publish(topic, bytes)),
            Op::NewEpoch { offset, whole } => {
                let (source, epoch, offset) = (self.topics.home(""), Epoch::random(), Offset::new(offset).unwrap());
                let kept_after = if whole { Offset::ZERO } else { offset };
                self.kept_after.insert(epoch.to_string(), kept_after.get());
                self.topics.load(source, &epoch, Floor { offset, kept_after }, true);
                self.topics.loaded(source);
                self.epoch_changed = true;
            }
            Op::Beginning(client, topic) => {
                let epoch = self.topics.epoch(self.topics.home(TOPICS[topic])).to_string();
                let beginning = Followed { epoch, offset: 0, state: json!({}) };
                self.marks[client].insert(TOPICS[topic].to_owned(), beginning);
            }
            Op::Breath { client, topics, times, bytes } => {
                let (topics, pad) = (names(&topics), " ".repeat(bytes));
                if let Some(peer) = &mut self.peers[client] {
                    (0..times).for_each(|_| peer.breathe(&topics, &pad));
                }
            }
            Op::Read(client, most) => {
                if let Some(peer) = &mut self.peers[client] {
                    peer.read(most)?;
                }
                self.check_recoveries(client)?;
            }
            Op::Turn(ms) => self.turn(ms)?,
            Op::Answer => self.answer(),
        }
        Ok(())
    }

    fn come(&mut self, client: usize) {
        if self.peers[client].is_some() {
            return;
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        // Small, so that they fill up.
        ours.set_recv_buffer_size(4_096).unwrap();
        ours.connect(&listener.local_addr().unwrap().into()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        socket2::SockRef::from(&theirs).set_send_buffer_size(4_096).unwrap();
        theirs.set_nodelay(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        ours.set_nonblocking(true).unwrap();
        let (tls, sealed) = match self.sealed {
            [] => (None, None),
            versions => {
                let (server, client) = tls::tests::pair(versions[client % versions.len()]);
                (Some(Box::new(server)), Some(client))
            }
        };
        let kind = self.ways.kinds[client];
        let session = NewSession {
            socket: theirs,
            tls,
            dialect: if kind.centrifuge { Dialect::CentrifugeJson } else { Dialect::Plain },
            deflate: kind.deflate,
            early: Bytes::new(),
            identity: None,
            permit: None,
            reservation: self.hub.reserve(false).unwrap(),
        };
        self.hub.place(Box::new(session));
        let peer = self.peers[client].insert(Peer {
            socket: ours.into(),
            tls: sealed,
            kind,
            heard_bytes: 0,
            unread: Vec::new(),
            followed: HashMap::new(),
            unanswered: HashSet::new(),
            sent: 0,
            joining: HashMap::new(),
            recovering: HashMap::new(),
            recoveries: Vec::new(),
            leaving: HashMap::new(),
            closed: false,
        });
        if kind.centrifuge {
            peer.send(&json!({"op": "connect"}));
        }
    }

    fn publish(&mut self, topic: usize, bytes: usize) {
        self.published += 1;
        let n = self.published;
        let topic = TOPICS[topic];
        let data = match topic.starts_with("merge") {
            true => json!({(format!("k{}", n % 7)): n, (format!("k{}", n % 5)): null, "pad": "x".repeat(bytes)}),
            false => json!({"n": n, "pad": "x".repeat(bytes)}),
        };
        self.publish_data(topic, &data);
    }

    fn publish_data(&mut self, topic: &str, data: &Value) {
        let payload = Payload::new(Bytes::from(data.to_string()), DELTA_BYTES_MAX).unwrap();
        let source = self.topics.home(topic);
        let incoming = Incoming {
            topic,
            kind: Kind::Delta,
            ts: None,
            at_ms: None,
            payload,
            offset: None,
            source,
            home: None,
            is_relayed: false,
        };
        self.topics.publish(incoming).unwrap();
    }

    /// A client disconnects without a close. It remembers its position, unless it remembers an earlier one.
    fn go(&mut self, client: usize) {
        for (topic, followed) in self.peers[client].take().into_iter().flat_map(|peer| peer.followed) {
            self.marks[client].entry(topic).or_insert(followed);
        }
    }

    /// Time passes, followed by enough sweeps to check all sessions.
    fn lull(&mut self, ms: u64) -> Result<(), TestCaseError> {
        self.shard.pass(Duration::from_millis(ms));
        (0..2 * CLIENTS + 2).try_for_each(|_| {
            self.shard.pass(SWEEP_EVERY);
            self.turn(0)
        })
    }

    /// The control plane answers the waiting requests.
    fn answer(&mut self) {
        (self.answer_all)();
        self.answered_ms = self.shard.clock.now_ms;
    }

    fn closes(&self, reason: CloseReason) -> u64 {
        let closes = CloseReason::ALL.iter().zip(&self.shard.stats.closes);
        closes.filter(|(other, _)| **other == reason).map(|(_, closes)| closes.get()).sum()
    }

    fn turn(&mut self, ms: u64) -> Result<(), TestCaseError> {
        let live = |(index, s): (SessionIndex, &Session)| s.is_live().then_some((index, s.generation));
        let lived: Vec<_> = self.shard.sessions.iter().filter_map(live).collect();
        let no_pong = self.closes(CloseReason::NoPong);
        let closes = self.shard.stats.closes.each_ref().map(crate::metrics::Stat::get);
        self.epochs |= self.epoch_changed;
        self.shard.turn(&mut self.events, Duration::from_millis(ms));
        let lives: HashSet<_> = self.shard.sessions.iter().filter_map(live).collect();
        let pong_ms = u64::try_from(self.shard.config.limits.pong_timeout.as_millis()).unwrap();
        let had_its_time =
            |key: &(SessionIndex, u32)| self.pinged.get(key).is_some_and(|at| at + pong_ms < self.shard.clock.now_ms);
        let may_be = lived.iter().filter(|key| !lives.contains(key) && had_its_time(key)).count();
        let closed = self.closes(CloseReason::NoPong) - no_pong;
        prop_assert!(closed <= may_be as u64, "{closed} closed for no pong, {may_be} had the time to answer a ping");
        for ((reason, closes), before) in CloseReason::ALL.iter().zip(&self.shard.stats.closes).zip(closes) {
            prop_assert!(closes.get() == before || self.may_close(*reason), "closed with: {}", reason.reason());
        }
        self.epoch_changed = false;
        let seen = self.seen.lock();
        prop_assert!(seen.odd.is_none(), "{:?}", seen.odd);
        drop(seen);
        for (index, session) in self.shard.sessions.iter() {
            let key = (index, session.generation);
            if session.output.ping == Ping::None || session.output.backlog.is_some() {
                self.pinged.remove(&key);
            } else if session.output.send_queue.is_empty() && session.output.backlog.is_none() {
                self.pinged.entry(key).or_insert(self.shard.clock.now_ms);
            }
        }
        let backlog: usize =
            self.shard.sessions.iter().filter_map(|(_, s)| Some(s.output.backlog.as_ref()?.len())).sum();
        assert_eq!(backlog as u64, self.shard.stats.backlog_bytes.get(), "the backlogs are counted wrong");
        let total = self.shard.config.limits.backlog_total_bytes;
        assert!(total == 0 || backlog <= total, "backlogs of {backlog} bytes, the limit is {total}");
        Ok(())
    }

    /// Whether a session may be closed for this reason. The clients here send only valid commands, and not too many.
    fn may_close(&self, reason: CloseReason) -> bool {
        match reason {
            CloseReason::NoPong => true,
            CloseReason::NoAnswer => self.shard.clock.now_ms.saturating_sub(self.answered_ms) > millis(DEFERRED_MAX),
            CloseReason::Slow => self.ways.backlog_bytes < 1 << 30 || self.ways.backlog_total_bytes > 0,
            CloseReason::InsufficientState => self.epoch_changed,
            CloseReason::ReplayLost => !self.ways.keep_all() || self.epochs,
            _ => false,
        }
    }

    /// Everything that could be recovered was, and only what could not was refused.
    fn check_recoveries(&mut self, client: usize) -> Result<(), TestCaseError> {
        let recoveries = self.peers[client].as_mut().map(|peer| std::mem::take(&mut peer.recoveries));
        for Recovery { topic, from, epoch, recovered } in recoveries.into_iter().flatten() {
            let Some(floor) = self.kept_after.get(&from.epoch).filter(|_| self.ways.keep_all()) else { continue };
            let same = epoch.map_or(self.kept_after.len() == 1, |epoch| epoch == from.epoch);
            prop_assert!(recovered || !same || from.offset < *floor, "{topic} not recovered from {from:?}");
            let lost = topic.starts_with("stream") && from.offset < *floor;
            prop_assert!(!recovered || !same || !lost, "{topic} recovered from {from:?}, though not all is kept");
        }
        Ok(())
    }

    /// All clients read and all requests are answered, until every client has the source's state. That may take long:
    /// with windows of a few KB, TCP may send only one of them every 200 ms (RFC 9293 §3.8.6.2.1). But there must be
    /// progress, and pings do not count as progress forever.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        let began = Instant::now();
        let (mut heard, mut heard_at) = (0, began);
        loop {
            self.turn(1)?;
            self.answer();
            let mut waiting = Vec::new();
            for n in 0..CLIENTS {
                let Some(peer) = &mut self.peers[n] else { continue };
                peer.read(1 << 20)?;
                self.check_recoveries(n)?;
                let Some(peer) = &mut self.peers[n] else { continue };
                if peer.closed {
                    continue;
                }
                if !peer.unanswered.is_empty() {
                    waiting.push(format!("client {n}: unanswered {:?} of {}", peer.unanswered, peer.sent));
                }
                for (topic, followed) in &peer.followed {
                    // Nothing is known of a topic after an epoch change if it has had no delta since.
                    let Some(snapshot) =
                        TopicName::new(topic).ok().and_then(|name| self.topics.view(&name)).map(|view| view.snapshot)
                    else {
                        continue;
                    };
                    let state: Value = serde_json::from_slice(&snapshot.data).unwrap();
                    let (at, same) = (snapshot.offset.get(), topic.starts_with("stream") || followed.state == state);
                    if followed.offset != at || !same {
                        waiting.push(format!("client {n}: {topic} at {} of {at}, same state {same}", followed.offset));
                    }
                }
            }
            if waiting.is_empty() {
                break;
            }
            let so_far = self.peers.iter().flatten().map(|peer| peer.heard_bytes).sum();
            if so_far > heard {
                (heard, heard_at) = (so_far, Instant::now());
            }
            // Flush intervals and rates use the shard's clock, TCP windows the kernel's.
            self.shard.pass(Duration::from_millis(5));
            let patient = heard_at.elapsed() < PATIENCE && began.elapsed() < 12 * PATIENCE;
            prop_assert!(patient, "no progress: {waiting:#?}");
        }
        Ok(())
    }

    /// All clients reconnect, recover everything, and read. None may be closed as slow, neither for what it recovers
    /// nor for what is published meanwhile.
    fn reconnect(&mut self) -> Result<(), TestCaseError> {
        (0..CLIENTS).for_each(|client| self.go(client));
        if self.ways.backlog_bytes < 1 << 30 {
            (0..TOPICS.len()).for_each(|topic| (0..3).for_each(|_| self.publish(topic, 3_000)));
        }
        let slow = self.closes(CloseReason::Slow);
        let from = TOPICS.iter().map(|topic| ((*topic).to_owned(), Followed::default())).collect();
        for client in 0..CLIENTS {
            self.come(client);
            if let Some(peer) = &mut self.peers[client] {
                peer.recover(&TOPICS, &from, false);
            }
        }
        for n in 0..8 {
            self.turn(1)?;
            self.answer();
            // No more than a client that reads can take at once.
            if self.shard.sessions.iter().all(|(_, session)| session.output.backlog.is_none()) {
                self.publish(2 + n % 2, 6_000);
            }
            self.turn(0)?;
            self.peers.iter_mut().flatten().try_for_each(|peer| peer.read(1 << 20))?;
        }
        self.settle()?;
        let closed = self.closes(CloseReason::Slow) - slow;
        let relieved = self.ways.backlog_total_bytes > 0;
        prop_assert!(closed == 0 || relieved, "{closed} clients were closed as slow, although they read everything");
        Ok(())
    }

    /// All clients disconnect, and the shard must hold nothing more.
    fn leave(&mut self) -> Result<(), TestCaseError> {
        self.peers = Default::default();
        let began = Instant::now();
        loop {
            let shard = &self.shard;
            let counts = [
                shard.sessions.len(),
                shard.fanout.topics.topics(),
                shard.requests.under_way(),
                shard.pending.counts().0,
            ];
            if counts == [0; 4] && self.seen.lock().there.is_empty() {
                break;
            }
            prop_assert!(began.elapsed() < PATIENCE, "sessions, topics, asks, pending_commands: {counts:?}");
            self.turn(1)?;
            self.answer();
        }
        let stats = &self.shard.stats;
        let left: HashSet<(&str, u64)> = [
            ("subscriptions", stats.subscriptions.get()),
            ("slow sessions", stats.slow_sessions.get()),
            ("backlog", stats.backlog_bytes.get()),
            ("links", self.shard.egress.outbox.links() as u64),
            ("sessions", self.hub.sessions() as u64),
        ]
        .into_iter()
        .filter(|(_, n)| *n > 0)
        .collect();
        prop_assert!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }
}

const SEALED: &[&rustls::SupportedProtocolVersion] = &[&TLS13, &TLS12];

fn runs(
    flush: FlushBackend,
    sealed: &'static [&'static rustls::SupportedProtocolVersion],
    ways: Ways,
    ops: Vec<Op>,
) -> Result<Happened, TestCaseError> {
    let mut world = World::new(flush, sealed, ways);
    (0..CLIENTS).for_each(|client| world.come(client));
    for op in ops {
        world.do_one(op)?;
    }
    world.settle()?;
    world.reconnect()?;
    world.leave()?;
    let stats = &world.shard.stats;
    let (slow, no_pong) = (world.closes(CloseReason::Slow), world.closes(CloseReason::NoPong));
    let pings = stats.pings.get();
    Ok([stats.writes_partial.get(), stats.conflated.get(), stats.snapshots.get(), slow, pings, no_pong])
}

/// Number of partial writes, deltas that others replaced, snapshots, clients closed as slow, pings, and clients closed
/// for a missing pong.
type Happened = [u64; 6];

fn explore(flush: FlushBackend, sealed: &'static [&'static rustls::SupportedProtocolVersion]) {
    let seed = std::env::var("NEXUS_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("to repeat (apart from timing): NEXUS_TEST_SEED={seed}");
    let config = ProptestConfig {
        max_shrink_iters: 24,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..ProptestConfig::default()
    };
    let cases = config.cases;
    let worlds = (ways(), ops());
    let (happened, tried, failed) = (Cell::new(Happened::default()), Cell::new(0), Cell::new(false));
    let outcome = TestRunner::new(config).run(&worlds, |(ways, ops)| {
        // Cases after a failure only shrink it.
        tried.set(tried.get() + u32::from(!failed.get()));
        let outcome = runs(flush, sealed, ways, ops);
        failed.set(failed.get() || outcome.is_err());
        let (before, more) = (happened.get(), outcome?);
        happened.set(std::array::from_fn(|i| before[i] + more[i]));
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("NEXUS_TEST_SEED={seed}, {} worlds: {error}", tried.get());
    }
    let happened = happened.get();
    println!("{cases} worlds: partial writes, conflated, snapshots, slow, pings, no pong: {happened:?}");
    // Otherwise the test would have tested less than it claims.
    assert!(cases < 64 || happened.iter().all(|n| *n > 0), "{happened:?}");
}

#[test]
fn a_shard_keeps_its_word_on_epoll() {
    explore(FlushBackend::Epoll, &[]);
}

#[test]
fn a_shard_keeps_its_word_on_io_uring() {
    explore(FlushBackend::IoUring, &[]);
}

#[test]
fn a_shard_keeps_its_word_over_tls_on_epoll() {
    explore(FlushBackend::Epoll, SEALED);
}

#[test]
fn a_shard_keeps_its_word_over_tls_on_io_uring() {
    explore(FlushBackend::IoUring, SEALED);
}
