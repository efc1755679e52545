//! Stopping: the server is not ready, upgrades are refused, sessions are closed gradually with 1012, exit code 0.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Client, Got, OPEN, Server};

fn with_window(window: &str) -> Server {
    Server::start(&OPEN.replace("drain_window = \"0s\"", &format!("drain_window = \"{window}\"")))
}

#[tokio::test]
async fn a_drain_announces_refuses_closes_gradually_and_ends() {
    let mut server = with_window("3s");
    let mut clients = Vec::new();
    for _ in 0..60 {
        let mut client = server.client().await;
        client.subscribe(&["stream:a"]).await;
        clients.push(client);
    }
    server.signal("TERM");
    server.until("not ready", |s| s.get("/readyz").0 == 503).await;
    assert!(server.get("/readyz").1.contains("draining"));
    assert_eq!(server.get("/healthz").0, 200);
    assert_eq!(Client::connect_with(server.address, &[]).await.err(), Some(503));
    let (status, _) = server.post("/api/publish", &json!({"channel": "stream:a", "data": 1}));
    assert_eq!(status, 503, "a publish without an audience is refused");
    let began = Instant::now();
    let watching = clients.into_iter().map(|mut client| async move {
        let notice = client.next().await;
        assert_eq!(notice["op"], "closing");
        let retry_after = notice["retry_after_ms"].as_u64().unwrap();
        assert_eq!(client.close_code().await, 1012);
        (retry_after, began.elapsed())
    });
    let ends = futures_util::future::join_all(watching).await;
    assert!(server.wait().success());
    let (first, last) = (ends.iter().map(|e| e.1).min().unwrap(), ends.iter().map(|e| e.1).max().unwrap());
    assert!(last - first > Duration::from_secs(1), "all were closed at once: {first:?} to {last:?}");
    let mut times: Vec<u64> = ends.iter().map(|e| e.0).collect();
    times.sort_unstable();
    times.dedup();
    assert!(times.len() > 30 && *times.last().unwrap() <= 3_000, "retry times are not spread: {times:?}");
}

#[tokio::test]
async fn a_second_signal_hurries() {
    let mut server = with_window("10m");
    let mut client = server.client().await;
    client.subscribe(&["stream:a"]).await;
    server.signal("TERM");
    assert_eq!(client.next().await["op"], "closing");
    server.signal("INT");
    assert_eq!(client.close_code().await, 1012);
    assert!(server.wait().success());
}

#[tokio::test]
async fn without_sessions_it_ends_at_once() {
    let mut server = with_window("10m");
    server.signal("INT");
    assert!(server.wait().success());
}

/// Everything that the publish API accepted has been delivered when the sessions are closed.
#[tokio::test]
async fn nothing_accepted_is_lost_by_a_clean_stop() {
    for round in 0..3u64 {
        let mut server = with_window("0s");
        let address = server.address;
        let mut clients = Vec::new();
        for _ in 0..5 {
            let mut client = server.client().await;
            client.subscribe(&["stream:a"]).await;
            clients.push(client);
        }
        let publishing = std::thread::spawn(move || {
            let mut accepted = 0u64;
            loop {
                match publish(address, accepted + 1) {
                    Some(true) => accepted += 1,
                    _ => return accepted,
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(100 + round * 50)).await;
        server.signal("TERM");
        let watching = clients.into_iter().map(|mut client| async move {
            let mut seen = 0u64;
            loop {
                match client.got().await {
                    Got::Json(delta) if delta["type"] == "delta" => {
                        assert_eq!(delta["data"], seen + 1);
                        seen += 1;
                    }
                    Got::Json(_) => {}
                    Got::Close(code, _) => {
                        assert_eq!(code, 1012);
                        return seen;
                    }
                    Got::End => panic!("no close frame"),
                }
            }
        });
        let seen = futures_util::future::join_all(watching).await;
        let accepted = publishing.join().unwrap();
        assert!(server.wait().success());
        assert!(accepted > 0);
        for seen in seen {
            assert_eq!(seen, accepted, "accepted deltas were lost");
        }
    }
}

/// `Some(true)` if it was accepted; `None` if there was no answer.
fn publish(address: std::net::SocketAddr, n: u64) -> Option<bool> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    let body = json!({"channel": "stream:a", "data": n}).to_string();
    let request = format!(
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then(|| answer.starts_with("HTTP/1.1 200"))
}

/// Under load, with a client that does not read: it cannot delay the stop.
#[tokio::test]
async fn a_client_that_does_not_read_does_not_delay_the_stop() {
    let mut server = with_window("1s");
    let mut deaf = server.client().await;
    deaf.subscribe(&["latest:a"]).await;
    let loud = json!("x".repeat(50_000));
    while server.metric("slow_sessions") == 0.0 {
        let batch: Vec<(String, Value)> = (0..50).map(|_| ("latest:a".to_owned(), loud.clone())).collect();
        server.publish_all(&batch);
    }
    let mut healthy = server.client().await;
    healthy.subscribe(&["stream:a"]).await;
    server.signal("TERM");
    assert_eq!(healthy.close_code().await, 1012);
    assert!(server.wait().success());
}
