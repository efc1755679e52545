//! The limit on sessions per user: in both dialects, with the token in a command and in the header.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::sdk::{Driver, Sdk};
use crate::support::tokens::{claims, config, hs256};
use crate::support::{Client, PATIENCE, Server};

fn token(user: &str) -> String {
    hs256(&claims(user, 60, json!({"topics": ["*"]})))
}

fn two_each() -> Server {
    Server::start(&config("[limits]\nsessions_per_user = 2\n"))
}

const CLOSES: &str = "closes_total{reason=\"too_many_sessions\"}";

async fn auth(client: &mut Client, user: &str) {
    client.send(json!({"op": "auth", "id": 1, "token": token(user)})).await;
}

async fn signed_in(server: &Server, user: &str) -> Client {
    let mut client = server.client().await;
    auth(&mut client, user).await;
    assert_eq!(client.next().await, json!({"id": 1, "op": "auth", "ok": true}), "{user}");
    client
}

#[tokio::test]
async fn plain() {
    let server = two_each();
    let mut first = signed_in(&server, "ann").await;
    let second = signed_in(&server, "ann").await;
    let mut third = server.client().await;
    auth(&mut third, "ann").await;
    assert_eq!(third.close_code().await, 4429);
    assert_eq!(server.metric(CLOSES), 1.0);
    // In a header, it is refused before there is a session.
    let bearer = format!("Bearer {}", token("ann"));
    assert_eq!(Client::connect_with(server.address, &[("authorization", &bearer)]).await.err(), Some(429));
    assert_eq!(server.metric("upgrades_refused_total{reason=\"user_sessions\"}"), 1.0);
    // Other users are not affected, nor is a session of the same user that brings a new token, nor a token without a
    // user.
    let _other = signed_in(&server, "bob").await;
    for _ in 0..3 {
        auth(&mut first, "ann").await;
        assert_eq!(first.next().await["ok"], true);
    }
    let mut nameless = Vec::new();
    for _ in 0..3 {
        nameless.push(signed_in(&server, "").await);
    }
    // A session that ends makes room.
    drop(second);
    server.until("it is gone", |s| s.metric("sessions") == 5.0).await;
    let by_header = Client::connect_with(server.address, &[("authorization", &bearer)]).await;
    assert!(by_header.is_ok());
    // So does a session that changes its user, and counts for the new one.
    auth(&mut first, "bob").await;
    assert_eq!(first.next().await["ok"], true);
    let _room = signed_in(&server, "ann").await;
    let mut too_many = server.client().await;
    auth(&mut too_many, "bob").await;
    assert_eq!(too_many.close_code().await, 4429);
    // This is not counted as a refused token.
    assert_eq!(server.metric("tokens_refused_total{reason=\"user_sessions\"}"), 0.0);
}

#[tokio::test]
async fn centrifuge() {
    let server = two_each();
    let mut held = Vec::new();
    for n in 0..3 {
        let url = format!("ws://{}/connection/websocket", server.address);
        let mut socket = tokio_tungstenite::connect_async(url).await.unwrap().0;
        let connect = json!({"id": 1, "connect": {"token": token("ann")}}).to_string();
        socket.send(Message::text(connect)).await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        match (n, answer) {
            (0 | 1, Message::Text(text)) => {
                let reply: Value = serde_json::from_str(&text).unwrap();
                assert!(reply["connect"]["client"].is_string(), "{reply}");
                held.push(socket);
            }
            (2, Message::Close(Some(frame))) => assert_eq!(u16::from(frame.code), 4429),
            (n, other) => panic!("{n}: {other:?}"),
        }
    }
    assert_eq!(server.metric(CLOSES), 1.0);
}

/// SDKs reconnect with growing delays, and are accepted once there is room, without any action of the user.
#[tokio::test]
async fn sdks_try_again_until_there_is_room() {
    let server = two_each();
    for sdk in [Sdk::JavaScript, Sdk::PythonProtobuf] {
        let user = format!("{sdk:?}");
        let held = [signed_in(&server, &user).await, signed_in(&server, &user).await];
        let mut third = Driver::connect(sdk, &server, json!({"token": token(&user)})).await;
        let refused = server.metric(CLOSES);
        server.until("it has tried again, and again", |s| s.metric(CLOSES) >= refused + 2.0).await;
        drop(held);
        third.until("connected").await;
    }
}
