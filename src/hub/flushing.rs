//! From pieces to sockets: one visit a dirty session, and what happens when a socket takes no more.

use bytes::Bytes;

use super::backlog::{Backlog, frame_bytes};
use super::flush::{Flush, Sent};
use super::outbox::Chain;
use super::session::{Hold, Session, Stage};
use super::shard::Shard;
use super::subscribers::{Cursor, Subscribers, Subscription};
use crate::limits::{DRAIN_CHUNK_BYTES, JOINED_BYTES_MAX};
use crate::metrics::ShardStats;
use crate::protocol::Dialect;
use crate::topic::Slot;
use crate::wire::close::CloseReason;
use crate::wire::frame::{self, HEADER_BYTES_MAX, Opcode};

impl Shard {
    /// Visits every session that has something to get, and every full socket that became writable.
    pub(super) fn flush(&mut self) {
        for index in std::mem::take(&mut self.writable) {
            self.writable_again(index);
        }
        // A visit may close a session and so make it dirty again, behind the others.
        let mut at = 0;
        while let Some(index) = self.outbox.dirty.get(at).copied() {
            at += 1;
            self.visit(index);
        }
        for index in std::mem::take(&mut self.owed) {
            if self.sessions.get(index as usize).is_some_and(|s| s.backlog.is_none()) {
                self.pay(index);
            }
        }
        self.outbox.dirty.clear();
    }

    /// Writes a session's chain.
    fn visit(&mut self, index: u32) {
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        let chain = std::mem::take(&mut session.chain);
        if chain.is_empty() {
            return;
        }
        if session.backlog.is_some() {
            self.keep(index, chain, 0);
            return;
        }
        let one: Option<Bytes> = self.outbox.only(chain).map(|piece| piece.bytes.clone());
        let mut deliveries = 0;
        if one.is_none() {
            self.scratch.clear();
        }
        for piece in self.outbox.chain(chain) {
            deliveries += u64::from(piece.deliveries);
            if one.is_none() {
                self.scratch.extend_from_slice(&piece.bytes);
            }
        }
        // A Centrifuge client takes many replies in one message: one event for a browser in place of many.
        let joined = one.is_none()
            && session.dialect.is_centrifuge()
            && self.scratch.len() <= JOINED_BYTES_MAX
            && join(&self.scratch, session.dialect, &mut self.joined);
        let gathered = if joined { &self.joined } else { &self.scratch };
        let bytes: &[u8] = one.as_deref().unwrap_or(gathered);
        match self.backend.send(&mut session.socket, bytes) {
            Sent::All => {
                self.stats.visits.add(u64::from(!bytes.is_empty()));
                self.stats.bytes.add(bytes.len() as u64);
                self.stats.deliveries.add(deliveries);
                self.stats.coalesced.add(deliveries.saturating_sub(1));
                if session.stage == Stage::Done {
                    self.drop_session(index);
                }
            }
            Sent::Full(n) => {
                self.stats.visits.add(1);
                self.stats.visits_partial.add(1);
                self.stats.bytes.add(n as u64);
                if joined && n > 0 {
                    let rest = Bytes::copy_from_slice(bytes.get(n..).unwrap_or_default());
                    // The message counts for one more when its rest has gone.
                    self.stats.deliveries.add(deliveries.saturating_sub(1));
                    self.keep_rest(index, &rest);
                } else {
                    self.keep(index, chain, n);
                }
            }
            Sent::Gone => self.drop_session(index),
        }
    }

    /// The socket is full in the middle of a message: the rest of it must follow as it is.
    fn keep_rest(&mut self, index: u32, rest: &[u8]) {
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        if session.stage == Stage::Done {
            self.drop_session(index);
            return;
        }
        let mut backlog = Box::new(Backlog::new(self.now_ms));
        backlog.push_rest(rest);
        session.backlog = Some(backlog);
        note_backlog(&self.stats, false, 0, rest.len());
    }

