//! Which clients are accepted, and which topics they get.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::{Client, Got, Server};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn config() -> String {
    format!(
        "[publish]\nkeys = [\"publish-key-0123456789\"]\n[access]\norigins = [\"https://app.example.com\"]\n\
         [[access.keys]]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"\n"
    )
}

fn token(expires_in_s: i64, topics: &[&str]) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let claims = json!({"sub": "u1", "exp": now + expires_in_s, "topics": topics});
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

#[tokio::test]
async fn without_a_token_there_are_no_topics_and_with_one_those_it_names() {
    let server = Server::start(&config());
    let mut client = server.client().await;
    client.send(json!({"op": "subscribe", "id": 1, "args": ["quotes:A"]})).await;
    assert_eq!(client.next().await["error"]["code"], 401);
    // The subscribe follows without waiting: it is kept until the token has been checked.
    client.send(json!({"op": "auth", "id": 2, "token": token(60, &["quotes:*", "signals:mine"])})).await;
    client.send(json!({"op": "subscribe", "id": 3, "args": ["quotes:A", "signals:mine", "signals:other"]})).await;
    assert_eq!(client.next().await, json!({"id": 2, "op": "auth", "ok": true}));
    let reply = client.next().await;
    assert_eq!((&reply["error"]["code"], &reply["error"]["topic"]), (&json!(403), &json!("signals:other")));
    assert_eq!(reply["topics"].as_object().unwrap().keys().collect::<Vec<_>>(), ["quotes:A", "signals:mine"]);
}

#[tokio::test]
async fn a_token_that_is_not_accepted_ends_the_session() {
    let server = Server::start(&config());
    for bad in [token(-60, &["*"]), "garbage".to_owned(), format!("{}x", token(60, &["*"]))] {
        let mut client = server.client().await;
        client.send(json!({"op": "auth", "id": 1, "token": bad})).await;
        let reply = client.next().await;
        assert_eq!((&reply["ok"], &reply["error"]["code"]), (&json!(false), &json!(401)));
        assert_eq!(client.close_code().await, 3500);
    }
    assert_eq!(server.metric("tokens_refused_total{reason=\"expired\"}"), 1.0);
    assert_eq!(server.metric("tokens_refused_total{reason=\"invalid\"}"), 2.0);
    assert!(!server.log().contains(SECRET) && !server.log().contains("publish-key"), "a secret in the log");
}

#[tokio::test]
async fn a_session_ends_with_its_token_unless_it_brings_a_new_one() {
    let server = Server::start(&config());
    let mut ends = server.client().await;
    ends.send(json!({"op": "auth", "id": 1, "token": token(1, &["*"])})).await;
    assert_eq!(ends.next().await["ok"], true);
    let mut renews = server.client().await;
    for lifetime in [1, 60] {
        renews.send(json!({"op": "auth", "id": 1, "token": token(lifetime, &["*"])})).await;
        assert_eq!(renews.next().await["ok"], true);
    }
    assert_eq!(ends.close_code().await, 3005);
    renews.nothing_more().await;
}

#[tokio::test]
async fn origins_and_the_authorization_header() {
    let server = Server::start(&config());
    let connect = |headers: Vec<(&'static str, String)>| async move {
        let headers: Vec<(&'static str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
        Client::connect_with(server_address(), &headers).await.map(|_| ())
    };
    let address = server.address;
    ADDRESS.set(address).unwrap();
    assert_eq!(connect(vec![("origin", "https://evil.example.com".into())]).await, Err(403));
    assert_eq!(connect(vec![("origin", "https://app.example.com".into())]).await, Ok(()));
    assert_eq!(connect(vec![]).await, Ok(()));
    assert_eq!(connect(vec![("authorization", "Bearer nonsense".into())]).await, Err(401));
    let bearer = format!("Bearer {}", token(60, &["quotes:*"]));
    let mut client = Client::connect_with(address, &[("authorization", &bearer)]).await.ok().unwrap();
    assert_eq!(client.subscribe(&["quotes:A"]).await["ok"], true);
    assert_eq!(server.metric("upgrades_refused_total{reason=\"origin\"}"), 1.0);
}

static ADDRESS: std::sync::OnceLock<std::net::SocketAddr> = std::sync::OnceLock::new();

fn server_address() -> std::net::SocketAddr {
    *ADDRESS.get().unwrap()
}

#[tokio::test]
async fn publishing_needs_a_key_and_reading_over_rest_a_token() {
    let server = Server::start(&config());
    let json_type = ("Content-Type", "application/json");
    let body = r#"{"channel":"quotes:A","data":{"x":1}}"#;
    for (key, status) in [(None, 401), (Some("wrong-key-0123456789x"), 401), (Some("publish-key-0123456789"), 200)] {
        let headers: Vec<(&str, &str)> = [json_type].into_iter().chain(key.map(|k| ("X-API-Key", k))).collect();
        assert_eq!(server.http("POST", "/api/publish", &headers, body).0, status, "{key:?}");
    }
    let headers = [("X-API-Key", "publish-key-0123456789"), ("Content-Type", "text/plain")];
    assert_eq!(server.http("POST", "/api/publish", &headers, body).0, 415);
    assert_eq!(server.get("/api/topics/quotes:A").0, 401);
    let bearer = |topics: &[&str]| format!("Bearer {}", token(60, topics));
    assert_eq!(server.http("GET", "/api/topics/quotes:A", &[("Authorization", &bearer(&["quotes:*"]))], "").0, 200);
    assert_eq!(server.http("GET", "/api/topics/quotes:A", &[("Authorization", &bearer(&["x"]))], "").0, 403);
    let off = Server::start("[access]\nanonymous = true\n");
    assert_eq!(off.http("POST", "/api/publish", &[json_type], body).0, 403);
}

#[tokio::test]
async fn a_namespace_may_be_closed_to_anonymous_clients() {
    let server = Server::open_with("[namespace.vip]\nanonymous = false");
    let mut client = server.client().await;
    client.send(json!({"op": "subscribe", "id": 1, "args": ["vip:a", "merge:a"]})).await;
    let reply = client.next().await;
    assert_eq!(
        (&reply["ok"], &reply["error"]["code"], &reply["error"]["topic"]),
        (&json!(true), &json!(401), &json!("vip:a"))
    );
    assert_eq!(reply["topics"]["merge:a"]["offset"], 0);
    assert!(matches!(client.got_within_ping().await, Got::Json(Value::Object(_))));
}

impl Client {
    async fn got_within_ping(&mut self) -> Got {
        self.send(json!({"op": "ping"})).await;
        self.got().await
    }
}
