//! One session of a worker: connects, subscribes, reads, checks, and reconnects if the server closes it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use fastwebsockets::{Frame, OpCode, Payload};
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::client::check::Track;
use crate::client::class::Class;
use crate::client::decode;
use crate::client::protocol::{Heard, Protocol, Since};
use crate::client::shared::{Clock, Connected, Endurance, LATENCY_US_MAX, Shared, add, monotonic_ns};
use crate::client::transport::Transport;

/// Time to connect, upgrade and subscribe.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a read.
pub(crate) const BUFFER_BYTES: usize = 512 * 1024;

/// Receive buffer of a session that never reads.
const SLOW_BUFFER_BYTES: u32 = 4_096;

/// The offer of a browser (RFC 7692 §7).
const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

/// Shortest and longest default backoff of polite sessions, as in the Centrifuge SDKs.
const RETRY_MS_MIN: u64 = 500;
const RETRY_MS_MAX: u64 = 20_000;

/// Longest wait of a session that survives faults before it tries again.
const BACKOFF_LAST: Duration = Duration::from_secs(1);

/// Orders for a session, which it follows between two reads.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Close the connection, and come back after a while: as the same, or as a new one with other topics.
    Leave { away: Duration, anew: Option<Vec<u32>> },
    /// Exchange one topic for another.
    Switch { from: u32, to: u32 },
}

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const TEXT_DEFLATED: u8 = 0x41;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// Opcode, header length and payload length of the first server frame, if its header is complete.
fn head(bytes: &[u8]) -> anyhow::Result<Option<(u8, usize, usize)>> {
    let (first, header, len) = match *bytes {
        [first, n @ 0..126, ..] => (first, 2, usize::from(n)),
        [first, 126, a, b, ..] => (first, 4, usize::from(u16::from_be_bytes([a, b]))),
        [first, 127, a, b, c, d, e, f, g, h, ..] => {
            (first, 10, usize::try_from(u64::from_be_bytes([a, b, c, d, e, f, g, h]))?)
        }
        [_, second, ..] if second & 0x80 != 0 => bail!("a masked frame from a server"),
        _ => return Ok(None),
    };
    if first & 0xb0 != 0x80 {
        bail!("a frame that begins with {first:#x}");
    }
    Ok(Some((first & 0x4f, header, len)))
}

/// Appends a client frame.
fn masked(opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
    let mut frame = Frame::new(true, opcode, None, Payload::Owned(payload.to_vec()));
    frame.mask();
    let mut bytes = Vec::new();
    out.extend_from_slice(frame.write(&mut bytes));
}

/// A session, over all its connections.
pub(crate) struct Session {
    pub(crate) number: usize,
    pub(crate) tracks: RefCell<Vec<Track>>,
    /// Whether it was subscribed before, so that it recovers.
    known: Cell<bool>,
    /// Whether all subscriptions of its connection are confirmed.
    standing: Cell<bool>,
    /// Time for which the server asked it to stay away, in ms.
    asked_ms: Cell<Option<u64>>,
    /// Number of replies that are missing until all subscriptions are confirmed.
    replies_due: Cell<u32>,
    /// Bytes that followed the upgrade's answer.
    early: RefCell<Vec<u8>>,
    /// The beginning of an operation that continues in the next message (NATS).
    partial: RefCell<Vec<u8>>,
    /// It never reads once it is subscribed.
    slow: bool,
    /// Number of servers that it has left.
    moves: Cell<usize>,
    /// Away by its own choice.
    pub(crate) away: Cell<bool>,
    /// Its next orders.
    turns: RefCell<VecDeque<Turn>>,
    wake: Notify,
    /// Commands that are sent with the next answer.
    commands: RefCell<Vec<u8>>,
    /// Topics of unconfirmed unsubscribes.
    leaving: RefCell<VecDeque<u32>>,
    /// Its permit to open a connection.
    pub(crate) opening: RefCell<Option<OwnedSemaphorePermit>>,
}

