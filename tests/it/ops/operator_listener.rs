//! Operators' own port, and their key.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::tokens::{claims, hs256};
use crate::support::{BY_STATUS, Client, Server};

const KEY: (&str, &str) = ("X-API-Key", "full-key-0123456789");
const OPERATOR: &str = "operator-key-0123456789";

/// Without this there are no pages where clients need tokens.
const PAGES: &str = "[server]\ndashboard = true\n";

fn config(more: &str) -> String {
    crate::support::tokens::config(more).replace(
        "open = true",
        "keys = [\"full-key-0123456789\"]\n[[publish.key]]\nname = \"feed\"\nsecret = \"feed-key-0123456789\"\n\
         topics = [\"*\"]",
    )
}

fn with_listener(more: &str) -> Server {
    Server::start(&config(&format!("{PAGES}[operator]\nlisten = \"127.0.0.1:0\"\n{more}")))
}

fn ask(at: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
    let headers: Vec<(&str, &str)> =
        [("Content-Type", "application/json"), BY_STATUS].iter().chain(headers).copied().collect();
    let body = match path {
        "/api/disconnect" => r#"{"user":"nobody"}"#,
        "/api/unsubscribe" => r#"{"user":"nobody","channel":"a:b"}"#,
        "/api/history" => r#"{"channel":"a:b"}"#,
        "/api/publish" => r#"{"channel":"a:b","data":1}"#,
        "/api/broadcast" => r#"{"channels":["a:b"],"data":1}"#,
        "/api/batch" => r#"{"commands":[]}"#,
        _ => "",
    };
    Server::http_at(at, method, path, &headers, body).0
}

#[test]
fn each_path_has_its_port() {
    let server = with_listener("");
    let operators = server.operators.unwrap();
    let alone = Server::start(&config(PAGES));
    for (method, path, public, private) in [
        ("GET", "/healthz", 200, 200),
        ("GET", "/readyz", 200, 200),
        ("GET", "/metrics", 404, 200),
        ("GET", "/status", 404, 200),
        ("GET", "/ops", 404, 200),
        ("GET", "/", 200, 404),
        ("GET", "/api/topics", 401, 404),
        ("GET", "/ws", 426, 426),
        ("GET", "/connection/websocket", 426, 426),
        ("POST", "/api/publish", 200, 200),
        ("POST", "/api/broadcast", 200, 200),
        ("POST", "/api/batch", 200, 200),
        ("POST", "/api/info", 404, 200),
        ("POST", "/api/channels", 404, 200),
        ("POST", "/api/history", 404, 200),
        ("POST", "/api/disconnect", 404, 200),
        ("POST", "/api/unsubscribe", 404, 200),
        ("POST", "/admin/nothing", 404, 404),
    ] {
        if cfg!(not(feature = "dashboard")) && matches!(path, "/" | "/ops") {
            continue;
        }
        assert_eq!(ask(server.address, method, path, &[KEY]), public, "{method} {path} on the public port");
        assert_eq!(ask(operators, method, path, &[KEY]), private, "{method} {path} on the operators'");
        let both = if public == 404 { private } else { public };
        assert_eq!(ask(alone.address, method, path, &[KEY]), both, "{method} {path} with one port");
    }
    // Nor in a batch.
    let headers = [KEY, ("Content-Type", "application/json"), BY_STATUS];
    let body =
        json!({"commands": [{"info": {}}, {"disconnect": {"user": "x"}}, {"publish": {"channel": "a:b", "data": 1}}]});
    let replies = |at| {
        let (_, _, text) = Server::http_at(at, "POST", "/api/batch", &headers, &body.to_string());
        serde_json::from_str::<Value>(&text).unwrap()["replies"].clone()
    };
    let public = replies(server.address);
    assert_eq!((&public[0]["error"]["code"], &public[1]["error"]["code"]), (&json!(404), &json!(404)), "{public}");
    assert!(public[2]["publish"]["offset"].is_u64(), "{public}");
    assert!(replies(operators)[0]["info"].is_object());
}

