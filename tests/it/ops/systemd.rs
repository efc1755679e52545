//! Under a service manager: notifications, sockets that it hands over, the filter that it sets. There is no systemd
//! here; the tests speak its protocols.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::certificates::{Authority, tls_config};
use crate::support::{Client, Got, OPEN, PATIENCE, PROGRAM, Redis, Server, free_port};

/// The socket for notifications to the manager.
struct Manager {
    socket: UnixDatagram,
    name: String,
    _directory: tempfile::TempDir,
}

impl Manager {
    fn new(is_abstract: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify").to_str().unwrap().to_owned();
        let (address, name) = match is_abstract {
            true => (UnixAddress::from_abstract_name(&path).unwrap(), format!("@{path}")),
            false => (UnixAddress::from_pathname(&path).unwrap(), path),
        };
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, name, _directory: directory }
    }

    /// The next notification.
    fn received(&self) -> String {
        let mut buffer = [0; 4_096];
        let n = self.socket.recv(&mut buffer).expect("a notification should have come");
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    }

    /// Waits for a line with this beginning. Returns its rest, and all earlier notifications.
    fn until(&self, begins: &str) -> (String, Vec<String>) {
        let mut before = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no {begins}, but {before:?}");
            let received = self.received();
            if let Some(rest) = received.lines().find_map(|line| line.strip_prefix(begins)) {
                return (rest.to_owned(), before);
            }
            before.push(received);
        }
    }

    /// Discards the notifications so far.
    fn forget(&self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut [0; 4_096]).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
    }

    fn server(&self, config: &str) -> Server {
        let arrange = |command: &mut Command| {
            command.env("NOTIFY_SOCKET", &self.name);
        };
        Server::start_by(config, 0, arrange)
    }

    fn watching_server(&self, config: &str, watchdog_ms: u64) -> Server {
        let arrange = |command: &mut Command| {
            command.env("NOTIFY_SOCKET", &self.name).env("WATCHDOG_USEC", (watchdog_ms * 1_000).to_string());
        };
        Server::start_by(config, 0, arrange)
    }
}

#[test]
fn the_manager_is_notified_of_start_reload_and_stop() {
    for is_abstract in [false, true] {
        let manager = Manager::new(is_abstract);
        let mut server = manager.server(OPEN);
        let (_, before) = manager.until("READY=1");
        assert!(before.iter().all(|notification| !notification.contains("STOPPING")), "{before:?}");
        let (status, _) = manager.until("STATUS=");
        assert!(status.contains(" sessions, ") && status.starts_with("ready"), "{status}");
        // Without certificates there is nothing to reload, but it must not end the process.
        server.signal("HUP");
        let (us, _) = manager.until("MONOTONIC_USEC=");
        assert!(us.parse::<u64>().unwrap() > 0);
        manager.until("READY=1");
        assert_eq!(server.get("/healthz").0, 200);
        server.signal("TERM");
        let (us, _) = manager.until("EXTEND_TIMEOUT_USEC=");
        assert!(us.parse::<u64>().unwrap() >= 8_000_000, "{us}");
        assert!(server.wait().success());
    }
}

#[test]
fn a_long_drain_extends_the_managers_time_out() {
    let manager = Manager::new(false);
    let mut server = manager.server(&OPEN.replace("drain_window = \"0s\"", "drain_window = \"10m\""));
    manager.until("READY=1");
    server.signal("TERM");
    let stopping =
        std::iter::repeat_with(|| manager.received()).find(|notification| notification.contains("STOPPING=1")).unwrap();
    let us = stopping.lines().find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC=")).unwrap();
    assert!(us.parse::<u64>().unwrap() >= 600_000_000, "{us}");
    assert!(server.wait().success());
}

/// New certificates, with notifications before and after, and no effect on sessions.
#[tokio::test]
async fn a_reload_of_certificates_is_notified() {
    let manager = Manager::new(false);
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.issue("localhost").write(directory.path(), "server");
    let server = manager.server(&format!("{OPEN}\n{}", tls_config(directory.path())));
    manager.until("READY=1");
    authority.issue("localhost").write(directory.path(), "server");
    manager.forget();
    server.signal("HUP");
    manager.until("RELOADING=1");
    manager.until("READY=1");
    assert_eq!(server.metric("tls_reloads_total"), 1.0, "READY=1 comes after the reload");
}

#[test]
fn it_is_not_ready_before_its_sources_are_loaded_and_asks_for_time() {
    let manager = Manager::new(false);
    let port = free_port();
    let server = manager.server(&format!("{OPEN}\n[source.redis]\nurl = \"redis://127.0.0.1:{port}\"\n"));
    for _ in 0..2 {
        let notification = manager.received();
        assert!(
            notification.contains("STATUS=loading") && notification.contains("EXTEND_TIMEOUT_USEC="),
            "{notification}"
        );
        assert!(!notification.contains("READY=1"));
    }
    assert_eq!(server.get("/readyz").0, 503);
    let _redis = Redis::start_on(port);
    let (_, before) = manager.until("READY=1");
    assert!(before.iter().all(|notification| notification.contains("STATUS=loading")), "{before:?}");
}

