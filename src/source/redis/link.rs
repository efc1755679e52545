//! A connection to a master that notices when it leads to the wrong node.

use std::sync::Arc;

use ::redis::aio::ConnectionLike;
use ::redis::{
    Cmd, ConnectionAddr, Pipeline, RedisFuture, RedisResult, ServerError, ServerErrorKind, Value, cmd, pipe,
};
use futures_util::FutureExt as _;
use tokio::sync::Mutex;

use super::node::{is_master, no_answer, not_master, open, redirected};
use super::topology::Topology;
use super::wire::Wire;

/// A connection to a master. `ASK`, which a cluster answers for keys of a slot that is on its way to another node, is
/// followed; everything else that says that this is the wrong node is an error, upon which the connection is given up.
#[derive(Clone)]
pub struct Link {
    topology: Topology,
    connection: Connection,
    place: ConnectionAddr,
    /// Whether the node says what it is when it is asked.
    has_role: bool,
    /// The node that keys are on their way to.
    detour: Arc<Mutex<Option<(ConnectionAddr, Wire)>>>,
    /// Bytes that the answers to a command, or to several that are sent together, may have.
    bytes_max: usize,
}

impl Link {
    pub(super) fn new(
        topology: Topology,
        connection: impl Into<Connection>,
        place: ConnectionAddr,
        has_role: bool,
    ) -> Self {
        Self { topology, connection: connection.into(), place, has_role, detour: Arc::default(), bytes_max: usize::MAX }
    }

    /// The node's address.
    pub fn place(&self) -> &ConnectionAddr {
        &self.place
    }

    /// The same link with a limit on an answer's bytes. A larger answer ends the connection, so no other task may share it.
    #[must_use]
    pub(super) fn within(&self, bytes_max: usize) -> Self {
        Self { bytes_max, ..self.clone() }
    }

    /// Whether this is a clone of that link.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.detour, &other.detour)
    }

    /// Whether `ROLE` can be asked for: a node that is made a replica goes on answering reads.
    pub(super) fn has_role(&self) -> bool {
        self.has_role
    }

    /// Checks that an answer to `ROLE` is a master's.
    pub(super) fn check_role(&self, role: &Value) -> RedisResult<()> {
        if is_master(role) { Ok(()) } else { Err(not_master(&self.place)) }
    }

    /// Checks that the node answers and is the master of `key`.
    ///
    /// # Errors
    /// If it is not, or does not.
    pub async fn check(&mut self, key: &str) -> RedisResult<()> {
        cmd("EXISTS").arg(key).query_async::<Value>(self).await?;
        if self.has_role {
            let role: Value = cmd("ROLE").query_async(self).await?;
            self.check_role(&role)?;
        }
        Ok(())
    }

    /// Sends a command where an `ASK` points to. Each needs a word before it there, as that node does not own the slot yet.
    async fn ask(&self, command: &Cmd, error: &ServerError) -> RedisResult<Value> {
        let to = error.details().and_then(|details| details.split_whitespace().nth(1));
        let place = to.and_then(|to| redirected(to, &self.place)).ok_or_else(no_answer)?;
        let mut slot = self.detour.lock().await;
        let mut connection = match slot.take() {
            Some((there, connection)) if there == place => connection,
            _ => open(&self.topology.info(&place)).await?,
        };
        connection.allow(self.bytes_max);
        let mut asking = pipe();
        asking.cmd("ASKING").add_command(command.clone());
        let reply = connection.req_packed_commands(&asking, 0, 2).await?.pop();
        *slot = Some((place, connection));
        reply.ok_or_else(no_answer)
    }
}

/// What commands go over.
#[derive(Clone)]
pub(super) enum Connection {
    Real(Wire),
    #[cfg(test)]
    Simulated(super::simulation::Connection),
}

impl From<Wire> for Connection {
    fn from(connection: Wire) -> Self {
        Self::Real(connection)
    }
}

impl Connection {
    fn allow(&self, bytes: usize) {
        match self {
            Self::Real(connection) => connection.allow(bytes),
            #[cfg(test)]
            Self::Simulated(_) => {}
        }
    }

    async fn one(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Real(connection) => connection.req_packed_command(command).await,
            #[cfg(test)]
            Self::Simulated(connection) => connection.one(command).await,
        }
    }

    async fn several(&mut self, pipeline: &Pipeline, offset: usize, count: usize) -> RedisResult<Vec<Value>> {
        match self {
            Self::Real(connection) => connection.req_packed_commands(pipeline, offset, count).await,
            #[cfg(test)]
            Self::Simulated(connection) => connection.several(pipeline).await,
        }
    }
}

fn ask_of(value: &Value) -> Option<ServerError> {
    match value {
        Value::ServerError(error) if error.kind() == Some(ServerErrorKind::Ask) => Some(error.clone()),
        _ => None,
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        async move {
            self.connection.allow(self.bytes_max);
            let value = self.connection.one(command).await?;
            match ask_of(&value) {
                Some(error) => self.ask(command, &error).await,
                None => Ok(value),
            }
        }
        .boxed()
    }

    /// Pipelines without `MULTI`, which the server has no use for.
    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        async move {
            self.connection.allow(self.bytes_max);
            let mut values = self.connection.several(pipeline, offset, count).await?;
            // Of a slot on its way some keys are here and some there, so each answer is looked at.
            for (value, command) in values.iter_mut().zip(pipeline.cmd_iter()) {
                if let Some(error) = ask_of(value) {
                    *value = self.ask(command, &error).await?;
                }
            }
            Ok(values)
        }
        .boxed()
    }

    fn get_db(&self) -> i64 {
        match &self.connection {
            Connection::Real(connection) => connection.get_db(),
            #[cfg(test)]
            Connection::Simulated(_) => 0,
        }
    }
}
