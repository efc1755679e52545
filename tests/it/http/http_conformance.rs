//! HTTP/1.1 by RFC 9110 and RFC 9112, and hostile input: each request gets its answer, or the connection ends, and a
//! proxy in front of the server cannot read requests differently. Whatever was sent, a healthy session continues.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::bystander::Healthy;
use crate::support::raw_socket::frame;
use crate::support::{PATIENCE, Server};

/// The accepted results of some bytes: these statuses, and then the end of the connection.
type Expected<'a> = &'a [&'a [u16]];

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Everything that comes back until the server closes.
fn exchange(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(server);
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(bytes);
    rest(&mut stream)
}

fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let (mut answer, mut buffer) = (Vec::new(), [0; 4_096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return answer,
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return answer,
            Err(e) => panic!("the connection should have ended: {e}; so far {:?}", String::from_utf8_lossy(&answer)),
        }
    }
}

/// The statuses of consecutive answers; every byte belongs to one of them.
fn statuses(mut answers: &[u8]) -> Vec<u16> {
    let mut found = Vec::new();
    while !answers.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(answers);
        let Ok(httparse::Status::Complete(head)) = parsed else {
            panic!("{parsed:?}: {:?}", String::from_utf8_lossy(answers));
        };
        let status = response.code.unwrap();
        found.push(status);
        if status == 101 {
            return found;
        }
        let length = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
        let length: usize = length.map_or(0, |h| std::str::from_utf8(h.value).unwrap().parse().unwrap());
        answers = &answers[head + length..];
    }
    found
}

fn check(server: &Server, what: &str, bytes: &[u8], expected: Expected<'_>) {
    let answer = exchange(server, bytes);
    let got = statuses(&answer);
    assert!(
        expected.contains(&got.as_slice()),
        "{what}: {got:?}, expected {expected:?}\n{}",
        String::from_utf8_lossy(&answer)
    );
}

/// A publish with these headers and this body.
fn publish(headers: &str, body: &str) -> String {
    let by_status = "X-Centrifugo-Error-Mode: transport\r\n";
    format!("POST /api/publish HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{by_status}{headers}\r\n{body}")
}

const DELTA: &str = r#"{"channel":"stream:a","data":1}"#;
const NEXT: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// A publish in one chunk whose size is written like this.
fn chunked(size: &str) -> String {
    publish("Transfer-Encoding: chunked\r\nConnection: close\r\n", &format!("{size}\r\n{DELTA}\r\n0\r\n\r\n"))
}

