//! Catching up: what a lagging subscription needs is charged, requested and sent. Snapshot commands use the same path.

use super::shard::Shard;
use crate::hub::chunk::Chunk;
use crate::hub::cursor::Cursor;
use crate::hub::event::Request;
use crate::hub::fanout::{CatchUp, Lagging, StateResult, Subscription};
use crate::hub::index::{GroupId, PendingId, RequestId, SessionId, SessionIndex};
use crate::hub::pending::{PendingCommand, Wanted};
use crate::hub::requests::{Ask, AskKey, Waiter};
use crate::limits::RECOVERY_BYTES;
use crate::name::TopicName;
use crate::position::Offset;
use crate::protocol::{CommandId, Encoding, Op, Refusal, Refused, Standing};
use crate::topic::{Replay, Slot, Snapshot};
use crate::wire::close::CloseReason;

/// How long after a fault a group's state is requested again, in ms.
const ASKED_AGAIN_MS: u64 = 1_000;

impl Shard {
    /// Begins a snapshot command.
    pub(in crate::hub) fn snapshots(
        &mut self,
        index: SessionIndex,
        id: CommandId,
        wanted: Vec<Wanted>,
        refused: Refused,
    ) {
        if !self.requests.has_room(wanted.len()) {
            self.stats.subscriptions_refused.add(1);
            self.refuse(
                index,
                &id,
                Op::Snapshot,
                &Refusal::new(503, "the server has too many requests in progress; try again"),
            );
            return;
        }
        if let Some(refusal) = self.asks_too_much(index) {
            self.refuse(index, &id, Op::Snapshot, &refusal);
            return;
        }
        let most = 2 * self.config.limits.subscriptions;
        let Some(session) = self.sessions.get_mut(index) else { return };
        let key = session.key(index);
        if let Err(waiting) = self.pending.begin_snapshots(key, wanted.len(), most) {
            let reason = format!("{waiting} snapshots of this session are in progress; the limit is {most}");
            self.stats.snapshots_refused.add(1);
            self.refuse(index, &id, Op::Snapshot, &Refusal::new(429, reason));
            return;
        }
        let pending = PendingCommand {
            remaining: wanted.len(),
            ..PendingCommand::new(key, id, Op::Snapshot, Vec::new(), refused)
        };
        let pending = self.pending.add(pending);
        for Wanted { topic, .. } in wanted {
            self.ask_snapshot(topic, Waiter::Snapshot { pending });
        }
    }

    /// Requests a topic's state.
    pub(in crate::hub) fn ask_snapshot(&mut self, topic: TopicName, waiter: Waiter) {
        let (shard, slot) = (self.id, self.fanout.topics.find(&topic));
        let lagging = !matches!(waiter, Waiter::Snapshot { .. });
        let key = AskKey::Snapshot(topic.clone(), lagging);
        self.requests.ask(Some(key), slot, waiter, |ask| Request::Snapshot { shard, ask, topic, lagging });
    }

    /// Notes that a session is at `cursor` of a topic and must catch up.
    pub(in crate::hub) fn lags(&mut self, index: SessionIndex, subscription: Subscription, cursor: Cursor) {
        let (fanout, mut to) = self.fan_out();
        fanout.lags(index, subscription, cursor, &mut to);
        self.to_catch_up.push(index);
    }

    /// Takes the next step for a lagging subscription: sends what makes it level, or requests it. Returns the bytes
    /// sent; 0 if it must wait.
    pub(in crate::hub) fn catch_up(&mut self, index: SessionIndex, at: usize) -> usize {
        let Some(session) = self.sessions.get(index).filter(|s| s.is_live()) else { return 0 };
        let id = session.key(index);
        let (fanout, mut to) = self.fan_out();
        match fanout.catch_up(id, at, &mut to) {
            CatchUp::Waits | CatchUp::Level(None) => {}
            CatchUp::Level(Some(chunk)) => {
                let bytes = chunk.bytes.len();
                self.send_chunk(index, chunk);
                return bytes;
            }
            CatchUp::NeedsState { topic, group, bytes: charged } => {
                if self.may_get(index, charged) {
                    self.await_answer(index, at);
                    self.ask_snapshot(topic, Waiter::Lagging { session: id, group, charged });
                }
            }
            CatchUp::NeedsReplay { slot, topic, encoding, after, group, bytes: charged } => {
                if self.may_get(index, charged) {
                    self.await_answer(index, at);
                    self.ask_replay(slot, topic, encoding, after, Waiter::Lagging { session: id, group, charged });
                }
            }
        }
        0
    }