impl Session {
    pub(crate) fn new(number: usize, topics: &[u32], slow: bool) -> Rc<Self> {
        let mut tracks: Vec<Track> = topics.iter().map(|t| Track::new(*t)).collect();
        tracks.sort_by_key(|t| t.topic);
        Rc::new(Self {
            number,
            tracks: RefCell::new(tracks),
            known: Cell::new(false),
            standing: Cell::new(false),
            asked_ms: Cell::new(None),
            replies_due: Cell::new(0),
            early: RefCell::default(),
            partial: RefCell::default(),
            slow,
            moves: Cell::new(0),
            away: Cell::new(false),
            turns: RefCell::default(),
            wake: Notify::new(),
            commands: RefCell::default(),
            leaving: RefCell::default(),
            opening: RefCell::default(),
        })
    }

    /// Adds an order.
    pub(crate) fn turn(&self, turn: Turn) {
        self.turns.borrow_mut().push_back(turn);
        self.wake.notify_one();
    }

    /// Whether it has the topic, or had it until recently.
    pub(crate) fn has(&self, topic: u32) -> bool {
        self.tracks.borrow().binary_search_by_key(&topic, |t| t.topic).is_ok() || self.leaving.borrow().contains(&topic)
    }

    /// Whether it never reads, and so makes no progress.
    pub(crate) fn is_slow(&self) -> bool {
        self.slow
    }

    /// Runs until it is aborted or the run ends.
    pub(crate) async fn run(self: Rc<Self>, shared: Rc<Shared>) {
        let mut failures: u64 = 0;
        self.away.set(false);
        let limit = shared.endurance.map_or(CONNECT_TIMEOUT, |endurance| endurance.connect);
        loop {
            let opened = tokio::time::timeout(limit, self.open(&shared)).await;
            let outcome = match opened {
                Ok(Ok(mut socket)) => {
                    failures = 0;
                    let _guard = Connected::new(&shared, &self.standing);
                    self.read(&shared, &mut socket).await
                }
                Ok(Err(error)) => {
                    add(&shared.counts.connect_failures, 1);
                    failures += 1;
                    Err(error)
                }
                Err(_) => {
                    add(&shared.counts.connect_failures, 1);
                    failures += 1;
                    Err(anyhow::anyhow!("no connection within {limit:?}"))
                }
            };
            if shared.ending.get() {
                return;
            }
            let wait = match outcome {
                Ok(away) => away,
                Err(error) => {
                    self.moves.set(self.moves.get() + 1);
                    let refused = failures > 0 && shared.endurance.is_some();
                    let whys = if refused { &shared.refusals } else { &shared.closes };
                    *whys.borrow_mut().entry(format!("{error:#}")).or_default() += 1;
                    Duration::from_millis(self.pause_ms(&shared, failures))
                }
            };
            if failures > 20 && shared.endurance.is_none() {
                shared.fault(format!("session {} gave up after {failures} attempts", self.number));
                return;
            }
            tokio::time::sleep(if self.away.get() { wait } else { wait.min(BACKOFF_LAST) }).await;
        }
    }

    /// Time for which it stays away after a close, or after this many failures.
    fn pause_ms(&self, shared: &Shared, failures: u64) -> u64 {
        match self.asked_ms.take() {
            _ if !shared.polite => 20 * (1 + failures) + (self.number % 100) as u64,
            Some(asked_ms) if failures == 0 => asked_ms,
            _ => {
                let most_ms = (RETRY_MS_MIN << failures.min(10)).min(RETRY_MS_MAX);
                (RETRY_MS_MIN + rand::random_range(0..=most_ms)).min(RETRY_MS_MAX)
            }
        }
    }

    /// The server that it is connected to, or connects to next.
    fn server(&self, shared: &Shared) -> anyhow::Result<SocketAddr> {
        let at = (self.number % shared.homes.max(1) + self.moves.get()) % shared.servers.len().max(1);
        shared.servers.get(at).copied().context("no server")
    }

