//! Texts and times about tokens, as sent to clients.

use crate::auth::TokenError;
use crate::protocol::Refusal;

/// The refusal of a token after which the client may try again with a new one.
pub(super) fn retry(error: &TokenError) -> Refusal {
    let code = if error.is_temporary() { 503 } else { Refusal::TOKEN_EXPIRED };
    Refusal::new(code, error.to_string())
}

/// Seconds until a token's `exp`, after which the client must bring a new one. At least 1, because Protobuf omits 0.
pub(in crate::hub) fn ttl_s(expires_s: Option<u64>, now_ms: u64) -> Option<u64> {
    expires_s.map(|at| at.saturating_sub(now_ms / 1_000).max(1))
}
