//! Subscribes: requests to the control plane, and what follows when the answers come.
//!
//! Answers come through the queue in order with the deltas. From the request on, the deltas of the topic are kept. With
//! the last answer of the command the client gets the reply, then for each topic its state at the answer's offset, then
//! the deltas kept since. So there is no gap and no repetition.

use bytes::Bytes;

use super::shard::Shard;
use crate::auth::TokenError;
use crate::hub::chunk::Chunk;
use crate::hub::compression::Compression;
use crate::hub::cursor::Cursor;
use crate::hub::event::{Attach, Attached, Request, Shown};
use crate::hub::fanout::Subscription;
use crate::hub::index::{RequestId, SessionId, SessionIndex};
use crate::hub::pending::{Answered, Item, PendingCommand, Wanted};
use crate::hub::requests::{Ask, AskKey, Waiter};
use crate::hub::shard::command::{connect, ttl_s};
use crate::name::TopicName;
use crate::position::Offset;
use crate::protocol::{CommandId, Encoding, Notice, Op, Refusal, Refused, Standing, SubscribeTerms, Subscribed};
use crate::topic::{Attachment, Delta, Slot};
use crate::wire::close::CloseReason;

/// A new subscription, and what is to be sent for it.
pub(in crate::hub) struct Begun {
    subscription: Subscription,
    slot: Slot,
    topic: TopicName,
    class: &'static str,
    /// Sent to Centrifuge clients: the offset that the frames follow, or the topic's position.
    offset: Offset,
    /// Sent to `plain` clients: the offset that the next delta follows; 0 if the state comes first.
    have: Offset,
    attachment: Attachment,
    recoverable: bool,
    positioned: bool,
    was_recovering: bool,
    encoding: Encoding,
    ttl_s: Option<u64>,
    /// Sent now: the state, or what was missed.
    frames: Vec<Bytes>,
    /// The client's position, if it must catch up as its socket takes bytes.
    lags_from: Option<Cursor>,
    /// The deltas that came since the answer, and the sequence before them.
    since: Vec<std::sync::Arc<Delta>>,
    seq: u64,
    conflatable: bool,
    last: Cursor,
}

impl Begun {
    fn subscribed(&self) -> Subscribed<'_> {
        Subscribed {
            topic: &self.topic,
            class: self.class,
            offset: self.offset,
            epoch: &self.attachment.epoch,
            recoverable: self.recoverable,
            positioned: self.positioned,
            was_recovering: self.was_recovering,
            recovered: self.was_recovering && self.attachment.recovered,
            fossil: self.encoding.is_fossil(),
            ttl_s: self.ttl_s,
            frames: if self.was_recovering { &self.frames } else { &[] },
        }
    }

    /// The reply contained what was recovered. The state of a new subscription follows the reply, because not every
    /// client looks for a state in it.
    fn replied(&mut self) {
        if self.was_recovering {
            self.frames.clear();
        }
    }
}

