//! The opening handshake (RFC 6455 §4.2): the required headers, and the answer if one is missing.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::http::accept::normalize::has_body;

/// Bytes of `Sec-WebSocket-Key` once it is decoded.
const KEY_BYTES: usize = 16;

/// Why a request is not an opening handshake: the status and the message.
pub(in crate::http) type NoHandshake = (StatusCode, &'static str);

/// The answer, 101, to a valid handshake.
///
/// # Errors
/// 405 for a method other than GET, 426 for a request that does not ask for WebSocket version 13,
/// 400 for one that asks for it and is malformed.
pub(in crate::http) fn answer<B>(request: &Request<B>) -> Result<Response<()>, NoHandshake> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "the method is not GET"));
    }
    if request.version() < Version::HTTP_11 {
        return Err((StatusCode::UPGRADE_REQUIRED, "HTTP/1.0 has no upgrade"));
    }
    if !lists(headers, &header::CONNECTION, "upgrade") {
        return Err((StatusCode::UPGRADE_REQUIRED, "Connection does not say `Upgrade`"));
    }
    if !lists(headers, &header::UPGRADE, "websocket") {
        return Err((StatusCode::UPGRADE_REQUIRED, "Upgrade does not say `websocket`"));
    }
    match only(headers, &header::SEC_WEBSOCKET_VERSION) {
        Ok(Some(version)) if version == "13" => {}
        Ok(_) => return Err((StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version is not 13")),
        Err(TwoOrMore) => return Err((StatusCode::BAD_REQUEST, "there is more than one Sec-WebSocket-Version")),
    }
    let key = match only(headers, &header::SEC_WEBSOCKET_KEY) {
        Ok(Some(key)) if is_key(key) => key,
        Ok(Some(_)) => return Err((StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is not 16 bytes in base64")),
        Ok(None) => return Err((StatusCode::BAD_REQUEST, "there is no Sec-WebSocket-Key")),
        Err(TwoOrMore) => return Err((StatusCode::BAD_REQUEST, "there is more than one Sec-WebSocket-Key")),
    };
    // A body would be read as the first frames, or the first frames as a body.
    if has_body(headers) {
        return Err((StatusCode::BAD_REQUEST, "a handshake has no body"));
    }
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()));
    let accept = accept.map_err(|_| (StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is not 16 bytes in base64"))?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answered = response.headers_mut();
    answered.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answered.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answered.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

struct TwoOrMore;

/// A header that must not occur twice (RFC 6455 §11.3).
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, TwoOrMore> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(TwoOrMore),
        (one, None) => Ok(one),
    }
}

/// Whether a list header, on however many lines, contains this item; case does not matter.
fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|token| token.trim().eq_ignore_ascii_case(wanted))
}

fn is_key(key: &HeaderValue) -> bool {
    let mut bytes = [0; KEY_BYTES + 2];
    key.len() == 24 && STANDARD.decode_slice(key.as_bytes(), &mut bytes) == Ok(KEY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    /// A complete handshake without the headers of these names, and with these.
    fn status(without: &str, with: &[(&str, &str)]) -> u16 {
        let whole = [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ];
        let headers = whole.iter().filter(|(name, _)| *name != without).chain(with);
        let request = headers.fold(Request::get("/ws"), |request, (name, value)| request.header(*name, *value));
        match answer(&request.body(()).unwrap()) {
            Ok(response) => response.status().as_u16(),
            Err((status, _)) => status.as_u16(),
        }
    }

    #[test]
    fn what_is_taken_and_what_is_answered_to_the_rest() {
        let (upgrade, connection) = ("upgrade", "connection");
        let (version, key) = ("sec-websocket-version", "sec-websocket-key");
        for (without, with, expected) in [
            ("", &[][..], 101),
            (upgrade, &[(upgrade, "WebSocket")], 101),
            (upgrade, &[(upgrade, "h2c, websocket")], 101),
            (connection, &[(connection, "keep-alive"), (connection, "x ,upgrade")], 101),
            ("", &[("content-length", "0")], 101),
            (upgrade, &[], 426),
            (upgrade, &[(upgrade, "websockets")], 426),
            (upgrade, &[(upgrade, "h2c")], 426),
            (connection, &[], 426),
            (connection, &[(connection, "keep-alive")], 426),
            (connection, &[(connection, "upgraded")], 426),
            (version, &[], 426),
            (version, &[(version, "8")], 426),
            (version, &[(version, "13, 8")], 426),
            ("", &[(version, "13")], 400),
            (key, &[], 400),
            ("", &[(key, KEY)], 400),
            (key, &[(key, "")], 400),
            (key, &[(key, "dGhlIHNhbXBsZSBub25jZQ")], 400),
            (key, &[(key, "c2hvcnQ=")], 400),
            (key, &[(key, "dGhlIHNhbXBsZSBub25jZSBpcyBsb25n")], 400),
            (key, &[(key, "dGhlIHNhbXBsZSBub25jZ===")], 400),
            (key, &[(key, "!!!!!!!!!!!!!!!!!!!!!!==")], 400),
            ("", &[("content-length", "5")], 400),
            ("", &[("transfer-encoding", "chunked")], 400),
        ] {
            assert_eq!(status(without, with), expected, "without {without:?}, with {with:?}");
        }
        let post = Request::post("/ws").body(()).unwrap();
        assert_eq!(answer(&post).unwrap_err().0, StatusCode::METHOD_NOT_ALLOWED);
        let old = Request::get("/ws").version(Version::HTTP_10).body(()).unwrap();
        assert_eq!(answer(&old).unwrap_err().0, StatusCode::UPGRADE_REQUIRED);
    }

    #[test]
    fn the_example_of_the_rfc() {
        let request = Request::get("/chat").header("upgrade", "websocket").header("connection", "Upgrade");
        let request = request.header("sec-websocket-version", "13").header("sec-websocket-key", KEY).body(()).unwrap();
        let response = answer(&request).unwrap();
        assert_eq!(response.headers()[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
