//! What crosses between the control plane and a shard, in both directions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::allowance::Allowance;
use super::backend::Member;
use super::index::{RequestId, SessionId};
use super::lifecycle::Share;
use super::new_session::NewSession;
use crate::accounts::{self, Held, allocated};
use crate::auth::{Grant, Identity, TokenError};
use crate::name::TopicName;
use crate::position::{Offset, Position};
use crate::protocol::{Centrifuge, CommandId, Encoding, HistoryQuery, MembershipChange, Refusal};
use crate::topic::{Attachment, Delta, Payload, Replay, ShardId, Slot, Snapshot};

/// Selects the sessions that an operator's order applies to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The user: `sub` of the sessions' tokens.
    pub user: String,
    /// If set, only this session of the user.
    pub client: Option<String>,
    /// Sessions of the user that are left out.
    pub except: Vec<String>,
}

/// An operator's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Close the sessions.
    Disconnect {
        /// Code of the close frame. Clients reconnect for codes below 3500 and from 4000 to 4499.
        code: u16,
        /// Reason in the close frame.
        reason: String,
    },
    /// End the sessions' subscription to a topic.
    Unsubscribe {
        /// Topic.
        topic: TopicName,
    },
    /// Subscribe the sessions to a topic, within their limits.
    Subscribe {
        /// Topic.
        topic: TopicName,
        /// The position to recover from.
        since: Option<Position>,
    },
    /// Replace the expiry of the sessions' tokens.
    Refresh {
        /// The sessions expire now.
        expired: bool,
        /// When the sessions expire, Unix s; `None` is never.
        expires_s: Option<u64>,
    },
}

/// Why a token was checked.
#[derive(Debug)]
pub(super) enum Purpose {
    /// `connect`, at the session's beginning.
    Auth,
    /// `refresh`, to extend the session.
    Connect,
    /// Its continuation.
    Refresh,
}

/// The result of a subscribe: the topic, and the claims of its token.
pub(super) struct Attached {
    pub(super) attachment: Attachment,
    pub(super) grant: Option<Grant>,
}

/// A topic's state on its way to a shard. It is counted until the shard has handled it.
pub(super) struct OnItsWay {
    pub(super) snapshot: Arc<Snapshot>,
    _held: Held,
}

impl OnItsWay {
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        let held = Held::of(&accounts::SNAPSHOTS_SENT, snapshot.weight());
        Self { snapshot, _held: held }
    }
}

/// Messages to a shard.
pub(super) enum Event {
    Open(Box<NewSession>),
    Delta {
        slot: Slot,
        delta: Arc<Delta>,
    },
    Reset {
        slot: Slot,
        snapshot: Arc<Snapshot>,
    },
    Stale {
        slot: Slot,
        since_ms: Option<u64>,
    },
    Membership {
        slot: Slot,
        change: Arc<MembershipChange>,
    },
    Attached {
        ask: RequestId,
        result: Result<Box<Attached>, Refusal>,
    },
    Snapshot {
        ask: RequestId,
        snapshot: OnItsWay,
    },
    Replayed {
        ask: RequestId,
        replay: Option<Box<Replay>>,
    },
    /// A fault prevented the answer to a request for a state or a replay.
    Unanswered {
        ask: RequestId,
        topic: TopicName,
    },
    Detached {
        slot: Slot,
    },
    Authenticated {
        session: SessionId,
        id: CommandId,
        purpose: Purpose,
        result: Result<Box<Identity>, TokenError>,
    },
    SubRefreshed {
        session: SessionId,
        id: CommandId,
        slot: Slot,
        result: Result<Grant, TokenError>,
    },
    /// The reply to a command that a backend answered.
    Answered {
        session: SessionId,
        reply: Bytes,
    },
    /// Boxed: orders are rare, and the largest variant sets the size of every event.
    Order(Box<(Who, Order)>),
    /// Requests the number of subscribers of each topic that matches a pattern.
    CountSubscribers {
        fits: Arc<dyn Fn(&str) -> bool + Send + Sync>,
        max: usize,
        counts: flume::Sender<Vec<(TopicName, u64)>>,
    },
    Drain {
        window: Duration,
    },
    /// Closes some of the sessions so that they reconnect to other nodes.
    Rebalance {
        share: Share,
        window: Duration,
    },
    Hurry,
}

