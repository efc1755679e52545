//! Pages of other origins may read topics over REST (the Fetch standard's CORS protocol) if they
//! may open a socket (`access.origins`). Publishing stays closed to pages: this module does not
//! apply to it.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::config::Config;
use crate::http::failure::failure;
use crate::http::state::Of;
use crate::http::upgrade::origin;

/// Headers of a request that a page may set.
const REQUEST_HEADERS: &str = "authorization, if-none-match";

/// Headers of an answer that a page may read, beside the default ones.
const ANSWER_HEADERS: &str = "etag, retry-after";

/// Time for which a browser may cache a preflight, in seconds.
const MAX_AGE: &str = "600";

/// The value of `Access-Control-Allow-Origin` for this request; `None` for a page that may not
/// read, and without `Origin`.
fn allowed(config: &Config, headers: &HeaderMap) -> Option<HeaderValue> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let (Some(origin), None) = (origins.next(), origins.next()) else { return None };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let allowed = origin::allowed(origin.to_str().ok()?, host, &config.access.origins);
    allowed.then(|| origin.clone())
}

/// Adds the CORS headers to an answer, whatever its status.
pub(in crate::http) async fn readable(config: Of<Config>, request: Request, next: Next) -> Response {
    let origin = allowed(&config, request.headers());
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    // A cache must not serve one page's answer to another.
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(ANSWER_HEADERS));
    }
    response
}

/// `OPTIONS` of readable paths: whether a page may send the request that it announces.
pub(in crate::http) async fn preflight(config: Of<Config>, headers: HeaderMap) -> Response {
    let allow = [(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"))];
    let Some(wanted) = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD) else {
        return (StatusCode::NO_CONTENT, allow).into_response();
    };
    if allowed(&config, &headers).is_none() {
        return failure(StatusCode::FORBIDDEN, "this Origin is not allowed (access.origins)");
    }
    if ![Method::GET, Method::HEAD].iter().any(|method| wanted.as_bytes() == method.as_str().as_bytes()) {
        return failure(StatusCode::FORBIDDEN, "pages of other origins may read: GET and HEAD");
    }
    let told = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ];
    (StatusCode::NO_CONTENT, allow, told.map(|(name, value)| (name, HeaderValue::from_static(value)))).into_response()
}
