//! Bodies of the API as JSON text in UTF-8, whatever their encoding, or the reason why they cannot
//! be read.

use std::io::Read as _;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use serde_json::value::RawValue;

use crate::http::accept::deadlines::BodyRoom;
use crate::http::failure::failure;
use crate::http::state::State;
use crate::limits::{BATCH_COMMANDS_MAX, PUBLISH_BODY_BYTES_MAX};
use crate::metrics::{Metrics, PublishRefusal};

/// Bytes that are inflated before other tasks get a turn.
const STEP: usize = 64 * 1024;

/// A body in UTF-8 without a byte order mark, not compressed.
pub(in crate::http) struct Text {
    text: Bytes,
    metrics: Arc<Metrics>,
}

impl Text {
    /// The JSON value of the body; an empty body is an empty object.
    ///
    /// # Errors
    /// 400, counted, with the place where the JSON is broken.
    pub(in crate::http) fn json(&self) -> Result<&RawValue, Box<Response>> {
        let text = if self.text.is_empty() { b"{}".as_slice() } else { &self.text };
        serde_json::from_slice(text).map_err(|error| self.refused(PublishRefusal::Malformed, not_json(&error)))
    }

    /// The JSON values of the body, one after the other: at least one, at most
    /// [`BATCH_COMMANDS_MAX`].
    ///
    /// # Errors
    /// 400 or 413, counted.
    pub(in crate::http) fn values(&self) -> Result<Vec<&RawValue>, Box<Response>> {
        let mut values = Vec::new();
        for value in serde_json::Deserializer::from_slice(&self.text).into_iter() {
            let value = value.map_err(|error| self.refused(PublishRefusal::Malformed, not_json(&error)))?;
            if values.len() == BATCH_COMMANDS_MAX {
                let message = format!("the body has more than {BATCH_COMMANDS_MAX} commands");
                return Err(self.refused(PublishRefusal::BatchTooLong, failure(StatusCode::PAYLOAD_TOO_LARGE, message)));
            }
            values.push(value);
        }
        if values.is_empty() {
            let message = "the body has no command: {\"method\":\"publish\",\"params\":{…}}";
            return Err(self.refused(PublishRefusal::Malformed, failure(StatusCode::BAD_REQUEST, message)));
        }
        Ok(values)
    }

    fn refused(&self, reason: PublishRefusal, response: Response) -> Box<Response> {
        self.metrics.refused_publish(reason);
        Box::new(response)
    }
}

fn not_json(error: &serde_json::Error) -> Response {
    let (line, column) = (error.line(), error.column());
    let message = match error.classify() {
        serde_json::error::Category::Eof => format!("the body ends within its JSON, at line {line} column {column}"),
        _ => format!("the body is not JSON from line {line} column {column} on"),
    };
    failure(StatusCode::BAD_REQUEST, message)
}

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    None,
    Gzip,
    Deflate,
}

/// The coding in `Content-Encoding`, or the name of one that is not supported.
fn coding(headers: &HeaderMap) -> Result<Coding, String> {
    let mut coding = Coding::None;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        for name in value.to_str().unwrap_or("?").split(',') {
            let named = match name.trim().to_ascii_lowercase().as_str() {
                "" | "identity" => continue,
                "gzip" | "x-gzip" => Coding::Gzip,
                "deflate" => Coding::Deflate,
                other => return Err(other.to_owned()),
            };
            if coding != Coding::None {
                return Err("more than one".into());
            }
            coding = named;
        }
    }
    Ok(coding)
}

