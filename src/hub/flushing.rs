//! From pieces to sockets: one visit a dirty session, and what happens when a socket takes no more.

use bytes::Bytes;
use smallvec::SmallVec;

use super::backlog::{Backlog, frame_bytes};
use super::flush::{Outgoing, Sent};
use super::gathering::{BATCH_BYTES, Gathered, Shape};
use super::outbox::{Chain, Piece};
use super::pacing::{clock32, in_step, visit_time};
use super::sealing::{Sealing, send_sealed};
use super::session::{Hold, Session, Stage};
use super::shard::Shard;
use super::subscribers::{Cursor, Subscribers, Subscription};
use crate::metrics::ShardStats;
use crate::topic::Slot;
use crate::wire::close::CloseReason;

/// Bytes from which on a visit brings no more: the rest is the next one's.
const VISIT_BYTES_MAX: u32 = 1 << 20;

/// Deltas of one topic in one visit from which on they are conflated.
const CONFLATE_DELIVERIES: u32 = 8;

/// A visit that is about to be made.
pub(super) struct Visit {
    index: u32,
    chain: Chain,
    deliveries: u64,
    gathered: Gathered,
    /// Set where the bytes are sealed.
    sealed: Option<Sealing>,
    /// When it was due, in the low half of the shard's clock.
    time_ms: u32,
    sent: Sent,
}

impl Shard {
    /// Visits every session that has something to get, and every full socket that became writable.
    pub(super) fn flush(&mut self) {
        self.wake_timers();
        for index in std::mem::take(&mut self.writable) {
            self.writable_again(index);
        }
        let hurry = self.must_hurry();
        let batch = self.backend.batch();
        // A visit may close a session and so make it dirty again, behind the others.
        let mut at = 0;
        loop {
            while self.visits.len() < batch
                && !self.gathering.is_full()
                && self.sealing.len() < BATCH_BYTES
                && let Some(index) = self.outbox.dirty.get(at).copied()
            {
                at += 1;
                self.prepare(index, hurry);
            }
            if self.visits.is_empty() {
                break;
            }
            self.make_visits();
        }
        self.outbox.dirty.clear();
        self.outbox.dirty.append(&mut self.unfinished);
        for index in std::mem::take(&mut self.owed) {
            if self.sessions.get(index as usize).is_some_and(|s| s.backlog.is_none()) {
                self.pay(index);
            }
            let over = self.sessions.get(index as usize).filter(|s| s.holds.is_empty()).map(|s| s.key(index));
            if let Some(key) = over.filter(|key| self.asking.waits(*key)) {
                self.needs_nothing(key);
            }
        }
        // Who was closed meanwhile is told in the next tick, which comes at once.
        let sessions = &self.sessions;
        let waits = |index: &u32| sessions.get(*index as usize).is_some_and(|s| !s.chain.is_empty() && !s.chain.parked);
        self.outbox.dirty.retain(waits);
        self.again = !self.outbox.dirty.is_empty();
    }

