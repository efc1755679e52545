//! From send queues to sockets: when a session is written to, what goes in one write, and what becomes of the rest where a
//! socket takes no more.
//!
//! Knows no topics, no groups and no commands: a chunk carries which topic it is of and where a receiver stands before it, and
//! egress hands that back ([`Outcome`]) where the chunk was not sent. Sessions end elsewhere: it says which have to.

mod backlog;
mod coalesce;
mod compress;
mod encrypt;
mod memory_cap;
mod output;
mod rate_limit;
mod schedule;
mod send_queue;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

pub(super) use backlog::Backlog;
pub(super) use coalesce::{Coalescer, Shape};
pub(super) use compress::Compressor;
pub(super) use memory_cap::{Ceiling, outgoing_max};
pub(super) use output::{Output, Outputs};
pub(super) use rate_limit::Pace;
pub(super) use schedule::Load;
pub(super) use send_queue::{Outbox, SendQueue};
pub(super) use write::{Flush, Sent, backend};

use self::coalesce::{BATCH_BYTES, Coalesced};
use self::encrypt::{Encrypted, send_encrypted};
use self::schedule::{Timers, in_step, write_time};
use self::write::Outgoing;
use super::clock::clock32;
use super::cursor::Cursor;
use super::index::SessionIndex;
use super::stage::{Ping, Stage};
use crate::metrics::ShardStats;
use crate::topic::Slot;
use crate::wire::frame::frame_bytes;
use crate::wire::tls::Sealed;

/// Bytes from which on a write has no more: the rest is the next one's.
const WRITE_BYTES_MAX: u32 = 1 << 20;

/// Deltas of one topic in one send queue from which on they are conflated.
const CONFLATE_DELIVERIES: u32 = 8;

/// What a write came to, for those who know what the bytes are about. In the order in which it came about.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Deliveries of a topic were not sent to a session that stood at `from` before them: newer state is to take their place.
    /// So many `bytes` of state were charged for them.
    Skipped { session: SessionIndex, topic: Slot, from: Cursor, bytes: usize },
    /// Something that the session gets as it is says where it stands in a topic.
    Stands { session: SessionIndex, topic: Slot, at: Cursor },
    /// So much waits for a session that one delivery in place of many is due: its send queue, taken out.
    Conflate { session: SessionIndex, send_queue: SendQueue },
    /// Its socket is full. More may wait than it may have.
    Full { session: SessionIndex, too_much: bool },
    /// A ping was written: its client can answer from now on.
    Pinged { session: SessionIndex },
    /// The socket is gone, or has got the last that was to be written.
    Over { session: SessionIndex },
}

/// What became of a session's backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    /// Nothing was to be done, or nothing more can be.
    Idle,
    /// The socket is full again.
    Full,
    /// All of it has gone.
    All,
}

/// A write that is about to be made.
struct Write {
    session: SessionIndex,
    send_queue: SendQueue,
    deliveries: u64,
    bytes: Coalesced,
    /// Set where they are encrypted.
    encrypted: Option<Encrypted>,
    /// When it was due, in the low half of the shard's clock.
    time_ms: u32,
    sent: Sent,
}

/// The sending half of a shard.
pub(super) struct Egress {
    pub(super) outbox: Outbox,
    pub(super) compressor: Compressor,
    coalescer: Coalescer,
    sealed: Sealed,
    backend: Box<dyn Flush>,
    /// Writes of the batch that is being put together.
    writes: Vec<Write>,
    /// Sessions of which more waits than one write has.
    unfinished: Vec<SessionIndex>,
    timers: Timers,
    pub(super) load: Load,
    stats: Arc<ShardStats>,
    /// Bytes that may wait behind a full socket.
    backlog_max: usize,
    outcomes: Vec<Outcome>,
    /// The shard's clock, and the time of day.
    now_ms: u64,
    unix_ms: u64,
}

impl Egress {
    /// `backlog_max` bytes may wait for one session whose socket is full, beside the frame that is being sent.
    pub(super) fn new(backend: Box<dyn Flush>, backlog_max: usize, stats: Arc<ShardStats>) -> Self {
        Self {
            outbox: Outbox::default(),
            compressor: Compressor::default(),
            coalescer: Coalescer::default(),
            sealed: Sealed::default(),
            backend,
            writes: Vec::new(),
            unfinished: Vec::new(),
            timers: Timers::default(),
            load: Load::default(),
            stats,
            backlog_max,
            outcomes: Vec::new(),
            now_ms: 0,
            unix_ms: 0,
        }
    }

