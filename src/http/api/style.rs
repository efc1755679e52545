//! The form of the API's refusals: Centrifugo's codes, or HTTP statuses.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::config::ErrorStyle;
use crate::http::state::State;
use crate::protocol::{Refusal, server_error};
use crate::source::refusals;

/// A result as JSON text, or its refusal.
pub(in crate::http) type Outcome = Result<Box<RawValue>, Refusal>;

/// Serializes a result. Texts of publishers and clients are inserted as [`RawValue`], byte for
/// byte.
pub(in crate::http) fn written(result: &impl Serialize) -> Outcome {
    to_raw_value(result).map_err(|error| Refusal::new(500, format!("the answer cannot be written: {error}")))
}

/// One of several replies.
#[derive(Serialize)]
#[serde(untagged)]
pub(in crate::http) enum Reply<'a> {
    /// A result under the given name.
    Result(BTreeMap<&'a str, &'a RawValue>),
    Error(Value),
}

impl<'a> Reply<'a> {
    pub(in crate::http) fn new(name: &'a str, outcome: &'a Outcome, style: ErrorStyle) -> Self {
        match outcome {
            Ok(result) => Self::Result(BTreeMap::from([(name, &**result)])),
            Err(refusal) => Self::Error(style.error(refusal)),
        }
    }
}

/// The style of a request's answer: `X-Centrifugo-Error-Mode: transport` asks for HTTP statuses,
/// another value for Centrifugo's codes. Without the header, `publish.error_style` decides.
pub(in crate::http) fn asked(state: &State, headers: &HeaderMap) -> ErrorStyle {
    match headers.get("x-centrifugo-error-mode").map(|mode| mode.as_bytes()) {
        None => state.config.publish.error_style,
        Some(mode) if mode.eq_ignore_ascii_case(b"transport") => ErrorStyle::Http,
        Some(_) => ErrorStyle::Centrifugo,
    }
}

/// An error's body. For a faulty delta it names the reason, as metrics and logs do, and the remedy.
fn body(code: u32, message: &str, refusal: &Refusal) -> Value {
    let mut error = json!({"code": code, "message": message});
    if let (Some(advice), Some(members)) = (&refusal.advice, error.as_object_mut()) {
        members.insert("reason".to_owned(), advice.label.into());
        members.insert("remedy".to_owned(), advice.remedy.as_str().into());
    }
    json!({"error": error})
}

impl ErrorStyle {
    /// A refusal's status and body.
    pub(in crate::http) fn refused(self, refusal: &Refusal) -> (StatusCode, Value) {
        match self {
            Self::Centrifugo => {
                let (code, message) = server_error(refusal);
                (StatusCode::OK, body(code, &message, refusal))
            }
            Self::Http => {
                let status = match refusal.code {
                    Refusal::UNKNOWN_TOPIC => StatusCode::NOT_FOUND,
                    code => StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                };
                (status, body(status.as_u16().into(), &refusal.reason, refusal))
            }
        }
    }

    /// A refusal within an answer with several replies.
    pub(in crate::http) fn error(self, refusal: &Refusal) -> Value {
        self.refused(refusal).1
    }

    /// The answer to one command.
    pub(in crate::http) fn answer(self, outcome: Outcome) -> Response {
        match outcome {
            Ok(_) => axum::Json(Reply::new("result", &outcome, self)).into_response(),
            Err(refusal) => {
                let (status, body) = self.refused(&refusal);
                (status, axum::Json(body)).into_response()
            }
        }
    }
}

/// The refusal of a delta, in the words of the log and of `nexus-push publish`.
pub(in crate::http) fn told(code: u16, refusal: &refusals::Refusal) -> Refusal {
    let refusals::Refusal { reason, text, remedy, .. } = refusal;
    Refusal::new(code, format!("{text}; {remedy}")).advising(reason.label(), remedy)
}