    fn await_answer(&mut self, index: SessionIndex, at: usize) {
        if let Some(lagging) = self.sessions.get_mut(index).and_then(|s| s.subscriptions.lagging.get_mut(at)) {
            lagging.awaiting = true;
        }
    }

    /// Requests the next deltas of a stream after `after`.
    pub(in crate::hub) fn ask_replay(
        &mut self,
        slot: Slot,
        topic: TopicName,
        encoding: Encoding,
        after: Offset,
        waiter: Waiter,
    ) {
        let shard = self.id;
        let request = |ask| Request::Replay { shard, ask, topic, encoding, after };
        self.requests.ask(Some(AskKey::Replay(slot, encoding, after)), Some(slot), waiter, request);
    }

    /// Handles the next deltas of a stream, for lagging subscriptions that are at their beginning.
    pub(in crate::hub) fn replayed(&mut self, ask: RequestId, replay: Option<Box<Replay>>) {
        let Some(Ask { waiters, slot: Some(slot) }) = self.requests.answered(ask) else { return };
        self.close_batches(slot);
        let bytes = replay.as_ref().map_or(0, |replay| replay.bytes());
        if let Some(topic) = self.fanout.topics.topic_mut(slot).filter(|_| bytes > 0) {
            topic.answered_bytes = bytes;
        }
        for waiter in waiters {
            let Waiter::Lagging { session: key, group, charged } = waiter else { continue };
            if self.sessions.by_id(key).is_some() {
                // The bytes that it gets are charged below.
                self.give_back(key.index, charged);
            }
            if self.fanout.topics.group(group).is_none_or(|group| group.slot != slot) {
                continue;
            }
            if self.sessions.by_id(key).is_some_and(|s| s.output.backlog.is_none()) && !self.fits(key.index, bytes) {
                // What waits for the end of this tick is written first; together with it, the replay could exceed the
                // backlog's limit.
                self.write_now(key.index);
            }
            let Some(session) = self.sessions.by_id(key).filter(|s| s.is_live()) else { continue };
            let full = session.output.backlog.is_some();
            // Another subscription, with a request of its own, may have taken its place.
            let asked =
                |l: &Lagging| l.awaiting && replay.as_ref().is_none_or(|replay| replay.after == l.cursor.offset);
            let Some(at) = session.subscriptions.lagging.iter().position(|l| l.subscription.group == group && asked(l))
            else {
                continue;
            };
            let Some(lagging) = session.subscriptions.lagging.get_mut(at) else { continue };
            lagging.awaiting = false;
            if full {
                // Requested again when there is room.
                continue;
            }
            if !self.fits(key.index, bytes) {
                self.to_catch_up.push(key.index);
                continue;
            }
            let Some(session) = self.sessions.by_id(key) else { continue };
            let Some(lagging) = session.subscriptions.lagging.get_mut(at) else { continue };
            let Some(replay) = &replay else {
                self.close(key.index, CloseReason::ReplayLost);
                continue;
            };
            lagging.cursor.offset = replay.upto;
            if replay.complete {
                let level = session.subscriptions.lagging.remove(at);
                let (fanout, mut to) = self.fan_out();
                fanout.rejoin(key.index, level.subscription, &mut to);
                self.lagging_ended(slot, level);
            }
            self.to_catch_up.push(key.index);
            self.charge(key.index, bytes);
            for bytes in replay.frames.iter().cloned() {
                self.send_chunk(key.index, Chunk::delivery(bytes, None, Cursor::default()));
            }
        }
    }

