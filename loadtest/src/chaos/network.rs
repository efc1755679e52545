//! Networks that can be cut: a namespace of clients, and a proxy before Redis.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// A network namespace with one link to this machine's. Needs root.
pub(crate) struct Namespace {
    pub(crate) name: String,
    /// Address of this machine inside of the namespace.
    pub(crate) host: IpAddr,
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments).output().context("ip (iproute2) cannot be run")?;
    if !output.status.success() {
        bail!(
            "ip {}: {} (network namespaces need root)",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

impl Namespace {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let pid = std::process::id();
        let [_, _, high, low] = pid.to_be_bytes();
        let name = format!("nexus{pid}");
        ip(&["netns", "add", &name])?;
        // From here on, dropping it removes it and its link.
        let namespace = Self { name, host: IpAddr::V4(Ipv4Addr::new(10, high, low & 0xfe, 1)) };
        let (outer, name) = (format!("nx{pid}"), namespace.name.as_str());
        let inner_address = format!("{}/30", Ipv4Addr::new(10, high, low & 0xfe, 2));
        ip(&["link", "add", &outer, "type", "veth", "peer", "name", "nx", "netns", name])?;
        ip(&["addr", "add", &format!("{}/30", namespace.host), "dev", &outer])?;
        ip(&["link", "set", &outer, "up"])?;
        ip(&["-n", name, "addr", "add", &inner_address, "dev", "nx"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        namespace.heal()?;
        Ok(namespace)
    }

    /// Drops everything from now on; neither end is told.
    pub(crate) fn cut(&self) -> anyhow::Result<()> {
        ip(&["-n", &self.name, "link", "set", "nx", "down"])
    }

    pub(crate) fn heal(&self) -> anyhow::Result<()> {
        ip(&["-n", &self.name, "link", "set", "nx", "up"])
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its processes have ended by now.
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}

/// Passes bytes on to a port of this machine until it is cut. Then nothing gets through, and connections stay open.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    cut: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

/// Time between two checks whether it is cut.
const LOOK: Duration = Duration::from_millis(20);

impl Proxy {
    pub(crate) fn start(to: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (cut, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (cut_here, ended_here) = (cut.clone(), ended.clone());
        std::thread::spawn(move || {
            while !ended_here.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, _)) if !cut_here.load(Ordering::Relaxed) => {
                        if let Ok(server) = TcpStream::connect(("127.0.0.1", to)) {
                            join(&client, &server, &cut_here, &ended_here);
                        }
                    }
                    // Kept open for as long as the cut lasts.
                    Ok((client, _)) => {
                        let (cut, ended) = (cut_here.clone(), ended_here.clone());
                        std::thread::spawn(move || {
                            wait_while_cut(&cut, &ended);
                            drop(client);
                        });
                    }
                    Err(_) => std::thread::sleep(LOOK),
                }
            }
        });
        Ok(Self { port, cut, ended })
    }

    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    pub(crate) fn heal(&self) {
        self.cut.store(false, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn wait_while_cut(cut: &AtomicBool, ended: &AtomicBool) {
    while cut.load(Ordering::Relaxed) && !ended.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
    }
}

fn join(client: &TcpStream, server: &TcpStream, cut: &Arc<AtomicBool>, ended: &Arc<AtomicBool>) {
    for (from, to) in [(client, server), (server, client)] {
        let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
        let (cut, ended) = (cut.clone(), ended.clone());
        std::thread::spawn(move || copy(from, to, &cut, &ended));
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool, ended: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    let _ = from.set_nonblocking(false);
    let _ = from.set_read_timeout(Some(LOOK));
    while !ended.load(Ordering::Relaxed) {
        let n = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) =>
            {
                continue;
            }
            Err(_) => break,
        };
        // Bytes that were read just before the cut wait too.
        wait_while_cut(cut, ended);
        if to.write_all(buffer.get(..n).unwrap_or_default()).is_err() {
            break;
        }
    }
    wait_while_cut(cut, ended);
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
