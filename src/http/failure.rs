//! Errors as JSON, and the answers to requests that no route takes.

use std::time::Duration;

use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use crate::http::api::members::shown;

/// An error as JSON.
pub(in crate::http) fn failure(status: StatusCode, reason: impl Into<String>) -> Response {
    (status, axum::Json(json!({"error": {"code": status.as_u16(), "message": reason.into()}}))).into_response()
}

/// An error as JSON with `Retry-After`: `wait`, in whole seconds.
pub(in crate::http) fn failure_for(wait: Duration, status: StatusCode, reason: impl Into<String>) -> Response {
    let mut response = failure(status, reason);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().saturating_add(1)));
    response
}

/// The answer to a method that a path does not have. The router sets `Allow`.
pub(in crate::http) async fn other_method(method: Method) -> Response {
    let method = shown(method.as_str());
    failure(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not a method of this path; Allow lists those that are"),
    )
}

pub(in crate::http) async fn nothing_here() -> Response {
    failure(StatusCode::NOT_FOUND, "there is nothing at this path; see docs/protocol.md")
}
