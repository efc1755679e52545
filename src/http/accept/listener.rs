//! Accepting connections, and one task per connection until it is upgraded or ends.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use mio::net::TcpListener;
use mio::{Events, Interest, Token, Waker};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::http::accept::certificates::{Certificates, Certified};
use crate::http::accept::connection_limiter::{Admission, ConnectionLimiter, Slot, SlotHandle};
use crate::http::accept::deadlines::{Bodies, BodyRoom, TimedBody, TimedStream, close};
use crate::http::accept::handover::{Handover, Transport};
use crate::http::accept::heads::Followed;
use crate::http::accept::hosts::Hosts;
use crate::http::accept::keep_alive::{Awaits, HeadClock, KeepAlivePolicy};
use crate::http::accept::parser::Told;
use crate::http::accept::proxies::Unannounced;
use crate::http::accept::tls_stream::TlsStream;
use crate::http::accept::{fast_upgrade, normalize, proxies};
use crate::http::api::answers;
use crate::http::failure::{failure, failure_for};
use crate::http::ops::health;
use crate::http::state::State;
use crate::limits::{
    CLOSE_TIMEOUT, HEAD_BYTES_MAX, HTTP_CONTENDED_KEEP_ALIVE, HTTP_OVERFLOW_TIME, HTTP_PATIENCE, PUBLISH_BODY_BYTES_MAX,
};
use crate::metrics::{HttpTimeout, ProxyHeaderFault, PublishRefusal};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Connections that follow each other faster than this are accepted together, at this interval.
const TOGETHER: Duration = Duration::from_millis(1);

/// Accepts until it is stopped.
pub struct Listener {
    /// From [`bind`](crate::http::bind) or [`adopt`](crate::http::adopt).
    pub socket: TcpListener,
    /// All routes of this listener.
    pub router: Router,
    /// The state of their handlers.
    pub state: Arc<State>,
    /// How its connections begin.
    pub kind: ListenerKind,
    /// Limits its connections. Listeners of one port share it.
    pub limiter: ConnectionLimiter,
}

/// How the connections of a listener begin, and what they may ask for.
#[derive(Clone)]
pub enum ListenerKind {
    /// With a request.
    Plain,
    /// With a TLS handshake.
    Sealed(Arc<Certificates>),
    /// With a request, never through a proxy, and few at a time.
    Operators,
    /// The same, for health checks alone.
    Health,
}

impl ListenerKind {
    /// The limiter for connections of this listener.
    pub fn limiter(&self, connections_per_address: usize) -> ConnectionLimiter {
        match self {
            Self::Plain | Self::Sealed(_) => ConnectionLimiter::public(connections_per_address),
            Self::Operators => ConnectionLimiter::operators(),
            Self::Health => ConnectionLimiter::health(),
        }
    }

    /// Whether connections may come through proxies.
    fn takes_proxies(&self) -> bool {
        matches!(self, Self::Plain | Self::Sealed(_))
    }
}

const LISTENER: Token = Token(0);
const STOP: Token = Token(1);

impl Listener {
    /// Starts to accept, on a thread of its own: many handshakes at once, most of which this thread
    /// answers itself, do not delay the tasks of the control plane. Ends at `stop`; open
    /// connections continue.
    ///
    /// # Errors
    /// The thread or its poller cannot be created.
    pub fn start(mut self, stop: CancellationToken) -> std::io::Result<JoinHandle<()>> {
        let poll = mio::Poll::new()?;
        poll.registry().register(&mut self.socket, LISTENER, Interest::READABLE)?;
        let waker = Waker::new(poll.registry(), STOP)?;
        let runtime = Handle::current();
        let stopped = stop.clone();
        runtime.spawn(async move {
            stopped.cancelled().await;
            // This fails only if the thread has ended already.
            let _ = waker.wake();
        });
        std::thread::Builder::new().name("accept".to_owned()).spawn(move || self.run(poll, &runtime, &stop))
    }

