//! Tokens for tests.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

pub(crate) fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// Claims of `user` that expire after this many seconds, and more.
pub(crate) fn claims(user: &str, expires_in_s: i64, more: Value) -> Value {
    let mut claims = json!({"sub": user, "exp": now_s().saturating_add_signed(expires_in_s)});
    claims.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    claims
}

/// Signed with [`SECRET`].
pub(crate) fn hs256(claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

/// Configuration of a server that requires tokens signed with [`SECRET`], and more.
pub(crate) fn config(more: &str) -> String {
    format!(
        "[publish]\nopen = true\n[access]\nexpired_close_delay = \"1s\"\n\
         [[access.keys]]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"\n{more}"
    )
}