/// Where a request ends. A server that disagrees with a proxy about that could answer requests that the proxy never
/// saw.
#[tokio::test]
async fn where_a_request_ends() {
    let server = Server::open();
    let mut healthy = Healthy::beside(&server).await;
    let long = DELTA.len();
    let length = |value: &str| publish(&format!("Content-Length: {value}\r\nConnection: close\r\n"), DELTA);
    let coding =
        |lines: &str| publish(&format!("{lines}Connection: close\r\n"), &format!("1f\r\n{DELTA}\r\n0\r\n\r\n"));
    assert_eq!(long, 0x1f);
    let refused: Expected<'_> = &[&[400]];
    let table: Vec<(&str, String, Expected<'_>)> = vec![
        ("a length", length("31"), &[&[200]]),
        ("a length with zeros before it", length("031"), &[&[200]]),
        ("chunked", coding("Transfer-Encoding: chunked\r\n"), &[&[200]]),
        ("chunked, in another case and behind a tab", coding("transfer-encoding:\tCHUNKED\r\n"), &[&[200]]),
        // RFC 9112 §6.3: the transfer coding counts, and nothing may follow on that connection.
        (
            "a length and a coding",
            publish("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{NEXT}")),
            refused,
        ),
        (
            "a coding and a length",
            publish("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", &format!("0\r\n\r\n{NEXT}")),
            refused,
        ),
        ("a length and a coding, both right", coding("Content-Length: 41\r\nTransfer-Encoding: chunked\r\n"), refused),
        ("two lengths", publish("Content-Length: 31\r\nContent-Length: 5\r\n", DELTA), refused),
        ("the same length twice", length("31\r\nContent-Length: 31"), &[&[200]]),
        ("two lengths in one", length("31, 31"), refused),
        ("a length with a plus", length("+31"), refused),
        ("a negative length", length("-1"), refused),
        ("a length in hex", length("0x1f"), refused),
        ("a length of nothing", length(""), refused),
        ("a length with more behind it", length("31 31"), refused),
        ("a length in scientific notation", length("3e1"), refused),
        ("a length of 2^64", length("18446744073709551616"), refused),
        ("a length of 2^64-1", length("18446744073709551615"), &[&[400], &[413], &[431]]),
        ("a length of 2^53", length("9007199254740992"), &[&[413]]),
        ("a length just over the limit", length("8388609"), &[&[413]]),
        ("a length by another name", publish("Content_Length: 31\r\nConnection: close\r\n", ""), refused),
        ("a space before the colon", publish("Content-Length : 31\r\n", DELTA), refused),
        ("a tab before the colon", publish("Transfer-Encoding\t: chunked\r\n", DELTA), refused),
        ("an unknown coding", coding("Transfer-Encoding: xchunked\r\n"), refused),
        ("a coding in quotes", coding("Transfer-Encoding: \"chunked\"\r\n"), refused),
        ("a coding with parameters", coding("Transfer-Encoding: chunked;q=1\r\n"), refused),
        ("a coding behind a vertical tab", coding("Transfer-Encoding: \x0bchunked\r\n"), refused),
        ("chunked, and then something else", coding("Transfer-Encoding: chunked, identity\r\n"), refused),
        ("something else, and then chunked", coding("Transfer-Encoding: identity, chunked\r\n"), &[&[501]]),
        ("the same on two lines", coding("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"), &[&[501]]),
        ("chunked on two lines", coding("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), &[&[501]]),
        ("gzip, and then chunked", coding("Transfer-Encoding: gzip, chunked\r\n"), &[&[501]]),
        ("identity alone", coding("Transfer-Encoding: identity\r\n"), refused),
        ("a coding on a folded line", coding("Transfer-Encoding:\r\n chunked\r\n"), refused),
        ("a coding in HTTP/1.0", coding("Transfer-Encoding: chunked\r\n").replace("HTTP/1.1", "HTTP/1.0"), refused),
        ("a chunk's extension", chunked("1f;name=value"), &[&[200]]),
        ("a chunk's size in capitals, with zeros", chunked("0001F"), &[&[200]]),
        ("an invalid chunk size", chunked("xyz"), refused),
        ("a negative chunk", chunked("-1f"), refused),
        ("a chunk with a plus", chunked("+1f"), refused),
        ("a chunk with 0x", chunked("0x1f"), refused),
        ("a chunk of 2^64", chunked("10000000000000000"), refused),
        ("a chunk of nothing", chunked(""), refused),
        ("an extension without end", chunked(&format!("1f;{}", "x".repeat(20_000))), refused),
        ("a chunk longer than its size", chunked("1e"), refused),
        ("a chunk's size with a bare LF", chunked("1f").replacen("1f\r\n", "1f\n", 1), refused),
        ("trailers", chunked("1f").replace("0\r\n\r\n", "0\r\nX-Trailer: a\r\n\r\n"), &[&[200]]),
        (
            "endless trailers",
            chunked("1f").replace("0\r\n\r\n", &format!("0\r\nX: {}\r\n\r\n", "x".repeat(40_000))),
            refused,
        ),
        ("a body of a GET", NEXT.replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nhello"), &[&[200]]),
    ];
    for (what, bytes, expected) in &table {
        check(&server, what, bytes.as_bytes(), expected);
        healthy.is_well(&server).await;
    }
    assert!(server.metric("http_malformed_total") >= 20.0);
    assert_eq!(server.metric("publish_refused_total{reason=\"body_too_large\"}"), 2.0);
    healthy
        .during(1, {
            let address = server.address;
            let bytes: Vec<String> = table.into_iter().map(|(_, bytes, _)| bytes).collect();
            move |round| {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let _ = stream.write_all(bytes[round % bytes.len()].as_bytes());
                rest(&mut stream).len()
            }
        })
        .await;
}

/// Valid and invalid request lines and headers.
#[tokio::test]
async fn valid_and_invalid_heads() {
    let server = Server::open();
    let mut healthy = Healthy::beside(&server).await;
    let line = |line: &str| format!("{line}\r\nHost: x\r\nConnection: close\r\n\r\n");
    let headers = |headers: &str| format!("GET /healthz HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    let many = |n: usize| headers(&format!("Host: x\r\n{}", "X-Many: x\r\n".repeat(n - 2)));
    let refused: Expected<'_> = &[&[400]];
    let too_large: Expected<'_> = &[&[431]];
    // Another protocol: whether it gets an answer is up to the HTTP server.
    let foreign: Expected<'_> = &[&[400], &[]];
    let table: Vec<(&str, String, Expected<'_>)> = vec![
        ("as it should be", line("GET /healthz HTTP/1.1"), &[&[200]]),
        ("an empty line before it", line("\r\nGET /healthz HTTP/1.1"), &[&[200]]),
        ("lines that end with LF alone", line("GET /healthz HTTP/1.1").replace("\r\n", "\n"), &[&[200]]),
        ("HTTP/1.0, without Host", "GET /healthz HTTP/1.0\r\n\r\n".into(), &[&[200]]),
        ("an absolute target", line("GET http://x/healthz HTTP/1.1"), &[&[200]]),
        ("an absolute target with a user", line("GET http://user@x/healthz HTTP/1.1"), refused),
        ("a target of dots", line("GET /../../etc/passwd HTTP/1.1"), &[&[404]]),
        ("a target with a coded NUL", line("GET /%00 HTTP/1.1"), &[&[404]]),
        ("a target without a slash", line("GET healthz HTTP/1.1"), &[&[400], &[404]]),
        ("a target with a space", line("GET /a b HTTP/1.1"), refused),
        ("a target with NUL", line("GET /\0 HTTP/1.1"), refused),
        ("no target", line("GET HTTP/1.1"), refused),
        ("the server itself", line("OPTIONS * HTTP/1.1"), &[&[404], &[405]]),
        ("a tunnel", line("CONNECT x:80 HTTP/1.1"), &[&[400], &[404], &[405]]),
        ("a method that is not allowed here", line("DELETE /healthz HTTP/1.1"), &[&[405]]),
        ("an unknown method", line("BREW /healthz HTTP/1.1"), &[&[405]]),
        ("a method in small letters", line("get /healthz HTTP/1.1"), &[&[405]]),
        ("a method that is no token", line("G(T /healthz HTTP/1.1"), refused),
        ("a method without end", line(&format!("{} / HTTP/1.1", "G".repeat(20_000))), &[&[400], &[431]]),
        ("HTTP/0.9", "GET /healthz\r\n\r\n".into(), refused),
        ("HTTP/1.2", line("GET /healthz HTTP/1.2"), refused),
        ("HTTP/2.0", line("GET /healthz HTTP/2.0"), refused),
        ("a version in small letters", line("GET /healthz http/1.1"), refused),
        ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), foreign),
        ("TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03".into(), foreign),
        ("garbage", "\0\0\0\0\r\n\r\n".into(), refused),
        ("no Host", headers(""), refused),
        ("two Hosts", headers("Host: x\r\nHost: y\r\n"), refused),
        ("the same Host twice", headers("Host: x\r\nhost: x\r\n"), refused),
        ("an empty Host", headers("Host:\r\n"), refused),
        ("two Hosts in one", headers("Host: x, y\r\n"), refused),
        ("a Host with a path", headers("Host: x/y\r\n"), refused),
        ("a Host with a user", headers("Host: user@x\r\n"), refused),
        ("a Host with a port", headers("Host: x:80\r\n"), &[&[200]]),
        ("a Host of IPv6", headers("Host: [::1]:80\r\n"), &[&[200]]),
        ("a folded line", headers("Host: x\r\nX: a\r\n b\r\n"), refused),
        ("a first line that is folded", headers(" Host: x\r\n"), refused),
        ("a header without a colon", headers("Host: x\r\nX\r\n"), refused),
        ("a header without a name", headers("Host: x\r\n: a\r\n"), refused),
        ("a header with a space in its name", headers("Host: x\r\nX Y: a\r\n"), refused),
        ("NUL in a name", headers("Host: x\r\nX\0: a\r\n"), refused),
        ("NUL in a value", headers("Host: x\r\nX: a\0b\r\n"), refused),
        ("a bare CR in a value", headers("Host: x\r\nX: a\rb\r\n"), refused),
        ("100 headers", many(100), &[&[200]]),
        ("101 headers", many(101), too_large),
        ("thousands of headers", many(5_000), too_large),
        ("a long header", headers(&format!("Host: x\r\nX: {}\r\n", "x".repeat(20_000))), too_large),
        ("a long header's name", headers(&format!("Host: x\r\n{}: x\r\n", "X".repeat(20_000))), too_large),
        ("a long target", line(&format!("GET /{} HTTP/1.1", "x".repeat(20_000))), &[&[414], &[431]]),
        ("two requests at once", format!("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n{NEXT}"), &[&[200, 200]]),
        (
            "a body, and the next request behind it",
            format!("{}{NEXT}", publish("Content-Length: 31\r\n", DELTA)),
            &[&[200, 200]],
        ),
        ("a request, and then garbage", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n\0\0\r\n\r\n".into(), &[&[200, 400]]),
        ("a request behind the last one", format!("{NEXT}{NEXT}"), &[&[200]]),
        (
            "Expect: 100-continue",
            publish("Expect: 100-continue\r\nContent-Length: 31\r\nConnection: close\r\n", DELTA),
            &[&[100, 200], &[200]],
        ),
        (
            "Expect: 100-continue with too large a body",
            publish("Expect: 100-continue\r\nContent-Length: 99999999\r\n", ""),
            &[&[413]],
        ),
    ];
    for (what, bytes, expected) in &table {
        check(&server, what, bytes.as_bytes(), expected);
        healthy.is_well(&server).await;
    }
    check(
        &server,
        "a byte above ASCII in a target",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        &[&[400], &[404]],
    );
    check(
        &server,
        "a byte above ASCII in a value",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: \xff\r\nConnection: close\r\n\r\n",
        &[&[200]],
    );
    check(
        &server,
        "a byte above ASCII in Host",
        b"GET /healthz HTTP/1.1\r\nHost: \xff\r\nConnection: close\r\n\r\n",
        refused,
    );
}

const UPGRADE: &str = "Upgrade: websocket\r\n";
const CONNECTION: &str = "Connection: Upgrade\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The opening handshake (RFC 6455 §4.2.1). Short handshakes are answered at accept, longer ones by the HTTP server:
/// both must decide alike.
#[tokio::test]
async fn valid_and_invalid_opening_handshakes() {
    let server = Server::open();
    let mut healthy = Healthy::beside(&server).await;
    let head = |line: &str, headers: &[&str]| format!("{line}\r\nHost: x\r\n{}\r\n", headers.concat());
    let get = |headers: &[&str]| head("GET /ws HTTP/1.1", headers);
    let whole = get(&[UPGRADE, CONNECTION, VERSION, KEY]);
    let with_key = |key: &str| get(&[UPGRADE, CONNECTION, VERSION, &format!("Sec-WebSocket-Key: {key}\r\n")]);
    let with = |more: &str| get(&[UPGRADE, CONNECTION, VERSION, KEY, more]);
    let table: Vec<(&str, String, u16)> = vec![
        ("as it should be", whole.clone(), 101),
        ("at the other path", whole.replace("/ws", "/connection/websocket"), 101),
        (
            "in small letters",
            whole
                .to_ascii_lowercase()
                .replace("get /ws http", "GET /ws HTTP")
                .replace("dghlihnhbxbszsbub25jzq", "dGhlIHNhbXBsZSBub25jZQ"),
            101,
        ),
        ("names in capitals", whole.replace("Upgrade:", "UPGRADE:").replace("Sec-WebSocket-", "SEC-WEBSOCKET-"), 101),
        ("values in mixed case", whole.replace(": websocket", ": WebSocket").replace(": Upgrade", ": uPGRADE"), 101),
        ("lines that end with LF alone", whole.replace("\r\n", "\n"), 101),
        ("an empty line before it", format!("\r\n{whole}"), 101),
        ("an absolute target", whole.replace("GET /ws", "GET http://x/ws"), 101),
        ("a query", whole.replace("GET /ws", "GET /ws?a=b"), 101),
        ("Connection is a list", whole.replace(": Upgrade", ": keep-alive, Upgrade"), 101),
        ("Connection is a list without spaces", whole.replace(": Upgrade", ": keep-alive,upgrade,x"), 101),
        ("Connection on two lines", with("Connection: keep-alive\r\n"), 101),
        (
            "Connection on two lines, in the other order",
            get(&["Connection: keep-alive\r\n", UPGRADE, CONNECTION, VERSION, KEY]),
            101,
        ),
        ("Upgrade is a list", whole.replace(": websocket", ": h2c, websocket"), 101),
        ("a body of nothing", with("Content-Length: 0\r\n"), 101),
        ("80 headers", with(&"X: y\r\n".repeat(74)), 101),
        ("another method", whole.replace("GET", "POST"), 405),
        ("a HEAD", whole.replace("GET", "HEAD"), 405),
        ("HTTP/1.0", whole.replace("HTTP/1.1", "HTTP/1.0"), 426),
        ("no upgrade at all", get(&[]), 426),
        ("no Upgrade", get(&[CONNECTION, VERSION, KEY]), 426),
        ("Upgrade to something else", whole.replace(": websocket", ": h2c"), 426),
        ("Upgrade to something longer", whole.replace(": websocket", ": websockets"), 426),
        ("no Connection", get(&[UPGRADE, VERSION, KEY]), 426),
        ("Connection with another value", whole.replace(": Upgrade", ": keep-alive"), 426),
        ("Connection with a longer value", whole.replace(": Upgrade", ": Upgraded"), 426),
        ("no version", get(&[UPGRADE, CONNECTION, KEY]), 426),
        ("an old version", whole.replace(": 13", ": 8"), 426),
        ("a version of 013", whole.replace(": 13", ": 013"), 426),
        ("two versions in one", whole.replace(": 13", ": 13, 8"), 426),
        ("two versions", with(VERSION), 400),
        ("no key", get(&[UPGRADE, CONNECTION, VERSION]), 400),
        ("two keys", with(KEY), 400),
        ("an empty key", with_key(""), 400),
        ("a key of 15 bytes", with_key("MTIzNDU2Nzg5MDEyMzQ1"), 400),
        ("a key of 17 bytes", with_key("MTIzNDU2Nzg5MDEyMzQ1Njc="), 400),
        ("a key without its end", with_key("dGhlIHNhbXBsZSBub25jZQ"), 400),
        ("a key that is not base64", with_key("!!!!!!!!!!!!!!!!!!!!!!=="), 400),
        ("a key in base64 for URLs", with_key("________________-----w=="), 400),
        ("no Host", whole.replace("Host: x\r\n", ""), 400),
        ("two Hosts", with("Host: x\r\n"), 400),
        ("a bad Host", whole.replace("Host: x", "Host: x y"), 400),
        ("a body", format!("{}hello", with("Content-Length: 5\r\n")), 400),
        ("a body in chunks", format!("{}0\r\n\r\n", with("Transfer-Encoding: chunked\r\n")), 400),
        ("two lengths of a body", format!("{}hello", with("Content-Length: 5\r\nContent-Length: 0\r\n")), 400),
        ("a folded line", whole.replace("Upgrade: websocket", "Upgrade:\r\n websocket"), 400),
        ("a space before a colon", whole.replace("Upgrade: websocket", "Upgrade : websocket"), 400),
        ("NUL in a value", with("X: a\0b\r\n"), 400),
        ("a bare CR in a value", with("X: a\rb\r\n"), 400),
        ("101 headers", with(&"X: y\r\n".repeat(96)), 431),
    ];
    // Longer than is handled at accept, shorter than the limit of a head.
    let filler = format!("X-Filler: {}", "x".repeat(6_000));
    for (what, bytes, expected) in &table {
        // After the first line, with the same line end.
        let line_end = if bytes.contains("\r\n") { "\r\n" } else { "\n" };
        let at = bytes.find(&format!("1.1{line_end}")).or_else(|| bytes.find(&format!("1.0{line_end}"))).unwrap()
            + 3
            + line_end.len();
        let (line, headers) = bytes.split_at(at);
        let long = format!("{line}{filler}{line_end}{headers}");
        for (way, bytes) in [("short", bytes.clone()), ("long", long)] {
            let mut stream = connect(&server);
            stream.write_all(bytes.as_bytes()).unwrap();
            let (head, status) = head_of(&mut stream);
            assert_eq!(status, *expected, "{what}, {way}: {head}");
            match status {
                101 => {
                    assert!(
                        head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
                        "{what}, {way}: {head}"
                    );
                    let plain = bytes.contains("/ws");
                    let ping: &[u8] = if plain { br#"{"op":"ping","id":1}"# } else { br#"{"id":1,"connect":{}}"# };
                    stream.write_all(&frame(0x81, ping)).unwrap();
                    let mut first = [0];
                    stream.read_exact(&mut first).unwrap();
                    assert_eq!(first, [0x81], "{what}, {way}");
                }
                426 => assert!(
                    head.contains("sec-websocket-version: 13") && head.contains("upgrade: websocket"),
                    "{what}, {way}: {head}"
                ),
                405 => assert!(head.contains("allow: get"), "{what}, {way}: {head}"),
                _ => {}
            }
        }
        healthy.is_well(&server).await;
    }
    server.until("all accepted sessions are gone", |s| s.metric("sessions") == 1.0).await;
}

/// The head of one answer, in small letters, and its status.
fn head_of(stream: &mut TcpStream) -> (String, u16) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{:?}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    (head, status)
}

/// The page's `Origin` is compared with the host that the request is for, whatever other headers say.
#[tokio::test]
async fn an_origin_is_compared_with_the_host_that_counts() {
    let server =
        Server::start("[access]\nanonymous = true\norigins = [\"https://good.example\"]\n[publish]\nopen = true\n");
    let mut healthy = Healthy::beside(&server).await;
    let upgrade = [UPGRADE, CONNECTION, VERSION, KEY].concat();
    let table: &[(&str, &str, &[u8], u16)] = &[
        ("none", "/ws", b"", 101),
        ("one that is listed", "/ws", b"Origin: https://good.example\r\n", 101),
        ("the server's own", "/ws", b"Origin: http://own.example\r\n", 101),
        ("another", "/ws", b"Origin: https://evil.example\r\n", 403),
        ("null", "/ws", b"Origin: null\r\n", 403),
        ("empty", "/ws", b"Origin:\r\n", 403),
        ("one that begins alike", "/ws", b"Origin: https://good.example.evil.example\r\n", 403),
        ("one with a user", "/ws", b"Origin: https://good.example@evil.example\r\n", 403),
        ("two", "/ws", b"Origin: https://good.example\r\nOrigin: https://evil.example\r\n", 403),
        ("two in one", "/ws", b"Origin: https://good.example, https://evil.example\r\n", 403),
        ("bytes that are no text", "/ws", b"Origin: https://\xff\r\n", 403),
        ("the header's host, not the target's", "http://other.example/ws", b"Origin: http://own.example\r\n", 403),
        ("the target's host, not the header's", "http://other.example/ws", b"Origin: http://other.example\r\n", 101),
    ];
    let filler = format!("X-Filler: {}\r\n", "x".repeat(6_000));
    let mut refused = 0.0;
    for (what, target, origin, expected) in table {
        for more in ["", &filler] {
            let mut stream = connect(&server);
            let head = format!("GET {target} HTTP/1.1\r\nHost: own.example\r\n{upgrade}{more}");
            stream.write_all(&[head.as_bytes(), origin, b"\r\n"].concat()).unwrap();
            assert_eq!(head_of(&mut stream).1, *expected, "{what}, {} bytes", head.len());
            refused += f64::from(u8::from(*expected == 403));
        }
        healthy.is_well(&server).await;
    }
    assert_eq!(server.metric("upgrades_refused_total{reason=\"origin\"}"), refused);
}

/// Sends a byte from time to time as long as the server reads.
fn trickle(mut stream: TcpStream, bytes: impl IntoIterator<Item = u8>) -> Vec<u8> {
    stream.set_nodelay(true).unwrap();
    for byte in bytes {
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        if stream.write_all(&[byte]).is_err() || stream.peek(&mut [0]).is_ok() {
            break;
        }
    }
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    rest(&mut stream)
}

/// A head, a body, an answer: each has a time-out, even if a little of it comes steadily.
#[tokio::test]
async fn slow_clients_meet_an_end() {
    let limits = "handshake_timeout = \"600ms\"\nrequest_timeout = \"600ms\"\nkeep_alive_timeout = \"600ms\"";
    let server = Server::open_with(&format!("[limits]\n{limits}"));
    let mut healthy = Healthy::beside(&server).await;
    let address = server.address;
    let begin = move |head: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let slow = healthy
        .during(1, move |_| {
            let head = begin("GET /ws HTTP/1.1\r\nHost: x\r\nX: ");
            let body = begin(&publish("Content-Length: 10000\r\n", ""));
            let chunks = begin(&publish("Transfer-Encoding: chunked\r\n", "2710\r\n"));
            [head, body, chunks]
                .map(|stream| std::thread::spawn(move || trickle(stream, std::iter::repeat_n(b'x', 10_000))))
                .map(|thread| statuses(&thread.join().unwrap()))
        })
        .await;
    for [head, body, chunks] in &slow {
        // Half a head may get no answer.
        assert!(matches!(head[..], [] | [408]), "{head:?}");
        assert_eq!((&body[..], &chunks[..]), (&[408][..], &[408][..]));
    }
    assert_eq!(server.metric("http_timeouts_total{reason=\"body\"}"), 2.0 * slow.len() as f64);
    assert!(server.metric("handshake_timeouts_total") >= slow.len() as f64);
    // A body that stops, and a kept-alive connection that is not used.
    assert_eq!(statuses(&rest(&mut begin(&publish("Content-Length: 10\r\n", "x")))), [408]);
    assert_eq!(statuses(&rest(&mut begin("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))), [200]);
    healthy.is_well(&server).await;
    // An answer that is not taken, or only a little at a time.
    let part = "x".repeat(200_000);
    for n in 0..15 {
        server.publish("merge:large", &serde_json::json!({(format!("k{n}")): part}));
    }
    for dribble in [false, true] {
        let before = server.metric("http_timeouts_total{reason=\"answer\"}");
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        socket.connect(&server.address.into()).unwrap();
        let mut stream: TcpStream = socket.into();
        stream.write_all(b"GET /api/topics/merge:large HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut taken = 0;
        server
            .until("it was closed", |s| {
                if dribble {
                    taken += stream.read(&mut [0; 256]).unwrap_or(0);
                }
                s.metric("http_timeouts_total{reason=\"answer\"}") > before
            })
            .await;
        assert!(taken < 2_000_000, "it took everything: {taken} bytes");
        healthy.is_well(&server).await;
    }
}

/// A client that may not publish is refused before it sends a body: the server buffers nothing for it.
#[tokio::test]
async fn a_body_is_read_only_where_the_key_is_known() {
    let server = Server::start("[access]\nanonymous = true\n[publish]\nkeys = [\"publish-key-0123456789\"]\n");
    for (headers, expected) in [
        ("Content-Type: application/json\r\n", 401),
        ("Content-Type: application/json\r\nX-API-Key: wrong-key-0123456789x\r\n", 401),
        ("Content-Type: text/plain\r\nX-API-Key: publish-key-0123456789\r\n", 415),
    ] {
        for path in ["publish", "broadcast", "batch", "info", "disconnect"] {
            let mut stream = connect(&server);
            let head = format!("POST /api/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n{headers}\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            let (head, status) = head_of(&mut stream);
            assert_eq!(status, expected, "{path}: {head}");
            // A body that is sent anyway does not prevent reading the answer.
            let _ = stream.write_all(&vec![b' '; 1_000_000]);
            rest(&mut stream);
        }
    }
}