#[test]
fn operators_reads_may_need_a_key_and_their_commands_always_do() {
    let keyed = format!("key = \"{OPERATOR}\"\n");
    let (apart, together) = (with_listener(&keyed), Server::start(&config(&format!("{PAGES}[operator]\n{keyed}"))));
    let bearer = format!("Bearer {OPERATOR}");
    for at in [apart.operators.unwrap(), together.address] {
        for path in ["/metrics", "/status", "/admin/nothing"] {
            // The last path does not exist, which is not revealed without a key.
            let found = if path == "/admin/nothing" { 404 } else { 200 };
            for (headers, expected) in [
                (&[][..], 401),
                (&[("X-API-Key", "operator-key-012345678")], 401),
                (&[("X-API-Key", "feed-key-0123456789")], 403),
                (&[("X-API-Key", OPERATOR)], found),
                (&[("Authorization", bearer.as_str())], found),
                (&[KEY], found),
            ] {
                assert_eq!(ask(at, "GET", path, headers), expected, "{path} {headers:?}");
            }
        }
        for open in ["/healthz", "/readyz", if cfg!(feature = "dashboard") { "/ops" } else { "/healthz" }] {
            assert_eq!(ask(at, "GET", open, &[]), 200, "{open}");
        }
        assert_eq!(ask(at, "POST", "/api/info", &[("X-API-Key", OPERATOR)]), 200);
        assert_eq!(ask(at, "POST", "/api/publish", &[("X-API-Key", OPERATOR)]), 403, "it is no publisher's");
        let (_, _, metrics) = Server::http_at(at, "GET", "/metrics", &[KEY], "");
        assert!(metrics.contains("nexus_push_operator_refused_total 9"), "{metrics}");
    }
    // The right to publish without a key gives no operator's rights.
    let anyone = Server::start(&format!("[publish]\nopen = true\n[operator]\n{keyed}"));
    let ask_anyone = |method, path, headers: &[_]| ask(anyone.address, method, path, headers);
    assert_eq!(ask_anyone("POST", "/api/publish", &[]), 200);
    assert_eq!(ask_anyone("POST", "/api/info", &[]), 403);
    assert_eq!(ask_anyone("GET", "/metrics", &[]), 403);
    assert_eq!(ask_anyone("GET", "/metrics", &[("X-API-Key", OPERATOR)]), 200);
    // Without an operator's key, their commands still need a key.
    let open = with_listener("");
    let at = open.operators.unwrap();
    assert_eq!((ask(at, "GET", "/metrics", &[]), ask(at, "GET", "/admin/nothing", &[])), (200, 401));
    assert!(!apart.log().contains(OPERATOR) && !together.log().contains(OPERATOR));
}

/// The page's topic, over a socket that was opened at the operators' port.
#[tokio::test]
async fn the_operators_page_works_at_their_port() {
    let server = with_listener("[ops]\ninterval = \"100ms\"\n");
    let operators = server.operators.unwrap();
    if cfg!(feature = "dashboard") {
        let page = Server::http_at(operators, "GET", "/ops", &[], "").2;
        let asset = page.split("\"").find(|part| part.starts_with("/assets/")).unwrap();
        assert_eq!(ask(operators, "GET", asset, &[]), 200);
    }
    // As the page does: its Origin is the port's own.
    let origin = format!("http://{operators}");
    let mut client = Client::connect_with(operators, &[("origin", &origin)]).await.ok().unwrap();
    client.send(json!({"op": "subscribe", "id": 1, "args": ["ops:nodes"]})).await;
    assert_eq!(client.next().await["error"]["code"], 401);
    client.send(json!({"op": "auth", "token": hs256(&claims("op", 60, json!({"topics": ["ops:*"]})))})).await;
    assert_eq!(client.next().await["ok"], true);
    client.subscribe(&["ops:nodes"]).await;
    while !client.next().await["data"].is_object() {}
    let centrifuge = format!("ws://{operators}/connection/websocket").into_client_request().unwrap();
    assert!(tokio_tungstenite::connect_async(centrifuge).await.is_ok());
}

/// A client that takes all connections of the public port takes none of these; and no PROXY header is expected.
#[tokio::test]
async fn it_has_connections_of_its_own() {
    let server = Server::start(
        &config("[operator]\nlisten = \"127.0.0.1:0\"\n[limits]\nhandshake_timeout = \"1day\"\n[server]\nshards = 1\n")
            .replace("[server]\n", "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\nproxy_protocol = \"required\"\n"),
    );
    let operators = server.operators.unwrap();
    let metric = |name: &str| {
        let text = Server::http_at(operators, "GET", "/metrics", &[], "").2;
        text.lines()
            .find_map(|l| l.strip_prefix(&format!("nexus_push_{name} ")).map(|v| v.parse::<f64>().unwrap()))
            .unwrap()
    };
    let slow: Vec<TcpStream> = (0..600)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            stream.write_all(b"PROXY TC").unwrap();
            stream
        })
        .collect();
    server.until("the public port is full", |_| metric("http_refused_total") > 100.0).await;
    assert_eq!(ask(operators, "GET", "/healthz", &[]), 200);
    assert_eq!(ask(operators, "POST", "/api/info", &[KEY]), 200);
    drop(slow);
}

#[test]
fn its_address_is_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nexus.toml");
    std::fs::write(&path, "[operator]\nlisten = \"127.0.0.1:8000\"\nkey = \"short\"\n").unwrap();
    let output = std::process::Command::new(crate::support::PROGRAM).arg("check-config").arg(&path).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("nexus.toml:2: operator.listen") && error.contains("server.listen"), "{error}");
    assert!(error.contains("nexus.toml:3: operator.key: is 5 bytes") && !error.contains("short"), "{error}");
}