/// Why a body cannot be read.
enum Unreadable {
    TooLarge,
    NoRoom,
    NotCompressed(&'static str),
}

/// Inflates a body, within the size limit of one body and the `room` left for all.
async fn inflated(body: &[u8], coding: Coding, room: Option<&BodyRoom>) -> Result<Vec<u8>, Unreadable> {
    // RFC 9110 means zlib by deflate; some clients send raw deflate.
    let has_zlib_head = matches!(body, [first, second, ..] if first & 0x0f == 8 && (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0);
    let (name, mut reader): (_, Box<dyn std::io::Read + Send + '_>) = match coding {
        Coding::None => return Ok(body.to_vec()),
        Coding::Gzip => ("gzip", Box::new(MultiGzDecoder::new(body))),
        Coding::Deflate if has_zlib_head => ("deflate", Box::new(ZlibDecoder::new(body))),
        Coding::Deflate => ("deflate", Box::new(DeflateDecoder::new(body))),
    };
    let mut text = Vec::new();
    let mut counted = 0;
    loop {
        let step = (&mut reader).take(STEP as u64).read_to_end(&mut text);
        let read = step.map_err(|_| Unreadable::NotCompressed(name))?;
        if text.len() > PUBLISH_BODY_BYTES_MAX {
            return Err(Unreadable::TooLarge);
        }
        let more = text.capacity() - counted;
        if more > 0 && room.is_some_and(|room| !room.take(more)) {
            return Err(Unreadable::NoRoom);
        }
        counted += more;
        if read < STEP {
            return Ok(text);
        }
        tokio::task::yield_now().await;
    }
}

/// Whether a text is UTF-16 or UTF-32: by its byte order mark, or because JSON begins with two
/// ASCII characters.
fn is_wide(text: &[u8]) -> bool {
    matches!(text, [0xfe, 0xff, ..] | [0xff, 0xfe, ..] | [0, _, ..] | [_, 0, ..])
}

fn says_wide(headers: &HeaderMap) -> Option<String> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
    let charset = kind.split(';').find_map(|part| part.trim().strip_prefix("charset="))?.trim_matches('"').to_owned();
    (!matches!(charset.as_str(), "" | "utf-8" | "utf8" | "us-ascii")).then_some(charset)
}

/// A body as text.
pub(in crate::http) async fn text(
    headers: &HeaderMap,
    body: Bytes,
    room: Option<&BodyRoom>,
) -> Result<Bytes, Response> {
    let unsupported = |message: String| failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    let coding = coding(headers).map_err(|name| {
        let message = format!("Content-Encoding `{name}` is not known here; send gzip, deflate, or no such header");
        let mut response = unsupported(message);
        response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
        response
    })?;
    let body = match coding {
        Coding::None => body,
        coding => Bytes::from(inflated(&body, coding, room).await.map_err(|why| match why {
            Unreadable::NoRoom => failure(StatusCode::SERVICE_UNAVAILABLE, "there is no room for the inflated body"),
            Unreadable::TooLarge => {
                let message = format!("the body inflates to more than {PUBLISH_BODY_BYTES_MAX} bytes");
                failure(StatusCode::PAYLOAD_TOO_LARGE, message)
            }
            Unreadable::NotCompressed(name) => {
                let message = format!("Content-Encoding says {name}, but the body is not that, or ends too early");
                failure(StatusCode::BAD_REQUEST, message)
            }
        })?),
    };
    if body.starts_with(&[0x1f, 0x8b]) {
        return Err(unsupported("the body is compressed with gzip, but no Content-Encoding says so".into()));
    }
    if let Some(charset) = says_wide(headers) {
        return Err(unsupported(format!("the body is in {charset}; JSON is sent in UTF-8 (RFC 8259)")));
    }
    if is_wide(&body) {
        return Err(unsupported("the body is in UTF-16 or UTF-32; JSON is sent in UTF-8 (RFC 8259)".into()));
    }
    let body = if body.starts_with(b"\xef\xbb\xbf") { body.slice(3..) } else { body };
    if let Err(error) = std::str::from_utf8(&body) {
        let message = format!("the body is not UTF-8 from byte {} on", error.valid_up_to());
        return Err(failure(StatusCode::BAD_REQUEST, message));
    }
    Ok(body)
}

/// The body of a request, as received.
async fn whole<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Response> {
    let body = Bytes::from_request(request, state).await;
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("the body has more than {PUBLISH_BODY_BYTES_MAX} bytes");
            failure(StatusCode::PAYLOAD_TOO_LARGE, message)
        }
        _ => failure(StatusCode::BAD_REQUEST, "the body ends before its end, or one of its chunks is malformed"),
    })
}

