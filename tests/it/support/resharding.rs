//! `nexus-push reshard` while nodes run.

use crate::support::{OPEN, PATIENCE, PROGRAM, Redis, Server};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(crate) fn home<'a>(topic: &str, streams: &[&'a str]) -> &'a str {
    let hash = topic.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    streams[usize::try_from(hash % streams.len() as u64).unwrap()]
}

pub(crate) fn add(redis: &Redis, stream: &str, topic: &str, kind: &str, data: &Value) -> String {
    redis.add_kind(stream, "*", topic, kind, data)
}

pub(crate) fn config(redis: &Redis, streams: &[&str], also: &[&str]) -> String {
    let also: Vec<&&str> = also.iter().filter(|stream| !streams.contains(stream)).collect();
    format!(
        "{OPEN}\n{}streams = {streams:?}\nread_also = {also:?}\nsnapshot_every = \"300ms\"\n",
        redis.source_config()
    )
}

pub(crate) async fn node(redis: &Redis, streams: &[&str], also: &[&str]) -> Server {
    let server = Server::start(&config(redis, streams, also));
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    server
}

/// A running command, with its output.
pub(crate) struct Run {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    _directory: tempfile::TempDir,
}

pub(crate) fn view(server: &Server, topic: &str) -> Value {
    let (status, head, body) = server.http("GET", &format!("/api/topics/{topic}"), &[], "");
    if status != 200 {
        return json!({ "status": status });
    }
    let tag = head.lines().find(|line| line.starts_with("etag:")).unwrap_or_default().to_owned();
    let body: Value = serde_json::from_str(&body).unwrap();
    if topic.starts_with("stream:") {
        // How many are kept depends on when a node started.
        return json!([body["offset"], body["epoch"]]);
    }
    json!([tag, body["offset"], body["epoch"], body["data"], body["incomplete"]])
}

impl Run {
    pub(crate) fn start(redis: &Redis, from: &[&str], to: &[&str], more: &[&str]) -> Self {
        Self::with(&config(redis, from, to), to, more)
    }

    /// With this configuration; `more` overrides options.
    pub(crate) fn with(config: &str, to: &[&str], more: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("nexus-push.toml");
        std::fs::write(&file, config).unwrap();
        let quiet: &[&str] = if more.contains(&"--quiet") { &[] } else { &["--quiet", "1"] };
        let mut child = Command::new(PROGRAM)
            .args(["reshard", "--config", file.to_str().unwrap(), "--to", &to.join(",")])
            .args(quiet)
            .args(more)
            .env_remove("NEXUS_CONFIG")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let lines = lines.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    lines.lock().unwrap().push(line);
                }
            });
        }
        Self { child, lines, _directory: directory }
    }

    pub(crate) fn output(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Waits for a line, or for the one that comes when all topics are moved. Returns whether it came before the end.
    pub(crate) async fn prints(&mut self, needle: &str) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.output().contains(needle) || self.output().contains("topics are moved") {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return self.output().contains(needle);
            }
            assert!(Instant::now() < deadline, "{needle:?} was not printed:\n{}", self.output());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn end(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // Its last output is on its way.
                tokio::time::sleep(Duration::from_millis(50)).await;
                return status.success();
            }
            assert!(Instant::now() < deadline, "the command did not end:\n{}", self.output());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
