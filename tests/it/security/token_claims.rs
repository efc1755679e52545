//! Claims of tokens and how tokens are sent: times, issuers, the `Authorization` header, useless key sets.

use std::sync::Arc;
use std::sync::Mutex;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::centrifuge_client::Centrifuge;
use crate::support::http_backend::Backend;
use crate::support::tokens::{claims, config, hs256, now_s};
use crate::support::{Client, Server};

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");

fn token(more: Value) -> String {
    let mut claims = claims("u1", 600, json!({"topics": ["stream:*"]}));
    claims.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    hs256(&claims)
}

async fn auth(server: &Server, token: &str) -> (Client, Value) {
    let mut client = server.client().await;
    client.send(json!({"op": "auth", "id": 1, "token": token})).await;
    let reply = client.next().await;
    (client, reply)
}

#[tokio::test]
async fn times_with_a_fraction_are_good_and_implausible_ones_are_refused_by_name() {
    let server = Server::start(&config(""));
    #[allow(clippy::cast_precision_loss)]
    let soon = now_s() as f64 + 600.5;
    for more in [json!({"exp": soon}), json!({"exp": 253_402_300_799_u64}), json!({"nbf": soon - 1000.0, "iat": soon})]
    {
        let (mut client, reply) = auth(&server, &token(more.clone())).await;
        assert_eq!(reply["ok"], true, "{more}: {reply}");
        // The end is far away: nothing closes the session meanwhile.
        server.until("a sweep", |s| s.metric("ticks_total") > 3.0).await;
        assert_eq!(client.subscribe(&["stream:a"]).await["ok"], true, "{more}");
        client.nothing_more().await;
    }
    for (more, shown) in [
        (json!({"exp": now_s() * 1000}), "milliseconds"),
        (json!({"exp": u64::MAX - 25}), "exp is 18446744073709551590"),
        (json!({"exp": -5}), "exp is -5"),
        (json!({"exp": "soon"}), "it must be a number"),
        (json!({"nbf": now_s() * 1000}), "nbf is"),
        (json!({"iat": now_s() * 1000}), "iat is"),
        (json!({"iss": ["me"]}), "iss must be one text"),
        (json!({"sub": ["u1"]}), "sub must be one text"),
        (json!({"topics": ["stream:\u{feff}*"]}), "U+FEFF"),
    ] {
        let bearer = format!("Bearer {}", token(more.clone()));
        let (status, _, body) = server.http("GET", "/api/topics/stream:a", &[("Authorization", &bearer)], "");
        assert_eq!(status, 401, "{more}: {body}");
        assert!(body.contains(shown), "{more}: {body}");
        let (mut client, reply) = auth(&server, &token(more.clone())).await;
        assert!(reply["error"]["reason"].as_str().unwrap().contains(shown), "{more}: {reply}");
        assert_eq!(client.close_code().await, 3500, "{more}");
    }
}

/// A token is accepted for 5 seconds after its `exp`, because clocks differ. A session or subscription that begins then
/// ends after those seconds, not immediately, in both dialects.
#[tokio::test]
async fn a_session_lasts_as_long_as_its_token_is_accepted() {
    let server = Server::start(&config("").replace("expired_close_delay = \"1s\"", "expired_close_delay = \"0s\""));
    let exp = now_s();
    let late = token(json!({"exp": exp}));
    let (mut plain, reply) = auth(&server, &late).await;
    assert_eq!(reply["ok"], true, "{reply}");
    assert_eq!(plain.subscribe(&["stream:a"]).await["ok"], true);
    let mut session = Centrifuge::open(&server).await;
    let reply = session.ask(json!({"id": 1, "connect": {"token": late}})).await;
    // Its client must bring another soon, and does not get 0, which Protobuf omits and which means "never".
    assert_eq!((&reply["connect"]["expires"], &reply["connect"]["ttl"]), (&json!(true), &json!(1)), "{reply}");
    let mut other = Centrifuge::connect(&server, &token(json!({}))).await;
    let own = hs256(&json!({"sub": "u1", "exp": exp, "channel": "own:a"}));
    let reply = other.ask(json!({"id": 2, "subscribe": {"channel": "own:a", "token": own}})).await;
    assert_eq!(reply["subscribe"]["ttl"], 1, "{reply}");

    let not_before_its_time = |what: &str| assert!(now_s() >= exp + 5, "{what} ended {} s after exp", now_s() - exp);
    assert_eq!(plain.close_code().await, 3005);
    not_before_its_time("the plain session");
    assert_eq!(session.next().await, json!({"close": 3005}));
    not_before_its_time("the Centrifuge session");
    assert_eq!(other.next().await["push"]["unsubscribe"]["code"], 2501);
    not_before_its_time("the subscription");
    // After that the token is not accepted any more.
    assert_eq!(auth(&server, &late).await.1["error"]["code"], 401);
}

