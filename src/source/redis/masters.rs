//! Which node to speak to: the one there is, the master that sentinels name, or a cluster's owner of a key. Every
//! connection of this server to Redis begins here.
//!
//! Neither the client library's sentinel nor its cluster connections are used, for three reasons. A blocked `XREAD` holds
//! up whatever is behind it on its connection, and a cluster connection has one for each node: a partition needs its own.
//! A cluster connection repeats a command whose connection broke, and an `XADD` done twice is a delta delivered twice. And
//! the sentinel client believes the first sentinel that answers, which may be the one that is cut off with the old
//! master. What is needed is little: all keys of a partition lie in one slot, so that following `MOVED` and `ASK` is all
//! the routing there is, and no map of slots can be out of date.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::aio::PubSub;
use ::redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, RedisError, RedisResult,
    ServerErrorKind, Value, cmd,
};

use super::link::Link;
use super::sentinels::Sentinels;
use super::wire::Wire;
use crate::config::{self, RedisAddress};

/// Time to connect, sign on included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time without a byte of an answer; above what a blocking read waits.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Redirections that are followed to find a key's owner.
const REDIRECTS_MAX: usize = 5;

/// Nodes of a cluster that are remembered beside the configured ones.
const LEARNED_MAX: usize = 64;

/// Where the masters are. Cheap to clone.
#[derive(Clone)]
pub struct Masters {
    form: Arc<Form>,
}

enum Form {
    One(ConnectionInfo),
    Sentinels(Sentinels),
    Cluster(Nodes),
    #[cfg(test)]
    Simulated(super::simulation::Door),
}

impl Masters {
    /// As configured. Connects to nothing yet.
    ///
    /// # Errors
    /// If a URL cannot be read.
    pub fn new(config: &config::Redis) -> RedisResult<Self> {
        // For rediss://. An error says that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let form = match config.address() {
            RedisAddress::One(url) => Form::One(url.into_connection_info()?),
            RedisAddress::Sentinels { sentinels, name, credentials } => {
                let master = credentials.unwrap_or("redis://master").into_connection_info()?;
                Form::Sentinels(Sentinels::new(sentinels, name, master)?)
            }
            RedisAddress::Cluster(nodes) => Form::Cluster(Nodes::new(nodes)?),
        };
        Ok(Self { form: Arc::new(form) })
    }

    /// Of a simulation.
    #[cfg(test)]
    pub(super) fn simulated(door: super::simulation::Door) -> Self {
        Self { form: Arc::new(Form::Simulated(door)) }
    }

    /// Whether there is no other that could take over.
    pub(super) fn is_one(&self) -> bool {
        matches!(*self.form, Form::One(_))
    }

    /// Whether keys of different slots may lie on different nodes.
    pub fn is_cluster(&self) -> bool {
        matches!(*self.form, Form::Cluster(_))
    }

    /// A connection to the node that is the master of `key` now.
    ///
    /// # Errors
    /// If there is none to be had; trying again later is the caller's.
    pub async fn connect(&self, key: &str) -> RedisResult<Link> {
        let (mut connection, place) = match &*self.form {
            Form::One(info) => (open(info).await?, info.addr().clone()),
            Form::Sentinels(sentinels) => {
                let place = sentinels.master().await?;
                (open(&sentinels.info(&place)).await?, place)
            }
            Form::Cluster(nodes) => {
                let (connection, place) = nodes.owner(key).await?;
                return Ok(Link::new(self.clone(), connection, place, false));
            }
            #[cfg(test)]
            Form::Simulated(door) => return door.connect(self).await,
        };
        // Of a cluster every answer tells whether the node is the right one. Elsewhere a master that was made a replica
        // goes on answering reads.
        let known = match cmd("ROLE").query_async::<Value>(&mut connection).await {
            Ok(role) if is_master(&role) => true,
            Ok(_) => return Err(not_master(&place)),
            // A proxy that does not know the command, or a user who may not ask: then writes will tell.
            Err(error) if matches!(*self.form, Form::One(_)) && !error.is_io_error() => false,
            Err(error) => return Err(error),
        };
        Ok(Link::new(self.clone(), connection, place, known))
    }

    /// How the node at `place` is connected to.
    pub(super) fn info(&self, place: &ConnectionAddr) -> ConnectionInfo {
        match &*self.form {
            Form::One(info) => info.clone(),
            Form::Sentinels(sentinels) => sentinels.info(place),
            Form::Cluster(nodes) => nodes.info(place),
            #[cfg(test)]
            Form::Simulated(door) => door.info.clone().set_addr(place.clone()),
        }
    }

    /// Ends, with a reason, once the master is known to be elsewhere than at `place`, though that still answers: it is cut
    /// off, or does not know yet. Of a cluster and of a single Redis this never ends; their answers tell.
    pub async fn moved(&self, place: ConnectionAddr) -> RedisError {
        match &*self.form {
            Form::Sentinels(sentinels) => sentinels.moved(place).await,
            Form::One(_) | Form::Cluster(_) => std::future::pending().await,
            #[cfg(test)]
            Form::Simulated(_) => std::future::pending().await,
        }
    }

    /// Whether the sentinels said last that the master is elsewhere.
    pub(super) fn superseded(&self, place: &ConnectionAddr) -> bool {
        matches!(&*self.form, Form::Sentinels(sentinels) if sentinels.latest().is_some_and(|latest| latest != *place))
    }

    /// Hears a channel at the master of the key of that name, and a connection to the same node that tells whether it
    /// still is. (A cluster would carry messages from any node to any other; but whether a node is still part of it, only
    /// commands about keys tell.)
    ///
    /// # Errors
    /// If there is no connection to be had.
    pub async fn subscribe(&self, channel: &str) -> RedisResult<(PubSub, Link)> {
        let link = self.connect(channel).await?;
        let client = Client::open(self.info(link.place()))?;
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

/// An error of a connection to a node, with its address; user and password are no part of that.
pub(super) fn told_of(place: &ConnectionAddr, error: &RedisError) -> RedisError {
    RedisError::from((error.kind(), "no connection to Redis", format!("{place}: {error}")))
}

/// A connection whose every answer has a time-out. An error names the node.
pub(super) async fn open(info: &ConnectionInfo) -> RedisResult<Wire> {
    Wire::open(info).await.map_err(|error| told_of(info.addr(), &error))
}

/// `info` for another host.
pub(super) fn at(info: &ConnectionInfo, host: String, port: u16) -> ConnectionAddr {
    match info.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    }
}

