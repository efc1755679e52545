//! JWT verification (RFC 7519). Each key is for one algorithm; `none` is not supported.

use std::sync::Arc;

use base64::Engine as _;
use jsonwebtoken::decode_header;

use super::claims::Claims;
use super::jwks::Jwks;
use super::keys::Key;
use super::{Grant, Identity, TokenError, TopicRules};
use crate::config::Access;
use crate::metrics::Metrics;
use crate::name::TopicName;

/// Verifies tokens with the configured keys and those of a key set.
pub struct Tokens {
    keys: Vec<Key>,
    jwks: Option<Arc<Jwks>>,
    audience: Option<String>,
    issuer: Option<String>,
    default_topics: TopicRules,
}

/// Result of a verification that does not wait.
pub enum Verdict<T> {
    /// The final result.
    Known(Result<T, TokenError>),
    /// A key may have to be fetched first: call [`Tokens::fetch`], then verify again.
    KeyNeeded(TokenError),
}

impl<T> Verdict<T> {
    /// The final result if no key can be fetched.
    ///
    /// # Errors
    /// Why the token was not accepted.
    pub fn without_fetch(self) -> Result<T, TokenError> {
        match self {
            Self::Known(result) => result,
            Self::KeyNeeded(error) => Err(error),
        }
    }
}

impl Tokens {
    /// Loads the keys that the configuration names.
    ///
    /// # Errors
    /// The key that could not be loaded, and why.
    pub fn load(access: &Access, metrics: &Arc<Metrics>) -> Result<Self, TokenError> {
        let keys = access
            .keys
            .iter()
            .enumerate()
            .map(|(index, key)| Key::load(key).map_err(|reason| TokenError::Key { index, reason }))
            .collect::<Result<_, _>>()?;
        let jwks = match &access.jwks {
            Some(jwks) => Some(Arc::new(Jwks::new(jwks, metrics).map_err(TokenError::KeySet)?)),
            None => None,
        };
        Ok(Self {
            keys,
            jwks,
            audience: access.audience.clone(),
            issuer: access.issuer.clone(),
            default_topics: TopicRules::new(access.default_topics.iter().cloned()),
        })
    }

    /// Changes whenever keys may have been withdrawn.
    pub(super) fn generation(&self) -> u64 {
        self.jwks.as_ref().map_or(0, |jwks| jwks.generation())
    }

    /// Verifies a connection token with the keys that are already here.
    pub fn identity(&self, token: &str) -> Verdict<Identity> {
        self.check(token, |claims| claims.identity(&self.default_topics))
    }

    /// Verifies a subscription token of `user` for `topic` with the keys that are already here.
    pub fn grant(&self, token: &str, user: &str, topic: &TopicName) -> Verdict<Grant> {
        self.check(token, |claims| claims.grant(user, topic))
    }

    /// Fetches the key set, unless that was just done. Returns when the set is here, or
    /// [`crate::limits::JWKS_WAIT`] after the fetch began.
    pub async fn fetch(&self) {
        if let Some(jwks) = &self.jwks {
            jwks.refresh().await;
        }
    }

    fn check<T>(&self, token: &str, read: impl FnOnce(Claims) -> Result<T, TokenError>) -> Verdict<T> {
        if self.keys.is_empty() && self.jwks.is_none() {
            return Verdict::Known(Err(TokenError::NoKeys));
        }
        let header = match decode_header(token) {
            Ok(header) => header,
            Err(_) => return Verdict::Known(Err(TokenError::Invalid(header_fault(token)))),
        };
        // RFC 7515 §4.1.11: a server that does not understand these names must refuse the token.
        // The library ignores `crit`.
        if header.crit.is_some() {
            let reason = "its header names extensions that must be understood (crit); this server has none";
            return Verdict::Known(Err(TokenError::Invalid(reason.to_owned())));
        }
        let kid = header.kid.as_deref();
        let unknown = || {
            let algorithm = header.alg;
            TokenError::Invalid(match kid {
                Some(kid) => format!("no key is known for its kid `{}` and alg {algorithm:?}", shown(kid)),
                None => format!("no key is known for its alg {algorithm:?}, and it has no kid"),
            })
        };
        let set = self.jwks.as_ref().filter(|jwks| jwks.accepts(header.alg)).map(|jwks| jwks.set());
        let fetched = set.iter().flat_map(|set| &set.keys);
        let mut fitting = self.keys.iter().chain(fetched).filter(|key| key.fits(header.alg, kid)).peekable();
        if fitting.peek().is_none() {
            return match set {
                Some(set) if set.was_read() => Verdict::KeyNeeded(unknown()),
                Some(_) => Verdict::KeyNeeded(TokenError::NoKeySet),
                None => Verdict::Known(Err(unknown())),
            };
        }
        self.refresh_if_old();
        let mut last = unknown();
        for key in fitting {
            match claims(token, key) {
                Ok(claims) => {
                    #[allow(clippy::cast_precision_loss, reason = "ms of this era are far below 2^53")]
                    let now_s = crate::clock::unix_ms() as f64 / 1_000.0;
                    let checked = claims.check(self.issuer.as_deref(), self.audience.as_deref(), now_s);
                    return Verdict::Known(checked.and_then(|()| read(claims)));
                }
                Err(error) => last = error,
            }
        }
        Verdict::Known(Err(last))
    }

