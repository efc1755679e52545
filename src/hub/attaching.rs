//! Subscribes and snapshots: asked of the control plane, and what happens when the answers come.
//!
//! Answers come through the queue in order with the deltas. From the moment a subscribe is asked for, the deltas of
//! its topic are kept; when the last answer of the command is there, the client gets the reply, then for each topic
//! its state at the answer's offset, then the deltas kept since: no gap, no repeat, whatever was in flight.

use bytes::Bytes;

use super::event::{Request, SessionKey};
use super::outbox::Piece;
use super::session::Hold;
use super::shard::Shard;
use super::subscribers::{Cursor, NONE, Subscription};
use crate::limits::RECOVERY_BYTES;
use crate::name::TopicName;
use crate::position::{Offset, Position};
use crate::protocol::{CommandId, Dialect, Notice, Op, Refusal, Standing};
use crate::topic::{Attachment, Replay, Slot, Snapshot};
use crate::wire::close::CloseReason;

/// A topic that a command is about.
pub(super) struct Wanted {
    pub(super) topic: TopicName,
    pub(super) since: Option<Position>,
}

/// Requests of one tick that are alike are asked once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum AskKey {
    Attach(Slot, Dialect, Option<Position>, u32),
    Snapshot(TopicName),
    Replay(Slot, Dialect, Offset),
}

/// A request that waits for its answer.
pub(super) struct Ask {
    waiters: Vec<Waiter>,
    slot: Option<Slot>,
}

/// Who waits.
pub(super) enum Waiter {
    /// A topic of a subscribe.
    Subscribe { group: u32, item: usize },
    /// A topic of a snapshot command.
    Snapshot { group: u32 },
    /// A session that no patch can bring to where its lane is.
    Hold { session: SessionKey, lane: u32 },
    /// A lane with something pending that no patch can say.
    Lane { lane: u32 },
}

/// A command about topics, until all answers are there.
pub(super) struct Group {
    session: SessionKey,
    id: CommandId,
    op: Op,
    remaining: usize,
    items: Vec<Item>,
    /// For snapshot commands.
    standings: Vec<Standing>,
}

struct Item {
    slot: Slot,
    topic: TopicName,
    interval_ms: u64,
    /// The answer, and the topic's sequence when it came.
    answer: Option<(Result<Attachment, Refusal>, u64)>,
}

impl Shard {
    /// Begins a subscribe; topics past the limit are refused one by one.
    pub(super) fn subscribe(
        &mut self,
        index: u32,
        id: CommandId,
        wanted: Vec<Wanted>,
        max_rate: Option<f64>,
        history: u32,
    ) {
        let limit = self.config.limits.subscriptions;
        let Some(session) = self.session(index) else { return };
        let (key, dialect) = (session.key(index), session.dialect);
        let group = u32::try_from(self.groups.vacant_key()).unwrap_or(u32::MAX);
        let mut items = Vec::with_capacity(wanted.len());
        for Wanted { topic, since } in wanted {
            let Some(session) = self.session(index) else { return };
            let refusal = if session.subscriptions.len() + usize::from(session.attaching) >= limit {
                Some(Refusal::new(
                    429,
                    format!("this session has {limit} subscriptions, which is the most (limits.subscriptions)"),
                ))
            } else if !self.desk_has_room(1) {
                Some(Refusal::new(503, "too many subscribes are waiting, try again"))
            } else {
                None
            };
            if let Some(refusal) = refusal {
                self.stats.subscriptions_refused.add(1);
                self.refuse(index, &id, Op::Subscribe, &refusal.about(topic.as_str()));
                continue;
            }
            let (class, interval_ms) = self.terms(&topic, max_rate);
            let slot = self.subscribers.slot(&topic, || class);
            if let Some(state) = self.subscribers.topic_mut(slot) {
                state.waiting += 1;
            }
            if let Some(session) = self.session(index) {
                session.attaching += 1;
            }
            let waiter = Waiter::Subscribe { group, item: items.len() };
            let ask = AskKey::Attach(slot, dialect, since.clone(), history);
            let (shard, name) = (self.id, topic.clone());
            self.ask(ask, Some(slot), waiter, |ask| Request::Attach {
                shard,
                ask,
                slot,
                topic: name,
                dialect,
                since,
                history,
            });
            items.push(Item { slot, topic, interval_ms, answer: None });
        }
        if !items.is_empty() {
            let remaining = items.len();
            self.groups.insert(Group { session: key, id, op: Op::Subscribe, remaining, items, standings: Vec::new() });
        }
    }

