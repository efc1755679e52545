//! Other servers under the same load: how each is started. `make bench-peers` installs them into
//! `target/peers`. `protocol` and `publisher` have their protocols.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::client::protocol::{PUSHER_KEY, Protocol};
use crate::servers::process::{Process, free_port, until};

/// A server other than ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    /// uWebSockets (C++) in Node: npm `uwebsockets`
    Uws,
    /// npm `ws`, one process that serializes each message once per client
    Ws,
    /// nginx with nchan; one topic per session
    Nchan,
    /// nats-server with its WebSocket listener
    Nats,
    /// sockudo (Pusher protocol), if it is installed
    Sockudo,
    /// The floor: one ready frame, one `send` per socket
    Floor,
    /// The same, sends in batches through `io_uring`
    FloorUring,
}

/// The folder into which `make bench-peers` installs them.
fn folder() -> PathBuf {
    std::env::var_os("NEXUS_PEERS").map_or_else(|| PathBuf::from("target/peers"), PathBuf::from)
}

impl Peer {
    /// The protocol of its sessions.
    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Self::Nchan => Protocol::Nchan,
            Self::Nats => Protocol::Nats,
            Self::Sockudo => Protocol::Pusher,
            Self::Uws | Self::Ws | Self::Floor | Self::FloorUring => Protocol::Plain,
        }
    }

    /// The name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uws => "uWebSockets",
            Self::Ws => "npm ws",
            Self::Nchan => "nginx + nchan",
            Self::Nats => "nats-server",
            Self::Sockudo => "sockudo",
            Self::Floor => "floor",
            Self::FloorUring => "floor, io_uring",
        }
    }

    /// Whether it is installed.
    pub(crate) fn is_installed(self) -> bool {
        match self {
            Self::Uws => folder().join("node_modules/uwebsockets").exists(),
            Self::Ws => folder().join("node_modules/ws").exists(),
            Self::Nchan => Path::new("/usr/lib/nginx/modules/ngx_nchan_module.so").exists(),
            Self::Nats => folder().join("venv/bin/nats-server").exists(),
            Self::Sockudo => folder().join("bin/sockudo").exists(),
            Self::Floor | Self::FloorUring => true,
        }
    }

    /// The version that it reports.
    pub(crate) fn version(self) -> String {
        let package = |name: &str| {
            let path = folder().join("node_modules").join(name).join("package.json");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let package: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            format!("{name} {}", package.get("version").and_then(|v| v.as_str()).unwrap_or("?"))
        };
        let says = |program: PathBuf, flag: &str| {
            let output = Command::new(program).arg(flag).output();
            let text = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
            String::from_utf8_lossy(&text).lines().next().unwrap_or("?").trim().to_owned()
        };
        match self {
            Self::Uws => package("uwebsockets"),
            Self::Ws => package("ws"),
            Self::Nchan => says("nginx".into(), "-v"),
            Self::Nats => says(folder().join("venv/bin/nats-server"), "--version"),
            Self::Sockudo => says(folder().join("bin/sockudo"), "--version"),
            Self::Floor | Self::FloorUring => "of this repository".into(),
        }
    }

    /// Starts it on a free port of loopback. Returns its process, the address for sessions, and the address for
    /// publishing.
    pub(crate) fn start(self, directory: &Path) -> anyhow::Result<(Process, SocketAddr, SocketAddr)> {
        let mut publish = None;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let port = address.port().to_string();
        let mut command = match self {
            Self::Uws | Self::Ws => {
                let script = if self == Self::Uws { UWS } else { WS };
                let mut command = Command::new("node");
                // Started beside its modules, because Node looks for them there.
                command.current_dir(folder()).args(["--input-type=module", "-e", script, self.name(), &port]);
                command
            }
            Self::Nchan => {
                let config = directory.join("nginx.conf");
                let text = NGINX.replace("@PORT@", &port).replace("@DIR@", &directory.to_string_lossy());
                std::fs::write(&config, text)?;
                let mut command = Command::new("nginx");
                command.arg("-p").arg(directory).arg("-c").arg(config);
                command
            }
            Self::Nats => {
                let config = directory.join("nats.conf");
                let tcp = free_port()?;
                std::fs::write(&config, NATS.replace("@PORT@", &port).replace("@TCP@", &tcp.to_string()))?;
                publish = Some(SocketAddr::from(([127, 0, 0, 1], tcp)));
                let mut command = Command::new(folder().join("venv/bin/nats-server"));
                command.arg("-c").arg(config);
                command
            }
            Self::Sockudo => {
                let config = directory.join("sockudo.json");
                std::fs::write(&config, SOCKUDO.replace("@PORT@", &port).replace("@KEY@", PUSHER_KEY))?;
                let program = folder()
                    .join("bin/sockudo")
                    .canonicalize()
                    .context("sockudo is not installed: SOCKUDO=1 make peers")?;
                let mut command = Command::new(program);
                command.arg("--config").arg(config).current_dir(directory);
                command
            }
            Self::Floor | Self::FloorUring => {
                let own = std::env::current_exe()?;
                let mut command = Command::new(own.with_file_name("nexus-floor"));
                command.arg("--port").arg(&port);
                if self == Self::FloorUring {
                    command.arg("--io-uring");
                }
                command
            }
        };
        let log = std::fs::File::create(directory.join("peer.log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be started; install it: make bench-peers", self.name()))?;
        let process = Process(child);
        let up = until(Duration::from_secs(20), || TcpStream::connect(address).is_ok());
        up.with_context(|| {
            let log = std::fs::read_to_string(directory.join("peer.log")).unwrap_or_default();
            format!("{} is not listening:\n{log}", self.name())
        })?;
        Ok((process, address, publish.unwrap_or(address)))
    }
}

const UWS: &str = include_str!("../../peers/uws.mjs");
const WS: &str = include_str!("../../peers/ws.mjs");
const NGINX: &str = include_str!("../../peers/nginx.conf");
const NATS: &str = include_str!("../../peers/nats.conf");
const SOCKUDO: &str = include_str!("../../peers/sockudo.json");
