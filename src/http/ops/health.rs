//! `/healthz` and `/readyz`: as routes, and answered without a slot when all slots are taken.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use serde_json::json;

use crate::client::HEALTH_HEADER;
use crate::config;
use crate::http::accept::fast_upgrade;
use crate::http::accept::proxies;
use crate::http::accept::proxies::Announced;
use crate::http::ops::readiness::Readiness;
use crate::http::state::{Of, State};
use crate::hub::Hub;

/// A shard without a sign of life for this long is stuck.
const HEARTBEAT_MAX_MS: u64 = 15_000;

/// Longest head that is considered.
const HEAD_BYTES_MAX: usize = 4 * 1024;

/// Most headers that are considered.
const HEADERS_MAX: usize = 64;

/// Time between two looks at a connection whose head is incomplete.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Identifies this server: others have such paths too.
const OWN: (HeaderName, HeaderValue) = (HeaderName::from_static(HEALTH_HEADER), HeaderValue::from_static("health"));

/// A status and the text of its body.
struct Health {
    status: StatusCode,
    kind: &'static str,
    text: String,
}

impl Health {
    fn new(status: StatusCode, text: &str) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", text: text.to_owned() }
    }

    fn json(text: &serde_json::Value) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, kind: "application/json", text: text.to_string() }
    }

    /// Whether the process works. It ignores Redis: an outage of Redis is no reason to restart the
    /// process.
    fn alive(hub: &Hub, readiness: &Readiness) -> Self {
        let age_ms = hub.heartbeat_age_ms();
        if age_ms > HEARTBEAT_MAX_MS && !readiness.is_draining() {
            let message = format!("a shard has not run for {age_ms} ms");
            return Self::json(&json!({"error": {"code": 503, "message": message}}));
        }
        Self::new(StatusCode::OK, "ok\n")
    }

    /// Whether clients should connect to this node.
    fn ready(readiness: &Readiness) -> Self {
        let reasons = readiness.not_ready();
        match reasons.is_empty() {
            true => Self::new(StatusCode::OK, "ready\n"),
            false => Self::json(&json!({"ready": false, "reasons": reasons})),
        }
    }

    fn response(self) -> axum::response::Response {
        let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(self.kind)), OWN];
        (self.status, headers, self.text).into_response()
    }
}

/// `GET /healthz`
pub(in crate::http) async fn health(hub: Of<Hub>, readiness: Of<Readiness>) -> axum::response::Response {
    Health::alive(&hub, &readiness).response()
}

/// `GET /readyz`
pub(in crate::http) async fn ready(readiness: Of<Readiness>) -> axum::response::Response {
    Health::ready(&readiness).response()
}

/// Whether this path is exempt from the checks of other requests.
pub(in crate::http) fn is_health(path: &str) -> bool {
    path == "/healthz" || path == "/readyz"
}

/// The request at the front of a connection's bytes.
#[derive(Debug, PartialEq)]
enum Asked {
    Health {
        head_bytes: usize,
        is_ready: bool,
        /// HEAD: no body.
        head: bool,
    },
    SomethingElse,
    /// Not decided yet.
    Unclear,
}

fn asked(peeked: &[u8], peer: SocketAddr, server: &config::Server) -> Asked {
    let before = match proxies::may_announce(peer, server) {
        false => 0,
        true => match proxies::announced(peeked, peer, server) {
            Ok(Announced::As(_, header_bytes)) => header_bytes,
            Ok(Announced::Begun | Announced::Unclear) => return Asked::Unclear,
            Err(_) => return Asked::SomethingElse,
        },
    };
    match requested(peeked.get(before..).unwrap_or_default()) {
        Asked::Health { head_bytes, is_ready, head } => {
            Asked::Health { head_bytes: before + head_bytes, is_ready, head }
        }
        other => other,
    }
}

