//! HTTP errors: in JSON, with the headers of every answer, counted once, and the same for all clients that must not
//! learn more.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::bystander::Healthy;
use crate::support::tokens::{claims, config, hs256};
use crate::support::{BY_STATUS, OPEN, PATIENCE, Server};

/// The status, the head in lower case and the body of the last answer to these bytes.
fn exchange(server: &Server, bytes: &[u8]) -> (u16, String, String) {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(bytes);
    let (mut answer, mut buffer) = (Vec::new(), [0; 4_096]);
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..n]);
    }
    let answer = String::from_utf8(answer).unwrap();
    let last = &answer[answer.rfind("HTTP/1.1 ").unwrap_or_default()..];
    let (head, body) = last.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_ascii_lowercase(), body.to_owned())
}

/// The message of an error that has the documented form.
fn error_message(what: &str, (status, head, body): &(u16, String, String)) -> String {
    assert!(head.contains("content-type: application/json"), "{what}: {head}");
    assert!(head.contains("x-content-type-options: nosniff"), "{what}: {head}");
    let error: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{what}: no JSON: {body}"));
    assert_eq!(error["error"]["code"], *status, "{what}: {body}");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(!message.is_empty(), "{what}");
    message.to_owned()
}

/// Number of refusals of requests and deltas, for any reason.
fn refusals(server: &Server) -> f64 {
    let text = server.get("/metrics").1;
    let families = ["nexus_push_publish_refused_total{", "nexus_push_deltas_refused_total{"];
    let lines = text.lines().filter(|line| families.iter().any(|family| line.starts_with(family)));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[tokio::test]
async fn every_error_is_json_with_the_headers_of_every_answer() {
    let server = Server::open();
    let mut healthy = Healthy::beside(&server).await;
    server.publish("latest:%zz", &json!(1));
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let post = |headers: &str, body: &str| {
        let common = "Host: x\r\nConnection: close\r\nX-Centrifugo-Error-Mode: transport\r\n";
        format!("POST /api/publish HTTP/1.1\r\n{common}{headers}\r\n{body}")
    };
    let json = "Content-Type: application/json\r\n";
    let chunked = format!("{json}Transfer-Encoding: chunked\r\n");
    let many = "X: y\r\n".repeat(200);
    for (request, status, says) in [
        (get("/api/topics/%ff"), 400, "not UTF-8"),
        (get("/api/topics/a%ff/x"), 400, "not UTF-8"),
        (get("/api/topics/latest:%zz"), 400, "`%zz` is not an escape"),
        (get("/api/topics/a%"), 400, "`%` is not an escape"),
        (get("/api/topics/latest:%25zy"), 404, "latest:%zy"),
        (get("/api/topics/"), 404, ""),
        (get("/api/topics?prefix=%zz"), 400, "`%zz` is not an escape"),
        (get("/api/topics?prefix=%ff"), 400, "not UTF-8"),
        (get("/api/topics?limit=0"), 400, "`limit` must be a whole number from 1 to 10000, not `0`"),
        (get("/api/topics?limit=-1"), 400, "not `-1`"),
        (get("/api/topics?limit="), 400, "not ``"),
        (get("/api/topics?limit=99999999999999999999999"), 400, "`limit` must be"),
        (get("/api/topics?limit=1&limit=2"), 400, "`limit` is there twice"),
        (get("/api/nothing"), 404, "docs/protocol.md"),
        (get("/assets/%ff"), 404, if cfg!(feature = "dashboard") { "no such file" } else { "" }),
        (get("/assets/../Cargo.toml"), 404, ""),
        (get("/ws"), 426, "WebSocket"),
        (get("/healthz").replace("GET", "POST"), 405, "POST is not a method of this path"),
        (post(&chunked, "xyz\r\n{}\r\n0\r\n\r\n"), 400, "chunks is malformed"),
        (post(&chunked, "5\r\n{\"a\":1}\r\n0\r\n\r\n"), 400, "chunks is malformed"),
        (post("Content-Type: text/plain\r\nContent-Length: 2\r\n", "{}"), 415, "text/plain"),
        (post(&format!("{json}Content-Encoding: br\r\nContent-Length: 2\r\n"), "{}"), 415, "`br`"),
        (post(&format!("{json}Content-Encoding: gzip\r\nContent-Length: 2\r\n"), "{}"), 400, "gzip"),
        (post(&format!("{json}Content-Length: 8388609\r\n"), ""), 413, "8388608"),
        (post(&format!("{json}Content-Length: 1\r\n"), "{"), 400, "JSON"),
        (
            "POST /admin/drain?shar=1 HTTP/1.1\r\nHost: x\r\nX-API-Key: x\r\nConnection: close\r\n\r\n".into(),
            400,
            "`shar`",
        ),
        // Refused by the HTTP server's own parser, alone and after a good request.
        ("GET /api/topics HTTP/1.1\r\nHost: x\r\nBad Name: x\r\n\r\n".into(), 400, "malformed as HTTP/1.1"),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n".into(), 400, "malformed as HTTP/1.1"),
        (get("/").replace("\r\n\r\n", "\r\nContent-Length: +1\r\n\r\n"), 400, "malformed as HTTP/1.1"),
        (get("/").replace("\r\n\r\n", &format!("\r\n{many}\r\n")), 431, "too many headers"),
    ] {
        let answer = exchange(&server, request.as_bytes());
        let what: String = request.lines().next().unwrap().chars().take(80).collect();
        assert_eq!(answer.0, status, "{what}: {answer:?}");
        let message = error_message(&what, &answer);
        assert!(message.contains(says), "{what}: {message}");
        healthy.is_well(&server).await;
    }
    // Correctly encoded paths are found, and redundant parts are ignored.
    assert_eq!(server.get("/api/topics/latest:%25zz").0, 200);
    assert_eq!(server.get("/api/topics?prefix=latest%3A%25&_=5").1, r#"{"topics":["latest:%zz"],"next":null}"#);
}

#[cfg(feature = "dashboard")]
#[test]
fn another_method_is_405_and_allow_has_those_that_are() {
    let server = Server::start(&OPEN.replace(
        "[publish]\nopen = true",
        "[[publish.key]]\nname = \"p\"\nsecret = \"0123456789abcdef0123456789abcdef\"\ntopics = [\"*\"]",
    ));
    let reads = ("get,head", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"].as_slice());
    let listed = ("get,head,options", ["POST", "PUT", "DELETE", "PATCH"].as_slice());
    let writes = ("post", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"].as_slice());
    let sockets = ("get", ["HEAD", "POST", "PUT", "OPTIONS"].as_slice());
    for (path, (allow, methods)) in [
        ("/api/topics", listed),
        ("/api/topics/x", listed),
        ("/api/publish", writes),
        ("/api/batch", writes),
        ("/api/history", writes),
        ("/api", writes),
        ("/healthz", reads),
        ("/readyz", reads),
        ("/metrics", reads),
        ("/ops", reads),
        ("/assets/x", reads),
        ("/ws", sockets),
        ("/connection/websocket", sockets),
    ] {
        for method in methods {
            // No key and no content type is required where there is nothing to do.
            let answer = server.http(method, path, &[], "");
            assert_eq!(answer.0, 405, "{method} {path}: {answer:?}");
            let allowed = answer.1.lines().find_map(|line| line.strip_prefix("allow: ")).unwrap_or_default();
            let mut allowed: Vec<&str> = allowed.split(',').map(str::trim).collect();
            allowed.sort_unstable();
            assert_eq!(allowed.join(","), allow, "{method} {path}: {}", answer.1);
            assert!(answer.1.contains("x-content-type-options: nosniff"), "{method} {path}");
            if *method != "HEAD" {
                error_message(path, &answer);
            }
        }
    }
    assert_eq!(refusals(&server), 0.0);
}

#[test]
fn without_a_token_a_namespace_that_is_closed_and_none_at_all_are_alike() {
    let more = "[namespace.closed]\nallow_subscribe_for_anonymous = false\n";
    let strict = "[access]\nanonymous = true\nunknown_namespace = \"refuse\"";
    let server = Server::start(&config(more).replace("[access]", strict));
    let asked = |path: &str| server.http("GET", path, &[], "");
    let without_date = |head: &str| head.lines().filter(|l| !l.starts_with("date")).collect::<Vec<_>>().join("\n");
    let (closed, none) = (asked("/api/topics/closed:x"), asked("/api/topics/none:x"));
    assert_eq!((closed.0, &closed.2), (401, &none.2));
    assert_eq!(without_date(&closed.1), without_date(&none.1));
    // A client with a token learns what is wrong.
    let bearer = format!("Bearer {}", hs256(&claims("a", 600, json!({"topics": ["*"]}))));
    assert_eq!(server.http("GET", "/api/topics/none:x", &[("Authorization", &bearer)], "").0, 404);
    // Where there are no tokens, none is required.
    let open = Server::start(&OPEN.replace("[access]", "[access]\nunknown_namespace = \"refuse\""));
    assert_eq!(open.get("/api/topics/none:x").0, 404);
}

#[test]
fn a_refusal_is_counted_once_under_its_reason() {
    let keys = "[[publish.key]]\nname = \"p\"\nsecret = \"0123456789abcdef0123456789abcdef\"\ntopics = [\"latest:*\"]\n\
                [[publish.key]]\nname = \"o\"\nsecret = \"abcdef0123456789abcdef0123456789\"\ntopics = [\"*\"]\nscopes = [\"operate\"]\n";
    let unknown = "[access]\nunknown_namespace = \"refuse\"";
    let server = Server::start(&OPEN.replace("[publish]\nopen = true\n", keys).replace("[access]", unknown));
    let (p, o) = ("0123456789abcdef0123456789abcdef", "abcdef0123456789abcdef0123456789");
    let long = "x".repeat(300 * 1024);
    let many = "{\"publish\":{}},".repeat(10_001);
    let (gzip, utf16) = (("Content-Encoding", "gzip"), ("Content-Type", "application/json; charset=utf-16"));
    let json_type = ("Content-Type", "application/json");
    let batch =
        |command: &str| format!("{{\"commands\":[{command},{{\"publish\":{{\"channel\":\"latest:a\",\"data\":1}}}}]}}");
    let (publish, delta) = ("publish_refused_total", "deltas_refused_total");
    for (what, key, path, header, body, family, reason, times) in [
        ("no key", "", "publish", json_type, "{}".to_owned(), publish, "key", 1),
        ("a body that is no JSON", p, "publish", json_type, "{".into(), publish, "malformed", 1),
        ("an older body that is no JSON", p, "", json_type, "{".into(), publish, "malformed", 1),
        ("an older body without commands", p, "", json_type, " ".into(), publish, "malformed", 1),
        ("a body that is no gzip", p, "publish", gzip, "{}".into(), publish, "malformed", 1),
        (
            "an encoding that is not known",
            p,
            "publish",
            ("Content-Encoding", "br"),
            "{}".into(),
            publish,
            "encoding",
            1,
        ),
        ("UTF-16", p, "batch", utf16, "{}".into(), publish, "encoding", 1),
        (
            "a member that is not known",
            p,
            "publish",
            json_type,
            r#"{"chanel":"latest:a","data":1}"#.into(),
            publish,
            "malformed",
            1,
        ),
        (
            "an unknown member in a batch",
            p,
            "batch",
            json_type,
            batch(r#"{"publish":{"chanel":"latest:a","data":1}}"#),
            publish,
            "malformed",
            1,
        ),
        ("an unknown command", p, "batch", json_type, batch("7"), publish, "malformed", 1),
        ("a method that is not known", p, "batch", json_type, batch(r#"{"dance":{}}"#), publish, "unknown", 1),
        ("the same in the older form", p, "", json_type, r#"{"method":"dance"}"#.into(), publish, "unknown", 1),
        ("another's scope", p, "batch", json_type, batch(r#"{"info":{}}"#), publish, "scope", 1),
        (
            "a topic that the key is not for",
            p,
            "batch",
            json_type,
            batch(r#"{"publish":{"channel":"merge:a","data":1}}"#),
            publish,
            "topic",
            1,
        ),
        (
            "a batch too long",
            p,
            "batch",
            json_type,
            format!("{{\"commands\":[{}{{}}]}}", many),
            publish,
            "batch_too_long",
            1,
        ),
        (
            "no presence",
            o,
            "batch",
            json_type,
            batch(r#"{"presence":{"channel":"latest:a"}}"#),
            publish,
            "not_available",
            1,
        ),
        ("an unknown namespace", o, "history", json_type, r#"{"channel":"none:a"}"#.into(), publish, "unknown", 1),
        ("an order's member", o, "batch", json_type, batch(r#"{"disconnect":{"usr":"a"}}"#), publish, "malformed", 1),
        (
            "a delta too large",
            p,
            "publish",
            json_type,
            format!(r#"{{"channel":"latest:a","data":"{long}"}}"#),
            delta,
            "too_large",
            1,
        ),
        (
            "the same to two topics",
            p,
            "broadcast",
            json_type,
            format!(r#"{{"channels":["latest:a","latest:b"],"data":"{long}"}}"#),
            delta,
            "too_large",
            2,
        ),
    ] {
        let one = format!("{family}{{reason=\"{reason}\"}}");
        let before = (refusals(&server), server.metric(&one));
        let mut headers = vec![("X-API-Key", key), BY_STATUS, header];
        if header.0 != "Content-Type" {
            headers.push(json_type);
        }
        let path = if path.is_empty() { "/api".to_owned() } else { format!("/api/{path}") };
        let answer = server.http("POST", &path, &headers, &body);
        // The batch's second command is a publish, for which the operator's key has no right.
        let more = if key == o && path == "/api/batch" { 1.0 } else { 0.0 };
        let after = (refusals(&server), server.metric(&one));
        assert_eq!(after.1 - before.1, f64::from(times), "{what}: {answer:?}");
        assert_eq!(after.0 - before.0, f64::from(times) + more, "{what}: counted once: {answer:?}");
    }
}

/// A misspelt member is not reported as missing.
#[test]
fn a_misspelt_member_is_named_with_a_suggestion() {
    let server = Server::open();
    for (path, body, says) in [
        ("publish", json!({"chanel": "a", "data": 1}), "`chanel` is not known here; did you mean `channel`?"),
        ("publish", json!({"channel": "a", "dta": 1}), "`dta` is not known here; did you mean `data`? known are"),
        ("broadcast", json!({"chanels": ["a"], "data": 1}), "`chanels` is not known here; did you mean `channels`?"),
        ("batch", json!({"comands": []}), "`comands` is not known here; did you mean `commands`?"),
        ("disconnect", json!({"usr": "a"}), "`usr` is not known here; did you mean `user`?"),
        ("history", json!({"topc": "a"}), "`topc` is not known here; did you mean `topic`?"),
        ("history", json!({"limit": 1}), "`channel` is missing"),
    ] {
        let (status, reply) = server.post(&format!("/api/{path}"), &body);
        let error_message = reply["error"]["message"].as_str().unwrap();
        assert!(status == 400 && error_message.contains(says), "{body}: {error_message}");
    }
}
