//! From an HTTP request to a session: the opening handshake (RFC 6455 §4.2), and the hand-over to a shard.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use tokio_tungstenite::tungstenite::handshake::server::create_response;

use super::addresses::Refused;
use super::handover::Handover;
use super::{Shared, State, failure, origin};
use crate::auth::Identity;
use crate::hub::NewSession;
use crate::protocol::Dialect;
use crate::wire::negotiate::negotiate;

/// What a client that came too early, or too often, should wait, in seconds; spread so that not all come back at once.
fn retry_after() -> HeaderValue {
    HeaderValue::from(rand::random_range(1..=5_u16))
}

/// `GET /ws`
pub(super) async fn plain(state: Shared, request: Request) -> Response {
    upgrade(state.0, request, Dialect::Plain, None).await
}

/// The subprotocol that asks for Protobuf.
const PROTOBUF: &str = "centrifuge-protobuf";

/// `GET /connection/websocket`; `?cf_protocol=protobuf` where a subprotocol cannot be asked for.
pub(super) async fn centrifuge(state: Shared, request: Request) -> Response {
    let asked = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let mut asked = asked.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',').map(str::trim));
    let subprotocol = asked.any(|name| name == PROTOBUF).then_some(PROTOBUF);
    let query = request.uri().query().unwrap_or_default();
    let by_query = query.split('&').any(|pair| matches!(pair, "cf_protocol=protobuf" | "format=protobuf"));
    let dialect = match subprotocol.is_some() || by_query {
        true => Dialect::CentrifugeProtobuf,
        false => Dialect::CentrifugeJson,
    };
    upgrade(state.0, request, dialect, subprotocol).await
}

/// The answer to what the client offers of permessage-deflate.
pub(super) fn negotiated(headers: &HeaderMap) -> Option<&'static str> {
    let offers = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter();
    // A value that is not ASCII is malformed, wherever it stands.
    negotiate(offers.map(|value| value.to_str().unwrap_or_default()))
}

/// The answer to an opening handshake: checks version, key and upgrade headers, and derives `Sec-WebSocket-Accept`.
pub(super) fn accept(
    request: Request,
    deflate: Option<&'static str>,
    subprotocol: Option<&'static str>,
) -> Result<(Request, axum::http::Response<()>), Box<Response>> {
    let (parts, body) = request.into_parts();
    let handshake = axum::http::Request::from_parts(parts, ());
    let mut response = create_response(&handshake).map_err(|error| {
        let mut response = failure(StatusCode::UPGRADE_REQUIRED, format!("not a WebSocket handshake: {error}"));
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        Box::new(response)
    })?;
    let chosen = [(header::SEC_WEBSOCKET_EXTENSIONS, deflate), (header::SEC_WEBSOCKET_PROTOCOL, subprotocol)];
    for (name, value) in chosen.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok((Request::from_parts(handshake.into_parts().0, body), response))
}

async fn upgrade(state: Arc<State>, request: Request, dialect: Dialect, subprotocol: Option<&'static str>) -> Response {
    let refuse = |reason: &'static str, status: StatusCode, message: &str| {
        state.metrics.refused_upgrade(reason);
        let mut response = failure(status, message);
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(header::RETRY_AFTER, retry_after());
        }
        response
    };
    if state.is_draining() {
        return refuse("draining", StatusCode::SERVICE_UNAVAILABLE, "this server is shutting down");
    }
    if !state.is_loaded() {
        return refuse(
            "starting",
            StatusCode::SERVICE_UNAVAILABLE,
            "this server is still reading what its sources hold",
        );
    }
    let headers = request.headers();
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    if !origin::allowed(text(header::ORIGIN), text(header::HOST), &state.config.access.origins) {
        return refuse("origin", StatusCode::FORBIDDEN, "this Origin is not allowed (access.origins)");
    }
    let deflate = match state.config.server.compression {
        true => negotiated(headers),
        false => None,
    };
    let bearer = text(header::AUTHORIZATION).and_then(|v| v.strip_prefix("Bearer ")).map(str::to_owned);
    let (request, response) = match accept(request, deflate, subprotocol) {
        Ok(accepted) => accepted,
        Err(refused) => {
            state.metrics.refused_upgrade("handshake");
            return *refused;
        }
    };
    let identity: Option<Identity> = match bearer {
        None => None,
        Some(token) => match state.tokens.verify(&token).await {
            Ok(identity) => Some(identity),
            Err(error) => {
                state.metrics.tokens_refused.inc();
                return refuse("token", StatusCode::UNAUTHORIZED, &error.to_string());
            }
        },
    };
    if state.hub.sessions() >= state.hub.sessions_max() {
        return refuse("full", StatusCode::SERVICE_UNAVAILABLE, "this server holds as many sessions as it can");
    }
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let permit = match peer.map(|peer| state.addresses.admit(peer.ip())) {
        None => None,
        Some(Ok(permit)) => permit,
        Some(Err(Refused::TooMany)) => {
            return refuse("address_sessions", StatusCode::TOO_MANY_REQUESTS, "too many sessions from this address");
        }
        Some(Err(Refused::TooFast)) => {
            return refuse("address_rate", StatusCode::TOO_MANY_REQUESTS, "too many new sessions from this address");
        }
    };
    let Some(handover) = request.extensions().get::<Handover>() else {
        return refuse("handshake", StatusCode::INTERNAL_SERVER_ERROR, "this connection cannot be upgraded");
    };
    let state = state.clone();
    handover.to(move |socket, early| {
        let Ok(socket) = socket.into_std() else { return };
        let deflate = deflate.is_some();
        let session = NewSession { socket, dialect, deflate, early, identity, permit };
        match state.hub.place(Box::new(session)) {
            Ok(()) => {
                state.metrics.upgrades.inc();
            }
            // Filled up between the check and now: the socket closes.
            Err(_) => state.metrics.refused_upgrade("full"),
        }
    });
    response.map(|()| Body::empty())
}
