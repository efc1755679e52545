//! Carries out closes: the only place of the tick where sessions leave their topics and the table.

use std::borrow::Cow;
use std::io::Write as _;

use bytes::Bytes;

use super::shard::Shard;
use crate::hub::clock::clock32;
use crate::hub::close_queue::{Ending, cut_short};
use crate::hub::fanout::Subscriptions;
use crate::hub::index::SessionIndex;
use crate::hub::lifecycle::{HURRY_MS, PacedClose, millis};
use crate::hub::session::{Reading, Session};
use crate::hub::stage::Stage;
use crate::limits::CLOSE_TIMEOUT;
use crate::wire::close::CloseReason;
use crate::wire::frame::{self, Opcode};

impl Shard {
    /// Requests the closing handshake of a live session.
    pub(in crate::hub) fn close(&mut self, index: SessionIndex, reason: CloseReason) {
        let Some(session) = self.sessions.get(index) else { return };
        let code = session.output.dialect.close_code(reason);
        self.close_with(index, reason, code, reason.reason());
    }

    /// As `close`, with another code and text than the reason's.
    pub(in crate::hub) fn close_with(
        &mut self,
        index: SessionIndex,
        reason: CloseReason,
        code: u16,
        text: impl Into<Cow<'static, str>>,
    ) {
        self.end(index, Ending::Close { reason, code, text: text.into() });
    }

    /// Requests the removal of a session whose socket is closed or no longer useful.
    pub(in crate::hub) fn drop_session(&mut self, index: SessionIndex) {
        self.end(index, Ending::Drop);
    }

    pub(in crate::hub) fn end(&mut self, index: SessionIndex, ending: Ending) {
        if let Some(session) = self.sessions.get_mut(index) {
            self.close_queue.ask(index, session, ending, &self.stats);
        }
    }

    /// Carries out the closes that were requested since the last tick.
    pub(in crate::hub) fn end_sessions(&mut self) {
        let mut requested = self.close_queue.take();
        for (key, ending) in requested.drain(..) {
            self.leave_all(key.index);
            match ending {
                Ending::Close { reason, code, text } => {
                    self.stats.close(reason);
                    self.begin_close(key.index, code, &text);
                }
                Ending::Answer { code } => self.answer_close(key.index, &code),
                Ending::Drop => self.forget(key.index),
            }
        }
        self.close_queue.reuse(requested);
    }

    /// Sends a close frame. The client has some time to answer.
    fn begin_close(&mut self, index: SessionIndex, code: u16, text: &str) {
        let hurry = self.drain.as_ref().is_some_and(PacedClose::is_hurried);
        let timeout_ms = if hurry { HURRY_MS } else { millis(CLOSE_TIMEOUT) };
        let until_ms = clock32(self.clock.now_ms + timeout_ms);
        let Some(session) = self.sessions.get_mut(index).filter(|s| s.output.stage == Stage::Ending) else { return };
        (session.output.stage, session.output.close_by_ms) = (Stage::Closing, until_ms);
        self.send_last(index, frame::close_with(code, text));
        // The client's close frame is read next; it may have come while the session was not read.
        self.wait_for(index, Reading::Turn);
    }

    /// Answers a client's close frame. The session is dropped once the answer is written.
    fn answer_close(&mut self, index: SessionIndex, code: &[u8]) {
        let Some(session) = self.sessions.get_mut(index).filter(|s| s.output.stage == Stage::Ending) else { return };
        session.output.stage = Stage::Done;
        self.send_last(index, frame::frame(Opcode::Close, code));
    }

    /// Sends the last frame of a session. If its socket is full, the backlog is dropped first: frames after a gap would
    /// look like lost deltas.
    fn send_last(&mut self, index: SessionIndex, frame: Bytes) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        if cut_short(session, &self.stats) {
            let send_queue = session.output.send_queue.take();
            self.egress.outbox.release(send_queue);
            self.writable.push(index);
        }
        self.send(index, frame);
    }

    /// Removes a session from all its topics.
    fn leave_all(&mut self, index: SessionIndex) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let key = session.key(index);
        let lagging = std::mem::take(&mut session.subscriptions.lagging);
        let specials = session.client.as_mut().map(|c| std::mem::take(&mut c.specials)).unwrap_or_default();
        for special in specials {
            self.depart(special);
        }
        for pending in lagging.iter().filter_map(|lagging| lagging.snapshot) {
            self.snapshot_answered(pending);
        }
        while let Some(subscription) = self.sessions.get_mut(index).and_then(|s| s.subscriptions.list.pop()) {
            self.leave(subscription);
        }
        if let Some(session) = self.sessions.get_mut(index) {
            session.subscriptions = Subscriptions::default();
        }
        self.allowances.waits_no_more(key);
    }

    /// Removes a session; its socket closes.
    fn forget(&mut self, index: SessionIndex) {
        let Some(mut session) = self.sessions.remove(index) else { return };
        self.allowances.forget(session.key(index));
        self.egress.outbox.release(session.output.send_queue.take());
        self.send_close_alert(&mut session);
        // Dropping the last reference to the socket closes it, and ends the poll's registration.
        drop(session);
    }

    /// Sends TLS's closing alert (RFC 8446 §6.1) if the socket takes it at once; the session does not wait for it.
    fn send_close_alert(&self, session: &mut Session) {
        if let Some(tls) = &mut session.output.tls {
            tls.close();
            let _ = session.output.socket.write(tls.due());
        }
    }
}
