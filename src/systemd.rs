//! The interface to a service manager: socket activation (sd_listen_fds(3)), notifications
//! (sd_notify(3)) and the watchdog (sd_watchdog_enabled(3)). Without a manager, all of this does
//! nothing.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use listenfd::ListenFd;
use rustix::time::{ClockId, clock_gettime};

/// Names of sockets that the server uses (`FileDescriptorName=` of a socket unit).
pub const NAMES: [&str; 3] = ["http", "tls", "operator"];

/// Longest wait for a manager that does not read its notifications. Past it: that message is lost.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);

/// Listening sockets that were handed over, by name. The manager owns them: they outlive this
/// process, and connections made while none runs wait in the kernel for the next one.
pub struct Sockets {
    descriptors: ListenFd,
    /// The name of each; empty once it is taken.
    names: Vec<String>,
}

impl Sockets {
    /// The sockets of this process. Call it before other threads exist: it removes environment
    /// variables, so that child processes do not take the sockets for theirs.
    pub fn from_environment() -> Self {
        let descriptors = ListenFd::from_env();
        let given = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names = names(&given, descriptors.len());
        Self { descriptors, names }
    }

    /// Takes the sockets of this name; there may be several (IPv4 and IPv6, say), or none.
    ///
    /// # Errors
    /// One of them is not a listening TCP socket.
    pub fn take(&mut self, name: &str) -> io::Result<Vec<TcpListener>> {
        let mut taken = Vec::new();
        for (at, of) in self.names.iter_mut().enumerate().filter(|(_, of)| *of == name) {
            taken.extend(self.descriptors.take_tcp_listener(at)?);
            of.clear();
        }
        Ok(taken)
    }

    /// Names of sockets that were not taken. Clients that connect to one of them would wait forever.
    pub fn left(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).filter(|name| !name.is_empty()).collect()
    }
}

/// A name for each of `count` sockets. A single socket needs none: unless it has one of [`NAMES`],
/// it is `http`.
fn names(given: &str, count: usize) -> Vec<String> {
    let mut given = given.split(':').filter(|name| !name.is_empty());
    let mut names: Vec<String> = (0..count).map(|_| given.next().unwrap_or("unknown").to_owned()).collect();
    if let [name] = names.as_mut_slice()
        && !NAMES.contains(&name.as_str())
    {
        *name = "http".to_owned();
    }
    names
}

/// A notification for the manager.
#[derive(Debug, Clone, Copy)]
pub enum Tell<'a> {
    /// The server accepts clients.
    Ready,
    /// Certificates are being reloaded; [`Tell::Ready`] follows.
    Reloading,
    /// The server stops.
    Stopping,
    /// The server's health, for people.
    Status(&'a str),
    /// The watchdog's sign of life.
    Watchdog,
    /// A start or stop in progress may take longer than the unit's time-out, if this is repeated
    /// within the given time.
    ExtendTimeout(Duration),
}

impl fmt::Display for Tell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("READY=1"),
            // Type=notify-reload needs the time, to tell the end of this reload from an earlier
            // one's.
            Self::Reloading => {
                let now = clock_gettime(ClockId::Monotonic);
                let us = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
                write!(f, "RELOADING=1\nMONOTONIC_USEC={us}")
            }
            Self::Stopping => f.write_str("STOPPING=1"),
            Self::Status(text) => write!(f, "STATUS={}", text.replace('\n', " ")),
            Self::Watchdog => f.write_str("WATCHDOG=1"),
            Self::ExtendTimeout(time) => write!(f, "EXTEND_TIMEOUT_USEC={}", time.as_micros()),
        }
    }
}

/// The connection to the manager.
pub struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// To the parent process, if it receives notifications (`NOTIFY_SOCKET`) or watches
    /// (`WATCHDOG_USEC`).
    pub fn from_environment() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let to = socket.and_then(|name| match connect(&name) {
            Ok(to) => Some(to),
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET={}: the service manager cannot be notified", name.display());
                None
            }
        });
        let variable = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let meant = variable("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = variable("WATCHDOG_USEC").filter(|us| meant && *us > 0).map(Duration::from_micros);
        Self { to, watchdog }
    }

    /// Longest time between two [`Tell::Watchdog`], if the manager watches.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.to.is_some())
    }

    /// Whether a manager receives notifications.
    pub fn is_heard(&self) -> bool {
        self.to.is_some()
    }

    /// Sends all of these at once.
    pub fn tell(&self, what: &[Tell<'_>]) {
        let Some((socket, to)) = &self.to else { return };
        let text: Vec<String> = what.iter().map(Tell::to_string).collect();
        if let Err(error) = socket.send_to_addr(text.join("\n").as_bytes(), to) {
            tracing::warn!(%error, ?what, "the service manager was not notified");
        }
    }
}

fn connect(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let to = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract socket (@…)")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(NOTIFY_TIMEOUT))?;
    Ok((socket, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_have_the_names_that_were_given_and_one_alone_needs_none() {
        for (given, count, expected) in [
            ("", 0, &[][..]),
            ("", 1, &["http"]),
            ("nexus-push.socket", 1, &["http"]),
            ("tls", 1, &["tls"]),
            ("http:tls", 2, &["http", "tls"]),
            ("http:http:operator", 3, &["http", "http", "operator"]),
            ("tls", 2, &["tls", "unknown"]),
            ("a:b:c", 2, &["a", "b"]),
        ] {
            assert_eq!(names(given, count), expected, "{given:?} for {count}");
        }
    }

    #[test]
    fn notifications_are_one_line_each() {
        for (tell, expected) in [
            (Tell::Ready, "READY=1"),
            (Tell::Stopping, "STOPPING=1"),
            (Tell::Watchdog, "WATCHDOG=1"),
            (Tell::Status("a\nREADY=1"), "STATUS=a READY=1"),
            (Tell::ExtendTimeout(Duration::from_millis(1_500)), "EXTEND_TIMEOUT_USEC=1500000"),
        ] {
            assert_eq!(tell.to_string(), expected);
        }
        let reloading = Tell::Reloading.to_string();
        let us = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").map(str::parse::<u64>);
        assert!(us.is_some_and(|us| us.is_ok()), "{reloading}");
    }
}
