//! A link that many share, with the time and the attempts that a command has.

use std::time::Duration;

use ::redis::aio::ConnectionLike as _;
use ::redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerErrorKind, Value, from_redis_value,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::link::Link;
use super::masters::Masters;
use super::node::no_answer;

/// Times that a command is sent that nodes refuse because it is another's.
const ATTEMPTS_MAX: usize = 4;

/// Wait before the next.
const ATTEMPT_WAIT: Duration = Duration::from_millis(50);

/// Time after a failure in which there is no new attempt to connect.
const FAILED_FOR: Duration = Duration::from_millis(200);

/// Time for a command, connecting and attempts included.
const QUERY_TIMEOUT: Duration = Duration::from_secs(8);

/// A connection for commands of many tasks. It is opened when first needed, and again after it broke or led to the wrong
/// node. A command that blocks needs a connection of its own.
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

    /// Closes this link, unless another one has replaced it.
    async fn give_up(&self, link: &Link) {
        let mut state = self.state.lock().await;
        if matches!(&*state, State::Linked(present) if present.is_same(link)) {
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