    /// The old set is used while a new one is fetched.
    pub(super) fn refresh_if_old(&self) {
        let Some(jwks) = self.jwks.as_ref().filter(|jwks| jwks.is_old()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let jwks = jwks.clone();
            runtime.spawn(async move { jwks.refresh().await });
        }
    }
}

/// The claims of a token that this key has signed. The library checks only the signature: its own
/// reading of claims fails at unexpected kinds and does not name them.
fn claims(token: &str, key: &Key) -> Result<Claims, TokenError> {
    let malformed = || TokenError::Invalid("it is not three parts with a `.` between them".to_owned());
    let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
    // It returns an error if the signature is malformed.
    if !jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &key.key, key.algorithm).unwrap_or(false) {
        let reason = "its signature is wrong: another key made it, or the token was changed";
        return Err(TokenError::Invalid(reason.to_owned()));
    }
    let (_, claims) = signed.rsplit_once('.').ok_or_else(malformed)?;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(claims)
        .map_err(|_| TokenError::Invalid("its claims are not base64".to_owned()))?;
    Claims::read(&claims)
}

/// The fault in the header of a token.
fn header_fault(token: &str) -> String {
    let parts = token.split('.').count();
    if parts != 3 {
        return format!("it must be a signed JWT, three parts with a `.` between them, and has {parts}");
    }
    let header = token.split('.').next().unwrap_or_default();
    let Ok(header) = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header) else {
        return "its header is not base64url".to_owned();
    };
    let Ok(header) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&header) else {
        return "its header is not a JSON object".to_owned();
    };
    match header.get("alg") {
        None => "its header has no alg".to_owned(),
        Some(alg) if serde_json::from_value::<jsonwebtoken::Algorithm>(alg.clone()).is_err() => {
            format!("its alg is {}; HS256, RS256, ES256 and EdDSA are taken here", shown(&alg.to_string()))
        }
        Some(_) => "a member of its header is of the wrong kind: kid and typ are texts".to_owned(),
    }
}

/// The part of a header's member that an error shows.
fn shown(text: &str) -> &str {
    text.get(..text.floor_char_boundary(24)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{TokenAlgorithm, TokenKey};
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use serde_json::json;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn tokens() -> Tokens {
        let key = TokenKey {
            kid: None,
            algorithm: TokenAlgorithm::HS256,
            secret: Some(SECRET.into()),
            secret_file: None,
            secret_env: None,
            public_key_file: None,
        };
        let access = Access {
            keys: vec![key],
            audience: Some("dash".into()),
            issuer: Some("me".into()),
            default_topics: vec!["public:*".into()],
            ..Access::default()
        };
        Tokens::load(&access, &Arc::default()).unwrap()
    }

    fn sign(algorithm: Algorithm, secret: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut claims = json!({"sub":"u1","aud":"dash","iss":"me","exp": crate::clock::unix_ms() / 1000 + 60});
        change(&mut claims);
        encode(&Header::new(algorithm), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    #[test]
    fn what_is_accepted_and_what_is_not() {
        let t = tokens();
        let verify = |token: &str| t.identity(token).without_fetch();
        let good = verify(&sign(Algorithm::HS256, SECRET, |_| {})).unwrap();
        assert_eq!(good.user, "u1");
        assert!(good.topics.allow(&crate::name::TopicName::new("public:a").unwrap()));
        let own = verify(&sign(Algorithm::HS256, SECRET, |c| c["topics"] = json!(["x:*"]))).unwrap();
        assert!(!own.topics.allow(&crate::name::TopicName::new("public:a").unwrap()));

        assert_eq!(verify(&sign(Algorithm::HS256, SECRET, |c| c["exp"] = json!(1))), Err(TokenError::Expired));
        let refused = [
            ("wrong key", sign(Algorithm::HS256, "fedcba9876543210fedcba9876543210", |_| {})),
            ("wrong algorithm", sign(Algorithm::HS384, SECRET, |_| {})),
            ("wrong audience", sign(Algorithm::HS256, SECRET, |c| c["aud"] = json!("other"))),
            ("wrong issuer", sign(Algorithm::HS256, SECRET, |c| c["iss"] = json!("other"))),
            (
                "no expiry",
                sign(Algorithm::HS256, SECRET, |c| {
                    c.as_object_mut().unwrap().remove("exp");
                }),
            ),
            ("not yet", sign(Algorithm::HS256, SECRET, |c| c["nbf"] = json!(crate::clock::unix_ms() / 1000 + 600))),
            (
                "none",
                format!(
                    "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.",
                    sign(Algorithm::HS256, SECRET, |_| {}).split('.').nth(1).unwrap()
                ),
            ),
            ("an extension that must be understood", {
                let header = Header { crit: Some(vec!["exp".into()]), ..Header::new(Algorithm::HS256) };
                let claims = json!({"sub":"u1","aud":"dash","iss":"me","exp": crate::clock::unix_ms() / 1000 + 60});
                encode(&header, &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
            }),
            ("garbage", "a.b.c".into()),
            ("empty", String::new()),
        ];
        for (what, token) in refused {
            assert!(matches!(verify(&token), Err(TokenError::Invalid(_))), "{what}");
        }
    }
}
