//! From a socket to commands, and what each command does.

use std::io::{ErrorKind, Read};

use super::attaching::Wanted;
use super::event::{Ask, Purpose, Request, SessionKey};
use super::pacing::clock32;
use super::session::{Deferred, Stage};
use super::shard::Shard;
use crate::config::Action;
use crate::limits::{self, CENTRIFUGE_SUBSCRIBE_BYTES, INFLATED_BYTES_MAX};
use crate::name::TopicName;
use crate::protocol::{Command, CommandId, Op, Refusal, SubscribeItem};
use crate::rate::Rate;
use crate::wire::close::CloseReason;
use crate::wire::frame::{self, Opcode};
use crate::wire::inbox::{self, Compressed, Flow, Incoming};
use crate::wire::inflate::Inflater;

/// Full buffers that one session may fill in one tick before the others have their turn.
const READS_PER_TICK: usize = 4;

/// The parts that a command is counted in: a Centrifuge subscribe is one of them, as `plain` has one command for many topics.
const COMMAND_PARTS: u64 = 8;

/// What a message that waits counts: empty ones take memory too.
fn waiting_bytes(message: &[u8]) -> usize {
    message.len() + std::mem::size_of::<Vec<u8>>()
}

impl Shard {
    /// Reads what a socket has, into the buffer that all sessions share.
    pub(super) fn read(&mut self, index: u32) {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let mut reads = 0;
        while let Some(session) = self.session(index).filter(|s| s.stage != Stage::Done) {
            match session.socket.read(&mut buffer) {
                Ok(0) => {
                    self.drop_session(index);
                    break;
                }
                Ok(n) => {
                    let generation = session.generation;
                    let sealed = session.tls.is_some();
                    if let Some(bytes) = buffer.get_mut(..n) {
                        match sealed {
                            false => self.received(index, bytes),
                            true => self.received_sealed(index, bytes),
                        }
                    }
                    let same = self.session(index).is_some_and(|s| s.generation == generation);
                    if !same || n < buffer.len() {
                        break;
                    }
                    reads += 1;
                    if reads == READS_PER_TICK {
                        self.readable.push(index);
                        break;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.drop_session(index);
                    break;
                }
            }
        }
        self.read_buffer = buffer;
    }

    /// Handles bytes of a client.
    pub(super) fn received(&mut self, index: u32, bytes: &mut [u8]) {
        let now_ms = self.now_ms;
        let centrifuge = self.session(index).is_some_and(|s| s.dialect.is_centrifuge());
        let message_max = self.message_max(centrifuge);
        let Some(session) = self.session(index) else { return };
        session.heard_ms = clock32(now_ms);
        session.pinged = false;
        let mut inbox = session.inbox.take();
        let (deflate, live) = (session.deflate, session.is_live());
        let mut inflater = self.inflater.take();
        let compressed = match (deflate, live) {
            (false, _) => Compressed::Refused,
            (true, false) => Compressed::Skipped,
            (true, true) => {
                Compressed::Inflated(inflater.get_or_insert_with(|| Box::new(Inflater::new(INFLATED_BYTES_MAX))))
            }
        };
        let outcome =
            inbox::feed(&mut inbox, bytes, message_max, compressed, now_ms, |message| self.message(index, message));
        self.inflater = inflater;
        match outcome {
            Ok(()) => {
                if let Some(session) = self.session(index) {
                    session.inbox = inbox;
                }
            }
            Err(reason) => self.close(index, reason),
        }
    }

    fn message(&mut self, index: u32, message: Incoming<'_>) -> Flow {
        let Some(session) = self.session(index) else { return Flow::Stop };
        if let Stage::Closing { .. } = session.stage {
            // The peer's answer to our close frame ends the session; anything else it sends is too late.
            if matches!(message, Incoming::Close(_)) {
                session.stage = Stage::Done;
                self.send_nothing(index);
                return Flow::Stop;
            }
            return Flow::Continue;
        }
        let opcode = session.dialect.opcode();
        match message {
            Incoming::Close(payload) => {
                // RFC 6455 §5.5.1: answered with the code that came.
                let echo = frame::frame(Opcode::Close, payload.get(..2).unwrap_or_default());
                session.stage = Stage::Done;
                self.stats.disconnects.add(1);
                self.leave_all(index);
                self.send(index, echo);
                return Flow::Stop;
            }
            Incoming::Pong => {}
            Incoming::Ping(payload) => {
                if !self.spend(index, 1) {
                    return Flow::Stop;
                }
                let pong = frame::frame(Opcode::Pong, payload);
                self.send(index, pong);
            }
            Incoming::Text(text) if opcode == Opcode::Text => {
                if std::str::from_utf8(text).is_err() {
                    self.close(index, CloseReason::InvalidUtf8);
                    return Flow::Stop;
                }
                self.commands(index, text);
            }
            Incoming::Binary(bytes) if opcode == Opcode::Binary => self.commands(index, bytes),
            Incoming::Text(_) | Incoming::Binary(_) => self.close(index, CloseReason::UnsupportedData),
        }
        if self.session(index).is_some_and(|s| s.is_live()) { Flow::Continue } else { Flow::Stop }
    }

    /// Makes sure that the flush looks at a session that has nothing to be sent.
    pub(super) fn send_nothing(&mut self, index: u32) {
        self.send(index, bytes::Bytes::new());
    }

    /// Takes one command out of the session's allowance, or such a part of one ([`COMMAND_PARTS`] at most). `false` if there
    /// was none left: it is closed.
    fn spend(&mut self, index: u32, part: u64) -> bool {
        let limits = &self.config.limits;
        let parts = |commands: u32| u64::from(commands) * COMMAND_PARTS;
        let rate = Rate::new(parts(limits.commands_per_second), parts(limits.commands_burst));
        let now_ns = self.now_ms * 1_000_000;
        let Some(session) = self.session(index) else { return false };
        if !rate.spend(&mut session.commands_used_ns, now_ns, COMMAND_PARTS / part) {
            self.close(index, CloseReason::TooManyRequests);
            return false;
        }
        self.stats.commands.add(1);
        true
    }

    /// The largest message of a session, in bytes. A Centrifuge client subscribes topic by topic, and to all of them in
    /// one message when it comes back.
    fn message_max(&self, centrifuge: bool) -> usize {
        let limits = &self.config.limits;
        let all = if centrifuge { limits.subscriptions.saturating_mul(CENTRIFUGE_SUBSCRIBE_BYTES) } else { 0 };
        limits.message_bytes.max(all)
    }

    /// The commands of one message.
    fn commands(&mut self, index: u32, message: &[u8]) {
        let Some(session) = self.session(index) else { return };
        let (dialect, generation) = (session.dialect, session.generation);
        if !dialect.is_centrifuge() {
            self.text(index, message);
            return;
        }
        let mut rest = message;
        while let Some(one) = dialect.split(&mut rest) {
            if !self.session(index).is_some_and(|s| s.generation == generation && s.is_live()) {
                return;
            }
            self.text(index, one);
        }
    }

    /// One command, or a place in the line of those that wait for an earlier one's answer.
    fn text(&mut self, index: u32, text: &[u8]) {
        let Some(session) = self.session(index) else { return };
        let dialect = session.dialect;
        let bytes_max = self.message_max(dialect.is_centrifuge());
        let Some(session) = self.session(index) else { return };
        if let Some(deferred) = &mut session.deferred {
            deferred.bytes += waiting_bytes(text);
            if deferred.bytes > bytes_max {
                self.close(index, CloseReason::TooManyRequests);
                return;
            }
            deferred.messages.push_back(text.to_vec());
            return;
        }
        let command = dialect.command(text);
        let part = match &command {
            // One a topic, where `plain` has one for all of them.
            Ok(Command::Subscribe { .. } | Command::Unsubscribe { .. }) if dialect.is_centrifuge() => COMMAND_PARTS,
            _ => 1,
        };
        if !self.spend(index, part) {
            return;
        }
        match command {
            Ok(command) => self.command(index, command, text),
            Err(bad) if bad.fatal => {
                self.stats.commands_refused.add(1);
                tracing::debug!(reason = bad.refusal.reason, "a command that cannot be read");
                self.close(index, CloseReason::BadRequest);
            }
            Err(bad) => self.refuse(index, &bad.id, bad.op, &bad.refusal),
        }
    }

    pub(super) fn refuse(&mut self, index: u32, id: &CommandId, op: Op, refusal: &Refusal) {
        self.stats.commands_refused.add(1);
        if let Some(session) = self.session(index).filter(|s| s.is_live()) {
            let reply = session.dialect.refusal(id, op, refusal);
            self.send(index, reply);
        }
    }

    fn command(&mut self, index: u32, command: Command, text: &[u8]) {
        if self.is_unconnected(index) && !matches!(command, Command::Connect { .. } | Command::Pong) {
            self.close(index, CloseReason::BadRequest);
            return;
        }
        let Some(session) = self.session(index) else { return };
        let dialect = session.dialect;
        match command {
            Command::Connect { id, token, items } => self.connect(index, id, token, items),
            Command::Pong | Command::Send => {}
            Command::Publish { id, topic, data } => self.publish(index, id, topic, data),
            Command::History { id, topic, query } => {
                self.ask_about(index, id, Op::History, topic, Action::History, Ask::History(query));
            }
            Command::Presence { id, topic, stats } => {
                let (op, ask) =
                    if stats { (Op::PresenceStats, Ask::PresenceStats) } else { (Op::Presence, Ask::Presence) };
                self.ask_about(index, id, op, topic, Action::Presence, ask);
            }
            Command::Refresh { id, token } => self.refresh(index, id, token),
            Command::SubRefresh { id, topic, token } => self.sub_refresh(index, id, topic, token),
            Command::Rpc { id, method, data } => self.call(index, id, method, data),
            Command::Ping { id } => {
                self.valid(index);
                self.send(index, dialect.done(&id, Op::Ping));
            }
            Command::Auth { id, token } => {
                let session = self.session(index);
                let Some(session) = session else { return };
                let key = session.key(index);
                session.deferred = Some(Box::new(Deferred { authenticating: true, ..Deferred::default() }));
                let (purpose, held) = (Purpose::Auth, session.identity.clone());
                self.wanted.push(Request::Authenticate { shard: self.id, session: key, id, purpose, token, held });
            }
            Command::Subscribe { id, items, refused, terms } => {
                for refusal in &refused {
                    self.refuse(index, &id, Op::Subscribe, refusal);
                }
                let mut wanted = Vec::with_capacity(items.len());
                for item in items {
                    // A subscription token says by itself what its bearer may have.
                    let has_token = item.options.as_ref().is_some_and(|o| o.token.is_some());
                    let refusal = if has_token { None } else { self.not_allowed(index, &item.topic) };
                    if let Some(refusal) = refusal.or_else(|| self.already(index, &item.topic)) {
                        self.refuse(index, &id, Op::Subscribe, &refusal);
                    } else if !wanted.iter().any(|w: &Wanted| w.topic == item.topic) {
                        let SubscribeItem { topic, since, options } = item;
                        wanted.push(Wanted { topic, since, options });
                    }
                }
                if !wanted.is_empty() {
                    self.valid(index);
                    self.subscribe(index, id, Op::Subscribe, wanted, terms);
                }
            }
            Command::Unsubscribe { id, topics, refused } => {
                if session.attaching > 0 {
                    self.defer(index, text);
                    return;
                }
                self.valid(index);
                for refusal in &refused {
                    self.refuse(index, &id, Op::Unsubscribe, refusal);
                }
                for topic in &topics {
                    self.unsubscribe(index, topic);
                }
                self.send(index, dialect.done(&id, Op::Unsubscribe));
            }
            Command::Rate { id, topics, refused, max_rate } => {
                if session.attaching > 0 {
                    self.defer(index, text);
                    return;
                }
                self.valid(index);
                self.change_rates(index, &id, &topics, &refused, max_rate);
            }
            Command::Session { id, wishes } => {
                self.valid(index);
                self.tune(index, wishes);
                self.send(index, dialect.done(&id, Op::Session));
            }
            Command::Snapshot { id, topics, refused } => {
                for refusal in &refused {
                    self.refuse(index, &id, Op::Snapshot, refusal);
                }
                let mut wanted: Vec<Wanted> = Vec::new();
                for topic in topics {
                    if wanted.iter().any(|w| w.topic == topic) {
                        continue;
                    }
                    let too_many = wanted.len() >= self.config.limits.subscriptions;
                    let too_many = too_many.then(|| Refusal::new(429, "too many topics").about(topic.as_str()));
                    match too_many.or_else(|| self.not_allowed(index, &topic)) {
                        Some(refusal) => {
                            self.refuse(index, &id, Op::Snapshot, &refusal);
                            if refusal.code == 429 {
                                break;
                            }
                        }
                        None => wanted.push(Wanted { topic, since: None, options: None }),
                    }
                }
                if !wanted.is_empty() {
                    self.valid(index);
                    self.snapshots(index, id, wanted);
                }
            }
        }
    }

    /// A command that may be about a subscribe that is under way takes its turn after that.
    fn defer(&mut self, index: u32, text: &[u8]) {
        let Some(session) = self.session(index) else { return };
        let message = text.to_vec();
        let bytes = waiting_bytes(text);
        session.deferred = Some(Box::new(Deferred { messages: [message].into(), bytes, authenticating: false }));
    }

    /// The client has shown that it speaks our language.
    pub(super) fn valid(&mut self, index: u32) {
        if let Some(session) = self.session(index)
            && session.stage == Stage::New
        {
            session.stage = Stage::Open;
        }
    }

    /// Why a session may not have a topic.
    fn not_allowed(&mut self, index: u32, topic: &TopicName) -> Option<Refusal> {
        let for_client = self.config.namespace(topic.namespace()).allow_subscribe_for_client;
        let anonymous =
            self.config.access.anonymous && self.config.namespace(topic.namespace()).allow_subscribe_for_anonymous;
        let session = self.session(index)?;
        let refusal = match &session.identity {
            _ if anonymous => return None,
            Some(identity) if for_client || identity.topics.allow(topic) => return None,
            Some(_) => Refusal::new(403, "topic not allowed"),
            None => Refusal::new(401, "a token is needed: send {\"op\":\"auth\",\"token\":…} first"),
        };
        Some(refusal.about(topic.as_str()))
    }

    /// Why a Centrifuge session may not subscribe: it has the topic. In `plain` this begins it anew.
    fn already(&mut self, index: u32, topic: &TopicName) -> Option<Refusal> {
        let centrifuge = self.session(index).is_some_and(|s| s.dialect.is_centrifuge());
        let slot = self.subscribers.find(topic).filter(|_| centrifuge)?;
        self.is_subscribed(index, slot).then(|| Refusal::new(409, "").about(topic.as_str()))
    }

    /// Carries out what waited for an answer that has come.
    pub(super) fn replay(&mut self, key: SessionKey, deferred: Option<Box<Deferred>>) {
        let Some(mut deferred) = deferred else { return };
        while let Some(message) = deferred.messages.pop_front() {
            let Some(session) = self.keyed(key).filter(|s| s.is_live()) else { return };
            if let Some(again) = &mut session.deferred {
                // One of them waits itself: the rest stay behind it.
                again.bytes +=
                    waiting_bytes(&message) + deferred.messages.iter().map(|m| waiting_bytes(m)).sum::<usize>();
                again.messages.push_back(message);
                again.messages.append(&mut deferred.messages);
                return;
            }
            self.text(key.index, &message);
        }
    }

    fn unsubscribe(&mut self, index: u32, topic: &TopicName) {
        let Some(slot) = self.subscribers.find(topic) else { return };
        self.end_subscription(index, slot);
    }

    /// Ends a session's subscription of a topic, if it has one.
    pub(super) fn end_subscription(&mut self, index: u32, slot: crate::topic::Slot) {
        let Some(session) = self.sessions.get_mut(index as usize) else { return };
        let at =
            session.subscriptions.iter().position(|s| self.subscribers.lane(s.lane).is_some_and(|l| l.slot == slot));
        let Some(at) = at else { return };
        let subscription = session.subscriptions.swap_remove(at);
        session.holds.retain(|h| h.subscription != subscription);
        if !session.holds.is_empty() {
            // Others may have waited for this one's answer.
            self.owed.push(index);
        }
        if let Some(special) = session.client.as_mut().and_then(|c| c.take_special(slot)) {
            self.depart(special);
        }
        self.leave(subscription);
    }

    /// Whether the requests waiting for the control plane leave room for `more`.
    pub(super) fn desk_has_room(&self, more: usize) -> bool {
        self.wanted.len() + more <= limits::SHARD_REQUESTS_MAX
    }
}
