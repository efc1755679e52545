//! Shares of limited resources, at the size at which some clients once took all of them. A healthy session runs beside
//! each attack.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::bystander::Healthy;
use crate::support::raw_socket::{frame, upgraded_at};
use crate::support::tokens::{claims, config, hs256};
use crate::support::{Client, Redis, Server};

/// The client's address in a header, from a proxy that the server trusts.
const BEHIND_A_PROXY: &str =
    "[limits]\nreply_bytes_per_address = 100000\n[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\n";

fn behind_a_proxy(config: &str) -> Server {
    let (limits, server) = BEHIND_A_PROXY.split_once("[server]\n").unwrap();
    Server::start(&format!("{}{limits}", config.replace("[server]\n", &format!("[server]\n{server}"))))
}

/// A session of an address, after it has sent these bytes.
fn session_of(address: SocketAddr, from: &str, path: &str, commands: &str) -> TcpStream {
    let (mut stream, _) = upgraded_at(address, path, &format!("X-Forwarded-For: {from}\r\n"));
    stream.write_all(&frame(0x81, commands.as_bytes())).unwrap();
    stream
}

/// The number of bytes until the session is closed.
fn bytes_until_the_end(mut stream: TcpStream) -> usize {
    stream.write_all(&frame(0x88, &[3, 232])).unwrap();
    let (mut bytes, mut buffer) = (0, vec![0; 256 * 1024]);
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        bytes += n;
    }
    bytes
}

/// 40 anonymous sessions of one address send 4,000 commands for 400 MB of answers. Together they get at most the
/// address' allowance, and another address gets what it requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anonymous_sessions_of_an_address_have_one_allowance() {
    let server = behind_a_proxy(crate::support::OPEN);
    server.publish("merge:large", &json!({"pad": "x".repeat(100_000)}));
    for _ in 0..100 {
        server.publish("stream:large", &json!("x".repeat(1_000)));
    }
    let mut healthy = Healthy::beside(&server).await;
    let address = server.address;
    let began = Instant::now();
    let snapshots = "{\"op\":\"snapshot\",\"args\":[\"merge:large\"]}\n".repeat(100);
    let subscribe = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"stream:large\"}}";
    let history: String = (3..103)
        .map(|id| format!("{{\"id\":{id},\"history\":{{\"channel\":\"stream:large\",\"limit\":-1}}}}\n"))
        .collect();
    let bytes = healthy
        .during(20, move |_| {
            let commands: Vec<u8> = snapshots.lines().flat_map(|line| frame(0x81, line.as_bytes())).collect();
            let mut snapshots = session_of(address, "192.0.2.1", "/ws", "{\"op\":\"ping\"}");
            snapshots.write_all(&commands).unwrap();
            let mut asks = session_of(address, "192.0.2.1", "/connection/websocket", subscribe);
            let (mut got, mut buffer) = (Vec::new(), vec![0; 4_096]);
            while !got.windows(6).any(|bytes| bytes == b"\"id\":2") {
                let bytes = asks.read(&mut buffer).unwrap();
                assert!(bytes > 0, "it ended");
                got.extend_from_slice(&buffer[..bytes]);
            }
            asks.write_all(&frame(0x81, history.as_bytes())).unwrap();
            bytes_until_the_end(snapshots) + bytes_until_the_end(asks)
        })
        .await;
    let total: usize = bytes.iter().sum();
    // The burst, the refill per second, and one excess answer per shard. Refusals, and the answers to subscribes, are
    // not charged.
    let allowance = 1_600_000 + 100_000 * (usize::try_from(began.elapsed().as_secs()).unwrap() + 1) + 3 * 110_000;
    let beside = bytes.len() * (200 * 300 + 110_000);
    assert!(total <= allowance + beside, "{total} bytes for {} rounds of 200 commands", bytes.len());
    assert!(server.metric("snapshots_refused_by_address_total") > 0.0);
    assert!(server.metric("replies_refused_by_address_total") > 0.0);
    let reached = server.metric("limits_reached_total{limit=\"reply_bytes_per_address\"}");
    assert!(reached > 1_000.0, "{reached}");
    let mut other = Client::connect_with(server.address, &[("x-forwarded-for", "192.0.2.2")]).await.unwrap();
    other.send(json!({"op": "snapshot", "args": ["merge:large"]})).await;
    assert_eq!(other.next().await["type"], "snapshot");
    // A new session of the first address is refused because of its address: disconnecting pays nothing back.
    let mut again = Client::connect_with(server.address, &[("x-forwarded-for", "192.0.2.1")]).await.unwrap();
    again.send(json!({"op": "snapshot", "args": ["merge:large"]})).await;
    let refused = again.next().await;
    assert_eq!(refused["error"]["code"], 429, "{refused}");
    assert!(refused["error"]["reason"].as_str().unwrap().contains("reply_bytes_per_address"), "{refused}");
    assert_eq!(
        again.subscribe(&["merge:large"]).await["ok"],
        true,
        "deltas are not answers, and the state comes later"
    );
}