    pub(super) fn begin_tick(&mut self, now_ms: u64, unix_ms: u64) {
        (self.now_ms, self.unix_ms) = (now_ms, unix_ms);
    }

    pub(super) fn end_tick(&mut self) {
        self.outbox.end_tick();
        self.compressor.end_tick();
        self.coalescer.end_tick();
        self.sealed.shrink_to(2 * BATCH_BYTES);
    }

    /// What came about since this was last asked.
    pub(super) fn take_outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    /// Gives the list back, emptied, so that none is made for each write.
    pub(super) fn reuse(&mut self, outcomes: Vec<Outcome>) {
        debug_assert!(outcomes.is_empty(), "every outcome was carried out");
        if self.outcomes.is_empty() {
            self.outcomes = outcomes;
        }
    }

    /// Writes to one session after the other, of those that are dirty from `at` on, until a batch is full or there is an
    /// outcome to look at. Returns how far it came. `hurry` lets none of them wait. `written` is shown each send queue with what
    /// its write came to.
    pub(super) fn flush<S: Outputs>(
        &mut self,
        sessions: &mut S,
        mut at: usize,
        hurry: bool,
        written: impl FnMut(&Outbox, SendQueue, Sent),
    ) -> usize {
        let batch = self.backend.batch();
        while self.writes.len() < batch
            && !self.coalescer.is_full()
            && self.sealed.len() < BATCH_BYTES
            && self.outcomes.is_empty()
            && let Some(session) = self.outbox.dirty.get(at).copied()
        {
            at += 1;
            self.prepare(sessions, session, hurry);
        }
        if self.outcomes.is_empty() {
            self.make_writes(sessions, written);
        }
        at
    }

    /// Whether writes were prepared and not made.
    pub(super) fn has_prepared(&self) -> bool {
        !self.writes.is_empty()
    }

    /// All dirty sessions were looked at. Those stay dirty that have more to get, or are about to end.
    pub(super) fn end_flush(&mut self) {
        self.outbox.dirty.clear();
        self.outbox.dirty.append(&mut self.unfinished);
    }

    /// Of the sessions that are dirty, those stay so that have something to get. Tells whether there is one.
    pub(super) fn settle_dirty<S: Outputs>(&mut self, sessions: &S) -> bool {
        let waits = |session: &SessionIndex| {
            sessions.output(*session).is_some_and(|o| !o.send_queue.is_empty() && !o.send_queue.parked)
        };
        self.outbox.dirty.retain(waits);
        !self.outbox.dirty.is_empty()
    }

    /// Writes to one session now.
    pub(super) fn write_now<S: Outputs>(
        &mut self,
        sessions: &mut S,
        session: SessionIndex,
        written: impl FnMut(&Outbox, SendQueue, Sent),
    ) {
        self.prepare(sessions, session, true);
        self.make_writes(sessions, written);
    }

    /// Puts together what a session gets, unless it may wait (and is not hurried) or its socket is full.
    fn prepare<S: Outputs>(&mut self, sessions: &mut S, session: SessionIndex, hurry: bool) {
        let now_ms = self.now_ms;
        let Some(output) = sessions.output_mut(session) else { return };
        if output.send_queue.is_empty() {
            return;
        }
        if !output.stage.is_written() {
            self.unfinished.push(session);
            return;
        }
        let wait_ms = match u32::from(output.send_queue.wait_ms()) {
            0 => 0,
            wait_ms => wait_ms.max(self.load.flush_delay_ms()),
        };
        let since_ms = clock32(now_ms).wrapping_sub(output.written_ms);
        if !hurry && since_ms < wait_ms && output.backlog.is_none() {
            output.send_queue.parked = true;
            self.timers.look_at(session, output, in_step(now_ms + u64::from(wait_ms - since_ms), wait_ms), now_ms);
            return;
        }
        let time_ms = clock32(write_time(now_ms, since_ms, wait_ms));
        let mut send_queue = output.send_queue.take();
        if output.backlog.is_some() || !self.may_send(session, output) {
            self.keep(session, output, &[], send_queue, 0);
            self.outbox.release(send_queue);
            return;
        }
        if output.stage.is_live() && is_worth_conflating(&self.outbox, send_queue) {
            self.outcomes.push(Outcome::Conflate { session, send_queue });
            return;
        }
        if send_queue.bytes() > WRITE_BYTES_MAX {
            // The socket will not take all of that at once. The rest stays shared with other sessions until the next write.
            output.send_queue = self.outbox.split(&mut send_queue, WRITE_BYTES_MAX);
            self.unfinished.push(session);
        }
        let bytes = self.coalescer.coalesce(&self.outbox, send_queue, Shape::of(output));
        let mut deliveries = 0;
        for chunk in self.outbox.chunks(send_queue) {
            deliveries += u64::from(chunk.deliveries);
            if chunk.seen_ms > 0 {
                self.stats.age(self.unix_ms.saturating_sub(chunk.seen_ms), u64::from(chunk.deliveries));
            }
        }
        let encrypted = match &mut output.tls {
            None => None,
            Some(tls) => {
                let bytes = self.coalescer.bytes(&self.outbox, &bytes);
                let Some(encrypted) = Encrypted::begin(tls, bytes, &mut self.sealed) else {
                    self.outbox.release(send_queue);
                    self.outcomes.push(Outcome::Over { session });
                    return;
                };
                Some(encrypted)
            }
        };
        self.writes.push(Write { session, send_queue, deliveries, bytes, encrypted, time_ms, sent: Sent::Gone });
    }

