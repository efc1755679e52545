//! Redis and servers that are killed, paused, wiped and started again.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Signal;

use crate::chaos::store::open;
use crate::servers::process;
pub(super) use crate::servers::process::Process;
use crate::servers::process::{free_port, until};
use crate::servers::server_config::ServerConfig;

/// Time that a program has to answer after its start.
const START: Duration = Duration::from_secs(30);

/// A program that ends with the harness, however that ends. Ctrl-C at the terminal does not reach it.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).stdin(Stdio::null()).process_group(0);
    command
}

/// A `redis-server` with its own directory.
pub(crate) struct Redis {
    pub(crate) port: u16,
    directory: PathBuf,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    process: Option<Process>,
}

/// Every write is on disk before it is acknowledged.
const PERSISTENT: [&str; 6] = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""];

impl Redis {
    /// Without files, for scenarios in which it does not fail.
    pub(crate) fn in_memory(directory: &Path) -> anyhow::Result<Self> {
        Self::start(directory, &["--appendonly", "no", "--save", ""], &[])
    }

    /// With an append-only file that each write reaches before its answer.
    pub(crate) fn persistent(directory: &Path) -> anyhow::Result<Self> {
        Self::start(directory, &PERSISTENT, &[])
    }

    pub(crate) fn start(directory: &Path, options: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        let port = free_port()?;
        let directory = directory.join(format!("redis-{port}"));
        std::fs::create_dir_all(&directory)?;
        let mut redis = Self {
            port,
            directory,
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            process: None,
        };
        redis.start_again()?;
        Ok(redis)
    }

    pub(crate) fn start_again(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.directory.join("log"))?;
        let child = command(Path::new("redis-server"))
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"])
            .arg(&self.directory)
            .args(&self.options)
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("redis-server cannot be started; make tools installs it")?;
        self.process = Some(Process(child));
        until(START, || TcpStream::connect(("127.0.0.1", self.port)).is_ok())
            .with_context(|| format!("redis-server does not answer, see {}", self.directory.join("log").display()))
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Removes the data of a killed Redis.
    pub(crate) fn wipe(&self) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.is_dir() {
                std::fs::remove_dir_all(path)?;
            } else if path.file_name().is_some_and(|name| name != "log") {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    pub(crate) fn pause(&self) -> anyhow::Result<()> {
        self.process.as_ref().map_or(Ok(()), |process| process.signal(Signal::STOP))
    }

    pub(crate) fn go_on(&self) -> anyhow::Result<()> {
        self.process.as_ref().map_or(Ok(()), |process| process.signal(Signal::CONT))
    }

    /// Executes one command and returns its answer.
    pub(crate) fn ask(&self, command: &[&str]) -> anyhow::Result<redis::Value> {
        let mut connection = open(&format!("127.0.0.1:{}", self.port))?;
        let (name, arguments) = command.split_first().context("no command")?;
        Ok(redis::cmd(name).arg(arguments).query(&mut connection)?)
    }
}

/// A server under test.
pub(crate) struct Node {
    /// Its address on this machine.
    pub(crate) address: SocketAddr,
    name: String,
    directory: PathBuf,
    program: PathBuf,
    environment: Vec<(String, String)>,
    /// Limit on its descriptors.
    descriptors: Option<u64>,
    process: Option<Process>,
}

/// How a server differs from the default.
#[derive(Debug, Default, Clone)]
pub(crate) struct NodeOptions {
    /// The `[source.redis]` section, or another.
    pub(crate) source: String,
    /// `limits.ping_interval`; the time for an answer is twice as long. 2 s by default.
    pub(crate) ping: Option<Duration>,
    /// Further keys of `[limits]`.
    pub(crate) limits: String,
    /// Further keys of every namespace.
    pub(crate) namespaces: String,
    /// Listen on all addresses, not only on loopback.
    pub(crate) listen_everywhere: bool,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) descriptors: Option<u64>,
    /// The program to start instead of the one beside this program.
    pub(crate) program: Option<PathBuf>,
}

/// Silence after which a server pings. It waits twice as long for an answer.
pub(crate) const PING: Duration = Duration::from_secs(2);

