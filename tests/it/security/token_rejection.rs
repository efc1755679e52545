//! Invalid tokens of every kind, in every place: none is accepted, the client gets the reason and is closed, and a
//! session with a good token is not affected.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::bystander::Healthy;
use crate::support::raw_socket::{close_code, frame, upgraded_at};
use crate::support::tokens::{SECRET, claims, hs256, now_s};
use crate::support::{PATIENCE, Server};

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");

fn config() -> String {
    let key = |algorithm: &str, name: &str| {
        format!("[[access.keys]]\nalgorithm = \"{algorithm}\"\npublic_key_file = \"{KEYS}/{name}.pub.pem\"\n")
    };
    format!(
        "[publish]\nopen = true\n[limits]\ntoken_failures_per_address = 0\nmessage_bytes_before_auth = 65536\n[access]\naudience = \"dashboards\"\nissuer = \"backend\"\n\
         [[access.keys]]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"\n{}{}{}",
        key("RS256", "rsa"),
        key("ES256", "ec"),
        key("EdDSA", "ed"),
    )
}

/// The claims of a good token, and more.
fn good(more: Value) -> Value {
    let mut good = json!({"topics": ["stream:*"], "aud": "dashboards", "iss": "backend"});
    good.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    claims("u1", 600, good)
}

fn without(claim: &str) -> Value {
    let mut claims = good(json!({}));
    claims.as_object_mut().unwrap().remove(claim);
    claims
}

