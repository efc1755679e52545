//! Invalid tokens of every kind in every place, and pages of every Origin on every path to a socket. A healthy session
//! runs beside each.

use futures_util::{SinkExt as _, StreamExt as _};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::raw_socket::upgraded;
use crate::support::tokens::{SECRET, claims, hs256, now_s};
use crate::support::{Authority, Client, PATIENCE, Server, client_config, tls_config};

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");

/// Audience and issuer are required; one key for each kind of algorithm.
fn config() -> String {
    format!(
        "[publish]\nopen = true\n[access]\naudience = \"dash\"\nissuer = \"me\"\norigins = [\"https://app.example.com\"]\n\
         [[access.keys]]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"\n\
         [[access.keys]]\nalgorithm = \"RS256\"\npublic_key_file = \"{KEYS}/rsa.pub.pem\"\n"
    )
}

fn claims_with(more: Value) -> Value {
    let mut all = claims("u1", 600, json!({"aud": "dash", "iss": "me", "topics": ["*"]}));
    all.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    all
}

fn good() -> String {
    hs256(&claims_with(json!({})))
}

/// Invalid tokens of every kind. For an expired one, Centrifuge clients get a code of its own.
fn wrong() -> Vec<(&'static str, String)> {
    let sign = |algorithm, secret: &[u8]| {
        encode(&Header::new(algorithm), &claims_with(json!({})), &EncodingKey::from_secret(secret)).unwrap()
    };
    let good = good();
    let body = good.split('.').nth(1).unwrap();
    let public = std::fs::read(format!("{KEYS}/rsa.pub.pem")).unwrap();
    let rsa = EncodingKey::from_rsa_pem(&std::fs::read(format!("{KEYS}/rsa.pem")).unwrap()).unwrap();
    let without = |claim: &str| {
        let mut claims = claims_with(json!({}));
        claims.as_object_mut().unwrap().remove(claim);
        hs256(&claims)
    };
    vec![
        // {"alg":"none","typ":"JWT"}, with and without a signature.
        ("alg none", format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.")),
        (
            "alg none, signed",
            format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.{}", good.rsplit('.').next().unwrap()),
        ),
        ("another key", sign(Algorithm::HS256, b"fedcba9876543210fedcba9876543210")),
        ("the right key by another algorithm", sign(Algorithm::HS384, SECRET.as_bytes())),
        ("the public key as a secret", sign(Algorithm::HS256, &public)),
        ("RSA by another algorithm", encode(&Header::new(Algorithm::PS256), &claims_with(json!({})), &rsa).unwrap()),
        ("another audience", hs256(&claims_with(json!({"aud": "other"})))),
        ("no audience", without("aud")),
        ("another issuer", hs256(&claims_with(json!({"iss": "other"})))),
        ("expired", hs256(&claims_with(json!({"exp": now_s() - 60})))),
        ("no end", without("exp")),
        ("not yet valid", hs256(&claims_with(json!({"nbf": now_s() + 600})))),
        ("a subscription's", hs256(&claims_with(json!({"channel": "stream:a"})))),
        ("a signature cut short", good[..good.len() - 2].to_owned()),
        ("no token", "garbage".to_owned()),
    ]
}

/// A session that must not be affected.
async fn healthy(server: &Server) -> Client {
    let bearer = format!("Bearer {}", good());
    let mut client = Client::connect_with(server.address, &[("authorization", &bearer)]).await.ok().unwrap();
    client.subscribe(&["stream:healthy"]).await;
    client
}

async fn is_well(client: &mut Client, server: &Server, n: usize) {
    server.publish("stream:healthy", &json!(n));
    assert_eq!(client.next().await["data"], n);
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn centrifuge(server: &Server, token: Option<&str>) -> (Socket, Message) {
    let url = format!("ws://{}/connection/websocket", server.address);
    let mut socket = tokio_tungstenite::connect_async(url).await.unwrap().0;
    let answer = ask(&mut socket, json!({"id": 1, "connect": {"token": token}})).await;
    (socket, answer)
}

async fn ask(socket: &mut Socket, command: Value) -> Message {
    socket.send(Message::text(command.to_string())).await.unwrap();
    tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap()
}

/// The close code, or the error's.
fn code(message: &Message) -> u64 {
    match message {
        Message::Close(Some(frame)) => u16::from(frame.code).into(),
        Message::Text(text) => {
            let reply: Value = serde_json::from_str(text).unwrap();
            reply["error"]["code"].as_u64().unwrap_or_default()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn tokens_of_every_wrong_kind_everywhere() {
    let server = Server::start(&config());
    let mut beside = healthy(&server).await;
    server.publish("stream:a", &json!(1));
    for (n, (what, token)) in wrong().iter().enumerate() {
        let bearer = format!("Bearer {token}");
        let header = [("Authorization", bearer.as_str())];
        // In a header: with an upgrade of either dialect, and over REST.
        assert_eq!(
            Client::connect_with(server.address, &[("authorization", &bearer)]).await.err(),
            Some(401),
            "{what}"
        );
        let mut upgrade = format!("ws://{}/connection/websocket", server.address).into_client_request().unwrap();
        upgrade.headers_mut().insert("authorization", bearer.parse().unwrap());
        match tokio_tungstenite::connect_async(upgrade).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), 401, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!(server.http("GET", "/api/topics/stream:a", &header, "").0, 401, "{what}");
        // In commands of `plain`.
        let mut plain = server.client().await;
        plain.send(json!({"op": "auth", "id": 1, "token": token})).await;
        assert_eq!(plain.next().await["error"]["code"], 401, "{what}");
        assert_eq!(plain.close_code().await, 3500, "{what}");
        // In commands of Centrifuge: connect, refresh of a good session, subscription.
        let refused = if *what == "expired" { 109 } else { 3500 };
        assert_eq!(code(&centrifuge(&server, Some(token)).await.1), refused, "{what}");
        let (mut socket, connected) = centrifuge(&server, Some(&good())).await;
        assert_eq!(code(&connected), 0);
        let subscribe = json!({"id": 2, "subscribe": {"channel": "stream:a", "token": token}});
        // A connection's token, or one whose channel fits, is tested below.
        if *what != "a subscription's" {
            let refused = if *what == "expired" { 109 } else { 103 };
            assert_eq!(code(&ask(&mut socket, subscribe).await), refused, "{what}");
        }
        assert_eq!(code(&ask(&mut socket, json!({"id": 3, "refresh": {"token": token}})).await), refused, "{what}");
        is_well(&mut beside, &server, n).await;
    }
    // A connection's token is not valid for a subscription.
    let (mut socket, _) = centrifuge(&server, Some(&good())).await;
    let subscribe = json!({"id": 2, "subscribe": {"channel": "stream:a", "token": good()}});
    assert_eq!(code(&ask(&mut socket, subscribe).await), 103);
    assert_eq!(code(&centrifuge(&server, None).await.1), 3500, "none at all");
    assert!(server.metric("tokens_refused_total") >= 90.0);
}

/// URLs are logged by proxies: a token in one is not even read.
#[tokio::test]
async fn a_token_in_a_url_is_not_read() {
    let server = Server::start(&config());
    for query in ["token", "access_token", "authorization"] {
        let url = format!("ws://{}/ws?{query}={}", server.address, good());
        let mut socket = tokio_tungstenite::connect_async(url).await.unwrap().0;
        let answer = ask(&mut socket, json!({"op": "subscribe", "id": 1, "args": ["stream:a"]})).await;
        assert_eq!(code(&answer), 401, "{query}");
        let path = format!("/api/topics/stream:a?{query}={}", good());
        assert_eq!(server.get(&path).0, 401);
    }
    assert!(!server.log().contains(&good()[..40]));
}

#[tokio::test]
async fn origins_on_every_way_to_a_socket() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    authority.issue("localhost").write(folder.path(), "server");
    let more = "[operator]\nlisten = \"127.0.0.1:0\"\n";
    let server = Server::start(&format!("{}{more}{}", config(), tls_config(folder.path())));
    let mut beside = healthy(&server).await;
    let padding = "x".repeat(6_000);
    for (n, (origin, allowed)) in [
        ("https://app.example.com", true),
        ("https://APP.example.com", true),
        ("https://evil.example.com", false),
        ("https://app.example.com.evil.com", false),
        ("https://app.example.com:444", false),
        ("http://app.example.com", false),
        ("null", false),
        ("file://", false),
        ("", false),
    ]
    .into_iter()
    .enumerate()
    {
        let expected = if allowed { Ok(()) } else { Err(403) };
        // At accept; through the HTTP server; over TLS; at the operators' port.
        let short = [("origin", origin)];
        let long = [("origin", origin), ("cookie", padding.as_str())];
        for headers in [&short[..], &long] {
            let got = Client::connect_with(server.address, headers).await.map(|_| ());
            assert_eq!(got, expected, "{origin}, {} headers", headers.len());
        }
        let sealed = client_config(Some(&authority), &[&rustls::version::TLS13], None);
        let got = Client::connect_sealed(server.sealed.unwrap(), &short, sealed).await.map(|_| ());
        assert_eq!(got, expected, "{origin}, TLS");
        let got = Client::connect_with(server.operators.unwrap(), &short).await.map(|_| ());
        assert_eq!(got, expected, "{origin}, operators");
        is_well(&mut beside, &server, n).await;
    }
    // A client that is not a browser sends none.
    upgraded(&server, "/connection/websocket", "");
    let metrics = Server::http_at(server.operators.unwrap(), "GET", "/metrics", &[], "").2;
    assert!(metrics.contains("nexus_push_upgrades_refused_total{reason=\"origin\"} 28"), "{metrics}");
}
