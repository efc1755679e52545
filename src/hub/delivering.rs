//! From deltas to pieces: each lane's frames of a tick are put together once and linked to all who get them.

use std::cmp::Reverse;
use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;
use smallvec::SmallVec;

use super::allowance::counted;
use super::asking::Waiter;
use super::conflate::Conflated;
use super::deflating::Deflating;
use super::event::SessionKey;
use super::flushing::owe;
use super::following::Span;
use super::gathering::{join, message_bytes_max};
use super::outbox::{Cut, Outbox, Piece};
use super::session::{Hold, Session};
use super::shard::Shard;
use super::subscribers::{Cursor, Form, NONE, Subscription};
use crate::config::Class;
use crate::protocol::{Delivery, Dialect, INSUFFICIENT_STATE, Notice};
use crate::topic::{Delta, Slot, Snapshot};
use crate::wire::close::CloseReason;

/// Frames of a lane in a tick from which on, under overload, one that stands for all of them goes out instead.
const OVERLOAD_FRAMES: usize = 4;

/// Deltas of one lane in this tick, in order.
pub(super) struct Run {
    lane: u32,
    /// Where the lane stood before.
    start: Cursor,
    first: RunFrame,
    more: Vec<RunFrame>,
}

struct RunFrame {
    bytes: Bytes,
    cursor: Cursor,
    /// When its source, or else this server, saw it, Unix ms.
    seen_ms: u64,
}

impl Run {
    fn len(&self) -> usize {
        1 + self.more.len()
    }

    fn frames(&self) -> impl Iterator<Item = &RunFrame> {
        std::iter::once(&self.first).chain(&self.more)
    }

    fn end(&self) -> Cursor {
        self.more.last().unwrap_or(&self.first).cursor
    }

    /// All frames as one run of bytes: where they come together anyway, as messages of no more than these may have.
    fn piece(&self, topic: Option<Slot>, dialect: Dialect, form: Form, deflating: &mut Deflating) -> Piece {
        let deliveries = u32::try_from(self.len()).unwrap_or(u32::MAX);
        if self.more.is_empty() {
            let piece = Piece::delivery(self.first.bytes.clone(), topic, self.start);
            return deflating.shaped(form, piece);
        }
        let inflated = self.frames().map(|f| f.bytes.len()).sum();
        // The lists of a `plain` session are made when it is written to: others of its group may want none.
        let together = form == Form::DeflateRuns || (form == Form::Plain && dialect.is_centrifuge());
        let most = if together { message_bytes_max(dialect) } else { 0 };
        let mut joined = Vec::with_capacity(inflated);
        let mut cuts = Vec::with_capacity(self.len());
        let (mut list, mut one) = (SmallVec::<[&Bytes; 16]>::new(), Vec::new());
        let mut rest = self.frames().peekable();
        while let Some(first) = rest.next() {
            let (mut bytes, mut last) = (first.bytes.len(), first);
            list.push(&first.bytes);
            while let Some(next) = rest.next_if(|next| bytes + next.bytes.len() <= most) {
                bytes += next.bytes.len();
                list.push(&next.bytes);
                last = next;
            }
            match (list.as_slice(), form) {
                ([frame], Form::Plain) => joined.extend_from_slice(frame),
                ([frame], _) => joined.extend_from_slice(&deflating.frame(frame)),
                (several, Form::Plain) => {
                    let at = joined.len();
                    several.iter().for_each(|frame| joined.extend_from_slice(frame));
                    if join(joined.get(at..).unwrap_or_default(), dialect, &mut one) {
                        joined.truncate(at);
                        joined.extend_from_slice(&one);
                    }
                }
                (several, _) => joined.extend_from_slice(&deflating.run(several.iter().copied(), dialect)),
            }
            list.clear();
            cuts.push(Cut { end: joined.len(), cursor: last.cursor, inflated: bytes });
        }
        // Room was made for what is not compressed; a piece may wait for seconds, and counts as long as it is.
        joined.shrink_to_fit();
        // What is one message needs no cuts.
        let cuts = if cuts.len() == 1 { Vec::new() } else { cuts };
        let inflated = if form == Form::Plain { 0 } else { inflated };
        Piece { deliveries, cuts, inflated, ..Piece::delivery(Bytes::from(joined), topic, self.start) }
    }
}

/// Shares a piece among sessions. Returns its number.
fn link_to(sessions: impl Iterator<Item = u32>, piece: Piece, outbox: &mut Outbox, all: &mut Slab<Session>) -> u32 {
    let piece = outbox.piece(piece);
    for index in sessions {
        if let Some(session) = all.get_mut(index as usize) {
            outbox.link(index, &mut session.chain, piece);
        }
    }
    piece
}