impl Shard {
    /// Begins a subscribe; topics over the limit are refused. Topics that the session has, or is already subscribing
    /// to, count once. Returns `false` if nothing is left to wait for.
    pub(in crate::hub) fn subscribe(
        &mut self,
        index: SessionIndex,
        id: CommandId,
        op: Op,
        wanted: Vec<Wanted>,
        terms: SubscribeTerms,
        refused: Refused,
    ) -> bool {
        let mut refused = refused;
        let limit = self.config.limits.subscriptions;
        let shard = self.id;
        let Some(session) = self.sessions.get_mut(index) else { return false };
        let (key, dialect) = (session.key(index), session.output.dialect);
        let user = session.identity.as_ref().map(|i| i.user.clone()).unwrap_or_default();
        let maker = session.maker(shard, key);
        let pending = self.pending.next_id();
        let mut items = Vec::with_capacity(wanted.len());
        for Wanted { topic, since, options } in wanted {
            let found = self.fanout.topics.find(&topic);
            let has = found.is_some_and(|slot| self.is_subscribed(index, slot));
            let joins = !has && !found.is_some_and(|slot| self.pending.is_joining(key, slot));
            let joining = self.pending.joining(key);
            let Some(session) = self.sessions.get_mut(index) else { return false };
            let token_bytes = options.as_ref().and_then(|o| o.token.as_ref()).map_or(0, String::len);
            let refusal = if joins && session.subscriptions.len() + joining >= limit {
                Some(Refusal::new(
                    429,
                    format!(
                        "this session has {limit} subscriptions, the limit (limits.subscriptions); unsubscribe from some first"
                    ),
                ))
            } else if let Some(refusal) = self.no_room_under_way(token_bytes) {
                Some(refusal)
            } else if !self.requests.has_room(1) {
                Some(Refusal::new(503, "the server has too many subscribes in progress; try again"))
            } else if has {
                // To start over sends the state once more.
                self.asks_too_much(index)
            } else {
                None
            };
            if let Some(refusal) = refusal {
                self.stats.subscriptions_refused.add(1);
                refused.add(refusal.about(topic.as_str()));
                continue;
            }
            let (traits, interval_ms) = self.terms(&topic, terms.max_rate);
            let fossil = options.as_ref().is_some_and(|o| o.fossil);
            let fossil = fossil && self.config.namespace(topic.namespace()).has_fossil();
            let encoding = dialect.encoding(fossil);
            let slot = self.fanout.topics.slot(&topic, || traits);
            if let Some(state) = self.fanout.topics.topic_mut(slot) {
                state.subscribing += 1;
            }
            if let Some(session) = self.sessions.get_mut(index) {
                session.attaching += 1;
            }
            if joins {
                self.pending.joins(key, slot);
            }
            let waiter = Waiter::Subscribe { pending, item: items.len() };
            let was_recovering = since.is_some();
            let token = options.as_ref().and_then(|o| o.token.clone());
            let shown = token.map(|token| Box::new(Shown { token, user: user.clone(), session: key }));
            // A token belongs to one session, so its request is not shared.
            let kind = shown.is_none().then(|| AskKey::Attach(slot, encoding, since.clone(), terms.history));
            let (shard, name, history) = (self.id, topic.clone(), terms.history);
            let identity =
                if since.is_some() { self.sessions.get_mut(index).and_then(|s| s.identity.clone()) } else { None };
            self.requests.ask(kind, Some(slot), waiter, |ask| {
                let topic = name;
                let attach =
                    Attach { shard, ask, slot, topic, encoding, since, session: key, identity, history, maker };
                Request::Attach(attach, shown)
            });
            let answer = None;
            items.push(Item { slot, topic, encoding, interval_ms, was_recovering, joins, options, answer });
        }
        let any = !items.is_empty();
        if any {
            self.pending.add(PendingCommand::new(key, id, op, items, refused));
        } else if op == Op::Subscribe {
            // An error in reply to a `connect` would mean that there is no session.
            self.answer_topics(index, &id, op, false, None, &refused);
        }
        any
    }

    /// Handles the answer to a subscribe of one topic.
    pub(in crate::hub) fn attached(&mut self, ask: RequestId, result: Result<Box<Attached>, Refusal>) {
        let Some(Ask { waiters, slot }) = self.requests.answered(ask) else { return };
        let topic = slot.and_then(|slot| self.fanout.topics.topic_mut(slot));
        let Some(topic) = topic else { return };
        if let Ok(attached) = &result {
            // Deltas up to this offset came before the answer in the queue, later ones come after it.
            topic.last.offset = attached.attachment.offset;
        }
        let seq = topic.last.seq;
        let answer = result.map(|a| Answered {
            bytes: a.attachment.missed.frames.iter().map(Bytes::len).sum(),
            attachment: a.attachment,
            grant: a.grant,
            seq,
            cut: false,
        });
        let bytes = answer.as_ref().map_or(0, |a| a.bytes);
        if bytes > 0 {
            topic.answered_bytes = bytes;
        }
        let recovery_max = self.config.limits.recovery_bytes();
        for waiter in waiters {
            let Waiter::Subscribe { pending, item } = waiter else { continue };
            let Some(waiting) = self.pending.get_mut(pending) else { continue };
            waiting.bytes = waiting.bytes.saturating_add(bytes);
            let mut answer = answer.clone();
            // Its bytes would be kept here until the other topics' answers come, and not be sent then.
            if let Ok(answered) = &mut answer
                && waiting.bytes > recovery_max
                && bytes > 0
            {
                waiting.bytes -= bytes;
                answered.cut = true;
                answered.attachment.missed.frames = Vec::new();
            }
            if let Some(item) = waiting.items.get_mut(item) {
                item.answer = Some(answer);
            }
            if let Some(pending) = self.pending.answered(pending) {
                let index = pending.session.index;
                self.complete(pending);
                // Thousands may have waited for this, and each gets a reply of its own.
                if self.egress.outbox.frame_bytes() > self.outgoing_max {
                    self.write_now(index);
                }
            }
        }
    }

