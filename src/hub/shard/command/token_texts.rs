//! How clients are told of their tokens.

use crate::auth::TokenError;
use crate::protocol::Refusal;

/// The refusal of a token whose client may do better.
pub(super) fn retry(error: &TokenError) -> Refusal {
    let code = if error.is_temporary() { 503 } else { Refusal::TOKEN_EXPIRED };
    Refusal::new(code, error.to_string())
}

/// Time after which a client is to bring a new token, in s: that until `exp`, but 1 at least, as 0 is left out of Protobuf.
pub(in crate::hub) fn ttl_s(expires_s: Option<u64>, now_ms: u64) -> Option<u64> {
    expires_s.map(|at| at.saturating_sub(now_ms / 1_000).max(1))
}
