//! The Centrifuge protocol on the wire, where SDKs do not go: several commands per message, wrong order, pings, limits.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{PATIENCE, Server};

/// A socket, and the lines of its last message that were not read yet.
struct Raw(Socket, std::collections::VecDeque<Value>);

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

impl Raw {
    async fn open(server: &Server) -> Self {
        let url = format!("ws://{}/connection/websocket", server.address);
        Self(tokio_tungstenite::connect_async(url).await.unwrap().0, std::collections::VecDeque::new())
    }

    async fn connected(server: &Server) -> Self {
        let mut raw = Self::open(server).await;
        raw.send("{\"id\":1,\"connect\":{}}").await;
        assert_eq!(raw.next().await["id"], 1);
        raw
    }

    async fn send(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    async fn message(&mut self) -> Message {
        tokio::time::timeout(PATIENCE, self.0.next()).await.expect("nothing came").unwrap().unwrap()
    }

    async fn next(&mut self) -> Value {
        loop {
            if let Some(reply) = self.1.pop_front() {
                return reply;
            }
            let message = self.message().await;
            self.1.extend(message.to_text().unwrap().lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
        }
    }

    async fn close_code(&mut self) -> u16 {
        loop {
            if let Message::Close(frame) = self.message().await {
                return frame.unwrap().code.into();
            }
        }
    }
}

/// Publishes of one session are stored and answered in the order in which they were sent, in one message or in several.
#[tokio::test]
async fn publishes_of_a_session_keep_their_order() {
    let server = Server::open_with("[namespace.chat]\nallow_publish_for_anonymous = true\nhistory_size = 1000\n");
    let mut raw = Raw::connected(&server).await;
    let publish = |n: u32| format!("{{\"id\":{},\"publish\":{{\"channel\":\"chat:a\",\"data\":{n}}}}}", n + 10);
    for round in 0..4 {
        let commands: Vec<String> = (0..40).map(|n| publish(round * 40 + n)).collect();
        if round % 2 == 0 {
            raw.send(&commands.join("\n")).await;
        } else {
            for command in &commands {
                raw.send(command).await;
            }
        }
        for n in 0..40 {
            assert_eq!(raw.next().await["id"], round * 40 + n + 10);
        }
    }
    let body = server.get("/api/topics/chat:a").1;
    let body: Value = serde_json::from_str(&body).unwrap();
    let stored: Vec<u64> = body["data"].as_array().unwrap().iter().map(|d| d["data"].as_u64().unwrap()).collect();
    assert_eq!(stored, (0..160).collect::<Vec<_>>());
}

#[tokio::test]
async fn several_commands_a_message_are_answered_in_order() {
    let server = Server::open();
    server.publish("merge:a", &json!({"x": 1}));
    let mut raw = Raw::open(&server).await;
    raw.send(
        "{\"id\":1,\"connect\":{\"name\":\"js\"}}\n{\"id\":2,\"subscribe\":{\"channel\":\"merge:a\"}}\n\
         {\"id\":3,\"subscribe\":{\"channel\":\"merge:a\"}}\n{\"id\":4,\"unsubscribe\":{\"channel\":\"merge:a\"}}\n{\"id\":5,\"ping\":{}}",
    )
    .await;
    let connected = raw.next().await;
    assert_eq!(
        (&connected["id"], &connected["connect"]["ping"], &connected["connect"]["pong"]),
        (&json!(1), &json!(25), &json!(true))
    );
    assert!(connected["connect"]["node"].as_str().unwrap().len() > 3);
    let (mut replies, mut pushes) = (Vec::new(), Vec::new());
    while replies.len() < 4 {
        let next = raw.next().await;
        if next["push"].is_null() { replies.push(next) } else { pushes.push(next) }
    }
    let of = |id: u64| replies.iter().find(|r| r["id"] == id).unwrap();
    assert_eq!(of(2)["subscribe"]["data"], json!({"class": "merge"}));
    assert_eq!(of(4)["unsubscribe"], json!({}));
    assert_eq!(of(5)["ping"], json!({}));
    assert_eq!(pushes[0]["push"]["pub"]["tags"]["kind"], "snapshot");
}

#[tokio::test]
async fn several_replies_a_message() {
    let server = Server::open();
    let mut raw = Raw::connected(&server).await;
    raw.send("{\"id\":2,\"subscribe\":{\"channel\":\"stream:a\"}}").await;
    raw.next().await;
    let deltas: Vec<_> = (0..2_000).map(|n| ("stream:a".to_owned(), json!(n))).collect();
    server.publish_all(&deltas);
    let (mut messages, mut seen) = (0, Vec::new());
    while seen.len() < deltas.len() {
        let message = raw.message().await;
        messages += 1;
        let lines = message.to_text().unwrap().lines();
        seen.extend(lines.map(|l| serde_json::from_str::<Value>(l).unwrap()["push"]["pub"]["data"].clone()));
    }
    assert!(seen.iter().zip(0..).all(|(data, n)| *data == n), "all of them, in order");
    assert!(messages < deltas.len(), "{messages} messages");
}

/// (message, close code): each ends only that session.
#[tokio::test]
async fn unexpected_messages_end_the_session() {
    let server = Server::open();
    let mut healthy = Raw::connected(&server).await;
    for (first, code) in [
        ("{\"id\":1,\"subscribe\":{\"channel\":\"a\"}}", 3501),
        ("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"connect\":{}}", 3501),
        ("not json", 3501),
        ("{\"connect\":{}}", 3501),
        ("{\"id\":1,\"connect\":{\"token\":\"a.b.c\"}}", 3500),
    ] {
        let mut raw = Raw::open(&server).await;
        raw.send(first).await;
        assert_eq!(raw.close_code().await, code, "{first}");
    }
    let mut raw = Raw::open(&server).await;
    raw.0.send(Message::binary(vec![0])).await.unwrap();
    assert_eq!(raw.close_code().await, 1003, "binary where JSON was negotiated");
    healthy.send("{\"id\":9,\"subscribe\":{\"channel\":\"stream:a\"}}").await;
    assert_eq!(healthy.next().await["id"], 9);
}

/// (command, error code): the session continues.
#[tokio::test]
async fn refused_commands_are_answered() {
    let server = Server::open_with("[namespace.closed]\nallow_subscribe_for_anonymous = false\n");
    let mut raw = Raw::connected(&server).await;
    raw.send("{\"id\":2,\"subscribe\":{\"channel\":\"stream:a\"}}").await;
    assert!(raw.next().await["subscribe"].is_object());
    for (command, code) in [
        ("\"subscribe\":{\"channel\":\"stream:a\"}", 105),
        ("\"subscribe\":{\"channel\":\"a b\"}", 107),
        ("\"subscribe\":{\"channel\":\"closed:a\"}", 103),
        ("\"subscribe\":{\"channel\":\"closed:a\",\"token\":\"x\"}", 103),
        ("\"subscribe\":{\"channel\":\"stream:b\",\"type\":4}", 107),
        ("\"publish\":{\"channel\":\"stream:a\",\"data\":{}}", 103),
        ("\"presence\":{\"channel\":\"stream:a\"}", 108),
        ("\"rpc\":{\"method\":\"x\",\"data\":{}}", 108),
        ("\"sub_refresh\":{\"channel\":\"stream:z\",\"token\":\"x\"}", 103),
        ("\"dance\":{}", 104),
    ] {
        raw.send(&format!("{{\"id\":7,{command}}}")).await;
        let reply = raw.next().await;
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(7), &json!(code)), "{command}: {reply}");
    }
}

