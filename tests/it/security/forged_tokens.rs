//! Forged tokens are verified on other threads, in turns, and only a limited number for each session and address.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::bystander::Healthy;
use crate::support::tokens::claims;
use crate::support::{Client, PATIENCE, Server};

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");

/// A key whose signatures take long to check.
fn config(more: &str) -> String {
    format!(
        "[publish]\nopen = true\n[access]\ndefault_topics = [\"stream:*\"]\n\
         [[access.keys]]\nalgorithm = \"ES256\"\npublic_key_file = \"{KEYS}/ec.pub.pem\"\n{more}"
    )
}

fn signed(claims: &Value) -> String {
    let key = EncodingKey::from_ec_pem(&std::fs::read(format!("{KEYS}/ec.pem")).unwrap()).unwrap();
    encode(&Header::new(Algorithm::ES256), claims, &key).unwrap()
}

fn good(user: &str) -> String {
    signed(&claims(user, 600, json!({})))
}

/// A well-formed token with the signature of another.
fn forged(more: Value) -> String {
    let (one, other) = (signed(&claims("mallory", 600, more)), good("mallory"));
    let (unsigned, signature) = (one.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().1);
    format!("{unsigned}.{signature}")
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn connected(address: SocketAddr, token: &str) -> Socket {
    let url = format!("ws://{address}/connection/websocket");
    let mut socket = tokio_tungstenite::connect_async(url).await.unwrap().0;
    socket.send(Message::text(json!({"id": 1, "connect": {"token": token}}).to_string())).await.unwrap();
    let reply = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
    assert!(reply.to_text().unwrap().contains("\"client\""), "{reply}");
    socket
}

/// The errors' codes until the close, and its code.
async fn answers(socket: &mut Socket) -> (Vec<u64>, u16) {
    let mut codes = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, socket.next()).await.unwrap() {
            Some(Ok(Message::Text(text))) => {
                let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
                codes.extend(lines.filter_map(|v| v["error"]["code"].as_u64()));
            }
            Some(Ok(Message::Close(Some(frame)))) => return (codes, frame.code.into()),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_session_that_shows_too_many_forged_subscription_tokens_is_closed() {
    let server = Server::start(&config(""));
    let mut socket = connected(server.address, &good("mallory")).await;
    let mut beside = connected(server.address, &good("ann")).await;
    let commands: Vec<String> = (0..300)
        .map(|n| {
            let topic = format!("stream:{n}");
            let token = forged(json!({"channel": topic}));
            json!({"id": n + 2, "subscribe": {"channel": topic, "token": token}}).to_string()
        })
        .collect();
    for chunk in commands.chunks(100) {
        if socket.send(Message::text(chunk.join("\n"))).await.is_err() {
            break;
        }
    }
    let (codes, close) = answers(&mut socket).await;
    assert_eq!((codes, close), (vec![103; 10], 3500));
    assert_eq!(server.metric("closes_total{reason=\"too_many_invalid_tokens\"}"), 1.0);
    assert_eq!(server.metric("limits_reached_total{limit=\"token_failures\"}"), 1.0);
    server.until("all were answered", |s| s.metric("tokens_waiting") == 0.0).await;
    let looked_at = server.metric("tokens_refused_total{reason=\"invalid\"}");
    assert!((10.0..=40.0).contains(&looked_at), "{looked_at} signatures were looked at");
    // Another session has its own limit, and good tokens do not count.
    for n in 0..30 {
        let topic = format!("stream:{n}");
        let token = signed(&claims("ann", 600, json!({"channel": topic})));
        let subscribe = json!({"id": n + 2, "subscribe": {"channel": topic, "token": token}}).to_string();
        beside.send(Message::text(subscribe)).await.unwrap();
        let reply = tokio::time::timeout(PATIENCE, beside.next()).await.unwrap().unwrap().unwrap();
        assert!(reply.to_text().unwrap().contains("\"subscribe\""), "{reply}");
    }
}

/// A client that was away sends all the subscription tokens that it had: they have expired, and do not count as forged.
#[tokio::test]
async fn expired_subscription_tokens_close_nothing() {
    let server = Server::start(&config(""));
    let mut socket = connected(server.address, &good("alice")).await;
    let old = |n: usize| {
        let token = signed(&claims("alice", -60, json!({"channel": format!("stream:{n}")})));
        json!({"id": n + 2, "subscribe": {"channel": format!("stream:{n}"), "token": token}}).to_string()
    };
    let all: Vec<String> = (0..50).map(old).collect();
    socket.send(Message::text(all.join("\n"))).await.unwrap();
    let mut expired = 0;
    while expired < 50 {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        assert!(message.is_text(), "{message:?}");
        expired += message.to_text().unwrap().matches("\"code\":109").count();
    }
    socket.send(Message::text(json!({"id": 99, "subscribe": {"channel": "stream:a"}}).to_string())).await.unwrap();
    let message = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
    assert!(message.to_text().unwrap().contains("\"id\":99,\"subscribe\""), "{message}");
}

/// Tokens of a session take effect in the order in which they were sent.
#[tokio::test]
async fn the_tokens_of_a_session_are_answered_in_order() {
    let server = Server::start(&config("[limits]\ntoken_failures = 0\n"));
    let mut socket = connected(server.address, &good("ann")).await;
    let commands: Vec<String> = (0..40)
        .map(|n| {
            let topic = format!("stream:{n}");
            let token = match n % 3 {
                0 => forged(json!({"channel": topic})),
                _ => signed(&claims("ann", 600, json!({"channel": topic}))),
            };
            json!({"id": n + 2, "subscribe": {"channel": topic, "token": token}}).to_string()
        })
        .collect();
    socket.send(Message::text(commands.join("\n"))).await.unwrap();
    let mut ids = Vec::new();
    while ids.len() < 40 {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        for line in message.to_text().unwrap().lines() {
            let reply: Value = serde_json::from_str(line).unwrap();
            if let Some(id) = reply["id"].as_u64() {
                assert_eq!(reply["error"]["code"].as_u64(), ((id - 2) % 3 == 0).then_some(103), "{reply}");
                ids.push(id);
            }
        }
    }
    assert_eq!(ids, (2..42).collect::<Vec<u64>>());
}

/// Many sessions at once, each at the full command rate and reconnecting at once: another session's subscribes do not
/// wait.
#[tokio::test]
async fn subscribes_do_not_wait_for_other_sessions_forged_tokens() {
    let server = Server::start(&config(""));
    let bearer = format!("Bearer {}", good("ann"));
    let mut healthy = Healthy::beside_with(&server, &[("authorization", &bearer)]).await;
    let mut client = Client::connect_with(server.address, &[("authorization", &bearer)]).await.unwrap();
    let mut subscribes = Vec::new();
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    for n in 0..40 {
        let began = Instant::now();
        client.subscribe(&[&format!("stream:calm{n}")]).await;
        subscribes.push(began.elapsed());
    }
    let calm = median(&mut subscribes);
    let (address, token) = (server.address, good("mallory"));
    let batch: String = (0..64)
        .map(|n| {
            let topic = format!("stream:{n}");
            json!({"id": n + 2, "subscribe": {"channel": topic, "token": forged(json!({"channel": topic}))}})
                .to_string()
        })
        .collect::<Vec<_>>()
        .join("\n");
    let mut attackers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (token, batch) = (token.clone(), batch.clone());
        attackers.spawn(async move {
            loop {
                let mut socket = connected(address, &token).await;
                while socket.send(Message::text(batch.clone())).await.is_ok() {
                    if matches!(socket.next().await, None | Some(Ok(Message::Close(_)) | Err(_))) {
                        break;
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    server.until("the attack is on", |s| s.metric("closes_total{reason=\"too_many_invalid_tokens\"}") >= 20.0).await;
    let mut subscribes = Vec::new();
    for n in 0..60 {
        let began = Instant::now();
        assert_eq!(client.subscribe(&[&format!("stream:busy{n}")]).await["ok"], true);
        subscribes.push(began.elapsed());
        healthy.is_well(&server).await;
    }
    attackers.shutdown().await;
    let (busy, most) = (median(&mut subscribes), calm * 20 + Duration::from_millis(200));
    println!("a subscribe takes {busy:?} during the attack, {calm:?} before");
    assert!(busy <= most, "a subscribe takes {busy:?} during the attack, {calm:?} before");
}

#[tokio::test]
async fn forged_tokens_of_one_address_are_verified_at_a_limited_rate() {
    let server = Server::start(&config("[limits]\ntoken_failures_per_address = 1\n"));
    server.publish("stream:a", &json!(1));
    let ask = |server: &Server, token: &str| {
        server.http("GET", "/api/topics/stream:a", &[("Authorization", &format!("Bearer {token}"))], "")
    };
    let (known, unknown) = (good("ann"), good("bob"));
    assert_eq!(ask(&server, &known).0, 200);
    let bearer = format!("Bearer {known}");
    let mut healthy = Healthy::beside_with(&server, &[("authorization", &bearer)]).await;
    let (mut refused, mut unlooked) = (0, 0);
    let mut answered = 0;
    for n in 0..200 {
        let (status, head, body) = ask(&server, &forged(json!({"n": n})));
        match status {
            401 => refused += 1,
            429 => {
                assert!(head.contains("retry-after:"), "{head}");
                assert!(body.contains("token_failures_per_address"), "{body}");
                unlooked += 1;
            }
            other => panic!("{other}: {body}"),
        }
        answered += 1;
    }
    // Five at once, then one a second.
    assert!(unlooked > refused && refused >= 5, "{refused} looked at and {unlooked} not, of {answered}");
    // An upgrade does not circumvent it.
    let forged_bearer = format!("Bearer {}", forged(json!({})));
    let status = Client::connect_with(server.address, &[("authorization", &forged_bearer)]).await.err();
    assert!(matches!(status, Some(429 | 401)), "{status:?}");
    // Others behind the same address: verified tokens are served, and new ones once the attack is over.
    assert_eq!(ask(&server, &known).0, 200);
    assert!(Client::connect_with(server.address, &[("authorization", &bearer)]).await.is_ok());
    healthy.is_well(&server).await;
    server.until("it is quiet again", |s| ask(s, &unknown).0 == 200).await;
    assert!(server.metric("limits_reached_total{limit=\"token_failures_per_address\"}") >= f64::from(unlooked));
}

#[tokio::test]
async fn good_tokens_of_one_address_are_not_limited() {
    let server = Server::start(&config("[limits]\ntoken_failures_per_address = 1\n"));
    server.publish("stream:a", &json!(1));
    for n in 0..60 {
        let bearer = format!("Bearer {}", good(&format!("user{n}")));
        assert_eq!(server.http("GET", "/api/topics/stream:a", &[("Authorization", &bearer)], "").0, 200, "{n}");
    }
}

/// A remembered valid token expires at its own time.
#[tokio::test]
async fn a_token_that_was_verified_before_still_ends() {
    let server = Server::start(&config(""));
    server.publish("stream:a", &json!(1));
    // 5 seconds are tolerated.
    let token = signed(&claims("ann", -3, json!({})));
    let bearer = format!("Bearer {token}");
    let ask = |s: &Server| s.http("GET", "/api/topics/stream:a", &[("Authorization", &bearer)], "").0;
    assert_eq!(ask(&server), 200);
    server.until("it has expired", |s| ask(s) == 401).await;
}