impl Node {
    pub(crate) fn start(directory: &Path, name: &str, options: &NodeOptions) -> anyhow::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let directory = directory.join(name);
        std::fs::create_dir_all(&directory)?;
        let listen = if options.listen_everywhere { SocketAddr::from(([0, 0, 0, 0], address.port())) } else { address };
        let ping = options.ping.unwrap_or(PING).as_secs();
        let pong = 2 * ping;
        let NodeOptions { source, limits, namespaces, .. } = options;
        let config = ServerConfig::new(listen)
            .server(&format!("name = \"{name}\"\ndrain_window = \"0s\"\n"))
            .limits(&format!("ping_interval = \"{ping}s\"\npong_timeout = \"{pong}s\"\n{limits}"))
            .sections(source)
            .namespace_of_each_class(|_| namespaces.clone())
            .text();
        std::fs::write(directory.join("server.toml"), config)?;
        let program = match &options.program {
            Some(program) => program.clone(),
            None => process::beside("nexus-push")?,
        };
        let (environment, descriptors) = (options.environment.clone(), options.descriptors);
        let mut node =
            Self { address, name: name.to_owned(), directory, program, environment, descriptors, process: None };
        node.start_again()?;
        Ok(node)
    }

    /// Starts the node again. Returns when it is ready.
    pub(crate) fn start_again(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        let limit = until(START, || self.is_ready());
        limit.with_context(|| format!("{} is not ready:\n{}", self.name, self.log()))
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.directory.join("log"))?;
        let mut command = match self.descriptors {
            None => command(&self.program),
            Some(most) => {
                let mut command = command(Path::new("prlimit"));
                command.arg(format!("--nofile={most}:{most}")).arg("--").arg(&self.program);
                command
            }
        };
        let child = command
            .args(["serve", "--insecure", "--config"])
            .arg(self.directory.join("server.toml"))
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be started", self.program.display()))?;
        self.process = Some(Process(child));
        Ok(())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.process.as_ref().map(Process::id).with_context(|| format!("{} is not running", self.name))
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    pub(crate) fn pause(&self) -> anyhow::Result<()> {
        self.process.as_ref().map_or(Ok(()), |process| process.signal(Signal::STOP))
    }

    pub(crate) fn go_on(&self) -> anyhow::Result<()> {
        self.process.as_ref().map_or(Ok(()), |process| process.signal(Signal::CONT))
    }

    /// The status code of a `GET`; 0 if there is no answer.
    pub(crate) fn code(&self, path: &str) -> u16 {
        let answer = process::get(self.address, path).unwrap_or_default();
        answer.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.code("/readyz") == 200
    }

    /// The sum of a metric over its labels; `name` without the prefix.
    pub(crate) fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = process::get(self.address, "/metrics").context("/metrics")?;
        let name = format!("nexus_push_{name}");
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name.as_str())?;
            let value = match rest.strip_prefix('{') {
                Some(labels) => labels.split_once("} ")?.1,
                None => rest.strip_prefix(' ')?,
            };
            value.trim().parse::<f64>().ok()
        });
        Ok(values.sum())
    }

    /// Resident memory, in bytes.
    pub(crate) fn rss_bytes(&self) -> anyhow::Result<u64> {
        Ok(process::rss_bytes(self.pid()?))
    }

    /// Open descriptors.
    pub(crate) fn open_descriptors(&self) -> anyhow::Result<usize> {
        let pid = self.pid()?;
        let folder = std::fs::read_dir(format!("/proc/{pid}/fd"));
        Ok(folder.with_context(|| format!("{} is gone", self.name))?.count())
    }

    /// Changes its limit on descriptors while it runs.
    pub(crate) fn limit_descriptors(&self, most: u64) -> anyhow::Result<()> {
        // The hard limit stays, so that the limit can be raised again.
        let status = Command::new("prlimit")
            .args(["--pid", &self.pid()?.to_string(), &format!("--nofile={most}:")])
            .status()
            .context("prlimit")?;
        if !status.success() {
            bail!("prlimit ended with {status}");
        }
        Ok(())
    }
}