/// A user's sessions use the user's allowance, from any address.
#[tokio::test]
async fn users_behind_one_address_have_allowances_of_their_own() {
    let server = behind_a_proxy(&(config("") + "[namespace.merge]\nclass = \"merge\"\n[server]\nshards = 2\n"));
    server.publish("merge:large", &json!({"pad": "x".repeat(100_000)}));
    let mut asked = 0;
    for n in 0..20 {
        let bearer = format!("Bearer {}", hs256(&claims(&format!("user{n}"), 600, json!({"topics": ["merge:*"]}))));
        let headers = [("x-forwarded-for", "192.0.2.1"), ("authorization", &*bearer)];
        let mut client = Client::connect_with(server.address, &headers).await.unwrap();
        for _ in 0..3 {
            client.send(json!({"op": "snapshot", "args": ["merge:large"]})).await;
            assert_eq!(client.next().await["type"], "snapshot");
            assert_eq!(client.next().await["ok"], true);
            asked += 1;
        }
    }
    assert_eq!((asked, server.metric("snapshots_refused_by_address_total")), (60, 0.0));
}

/// 36 sessions request all 16,384 places for clients that wait for this node to read on: others still get some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_six_sessions_that_want_all_places_leave_some() {
    let redis = Redis::start();
    let server = redis.server("").await;
    redis.add("stream:s", &json!(1));
    let view = || serde_json::from_str::<Value>(&server.get("/api/topics/stream:s").1).unwrap_or_default();
    server.until("it has read", |_| view()["offset"].is_u64()).await;
    let ahead = json!({"offset": view()["offset"].as_u64().unwrap() + (1 << 40), "epoch": view()["epoch"]});
    let mut healthy = Healthy::beside(&server).await;
    let address = server.address;
    let command = move |of: usize, count: usize| {
        let topics: Vec<String> = (0..count).map(|n| format!("stream:{of}:{n}")).collect();
        let since: serde_json::Map<String, Value> = topics.iter().map(|topic| (topic.clone(), ahead.clone())).collect();
        json!({"op": "subscribe", "args": topics, "since": since}).to_string()
    };
    let counts = |server: &Server| {
        let of = |reason: &str| server.metric(&format!("subscribes_ahead_total{{reason=\"{reason}\"}}"));
        (server.metric("subscribes_waiting") + of("timed_out") + of("caught_up"), of("too_many"))
    };
    let greedy = command.clone();
    let mut sessions = healthy
        .during(36, move |n| {
            // These 36 are the attack; more only run until the healthy session was measured.
            (n < 36).then(|| {
                let (mut stream, _) = upgraded_at(address, "/ws", "");
                stream.write_all(&frame(0x81, greedy(n, 512).as_bytes())).unwrap();
                stream
            })
        })
        .await;
    sessions.retain(Option::is_some);
    server.until("all were looked at", |s| counts(s).0 + counts(s).1 >= 36.0 * 512.0).await;
    let (had, refused) = counts(&server);
    assert!(refused > 0.0 && had > 1_000.0, "{had} had a place, {refused} had none");
    let (mut other, _) = upgraded_at(address, "/ws", "");
    other.write_all(&frame(0x81, command(99, 200).as_bytes())).unwrap();
    server.until("the other was looked at", |s| counts(s).0 + counts(s).1 >= 37.0 * 512.0 - 312.0).await;
    // However few places are left, a later session gets some.
    let (had, refused) = (counts(&server).0 - had, counts(&server).1 - refused);
    assert!(had >= 8.0, "{had} had a place, {refused} had none");
    healthy.is_well(&server).await;
    drop(sessions);
}