    /// Puts together what a session gets, unless it may wait (and is not hurried) or its socket is full.
    fn prepare(&mut self, index: u32, hurry: bool) {
        let now_ms = self.now_ms;
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        if session.chain.is_empty() {
            return;
        }
        let wait_ms = match u32::from(session.chain.wait_ms()) {
            0 => 0,
            wait_ms => wait_ms.max(self.load.stretch_ms()),
        };
        let since_ms = clock32(now_ms).wrapping_sub(session.visited_ms);
        if !hurry && since_ms < wait_ms && session.backlog.is_none() {
            session.chain.parked = true;
            self.set_timer(index, in_step(now_ms + u64::from(wait_ms - since_ms), wait_ms));
            return;
        }
        let time_ms = clock32(visit_time(now_ms, since_ms, wait_ms));
        let chain = session.chain.take();
        let live = session.is_live();
        if session.backlog.is_some() || !self.may_send(index) {
            self.keep(index, chain, 0);
            self.outbox.release(chain);
            return;
        }
        if live && self.is_worth_conflating(chain) {
            self.conflate(index, chain);
            return;
        }
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        let mut chain = chain;
        if chain.bytes() > VISIT_BYTES_MAX {
            // The socket will not take all of that at once: what is behind stays shared until it is its turn.
            session.chain = self.outbox.split(&mut chain, VISIT_BYTES_MAX);
            self.unfinished.push(index);
        }
        let gathered = self.gathering.gather(&self.outbox, chain, Shape::of(session));
        let mut deliveries = 0;
        for piece in self.outbox.chain(chain) {
            deliveries += u64::from(piece.deliveries);
            if piece.seen_ms > 0 {
                self.stats.age(self.unix_ms.saturating_sub(piece.seen_ms), u64::from(piece.deliveries));
            }
        }
        let sealed = match &mut session.tls {
            None => None,
            Some(tls) => {
                let bytes = self.gathering.bytes(&self.outbox, &gathered);
                let Some(sealed) = Sealing::begin(tls, bytes, &mut self.sealing) else {
                    self.outbox.release(chain);
                    self.drop_session(index);
                    return;
                };
                Some(sealed)
            }
        };
        self.visits.push(Visit { index, chain, deliveries, gathered, sealed, time_ms, sent: Sent::Gone });
    }

    /// Whether a session waited for so long, or a topic moved so fast, that one delivery in place of many is due.
    fn is_worth_conflating(&self, chain: Chain) -> bool {
        if u32::from(chain.replaceable()) < CONFLATE_DELIVERIES {
            return false;
        }
        let mut topics: SmallVec<[(Slot, u32); 4]> = SmallVec::new();
        for piece in self.outbox.chain(chain) {
            let Some(slot) = piece.topic else { continue };
            let waiting = match topics.iter_mut().find(|(other, _)| *other == slot) {
                Some((_, waiting)) => {
                    *waiting += piece.deliveries;
                    *waiting
                }
                None => {
                    // Nobody looks at more than a few: one that moves fast is among them sooner or later.
                    if topics.len() < 4 {
                        topics.push((slot, piece.deliveries));
                    }
                    piece.deliveries
                }
            };
            if waiting >= CONFLATE_DELIVERIES {
                return true;
            }
        }
        false
    }

    /// Puts one delivery of each conflatable topic in place of those that wait, and makes the session dirty again.
    fn conflate(&mut self, index: u32, chain: Chain) {
        let pieces: Vec<u32> = self.outbox.numbers(chain).collect();
        let mut not_sent = 0;
        for number in pieces {
            let Some(session) = self.sessions.get_mut(index as usize) else { break };
            let Some(piece) = self.outbox.get(number) else { continue };
            if let Some(topic) = piece.topic {
                not_sent += state_bytes(piece);
                owe(session, &mut self.subscribers, topic, piece.start);
                continue;
            }
            if let Some((topic, cursor)) = piece.stands {
                settle(session, &self.subscribers, topic, cursor);
            }
            self.outbox.link(index, &mut session.chain, number);
        }
        self.outbox.release(chain);
        self.not_sent(index, not_sent);
        let mut at = 0;
        while let Some(holds) = self.sessions.get(index as usize).map(|s| s.holds.len()).filter(|holds| at < *holds) {
            self.release(index, at);
            // Those that must wait, for a snapshot or their lane, are passed over.
            if self.sessions.get(index as usize).is_some_and(|s| s.holds.len() == holds) {
                at += 1;
            }
        }
    }

