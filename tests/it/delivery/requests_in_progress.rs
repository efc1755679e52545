//! Requests of sessions, and bytes waiting to be written to them: they are counted and limited, and the clients are
//! informed.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::bystander::Healthy;
use crate::support::centrifuge_client::Centrifuge;
use crate::support::raw_socket::{frame, upgraded, upgraded_at};
use crate::support::tokens::{claims, config, hs256};
use crate::support::{OPEN, PATIENCE, Server};

const MIB: usize = 1024 * 1024;

fn account(server: &Server, name: &str) -> usize {
    usize::try_from(server.status()["memory"]["accounts"][name]["now"].as_u64().unwrap()).unwrap()
}

fn limit(server: &Server, name: &str) -> f64 {
    server.metric(&format!("limits_reached_total{{limit=\"{name}\"}}"))
}

/// A listener that accepts connections and never answers.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// Calls to an endpoint that does not answer, each with much data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_wait_are_counted_and_large_ones_leave_room_for_the_others() {
    let (_listener, url) = silent();
    let server = Server::start(&format!(
        "{OPEN}[rpc]\nendpoint = \"{url}\"\ntimeout = \"10s\"\n[limits]\nmemory = \"256MiB\"\n"
    ));
    let mut healthy = Healthy::beside(&server).await;
    let data = "x".repeat(60_000);
    let call = json!({"id": 2, "rpc": {"method": "m", "data": data}}).to_string();
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = upgraded_at(server.address, "/connection/websocket", "").0;
        stream.write_all(&frame(0x81, br#"{"id":1,"connect":{}}"#)).unwrap();
        (0..50).for_each(|_| stream.write_all(&frame(0x81, call.as_bytes())).unwrap());
        held.push(stream);
    }
    // Half of 1/64 of the memory, and not a call more.
    server.until("the half is full", |s| account(s, "asked") > 2 * MIB - 70_000).await;
    server
        .until("the rest was refused, and each counted", |s| {
            let refused = s.metric("pending_requests_refused_total");
            refused >= 60.0 && limit(s, "asked_total_bytes") == refused
        })
        .await;
    assert!(account(&server, "asked") <= 2 * MIB, "{}", account(&server, "asked"));
    // Refused calls are asked to try again. Small ones are carried out, of this session and of others.
    let mut session = Centrifuge::open(&server).await;
    session.ask(json!({"id": 1, "connect": {}})).await;
    let reply = session.ask(json!({"id": 2, "rpc": {"method": "m", "data": data}})).await;
    assert_eq!((&reply["error"]["code"], &reply["error"]["temporary"]), (&json!(100), &json!(true)), "{reply}");
    assert!(session.ask(json!({"id": 3, "subscribe": {"channel": "stream:a"}})).await["subscribe"].is_object());
    assert!(
        session.ask(json!({"id": 4, "history": {"channel": "stream:a", "limit": 1}})).await["error"]["code"] != 100
    );
    healthy.is_well(&server).await;
    // Calls that the endpoint did not answer in time are freed.
    server.until("freed", |s| account(s, "asked") < 4_096).await;
    drop(held);
}

/// The positions in a `connect` wait while its token's key is fetched: they count as incoming messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connects_that_wait_for_a_key_set_are_counted_and_have_a_ceiling() {
    let (_listener, url) = silent();
    let more = format!("[access.jwks]\nurl = \"{url}\"\nmin_interval = \"100ms\"\n[limits]\nmemory = \"64MiB\"\n");
    let server = Server::start(&config(&more));
    let bearer = format!("Bearer {}", hs256(&claims("ann", 600, json!({"topics": ["*"]}))));
    let mut healthy = Healthy::beside_with(&server, &[("authorization", &bearer)]).await;
    let key = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/ec.pem")).unwrap();
    let header = Header { kid: Some("unknown".into()), ..Header::new(Algorithm::ES256) };
    let unknown = encode(&header, &claims("u", 600, json!({})), &EncodingKey::from_ec_pem(&key).unwrap()).unwrap();
    let subs: serde_json::Map<String, Value> = (0..250)
        .map(|n| (format!("stream:{n:0180}"), json!({"recover": true, "offset": 7, "epoch": "an-epoch"})))
        .collect();
    let connect = json!({"id": 1, "connect": {"token": unknown, "subs": subs}}).to_string();
    let connect = frame(0x81, connect.as_bytes());
    let address = server.address;
    // A wait lasts a second from the beginning of the fetch, so this takes some rounds.
    let mut rounds = 0;
    while limit(&server, "incoming_total_bytes") < 10.0 {
        rounds += 1;
        assert!(rounds < 60, "no waiting message was counted");
        let (connect, mut held) = (connect.clone(), Vec::new());
        held.extend(
            healthy
                .during(40, move |_| {
                    let mut stream = upgraded_at(address, "/connection/websocket", "").0;
                    stream.write_all(&connect).map(|()| stream).ok()
                })
                .await,
        );
        assert!(account(&server, "incoming") <= 2 * MIB + 600_000, "{}", account(&server, "incoming"));
        drop(held);
    }
    // They may come back: SDKs do not give up after this code.
    assert!(server.metric("closes_total{reason=\"too_much_incoming\"}") >= 10.0);
    server.until("all memory is freed", |s| account(s, "incoming") == 0 && account(s, "asked") == 0).await;
}