impl Shard {
    /// A delta came out of the queue.
    pub(super) fn delta(&mut self, slot: Slot, delta: Arc<Delta>) {
        let Some((topic, lanes)) = self.subscribers.topic_and_lanes(slot) else { return };
        let start = topic.last;
        let cursor = Cursor { offset: delta.offset, seq: start.seq + 1 };
        topic.last = cursor;
        topic.moved_ms = self.now_ms;
        let followed = delta.trace.is_some();
        if topic.class.conflatable() || topic.waiting > 0 {
            if topic.ring.is_empty() {
                self.ringed.push(slot);
            }
            topic.keep(delta.clone());
        }
        for lane_id in &topic.lanes {
            let Some(lane) = lanes.get_mut(*lane_id as usize) else { continue };
            if lane.interval_ms > 0 {
                if !lane.pending {
                    lane.pending = true;
                    topic.behind += 1;
                    self.touched.push(*lane_id);
                }
                continue;
            }
            let encoding = if lane.fresh && lane.run == NONE { lane.encoding.whole() } else { lane.encoding };
            let frame = RunFrame { bytes: delta.frame(encoding), cursor, seen_ms: delta.ts.unwrap_or(delta.taken_ms) };
            match self.runs.get_mut(lane.run as usize).filter(|_| lane.run != NONE) {
                Some(run) => run.more.push(frame),
                None => {
                    lane.run = u32::try_from(self.runs.len()).unwrap_or(NONE);
                    self.runs.push(Run { lane: *lane_id, start, first: frame, more: Vec::new() });
                }
            }
        }
        if followed {
            self.follow_delta(slot, &delta, cursor.seq);
        }
    }

    /// Links what the lanes of a topic have so far to those who are in them now. To be done before anybody joins,
    /// or stops being held, in the middle of a tick.
    pub(super) fn seal_topic(&mut self, slot: Slot) {
        let runs: Vec<u32> = self.subscribers.topic(slot).map_or_else(Vec::new, |topic| {
            topic
                .lanes
                .iter()
                .filter_map(|l| self.subscribers.lane(*l))
                .map(|l| l.run)
                .filter(|run| *run != NONE)
                .collect()
        });
        for run in runs {
            self.seal(run);
        }
        self.graduate();
    }

    /// Who has got a whole delta takes deltas from now on. Only once all runs of its topic are sealed: it would get this
    /// tick's twice.
    fn graduate(&mut self) {
        for lane in std::mem::take(&mut self.graduating) {
            let sessions = &mut self.sessions;
            self.subscribers.graduate(lane, |session, from, to| {
                if let Some(session) = sessions.get_mut(session as usize) {
                    session.moved(from, to);
                }
            });
        }
    }

    fn seal(&mut self, run_id: u32) {
        let Some(run) = self.runs.get(run_id as usize) else { return };
        let Some((lane, topic)) = self.subscribers.lane_and_topic(run.lane) else { return };
        if lane.run != run_id {
            return;
        }
        lane.run = NONE;
        if lane.fresh {
            self.graduating.push(run.lane);
        }
        let replaceable = topic.class.conflatable().then_some(lane.slot);
        // The next delta is said by the one before: nothing else may take that one's place.
        let bound = lane.encoding.is_fossil() && topic.class != Class::Latest;
        let mut piece = None;
        if self.overloaded && replaceable.is_some() && !bound && run.len() >= OVERLOAD_FRAMES {
            let made = self.conflations.between(lane.slot, topic, lane.encoding, run.start, run.end());
            if let Conflated::Frame(bytes, count) = made {
                self.stats.conflated.add((count - 1) * lane.len() as u64);
                let one = Piece::delivery(bytes, replaceable, run.start);
                piece = Some(self.deflating.shaped(lane.form, one));
            }
        }
        let conflated = piece.is_some();
        let mut piece =
            piece.unwrap_or_else(|| run.piece(replaceable, lane.encoding.dialect(), lane.form, &mut self.deflating));
        piece.wait_ms = topic.flush_ms.max(1);
        piece.seen_ms = run.first.seen_ms;
        let number = link_to(lane.receivers(), piece, &mut self.outbox, &mut self.sessions);
        if !self.following.is_empty()
            && let Some(piece) = self.outbox.get(number)
        {
            let span = Span { from: run.start.seq, upto: run.end().seq, conflated };
            self.following.linked(lane.slot, &span, number, &piece.bytes, lane.receivers().count());
        }
    }