#[tokio::test]
async fn the_scheme_of_authorization_is_read_in_any_case_and_no_other_is_passed_over() {
    // Open to anonymous clients: if the token were ignored, the client would be accepted.
    let server =
        Server::start(&config("[limits]\nsessions_per_user = 1\n").replace("[access]", "[access]\nanonymous = true"));
    server.publish("stream:a", &json!(1));
    for scheme in ["Bearer", "bearer", "BEARER", "bEARER"] {
        let value = format!("{scheme} {}", token(json!({"sub": scheme})));
        let _session = Client::connect_with(server.address, &[("authorization", &value)]).await.unwrap();
        // It was read: the user's only session is taken.
        assert_eq!(
            Client::connect_with(server.address, &[("authorization", &value)]).await.err(),
            Some(429),
            "{scheme}"
        );
        assert_eq!(server.http("GET", "/api/topics/stream:a", &[("Authorization", &value)], "").0, 200, "{scheme}");
    }
    for value in ["Basic dTpw", "Bearer", "Digest x", "Token abc", "Bearer a b"] {
        let (status, head, _) = server.http("GET", "/api/topics/stream:a", &[("Authorization", value)], "");
        assert_eq!(status, 401, "{value}");
        assert!(head.contains("www-authenticate: bearer"), "{head}");
        assert_eq!(Client::connect_with(server.address, &[("authorization", value)]).await.err(), Some(401), "{value}");
    }
}

#[tokio::test]
async fn operators_keys_are_bearers_in_any_case() {
    let key = "0123456789abcdef-operator";
    let server = Server::start(&config(&format!("[operator]\nkey = \"{key}\"\n")));
    for scheme in ["Bearer", "bearer", "BEARER"] {
        assert_eq!(
            server.http("GET", "/status", &[("Authorization", &format!("{scheme} {key}"))], "").0,
            200,
            "{scheme}"
        );
    }
    assert_ne!(server.http("GET", "/status", &[("Authorization", &format!("Basic {key}"))], "").0, 200);
}

#[tokio::test]
async fn a_key_set_that_is_worth_nothing_does_not_replace_good_keys() {
    let good: Value = serde_json::from_slice(&std::fs::read(format!("{KEYS}/jwks.json")).unwrap()).unwrap();
    let now = Arc::new(Mutex::new(good.clone()));
    let served = now.clone();
    let backend = Backend::start(move |_| served.lock().unwrap().clone());
    let server = Server::start(&format!("[access.jwks]\nurl = \"{}\"\nmin_interval = \"100ms\"\n", backend.url()));
    let key = EncodingKey::from_ec_pem(&std::fs::read(format!("{KEYS}/ec.pem")).unwrap()).unwrap();
    let signed = |kid: &str| {
        let header = Header { kid: Some(kid.into()), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims("u1", 600, json!({})), &key).unwrap()
    };
    assert_eq!(auth(&server, &signed("ec")).await.1["ok"], true);
    // Right kind and name, with numbers that are not a key's.
    let ec = |x: &str, y: &str| json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "ec", "x": x, "y": y});
    let (short, other) = ("AA", "A".repeat(43));
    let ed = |x: &str| json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "unknown", "x": x});
    let rsa = |n: &str, e: &str| json!({"kty": "RSA", "alg": "RS256", "kid": "rsa", "n": n, "e": e});
    let keys = [
        json!({"kty": "oct", "k": "AAAA", "kid": "ec"}),
        ec(short, short),
        ec(&other, &other),
        ec("", ""),
        ed(short),
        ed(&"A".repeat(1000)),
        rsa("AQ", "AQAB"),
        rsa(&"_".repeat(342), "AA"),
        rsa(&"_".repeat(2000), "AQAB"),
    ];
    let sets = [json!({"keys": []}), json!({}), json!("<html>"), json!([]), json!({"keys": 1})];
    for worthless in keys.into_iter().map(|key| json!({"keys": [key]})).chain(sets) {
        *now.lock().unwrap() = worthless.clone();
        let before = backend.requests();
        while backend.requests() == before {
            // Triggers another fetch of the set.
            assert_eq!(auth(&server, &signed("unknown")).await.1["error"]["code"], 401);
        }
        assert_eq!(auth(&server, &signed("unknown")).await.1["error"]["code"], 401);
        assert_eq!(auth(&server, &signed("ec")).await.1["ok"], true, "after {worthless}");
    }
    assert!(server.metric("key_set_fetches_total{reason=\"no_keys\"}") >= 2.0);
    assert!(server.metric("key_set_fetches_total{reason=\"failed\"}") >= 4.0);
    assert!(server.log().contains("stay in use"));
}