    /// Begins a snapshot command.
    pub(super) fn snapshots(&mut self, index: u32, id: CommandId, wanted: Vec<Wanted>) {
        if !self.desk_has_room(wanted.len()) {
            self.stats.subscriptions_refused.add(1);
            self.refuse(index, &id, Op::Snapshot, &Refusal::new(503, "too many requests are waiting, try again"));
            return;
        }
        let Some(session) = self.session(index) else { return };
        let key = session.key(index);
        let group = Group {
            session: key,
            id,
            op: Op::Snapshot,
            remaining: wanted.len(),
            items: Vec::new(),
            standings: Vec::new(),
        };
        let group = u32::try_from(self.groups.insert(group)).unwrap_or(u32::MAX);
        for Wanted { topic, .. } in wanted {
            self.ask_snapshot(topic, Waiter::Snapshot { group });
        }
    }

    /// Asks for a topic's state.
    pub(super) fn ask_snapshot(&mut self, topic: TopicName, waiter: Waiter) {
        let (shard, slot) = (self.id, self.subscribers.find(&topic));
        self.ask(AskKey::Snapshot(topic.clone()), slot, waiter, |ask| Request::Snapshot { shard, ask, topic });
    }

    fn ask(&mut self, key: AskKey, slot: Option<Slot>, waiter: Waiter, request: impl FnOnce(u32) -> Request) {
        if let Some(ask) = self.tick_asks.get(&key).and_then(|ask| self.asks.get_mut(*ask as usize)) {
            ask.waiters.push(waiter);
            return;
        }
        let ask = u32::try_from(self.asks.insert(Ask { waiters: vec![waiter], slot })).unwrap_or(u32::MAX);
        self.tick_asks.insert(key, ask);
        self.wanted.push(request(ask));
    }

    /// The answer to a subscribe of one topic.
    pub(super) fn attached(&mut self, ask: u32, result: Result<Box<Attachment>, Refusal>) {
        let Some(Ask { waiters, slot }) = self.asks.try_remove(ask as usize) else { return };
        let topic = slot.and_then(|slot| self.subscribers.topic_mut(slot));
        let Some(topic) = topic else { return };
        if let Ok(attachment) = &result {
            // All deltas up to this offset are behind us in the queue, all others ahead.
            topic.last.offset = attachment.offset;
        }
        let seq = topic.last.seq;
        for waiter in waiters {
            let Waiter::Subscribe { group, item } = waiter else { continue };
            let Some(waiting) = self.groups.get_mut(group as usize) else { continue };
            if let Some(item) = waiting.items.get_mut(item) {
                item.answer = Some((result.clone().map(|a| *a), seq));
            }
            waiting.remaining = waiting.remaining.saturating_sub(1);
            if waiting.remaining == 0 {
                let group = self.groups.remove(group as usize);
                self.complete(group);
            }
        }
    }

    /// All answers of a subscribe are there.
    fn complete(&mut self, group: Group) {
        let Group { session: key, id, items, .. } = group;
        let Some(session) = self.keyed(key) else {
            for item in items {
                self.end_waiting(item.slot);
            }
            return;
        };
        session.attaching = session.attaching.saturating_sub(u16::try_from(items.len()).unwrap_or(u16::MAX));
        let (live, dialect) = (session.is_live(), session.dialect);
        if live {
            let mut standings = Vec::with_capacity(items.len());
            for item in &items {
                match &item.answer {
                    Some((Ok(a), _)) => standings.push(Standing {
                        topic: item.topic.clone(),
                        offset: a.offset,
                        epoch: a.epoch.clone(),
                        recovered: a.recovered,
                    }),
                    Some((Err(refusal), _)) => self.refuse(key.index, &id, Op::Subscribe, refusal),
                    None => {}
                }
            }
            if !standings.is_empty() {
                self.send(key.index, dialect.standings(&id, Op::Subscribe, &standings));
            }
        }
        let mut room = RECOVERY_BYTES;
        for item in items {
            if let Some((Ok(attachment), seq)) = &item.answer
                && self.keyed(key).is_some_and(|s| s.is_live())
                && !self.begin(key, &item, attachment, *seq, &mut room)
            {
                self.close(key.index, CloseReason::InsufficientState);
            }
            self.end_waiting(item.slot);
        }
        let deferred = self.keyed(key).filter(|s| s.attaching == 0 && s.is_live()).and_then(|s| match &s.deferred {
            Some(deferred) if !deferred.authenticating => s.deferred.take(),
            _ => None,
        });
        self.replay(key, deferred);
    }