    /// Once the queue is empty: what the lanes have goes to their members.
    pub(super) fn deliver(&mut self) {
        for run in 0..self.runs.len() {
            self.seal(u32::try_from(run).unwrap_or(NONE));
        }
        self.graduate();
        for lane_id in std::mem::take(&mut self.touched) {
            let Some(lane) = self.subscribers.lane(lane_id) else { continue };
            if lane.due_ms <= self.now_ms {
                self.emit(lane_id);
            } else {
                self.dues.push(Reverse((lane.due_ms, lane_id)));
            }
        }
        while let Some(Reverse((due_ms, lane_id))) = self.dues.peek().copied()
            && due_ms <= self.now_ms
        {
            self.dues.pop();
            if self.subscribers.lane(lane_id).is_some_and(|l| l.due_ms <= self.now_ms) {
                self.emit(lane_id);
            }
        }
        if !self.following.is_empty() {
            self.fanned_out();
        }
    }

    /// A throttled lane delivers what is pending.
    fn emit(&mut self, lane_id: u32) {
        let Some((lane, topic)) = self.subscribers.lane_and_topic(lane_id) else { return };
        if !lane.pending || lane.awaiting {
            return;
        }
        match self.conflations.between(lane.slot, topic, lane.encoding, lane.sent, topic.last) {
            Conflated::Snapshot => {
                lane.awaiting = true;
                let name = topic.name.clone();
                self.ask_snapshot(name, Waiter::Lane { lane: lane_id });
            }
            Conflated::Nothing => self.lane_delivered(lane_id),
            Conflated::Frame(bytes, count) => {
                let bytes = self.compressed(lane_id, count).unwrap_or(bytes);
                self.send_to_lane(lane_id, bytes, count);
            }
        }
    }

    /// The newest value, said by the one that all members of a throttled lane hold. Patches are short already.
    fn compressed(&mut self, lane_id: u32, count: u64) -> Option<Bytes> {
        let (lane, topic) = self.subscribers.lane_and_topic(lane_id)?;
        if !lane.encoding.is_fossil() || topic.class != Class::Latest {
            return None;
        }
        let newest = topic.ring.back()?;
        let data = newest.payload.bytes().clone();
        let before = lane.base.replace(data.clone())?;
        let (offset, prev, ts) = (newest.offset, lane.sent.offset, newest.ts);
        let delivery =
            Delivery { topic: &topic.name, offset, prev, count, ts, data: &data, form: newest.payload.form() };
        Some(lane.encoding.delivery(&delivery, Some(&before)))
    }

    /// Sends one frame to a throttled lane, after which it is where its topic is.
    fn send_to_lane(&mut self, lane_id: u32, bytes: Bytes, count: u64) {
        let Some((lane, topic)) = self.subscribers.lane_and_topic(lane_id) else { return };
        self.stats.conflated.add((count - 1) * lane.len() as u64);
        let (replaced, start) = (Some(lane.slot), lane.sent);
        let seen_ms = topic.ring.back().map_or(0, |newest| newest.ts.unwrap_or(newest.taken_ms));
        let piece = self.deflating.shaped(lane.form, Piece::delivery(bytes, replaced, start));
        let piece = Piece { wait_ms: topic.flush_ms.max(1), seen_ms, ..piece };
        let number = link_to(lane.receivers(), piece, &mut self.outbox, &mut self.sessions);
        if !self.following.is_empty()
            && let Some(piece) = self.outbox.get(number)
        {
            let span = Span { from: start.seq, upto: topic.last.seq, conflated: true };
            self.following.linked(lane.slot, &span, number, &piece.bytes, lane.receivers().count());
        }
        lane.due_ms = self.now_ms + lane.interval_ms;
        self.lane_delivered(lane_id);
    }

    fn lane_delivered(&mut self, lane_id: u32) {
        let Some((lane, topic)) = self.subscribers.lane_and_topic(lane_id) else { return };
        lane.sent = topic.last;
        lane.awaiting = false;
        if !self.following.is_empty() {
            self.following.lane_delivered(lane_id);
        }
        if std::mem::take(&mut lane.pending) {
            topic.behind = topic.behind.saturating_sub(1);
        }
        let joiners = std::mem::take(&mut lane.joiners);
        self.ringed.push(lane.slot);
        for key in joiners {
            self.bring_along(key, lane_id);
        }
    }

