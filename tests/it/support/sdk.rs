//! A published Centrifuge SDK in a separate process, driven by commands, which reports its events.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::{PATIENCE, Server};

/// The SDK and its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sdk {
    /// npm `centrifuge`, JSON.
    JavaScript,
    /// npm `centrifuge`, Protobuf.
    JavaScriptProtobuf,
    /// PyPI `centrifuge-python`, JSON.
    Python,
    /// PyPI `centrifuge-python`, Protobuf.
    PythonProtobuf,
}

impl Sdk {
    pub(crate) const ALL: [Self; 4] = [Self::JavaScript, Self::JavaScriptProtobuf, Self::Python, Self::PythonProtobuf];

    fn protocol(self) -> &'static str {
        match self {
            Self::JavaScript | Self::Python => "json",
            Self::JavaScriptProtobuf | Self::PythonProtobuf => "protobuf",
        }
    }

    fn command(self) -> Command {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (program, script): (PathBuf, PathBuf) = match self {
            Self::JavaScript | Self::JavaScriptProtobuf => ("node".into(), root.join("web/sdk-driver/driver.mjs")),
            Self::Python | Self::PythonProtobuf => {
                (root.join("target/sdk-venv/bin/python"), root.join("tests/sdk/driver.py"))
            }
        };
        let mut command = Command::new(program);
        command.arg(script);
        command
    }
}

/// A client driven through its SDK.
pub(crate) struct Driver {
    sdk: Sdk,
    _child: Child,
    commands: ChildStdin,
    events: Lines<BufReader<ChildStdout>>,
    seen: Vec<Value>,
}

impl Driver {
    pub(crate) async fn start(sdk: Sdk) -> Self {
        let mut child = sdk
            .command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node, web/node_modules and target/sdk-venv must be there: `make tools` installs them");
        let commands = child.stdin.take().unwrap();
        let events = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut driver = Self { sdk, _child: child, commands, events, seen: Vec::new() };
        driver.until("ready").await;
        driver
    }

    /// Starts and connects, with more options.
    pub(crate) async fn connect(sdk: Sdk, server: &Server, more: Value) -> Self {
        let mut driver = Self::start(sdk).await;
        driver.dial(server, more).await;
        driver
    }

    /// Connects without waiting for the outcome.
    pub(crate) async fn dial(&mut self, server: &Server, more: Value) {
        let url = format!("ws://{}/connection/websocket", server.address);
        let mut command = json!({"do": "connect", "url": url, "protocol": self.sdk.protocol()});
        command.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        self.tell(command).await;
    }

    pub(crate) async fn tell(&mut self, command: Value) {
        self.commands.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.events.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{:?}: nothing comes after {:#?}", self.sdk, self.seen));
        let line = line.unwrap().unwrap_or_else(|| panic!("{:?} ended after {:#?}", self.sdk, self.seen));
        let event: Value = serde_json::from_str(&line).unwrap();
        self.seen.push(event.clone());
        event
    }

    /// The next event of this name; others are ignored.
    pub(crate) async fn until(&mut self, event: &str) -> Value {
        loop {
            let next = self.next().await;
            if next["event"] == event {
                return next;
            }
        }
    }

    /// Subscribes and waits for the confirmation.
    pub(crate) async fn subscribe(&mut self, topic: &str, more: Value) -> Value {
        let mut command = json!({"do": "subscribe", "topic": topic});
        command.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        self.tell(command).await;
        self.until("subscribed").await
    }

    /// Calls and waits for the answer: its `result` or `error`.
    pub(crate) async fn call(&mut self, command: Value) -> Value {
        let event = command["do"].as_str().unwrap().to_owned();
        self.tell(command).await;
        self.until(&event).await
    }

    /// Data of the next `count` publications.
    pub(crate) async fn publications(&mut self, count: usize) -> Vec<Value> {
        let mut data = Vec::with_capacity(count);
        while data.len() < count {
            data.push(self.until("publication").await["data"].clone());
        }
        data
    }

    /// Number of events of this name so far.
    pub(crate) fn seen(&self, event: &str) -> usize {
        self.seen.iter().filter(|seen| seen["event"] == event).count()
    }
}
