//! The flush of a tick: egress writes, and this carries out the outcomes.

use mio::{Interest, Token};

use super::shard::Shard;
use crate::hub::clock::clock32;
use crate::hub::egress::{Drained, Outbox, Outcome, SendQueue, Sent};
use crate::hub::fanout::Traces;
use crate::hub::index::{ChunkId, SessionIndex};
use crate::hub::session::{Reading, Session};
use crate::wire::close::CloseReason;

impl Shard {
    /// Writes to every session that has something to send, and to every full socket that became writable.
    pub(in crate::hub) fn flush(&mut self) {
        self.wake_timers();
        for index in std::mem::take(&mut self.writable) {
            self.writable_again(index);
        }
        let (hurry, mut at) = (self.must_hurry(), 0);
        loop {
            let traces = &mut self.fanout.trace;
            at = self.egress.flush(&mut self.sessions, at, hurry, |outbox, queue, sent| {
                trace_write(traces, outbox, queue, sent);
            });
            let any = self.apply_outcomes();
            if !any && at >= self.egress.outbox.dirty.len() && !self.egress.has_prepared() {
                break;
            }
        }
        self.egress.end_flush();
        for index in std::mem::take(&mut self.to_catch_up) {
            if self.sessions.get(index).is_some_and(|s| s.is_live() && s.output.backlog.is_none()) {
                self.send_missed(index);
            }
            let over = self.sessions.get(index).filter(|s| s.subscriptions.lagging.is_empty()).map(|s| s.key(index));
            if let Some(key) = over.filter(|key| self.allowances.waits(*key)) {
                self.allowances.waits_no_more(key);
            }
        }
        // Closes that were requested meanwhile are carried out in the next tick, which follows immediately.
        let dirty = self.egress.settle_dirty(&self.sessions);
        self.again = dirty || !self.close_queue.is_empty();
    }

    /// Handles sessions whose timer has expired.
    fn wake_timers(&mut self) {
        for (index, has_backlog) in self.egress.due(&mut self.sessions) {
            let Some(session) = self.sessions.get_mut(index) else { continue };
            if session.reading == Reading::Quota {
                session.reading = Reading::Turn;
                self.input.readable.push(index);
            }
            // It may catch up now.
            if self.allowances.waits(session.key(index)) {
                self.to_catch_up.push(index);
            }
            if has_backlog {
                self.writable.push(index);
            }
        }
    }

    /// Ensures that a session is checked at `at_ms` or before.
    pub(in crate::hub) fn set_timer(&mut self, index: SessionIndex, at_ms: u64) {
        self.egress.look_at(&mut self.sessions, index, at_ms);
    }

    /// Writes to one session now.
    pub(in crate::hub) fn write_now(&mut self, index: SessionIndex) {
        let traces = &mut self.fanout.trace;
        self.egress.write_now(&mut self.sessions, index, |outbox, queue, sent| {
            trace_write(traces, outbox, queue, sent);
        });
        self.apply_outcomes();
    }

    /// Carries out egress' outcomes. Returns whether there were any.
    fn apply_outcomes(&mut self) -> bool {
        let mut outcomes = self.egress.take_outcomes();
        let (any, mut grew) = (!outcomes.is_empty(), false);
        for outcome in outcomes.drain(..) {
            match outcome {
                Outcome::Skipped { session: index, topic, from, bytes } => {
                    if let Some(session) = self.sessions.get_mut(index) {
                        session.subscriptions.fall_behind(&mut self.fanout.topics, topic, from);
                    }
                    self.give_back(index, bytes);
                }
                Outcome::Stands { session: index, topic, at } => {
                    if let Some(session) = self.sessions.get_mut(index) {
                        session.subscriptions.advance(&self.fanout.topics, topic, at);
                    }
                }
                Outcome::Conflate { session, send_queue } => self.conflate(session, send_queue),
                Outcome::Full { session, too_much } => {
                    self.watch_for_room(session);
                    if too_much {
                        self.close(session, CloseReason::Slow);
                    }
                    grew = true;
                }
                Outcome::Pinged { session } => {
                    let now_ms = self.clock.now_ms;
                    if let Some(session) = self.sessions.get_mut(session) {
                        session.heard_ms = clock32(now_ms);
                    }
                }
                Outcome::Over { session } => self.drop_session(session),
            }
        }
        self.egress.reuse(outcomes);
        if grew {
            self.relieve();
        }
        any
    }

