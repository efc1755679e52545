//! The dashboard, embedded in the binary: `/`, `/ops` and `/assets/…`. It is built from
//! `web/dashboard`; the built files are in the repository, so that a machine without Node has them
//! too.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::OnceLock;

use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use rust_embed::RustEmbed;

use crate::http::failure::failure;

#[derive(RustEmbed)]
#[folder = "web/embedded"]
struct Files;

/// Allows only this server's scripts, styles, pictures and sockets.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'";

/// The policy for a page of this host. Some browsers do not apply `'self'` to sockets, so the
/// socket's address is named.
fn policy(headers: &HeaderMap) -> HeaderValue {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // No character with a meaning in a policy.
    let plain = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._:[]".contains(c));
    let named = plain.then(|| HeaderValue::from_str(&format!("{POLICY} ws://{host} wss://{host}")).ok()).flatten();
    named.unwrap_or(HeaderValue::from_static(POLICY))
}

/// A file as it is sent.
struct File {
    plain: Bytes,
    gzip: Option<Bytes>,
    kind: &'static str,
    etag: String,
}

/// All files; compressed once, at the first request.
fn files() -> &'static HashMap<String, File> {
    static FILES: OnceLock<HashMap<String, File>> = OnceLock::new();
    FILES.get_or_init(|| Files::iter().filter_map(|name| Some((name.to_string(), load(&name)?))).collect())
}

fn load(name: &str) -> Option<File> {
    let file = Files::get(name)?;
    let plain = Bytes::from(file.data.into_owned());
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    };
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let compressed = encoder.write_all(&plain).and_then(|()| encoder.finish()).ok();
    let gzip = compressed.filter(|gz| gz.len() < plain.len()).map(Bytes::from);
    let hash = file.metadata.sha256_hash();
    let etag = hash.iter().take(8).fold(String::from("\""), |text, byte| text + &format!("{byte:02x}")) + "\"";
    Some(File { plain, gzip, kind, etag })
}

/// `GET /` and `GET /ops`: one page, which looks at its path.
pub(super) async fn index(headers: HeaderMap) -> Response {
    respond("index.html", &headers, "no-cache")
}

/// `GET /assets/…`: file names change with their content.
pub(super) async fn asset(headers: HeaderMap, uri: Uri) -> Response {
    respond(uri.path().trim_start_matches('/'), &headers, "public, max-age=31536000, immutable")
}

fn respond(name: &str, headers: &HeaderMap, caching: &'static str) -> Response {
    let Some(file) = files().get(name) else {
        return failure(StatusCode::NOT_FOUND, "there is no such file");
    };
    let given = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default();
    let etag = HeaderValue::from_str(&file.etag).unwrap_or(HeaderValue::from_static("\"\""));
    let common = [
        (header::ETAG, etag),
        (header::CACHE_CONTROL, HeaderValue::from_static(caching)),
        (header::VARY, HeaderValue::from_static("accept-encoding")),
        (header::CONTENT_SECURITY_POLICY, policy(headers)),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    if given(header::IF_NONE_MATCH).split(',').any(|tag| tag.trim().trim_start_matches("W/") == file.etag) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(file.kind))];
    let accepts = given(header::ACCEPT_ENCODING).split(',').any(|e| e.trim().split(';').next() == Some("gzip"));
    match &file.gzip {
        Some(gzip) if accepts => {
            let encoding = [(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
            (common, kind, encoding, gzip.clone()).into_response()
        }
        _ => (common, kind, file.plain.clone()).into_response(),
    }
}
