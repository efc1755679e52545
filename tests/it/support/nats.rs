//! A real NATS server, and what a node shows of its stream.

use crate::support::{OPEN, PATIENCE, Server, free_port, signal};
use async_nats::jetstream;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A real `nats-server` with JetStream.
pub(crate) struct Nats {
    pub(crate) child: Option<Child>,
    pub(crate) port: u16,
    pub(crate) directory: tempfile::TempDir,
    /// Additional configuration.
    more: String,
}

impl Nats {
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    pub(crate) fn start_with(more: &str) -> Self {
        let mut nats =
            Self { child: None, port: free_port(), directory: tempfile::tempdir().unwrap(), more: more.to_owned() };
        nats.start_again();
        nats
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Starts on the same port, with its data.
    pub(crate) fn start_again(&mut self) {
        let config = self.directory.path().join("nats.conf");
        let data = self.data();
        let text = format!(
            "listen: \"127.0.0.1:{}\"\njetstream {{ store_dir: \"{}\", max_mem: 64MB, max_file: 1GB }}\n{}",
            self.port,
            data.display(),
            self.more
        );
        std::fs::write(&config, text).unwrap();
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/target/nats-venv/bin/nats-server");
        let child = Command::new(program)
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("target/nats-venv must have nats-server: `make tools` does it");
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while !self.greets() {
            assert!(Instant::now() < deadline, "nats-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn greets(&self) -> bool {
        let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).is_ok() && line.starts_with("INFO")
    }

    /// Kills it, as a power cut would.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Copies everything that is stored now.
    pub(crate) fn back_up(&mut self) {
        self.kill();
        copy(&self.data(), &self.directory.path().join("kept"));
        self.start_again();
    }

    /// Restores these streams from the copy. No server is running when this returns.
    pub(crate) fn put_back(&mut self, streams: &[&str]) {
        self.kill();
        for stream in streams {
            let place = Path::new("jetstream/$G/streams").join(stream);
            let (from, to) = (self.directory.path().join("kept").join(&place), self.data().join(&place));
            std::fs::remove_dir_all(&to).unwrap();
            copy(&from, &to);
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.as_ref().unwrap().id(), name);
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(self.url()).await.unwrap())
    }

    pub(crate) fn config(&self, more: &str) -> String {
        format!("{OPEN}\n[source.nats]\nurls = [\"{}\"]\n{more}", self.url())
    }

    /// A server that reads it, with everything open.
    pub(crate) async fn server(&self, more: &str) -> Server {
        let server = Server::start(&self.config(more));
        ready(&server).await;
        server
    }

    /// Publishes raw bytes, as any client's library may.
    pub(crate) fn raw(&self, subject: &[u8], headers: Option<&[u8]>, payload: &[u8]) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = b"CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n".to_vec();
        match headers {
            Some(headers) => {
                bytes.extend([b"HPUB ", subject].concat());
                bytes.extend(format!(" {} {}\r\n", headers.len(), headers.len() + payload.len()).bytes());
                bytes.extend(headers);
            }
            None => {
                bytes.extend([b"PUB ", subject].concat());
                bytes.extend(format!(" {}\r\n", payload.len()).bytes());
            }
        }
        bytes.extend([payload, b"\r\nPING\r\n"].concat());
        stream.write_all(&bytes).unwrap();
        let mut lines = BufReader::new(stream).lines();
        assert!(lines.any(|line| line.unwrap().starts_with("PONG")), "nats-server received it");
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) async fn ready(server: &Server) {
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
}

/// Publishes a delta as a backend would. Returns its sequence.
pub(crate) async fn add(js: &jetstream::Context, subject: &str, data: &Value) -> u64 {
    let subject = format!("nexus.deltas.{subject}");
    let ack = js.publish(subject, data.to_string().into()).await.unwrap().await.unwrap();
    ack.sequence
}

pub(crate) fn view(server: &Server, topic: &str) -> Value {
    serde_json::from_str(&server.get(&format!("/api/topics/{topic}")).1).unwrap_or(Value::Null)
}

pub(crate) const EPOCH_CHANGES: &str = "epoch_changes_total{source=\"nats NEXUS\"}";

/// Waits until states are saved up to `last`.
pub(crate) async fn saved_upto(js: &jetstream::Context, epoch: &str, last: u64) {
    let bucket = js.get_key_value("NEXUS_STATE").await.unwrap();
    // Also for a state that may lack deltas.
    let key = format!("position.{}", epoch.trim_end_matches('~'));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let position = bucket.get(&key).await.unwrap().unwrap_or_default();
        let saved: Value = serde_json::from_slice(&position).unwrap_or_default();
        if saved["sequence"].as_u64().is_some_and(|sequence| sequence >= last) {
            return;
        }
        assert!(Instant::now() < deadline, "not saved: {saved}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn etag(server: &Server, topic: &str) -> Option<String> {
    let (_, head, _) = server.http("GET", &format!("/api/topics/{topic}"), &[], "");
    head.lines().find(|line| line.starts_with("etag")).map(str::to_owned)
}

pub(crate) async fn add_kind(js: &jetstream::Context, subject: &str, kind: &str, data: &Value) -> u64 {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nexus-Kind", kind);
    let subject = format!("nexus.deltas.{subject}");
    js.publish_with_headers(subject, headers, data.to_string().into()).await.unwrap().await.unwrap().sequence
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}