/// The watchdog is notified as long as every shard runs. A debugger stops one shard's thread, and only that.
#[test]
fn the_watchdog_is_fed_while_every_shard_turns() {
    let manager = Manager::new(false);
    let server = manager.watching_server(OPEN, 1_000);
    manager.until("READY=1");
    for _ in 0..3 {
        manager.until("WATCHDOG=1");
    }
    let stopped = Stopped::thread(server.pid(), "shard-1");
    let (status, _) = manager.until("STATUS=a shard has not run for ");
    assert!(status.contains(" ms"), "{status}");
    for _ in 0..4 {
        let notification = manager.received();
        assert!(notification.contains("STATUS=") && !notification.contains("WATCHDOG=1"), "{notification}");
    }
    drop(stopped);
    manager.until("WATCHDOG=1");
    manager.until("STATUS=ready");
}

/// A thread that is stopped, while the process' others run.
struct Stopped(libc::pid_t);

#[allow(unsafe_code, reason = "ptrace(2) has no safe form")]
impl Stopped {
    fn thread(pid: u32, name: &str) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap());
        let is_it = |task: &std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let task = tasks.into_iter().find(is_it).expect("the thread exists");
        let thread: libc::pid_t = task.file_name().to_str().unwrap().parse().unwrap();
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: these requests pass no memory.
        let held = unsafe {
            libc::ptrace(libc::PTRACE_SEIZE, thread, null, null) == 0
                && libc::ptrace(libc::PTRACE_INTERRUPT, thread, null, null) == 0
                && libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL) == thread
        };
        assert!(held, "the thread cannot be stopped: {}", io::Error::last_os_error());
        Self(thread)
    }
}

#[allow(unsafe_code, reason = "ptrace(2) has no safe form")]
impl Drop for Stopped {
    fn drop(&mut self) {
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: as above.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, null, null) };
    }
}

#[test]
fn a_watchdog_that_is_meant_for_another_process_is_not_fed() {
    let manager = Manager::new(false);
    let arrange = |command: &mut Command| {
        command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "100000").env("WATCHDOG_PID", "1");
    };
    let _server = Server::start_by(OPEN, 0, arrange);
    let (_, mut notification) = manager.until("READY=1");
    notification.extend([manager.received(), manager.received()]);
    assert!(notification.iter().all(|notification| !notification.contains("WATCHDOG")), "{notification:?}");
}

