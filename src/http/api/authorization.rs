//! The `Authorization` header (RFC 9110 §11.6.2, RFC 6750 §2.1) and the user whose token it
//! carries.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;

use crate::auth::{Denied, Identity, TokenError, may_have};
use crate::http::accept::proxies;
use crate::http::addresses;
use crate::http::failure::failure;
use crate::http::state::State;
use crate::name::TopicName;

/// The identity in the request's token, if it carries one. Failed tokens count against the client's
/// address.
///
/// # Errors
/// Why the token or header was refused.
pub(in crate::http) async fn identity(
    state: &State,
    client: Option<IpAddr>,
    headers: &HeaderMap,
) -> Result<Option<Identity>, TokenError> {
    let Some(token) = bearer(headers).map_err(|reason| TokenError::Invalid(reason.to_owned()))? else {
        return Ok(None);
    };
    // Requests without a known address share one.
    let address = client.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), addresses::counted);
    state.clients.verifier.verify(address, token).await.map(Some)
}

/// The address of a request's client.
pub(in crate::http) fn client(state: &State, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip())?;
    Some(proxies::client(peer, headers, &state.config.server))
}

/// The status for a refused token.
pub(in crate::http) fn status(error: &TokenError) -> StatusCode {
    match error {
        TokenError::TooManyFailures | TokenError::TooManySessions(_) => StatusCode::TOO_MANY_REQUESTS,
        error if error.is_temporary() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::UNAUTHORIZED,
    }
}

/// The answer to a request with a refused token. It names the scheme (RFC 9110 §15.5.2) or the time
/// to retry after.
pub(in crate::http) fn refused(error: &TokenError) -> Response {
    let status = status(error);
    let mut response = failure(status, error.to_string());
    match status {
        StatusCode::UNAUTHORIZED => wants_bearer(&mut response),
        _ => drop(response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"))),
    }
    response
}

/// The answer to a request that needs a token and carries none.
pub(in crate::http) fn no_token() -> Response {
    let mut response = failure(StatusCode::UNAUTHORIZED, "a token is needed: Authorization: Bearer …");
    wants_bearer(&mut response);
    response
}

/// Adds the header that asks for a token.
pub(in crate::http) fn wants_bearer(response: &mut Response) {
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
}

/// The token of `Authorization: Bearer …`; the scheme's case does not matter. `None` without such a
/// header.
///
/// # Errors
/// The fault of a header that is present. It is never ignored: its client means to be
/// identified.
pub(in crate::http) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, &'static str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err("Authorization is there more than once; send it once, as `Bearer TOKEN`");
    }
    let malformed = "Authorization must be `Bearer TOKEN`, with a token of visible ASCII characters";
    let (scheme, token) = value.to_str().map_err(|_| malformed)?.split_once(' ').ok_or(malformed)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err("Authorization has another scheme than Bearer, the only one here; send `Bearer TOKEN`");
    }
    let token = token.trim_matches(' ');
    match token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        true => Err(malformed),
        false => Ok(Some(token)),
    }
}

/// The client of a request, by its token.
pub(in crate::http) async fn reader(
    state: &crate::http::state::State,
    client: Option<IpAddr>,
    headers: &HeaderMap,
) -> Result<Option<Identity>, Box<Response>> {
    match identity(state, client, headers).await {
        Ok(identity) => Ok(identity),
        // If no token is needed, an invalid one does no harm; a malformed header is still an error.
        Err(_) if state.config.access.anonymous && bearer(headers).is_ok() => Ok(None),
        Err(error) => Err(Box::new(refused(&error))),
    }
}

/// Whether REST may show a topic: the same topics that the client may subscribe to.
pub(in crate::http) fn may_read(
    state: &crate::http::state::State,
    reader: Option<&Identity>,
    topic: &TopicName,
) -> Result<(), (StatusCode, String)> {
    let no_token = || (StatusCode::UNAUTHORIZED, "a token is needed: Authorization: Bearer …".to_owned());
    may_have(&state.config, reader, topic).map_err(|denied| match denied {
        Denied::NoToken => no_token(),
        // An unidentified client gets the same answer for a closed namespace as for none.
        Denied::UnknownNamespace if reader.is_none() && state.config.access.has_keys() => no_token(),
        Denied::UnknownNamespace => (StatusCode::NOT_FOUND, denied.to_string()),
        _ => (StatusCode::FORBIDDEN, denied.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<Option<String>, &'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        bearer(&headers).map(|token| token.map(str::to_owned))
    }

    #[test]
    fn the_scheme_is_read_in_any_case_and_no_other_is_passed_over() {
        assert_eq!(read(&[]), Ok(None));
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c", "bEaReR   a.b.c"] {
            assert_eq!(read(&[value]), Ok(Some("a.b.c".to_owned())), "{value}");
        }
        for value in ["", "Bearer", "bearer ", "Bearer a b", "Basic dTpw", "a.b.c", "Bearer\ta", "Bearera", "Bearer: a"]
        {
            assert!(read(&[value]).is_err(), "{value}");
        }
        assert!(read(&["Bearer a", "Bearer a"]).is_err());
    }
}
