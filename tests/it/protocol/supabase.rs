//! Key sets by URL, and tokens as Supabase issues them.

use std::sync::{Arc, Mutex};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::Server;
use crate::support::http_backend::Backend;
use crate::support::sdk::{Driver, Sdk};
use crate::support::tokens::{SECRET, claims};

/// P-256 keys made for this test only.
struct Es256 {
    kid: &'static str,
    private: &'static str,
    x: &'static str,
    y: &'static str,
}

const FIRST: Es256 = Es256 {
    kid: "first",
    private: "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgBv+aUXSEBL9T2oiX\na9RopTIEoUB5NVam3jeUeR8sda2hRANCAATozEYlDfRHcLmJpaWm1SvSUfXY50lc\nXUAEn7VNvmXqQkEINQ2g8mu+Py4Fc/uEXBCrkJEKZaoWodVTtS9lBVqB\n-----END PRIVATE KEY-----",
    x: "6MxGJQ30R3C5iaWlptUr0lH12OdJXF1ABJ-1Tb5l6kI",
    y: "QQg1DaDya74_LgVz-4RcEKuQkQplqhah1VO1L2UFWoE",
};

const SECOND: Es256 = Es256 {
    kid: "second",
    private: "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg/A9UKTuX0q3ATomp\nnGV4+GugfAaJEY2OyKWN3LFoH2GhRANCAAQe6BOy7/6pyNJMiV5G4ex1A/t+fEoh\nh4F6g98cHOXhSEe+6h4+fZZ/HjQVPdld4q5bVFCcN2e/yS8J8QGWiUGJ\n-----END PRIVATE KEY-----",
    x: "HugTsu_-qcjSTIleRuHsdQP7fnxKIYeBeoPfHBzl4Ug",
    y: "R77qHj59ln8eNBU92V3irltUUJw3Z7_JLwnxAZaJQYk",
};

impl Es256 {
    fn jwk(&self) -> Value {
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid, "x": self.x, "y": self.y})
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.into()), ..Header::new(Algorithm::ES256) };
        encode(&header, claims, &EncodingKey::from_ec_pem(self.private.as_bytes()).unwrap()).unwrap()
    }
}

/// Claims as Supabase makes them.
fn supabase(issuer: &str, more: Value) -> Value {
    let mut all = json!({
        "iss": issuer, "aud": "authenticated", "role": "authenticated", "aal": "aal1", "session_id": "6f3c", "email": "a@example.com",
        "app_metadata": {"provider": "email"}, "is_anonymous": false,
    });
    all.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    claims("8ccaa7af-909f-44e7-84cb-67cdccb56be6", 3600, all)
}

/// A project's key set, and a server with the shipped configuration for it.
fn project() -> (Arc<Mutex<Vec<Value>>>, Backend, String) {
    let keys =
        Arc::new(Mutex::new(vec![json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "odd"}), FIRST.jwk()]));
    let served = keys.clone();
    let backend = Backend::start(move |_| json!({"keys": *served.lock().unwrap()}));
    let shipped = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/supabase.toml")).unwrap();
    let config = shipped
        .replace(
            "https://YOUR-PROJECT.supabase.co/auth/v1/.well-known/jwks.json",
            &format!("{}/jwks.json", backend.url()),
        )
        .replace("max_age = ", "min_interval = \"1s\"\nmax_age = ")
        .replace("[source.redis]\nurl = \"redis://127.0.0.1:6379\"\n", "[publish]\nopen = true\n");
    (keys, backend, config)
}

const ISSUER: &str = "https://YOUR-PROJECT.supabase.co/auth/v1";

/// The result of a connection with this token: `connected`, or the close code.
async fn outcome(server: &Server, token: &str) -> Value {
    let mut client = Driver::start(Sdk::JavaScript).await;
    client.dial(server, json!({"token": token})).await;
    loop {
        let event = client.next().await;
        match event["event"].as_str().unwrap() {
            "connected" => return json!("connected"),
            "disconnected" => return event["code"].clone(),
            _ => {}
        }
    }
}

