//! A connection to a master that notices when it leads to the wrong node.

use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::ConnectionLike;
use ::redis::{
    Cmd, ConnectionAddr, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisFuture, RedisResult, ServerError,
    ServerErrorKind, Value, cmd, from_redis_value, pipe,
};
use futures_util::FutureExt as _;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::masters::{Masters, is_master, no_answer, not_master, open, redirected};
use super::wire::Wire;

/// Times that a command is sent that nodes refuse because it is another's.
const ATTEMPTS_MAX: usize = 4;

/// Wait before the next.
const ATTEMPT_WAIT: Duration = Duration::from_millis(50);

/// Time after a failure in which there is no new attempt to connect.
const FAILED_FOR: Duration = Duration::from_millis(200);

/// Time for a command, connecting and attempts included.
const QUERY_TIMEOUT: Duration = Duration::from_secs(8);

/// A connection to a master. `ASK`, which a cluster answers for keys of a slot that is on its way to another node, is
/// followed; everything else that says that this is the wrong node is an error, upon which the connection is given up.
#[derive(Clone)]
pub struct Link {
    masters: Masters,
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
        masters: Masters,
        connection: impl Into<Connection>,
        place: ConnectionAddr,
        has_role: bool,
    ) -> Self {
        Self { masters, connection: connection.into(), place, has_role, detour: Arc::default(), bytes_max: usize::MAX }
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
            _ => open(&self.masters.info(&place)).await?,
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

/// A link that is made when it is needed, and made anew when it broke or led to the wrong node. For commands that many
/// send; whoever blocks has one of their own.
pub struct SharedLink {
    masters: Masters,
    state: Mutex<State>,
}

enum State {
    None,
    Linked(Link),
    Failed(Instant, RedisError),
}

impl SharedLink {
    /// To be made.
    pub fn new(masters: Masters) -> Self {
        Self { masters, state: Mutex::new(State::None) }
    }

    async fn link(&self, key: &str) -> RedisResult<Link> {
        let mut state = self.state.lock().await;
        match &*state {
            State::Linked(link) if !self.masters.superseded(link.place()) => return Ok(link.clone()),
            State::Failed(when, error) if when.elapsed() < FAILED_FOR => return Err(error.clone()),
            _ => {}
        }
        *state = State::None;
        match self.masters.connect(key).await {
            Ok(link) => {
                *state = State::Linked(link.clone());
                Ok(link)
            }
            Err(error) => {
                *state = State::Failed(Instant::now(), error.clone());
                Err(error)
            }
        }
    }

    /// Gives a link up, unless somebody did and there is another by now.
    async fn give_up(&self, link: &Link) {
        let mut state = self.state.lock().await;
        if matches!(&*state, State::Linked(present) if Arc::ptr_eq(&present.detour, &link.detour)) {
            *state = State::None;
        }
    }

    /// Sends a command about `key`. It is sent again only if a node said that it did not do it, because it is another's.
    ///
    /// # Errors
    /// If it was not confirmed. It may have been done all the same, if the connection broke in between.
    pub async fn query<T: FromRedisValue>(&self, key: &str, command: &Cmd) -> RedisResult<T> {
        Ok(from_redis_value(self.attempts(key, Sent::One(command)).await?)?)
    }

    /// Sends commands about keys of the slot of `key`, which may be done twice.
    ///
    /// # Errors
    /// If they were not confirmed.
    pub async fn send(&self, key: &str, commands: &Pipeline) -> RedisResult<()> {
        self.attempts(key, Sent::Several(commands)).await.map(drop)
    }

    /// Sends commands about keys of the slot of `key` together, and answers each: those that follow each other are done in
    /// their order. Commands from some place on are sent again only if the node said of all of them that it did not do them.
    pub async fn each(&self, key: &str, commands: &[Cmd]) -> Vec<RedisResult<Value>> {
        let mut answers: Vec<RedisResult<Value>> = Vec::with_capacity(commands.len());
        let attempts = async {
            let mut attempt = 1;
            while let Some(rest) = commands.get(answers.len()..).filter(|rest| !rest.is_empty()) {
                let mut link = self.link(key).await?;
                let mut pipeline = Pipeline::with_capacity(rest.len());
                for command in rest {
                    pipeline.add_command(command.clone());
                }
                let values = link.req_packed_commands(&pipeline, 0, rest.len()).await;
                let values = match values {
                    Ok(values) => values,
                    Err(error) => {
                        let refused = is_elsewhere(&error);
                        self.give_up(&link).await;
                        if !refused || attempt == ATTEMPTS_MAX {
                            return Err(error);
                        }
                        Vec::new()
                    }
                };
                let mut values: Vec<RedisResult<Value>> = values
                    .into_iter()
                    .map(|value| match value {
                        Value::ServerError(error) => Err(RedisError::from(error)),
                        value => Ok(value),
                    })
                    .collect();
                let elsewhere = |value: &RedisResult<Value>| value.as_ref().is_err_and(is_elsewhere);
                let undone = values.iter().rev().take_while(|value| elsewhere(value)).count();
                if undone > 0 {
                    self.give_up(&link).await;
                }
                if attempt < ATTEMPTS_MAX {
                    values.truncate(values.len() - undone);
                }
                answers.extend(values);
                if answers.len() < commands.len() {
                    attempt += 1;
                    tokio::time::sleep(ATTEMPT_WAIT).await;
                }
            }
            Ok(())
        };
        let outcome = tokio::time::timeout(QUERY_TIMEOUT, attempts).await.unwrap_or_else(|_| Err(no_answer()));
        if let Err(error) = outcome {
            answers.resize_with(commands.len(), || Err(error.clone()));
        }
        answers
    }

    async fn attempts(&self, key: &str, sent: Sent<'_>) -> RedisResult<Value> {
        let attempts = async {
            let mut attempt = 1;
            loop {
                let mut link = self.link(key).await?;
                let answer = match sent {
                    Sent::One(command) => command.query_async(&mut link).await,
                    Sent::Several(commands) => commands.query_async(&mut link).await,
                };
                let Err(error) = answer else { return answer };
                let refused = is_elsewhere(&error);
                if refused || error.is_unrecoverable_error() || error.is_timeout() {
                    self.give_up(&link).await;
                }
                if !refused || attempt == ATTEMPTS_MAX {
                    return Err(error);
                }
                attempt += 1;
                tokio::time::sleep(ATTEMPT_WAIT).await;
            }
        };
        tokio::time::timeout(QUERY_TIMEOUT, attempts).await.unwrap_or_else(|_| Err(no_answer()))
    }
}

/// What is sent.
#[derive(Clone, Copy)]
enum Sent<'a> {
    One(&'a Cmd),
    Several(&'a Pipeline),
}

/// Whether a node refused because something is not its own, or not now: nothing was done.
fn is_elsewhere(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    let ErrorKind::Server(kind) = error.kind() else { return false };
    matches!(kind, Moved | Ask | TryAgain | ClusterDown | MasterDown | ReadOnly | BusyLoading)
}
