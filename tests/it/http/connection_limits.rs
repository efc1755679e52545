//! As many HTTP connections as there are slots, and more: slow connections are closed in favour of waiting ones, and a
//! healthy session is not affected.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::bystander::Healthy;
use crate::support::raw_socket::{frame, upgraded};
use crate::support::{PATIENCE, Server};

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a small request. Returns the answer in lower case; empty if there is none.
fn ask(stream: &mut TcpStream) -> String {
    let mut answer = [0; 1_024];
    let n = stream.write_all(b"HEAD /status HTTP/1.1\r\nHost: x\r\n\r\n").and_then(|()| stream.read(&mut answer));
    String::from_utf8_lossy(&answer[..n.unwrap_or(0)]).to_ascii_lowercase()
}

/// Half a handshake, many times: upgrades still succeed. Other requests may get 503, and are served once some slow
/// connections were evicted, long before their time-outs.
#[tokio::test]
async fn slow_handshakes_do_not_keep_others_out() {
    let server = Server::open_with("[limits]\nhandshake_timeout = \"1h\"");
    let mut healthy = Healthy::beside(&server).await;
    let address = server.address;
    let slow = healthy
        .during(1, move |round| {
            let begun = |_| {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(b"GET /ws HTTP/1.1\r\nHo").unwrap();
                stream
            };
            // Once: they stay as long as they may.
            if round > 0 {
                return Vec::new();
            }
            let slow: Vec<TcpStream> = (0..600).map(begun).collect();
            let mut tries = 0;
            loop {
                match ask(&mut connect(address)) {
                    head if head.starts_with("http/1.1 200") => break slow,
                    head => assert!(head.starts_with("http/1.1 503") && tries < 1_000, "{head}"),
                }
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
        })
        .await;
    let slow: Vec<TcpStream> = slow.into_iter().flatten().collect();
    let mut answer = [0; 12];
    let (mut late, _) = upgraded(&server, "/ws", "");
    late.write_all(&frame(0x81, b"{\"op\":\"ping\",\"id\":1}")).unwrap();
    late.read_exact(&mut answer).unwrap();
    drop(slow);
    healthy.is_well(&server).await;
    assert!(server.metric("http_refused_total") > 0.0 && server.metric("handshake_timeouts_total") > 0.0);
}

/// Connections that were answered and are kept open fill all slots: they are evicted for new ones.
#[tokio::test]
async fn idle_connections_are_evicted() {
    let server = Server::open_with("[limits]\nhandshake_timeout = \"1h\"\nconnections_per_address = 0");
    let mut healthy = Healthy::beside(&server).await;
    let address = server.address;
    let closed = |stream: &mut TcpStream| {
        stream.set_nonblocking(true).unwrap();
        let closed = matches!(stream.read(&mut [0; 16]), Ok(0));
        stream.set_nonblocking(false).unwrap();
        closed
    };
    let served = |stream: &mut TcpStream| {
        let head = ask(stream);
        assert!(head.starts_with("http/1.1 200"), "{head}");
    };
    let connect = move || {
        let mut stream = connect(address);
        served(&mut stream);
        stream
    };
    // Ten more than there are slots: ten were closed, the others continue.
    let mut idle: Vec<TcpStream> = (0..384 + 10).map(|_| connect()).collect();
    let mut open: Vec<TcpStream> = idle.extract_if(.., |stream| !closed(stream)).collect();
    assert!((10..20).contains(&idle.len()), "{} were closed", idle.len());
    open.iter_mut().for_each(served);
    // A whole page of new connections at once.
    healthy
        .during(8, move |_| {
            let begun = (0..50).map(|_| std::thread::spawn(connect)).collect::<Vec<_>>();
            begun.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
        })
        .await;
    healthy.is_well(&server).await;
    assert_eq!(server.metric("http_refused_total"), 0.0);
}

/// The same for clients that do not take their answers: they are evicted long before their time-out.
#[tokio::test]
async fn untaken_answers_are_evicted() {
    let server = Server::open_with("[limits]\nhandshake_timeout = \"1s\"\nrequest_timeout = \"1h\"");
    let mut healthy = Healthy::beside(&server).await;
    server.publish("merge:large", &json!({"k": "x".repeat(200_000)}));
    let asking: Vec<TcpStream> = (0..384)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_recv_buffer_size(4_096).unwrap();
            socket.connect(&server.address.into()).unwrap();
            let mut stream: TcpStream = socket.into();
            stream.write_all(b"GET /api/topics/merge:large HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream
        })
        .collect();
    server.until("one gave way", |s| s.metric("http_timeouts_total{reason=\"answer\"}") > 0.0).await;
    healthy.is_well(&server).await;
    drop(asking);
}

/// The same for clients that send one request after the other: while others wait each has its turn, and is informed
/// when it ends.
#[tokio::test]
async fn repeated_requests_are_evicted() {
    let server = Server::open_with("[limits]\nhandshake_timeout = \"1h\"");
    let mut healthy = Healthy::beside(&server).await;
    let address = server.address;
    let informed = Arc::new(AtomicBool::new(false));
    let inform = informed.clone();
    let asking = std::thread::spawn(move || {
        let mut streams: Vec<TcpStream> = (0..384).map(|_| connect(address)).collect();
        while !inform.load(Ordering::Relaxed) {
            for stream in &mut streams {
                let head = ask(stream);
                if head.starts_with("http/1.1 200") && head.contains("connection: close") {
                    inform.store(true, Ordering::Relaxed);
                } else if head.is_empty() {
                    *stream = connect(address);
                }
            }
        }
    });
    // Some connection waits all the time.
    let wait = || {
        ask(&mut connect(address));
        informed.load(Ordering::Relaxed)
    };
    server.until("one was informed", |_| wait()).await;
    asking.join().unwrap();
    healthy.is_well(&server).await;
    assert!(server.metric("http_evicted_total") > 0.0);
}
