//! Processes and clients for the tests. A process that cannot be started fails the test.

pub(crate) mod bystander;
pub(crate) mod centrifuge_client;
pub(crate) mod certificates;
pub(crate) mod class_changes;
pub(crate) mod clock;
pub(crate) mod deflate;
pub(crate) mod http_backend;
pub(crate) mod imports;
#[cfg(feature = "nats")]
pub(crate) mod nats;
pub(crate) mod nodes;
pub(crate) mod program;
pub(crate) mod publish_cases;
pub(crate) mod publishing;
pub(crate) mod raw_socket;
pub(crate) mod reconnecting_client;
#[cfg(feature = "replay")]
pub(crate) mod recording;
pub(crate) mod redis_groups;
pub(crate) mod resharding;
pub(crate) mod sdk;
#[cfg_attr(not(feature = "nats"), allow(dead_code, reason = "tests of NATS ask what it carried"))]
pub(crate) mod slow_link;
pub(crate) mod tokens;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use rustls::ClientConfig;
use rustls::version::TLS13;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::Response;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite};

pub(crate) use crate::support::certificates::{Authority, client_config, tls_config};

/// By the address of a server's open port: the TLS port that its clients should use.
static SEALED: LazyLock<Mutex<HashMap<SocketAddr, SocketAddr>>> = LazyLock::new(Mutex::default);

/// Longest wait for anything that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Asks the API to report errors by status.
pub(crate) const BY_STATUS: (&str, &str) = ("X-Centrifugo-Error-Mode", "transport");

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_nexus-push");

/// A running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    /// The TLS port, if there is one.
    pub(crate) sealed: Option<SocketAddr>,
    /// The operators' own port, if there is one.
    pub(crate) operators: Option<SocketAddr>,
    /// The port for health checks only, if there is one.
    pub(crate) health: Option<SocketAddr>,
    _directory: tempfile::TempDir,
}

/// The usual configuration: everything open, classes by namespace, no source but the publish API.
pub(crate) const OPEN: &str = r#"
[access]
anonymous = true
origins = ["*"]
[publish]
open = true
[server]
drain_window = "0s"
shards = 2
[namespace.stream]
class = "stream"
[namespace.latest]
class = "latest"
[namespace.merge]
class = "merge"
"#;