/// Forged tokens over REST, as fast as one address can send them: only a limited number is verified, and another
/// address with a good token is served at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_tokens_over_rest_use_up_only_their_address_share() {
    let server = Server::start(&config("[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\n"));
    server.publish("stream:a", &json!(1));
    let token = |user: &str| format!("Bearer {}", hs256(&claims(user, 600, json!({"topics": ["*"]}))));
    let mine = token("ann");
    let mut healthy =
        Healthy::beside_with(&server, &[("authorization", &mine), ("x-forwarded-for", "192.0.2.9")]).await;
    let address = server.address;
    let began = Instant::now();
    let answers = healthy
        .during(60, move |round| {
            let (mut looked_at, mut refused) = (0usize, 0usize);
            for n in 0..20 {
                let forged = hs256(&claims(&format!("eve{round}.{n}"), 600, json!({"topics": ["*"]})));
                let forged = format!("Bearer {}x", &forged[..forged.len() - 2]);
                let headers = [("Authorization", forged.as_str()), ("X-Forwarded-For", "192.0.2.1")];
                match Server::http_at(address, "GET", "/api/topics/stream:a", &headers, "").0 {
                    401 => looked_at += 1,
                    429 => refused += 1,
                    other => panic!("{other}"),
                }
            }
            let good = format!("Bearer {}", hs256(&claims(&format!("user{round}"), 600, json!({"topics": ["*"]}))));
            let headers = [("Authorization", good.as_str()), ("X-Forwarded-For", "192.0.2.2")];
            assert_eq!(Server::http_at(address, "GET", "/api/topics/stream:a", &headers, "").0, 200);
            (looked_at, refused)
        })
        .await;
    let looked_at: usize = answers.iter().map(|(looked_at, _)| looked_at).sum();
    let refused: usize = answers.iter().map(|(_, refused)| refused).sum();
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    // 20 a second, a burst of five seconds, and those in progress when it was used up.
    assert!(looked_at <= 20 * (seconds + 5) + 20, "{looked_at} of {} in {seconds} s", looked_at + refused);
    let reached = server.metric("limits_reached_total{limit=\"token_failures_per_address\"}");
    assert!(refused == 0 || reached > 0.0, "{reached}");
}

/// States over REST are charged to the same allowance as sessions' requests: of the user, or of the address without
/// one. A 304 costs nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_over_rest_count_in_the_allowances_of_users_and_addresses() {
    let limits =
        "[limits]\nreply_bytes_per_second = 20000\nreply_bytes_burst = 300000\nreply_bytes_per_address = 20000\n";
    let more = format!("[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\n{limits}");
    let server = Server::start(&config(&more).replace("[access]\n", "[access]\nanonymous = true\n"));
    server.publish("merge:large", &json!({"pad": "x".repeat(50_000)}));
    let mut healthy = Healthy::beside(&server).await;
    let token = |user: &str| format!("Bearer {}", hs256(&claims(user, 60, json!({"topics": ["*"]}))));
    let get = |headers: &[(&str, &str)]| server.http("GET", "/api/topics/merge:large", headers, "");
    let (alice, bob) = (token("alice"), token("bob"));
    for headers in [
        [("Authorization", alice.as_str()), ("X-Forwarded-For", "192.0.2.1")],
        [("X-Nothing", ""), ("X-Forwarded-For", "192.0.2.9")],
    ] {
        let (status, head, _) = get(&headers);
        assert_eq!(status, 200);
        let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
        let mut served = 1;
        let refused = loop {
            let (status, head, body) = get(&headers);
            match status {
                200 => served += 1,
                _ => break (status, head, body),
            }
            assert!(served < 40, "50 KB each, and never too much");
        };
        assert_eq!(refused.0, 429, "{refused:?}");
        assert!(refused.1.contains("retry-after: ") && refused.2.contains("limits.reply_bytes_per_"), "{refused:?}");
        let [authorization, from] = headers;
        assert_eq!(get(&[authorization, from, ("If-None-Match", &etag)]).0, 304);
    }
    // Another user, or another address, has its own allowance.
    assert_eq!(get(&[("Authorization", &bob), ("X-Forwarded-For", "192.0.2.1")]).0, 200);
    assert_eq!(get(&[("X-Forwarded-For", "192.0.2.77")]).0, 200);
    assert!(server.metric("replies_refused_total") >= 1.0);
    assert!(server.metric("replies_refused_by_address_total") >= 1.0);
    healthy.is_well(&server).await;
}