    /// Makes the visits that were prepared.
    fn make_visits(&mut self) {
        let mut visits = std::mem::take(&mut self.visits);
        match visits.as_mut_slice() {
            // The one visit of a backend without batches needs no list.
            [visit] => {
                if let Some(session) = self.sessions.get(visit.index as usize) {
                    let bytes = match &visit.sealed {
                        None => self.gathering.bytes(&self.outbox, &visit.gathered),
                        Some(sealed) => sealed.bytes(&self.sealing),
                    };
                    let mut outgoing = [Outgoing { socket: &session.socket, bytes, sent: Sent::Gone }];
                    self.backend.send(&mut outgoing);
                    let [outgoing] = outgoing;
                    visit.sent = outgoing.sent;
                }
            }
            visits => {
                let there = |v: &&mut Visit| self.sessions.contains(v.index as usize);
                let (mut outgoing, mut outcomes) = (Vec::with_capacity(visits.len()), Vec::with_capacity(visits.len()));
                for visit in visits.iter_mut().filter(there) {
                    let Visit { index, gathered, sealed, sent, .. } = visit;
                    if let Some(session) = self.sessions.get(*index as usize) {
                        let bytes = match sealed {
                            None => self.gathering.bytes(&self.outbox, gathered),
                            Some(sealed) => sealed.bytes(&self.sealing),
                        };
                        outgoing.push(Outgoing { socket: &session.socket, bytes, sent: Sent::Gone });
                        outcomes.push(sent);
                    }
                }
                self.backend.send(&mut outgoing);
                for (outgoing, sent) in outgoing.into_iter().zip(outcomes) {
                    *sent = outgoing.sent;
                }
            }
        }
        let follows = !self.following.is_empty();
        for visit in &mut visits {
            self.unseal(visit);
            if follows {
                self.following.visited(&self.outbox, visit.chain, visit.sent);
            }
            self.visited(visit);
            self.outbox.release(visit.chain);
        }
        visits.clear();
        self.visits = visits;
        self.gathering.clear();
        self.sealing.clear();
    }

    /// What the visit of a sealed session came to, in bytes as they were before; what was not sealed yet, follows.
    fn unseal(&mut self, visit: &mut Visit) {
        let Some(sealed) = &visit.sealed else { return };
        let Some(Session { socket, tls: Some(tls), .. }) = self.sessions.get_mut(visit.index as usize) else { return };
        let bytes = self.gathering.bytes(&self.outbox, &visit.gathered);
        visit.sent = sealed.end(visit.sent, tls, socket, bytes, &self.sealing);
    }

    /// What a visit came to.
    fn visited(&mut self, visit: &Visit) {
        let now_ms = self.now_ms;
        let Visit { index, chain, deliveries, time_ms, .. } = *visit;
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        session.visited_ms = time_ms;
        let bytes = self.gathering.bytes(&self.outbox, &visit.gathered);
        let len = match visit.sent {
            Sent::All => bytes.len(),
            Sent::Full(n) => n,
            Sent::Gone => 0,
        };
        if let Some(pace) = &mut session.pace {
            pace.spend(len, now_ms);
        }
        match visit.sent {
            Sent::All => {
                self.stats.visits.add(u64::from(!bytes.is_empty()));
                self.stats.bytes.add(len as u64);
                self.stats.deliveries.add(deliveries);
                self.stats.coalesced.add(deliveries.saturating_sub(1));
                session.written(now_ms);
                if session.stage == Stage::Done && session.chain.is_empty() {
                    self.drop_session(index);
                }
            }
            Sent::Full(n) => {
                self.stats.visits.add(1);
                self.stats.visits_partial.add(1);
                self.stats.bytes.add(n as u64);
                if n >= bytes.len() {
                    // All of it was sealed, and some of that must wait.
                    self.keep(index, chain, usize::MAX);
                } else {
                    let (end, pieces_end) = visit.gathered.cut(n);
                    let rest = Bytes::copy_from_slice(bytes.get(n..end).unwrap_or_default());
                    self.keep_behind(index, &rest, chain, pieces_end);
                }
            }
            Sent::Gone => self.drop_session(index),
        }
    }

    /// Visits one session now.
    pub(super) fn visit(&mut self, index: u32) {
        self.prepare(index, true);
        if !self.visits.is_empty() {
            self.make_visits();
        }
    }