    /// Bytes that may be added to what waits for a session before it is closed as slow.
    pub(in crate::hub) fn backlog_room(&self, index: SessionIndex) -> usize {
        let Some(session) = self.sessions.get(index) else { return 0 };
        let waiting = session.output.backlog.as_ref().map_or(0, |backlog| backlog.len())
            + session.output.send_queue.bytes() as usize;
        self.config.limits.backlog_bytes.saturating_sub(waiting)
    }

    /// Whether so many bytes may be added. If nothing waits, any number may, because the frame that is being sent does
    /// not count.
    fn fits(&self, index: SessionIndex, bytes: usize) -> bool {
        bytes <= self.backlog_room(index) || self.sessions.get(index).is_none_or(|s| s.output.send_queue.is_empty())
    }

    /// A subscription is level with its group, or has ended: requests the snapshot that waited for that.
    pub(in crate::hub) fn lagging_ended(&mut self, slot: Slot, lagging: Lagging) {
        let Some(pending) = lagging.snapshot else { return };
        match self.fanout.topics.topic(slot).map(|topic| topic.name.clone()) {
            Some(topic) => self.ask_snapshot(topic, Waiter::Snapshot { pending }),
            None => self.snapshot_answered(pending),
        }
    }

    /// Notes that a session has everything of a topic up to `cursor`, independently of its group's deliveries.
    pub(in crate::hub) fn is_at(&mut self, key: SessionId, group: GroupId, cursor: Cursor) {
        let (fanout, mut to) = self.fan_out();
        fanout.is_at(key, group, cursor, &mut to);
    }

    /// Handles a topic's state, which came in order with its deltas.
    pub(in crate::hub) fn snapshot_came(&mut self, ask: RequestId, snapshot: &Snapshot) {
        let Some(Ask { waiters, slot }) = self.requests.answered(ask) else { return };
        // The state may have waited for room, so the slot may belong to another topic by now.
        let slot =
            slot.filter(|slot| self.fanout.topics.topic(*slot).is_some_and(|topic| topic.name == snapshot.topic));
        if let Some(slot) = slot {
            self.close_batches(slot);
        }
        for waiter in waiters {
            match waiter {
                Waiter::Snapshot { pending } => self.snapshot_for_command(pending, slot, snapshot),
                Waiter::Group { group } => self.snapshot_for_group(group, snapshot),
                Waiter::Lagging { session, group, charged } => {
                    if self.sessions.by_id(session).is_some() {
                        // The state is charged when it is sent.
                        self.give_back(session.index, charged);
                    }
                    self.snapshot_for_lagging(session, group, snapshot);
                }
                Waiter::Subscribe { .. } => {}
            }
        }
    }

    /// Handles a request for a state or a replay that a fault left unanswered. A group's request is repeated; a session
    /// that cannot catch up is closed, so that it reconnects and recovers.
    pub(in crate::hub) fn unanswered(&mut self, ask: RequestId, topic: &TopicName) {
        let Some(Ask { waiters, .. }) = self.requests.answered(ask) else { return };
        for waiter in waiters {
            match waiter {
                Waiter::Snapshot { pending } => {
                    let reason = "a fault in this server prevented reading the state; try again";
                    if let Some(waiting) = self.pending.get_mut(pending) {
                        waiting.refused.add(Refusal::new(503, reason).about(topic.as_str()));
                        self.snapshot_answered(pending);
                    }
                }
                Waiter::Lagging { session, charged, .. } if self.sessions.by_id(session).is_some() => {
                    self.give_back(session.index, charged);
                    self.close(session.index, CloseReason::NoAnswer);
                }
                Waiter::Group { group } => self.fanout.no_group_state(group, topic, self.clock.now_ms + ASKED_AGAIN_MS),
                Waiter::Lagging { .. } | Waiter::Subscribe { .. } => {}
            }
        }
    }

