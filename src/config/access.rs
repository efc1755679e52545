//! `[access]`: which clients may connect, and the keys that verify their tokens.

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
    /// Origins that may open a socket: `"https://app.example.com"`, or `"*"` for any. Requests
    /// without an `Origin` header do not come from browsers and always go on to the token check.
    pub origins: Vec<String>,
    /// Topics that a token without a `topics` claim gives: exact names, or prefixes that end in
    /// `*`.
    pub default_topics: Vec<String>,
    /// Required `aud` of tokens, if any.
    pub audience: Option<String>,
    /// Required `iss` of tokens, if any.
    pub issuer: Option<String>,
    /// Keys that verify tokens.
    pub keys: Vec<TokenKey>,
    /// Keys that are fetched by URL.
    pub jwks: Option<Jwks>,
    /// Time that a Centrifuge session or subscription continues after its token has ended. Its
    /// client asks for a new token when the old one ends, not before.
    #[serde(with = "humantime_serde")]
    pub expired_close_delay: Duration,
    /// How topics are treated whose namespace is not configured.
    pub unknown_namespace: UnknownNamespace,
    /// Whether a topic's name may restrict its subscribers.
    pub channel_syntax: ChannelSyntax,
}

/// How topics are treated whose namespace is not configured. A topic without a `:` has no
/// namespace, and gets the options of `[default]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownNamespace {
    /// They get the options of `[default]`.
    #[default]
    Default,
    /// Clients, publishers and sources cannot use them.
    Refuse,
}

/// Whether a topic's name may restrict its subscribers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelSyntax {
    /// As in Centrifugo: `$…` is private, and `…#1,2` is for users 1 and 2.
    #[default]
    Centrifugo,
    /// It may not.
    Plain,
}

/// How a topic's name restricts its subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind<'a> {
    /// Not at all.
    Ordinary,
    /// `$…`: only clients with a token for it.
    Private,
    /// `…#1,2`: only these users; see [`NameKind::users`].
    UserLimited(&'a str),
}

impl ChannelSyntax {
    /// The restriction that this syntax reads in a topic's name.
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
    /// The users that the name lists. An empty user is skipped, because a token may have none.
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
    /// Whether a client needs a token and some key can verify it.
    pub fn asks_for_tokens(&self) -> bool {
        !self.anonymous && self.has_keys()
    }

    /// Whether some key can verify tokens.
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty() || self.jwks.is_some()
    }
}

/// `[access.jwks]`: a JSON Web Key Set (RFC 7517) by URL.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwks {
    /// `https://…`, or `http://` on a trusted network.
    #[serde(serialize_with = "secrets::hide_url")]
    pub url: String,
    /// Algorithms accepted from the set. HS256 is never accepted: a public document has no secrets.
    #[serde(default = "jwks_algorithms")]
    pub algorithms: Vec<TokenAlgorithm>,
    /// Age at which the set is fetched again.
    #[serde(default = "jwks_max_age", with = "humantime_serde")]
    pub max_age: Duration,
    /// Shortest time between two fetches, however many tokens name an unknown key.
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
    /// Matches the token's `kid`; a key without `kid` verifies tokens without one.
    #[serde(default)]
    pub kid: Option<String>,
    /// The only algorithm of this key.
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