    /// The socket is full: of `chain`, `sent` bytes have gone. What must go out as it is, is kept; what may be
    /// replaced by newer state is noted as owed.
    fn keep(&mut self, index: u32, chain: Chain, sent: usize) {
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        if session.stage == Stage::Done {
            self.drop_session(index);
            return;
        }
        let was_full = session.backlog.is_some();
        let mut backlog = session.backlog.take().unwrap_or_else(|| Box::new(Backlog::new(self.now_ms)));
        let before = backlog.len();
        let mut at = 0;
        for piece in self.outbox.chain(chain) {
            let (piece_start, piece_end) = (at, at + piece.bytes.len());
            at = piece_end;
            if piece_end <= sent {
                self.stats.deliveries.add(u64::from(piece.deliveries));
                continue;
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
                        owe(session, &mut self.subscribers, topic, cursor);
                        break;
                    } else {
                        backlog.push(frame);
                    }
                }
                if let Some(cut) = cut {
                    cursor = cut.cursor;
                }
                frame_start = frame_end;
            }
        }
        let after = backlog.len();
        session.backlog = Some(backlog);
        note_backlog(&self.stats, was_full, before, after);
        if after > self.config.limits.backlog_bytes {
            self.close(index, CloseReason::Slow);
        }
    }

    /// The socket takes bytes again: first what was kept, then what is owed, as it is now.
    fn writable_again(&mut self, index: u32) {
        let now_ms = self.now_ms;
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        let Some(backlog) = session.backlog.as_mut() else { return };
        let before = backlog.len();
        let outcome = self.backend.send(&mut session.socket, backlog.waiting());
        self.stats.visits.add(1);
        match outcome {
            Sent::Gone => self.drop_session(index),
            Sent::Full(n) => {
                let completed = backlog.sent(n, now_ms);
                self.stats.deliveries.add(completed);
                self.stats.bytes.add(n as u64);
                self.stats.backlog_bytes.sub(n as u64);
            }
            Sent::All => {
                let completed = backlog.sent(before, now_ms);
                session.backlog = None;
                self.stats.deliveries.add(completed);
                self.stats.bytes.add(before as u64);
                self.stats.backlog_bytes.sub(before as u64);
                self.stats.slow_sessions.sub(1);
                if session.stage == Stage::Done {
                    self.drop_session(index);
                    return;
                }
                self.visit(index);
                self.pay(index);
            }
        }
    }

    /// Sends what a session is owed, topic by topic, until all is paid or the socket is full again.
    fn pay(&mut self, index: u32) {
        loop {
            let mut bytes = 0;
            let mut at = 0;
            while bytes < DRAIN_CHUNK_BYTES {
                let Some(session) = self.sessions.get(index as usize) else { return };
                let holds = session.holds.len();
                if at >= holds {
                    break;
                }
                bytes += self.release(index, at);
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

/// Puts data frames into one: in JSON a line each, in Protobuf one behind the other, as they carry their lengths.
/// `false` if one of them is no data frame.
pub(super) fn join(frames: &[u8], dialect: Dialect, out: &mut Vec<u8>) -> bool {
    let (opcode, lines) = (dialect.opcode(), dialect.opcode() == Opcode::Text);
    out.clear();
    out.resize(HEADER_BYTES_MAX, 0);
    let mut rest = frames;
    while !rest.is_empty() {
        let (whole, next) = rest.split_at(frame_bytes(rest).min(rest.len()));
        if whole.first().copied().and_then(Opcode::from_bits) != Some(opcode) {
            return false;
        }
        if lines && out.len() > HEADER_BYTES_MAX {
            out.push(b'\n');
        }
        out.extend_from_slice(whole.get(frame::header_bytes(whole)..).unwrap_or_default());
        rest = next;
    }
    let mut header = Vec::with_capacity(HEADER_BYTES_MAX);
    frame::put_header(&mut header, opcode, out.len() - HEADER_BYTES_MAX);
    out.drain(..HEADER_BYTES_MAX - header.len());
    if let Some(room) = out.get_mut(..header.len()) {
        room.copy_from_slice(&header);
    }
    true
}

/// Notes where a session stands in a topic whose frames it cannot take now.
fn owe(session: &mut Session, subscribers: &mut Subscribers, topic: Slot, cursor: Cursor) {
    let here = |s: &Subscription| subscribers.lane(s.lane).is_some_and(|lane| lane.slot == topic);
    let Some(subscription) = session.subscriptions.iter().copied().find(here) else { return };
    match session.hold_of(subscription).and_then(|at| session.holds.get_mut(at)) {
        None => {
            session.holds.push(Hold { subscription, cursor, awaiting: false });
            subscribers.hold(subscription, true);
        }
        // It was to begin anew: what it had before does not count.
        Some(hold) if cursor == Cursor::NOWHERE => hold.cursor = cursor,
        Some(_) => {}
    }
}

fn note_backlog(stats: &ShardStats, was_full: bool, before: usize, after: usize) {
    if !was_full {
        stats.slow_sessions.add(1);
    }
    stats.backlog_bytes.add((after - before) as u64);
}
