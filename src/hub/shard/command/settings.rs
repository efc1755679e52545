//! `session`: how a client wants to be written to.

use crate::hub::egress::Pace;
use crate::hub::index::SessionIndex;
use crate::hub::shard::shard::Shard;
use crate::protocol::SessionWishes;

impl Shard {
    /// Serves a session as its client wishes.
    pub(in crate::hub::shard) fn tune(&mut self, index: SessionIndex, wishes: SessionWishes) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        if let Some(floor_ms) = wishes.flush_interval_ms {
            session.output.send_queue.floor_ms = floor_ms;
        }
        if let Some(batch) = wishes.batch {
            session.output.batch = batch;
        }
        match wishes.bytes_per_second {
            None => {}
            Some(0) => session.output.pace = None,
            Some(rate) => session.output.pace = Some(Box::new(Pace::new(rate))),
        }
        // What waits for the old ceiling may go now.
        if session.output.backlog.is_some() {
            self.writable.push(index);
        }
    }
}
