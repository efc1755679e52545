//! What egress guarantees, on sockets that take as many bytes as a test allows.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, RawFd};
use std::rc::Rc;

use super::write::Outgoing;
use super::*;
use crate::hub::chunk::Chunk;
use crate::position::Offset;
use crate::protocol::Dialect;
use crate::wire::frame::{Opcode, frame};

/// A socket: how much it takes, and what it received.
#[derive(Default)]
struct Peer {
    room: usize,
    gone: bool,
    got: Vec<u8>,
    writes: usize,
}

#[derive(Default, Clone)]
struct Sockets(Rc<RefCell<HashMap<RawFd, Peer>>>);

impl Flush for Sockets {
    fn batch(&self) -> usize {
        4
    }

    fn send(&mut self, writes: &mut [Outgoing<'_>]) {
        for write in writes {
            let mut peers = self.0.borrow_mut();
            let peer = peers.get_mut(&write.socket.as_raw_fd()).unwrap();
            let taken = write.bytes.len().min(peer.room);
            peer.got.extend_from_slice(&write.bytes[..taken]);
            peer.room -= taken;
            peer.writes += 1;
            write.sent = match taken == write.bytes.len() {
                _ if peer.gone => Sent::Gone,
                true => Sent::All,
                false => Sent::Full(taken),
            };
        }
    }

    fn name(&self) -> &'static str {
        "test"
    }
}

impl Outputs for Vec<Output> {
    fn output(&self, session: SessionIndex) -> Option<&Output> {
        self.get(session.at())
    }

    fn output_mut(&mut self, session: SessionIndex) -> Option<&mut Output> {
        self.get_mut(session.at())
    }
}

/// A shard's egress with some sessions.
struct Bed {
    egress: Egress,
    sessions: Vec<Output>,
    sockets: Sockets,
    stats: Arc<ShardStats>,
    _others: Vec<TcpStream>,
    now_ms: u64,
}

const BACKLOG_MAX: usize = 1_000;