    /// Makes the writes that were prepared.
    fn make_writes<S: Outputs>(&mut self, sessions: &mut S, mut written: impl FnMut(&Outbox, SendQueue, Sent)) {
        if self.writes.is_empty() {
            return;
        }
        let mut writes = std::mem::take(&mut self.writes);
        self.send(sessions, &mut writes);
        for write in &mut writes {
            if let Some(output) = sessions.output_mut(write.session) {
                self.decrypt(output, write);
                written(&self.outbox, write.send_queue, write.sent);
                self.written(output, write);
            }
            self.outbox.release(write.send_queue);
        }
        writes.clear();
        self.writes = writes;
        self.coalescer.clear();
        self.sealed.clear();
    }

    /// Hands the bytes to the backend, and notes what left.
    fn send<S: Outputs>(&mut self, sessions: &S, writes: &mut [Write]) {
        let bytes_of = |write: &Write| match &write.encrypted {
            None => self.coalescer.bytes(&self.outbox, &write.bytes),
            Some(encrypted) => encrypted.bytes(&self.sealed),
        };
        match writes {
            // The one write of a backend without batches needs no list.
            [write] => {
                if let Some(output) = sessions.output(write.session) {
                    let mut outgoing = [Outgoing { socket: &output.socket, bytes: bytes_of(write), sent: Sent::Gone }];
                    self.backend.send(&mut outgoing);
                    let [outgoing] = outgoing;
                    write.sent = outgoing.sent;
                }
            }
            writes => {
                let (mut outgoing, mut outcomes) = (Vec::with_capacity(writes.len()), Vec::with_capacity(writes.len()));
                for write in writes {
                    let Some(output) = sessions.output(write.session) else { continue };
                    outgoing.push(Outgoing { socket: &output.socket, bytes: bytes_of(write), sent: Sent::Gone });
                    outcomes.push(&mut write.sent);
                }
                self.backend.send(&mut outgoing);
                for (outgoing, sent) in outgoing.into_iter().zip(outcomes) {
                    *sent = outgoing.sent;
                }
            }
        }
    }

    /// What an encrypted write came to, in bytes as they were before; what was not encrypted yet, follows.
    fn decrypt(&self, output: &mut Output, write: &mut Write) {
        let (Some(encrypted), Some(tls)) = (&write.encrypted, &mut output.tls) else { return };
        let bytes = self.coalescer.bytes(&self.outbox, &write.bytes);
        write.sent = encrypted.end(write.sent, tls, &output.socket, bytes, &self.sealed);
    }

    /// What a write came to.
    fn written(&mut self, output: &mut Output, write: &Write) {
        let now_ms = self.now_ms;
        let Write { session, send_queue, deliveries, time_ms, sent, .. } = *write;
        output.written_ms = time_ms;
        let bytes = self.coalescer.bytes(&self.outbox, &write.bytes);
        let len = match sent {
            Sent::All => bytes.len(),
            Sent::Full(n) => n,
            Sent::Gone => 0,
        };
        if let Some(pace) = &mut output.pace {
            pace.spend(len, now_ms);
        }
        match sent {
            Sent::All => {
                self.stats.writes.add(u64::from(!bytes.is_empty()));
                self.stats.bytes.add(len as u64);
                self.stats.deliveries.add(deliveries);
                self.stats.coalesced.add(deliveries.saturating_sub(1));
                self.all_written(session, output);
            }
            Sent::Full(n) => {
                self.stats.writes.add(1);
                self.stats.writes_partial.add(1);
                self.stats.bytes.add(n as u64);
                if n >= bytes.len() {
                    // All of it was encrypted, and some of that must wait.
                    self.keep(session, output, &[], send_queue, usize::MAX);
                } else {
                    let (end, chunks_end) = write.bytes.cut(n);
                    let rest = Bytes::copy_from_slice(bytes.get(n..end).unwrap_or_default());
                    self.keep(session, output, &rest, send_queue, chunks_end);
                }
            }
            Sent::Gone => self.outcomes.push(Outcome::Over { session }),
        }
    }

