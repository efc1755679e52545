//! The `Authorization` header (RFC 9110 §11.6.2, RFC 6750 §2.1), and who shows a token in it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;

use super::{State, addresses, failure, proxies};
use crate::auth::{Identity, TokenError};

/// Whose token it is, if the request shows one. Tokens that fail count against the client's address.
///
/// # Errors
/// Why there is none, though the request shows something.
pub(super) async fn identity(
    state: &State,
    client: Option<IpAddr>,
    headers: &HeaderMap,
) -> Result<Option<Identity>, TokenError> {
    let Some(token) = bearer(headers).map_err(|reason| TokenError::Invalid(reason.to_owned()))? else {
        return Ok(None);
    };
    // Requests whose address is not known share one.
    let address = client.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), addresses::counted);
    state.verifier.verify(address, token).await.map(Some)
}

/// The address of a request's client.
pub(super) fn client(state: &State, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip())?;
    Some(proxies::client(peer, headers, &state.config.server))
}

/// The status of a refusal for its token.
pub(super) fn status(error: &TokenError) -> StatusCode {
    match error {
        TokenError::TooManyFailures | TokenError::TooManySessions(_) => StatusCode::TOO_MANY_REQUESTS,
        error if error.is_temporary() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::UNAUTHORIZED,
    }
}

/// The answer to a request for its token. It says which scheme is wanted (RFC 9110 §15.5.2), or when to come again.
pub(super) fn refused(error: &TokenError) -> Response {
    let status = status(error);
    let mut response = failure(status, error.to_string());
    match status {
        StatusCode::UNAUTHORIZED => wants_bearer(&mut response),
        _ => drop(response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"))),
    }
    response
}

/// The answer to a request that needs a token and shows none.
pub(super) fn no_token() -> Response {
    let mut response = failure(StatusCode::UNAUTHORIZED, "a token is needed: Authorization: Bearer …");
    wants_bearer(&mut response);
    response
}

/// Says that a token is wanted.
pub(super) fn wants_bearer(response: &mut Response) {
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
}

/// The token of `Authorization: Bearer …`, the scheme in any case; `None` if there is no such header.
///
/// # Errors
/// What is wrong with a header that is there. It is never passed over: its client means to be known.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, &'static str> {
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
