//! From an HTTP request to a session: the opening handshake (RFC 6455 §4.2), and the hand-over to a
//! shard.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;

use crate::auth::{Identity, TokenError};
use crate::http::accept::handover::Handover;
use crate::http::accept::proxies;
use crate::http::addresses::Refused;
use crate::http::api::authorization;
use crate::http::failure::failure;
use crate::http::state::{Shared, State};
use crate::http::upgrade::{handshake, origin};
use crate::hub::{NewSession, NoRoom, Permit, Reservation};
use crate::metrics::UpgradeRefusal as Reason;
use crate::protocol::Dialect;
use crate::wire::negotiate::negotiate;
use crate::wire::tls::Tls;

/// The delay for a client that came too early or too often, in seconds; randomized so that not all
/// come back at once.
fn retry_after() -> HeaderValue {
    HeaderValue::from(rand::random_range(1..=5_u16))
}

/// The protocol that a handshake asks for.
#[derive(Clone, Copy)]
pub(in crate::http) struct Asked {
    dialect: Dialect,
    subprotocol: Option<&'static str>,
}

impl Asked {
    /// At `GET /ws`.
    pub(in crate::http) const PLAIN: Self = Self { dialect: Dialect::Plain, subprotocol: None };

    /// `GET /connection/websocket`; `?cf_protocol=protobuf` for clients that cannot name a
    /// subprotocol.
    pub(in crate::http) fn centrifuge(headers: &HeaderMap, query: Option<&str>) -> Self {
        let asked = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
        let mut asked = asked.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',').map(str::trim));
        // RFC 6455 §4.1: in the client's order of preference. A list with neither gets no
        // subprotocol.
        let subprotocol = asked.find_map(|name| [JSON, PROTOBUF].into_iter().find(|known| *known == name));
        let mut query = query.unwrap_or_default().split('&');
        let by_query = query.any(|pair| matches!(pair, "cf_protocol=protobuf" | "format=protobuf"));
        let dialect = match subprotocol {
            Some(PROTOBUF) => Dialect::CentrifugeProtobuf,
            None if by_query => Dialect::CentrifugeProtobuf,
            _ => Dialect::CentrifugeJson,
        };
        Self { dialect, subprotocol }
    }
}

/// `GET /ws`
pub(in crate::http) async fn plain(state: Shared, request: Request) -> Response {
    upgrade(state.0, request, Asked::PLAIN).await
}

/// `GET /connection/websocket`
pub(in crate::http) async fn centrifuge(state: Shared, request: Request) -> Response {
    let asked = Asked::centrifuge(request.headers(), request.uri().query());
    upgrade(state.0, request, asked).await
}

/// The subprotocol for Protobuf.
const PROTOBUF: &str = "centrifuge-protobuf";

/// The subprotocol for JSON, which is also the default.
const JSON: &str = "centrifuge-json";

/// The answer to the client's offer of permessage-deflate.
pub(in crate::http) fn negotiated(headers: &HeaderMap) -> Option<&'static str> {
    let offers = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter();
    // A value that is not ASCII is malformed, in any position.
    negotiate(offers.map(|value| value.to_str().unwrap_or_default()))
}

