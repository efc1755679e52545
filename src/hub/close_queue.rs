//! How sessions end. Any code may request a close; the shard carries it out at one place of its tick. So code that
//! iterates over sessions, groups or send queues never sees one of them disappear.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::index::{SessionId, SessionIndex};
use super::session::Session;
use super::stage::Stage;
use crate::metrics::ShardStats;
use crate::wire::close::CloseReason;

/// How a session ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The server begins the closing handshake (RFC 6455 §7.1.2).
    Close { reason: CloseReason, code: u16, text: Cow<'static, str> },
    /// The client began it: the server answers with the client's code (RFC 6455 §5.5.1).
    Answer { code: SmallVec<[u8; 2]> },
    /// Nothing more can be sent: the socket closes.
    Drop,
}

/// Closes that were requested and not yet carried out. At most two per session, because a closed session may still be
/// dropped.
#[derive(Debug, Default)]
pub(super) struct CloseQueue {
    requested: Vec<(SessionId, Ending)>,
}

impl CloseQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.requested.is_empty()
    }

    /// Takes the requested closes.
    pub(super) fn take(&mut self) -> Vec<(SessionId, Ending)> {
        std::mem::take(&mut self.requested)
    }

    /// Returns the emptied list, so that its memory is reused in the next tick.
    pub(super) fn reuse(&mut self, requested: Vec<(SessionId, Ending)>) {
        debug_assert!(requested.is_empty() && self.is_empty(), "ending a session must not request another end");
        self.requested = requested;
    }

    /// Requests the end of a session. From now on the session is not live: it is neither read nor written, and its
    /// memory is released. Ignored if it has already ended, or is ending, in this way or a more abrupt one.
    pub(super) fn ask(&mut self, index: SessionIndex, session: &mut Session, ending: Ending, stats: &ShardStats) {
        let stage = match ending {
            Ending::Close { .. } | Ending::Answer { .. } if session.is_live() => Stage::Ending,
            Ending::Drop if session.output.stage != Stage::Dropped => Stage::Dropped,
            _ => return,
        };
        let disconnects = match ending {
            Ending::Close { .. } => false,
            Ending::Answer { .. } => true,
            Ending::Drop => session.is_live(),
        };
        stats.disconnects.add(u64::from(disconnects));
        session.output.stage = stage;
        session.deferred = None;
        if stage == Stage::Dropped {
            session.inbox = None;
            if let Some(backlog) = session.output.backlog.take() {
                stats.slow_sessions.sub(1);
                stats.backlog_bytes.sub(backlog.len() as u64);
            }
        } else {
            cut_short(session, stats);
        }
        self.requested.push((session.key(index), ending));
    }
}

/// Drops a closing session's output, except for the rest of a frame that was partly sent. Returns `false` if no output
/// is left.
pub(super) fn cut_short(session: &mut Session, stats: &ShardStats) -> bool {
    let Some(backlog) = &mut session.output.backlog else { return false };
    let before = backlog.len();
    backlog.cut_short();
    stats.backlog_bytes.sub((before - backlog.len()) as u64);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Dialect;

    fn session() -> Session {
        Session::unserved(Dialect::Plain, 1, 0)
    }

    fn close() -> Ending {
        Ending::Close { reason: CloseReason::Slow, code: 4000, text: "slow".into() }
    }

    #[test]
    fn a_session_is_closed_once_and_may_be_dropped_after_that() {
        let (mut queue, stats) = (CloseQueue::default(), ShardStats::default());
        let (mut session, index) = (session(), SessionIndex::new(0));
        queue.ask(index, &mut session, close(), &stats);
        assert_eq!(session.output.stage, Stage::Ending);
        queue.ask(index, &mut session, close(), &stats);
        queue.ask(index, &mut session, Ending::Answer { code: SmallVec::new() }, &stats);
        queue.ask(index, &mut session, Ending::Drop, &stats);
        queue.ask(index, &mut session, Ending::Drop, &stats);
        queue.ask(index, &mut session, close(), &stats);
        let requested: Vec<Ending> = queue.take().into_iter().map(|(_, ending)| ending).collect();
        assert_eq!(requested, [close(), Ending::Drop]);
        assert_eq!(session.output.stage, Stage::Dropped);
    }

    #[test]
    fn clients_that_leave_are_counted_as_such_and_those_that_are_closed_are_not() {
        for (ending, disconnects) in [(close(), 0), (Ending::Answer { code: SmallVec::new() }, 1), (Ending::Drop, 1)] {
            let (mut queue, stats) = (CloseQueue::default(), ShardStats::default());
            queue.ask(SessionIndex::new(0), &mut session(), ending, &stats);
            assert_eq!(stats.disconnects.get(), disconnects);
        }
    }
}
