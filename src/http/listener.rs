//! Listening, and one task for each connection until it is upgraded or ends.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::State;
use super::handover::Handover;
use crate::limits::{HTTP_CONNECTIONS_MAX, NOTSENT_LOWAT_BYTES};

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 4_096;

/// Opens the one port. What is set here, accepted sockets inherit: no call for each of them.
///
/// # Errors
/// If the address cannot be had.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    // The backlog of a slow client stays on our side, where it can be conflated.
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until told to stop.
pub struct Listener {
    /// From [`bind`].
    pub socket: TcpListener,
    /// All routes.
    pub router: Router,
    /// What they use.
    pub state: Arc<State>,
}

impl Listener {
    /// Runs until `stop`; connections that are open then go on.
    pub async fn run(self, stop: CancellationToken) {
        // Plain HTTP holds descriptors too: so many, out of the reserve.
        let permits = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (router, state) = (self.router.clone(), self.state.clone());
                    tokio::spawn(async move {
                        serve(stream, peer, router, &state).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, mostly: those who wait in the kernel are served when some are free again.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, router: Router, state: &Arc<State>) {
    let handover = Handover::default();
    let taken = handover.clone();
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
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
            if let Some(taker) = taken.take() {
                taker(parts.io.into_inner(), parts.read_buf);
            }
        }
        Err(error) if error.is_timeout() => {
            state.metrics.handshake_timeouts.inc();
        }
        Err(_) => {}
    }
}
