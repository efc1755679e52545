//! Keys. Each is for one algorithm; `none` is not supported.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};

use crate::config::{TokenAlgorithm, TokenKey};

/// Accepted lengths of the modulus of an RSA key in a set, in bytes.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 128..=512;

/// A key and its only algorithm.
pub(super) struct Key {
    pub(super) kid: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

impl Key {
    /// Loads a key that the configuration names.
    pub(super) fn load(key: &TokenKey) -> Result<Self, String> {
        let read = |path: &std::path::Path| std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
        let pem = || match &key.public_key_file {
            Some(path) => read(path),
            None => Err("`public_key_file` is missing".to_owned()),
        };
        let file = || key.public_key_file.as_deref().unwrap_or(std::path::Path::new("")).display();
        let not_a = |kind: &str, error: jsonwebtoken::errors::Error| {
            let algorithm = key.algorithm;
            format!("{} is no public key in PEM for {algorithm:?} ({kind}): {error}; a private key is none", file())
        };
        let decoding = match key.algorithm {
            TokenAlgorithm::HS256 => {
                // Bytes, not text: the file may hold any bytes.
                let secret = match (&key.secret, &key.secret_file, &key.secret_env) {
                    (Some(secret), ..) => secret.clone().into_bytes(),
                    (None, Some(path), _) => read(path)?.trim_ascii().to_vec(),
                    (None, None, Some(variable)) => match std::env::var(variable) {
                        Ok(secret) => secret.into_bytes(),
                        Err(error) => return Err(format!("environment variable {variable}: {error}")),
                    },
                    (None, None, None) => return Err("`secret` is missing".into()),
                };
                if secret.len() < 32 {
                    return Err(format!("secret has {} bytes, the least is 32", secret.len()));
                }
                DecodingKey::from_secret(&secret)
            }
            TokenAlgorithm::RS256 => DecodingKey::from_rsa_pem(&pem()?).map_err(|e| not_a("RSA", e))?,
            TokenAlgorithm::ES256 => DecodingKey::from_ec_pem(&pem()?).map_err(|e| not_a("EC, P-256", e))?,
            TokenAlgorithm::EdDSA => DecodingKey::from_ed_pem(&pem()?).map_err(|e| not_a("Ed25519", e))?,
        };
        Ok(Self { kid: key.kid.clone(), algorithm: algorithm(key.algorithm), key: decoding })
    }

    /// Whether a token with this header may be signed by this key.
    pub(super) fn fits(&self, algorithm: Algorithm, kid: Option<&str>) -> bool {
        self.algorithm == algorithm && (self.kid.is_none() || self.kid.as_deref() == kid)
    }
}

pub(super) fn algorithm(name: TokenAlgorithm) -> Algorithm {
    match name {
        TokenAlgorithm::HS256 => Algorithm::HS256,
        TokenAlgorithm::RS256 => Algorithm::RS256,
        TokenAlgorithm::ES256 => Algorithm::ES256,
        TokenAlgorithm::EdDSA => Algorithm::EdDSA,
    }
}

/// The keys of a set (RFC 7517) that are for signatures and for one of `allowed`. Each is pinned to
/// the algorithm that it names or, if it names none, to the only one of its type.
pub(super) fn of_set(set: &JwkSet, allowed: &[Algorithm]) -> Vec<Key> {
    let key = |jwk: &Jwk| {
        if jwk.common.public_key_use.as_ref().is_some_and(|u| *u != PublicKeyUse::Signature) {
            return None;
        }
        let natural = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(p) if p.curve == EllipticCurve::P256 => Algorithm::ES256,
            AlgorithmParameters::OctetKeyPair(p) if p.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
            _ => return None,
        };
        let named = match jwk.common.key_algorithm {
            None => natural,
            Some(KeyAlgorithm::RS256) => Algorithm::RS256,
            Some(KeyAlgorithm::ES256) => Algorithm::ES256,
            Some(KeyAlgorithm::EdDSA) => Algorithm::EdDSA,
            Some(_) => return None,
        };
        if named != natural || !allowed.contains(&named) {
            return None;
        }
        let decoding = DecodingKey::from_jwk(jwk).ok().filter(|key| verifies(&jwk.algorithm, key, named))?;
        Some(Key { kid: jwk.common.key_id.clone(), algorithm: named, key: decoding })
    };
    set.keys.iter().filter_map(key).collect()
}

/// Whether a key of a set can verify signatures: its numbers have the length and values that its
/// type requires. A set without such keys does not replace another one.
fn verifies(parameters: &AlgorithmParameters, key: &DecodingKey, algorithm: Algorithm) -> bool {
    let number = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).unwrap_or_default();
    match parameters {
        AlgorithmParameters::RSA(p) => {
            let (n, e) = (number(&p.n), number(&p.e));
            let (n, e) = (significant(&n), significant(&e));
            let odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
            RSA_BYTES.contains(&n.len()) && odd(n) && odd(e) && (e.len() <= 4) && e != [1]
        }
        // The length is checked first: the library assumes 32 bytes.
        AlgorithmParameters::OctetKeyPair(p) if number(&p.x).len() != 32 => false,
        // The library checks that it is a point of its curve before it looks at the signature.
        _ => jsonwebtoken::crypto::verify("", b"", key, algorithm).is_ok(),
    }
}

/// A number without leading zeros.
fn significant(number: &[u8]) -> &[u8] {
    number.get(number.iter().take_while(|byte| **byte == 0).count()..).unwrap_or_default()
}