    /// Replaces a session's waiting deltas by one delivery per conflatable topic, and makes the session dirty again.
    fn conflate(&mut self, index: SessionIndex, send_queue: SendQueue) {
        let chunks: Vec<ChunkId> = self.egress.outbox.numbers(send_queue).collect();
        let mut not_sent = 0;
        for number in chunks {
            let Some(session) = self.sessions.get_mut(index) else { break };
            let Some(chunk) = self.egress.outbox.get(number) else { continue };
            if let Some(topic) = chunk.topic {
                not_sent += chunk.state_bytes();
                session.subscriptions.fall_behind(&mut self.fanout.topics, topic, chunk.start);
                continue;
            }
            if let Some((topic, cursor)) = chunk.stands {
                session.subscriptions.advance(&self.fanout.topics, topic, cursor);
            }
            self.egress.outbox.link(index, &mut session.output.send_queue, number);
        }
        self.egress.outbox.release(send_queue);
        self.give_back(index, not_sent);
        let mut at = 0;
        while let Some(lagging) =
            self.sessions.get(index).map(|s| s.subscriptions.lagging.len()).filter(|lagging| at < *lagging)
        {
            self.catch_up(index, at);
            // Skip a subscription that must wait for a snapshot or its group.
            if self.sessions.get(index).is_some_and(|s| s.subscriptions.lagging.len() == lagging) {
                at += 1;
            }
        }
    }

    /// The socket has room again: the backlog is sent first, then the newest state of lagging subscriptions.
    fn writable_again(&mut self, index: SessionIndex) {
        let drained = self.egress.drain(&mut self.sessions, index);
        self.apply_outcomes();
        if drained == Drained::All {
            self.write_now(index);
            self.send_missed(index);
        }
        if drained != Drained::Idle {
            self.resume_if_there_is_room(index);
        }
    }

    /// Catches up lagging subscriptions one after the other, until none is left or the socket is full again.
    fn send_missed(&mut self, index: SessionIndex) {
        while let Some(session) = self.sessions.get_mut(index)
            && self.egress.may_send(index, &mut session.output)
        {
            let mut bytes = 0;
            let mut at = 0;
            let chunk = session.output.drain_chunk();
            while bytes < chunk {
                let Some(session) = self.sessions.get(index) else { return };
                let lagging = session.subscriptions.lagging.len();
                if at >= lagging {
                    break;
                }
                bytes += self.catch_up(index, at);
                // Requested snapshots would all come at once. A session with a rate limit requests them one after the
                // other.
                let waits = |s: &Session| {
                    s.output.pace.is_some() && s.subscriptions.lagging.get(at).is_some_and(|lagging| lagging.awaiting)
                };
                if self.sessions.get(index).is_some_and(waits) {
                    break;
                }
                // Subscriptions that are level leave the list; skip those that must wait.
                if self.sessions.get(index).is_some_and(|s| s.subscriptions.lagging.len() == lagging) {
                    at += 1;
                }
            }
            if bytes == 0 {
                return;
            }
            self.write_now(index);
            match self.sessions.get(index) {
                Some(session) if session.output.backlog.is_none() => {}
                _ => return,
            }
        }
    }

    /// Makes the poll report when a full socket has room again, for the rest of the session.
    fn watch_for_room(&mut self, index: SessionIndex) {
        let Some(session) = self.sessions.get_mut(index).filter(|s| !s.output.watched) else { return };
        session.output.watched = true;
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().reregister(&mut session.output.socket, Token(index.at()), interest) {
            tracing::warn!(shard = self.id.0, %error, "a full socket could not be registered with the poll; its session is dropped");
            self.drop_session(index);
        }
    }
}

/// Records the traced deltas of a write.
fn trace_write(traces: &mut Traces, outbox: &Outbox, send_queue: SendQueue, sent: Sent) {
    if traces.is_empty() || sent == Sent::Gone {
        return;
    }
    let chunks = outbox.numbers(send_queue).filter_map(|number| Some((number, outbox.get(number)?)));
    traces.written(chunks, sent == Sent::All);
}
