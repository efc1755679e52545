//! Why a token was not accepted.

use crate::metrics::TokenRefusal;

/// Why a token or a key was not accepted. It never contains either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The server has no keys.
    #[error("this server accepts no tokens (access.keys is empty and there is no access.jwks)")]
    NoKeys,
    /// Past `exp`.
    #[error("token has expired (exp)")]
    Expired,
    /// Anything else.
    #[error("token is not valid: {0}")]
    Invalid(String),
    /// Its key may be in the key set, which was never fetched.
    #[error("the key set cannot be read now (access.jwks); try again")]
    NoKeySet,
    /// Its caller has shown too many invalid tokens, and is refused for a while.
    #[error("too many tokens from here were not valid (limits.token_failures, limits.token_failures_per_address)")]
    TooManyFailures,
    /// Its key is unknown, and too many requests already wait for the key set.
    #[error("the token's key is not known, and as many requests wait for the key set (access.jwks) as may")]
    KeysAwaited,
    /// Too many tokens already wait.
    #[error("too many tokens wait to be verified; try again")]
    Busy,
    /// This server failed; the token may be valid.
    #[error("the token could not be verified because of a fault in this server; try again")]
    Fault,
    /// The token is valid, but its user has as many sessions as allowed.
    #[error("the user holds {0} sessions, the most (limits.sessions_per_user)")]
    TooManySessions(usize),
    /// The key set can never be fetched.
    #[error("access.jwks: {0}")]
    KeySet(String),
    /// A key could not be loaded.
    #[error("access.keys[{index}]: {reason}")]
    Key {
        /// Its index.
        index: usize,
        /// The reason.
        reason: String,
    },
}

impl TokenError {
    /// Whether another try with the same token may succeed.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::NoKeySet | Self::KeysAwaited | Self::Busy | Self::Fault)
    }

    /// Whether it counts against the client that showed the token. An expired token does not: a
    /// client that was away shows its old token and then gets a new one.
    pub(super) fn is_the_tokens_fault(&self) -> bool {
        matches!(self, Self::Invalid(_))
    }

    /// The fault alone, for a close that already says that a token was not accepted.
    pub fn fault(&self) -> String {
        match self {
            Self::Expired => "it has expired (exp)".to_owned(),
            Self::Invalid(reason) => reason.clone(),
            other => other.to_string(),
        }
    }

    /// The reason, as metrics count it.
    pub fn refusal(&self) -> TokenRefusal {
        match self {
            Self::NoKeys => TokenRefusal::NoKeys,
            Self::Expired => TokenRefusal::Expired,
            Self::Invalid(_) => TokenRefusal::Invalid,
            Self::NoKeySet => TokenRefusal::NoKeySet,
            Self::TooManyFailures => TokenRefusal::Failures,
            Self::KeysAwaited => TokenRefusal::Keys,
            Self::Busy => TokenRefusal::Waiting,
            Self::Fault => TokenRefusal::Fault,
            Self::TooManySessions(_) => TokenRefusal::UserSessions,
            Self::KeySet(_) => TokenRefusal::KeySet,
            Self::Key { .. } => TokenRefusal::Key,
        }
    }
}