/// Whether an answer to `ROLE` is a master's.
pub(super) fn is_master(role: &Value) -> bool {
    let Value::Array(parts) = role else { return false };
    match parts.first() {
        Some(Value::BulkString(role)) => role == b"master",
        Some(Value::SimpleString(role)) => role == "master",
        _ => false,
    }
}

pub(super) fn not_master(place: &ConnectionAddr) -> RedisError {
    RedisError::from((ErrorKind::Io, "is no master (any more)", place.to_string()))
}

pub(super) fn no_answer() -> RedisError {
    RedisError::from((ErrorKind::Io, "no answer in time"))
}

/// A cluster's nodes, as far as they were needed.
struct Nodes {
    /// Nodes that are not configured are spoken to as this one.
    first: ConnectionInfo,
    configured: Vec<ConnectionInfo>,
    /// Those that answered last come first.
    known: Mutex<VecDeque<ConnectionAddr>>,
}

impl Nodes {
    fn new(urls: &[String]) -> RedisResult<Self> {
        let configured: Vec<ConnectionInfo> =
            urls.iter().map(|url| url.as_str().into_connection_info()).collect::<RedisResult<_>>()?;
        let Some(first) = configured.first().cloned() else {
            return Err(RedisError::from((ErrorKind::InvalidClientConfig, "no node of the cluster is configured")));
        };
        let known = Mutex::new(configured.iter().map(|info| info.addr().clone()).collect());
        Ok(Self { first, configured, known })
    }

    fn info(&self, place: &ConnectionAddr) -> ConnectionInfo {
        let own = self.configured.iter().find(|info| info.addr() == place).unwrap_or(&self.first);
        own.clone().set_addr(place.clone())
    }

