//! One connected client in its shard: a slab entry. What few sessions need is boxed.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::client::Client;
use super::turns::Reading;
use crate::accounts::{self, Held, allocated};
use crate::auth::Identity;
use crate::hub::egress::{Output, Pace};
use crate::hub::fanout::Subscriptions;
use crate::hub::index::{SessionId, SessionIndex};
use crate::hub::new_session::Permit;
#[cfg(test)]
use crate::protocol::Dialect;
use crate::protocol::SubscribeItem;
use crate::topic::ShardId;
use crate::wire::inbox::Inbox;

/// A session. Times are in ms of the low half of the shard's clock.
pub(in crate::hub) struct Session {
    pub(in crate::hub) output: Output,
    pub(in crate::hub) generation: u32,
    /// Whether it is read, or what it waits for.
    pub(in crate::hub) reading: Reading,
    /// Number of subscribes in progress.
    pub(in crate::hub) attaching: u16,
    pub(in crate::hub) opened_ms: u32,
    /// When the client last sent something; after a ping was written, the time of the ping.
    pub(in crate::hub) heard_ms: u32,
    /// The used part of its command rate ([`crate::rate::Rate`]), in ns of the shard's clock.
    pub(in crate::hub) commands_used_ns: u64,
    pub(in crate::hub) subscriptions: Subscriptions,
    /// An incomplete message.
    pub(in crate::hub) inbox: Option<Box<Inbox>>,
    /// Commands that wait for an earlier one's answer.
    pub(in crate::hub) deferred: Option<Box<Deferred>>,
    pub(in crate::hub) identity: Option<Arc<Identity>>,
    /// Data that only some sessions need.
    pub(in crate::hub) client: Option<Box<Client>>,
    /// Boxed twice, because most sessions have none and this pointer is smaller.
    pub(in crate::hub) permit: Option<Box<Box<dyn Permit>>>,
}

/// Bytes of memory of a permit with its boxes, and its share of its address' entry.
const PERMIT_BYTES: usize = 96;

/// The rest of a message whose commands depend on the answer to an earlier one. Later messages are not read meanwhile.
#[derive(Debug)]
pub(in crate::hub) struct Deferred {
    pub(in crate::hub) rest: Vec<u8>,
    /// A token is being checked, or the session is being set up.
    pub(in crate::hub) authenticating: bool,
    /// For a `connect` whose token is being checked: its positions to recover from.
    items: Vec<SubscribeItem>,
    /// The answer has come: the rest is processed when it is the session's turn.
    pub(in crate::hub) ready: bool,
    /// When the wait began, in the shard's time.
    pub(in crate::hub) since_ms: u64,
    account: Held,
}

impl Deferred {
    pub(in crate::hub) fn new(authenticating: bool, since_ms: u64) -> Self {
        let account = Held::none(&accounts::INCOMING);
        Self { rest: Vec::new(), authenticating, items: Vec::new(), ready: false, since_ms, account }
    }

    /// Keeps the rest of the message.
    pub(in crate::hub) fn keep(&mut self, rest: &[u8]) {
        self.rest = rest.to_vec();
        self.count();
    }

    /// Keeps the subscribes that follow once the token was checked.
    pub(in crate::hub) fn keep_items(&mut self, items: Vec<SubscribeItem>) {
        self.items = items;
        self.count();
    }

    pub(in crate::hub) fn take_items(&mut self) -> Vec<SubscribeItem> {
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
    /// A new session, at `now_ms` in the low half of the shard's clock.
    pub(in crate::hub) fn new(
        output: Output,
        generation: u32,
        now_ms: u32,
        identity: Option<Identity>,
        permit: Option<Box<dyn Permit>>,
    ) -> Self {
        Self {
            output,
            generation,
            reading: Reading::Free,
            attaching: 0,
            opened_ms: now_ms,
            heard_ms: now_ms,
            commands_used_ns: 0,
            subscriptions: Subscriptions::default(),
            inbox: None,
            deferred: None,
            identity: identity.map(Arc::new),
            client: None,
            permit: permit.map(Box::new),
        }
    }

    pub(in crate::hub) fn key(&self, index: SessionIndex) -> SessionId {
        SessionId { index, generation: self.generation }
    }

    /// Whether deliveries and replies may still be sent to it.
    pub(in crate::hub) fn is_live(&self) -> bool {
        self.output.stage.is_live()
    }

    /// The number for which topics that only it subscribes to are counted: of its user, or else its address, or else
    /// itself.
    pub(in crate::hub) fn maker(&self, shard: ShardId, key: SessionId) -> u64 {
        let mut hasher = DefaultHasher::new();
        let user = self.identity.as_ref().map(|identity| identity.user.as_str()).filter(|user| !user.is_empty());
        match (user, self.permit.as_ref().and_then(|permit| permit.address())) {
            (Some(user), _) => (0u8, user).hash(&mut hasher),
            (None, Some(address)) => (1u8, address).hash(&mut hasher),
            (None, None) => (2u8, shard, key).hash(&mut hasher),
        }
        hasher.finish()
    }

    /// Bytes of messages that are incomplete or wait.
    pub(in crate::hub) fn incoming_bytes(&self) -> usize {
        self.inbox.as_ref().map_or(0, |inbox| inbox.bytes())
            + self.deferred.as_ref().map_or(0, |deferred| deferred.account.bytes())
            + self.output.tls.as_ref().map_or(0, |tls| tls.partial_bytes())
    }

    /// Bytes of memory outside its entry that are not counted elsewhere.
    pub(in crate::hub) fn boxed_bytes(&self) -> usize {
        let identity = self.identity.as_ref().map_or(0, |identity| identity.bytes());
        self.subscriptions.bytes()
            + self.output.pace.as_ref().map_or(0, |_| size_of::<Pace>())
            + self.output.tls.as_ref().map_or(0, |tls| tls.bytes())
            + self.client.as_ref().map_or(0, |client| client.bytes())
            + self.permit.as_ref().map_or(0, |_| PERMIT_BYTES)
            + identity
    }
}

#[cfg(test)]
impl Session {
    /// A session that connected at `came_ms`, whose client neither reads nor sends.
    pub(in crate::hub) fn unserved(dialect: Dialect, generation: u32, came_ms: u32) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let output = Output::new(mio::net::TcpStream::from_std(socket), None, dialect, false, came_ms);
        Self::new(output, generation, came_ms, None, None)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_session_is_small() {
        let bytes = std::mem::size_of::<super::Session>();
        assert!(bytes <= 176, "{bytes} B; the entry must stay small");
    }
}
