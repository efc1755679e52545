//! From a socket to messages. `turns` limits how much is read, `commands` carries the messages out.

use std::io::{ErrorKind, Read};

use super::shard::Shard;
use crate::config::Limits;
use crate::hub::clock::clock32;
use crate::hub::close_queue::Ending;
use crate::hub::index::SessionIndex;
use crate::hub::session::{Reading, Session};
use crate::hub::stage::{Ping, Stage};
use crate::limits::{CENTRIFUGE_SUBSCRIBE_BYTES, INFLATED_BYTES_MAX, READ_BYTES};
use crate::protocol::Dialect;
use crate::rate::Rate;
use crate::wire::close::CloseReason;
use crate::wire::frame::{self, Opcode};
use crate::wire::inbox::{self, Compressed, Flow, Incoming};
use crate::wire::inflate::Inflater;

/// Full reads of one session in a tick, after which it is the others' turn.
const READS_PER_TICK: usize = 16;

/// A command counts as this many parts. A Centrifuge subscribe counts as one part, because `plain` has one command for
/// many topics.
pub(in crate::hub) const COMMAND_PARTS: u64 = 8;

impl Shard {
    /// Reads a socket into the buffer that all sessions share, until the session's turn is over.
    pub(in crate::hub) fn read(&mut self, index: SessionIndex) {
        if !self.begin_turn(index) {
            return;
        }
        if !self.hear_deferred(index) {
            return;
        }
        // What the last turn left comes first.
        if self.sessions.get_mut(index).is_some_and(|s| s.inbox.as_ref().is_some_and(|inbox| inbox.is_paused())) {
            self.received(index, &mut []);
        }
        let mut buffer = std::mem::take(&mut self.input.buffer);
        let mut reads = 0;
        let reads_on = |s: &&mut Session| s.output.stage.is_read() && s.reading == Reading::Free;
        while let Some(session) = self.sessions.get_mut(index).filter(reads_on) {
            if reads == READS_PER_TICK {
                self.wait_for(index, Reading::Turn);
                break;
            }
            let Some(room) = buffer.get_mut(..READ_BYTES) else { break };
            match session.output.socket.read(room) {
                Ok(0) => {
                    self.drop_session(index);
                    break;
                }
                // Read until the socket is empty: the poll reports it only once, and the last bytes may come together
                // with the end.
                Ok(n) => {
                    reads += 1;
                    let sealed = session.output.tls.is_some();
                    if let Some(bytes) = room.get_mut(..n) {
                        match sealed {
                            false => self.received(index, bytes),
                            true => self.received_sealed(index, bytes),
                        }
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
        self.input.buffer = buffer;
    }

    /// Handles bytes from a client.
    pub(in crate::hub) fn received(&mut self, index: SessionIndex, bytes: &mut [u8]) {
        let now_ms = self.clock.now_ms;
        let message_max = self.message_max(index);
        let Some(session) = self.sessions.get_mut(index) else { return };
        session.heard_ms = clock32(now_ms);
        session.output.ping = Ping::None;
        let mut inbox = session.inbox.take();
        if let Some(inbox) = inbox.as_mut().filter(|inbox| inbox.is_paused()) {
            // Until now the server did not read, so the client was not late.
            inbox.since_ms = now_ms;
        }
        let (deflate, live) = (session.output.deflate, session.is_live());
        let came = bytes.len() + inbox.as_ref().map_or(0, |inbox| inbox.held_bytes());
        let heard = self.input.turns.bytes();
        let mut inflater = self.input.inflater.take();
        let compressed = match (deflate, live) {
            (false, _) => Compressed::Refused,
            (true, false) => Compressed::Skipped,
            (true, true) => {
                Compressed::Inflated(inflater.get_or_insert_with(|| Box::new(Inflater::new(INFLATED_BYTES_MAX))))
            }
        };
        let outcome =
            inbox::feed(&mut inbox, bytes, message_max, compressed, now_ms, |message| self.message(index, message));
        self.input.inflater = inflater;
        if deflate {
            let came = came.saturating_sub(inbox.as_ref().map_or(0, |inbox| inbox.held_bytes()));
            let bytes = (self.input.turns.bytes() - heard).saturating_sub(came);
            if let Some(session) = self.sessions.get(index) {
                self.input.charge_inflated(session.key(index), bytes, self.clock.now_ns());
            }
        }
        match outcome {
            Ok(()) => {
                let Some(session) = self.sessions.get_mut(index) else { return };
                session.inbox = inbox;
                if let Some(reading) = self.must_wait(index) {
                    self.wait_for(index, reading);
                }
                self.relieve_incoming();
            }
            Err(reason) => self.close(index, reason),
        }
    }

    /// Handles encrypted bytes from a client.
    pub(in crate::hub) fn received_sealed(&mut self, index: SessionIndex, bytes: &mut [u8]) {
        let mut opened = std::mem::take(&mut self.input.decrypted);
        opened.clear();
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Some(tls) = &mut session.output.tls else { return };
        let outcome = tls.feed(bytes, &mut opened);
        let over = outcome.is_err() || tls.is_closed();
        let answer = !tls.due().is_empty() && session.output.backlog.is_none();
        if let Err(error) = outcome {
            tracing::debug!(%error, "a session's TLS connection failed");
        }
        if !opened.is_empty() {
            self.received(index, &mut opened);
        }
        self.input.decrypted = opened;
        if over {
            self.drop_session(index);
        } else if answer {
            self.send_nothing(index);
        }
    }

    fn message(&mut self, index: SessionIndex, message: Incoming<'_>) -> Flow {
        let Some(session) = self.sessions.get_mut(index) else { return Flow::Stop };
        if let Stage::Closing = session.output.stage {
            // The client's answer to our close frame ends the session. Anything else comes too late and is ignored.
            if matches!(message, Incoming::Close(_)) {
                session.output.stage = Stage::Done;
                self.send_nothing(index);
                return Flow::Stop;
            }
            return Flow::Continue;
        }
        let opcode = session.output.dialect.opcode();
        match message {
            Incoming::Close(payload) => {
                let code = payload.get(..2).unwrap_or_default().into();
                self.end(index, Ending::Answer { code });
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
                self.input.turns.heard(text.len());
                if std::str::from_utf8(text).is_err() {
                    self.close(index, CloseReason::InvalidUtf8);
                    return Flow::Stop;
                }
                self.commands(index, text);
            }
            Incoming::Binary(bytes) if opcode == Opcode::Binary => {
                self.input.turns.heard(bytes.len());
                self.commands(index, bytes);
            }
            Incoming::Text(_) | Incoming::Binary(_) => self.close(index, CloseReason::UnsupportedData),
        }
        match self.sessions.get_mut(index).is_some_and(|s| s.is_live()) {
            true if self.must_wait(index).is_some() => Flow::Pause,
            true => Flow::Continue,
            false => Flow::Stop,
        }
    }

    /// Makes the flush check a session that has nothing to send.
    pub(in crate::hub) fn send_nothing(&mut self, index: SessionIndex) {
        self.send(index, bytes::Bytes::new());
    }

    /// Takes one command, or `part` of its [`COMMAND_PARTS`], out of the session's command rate. Returns `false` if the
    /// rate is exceeded and the session was closed.
    pub(in crate::hub) fn spend(&mut self, index: SessionIndex, part: u64) -> bool {
        let rate = command_rate(&self.config.limits);
        let now_ns = self.clock.now_ns();
        let Some(session) = self.sessions.get_mut(index) else { return false };
        if !rate.spend(&mut session.commands_used_ns, now_ns, COMMAND_PARTS / part) {
            self.close(index, CloseReason::TooManyRequests);
            return false;
        }
        self.stats.commands.add(1);
        true
    }

    /// The largest message of a session, in bytes.
    fn message_max(&self, index: SessionIndex) -> usize {
        let limits = &self.config.limits;
        let Some(session) = self.sessions.get(index) else { return limits.message_bytes };
        let may_command = self.config.access.anonymous || session.identity.is_some();
        message_max(limits, session.output.dialect, may_command)
    }
}

/// The rate of a session's commands, in parts of one.
fn command_rate(limits: &Limits) -> Rate {
    let parts = |commands: u32| u64::from(commands) * COMMAND_PARTS;
    Rate::new(parts(limits.commands_per_second), parts(limits.commands_burst))
}

/// The largest message of a session that may send commands already, or needs a token first; in bytes. A Centrifuge
/// client subscribes topic by topic, and to all of them in one message when it comes back.
fn message_max(limits: &Limits, dialect: Dialect, may_command: bool) -> usize {
    match (dialect.is_centrifuge(), may_command) {
        (true, _) => limits.message_bytes.max(limits.subscriptions.saturating_mul(CENTRIFUGE_SUBSCRIBE_BYTES)),
        (false, true) => limits.message_bytes,
        // Commands behind a token are not read before the token is checked.
        (false, false) => limits.message_bytes.min(limits.message_bytes_before_auth),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_small_before_the_token_and_large_where_it_has_all_subscribes() {
        let limits = Limits {
            message_bytes: 10_000,
            message_bytes_before_auth: 2_000,
            subscriptions: 10 * 10_000 / CENTRIFUGE_SUBSCRIBE_BYTES,
            ..Limits::default()
        };
        let max = |dialect, may_command| message_max(&limits, dialect, may_command);
        assert_eq!((max(Dialect::Plain, true), max(Dialect::Plain, false)), (10_000, 2_000));
        for dialect in [Dialect::CentrifugeJson, Dialect::CentrifugeProtobuf] {
            let all = limits.subscriptions * CENTRIFUGE_SUBSCRIBE_BYTES;
            assert!(all > 10_000);
            assert_eq!((max(dialect, true), max(dialect, false)), (all, all));
        }
        let few = Limits { subscriptions: 1, message_bytes: 1_000_000, ..Limits::default() };
        assert_eq!(message_max(&few, Dialect::CentrifugeJson, true), 1_000_000);
        // Never more than a message may have after the token.
        let small = Limits { message_bytes: 1_024, message_bytes_before_auth: 4_096, ..Limits::default() };
        assert_eq!(message_max(&small, Dialect::Plain, false), 1_024);
    }

    #[test]
    fn a_centrifuge_subscribe_is_a_part_of_a_command() {
        let limits = Limits { commands_per_second: 1, commands_burst: 3, ..Limits::default() };
        let sent = |parts: u64| {
            let (rate, mut used_ns) = (command_rate(&limits), 0);
            (0..1_000).take_while(|_| rate.spend(&mut used_ns, 1, parts)).count() as u64
        };
        assert_eq!((sent(COMMAND_PARTS), sent(1)), (3, 3 * COMMAND_PARTS));
    }
}
