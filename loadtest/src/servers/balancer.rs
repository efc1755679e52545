//! A real HAProxy or nginx in front of nodes, with the configuration of `deploy/`.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use nexus_testkit::balancer_config::{Plan, haproxy, nginx, nginx_around};

use crate::servers::process::{Process, free_port, until};

const HAPROXY: &str = include_str!("../../../deploy/haproxy/haproxy.cfg");
const NGINX: &str = include_str!("../../../deploy/nginx/nexus-push.conf");

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Balancer {
    /// deploy/haproxy/haproxy.cfg
    Haproxy,
    /// deploy/nginx/nexus-push.conf
    Nginx,
}

impl Balancer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
        }
    }

    /// The version that it reports.
    pub(crate) fn version(self) -> String {
        let output = Command::new(self.program()).arg("-v").output();
        let text = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let word = |word: &str| word.contains('.') && word.contains(|c: char| c.is_ascii_digit());
        let version = text.split_whitespace().find(|w| word(w)).unwrap_or("?");
        version.trim_start_matches("nginx/").to_owned()
    }

    /// Debian installs them outside of the usual `PATH`.
    fn program(self) -> &'static Path {
        let (sbin, name) = match self {
            Self::Haproxy => ("/usr/sbin/haproxy", "haproxy"),
            Self::Nginx => ("/usr/sbin/nginx", "nginx"),
        };
        Path::new(if Path::new(sbin).exists() { sbin } else { name })
    }

    /// Starts it in front of the nodes at these ports of loopback; they may be down.
    pub(crate) fn start(
        self,
        nodes: &[u16],
        sockets_max: usize,
        directory: &Path,
    ) -> anyhow::Result<(Process, SocketAddr)> {
        let plan = Plan { listen: free_port()?, private: free_port()?, nodes, sockets_max };
        let path = directory.join("front.conf");
        let mut command = Command::new(self.program());
        match self {
            Self::Haproxy => {
                std::fs::write(&path, haproxy(HAPROXY, &plan).map_err(anyhow::Error::msg)?)?;
                command.arg("-f").arg(&path);
            }
            Self::Nginx => {
                std::fs::write(&path, nginx(NGINX, &plan).map_err(anyhow::Error::msg)?)?;
                let around = directory.join("nginx.conf");
                let text = nginx_around(&path.to_string_lossy(), &directory.to_string_lossy(), sockets_max);
                std::fs::write(&around, text)?;
                command.arg("-p").arg(directory).arg("-c").arg(&around);
            }
        }
        let log = std::fs::File::create(directory.join("front.log"))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let child = child.with_context(|| format!("{} cannot be started; install it: make tools", self.name()))?;
        let process = Process(child);
        let address = SocketAddr::from(([127, 0, 0, 1], plan.listen));
        until(Duration::from_secs(10), || TcpStream::connect(address).is_ok()).with_context(|| {
            let log = std::fs::read_to_string(directory.join("front.log")).unwrap_or_default();
            format!("{} is not listening:\n{log}", self.name())
        })?;
        Ok((process, address))
    }
}
