//! HTTP requests by this server: key sets and calls. Bounded in time and bytes.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;

/// Time-out of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A header that is only in this server's answers about its health.
pub const HEALTH_HEADER: &str = "x-nexus-push";

/// A client whose requests take at most `timeout` and follow no redirect.
///
/// # Errors
/// TLS is not available.
pub fn http(timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    builder(timeout).build()
}

/// The same for one's own server: without a proxy, and with the authorities in `pem` alone, if
/// given.
///
/// # Errors
/// They cannot be read, or TLS is not available.
pub fn http_direct(timeout: Duration, pem: Option<&[u8]>) -> Result<reqwest::Client, String> {
    let builder = builder(timeout).no_proxy();
    let builder = match pem {
        None => builder,
        Some(pem) => {
            let authorities = reqwest::Certificate::from_pem_bundle(pem).map_err(|error| reason(&error))?;
            if authorities.is_empty() {
                return Err("it holds no certificate (PEM: BEGIN CERTIFICATE)".into());
            }
            builder.tls_certs_only(authorities)
        }
    };
    builder.build().map_err(|error| reason(&error))
}

fn builder(timeout: Duration) -> reqwest::ClientBuilder {
    // An earlier installation serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(timeout)
        .connect_timeout(timeout.min(CONNECT_TIMEOUT))
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("nexus-push/", env!("CARGO_PKG_VERSION")))
}

/// Sends a request and reads the answer's body, if it is a success of at most `bytes_max`.
///
/// # Errors
/// The failure, without the URL (which may hold a secret).
pub async fn body(request: reqwest::RequestBuilder, bytes_max: usize) -> Result<Vec<u8>, String> {
    let response = request.send().await.map_err(|e| reason(&e))?;
    if !response.status().is_success() {
        return Err(format!("status {}", response.status()));
    }
    read(response, bytes_max).await
}

/// An answer with any status.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

/// Sends a request and reads the whole answer, its body of at most `bytes_max`.
///
/// # Errors
/// The failure, without the URL (which may hold a secret).
pub async fn whole(request: reqwest::RequestBuilder, bytes_max: usize) -> Result<Answer, String> {
    let response = request.send().await.map_err(|e| reason(&e))?;
    let (status, headers) = (response.status(), response.headers().clone());
    Ok(Answer { status, headers, body: read(response, bytes_max).await? })
}

async fn read(mut response: reqwest::Response, bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| reason(&e))? {
        if body.len() + chunk.len() > bytes_max {
            return Err(format!("the answer has more than {bytes_max} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn reason(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() { "timed out".to_owned() } else { String::new() };
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    if text.is_empty() { "no answer".to_owned() } else { text }
}