impl Server {
    /// Starts with this configuration, on its own port.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_at(config, 0)
    }

    /// Starts with this configuration, on this port.
    pub(crate) fn start_at(config: &str, port: u16) -> Self {
        Self::start_by(config, port, |_| {})
    }

    /// With additional environment variables.
    pub(crate) fn start_in(config: &str, port: u16, environment: &[(&str, &str)]) -> Self {
        Self::start_by(config, port, |command| {
            command.envs(environment.iter().copied());
        })
    }

    /// As [`Self::start_at`], with a command that `arrange` prepares: its environment, or a wrapper program that
    /// executes the server.
    pub(crate) fn start_by(config: &str, port: u16, arrange: impl FnOnce(&mut Command)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nexus-push.toml");
        // `make test` runs the tests of full sockets once more without io_uring.
        let flush = std::env::var("NEXUS_TEST_FLUSH").map(|flush| format!("[server]\nflush = \"{flush}\""));
        let config = match flush {
            Ok(flush) if !config.contains("\nflush =") => config.replacen("[server]", &flush, 1),
            _ => config.to_owned(),
        };
        // And once more over TLS.
        let config = match std::env::var_os("NEXUS_TEST_TLS") {
            Some(_) if !config.contains("[tls]") => {
                let authority = Authority::new();
                authority.issue("localhost").write(directory.path(), "server");
                format!("{config}\n{}", tls_config(directory.path()))
            }
            _ => config,
        };
        // Tests send any `Host`, and read metrics without a key, unless they test that.
        let config = match config {
            config if config.contains("hosts =") => config,
            config if config.contains("[server]\n") => config.replacen("[server]\n", "[server]\nhosts = [\"*\"]\n", 1),
            config => format!("{config}\n[server]\nhosts = [\"*\"]\n"),
        };
        let config = match config.contains("[operator]") {
            true => config,
            false => format!("{config}\n[operator]\nopen = true\n"),
        };
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new(PROGRAM);
        arrange(&mut command);
        if !command.get_envs().any(|(name, _)| name == "NEXUS_LOG") {
            command.env("NEXUS_LOG", "debug");
        }
        let mut child = command
            .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--config"])
            .arg(&path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut stderr = child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut address, mut sealed, mut operators, mut health) = (None, None, None, None);
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some((_, rest)) = line.split_once("listens on http://") {
                address = rest.split_whitespace().next().and_then(|a| a.parse().ok());
            }
            if let Some((_, rest)) = line.split_once("TLS on https://") {
                sealed = rest.split(';').next().and_then(|a| a.parse().ok());
            }
            if let Some((_, rest)) = line.split_once("operators on http://") {
                operators = rest.split(',').next().and_then(|a| a.parse().ok());
            }
            if let Some((_, rest)) = line.split_once("health on http://") {
                health = rest.split(": ").next().and_then(|a| a.parse().ok());
            }
            log.lock().unwrap().push(line);
            if address.is_some() {
                break;
            }
        }
        let Some(address) = address else {
            let _ = child.wait();
            panic!("the server did not start: {}", errors.join().unwrap());
        };
        let rest = log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                rest.lock().unwrap().push(line);
            }
        });
        if let (Some(sealed), Some(_)) = (sealed, std::env::var_os("NEXUS_TEST_TLS")) {
            SEALED.lock().unwrap().insert(address, sealed);
        }
        Self { child, address, log, sealed, operators, health, _directory: directory }
    }

    pub(crate) fn open() -> Self {
        Self::start(OPEN)
    }

    /// The open configuration with additions.
    pub(crate) fn open_with(more: &str) -> Self {
        Self::start(&format!("{OPEN}\n{more}"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for the process to end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server did not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// One HTTP request: status, head and body.
    pub(crate) fn http(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String, String) {
        Self::http_at(self.address, method, path, headers, body)
    }

    /// The same for any address.
    pub(crate) fn http_at(
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, String, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request.push_str("Host: test\r\n");
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{request}\r\n{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let (status, _, body) = self.http("GET", path, &[], "");
        (status, body)
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status").1).unwrap()
    }

    /// A metric's value; `name` with its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").1;
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("nexus_push_{name} ")));
        match line {
            Some(value) => value.parse().unwrap(),
            // A label that has not been counted yet.
            None if name.contains('{') => 0.0,
            // The sum over all labels.
            None => {
                let family = text.lines().filter_map(|l| l.strip_prefix(&format!("nexus_push_{name}{{")));
                let values = family.map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
                let known = text.contains(&format!("# TYPE nexus_push_{} ", name.trim_end_matches("_total")))
                    || text.contains(&format!("# TYPE nexus_push_{name} "));
                assert!(known, "no metric {name}");
                values.sum()
            }
        }
    }

    /// Waits until the condition is true.
    pub(crate) async fn until(&self, what: &str, mut so: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(Instant::now() < deadline, "not in time: {what}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A command of the API; errors are reported by status.
    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let headers = [("Content-Type", "application/json"), BY_STATUS];
        let (status, _, body) = self.http("POST", path, &headers, &body.to_string());
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// Publishes and returns the offset.
    pub(crate) fn publish(&self, topic: &str, data: &Value) -> u64 {
        let (status, reply) = self.post("/api/publish", &json!({"channel": topic, "data": data}));
        assert_eq!(status, 200, "{reply}");
        reply["result"]["offset"].as_u64().unwrap()
    }

    /// Publishes many in one request.
    pub(crate) fn publish_all(&self, deltas: &[(String, Value)]) {
        for chunk in deltas.chunks(2_000) {
            let commands: Vec<Value> =
                chunk.iter().map(|(t, d)| json!({"publish": {"channel": t, "data": d}})).collect();
            let (status, reply) = self.post("/api/batch", &json!({"commands": commands}));
            assert_eq!(status, 200, "{reply}");
            for reply in reply["replies"].as_array().unwrap() {
                assert!(reply["publish"]["offset"].is_u64(), "{reply}");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log.lock().unwrap();
            eprintln!("--- server log, last lines\n{}", log[log.len().saturating_sub(40)..].join("\n"));
        }
    }
}

pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A real `redis-server`.
pub(crate) struct Redis {
    child: Option<Child>,
    pub(crate) port: u16,
    directory: tempfile::TempDir,
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::start_on(free_port())
    }

    /// Starts on this port.
    pub(crate) fn start_on(port: u16) -> Self {
        let mut redis = Self { child: None, port, directory: tempfile::tempdir().unwrap() };
        redis.start_again();
        redis
    }

    /// Starts on the same port, with its data (every write is synced).
    pub(crate) fn start_again(&mut self) {
        let port = self.port.to_string();
        let child = Command::new("redis-server")
            .args([
                "--port",
                &port,
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
            ])
            .arg("--dir")
            .arg(self.directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server must be installed: `make test` does it");
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while self.try_command(&["PING"]).as_deref() != Some("+PONG") {
            assert!(Instant::now() < deadline, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it, as a power cut would.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Removes its data, while it is not running.
    pub(crate) fn wipe(&self) {
        for entry in std::fs::read_dir(self.directory.path()).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.as_ref().unwrap().id(), name);
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn try_command(&self, args: &[&str]) -> Option<String> {
        self.try_bytes(&args.iter().map(|arg| arg.as_bytes()).collect::<Vec<_>>())
    }

    fn try_bytes(&self, args: &[&[u8]]) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut request = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            request.extend([format!("${}\r\n", arg.len()).as_bytes(), arg, b"\r\n"].concat());
        }
        stream.write_all(&request).ok()?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let head = line.trim_end().to_owned();
        if head.starts_with('$') && head != "$-1" {
            line.clear();
            reader.read_line(&mut line).ok()?;
            return Some(line.trim_end().to_owned());
        }
        Some(head)
    }

    /// Number of states saved for a stream.
    pub(crate) fn saved(&self, stream: &str) -> usize {
        self.topics_in(&format!("{{{stream}}}:snapshots"))
    }

    /// Number of topics in a hash of a stream.
    pub(crate) fn topics_in(&self, hash: &str) -> usize {
        // One field is the position up to which it was saved.
        let count = "return redis.call('HLEN', KEYS[1]) - redis.call('HEXISTS', KEYS[1], '')";
        self.command(&["EVAL", count, "1", hash]).trim_start_matches(':').parse().unwrap()
    }

    /// The first line of the answer (the string itself, for a bulk string).
    pub(crate) fn command(&self, args: &[&str]) -> String {
        let answer = self.try_command(args).expect("Redis answers");
        assert!(!answer.starts_with('-'), "{args:?}: {answer}");
        answer
    }

    /// Appends a delta as a backend would. Returns its ID.
    pub(crate) fn add(&self, topic: &str, data: &Value) -> String {
        self.xadd("nexus:deltas", "*", &["topic", topic, "data", &data.to_string()])
    }

    /// Appends an entry of these fields and values; returns its ID.
    pub(crate) fn xadd(&self, stream: &str, id: &str, fields: &[&str]) -> String {
        self.command(&[&["XADD", stream, id], fields].concat())
    }

    /// Appends an entry of this kind; returns its ID.
    pub(crate) fn add_kind(&self, stream: &str, id: &str, topic: &str, kind: &str, data: &Value) -> String {
        self.xadd(stream, id, &["topic", topic, "kind", kind, "data", &data.to_string()])
    }

    /// The same with raw bytes.
    pub(crate) fn add_bytes(&self, topic: &str, data: &[u8]) {
        let answer = self.try_bytes(&[b"XADD", b"nexus:deltas", b"*", b"topic", topic.as_bytes(), b"data", data]);
        assert!(answer.is_some_and(|id| id.contains('-')));
    }

    /// The configuration of a server with this source.
    pub(crate) fn source_config(&self) -> String {
        format!("[source.redis]\nurl = \"{}\"\n", self.url())
    }

    /// A server that reads it, with everything open.
    pub(crate) async fn server(&self, more: &str) -> Server {
        let server = Server::start(&format!("{OPEN}\n[source.redis]\nurl = \"{}\"\n{more}", self.url()));
        server.until("ready", |s| s.get("/readyz").0 == 200).await;
        server
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

type Connected = (Socket, Response<Option<Vec<u8>>>);
type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// A WebSocket client, by an independent implementation.
pub(crate) struct Client {
    socket: Socket,
}

/// A message, or the end of a connection.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Got {
    Json(Value),
    Close(u16, String),
    /// Without a close frame.
    End,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, &[]).await.unwrap()
    }

    /// With more headers. Returns the status if the upgrade is refused.
    pub(crate) async fn connect_with(address: SocketAddr, headers: &[(&'static str, &str)]) -> Result<Self, u16> {
        let sealed = SEALED.lock().unwrap().get(&address).copied();
        if let Some(sealed) = sealed {
            return Box::pin(Self::connect_sealed(sealed, headers, client_config(None, &[&TLS13], None))).await;
        }
        let mut request = format!("ws://{address}/ws").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        Self::answered(tokio_tungstenite::connect_async(request).await)
    }

    /// Over TLS.
    pub(crate) async fn connect_sealed(
        address: SocketAddr,
        headers: &[(&'static str, &str)],
        config: ClientConfig,
    ) -> Result<Self, u16> {
        let mut request = format!("wss://localhost:{}/ws", address.port()).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let connector = tokio_tungstenite::Connector::Rustls(Arc::new(config));
        let connected = tokio_tungstenite::connect_async_tls_with_config(request, None, true, Some(connector)).await;
        Self::answered(connected)
    }

    fn answered(outcome: Result<Connected, tungstenite::Error>) -> Result<Self, u16> {
        match outcome {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn send(&mut self, command: Value) {
        self.socket.send(Message::text(command.to_string())).await.unwrap();
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub(crate) async fn send_binary(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).await.unwrap();
    }

    /// The next message or end; pings are answered.
    pub(crate) async fn got(&mut self) -> Got {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("nothing came");
            return match next {
                Some(Ok(Message::Text(text))) => Got::Json(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(Some(frame)))) => Got::Close(frame.code.into(), frame.reason.to_string()),
                Some(Ok(Message::Close(None))) => Got::Close(1005, String::new()),
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => Got::End,
            };
        }
    }

    /// The next message, as text.
    pub(crate) async fn next_text(&mut self) -> String {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("nothing came");
            match next.unwrap().unwrap() {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?} instead of a message"),
            }
        }
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Value {
        match self.got().await {
            Got::Json(value) => value,
            other => panic!("{other:?} instead of a message"),
        }
    }

    /// The close code; earlier messages are ignored.
    pub(crate) async fn close_code(&mut self) -> u16 {
        loop {
            match self.got().await {
                Got::Close(code, _) => return code,
                Got::End => panic!("the connection ended without a close frame"),
                Got::Json(_) => {}
            }
        }
    }

    /// Subscribes and returns the reply.
    pub(crate) async fn subscribe(&mut self, topics: &[&str]) -> Value {
        self.send(json!({"op": "subscribe", "id": 1, "args": topics})).await;
        let reply = self.next().await;
        assert_eq!(reply["op"], "subscribe", "{reply}");
        reply
    }

    /// A reply shows that everything before it has been handled, and that nothing else was on its way.
    pub(crate) async fn nothing_more(&mut self) {
        self.send(json!({"op": "ping", "id": "nothing"})).await;
        assert_eq!(self.next().await, json!({"id": "nothing", "op": "pong"}));
    }
}

/// Applies deliveries of a `merge` topic as `docs/protocol.md` describes, and checks that they join up.
#[derive(Debug, Default, Clone)]
pub(crate) struct Follower {
    pub(crate) offset: u64,
    pub(crate) epoch: String,
    pub(crate) state: Value,
    pub(crate) deltas: u64,
    pub(crate) conflated: u64,
    pub(crate) snapshots: u64,
}

impl Follower {
    pub(crate) fn take(&mut self, message: &Value) {
        let offset = message["offset"].as_u64().unwrap();
        if message["type"] == "snapshot" {
            self.snapshots += 1;
            self.state = message["data"].clone();
            self.epoch = message["epoch"].as_str().unwrap().to_owned();
        } else {
            let prev = message["prev"].as_u64().unwrap();
            assert!(prev <= self.offset && self.offset < offset, "{} does not join up with {message}", self.offset);
            let count = message["conflated"].as_u64().unwrap_or(1);
            self.deltas += count;
            self.conflated += count - 1;
            json_patch::merge(&mut self.state, &message["data"]);
        }
        self.offset = offset;
    }

    /// Follows until the topic has reached `offset`.
    pub(crate) async fn follow(&mut self, client: &mut Client, offset: u64) {
        while self.offset < offset {
            let message = client.next().await;
            if message["topic"].is_string() && message["type"].is_string() {
                self.take(&message);
            }
        }
    }
}