impl Bed {
    fn new(sessions: usize) -> Self {
        let (sockets, stats) = (Sockets::default(), Arc::new(ShardStats::default()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut outputs, mut others) = (Vec::new(), Vec::new());
        for _ in 0..sessions {
            others.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            let socket = mio::net::TcpStream::from_std(listener.accept().unwrap().0);
            sockets.0.borrow_mut().insert(socket.as_raw_fd(), Peer { room: usize::MAX, ..Peer::default() });
            outputs.push(Output {
                socket,
                tls: None,
                dialect: Dialect::Plain,
                deflate: false,
                batch: false,
                watched: false,
                stage: Stage::Open,
                close_by_ms: 0,
                ping: Ping::None,
                send_queue: SendQueue::default(),
                written_ms: 0,
                timer_ms: 0,
                pace: None,
                backlog: None,
            });
        }
        let egress = Egress::new(Box::new(sockets.clone()), BACKLOG_MAX, stats.clone());
        Self { egress, sessions: outputs, sockets, stats, _others: others, now_ms: 1_000_000 }
    }

    /// Links a chunk to a session.
    fn link(&mut self, session: usize, chunk: Chunk) {
        let chunk = self.egress.outbox.chunk(chunk);
        self.egress.outbox.link(SessionIndex::new(session), &mut self.sessions[session].send_queue, chunk);
    }

    /// Runs one tick, `ms` after the last. Returns the outcomes of its writes.
    fn tick(&mut self, ms: u64, hurry: bool) -> Vec<Outcome> {
        self.now_ms += ms;
        self.egress.begin_tick(self.now_ms, self.now_ms);
        self.egress.due(&mut self.sessions);
        let (mut at, mut all) = (0, Vec::new());
        loop {
            at = self.egress.flush(&mut self.sessions, at, hurry, |_, _, _| {});
            let outcomes = self.egress.take_outcomes();
            if outcomes.is_empty() && at >= self.egress.outbox.dirty.len() && !self.egress.has_prepared() {
                break;
            }
            all.extend(outcomes);
        }
        self.egress.end_flush();
        self.egress.settle_dirty(&self.sessions);
        self.egress.end_tick();
        all
    }

    fn peer<T>(&self, session: usize, look: impl FnOnce(&mut Peer) -> T) -> T {
        look(self.sockets.0.borrow_mut().get_mut(&self.sessions[session].socket.as_raw_fd()).unwrap())
    }

    /// The bytes that a session's socket received since the last call.
    fn got(&self, session: usize) -> Vec<u8> {
        self.peer(session, |peer| std::mem::take(&mut peer.got))
    }
}

const TOPIC: Slot = Slot(7);

fn text(n: u8, bytes: usize) -> Bytes {
    frame(Opcode::Text, &vec![b'a' + n; bytes])
}

/// A delivery that newer state may replace and that may wait, for a session at `seq`.
fn delta(n: u8, bytes: usize, seq: u64) -> Chunk {
    let start = Cursor { offset: Offset::new(seq).unwrap_or_default(), seq };
    Chunk { wait_ms: 1, ..Chunk::delivery(text(n, bytes), Some(TOPIC), start) }
}

#[test]
fn all_waiting_chunks_go_into_one_write_in_order() {
    let mut bed = Bed::new(2);
    let frames: Vec<Bytes> = (0..3).map(|n| text(n, 10)).collect();
    for frame in &frames {
        bed.link(0, Chunk::control(frame.clone()));
    }
    bed.link(1, Chunk::control(frames[2].clone()));
    assert!(bed.tick(0, false).is_empty());
    assert_eq!(bed.got(0), frames.concat());
    assert_eq!(bed.got(1), frames[2]);
    assert_eq!(bed.peer(0, |peer| peer.writes), 1);
}

#[test]
fn deliveries_wait_for_the_flush_interval_and_replies_do_not() {
    let mut bed = Bed::new(1);
    let wait = |n| Chunk { wait_ms: 20, ..delta(n, 10, u64::from(n)) };
    bed.link(0, wait(0));
    bed.tick(0, false);
    assert_eq!(bed.got(0), text(0, 10), "the last write was long ago");
    bed.link(0, wait(1));
    bed.tick(5, false);
    assert!(bed.got(0).is_empty());
    assert!(bed.egress.next_timer_ms().is_some_and(|at| at >= bed.now_ms + 15));
    bed.tick(25, false);
    assert_eq!(bed.got(0), text(1, 10), "its flush interval is over");
    // A reply takes the waiting deliveries along.
    bed.link(0, wait(2));
    bed.link(0, Chunk::control(text(3, 10)));
    bed.tick(1, false);
    assert_eq!(bed.got(0), [text(2, 10), text(3, 10)].concat());
    // If too many bytes wait in all, nothing may wait.
    bed.link(0, wait(4));
    bed.tick(1, true);
    assert_eq!(bed.got(0), text(4, 10));
}

#[test]
fn a_partly_sent_frame_is_finished_and_newer_state_replaces_later_ones() {
    let mut bed = Bed::new(1);
    bed.peer(0, |peer| peer.room = 30);
    bed.link(0, delta(0, 20, 5));
    bed.link(0, delta(1, 20, 6));
    bed.link(0, delta(2, 20, 7));
    bed.link(0, Chunk::control(text(3, 20)));
    let outcomes = bed.tick(0, false);
    assert!(
        matches!(
            outcomes[..],
            [Outcome::Skipped { topic: TOPIC, from: Cursor { seq: 7, .. }, .. }, Outcome::Full { too_much: false, .. }]
        ),
        "{outcomes:?}"
    );
    assert_eq!((bed.stats.slow_sessions.get(), bed.stats.backlog_bytes.get()), (1, 14 + 22));
    // Nothing more is written until the socket has room.
    bed.link(0, delta(4, 20, 8));
    bed.peer(0, |peer| peer.writes = 0);
    let outcomes = bed.tick(50, false);
    assert!(matches!(outcomes[0], Outcome::Skipped { from: Cursor { seq: 8, .. }, .. }), "{outcomes:?}");
    assert_eq!(bed.peer(0, |peer| peer.writes), 0);
    bed.peer(0, |peer| peer.room = 20);
    let session = SessionIndex::new(0);
    assert_eq!(bed.egress.drain(&mut bed.sessions, session), Drained::Full);
    bed.peer(0, |peer| peer.room = usize::MAX);
    assert_eq!(bed.egress.drain(&mut bed.sessions, session), Drained::All);
    assert_eq!(bed.got(0), [text(0, 20), text(1, 20), text(3, 20)].concat());
    assert!(bed.sessions[0].backlog.is_none());
    assert_eq!((bed.stats.slow_sessions.get(), bed.stats.backlog_bytes.get()), (0, 0));
}

#[test]
fn a_session_for_which_too_much_waits_is_named() {
    let mut bed = Bed::new(1);
    bed.peer(0, |peer| peer.room = 0);
    // A single frame may exceed the limit; otherwise its subscriber could never receive it.
    bed.link(0, Chunk::control(text(0, 4 * BACKLOG_MAX)));
    assert!(matches!(bed.tick(0, false)[..], [Outcome::Full { too_much: false, .. }]));
    bed.link(0, Chunk::control(text(1, BACKLOG_MAX)));
    assert!(matches!(bed.tick(0, false)[..], [Outcome::Full { too_much: true, .. }]));
}

#[test]
fn many_deltas_of_a_topic_are_handed_back_to_be_conflated() {
    let mut bed = Bed::new(1);
    for n in 0..8 {
        bed.link(0, delta(n, 10, n.into()));
    }
    let outcomes = bed.tick(0, false);
    let [Outcome::Conflate { send_queue, .. }] = outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!(send_queue.replaceable(), 8);
    assert!(bed.got(0).is_empty() && bed.sessions[0].send_queue.is_empty());
    bed.egress.outbox.release(send_queue);
    // A closing session is still sent its backlog.
    bed.sessions[0].stage = Stage::Closing;
    for n in 0..8 {
        bed.link(0, delta(n, 10, n.into()));
    }
    assert!(bed.tick(0, false).is_empty() && !bed.got(0).is_empty());
}

#[test]
fn a_session_that_ends_is_not_written_to_until_its_last_frame_is_there() {
    let mut bed = Bed::new(2);
    bed.sessions[0].stage = Stage::Ending;
    bed.link(0, Chunk::control(text(0, 10)));
    assert!(bed.tick(0, false).is_empty() && bed.got(0).is_empty());
    bed.sessions[0].stage = Stage::Done;
    bed.link(0, Chunk::control(text(1, 10)));
    assert!(matches!(bed.tick(0, false)[..], [Outcome::Over { .. }]), "the last frame was written");
    assert_eq!(bed.got(0), [text(0, 10), text(1, 10)].concat());
    // A session whose socket is closed is not written to.
    bed.peer(1, |peer| peer.gone = true);
    bed.link(1, Chunk::control(text(0, 10)));
    assert!(matches!(bed.tick(0, false)[..], [Outcome::Over { .. }]));
}

#[test]
fn a_rate_limit_delays_writes_until_the_bytes_are_paid_for() {
    let mut bed = Bed::new(1);
    bed.sessions[0].pace = Some(Box::new(Pace::new(10_000)));
    bed.link(0, Chunk::control(text(0, 4_996)));
    bed.tick(0, false);
    assert_eq!(bed.got(0).len(), 5_000);
    bed.link(0, Chunk::control(text(1, 10)));
    let outcomes = bed.tick(100, false);
    assert!(matches!(outcomes[..], [Outcome::Full { .. }]), "{outcomes:?}");
    assert_eq!((bed.got(0).len(), bed.stats.slow_sessions.get()), (0, 1));
    assert_eq!(bed.egress.next_timer_ms(), Some(bed.now_ms + 400));
    bed.now_ms += 400;
    bed.egress.begin_tick(bed.now_ms, bed.now_ms);
    assert_eq!(bed.egress.due(&mut bed.sessions), [(SessionIndex::new(0), true)]);
    assert_eq!(bed.egress.drain(&mut bed.sessions, SessionIndex::new(0)), Drained::All);
    assert_eq!(bed.got(0), text(1, 10));
}

#[test]
fn a_ping_counts_from_when_it_was_written() {
    let mut bed = Bed::new(1);
    bed.peer(0, |peer| peer.room = 5);
    bed.sessions[0].ping = Ping::Queued;
    bed.link(0, Chunk::control(text(0, 10)));
    bed.tick(0, false);
    assert_eq!(bed.sessions[0].ping, Ping::Queued);
    bed.peer(0, |peer| peer.room = usize::MAX);
    bed.egress.drain(&mut bed.sessions, SessionIndex::new(0));
    assert!(matches!(bed.egress.take_outcomes()[..], [.., Outcome::Pinged { .. }]));
    assert_eq!(bed.sessions[0].ping, Ping::Written);
}

#[test]
fn a_large_send_queue_is_sent_over_several_ticks() {
    let mut bed = Bed::new(1);
    let frames: Vec<Bytes> = (0..5).map(|n| text(n, 600_000)).collect();
    for frame in &frames {
        bed.link(0, Chunk::control(frame.clone()));
    }
    for (tick, written) in [2, 4, 5].into_iter().enumerate() {
        assert!(bed.tick(0, false).is_empty());
        let got = bed.peer(0, |peer| peer.got.len());
        assert_eq!(got, frames[..written].iter().map(Bytes::len).sum::<usize>(), "tick {tick}");
    }
    assert_eq!(bed.got(0), frames.concat());
    assert!(bed.egress.outbox.dirty.is_empty());
}