    fn snapshot_for_command(&mut self, pending: PendingId, slot: Option<Slot>, snapshot: &Snapshot) {
        let Some(waiting) = self.pending.get(pending) else { return };
        let (key, sent_bytes) = (waiting.session, waiting.bytes);
        let group = slot.and_then(|slot| self.group_of(key.index, slot));
        let topic = slot.and_then(|slot| self.fanout.topics.topic(slot));
        let conflatable = topic.is_some_and(|topic| topic.class.conflatable());
        let last = topic.map(|topic| topic.last);
        let backlog_max = self.config.limits.backlog_bytes;
        let waits = backlog_max.saturating_sub(self.backlog_room(key.index));
        let denied = self.sessions.by_id(key).is_some().then(|| self.not_allowed(key.index, &snapshot.topic)).flatten();
        let Some(session) = self.sessions.by_id(key).filter(|s| s.is_live()) else {
            self.snapshot_answered(pending);
            return;
        };
        let bytes = snapshot.frame(session.output.dialect.encoding(false));
        let replaying =
            session.subscriptions.lagging.iter_mut().find(|l| !conflatable && Some(l.subscription.group) == group);
        let refusal = match replaying {
            // The session's token may have changed since the request.
            _ if denied.is_some() => denied,
            // Missed events come first. A snapshot before them would claim that the client has them.
            Some(lagging) if lagging.snapshot.is_none() => {
                lagging.snapshot = Some(pending);
                return;
            }
            Some(_) => Some(Refusal::new(
                503,
                "a snapshot of this topic is in progress, after events that were missed; try again",
            )),
            None if sent_bytes > RECOVERY_BYTES || (waits > 0 && waits + bytes.len() > backlog_max) => {
                Some(Refusal::new(429, "the states exceed what one command may bring; request fewer topics"))
            }
            None => self.asks_too_much(key.index),
        };
        if let Some(refusal) = refusal {
            if let Some(waiting) = self.pending.get_mut(pending) {
                waiting.refused.add(refusal.about(snapshot.topic.as_str()));
            }
        } else {
            if let Some(waiting) = self.pending.get_mut(pending) {
                waiting.bytes += bytes.len();
                waiting.standings.push(Standing {
                    topic: snapshot.topic.clone(),
                    offset: snapshot.offset,
                    epoch: snapshot.epoch.clone(),
                    recovered: false,
                    have: snapshot.offset,
                });
            }
            self.charge(key.index, bytes.len());
            self.stats.snapshots.add(1);
            // A stream's state is a list of events; it does not contain the events that its subscriber missed.
            let stands = slot.zip(last).filter(|(_, last)| conflatable && last.offset == snapshot.offset);
            self.send_chunk(key.index, Chunk { stands, ..Chunk::delivery(bytes, None, Cursor::default()) });
            if let Some(((_, last), group)) = stands.zip(group) {
                self.is_at(key, group, last);
            }
        }
        self.snapshot_answered(pending);
    }

    /// One topic of a snapshot command was answered; the reply follows the last.
    pub(in crate::hub) fn snapshot_answered(&mut self, pending: PendingId) {
        let Some(pending) = self.pending.snapshot_answered(pending) else { return };
        let key = pending.session;
        if self.sessions.by_id(key).is_some_and(|s| s.is_live()) {
            let (any, standings) = (!pending.standings.is_empty(), Some(&pending.standings[..]));
            self.answer_topics(key.index, &pending.id, pending.op, any, standings, &pending.refused);
        }
    }

    fn group_of(&self, index: SessionIndex, slot: Slot) -> Option<GroupId> {
        let session = self.sessions.get(index)?;
        session
            .subscriptions
            .place_in(&self.fanout.topics, slot)
            .and_then(|at| session.subscriptions.get(at))
            .map(|s| s.group)
    }

    /// Handles the state that a lagging subscription waited for.
    fn snapshot_for_lagging(&mut self, id: SessionId, group: GroupId, snapshot: &Snapshot) {
        let is_full = self.sessions.by_id(id).is_some_and(|s| s.output.backlog.is_some());
        let (fanout, mut to) = self.fan_out();
        match fanout.lagging_state(id, group, snapshot, is_full, &mut to) {
            StateResult::Ignored => {}
            StateResult::LookAgain => self.to_catch_up.push(id.index),
            StateResult::Send { chunk, charged } => {
                self.to_catch_up.push(id.index);
                self.charge(id.index, charged);
                self.send_chunk(id.index, chunk);
            }
        }
    }
}