    /// All answers of a subscribe have come.
    fn complete(&mut self, pending: PendingCommand) {
        let PendingCommand { session: key, id, op, items, mut refused, .. } = pending;
        let Some(session) = self.sessions.by_id(key) else {
            for item in items {
                self.end_waiting(item.slot);
            }
            return;
        };
        session.attaching = session.attaching.saturating_sub(u16::try_from(items.len()).unwrap_or(u16::MAX));
        let (live, dialect) = (session.is_live(), session.output.dialect);
        let slots: Vec<Slot> = items.iter().map(|item| item.slot).collect();
        if op == Op::Connect
            && let Some(item) = items.iter().find(|item| item.is_unrecoverable())
        {
            let refusal = Refusal::new(416, "").about(item.topic.as_str());
            self.refuse_connect(key.index, &id, &refusal);
            slots.into_iter().for_each(|slot| self.end_waiting(slot));
            return;
        }
        let mut room = self.config.limits.recovery_bytes();
        let mut begun = Vec::with_capacity(items.len());
        // Number of invalid subscription tokens.
        let mut failures = 0;
        for item in items {
            if !self.sessions.by_id(key).is_some_and(|s| s.is_live()) {
                break;
            }
            match &item.answer {
                Some(Ok(_)) if item.is_unrecoverable() => {
                    refused.add(Refusal::new(416, "").about(item.topic.as_str()));
                }
                Some(Ok(_)) => match self.begin(key, item, &mut room) {
                    Some(one) => begun.push(one),
                    None => self.close(key.index, CloseReason::InsufficientState),
                },
                // Refusals of the server's own subscribes are ignored.
                Some(Err(refusal)) if op == Op::Subscribe => {
                    let shown = item.options.as_ref().is_some_and(|o| o.token.is_some());
                    failures += usize::from(shown && refusal.code == 403);
                    refused.add(refusal.clone());
                }
                _ => {}
            }
        }
        if live && self.sessions.by_id(key).is_some_and(|s| s.is_live()) {
            if op == Op::Connect {
                let subs: Vec<Subscribed<'_>> = begun.iter().map(Begun::subscribed).collect();
                connect::reply(self, key.index, &id, &subs);
                begun.iter_mut().for_each(Begun::replied);
            } else if let Some(centrifuge) = dialect.centrifuge().filter(|_| !begun.is_empty()) {
                for one in &mut begun {
                    let reply = match op {
                        Op::ServerSubscribe => centrifuge.subscribed_by_server(&one.subscribed()),
                        _ => centrifuge.subscribed(&id, &one.subscribed()),
                    };
                    self.send(key.index, reply);
                    // A subscribe by the server has no reply that could contain what was missed.
                    if op != Op::ServerSubscribe {
                        one.replied();
                    }
                }
            } else if op != Op::ServerSubscribe || !begun.is_empty() {
                // A client is not sent refusals of topics that it did not request.
                let (op, refused) = match op {
                    Op::ServerSubscribe => (Op::Subscribe, Refused::default()),
                    op => (op, refused),
                };
                let standing = |b: &Begun| Standing {
                    topic: b.topic.clone(),
                    offset: b.attachment.offset,
                    epoch: b.attachment.epoch.clone(),
                    recovered: b.attachment.recovered,
                    have: b.have,
                };
                let standings: Vec<Standing> = begun.iter().map(standing).collect();
                self.answer_topics(key.index, &id, op, !begun.is_empty(), Some(&standings), &refused);
            }
            for _ in 0..failures {
                if self.token_failed(key.index, &TokenError::Invalid("it is not for this subscription".into())) {
                    break;
                }
            }
        }
        for one in begun {
            if self.sessions.by_id(key).is_some_and(|s| s.is_live()) {
                self.follow(key, one);
            }
        }
        for slot in slots {
            self.end_waiting(slot);
        }
        let deferred =
            self.sessions.by_id(key).filter(|s| s.attaching == 0 && s.is_live()).and_then(|s| match &s.deferred {
                Some(deferred) if !deferred.authenticating || op == Op::Connect => s.deferred.take(),
                _ => None,
            });
        self.replay(key, deferred);
    }

