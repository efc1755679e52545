//! `debug.echo`: sends every message back, for suites that test WebSocket servers. It uses the same
//! parts as sessions (reader, inbox, inflater, deflater, frames) but is not one: it has no topics,
//! no token, and limits of its own.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::Config;
use crate::http::accept::handover::{Handover, Transport};
use crate::http::failure::failure;
use crate::http::pages;
use crate::http::state::Of;
use crate::http::upgrade::admission::{accept, negotiated};
use crate::limits::{CLOSE_TIMEOUT, ECHO_IDLE_TIMEOUT, ECHO_MESSAGE_BYTES_MAX, ECHO_SESSIONS_MAX, READ_BUFFER_BYTES};
use crate::wire::close::CloseReason;
use crate::wire::deflate::{Deflater, Part, join};
use crate::wire::frame::{self, Opcode};
use crate::wire::inbox::{self, Compressed, Flow, Inbox, Incoming};
use crate::wire::inflate::Inflater;

static ROOM: Semaphore = Semaphore::const_new(ECHO_SESSIONS_MAX);

/// `GET /` if `debug.echo` is on, because some suites know no other path. Without an upgrade it is
/// the dashboard.
pub(in crate::http) async fn or_index(config: Of<Config>, request: Request) -> Response {
    let asked = request.headers().get(header::UPGRADE).and_then(|v: &HeaderValue| v.to_str().ok());
    match asked.is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket")) {
        true => echo(config, request).await,
        false => pages::index(request.headers().clone()).await,
    }
}

/// `GET /debug/echo`
pub(in crate::http) async fn echo(config: Of<Config>, request: Request) -> Response {
    let Ok(permit) = ROOM.try_acquire() else {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "the limit of echo sessions is reached");
    };
    let deflate = if config.server.compression { negotiated(request.headers()) } else { None };
    let request = request.map(|_| ());
    let response = match accept(&request, deflate, None) {
        Ok(response) => response,
        Err(refused) => return *refused,
    };
    let Some(handover) = request.extensions().get::<Handover>() else {
        return failure(StatusCode::INTERNAL_SERVER_ERROR, "this connection cannot be upgraded");
    };
    handover.to(move |transport, early| {
        tokio::spawn(async move {
            // A socket error ends the session; there is nothing else to do.
            let _ = match transport {
                Transport::Plain(socket) => Echo::new(deflate.is_some()).run(socket, &early).await,
                Transport::Sealed(stream) => Echo::new(deflate.is_some()).run(stream, &early).await,
            };
            drop(permit);
        });
    });
    response.map(|()| Body::empty())
}

/// The received bytes, and the answers to write.
struct Echo {
    inbox: Option<Box<Inbox>>,
    inflater: Option<Inflater>,
    deflater: Option<Deflater>,
    out: Vec<u8>,
}

impl Echo {
    fn new(deflate: bool) -> Self {
        Self {
            inbox: None,
            inflater: deflate.then(|| Inflater::new(ECHO_MESSAGE_BYTES_MAX)),
            deflater: deflate.then(Deflater::default),
            out: Vec::new(),
        }
    }

    async fn run(mut self, mut socket: impl AsyncRead + AsyncWrite + Unpin, early: &Bytes) -> std::io::Result<()> {
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        let mut flow = self.received(&mut early.to_vec());
        loop {
            timeout(ECHO_IDLE_TIMEOUT, socket.write_all(&self.out)).await??;
            timeout(ECHO_IDLE_TIMEOUT, socket.flush()).await??;
            self.out.clear();
            if flow == Flow::Stop {
                break;
            }
            let n = timeout(ECHO_IDLE_TIMEOUT, socket.read(&mut buffer)).await??;
            let Some(bytes @ [_, ..]) = buffer.get_mut(..n) else { return Ok(()) };
            flow = self.received(bytes);
        }
        socket.shutdown().await?;
        // Received data is read and discarded, or the kernel would discard the close frame.
        let drained = async { while !matches!(socket.read(&mut buffer).await, Ok(0) | Err(_)) {} };
        let _ = timeout(CLOSE_TIMEOUT, drained).await;
        Ok(())
    }

    /// Appends the answers to `bytes`.
    fn received(&mut self, bytes: &mut [u8]) -> Flow {
        let Self { inbox, inflater, deflater, out } = self;
        let mut flow = Flow::Continue;
        let compressed = inflater.as_mut().map_or(Compressed::Refused, Compressed::Inflated);
        let outcome = inbox::feed(inbox, bytes, ECHO_MESSAGE_BYTES_MAX, compressed, 0, |message| {
            let (answer, next) = answer(message, deflater.as_mut());
            out.extend_from_slice(&answer);
            flow = next;
            next
        });
        match outcome {
            Ok(()) => flow,
            Err(reason) => {
                out.extend_from_slice(&frame::close(reason));
                Flow::Stop
            }
        }
    }
}

fn answer(message: Incoming<'_>, deflater: Option<&mut Deflater>) -> (Bytes, Flow) {
    let data = |opcode, payload: &[u8]| match deflater {
        // Always compressed, even if that saves nothing: a suite tests the compression.
        Some(deflater) => join(opcode, [Part::Deflated(&deflater.part(payload))]),
        None => frame::frame(opcode, payload),
    };
    match message {
        Incoming::Text(text) if std::str::from_utf8(text).is_err() => {
            (frame::close(CloseReason::InvalidUtf8), Flow::Stop)
        }
        Incoming::Text(text) => (data(Opcode::Text, text), Flow::Continue),
        Incoming::Binary(bytes) => (data(Opcode::Binary, bytes), Flow::Continue),
        Incoming::Ping(payload) => (frame::frame(Opcode::Pong, payload), Flow::Continue),
        Incoming::Pong => (Bytes::new(), Flow::Continue),
        // RFC 6455 §5.5.1: answered with the received code.
        Incoming::Close(payload) => (frame::frame(Opcode::Close, payload.get(..2).unwrap_or_default()), Flow::Stop),
    }
}