    /// Begins deliveries of one topic. `room` is what the subscribe may still send at once: what does not fit is owed,
    /// and follows as the socket takes it. `false` if what came meanwhile was more than is kept.
    fn begin(&mut self, key: SessionKey, item: &Item, attachment: &Attachment, seq: u64, room: &mut usize) -> bool {
        let Item { slot, interval_ms, .. } = *item;
        self.end_subscription(key.index, slot);
        self.seal_topic(slot);
        let Some(topic) = self.subscribers.topic(slot) else { return false };
        let Some(session) = self.sessions.get(key.index as usize) else { return false };
        let (dialect, full) = (session.dialect, session.backlog.is_some());
        let from = topic.ring.partition_point(|d| d.offset <= attachment.offset);
        let since: Vec<_> = topic.ring.range(from..).cloned().collect();
        if since.len() as u64 != topic.last.seq - seq {
            return false;
        }
        let (last, conflatable) = (topic.last, topic.class.conflatable());
        let Some(subscription) = self.subscribers.join(key.index, slot, dialect, interval_ms) else { return false };
        self.stats.subscriptions.add(1);
        if let Some(session) = self.session(key.index) {
            session.subscriptions.push(subscription);
        }
        let stale = attachment.stale_since_ms.map(|since_ms| Notice::Stale { topic: &item.topic, since_ms });
        let missed = &attachment.missed;
        let bytes: usize = missed.frames.iter().map(Bytes::len).sum();
        if bytes > 0 && (full || bytes > *room) {
            // A stream's is replayed from where the client is, any other's is its state by then.
            let cursor = if conflatable { Cursor::NOWHERE } else { Cursor { offset: missed.after, seq } };
            self.owe_from(key, subscription, cursor);
            if let Some(stale) = stale {
                self.send(key.index, dialect.notice(stale));
            }
            return true;
        }
        *room = room.saturating_sub(bytes);
        let lane = if conflatable { subscription.lane } else { NONE };
        if conflatable && bytes > 0 {
            self.stats.snapshots.add(1);
        }
        let piece = |bytes: Bytes, start: Cursor| Piece { bytes, lane, start, cuts: Vec::new(), deliveries: 1 };
        for bytes in missed.frames.iter().cloned() {
            self.send_piece(key.index, piece(bytes, Cursor::NOWHERE));
        }
        if let Some(stale) = stale {
            self.send(key.index, dialect.notice(stale));
        }
        if !missed.complete {
            self.owe_from(key, subscription, Cursor { offset: missed.upto, seq });
            return true;
        }
        for (delta, seq) in since.iter().zip(seq..) {
            self.send_piece(key.index, piece(delta.frame(dialect), Cursor { offset: delta.prev, seq }));
        }
        self.stand_at(key, subscription.lane, last);
        true
    }

    /// Notes that a session stands at `cursor` of a topic and is to be brought on.
    fn owe_from(&mut self, key: SessionKey, subscription: Subscription, cursor: Cursor) {
        if let Some(session) = self.session(key.index) {
            session.holds.push(Hold { subscription, cursor, awaiting: false });
        }
        self.subscribers.hold(subscription, true);
        self.owed.push(key.index);
    }

    /// Asks for the next deltas of a stream after `after`.
    pub(super) fn ask_replay(&mut self, slot: Slot, topic: TopicName, dialect: Dialect, after: Offset, waiter: Waiter) {
        let shard = self.id;
        let request = |ask| Request::Replay { shard, ask, topic, dialect, after };
        self.ask(AskKey::Replay(slot, dialect, after), Some(slot), waiter, request);
    }

    /// The next deltas of a stream, for those who stand at their beginning.
    pub(super) fn replayed(&mut self, ask: u32, replay: Option<Box<Replay>>) {
        let Some(Ask { waiters, slot: Some(slot) }) = self.asks.try_remove(ask as usize) else { return };
        self.seal_topic(slot);
        for waiter in waiters {
            let Waiter::Hold { session: key, lane } = waiter else { continue };
            if self.subscribers.lane(lane).is_none_or(|lane| lane.slot != slot) {
                continue;
            }
            let Some(session) = self.keyed(key).filter(|s| s.is_live()) else { continue };
            let full = session.backlog.is_some();
            let Some(at) = session.holds.iter().position(|h| h.subscription.lane == lane && h.awaiting) else {
                continue;
            };
            let Some(hold) = session.holds.get_mut(at) else { continue };
            hold.awaiting = false;
            if full {
                // Asked again when there is room.
                continue;
            }
            let Some(replay) = &replay else {
                self.close(key.index, CloseReason::InsufficientState);
                continue;
            };
            hold.cursor.offset = replay.upto;
            if replay.complete {
                let subscription = hold.subscription;
                session.holds.swap_remove(at);
                self.subscribers.hold(subscription, false);
            }
            self.owed.push(key.index);
            for bytes in replay.frames.iter().cloned() {
                self.send_piece(key.index, Piece { deliveries: 1, ..Piece::control(bytes) });
            }
        }
    }

