//! Listening, and one task for each connection until it is upgraded or ends.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::certificates::{Certificates, Certified};
use super::handover::{Handover, Line};
use super::proxies::Unannounced;
use super::secure::TlsStream;
use super::{State, express, proxies};
use crate::limits::{
    CLOSE_TIMEOUT, HTTP_CONNECTIONS_MAX, HTTP_WAIT, HTTP_WAITING_MAX, NOTSENT_LOWAT_BYTES, OPERATOR_CONNECTIONS_MAX,
};

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 4_096;

/// While connections come faster than this one after the other, they are accepted so far apart, together.
const TOGETHER: Duration = Duration::from_millis(1);

/// Opens the one port. What is set here, accepted sockets inherit: no call for each of them.
///
/// # Errors
/// If the address cannot be had.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    listen(socket)
}

/// Makes one port of a socket that somebody else has opened: as [`bind`], but for the address.
///
/// # Errors
/// If it is no TCP socket that can listen.
pub fn adopt(socket: std::net::TcpListener) -> std::io::Result<TcpListener> {
    listen(socket.into())
}

fn listen(socket: Socket) -> std::io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // The backlog of a slow client stays on our side, where it can be conflated.
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES)?;
    defer_accept(&socket);
    // Of one that listens already, this changes the backlog alone.
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Lets the kernel keep connections to itself until their first bytes are there (tcp(7), `TCP_DEFER_ACCEPT`): a handshake is
/// then whole when its connection is accepted, and who connects and says nothing costs us nothing. After a second of
/// silence a connection is accepted all the same.
#[allow(
    unsafe_code,
    reason = "no crate has this option; without it most handshakes come too late for express::upgrade"
)]
fn defer_accept(socket: &Socket) {
    let seconds: libc::c_int = 1;
    let size = std::mem::size_of::<libc::c_int>();
    // SAFETY: the socket is open for as long as it is borrowed, and the option's value is read from a local of the size
    // that is given.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            libc::socklen_t::try_from(size).unwrap_or_default(),
        )
    };
}

/// Accepts until told to stop.
pub struct Listener {
    /// From [`bind`] or [`adopt`].
    pub socket: TcpListener,
    /// All routes.
    pub router: Router,
    /// What they use.
    pub state: Arc<State>,
    /// How connections begin.
    pub entrance: Entrance,
}

/// How the connections of a listener begin.
#[derive(Clone)]
pub enum Entrance {
    /// With a request.
    Plain,
    /// With a TLS handshake.
    Sealed(Arc<Certificates>),
    /// With a request, never by way of a proxy, and few at a time.
    Operators,
}

const LISTENER: Token = Token(0);
const STOP: Token = Token(1);

impl Listener {
    /// Begins to accept, on a thread of its own: a storm of handshakes, most of which it answers itself, does not hold up
    /// the control plane's tasks. Ends at `stop`; connections that are open then go on.
    ///
    /// # Errors
    /// The thread, or what it waits with, cannot be had.
    pub fn start(mut self, stop: CancellationToken) -> std::io::Result<JoinHandle<()>> {
        let poll = Poll::new()?;
        poll.registry().register(&mut self.socket, LISTENER, Interest::READABLE)?;
        let waker = Waker::new(poll.registry(), STOP)?;
        let runtime = Handle::current();
        let stopped = stop.clone();
        runtime.spawn(async move {
            stopped.cancelled().await;
            // It fails only if the thread has ended already.
            let _ = waker.wake();
        });
        std::thread::Builder::new().name("accept".to_owned()).spawn(move || self.run(poll, &runtime, &stop))
    }

