//! A connection to a node that tells a slow link from a dead one, and gives up answers that are larger than allowed.
//!
//! The client library times whole answers: one that takes longer is asked for again from its beginning, over a slow link for
//! ever. It also reads an answer of any size. Both need to see bytes as they come, so the stream below the library is ours.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, Pipeline, RedisError, RedisFuture,
    RedisResult, Value,
};
use futures_util::FutureExt as _;
use futures_util::future::select_ok;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::resp::{VALUE_BYTES, ValueCounter};

/// Time to connect, sign on included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time without a byte of an answer; above what a blocking read waits.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for one answer, however steadily its bytes come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// Bytes that the kernel holds at most for a link that cannot send them yet: beyond them, a write tells how the link fares.
const UNSENT_BYTES_MAX: u32 = 64 * 1024;

/// What the error of an answer begins with that is larger than allowed.
const TOO_LARGE: &str = "more bytes than";

/// Whether an answer was given up for its size.
pub(super) fn is_too_large(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Client && error.detail().is_some_and(|detail| detail.starts_with(TOO_LARGE))
}

/// What came over a connection.
#[derive(Debug)]
struct Traffic {
    began: Instant,
    /// When bytes moved last, in ms since then.
    moved_ms: AtomicU64,
    /// Memory that what came takes once it is read, in bytes.
    received: AtomicU64,
    /// As much may come.
    allowed: AtomicU64,
}

impl Traffic {
    fn new() -> Self {
        let (moved_ms, received, allowed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Self { began: Instant::now(), moved_ms, received, allowed }
    }

    fn moved(&self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(ms, Ordering::Relaxed);
    }

    fn last_moved(&self) -> Instant {
        self.began + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed))
    }

    /// From now on, what comes may take so many bytes of memory.
    fn allow(&self, bytes: usize) {
        let received = self.received.load(Ordering::Relaxed);
        self.allowed.store(received.saturating_add(bytes as u64), Ordering::Relaxed);
    }

    /// Bytes came in which so many values begin; whether they may.
    fn came(&self, bytes: usize, values: usize) -> bool {
        self.moved();
        let cost = values.saturating_mul(VALUE_BYTES).saturating_add(bytes) as u64;
        let before = self.received.fetch_add(cost, Ordering::Relaxed);
        before.saturating_add(cost) <= self.allowed.load(Ordering::Relaxed)
    }

    fn is_exceeded(&self) -> bool {
        self.received.load(Ordering::Relaxed) > self.allowed.load(Ordering::Relaxed)
    }
}

/// See above. Clones share the connection, which ends with the last of them.
#[derive(Clone)]
pub(super) struct Wire {
    connection: MultiplexedConnection,
    traffic: Arc<Traffic>,
    _driver: Arc<AbortOnDropHandle<()>>,
}