#[tokio::test]
async fn tokens_as_supabase_issues_them() {
    let (_keys, _backend, config) = project();
    let server = Server::start(&config);
    let mut client =
        Driver::connect(Sdk::JavaScript, &server, json!({"token": FIRST.sign(&supabase(ISSUER, json!({})))})).await;
    client.until("connected").await;
    client.subscribe("signals:all", json!({})).await;
    client.tell(json!({"do": "subscribe", "topic": "private:x"})).await;
    assert_eq!(client.until("unsubscribed").await["code"], 103, "no topic beyond the configured ones");

    let array = FIRST.sign(&supabase(ISSUER, json!({"aud": ["other", "authenticated"]})));
    assert_eq!(outcome(&server, &array).await, "connected", "aud may be a list");
    let good = supabase(ISSUER, json!({}));
    let payload = |token: &str| token.split('.').nth(1).unwrap().to_owned();
    let hs256 = |kid: &str, secret: &[u8]| {
        let header = Header { kid: Some(kid.into()), ..Header::new(Algorithm::HS256) };
        encode(&header, &good, &EncodingKey::from_secret(secret)).unwrap()
    };
    let mut no_audience = good.clone();
    no_audience.as_object_mut().unwrap().remove("aud");
    let mut no_issuer = good.clone();
    no_issuer.as_object_mut().unwrap().remove("iss");
    let refused = [
        ("anon role", FIRST.sign(&supabase(ISSUER, json!({"aud": "anon"})))),
        ("no audience", FIRST.sign(&no_audience)),
        ("no issuer", FIRST.sign(&no_issuer)),
        ("another project", FIRST.sign(&supabase("https://other.supabase.co/auth/v1", json!({})))),
        ("another key with a known kid", Es256 { kid: "first", ..SECOND }.sign(&good)),
        ("alg none", format!("eyJhbGciOiJub25lIiwia2lkIjoiZmlyc3QifQ.{}.", payload(&FIRST.sign(&good)))),
        ("HS256, not asked for", hs256("first", SECRET.as_bytes())),
        ("HS256 with the public key as secret", hs256("first", FIRST.x.as_bytes())),
        ("HS256 with a secret out of the set", hs256("odd", b"secret")),
        ("a subscription token", FIRST.sign(&supabase(ISSUER, json!({"channel": "signals:all"})))),
        ("garbage", "a.b.c".to_owned()),
    ];
    for (what, token) in refused {
        assert_eq!(outcome(&server, &token).await, 3500, "{what}");
    }
    // Without a token, and without a way to get one: the client gives up.
    assert_eq!(outcome(&server, "").await, 3500);
}

#[tokio::test]
async fn a_new_key_is_fetched_when_it_is_named_but_not_at_any_rate() {
    let (keys, backend, config) = project();
    let server = Server::start(&config);
    assert_eq!(outcome(&server, &FIRST.sign(&supabase(ISSUER, json!({})))).await, "connected");
    let before = backend.requests();
    keys.lock().unwrap().push(SECOND.jwk());
    let rotated = SECOND.sign(&supabase(ISSUER, json!({})));
    // Known once the set may be fetched again: at most a second later.
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while outcome(&server, &rotated).await != "connected" {
        assert!(std::time::Instant::now() < deadline);
    }
    let unknown = Es256 { kid: "nobody", ..SECOND }.sign(&supabase(ISSUER, json!({})));
    let began = std::time::Instant::now();
    let fetched = backend.requests();
    for _ in 0..10 {
        assert_eq!(outcome(&server, &unknown).await, 3500);
    }
    let allowed = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    assert!(backend.requests() - fetched <= allowed, "{} fetches, {allowed} allowed", backend.requests() - fetched);
    assert!(backend.requests() > before);
}

#[tokio::test]
async fn a_missing_key_set_delays_no_client_and_admits_none() {
    let (_, backend, config) = project();
    let config = config.replace(&backend.url(), &format!("http://127.0.0.1:{}", crate::support::free_port()));
    let server = Server::start(&config);
    // The token may be good: its client is asked to try again, not told that it is wrong.
    let mut client = server.client().await;
    client.send(json!({"op": "auth", "id": 1, "token": FIRST.sign(&supabase(ISSUER, json!({})))})).await;
    assert_eq!(client.next().await["error"]["code"], 503);
    client.send(json!({"op": "subscribe", "id": 2, "args": ["signals:all"]})).await;
    assert_eq!(client.next().await["error"]["code"], 401);
    assert!(server.log().contains("the key set cannot be fetched"), "{}", server.log());
}
