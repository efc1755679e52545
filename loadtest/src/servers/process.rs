//! Processes that a run starts, and their figures from the kernel.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::class::Class;
use crate::servers::server_config::{HISTORY, MANY_SESSIONS, ServerConfig};

/// Time that a server has to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// Killed when dropped, with the processes that it started.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw).context("no process ID")?;
        Ok(kill_process(pid, signal)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Without this, a master's workers would outlive it. A living master replaces them.
        let family = family(self.id());
        let _ = self.0.kill();
        for pid in family.into_iter().skip(1) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.0.wait();
    }
}

pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Starts a `redis-server` of our own, in memory.
pub(crate) fn start_redis(directory: &Path) -> anyhow::Result<(Process, String)> {
    let port = free_port()?;
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
        .arg(directory)
        .stdout(Stdio::null())
        .spawn()
        .context("redis-server cannot be started; install it, or name one by --redis")?;
    let process = Process(child);
    until(Duration::from_secs(10), || TcpStream::connect(("127.0.0.1", port)).is_ok())
        .context("redis-server does not answer")?;
    Ok((process, format!("redis://127.0.0.1:{port}")))
}

/// How to start our own server.
pub(crate) struct OwnServer<'a> {
    /// The program; without one, `nexus-push` beside this program.
    pub(crate) program: Option<&'a Path>,
    pub(crate) tls: bool,
    pub(crate) flush_interval: &'a str,
    pub(crate) flush: &'a str,
    /// 0 means one per core.
    pub(crate) shards: usize,
}

/// Starts a server of our own, configured for the workload. Returns it, its HTTP address, and the address for
/// sessions.
pub(crate) fn start_server(
    args: &OwnServer<'_>,
    redis: Option<&str>,
    directory: &Path,
) -> anyhow::Result<(Process, SocketAddr, SocketAddr)> {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let sealed = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let tls = if args.tls { tls(sealed, directory)? } else { String::new() };
    let source = redis.map_or(String::new(), |url| format!("[source.redis]\nurl = \"{url}\"\nmax_len = 5000000\n"));
    let (shards, flush) = (args.shards, args.flush);
    let interval = format!("flush_interval = \"{}\"\n", args.flush_interval);
    let keys = |class| if class == Class::Stream { format!("{interval}{HISTORY}") } else { interval.clone() };
    let config = ServerConfig::new(address)
        .server(&format!("shards = {shards}\nflush = \"{flush}\"\ndrain_window = \"0s\"\n"))
        .limits(MANY_SESSIONS)
        .sections(&tls)
        .sections(&source)
        .namespace_of_each_class(keys)
        .namespace("quotes", Class::Merge, &keys(Class::Merge))
        .namespace("book", Class::Merge, &keys(Class::Merge))
        .namespace("trades", Class::Stream, &keys(Class::Stream))
        .text();
    let path = directory.join("server.toml");
    std::fs::write(&path, config)?;
    let process = launch(args.program, &path, directory)?;
    ready_within(address, directory)?;
    Ok((process, address, if args.tls { sealed } else { address }))
}

/// Starts a server with a configuration; its log goes to `server.log` in `directory`.
pub(crate) fn launch(program: Option<&Path>, config: &Path, directory: &Path) -> anyhow::Result<Process> {
    let program = match program {
        Some(program) => program.to_owned(),
        None => beside("nexus-push")?,
    };
    let log = std::fs::File::create(directory.join("server.log"))?;
    let child = Command::new(&program)
        .args(["serve", "--config"])
        .arg(config)
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("{} cannot be started; build it first: cargo build --release", program.display()))?;
    Ok(Process(child))
}

/// Waits until a server that was launched is ready.
pub(crate) fn ready_within(address: SocketAddr, directory: &Path) -> anyhow::Result<()> {
    if until(Duration::from_secs(20), || ready(address)).is_err() {
        let log = std::fs::read_to_string(directory.join("server.log")).unwrap_or_default();
        bail!("the server is not ready:\n{log}");
    }
    Ok(())
}

/// The section for a TLS port, with a self-signed certificate (P-256, the most common kind).
fn tls(listen: SocketAddr, directory: &Path) -> anyhow::Result<String> {
    let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()])?;
    let (certificate, key) = (directory.join("tls.crt"), directory.join("tls.key"));
    std::fs::write(&certificate, own.cert.pem())?;
    std::fs::write(&key, own.signing_key.serialize_pem())?;
    let (certificate, key) = (certificate.display(), key.display());
    Ok(format!("[tls]\nlisten = \"{listen}\"\ncertificate_file = \"{certificate}\"\nkey_file = \"{key}\"\n"))
}

pub(crate) fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().context("no folder")?.join(name))
}

/// The answer to a GET, with its head.
pub(crate) fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    ask("GET", address, path)
}

/// The answer to a request without a body, with its head.
pub(crate) fn ask(method: &str, address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ASK_TIMEOUT))?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ready(address: SocketAddr) -> bool {
    ask("GET", address, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// The server's `/status`.
pub(crate) fn status(address: SocketAddr) -> anyhow::Result<serde_json::Value> {
    serde_json::from_str(&body(address, "/status")?).context("/status is not JSON")
}

/// The body of the answer to a GET.
pub(crate) fn body(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let answer = ask("GET", address, path).with_context(|| path.to_owned())?;
    let (_, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{path} has no body"))?;
    Ok(body.to_owned())
}

/// Waits until the condition holds.
pub(crate) fn until(limit: Duration, mut so: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    while !so() {
        if Instant::now() > deadline {
            bail!("time-out after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A process and its descendants.
fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(parent) = all.get(at).copied() {
        at += 1;
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    all
}

/// CPU time of a process and its descendants, user and kernel.
pub(crate) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let mut ticks = 0;
    for pid in family(pid) {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the server is gone")?;
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        ticks += rest.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// Resident memory of a process and its descendants, in bytes.
pub(crate) fn rss_bytes(pid: u32) -> u64 {
    let one = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        line.and_then(|l| l.split_whitespace().next()).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    family(pid).into_iter().map(one).sum()
}