/// All clients subscribe at once, to more topics than the control plane handles in a tick: commands wait in the kernel,
/// and none is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_subscribes_is_read_as_it_is_answered() {
    const SESSIONS: usize = 200;
    let server = Server::start(&format!("{OPEN}[limits]\nmemory = \"64MiB\"\nunpublished_topics = 200000\n"));
    let mut healthy = Healthy::beside(&server).await;
    let mut held: Vec<TcpStream> = (0..SESSIONS).map(|_| upgraded(&server, "/ws", "").0).collect();
    for (n, stream) in held.iter_mut().enumerate() {
        let topics: Vec<String> = (0..512).map(|m| format!("stream:{n:05}:{m:05}")).collect();
        let command = json!({"op": "subscribe", "id": 1, "args": topics}).to_string();
        stream.write_all(&frame(0x81, command.as_bytes())).unwrap();
    }
    let all = (SESSIONS * 512 + 1) as f64;
    let mut most = 0;
    server
        .until("subscribed", |s| {
            most = most.max(account(s, "asked"));
            s.metric("subscriptions") == all
        })
        .await;
    println!("{most} bytes in progress at most");
    assert!(most <= MIB, "{most} bytes were in progress");
    assert_eq!(server.metric("pending_requests_refused_total"), 0.0);
    assert!(server.metric("reads_paused_control_total") > 0.0, "the requests did not exceed a tick");
    healthy.is_well(&server).await;
}

/// The same 512 topics twice at once, from positions that this node has not read: the second command waits for the
/// first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sessions_requests_in_progress_are_limited() {
    let server = Server::open();
    let mut healthy = Healthy::beside(&server).await;
    let topics: Vec<String> = (0..512).map(|n| format!("latest:{n}")).collect();
    server.publish_all(&topics.iter().map(|topic| (topic.clone(), json!(1))).collect::<Vec<_>>());
    let (_, view) = server.get("/api/topics/latest:0");
    let epoch = serde_json::from_str::<Value>(&view).unwrap()["epoch"].clone();
    let ahead: serde_json::Map<String, Value> =
        topics.iter().map(|topic| (topic.clone(), json!({"offset": 1_000_000, "epoch": epoch}))).collect();
    let mut client = server.client().await;
    for id in 0..2 {
        client.send(json!({"op": "subscribe", "id": id, "args": topics, "since": ahead})).await;
    }
    let answered = tokio::spawn(async move {
        let mut ids = Vec::new();
        while ids.len() < 2 {
            let message = client.next().await;
            assert!(message["error"].is_null(), "{message}");
            ids.extend(message["id"].as_u64());
        }
        ids
    });
    let mut most = 0.0_f64;
    while !answered.is_finished() {
        most = most.max(server.metric("subscribes_waiting"));
        healthy.is_well(&server).await;
    }
    assert_eq!(answered.await.unwrap(), [0, 1]);
    assert_eq!(most, 512.0, "the number that waited at once");
}

/// A session has the longest flush interval and much is published: the waiting bytes are limited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_waiting_for_a_write_are_limited() {
    let server = Server::start(&format!("{OPEN}history_size = 1\n[limits]\nmemory = \"64MiB\"\n"));
    let mut healthy = Healthy::beside(&server).await;
    let mut client = server.client().await;
    client.send(json!({"op": "session", "id": 1, "flush_interval_ms": 5000})).await;
    client.next().await;
    client.subscribe(&["stream:a"]).await;
    let reader = tokio::spawn(async move {
        for n in 0..200 {
            let delta = client.next().await;
            assert_eq!(delta["data"]["n"], n, "in order, and none is missing");
        }
    });
    let mut most = 0;
    for n in 0..200 {
        server.publish("stream:a", &json!({"n": n, "pad": "x".repeat(50_000)}));
        most = most.max(account(&server, "outgoing"));
    }
    // 1/64 of the memory is half a MiB for each of two shards, and one delta may exceed it.
    assert!(most <= MIB, "{most} bytes waited for a write");
    assert!(limit(&server, "outgoing_total_bytes") > 0.0);
    tokio::time::timeout(PATIENCE, reader).await.unwrap().unwrap();
    healthy.is_well(&server).await;
}
