//! What sessions may ask for that lies beyond topics. `server`, which wires the hub, provides it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::name::TopicName;
use crate::protocol::{MemberInfo, Refusal};
use crate::topic::Payload;

/// An answer that is not there at once.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send>>;

/// A subscription that presence, join and leave are about.
#[derive(Debug, Clone)]
pub struct Member {
    /// Who.
    pub info: Arc<MemberInfo>,
    /// Whether it counts for presence.
    pub presence: bool,
    /// Whether others are told that it comes and goes.
    pub announce: bool,
}

/// How many are subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberCount {
    /// Sessions.
    pub clients: usize,
    /// Users among them.
    pub users: usize,
}

/// Publishing, presence and calls.
pub trait Backend: Send + Sync + 'static {
    /// A client hands in a delta; it may do so.
    fn publish(&self, topic: TopicName, payload: Payload) -> Answer<()>;
    /// A session subscribed. Must not wait.
    fn joined(&self, topic: &TopicName, member: &Member);
    /// A session that subscribed is gone. Must not wait.
    fn left(&self, topic: &TopicName, member: &Member);
    /// Who is subscribed, on any node.
    fn presence(&self, topic: TopicName) -> Answer<Vec<Arc<MemberInfo>>>;
    /// How many are subscribed, on any node.
    fn presence_stats(&self, topic: TopicName) -> Answer<MemberCount>;
    /// Calls something behind this server.
    fn call(&self, client: String, user: String, method: String, data: Bytes) -> Answer<Bytes>;
}
