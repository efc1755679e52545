//! Bringing sessions to where their lanes are by something else than the lanes' own frames: a snapshot, or a replay.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;

use super::allowance::counted;
use super::asking::{Ask, AskKey, Waiter};
use super::attaching::{Group, Wanted};
use super::event::{Request, SessionKey};
use super::outbox::Piece;
use super::session::Hold;
use super::shard::Shard;
use super::subscribers::{Cursor, NONE, Subscription};
use crate::limits::RECOVERY_BYTES;
use crate::name::TopicName;
use crate::position::Offset;
use crate::protocol::{CommandId, Encoding, Op, Refusal, Refused, Standing};
use crate::topic::{Replay, Slot, Snapshot};
use crate::wire::close::CloseReason;

/// Time after which a state is asked for once more, where a fault kept it from being read, in ms.
const ASKED_AGAIN_MS: u64 = 1_000;

impl Shard {
    /// Begins a snapshot command.
    pub(super) fn snapshots(&mut self, index: u32, id: CommandId, wanted: Vec<Wanted>, refused: Refused) {
        if !self.desk_has_room(wanted.len()) {
            self.stats.subscriptions_refused.add(1);
            self.refuse(index, &id, Op::Snapshot, &Refusal::new(503, "too many requests are waiting, try again"));
            return;
        }
        if let Some(refusal) = self.asks_too_much(index) {
            self.refuse(index, &id, Op::Snapshot, &refusal);
            return;
        }
        let most = 2 * self.config.limits.subscriptions;
        let Some(session) = self.session(index) else { return };
        let key = session.key(index);
        let waiting = self.snapshotting.entry(key).or_default();
        if *waiting + wanted.len() > most {
            let reason = format!("snapshots of {waiting} topics wait already, the most is {most}");
            self.stats.snapshots_refused.add(1);
            self.refuse(index, &id, Op::Snapshot, &Refusal::new(429, reason));
            return;
        }
        *waiting += wanted.len();
        let group = Group { remaining: wanted.len(), ..Group::new(key, id, Op::Snapshot, Vec::new(), refused) };
        let group = u32::try_from(self.groups.insert(group)).unwrap_or(u32::MAX);
        for Wanted { topic, .. } in wanted {
            self.ask_snapshot(topic, Waiter::Snapshot { group });
        }
    }

    /// Asks for a topic's state.
    pub(super) fn ask_snapshot(&mut self, topic: TopicName, waiter: Waiter) {
        let (shard, slot) = (self.id, self.subscribers.find(&topic));
        let lagging = !matches!(waiter, Waiter::Snapshot { .. });
        let key = AskKey::Snapshot(topic.clone(), lagging);
        self.ask(Some(key), slot, waiter, |ask| Request::Snapshot { shard, ask, topic, lagging });
    }

    /// Notes that a session stands at `cursor` of a topic and is to be brought on.
    pub(super) fn owe_from(&mut self, key: SessionKey, subscription: Subscription, cursor: Cursor) {
        if let Some(session) = self.session(key.index) {
            session.holds.push(Hold::new(subscription, cursor));
        }
        self.subscribers.hold(subscription, true);
        self.owed.push(key.index);
    }

    /// Asks for the next deltas of a stream after `after`.
    pub(super) fn ask_replay(
        &mut self,
        slot: Slot,
        topic: TopicName,
        encoding: Encoding,
        after: Offset,
        waiter: Waiter,
    ) {
        let shard = self.id;
        let request = |ask| Request::Replay { shard, ask, topic, encoding, after };
        self.ask(Some(AskKey::Replay(slot, encoding, after)), Some(slot), waiter, request);
    }

