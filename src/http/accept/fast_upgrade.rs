//! Fast upgrade. A valid handshake that is complete when its connection is accepted is answered at
//! once: without a task, an HTTP connection or a registration with the runtime. The bytes are only
//! peeked at, so anything else (another path, half a head, a refusal, a token that must wait for
//! its key) goes to the HTTP server untouched.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use bytes::Bytes;

use crate::http::accept::hosts::Hosts;
use crate::http::accept::normalize;
use crate::http::accept::proxies;
use crate::http::accept::proxies::Announced;
use crate::http::state::State;
use crate::http::upgrade::admission::{Admitted, Asked, admit, look};

/// Longest head that is considered. Those of browsers, cookies included, are half of it.
const HEAD_BYTES_MAX: usize = 4 * 1024;

/// Most headers that are considered.
const HEADERS_MAX: usize = 64;

/// Turns the connection into a session if that is possible at once; otherwise returns it with
/// nothing read.
pub(in crate::http) fn upgrade(
    state: &State,
    hosts: &Hosts,
    mut socket: TcpStream,
    peer: SocketAddr,
) -> Option<TcpStream> {
    let mut buffer = [0; HEAD_BYTES_MAX];
    let Ok(bytes) = socket.peek(&mut buffer) else { return Some(socket) };
    let peeked = buffer.get(..bytes).unwrap_or_default();
    // A PROXY header comes before the handshake.
    let (connected, before) = match proxies::may_announce(peer, &state.config.server) {
        false => (peer, 0),
        true => match proxies::announced(peeked, peer, &state.config.server) {
            Ok(Announced::As(client, header_bytes)) => (client, header_bytes),
            _ => return Some(socket),
        },
    };
    let head = peeked.get(before..).unwrap_or_default();
    let Some((request, asked, head_bytes)) = handshake(head) else { return Some(socket) };
    if hosts.foreign(request.headers()).is_some() {
        return Some(socket);
    }
    let Ok(handshake) = look(state, &request, asked) else { return Some(socket) };
    let client = proxies::client(connected.ip(), request.headers(), &state.config.server);
    let Ok(admission) = admit(state, client, None) else { return Some(socket) };
    let early = Bytes::copy_from_slice(head.get(head_bytes..).unwrap_or_default());
    // From here on the connection becomes a session or closes. Both calls concern bytes that are
    // present, or that fit.
    let read = socket.read_exact(buffer.get_mut(..bytes).unwrap_or_default());
    let written = read.and_then(|()| socket.write_all(&answer(&handshake.response)));
    if written.is_ok() {
        Admitted::new(&handshake, None, admission).place(state, socket, None, early);
    }
    None
}

/// The opening handshake that these bytes begin with, and its length.
fn handshake(bytes: &[u8]) -> Option<(Request<()>, Asked, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = parsed.parse(bytes).ok()? else { return None };
    if parsed.method? != Method::GET.as_str() || parsed.version? != 1 {
        return None;
    }
    let uri: Uri = parsed.path?.parse().ok()?;
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    // Requests with a body, or with a token that may wait for its key, go to the HTTP server.
    let others = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::EXPECT, header::AUTHORIZATION];
    if others.iter().any(|name| headers.contains_key(name)) {
        return None;
    }
    let asked = match uri.path() {
        "/ws" => Asked::PLAIN,
        "/connection/websocket" => Asked::centrifuge(&headers, uri.query()),
        _ => return None,
    };
    let mut request = Request::get(uri).body(()).ok()?;
    *request.headers_mut() = headers;
    normalize::request(&mut request).ok()?;
    Some((request, asked, head_bytes))
}

/// The length of the opening handshake at the front of these bytes, if it would be answered at
/// once.
pub fn handshake_bytes(bytes: &[u8]) -> Option<usize> {
    handshake(bytes).map(|(_, _, head_bytes)| head_bytes)
}

/// A response head as it is sent (RFC 9112 §4).
pub(in crate::http) fn answer(response: &axum::http::Response<()>) -> Vec<u8> {
    let status = response.status();
    let mut head = Vec::with_capacity(256);
    head.extend_from_slice(b"HTTP/1.1 ");
    head.extend_from_slice(status.as_str().as_bytes());
    head.extend_from_slice(b" ");
    head.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    for (name, value) in response.headers() {
        head.extend_from_slice(b"\r\n");
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
    }
    head.extend_from_slice(b"\r\n\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";

    #[test]
    fn a_whole_handshake_is_taken_and_the_rest_left() {
        let bytes = format!("{HEAD}\r\nearly");
        let (request, _, head_bytes) = handshake(bytes.as_bytes()).unwrap();
        assert_eq!(&bytes[head_bytes..], "early");
        assert_eq!(request.headers()[header::SEC_WEBSOCKET_VERSION], "13");
    }

    #[test]
    fn everything_else_is_left_to_the_http_server() {
        let whole = format!("{HEAD}\r\n");
        for cut in 0..whole.len() {
            assert!(handshake(&whole.as_bytes()[..cut]).is_none(), "{cut}");
        }
        for other in [
            format!("{HEAD}Content-Length: 5\r\n\r\nhello"),
            format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n"),
            format!("{HEAD}Authorization: Bearer x\r\n\r\n"),
            format!("{HEAD}Bad Name: x\r\n\r\n"),
            format!("{HEAD}Host: b\r\n\r\n"),
            whole.replace("Host: a\r\n", ""),
            whole.replace("GET", "POST"),
            whole.replace("HTTP/1.1", "HTTP/1.0"),
            whole.replace("/ws", "/"),
            whole.replace("/ws", "/ws/"),
        ] {
            assert!(handshake(other.as_bytes()).is_none(), "{other}");
        }
    }

    #[test]
    fn an_answer_is_written_as_http() {
        let response = axum::http::Response::builder().status(101).header("Upgrade", "websocket").body(()).unwrap();
        assert_eq!(answer(&response), b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n");
    }
}
