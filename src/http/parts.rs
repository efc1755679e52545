//! For fuzzing alone: the readers that run on a request before its handler, without a server.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use bytes::Bytes;
use serde_json::value::RawValue;

use crate::http::accept::{heads, normalize};
use crate::http::api::members::{Members, list};
use crate::http::api::{authorization, body, query};
use crate::limits::BATCH_COMMANDS_MAX;
use crate::protocol::Refusal;

/// The number of complete heads in these bytes, the first request (counted from 1; 0 is none) that
/// is ambiguous, and whether another head has begun.
pub fn followed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (u64, u64, bool) {
    heads::followed(pieces)
}

/// The host of a request with this head, if it is unambiguous; `None` if it is refused.
pub fn settled(head: &[u8]) -> Option<String> {
    let mut parsed = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut parsed);
    request.parse(head).ok()?.is_complete().then_some(())?;
    let version = if request.version? == 0 { http::Version::HTTP_10 } else { http::Version::HTTP_11 };
    let mut built = Request::builder().method(request.method?).uri(request.path?).version(version);
    for one in request.headers.iter() {
        let name = HeaderName::from_bytes(one.name.as_bytes()).ok()?;
        built = built.header(name, HeaderValue::from_bytes(one.value).ok()?);
    }
    let mut request = built.body(()).ok()?;
    normalize::request(&mut request).ok()?;
    Some(request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned())
}

/// The token of an `Authorization` header with this value, or its fault.
///
/// # Errors
/// The header's fault.
pub fn bearer(value: &[u8]) -> Result<Option<String>, &'static str> {
    let Ok(value) = HeaderValue::from_bytes(value) else { return Ok(None) };
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
    authorization::bearer(&headers).map(|token| token.map(str::to_owned))
}

/// A body as text; `None` where it is refused.
pub fn text(encoding: &'static str, bytes: &[u8]) -> Option<Bytes> {
    let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static(encoding))]);
    let mut text = pin!(body::text(&headers, Bytes::copy_from_slice(bytes), None));
    loop {
        // It waits for nothing: it only yields to other tasks.
        if let Poll::Ready(text) = text.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return text.ok();
        }
    }
}

/// Reads a body in each form of the API: one command, a batch, and the older form's envelopes.
///
/// # Errors
/// The first refusal.
pub fn commands(text: &str) -> Result<(), String> {
    let read = || -> Result<(), Refusal> {
        for value in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
            let value = value.map_err(|error| Refusal::new(400, error.to_string()))?;
            let mut envelope = Members::of(value, "a command")?;
            if let Some(commands) = envelope.value("commands") {
                envelope.flag("parallel")?;
                envelope.end()?;
                for command in list(commands, "commands", BATCH_COMMANDS_MAX)? {
                    let named = Members::of(command, "a command")?.only();
                    let (_, params) = named.ok_or_else(|| Refusal::new(400, "no method"))?;
                    one(params)?;
                }
                continue;
            }
            match envelope.value("params") {
                Some(params) => {
                    envelope.number("id")?;
                    one(params)?;
                }
                None => one(value)?,
            }
        }
        Ok(())
    };
    read().map_err(|refusal| refusal.reason)
}

/// Members of every kind that commands have.
fn one(params: &RawValue) -> Result<(), Refusal> {
    let mut members = Members::of(params, "a command")?;
    members.named("channel", "topic")?;
    members.texts("channels", BATCH_COMMANDS_MAX)?;
    members.filled("kind")?;
    members.event_time("ts")?;
    members.signed("limit")?;
    members.flag("reverse")?;
    members.idle(&[("tags", "a publication carries none of its publisher"), ("skip_history", "the namespace says")])?;
    members.raw("data");
    if let Some(since) = members.value("since") {
        let mut position = Members::of(since, "`since`")?;
        position.number("offset")?;
        position.text("epoch")?;
        position.end()?;
    }
    members.end()
}

/// A decoded path or query part.
///
/// # Errors
/// The invalid escape.
pub fn decoded(text: &str) -> Result<String, String> {
    query::decoded(text)
}