    /// Somebody who stood ahead of the lane is brought to where it is now.
    fn bring_along(&mut self, key: SessionKey, lane_id: u32) {
        let Some(session) = self.keyed(key).filter(|s| s.backlog.is_none()) else { return };
        if let Some(at) = session.holds.iter().position(|h| h.subscription.lane == lane_id) {
            self.release(key.index, at);
        }
    }

    /// Brings a held subscription to where its lane is, and lets it go on with the lane. Returns the bytes that this
    /// takes; 0 also where it must wait.
    pub(super) fn release(&mut self, index: u32, at: usize) -> usize {
        let Some(session) = self.sessions.get_mut(index as usize) else { return 0 };
        let key = session.key(index);
        // One replay at a time: more at once could be more than a backlog may hold.
        let replaying = session.holds.iter().any(|h| h.awaiting);
        let Some(hold) = session.holds.get_mut(at).filter(|h| !h.awaiting) else { return 0 };
        let lane_id = hold.subscription.lane;
        let Some((lane, topic)) = self.subscribers.lane_and_topic(lane_id) else { return 0 };
        if !topic.class.conflatable() {
            if replaying {
                return 0;
            }
            let (slot, encoding, after, name) = (lane.slot, lane.encoding, hold.cursor.offset, topic.name.clone());
            let charged = topic.answered_bytes;
            if self.may_get(index, charged) {
                self.await_answer(index, at);
                self.ask_replay(slot, name, encoding, after, Waiter::Hold { session: key, lane: lane_id, charged });
            }
            return 0;
        }
        let target = if lane.interval_ms == 0 { topic.last } else { lane.sent };
        if hold.cursor.seq > target.seq && hold.cursor != Cursor::NOWHERE {
            if !lane.joiners.contains(&key) {
                lane.joiners.push(key);
            }
            return 0;
        }
        let Hold { subscription, cursor, .. } = *hold;
        let slot = lane.slot;
        match self.conflations.between(slot, topic, lane.encoding, cursor, target) {
            Conflated::Snapshot => {
                let name = topic.name.clone();
                let charged = counted(topic.answered_bytes, cursor, topic);
                if self.may_get(index, charged) {
                    self.await_answer(index, at);
                    self.ask_snapshot(name, Waiter::Hold { session: key, lane: lane_id, charged });
                }
                0
            }
            conflated => {
                session.holds.remove(at);
                self.ringed.push(slot);
                self.let_go(index, subscription);
                let Conflated::Frame(bytes, count) = conflated else { return 0 };
                self.stats.conflated.add(count - 1);
                let len = bytes.len();
                let topic = Some(slot);
                self.send_piece(index, Piece::delivery(bytes, topic, cursor));
                len
            }
        }
    }

    fn await_answer(&mut self, index: u32, at: usize) {
        if let Some(hold) = self.session(index).and_then(|s| s.holds.get_mut(at)) {
            hold.awaiting = true;
        }
    }

    /// The lane's frames go to this member again. It was brought on by something else than they.
    pub(super) fn let_go(&mut self, index: u32, subscription: Subscription) {
        self.subscribers.hold(subscription, false);
        let (to, swapped) = self.subscribers.refresh(subscription);
        if let Some(session) = self.session(index) {
            session.moved(subscription, to);
        }
        if let Some(swapped) = swapped
            && let Some(session) = self.session(swapped.session)
        {
            session.moved(swapped.from, swapped.to);
        }
    }

    /// The snapshot that a lane waited for.
    pub(super) fn snapshot_for_lane(&mut self, lane_id: u32, snapshot: &Snapshot) {
        let Some((lane, topic)) = self.subscribers.lane_and_topic(lane_id) else { return };
        // The lane may be another's by now.
        if !lane.awaiting || topic.name != snapshot.topic {
            return;
        }
        if topic.last.offset != snapshot.offset {
            // Of another epoch than what is pending: worked out anew.
            lane.awaiting = false;
            self.touched.push(lane_id);
            return;
        }
        let count = topic.last.seq.saturating_sub(lane.sent.seq).max(1);
        let bytes = snapshot.frame(lane.encoding);
        lane.base = None;
        let (slot, start, charged) = (lane.slot, lane.sent, counted(bytes.len(), lane.sent, topic));
        topic.answered_bytes = bytes.len();
        self.stats.snapshots.add(lane.len() as u64);
        if charged > 0 {
            self.charge_lane(lane_id, slot, start, charged);
        }
        self.send_to_lane(lane_id, bytes, count);
    }

