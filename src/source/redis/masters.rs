//! Which node to speak to: the one there is, the master that sentinels name, or a cluster's owner of a key. Every
//! connection of this server to Redis begins here.
//!
//! Neither the client library's sentinel nor its cluster connections are used, for three reasons. A blocked `XREAD` holds
//! up whatever is behind it on its connection, and a cluster connection has one for each node: a partition needs its own.
//! A cluster connection repeats a command whose connection broke, and an `XADD` done twice is a delta delivered twice. And
//! the sentinel client believes the first sentinel that answers, which may be the one that is cut off with the old
//! master. What is needed is little: all keys of a partition lie in one slot, so that following `MOVED` and `ASK` is all
//! the routing there is, and no map of slots can be out of date.

use ::redis::aio::PubSub;
use ::redis::{Client, ConnectionAddr, RedisError, RedisResult, Value, cmd};

use super::link::Link;
use super::node::{is_master, no_answer, not_master, told_of};
use super::topology::Topology;
use super::wire::CONNECT_TIMEOUT;
use crate::config;

/// Where the masters are. Cheap to clone.
#[derive(Clone)]
pub struct Masters {
    topology: Topology,
}

impl Masters {
    /// As configured. Connects to nothing yet.
    ///
    /// # Errors
    /// If a URL cannot be read.
    pub fn new(config: &config::Redis) -> RedisResult<Self> {
        // For rediss://. An error says that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self { topology: Topology::new(config)? })
    }

    /// Of a simulation.
    #[cfg(test)]
    pub(super) fn simulated(door: super::simulation::Door) -> Self {
        Self { topology: Topology::simulated(door) }
    }

    /// Whether there is no other that could take over.
    pub(super) fn is_one(&self) -> bool {
        self.topology.is_one()
    }

    /// Whether keys of different slots may lie on different nodes.
    pub fn is_cluster(&self) -> bool {
        self.topology.is_cluster()
    }

    /// A connection to the node that is the master of `key` now.
    ///
    /// # Errors
    /// If there is none to be had; trying again later is the caller's.
    pub async fn connect(&self, key: &str) -> RedisResult<Link> {
        #[cfg(test)]
        if let Some(door) = self.topology.door() {
            return door.connect(&self.topology).await;
        }
        let (mut connection, place) = self.topology.open(key).await?;
        // Of a cluster every answer tells whether the node is the right one. Elsewhere a master that was made a replica
        // goes on answering reads.
        if self.is_cluster() {
            return Ok(Link::new(self.topology.clone(), connection, place, false));
        }
        let known = match cmd("ROLE").query_async::<Value>(&mut connection).await {
            Ok(role) if is_master(&role) => true,
            Ok(_) => return Err(not_master(&place)),
            // A proxy that does not know the command, or a user who may not ask: then writes will tell.
            Err(error) if self.is_one() && !error.is_io_error() => false,
            Err(error) => return Err(error),
        };
        Ok(Link::new(self.topology.clone(), connection, place, known))
    }

    /// Ends, with a reason, once the master is known to be elsewhere than at `place`, though that still answers: it is cut
    /// off, or does not know yet. Of a cluster and of a single Redis this never ends; their answers tell.
    pub async fn moved(&self, place: ConnectionAddr) -> RedisError {
        self.topology.moved(place).await
    }

    /// Whether the sentinels said last that the master is elsewhere.
    pub(super) fn superseded(&self, place: &ConnectionAddr) -> bool {
        self.topology.superseded(place)
    }

    /// Hears a channel at the master of the key of that name, and a connection to the same node that tells whether it
    /// still is. (A cluster would carry messages from any node to any other; but whether a node is still part of it, only
    /// commands about keys tell.)
    ///
    /// # Errors
    /// If there is no connection to be had.
    pub async fn subscribe(&self, channel: &str) -> RedisResult<(PubSub, Link)> {
        let link = self.connect(channel).await?;
        let client = Client::open(self.topology.info(link.place()))?;
        let subscribe = async {
            let mut pubsub = client.get_async_pubsub().await?;
            pubsub.subscribe(channel).await?;
            Ok::<_, RedisError>(pubsub)
        };
        let subscribed = tokio::time::timeout(CONNECT_TIMEOUT, subscribe).await.unwrap_or_else(|_| Err(no_answer()));
        let pubsub = subscribed.map_err(|error| told_of(link.place(), &error))?;
        Ok((pubsub, link))
    }
}
