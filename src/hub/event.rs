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

/// Which sessions an operator means.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// `sub` of their tokens.
    pub user: String,
    /// Only this session of the user.
    pub client: Option<String>,
    /// Not these.
    pub except: Vec<String>,
}

/// What an operator orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Close the sessions.
    Disconnect {
        /// Of the close frame: below 3500 (or from 4000 below 4500) clients come back.
        code: u16,
        /// Of the close frame.
        reason: String,
    },
    /// End their subscription of a topic.
    Unsubscribe {
        /// Topic.
        topic: TopicName,
    },
    /// Subscribe them to a topic, as far as their limits go.
    Subscribe {
        /// Topic.
        topic: TopicName,
        /// What they are to recover from.
        since: Option<Position>,
    },
    /// Let them go on for another time than their tokens say.
    Refresh {
        /// They end now.
        expired: bool,
        /// When they end, Unix s; `None` is never.
        expires_s: Option<u64>,
    },
}

/// Why a token was checked.
#[derive(Debug)]
pub(super) enum Purpose {
    /// `auth` of `plain`.
    Auth,
    /// The session's beginning.
    Connect,
    /// Its continuation.
    Refresh,
}

/// What a subscribe got: the topic, and what its token says.
pub(super) struct Attached {
    pub(super) attachment: Attachment,
    pub(super) grant: Option<Grant>,
}

/// A topic's state on its way to a shard, counted until the shard has dealt with it.
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

/// To a shard.
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
    /// Neither a topic's state nor a replay of it came, because of a fault.
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
    /// The reply to a command that was answered beyond the hub.
    Answered {
        session: SessionId,
        reply: Bytes,
    },
    /// Boxed: it is seldom, and the largest that there is would be the size of every event.
    Order(Box<(Who, Order)>),
    /// How many are subscribed to what, of the topics that fit?
    CountSubscribers {
        fits: Arc<dyn Fn(&str) -> bool + Send + Sync>,
        max: usize,
        counts: flume::Sender<Vec<(TopicName, u64)>>,
    },
    Drain {
        window: Duration,
    },
    /// Some of the sessions are to go to other nodes.
    Rebalance {
        share: Share,
        window: Duration,
    },
    Hurry,
}

impl Event {
    /// Whether a busy shard may take it a few ms later. Answers that a client's next step depends on may not wait.
    pub(super) fn may_wait(&self) -> bool {
        matches!(self, Self::Open(_) | Self::Delta { .. } | Self::Stale { .. } | Self::Membership { .. })
    }
}

/// A token and who shows it.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) token: String,
    pub(super) user: String,
    pub(super) session: SessionId,
}

/// Something that a session asks for beyond topics.
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
    /// The first who asked.
    pub(super) session: SessionId,
    /// Who that is, if it recovers.
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) history: u32,
    /// The user or address whose share the topic counts in, if it was never published.
    pub(super) maker: u64,
}

/// A request, counted as long as it is under way.
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

/// Requests of one tick, on their way. Their bytes count as not looked at until this is dropped.
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

/// From a shard to the control plane.
#[derive(Debug)]
pub(super) enum Request {
    /// The subscription token, if there is one, must be valid, or the subscribe fails.
    Attach(Attach, Option<Box<Shown>>),
    Snapshot {
        shard: ShardId,
        ask: RequestId,
        topic: TopicName,
        /// It is for who lags, and not for a client that asked for it.
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
        /// Who it was until now.
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
        /// What the session has asked for so far.
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
    /// Bytes of memory, without what it shares with others.
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