#[tokio::test]
async fn pings_come_whatever_the_client_sends_and_must_be_answered() {
    let server = Server::open_with("[limits]\nping_interval = \"1s\"\npong_timeout = \"1s\"\n");
    let mut raw = Raw::connected(&server).await;
    for _ in 0..3 {
        assert_eq!(raw.next().await, json!({}));
        raw.send("{}").await;
        raw.send("{\"id\":5,\"ping\":{}}").await;
        assert_eq!(raw.next().await["id"], 5);
    }
    assert_eq!(raw.close_code().await, 3012);
}

#[tokio::test]
async fn five_hundred_subscriptions_come_back_in_one_message() {
    let server = Server::open();
    let mut raw = Raw::connected(&server).await;
    let commands: Vec<String> = (0..512)
        .map(|n| {
            let epoch = "abcdefgh";
            format!("{{\"id\":{},\"subscribe\":{{\"channel\":\"merge:a-name-of-some-length-{n}\",\"recover\":true,\"offset\":123456789012,\"epoch\":\"{epoch}\",\"flag\":1,\"positioned\":true}}}}", n + 2)
        })
        .collect();
    let message = commands.join("\n");
    assert!(message.len() > 64 * 1024, "larger than the limit for `plain`");
    raw.send(&message).await;
    let mut replies = 0;
    while replies < 512 {
        let reply = raw.next().await;
        replies += usize::from(reply["subscribe"]["recovered"] == true);
        assert!(reply["error"].is_null(), "{reply}");
    }
    raw.send("{\"id\":1000,\"subscribe\":{\"channel\":\"merge:one-too-many\"}}").await;
    let reply = loop {
        let reply = raw.next().await;
        if reply["id"] == 1000 {
            break reply;
        }
    };
    assert_eq!(reply["error"]["code"], 106);
}

