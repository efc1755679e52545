//! HTTP slots: one address that takes many of them takes none from others, health checks have their own, and kept-alive
//! connections are closed without losing requests.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::support::bystander::Healthy;
use crate::support::tokens::{claims, hs256};
use crate::support::{PATIENCE, Server};

/// The attacker's address, and another.
const GREEDY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A connection from this address of the machine.
fn connect_from(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The status of the answer to these bytes, sent piece by piece; 0 if the connection ends without one.
fn status(stream: &mut TcpStream, pieces: &[&str]) -> u16 {
    for piece in pieces {
        // The server may answer and close before it has read everything.
        if stream.write_all(piece.as_bytes()).is_err() {
            break;
        }
    }
    let mut answer = [0; 64];
    let n = stream.read(&mut answer).unwrap_or(0);
    let line = String::from_utf8_lossy(&answer[..n]).into_owned();
    line.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

/// An upgrade that needs a slot, because its token is verified on another thread.
fn upgrade() -> String {
    let token = hs256(&claims("u1", 600, json!({"topics": ["*"]})));
    format!(
        "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
}

/// Half requests and silent sockets of one address, many times the number of slots.
#[tokio::test]
async fn half_requests_and_silent_sockets_of_one_address_block_no_others() {
    let server = Server::start(&crate::support::tokens::config("[limits]\nhandshake_timeout = \"1h\"\n"));
    let bearer = format!("Bearer {}", hs256(&claims("healthy", 600, json!({"topics": ["*"]}))));
    let mut healthy = Healthy::beside_with(&server, &[("authorization", &bearer)]).await;
    let address = server.address;
    let attack = move |n: usize| {
        let mut stream = connect_from(GREEDY, address);
        if n.is_multiple_of(3) {
            stream.write_all(b"GET /ws HTTP/1.1\r\nHo").unwrap();
        }
        stream
    };
    let held = healthy
        .during(1, move |round| {
            let held: Vec<TcpStream> = if round == 0 { (0..1_500).map(attack).collect() } else { Vec::new() };
            for n in 0..10 {
                let path = if n % 2 == 0 { "/healthz" } else { "/readyz" };
                for from in [GREEDY, OTHER] {
                    assert_eq!(status(&mut connect_from(from, address), &[&get(path)]), 200, "{path} from {from}");
                }
                let mut other = connect_from(OTHER, address);
                assert_eq!(status(&mut other, &["GET /hea", "lthz HTTP/1.1\r\nHost: x\r\n", "\r\n"]), 200, "in pieces");
                assert_eq!(status(&mut connect_from(OTHER, address), &[&upgrade()]), 101, "an upgrade with a token");
                assert_eq!(status(&mut connect_from(OTHER, address), &[&get("/api/topics/a:b")]), 401);
            }
            held
        })
        .await;
    assert!(held.iter().map(Vec::len).sum::<usize>() >= 1_500);
    healthy.is_well(&server).await;
    let refused = server.metric("limits_reached_total{limit=\"connections_per_address\"}");
    assert!(refused > 0.0 && server.metric("health_answered_without_slot_total") > 0.0, "{refused}");
    drop(held);
}

/// The same with kept-alive idle connections of one address.
#[tokio::test]
async fn kept_alive_connections_of_one_address_are_evicted_at_once() {
    let server = Server::open();
    let mut healthy = Healthy::beside(&server).await;
    let kept: Vec<TcpStream> = (0..400)
        .map(|_| {
            let mut stream = connect_from(GREEDY, server.address);
            status(&mut stream, &["HEAD /status HTTP/1.1\r\nHost: x\r\n\r\n"]);
            stream
        })
        .collect();
    for _ in 0..50 {
        let mut other = connect_from(OTHER, server.address);
        assert_eq!(status(&mut other, &["HEAD /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]), 200);
    }
    healthy.is_well(&server).await;
    assert!(server.metric("http_evicted_total") > 0.0);
    drop(kept);
}

/// Behind a proxy, a client is counted by its requests, because all clients share the proxy's connections.
#[tokio::test]
async fn behind_a_proxy_requests_of_a_client_are_counted() {
    let server = Server::start(&crate::support::OPEN.replace(
        "[server]\n",
        "[limits]\nconnections_per_address = 1\n[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n",
    ));
    let mut healthy = Healthy::beside(&server).await;
    let ask = |client: &str| {
        let headers = [("X-Forwarded-For", client)];
        server.http("GET", "/api/topics", &headers, "").0
    };
    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.write_all(
        b"POST /api/publish HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.7\r\nContent-Type: application/json\r\n\
          Expect: 100-continue\r\nContent-Length: 100\r\n\r\n",
    )
    .unwrap();
    // The server waits for its body: from here on it is counted.
    slow.read_exact(&mut [0; "HTTP/1.1 100 Continue".len()]).unwrap();
    server.until("it is counted", |_| ask("203.0.113.7") == 503).await;
    assert_eq!(ask("203.0.113.8"), 200);
    healthy.is_well(&server).await;
    drop(slow);
    server.until("it is given back", |_| ask("203.0.113.7") == 200).await;
}

/// A key set that never comes: tokens that need it wait, but not so many that other requests are refused.
#[tokio::test]
async fn waiting_for_a_key_set_takes_few_slots() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/keys", silent.local_addr().unwrap());
    let server = Server::open_with(&format!("[access.jwks]\nurl = \"{url}\"\n"));
    let mut healthy = Healthy::beside(&server).await;
    // {"alg":"RS256","kid":"unknown"}.{}
    let token = "eyJhbGciOiJSUzI1NiIsImtpZCI6InVua25vd24ifQ.e30.AAAA";
    let request = upgrade().lines().filter(|line| !line.starts_with("Authorization")).collect::<Vec<_>>().join("\r\n");
    let request = format!("{}\r\nAuthorization: Bearer {token}\r\n\r\n", request.trim_end());
    let mut waiting: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = connect_from(GREEDY, server.address);
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    server.until("some were refused", |s| s.metric("key_waits_refused_total") >= 1.0).await;
    for _ in 0..10 {
        assert_eq!(status(&mut connect_from(OTHER, server.address), &[&get("/api/topics")]), 200);
    }
    healthy.is_well(&server).await;
    let mut statuses: Vec<u16> = waiting.iter_mut().map(|stream| status(stream, &[])).collect();
    statuses.sort_unstable();
    let waited = statuses.iter().filter(|status| **status == 401).count();
    assert!(waited <= 3 * 32 && statuses.contains(&503), "{waited} of {statuses:?}");
    assert!(server.metric("upgrades_refused_total{reason=\"keys\"}") > 0.0);
}

#[test]
fn health_may_have_a_port_of_its_own() {
    let server =
        Server::start(&crate::support::OPEN.replace("[server]\n", "[server]\nhealth_listen = \"127.0.0.1:0\"\n"));
    let health = server.health.unwrap();
    for (path, expected) in
        [("/healthz", 200), ("/readyz", 200), ("/", 404), ("/ws", 404), ("/metrics", 404), ("/api/topics", 404)]
    {
        assert_eq!(Server::http_at(health, "GET", path, &[], "").0, expected, "{path}");
    }
    assert_eq!(Server::http_at(health, "POST", "/api/publish", &[], "{}").0, 404);
    let silent: Vec<TcpStream> = (0..100).map(|_| connect_from(GREEDY, health)).collect();
    for _ in 0..10 {
        assert_eq!(status(&mut connect_from(OTHER, health), &[&get("/healthz")]), 200);
    }
    drop(silent);
}

fn publish(stream: &mut TcpStream) -> String {
    let body = r#"{"channel":"stream:a","data":1}"#;
    let length = body.len();
    let head = "POST /api/publish HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes()).unwrap();
    let mut answer = [0; 1_024];
    let n = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..n]).to_ascii_lowercase()
}

/// A publisher that posts from time to time is not closed by the time-out of a request head.
#[tokio::test]
async fn a_kept_connection_has_a_time_of_its_own() {
    let server = Server::open_with("[limits]\nhandshake_timeout = \"100ms\"\n");
    let mut stream = TcpStream::connect(server.address).unwrap();
    let answer = publish(&mut stream);
    assert!(answer.starts_with("http/1.1 200") && answer.contains("keep-alive: timeout=74"), "{answer}");
    stream.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
    let quiet = stream.read(&mut [0; 16]).unwrap_err().kind();
    assert_eq!(quiet, std::io::ErrorKind::WouldBlock, "the connection stays open");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(publish(&mut stream).starts_with("http/1.1 200"));
    // The next head has its own time-out, from its first byte.
    stream.write_all(b"POST /api/pub").unwrap();
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0);
    server.until("counted", |s| s.metric("handshake_timeouts_total") == 1.0).await;
}

/// When its time is over, a request on its way sees a close, not a reset.
#[tokio::test]
async fn a_kept_connection_is_closed_politely() {
    let server = Server::open_with("[limits]\nkeep_alive_timeout = \"300ms\"\n");
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(publish(&mut stream).starts_with("http/1.1 200"));
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "closed");
    // By then the server has handled it.
    assert_eq!(server.metric("limits_reached_total{limit=\"keep_alive_timeout\"}"), 1.0);
    for _ in 0..3 {
        stream.write_all(get("/api/topics").as_bytes()).unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "still no reset");
    }
}
