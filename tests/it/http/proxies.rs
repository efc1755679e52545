//! Client addresses behind proxies: which proxies are trusted, and what happens to connections without a header.
//! Proxies have the address 127.0.0.2 here; any other address is not trusted.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustls::version::TLS13;
use rustls::{ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

use crate::support::bystander::Healthy;
use crate::support::raw_socket::frame;
use crate::support::{Authority, OPEN, PATIENCE, Server, client_config, free_port, tls_config};

const PROXY: [u8; 4] = [127, 0, 0, 2];
const STRANGER: [u8; 4] = [127, 0, 0, 3];

/// One session per address, and proxies that give the address in these ways.
fn config(keys: &str) -> String {
    let server = format!("shards = 2\ntrusted_proxies = [\"127.0.0.2/32\"]\n{keys}");
    format!("{}\n[limits]\nsessions_per_address = 1\n", OPEN.replace("shards = 2", &server))
}

/// A connection from one of this machine's addresses.
fn connect(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.set_tcp_nodelay(true).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn handshake(headers: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// The answer's status, or 0 if there is none.
fn status(stream: &mut impl Read) -> u16 {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return 0,
        }
    }
    String::from_utf8_lossy(&head).split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn asks(mut stream: TcpStream, parts: &[&[u8]]) -> (u16, TcpStream) {
    for part in parts {
        // The server may have closed it by then.
        let _ = stream.write_all(part);
    }
    (status(&mut stream), stream)
}

/// Version 2 (`command` 1 is PROXY, 0 is LOCAL) of a connection from this address.
fn v2(command: u8, source: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, 0x11, 0, 12 + 4]);
    header.extend(source);
    header.extend([10, 0, 0, 1, 0xc0, 0, 0x1f, 0x40]);
    // An additional field.
    header.extend([0xe0, 0, 1, 7]);
    header
}

fn v1(source: &str) -> Vec<u8> {
    format!("PROXY TCP4 {source} 10.0.0.1 51000 8000\r\n").into_bytes()
}

/// On both paths to a session: at accept, and through the HTTP server (for long heads).
#[tokio::test]
async fn a_header_counts_if_a_trusted_proxy_sent_it_and_from_the_right() {
    for (way, padding) in [("at accept", 0), ("through HTTP", 6_000)] {
        let server = Server::start(&config(""));
        let mut held = Vec::new();
        let mut ask = |from, forwarded: &str| {
            let headers = format!("{forwarded}Cookie: {}\r\n", "x".repeat(padding));
            let (status, stream) = asks(connect(from, server.address), &[handshake(&headers).as_bytes()]);
            held.push(stream);
            status
        };
        for (what, from, header, expected) in [
            ("a client", PROXY, "X-Forwarded-For: 203.0.113.7\r\n", 101),
            ("the same client", PROXY, "X-Forwarded-For: 203.0.113.7\r\n", 429),
            ("it claims to be another", PROXY, "X-Forwarded-For: 198.51.100.1, 203.0.113.7\r\n", 429),
            ("the same in two lines", PROXY, "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 203.0.113.7\r\n", 429),
            (
                "a header that is not configured",
                PROXY,
                "Forwarded: for=198.51.100.1\r\nX-Forwarded-For: 203.0.113.7\r\n",
                429,
            ),
            ("another client", PROXY, "X-Forwarded-For: 203.0.113.7, 203.0.113.8\r\n", 101),
            ("the proxy itself", PROXY, "", 101),
            ("nonsense is the proxy's own", PROXY, "X-Forwarded-For: who knows\r\n", 429),
            ("a stranger", STRANGER, "X-Forwarded-For: 203.0.113.9\r\n", 101),
            ("a stranger with another name", STRANGER, "X-Forwarded-For: 203.0.113.10\r\n", 429),
            ("whose names were not taken", PROXY, "X-Forwarded-For: 203.0.113.9\r\n", 101),
        ] {
            assert_eq!(ask(from, header), expected, "{what}, {way}");
        }
        server.until("it is logged", |s| s.log().contains("client=203.0.113.7 reason=\"address_sessions\"")).await;
        assert_eq!(server.metric("upgrades_refused_total{reason=\"address_sessions\"}"), 6.0);
    }
}

