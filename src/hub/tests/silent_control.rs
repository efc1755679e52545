//! A shard whose control plane does not answer: what its clients wait for is limited.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mio::Events;
use serde_json::{Value, json};

use crate::config::Config;
use crate::hub::event::RequestBatch;
use crate::hub::lifecycle::SWEEP_EVERY;
use crate::hub::new_session::NewSession;
use crate::hub::shard::Shard;
use crate::hub::{Control, Hub, Prepared};
use crate::limits::DEFERRED_MAX;
use crate::memory::ResolvedLimits;
use crate::metrics::Metrics;
use crate::protocol::Dialect;
use crate::wire::frame::Opcode;

struct Silent {
    hub: Arc<Hub>,
    shard: Shard,
    events: Events,
    /// It exists, and reads nothing.
    _control: Control,
}

impl Silent {
    fn new() -> Self {
        let mut config = Config::default();
        config.access.anonymous = true;
        config.limits.subscriptions = 4;
        let long = Duration::from_secs(86_400);
        (config.limits.first_command_timeout, config.limits.stall_timeout) = (long, long);
        let (config, metrics) = (Arc::new(config), Arc::new(Metrics::default()));
        let limits = Arc::new(ResolvedLimits::configured(&config.limits));
        let (hub, prepared, control) = Hub::new(1, 100, "silent".into(), config.clone(), &limits, &metrics).unwrap();
        let Prepared { mut parts, requests, node, .. } = prepared;
        let requests: flume::Sender<RequestBatch> = requests;
        let shard = Shard::new(parts.remove(0), requests, node, config);
        Self { hub, shard, events: Events::with_capacity(64), _control: control }
    }

    fn come(&mut self, dialect: Dialect) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        theirs.set_nonblocking(true).unwrap();
        ours.set_nonblocking(true).unwrap();
        let session = NewSession {
            socket: theirs,
            tls: None,
            dialect,
            deflate: false,
            early: Bytes::new(),
            identity: None,
            permit: None,
            reservation: self.hub.reserve(false).unwrap(),
        };
        self.hub.place(Box::new(session));
        self.turn();
        ours
    }

    fn turn(&mut self) {
        self.shard.turn(&mut self.events, Duration::ZERO);
    }

    /// Time passes, and then all sessions are checked.
    fn pass(&mut self, time: Duration) {
        self.shard.pass(time);
        for _ in 0..25 {
            self.shard.pass(SWEEP_EVERY);
            self.turn();
        }
    }

    /// Runs ticks until a frame has come. Returns its opcode and payload.
    fn frame(&mut self, socket: &mut TcpStream) -> (Option<Opcode>, Vec<u8>) {
        let mut head = [0; 2];
        self.read(socket, &mut head);
        let mut length = usize::from(head[1]);
        if length == 126 {
            let mut more = [0; 2];
            self.read(socket, &mut more);
            length = usize::from(u16::from_be_bytes(more));
        }
        let mut payload = vec![0; length];
        self.read(socket, &mut payload);
        (Opcode::from_bits(head[0]), payload)
    }

    fn read(&mut self, socket: &mut TcpStream, mut bytes: &mut [u8]) {
        for _ in 0..10_000 {
            if bytes.is_empty() {
                return;
            }
            self.turn();
            match socket.read(bytes) {
                Ok(0) => panic!("the session was closed"),
                Ok(n) => bytes = &mut bytes[n..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("{error}"),
            }
        }
        panic!("no frame came")
    }
}

fn send_command(socket: &mut TcpStream, command: &Value) {
    let text = command.to_string();
    assert!(text.len() < 126, "{text}");
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
    frame.extend(text.as_bytes());
    socket.write_all(&frame).unwrap();
}

/// A session may wait for twice as many snapshots as it may have subscriptions. Further ones are refused, and other
/// sessions are not affected.
#[test]
fn snapshots_that_a_session_waits_for_have_a_bound() {
    let mut silent = Silent::new();
    let (mut greedy, mut other) = (silent.come(Dialect::Plain), silent.come(Dialect::Plain));
    let snapshot = |id: usize, from: usize| {
        let topics: Vec<String> = (from..from + 4).map(|n| format!("t:{n}")).collect();
        json!({"op": "snapshot", "id": id, "args": topics})
    };
    for id in 1..=3 {
        send_command(&mut greedy, &snapshot(id, id * 4));
    }
    let (_, payload) = silent.frame(&mut greedy);
    let reply: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(3), &json!(429)), "{reply}");
    assert_eq!(silent.shard.stats.snapshots_refused.get(), 1);
    send_command(&mut other, &snapshot(1, 0));
    send_command(&mut other, &json!({"op": "ping", "id": 2}));
    let (_, payload) = silent.frame(&mut other);
    let reply: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!((&reply["id"], &reply["error"]), (&json!(2), &Value::Null), "the snapshots are in progress: {reply}");
    assert_eq!(silent.shard.stats.snapshots_refused.get(), 1);
    assert_eq!(silent.shard.pending.counts().1, 12);
    drop((greedy, other));
    silent.pass(Duration::ZERO);
    assert!(silent.shard.sessions.is_empty());
}

/// A session whose commands wait for an answer that does not come is closed with that reason, and not before the
/// time-out.
#[test]
fn a_session_without_an_answer_for_too_long_is_closed() {
    let mut silent = Silent::new();
    let mut session = silent.come(Dialect::Plain);
    send_command(&mut session, &json!({"op": "auth", "id": 1, "token": "a.b.c"}));
    silent.pass(Duration::ZERO);
    assert_eq!(silent.shard.sessions.iter().filter(|(_, s)| s.deferred.is_some()).count(), 1, "its commands wait");
    silent.pass(DEFERRED_MAX);
    let (opcode, payload) = loop {
        let (opcode, payload) = silent.frame(&mut session);
        if opcode == Some(Opcode::Close) {
            break (opcode, payload);
        }
    };
    assert_eq!(opcode, Some(Opcode::Close));
    assert_eq!(u16::from_be_bytes([payload[0], payload[1]]), 4408, "{payload:?}");
}

/// After many sessions came and went, an empty shard's sweep counts no bytes.
#[test]
fn an_empty_shard_is_looked_through_at_once() {
    let mut silent = Silent::new();
    let mut sessions: Vec<TcpStream> = (0..40).map(|_| silent.come(Dialect::CentrifugeJson)).collect();
    for session in &mut sessions {
        send_command(session, &json!({"id": 1, "connect": {}}));
    }
    silent.pass(Duration::ZERO);
    assert!(silent.shard.sweep.outside_bytes() > 0, "sessions have boxes");
    drop(sessions);
    while !silent.shard.sessions.is_empty() {
        silent.turn();
    }
    silent.shard.pass(SWEEP_EVERY);
    silent.turn();
    assert_eq!((silent.shard.sweep.outside_bytes(), silent.shard.stats.session_bytes.get()), (0, 0));
}
