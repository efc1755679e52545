//! What fan-out needs of sessions, and what it returns to the shard.

use bytes::Bytes;

use super::subscriptions::Subscriptions;
use crate::hub::chunk::Chunk;
use crate::hub::compression::Compression;
use crate::hub::index::{ChunkId, GroupId, SessionId, SessionIndex};
use crate::name::TopicName;
use crate::protocol::Dialect;

/// The sessions of a shard, as fan-out sees them: subscriptions and send queues.
pub(in crate::hub) trait Receivers {
    /// The subscriptions of the session at this index.
    fn subscriptions(&mut self, session: SessionIndex) -> Option<&mut Subscriptions>;

    /// The subscriptions of this session, if it still exists.
    fn subscriptions_of(&mut self, session: SessionId) -> Option<&mut Subscriptions>;

    /// Returns a frame, compressed if that makes it smaller.
    fn compress(&mut self, frame: &Bytes) -> Bytes;

    /// Compresses several frames into one message.
    fn compress_joined<'a>(&mut self, frames: impl Iterator<Item = &'a Bytes>, dialect: Dialect) -> Bytes;

    /// Appends a chunk to the send queues of these sessions, which share it.
    fn share(&mut self, chunk: Chunk, sessions: impl Iterator<Item = SessionIndex>) -> ChunkId;
}

/// Work for the shard that follows from fan-out.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::hub) enum Followup {
    /// No patch expresses what a group with a rate has pending: its topic's state is needed.
    NeedsState { topic: TopicName, group: GroupId },
    /// The group of a lagging subscription has delivered: the session may catch up with it now.
    CanCatchUp { session: SessionId, group: GroupId },
}

/// A chunk of one frame, compressed as the members of a group get it.
pub(super) fn compressed(chunk: Chunk, compression: Compression, to: &mut impl Receivers) -> Chunk {
    if compression == Compression::Plain { chunk } else { chunk.compressed(|frame| to.compress(frame)) }
}