    async fn open(&self, shared: &Shared) -> anyhow::Result<Transport> {
        let server = self.server(shared)?;
        self.leaving.borrow_mut().clear();
        self.commands.borrow_mut().clear();
        let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_recv_buffer_size(if self.slow { SLOW_BUFFER_BYTES } else { shared.receive_buffer })?;
        if let Some(source) = shared.sources.get(self.number % shared.sources.len().max(1)) {
            socket.bind(SocketAddr::new(*source, 0))?;
        }
        let socket = socket.connect(server).await.context("connect")?;
        socket.set_nodelay(true)?;
        // Otherwise thousands of closed connections would keep their ports for a minute.
        socket.set_zero_linger()?;
        let mut stream = Transport::over(socket, shared.tls.as_ref()).await.context("TLS")?;
        let topics = self.args(shared);
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{}\r\n",
            shared.protocol.path(&topics),
            server,
            if shared.inflated.is_some() { DEFLATE } else { "" }
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::with_capacity(256);
        let mut chunk = [0u8; 512];
        let end = loop {
            if let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            let n = stream.read(|read| read(&mut chunk)).await.context("upgrade")?;
            if n == 0 {
                bail!("closed during the upgrade");
            }
            head.extend_from_slice(chunk.get(..n).unwrap_or_default());
        };
        if !head.starts_with(b"HTTP/1.1 101") {
            let line = String::from_utf8_lossy(&head);
            bail!("upgrade refused: {}", line.lines().next().unwrap_or(""));
        }
        let since = self.known.get().then(|| self.since());
        let (messages, replies) = shared.protocol.subscribe(&topics, since, shared.max_rate);
        self.replies_due.set(replies);
        self.partial.borrow_mut().clear();
        let mut bytes = Vec::new();
        if shared.batch {
            masked(OpCode::Text, b"{\"op\":\"session\",\"batch\":true}", &mut bytes);
        }
        for (opcode, message) in messages {
            masked(opcode, &message, &mut bytes);
        }
        stream.write_all(&bytes).await?;
        // Some servers send first.
        *self.early.borrow_mut() = head.split_off(end);
        if replies == 0 {
            self.stands(shared);
        }
        Ok(stream)
    }

    fn args(&self, shared: &Shared) -> Vec<String> {
        self.tracks.borrow().iter().filter_map(|t| shared.topics.get(t.topic as usize).cloned()).collect()
    }

    fn since(&self) -> Vec<Since> {
        self.tracks.borrow().iter().map(|t| Since { offset: t.offset, epoch: t.epoch.clone() }).collect()
    }

    /// All subscriptions are confirmed.
    fn stands(&self, shared: &Shared) {
        add(&shared.counts.subscribed, 1);
        add(&shared.counts.standing, 1);
        self.standing.set(true);
        self.opening.borrow_mut().take();
        self.known.set(true);
        // Missed deltas follow directly.
        self.away.set(false);
    }

    /// Reads until the connection ends, or until this session leaves for the returned time. All sessions share one
    /// buffer; an incomplete frame is kept separately.
    async fn read(&self, shared: &Shared, socket: &mut Transport) -> anyhow::Result<Duration> {
        let mut kept: Vec<u8> = std::mem::take(&mut self.early.borrow_mut());
        loop {
            if self.slow && self.replies_due.get() == 0 {
                // The socket stays open, and full.
                std::future::pending::<()>().await;
            }
            let read = socket.read(|read| read(&mut shared.buffer.borrow_mut()));
            let outcome = match shared.endurance {
                None => read.await,
                Some(Endurance { silence, .. }) => {
                    let outcome = tokio::select! {
                        biased;
                        outcome = read => Some(outcome),
                        // A reply must find the subscriptions as they were requested.
                        () = self.wake.notified(), if self.replies_due.get() == 0 => None,
                        () = tokio::time::sleep(silence) => bail!("silence for {silence:?}"),
                    };
                    match outcome {
                        Some(outcome) => outcome,
                        None => {
                            if let Some(away) = self.take_turns(shared) {
                                return Ok(away);
                            }
                            let commands = std::mem::take(&mut *self.commands.borrow_mut());
                            socket.write_all(&commands).await?;
                            continue;
                        }
                    }
                }
            };
            let n = match outcome {
                Ok(0) => bail!("connection closed"),
                Ok(n) => n,
                Err(e) => bail!("{e}"),
            };
            // The buffer has not been used since.
            let answer = {
                let buffer = shared.buffer.borrow();
                let bytes = buffer.get(..n).unwrap_or_default();
                shared.now_ns.set(monotonic_ns());
                if kept.is_empty() {
                    let (used, answer) = self.frames(shared, bytes)?;
                    kept.extend_from_slice(bytes.get(used..).unwrap_or_default());
                    answer
                } else {
                    kept.extend_from_slice(bytes);
                    let (used, answer) = self.frames(shared, &kept)?;
                    kept.drain(..used);
                    if kept.is_empty() {
                        kept = Vec::new();
                    }
                    answer
                }
            };
            if !answer.is_empty() {
                socket.write_all(&answer).await?;
            }
            if !self.commands.borrow().is_empty() {
                let commands = std::mem::take(&mut *self.commands.borrow_mut());
                socket.write_all(&commands).await?;
            }
        }
    }