#[tokio::test]
async fn stale_topics_and_the_end_are_notified() {
    let mut server = Server::open_with("[namespace.quiet]\nclass = \"merge\"\nstale_after = \"1s\"\n");
    server.publish("quiet:a", &json!({"x": 1}));
    let mut raw = Raw::connected(&server).await;
    raw.send("{\"id\":2,\"subscribe\":{\"channel\":\"quiet:a\"}}").await;
    raw.next().await;
    raw.next().await;
    let stale = raw.next().await["push"]["message"]["data"].clone();
    assert_eq!((&stale["kind"], &stale["topic"]), (&json!("stale"), &json!("quiet:a")));
    server.publish("quiet:a", &json!({"x": 2}));
    assert_eq!(raw.next().await["push"]["message"]["data"]["kind"], "fresh");
    assert_eq!(raw.next().await["push"]["pub"]["data"], json!({"x": 2}));
    server.signal("TERM");
    assert_eq!(raw.next().await["push"]["message"]["data"]["kind"], "closing");
    assert_eq!(raw.close_code().await, 3001);
    server.wait();
}

#[tokio::test]
async fn protobuf_is_agreed_by_subprotocol() {
    let server = Server::open();
    let url = format!("ws://{}/connection/websocket", server.address);
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "centrifuge-protobuf".parse().unwrap());
    let (mut socket, response) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "centrifuge-protobuf");
    // Command { id: 1, connect: {} } after its length.
    socket.send(Message::binary(vec![4, 0x08, 1, 0x22, 0])).await.unwrap();
    let reply = socket.next().await.unwrap().unwrap().into_data();
    assert_eq!(reply[1..3], [0x08, 1], "{reply:?}");
}

/// Unsubscribing and subscribing at once, or subscribing twice: watchers see the member as present throughout.
#[tokio::test]
async fn a_member_that_subscribes_again_is_not_seen_to_leave() {
    let server = Server::open_with(
        "[namespace.room]\nclass = \"stream\"\njoin_leave = true\nforce_push_join_leave = true\npresence = true",
    );
    let mut watcher = Raw::connected(&server).await;
    watcher.send("{\"id\":2,\"subscribe\":{\"channel\":\"room:a\"}}").await;
    while watcher.next().await["id"] != 2 {}
    let next_notice = async |watcher: &mut Raw| loop {
        let push = watcher.next().await["push"].clone();
        if push["join"].is_object() || push["leave"].is_object() {
            let who = if push["join"].is_object() { &push["join"] } else { &push["leave"] };
            return (push["join"].is_object(), who["info"]["client"].as_str().unwrap().to_owned());
        }
    };
    let (_, own) = next_notice(&mut watcher).await;
    let mut member = Raw::connected(&server).await;
    member.send("{\"id\":2,\"subscribe\":{\"channel\":\"room:a\"}}").await;
    let (joined, client) = next_notice(&mut watcher).await;
    assert!(joined && client != own);
    // A pause longer than the interval between notifications.
    tokio::time::sleep(std::time::Duration::from_millis(1_000)).await;
    for id in [3, 5] {
        let unsubscribe = json!({"id": id, "unsubscribe": {"channel": "room:a"}});
        let subscribe = json!({"id": id + 1, "subscribe": {"channel": "room:a"}});
        member.send(&format!("{unsubscribe}\n{subscribe}")).await;
        while member.next().await["id"] != id + 1 {}
    }
    let mut plain = server.client().await;
    for id in 1..4 {
        plain.send(json!({"op": "subscribe", "id": id, "args": ["room:a"]})).await;
        while plain.next().await["id"] != id {}
    }
    let (joined, other) = next_notice(&mut watcher).await;
    assert!(joined && other != client, "the next join is another client's");
    drop((member, plain));
    let mut gone = [next_notice(&mut watcher).await, next_notice(&mut watcher).await];
    gone.sort();
    let mut both = [(false, client), (false, other)];
    both.sort();
    assert_eq!(gone, both);
}