    /// Notes that a session has everything of a topic up to `cursor`, whatever its lane has delivered.
    fn stand_at(&mut self, key: SessionKey, lane_id: u32, cursor: Cursor) {
        let Some(session) = self.sessions.get_mut(key.index as usize) else { return };
        let Some(subscription) = session.subscriptions.iter().copied().find(|s| s.lane == lane_id) else { return };
        if let Some(hold) = session.hold_of(subscription).and_then(|at| session.holds.get_mut(at)) {
            hold.cursor = cursor;
            return;
        }
        let Some(lane) = self.subscribers.lane_mut(lane_id) else { return };
        if lane.interval_ms > 0 && lane.sent.seq != cursor.seq {
            if lane.len() == 1 && !lane.pending {
                // Nobody else is here: the lane is where its only member is.
                lane.sent = cursor;
                return;
            }
            lane.joiners.push(key);
            session.holds.push(Hold { subscription, cursor, awaiting: false });
            self.subscribers.hold(subscription, true);
        }
    }

    fn end_waiting(&mut self, slot: Slot) {
        if let Some(topic) = self.subscribers.topic_mut(slot) {
            topic.waiting = topic.waiting.saturating_sub(1);
            self.ringed.push(slot);
        }
        if let Some(slot) = self.subscribers.unwanted(slot) {
            self.detach(slot);
        }
    }

    /// A topic's state, in order with its deltas.
    pub(super) fn snapshot_came(&mut self, ask: u32, snapshot: &Snapshot) {
        let Some(Ask { waiters, slot }) = self.asks.try_remove(ask as usize) else { return };
        if let Some(slot) = slot {
            self.seal_topic(slot);
        }
        for waiter in waiters {
            match waiter {
                Waiter::Snapshot { group } => self.snapshot_for_command(group, slot, snapshot),
                Waiter::Lane { lane } => self.snapshot_for_lane(lane, snapshot),
                Waiter::Hold { session, lane } => self.snapshot_for_hold(session, lane, snapshot),
                Waiter::Subscribe { .. } => {}
            }
        }
    }

    fn snapshot_for_command(&mut self, group: u32, slot: Option<Slot>, snapshot: &Snapshot) {
        let Some(waiting) = self.groups.get_mut(group as usize) else { return };
        waiting.standings.push(Standing {
            topic: snapshot.topic.clone(),
            offset: snapshot.offset,
            epoch: snapshot.epoch.clone(),
            recovered: false,
        });
        waiting.remaining = waiting.remaining.saturating_sub(1);
        let (key, done) = (waiting.session, waiting.remaining == 0);
        if let Some(session) = self.keyed(key).filter(|s| s.is_live()) {
            let bytes = snapshot.frame(session.dialect);
            self.stats.snapshots.add(1);
            self.send_piece(key.index, Piece { deliveries: 1, ..Piece::control(bytes) });
            let subscribed = slot.and_then(|slot| self.subscribers.topic(slot).map(|topic| (slot, topic.last)));
            if let Some((slot, last)) = subscribed
                && let Some(lane) = self.lane_of(key.index, slot)
                && last.offset == snapshot.offset
            {
                self.stand_at(key, lane, last);
            }
        }
        if done {
            let group = self.groups.remove(group as usize);
            if let Some(session) = self.keyed(key).filter(|s| s.is_live()) {
                let reply = session.dialect.standings(&group.id, group.op, &group.standings);
                self.send(key.index, reply);
            }
        }
    }

    fn lane_of(&self, index: u32, slot: Slot) -> Option<u32> {
        let session = self.sessions.get(index as usize)?;
        let lanes = session.subscriptions.iter().map(|s| s.lane);
        lanes.into_iter().find(|lane| self.subscribers.lane(*lane).is_some_and(|l| l.slot == slot))
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
        let subscription = hold.subscription;
        let bytes = snapshot.frame(session.dialect);
        if lane_there {
            session.holds.swap_remove(at);
            self.subscribers.hold(subscription, false);
        } else {
            lane.joiners.push(key);
        }
        self.stats.snapshots.add(1);
        if start != Cursor::NOWHERE {
            self.stats.conflated.add(last.seq.saturating_sub(start.seq));
        }
        self.send_piece(key.index, Piece { bytes, lane: lane_id, start, cuts: Vec::new(), deliveries: 1 });
    }
}