    /// The socket is full: of `chain`, `sent` bytes have gone. What must go out as it is, is kept; what may be
    /// replaced by newer state is noted as owed.
    fn keep(&mut self, index: u32, chain: Chain, sent: usize) {
        self.keep_behind(index, &[], chain, sent);
    }

    /// The same behind the rest of a message that was begun, which must follow as it is.
    fn keep_behind(&mut self, index: u32, rest: &[u8], chain: Chain, sent: usize) {
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        if session.stage == Stage::Done {
            self.drop_session(index);
            return;
        }
        let was_full = session.backlog.is_some();
        let mut backlog = session.backlog.take().unwrap_or_else(|| Box::new(Backlog::new(self.now_ms)));
        let before = backlog.len();
        if !rest.is_empty() {
            backlog.push_rest(rest);
        }
        let (mut at, mut completed, mut not_sent) = (0, 0, 0);
        'pieces: for piece in self.outbox.chain(chain) {
            let (piece_start, piece_end) = (at, at + piece.bytes.len());
            at = piece_end;
            if piece_end <= sent {
                completed += u64::from(piece.deliveries);
                continue;
            }
            if let Some((topic, cursor)) = piece.stands {
                settle(session, &self.subscribers, topic, cursor);
            }
            let mut cursor = piece.start;
            let mut cuts = piece.cuts.iter();
            let mut frame_start = piece_start;
            while frame_start < piece_end {
                let rest = piece.bytes.get(frame_start - piece_start..).unwrap_or_default();
                let cut = cuts.next();
                let frame_end = match cut {
                    Some(cut) => piece_start + cut.end,
                    None => frame_start + frame_bytes(rest).min(rest.len()).max(1),
                };
                let frame = piece.bytes.get(frame_start - piece_start..frame_end - piece_start).unwrap_or_default();
                if frame_end > sent {
                    if frame_start < sent {
                        backlog.push_rest(frame.get(sent - frame_start..).unwrap_or_default());
                    } else if let Some(topic) = piece.topic {
                        not_sent += if frame_start == piece_start { state_bytes(piece) } else { 0 };
                        owe(session, &mut self.subscribers, topic, cursor);
                        break;
                    } else {
                        backlog.push(frame);
                        if backlog.behind_first() > self.config.limits.backlog_bytes {
                            break 'pieces;
                        }
                    }
                }
                if let Some(cut) = cut {
                    cursor = cut.cursor;
                }
                frame_start = frame_end;
            }
        }
        // What was begun counts for one more when its rest has gone.
        self.stats.deliveries.add(completed.saturating_sub(u64::from(!rest.is_empty())));
        let (after, behind_first) = (backlog.len(), backlog.behind_first());
        session.backlog = Some(backlog);
        note_backlog(&self.stats, was_full, before, after);
        self.not_sent(index, not_sent);
        self.watch_for_room(index);
        if behind_first > self.config.limits.backlog_bytes {
            self.close(index, CloseReason::Slow);
        }
        self.relieve();
    }

    /// The socket takes bytes again: first what was kept, then what is owed, as it is now.
    fn writable_again(&mut self, index: u32) {
        let now_ms = self.now_ms;
        if !self.may_send(index) {
            return;
        }
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        let Some(backlog) = session.backlog.as_mut() else { return };
        let (mut sent, mut completed) = (0, 0);
        let outcome = loop {
            let part = backlog.waiting().len();
            let outcome = match &mut session.tls {
                None => {
                    let mut outgoing =
                        [Outgoing { socket: &session.socket, bytes: backlog.waiting(), sent: Sent::Gone }];
                    self.backend.send(&mut outgoing);
                    let [outgoing] = outgoing;
                    outgoing.sent
                }
                Some(tls) => {
                    let due = tls.due().len();
                    let outcome = send_sealed(tls, &session.socket, backlog.waiting());
                    if tls.due().len() != due {
                        backlog.moved_ms = now_ms;
                    }
                    outcome
                }
            };
            self.stats.visits.add(u64::from(part > 0));
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
        if let Some(pace) = &mut session.pace {
            pace.spend(sent, now_ms);
        }
        self.stats.deliveries.add(completed);
        self.stats.bytes.add(sent as u64);
        self.stats.backlog_bytes.sub(sent as u64);
        match outcome {
            Sent::Gone => self.drop_session(index),
            Sent::Full(_) => self.resume_if_there_is_room(index),
            Sent::All => {
                session.backlog = None;
                self.stats.slow_sessions.sub(1);
                if session.stage == Stage::Done {
                    self.drop_session(index);
                    return;
                }
                session.written(now_ms);
                self.visit(index);
                self.pay(index);
                self.resume_if_there_is_room(index);
            }
        }
    }

    /// Sends what a session is owed, topic by topic, until all is paid or the socket is full again.
    fn pay(&mut self, index: u32) {
        while self.may_send(index) {
            let mut bytes = 0;
            let mut at = 0;
            let chunk = self.drain_chunk(index);
            while bytes < chunk {
                let Some(session) = self.sessions.get(index as usize) else { return };
                let holds = session.holds.len();
                if at >= holds {
                    break;
                }
                bytes += self.release(index, at);
                // Snapshots come all at once when they are asked for so: under a ceiling, one after the other.
                let waits = |s: &Session| s.pace.is_some() && s.holds.get(at).is_some_and(|hold| hold.awaiting);
                if self.sessions.get(index as usize).is_some_and(waits) {
                    break;
                }
                // Released holds leave the list; those that must wait are passed over.
                if self.sessions.get(index as usize).is_some_and(|s| s.holds.len() == holds) {
                    at += 1;
                }
            }
            if bytes == 0 {
                return;
            }
            self.visit(index);
            match self.sessions.get(index as usize) {
                Some(session) if session.backlog.is_none() => {}
                _ => return,
            }
        }
    }
}