#[tokio::test]
async fn forwarded_is_read_where_it_is_configured() {
    let server = Server::start(&config("forwarded_header = \"forwarded\""));
    let ask = |header: &str| asks(connect(PROXY, server.address), &[handshake(header).as_bytes()]);
    let (first, _held) = ask("Forwarded: for=192.0.2.60;proto=https, For=\"[2001:db8:0:7::1]:4711\"\r\n");
    assert_eq!(first, 101);
    // Another host of the same IPv6 network counts as the same address, and a header that is not configured is ignored.
    let (second, _) = ask("X-Forwarded-For: 198.51.100.1\r\nForwarded: for=\"[2001:db8:0:7::2]\"\r\n");
    assert_eq!(second, 429);
}

/// However the bytes come: the header is removed, and nothing after it.
#[tokio::test]
async fn a_proxy_header_gives_the_clients_address() {
    let server = Server::start(&config("proxy_protocol = \"required\""));
    let mut healthy = Healthy::beside(&server).await;
    let mut next = 10;
    for (version, header) in
        [("1", (|ip| v1(&format!("203.0.113.{ip}"))) as fn(u8) -> Vec<u8>), ("2", |ip| v2(1, [203, 0, 113, ip]))]
    {
        for pieces in ["one", "two", "bytes"] {
            next += 1;
            let request = handshake("");
            let ping = frame(0x81, b"{\"op\":\"ping\",\"id\":7}");
            let all = [&header(next)[..], request.as_bytes(), &ping].concat();
            let parts: Vec<&[u8]> = match pieces {
                "one" => vec![&all],
                "two" => vec![&all[..header(next).len()], &all[header(next).len()..]],
                _ => all.chunks(1).collect(),
            };
            let (status, mut held) = asks(connect(PROXY, server.address), &parts);
            assert_eq!(status, 101, "version {version} in {pieces}");
            let mut pong = [0; 22];
            held.read_exact(&mut pong).unwrap();
            assert_eq!(&pong[2..], b"{\"id\":7,\"op\":\"pong\"}", "what was behind the handshake");
            // The connection counts for that client, whatever later headers say.
            let again = [&header(next)[..], request.as_bytes()].concat();
            assert_eq!(asks(connect(PROXY, server.address), &[&again]).0, 429, "version {version} in {pieces}");
        }
    }
    // The proxy's own connections, such as health checks.
    for own in [v2(0, [203, 0, 113, 99]), b"PROXY UNKNOWN\r\n".to_vec()] {
        let request = "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".as_bytes();
        assert_eq!(asks(connect(PROXY, server.address), &[&own, request]).0, 200);
    }
    healthy.is_well(&server).await;
}

#[tokio::test]
async fn proxies_without_a_valid_header_are_closed_and_other_peers_are_not_trusted() {
    let keys = "proxy_protocol = \"required\"\n[limits]\nhandshake_timeout = \"300ms\"\nsessions_per_address = 1";
    let server = Server::start(&config(keys).replace("\n[limits]\nsessions_per_address = 1\n", "\n"));
    let mut healthy = Healthy::beside(&server).await;
    let request = handshake("");
    let request = request.as_bytes();
    assert_eq!(asks(connect(PROXY, server.address), &[request]).0, 0);
    assert_eq!(server.metric("proxy_headers_refused_total{reason=\"missing\"}"), 1.0);
    let mut too_long = v2(1, [203, 0, 113, 7]);
    too_long[14] = 0xff;
    let broken =
        [b"PROXY TCP4 203.0.113.7\r\n".to_vec(), format!("PROXY UNKNOWN {}", "x".repeat(4_000)).into_bytes(), too_long];
    for header in &broken {
        assert_eq!(asks(connect(PROXY, server.address), &[header, request]).0, 0);
    }
    server.until("counted", |s| s.metric("proxy_headers_refused_total{reason=\"malformed\"}") == 3.0).await;
    // Slow: only the beginning comes, also of bytes that may be either version.
    for begun in [&b"PROXY TCP4 203."[..], b"P", &v2(1, [203, 0, 113, 7])[..20]] {
        let before = server.metric("handshake_timeouts_total");
        let mut slow = connect(PROXY, server.address);
        slow.write_all(begun).unwrap();
        assert_eq!(status(&mut slow), 0);
        server.until("counted", |s| s.metric("handshake_timeouts_total") > before).await;
    }
    // From another address it is not a header but an invalid request.
    let claimed = [&v1("203.0.113.7")[..], request].concat();
    assert_eq!(asks(connect(STRANGER, server.address), &[&claimed]).0, 400);
    let (status, _held) = asks(connect(STRANGER, server.address), &[request]);
    assert_eq!(status, 101);
    healthy.is_well(&server).await;
}

