//! Listening, and one task for each connection until it is upgraded or ends.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use mio::net::TcpListener;
use mio::{Events, Interest, Token, Waker};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::certificates::{Certificates, Certified};
use super::deadlines::{Bodies, TimedBody, TimedStream, close};
use super::handover::{Handover, Line};
use super::lobby::{Awaits, Lobby, Tenure};
use super::proxies::Unannounced;
use super::secure::TlsStream;
use super::{State, express, failure, proxies, strict};
use crate::limits::{
    CLOSE_TIMEOUT, HEAD_BYTES_MAX, HTTP_PATIENCE, HTTP_TENURE, NOTSENT_LOWAT_BYTES, PUBLISH_BODY_BYTES_MAX,
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
    /// Where they wait. Listeners of one door share it.
    pub lobby: Lobby,
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

impl Entrance {
    /// Where connections that come this way wait.
    pub fn lobby(&self) -> Lobby {
        match self {
            Self::Plain | Self::Sealed(_) => Lobby::public(),
            Self::Operators => Lobby::operators(),
        }
    }
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
        let poll = mio::Poll::new()?;
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

    fn run(self, mut poll: mio::Poll, runtime: &Handle, stop: &CancellationToken) {
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
                    let (router, state, lobby) = (self.router.clone(), self.state.clone(), self.lobby.clone());
                    let entrance = self.entrance.clone();
                    let place = match (lobby.enter(), &entrance) {
                        // It could not be told to come back: better that it and those behind it are late than reset.
                        (None, Entrance::Sealed(_)) => {
                            state.metrics.tls_held_back.inc();
                            runtime.block_on(lobby.enter_in_time(stop))
                        }
                        (place, _) => place,
                    };
                    if place.is_none() && !stop.is_cancelled() {
                        refuse(stream, &state, &entrance);
                        continue;
                    }
                    runtime.spawn(async move {
                        let place = match place {
                            Some(place) => Some(place),
                            // It was accepted before the stop, so nobody else can take it.
                            None => lobby.enter_in_time(&CancellationToken::new()).await,
                        };
                        let served = match place {
                            Some(place) => lobby.be_served(place).await,
                            None => None,
                        };
                        match served {
                            Some(_permit) => {
                                if let Ok(stream) = TcpStream::from_std(stream) {
                                    enter(stream, peer, &entrance, router, &state, &lobby).await;
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
async fn enter(
    mut socket: TcpStream,
    peer: SocketAddr,
    entrance: &Entrance,
    router: Router,
    state: &Arc<State>,
    lobby: &Lobby,
) {
    let server = &state.config.server;
    let announces = !matches!(entrance, Entrance::Operators) && proxies::may_announce(peer, server);
    let peer = match announces {
        false => peer,
        true => {
            let taken = proxies::take_header(&mut socket, peer, server);
            let taken = tokio::time::timeout(state.config.limits.handshake_timeout, taken);
            let taken = tokio::select! {
                biased;
                taken = taken => taken.ok(),
                () = lobby.to_give_way_after(HTTP_PATIENCE) => None,
            };
            match taken {
                Some(Ok(client)) => client,
                Some(Err(why)) => return unannounced(&why, peer, state),
                None => {
                    state.metrics.handshake_timeouts.inc();
                    return;
                }
            }
        }
    };
    match entrance {
        Entrance::Plain | Entrance::Operators => serve(socket, Caller::of(peer), router, state, lobby).await,
        Entrance::Sealed(certificates) => serve_sealed(socket, peer, certificates, router, state, lobby).await,
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
    lobby: &Lobby,
) {
    let shaken = TlsStream::accept(socket, certificates.current(), lobby);
    match tokio::time::timeout(state.config.limits.handshake_timeout, shaken).await {
        Ok(Ok(stream)) => {
            state.metrics.tls_handshakes.inc();
            let certified = Certified(stream.has_client_certificate());
            serve(stream, Caller { peer, certified }, router, state, lobby).await;
        }
        Ok(Err(failed)) if failed.error.kind() == ErrorKind::TimedOut => {
            state.metrics.handshake_timeouts.inc();
        }
        Ok(Err(failed)) => {
            state.metrics.tls_handshakes_failed.inc();
            tracing::debug!(%peer, error = %failed.error, "a TLS handshake failed");
            tokio::select! {
                () = failed.close() => {}
                () = lobby.to_give_way_after(Duration::ZERO) => {}
            }
        }
        Err(_) => {
            state.metrics.handshake_timeouts.inc();
        }
    }
}

async fn serve<S>(stream: S, caller: Caller, router: Router, state: &Arc<State>, lobby: &Lobby)
where
    S: AsyncRead + AsyncWrite + Into<Line> + Unpin + Send + 'static,
{
    let handover = Handover::default();
    let taken = handover.clone();
    let bodies = Bodies::default();
    let (shared, seen) = (state.clone(), bodies.clone());
    let begun = Instant::now();
    let (requests, answers) = (AtomicU64::new(0), AtomicU64::new(0));
    let (requests, answers) = (&requests, &answers);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(caller.peer));
        request.extensions_mut().insert(caller.certified);
        request.extensions_mut().insert(handover.clone());
        // What is done by hand with the connection below wants a future that may be moved.
        Box::pin({
            requests.fetch_add(1, Ordering::Relaxed);
            let answer = answer(request, router.clone(), shared.clone(), seen.clone());
            async move {
                let Ok(answer) = answer.await;
                answers.fetch_add(1, Ordering::Relaxed);
                let upgraded = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
                // It had its turn.
                if !upgraded && begun.elapsed() >= HTTP_TENURE && lobby.has_to_give_way() {
                    state.metrics.http_gave_way.inc();
                    return Ok(closing(answer));
                }
                Ok::<_, std::convert::Infallible>(answer)
            }
        })
    });
    let limits = &state.config.limits;
    let stream = TimedStream::new(stream, limits.request_timeout);
    let untaken = stream.untaken();
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.handshake_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut tenure = Tenure::new(lobby, limits.handshake_timeout);
    let mut gone = None;
    let outcome = std::future::poll_fn(|context| {
        let outcome = connection.poll_without_shutdown(context);
        if outcome.is_ready() || gone.is_some() {
            return outcome;
        }
        let asked = requests.load(Ordering::Relaxed);
        let awaits = match asked {
            _ if untaken.load(Ordering::Relaxed) => Awaits::Taking,
            0 => Awaits::FirstHead,
            _ if asked == answers.load(Ordering::Relaxed) => Awaits::NextRequest,
            _ => Awaits::Us,
        };
        if tenure.poll(context, asked, awaits).is_pending() {
            return outcome;
        }
        gone = Some(awaits);
        match awaits {
            // It has all that it asked for: what it asks for next it can ask for elsewhere.
            Awaits::NextRequest => {
                Pin::new(&mut connection).graceful_shutdown();
                connection.poll_without_shutdown(context)
            }
            _ => Poll::Ready(Ok(())),
        }
    })
    .await;
    match gone {
        None | Some(Awaits::Us) => {}
        Some(Awaits::NextRequest) => {
            state.metrics.http_gave_way.inc();
        }
        Some(Awaits::FirstHead) => {
            state.metrics.handshake_timeouts.inc();
            return;
        }
        Some(Awaits::Taking) => return state.metrics.timed_out_http("answer"),
    }
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner().into_inner();
    match outcome {
        Ok(()) => match taken.take() {
            Some(taker) => taker(stream.into(), parts.read_buf),
            None if bodies.unread() && gone.is_none() => linger(stream, lobby).await,
            // Over TLS it is said that nothing more will come; a plain socket just closes.
            None => {
                let time = if gone.is_some() { Duration::ZERO } else { CLOSE_TIMEOUT };
                let _ = tokio::time::timeout(time, stream.shutdown()).await;
            }
        },
        Err(error) if error.is_timeout() => {
            state.metrics.handshake_timeouts.inc();
        }
        Err(error) if error.is_parse() => {
            state.metrics.http_malformed.inc();
            linger(stream, lobby).await;
        }
        Err(error) => {
            let source = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<std::io::Error>());
            if source.is_some_and(|e| e.kind() == ErrorKind::TimedOut) {
                state.metrics.timed_out_http("answer");
            }
        }
    }
}

/// Closes a connection so that its client can read what it was told, unless others wait for its place.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: S, lobby: &Lobby) {
    tokio::select! {
        () = close(stream) => {}
        () = lobby.to_give_way_after(Duration::ZERO) => {}
    }
}

/// Answers one request, if it is one that can be read in one way only and its body comes in time.
async fn answer(
    request: hyper::Request<Incoming>,
    router: Router,
    state: Arc<State>,
    bodies: Bodies,
) -> Result<Response, std::convert::Infallible> {
    let bytes = request.body().size_hint().lower();
    let time = state.config.limits.request_timeout;
    let mut request = request.map(|body| match body.is_end_stream() {
        true => Body::empty(),
        false => Body::new(TimedBody::new(body, time, bodies.clone())),
    });
    if let Err((status, reason)) = strict::settle(&mut request) {
        state.metrics.http_malformed.inc();
        return Ok(closing(failure(status, reason)));
    }
    let most = PUBLISH_BODY_BYTES_MAX as u64;
    if bytes > most {
        state.metrics.refused_publish("body_too_large");
        let message = format!("a body of {bytes} bytes, the most is {most}");
        return Ok(closing(failure(StatusCode::PAYLOAD_TOO_LARGE, message)));
    }
    let response = router.oneshot(request).await?;
    if bodies.late() {
        state.metrics.timed_out_http("body");
        let message = format!("the body did not come within {time:?} (limits.request_timeout)");
        return Ok(closing(failure(StatusCode::REQUEST_TIMEOUT, message)));
    }
    Ok(response)
}

/// An answer behind which nothing is read any more.
fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