/// Sockets that this process opens and hands to servers, as systemd does: from descriptor 3 on, with `LISTEN_…`.
struct Held(Vec<(&'static str, TcpListener)>);

impl Held {
    fn new(names: &[&'static str]) -> Self {
        Self(names.iter().map(|name| (*name, TcpListener::bind("127.0.0.1:0").unwrap())).collect())
    }

    fn address(&self, at: usize) -> SocketAddr {
        self.0[at].1.local_addr().unwrap()
    }

    /// Passes them to a program that `bash -c` starts.
    fn hand(&self, command: &mut Command) {
        let mut script = String::new();
        for (at, (_, socket)) in self.0.iter().enumerate() {
            rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty()).unwrap();
            script += &format!("exec {}<&{}; ", 103 + at, socket.as_raw_fd());
        }
        for at in 0..self.0.len() {
            script += &format!("exec {}<&{1} {1}<&-; ", 3 + at, 103 + at);
        }
        script += "export LISTEN_PID=$$; exec \"$0\" \"$@\"";
        let names: Vec<&str> = self.0.iter().map(|(name, _)| *name).collect();
        *command = Command::new("bash");
        command.args(["-c", &script, PROGRAM]);
        command.env("LISTEN_FDS", self.0.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    }

    fn server(&self, config: &str) -> Server {
        Server::start_by(config, 0, |command| self.hand(command))
    }
}

#[tokio::test]
async fn sockets_are_taken_by_their_names() {
    let directory = tempfile::tempdir().unwrap();
    Authority::new().issue("localhost").write(directory.path(), "server");
    let sealed = format!("{OPEN}\n{}", tls_config(directory.path()));
    let operated = format!("{OPEN}\n[operator]\nlisten = \"127.0.0.1:0\"\n");
    for (names, config) in [
        (&["nexus-push.socket"][..], OPEN),
        (&["http"], OPEN),
        (&["http", "http"], OPEN),
        (&["tls", "http"], &sealed),
        (&["operator", "http"], &operated),
    ] {
        let held = Held::new(names);
        let server = held.server(config);
        let at = |name: &str| names.iter().position(|n| *n == name);
        assert_eq!(server.address, held.address(at("http").unwrap_or(0)), "{names:?}");
        assert_eq!(server.sealed, at("tls").map(|at| held.address(at)), "{names:?}");
        if let Some(at) = at("operator") {
            let url = format!("http://{}/healthz", held.address(at));
            assert!(Command::new(PROGRAM).args(["healthcheck", &url]).status().unwrap().success());
            assert_eq!(server.get("/status").0, 404, "it is on the operators' port");
        }
        for (at, name) in names.iter().enumerate().filter(|(_, name)| !["tls", "operator"].contains(name)) {
            let mut client = Client::connect(held.address(at)).await;
            client.send(json!({"op": "ping"})).await;
            assert_eq!(client.next().await["op"], "pong", "{name}");
        }
    }
}

/// systemd's own program for testing services: it listens, and starts the server when the first client connects.
#[tokio::test]
async fn the_first_client_starts_the_server() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let first = tokio::spawn(async move {
        // Once systemd-socket-activate listens.
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        Client::connect(address).await
    });
    let arrange = move |command: &mut Command| {
        *command = Command::new("systemd-socket-activate");
        command.args(["--listen", &address.to_string(), "--fdname=http", "--setenv=NEXUS_LOG=debug", PROGRAM]);
    };
    let server = tokio::task::spawn_blocking(move || Server::start_by(OPEN, 0, arrange)).await.unwrap();
    assert_eq!(server.address, address);
    let mut client = first.await.unwrap();
    client.subscribe(&["stream:a"]).await;
    server.publish("stream:a", &json!(1));
    assert_eq!(client.next().await["data"], 1, "the first client is served");
}

#[test]
fn an_unused_socket_is_refused_with_a_remedy() {
    for (names, needle) in
        [(&["http", "tls"][..], "`tls`"), (&["http", "operator"], "`operator`"), (&["http", "metrics"], "`metrics`")]
    {
        let held = Held::new(names);
        let mut command = Command::new(PROGRAM);
        held.hand(&mut command);
        let output = command.args(["serve", "--insecure"]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        for needle in [needle, "FileDescriptorName=", "http, tls, operator"] {
            assert!(error.contains(needle), "{error}");
        }
    }
}

/// Two restarts while clients connect and deltas are published: no client is refused, by the kernel or by a server, and
/// none misses a delta.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_a_handed_over_socket_refuses_no_client() {
    let redis = Redis::start();
    let held = Held::new(&["http"]);
    let address = held.address(0);
    let config = OPEN.replace("drain_window = \"0s\"", "drain_window = \"500ms\"") + &redis.source_config();
    let ended = Arc::new(AtomicBool::new(false));
    let (connected, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(u64::MAX)));

    let mut server = held.server(&config);
    let followers: Vec<_> = (0..8).map(|_| tokio::spawn(follow(address, last.clone(), connected.clone()))).collect();
    let comers: Vec<_> = (0..4)
        .map(|_| {
            let (ended, connected) = (ended.clone(), connected.clone());
            tokio::spawn(async move {
                let mut refused = 0;
                while !ended.load(Ordering::SeqCst) {
                    drop(come(address, &mut refused).await);
                    connected.fetch_add(1, Ordering::SeqCst);
                }
                refused
            })
        })
        .collect();
    let publishing = {
        let (ended, url) = (ended.clone(), redis.url());
        tokio::spawn(async move {
            let redis = ::redis::Client::open(url).unwrap();
            let mut connection = redis.get_multiplexed_async_connection().await.unwrap();
            let mut n = 0u64;
            while !ended.load(Ordering::SeqCst) {
                n += 1;
                let mut add = ::redis::cmd("XADD");
                add.arg("nexus:deltas").arg("*").arg("topic").arg("stream:a").arg("data").arg(n);
                add.exec_async(&mut connection).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            n
        })
    };
    for _ in 0..2 {
        let before = connected.load(Ordering::SeqCst);
        server.until("clients came", |_| connected.load(Ordering::SeqCst) > before + 50).await;
        server.signal("TERM");
        assert!(tokio::task::block_in_place(|| server.wait()).success());
        server = held.server(&config);
    }
    let before = connected.load(Ordering::SeqCst);
    server.until("clients came", |_| connected.load(Ordering::SeqCst) > before + 50).await;
    ended.store(true, Ordering::SeqCst);
    let mut refused = 0;
    for comer in comers {
        refused += comer.await.unwrap();
    }
    // One more, so that a client that has all others sees that this is the end.
    let n = publishing.await.unwrap() + 1;
    last.store(n, Ordering::SeqCst);
    redis.add("stream:a", &json!(n));
    for follower in followers {
        let (restarts, of_these) = follower.await.unwrap();
        assert_eq!(restarts, 2, "one reconnect for each restart");
        refused += of_these;
    }
    // One connection may have been accepted without its request, which came just after the drain had begun. If
    // accepting were not stopped first, there would be hundreds.
    assert!(refused < 5, "{refused} were refused");
    assert_eq!(server.metric("upgrades_refused_total{reason=\"starting\"}"), 0.0);
}

/// Connects. A refusal by the kernel fails the test; one by a server is counted.
async fn come(address: SocketAddr, refused: &mut usize) -> Client {
    loop {
        match Client::connect_with(address, &[]).await {
            Ok(client) => return client,
            Err(status) => assert_eq!(status, 503),
        }
        *refused += 1;
    }
}

/// Follows a topic over restarts until its last delta: no delta is missed or repeated. Returns how often it reconnected
/// and was refused.
async fn follow(address: SocketAddr, last: Arc<AtomicU64>, connected: Arc<AtomicUsize>) -> (usize, usize) {
    let mut refused = 0;
    let mut position: Option<(Value, Value)> = None;
    let (mut seen, mut connections) = (None::<u64>, 0);
    loop {
        let mut client = come(address, &mut refused).await;
        connected.fetch_add(1, Ordering::SeqCst);
        connections += 1;
        let since = match &position {
            Some((offset, epoch)) => json!({"stream:a": {"offset": offset, "epoch": epoch}}),
            None => json!({}),
        };
        client.send(json!({"op": "subscribe", "id": 1, "args": ["stream:a"], "since": since})).await;
        loop {
            match client.got().await {
                Got::Json(message) if message["op"] == "subscribe" => {
                    let topic = &message["topics"]["stream:a"];
                    assert_eq!(topic["recovered"].as_bool(), Some(position.is_some()), "{message}");
                    if position.is_none() {
                        position = Some((topic["offset"].clone(), topic["epoch"].clone()));
                    }
                }
                Got::Json(message) if message["type"] == "delta" => {
                    let n = message["data"].as_u64().unwrap();
                    assert!(seen.is_none_or(|seen| n == seen + 1), "{n} after {seen:?}");
                    seen = Some(n);
                    if let Some((offset, _)) = &mut position {
                        *offset = message["offset"].clone();
                    }
                    if n >= last.load(Ordering::SeqCst) {
                        return (connections - 1, refused);
                    }
                }
                Got::Json(_) => {}
                Got::Close(code, _) => {
                    assert_eq!(code, 1012);
                    break;
                }
                Got::End => panic!("the connection ended without a word"),
            }
        }
    }
}

fn filtered(arguments: &[&str]) -> Server {
    let script = format!("{}/tests/seccomp.py", env!("CARGO_MANIFEST_DIR"));
    let arrange = |command: &mut Command| {
        *command = Command::new("python3");
        command.arg(&script).args(arguments).arg("--").arg(PROGRAM);
        // Under `make asan`: the leak check uses ptrace, which the filter forbids.
        command.env("ASAN_OPTIONS", "detect_leaks=0");
    };
    Server::start_by(OPEN, 0, arrange)
}

/// Deliveries under a filter.
async fn serves(server: &Server) {
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = server.client().await;
        client.subscribe(&["stream:a"]).await;
        clients.push(client);
    }
    for n in 0..5 {
        server.publish("stream:a", &json!(n));
        for client in &mut clients {
            assert_eq!(client.next().await["data"], n);
        }
    }
}

/// The unit's own `SystemCallFilter=` allows everything that the server needs, including io_uring.
#[tokio::test]
async fn under_the_units_filter_it_serves_with_io_uring() {
    let unit = format!("{}/systemd/nexus-push.service", env!("CARGO_MANIFEST_DIR"));
    let mut server = filtered(&["--unit", &unit]);
    serves(&server).await;
    // The same as without a filter, on this machine.
    let free = Server::open();
    free.until("its shards run", |s| s.log().matches("shard starts").count() == 2).await;
    assert_eq!(server.status()["shards"][0]["io_uring"], free.status()["shards"][0]["io_uring"]);
    server.signal("TERM");
    assert!(server.wait().success());
}

/// The filter of container runtimes.
#[tokio::test]
async fn without_io_uring_it_serves_with_epoll_and_logs_it() {
    let mut server = filtered(&["--deny", "io_uring_setup"]);
    serves(&server).await;
    assert!(server.log().contains("io_uring is not available, using epoll"), "{}", server.log());
    for shard in server.status()["shards"].as_array().unwrap() {
        assert_eq!(shard["io_uring"], false);
    }
    server.signal("TERM");
    assert!(server.wait().success());
}