impl Event {
    /// Whether a busy shard may delay it by a few ms. Answers that a client waits for may not be delayed.
    pub(super) fn may_wait(&self) -> bool {
        matches!(self, Self::Open(_) | Self::Delta { .. } | Self::Stale { .. } | Self::Membership { .. })
    }
}

/// A token, and the session that sent it.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) token: String,
    pub(super) user: String,
    pub(super) session: SessionId,
}

/// A session's request that is not about topics' data.
#[derive(Debug)]
pub(super) enum Ask {
    History(HistoryQuery),
    Presence,
    PresenceStats,
    Publish(Payload),
}

/// A subscribe.
#[derive(Debug, Clone)]
pub(super) struct Attach {
    pub(super) shard: ShardId,
    pub(super) ask: RequestId,
    pub(super) slot: Slot,
    pub(super) topic: TopicName,
    pub(super) encoding: Encoding,
    pub(super) since: Option<Position>,
    /// The session that sent the first of these equal requests.
    pub(super) session: SessionId,
    /// That session's identity, if it recovers.
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) history: u32,
    /// The user or address that a new topic is counted for, if the topic was never published.
    pub(super) maker: u64,
}

/// A request, counted while it is in progress.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) held: Held,
}

impl Asked {
    pub(super) fn new(request: Request) -> Self {
        let held = Held::of(&accounts::ASKED, request.bytes());
        Self { request, held }
    }
}

/// Requests of one tick. Their bytes count as unread until this is dropped.
pub(super) struct RequestBatch {
    pub(super) requests: Vec<Asked>,
    bytes: usize,
    unseen: Arc<AtomicUsize>,
}

impl RequestBatch {
    pub(super) fn new(requests: Vec<Asked>, bytes: usize, unseen: &Arc<AtomicUsize>) -> Self {
        unseen.fetch_add(bytes, Ordering::Relaxed);
        Self { requests, bytes, unseen: unseen.clone() }
    }
}

impl Drop for RequestBatch {
    fn drop(&mut self) {
        self.unseen.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Messages from a shard to the control plane.
#[derive(Debug)]
pub(super) enum Request {
    /// If there is a subscription token, it must be valid, or the subscribe fails.
    Attach(Attach, Option<Box<Shown>>),
    Snapshot {
        shard: ShardId,
        ask: RequestId,
        topic: TopicName,
        /// It is for a lagging subscription, not for a client's command.
        lagging: bool,
    },
    Replay {
        shard: ShardId,
        ask: RequestId,
        topic: TopicName,
        encoding: Encoding,
        after: Offset,
    },
    Detach {
        shard: ShardId,
        slot: Slot,
        topic: TopicName,
    },
    Authenticate {
        shard: ShardId,
        session: SessionId,
        id: CommandId,
        purpose: Purpose,
        token: String,
        /// The session's current identity.
        held: Option<Arc<Identity>>,
    },
    SubRefresh {
        shard: ShardId,
        session: SessionId,
        id: CommandId,
        slot: Slot,
        topic: TopicName,
        shown: Shown,
    },
    Topic {
        shard: ShardId,
        session: SessionId,
        dialect: Centrifuge,
        id: CommandId,
        topic: TopicName,
        ask: Ask,
        /// The bytes of answers charged to the session so far.
        asked: Allowance,
    },
    Call {
        shard: ShardId,
        session: SessionId,
        dialect: Centrifuge,
        id: CommandId,
        client: String,
        user: String,
        method: String,
        data: Bytes,
        asked: Allowance,
    },
    Joined {
        topic: TopicName,
        member: Box<Member>,
    },
    Left {
        topic: TopicName,
        member: Box<Member>,
    },
}

impl Request {
    /// Bytes of memory of its own, without what it shares.
    fn bytes(&self) -> usize {
        let shown = |shown: &Shown| size_of::<Shown>() + allocated(shown.token.len()) + allocated(shown.user.len());
        let more = match self {
            Self::Attach(_, with_token) => with_token.as_deref().map_or(0, shown),
            Self::Authenticate { token, .. } => allocated(token.len()),
            Self::SubRefresh { shown: with, .. } => shown(with),
            Self::Topic { ask: Ask::Publish(payload), .. } => allocated(payload.bytes().len()),
            Self::Call { client, user, method, data, .. } => {
                allocated(client.len()) + allocated(user.len()) + allocated(method.len()) + allocated(data.len())
            }
            _ => 0,
        };
        size_of::<Asked>() + more
    }
}