    fn candidates(&self) -> Vec<ConnectionAddr> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Notes whether a node was of use.
    fn note(&self, place: &ConnectionAddr, good: bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|other| other != place);
        if good {
            known.push_front(place.clone())
        } else {
            known.push_back(place.clone())
        }
        while known.len() > LEARNED_MAX + self.configured.len() {
            let learned = known.iter().rposition(|one| !self.configured.iter().any(|info| info.addr() == one));
            let Some(last) = learned else { return };
            known.remove(last);
        }
    }

    /// A connection to the node that owns `key`, by asking nodes for it and going where they point. Each node is tried
    /// once at most, however many point to it.
    async fn owner(&self, key: &str) -> RedisResult<(Wire, ConnectionAddr)> {
        let mut failed = Vec::new();
        let mut reason = no_answer();
        for first in self.candidates() {
            match self.follow(first.clone(), key, &mut failed).await {
                Ok(found) => {
                    self.note(&found.1, true);
                    return Ok(found);
                }
                Err(error) => {
                    self.note(&first, false);
                    reason = error;
                }
            }
        }
        Err(reason)
    }

    async fn follow(
        &self,
        first: ConnectionAddr,
        key: &str,
        failed: &mut Vec<(ConnectionAddr, RedisError)>,
    ) -> RedisResult<(Wire, ConnectionAddr)> {
        let mut place = first;
        for _ in 0..REDIRECTS_MAX {
            if let Some((_, error)) = failed.iter().find(|(one, _)| *one == place) {
                return Err(error.clone());
            }
            let asked = async {
                let mut connection = open(&self.info(&place)).await?;
                let answer = cmd("EXISTS").arg(key).query_async::<Value>(&mut connection).await;
                Ok::<_, RedisError>((connection, answer))
            };
            let (connection, answer) = asked.await.inspect_err(|error| failed.push((place.clone(), error.clone())))?;
            match answer {
                Ok(_) => return Ok((connection, place)),
                Err(error) => match error.kind() {
                    // On its way to another node, but still this one's.
                    ErrorKind::Server(ServerErrorKind::Ask) => return Ok((connection, place)),
                    ErrorKind::Server(ServerErrorKind::Moved) => {
                        let to = error.redirect_node().and_then(|(to, _)| redirected(to, &place));
                        place = to.ok_or(error)?;
                    }
                    _ => {
                        failed.push((place, error.clone()));
                        return Err(error);
                    }
                },
            }
        }
        Err(RedisError::from((ErrorKind::Io, "nodes point to each other for the key", key.to_owned())))
    }
}

/// Where `host:port` of a redirection from `from` is. A node that does not know its own host leaves it out.
pub(super) fn redirected(to: &str, from: &ConnectionAddr) -> Option<ConnectionAddr> {
    let (host, port) = to.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = host.trim_matches(['[', ']']);
    let same = match from {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
        _ => return None,
    };
    let host = if host.is_empty() || host == "?" { same.clone() } else { host.to_owned() };
    Some(match from {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> ConnectionAddr {
        ConnectionAddr::Tcp(host.into(), port)
    }

    #[test]
    fn redirections() {
        for (to, expected) in [
            ("10.0.0.7:7001", Some(tcp("10.0.0.7", 7001))),
            (":7001", Some(tcp("asked", 7001))),
            ("?:7001", Some(tcp("asked", 7001))),
            ("fe80::1:7001", Some(tcp("fe80::1", 7001))),
            ("[fe80::1]:7001", Some(tcp("fe80::1", 7001))),
            ("host", None),
            ("host:port", None),
        ] {
            assert_eq!(redirected(to, &tcp("asked", 7000)), expected, "{to}");
        }
    }

    #[test]
    fn roles() {
        let role = |name: &str| Value::Array(vec![Value::BulkString(name.into()), Value::Int(1)]);
        assert!(is_master(&role("master")));
        assert!(!is_master(&role("slave")) && !is_master(&role("sentinel")) && !is_master(&Value::Nil));
    }

    #[test]
    fn nodes_that_answered_come_first_and_configured_ones_are_never_forgotten() {
        let urls = ["redis://:pw@a:1".to_owned(), "redis://b:2".to_owned()];
        let nodes = Nodes::new(&urls).unwrap();
        nodes.note(&tcp("a", 1), false);
        assert_eq!(nodes.candidates(), [tcp("b", 2), tcp("a", 1)]);
        for port in 0..500 {
            nodes.note(&tcp("c", port), true);
        }
        let known = nodes.candidates();
        assert_eq!((known.len(), &known[0]), (LEARNED_MAX + 2, &tcp("c", 499)));
        assert!(known.contains(&tcp("a", 1)) && known.contains(&tcp("b", 2)));
        assert_eq!(nodes.info(&tcp("c", 3)).redis_settings().password(), Some("pw"), "as the first of the list");
        assert_eq!(nodes.info(&tcp("b", 2)).redis_settings().password(), None, "as configured");
    }
}