fn requested(head: &[u8]) -> Asked {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let status = parsed.parse(head);
    // Recognized by the first line, so that other requests are not waited for.
    let path = parsed.path.map(|path| path.split('?').next().unwrap_or_default());
    let is_read = parsed.method.is_none_or(|method| method == "GET" || method == "HEAD");
    if !is_read || path.is_some_and(|path| !is_health(path)) {
        return Asked::SomethingElse;
    }
    match (status, path) {
        (Ok(httparse::Status::Complete(head_bytes)), Some(path)) => {
            let names = parsed.headers.iter().map(|header| header.name);
            let has_body = names.into_iter().any(|name| name.eq_ignore_ascii_case("transfer-encoding"))
                || parsed.headers.iter().any(|h| {
                    h.name.eq_ignore_ascii_case("content-length") && h.value.iter().any(|digit| *digit != b'0')
                });
            if has_body {
                return Asked::SomethingElse;
            }
            Asked::Health { head_bytes, is_ready: path == "/readyz", head: parsed.method == Some("HEAD") }
        }
        (Ok(httparse::Status::Partial), _) if head.len() < HEAD_BYTES_MAX => Asked::Unclear,
        _ => Asked::SomethingElse,
    }
}

/// Answers and ends a connection whose head is complete and asks for health; otherwise returns it
/// with nothing read.
pub(in crate::http) fn answer(state: &State, mut socket: TcpStream, peer: SocketAddr) -> Option<TcpStream> {
    let mut buffer = [0; HEAD_BYTES_MAX];
    let Ok(bytes) = socket.peek(&mut buffer) else { return Some(socket) };
    let asked = asked(buffer.get(..bytes).unwrap_or_default(), peer, &state.config.server);
    let Asked::Health { head_bytes, is_ready, head } = asked else { return Some(socket) };
    let health = match is_ready {
        true => Health::ready(&state.readiness),
        false => Health::alive(&state.hub, &state.readiness),
    };
    let mut response = Response::new(());
    *response.status_mut() = health.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(health.kind));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(health.text.len()));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(OWN.0, OWN.1);
    let mut bytes = fast_upgrade::answer(&response);
    if !head {
        bytes.extend_from_slice(health.text.as_bytes());
    }
    // Both calls concern bytes that are present, or that fit.
    let read = socket.read_exact(buffer.get_mut(..head_bytes).unwrap_or_default());
    if read.and_then(|()| socket.write_all(&bytes)).is_ok() {
        state.metrics.health_answered_without_slot.inc();
    }
    None
}

/// Whether a connection asks for health. The caller bounds the time.
pub(in crate::http) async fn is_asked_for(
    server: &config::Server,
    stream: &tokio::net::TcpStream,
    peer: SocketAddr,
) -> bool {
    let mut buffer = vec![0; HEAD_BYTES_MAX];
    loop {
        let Ok(bytes @ 1..) = stream.peek(&mut buffer).await else { return false };
        match asked(buffer.get(..bytes).unwrap_or_default(), peer, server) {
            Asked::Health { .. } => return true,
            Asked::SomethingElse => return false,
            Asked::Unclear => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_told_from_everything_else_as_soon_as_it_can_be() {
        let whole = |line: &str| format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
        for (line, is_ready, head) in
            [("GET /healthz", false, false), ("GET /readyz", true, false), ("HEAD /healthz?x=1", false, true)]
        {
            let text = whole(line);
            let head_bytes = text.len();
            assert_eq!(requested(text.as_bytes()), Asked::Health { head_bytes, is_ready, head });
            for cut in 0..text.len() {
                assert_eq!(requested(&text.as_bytes()[..cut]), Asked::Unclear, "{cut}");
            }
        }
        for other in [
            whole("POST /healthz"),
            whole("GET /healthz/"),
            whole("GET /ws"),
            "GET /metrics HTTP/1.1\r\nHo".to_owned(),
            "GET /healthz HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
            "GET /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            "GET /healthz HTTP/1.1\r\nbad header\r\n\r\n".to_owned(),
            "\x16\x03\x01".to_owned(),
        ] {
            assert_eq!(requested(other.as_bytes()), Asked::SomethingElse, "{other:?}");
        }
    }
}
