//! How the API says that something was refused: as Centrifugo does, or by HTTP status.

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::State;
use crate::config::ErrorStyle;
use crate::protocol::{Refusal, server_error};

/// A result, or why there is none.
pub(super) type Outcome = Result<Value, Refusal>;

/// The style that a request is answered in: `X-Centrifugo-Error-Mode: transport` asks for HTTP statuses, another value for
/// Centrifugo's codes; without the header `publish.error_style` decides.
pub(super) fn asked(state: &State, headers: &HeaderMap) -> ErrorStyle {
    match headers.get("x-centrifugo-error-mode").map(|mode| mode.as_bytes()) {
        None => state.config.publish.error_style,
        Some(mode) if mode.eq_ignore_ascii_case(b"transport") => ErrorStyle::Http,
        Some(_) => ErrorStyle::Centrifugo,
    }
}

impl ErrorStyle {
    /// A refusal's status and body.
    pub(super) fn refused(self, refusal: &Refusal) -> (StatusCode, Value) {
        match self {
            Self::Centrifugo => {
                let (code, message) = server_error(refusal);
                (StatusCode::OK, json!({"error": {"code": code, "message": message}}))
            }
            Self::Http => {
                let status = match refusal.code {
                    Refusal::UNKNOWN_TOPIC => StatusCode::NOT_FOUND,
                    code => StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                };
                (status, json!({"error": {"code": status.as_u16(), "message": refusal.reason}}))
            }
        }
    }

    /// A refusal within an answer that has several.
    pub(super) fn error(self, refusal: &Refusal) -> Value {
        self.refused(refusal).1
    }

    /// The answer to one command.
    pub(super) fn answer(self, outcome: Outcome) -> Response {
        match outcome {
            Ok(result) => axum::Json(json!({"result": result})).into_response(),
            Err(refusal) => {
                let (status, body) = self.refused(&refusal);
                (status, axum::Json(body)).into_response()
            }
        }
    }
}
