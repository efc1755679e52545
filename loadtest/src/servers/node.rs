//! One of several servers of our own on one Redis.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::client::class::Class;
use crate::publish::stream_entry::StreamEntry;
use crate::servers::process::{Process, ask, cpu_time, launch, ready_within, rss_bytes, status};
use crate::servers::server_config::{HISTORY, MANY_SESSIONS, ServerConfig};

/// How nodes are set up.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// Program [default: nexus-push beside this program].
    pub(crate) program: Option<PathBuf>,
    pub(crate) redis: String,
    /// One thread each, because the nodes share the machine.
    pub(crate) shards: usize,
    pub(crate) drain_window: String,
}

impl Setup {
    /// Nodes with one shard that end at once when they are stopped.
    pub(crate) fn new(program: Option<&Path>, redis: &str) -> Self {
        Self { program: program.map(Path::to_owned), redis: redis.to_owned(), shards: 1, drain_window: "0s".to_owned() }
    }
}

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    process: Process,
    // Its configuration and log.
    _directory: tempfile::TempDir,
}

impl Node {
    /// Starts a node on this port of loopback, and waits until it is ready.
    pub(crate) fn start(name: &str, port: u16, setup: &Setup) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let path = directory.path().join("server.toml");
        std::fs::write(&path, config(name, address, setup))?;
        let process = launch(setup.program.as_deref(), &path, directory.path())?;
        ready_within(address, directory.path()).with_context(|| name.to_owned())?;
        Ok(Self { name: name.to_owned(), address, process, _directory: directory })
    }

    pub(crate) fn sessions(&self) -> anyhow::Result<u64> {
        let status = status(self.address).with_context(|| self.name.clone())?;
        status.pointer("/sessions/now").and_then(serde_json::Value::as_u64).context("/status has no sessions")
    }

    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        cpu_time(self.process.id())
    }

    pub(crate) fn rss_bytes(&self) -> u64 {
        rss_bytes(self.process.id())
    }

    /// Asks it to close the sessions that it has above the mean, and returns how many. `None` if it is too early for
    /// that.
    pub(crate) fn shed(&self, window: &str) -> anyhow::Result<Option<u64>> {
        let answer = ask("POST", self.address, &format!("/admin/drain?to=mean&window={window}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").context("/admin/drain has no answer")?;
        if head.starts_with("HTTP/1.1 409") {
            return Ok(None);
        }
        let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        match body.pointer("/result/shedding").and_then(serde_json::Value::as_u64) {
            Some(n) => Ok(Some(n)),
            None => bail!("/admin/drain answered {answer}"),
        }
    }

    /// Sends SIGTERM, and does not wait.
    pub(crate) fn terminate(&self) -> anyhow::Result<()> {
        let id =
            i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw).context("no process")?;
        Ok(rustix::process::kill_process(id, rustix::process::Signal::TERM)?)
    }

    /// Whether its process has ended.
    pub(crate) fn is_gone(&mut self) -> anyhow::Result<bool> {
        Ok(self.process.0.try_wait()?.is_some())
    }

    /// Sends SIGKILL, and waits for its end.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.process.0.kill()?;
        self.process.0.wait()?;
        Ok(())
    }
}

fn config(name: &str, address: SocketAddr, setup: &Setup) -> String {
    let Setup { shards, drain_window, redis, .. } = setup;
    ServerConfig::new(address)
        .server(&format!(
            "name = \"{name}\"\nshards = {shards}\ncontrol_threads = 1\ndrain_window = \"{drain_window}\"\n"
        ))
        .limits(MANY_SESSIONS)
        .sections(&format!("[source.redis]\nurl = \"{redis}\"\n"))
        .namespace_of_each_class(|class| if class == Class::Stream { HISTORY.to_owned() } else { String::new() })
        .text()
}

/// Publishes one delta on every topic. A node that starts later can then say whether a topic misses deltas; of a topic
/// that is not in the stream it cannot.
pub(crate) async fn prime(url: &str, topics: &[String]) -> anyhow::Result<()> {
    let mut connection = ::redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let mut pipe = ::redis::pipe();
    for topic in topics {
        pipe.add_command(StreamEntry::new(topic, "{}").append()).ignore();
    }
    Ok(pipe.query_async(&mut connection).await?)
}

/// Whether each node has heard of all others.
pub(crate) fn acquainted(nodes: &[&Node]) -> bool {
    let knows = |node: &Node| {
        let answer = ask("POST", node.address, "/api/info").unwrap_or_default();
        answer.matches("\"uid\"").count() >= nodes.len()
    };
    nodes.iter().all(|node| knows(node))
}
