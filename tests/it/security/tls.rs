//! The TLS port: sessions, pages, certificates that change, and client certificates of publishers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::json;

use crate::support::{Authority, Client, OPEN, PATIENCE, Server, client_config, tls_config};

/// A server with a certificate of this authority; its files are in the folder.
fn server(authority: &Authority, more: &str) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    authority.issue("localhost").write(folder.path(), "server");
    let server = Server::start(&format!("{OPEN}\n{}{more}", tls_config(folder.path())));
    (server, folder)
}

fn stream(address: SocketAddr, config: ClientConfig) -> StreamOwned<ClientConnection, TcpStream> {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    StreamOwned::new(connection, socket)
}

/// One request. Returns the answer, which must end with a TLS close.
fn request(address: SocketAddr, config: ClientConfig, head: &str, body: &str) -> std::io::Result<String> {
    let mut stream = stream(address, config);
    let length = body.len();
    write!(
        stream,
        "{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test]
async fn both_versions_get_deltas_and_recover() {
    let authority = Authority::new();
    let (server, _folder) = server(&authority, "");
    let sealed = server.sealed.unwrap();
    for version in [&TLS12, &TLS13] {
        let config = || client_config(Some(&authority), &[version], None);
        let mut client = Client::connect_sealed(sealed, &[], config()).await.unwrap();
        let at = client.subscribe(&["stream:a"]).await["topics"]["stream:a"].clone();
        for n in 0..50 {
            server.publish("stream:a", &json!({"n": n, "pad": "x".repeat(n * 200)}));
        }
        for n in 0..50 {
            assert_eq!(client.next().await["data"]["n"], n);
        }
        drop(client);
        let mut back = Client::connect_sealed(sealed, &[], config()).await.unwrap();
        let since = json!({"stream:a": {"offset": at["offset"], "epoch": at["epoch"]}});
        back.send(json!({"op": "subscribe", "id": 1, "args": ["stream:a"], "since": since})).await;
        assert_eq!(back.next().await["topics"]["stream:a"]["recovered"], true);
        for n in 0..50 {
            assert_eq!(back.next().await["data"]["n"], n);
        }
        back.send(json!({"op": "ping", "id": 2})).await;
        assert_eq!(back.next().await["op"], "pong");
    }
    server.until("all gone", |s| s.metric("sessions") == 0.0).await;
    assert_eq!(server.metric("tls_handshakes_total"), 4.0);
}

#[tokio::test]
async fn large_messages_go_both_ways() {
    let authority = Authority::new();
    let (server, _folder) = server(&authority, "");
    let config = client_config(Some(&authority), &[&TLS13], None);
    let mut client = Client::connect_sealed(server.sealed.unwrap(), &[], config).await.unwrap();
    client.subscribe(&["stream:a"]).await;
    let pad = "x".repeat(200_000);
    for n in 0..4 {
        server.publish("stream:a", &json!({"n": n, "pad": pad}));
    }
    // A command of several records.
    let topics: Vec<String> = (0..400).map(|n| format!("latest:{n}{}", "y".repeat(100))).collect();
    client.send(json!({"op": "subscribe", "id": 7, "args": topics})).await;
    let mut next = 0;
    let mut answered = false;
    while next < 4 || !answered {
        let message = client.next().await;
        if message["op"] == "subscribe" {
            assert_eq!(message["topics"].as_object().unwrap().len(), 400);
            answered = true;
        } else {
            assert_eq!(
                (&message["data"]["n"], message["data"]["pad"].as_str().unwrap().len()),
                (&json!(next), 200_000)
            );
            next += 1;
        }
    }
}

#[cfg(feature = "dashboard")]
#[tokio::test]
async fn pages_and_the_publish_api_are_there_too() {
    let authority = Authority::new();
    let (server, _folder) = server(&authority, "");
    let config = || client_config(Some(&authority), &[&TLS12, &TLS13], None);
    let sealed = server.sealed.unwrap();
    let page = request(sealed, config(), "GET /", "").unwrap();
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("</html>"), "{page}");
    let body = json!({"channel": "latest:a", "data": {"pad": "z".repeat(100_000)}}).to_string();
    let answer = request(sealed, config(), "POST /api/publish", &body).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let topic = request(sealed, config(), "GET /api/topics/latest:a", "").unwrap();
    assert!(topic.contains(&"z".repeat(100_000)));
    // Several requests on one connection.
    let mut stream = stream(sealed, config());
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = vec![0; 4_096];
        let n = stream.read(&mut answer).unwrap();
        assert!(answer[..n].starts_with(b"HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn bytes_that_are_not_tls_are_refused_without_effect_on_others() {
    let authority = Authority::new();
    let (server, _folder) = server(&authority, "[limits]\nhandshake_timeout = \"300ms\"\n");
    let sealed = server.sealed.unwrap();
    let config = client_config(Some(&authority), &[&TLS13], None);
    let mut client = Client::connect_sealed(sealed, &[], config).await.unwrap();
    client.subscribe(&["stream:a"]).await;

    let mut plain = TcpStream::connect(sealed).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).unwrap();
    // An alert (RFC 8446 §6), and the end.
    assert_eq!(answer.first(), Some(&21));
    server.until("counted", |s| s.metric("tls_handshakes_failed_total") == 1.0).await;

    // The beginning of a handshake, and no more.
    let timeouts = server.metric("handshake_timeouts_total");
    let mut half = TcpStream::connect(sealed).unwrap();
    half.set_read_timeout(Some(PATIENCE)).unwrap();
    half.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    assert!(matches!(half.read(&mut [0; 16]), Ok(0) | Err(_)));
    server.until("counted", |s| s.metric("handshake_timeouts_total") > timeouts).await;

    // Garbage in the middle of a session ends only that session.
    let mut broken = stream(sealed, client_config(Some(&authority), &[&TLS13], None));
    write!(broken, "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n").unwrap();
    let mut head = [0; 512];
    let n = broken.read(&mut head).unwrap();
    assert!(head[..n].starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head[..n]));
    server.until("two sessions", |s| s.metric("sessions") == 2.0).await;
    broken.sock.write_all(&[23, 3, 3, 0, 20]).unwrap();
    broken.sock.write_all(&[7; 20]).unwrap();
    let error = broken.read(&mut head).unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    server.until("one session", |s| s.metric("sessions") == 1.0).await;

    server.publish("stream:a", &json!({"n": 1}));
    assert_eq!(client.next().await["data"]["n"], 1);
}

/// More incomplete handshakes than there are slots: they are closed long before their time-out, and later clients are
/// delayed, not reset.
#[tokio::test]
async fn a_storm_of_handshakes_refuses_no_other_client() {
    let authority = Authority::new();
    let (server, _folder) = server(&authority, "[limits]\nhandshake_timeout = \"1h\"\nconnections_per_address = 0\n");
    let sealed = server.sealed.unwrap();
    let config = || client_config(Some(&authority), &[&TLS13], None);
    let mut healthy = Client::connect_sealed(sealed, &[], config()).await.unwrap();
    healthy.subscribe(&["stream:a"]).await;
    // As many as there are slots and waiting places, and some more.
    let storm = tokio::task::spawn_blocking(move || {
        let begun = |_| {
            let mut socket = TcpStream::connect(sealed).unwrap();
            socket.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
            socket
        };
        (0..384 + 96 + 50).map(begun).collect::<Vec<_>>()
    });
    let storm = storm.await.unwrap();
    server.until("it is full", |s| s.metric("tls_waits_total") >= 1.0).await;
    let mut late = Client::connect_sealed(sealed, &[], config()).await.unwrap();
    late.subscribe(&["stream:a"]).await;
    server.publish("stream:a", &json!({"n": 1}));
    assert_eq!(late.next().await["data"]["n"], 1);
    assert_eq!(healthy.next().await["data"]["n"], 1);
    assert!(server.metric("handshake_timeouts_total") > 0.0);
    drop(storm);
}

#[tokio::test]
async fn certificates_change_without_closing_a_session() {
    let (old, new) = (Authority::new(), Authority::new());
    let (server, folder) = server(&old, "reload_interval = \"0s\"\n");
    let sealed = server.sealed.unwrap();
    let config = |authority| client_config(Some(authority), &[&TLS13], None);
    let mut client = Client::connect_sealed(sealed, &[], config(&old)).await.unwrap();
    client.subscribe(&["stream:a"]).await;
    assert!(request(sealed, config(&new), "GET /healthz", "").is_err(), "not signed by that one yet");

    // An unreadable file changes nothing.
    std::fs::write(folder.path().join("server.crt"), "nonsense").unwrap();
    server.signal("HUP");
    server.until("refused", |s| s.metric("tls_reloads_failed_total") == 1.0).await;
    assert!(request(sealed, config(&old), "GET /healthz", "").is_ok());
    assert!(server.log().contains("tls.certificate_file"), "{}", server.log());

    new.issue("localhost").write(folder.path(), "server");
    server.signal("HUP");
    server.until("read", |s| s.metric("tls_reloads_total") == 1.0).await;
    assert!(request(sealed, config(&new), "GET /healthz", "").is_ok());
    assert!(request(sealed, config(&old), "GET /healthz", "").is_err(), "the old one is gone");
    server.publish("stream:a", &json!({"n": 1}));
    assert_eq!(client.next().await["data"]["n"], 1);
    assert!(server.metric("tls_certificate_end_timestamp_seconds") > 0.0);
}

#[tokio::test]
async fn files_that_change_are_noticed_without_a_signal() {
    let (old, new) = (Authority::new(), Authority::new());
    let (server, folder) = server(&old, "reload_interval = \"100ms\"\n");
    let sealed = server.sealed.unwrap();
    let config = |authority, version| client_config(Some(authority), &[version], None);
    let mut sessions = Vec::new();
    for version in [&TLS12, &TLS13] {
        let mut client = Client::connect_sealed(sealed, &[], config(&old, version)).await.unwrap();
        client.subscribe(&["stream:a"]).await;
        sessions.push(client);
    }
    new.issue("localhost").write(folder.path(), "server");
    // The key and the certificate are written one after the other. In between they may not match, which does no harm.
    server.until("read", |s| s.metric("tls_reloads_total") >= 1.0).await;
    for version in [&TLS12, &TLS13] {
        assert!(request(sealed, config(&new, version), "GET /healthz", "").is_ok());
        assert!(request(sealed, config(&old, version), "GET /healthz", "").is_err());
    }
    server.publish("stream:a", &json!({"n": 1}));
    for mut client in sessions {
        assert_eq!(client.next().await["data"]["n"], 1);
        client.send(json!({"op": "ping", "id": 2})).await;
        assert_eq!(client.next().await["op"], "pong");
    }
}

#[tokio::test]
async fn publishers_need_a_certificate_where_configured() {
    let (authority, publishers, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("clients.crt"), publishers.pem()).unwrap();
    let more = format!("client_ca_file = \"{}/clients.crt\"\n", folder.path().display());
    let (server, _folder) = {
        let files = tempfile::tempdir().unwrap();
        authority.issue("localhost").write(files.path(), "server");
        let open = OPEN.replace("open = true", "open = true\nclient_certificate = true");
        (Server::start(&format!("{open}\n{}{more}", tls_config(files.path()))), files)
    };
    let sealed = server.sealed.unwrap();
    let body = json!({"channel": "latest:a", "data": {"n": 1}}).to_string();
    let publish = |shows: Option<&_>| {
        let config = client_config(Some(&authority), &[&TLS13], shows);
        request(sealed, config, "POST /api/publish", &body)
    };
    assert!(publish(Some(&publishers.issue("feed"))).unwrap().starts_with("HTTP/1.1 200"));
    assert!(publish(None).unwrap().starts_with("HTTP/1.1 403"));
    let error = publish(Some(&strangers.issue("feed"))).unwrap_err();
    assert!(error.to_string().contains("received fatal alert"), "{error}");
    let (status, reply) = server.post("/api/publish", &json!({"channel": "latest:a", "data": {"n": 1}}));
    assert_eq!(status, 403, "{reply}");
    // Subscribing needs no client certificate.
    let config = client_config(Some(&authority), &[&TLS13], None);
    let mut client = Client::connect_sealed(sealed, &[], config).await.unwrap();
    assert!(client.subscribe(&["latest:a"]).await["topics"]["latest:a"].is_object());
}

#[test]
fn files_that_do_not_fit_are_named_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.issue("localhost").write(folder.path(), "server");
    std::fs::write(folder.path().join("server.key"), authority.issue("other").key).unwrap();
    let config = format!("[server]\nlisten = \"127.0.0.1:0\"\n{}", tls_config(folder.path()));
    let path = folder.path().join("nexus.toml");
    std::fs::write(&path, config).unwrap();
    let output =
        std::process::Command::new(crate::support::PROGRAM).args(["serve", "--config"]).arg(&path).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && printed.contains("tls.key_file") && printed.contains("does not fit"),
        "{printed}"
    );
}
