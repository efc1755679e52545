//! The sessions of a shard as fan-out sees them.

use bytes::Bytes;

use crate::hub::chunk::Chunk;
use crate::hub::egress::Egress;
use crate::hub::fanout::{Receivers, Subscriptions};
use crate::hub::index::{ChunkId, SessionId, SessionIndex};
use crate::hub::session::SessionTable;
use crate::protocol::Dialect;

/// All sessions of a shard, with their send queues.
pub(in crate::hub) struct SessionReceivers<'a> {
    pub(in crate::hub) sessions: &'a mut SessionTable,
    pub(in crate::hub) egress: &'a mut Egress,
}

impl Receivers for SessionReceivers<'_> {
    fn subscriptions(&mut self, session: SessionIndex) -> Option<&mut Subscriptions> {
        self.sessions.get_mut(session).map(|session| &mut session.subscriptions)
    }

    fn subscriptions_of(&mut self, session: SessionId) -> Option<&mut Subscriptions> {
        self.sessions.by_id(session).map(|session| &mut session.subscriptions)
    }

    fn compress(&mut self, frame: &Bytes) -> Bytes {
        self.egress.compressor.frame(frame)
    }

    fn compress_joined<'a>(&mut self, frames: impl Iterator<Item = &'a Bytes>, dialect: Dialect) -> Bytes {
        self.egress.compressor.joined(frames, dialect)
    }

    fn share(&mut self, chunk: Chunk, sessions: impl Iterator<Item = SessionIndex>) -> ChunkId {
        let chunk = self.egress.outbox.chunk(chunk);
        for index in sessions {
            if let Some(session) = self.sessions.get_mut(index) {
                self.egress.outbox.link(index, &mut session.output.send_queue, chunk);
            }
        }
        chunk
    }
}
