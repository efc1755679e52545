//! Clients that misbehave. A healthy session runs beside each, and must not be affected.

use crate::support::raw_socket::{close_code, frame, upgraded, upgraded_at};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::support::bystander::Healthy;
use crate::support::{PATIENCE, Server};

/// A socket after the upgrade, for sending any bytes.
fn raw(server: &Server) -> TcpStream {
    upgraded(server, "/ws", "").0
}

#[tokio::test]
async fn garbage_is_closed_with_the_right_code() {
    let server = Server::open();
    let mut healthy = Healthy::beside(&server).await;
    let table: &[(&str, Vec<u8>, u16)] = &[
        ("no frame at all", b"GET / HTTP/1.1\r\n\r\n\xff\xff\xff".to_vec(), 1002),
        ("a frame without a mask", vec![0x81, 0x02, b'h', b'i'], 1002),
        ("reserved bits", frame(0xf1, b"x"), 1002),
        ("reserved opcode", frame(0x83, b"x"), 1002),
        ("a continuation of nothing", frame(0x80, b"x"), 1002),
        ("a fragmented ping", frame(0x09, b"x"), 1002),
        ("a long ping", frame(0x89, &[0; 126]), 1002),
        ("binary", frame(0x82, b"x"), 1003),
        ("text that is not UTF-8", frame(0x81, &[0xff, 0xfe]), 1007),
        ("a header of 1 GiB", vec![0x81, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0], 1009),
        ("a length of 2^63-1", vec![0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], 1009),
        ("64 bits for a length of 1", vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, b'x'], 1002),
        ("a ping with 64 bits of length", vec![0x89, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, b'x'], 1002),
        ("a fragmented close", frame(0x08, &[3, 232]), 1002),
        ("a pong in a fragmented ping", [frame(0x09, b"x"), frame(0x8a, b""), frame(0x80, b"")].concat(), 1002),
        (
            "fragments that are too long together",
            [frame(0x01, &[b' '; 40_000]), frame(0x80, &[b' '; 40_000])].concat(),
            1009,
        ),
        ("a length of 2^63", vec![0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1002),
    ];
    let address = server.address;
    let table = table.to_vec();
    let closed = healthy
        .during(2 * table.len(), move |round| {
            let (what, bytes, code) = &table[round % table.len()];
            let mut stream = upgraded_at(address, "/ws", "").0;
            stream.write_all(bytes).unwrap();
            (*what, close_code(&mut stream), *code)
        })
        .await;
    for (what, code, expected) in closed {
        assert_eq!(code, expected, "{what}");
    }
    server.until("all gone", |s| s.metric("sessions") == 1.0).await;
}

#[tokio::test]
async fn text_that_is_no_command_gets_an_error_and_no_more() {
    let server = Server::open();
    let mut client = server.client().await;
    for text in ["", "null", "[]", "{}", "{\"op\":7}", "\u{0}", "{\"op\":\"subscribe\",\"args\":{}}"] {
        client.send_text(text).await;
        assert_eq!(client.next().await["ok"], false, "{text}");
    }
    client.send_text(&"[".repeat(60_000)).await;
    assert_eq!(client.next().await["ok"], false);
    client.nothing_more().await;
    client.send_binary(b"x").await;
    assert_eq!(client.close_code().await, 1003);
}

#[tokio::test]
async fn a_byte_at_a_time_is_read_and_too_slow_is_closed() {
    let server = Server::open_with("[limits]\nfirst_command_timeout = \"1s\"");
    let mut healthy = Healthy::beside(&server).await;
    // Slow, but in time: a valid command in single bytes.
    let mut patient = raw(&server);
    for byte in frame(0x81, br#"{"op":"ping","id":1}"#) {
        patient.write_all(&[byte]).unwrap();
    }
    let mut answer = [0; 22];
    patient.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[2..], br#"{"id":1,"op":"pong"}"#);
    // Then a message that never ends.
    let mut endless = patient;
    endless.write_all(&frame(0x81, b"{\"op\":\"ping\"}")[..5]).unwrap();
    healthy.is_well(&server).await;
    assert_eq!(close_code(&mut endless), 3502);
    healthy.is_well(&server).await;
}