impl FromRequest<Arc<State>> for Text {
    type Rejection = Response;

    async fn from_request(request: Request, state: &Arc<State>) -> Result<Self, Response> {
        let headers = request.headers().clone();
        let room = request.extensions().get::<BodyRoom>().cloned();
        let read = match whole(request, state).await {
            Ok(body) => text(&headers, body, room.as_ref()).await,
            Err(refused) => Err(refused),
        };
        let read = read.inspect_err(|refused| match refused.status() {
            // A body that is late or finds no room is answered and counted where the connection is
            // served.
            _ if room.is_some_and(|room| room.is_answered()) => {}
            StatusCode::PAYLOAD_TOO_LARGE => state.metrics.refused_publish(PublishRefusal::BodyTooLarge),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => state.metrics.refused_publish(PublishRefusal::Encoding),
            _ => state.metrics.refused_publish(PublishRefusal::Malformed),
        });
        Ok(Self { text: read?, metrics: state.metrics.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use std::io::Write as _;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn read(headers: &[(&'static str, &str)], body: &[u8]) -> Result<Vec<u8>, u16> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let text = text(&headers.collect(), Bytes::copy_from_slice(body), None).await;
        text.map(|text| text.to_vec()).map_err(|response| response.status().as_u16())
    }

    #[tokio::test]
    async fn bodies_are_read_whatever_they_are_compressed_with() {
        let text = br#"{"channel":"a","data":1}"#;
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(text).unwrap();
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::default());
        bare.write_all(text).unwrap();
        let marked = [b"\xef\xbb\xbf".as_slice(), text].concat();
        let wide: Vec<u8> = String::from_utf8_lossy(text).encode_utf16().flat_map(u16::to_le_bytes).collect();
        let (encoding, kind) = ("content-encoding", "content-type");
        let good = [
            read(&[], text).await,
            read(&[(encoding, "identity")], text).await,
            read(&[(encoding, "gzip")], &gzip(text)).await,
            read(&[(encoding, "X-GZIP")], &gzip(text)).await,
            read(&[(encoding, "deflate")], &zlib.finish().unwrap()).await,
            read(&[(encoding, "deflate")], &bare.finish().unwrap()).await,
            read(&[], &marked).await,
            read(&[(kind, "application/json; charset=UTF-8")], text).await,
        ];
        for body in good {
            assert_eq!(body, Ok(text.to_vec()));
        }
        let refused = [
            (read(&[(encoding, "br")], text).await, 415),
            (read(&[(encoding, "gzip, gzip")], text).await, 415),
            (read(&[(encoding, "gzip")], text).await, 400),
            (read(&[(encoding, "gzip")], &gzip(text)[..20]).await, 400),
            (read(&[], &gzip(text)).await, 415),
            (read(&[], &wide).await, 415),
            (read(&[], &[b"\xff\xfe".as_slice(), &wide].concat()).await, 415),
            (read(&[(kind, "application/json; charset=utf-16")], text).await, 415),
            (read(&[], b"{\"a\":\"\xff\"}").await, 400),
        ];
        for (at, (body, status)) in refused.into_iter().enumerate() {
            assert_eq!(body, Err(status), "{at}");
        }
    }

    #[tokio::test]
    async fn a_bomb_is_inflated_no_further_than_a_body_may_be_long() {
        let bomb = gzip(&vec![b' '; PUBLISH_BODY_BYTES_MAX + 1]);
        assert!(bomb.len() < 16 * 1024);
        assert_eq!(read(&[("content-encoding", "gzip")], &bomb).await, Err(413));
        let most = gzip(&vec![b' '; PUBLISH_BODY_BYTES_MAX]);
        assert_eq!(
            read(&[("content-encoding", "gzip")], &most).await.map(|text| text.len()),
            Ok(PUBLISH_BODY_BYTES_MAX)
        );
    }
}