    /// The next deltas of a stream, for those who stand at their beginning.
    pub(super) fn replayed(&mut self, ask: u32, replay: Option<Box<Replay>>) {
        let Some(Ask { waiters, slot: Some(slot) }) = self.asks.try_remove(ask as usize) else { return };
        self.seal_topic(slot);
        let bytes = replay.as_ref().map_or(0, |replay| replay.bytes());
        if let Some(topic) = self.subscribers.topic_mut(slot).filter(|_| bytes > 0) {
            topic.answered_bytes = bytes;
        }
        for waiter in waiters {
            let Waiter::Hold { session: key, lane, charged } = waiter else { continue };
            if self.keyed(key).is_some() {
                // What it gets of it is charged below.
                self.not_sent(key.index, charged);
            }
            if self.subscribers.lane(lane).is_none_or(|lane| lane.slot != slot) {
                continue;
            }
            if self.keyed(key).is_some_and(|s| s.backlog.is_none()) && !self.fits(key.index, bytes) {
                // What waits for the end of this tick goes first, or the replay could be too much beside it.
                self.visit(key.index);
            }
            let Some(session) = self.keyed(key).filter(|s| s.is_live()) else { continue };
            let full = session.backlog.is_some();
            // Another subscription may have taken its place, which asked from elsewhere.
            let asked = |h: &Hold| h.awaiting && replay.as_ref().is_none_or(|replay| replay.after == h.cursor.offset);
            let Some(at) = session.holds.iter().position(|h| h.subscription.lane == lane && asked(h)) else {
                continue;
            };
            let Some(hold) = session.holds.get_mut(at) else { continue };
            hold.awaiting = false;
            if full {
                // Asked again when there is room.
                continue;
            }
            if !self.fits(key.index, bytes) {
                self.owed.push(key.index);
                continue;
            }
            let Some(session) = self.keyed(key) else { continue };
            let Some(hold) = session.holds.get_mut(at) else { continue };
            let Some(replay) = &replay else {
                self.close(key.index, CloseReason::ReplayLost);
                continue;
            };
            hold.cursor.offset = replay.upto;
            if replay.complete {
                let hold = session.holds.remove(at);
                self.let_go(key.index, hold.subscription);
                self.hold_ended(slot, hold);
            }
            self.owed.push(key.index);
            self.asked_for(key.index, bytes);
            for bytes in replay.frames.iter().cloned() {
                self.send_piece(key.index, Piece::delivery(bytes, None, Cursor::default()));
            }
        }
    }

    /// Bytes that may be added to what waits for a session before it counts as slow.
    pub(super) fn allowance(&self, index: u32) -> usize {
        let Some(session) = self.sessions.get(index as usize) else { return 0 };
        let waiting = session.backlog.as_ref().map_or(0, |backlog| backlog.len()) + session.chain.bytes() as usize;
        self.config.limits.backlog_bytes.saturating_sub(waiting)
    }

    /// Whether that much may be added. Where nothing waits anything may: the frame that is being sent does not count.
    fn fits(&self, index: u32, bytes: usize) -> bool {
        bytes <= self.allowance(index) || self.sessions.get(index as usize).is_none_or(|s| s.chain.is_empty())
    }

    /// A subscription is where its lane is, or over: the snapshot that waited for that is asked for.
    pub(super) fn hold_ended(&mut self, slot: Slot, hold: Hold) {
        if hold.snapshot == NONE {
            return;
        }
        match self.subscribers.topic(slot).map(|topic| topic.name.clone()) {
            Some(topic) => self.ask_snapshot(topic, Waiter::Snapshot { group: hold.snapshot }),
            None => self.snapshot_answered(hold.snapshot),
        }
    }

    /// Notes that a session has everything of a topic up to `cursor`, whatever its lane has delivered.
    pub(super) fn stand_at(&mut self, key: SessionKey, lane_id: u32, cursor: Cursor) {
        let Some(session) = self.sessions.get_mut(key.index as usize) else { return };
        let Some(subscription) = session.place_of(lane_id).and_then(|at| session.subscriptions.get(at)).copied() else {
            return;
        };
        let Some((lane, topic)) = self.subscribers.lane_and_topic(lane_id) else { return };
        if !topic.class.conflatable() {
            // Every delta of it counts: its replay goes on from where it was.
            return;
        }
        if let Some(hold) = session.hold_of(subscription).and_then(|at| session.holds.get_mut(at)) {
            hold.cursor = cursor;
            return;
        }
        if lane.interval_ms > 0 && lane.sent.seq != cursor.seq {
            if lane.len() == 1 && !lane.pending {
                // The lane has no other member: it stands where this one does.
                lane.sent = cursor;
                return;
            }
            lane.joiners.push(key);
            session.holds.push(Hold::new(subscription, cursor));
            self.subscribers.hold(subscription, true);
        }
    }