    fn run(self, mut poll: Poll, runtime: &Handle, stop: &CancellationToken) {
        let lobby = Lobby::of(&self.entrance);
        let mut events = Events::with_capacity(2);
        let mut woken = Instant::now();
        while !stop.is_cancelled() {
            match self.socket.accept() {
                Ok((stream, peer)) => {
                    let peer = proxies::plain(peer);
                    let stream = match self.entrance {
                        Entrance::Plain => express::upgrade(&self.state, stream.into(), peer),
                        Entrance::Sealed(_) | Entrance::Operators => Some(stream.into()),
                    };
                    let Some(stream) = stream else { continue };
                    let (router, state, lobby) = (self.router.clone(), self.state.clone(), lobby.clone());
                    let entrance = self.entrance.clone();
                    let Some(waiting) = lobby.enter() else {
                        refuse(stream, &state, &entrance);
                        continue;
                    };
                    runtime.spawn(async move {
                        match lobby.be_served(waiting).await {
                            Some(_permit) => {
                                if let Ok(stream) = TcpStream::from_std(stream) {
                                    enter(stream, peer, &entrance, router, &state).await;
                                }
                            }
                            None => refuse(stream, &state, &entrance),
                        }
                    });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Err(error) = poll.poll(&mut events, None)
                        && error.kind() != ErrorKind::Interrupted
                    {
                        tracing::error!(%error, "poll failed");
                    }
                    // In a storm it is worth waiting for a few more: to be woken costs as much as to accept.
                    if woken.elapsed() < 2 * TOGETHER {
                        std::thread::sleep(TOGETHER);
                    }
                    woken = Instant::now();
                }
                // The client left before it was its turn.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => {
                    // Out of descriptors, mostly: those who wait in the kernel are served when some are free again.
                    tracing::warn!(%error, "accept failed");
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
}

/// Plain HTTP holds descriptors too, out of the reserve: so many connections are served, and so many more wait for a while.
/// Whoever holds them all keeps no socket out.
#[derive(Clone)]
struct Lobby {
    served: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Lobby {
    fn of(entrance: &Entrance) -> Self {
        let (served, waiting) = match entrance {
            Entrance::Plain | Entrance::Sealed(_) => (HTTP_CONNECTIONS_MAX, HTTP_WAITING_MAX),
            Entrance::Operators => (OPERATOR_CONNECTIONS_MAX, OPERATOR_CONNECTIONS_MAX),
        };
        Self { served: Arc::new(Semaphore::new(served)), waiting: Arc::new(Semaphore::new(waiting)) }
    }

    /// A place to wait in, if there is one.
    fn enter(&self) -> Option<OwnedSemaphorePermit> {
        self.waiting.clone().try_acquire_owned().ok()
    }

    /// Waits until there is room to be served.
    async fn be_served(&self, waiting: OwnedSemaphorePermit) -> Option<OwnedSemaphorePermit> {
        let served = tokio::time::timeout(HTTP_WAIT, self.served.clone().acquire_owned()).await;
        drop(waiting);
        served.ok()?.ok()
    }
}

/// Tells a client to come back later, as far as that can be done without waiting for it.
fn refuse(mut stream: std::net::TcpStream, state: &State, entrance: &Entrance) {
    state.metrics.http_refused.inc();
    if let Entrance::Sealed(_) = entrance {
        return;
    }
    // Its request is read, or the answer would be lost with a reset.
    let _ = stream.read(&mut [0; 4 * 1024]);
    let _ = stream.write_all(
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    );
}

/// Who is at the other end, beside its address.
#[derive(Clone, Copy)]
struct Caller {
    peer: SocketAddr,
    certified: Certified,
}

impl Caller {
    fn of(peer: SocketAddr) -> Self {
        Self { peer, certified: Certified(false) }
    }
}

/// Serves a connection, once it is known whose it is.
async fn enter(mut socket: TcpStream, peer: SocketAddr, entrance: &Entrance, router: Router, state: &Arc<State>) {
    let server = &state.config.server;
    let announces = !matches!(entrance, Entrance::Operators) && proxies::may_announce(peer, server);
    let peer = match announces {
        false => peer,
        true => {
            let taken = proxies::take_header(&mut socket, peer, server);
            match tokio::time::timeout(state.config.limits.handshake_timeout, taken).await {
                Ok(Ok(client)) => client,
                Ok(Err(why)) => return unannounced(&why, peer, state),
                Err(_) => {
                    state.metrics.handshake_timeouts.inc();
                    return;
                }
            }
        }
    };
    match entrance {
        Entrance::Plain | Entrance::Operators => serve(socket, Caller::of(peer), router, state).await,
        Entrance::Sealed(certificates) => serve_sealed(socket, peer, certificates, router, state).await,
    }
}

/// Notes why a proxy's connection is closed.
fn unannounced(why: &Unannounced, peer: SocketAddr, state: &State) {
    let (reason, what) = match why {
        Unannounced::Missing => ("missing", "none"),
        Unannounced::Broken(what) => ("malformed", *what),
        Unannounced::Gone => return,
    };
    state.metrics.refused_proxy_header(reason);
    tracing::debug!(%peer, what, "a proxy's connection has no good PROXY header (server.proxy_protocol)");
}

/// Serves a connection that begins with a TLS handshake.
async fn serve_sealed(
    socket: TcpStream,
    peer: SocketAddr,
    certificates: &Certificates,
    router: Router,
    state: &Arc<State>,
) {
    let shaken = TlsStream::accept(socket, certificates.current());
    match tokio::time::timeout(state.config.limits.handshake_timeout, shaken).await {
        Ok(Ok(stream)) => {
            state.metrics.tls_handshakes.inc();
            let certified = Certified(stream.has_client_certificate());
            serve(stream, Caller { peer, certified }, router, state).await;
        }
        Ok(Err(failed)) => {
            state.metrics.tls_handshakes_failed.inc();
            tracing::debug!(%peer, error = %failed.error, "a TLS handshake failed");
            failed.close().await;
        }
        Err(_) => {
            state.metrics.handshake_timeouts.inc();
        }
    }
}

async fn serve<S>(stream: S, caller: Caller, router: Router, state: &Arc<State>)
where
    S: AsyncRead + AsyncWrite + Into<Line> + Unpin + Send + 'static,
{
    let handover = Handover::default();
    let taken = handover.clone();
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(caller.peer));
        request.extensions_mut().insert(caller.certified);
        request.extensions_mut().insert(handover.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(state.config.limits.handshake_timeout)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .without_shutdown();
    match connection.await {
        Ok(parts) => {
            let mut stream = parts.io.into_inner();
            match taken.take() {
                Some(taker) => taker(stream.into(), parts.read_buf),
                // Over TLS it is said that nothing more will come; a plain socket just closes.
                None => {
                    let _ = tokio::time::timeout(CLOSE_TIMEOUT, stream.shutdown()).await;
                }
            }
        }
        Err(error) if error.is_timeout() => {
            state.metrics.handshake_timeouts.inc();
        }
        Err(_) => {}
    }
}
