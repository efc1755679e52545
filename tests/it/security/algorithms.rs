//! Every algorithm, with keys in files and in a key set; and no key is accepted for another's algorithm.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::Server;
use crate::support::http_backend::Backend;
use crate::support::tokens::{SECRET, claims};

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");

fn private(name: &str) -> EncodingKey {
    let pem = std::fs::read(format!("{KEYS}/{name}.pem")).unwrap();
    match name {
        "rsa" => EncodingKey::from_rsa_pem(&pem),
        "ed" => EncodingKey::from_ed_pem(&pem),
        _ => EncodingKey::from_ec_pem(&pem),
    }
    .unwrap()
}

fn sign(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    encode(&header, &claims("u1", 60, json!({"topics": ["stream:*"]})), key).unwrap()
}

const ASYMMETRIC: [(&str, Algorithm); 3] =
    [("rsa", Algorithm::RS256), ("ed", Algorithm::EdDSA), ("ec", Algorithm::ES256)];

/// Whether a `plain` session is accepted with it.
async fn accepted(server: &Server, token: &str) -> bool {
    let mut client = server.client().await;
    client.send(json!({"op": "auth", "id": 1, "token": token})).await;
    client.next().await["ok"] == true
}

#[tokio::test]
async fn keys_in_files() {
    let key = |algorithm: &str, name: &str| {
        format!("[[access.keys]]\nalgorithm = \"{algorithm}\"\npublic_key_file = \"{KEYS}/{name}.pub.pem\"\n")
    };
    let keys = [key("RS256", "rsa"), key("EdDSA", "ed"), key("ES256", "ec")].concat();
    let server = Server::start(&format!("{keys}[[access.keys]]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"\n"));
    for (name, algorithm) in ASYMMETRIC {
        assert!(accepted(&server, &sign(algorithm, None, &private(name))).await, "{algorithm:?}");
    }
    assert!(accepted(&server, &sign(Algorithm::HS256, None, &EncodingKey::from_secret(SECRET.as_bytes()))).await);
    // The public key as an HMAC secret, and an algorithm without a key.
    let public = std::fs::read(format!("{KEYS}/rsa.pub.pem")).unwrap();
    assert!(!accepted(&server, &sign(Algorithm::HS256, None, &EncodingKey::from_secret(&public))).await);
    assert!(!accepted(&server, &sign(Algorithm::RS512, None, &private("rsa"))).await);
    assert!(!accepted(&server, &sign(Algorithm::PS256, None, &private("rsa"))).await);
}

#[tokio::test]
async fn keys_of_a_set() {
    let set: Value = serde_json::from_slice(&std::fs::read(format!("{KEYS}/jwks.json")).unwrap()).unwrap();
    let backend = Backend::start(move |_| set.clone());
    let server = Server::start(&format!("[access.jwks]\nurl = \"{}\"\n", backend.url()));
    for (name, algorithm) in ASYMMETRIC {
        assert!(accepted(&server, &sign(algorithm, Some(name), &private(name))).await, "{algorithm:?}");
    }
    for (what, token) in [
        ("another key's kid", sign(Algorithm::ES256, Some("rsa"), &private("ec"))),
        ("a key for encryption", sign(Algorithm::RS256, Some("for-encryption"), &private("rsa"))),
        ("a key for another algorithm", sign(Algorithm::RS256, Some("other-alg"), &private("rsa"))),
        ("no kid, where every key has one", sign(Algorithm::ES256, None, &private("ec"))),
    ] {
        assert!(!accepted(&server, &token).await, "{what}");
    }
}