    /// A topic's state, in order with its deltas.
    pub(super) fn snapshot_came(&mut self, ask: u32, snapshot: &Snapshot) {
        let Some(Ask { waiters, slot }) = self.asks.try_remove(ask as usize) else { return };
        // It may have waited for room: the slot may be another topic's by now.
        let slot = slot.filter(|slot| self.subscribers.topic(*slot).is_some_and(|topic| topic.name == snapshot.topic));
        if let Some(slot) = slot {
            self.seal_topic(slot);
        }
        for waiter in waiters {
            match waiter {
                Waiter::Snapshot { group } => self.snapshot_for_command(group, slot, snapshot),
                Waiter::Lane { lane } => self.snapshot_for_lane(lane, snapshot),
                Waiter::Hold { session, lane, charged } => {
                    if self.keyed(session).is_some() {
                        // What it gets of it is charged then.
                        self.not_sent(session.index, charged);
                    }
                    self.snapshot_for_hold(session, lane, snapshot);
                }
                Waiter::Subscribe { .. } => {}
            }
        }
    }

    /// Neither a topic's state nor a replay of it came, because of a fault. What can be asked for once more, is; a session
    /// that cannot be brought on otherwise comes back.
    pub(super) fn unanswered(&mut self, ask: u32, topic: &TopicName) {
        let Some(Ask { waiters, .. }) = self.asks.try_remove(ask as usize) else { return };
        for waiter in waiters {
            match waiter {
                Waiter::Snapshot { group } => {
                    let reason = "the state was not read because of a fault in this server; try again";
                    if let Some(waiting) = self.groups.get_mut(group as usize) {
                        waiting.refused.add(Refusal::new(503, reason).about(topic.as_str()));
                        self.snapshot_answered(group);
                    }
                }
                Waiter::Hold { session, charged, .. } if self.keyed(session).is_some() => {
                    self.not_sent(session.index, charged);
                    self.close(session.index, CloseReason::NoAnswer);
                }
                Waiter::Lane { lane: lane_id } => {
                    let due_ms = self.now_ms + ASKED_AGAIN_MS;
                    if let Some((lane, wanted)) = self.subscribers.lane_and_topic(lane_id)
                        && wanted.name == *topic
                    {
                        (lane.awaiting, lane.due_ms) = (false, due_ms);
                        self.dues.push(Reverse((due_ms, lane_id)));
                    }
                }
                Waiter::Hold { .. } | Waiter::Subscribe { .. } => {}
            }
        }
    }

    fn snapshot_for_command(&mut self, group: u32, slot: Option<Slot>, snapshot: &Snapshot) {
        let Some(waiting) = self.groups.get(group as usize) else { return };
        let (key, sent_bytes) = (waiting.session, waiting.bytes);
        let lane = slot.and_then(|slot| self.lane_of(key.index, slot));
        let topic = slot.and_then(|slot| self.subscribers.topic(slot));
        let conflatable = topic.is_some_and(|topic| topic.class.conflatable());
        let last = topic.map(|topic| topic.last);
        let backlog_max = self.config.limits.backlog_bytes;
        let waits = backlog_max.saturating_sub(self.allowance(key.index));
        let denied = self.keyed(key).is_some().then(|| self.not_allowed(key.index, &snapshot.topic)).flatten();
        let Some(session) = self.keyed(key).filter(|s| s.is_live()) else {
            self.snapshot_answered(group);
            return;
        };
        let bytes = snapshot.frame(session.dialect.encoding(false));
        let replaying = session.holds.iter_mut().find(|h| !conflatable && Some(h.subscription.lane) == lane);
        let refusal = match replaying {
            // Another token may have come since it was asked for.
            _ if denied.is_some() => denied,
            // Events that are still owed come first: a snapshot ahead of them would say that they were had.
            Some(hold) if hold.snapshot == NONE => {
                hold.snapshot = group;
                return;
            }
            Some(_) => Some(Refusal::new(503, "a snapshot of it waits for missed events already, try again")),
            None if sent_bytes > RECOVERY_BYTES || (waits > 0 && waits + bytes.len() > backlog_max) => {
                Some(Refusal::new(429, "too much at once, ask for fewer topics"))
            }
            None => self.asks_too_much(key.index),
        };
        if let Some(refusal) = refusal {
            if let Some(waiting) = self.groups.get_mut(group as usize) {
                waiting.refused.add(refusal.about(snapshot.topic.as_str()));
            }
        } else {
            if let Some(waiting) = self.groups.get_mut(group as usize) {
                waiting.bytes += bytes.len();
                waiting.standings.push(Standing {
                    topic: snapshot.topic.clone(),
                    offset: snapshot.offset,
                    epoch: snapshot.epoch.clone(),
                    recovered: false,
                    have: snapshot.offset,
                });
            }
            self.asked_for(key.index, bytes.len());
            self.stats.snapshots.add(1);
            // A stream's list of events says nothing of those that its subscriber is owed.
            let stands = slot.zip(last).filter(|(_, last)| conflatable && last.offset == snapshot.offset);
            self.send_piece(key.index, Piece { stands, ..Piece::delivery(bytes, None, Cursor::default()) });
            if let Some(((_, last), lane)) = stands.zip(lane) {
                self.stand_at(key, lane, last);
            }
        }
        self.snapshot_answered(group);
    }