#[tokio::test]
async fn ten_thousand_topics_meet_the_limit() {
    let server = Server::open();
    let mut healthy = Healthy::beside(&server).await;
    let mut greedy = server.client().await;
    let mut accepted = 0;
    let mut refused = 0;
    for chunk in (0..10_000).collect::<Vec<u32>>().chunks(100) {
        let topics: Vec<String> = chunk.iter().map(|n| format!("latest:{n}")).collect();
        greedy.send(json!({"op": "subscribe", "args": topics})).await;
        let reply = greedy.next().await;
        accepted += reply["topics"].as_object().map_or(0, |topics| topics.len());
        for group in reply["refused"].as_array().into_iter().flatten() {
            assert_eq!(group["code"], 429, "{reply}");
            refused += group["topics"].as_array().unwrap().len() as u64 + group["more"].as_u64().unwrap_or(0);
        }
        healthy.is_well(&server).await;
    }
    greedy.nothing_more().await;
    assert_eq!((accepted, refused), (512, 10_000 - 512));
    drop(greedy);
    server.until("its topics are gone", |s| s.metric("topics") == 1.0 && s.metric("subscriptions") == 1.0).await;
}

/// On a stream, a client never reads: it is closed once its backlog is full, and no other session waits for it.
#[tokio::test]
async fn a_socket_that_never_reads_is_closed_at_its_limit() {
    let server = Server::open_with("[limits]\nbacklog_bytes = 100000");
    let mut healthy = Healthy::beside(&server).await;
    let mut deaf = raw(&server);
    deaf.write_all(&frame(0x81, br#"{"op":"subscribe","args":["stream:loud"]}"#)).unwrap();
    server.until("it is subscribed", |s| s.metric("subscriptions") == 2.0).await;
    let loud = json!("x".repeat(10_000));
    let slow = "closes_total{reason=\"slow\"}";
    let mut published = 0;
    while server.metric(slow) == 0.0 {
        let batch: Vec<(String, Value)> = (0..100).map(|_| ("stream:loud".to_owned(), loud.clone())).collect();
        server.publish_all(&batch);
        published += 1;
        assert!(published < 200, "never closed");
        // The first frame may have any size; the one after it that exceeds the limit ends the session.
        let owed = server.metric("backlog_bytes");
        assert!(owed <= 100_000.0 + 2.0 * 10_100.0, "{owed} bytes");
        healthy.is_well(&server).await;
    }
    server.until("it is gone", |s| s.metric("sessions") == 1.0 && s.metric("backlog_bytes") == 0.0).await;
}

/// The same on a conflatable topic: it costs almost nothing, and the stall time-out ends it.
#[tokio::test]
async fn a_socket_that_takes_nothing_for_long_is_closed() {
    let server = Server::open_with("[limits]\nstall_timeout = \"1s\"\nping_interval = \"60s\"");
    let mut healthy = Healthy::beside(&server).await;
    let mut deaf = raw(&server);
    deaf.write_all(&frame(0x81, br#"{"op":"subscribe","args":["latest:loud"]}"#)).unwrap();
    server.until("it is subscribed", |s| s.metric("subscriptions") == 2.0).await;
    let loud = json!("x".repeat(50_000));
    while server.metric("slow_sessions") == 0.0 {
        let batch: Vec<(String, Value)> = (0..50).map(|_| ("latest:loud".to_owned(), loud.clone())).collect();
        server.publish_all(&batch);
    }
    assert!(server.metric("backlog_bytes") < 64.0 * 1024.0);
    healthy.is_well(&server).await;
    server.until("the stall ended it", |s| s.metric("closes_total{reason=\"slow\"}") == 1.0).await;
    server.until("it is gone", |s| s.metric("sessions") == 1.0).await;
    healthy.is_well(&server).await;
}

/// Gone without FIN, as when a cable is cut: the ping detects it.
#[tokio::test]
async fn a_client_that_vanished_is_noticed() {
    let server = Server::open_with("[limits]\nping_interval = \"500ms\"\npong_timeout = \"500ms\"");
    let gone = raw(&server);
    server.until("it is here", |s| s.metric("sessions") == 1.0).await;
    let mut gone = gone;
    gone.write_all(&frame(0x81, br#"{"op":"ping"}"#)).unwrap();
    // It stays open in the kernel, but nothing is ever sent on it again.
    server.until("it is gone", |s| s.metric("sessions") == 0.0).await;
    assert_eq!(server.metric("closes_total{reason=\"no_pong\"}"), 1.0);
    drop(gone);
}

#[tokio::test]
async fn floods_of_pings_and_of_subscribes_are_limited() {
    let server = Server::open();
    let mut healthy = Healthy::beside(&server).await;
    let address = server.address;
    let closed = healthy
        .during(5, move |_| {
            let mut pings = upgraded_at(address, "/ws", "").0;
            let flood: Vec<u8> = (0..1_000).flat_map(|_| frame(0x89, b"x")).collect();
            // The server may close before everything is written.
            let _ = pings.write_all(&flood);
            close_code(&mut pings)
        })
        .await;
    assert!(closed.iter().all(|code| *code == 3013), "{closed:?}");
    let closes = "closes_total{reason=\"too_many_commands\"}";
    server.until("they were closed", |s| s.metric(closes) == closed.len() as f64).await;
    let both = [
        frame(0x81, br#"{"op":"subscribe","args":["latest:c"]}"#),
        frame(0x81, br#"{"op":"unsubscribe","args":["latest:c"]}"#),
    ];
    let churned = healthy
        .during(5, move |_| {
            let mut churn = upgraded_at(address, "/ws", "").0;
            let flood: Vec<u8> = (0..500).flat_map(|_| both.concat()).collect();
            let _ = churn.write_all(&flood);
            // The server's last messages may be lost with the unread commands.
            let _ = churn.read_to_end(&mut Vec::new());
        })
        .await;
    let both = (closed.len() + churned.len()) as f64;
    server.until("they were closed", |s| s.metric(closes) == both).await;
    server.until("no trace is left", |s| s.metric("subscriptions") == 1.0 && s.metric("shard_topics") == 1.0).await;
}

/// Within its limits a session may subscribe and unsubscribe endlessly, and so may many.
#[tokio::test]
async fn churn_within_the_limits_leaves_nothing_behind() {
    let server = Server::open();
    let mut healthy = Healthy::beside(&server).await;
    let address = server.address;
    healthy
        .during(10, move |round| {
            let mut stream = upgraded_at(address, "/ws", "").0;
            for n in 0..40 {
                let topics =
                    (0..20).map(|t| format!("\"merge:{}\"", (round + n + t) % 50)).collect::<Vec<_>>().join(",");
                for op in ["subscribe", "unsubscribe"] {
                    stream.write_all(&frame(0x81, format!(r#"{{"op":"{op}","args":[{topics}]}}"#).as_bytes())).unwrap();
                }
            }
            stream.write_all(&frame(0x88, &[3, 232])).unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap();
        })
        .await;
    server
        .until("no trace is left", |s| {
            s.metric("sessions") == 1.0 && s.metric("subscriptions") == 1.0 && s.metric("shard_topics") == 1.0
        })
        .await;
}

/// More or longer headers than allowed: refused at the limit, on many connections.
#[tokio::test]
async fn floods_of_headers_are_cut_off() {
    let server = Server::open();
    let mut healthy = Healthy::beside(&server).await;
    let address = server.address;
    let floods: Vec<String> =
        ["X: y\r\n".repeat(50_000), format!("X: {}", "y".repeat(400_000)), format!("{}: y", "X".repeat(400_000))]
            .map(|headers| format!("GET /ws HTTP/1.1\r\nHost: x\r\n{headers}"))
            .into();
    let answers = healthy
        .during(10, move |round| {
            let streams: Vec<TcpStream> = (0..10)
                .map(|_| {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    let _ = stream.write_all(floods[round % floods.len()].as_bytes());
                    stream
                })
                .collect();
            streams
                .into_iter()
                .map(|mut stream| {
                    let mut answer = [0; 12];
                    stream.read_exact(&mut answer).unwrap();
                    answer
                })
                .collect::<Vec<_>>()
        })
        .await;
    let answers = answers.concat();
    assert!(answers.iter().all(|answer| answer == b"HTTP/1.1 431"));
    assert!(server.metric("http_malformed_total") >= answers.len() as f64);
}

/// A handshake from this source address: the status, and the socket.
fn handshake_from(source: [u8; 4], server: SocketAddr) -> (u16, TcpStream) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((IpAddr::from(source), 0)).into()).unwrap();
    socket.connect(&server.into()).unwrap();
    let mut stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    (std::str::from_utf8(&status[9..]).unwrap().parse().unwrap(), stream)
}

/// One address opens sockets as fast as it can, and keeps them: it gets what an address may have, and others are not
/// affected.
#[tokio::test]
async fn one_address_opens_all_it_can() {
    let server = Server::open_with("[limits]\nsessions_per_address = 60\nnew_sessions_per_address = 40");
    let mut healthy = Healthy::beside(&server).await;
    let address = server.address;
    let rounds =
        healthy.during(20, move |_| (0..30).map(|_| handshake_from([127, 0, 0, 2], address)).collect::<Vec<_>>()).await;
    let tried: Vec<_> = rounds.into_iter().flatten().collect();
    let count = |status: u16| tried.iter().filter(|(s, _)| *s == status).count();
    let (let_in, refused) = (count(101), count(429));
    assert_eq!(let_in + refused, tried.len());
    assert!((40..=60).contains(&let_in), "{let_in} of {}", tried.len());
    let by = |reason: &str| server.metric(&format!("upgrades_refused_total{{reason=\"{reason}\"}}"));
    assert_eq!(by("address_sessions") + by("address_rate"), refused as f64);
    // Another address is accepted, and the first again once it has closed some.
    let (status, _other) = handshake_from([127, 0, 0, 3], server.address);
    assert_eq!(status, 101);
    drop(tried);
    server.until("they were given back", |s| s.metric("sessions") == 2.0).await;
    server.until("it may come again", |_| handshake_from([127, 0, 0, 2], address).0 == 101).await;
}

/// A client opens sockets and sends nothing, or only requests pages: connections fill all slots, but upgrades are not
/// refused, and existing sessions are not affected.
#[tokio::test]
async fn sockets_that_send_nothing() {
    let server = Server::open_with("[limits]\nhandshake_timeout = \"2s\"");
    let mut healthy = Healthy::beside(&server).await;
    let address = server.address;
    let held = healthy
        .during(1, move |round| {
            // Once a thousand of them.
            let some = if round == 0 { 1_000 } else { 0 };
            (0..some).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>()
        })
        .await;
    let (mut late, _) = upgraded(&server, "/ws", "");
    late.write_all(&frame(0x81, b"{\"op\":\"ping\",\"id\":1}")).unwrap();
    late.read_exact(&mut [0; 22]).unwrap();
    drop(held);
    server.until("pages are served again", |s| s.get("/healthz").0 == 200).await;
    healthy.is_well(&server).await;
}

/// Bytes that come with a handshake, in one segment, are read; so are those after a head too long to be handled at
/// accept.
#[tokio::test]
async fn a_handshake_may_be_long_and_followed_by_frames() {
    let server = Server::open();
    let head = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for extra in [String::new(), format!("Cookie: {}\r\n", "x".repeat(6_000))] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = format!("{head}{extra}\r\n").into_bytes();
        bytes.extend(frame(0x81, b"{\"op\":\"ping\",\"id\":7}"));
        stream.write_all(&bytes).unwrap();
        let mut got = Vec::new();
        let mut byte = [0];
        while !got.ends_with(b"{\"id\":7,\"op\":\"pong\"}") {
            stream.read_exact(&mut byte).unwrap();
            got.push(byte[0]);
        }
        assert!(got.starts_with(b"HTTP/1.1 101"));
    }
    // Longer than any head may be.
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(format!("{head}Cookie: {}\r\n\r\n", "x".repeat(40_000)).as_bytes());
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
}

/// Closed while its socket is full and more is on its way: what the client gets before the close has no gap.
#[tokio::test]
async fn a_close_of_a_full_socket_leaves_no_hole() {
    let server = Server::open_with("[limits]\nbacklog_bytes = 10000000\nstall_timeout = \"1s\"");
    let mut client = server.client().await;
    client.subscribe(&["stream:a"]).await;
    let filler = "x".repeat(2_000);
    let mut n = 0u64;
    let slow = "closes_total{reason=\"slow\"}";
    while server.metric(slow) == 0.0 {
        let batch: Vec<(String, Value)> = (0..20)
            .map(|_| {
                n += 1;
                ("stream:a".to_owned(), json!({"n": n, "pad": if n < 4_000 { filler.as_str() } else { "" }}))
            })
            .collect();
        server.publish_all(&batch);
    }
    let mut seen = 0;
    loop {
        match client.got().await {
            crate::support::Got::Json(delta) => {
                assert_eq!(delta["data"]["n"], seen + 1);
                seen += 1;
            }
            crate::support::Got::Close(code, _) => {
                assert_eq!(code, 3008);
                break;
            }
            crate::support::Got::End => panic!("no close frame"),
        }
    }
    assert!(seen < n);
}
