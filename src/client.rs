//! HTTP requests that this server makes: key sets and calls. Bounded in time and bytes.

use std::time::Duration;

/// A client whose requests take at most `timeout` and follow no redirect.
///
/// # Errors
/// If there is no TLS to be had.
pub fn http(timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    // Already installed is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("nexus-push/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Sends a request and reads the answer's body, if it is a success of at most `bytes_max`.
///
/// # Errors
/// What went wrong, without the URL (which may hold a secret).
pub async fn body(request: reqwest::RequestBuilder, bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut response = request.send().await.map_err(|e| reason(&e))?;
    if !response.status().is_success() {
        return Err(format!("status {}", response.status()));
    }
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