    /// Follows its orders. Returns the time for which it leaves, if it must.
    fn take_turns(&self, shared: &Shared) -> Option<Duration> {
        loop {
            let turn = self.turns.borrow_mut().pop_front()?;
            add(&shared.counts.turns, 1);
            let mut tracks = self.tracks.borrow_mut();
            match turn {
                Turn::Leave { away, anew } => {
                    if let Some(topics) = anew {
                        *tracks = topics.into_iter().map(Track::new).collect();
                        tracks.sort_by_key(|t| t.topic);
                        self.known.set(false);
                    }
                    // A session that comes back starts with its first server.
                    self.moves.set(0);
                    self.away.set(true);
                    self.turns.borrow_mut().clear();
                    return Some(away);
                }
                Turn::Switch { from, to } => {
                    let name = |topic: u32| shared.topics.get(topic as usize).map_or("", String::as_str);
                    let Ok(at) = tracks.binary_search_by_key(&from, |t| t.topic) else { continue };
                    tracks.remove(at);
                    let place = tracks.partition_point(|t| t.topic < to);
                    tracks.insert(place, Track::new(to));
                    self.leaving.borrow_mut().push_back(from);
                    self.command(&json!({"op": "unsubscribe", "args": [name(from)]}));
                    self.command(&json!({"op": "subscribe", "args": [name(to)]}));
                }
            }
        }
    }

    fn command(&self, command: &serde_json::Value) {
        masked(OpCode::Text, command.to_string().as_bytes(), &mut self.commands.borrow_mut());
    }

    /// Reads every whole frame. Returns their bytes, and the answers that they require.
    fn frames(&self, shared: &Shared, bytes: &[u8]) -> anyhow::Result<(usize, Vec<u8>)> {
        let (mut at, mut answer) = (0, Vec::new());
        while let Some((opcode, header, len)) = head(bytes.get(at..).unwrap_or_default())? {
            let Some(payload) = bytes.get(at + header..at + header + len) else { break };
            at += header + len;
            match opcode {
                TEXT_DEFLATED => {
                    add(&shared.counts.bytes, (header + len) as u64);
                    let inflated = shared.inflated.as_ref().context("compressed, and no session asked for it")?;
                    let text = inflated.borrow_mut().message(payload)?;
                    self.message(shared, &text, &mut answer)?;
                }
                TEXT | BINARY => {
                    add(&shared.counts.bytes, (header + len) as u64);
                    self.message(shared, payload, &mut answer)?;
                }
                PING => masked(OpCode::Pong, payload, &mut answer),
                CLOSE => match *payload {
                    [a, b, ..] => bail!("close {}", u16::from_be_bytes([a, b])),
                    _ => bail!("close"),
                },
                other => bail!("a frame with opcode {other}"),
            }
        }
        Ok((at, answer))
    }

    fn message(&self, shared: &Shared, payload: &[u8], answer: &mut Vec<u8>) -> anyhow::Result<()> {
        let mut partial = self.partial.borrow_mut();
        shared.protocol.hear(payload, &mut partial, &mut |what| {
            match what {
                Heard::Envelope(bytes) => self.envelope(shared, bytes),
                Heard::Answer(opcode, bytes) => masked(opcode, bytes, answer),
                Heard::Subscribed(n) => self.replied(shared, n),
            }
            Ok(())
        })
    }

    /// This many of the expected replies have come.
    fn replied(&self, shared: &Shared, replies: u32) {
        let due = self.replies_due.get();
        self.replies_due.set(due.saturating_sub(replies));
        if due > 0 && due <= replies {
            self.stands(shared);
        }
    }

