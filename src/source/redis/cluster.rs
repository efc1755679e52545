//! The nodes of a cluster, and which of them owns a key.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use ::redis::{
    ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, RedisError, RedisResult, ServerErrorKind,
    Value, cmd,
};

use super::node::{no_answer, open, redirected};
use super::wire::Wire;

/// Redirections that are followed to find a key's owner.
const REDIRECTS_MAX: usize = 5;

/// Nodes of a cluster that are remembered beside the configured ones.
const LEARNED_MAX: usize = 64;

/// A cluster's nodes, as far as they were needed.
pub(super) struct Nodes {
    /// Nodes that are not configured are spoken to as this one.
    first: ConnectionInfo,
    configured: Vec<ConnectionInfo>,
    /// Those that answered last come first.
    known: Mutex<VecDeque<ConnectionAddr>>,
}

impl Nodes {
    pub(super) fn new(urls: &[String]) -> RedisResult<Self> {
        let configured: Vec<ConnectionInfo> =
            urls.iter().map(|url| url.as_str().into_connection_info()).collect::<RedisResult<_>>()?;
        let Some(first) = configured.first().cloned() else {
            return Err(RedisError::from((ErrorKind::InvalidClientConfig, "no node of the cluster is configured")));
        };
        let known = Mutex::new(configured.iter().map(|info| info.addr().clone()).collect());
        Ok(Self { first, configured, known })
    }

    pub(super) fn info(&self, place: &ConnectionAddr) -> ConnectionInfo {
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
    pub(super) async fn owner(&self, key: &str) -> RedisResult<(Wire, ConnectionAddr)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> ConnectionAddr {
        ConnectionAddr::Tcp(host.into(), port)
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