/// The answer to an opening handshake, or its refusal.
pub(in crate::http) fn accept(
    request: &http::Request<()>,
    deflate: Option<&'static str>,
    subprotocol: Option<&'static str>,
) -> Result<http::Response<()>, Box<Response>> {
    let mut response = handshake::answer(request).map_err(|(status, reason)| {
        let mut response = failure(status, format!("not a WebSocket handshake: {reason}"));
        let told = response.headers_mut();
        match status {
            StatusCode::METHOD_NOT_ALLOWED => drop(told.insert(header::ALLOW, HeaderValue::from_static("GET"))),
            StatusCode::UPGRADE_REQUIRED => {
                told.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
                told.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                told.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            _ => {}
        }
        Box::new(response)
    })?;
    let chosen = [(header::SEC_WEBSOCKET_EXTENSIONS, deflate), (header::SEC_WEBSOCKET_PROTOCOL, subprotocol)];
    for (name, value) in chosen.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// A refused handshake: the reason for the metric, and the answer.
type Refusal = (Reason, Box<Response>);

fn refusal(reason: Reason, status: StatusCode, message: &str) -> Refusal {
    let mut response = failure(status, message);
    // Closes a refused connection, so that the next one gets its slot.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(header::RETRY_AFTER, retry_after());
    }
    (reason, Box::new(response))
}

/// A valid handshake, before its token and its address's limits are checked.
pub(in crate::http) struct Handshake {
    dialect: Dialect,
    deflate: bool,
    /// The answer, 101.
    pub(in crate::http) response: http::Response<()>,
}

/// Checks a handshake.
pub(in crate::http) fn look(state: &State, request: &http::Request<()>, asked: Asked) -> Result<Handshake, Refusal> {
    if state.readiness.is_draining() {
        return Err(refusal(Reason::Draining, StatusCode::SERVICE_UNAVAILABLE, "this server is shutting down"));
    }
    if !state.readiness.is_loaded() {
        let message = "this server is still loading its sources";
        return Err(refusal(Reason::Starting, StatusCode::SERVICE_UNAVAILABLE, message));
    }
    let headers = request.headers();
    let host = headers.get(header::HOST).and_then(|host: &HeaderValue| host.to_str().ok());
    // There may be several tokens, and each must be allowed.
    let allowed = |o: &HeaderValue| o.to_str().is_ok_and(|o| origin::allowed(o, host, &state.config.access.origins));
    if !headers.get_all(header::ORIGIN).iter().all(allowed) {
        return Err(refusal(Reason::Origin, StatusCode::FORBIDDEN, "this Origin is not allowed (access.origins)"));
    }
    let deflate = match state.config.server.compression {
        true => negotiated(headers),
        false => None,
    };
    let response = accept(request, deflate, asked.subprotocol).map_err(|refused| (Reason::Handshake, refused))?;
    Ok(Handshake { dialect: asked.dialect, deflate: deflate.is_some(), response })
}

/// What an admitted client has until its session ends.
pub(in crate::http) struct Admission {
    reservation: Reservation,
    permit: Option<Box<dyn Permit>>,
}

/// Admits a client that the handshake identifies: if there is room, and its address is within its
/// limits.
pub(in crate::http) fn admit(state: &State, client: IpAddr, identity: Option<&Identity>) -> Result<Admission, Refusal> {
    let reservation = state.hub.reserve(identity.is_some()).map_err(|no_room| {
        let (reason, message) = match no_room {
            NoRoom::Full => (Reason::Full, "this server is full"),
            NoRoom::Tokenless => {
                let message = "this server holds as many sessions without a token as it may (limits.tokenless_share): \
                               come later, or with `Authorization: Bearer …`";
                (Reason::Tokenless, message)
            }
        };
        refusal(reason, StatusCode::SERVICE_UNAVAILABLE, message)
    })?;
    let is_user = identity.is_some_and(|identity| !identity.user.is_empty());
    let too_many = |reason, message| refusal(reason, StatusCode::TOO_MANY_REQUESTS, message);
    let permit = state.clients.addresses.admit(client, is_user).map_err(|refused| match refused {
        Refused::TooMany => too_many(Reason::AddressSessions, "too many sessions from this address"),
        Refused::TooFast => too_many(Reason::AddressRate, "too many new sessions from this address"),
    })?;
    Ok(Admission { reservation, permit })
}

/// An admitted client, without its socket.
pub(in crate::http) struct Admitted {
    dialect: Dialect,
    deflate: bool,
    identity: Option<Identity>,
    admission: Admission,
}

impl Admitted {
    pub(in crate::http) fn new(handshake: &Handshake, identity: Option<Identity>, admission: Admission) -> Self {
        Self { dialect: handshake.dialect, deflate: handshake.deflate, identity, admission }
    }

    /// The answer is written: a shard takes over, with the bytes after the handshake.
    pub(in crate::http) fn place(
        self,
        state: &State,
        socket: std::net::TcpStream,
        tls: Option<Box<Tls>>,
        early: Bytes,
    ) {
        let Self { dialect, deflate, identity, admission: Admission { reservation, permit } } = self;
        state.metrics.upgrades.inc();
        state.hub.place(Box::new(NewSession { socket, tls, dialect, deflate, early, identity, permit, reservation }));
    }
}

async fn upgrade(state: Arc<State>, request: Request, asked: Asked) -> Response {
    let connected = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let client = connected.map(|peer| proxies::client(peer, request.headers(), &state.config.server));
    try_upgrade(&state, request, client, asked).await.unwrap_or_else(|(reason, response)| {
        state.metrics.refused_upgrade(reason);
        tracing::debug!(
            client = client.map(tracing::field::display),
            reason = reason.label(),
            "an upgrade was refused"
        );
        *response
    })
}

async fn try_upgrade(
    state: &Arc<State>,
    request: Request,
    client: Option<IpAddr>,
    asked: Asked,
) -> Result<Response, Refusal> {
    let request = request.map(|_| ());
    let handshake = look(state, &request, asked)?;
    let identity = identified(state, client, request.headers()).await?;
    let (Some(client), Some(handover)) = (client, request.extensions().get::<Handover>()) else {
        let message = "this connection cannot be upgraded";
        return Err(refusal(Reason::Handshake, StatusCode::INTERNAL_SERVER_ERROR, message));
    };
    let admitted = {
        let admission = admit(state, client, identity.as_ref())?;
        Admitted::new(&handshake, identity, admission)
    };
    let state = state.clone();
    handover.to(move |transport, early| {
        if let Ok((socket, tls, opened)) = transport.into_parts() {
            let early = if opened.is_empty() { early } else { [&early[..], &opened].concat().into() };
            admitted.place(&state, socket, tls, early);
        }
    });
    Ok(handshake.response.map(|()| Body::empty()))
}

/// The identity in the request's token, if it carries one, with a seat among its user's sessions.
async fn identified(state: &State, client: Option<IpAddr>, headers: &HeaderMap) -> Result<Option<Identity>, Refusal> {
    let refused = |error: TokenError| {
        let status = authorization::status(&error);
        let reason = match (&error, status) {
            (TokenError::TooManySessions(_), _) => Reason::UserSessions,
            (TokenError::TooManyFailures, _) => Reason::TokenFailures,
            (TokenError::KeysAwaited, _) => Reason::Keys,
            (_, StatusCode::SERVICE_UNAVAILABLE) => Reason::TokenUnverified,
            _ => Reason::Token,
        };
        let (reason, mut response) = refusal(reason, status, &error.to_string());
        if status == StatusCode::UNAUTHORIZED {
            authorization::wants_bearer(&mut response);
        }
        (reason, response)
    };
    let Some(mut identity) = authorization::identity(state, client, headers).await.map_err(refused)? else {
        return Ok(None);
    };
    state.clients.users.seat(&mut identity, None).map_err(refused)?;
    Ok(Some(identity))
}