    /// The socket has taken all that was to be written.
    fn all_written(&mut self, session: SessionIndex, output: &mut Output) {
        if !output.send_queue.is_empty() {
            return;
        }
        if output.ping != Ping::None {
            output.ping = Ping::Written;
            self.outcomes.push(Outcome::Pinged { session });
        }
        if output.stage == Stage::Done {
            self.outcomes.push(Outcome::Over { session });
        }
    }

    /// The socket is full: of `send_queue`, `sent` bytes have gone, and `rest` is that of a message that was begun, which must
    /// follow as it is. What must go out as it is, is kept; what newer state may replace is passed over.
    fn keep(&mut self, session: SessionIndex, output: &mut Output, rest: &[u8], send_queue: SendQueue, sent: usize) {
        if matches!(output.stage, Stage::Done | Stage::Dropped) {
            self.outcomes.push(Outcome::Over { session });
            return;
        }
        if output.backlog.is_none() {
            self.stats.slow_sessions.add(1);
        }
        let backlog = output.backlog.get_or_insert_with(|| Box::new(Backlog::new(self.now_ms)));
        let before = backlog.len();
        if !rest.is_empty() {
            backlog.push_rest(rest);
        }
        let (mut at, mut completed) = (0, 0);
        'chunks: for chunk in self.outbox.chunks(send_queue) {
            let (chunk_start, chunk_end) = (at, at + chunk.bytes.len());
            at = chunk_end;
            if chunk_end <= sent {
                completed += u64::from(chunk.deliveries);
                continue;
            }
            if let Some((topic, at)) = chunk.stands {
                self.outcomes.push(Outcome::Stands { session, topic, at });
            }
            let mut from = chunk.start;
            let mut cuts = chunk.cuts.iter();
            let mut frame_start = chunk_start;
            while frame_start < chunk_end {
                let rest = chunk.bytes.get(frame_start - chunk_start..).unwrap_or_default();
                let cut = cuts.next();
                let frame_end = match cut {
                    Some(cut) => chunk_start + cut.end,
                    None => frame_start + frame_bytes(rest).min(rest.len()).max(1),
                };
                let frame = chunk.bytes.get(frame_start - chunk_start..frame_end - chunk_start).unwrap_or_default();
                if frame_end > sent {
                    if frame_start < sent {
                        backlog.push_rest(frame.get(sent - frame_start..).unwrap_or_default());
                    } else if let Some(topic) = chunk.topic {
                        let bytes = if frame_start == chunk_start { chunk.state_bytes() } else { 0 };
                        self.outcomes.push(Outcome::Skipped { session, topic, from, bytes });
                        break;
                    } else {
                        backlog.push(frame);
                        if backlog.behind_first() > self.backlog_max {
                            break 'chunks;
                        }
                    }
                }
                if let Some(cut) = cut {
                    from = cut.cursor;
                }
                frame_start = frame_end;
            }
        }
        // What was begun counts for one more when its rest has gone.
        self.stats.deliveries.add(completed.saturating_sub(u64::from(!rest.is_empty())));
        self.stats.backlog_bytes.add((backlog.len() - before) as u64);
        let too_much = backlog.behind_first() > self.backlog_max;
        self.outcomes.push(Outcome::Full { session, too_much });
    }

    /// The socket takes bytes again: what was kept goes first.
    pub(super) fn drain<S: Outputs>(&mut self, sessions: &mut S, session: SessionIndex) -> Drained {
        let now_ms = self.now_ms;
        let Some(output) = sessions.output_mut(session) else { return Drained::Idle };
        if !output.stage.is_written() || !self.may_send(session, output) {
            return Drained::Idle;
        }
        let Some(backlog) = output.backlog.as_mut() else { return Drained::Idle };
        let (mut sent, mut completed) = (0, 0);
        let outcome = loop {
            let part = backlog.waiting().len();
            let outcome = match &mut output.tls {
                None => {
                    let mut outgoing =
                        [Outgoing { socket: &output.socket, bytes: backlog.waiting(), sent: Sent::Gone }];
                    self.backend.send(&mut outgoing);
                    let [outgoing] = outgoing;
                    outgoing.sent
                }
                Some(tls) => {
                    let due = tls.due().len();
                    let outcome = send_encrypted(tls, &output.socket, backlog.waiting());
                    if tls.due().len() != due {
                        backlog.moved_ms = now_ms;
                    }
                    outcome
                }
            };
            self.stats.writes.add(u64::from(part > 0));
            let bytes = match outcome {
                Sent::All => part,
                Sent::Full(n) => n,
                Sent::Gone => 0,
            };
            completed += backlog.sent(bytes, now_ms);
            sent += bytes;
            if !matches!(outcome, Sent::All) || backlog.len() == 0 {
                break outcome;
            }
        };
        if let Some(pace) = &mut output.pace {
            pace.spend(sent, now_ms);
        }
        self.stats.deliveries.add(completed);
        self.stats.bytes.add(sent as u64);
        self.stats.backlog_bytes.sub(sent as u64);
        match outcome {
            Sent::Gone => {
                self.outcomes.push(Outcome::Over { session });
                Drained::Idle
            }
            Sent::Full(_) => Drained::Full,
            Sent::All => {
                output.backlog = None;
                self.stats.slow_sessions.sub(1);
                self.all_written(session, output);
                Drained::All
            }
        }
    }

    /// Whether a session's rate limit lets it be written to. If not, it is as one whose socket is full, until its time comes.
    pub(super) fn may_send(&mut self, session: SessionIndex, output: &mut Output) -> bool {
        let now_ms = self.now_ms;
        let Some(until_ms) = output.pace.as_ref().and_then(|pace| pace.wait_until(now_ms)) else { return true };
        // One that goes is told why.
        if !output.stage.is_live() {
            return true;
        }
        // Until then it is not the socket that stands still.
        match &mut output.backlog {
            Some(backlog) => backlog.moved_ms = until_ms,
            None => {
                output.backlog = Some(Box::new(Backlog::new(until_ms)));
                self.stats.slow_sessions.add(1);
            }
        }
        self.timers.look_at(session, output, until_ms, now_ms);
        false
    }

    /// Sees to it that a session is looked at by `at_ms`.
    pub(super) fn look_at<S: Outputs>(&mut self, sessions: &mut S, session: SessionIndex, at_ms: u64) {
        if let Some(output) = sessions.output_mut(session) {
            self.timers.look_at(session, output, at_ms, self.now_ms);
        }
    }

    /// The earliest time at which a session is to be looked at.
    pub(super) fn next_timer_ms(&self) -> Option<u64> {
        self.timers.next_ms()
    }

    /// Sessions whose time has come. A timer may be an earlier session's, or too early by now: whoever still has to wait sets
    /// another. What waited in a send queue is written in this tick; `true` with a session says that it has a backlog.
    pub(super) fn due<S: Outputs>(&mut self, sessions: &mut S) -> Vec<(SessionIndex, bool)> {
        let mut woken = Vec::new();
        while let Some((at_ms, due)) = self.timers.due(self.now_ms) {
            for session in due {
                let Some(output) = sessions.output_mut(session) else { continue };
                if output.timer_ms == clock32(at_ms).max(1) {
                    output.timer_ms = 0;
                }
                woken.push((session, output.backlog.is_some()));
                if output.backlog.is_none() && std::mem::take(&mut output.send_queue.parked) {
                    self.outbox.dirty.push(session);
                }
            }
        }
        woken
    }
}

/// Whether a session waited for so long, or a topic moved so fast, that one delivery in place of many is due.
fn is_worth_conflating(outbox: &Outbox, send_queue: SendQueue) -> bool {
    if u32::from(send_queue.replaceable()) < CONFLATE_DELIVERIES {
        return false;
    }
    let mut topics: SmallVec<[(Slot, u32); 4]> = SmallVec::new();
    for chunk in outbox.chunks(send_queue) {
        let Some(slot) = chunk.topic else { continue };
        let waiting = match topics.iter_mut().find(|(other, _)| *other == slot) {
            Some((_, waiting)) => {
                *waiting += chunk.deliveries;
                *waiting
            }
            None => {
                // A few are enough: one that moves fast is among them sooner or later.
                if topics.len() < 4 {
                    topics.push((slot, chunk.deliveries));
                }
                chunk.deliveries
            }
        };
        if waiting >= CONFLATE_DELIVERIES {
            return true;
        }
    }
    false
}