    /// A state is more than the deltas that it stands for: members whose allowance has no room for that get it later.
    fn charge_lane(&mut self, lane_id: u32, slot: Slot, start: Cursor, bytes: usize) {
        let receivers: Vec<u32> =
            self.subscribers.lane(lane_id).map_or_else(Vec::new, |lane| lane.receivers().collect());
        for index in receivers {
            if !self.may_get(index, bytes)
                && let Some(session) = self.sessions.get_mut(index as usize)
            {
                owe(session, &mut self.subscribers, slot, start);
            }
        }
    }

    /// The topic's state is another than its deltas say, or its epoch changed: everybody gets it now, and what they had no longer
    /// counts.
    pub(super) fn reset(&mut self, slot: Slot, snapshot: &Snapshot) {
        self.seal_topic(slot);
        // Centrifuge clients learn the epoch when they subscribe, and no position in a state that may lack deltas is one in the
        // epoch that they have.
        let is_in_doubt = snapshot.known.may_lack();
        if self.subscribers.topic(slot).is_some_and(|topic| is_in_doubt || !topic.class.conflatable()) {
            self.end_centrifuge(slot);
        }
        let Some(topic) = self.subscribers.topic_mut(slot) else { return };
        topic.clear_ring();
        topic.last = Cursor { offset: snapshot.offset, seq: topic.last.seq + 1 };
        // Made of what no longer counts.
        self.conflations.clear();
        let conflatable = topic.class.conflatable();
        if !conflatable {
            // Who is still being brought on by a replay of the old epoch cannot be.
            let lanes: Vec<u32> = topic.lanes.clone();
            let lanes = lanes.iter().filter_map(|l| self.subscribers.lane(*l));
            let held: Vec<u32> = lanes.flat_map(|lane| lane.held().collect::<Vec<_>>()).collect();
            for index in held {
                self.close(index, CloseReason::InsufficientState);
            }
        }
        let lanes = self.subscribers.topic(slot).map_or_else(Vec::new, |topic| topic.lanes.clone());
        for lane_id in lanes {
            let Some((lane, _)) = self.subscribers.lane_and_topic(lane_id) else { continue };
            if conflatable {
                // Those who cannot have it now are owed it: whatever they stood at does not count.
                for index in lane.held() {
                    let holds = self.sessions.get_mut(index as usize).into_iter().flat_map(|s| s.holds.iter_mut());
                    holds.filter(|h| h.subscription.lane == lane_id).for_each(|h| h.cursor = Cursor::NOWHERE);
                }
            }
            lane.base = None;
            let bytes = snapshot.frame(lane.encoding);
            let piece = Piece::delivery(bytes, conflatable.then_some(slot), Cursor::NOWHERE);
            let piece = self.deflating.shaped(lane.form, piece);
            self.stats.snapshots.add(lane.len() as u64);
            link_to(lane.receivers(), piece, &mut self.outbox, &mut self.sessions);
            self.lane_delivered(lane_id);
        }
    }

    /// Centrifuge subscribers subscribe again, and learn in which epoch, and of a stream that they could not recover. The list of
    /// its kept events, which `plain` clients get, would look like an event to them.
    fn end_centrifuge(&mut self, slot: Slot) {
        let lanes = self.subscribers.topic(slot).map_or_else(Vec::new, |topic| topic.lanes.clone());
        let lanes = lanes.iter().filter_map(|l| self.subscribers.lane(*l));
        let centrifuge = lanes.filter(|lane| lane.encoding.dialect().is_centrifuge());
        let members: Vec<u32> = centrifuge.flat_map(|lane| lane.members().collect::<Vec<_>>()).collect();
        for index in members {
            self.revoke(index, slot, INSUFFICIENT_STATE, "insufficient state");
        }
    }

    /// The topic went quiet, or is back.
    pub(super) fn stale(&mut self, slot: Slot, since_ms: Option<u64>) {
        self.seal_topic(slot);
        let Some((topic, lanes)) = self.subscribers.topic_and_lanes(slot) else { return };
        for lane_id in &topic.lanes {
            let Some(lane) = lanes.get(*lane_id as usize) else { continue };
            let notice = match since_ms {
                Some(since_ms) => Notice::Stale { topic: &topic.name, since_ms },
                None => Notice::Fresh { topic: &topic.name },
            };
            link_to(
                lane.members(),
                Piece::control(lane.encoding.dialect().notice(notice)),
                &mut self.outbox,
                &mut self.sessions,
            );
        }
    }
}
