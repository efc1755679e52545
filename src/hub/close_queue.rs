//! How sessions end. A close is asked for wherever its cause is found, and carried out at one place of the tick: nothing that
//! looks at sessions, groups or send queues has to expect that one of them goes away meanwhile.

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
    /// The client began it: its close frame is answered with the code that came (RFC 6455 §5.5.1).
    Answer { code: SmallVec<[u8; 2]> },
    /// Nothing can be said any more: the socket closes.
    Drop,
}

/// Ends that were asked for and not carried out yet: at most two for each session, as one that is closed may be dropped.
#[derive(Debug, Default)]
pub(super) struct CloseQueue {
    asked: Vec<(SessionId, Ending)>,
}

impl CloseQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Takes what was asked for.
    pub(super) fn take(&mut self) -> Vec<(SessionId, Ending)> {
        std::mem::take(&mut self.asked)
    }

    /// Gives the list back, emptied, so that none is made for each tick.
    pub(super) fn reuse(&mut self, asked: Vec<(SessionId, Ending)>) {
        debug_assert!(asked.is_empty() && self.is_empty(), "to end a session ends no other");
        self.asked = asked;
    }

    /// Asks for the end of a session. From now on it is not live, is neither read nor written, and what only it waits for is
    /// given back. Ignored where it has ended, or is ending, in this way or a shorter one.
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
        self.asked.push((session.key(index), ending));
    }
}

/// Gives back what waits for a session that goes, but for the rest of a frame that was begun. `false` if nothing waits.
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
        let asked: Vec<Ending> = queue.take().into_iter().map(|(_, ending)| ending).collect();
        assert_eq!(asked, [close(), Ending::Drop]);
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
