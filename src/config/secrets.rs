//! Secrets: in the configuration, in files, or in the environment; and how to keep them out of the
//! output.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Serializer;

/// Shortest key of the publish API and of operators, in bytes.
pub const KEY_BYTES_MIN: usize = 16;

/// Parts of the names of keys whose values are, or may hold, secrets.
const SENSITIVE: [&str; 10] =
    ["sec", "key", "pas", "url", "endpoint", "auth", "token", "sentinel", "master", "cluster"];

/// A secret that is given as a value, in a file, or in an environment variable, in this order.
/// White space around it in a file does not count. `None` if it is not given.
///
/// # Errors
/// The file or the variable that cannot be read.
pub fn secret(value: Option<&str>, file: Option<&Path>, variable: Option<&str>) -> anyhow::Result<Option<String>> {
    if let Some(value) = value {
        return Ok(Some(value.to_owned()));
    }
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        return Ok(Some(text.trim().to_owned()));
    }
    let Some(variable) = variable else { return Ok(None) };
    let value = std::env::var(variable).with_context(|| format!("environment variable {variable}"))?;
    Ok(Some(value))
}

/// The same for a secret that is required and has at least [`KEY_BYTES_MIN`] bytes.
///
/// # Errors
/// It is missing, cannot be read, or is too short.
pub fn key(value: Option<&str>, file: Option<&Path>, variable: Option<&str>) -> anyhow::Result<String> {
    let Some(key) = secret(value, file, variable)? else { bail!("is not given") };
    if key.len() < KEY_BYTES_MIN {
        bail!("the key has {} bytes, the least is {KEY_BYTES_MIN}", key.len());
    }
    Ok(key)
}

/// A URL with this password, instead of the one that it may have.
pub(super) fn with_password(url: &str, password: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (user, host) = match rest.rsplit_once('@') {
        Some((user, host)) => (user.split(':').next().unwrap_or_default(), host),
        None => ("", rest),
    };
    // RFC 3986 §2.3: characters that a URL may contain unescaped.
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let encoded: String = password
        .bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    format!("{scheme}://{user}:{encoded}@{host}")
}

/// The URL without possible secrets (user, password and query), for people and logs.
pub fn redacted(url: &str) -> String {
    let hidden = match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}***{}", url.get(..scheme + 3).unwrap_or(""), url.get(at..).unwrap_or(""))
        }
        _ => url.to_owned(),
    };
    match hidden.split_once('?') {
        Some((before, _)) => format!("{before}?***"),
        None => hidden,
    }
}

/// A URL in the output of `check-config`.
pub(super) fn hide_url<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&redacted(url))
}

/// The same for a URL that may be missing.
pub(super) fn hide_some_url<S: Serializer>(url: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    match url {
        Some(url) => serializer.serialize_some(&redacted(url)),
        None => serializer.serialize_none(),
    }
}

/// Whether the value of a (dotted) key may be, or hold, a secret.
pub(super) fn is_sensitive(key: &str) -> bool {
    SENSITIVE.iter().any(|part| key.contains(part))
}

/// An error's text without the values that it quotes.
pub(super) fn without_quotes(message: &str) -> String {
    // Escaped quotes belong to a value.
    let message = message.replace("\\\"", "");
    let mut text = String::new();
    for (at, part) in message.split('"').enumerate() {
        text.push_str(if at % 2 == 0 { part } else { "\"…\"" });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_put_into_a_url() {
        for (url, expected) in [
            ("redis://h:6379", "redis://:p%40%2F%3A%25@h:6379"),
            ("redis://h:6379/2", "redis://:p%40%2F%3A%25@h:6379/2"),
            ("redis://user@h", "redis://user:p%40%2F%3A%25@h"),
            ("rediss://user:old@h", "rediss://user:p%40%2F%3A%25@h"),
        ] {
            assert_eq!(with_password(url, "p@/:%"), expected);
        }
    }

    #[test]
    fn values_are_taken_out_of_errors() {
        let message = r#"invalid type: string "se\"cret", expected a sequence, not "that""#;
        assert_eq!(without_quotes(message), r#"invalid type: string "…", expected a sequence, not "…""#);
        // Cut off inside a value.
        assert_eq!(without_quotes(r#"string "secr"#), r#"string "…""#);
        assert!(is_sensitive("publish.keys") && is_sensitive("source.redis.url") && !is_sensitive("server.listen"));
    }
}
