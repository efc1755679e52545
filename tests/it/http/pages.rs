//! Browsers' pages: the names under which the server may be addressed, what other origins may read, the security
//! headers of its answers, and which pages it shows to whom.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::support::{Authority, OPEN, PATIENCE, Server, tls_config};

/// An answer's status and head, in lower case, to a request with exactly these headers.
fn ask(server: &Server, line: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = format!("{line} HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| *name == "Connection") {
        request.push_str("Connection: close\r\n");
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{request}\r\n{body}").as_bytes()).unwrap();
    let (mut answer, mut buffer) = (Vec::new(), [0; 4_096]);
    // For an upgraded socket the answer's head is enough.
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer).unwrap() {
            0 => break,
            n => answer.extend_from_slice(&buffer[..n]),
        }
    }
    let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    (head.split_whitespace().nth(1).unwrap().parse().unwrap(), head)
}

const UPGRADE: [(&str, &str); 4] = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
];

/// DNS rebinding: a page whose host name was made to resolve to this server has the same origin for its browser.
#[test]
fn a_name_that_is_not_the_servers_gets_nothing_from_an_open_server() {
    let server = Server::start(&OPEN.replace("[server]\n", "[server]\nhosts = []\n"));
    let port = server.address.port();
    let json_type = ("Content-Type", "application/json");
    let long = "x".repeat(5_000);
    for (host, expected) in [
        (format!("evil.example:{port}"), 421),
        ("evil.example".to_owned(), 421),
        ("127.0.0.1.evil.example".to_owned(), 421),
        (format!("localhost:{port}"), 200),
        (format!("127.0.0.1:{port}"), 200),
        (format!("[::1]:{port}"), 200),
        ("10.1.2.3:8000".to_owned(), 200),
    ] {
        let origin = format!("http://{host}");
        let headers = [("Host", host.as_str()), ("Origin", origin.as_str())];
        for path in ["/", "/ops", "/status", "/metrics", "/api/topics"] {
            let (status, _) = ask(&server, &format!("GET {path}"), &headers, "");
            assert_eq!(status == 421, expected == 421, "{path} as {host}: {status}");
        }
        let headers = [headers[0], headers[1], json_type];
        let body = json!({"channel": "stream:a", "data": 1}).to_string();
        assert_eq!(ask(&server, "POST /api/publish", &headers, &body).0, expected, "publish as {host}");
        let (drain, _) = ask(&server, "POST /admin/drain?share=1", &headers, "");
        assert_eq!(drain == 421, expected == 421, "drain as {host}: {drain}");
        // Answered at accept, or, if too long for that, by the HTTP server.
        for more in ["", &long] {
            let mut headers = UPGRADE.to_vec();
            headers.extend([("Host", host.as_str()), ("Origin", origin.as_str()), ("X-More", more)]);
            let (status, head) = ask(&server, "GET /ws", &headers, "");
            assert_eq!(status, if expected == 200 { 101 } else { 421 }, "a socket as {host}: {head}");
        }
        assert_eq!(ask(&server, "GET /healthz", &headers[..1], "").0, 200, "health as {host}");
    }
    // The host of an absolute target counts, whatever the header says.
    assert_eq!(ask(&server, "GET http://evil.example/status", &[("Host", "localhost")], "").0, 421);
    let (_, _, metrics) = server.http("GET", "/metrics", &[("Host", "localhost")], "");
    let refused = metrics.lines().find_map(|line| line.strip_prefix("nexus_push_hosts_refused_total "));
    assert!(refused.unwrap().parse::<f64>().unwrap() >= 20.0, "{refused:?}");
    let named = Server::start(&OPEN.replace("[server]\n", "[server]\nhosts = [\"push.example.com\"]\n"));
    assert_eq!(ask(&named, "GET /status", &[("Host", "push.example.com")], "").0, 200);
    let (status, _) = ask(&named, "GET /status", &[("Host", "evil.example")], "");
    assert_eq!(status, 421);
}

const PAGE: &str = "https://app.example.com";

