//! What a session can request apart from topics' data: publishes, presence and calls. `server`, which wires the hub,
//! implements it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::name::TopicName;
use crate::protocol::{MemberInfo, Refusal};
use crate::topic::Payload;

/// A future answer.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send>>;

/// A subscription, for presence and for joins and leaves.
#[derive(Debug, Clone)]
pub struct Member {
    /// The subscribed session.
    pub info: Arc<MemberInfo>,
    /// Whether it counts for presence.
    pub presence: bool,
    /// Whether other subscribers are notified when it joins and leaves.
    pub announce: bool,
}

/// The number of subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberCount {
    /// Sessions.
    pub clients: usize,
    /// Users among them.
    pub users: usize,
}

/// Publishing, presence and calls.
pub trait Backend: Send + Sync + 'static {
    /// Publishes a client's delta. The right to publish was checked before.
    fn publish(&self, topic: TopicName, payload: Payload) -> Answer<()>;
    /// A session subscribed. Must not block.
    fn joined(&self, topic: &TopicName, member: &Member);
    /// A subscription ended. Must not block.
    fn left(&self, topic: &TopicName, member: &Member);
    /// The subscribers on all nodes.
    fn presence(&self, topic: TopicName) -> Answer<Vec<Arc<MemberInfo>>>;
    /// The number of subscribers on all nodes.
    fn presence_stats(&self, topic: TopicName) -> Answer<MemberCount>;
    /// Calls the backend behind this server.
    fn call(&self, client: String, user: String, method: String, data: Bytes) -> Answer<Bytes>;
}
