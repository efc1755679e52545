//! `[access]`: who may come in, and the keys that tokens are verified with.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::secrets::{self, redacted};
use crate::limits;
use crate::name::{PRIVATE_PREFIX, USER_BOUNDARY, USER_SEPARATOR};

/// `[access]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// Let clients in without a token.
    pub anonymous: bool,
    /// Origins that may open a socket: `"https://app.example.com"`, or `"*"` for any. Requests without an
    /// `Origin` header (not browsers) are always let through to the token check.
    pub origins: Vec<String>,
    /// Topics a token gives when it carries no `topics` claim: exact names, or prefixes that end in `*`.
    pub default_topics: Vec<String>,
    /// Required `aud` of tokens, if any.
    pub audience: Option<String>,
    /// Required `iss` of tokens, if any.
    pub issuer: Option<String>,
    /// Keys that tokens are verified with.
    pub keys: Vec<TokenKey>,
    /// Keys that are fetched.
    pub jwks: Option<Jwks>,
    /// Time that a Centrifuge session goes on after its token, or a subscription's, has ended: its client asks for a new
    /// one when the old one ends, not before.
    #[serde(with = "humantime_serde")]
    pub expired_close_delay: Duration,
    /// What becomes of topics whose namespace is not configured.
    pub unknown_namespace: UnknownNamespace,
    /// Whether a topic's name may say who may have it.
    pub channel_syntax: ChannelSyntax,
}

/// What becomes of topics whose namespace is not configured. One without a `:` has none, and the options of `[default]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownNamespace {
    /// They have the options of `[default]`.
    #[default]
    Default,
    /// They are refused, to clients, publishers and sources alike.
    Refuse,
}

/// Whether a topic's name may say who may have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelSyntax {
    /// As in Centrifugo: `$…` is private, `…#1,2` is for users 1 and 2.
    #[default]
    Centrifugo,
    /// No.
    Plain,
}

/// What a topic's name says of who may have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind<'a> {
    /// Nothing.
    Ordinary,
    /// `$…`: clients with a token for it.
    Private,
    /// `…#1,2`: these users; see [`NameKind::users`].
    UserLimited(&'a str),
}

impl ChannelSyntax {
    /// What this syntax makes of a topic's name.
    pub fn kind(self, topic: &str) -> NameKind<'_> {
        match self {
            Self::Plain => NameKind::Ordinary,
            Self::Centrifugo if topic.starts_with(PRIVATE_PREFIX) => NameKind::Private,
            Self::Centrifugo => match topic.rsplit_once(USER_BOUNDARY) {
                Some((_, users)) => NameKind::UserLimited(users),
                None => NameKind::Ordinary,
            },
        }
    }
}

impl<'a> NameKind<'a> {
    /// The users that the name lists. The empty text is no user: a token may have none.
    pub fn users(self) -> impl Iterator<Item = &'a str> {
        let users = match self {
            Self::UserLimited(users) => users,
            Self::Ordinary | Self::Private => "",
        };
        users.split(USER_SEPARATOR).filter(|user| !user.is_empty())
    }
}

impl Default for Access {
    fn default() -> Self {
        Self {
            anonymous: false,
            origins: Vec::new(),
            default_topics: Vec::new(),
            audience: None,
            issuer: None,
            keys: Vec::new(),
            jwks: None,
            expired_close_delay: limits::EXPIRED_CLOSE_DELAY,
            unknown_namespace: UnknownNamespace::default(),
            channel_syntax: ChannelSyntax::default(),
        }
    }
}

impl Access {
    /// Whether a client needs a token, and can have one.
    pub fn asks_for_tokens(&self) -> bool {
        !self.anonymous && self.has_keys()
    }

    /// Whether there is a key that a token may be good by.
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty() || self.jwks.is_some()
    }
}

/// `[access.jwks]`: a JSON Web Key Set (RFC 7517) by URL.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwks {
    /// `https://…`, or `http://` on a network that is trusted.
    #[serde(serialize_with = "secrets::hide_url")]
    pub url: String,
    /// Algorithms accepted from it. HS256 is never: a secret has no place in a public document.
    #[serde(default = "jwks_algorithms")]
    pub algorithms: Vec<TokenAlgorithm>,
    /// Age at which the set is fetched again.
    #[serde(default = "jwks_max_age", with = "humantime_serde")]
    pub max_age: Duration,
    /// Least time between two fetches, however many tokens name a key that is not known.
    #[serde(default = "jwks_min_interval", with = "humantime_serde")]
    pub min_interval: Duration,
}

impl std::fmt::Debug for Jwks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Jwks");
        shown.field("url", &redacted(&self.url)).field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

fn jwks_algorithms() -> Vec<TokenAlgorithm> {
    vec![TokenAlgorithm::RS256, TokenAlgorithm::ES256, TokenAlgorithm::EdDSA]
}

fn jwks_max_age() -> Duration {
    limits::JWKS_MAX_AGE
}

fn jwks_min_interval() -> Duration {
    limits::JWKS_MIN_INTERVAL
}

/// `[[access.keys]]`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenKey {
    /// Matches the token's `kid`; a key without one serves tokens without one.
    #[serde(default)]
    pub kid: Option<String>,
    /// The one algorithm this key is for.
    pub algorithm: TokenAlgorithm,
    /// HS256: the secret itself, at least 32 bytes.
    #[serde(default, skip_serializing)]
    pub secret: Option<String>,
    /// HS256: file that holds the secret.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// HS256: environment variable that holds the secret.
    #[serde(default)]
    pub secret_env: Option<String>,
    /// RS256, ES256, EdDSA: PEM file of the public key.
    #[serde(default)]
    pub public_key_file: Option<PathBuf>,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").field("kid", &self.kid).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// Signature algorithms of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256.
    HS256,
    /// RSA PKCS#1 v1.5 with SHA-256.
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}
