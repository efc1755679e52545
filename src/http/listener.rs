//! Listening, and one task for each connection until it is upgraded or ends.

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

use super::certificates::{Certificates, Certified};
use super::deadlines::{Bodies, BodyRoom, TimedBody, TimedStream, close};
use super::handover::{Handover, Line};
use super::heads::Followed;
use super::hosts::Hosts;
use super::lobby::{Guest, Lobby, Place, Seat};
use super::parser::Told;
use super::proxies::Unannounced;
use super::secure::TlsStream;
use super::tenure::{Awaits, HeadClock, Tenure};
use super::{State, answers, express, failure, failure_for, health, proxies, strict};
use crate::limits::{
    CLOSE_TIMEOUT, HEAD_BYTES_MAX, HTTP_OVERFLOW_TIME, HTTP_PATIENCE, HTTP_TENURE, PUBLISH_BODY_BYTES_MAX,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// While connections come faster than this one after the other, they are accepted so far apart, together.
const TOGETHER: Duration = Duration::from_millis(1);

/// Accepts until told to stop.
pub struct Listener {
    /// From [`bind`](super::bind) or [`adopt`](super::adopt).
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
    /// The same, for health alone.
    Health,
}

impl Entrance {
    /// Where connections that come this way wait.
    pub fn lobby(&self, connections_per_address: usize) -> Lobby {
        match self {
            Self::Plain | Self::Sealed(_) => Lobby::public(connections_per_address),
            Self::Operators => Lobby::operators(),
            Self::Health => Lobby::health(),
        }
    }

    /// Whether proxies may come this way.
    fn takes_proxies(&self) -> bool {
        matches!(self, Self::Plain | Self::Sealed(_))
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
        let address = self.socket.local_addr().unwrap_or(self.state.config.server.listen);
        let for_operators = matches!(self.entrance, Entrance::Operators);
        let port = Arc::new(Port {
            router: self.router,
            hosts: Hosts::of(&self.state.config, address, for_operators),
            state: self.state,
            entrance: self.entrance,
        });
        while !stop.is_cancelled() {
            match self.socket.accept() {
                Ok((stream, peer)) => {
                    let peer = proxies::plain(peer);
                    let stream = match port.entrance {
                        Entrance::Plain => express::upgrade(&port.state, &port.hosts, stream.into(), peer),
                        _ => Some(stream.into()),
                    };
                    if let Some(stream) = stream {
                        accepted(&port, &self.lobby, stream, peer, runtime, stop);
                    }
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

/// What the connections of a listener have in common.
struct Port {
    router: Router,
    hosts: Hosts,
    state: Arc<State>,
    entrance: Entrance,
}

impl Port {
    fn is_sealed(&self) -> bool {
        matches!(self.entrance, Entrance::Sealed(_))
    }
}

/// Finds a place for a connection, on the thread that accepts, and has it served.
fn accepted(
    port: &Arc<Port>,
    lobby: &Lobby,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    runtime: &Handle,
    stop: &CancellationToken,
) {
    let state = &port.state;
    // A proxy's connections are many clients'.
    let is_proxy =
        port.entrance.takes_proxies() && proxies::is_trusted(peer.ip(), &state.config.server.trusted_proxies);
    let address = (!is_proxy).then_some(peer.ip());
    let place = match (lobby.enter(address), port.is_sealed()) {
        (Some(place @ Place::Served(_)), _) | (Some(place), true) => Some(place),
        // It could not be told to come back: better that it and those behind it are late than reset.
        (None, true) if !lobby.has_its_share(address) => {
            state.metrics.tls_held_back.inc();
            runtime.block_on(lobby.enter_in_time(address, stop))
        }
        (None, true) => None,
        // Health is told without a place.
        (place, false) => match health::answer(state, stream, peer) {
            None => return,
            Some(stream) => {
                let (port, lobby, stopped) = (port.clone(), lobby.clone(), stop.is_cancelled());
                runtime
                    .spawn(async move { wait_and_serve(&port, &lobby, place, stream, peer, address, stopped).await });
                return;
            }
        },
    };
    if place.is_none() && !stop.is_cancelled() {
        return refuse(stream, port, lobby, address);
    }
    let (port, lobby) = (port.clone(), lobby.clone());
    runtime.spawn(async move {
        let place = match place {
            Some(place) => Some(place),
            // It was accepted before the stop: the next process will not see it.
            None => lobby.enter_in_time(address, &CancellationToken::new()).await,
        };
        let seat = match place {
            Some(place) => lobby.be_served(place).await,
            None => None,
        };
        match (seat, TcpStream::from_std(stream)) {
            (Some(seat), Ok(stream)) => enter(stream, peer, &port, &seat).await,
            (None, Ok(stream)) => {
                if let Ok(stream) = stream.into_std() {
                    refuse(stream, &port, &lobby, address);
                }
            }
            (_, Err(_)) => {}
        }
    });
}

/// Serves a connection that found all places taken once it has one; without one it is read to see whether it asks for health.
async fn wait_and_serve(
    port: &Port,
    lobby: &Lobby,
    place: Option<Place>,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    address: Option<std::net::IpAddr>,
    is_stopped: bool,
) {
    let state = &port.state;
    let place = match place {
        // It was accepted before the stop: the next process will not see it.
        None if is_stopped => lobby.enter_in_time(address, &CancellationToken::new()).await,
        place => place,
    };
    let overflow = if place.is_none() { lobby.overflow(address) } else { None };
    if place.is_none() && overflow.is_none() {
        return refuse(stream, port, lobby, address);
    }
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let seat = async {
        match place {
            Some(place) => lobby.be_served(place).await,
            None => {
                tokio::time::sleep(HTTP_OVERFLOW_TIME).await;
                None
            }
        }
    };
    let asked = async {
        let is_health = health::is_asked_for(state, &stream, peer).await;
        // One that asks for something else, and waits for no place, need not be read any longer.
        is_health || overflow.is_some()
    };
    let seat = tokio::select! {
        biased;
        seat = seat => seat,
        true = asked => None,
    };
    match seat {
        Some(seat) => enter(stream, peer, port, &seat).await,
        None => {
            if let Ok(stream) = stream.into_std()
                && let Some(stream) = health::answer(state, stream, peer)
            {
                refuse(stream, port, lobby, address);
            }
        }
    }
}

/// Tells a client to come back later, as far as that can be done without waiting for it.
fn refuse(mut stream: std::net::TcpStream, port: &Port, lobby: &Lobby, address: Option<std::net::IpAddr>) {
    let metrics = &port.state.metrics;
    metrics.http_refused.inc();
    if lobby.has_its_share(address) {
        metrics.http_address_refused.inc();
    }
    if port.is_sealed() {
        return;
    }
    // Its request is read, or the answer would be lost with a reset.
    let _ = stream.read(&mut [0; 4 * 1024]);
    let _ = stream.write_all(
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\
          Content-Type: application/json\r\nContent-Length: 90\r\n\r\n\
          {\"error\":{\"code\":503,\"message\":\"as many connections as there may be are open; try again\"}}",
    );
}

/// The client of a connection, and whether it showed a certificate.
#[derive(Clone, Copy)]
struct Caller {
    peer: SocketAddr,
    certified: Certified,
}

/// Serves a connection, once it is known whose it is.
async fn enter(mut socket: TcpStream, peer: SocketAddr, port: &Port, seat: &Seat) {
    let state = &port.state;
    let server = &state.config.server;
    let announces = port.entrance.takes_proxies() && proxies::may_announce(peer, server);
    let peer = match announces {
        false => peer,
        true => {
            let taken = proxies::take_header(&mut socket, peer, server);
            let taken = tokio::time::timeout(state.config.limits.handshake_timeout, taken);
            let taken = tokio::select! {
                biased;
                taken = taken => taken.ok(),
                () = seat.guest().to_give_way_after(HTTP_PATIENCE) => None,
            };
            match taken {
                Some(Ok(client)) => {
                    if !proxies::is_trusted(client.ip(), &server.trusted_proxies) {
                        seat.is_of(client.ip());
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
    match &port.entrance {
        Entrance::Sealed(certificates) => serve_sealed(socket, peer, certificates, port, seat.guest()).await,
        _ => serve(socket, Caller { peer, certified: Certified(false) }, port, seat.guest()).await,
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
async fn serve_sealed(socket: TcpStream, peer: SocketAddr, certificates: &Certificates, port: &Port, guest: &Guest) {
    let state = &port.state;
    let shaken = TlsStream::accept(socket, certificates.current(), guest);
    match tokio::time::timeout(state.config.limits.handshake_timeout, shaken).await {
        Ok(Ok(stream)) => {
            state.metrics.tls_handshakes.inc();
            let certified = Certified(stream.has_client_certificate());
            serve(stream, Caller { peer, certified }, port, guest).await;
        }
        Ok(Err(failed)) if failed.error.kind() == ErrorKind::TimedOut => {
            state.metrics.handshake_timeouts.inc();
        }
        Ok(Err(failed)) => {
            state.metrics.tls_handshakes_failed.inc();
            tracing::debug!(%peer, error = %failed.error, "a TLS handshake failed");
            tokio::select! {
                () = failed.close() => {}
                () = guest.to_give_way_after(Duration::ZERO) => {}
            }
        }
        Err(_) => {
            state.metrics.handshake_timeouts.inc();
        }
    }
}

async fn serve<S>(stream: S, caller: Caller, port: &Port, guest: &Guest)
where
    S: AsyncRead + AsyncWrite + Into<Line> + Unpin + Send + 'static,
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
        // What is done by hand with the connection below wants a future that may be moved.
        Box::pin({
            let number = requests.fetch_add(1, Ordering::Relaxed) + 1;
            let wants_more = !says_close(request.headers());
            let answer = answer(request, caller, port, guest.lobby(), followed.is_ambiguous(number), seen.clone());
            async move {
                let mut answer = answer.await;
                answers.fetch_add(1, Ordering::Relaxed);
                if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                    return Ok(answer);
                }
                harden(&mut answer, port);
                // It had its turn.
                if begun.elapsed() >= HTTP_TENURE && guest.has_to_give_way() {
                    state.metrics.http_gave_way.inc();
                    return Ok(closing(answer));
                }
                if state.is_draining() {
                    return Ok(closing(answer));
                }
                if wants_more && !says_close(answer.headers()) {
                    announce_keep_alive(&mut answer, limits.keep_alive_timeout);
                }
                Ok::<_, std::convert::Infallible>(answer)
            }
        })
    });
    // The time of heads is kept below, where the first is told from the next.
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut tenure = Tenure::new(guest, limits.handshake_timeout);
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
            _ => Awaits::Us,
        };
        is_late = clock.poll(context, asked, awaits, heads.has_begun()).is_ready();
        if !is_late && tenure.poll(context, asked, awaits).is_pending() {
            return outcome;
        }
        // Half a head that is late is as bad as none.
        gone = Some(if is_late && heads.has_begun() { Awaits::FirstHead } else { awaits });
        match gone {
            // It has all that it asked for: what it asks for next it can ask for elsewhere.
            Some(Awaits::NextRequest) => {
                Pin::new(&mut connection).graceful_shutdown();
                connection.poll_without_shutdown(context)
            }
            _ => Poll::Ready(Ok(())),
        }
    })
    .await;
    match gone {
        None | Some(Awaits::Us) => {}
        Some(Awaits::NextRequest) if is_late => {
            state.metrics.http_idle_closed.inc();
        }
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
    let mut stream = parts.io.into_inner().into_inner().into_inner().into_inner();
    match outcome {
        Ok(()) => match taken.take() {
            Some(taker) => taker(stream.into(), parts.read_buf),
            None if bodies.unread() && gone.is_none() => linger(stream, guest).await,
            // A request may be on its way: it must find an end, not a reset.
            None if is_late => linger(stream, guest).await,
            // Over TLS it is said that nothing more will come; a plain socket just closes.
            None => {
                let time = if gone.is_some() { Duration::ZERO } else { CLOSE_TIMEOUT };
                let _ = tokio::time::timeout(time, stream.shutdown()).await;
            }
        },
        Err(error) if error.is_parse() => {
            state.metrics.http_malformed.inc();
            linger(stream, guest).await;
        }
        Err(error) => {
            let source = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<std::io::Error>());
            if source.is_some_and(|e| e.kind() == ErrorKind::TimedOut) {
                state.metrics.timed_out_http("answer");
            }
        }
    }
}

/// Whether a message says that it is the last of its connection.
fn says_close(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// Puts onto an answer what a browser has to know of every answer.
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

/// Says how long the connection is kept, a second less than it is: clients that heed it never send into its end.
fn announce_keep_alive(response: &mut Response, time: Duration) {
    if let seconds @ 1.. = time.as_secs().saturating_sub(1)
        && let Ok(value) = HeaderValue::from_str(&format!("timeout={seconds}"))
    {
        response.headers_mut().insert(KEEP_ALIVE, value);
    }
}

/// Closes a connection so that its client can read what it was told, unless others wait for its place.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: S, guest: &Guest) {
    tokio::select! {
        () = close(stream) => {}
        () = guest.to_give_way_after(Duration::ZERO) => {}
    }
}

/// Answers one request, if it is one that can be read in one way only, is meant for this server, and its body comes in time.
async fn answer(
    request: hyper::Request<Incoming>,
    caller: Caller,
    port: &Port,
    lobby: &Lobby,
    is_ambiguous: bool,
    bodies: Bodies,
) -> Response {
    let state = &port.state;
    let bytes = request.body().size_hint().lower();
    let time = state.config.limits.request_timeout;
    let mut request = request.map(|body| match body.is_end_stream() {
        true => Body::empty(),
        false => Body::new(TimedBody::new(body, time, state.config.limits.requests_total_bytes, bodies.clone())),
    });
    request.extensions_mut().insert(BodyRoom::new(bodies.clone(), state.config.limits.requests_total_bytes));
    let settled = match is_ambiguous {
        true => Err((
            StatusCode::BAD_REQUEST,
            "where the request ends can be read in two ways: send one Content-Length or one Transfer-Encoding, in a short line",
        )),
        false => strict::settle(&mut request),
    };
    if let Err((status, reason)) = settled {
        state.metrics.http_malformed.inc();
        return closing(failure(status, reason));
    }
    if !health::is_health(request.uri().path())
        && let Some(host) = port.hosts.foreign(request.headers())
    {
        state.metrics.hosts_refused.inc();
        tracing::debug!(peer = %caller.peer, host, "a request for a host that this server is not");
        let message = format!("this server is not known as `{host}`: if it should be, add that to server.hosts");
        return closing(failure(StatusCode::MISDIRECTED_REQUEST, message));
    }
    let most = PUBLISH_BODY_BYTES_MAX as u64;
    if bytes > most {
        state.metrics.refused_publish("body_too_large");
        let message = format!("a body of {bytes} bytes, the most is {most}");
        return closing(failure(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    let _under_way = match proxied(&request, caller, port).map(|client| lobby.request(client)) {
        Some(None) => {
            state.metrics.http_address_refused.inc();
            let message = "as many requests of this address are under way as may be (limits.connections_per_address)";
            return failure_for(Duration::ZERO, StatusCode::SERVICE_UNAVAILABLE, message);
        }
        counted => counted.flatten(),
    };
    let Ok(response) = port.router.clone().oneshot(request).await;
    bodies.answered();
    if bodies.full() {
        state.metrics.requests_refused.inc();
        let message =
            "the bodies of all requests take as much memory as they may (limits.requests_total_bytes); try again";
        return closing(failure_for(Duration::ZERO, StatusCode::SERVICE_UNAVAILABLE, message));
    }
    if bodies.late() {
        state.metrics.timed_out_http("body");
        let message = format!("the body did not come within {time:?} (limits.request_timeout)");
        return closing(failure(StatusCode::REQUEST_TIMEOUT, message));
    }
    answers::counted(response, &port.state)
}

/// The client of a request that came by way of a trusted proxy, on a connection that is the proxy's own.
fn proxied(request: &hyper::Request<Body>, caller: Caller, port: &Port) -> Option<std::net::IpAddr> {
    let (peer, server) = (caller.peer.ip(), &port.state.config.server);
    if !port.entrance.takes_proxies() || !proxies::is_trusted(peer, &server.trusted_proxies) {
        return None;
    }
    Some(proxies::client(peer, request.headers(), server)).filter(|client| *client != peer)
}

/// An answer behind which nothing is read any more.
fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
