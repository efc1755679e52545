//! What crosses between the control plane and a shard, in both directions.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::auth::Identity;
use crate::name::TopicName;
use crate::position::{Offset, Position};
use crate::protocol::{CommandId, Dialect, Refusal};
use crate::topic::{Attachment, Delta, Replay, ShardId, Slot, Snapshot};

/// A session of one shard. The generation tells a session from a later one in the same slab entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SessionKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// Released when the session ends; the front door counts sessions by address with it.
pub trait Permit: Send + Sync {}

/// A socket that was upgraded, on its way to a shard.
pub struct NewSession {
    /// The socket, in non-blocking mode.
    pub socket: TcpStream,
    /// How it speaks.
    pub dialect: Dialect,
    /// Bytes that came behind the upgrade request.
    pub early: Bytes,
    /// Who it is, if it said so in the request.
    pub identity: Option<Identity>,
    /// Kept as long as the session lives.
    pub permit: Option<Box<dyn Permit>>,
}

/// To a shard.
pub(super) enum Event {
    Open(Box<NewSession>),
    Delta { slot: Slot, delta: Arc<Delta> },
    Reset { slot: Slot, snapshot: Arc<Snapshot> },
    Stale { slot: Slot, since_ms: Option<u64> },
    Attached { ask: u32, result: Result<Box<Attachment>, Refusal> },
    Snapshot { ask: u32, snapshot: Arc<Snapshot> },
    Replayed { ask: u32, replay: Option<Box<Replay>> },
    Detached { slot: Slot },
    Authenticated { session: SessionKey, id: CommandId, result: Result<Box<Identity>, String> },
    Drain { window: Duration },
    Hurry,
}

/// From a shard to the control plane.
#[derive(Debug)]
pub(super) enum Request {
    Attach {
        shard: ShardId,
        ask: u32,
        slot: Slot,
        topic: TopicName,
        dialect: Dialect,
        since: Option<Position>,
        history: u32,
    },
    Snapshot {
        shard: ShardId,
        ask: u32,
        topic: TopicName,
    },
    Replay {
        shard: ShardId,
        ask: u32,
        topic: TopicName,
        dialect: Dialect,
        after: Offset,
    },
    Detach {
        shard: ShardId,
        slot: Slot,
        topic: TopicName,
    },
    Authenticate {
        shard: ShardId,
        session: SessionKey,
        id: CommandId,
        token: String,
    },
}