    fn run(self, mut poll: mio::Poll, runtime: &Handle, stop: &CancellationToken) {
        let mut events = Events::with_capacity(2);
        let mut woken = Instant::now();
        let address = self.socket.local_addr().unwrap_or(self.state.config.server.listen);
        let for_operators = matches!(self.kind, ListenerKind::Operators);
        let port = Arc::new(Port {
            router: self.router,
            hosts: Hosts::of(&self.state.config, address, for_operators),
            state: self.state,
            kind: self.kind,
        });
        while !stop.is_cancelled() {
            match self.socket.accept() {
                Ok((stream, peer)) => {
                    let peer = proxies::plain(peer);
                    let stream = match port.kind {
                        ListenerKind::Plain => fast_upgrade::upgrade(&port.state, &port.hosts, stream.into(), peer),
                        _ => Some(stream.into()),
                    };
                    if let Some(stream) = stream {
                        accepted(&port, &self.limiter, stream, peer, runtime, stop);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Err(error) = poll.poll(&mut events, None)
                        && error.kind() != ErrorKind::Interrupted
                    {
                        tracing::error!(%error, "poll failed");
                    }
                    // Under load, waiting for a few more pays off: a wakeup costs as much as an
                    // accept.
                    if woken.elapsed() < 2 * TOGETHER {
                        std::thread::sleep(TOGETHER);
                    }
                    woken = Instant::now();
                }
                // The client left before it was accepted.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => {
                    // Usually out of descriptors: connections wait in the kernel until some are
                    // free again.
                    tracing::warn!(%error, "accept failed");
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
}

/// State shared by the connections of a listener.
struct Port {
    router: Router,
    hosts: Hosts,
    state: Arc<State>,
    kind: ListenerKind,
}

impl Port {
    fn is_sealed(&self) -> bool {
        matches!(self.kind, ListenerKind::Sealed(_))
    }
}

/// Admits a connection, on the thread that accepts, and starts to serve it.
fn accepted(
    port: &Arc<Port>,
    limiter: &ConnectionLimiter,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    runtime: &Handle,
    stop: &CancellationToken,
) {
    let state = &port.state;
    // A proxy's connections belong to many clients.
    let is_proxy = port.kind.takes_proxies() && proxies::is_trusted(peer.ip(), &state.config.server.trusted_proxies);
    let address = (!is_proxy).then_some(peer.ip());
    let admission = match (limiter.admit(address), port.is_sealed()) {
        (Some(admission @ Admission::Served(_)), _) | (Some(admission), true) => Some(admission),
        // Over TLS no answer is possible here: it is better to delay this connection and those
        // after it than to reset it.
        (None, true) if !limiter.is_at_share(address) => {
            state.metrics.tls_waits.inc();
            runtime.block_on(limiter.admit_in_time(address, stop))
        }
        (None, true) => None,
        // Health requests are answered without a slot.
        (admission, false) => match health::answer(state, stream, peer) {
            None => return,
            Some(stream) => {
                let (port, limiter, stopped) = (port.clone(), limiter.clone(), stop.is_cancelled());
                runtime.spawn(async move {
                    wait_and_serve(&port, &limiter, admission, stream, peer, address, stopped).await
                });
                return;
            }
        },
    };
    if admission.is_none() && !stop.is_cancelled() {
        return refuse(stream, port, limiter, address);
    }
    let (port, limiter) = (port.clone(), limiter.clone());
    runtime.spawn(async move {
        let admission = match admission {
            Some(admission) => Some(admission),
            // The connection was accepted before the stop: the next process will not see it.
            None => limiter.admit_in_time(address, &CancellationToken::new()).await,
        };
        let slot = match admission {
            Some(admission) => limiter.wait_for_slot(admission).await,
            None => None,
        };
        match (slot, TcpStream::from_std(stream)) {
            (Some(slot), Ok(stream)) => enter(stream, peer, &port, &slot).await,
            (None, Ok(stream)) => {
                if let Ok(stream) = stream.into_std() {
                    refuse(stream, &port, &limiter, address);
                }
            }
            (_, Err(_)) => {}
        }
    });
}

/// Serves a connection that found all slots taken, once it has one. If it may not wait for one, it
/// is read only to see whether it asks for health.
async fn wait_and_serve(
    port: &Port,
    limiter: &ConnectionLimiter,
    admission: Option<Admission>,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    address: Option<std::net::IpAddr>,
    is_stopped: bool,
) {
    let state = &port.state;
    let admission = match admission {
        // The connection was accepted before the stop: the next process will not see it.
        None if is_stopped => limiter.admit_in_time(address, &CancellationToken::new()).await,
        admission => admission,
    };
    let overflow = if admission.is_none() { limiter.overflow(address) } else { None };
    if admission.is_none() && overflow.is_none() {
        return refuse(stream, port, limiter, address);
    }
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let slot = async {
        match admission {
            Some(admission) => limiter.wait_for_slot(admission).await,
            None => {
                tokio::time::sleep(HTTP_OVERFLOW_TIME).await;
                None
            }
        }
    };
    let asked = async {
        let is_health = health::is_asked_for(&state.config.server, &stream, peer).await;
        // A connection that does not ask for health and waits for no slot need not be read any
        // longer.
        is_health || overflow.is_some()
    };
    let slot = tokio::select! {
        biased;
        slot = slot => slot,
        true = asked => None,
    };
    match slot {
        Some(slot) => enter(stream, peer, port, &slot).await,
        None => {
            if let Ok(stream) = stream.into_std()
                && let Some(stream) = health::answer(state, stream, peer)
            {
                refuse(stream, port, limiter, address);
            }
        }
    }
}

/// Tells a client to come back later, without waiting for it.
fn refuse(
    mut stream: std::net::TcpStream,
    port: &Port,
    limiter: &ConnectionLimiter,
    address: Option<std::net::IpAddr>,
) {
    let metrics = &port.state.metrics;
    metrics.http_refused.inc();
    if limiter.is_at_share(address) {
        metrics.http_address_refused.inc();
    }
    if port.is_sealed() {
        return;
    }
    // The request is read first, or a reset would discard the answer.
    let _ = stream.read(&mut [0; 4 * 1024]);
    let _ = stream.write_all(
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\
          Content-Type: application/json\r\nContent-Length: 90\r\n\r\n\
          {\"error\":{\"code\":503,\"message\":\"the connection limit is reached; try again\"}}",
    );
}

/// The peer of a connection, and whether it showed a certificate.
#[derive(Clone, Copy)]
struct Caller {
    peer: SocketAddr,
    certified: Certified,
}

/// Serves a connection once its client's address is known.
async fn enter(mut socket: TcpStream, peer: SocketAddr, port: &Port, slot: &Slot) {
    let state = &port.state;
    let server = &state.config.server;
    let announces = port.kind.takes_proxies() && proxies::may_announce(peer, server);
    let peer = match announces {
        false => peer,
        true => {
            let taken = proxies::take_header(&mut socket, peer, server);
            let taken = tokio::time::timeout(state.config.limits.handshake_timeout, taken);
            let taken = tokio::select! {
                biased;
                taken = taken => taken.ok(),
                () = slot.slot_handle().evicted_after(HTTP_PATIENCE) => None,
            };
            match taken {
                Some(Ok(client)) => {
                    if !proxies::is_trusted(client.ip(), &server.trusted_proxies) {
                        slot.is_of(client.ip());
                    }
                    client
                }
                Some(Err(why)) => return unannounced(&why, peer, state),
                None => {
                    state.metrics.handshake_timeouts.inc();
                    return;
                }
            }
        }
    };
    match &port.kind {
        ListenerKind::Sealed(certificates) => serve_sealed(socket, peer, certificates, port, slot.slot_handle()).await,
        _ => serve(socket, Caller { peer, certified: Certified(false) }, port, slot.slot_handle()).await,
    }
}

/// Logs and counts why a proxy's connection is closed.
fn unannounced(why: &Unannounced, peer: SocketAddr, state: &State) {
    let (reason, what) = match why {
        Unannounced::Missing => (ProxyHeaderFault::Missing, "none"),
        Unannounced::Broken(what) => (ProxyHeaderFault::Malformed, *what),
        Unannounced::Gone => return,
    };
    state.metrics.refused_proxy_header(reason);
    tracing::debug!(%peer, what, "a proxy's connection has no valid PROXY header (server.proxy_protocol)");
}

/// Serves a connection that begins with a TLS handshake.
async fn serve_sealed(
    socket: TcpStream,
    peer: SocketAddr,
    certificates: &Certificates,
    port: &Port,
    slot_handle: &SlotHandle,
) {
    let state = &port.state;
    let shaken = TlsStream::accept(socket, certificates.current(), slot_handle);
    match tokio::time::timeout(state.config.limits.handshake_timeout, shaken).await {
        Ok(Ok(stream)) => {
            state.metrics.tls_handshakes.inc();
            let certified = Certified(stream.has_client_certificate());
            serve(stream, Caller { peer, certified }, port, slot_handle).await;
        }
        Ok(Err(failed)) if failed.error.kind() == ErrorKind::TimedOut => {
            state.metrics.handshake_timeouts.inc();
        }
        Ok(Err(failed)) => {
            state.metrics.tls_handshakes_failed.inc();
            tracing::debug!(%peer, error = %failed.error, "a TLS handshake failed");
            tokio::select! {
                () = failed.close() => {}
                () = slot_handle.evicted_after(Duration::ZERO) => {}
            }
        }
        Err(_) => {
            state.metrics.handshake_timeouts.inc();
        }
    }
}

async fn serve<S>(stream: S, caller: Caller, port: &Port, slot_handle: &SlotHandle)
where
    S: AsyncRead + AsyncWrite + Into<Transport> + Unpin + Send + 'static,
{
    let state = &port.state;
    let limits = &state.config.limits;
    let handover = Handover::default();
    let taken = handover.clone();
    let bodies = Bodies::default();
    let begun = Instant::now();
    let (requests, answers) = (AtomicU64::new(0), AtomicU64::new(0));
    let (requests, answers) = (&requests, &answers);
    let stream = TimedStream::new(stream, limits.request_timeout);
    let untaken = stream.untaken();
    let stream = Followed::new(Told::new(stream));
    let (heads, seen) = (stream.heads(), bodies.clone());
    let followed = heads.clone();
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(caller.peer));
        request.extensions_mut().insert(caller.certified);
        request.extensions_mut().insert(handover.clone());
        // The connection below is polled by hand, which needs a future that can be moved.
        Box::pin({
            let number = requests.fetch_add(1, Ordering::Relaxed) + 1;
            let wants_more = !says_close(request.headers());
            let answer =
                answer(request, caller, port, slot_handle.limiter(), followed.is_ambiguous(number), seen.clone());
            async move {
                let mut answer = answer.await;
                answers.fetch_add(1, Ordering::Relaxed);
                if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                    return Ok(answer);
                }
                harden(&mut answer, port);
                // It has had its time.
                if begun.elapsed() >= HTTP_CONTENDED_KEEP_ALIVE && slot_handle.claim_eviction() {
                    state.metrics.http_evicted.inc();
                    return Ok(closing(answer));
                }
                if state.readiness.is_draining() {
                    return Ok(closing(answer));
                }
                if wants_more && !says_close(answer.headers()) {
                    announce_keep_alive(&mut answer, limits.keep_alive_timeout);
                }
                Ok::<_, std::convert::Infallible>(answer)
            }
        })
    });
    // The time-out for heads is kept below, which distinguishes the first from the next.
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut policy = KeepAlivePolicy::new(slot_handle, limits.handshake_timeout);
    let mut clock = HeadClock::new(limits.handshake_timeout, limits.keep_alive_timeout);
    let mut gone = None;
    let mut is_late = false;
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
            _ => Awaits::Server,
        };
        is_late = clock.poll(context, asked, awaits, heads.has_begun()).is_ready();
        if !is_late && policy.poll(context, asked, awaits).is_pending() {
            return outcome;
        }
        // A late, incomplete head counts as no head.
        gone = Some(if is_late && heads.has_begun() { Awaits::FirstHead } else { awaits });
        match gone {
            // All its requests are answered; the next one can go to another connection.
            Some(Awaits::NextRequest) => {
                Pin::new(&mut connection).graceful_shutdown();
                connection.poll_without_shutdown(context)
            }
            _ => Poll::Ready(Ok(())),
        }
    })
    .await;
    match gone {
        None | Some(Awaits::Server) => {}
        Some(Awaits::NextRequest) if is_late => {
            state.metrics.http_idle_closed.inc();
        }
        Some(Awaits::NextRequest) => {
            state.metrics.http_evicted.inc();
        }
        Some(Awaits::FirstHead) => {
            state.metrics.handshake_timeouts.inc();
            return;
        }
        Some(Awaits::Taking) => return state.metrics.timed_out_http(HttpTimeout::Answer),
    }
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner().into_inner().into_inner().into_inner();
    match outcome {
        Ok(()) => match taken.take() {
            Some(on_upgrade) => on_upgrade(stream.into(), parts.read_buf),
            None if bodies.unread() && gone.is_none() => linger(stream, slot_handle).await,
            // A request may be on its way: it must meet a clean end, not a reset.
            None if is_late => linger(stream, slot_handle).await,
            // TLS sends a close alert; a plain socket just closes.
            None => {
                let time = if gone.is_some() { Duration::ZERO } else { CLOSE_TIMEOUT };
                let _ = tokio::time::timeout(time, stream.shutdown()).await;
            }
        },
        Err(error) if error.is_parse() => {
            state.metrics.http_malformed.inc();
            linger(stream, slot_handle).await;
        }
        Err(error) => {
            let source = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<std::io::Error>());
            if source.is_some_and(|e| e.kind() == ErrorKind::TimedOut) {
                state.metrics.timed_out_http(HttpTimeout::Answer);
            }
        }
    }
}