#[test]
fn pages_of_allowed_origins_may_read_and_no_others_and_none_may_publish() {
    let server = Server::start(&OPEN.replace("origins = [\"*\"]", &format!("origins = [\"{PAGE}\"]")));
    server.publish("latest:a", &json!(1));
    for path in ["/api/topics", "/api/topics/latest:a", "/api/topics/latest:none"] {
        for method in ["GET", "HEAD"] {
            let line = format!("{method} {path}");
            let (_, head) = ask(&server, &line, &[("Host", "x"), ("Origin", PAGE)], "");
            for needle in [
                &format!("access-control-allow-origin: {PAGE}\r\n"),
                "access-control-expose-headers: etag, retry-after\r\n",
                "vary: origin\r\n",
            ] {
                assert!(head.contains(needle), "{line}: {needle} missing in {head}");
            }
            for origin in ["https://evil.example.com", "null", "https://app.example.com.evil.example"] {
                let (_, head) = ask(&server, &line, &[("Host", "x"), ("Origin", origin)], "");
                assert!(!head.contains("access-control") && head.contains("vary: origin\r\n"), "{origin}: {head}");
            }
            let (_, head) = ask(&server, &line, &[("Host", "x")], "");
            assert!(!head.contains("access-control"), "{head}");
        }
        let preflight = |origin, method| {
            let headers = [
                ("Host", "x"),
                ("Origin", origin),
                ("Access-Control-Request-Method", method),
                ("Access-Control-Request-Headers", "authorization,if-none-match"),
            ];
            ask(&server, &format!("OPTIONS {path}"), &headers, "")
        };
        let (status, head) = preflight(PAGE, "GET");
        assert_eq!(status, 204, "{head}");
        assert!(head.contains(&format!("access-control-allow-origin: {PAGE}\r\n")), "{head}");
        assert!(head.contains("access-control-allow-headers: authorization, if-none-match\r\n"), "{head}");
        assert!(head.contains("access-control-allow-methods: get, head\r\n"), "{head}");
        assert_eq!(preflight("https://evil.example.com", "GET").0, 403);
        assert_eq!(preflight(PAGE, "POST").0, 403);
    }
    for path in ["/api/publish", "/api/broadcast", "/api/batch", "/api/info", "/admin/drain", "/status"] {
        let headers = [("Host", "x"), ("Origin", PAGE), ("Access-Control-Request-Method", "POST")];
        let (status, head) = ask(&server, &format!("OPTIONS {path}"), &headers, "");
        assert!(status >= 400 && !head.contains("access-control"), "{path}: {head}");
    }
    // A page that a 304 allows to read can read that too.
    let (_, head) = ask(&server, "GET /api/topics/latest:a", &[("Host", "x")], "");
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    let headers = [("Host", "x"), ("Origin", PAGE), ("If-None-Match", etag.as_str())];
    let (status, head) = ask(&server, "GET /api/topics/latest:a", &headers, "");
    assert!(status == 304 && head.contains("access-control-allow-origin"), "{head}");
}

