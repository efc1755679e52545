//! An invalid token: its client is told what is wrong with it, in the same plain words at every interface.

use futures_util::{SinkExt as _, StreamExt as _};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::tokens::{SECRET, claims, config, hs256, now_s};
use crate::support::{PATIENCE, Server};

/// Texts that no error may contain: type names of our libraries, and the operator's values.
const HIDDEN_WORDS: [&str; 9] =
    ["invalid type", "expected", "InvalidToken", "Some(", "Base64", "serde", " column ", "their-backend", "dashboards"];

/// The code and the reason of the close after this message.
async fn closed(server: &Server, path: &str, message: Value) -> (u16, String) {
    let url = format!("ws://{}{path}", server.address);
    let mut socket = tokio_tungstenite::connect_async(url).await.unwrap().0;
    socket.send(Message::text(message.to_string())).await.unwrap();
    loop {
        match tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap() {
            Message::Close(frame) => {
                let frame = frame.unwrap();
                return (frame.code.into(), frame.reason.as_str().to_owned());
            }
            _ => continue,
        }
    }
}

#[tokio::test]
async fn a_tokens_fault_is_explained_at_every_interface() {
    let more = "[limits]\ntoken_failures_per_address = 0\n";
    let named = "audience = \"dashboards\"\nissuer = \"their-backend\"\nexpired_close_delay";
    let server = Server::start(&config(more).replace("expired_close_delay", named));
    let token = |more: Value| {
        let mut all = claims("u1", 600, json!({"topics": ["a:*"], "aud": "dashboards", "iss": "their-backend"}));
        all.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        hs256(&all)
    };
    let by = |header: Header, secret: &str| {
        encode(&header, &json!({"exp": now_s() + 60}), &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    };
    let good = token(json!({}));
    let (head, rest) = good.split_once('.').unwrap();
    let cut = &good[..good.len() - 5];
    let kid = Header { kid: Some("K".repeat(300)), ..Header::new(Algorithm::HS384) };
    for (what, token, says) in [
        ("not yet", token(json!({"nbf": now_s() + 600})), "it is not valid yet (nbf)"),
        (
            "another secret",
            by(Header::new(Algorithm::HS256), "fedcba9876543210fedcba9876543210"),
            "its signature is wrong",
        ),
        ("cut off", cut.to_owned(), "its signature is wrong"),
        ("another algorithm", by(Header::new(Algorithm::HS384), SECRET), "no key is known for its alg HS384"),
        ("a kid", by(kid, SECRET), "no key is known for its kid `KKKKKKKKKKKKKKKKKKKKKKKK` and alg HS384"),
        ("another audience", token(json!({"aud": "x"})), "aud is not access.audience"),
        ("another issuer", token(json!({"iss": "x"})), "iss is not access.issuer"),
        ("no end", token(json!({"exp": null})), "exp is null"),
        ("garbage", "an-api-key".to_owned(), "it must be a signed JWT, three parts"),
        ("four parts", format!("{good}.x"), "it must be a signed JWT, three parts"),
        ("no header", format!("!!.{rest}"), "its header is not base64url"),
        ("no JSON", format!("YWJj.{rest}"), "its header is not a JSON object"),
        // {"alg":"none"}
        ("none", format!("eyJhbGciOiJub25lIn0.{rest}"), "its alg is \"none\""),
        ("claims that are none", format!("{head}.YWJj.x"), "its signature is wrong"),
        ("topics that are a text", token(json!({"topics": "a:*"})), "topics is \"a:*\", it must be a list of texts"),
        ("topics with a number", token(json!({"topics": [1]})), "topics is [1], it must be a list of texts"),
        (
            "a pattern that never matches",
            token(json!({"topics": ["a:*", "*quotes"]})),
            "topics[1] `*quotes` never matches",
        ),
        ("a star within", token(json!({"topics": ["a*b"]})), "topics[0] `a*b` never matches"),
        ("an empty rule", token(json!({"topics": [""]})), "topics[0] is empty"),
        ("channels that are a text", token(json!({"channels": "a"})), "channels is \"a\", it must be a list of texts"),
        ("subs that are a list", token(json!({"subs": ["a"]})), "subs is [\"a\"], it must be an object by topic"),
        ("a subscription token", token(json!({"channel": "a"})), "it is a subscription token"),
    ] {
        let bearer = format!("Bearer {token}");
        let (status, _, body) = server.http("GET", "/api/topics", &[("Authorization", &bearer)], "");
        let body: Value = serde_json::from_str(&body).unwrap();
        let shown = body["error"]["message"].as_str().unwrap();
        assert_eq!((status, shown.starts_with("token is not valid: ")), (401, true), "{what}: {shown}");
        let mut all = vec![shown.to_owned()];
        for (path, message) in [
            ("/ws", json!({"op": "auth", "id": 1, "token": token})),
            ("/connection/websocket", json!({"id": 1, "connect": {"token": token}})),
        ] {
            let (code, reason) = closed(&server, path, message).await;
            assert_eq!((code, reason.starts_with("invalid token: ")), (3500, true), "{what} at {path}: {reason}");
            assert!(reason.len() <= 123, "{reason}");
            all.push(reason);
        }
        for shown in all {
            assert!(shown.contains(says), "{what}: {shown}");
            assert!(HIDDEN_WORDS.iter().all(|word| !shown.contains(word)), "{what}: {shown}");
        }
    }
    // An expired token, and no token.
    let late = token(json!({"exp": now_s() - 600}));
    let (code, reason) = closed(&server, "/ws", json!({"op": "auth", "token": late})).await;
    assert_eq!((code, reason.as_str()), (3500, "invalid token: it has expired (exp)"));
    let bearer = format!("Bearer {late}");
    let (_, _, body) = server.http("GET", "/api/topics", &[("Authorization", &bearer)], "");
    assert!(body.contains("token has expired (exp)"), "{body}");
    let (code, reason) = closed(&server, "/connection/websocket", json!({"id": 1, "connect": {}})).await;
    assert_eq!((code, reason.as_str()), (3500, "invalid token: a token is needed"));
    // Metrics count them as one reason: what is wrong with each is not a label.
    assert!(server.metric("closes_total{reason=\"invalid_token\"}") >= 40.0);
}