/// Whether a message says that it is the last of its connection.
fn says_close(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// Adds the headers that every answer to a browser needs.
fn harden(response: &mut Response, port: &Port) {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let hsts = port.state.config.tls.as_ref().map_or(0, |tls| tls.hsts.as_secs());
    if port.is_sealed()
        && hsts > 0
        && let Ok(value) = HeaderValue::from_str(&format!("max-age={hsts}"))
    {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, value);
    }
}

/// Announces how long the connection is kept, one second less than the truth, so that clients that
/// respect it never send into its end.
fn announce_keep_alive(response: &mut Response, time: Duration) {
    if let seconds @ 1.. = time.as_secs().saturating_sub(1)
        && let Ok(value) = HeaderValue::from_str(&format!("timeout={seconds}"))
    {
        response.headers_mut().insert(KEEP_ALIVE, value);
    }
}

/// Closes a connection so that its client can read the answer, unless others wait for its slot.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: S, slot_handle: &SlotHandle) {
    tokio::select! {
        () = close(stream) => {}
        () = slot_handle.evicted_after(Duration::ZERO) => {}
    }
}

/// Answers one request, if it is unambiguous, meant for this server, and its body arrives in time.
async fn answer(
    request: hyper::Request<Incoming>,
    caller: Caller,
    port: &Port,
    limiter: &ConnectionLimiter,
    is_ambiguous: bool,
    bodies: Bodies,
) -> Response {
    let state = &port.state;
    let bytes = request.body().size_hint().lower();
    let time = state.config.limits.request_timeout;
    let mut request = request.map(|body| match body.is_end_stream() {
        true => Body::empty(),
        false => Body::new(TimedBody::new(body, time, state.limits.requests_total_bytes, bodies.clone())),
    });
    request.extensions_mut().insert(BodyRoom::new(bodies.clone(), state.limits.requests_total_bytes));
    let settled = match is_ambiguous {
        true => Err((
            StatusCode::BAD_REQUEST,
            "the end of the request is ambiguous: send one Content-Length or one Transfer-Encoding, in a short line",
        )),
        false => normalize::request(&mut request),
    };
    if let Err((status, reason)) = settled {
        state.metrics.http_malformed.inc();
        return closing(failure(status, reason));
    }
    if !health::is_health(request.uri().path())
        && let Some(host) = port.hosts.foreign(request.headers())
    {
        state.metrics.hosts_refused.inc();
        tracing::debug!(peer = %caller.peer, host, "a request for a host that is not this server's");
        let message = format!("`{host}` is not a name of this server: if it should be, add it to server.hosts");
        return closing(failure(StatusCode::MISDIRECTED_REQUEST, message));
    }
    let most = PUBLISH_BODY_BYTES_MAX as u64;
    if bytes > most {
        state.metrics.refused_publish(PublishRefusal::BodyTooLarge);
        let message = format!("the body has {bytes} bytes; at most {most} are allowed");
        return closing(failure(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    let _under_way = match proxied(&request, caller, port).map(|client| limiter.request(client)) {
        Some(None) => {
            state.metrics.http_address_refused.inc();
            let message = "this address has too many requests in progress (limits.connections_per_address)";
            return failure_for(Duration::ZERO, StatusCode::SERVICE_UNAVAILABLE, message);
        }
        counted => counted.flatten(),
    };
    let Ok(response) = port.router.clone().oneshot(request).await;
    bodies.answered();
    if bodies.full() {
        state.metrics.requests_refused.inc();
        let message = "the bodies of all requests together reached limits.requests_total_bytes; try again";
        return closing(failure_for(Duration::ZERO, StatusCode::SERVICE_UNAVAILABLE, message));
    }
    if bodies.late() {
        state.metrics.timed_out_http(HttpTimeout::Body);
        let message = format!("the body did not arrive within {time:?} (limits.request_timeout)");
        return closing(failure(StatusCode::REQUEST_TIMEOUT, message));
    }
    answers::counted(response, &port.state)
}

/// The client of a request that came through a trusted proxy, on a connection of the proxy.
fn proxied(request: &hyper::Request<Body>, caller: Caller, port: &Port) -> Option<std::net::IpAddr> {
    let (peer, server) = (caller.peer.ip(), &port.state.config.server);
    if !port.kind.takes_proxies() || !proxies::is_trusted(peer, &server.trusted_proxies) {
        return None;
    }
    Some(proxies::client(peer, request.headers(), server)).filter(|client| *client != peer)
}

/// An answer after which nothing more is read.
fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