/// Bytes of a state that was charged when it was put into a chain: without it, it will be charged once more.
fn state_bytes(piece: &Piece) -> usize {
    if piece.start == Cursor::NOWHERE { piece.bytes.len().max(piece.inflated) } else { 0 }
}

fn subscription_of(session: &Session, subscribers: &Subscribers, topic: Slot) -> Option<Subscription> {
    session.place_in(subscribers, topic).and_then(|at| session.subscriptions.get(at).copied())
}

/// Notes where a session stands in a topic whose frames it cannot take now: where it stood before the first of them,
/// though by what came after it, it may be noted as further on already.
pub(super) fn owe(session: &mut Session, subscribers: &mut Subscribers, topic: Slot, cursor: Cursor) {
    let Some(subscription) = subscription_of(session, subscribers, topic) else { return };
    match session.hold_of(subscription).and_then(|at| session.holds.get_mut(at)) {
        None => {
            session.holds.push(Hold::new(subscription, cursor));
            subscribers.hold(subscription, true);
        }
        // It is to begin anew: what it had before does not count.
        Some(hold) if cursor == Cursor::NOWHERE => hold.cursor = cursor,
        Some(hold) if hold.cursor != Cursor::NOWHERE && cursor.seq < hold.cursor.seq => hold.cursor = cursor,
        Some(_) => {}
    }
}

/// What a session was owed of a topic up to `cursor` is said by something that it gets as it is.
fn settle(session: &mut Session, subscribers: &Subscribers, topic: Slot, cursor: Cursor) {
    let Some(subscription) = subscription_of(session, subscribers, topic) else { return };
    if let Some(hold) = session.hold_of(subscription).and_then(|at| session.holds.get_mut(at))
        && hold.cursor != Cursor::NOWHERE
        && hold.cursor.seq < cursor.seq
    {
        hold.cursor = cursor;
    }
}

fn note_backlog(stats: &ShardStats, was_full: bool, before: usize, after: usize) {
    if !was_full {
        stats.slow_sessions.add(1);
    }
    stats.backlog_bytes.add((after - before) as u64);
}
