//! Groups: the subscribers of a topic that get the same bytes, because they have the same encoding, compression and
//! rate. A delta is framed, conflated and compressed once per group.

use bytes::Bytes;

use crate::hub::compression::Compression;
use crate::hub::cursor::Cursor;
use crate::hub::index::{BatchId, GroupId, SessionId, SessionIndex};
use crate::protocol::Encoding;
use crate::topic::Slot;

/// A session in a group's list: its index, and whether it lags, so that it does not get the group's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member(u32);

impl Member {
    /// Session indices are far below it, because descriptors are counted in an `i32`.
    const LAGGING: u32 = 1 << 31;

    pub(super) fn new(session: SessionIndex) -> Self {
        Self(u32::try_from(session.at()).unwrap_or(Self::LAGGING) & !Self::LAGGING)
    }

    pub(super) fn session(self) -> SessionIndex {
        SessionIndex::new((self.0 & !Self::LAGGING) as usize)
    }

    pub(super) fn is_lagging(self) -> bool {
        self.0 & Self::LAGGING != 0
    }

    pub(super) fn toggle(&mut self) {
        self.0 ^= Self::LAGGING;
    }
}

/// The subscribers of one topic that get the same bytes.
pub(in crate::hub) struct Group {
    pub(in crate::hub) slot: Slot,
    pub(in crate::hub) encoding: Encoding,
    pub(in crate::hub) compression: Compression,
    /// Its members do not have the previous delta. Delta compression without a rate uses two groups: a new member, or
    /// one that another frame caught up, is in this one until it has got a full delta.
    pub(in crate::hub) needs_full: bool,
    /// For delta compression with a rate: the data that all members have.
    pub(in crate::hub) base: Option<Bytes>,
    /// Least time between two deliveries; 0 is none.
    pub(in crate::hub) interval_ms: u64,
    pub(super) members: Vec<Member>,
    /// With a rate: the position of the members.
    pub(in crate::hub) sent: Cursor,
    /// With a rate: when the next delivery may be sent.
    pub(in crate::hub) due_ms: u64,
    /// With a rate: there is something to deliver.
    pub(in crate::hub) pending: bool,
    /// The topic's state was requested, because no patch expresses what is pending.
    pub(in crate::hub) awaiting: bool,
    /// This tick's deltas for it.
    pub(in crate::hub) batch: Option<BatchId>,
    /// Sessions that joined while something was pending: they are ahead of the group until it delivers.
    pub(in crate::hub) joiners: Vec<SessionId>,
}

/// A session's place in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hub) struct Subscription {
    pub(in crate::hub) group: GroupId,
    pub(super) pos: u32,
}

impl Group {
    /// Members that get the group's frames.
    pub(in crate::hub) fn receivers(&self) -> impl Iterator<Item = SessionIndex> {
        self.members.iter().filter(|member| !member.is_lagging()).map(|member| member.session())
    }

    /// Members that lag and do not get the group's frames.
    pub(in crate::hub) fn lagging(&self) -> impl Iterator<Item = SessionIndex> {
        self.members.iter().filter(|member| member.is_lagging()).map(|member| member.session())
    }

    /// All members.
    pub(in crate::hub) fn members(&self) -> impl Iterator<Item = SessionIndex> {
        self.members.iter().map(|member| member.session())
    }

    /// Number of members, including those that lag.
    pub(in crate::hub) fn len(&self) -> usize {
        self.members.len()
    }
}

/// A subscription whose place in its group changed.
pub(in crate::hub) struct Moved {
    pub(in crate::hub) session: SessionIndex,
    pub(in crate::hub) from: Subscription,
    pub(in crate::hub) to: Subscription,
}