    /// Adds the session to the subscribers of one topic. `remaining` is what the subscribe may still send now; the rest
    /// follows as the socket takes it. `None` if more deltas came meanwhile than are kept.
    fn begin(&mut self, key: SessionId, item: Item, remaining: &mut usize) -> Option<Begun> {
        let slot = item.slot;
        let Some(Ok(Answered { attachment, grant, seq, bytes, cut })) = item.answer.clone() else { return None };
        self.take_subscription(key.index, slot);
        self.close_batches(slot);
        let topic = self.fanout.topics.topic(slot)?;
        let session = self.sessions.get(key.index)?;
        let full = session.output.backlog.is_some();
        let from = topic.recent.partition_point(|d| d.offset <= attachment.offset);
        let since: Vec<_> = topic.recent.range(from..).cloned().collect();
        // Otherwise some of them were dropped, and the client's position is determined when it catches up.
        let whole = !cut && since.len() as u64 == topic.last.seq - seq;
        let (last, conflatable) = (topic.last, topic.class.conflatable());
        let compression = Compression::of(session.output.dialect, session.output.deflate, session.output.batch);
        let subscription = self.fanout.topics.join(key.index, slot, item.encoding, compression, item.interval_ms)?;
        self.stats.subscriptions.add(1);
        if let Some(session) = self.sessions.get_mut(key.index) {
            session.subscriptions.add(subscription);
        }
        let expires_s = grant.as_ref().and_then(|g| g.expires_s);
        let ttl_s = ttl_s(expires_s, self.clock.unix_ms);
        self.note_special(key.index, &item, grant);
        let mut frames = attachment.missed.frames.clone();
        let missed = &attachment.missed;
        let mut have = missed.after;
        let room = (*remaining).min(self.backlog_room(key.index));
        let mut lags_from = (!missed.complete).then_some(Cursor { offset: missed.upto, seq });
        let mut offset = match conflatable {
            // Until it has the state, the client has nothing to recover from.
            true if bytes > 0 && !item.was_recovering => Offset::ZERO,
            true => attachment.offset,
            false => missed.after,
        };
        let mut left = room.saturating_sub(bytes);
        if !whole || bytes > 0 && (full || bytes > room || !self.may_get(key.index, bytes)) {
            // A stream is replayed from the client's position; other topics send their state at that time.
            lags_from = Some(if conflatable { Cursor::NOWHERE } else { Cursor { offset: missed.after, seq } });
            frames = Vec::new();
            offset = if conflatable { Offset::ZERO } else { missed.after };
            have = offset;
            left = room;
        } else if conflatable && bytes > 0 {
            self.stats.snapshots.add(1);
        }
        if !conflatable && lags_from.is_none() {
            let bytes = since.iter().map(|delta| delta.frame(item.encoding).len()).sum::<usize>();
            // The deltas that came meanwhile are replayed too, if they exceed what the client may get now.
            lags_from = (bytes > left).then_some(Cursor { offset: attachment.offset, seq });
            left = left.saturating_sub(bytes);
        }
        *remaining = left;
        let options = self.config.namespace(item.topic.namespace());
        let requested = item.options.as_deref();
        Some(Begun {
            subscription,
            slot,
            class: options.class.name(),
            recoverable: options.force_recovery || requested.is_some_and(|o| o.recoverable),
            positioned: options.force_positioning || requested.is_some_and(|o| o.positioned),
            topic: item.topic,
            offset,
            have,
            attachment,
            was_recovering: item.was_recovering,
            encoding: item.encoding,
            ttl_s,
            frames,
            lags_from,
            since,
            seq,
            conflatable,
            last,
        })
    }

    /// Sends what follows the reply: the state or what was missed, and the deltas since.
    fn follow(&mut self, key: SessionId, begun: Begun) {
        let Begun { subscription, slot, topic, attachment, encoding, frames, lags_from, since, seq, .. } = begun;
        let replaceable = begun.conflatable.then_some(slot);
        for bytes in frames {
            let (topic, start) = (replaceable, Cursor::NOWHERE);
            self.send_chunk(key.index, Chunk::delivery(bytes, topic, start));
        }
        if let Some(since_ms) = attachment.stale_since_ms {
            let notice = Notice::Stale { topic: &topic, since_ms };
            self.send(key.index, encoding.dialect().notice(notice));
        }
        if let Some(cursor) = lags_from {
            self.lags(key.index, subscription, cursor);
            return;
        }
        // The client may not have the delta before the first one, so the first is sent in full.
        let encodings = std::iter::once(encoding.whole()).chain(std::iter::repeat(encoding));
        for ((delta, encoding), seq) in since.iter().zip(encodings).zip(seq..) {
            let (bytes, topic) = (delta.frame(encoding), replaceable);
            let start = Cursor { offset: delta.prev, seq };
            self.send_chunk(key.index, Chunk::delivery(bytes, topic, start));
        }
        self.is_at(key, subscription.group, begun.last);
    }

    fn end_waiting(&mut self, slot: Slot) {
        if let Some(slot) = self.fanout.end_subscribing(slot) {
            self.detach(slot);
        }
    }
}
