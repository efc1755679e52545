//! Which node to speak to: the one there is, the master that sentinels name, or a cluster's owner of a key.

use std::sync::Arc;

use ::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisError, RedisResult};

use super::cluster::Nodes;
use super::node::open;
use super::sentinels::Sentinels;
use super::wire::Wire;
use crate::config::{self, RedisAddress};

/// Where the masters are. Cheap to clone.
#[derive(Clone)]
pub(super) struct Topology(Arc<Form>);

enum Form {
    One(ConnectionInfo),
    Sentinels(Sentinels),
    Cluster(Nodes),
    #[cfg(test)]
    Simulated(super::simulation::Door),
}

impl Topology {
    /// As configured. Connects to nothing yet.
    ///
    /// # Errors
    /// If a URL cannot be read.
    pub(super) fn new(config: &config::Redis) -> RedisResult<Self> {
        Ok(Self(Arc::new(match config.address() {
            RedisAddress::One(url) => Form::One(url.into_connection_info()?),
            RedisAddress::Sentinels { sentinels, name, credentials } => {
                let master = credentials.unwrap_or("redis://master").into_connection_info()?;
                Form::Sentinels(Sentinels::new(sentinels, name, master)?)
            }
            RedisAddress::Cluster(nodes) => Form::Cluster(Nodes::new(nodes)?),
        })))
    }

    /// Of a simulation.
    #[cfg(test)]
    pub(super) fn simulated(door: super::simulation::Door) -> Self {
        Self(Arc::new(Form::Simulated(door)))
    }

    /// The door to the simulated Redis, if it is one.
    #[cfg(test)]
    pub(super) fn door(&self) -> Option<&super::simulation::Door> {
        if let Form::Simulated(door) = &*self.0 { Some(door) } else { None }
    }

    /// Whether there is no other node that could take over.
    pub(super) fn is_one(&self) -> bool {
        matches!(*self.0, Form::One(_))
    }

    /// Whether keys of different slots may lie on different nodes.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(*self.0, Form::Cluster(_))
    }

    /// A connection to the node that is the master of `key` now, as far as is known without asking it, and its address.
    ///
    /// # Errors
    /// If there is none to be had.
    pub(super) async fn open(&self, key: &str) -> RedisResult<(Wire, ConnectionAddr)> {
        match &*self.0 {
            Form::One(info) => Ok((open(info).await?, info.addr().clone())),
            Form::Sentinels(sentinels) => {
                let place = sentinels.master().await?;
                Ok((open(&sentinels.info(&place)).await?, place))
            }
            Form::Cluster(nodes) => nodes.owner(key).await,
            #[cfg(test)]
            Form::Simulated(_) => Err(super::node::no_answer()),
        }
    }

    /// How the node at `place` is connected to.
    pub(super) fn info(&self, place: &ConnectionAddr) -> ConnectionInfo {
        match &*self.0 {
            Form::One(info) => info.clone(),
            Form::Sentinels(sentinels) => sentinels.info(place),
            Form::Cluster(nodes) => nodes.info(place),
            #[cfg(test)]
            Form::Simulated(door) => door.info.clone().set_addr(place.clone()),
        }
    }

    /// Ends, with a reason, once the master is known to be elsewhere than at `place`, though that still answers: it is cut
    /// off, or does not know yet. Of a cluster and of a single Redis this never ends; their answers tell.
    pub(super) async fn moved(&self, place: ConnectionAddr) -> RedisError {
        match &*self.0 {
            Form::Sentinels(sentinels) => sentinels.moved(place).await,
            Form::One(_) | Form::Cluster(_) => std::future::pending().await,
            #[cfg(test)]
            Form::Simulated(_) => std::future::pending().await,
        }
    }

    /// Whether the sentinels said last that the master is elsewhere.
    pub(super) fn superseded(&self, place: &ConnectionAddr) -> bool {
        matches!(&*self.0, Form::Sentinels(sentinels) if sentinels.latest().is_some_and(|latest| latest != *place))
    }
}