#[test]
fn answers_have_the_headers_that_browsers_need() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    authority.issue("localhost").write(folder.path(), "server");
    let server = Server::start(&format!("{OPEN}\n{}", tls_config(folder.path())));
    server.publish("latest:a", &json!(1));
    for line in [
        "GET /",
        "GET /healthz",
        "GET /metrics",
        "GET /status",
        "GET /api/topics",
        "GET /api/topics/latest:a",
        "GET /nothing",
        "GET /ws",
        "POST /api/publish",
        "DELETE /api/topics",
    ] {
        let (_, head) = ask(&server, line, &[("Host", "x")], "");
        assert!(head.contains("x-content-type-options: nosniff\r\n"), "{line}: {head}");
        assert!(!head.contains("strict-transport-security"), "{line} without TLS: {head}");
    }
    let (_, page) = ask(&server, "GET /", &[("Host", "localhost:8000")], "");
    let policy = page.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
    assert!(policy.ends_with("connect-src 'self' ws://localhost:8000 wss://localhost:8000"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'") && page.contains("referrer-policy: no-referrer"), "{page}");
    // Characters with a meaning in a policy are not copied into one.
    let (_, page) = ask(&server, "GET /", &[("Host", "a;script-src")], "");
    assert!(page.contains("connect-src 'self'\r\n") && !page.contains("a;script"), "{page}");

    let config = crate::support::client_config(Some(&authority), &[&rustls::version::TLS13], None);
    let socket = TcpStream::connect(server.sealed.unwrap()).unwrap();
    let session = rustls::ClientConnection::new(config.into(), "localhost".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(session, socket);
    stream.write_all(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("strict-transport-security: max-age=31536000\r\n"), "{answer}");
}

#[test]
fn subprotocols_are_agreed_on_as_the_client_prefers() {
    let server = Server::open();
    for (path, offered, agreed) in [
        ("/connection/websocket", &["centrifuge-json"][..], Some("centrifuge-json")),
        ("/connection/websocket", &["centrifuge-protobuf"], Some("centrifuge-protobuf")),
        ("/connection/websocket", &["centrifuge-json, centrifuge-protobuf"], Some("centrifuge-json")),
        ("/connection/websocket", &["x,centrifuge-protobuf,centrifuge-json"], Some("centrifuge-protobuf")),
        ("/connection/websocket", &["x", "centrifuge-json"], Some("centrifuge-json")),
        ("/connection/websocket", &["x, y"], None),
        ("/connection/websocket", &["Centrifuge-JSON"], None),
        ("/connection/websocket", &[], None),
        ("/ws", &["centrifuge-json"], None),
    ] {
        let mut headers = UPGRADE.to_vec();
        headers.push(("Host", "x"));
        headers.extend(offered.iter().map(|list| ("Sec-WebSocket-Protocol", *list)));
        let (status, head) = ask(&server, &format!("GET {path}"), &headers, "");
        let got = head.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        assert_eq!((status, got), (101, agreed), "{path} {offered:?}");
    }
}

#[test]
fn json_by_its_own_name() {
    let server = Server::open();
    let body = json!({"channel": "stream:a", "data": 1}).to_string();
    for (kind, expected) in [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/json;charset=utf-8", 200),
        ("application/vnd.api+json", 200),
        ("application/jsonp", 415),
        ("application/json-seq", 415),
        ("application/jsonx", 415),
        ("application/+json", 415),
        ("text/json", 415),
        ("text/plain; a=application/json", 415),
        ("text/plain", 415),
        ("", 415),
    ] {
        assert_eq!(server.http("POST", "/api/publish", &[("Content-Type", kind)], &body).0, expected, "{kind}");
    }
}

#[test]
fn operators_pages_are_closed_once_tokens_are_on() {
    let key = "full-key-0123456789";
    let tokens = |more: &str, operator: &str| {
        let config = crate::support::tokens::config("").replace("open = true", &format!("keys = [{more}]"));
        Server::start(&format!("{config}\n[operator]\n{operator}"))
    };
    let closed = tokens("", "");
    for path in ["/metrics", "/status"] {
        let (status, head, body) = closed.http("GET", path, &[], "");
        assert_eq!(status, 403, "{head}");
        assert!(body.contains("operator.key_file") && body.contains("operator.open"), "{body}");
    }
    for path in ["/", "/ops", "/assets/x"] {
        assert_eq!(closed.get(path).0, 404, "{path}");
    }
    assert_eq!((closed.get("/healthz").0, closed.get("/readyz").0), (200, 200));
    // An operator's key opens them.
    let keyed = tokens(&format!("\"{key}\""), "");
    for (headers, expected) in [(&[][..], 401), (&[("X-API-Key", key)], 200)] {
        assert_eq!(keyed.http("GET", "/metrics", headers, "").0, expected);
    }
    let open_server = tokens("", "open = true\n");
    assert_eq!(
        (open_server.get("/metrics").0, open_server.get("/status").0, open_server.get("/ops").0),
        (200, 200, 404)
    );
    let without = Server::start(&OPEN.replace("[server]\n", "[server]\ndashboard = false\n"));
    assert_eq!((without.get("/").0, without.get("/ops").0, without.get("/status").0), (404, 404, 200));
}