    fn envelope(&self, shared: &Shared, payload: &[u8]) {
        let frame = match shared.protocol {
            Protocol::Centrifuge => shared.decoder.borrow_mut().line(payload),
            _ => shared.decoder.borrow_mut().decode(payload),
        };
        match frame {
            Ok(decode::Frame::Delivery(delivery)) => self.delivery(shared, &delivery, delivery.topic),
            Ok(decode::Frame::Subscribed(standings)) => {
                for track in self.tracks.borrow_mut().iter_mut() {
                    let name = shared.topics.get(track.topic as usize).map_or("", String::as_str);
                    match standings.get(name) {
                        Some(standing) => self.standing(shared, track, standing),
                        // A reply to a later subscribe contains its topics.
                        None if self.replies_due.get() == 0 => {}
                        None => shared.fault(format!("session {}: no position of {name}", self.number)),
                    }
                }
                self.replied(shared, 1);
            }
            Ok(decode::Frame::Begun(command, standing, missed)) => {
                let at = command.saturating_sub(2) as usize;
                let topic = match self.tracks.borrow_mut().get_mut(at) {
                    Some(track) => {
                        let before = track.offset;
                        self.standing(shared, track, &standing);
                        if standing.recovered {
                            track.offset = before;
                        }
                        track.topic
                    }
                    None => return shared.fault(format!("session {}: a reply without a command", self.number)),
                };
                for delivery in missed {
                    self.delivery(shared, &delivery, topic);
                }
                self.replied(shared, 1);
            }
            Ok(decode::Frame::Error(error)) => shared.fault(format!("session {}: {error}", self.number)),
            Ok(decode::Frame::Closing(ms)) => self.asked_ms.set(Some(ms)),
            Ok(decode::Frame::Unsubscribed) => {
                self.leaving.borrow_mut().pop_front();
            }
            Ok(decode::Frame::Stale) => add(&shared.counts.stale, 1),
            Ok(decode::Frame::Fresh) => add(&shared.counts.fresh, 1),
            Ok(decode::Frame::Other) => {}
            Err(error) => shared.fault(format!("session {}: {error:#}", self.number)),
        }
    }

    fn standing(&self, shared: &Shared, track: &mut Track, standing: &decode::Standing) {
        let class = shared.classes.get(track.topic as usize).copied().unwrap_or(Class::Merge);
        if !self.known.get() || track.epoch.is_empty() {
            track.rebase(standing.offset, &standing.epoch, class);
            return;
        }
        if standing.recovered {
            add(&shared.counts.recovered, 1);
            if track.epoch != standing.epoch {
                track.rebase(standing.offset, &standing.epoch, class);
            }
            if !track.waits() {
                return;
            }
        } else {
            add(&shared.counts.not_recovered, 1);
            // Deltas in between are lost, and counted. From here on none may be missing.
            track.rebase(standing.offset, &standing.epoch, class);
        }
        if class == Class::Stream && shared.repeats.is_some() {
            // Unless the kept deltas close the gap.
            track.ask_again();
            let name = shared.topics.get(track.topic as usize).map_or("", String::as_str);
            self.command(&json!({"op": "snapshot", "args": [name]}));
        }
    }

    fn delivery(&self, shared: &Shared, delivery: &Rc<decode::Delivery>, topic: u32) {
        let counts = &shared.counts;
        add(&counts.deliveries, 1);
        if delivery.snapshot {
            add(&counts.snapshots, 1);
        } else {
            add(&counts.represented, delivery.count);
            if let (Some(intended), Clock::Payload) = (delivery.intended_ns, shared.clock) {
                let us = shared.now_ns.get().saturating_sub(intended) / 1_000;
                let mut latency = shared.latency_us.borrow_mut();
                latency.saturating_record(us.min(LATENCY_US_MAX));
            }
        }
        let mut tracks = self.tracks.borrow_mut();
        let Ok(at) = tracks.binary_search_by_key(&topic, |t| t.topic) else {
            if self.leaving.borrow().contains(&topic) {
                return;
            }
            shared.fault(format!("session {}: a delivery on a topic that it is not subscribed to", self.number));
            return;
        };
        let class = shared.classes.get(topic as usize).copied().unwrap_or(Class::Merge);
        let mut repeats = shared.repeats.as_ref().map(RefCell::borrow_mut);
        if let Some(track) = tracks.get_mut(at)
            && let Err(fault) = {
                if delivery.epoch.as_ref().is_some_and(|epoch| *epoch != track.epoch) {
                    add(&counts.epochs, 1);
                }
                track.take(delivery, class, &mut shared.states.borrow_mut(), repeats.as_deref_mut())
            }
        {
            let name = shared.topics.get(topic as usize).map_or("?", String::as_str);
            shared.fault(format!("session {}, {name}: {fault}", self.number));
        }
    }
}
