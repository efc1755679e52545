//! JWT verification (RFC 7519). Each key serves one algorithm; `none` does not exist here.

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

use super::{Identity, TopicRules};
use crate::config::{Access, TokenAlgorithm, TokenKey};

/// Clock difference that is forgiven, in seconds.
const LEEWAY_S: u64 = 5;

/// Verifies tokens with the configured keys.
pub struct Tokens {
    keys: Vec<Key>,
    audience: Option<String>,
    issuer: Option<String>,
    default_topics: TopicRules,
}

struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Why a token, or a key, was not accepted. Never holds either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The server has no keys.
    #[error("this server accepts no tokens (access.keys is empty)")]
    NoKeys,
    /// Past `exp`.
    #[error("token has expired")]
    Expired,
    /// Anything else.
    #[error("token is not valid: {0}")]
    Invalid(String),
    /// A key could not be loaded.
    #[error("access.keys[{index}]: {reason}")]
    Key {
        /// Which.
        index: usize,
        /// Why.
        reason: String,
    },
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    #[serde(default)]
    exp: Option<u64>,
    #[serde(default)]
    topics: Option<Vec<String>>,
}

impl Tokens {
    /// Loads the keys that the configuration names.
    ///
    /// # Errors
    /// Which key could not be loaded, and why.
    pub fn load(access: &Access) -> Result<Self, TokenError> {
        let keys = access
            .keys
            .iter()
            .enumerate()
            .map(|(index, key)| load_key(key).map_err(|reason| TokenError::Key { index, reason }))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            keys,
            audience: access.audience.clone(),
            issuer: access.issuer.clone(),
            default_topics: TopicRules::new(access.default_topics.iter().cloned()),
        })
    }

    /// Verifies `token`.
    ///
    /// # Errors
    /// Why it was not accepted.
    pub fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        if self.keys.is_empty() {
            return Err(TokenError::NoKeys);
        }
        let invalid = |e: jsonwebtoken::errors::Error| match e.kind() {
            jsonwebtoken::errors::ErrorKind::ExpiredSignature => TokenError::Expired,
            _ => TokenError::Invalid(e.to_string()),
        };
        let header = decode_header(token).map_err(invalid)?;
        let fitting =
            self.keys.iter().filter(|k| k.algorithm == header.alg && (k.kid.is_none() || k.kid == header.kid));
        let mut last = TokenError::Invalid(format!("no key for algorithm {:?} and kid {:?}", header.alg, header.kid));
        for key in fitting {
            let mut validation = Validation::new(key.algorithm);
            validation.leeway = LEEWAY_S;
            validation.validate_nbf = true;
            validation.set_required_spec_claims(&["exp"]);
            match &self.audience {
                Some(audience) => validation.set_audience(&[audience]),
                None => validation.validate_aud = false,
            }
            if let Some(issuer) = &self.issuer {
                validation.set_issuer(&[issuer]);
            }
            match decode::<Claims>(token, &key.key, &validation) {
                Ok(data) => {
                    let topics = data.claims.topics.map_or_else(|| self.default_topics.clone(), TopicRules::new);
                    return Ok(Identity { user: data.claims.sub, expires_s: data.claims.exp, topics });
                }
                Err(e) => last = invalid(e),
            }
        }
        Err(last)
    }
}

fn load_key(key: &TokenKey) -> Result<Key, String> {
    let read = |path: &std::path::Path| std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
    let pem = || match &key.public_key_file {
        Some(path) => read(path),
        None => Err("`public_key_file` is missing".to_owned()),
    };
    let text = |e: jsonwebtoken::errors::Error| e.to_string();
    let (algorithm, decoding) = match key.algorithm {
        TokenAlgorithm::HS256 => {
            let secret = match (&key.secret, &key.secret_file) {
                (Some(secret), _) => secret.clone().into_bytes(),
                (None, Some(path)) => read(path)?.trim_ascii().to_vec(),
                (None, None) => return Err("`secret` is missing".into()),
            };
            if secret.len() < 32 {
                return Err(format!("secret has {} bytes, the least is 32", secret.len()));
            }
            (Algorithm::HS256, DecodingKey::from_secret(&secret))
        }
        TokenAlgorithm::RS256 => (Algorithm::RS256, DecodingKey::from_rsa_pem(&pem()?).map_err(text)?),
        TokenAlgorithm::ES256 => (Algorithm::ES256, DecodingKey::from_ec_pem(&pem()?).map_err(text)?),
        TokenAlgorithm::EdDSA => (Algorithm::EdDSA, DecodingKey::from_ed_pem(&pem()?).map_err(text)?),
    };
    Ok(Key { kid: key.kid.clone(), algorithm, key: decoding })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn tokens() -> Tokens {
        let key = TokenKey {
            kid: None,
            algorithm: TokenAlgorithm::HS256,
            secret: Some(SECRET.into()),
            secret_file: None,
            public_key_file: None,
        };
        let access = Access {
            keys: vec![key],
            audience: Some("dash".into()),
            issuer: Some("me".into()),
            default_topics: vec!["public:*".into()],
            ..Access::default()
        };
        Tokens::load(&access).unwrap()
    }

    fn sign(algorithm: Algorithm, secret: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut claims = json!({"sub":"u1","aud":"dash","iss":"me","exp": crate::clock::unix_ms() / 1000 + 60});
        change(&mut claims);
        encode(&Header::new(algorithm), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    #[test]
    fn what_is_accepted_and_what_is_not() {
        let t = tokens();
        let good = t.verify(&sign(Algorithm::HS256, SECRET, |_| {})).unwrap();
        assert_eq!(good.user, "u1");
        assert!(good.topics.allow(&crate::name::TopicName::new("public:a").unwrap()));
        let own = t.verify(&sign(Algorithm::HS256, SECRET, |c| c["topics"] = json!(["x:*"]))).unwrap();
        assert!(!own.topics.allow(&crate::name::TopicName::new("public:a").unwrap()));

        assert_eq!(t.verify(&sign(Algorithm::HS256, SECRET, |c| c["exp"] = json!(1))), Err(TokenError::Expired));
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
            ("garbage", "a.b.c".into()),
            ("empty", String::new()),
        ];
        for (what, token) in refused {
            assert!(matches!(t.verify(&token), Err(TokenError::Invalid(_))), "{what}");
        }
    }
}