#[test]
fn where_it_is_optional_both_are_served_and_a_chain_of_proxies_is_followed() {
    let server = Server::start(&config("proxy_protocol = \"optional\""));
    let mut held = Vec::new();
    let mut ask = |header: &[u8], headers: &str| {
        let (status, stream) = asks(connect(PROXY, server.address), &[header, handshake(headers).as_bytes()]);
        held.push(stream);
        status
    };
    assert_eq!(ask(&v1("203.0.113.7"), ""), 101);
    assert_eq!(ask(b"", "X-Forwarded-For: 203.0.113.7\r\n"), 429);
    // A header from the client itself is not trusted because the connection came through a proxy.
    assert_eq!(ask(&v1("203.0.113.7"), "X-Forwarded-For: 203.0.113.8\r\n"), 429);
    // Behind a proxy behind a proxy.
    assert_eq!(ask(&v1("127.0.0.2"), "X-Forwarded-For: 203.0.113.8\r\n"), 101);
    assert_eq!(ask(b"", "X-Forwarded-For: 203.0.113.8\r\n"), 429);
    // A request with another method than GET may begin as the protocol's name does.
    let (status, _) = asks(
        connect(PROXY, server.address),
        &[b"P", b"OST /api/publish HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"],
    );
    assert_eq!(status, 415);
}

#[test]
fn on_the_port_with_tls_it_comes_before_the_handshake() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    authority.issue("localhost").write(folder.path(), "server");
    let server = Server::start(&format!("{}{}", config("proxy_protocol = \"required\""), tls_config(folder.path())));
    let ask = |header: &[u8], headers: &str| {
        let mut socket = connect(PROXY, server.sealed.unwrap());
        socket.write_all(header).unwrap();
        let config = client_config(Some(&authority), &[&TLS13], None);
        let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        let _ = stream.write_all(handshake(headers).as_bytes());
        (status(&mut stream), stream)
    };
    let (first, _held) = ask(&v2(1, [203, 0, 113, 7]), "");
    assert_eq!(first, 101);
    assert_eq!(ask(&v1("203.0.113.7"), "").0, 429);
    let (other, _held) = ask(&v1("203.0.113.8"), "");
    assert_eq!(other, 101);
    assert_eq!(ask(b"", "").0, 0, "no header");
}

/// A real HAProxy, which gives the address in three ways.
struct Haproxy(Child, [SocketAddr; 3]);

impl Haproxy {
    fn in_front_of(server: SocketAddr, folder: &std::path::Path) -> Self {
        let ports = [free_port(), free_port(), free_port()];
        let path = folder.join("haproxy.cfg");
        let config = format!(
            "defaults\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
             listen v1\n  mode tcp\n  bind 127.0.0.1:{}\n  server a {server} send-proxy source 127.0.0.2\n\
             listen v2\n  mode tcp\n  bind 127.0.0.1:{}\n  server a {server} send-proxy-v2 source 127.0.0.2\n\
             listen http\n  mode http\n  option forwardfor\n  bind 127.0.0.1:{}\n  server a {server} source 127.0.0.2\n",
            ports[0], ports[1], ports[2]
        );
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("haproxy must be installed: `make tools` does it");
        Self(child, ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port))))
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn behind_a_real_haproxy_limits_see_the_client() {
    let server = Server::start(&config("proxy_protocol = \"optional\""));
    let folder = tempfile::tempdir().unwrap();
    let haproxy = Haproxy::in_front_of(server.address, folder.path());
    server.until("HAProxy listens", |_| haproxy.1.iter().all(|at| TcpStream::connect(at).is_ok())).await;
    for (at, (way, address)) in [("v1", 11_u8), ("v2", 12), ("a header", 13)].into_iter().enumerate() {
        let (one, other) = ([127, 0, 0, address], [127, 0, 1, address]);
        let request = handshake("");
        let ask = |from| asks(connect(from, haproxy.1[at]), &[request.as_bytes()]);
        let (first, held) = ask(one);
        assert_eq!(first, 101, "{way}");
        assert_eq!(ask(one).0, 429, "{way}");
        let (second, _held) = ask(other);
        assert_eq!(second, 101, "{way}");
        let line = format!("client={} reason=\"address_sessions\"", IpAddr::from(one));
        server.until("it is logged", |s| s.log().contains(&line)).await;
        drop(held);
        server.until("it can come again", |_| ask(one).0 == 101).await;
    }
}
