//! One connected client, as its shard knows it: a slab entry. What few sessions need is boxed.

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
    /// Subscribes under way.
    pub(in crate::hub) attaching: u16,
    pub(in crate::hub) opened_ms: u32,
    /// When the client was last heard; once a ping was written, since when it can answer that.
    pub(in crate::hub) heard_ms: u32,
    /// What it has used of its rate of commands ([`crate::rate::Rate`]), in ns of the shard's clock.
    pub(in crate::hub) commands_used_ns: u64,
    pub(in crate::hub) subscriptions: Subscriptions,
    /// A message under way.
    pub(in crate::hub) inbox: Option<Box<Inbox>>,
    /// Commands that wait for an earlier one's answer.
    pub(in crate::hub) deferred: Option<Box<Deferred>>,
    pub(in crate::hub) identity: Option<Arc<Identity>>,
    /// What not every session needs.
    pub(in crate::hub) client: Option<Box<Client>>,
    /// Boxed twice: most sessions have none, and this is the smaller.
    pub(in crate::hub) permit: Option<Box<Box<dyn Permit>>>,
}

/// A permit in its boxes, and its share of its address's entry.
const PERMIT_BYTES: usize = 96;

/// What is left of a message whose commands depend on the answer to an earlier one. The messages behind it are not read.
#[derive(Debug)]
pub(in crate::hub) struct Deferred {
    pub(in crate::hub) rest: Vec<u8>,
    /// A token is being checked, or the session is being set up.
    pub(in crate::hub) authenticating: bool,
    /// Of a connect whose token is being checked: the positions that it brought.
    items: Vec<SubscribeItem>,
    /// The answer has come: the rest is heard when the session has its turn.
    pub(in crate::hub) ready: bool,
    /// Since when, by the shard's clock.
    pub(in crate::hub) since_ms: u64,
    account: Held,
}

impl Deferred {
    pub(in crate::hub) fn new(authenticating: bool, since_ms: u64) -> Self {
        let account = Held::none(&accounts::INCOMING);
        Self { rest: Vec::new(), authenticating, items: Vec::new(), ready: false, since_ms, account }
    }

    /// What is left of the message.
    pub(in crate::hub) fn keep(&mut self, rest: &[u8]) {
        self.rest = rest.to_vec();
        self.count();
    }

    /// What is to be done once the token has been checked.
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
    /// A session that has just come, in the shard's low clock at `now_ms`.
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

    /// Whether deliveries and replies still make sense.
    pub(in crate::hub) fn is_live(&self) -> bool {
        self.output.stage.is_live()
    }

    /// The number under which topics that only it wants are counted: its user's, or else its address's, or else its own.
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

    /// Bytes of messages that are not whole, or wait.
    pub(in crate::hub) fn incoming_bytes(&self) -> usize {
        self.inbox.as_ref().map_or(0, |inbox| inbox.bytes())
            + self.deferred.as_ref().map_or(0, |deferred| deferred.account.bytes())
            + self.output.tls.as_ref().map_or(0, |tls| tls.partial_bytes())
    }

    /// Bytes of memory beside its entry, of what is not counted elsewhere.
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
    /// A session that came at `came_ms`, whose client neither reads nor sends.
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
        assert!(bytes <= 176, "{bytes} B; every byte is paid ten thousand times");
    }
}
