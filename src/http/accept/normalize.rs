//! Refuses ambiguous requests: a proxy in front of this server and the server itself must agree on
//! where a request ends and on which host it is for.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};

/// Why a request is refused: the status and the message.
pub(in crate::http) type Ambiguous = (StatusCode, &'static str);

/// Checks what the HTTP parser leaves open, and sets `Host` to the host that the request is for.
pub(in crate::http) fn request<B>(request: &mut Request<B>) -> Result<(), Ambiguous> {
    let version = request.version();
    host(request.headers(), version)?;
    coding(request.headers())?;
    // RFC 9112 §3.2.2: an absolute target takes precedence over the header.
    if let Some(authority) = request.uri().authority().filter(|_| request.method() != Method::CONNECT) {
        let bad = (StatusCode::BAD_REQUEST, "the target's host is not host[:port]");
        let host = Some(authority.as_str()).filter(|host| is_host(host.as_bytes()));
        let host = host.and_then(|host| HeaderValue::from_str(host).ok()).ok_or(bad)?;
        request.headers_mut().insert(header::HOST, host);
    }
    Ok(())
}

/// Exactly one host (RFC 9112 §3.2); before HTTP/1.1 it may be missing.
fn host(headers: &HeaderMap, version: Version) -> Result<(), Ambiguous> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => Err((StatusCode::BAD_REQUEST, "there is more than one Host header")),
        (Some(host), None) if !is_host(host.as_bytes()) => {
            Err((StatusCode::BAD_REQUEST, "the Host header is not host[:port]"))
        }
        (None, _) if version >= Version::HTTP_11 => {
            Err((StatusCode::BAD_REQUEST, "there is no Host header; HTTP/1.1 requires one"))
        }
        _ => Ok(()),
    }
}

/// `host[:port]` and nothing else.
fn is_host(text: &[u8]) -> bool {
    Authority::try_from(text).is_ok_and(|authority| {
        let host = authority.host();
        !host.is_empty()
            && (authority.as_str() == host
                || authority.port_u16().is_some_and(|_| authority.as_str().starts_with(host)))
    })
}

/// Only `chunked` is supported (RFC 9112 §6.1). The parser would silently accept other codings
/// before it.
fn coding(headers: &HeaderMap) -> Result<(), Ambiguous> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err((StatusCode::NOT_IMPLEMENTED, "Transfer-Encoding is not `chunked` alone")),
    }
}

/// Whether a body follows the head.
pub(in crate::http) fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
        || headers
            .get_all(header::CONTENT_LENGTH)
            .iter()
            .any(|length| length.as_bytes().iter().any(|&digit| digit != b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(target: &str, version: Version, headers: &[(&str, &str)]) -> Result<String, u16> {
        let mut request = Request::builder().uri(target).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        crate::http::accept::normalize::request(&mut request).map_err(|(status, _)| status.as_u16())?;
        Ok(request.headers().get(header::HOST).map(|host| host.to_str().unwrap().to_owned()).unwrap_or_default())
    }

    #[test]
    fn one_host_and_no_other() {
        let (v10, v11) = (Version::HTTP_10, Version::HTTP_11);
        for (target, version, hosts, expected) in [
            ("/", v11, &["a"][..], Ok("a")),
            ("/", v11, &["a.example:8000"], Ok("a.example:8000")),
            ("/", v11, &["[::1]:8000"], Ok("[::1]:8000")),
            ("/", v11, &["127.0.0.1"], Ok("127.0.0.1")),
            ("/", v11, &[], Err(400)),
            ("/", v10, &[], Ok("")),
            ("/", v11, &["a", "a"], Err(400)),
            ("/", v10, &["a", "b"], Err(400)),
            ("/", v11, &[""], Err(400)),
            ("/", v11, &["user@a"], Err(400)),
            ("/", v11, &["a b"], Err(400)),
            ("/", v11, &["a/b"], Err(400)),
            ("/", v11, &["a, b"], Err(400)),
            ("/", v11, &["a:port"], Err(400)),
            ("/", v11, &["a:65536"], Err(400)),
            ("http://b.example/x", v11, &["a"], Ok("b.example")),
            ("http://b.example:1/x", v11, &["a"], Ok("b.example:1")),
            ("http://user@b.example/x", v11, &["a"], Err(400)),
            ("http://b.example/x", v11, &[], Err(400)),
        ] {
            let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            assert_eq!(
                settled(target, version, &headers),
                expected.map(str::to_owned),
                "{target} {version:?} {hosts:?}"
            );
        }
    }

    #[test]
    fn chunked_alone_is_a_coding_and_bodies_are_seen() {
        for (codings, expected) in [
            (&[][..], Ok("a")),
            (&["chunked"], Ok("a")),
            (&["Chunked"], Ok("a")),
            (&["gzip, chunked"], Err(501)),
            (&["identity", "chunked"], Err(501)),
            (&["chunked", "chunked"], Err(501)),
        ] {
            let headers: Vec<_> = codings.iter().map(|c| ("transfer-encoding", *c)).chain([("host", "a")]).collect();
            assert_eq!(settled("/", Version::HTTP_11, &headers), expected.map(str::to_owned), "{codings:?}");
        }
        for (name, value, expected) in [
            ("content-length", "0", false),
            ("content-length", "000", false),
            ("content-length", "5", true),
            ("transfer-encoding", "chunked", true),
            ("x", "5", false),
        ] {
            let request = Request::builder().header(name, value).body(()).unwrap();
            assert_eq!(has_body(request.headers()), expected, "{name}: {value}");
        }
    }
}
