//! From send queues to sockets: when a session is written to, what one write carries, and what happens to the rest when
//! the socket is full.
//!
//! Knows no topics, groups or commands. A chunk names its topic and the receiver's position before it; egress returns
//! both ([`Outcome`]) if the chunk was not sent. Egress closes no session: an outcome says which must end.

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

/// Size from which a write takes no further chunks; the rest goes into the next write.
const WRITE_BYTES_MAX: u32 = 1 << 20;

/// Number of deltas of one topic in a send queue from which they are conflated.
const CONFLATE_DELIVERIES: u32 = 8;

/// The outcomes of writes, in the order in which they occurred.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Deliveries of a topic were not sent to a session that was at `from` before them; newer state replaces them.
    /// `bytes` of state were charged for them.
    Skipped { session: SessionIndex, topic: Slot, from: Cursor, bytes: usize },
    /// A requested state that the session still gets sets its position in a topic.
    Stands { session: SessionIndex, topic: Slot, at: Cursor },
    /// So much waits for a session that its deltas should be conflated. The send queue was taken out of it.
    Conflate { session: SessionIndex, send_queue: SendQueue },
    /// The socket is full. `too_much`: the backlog exceeds its limit.
    Full { session: SessionIndex, too_much: bool },
    /// A ping was written: the time to answer it begins.
    Pinged { session: SessionIndex },
    /// The socket is closed, or the session's last frame was written.
    Over { session: SessionIndex },
}

/// The state of a session's backlog after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    /// There is no backlog, or the session cannot be written to.
    Idle,
    /// The socket is full again.
    Full,
    /// The whole backlog was sent.
    All,
}

/// A prepared write.
struct Write {
    session: SessionIndex,
    send_queue: SendQueue,
    deliveries: u64,
    bytes: Coalesced,
    /// Set if they are encrypted.
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
    /// Writes of the batch that is being prepared.
    writes: Vec<Write>,
    /// Sessions whose send queue exceeds one write.
    unfinished: Vec<SessionIndex>,
    timers: Timers,
    pub(super) load: Load,
    stats: Arc<ShardStats>,
    /// Limit on the bytes in a backlog.
    backlog_max: usize,
    outcomes: Vec<Outcome>,
    /// The shard's clock, and the wall clock.
    now_ms: u64,
    unix_ms: u64,
}

impl Egress {
    /// `backlog_max` bytes may wait for a session whose socket is full, not counting the frame that is being sent.
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

    /// Takes the outcomes since the last call.
    pub(super) fn take_outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    /// Returns the emptied list, so that its memory is reused.
    pub(super) fn reuse(&mut self, outcomes: Vec<Outcome>) {
        debug_assert!(outcomes.is_empty(), "an outcome was not carried out");
        if self.outcomes.is_empty() {
            self.outcomes = outcomes;
        }
    }

    /// Writes to the dirty sessions from `at` on, until a batch is full or there is an outcome to handle. Returns the
    /// position that it reached. `hurry` skips flush intervals. `written` is called for each send queue with the result
    /// of its write.
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

    /// Whether there are prepared writes that were not made.
    pub(super) fn has_prepared(&self) -> bool {
        !self.writes.is_empty()
    }

    /// All dirty sessions were processed. Those with more to send, or about to end, stay dirty.
    pub(super) fn end_flush(&mut self) {
        self.outbox.dirty.clear();
        self.outbox.dirty.append(&mut self.unfinished);
    }

    /// Keeps those dirty sessions that have something to send. Returns whether there is one.
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

    /// Prepares a session's write, unless it may wait (and `hurry` is not set) or its socket is full.
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
            // The socket will not take more than this at once. The rest stays shared with other sessions until the next
            // write.
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

    /// Makes the prepared writes.
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

    /// Hands the bytes to the backend, and counts what was sent.
    fn send<S: Outputs>(&mut self, sessions: &S, writes: &mut [Write]) {
        let bytes_of = |write: &Write| match &write.encrypted {
            None => self.coalescer.bytes(&self.outbox, &write.bytes),
            Some(encrypted) => encrypted.bytes(&self.sealed),
        };
        match writes {
            // A backend without batches takes one write: no list is needed.
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

    /// Translates the result of an encrypted write to plain bytes. Bytes not encrypted yet are encrypted and written
    /// now.
    fn decrypt(&self, output: &mut Output, write: &mut Write) {
        let (Some(encrypted), Some(tls)) = (&write.encrypted, &mut output.tls) else { return };
        let bytes = self.coalescer.bytes(&self.outbox, &write.bytes);
        write.sent = encrypted.end(write.sent, tls, &output.socket, bytes, &self.sealed);
    }

    /// Handles the result of a write.
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
                    // Everything was encrypted, but some records wait.
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

    /// The socket has taken everything.
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

    /// The socket is full. `sent` bytes of `send_queue` were sent; `rest` is the rest of a partly sent message, which
    /// must follow unchanged. Frames that nothing may replace go into the backlog; those that newer state may replace
    /// are skipped.
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
        // The partly sent message is counted when its rest was sent.
        self.stats.deliveries.add(completed.saturating_sub(u64::from(!rest.is_empty())));
        self.stats.backlog_bytes.add((backlog.len() - before) as u64);
        let too_much = backlog.behind_first() > self.backlog_max;
        self.outcomes.push(Outcome::Full { session, too_much });
    }

    /// The socket has room again: the backlog is sent first.
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

    /// Whether a session's rate limit allows a write. If not, the session is treated as if its socket were full until
    /// it does.
    pub(super) fn may_send(&mut self, session: SessionIndex, output: &mut Output) -> bool {
        let now_ms = self.now_ms;
        let Some(until_ms) = output.pace.as_ref().and_then(|pace| pace.wait_until(now_ms)) else { return true };
        // A session that is ending gets its close frame without waiting.
        if !output.stage.is_live() {
            return true;
        }
        // The wait is caused by the limit, so the backlog must not count as stalled.
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

    /// Ensures that a session is checked at `at_ms` or before.
    pub(super) fn look_at<S: Outputs>(&mut self, sessions: &mut S, session: SessionIndex, at_ms: u64) {
        if let Some(output) = sessions.output_mut(session) {
            self.timers.look_at(session, output, at_ms, self.now_ms);
        }
    }

    /// The earliest time at which a session must be checked.
    pub(super) fn next_timer_ms(&self) -> Option<u64> {
        self.timers.next_ms()
    }

    /// The sessions whose timer has expired. A timer may belong to an earlier session or fire too early; a session that
    /// must still wait sets a new one. Send queues that waited are written in this tick; `true` marks a session with a
    /// backlog.
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

/// Whether a session has waited so long, or a topic changes so fast, that its deltas should be conflated.
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
                // Four topics are enough: a fast topic is soon among them.
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