    /// One topic of a snapshot command is dealt with; the reply follows the last.
    pub(super) fn snapshot_answered(&mut self, group: u32) {
        let Some(waiting) = self.groups.get_mut(group as usize) else { return };
        waiting.remaining = waiting.remaining.saturating_sub(1);
        if let Entry::Occupied(mut snapshots) = self.snapshotting.entry(waiting.session) {
            *snapshots.get_mut() = snapshots.get().saturating_sub(1);
            if *snapshots.get() == 0 {
                snapshots.remove();
            }
        }
        if waiting.remaining > 0 {
            return;
        }
        let group = self.groups.remove(group as usize);
        let key = group.session;
        if self.keyed(key).is_some_and(|s| s.is_live()) {
            let (any, standings) = (!group.standings.is_empty(), Some(&group.standings[..]));
            self.answer_topics(key.index, &group.id, group.op, any, standings, &group.refused);
        }
    }

    fn lane_of(&self, index: u32, slot: Slot) -> Option<u32> {
        let session = self.sessions.get(index as usize)?;
        session.place_in(&self.subscribers, slot).and_then(|at| session.subscriptions.get(at)).map(|s| s.lane)
    }

    fn snapshot_for_hold(&mut self, key: SessionKey, lane_id: u32, snapshot: &Snapshot) {
        let Some((lane, topic)) = self.subscribers.lane_and_topic(lane_id) else { return };
        // The lane may be another topic's by now.
        if topic.name != snapshot.topic {
            return;
        }
        let (last, lane_there) = (topic.last, lane.interval_ms == 0 || lane.sent.seq == topic.last.seq);
        let Some(session) = self.sessions.get_mut(key.index as usize).filter(|s| s.generation == key.generation) else {
            return;
        };
        let Some(at) = session.holds.iter().position(|h| h.subscription.lane == lane_id && h.awaiting) else { return };
        let Some(hold) = session.holds.get_mut(at) else { return };
        hold.awaiting = false;
        if session.backlog.is_some() {
            // Full again: when there is room, what is right then will be worked out anew.
            return;
        }
        self.owed.push(key.index);
        if last.offset != snapshot.offset {
            return;
        }
        let start = std::mem::replace(&mut hold.cursor, last);
        let charged = counted(snapshot.frame(lane.encoding).len(), start, topic);
        let subscription = hold.subscription;
        let (bytes, slot) = (snapshot.frame(lane.encoding), lane.slot);
        topic.answered_bytes = bytes.len();
        if lane_there {
            session.holds.remove(at);
            self.let_go(key.index, subscription);
        } else {
            lane.base = None;
            lane.joiners.push(key);
        }
        self.stats.snapshots.add(1);
        if start != Cursor::NOWHERE {
            self.stats.conflated.add(last.seq.saturating_sub(start.seq));
        }
        self.asked_for(key.index, charged);
        let topic = Some(slot);
        self.send_piece(key.index, Piece::delivery(bytes, topic, start));
    }
}
