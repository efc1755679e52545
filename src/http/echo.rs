//! `debug.echo`: sends every message back. For suites that test WebSocket servers: it is made of the same parts as
//! sessions are (reader, inbox, inflater, deflater, frames), but is none: no topics, no token, limits of its own.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::handover::{Handover, Line};
use super::upgrade::{accept, negotiated};
use super::{Shared, failure, pages};
use crate::limits::{CLOSE_TIMEOUT, ECHO_IDLE_TIMEOUT, ECHO_MESSAGE_BYTES_MAX, ECHO_SESSIONS_MAX, READ_BUFFER_BYTES};
use crate::wire::close::CloseReason;
use crate::wire::deflate::{Deflater, Part, join};
use crate::wire::frame::{self, Opcode};
use crate::wire::inbox::{self, Compressed, Flow, Inbox, Incoming};
use crate::wire::inflate::Inflater;

static ROOM: Semaphore = Semaphore::const_new(ECHO_SESSIONS_MAX);

/// `GET /` where `debug.echo` is on: some suites know no other path. Without an upgrade it is the dashboard.
pub(super) async fn or_index(state: Shared, request: Request) -> Response {
    let asked = request.headers().get(header::UPGRADE).and_then(|v: &HeaderValue| v.to_str().ok());
    match asked.is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket")) {
        true => echo(state, request).await,
        false => pages::index(request.headers().clone()).await,
    }
}

/// `GET /debug/echo`
pub(super) async fn echo(state: Shared, request: Request) -> Response {
    let Ok(permit) = ROOM.try_acquire() else {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "as many sessions are echoed as there is room for");
    };
    let deflate = if state.config.server.compression { negotiated(request.headers()) } else { None };
    let request = request.map(|_| ());
    let response = match accept(&request, deflate, None) {
        Ok(response) => response,
        Err(refused) => return *refused,
    };
    let Some(handover) = request.extensions().get::<Handover>() else {
        return failure(StatusCode::INTERNAL_SERVER_ERROR, "this connection cannot be upgraded");
    };
    handover.to(move |line, early| {
        tokio::spawn(async move {
            // A socket that breaks ends its session, and that is all there is to it.
            let _ = match line {
                Line::Plain(socket) => Echo::new(deflate.is_some()).run(socket, &early).await,
                Line::Sealed(stream) => Echo::new(deflate.is_some()).run(stream, &early).await,
            };
            drop(permit);
        });
    });
    response.map(|()| Body::empty())
}

/// What one client sent, and what it is owed.
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
        // What the client still sends is read, or the kernel would throw our close frame away with it.
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
        // Always compressed, whether it gets smaller or not: a suite tests what it is sent.
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
        // RFC 6455 §5.5.1: answered with the code that came.
        Incoming::Close(payload) => (frame::frame(Opcode::Close, payload.get(..2).unwrap_or_default()), Flow::Stop),
    }
}
