//! One connected client, as its shard knows it: a slab entry. What few sessions need is boxed.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use mio::net::TcpStream;
use smallvec::SmallVec;
use thin_vec::ThinVec;

use super::backlog::Backlog;
use super::client::Client;
use super::event::{Permit, SessionKey};
use super::outbox::Chain;
use super::pacing::{Pace, clock32};
use super::subscribers::{Cursor, NONE, Subscribers, Subscription};
use super::turns::Reading;
use crate::accounts::{self, Held, allocated};
use crate::auth::Identity;
use crate::protocol::{Dialect, SubscribeItem};
use crate::topic::{ShardId, Slot};
use crate::wire::inbox::Inbox;
use crate::wire::tls::Tls;

/// A session. Times are in ms of the low half of the shard's clock.
pub(super) struct Session {
    pub(super) socket: TcpStream,
    /// Set where its bytes are sealed.
    pub(super) tls: Option<Box<Tls>>,
    pub(super) dialect: Dialect,
    /// permessage-deflate was negotiated.
    pub(super) deflate: bool,
    pub(super) stage: Stage,
    /// How far the ping is that was sent since the client was last heard.
    pub(super) ping: Ping,
    /// The poll tells when it takes bytes again.
    pub(super) watched: bool,
    pub(super) generation: u32,
    /// Whether it is read, or what it waits for.
    pub(super) reading: Reading,
    /// Subscribes under way.
    pub(super) attaching: u16,
    /// What waits for the next visit.
    pub(super) chain: Chain,
    /// Several deliveries are to come in one message (`plain`; in Centrifuge they always do).
    pub(super) batch: bool,
    /// When it was last visited, in the low half of the shard's clock.
    pub(super) visited_ms: u32,
    /// The earliest timer that looks at it, likewise; 0 is none.
    pub(super) timer_ms: u32,
    /// Its ceiling on bytes a second.
    pub(super) pace: Option<Box<Pace>>,
    pub(super) opened_ms: u32,
    /// When the client was last heard; once a ping was written, since when it can answer that.
    pub(super) heard_ms: u32,
    /// What it has used of its rate of commands ([`crate::rate::Rate`]), in ns of the shard's clock.
    pub(super) commands_used_ns: u64,
    /// In order of their lanes. Two fit in place of the pointer that more of them need.
    pub(super) subscriptions: SmallVec<[Subscription; 2]>,
    /// A message under way.
    pub(super) inbox: Option<Box<Inbox>>,
    /// Set while the socket is full.
    pub(super) backlog: Option<Box<Backlog>>,
    /// Subscriptions that stand elsewhere than their lane.
    pub(super) holds: ThinVec<Hold>,
    /// Commands that wait for an earlier one's answer.
    pub(super) deferred: Option<Box<Deferred>>,
    pub(super) identity: Option<Arc<Identity>>,
    /// What not every session needs.
    pub(super) client: Option<Box<Client>>,
    /// Boxed twice: most sessions have none, and this is the smaller.
    pub(super) permit: Option<Box<Box<dyn Permit>>>,
}

/// A permit in its boxes, and its share of its address's entry.
const PERMIT_BYTES: usize = 96;

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// No valid command yet.
    New,
    Open,
    /// A close frame is on its way or sent; the peer's is awaited until this time.
    Closing {
        until_ms: u32,
    },
    /// Nothing more to say: dropped once what is due has been written.
    Done,
}

/// A ping that the client has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ping {
    /// There is none.
    None,
    /// It waits to be written.
    Queued,
    /// The socket has taken all of it.
    Written,
}

/// A subscription whose owner must be brought to where its lane is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hold {
    pub(super) subscription: Subscription,
    pub(super) cursor: Cursor,
    /// A snapshot was asked for and will do it.
    pub(super) awaiting: bool,
    /// The snapshot command that waits until a stream's replay has been sent, or [`NONE`].
    pub(super) snapshot: u32,
}

impl Hold {
    pub(super) fn new(subscription: Subscription, cursor: Cursor) -> Self {
        Self { subscription, cursor, awaiting: false, snapshot: NONE }
    }
}

/// What is left of a message whose commands depend on the answer to an earlier one. The messages behind it are not read.
#[derive(Debug)]
pub(super) struct Deferred {
    pub(super) rest: Vec<u8>,
    /// A token is being checked, or the session is being set up.
    pub(super) authenticating: bool,
    /// Of a connect whose token is being checked: the positions that it brought.
    items: Vec<SubscribeItem>,
    /// The answer has come: the rest is heard when the session has its turn.
    pub(super) ready: bool,
    /// Since when, by the shard's clock.
    pub(super) since_ms: u64,
    account: Held,
}

impl Deferred {
    pub(super) fn new(authenticating: bool, since_ms: u64) -> Self {
        let account = Held::none(&accounts::INCOMING);
        Self { rest: Vec::new(), authenticating, items: Vec::new(), ready: false, since_ms, account }
    }