/// A key set that does not answer delays clients that need it, but not for long, and no other clients.
#[tokio::test]
async fn a_key_set_that_hangs_is_not_waited_for_again_and_again() {
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", hanging.local_addr().unwrap());
    let server = Server::start(&config(&format!("[access.jwks]\nurl = \"{url}\"\n")));
    let good = token(json!({}));
    let unknown = encode(
        &Header { kid: Some("x".into()), ..Header::new(Algorithm::ES256) },
        &claims("u1", 600, json!({})),
        &EncodingKey::from_ec_pem(&std::fs::read(format!("{KEYS}/ec.pem")).unwrap()).unwrap(),
    )
    .unwrap();
    for _ in 0..40 {
        let (status, _, body) =
            server.http("GET", "/api/topics/stream:a", &[("Authorization", &format!("Bearer {unknown}"))], "");
        assert_eq!(status, 503, "{body}");
        // One after the other, each with its own wait, they would outlast the time-out of the fetch.
        assert_eq!(auth(&server, &good).await.1["ok"], true);
    }
    assert_eq!(
        server.metric("key_set_fetches_total{reason=\"failed\"}"),
        0.0,
        "the first fetch should still be under way"
    );
    let (mut client, reply) = auth(&server, &unknown).await;
    assert_eq!(reply["error"]["code"], 503, "{reply}");
    // The client may try again on the same socket.
    client.send(json!({"op": "auth", "id": 2, "token": good})).await;
    assert_eq!(client.next().await["ok"], true);
}

#[tokio::test]
async fn names_that_cannot_be_seen_are_refused_at_every_door() {
    let server = Server::open();
    for c in ['\u{feff}', '\u{200b}', '\u{202e}', '\u{2066}', '\u{e000}', '\u{3000}'] {
        let (name, shown) = (format!("stream:a{c}b"), format!("U+{:04X}", u32::from(c)));
        let mut client = server.client().await;
        for op in ["subscribe", "snapshot", "unsubscribe"] {
            client.send(json!({"op": op, "id": 1, "args": [name]})).await;
            let reply = client.next().await;
            assert!(reply.to_string().contains(&shown), "{op}: {reply}");
            if op == "unsubscribe" {
                continue;
            }
            assert_eq!(reply["error"]["code"], 400, "{op}: {reply}");
        }
        let (status, reply) = server.post("/api/publish", &json!({"channel": name, "data": 1}));
        assert_eq!(status, 400, "{reply}");
        assert!(reply["error"]["message"].as_str().unwrap().contains(&shown), "{reply}");
        let path: String = name.bytes().map(|b| format!("%{b:02x}")).collect();
        let (status, body) = server.get(&format!("/api/topics/{path}"));
        assert_eq!(status, 400, "{body}");
        assert!(body.contains(&shown), "{body}");
        let rules = format!("[access]\ndefault_topics = [\"stream:a\\u{:04X}*\"]\n", u32::from(c));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), rules).unwrap();
        let checked =
            std::process::Command::new(crate::support::PROGRAM).arg("check-config").arg(file.path()).output().unwrap();
        assert!(!checked.status.success());
        assert!(String::from_utf8_lossy(&checked.stderr).contains(&shown), "{checked:?}");
    }
    assert_eq!(server.metric("deltas_refused_total{reason=\"name\"}"), 6.0);
}