/// This header and these claims, signed with [`SECRET`] by HMAC-SHA256 whatever they contain.
fn signed(header: &[u8], claims: &[u8]) -> String {
    let unsigned = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = ring::hmac::sign(&key, unsigned.as_bytes());
    format!("{unsigned}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

fn with(algorithm: Algorithm, key: &EncodingKey) -> String {
    encode(&Header::new(algorithm), &good(json!({})), key).unwrap()
}

fn wrong() -> Vec<(&'static str, String)> {
    let fine = hs256(&good(json!({})));
    let [header, body, signature] = fine.split('.').collect::<Vec<_>>()[..] else { panic!("{fine}") };
    let hs = br#"{"alg":"HS256","typ":"JWT"}"#;
    let token_of = |claims: &Value| signed(hs, claims.to_string().as_bytes());
    let public = |name: &str| EncodingKey::from_secret(&std::fs::read(format!("{KEYS}/{name}.pub.pem")).unwrap());
    let theirs = ring::signature::Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
    let rsa = EncodingKey::from_rsa_pem(&std::fs::read(format!("{KEYS}/rsa.pem")).unwrap()).unwrap();
    let named = |alg: &str| URL_SAFE_NO_PAD.encode(json!({"alg": alg, "typ": "JWT"}).to_string());
    let mut flipped = signature.to_owned();
    let first = if flipped.starts_with('A') { "B" } else { "A" };
    flipped.replace_range(..1, first);
    let other = hs256(&good(json!({"sub": "admin"})));
    let other: Vec<&str> = other.split('.').collect();
    assert_eq!(token_of(&good(json!({}))).split('.').count(), 3);
    vec![
        ("nothing", String::new()),
        ("garbage", "garbage".into()),
        ("dots", "..".into()),
        ("three letters", "a.b.c".into()),
        ("two parts", format!("{header}.{body}")),
        ("four parts", format!("{fine}.{signature}")),
        ("five parts, as if it were encrypted", format!("{fine}.{body}.{signature}")),
        ("no signature", format!("{header}.{body}.")),
        ("a signature that was changed", format!("{header}.{body}.{flipped}")),
        ("another token's signature", format!("{header}.{body}.{}", other[2])),
        ("another token's claims", format!("{header}.{}.{signature}", other[1])),
        ("a header that was changed", format!("{}.{body}.{signature}", named("HS384"))),
        ("padding", format!("{header}=.{body}=.{signature}=")),
        ("something behind it", format!("{fine}A")),
        ("a bracket around it", format!("\"{fine}\"")),
        ("algorithm none", format!("{}.{body}.", named("none"))),
        ("algorithm None", format!("{}.{body}.", named("None"))),
        ("algorithm NONE, signed", format!("{}.{body}.{signature}", named("NONE"))),
        ("no algorithm", signed(b"{}", good(json!({})).to_string().as_bytes())),
        ("an algorithm that is a number", signed(br#"{"alg":256}"#, good(json!({})).to_string().as_bytes())),
        ("an unknown algorithm", signed(br#"{"alg":"HS257"}"#, good(json!({})).to_string().as_bytes())),
        (
            "an extension that must be understood",
            signed(br#"{"alg":"HS256","crit":["x"],"x":1}"#, good(json!({})).to_string().as_bytes()),
        ),
        (
            "claims that are not encoded",
            signed(br#"{"alg":"HS256","crit":["b64"],"b64":false}"#, good(json!({})).to_string().as_bytes()),
        ),
        ("HS384 with the secret of HS256", with(Algorithm::HS384, &EncodingKey::from_secret(SECRET.as_bytes()))),
        ("HS512 with the secret of HS256", with(Algorithm::HS512, &EncodingKey::from_secret(SECRET.as_bytes()))),
        ("another secret", with(Algorithm::HS256, &EncodingKey::from_secret(b"fedcba9876543210fedcba9876543210"))),
        ("an empty secret", with(Algorithm::HS256, &EncodingKey::from_secret(b""))),
        ("a public RSA key as the secret", with(Algorithm::HS256, &public("rsa"))),
        ("a public EC key as the secret", with(Algorithm::HS256, &public("ec"))),
        ("a public Ed25519 key as the secret", with(Algorithm::HS256, &public("ed"))),
        ("another Ed25519 key", with(Algorithm::EdDSA, &EncodingKey::from_ed_der(theirs.as_ref()))),
        ("RS512 with the key of RS256", with(Algorithm::RS512, &rsa)),
        ("PS256 with the key of RS256", with(Algorithm::PS256, &rsa)),
        ("expired", token_of(&good(json!({"exp": now_s() - 3_600})))),
        ("expired in 1970", token_of(&good(json!({"exp": 0})))),
        ("an end before 1970", token_of(&good(json!({"exp": -1})))),
        ("an end that is a text", token_of(&good(json!({"exp": "never"})))),
        ("an end that is null", token_of(&good(json!({"exp": null})))),
        ("an end that is a list", token_of(&good(json!({"exp": [now_s() + 600]})))),
        (
            "an end beyond all numbers",
            signed(
                hs,
                format!(r#"{{"sub":"u1","aud":"dashboards","iss":"backend","exp":{}}}"#, "9".repeat(400)).as_bytes(),
            ),
        ),
        ("no end", token_of(&without("exp"))),
        ("not valid yet", token_of(&good(json!({"nbf": now_s() + 3_600})))),
        ("for another audience", token_of(&good(json!({"aud": "billing"})))),
        ("for no audience", token_of(&without("aud"))),
        ("by another issuer", token_of(&good(json!({"iss": "evil"})))),
        ("by no issuer", token_of(&without("iss"))),
        ("a user that is a number", token_of(&good(json!({"sub": 7})))),
        ("topics that are a text", token_of(&good(json!({"topics": "*"})))),
        ("topics that are numbers", token_of(&good(json!({"topics": [1]})))),
        ("a subscription's", token_of(&good(json!({"channel": "stream:a"})))),
        (
            "more subscriptions than a token may name",
            token_of(&good(json!({"channels": (0..200).map(|n| format!("stream:{n}")).collect::<Vec<_>>()}))),
        ),
        ("claims that are a list", signed(hs, b"[]")),
        ("claims that are a text", signed(hs, b"\"u1\"")),
        ("claims that are nothing", signed(hs, b"")),
        ("claims that are not JSON", signed(hs, b"{\"exp\":")),
        ("claims that are not text", signed(hs, &[0xff, 0xfe])),
        ("claims that are deep", signed(hs, format!("{}1{}", "[".repeat(3_000), "]".repeat(3_000)).as_bytes())),
        ("very long", format!("{header}.{}.{signature}", "A".repeat(9_000))),
    ]
}

/// The first byte of the next frame, which is not consumed.
fn first_byte(stream: &TcpStream) -> u8 {
    let mut first = [0];
    assert_eq!(stream.peek(&mut first).unwrap(), 1, "closed without a frame");
    first[0]
}

/// The text of the next complete message, if there is one.
fn message(stream: &mut TcpStream) -> Value {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[0], 0x81);
    let mut long = [0; 2];
    let length = match head[1] {
        126 => {
            stream.read_exact(&mut long).unwrap();
            usize::from(u16::from_be_bytes(long))
        }
        n => usize::from(n),
    };
    let mut text = vec![0; length];
    stream.read_exact(&mut text).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn status(address: SocketAddr, head: &str) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    std::str::from_utf8(&status[9..]).unwrap().parse().unwrap()
}

/// Checks a token in all places. Returns deviations; none if everything is right.
fn refused_everywhere(address: SocketAddr, token: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expect = |what: &str, got: Value, expected: Value| {
        if got != expected {
            wrong.push(format!("{what}: {got}, not {expected}"));
        }
    };
    let mut plain = upgraded_at(address, "/ws", "").0;
    plain.write_all(&frame(0x81, json!({"op": "auth", "id": 1, "token": token}).to_string().as_bytes())).unwrap();
    let answer = message(&mut plain);
    expect("auth", answer["error"]["code"].clone(), json!(401));
    if answer["ok"] == false {
        expect("auth, closed", json!(close_code(&mut plain)), json!(3500));
    }
    // A Centrifuge client without a token is anonymous, which is refused here in another way.
    if !token.is_empty() {
        let mut centrifuge = upgraded_at(address, "/connection/websocket", "").0;
        centrifuge
            .write_all(&frame(0x81, json!({"id": 1, "connect": {"token": token}}).to_string().as_bytes()))
            .unwrap();
        // For an expired token the client is asked for a new one; any other ends the session for good.
        match first_byte(&centrifuge) {
            0x81 => expect("connect", message(&mut centrifuge)["error"]["code"].clone(), json!(109)),
            _ => expect("connect", json!(close_code(&mut centrifuge)), json!(3500)),
        }
    }
    if token.bytes().all(|b| (0x20..0x7f).contains(&b)) && !token.is_empty() {
        let bearer = format!("Authorization: Bearer {token}\r\n\r\n");
        let upgrade = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        expect("the upgrade", json!(status(address, &format!("{upgrade}{bearer}"))), json!(401));
        let page = "GET /api/topics/stream:healthy HTTP/1.1\r\nHost: x\r\n";
        expect("the page", json!(status(address, &format!("{page}{bearer}"))), json!(401));
    }
    wrong
}

#[tokio::test]
async fn none_of_them_is_accepted() {
    let server = Server::start(&config());
    let bearer = format!("Bearer {}", hs256(&good(json!({}))));
    let mut healthy = Healthy::beside_with(&server, &[("authorization", &bearer)]).await;
    let (address, tokens) = (server.address, wrong());
    let kinds = tokens.len();
    let outcomes = healthy
        .during(kinds, move |round| {
            let (what, token) = &tokens[round % tokens.len()];
            refused_everywhere(address, token).into_iter().map(|wrong| format!("{what}: {wrong}")).collect::<Vec<_>>()
        })
        .await;
    let wrong: Vec<String> = outcomes.concat();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(server.metric("tokens_refused_total") >= kinds as f64);
    server.until("none of them is left", |s| s.metric("sessions") == 1.0).await;
    assert!(!server.log().contains(SECRET), "a secret in the log");
}