    /// What is left of the message.
    pub(super) fn keep(&mut self, rest: &[u8]) {
        self.rest = rest.to_vec();
        self.count();
    }

    /// What is to be done once the token has been checked.
    pub(super) fn keep_items(&mut self, items: Vec<SubscribeItem>) {
        self.items = items;
        self.count();
    }

    pub(super) fn take_items(&mut self) -> Vec<SubscribeItem> {
        let items = std::mem::take(&mut self.items);
        self.count();
        items
    }

    fn count(&mut self) {
        let entries = allocated(self.items.capacity() * size_of::<SubscribeItem>());
        let items: usize = self.items.iter().map(SubscribeItem::boxed_bytes).sum();
        self.account.set(self.rest.capacity() + entries + items);
    }
}

impl Session {
    pub(super) fn key(&self, index: u32) -> SessionKey {
        SessionKey { index, generation: self.generation }
    }

    /// Whether deliveries and replies still make sense.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.stage, Stage::New | Stage::Open)
    }

    /// A subscription is at another place now.
    pub(super) fn moved(&mut self, from: Subscription, to: Subscription) {
        if let Some(at) = self.place_of(from.lane)
            && let Some(place) = self.subscriptions.get_mut(at).filter(|s| **s == from)
        {
            if from.lane == to.lane {
                *place = to;
            } else {
                self.subscriptions.remove(at);
                self.add(to);
            }
        }
        for hold in self.holds.iter_mut().filter(|h| h.subscription == from) {
            hold.subscription = to;
        }
    }

    /// Where its subscription in a lane is among the others.
    pub(super) fn place_of(&self, lane: u32) -> Option<usize> {
        self.subscriptions.binary_search_by_key(&lane, |s| s.lane).ok()
    }

    /// Where its subscription of a topic is among the others.
    pub(super) fn place_in(&self, subscribers: &Subscribers, topic: Slot) -> Option<usize> {
        subscribers.topic(topic)?.lanes.iter().find_map(|lane| self.place_of(*lane))
    }

    /// Keeps a subscription that has begun.
    pub(super) fn add(&mut self, subscription: Subscription) {
        let at = self.subscriptions.partition_point(|s| s.lane < subscription.lane);
        self.subscriptions.insert(at, subscription);
    }

    /// The number under which topics that only it wants are counted: its user's, or else its address's, or else its own.
    pub(super) fn maker(&self, shard: ShardId, key: SessionKey) -> u64 {
        let mut hasher = DefaultHasher::new();
        let user = self.identity.as_ref().map(|identity| identity.user.as_str()).filter(|user| !user.is_empty());
        match (user, self.permit.as_ref().and_then(|permit| permit.address())) {
            (Some(user), _) => (0u8, user).hash(&mut hasher),
            (None, Some(address)) => (1u8, address).hash(&mut hasher),
            (None, None) => (2u8, shard, key).hash(&mut hasher),
        }
        hasher.finish()
    }

    /// Bytes of messages that are not whole, or wait.
    pub(super) fn incoming_bytes(&self) -> usize {
        self.inbox.as_ref().map_or(0, |inbox| inbox.bytes())
            + self.deferred.as_ref().map_or(0, |deferred| deferred.account.bytes())
            + self.tls.as_ref().map_or(0, |tls| tls.partial_bytes())
    }

    /// Bytes of memory beside its entry, of what is not counted elsewhere.
    pub(super) fn boxed_bytes(&self) -> usize {
        let spilled = if self.subscriptions.spilled() { self.subscriptions.capacity() } else { 0 };
        let identity = self.identity.as_ref().map_or(0, |identity| identity.bytes());
        allocated(spilled * size_of::<Subscription>())
            + allocated(self.holds.capacity() * size_of::<Hold>())
            + self.pace.as_ref().map_or(0, |_| size_of::<Pace>())
            + self.tls.as_ref().map_or(0, |tls| tls.bytes())
            + self.client.as_ref().map_or(0, |client| client.bytes())
            + self.permit.as_ref().map_or(0, |_| PERMIT_BYTES)
            + identity
    }

    /// The socket has taken all that was to be written: a client that was pinged has its time from now on.
    pub(super) fn written(&mut self, now_ms: u64) {
        if self.ping != Ping::None && self.chain.is_empty() {
            self.ping = Ping::Written;
            self.heard_ms = clock32(now_ms);
        }
    }

    /// The hold of a subscription.
    pub(super) fn hold_of(&self, subscription: Subscription) -> Option<usize> {
        self.holds.iter().position(|h| h.subscription == subscription)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_session_is_small() {
        let bytes = std::mem::size_of::<super::Session>();
        assert!(bytes <= 176, "{bytes} B; every byte is paid ten thousand times");
    }
}
