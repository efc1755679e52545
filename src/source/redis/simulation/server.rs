//! A simulated Redis, and the way to it: slow, cut off, failing over.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{
    Arg, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, Pipeline, RedisError, RedisResult,
    Value,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::link::{Connection as Way, Link};
use super::super::node::no_answer;
use super::super::topology::Topology;
use super::super::wire::{CONNECT_TIMEOUT, RESPONSE_TIMEOUT};
use super::data::{Around, Data, Lacks};
use crate::clock::unix_ms;

/// What can be changed from outside.
pub(super) struct Inner {
    pub(super) data: Data,
    /// What a replica has, which may take over.
    pub(super) replica: Data,
    pub(super) lacks: Lacks,
    /// By how much its clock is ahead.
    pub(super) ahead_ms: i64,
    run: u64,
    /// Connections of an earlier number are broken.
    generation: u64,
    /// Nodes that cannot reach it.
    pub(super) cut: BTreeSet<usize>,
    /// Longest way of a command or an answer, in ms.
    pub(super) way_ms: u64,
    /// Of a thousand scripts so many are held up on their way for seconds.
    pub(super) held: u64,
    /// The latest that its clock ever said.
    pub(super) latest_ms: u64,
    numbers: StdRng,
}

/// See above.
pub(super) struct Server {
    inner: Mutex<Inner>,
    changed: Notify,
}

impl Server {
    pub(super) fn new(seed: u64, lacks: Lacks) -> Arc<Self> {
        let inner = Inner {
            data: Data::default(),
            replica: Data::default(),
            lacks,
            ahead_ms: 0,
            run: 1,
            generation: 0,
            cut: BTreeSet::new(),
            way_ms: 3,
            held: 0,
            latest_ms: 0,
            numbers: StdRng::seed_from_u64(seed),
        };
        Arc::new(Self { inner: Mutex::new(inner), changed: Notify::new() })
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change and wakes all blocked reads.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let done = change(&mut self.inner());
        self.changed.notify_waiters();
        done
    }

    /// Does a command at once, for who has no way to go.
    pub(super) fn command(&self, words: &[&str]) -> Value {
        let args: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        self.change(|inner| inner.run(&args))
    }

    /// Does a command, waiting for entries where it says so.
    async fn answer(&self, args: &[Vec<u8>]) -> Value {
        let block = args.iter().position(|arg| arg == b"BLOCK").and_then(|at| args.get(at + 1));
        let block = block.and_then(|ms| std::str::from_utf8(ms).ok()?.parse().ok()).unwrap_or(0);
        let until = Instant::now() + Duration::from_millis(block);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let value = self.inner().run(args);
            if block == 0 || value != Value::Nil || Instant::now() >= until {
                if args.first().is_some_and(|name| name == b"EVAL") {
                    self.changed.notify_waiters();
                }
                return value;
            }
            let _ = tokio::time::timeout_at(until, changed).await;
        }
    }
}

impl Inner {
    fn run(&mut self, args: &[Vec<u8>]) -> Value {
        let now_ms = unix_ms().saturating_add_signed(self.ahead_ms);
        self.latest_ms = self.latest_ms.max(now_ms);
        let around = Around { now_ms, lacks: self.lacks, run: self.run };
        self.data.run(args, &around)
    }

    /// All connections break.
    pub(super) fn break_connections(&mut self) {
        self.generation += 1;
    }

    /// It is started again, with what it had.
    pub(super) fn restart(&mut self) {
        self.run += 1;
        self.break_connections();
    }

    fn check(&self, node: usize, generation: u64) -> RedisResult<()> {
        if self.generation != generation || self.cut.contains(&node) {
            return Err(RedisError::from((ErrorKind::Io, "the connection is broken")));
        }
        Ok(())
    }
}

/// Where a node goes in.
#[derive(Clone)]
pub(in super::super) struct Door {
    server: Arc<Server>,
    node: usize,
    pub(in super::super) info: ConnectionInfo,
}

impl Door {
    pub(super) fn new(server: Arc<Server>, node: usize) -> Self {
        Self { server, node, info: "redis://simulated".into_connection_info().expect("a URL") }
    }

    pub(in super::super) async fn connect(&self, topology: &Topology) -> RedisResult<Link> {
        let (way, generation, is_cut) = {
            let mut inner = self.server.inner();
            let most = inner.way_ms;
            (inner.numbers.random_range(0..=most), inner.generation, inner.cut.contains(&self.node))
        };
        if is_cut {
            // Some networks say so, others say nothing.
            tokio::time::sleep(CONNECT_TIMEOUT.min(Duration::from_millis(way * 500))).await;
            return Err(no_answer());
        }
        tokio::time::sleep(Duration::from_millis(way)).await;
        let connection = Connection { server: self.server.clone(), node: self.node, generation };
        let place = ConnectionAddr::Tcp("simulated".into(), 6379);
        Ok(Link::new(topology.clone(), Way::Simulated(connection), place, true))
    }
}

/// A node's connection.
#[derive(Clone)]
pub(in super::super) struct Connection {
    server: Arc<Server>,
    node: usize,
    generation: u64,
}

impl Connection {
    pub(in super::super) async fn one(&mut self, command: &Cmd) -> RedisResult<Value> {
        let answers = self.send(vec![words(command)]).await?;
        Ok(answers.into_iter().next().unwrap_or(Value::Nil))
    }

    pub(in super::super) async fn several(&mut self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        self.send(pipeline.cmd_iter().map(words).collect()).await
    }

    /// Sends commands. The server executes them even if the client has stopped waiting for the answer.
    async fn send(&self, commands: Vec<Vec<Vec<u8>>>) -> RedisResult<Vec<Value>> {
        let Self { server, node, generation } = self.clone();
        let is_script = commands.iter().any(|command| command.first().is_some_and(|name| name == b"EVAL"));
        let (there, back) = {
            let mut inner = server.inner();
            let most = inner.way_ms;
            let (there, back) = (inner.numbers.random_range(0..=most), inner.numbers.random_range(0..=most));
            let is_held = is_script && inner.numbers.random_range(0..1_000) < inner.held;
            let held = if is_held { inner.numbers.random_range(1_000..20_000) } else { 0 };
            (there + held, back)
        };
        let done = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(there)).await;
            let mut answers = Vec::with_capacity(commands.len());
            for command in &commands {
                server.inner().check(node, generation)?;
                answers.push(server.answer(command).await);
            }
            tokio::time::sleep(Duration::from_millis(back)).await;
            server.inner().check(node, generation)?;
            Ok(answers)
        });
        match tokio::time::timeout(RESPONSE_TIMEOUT, done).await {
            Ok(Ok(answers)) => answers,
            _ => Err(no_answer()),
        }
    }
}

fn words(command: &Cmd) -> Vec<Vec<u8>> {
    let word = |arg| match arg {
        Arg::Simple(word) => <[u8]>::to_vec(word),
        _ => b"0".to_vec(),
    };
    command.args_iter().map(word).collect()
}