impl Wire {
    /// Connects and signs on.
    pub(super) async fn open(info: &ConnectionInfo) -> RedisResult<Self> {
        let opening = async {
            let traffic = Arc::new(Traffic::new());
            let (stream, values) = (connect(info).await?, ValueCounter::default());
            let stream = Tapped { stream, traffic: traffic.clone(), values, was_full: false };
            let config = AsyncConnectionConfig::new().set_response_timeout(None);
            let (connection, driver) =
                MultiplexedConnection::new_with_config(info.redis_settings(), stream, config).await?;
            Ok(Self { connection, traffic, _driver: Arc::new(AbortOnDropHandle::new(tokio::spawn(driver))) })
        };
        tokio::time::timeout(CONNECT_TIMEOUT, opening).await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// From now on, what comes may take so many bytes of memory. Only for a connection over which one asks at a time.
    pub(super) fn allow(&self, bytes: usize) {
        self.traffic.allow(bytes);
    }

    /// Waits for an answer as long as bytes come. A silent link is given up after the time-out.
    async fn answered<T>(&self, answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
        let began = Instant::now();
        let mut answer = pin!(answer);
        loop {
            let until = self.traffic.last_moved().max(began) + RESPONSE_TIMEOUT;
            let end = began + ANSWER_TIMEOUT;
            match tokio::time::timeout_at(until.min(end), &mut answer).await {
                Ok(Err(_)) if self.traffic.is_exceeded() => {
                    let allowed = self.traffic.allowed.load(Ordering::Relaxed);
                    let detail = format!("{TOO_LARGE} are read at once ({allowed} on this connection)");
                    return Err(RedisError::from((ErrorKind::Client, "an answer is too large", detail)));
                }
                Ok(answer) => return answer,
                Err(_) if until >= end => return Err(timed_out()),
                Err(_) if self.traffic.last_moved().max(began) + RESPONSE_TIMEOUT <= until => return Err(timed_out()),
                Err(_) => {}
            }
        }
    }
}

impl ConnectionLike for Wire {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        async move {
            let mut connection = self.connection.clone();
            self.answered(connection.req_packed_command(command)).await
        }
        .boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        async move {
            let mut connection = self.connection.clone();
            self.answered(connection.req_packed_commands(pipeline, offset, count)).await
        }
        .boxed()
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}

fn timed_out() -> RedisError {
    RedisError::from(io::Error::from(io::ErrorKind::TimedOut))
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn connect(info: &ConnectionInfo) -> RedisResult<Box<dyn Stream>> {
    Ok(match info.addr() {
        ConnectionAddr::Tcp(host, port) => Box::new(tcp(info, host, *port).await?),
        // Neither certificates of one's own nor unchecked ones can be configured.
        ConnectionAddr::TcpTls { host, port, insecure: false, .. } => {
            let name = ServerName::try_from(host.clone())
                .map_err(|error| RedisError::from((ErrorKind::InvalidClientConfig, "no host", error.to_string())))?;
            let tls = TlsConnector::from(Arc::new(tls_config()?));
            Box::new(tls.connect(name, tcp(info, host, *port).await?).await?)
        }
        ConnectionAddr::Unix(path) => Box::new(UnixStream::connect(path).await?),
        _ => return Err(RedisError::from((ErrorKind::InvalidClientConfig, "no way to connect to such an address"))),
    })
}

/// The address of the host that answers first.
async fn tcp(info: &ConnectionInfo, host: &str, port: u16) -> RedisResult<TcpStream> {
    let places: Vec<_> = lookup_host((host, port)).await?.collect();
    if places.is_empty() {
        return Err(RedisError::from((ErrorKind::InvalidClientConfig, "the host has no address")));
    }
    let (stream, _) = select_ok(places.into_iter().map(|place| Box::pin(TcpStream::connect(place)))).await?;
    stream.set_nodelay(info.tcp_settings().nodelay())?;
    // A kernel that does not know it only notices later that a link is slow.
    let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    Ok(stream)
}

/// Certificates that the system trusts are trusted. Those of them that cannot be read are passed over, as long as there are
/// others.
fn tls_config() -> RedisResult<rustls::ClientConfig> {
    let mut found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    let (_, unusable) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.pop().map_or_else(|| format!("{unusable} cannot be used"), |error| error.to_string());
        return Err(RedisError::from(io::Error::other(format!(
            "no certificate of a CA that this system trusts: {why}"
        ))));
    }
    Ok(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// Notes what comes over a stream, and ends it once that is more than allowed.
struct Tapped {
    stream: Box<dyn Stream>,
    traffic: Arc<Traffic>,
    values: ValueCounter,
    /// A write had to wait. The next that goes through tells that the other side takes bytes; others tell nothing.
    was_full: bool,
}

impl AsyncRead for Tapped {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let came = buffer.filled().get(before..).unwrap_or_default();
        let values = this.values.count(came);
        Poll::Ready(match came.is_empty() || this.traffic.came(came.len(), values) {
            true => Ok(()),
            // Reported in other words.
            false => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
        })
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        if std::mem::replace(&mut this.was_full, written.is_pending()) && matches!(written, Poll::Ready(Ok(_))) {
            this.traffic.moved();
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
