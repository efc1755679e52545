//! Names that restrict their users, namespaces that are not configured, and features that are off: in both dialects,
//! over REST, for publishers and from Redis.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::tokens::{SECRET, claims, config, hs256};
use crate::support::{Client, PATIENCE, Redis, Server};

/// Everything that a namespace can allow to clients is allowed.
const OPENED: &str = "[default]\nallow_subscribe_for_client = true\nallow_subscribe_for_anonymous = true\n\
                      allow_history_for_client = true\nallow_history_for_anonymous = true\n\
                      allow_presence_for_client = true\nallow_presence_for_anonymous = true\npresence = true\n\
                      allow_publish_for_client = true\nallow_publish_for_anonymous = true\n";

fn token(user: &str, topics: &[&str]) -> String {
    hs256(&claims(user, 600, json!({"topics": topics})))
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// A Centrifuge session: with a token, or anonymous.
async fn centrifuge(server: &Server, token: Option<&str>) -> Socket {
    let url = format!("ws://{}/connection/websocket", server.address);
    let mut socket = tokio_tungstenite::connect_async(url).await.unwrap().0;
    let reply = ask(&mut socket, json!({"id": 1, "connect": {"token": token}})).await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    socket
}

async fn ask(socket: &mut Socket, command: Value) -> Value {
    socket.send(Message::text(command.to_string())).await.unwrap();
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        let line = message.to_text().unwrap().lines().next().unwrap_or_default().to_owned();
        let reply: Value = serde_json::from_str(&line).unwrap();
        if reply["id"] == command["id"] {
            return reply;
        }
    }
}

/// The error code for each way to access a topic; 0 if it succeeded.
async fn reached(server: &Server, token: Option<&str>, topic: &str) -> Vec<(&'static str, u64)> {
    let mut codes = Vec::new();
    let mut socket = centrifuge(server, token).await;
    for (what, command) in [
        ("history", json!({"id": 2, "history": {"channel": topic, "limit": 10}})),
        ("presence", json!({"id": 3, "presence": {"channel": topic}})),
        ("presence_stats", json!({"id": 4, "presence_stats": {"channel": topic}})),
        ("publish", json!({"id": 5, "publish": {"channel": topic, "data": 1}})),
        ("subscribe", json!({"id": 6, "subscribe": {"channel": topic}})),
    ] {
        codes.push((what, ask(&mut socket, command).await["error"]["code"].as_u64().unwrap_or(0)));
    }
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&'static str, &str)> = bearer.iter().map(|b| ("authorization", b.as_str())).collect();
    let mut plain = Client::connect_with(server.address, &headers).await.unwrap();
    for op in ["subscribe", "snapshot"] {
        plain.send(json!({"op": op, "id": 1, "args": [topic]})).await;
        let reply = plain.next().await;
        codes.push((op, reply["error"]["code"].as_u64().unwrap_or(0)));
        if op == "subscribe" && reply["ok"] == true {
            // Its state, or no delta.
            plain.send(json!({"op": "unsubscribe", "id": 2, "args": [topic]})).await;
            while plain.next().await["op"] != "unsubscribe" {}
        }
    }
    let path: String = topic.bytes().map(|b| format!("%{b:02x}")).collect();
    let status = server.http("GET", &format!("/api/topics/{path}"), &headers, "").0;
    codes.push(("rest", if status == 200 { 0 } else { status.into() }));
    codes
}

fn all(codes: &[(&'static str, u64)], of: &[u64]) -> bool {
    codes.iter().all(|(_, code)| of.contains(code))
}

#[tokio::test]
async fn restricted_names_are_not_opened_by_a_namespaces_options() {
    for anonymous in [false, true] {
        let access = format!("[access]\nanonymous = {anonymous}");
        let server = Server::start(&config(OPENED).replace("[access]", &access));
        for topic in ["#42", "dialog#1,2", "$private:x", "$x", "$dialog#1", "a:b#42"] {
            server.publish(topic, &json!("secret"));
            for (user, topics) in [("7", &[][..]), ("7", &["*"]), ("4", &["a:*", "dialog*"]), ("", &["*"])] {
                let codes = reached(&server, Some(&token(user, topics)), topic).await;
                assert!(all(&codes, &[103, 403]), "{user} {topics:?} {topic}: {codes:?}");
            }
            if anonymous {
                let codes = reached(&server, None, topic).await;
                assert!(all(&codes, &[103, 401]), "anonymous {topic}: {codes:?}");
            }
            // A token that names the topic gives access; so does a subscription token.
            let codes = reached(&server, Some(&token("7", &[topic])), topic).await;
            assert!(all(&codes, &[0]), "{topic}: {codes:?}");
            let own = hs256(&claims("7", 600, json!({"channel": topic})));
            let mut socket = centrifuge(&server, Some(&token("7", &[]))).await;
            let reply = ask(&mut socket, json!({"id": 2, "subscribe": {"channel": topic, "token": own}})).await;
            assert!(reply["subscribe"].is_object(), "{topic}: {reply}");
        }
        // Topics that are open to all by name still are.
        server.publish("news:a", &json!(1));
        assert!(all(&reached(&server, Some(&token("7", &[])), "news:a").await, &[0]));
    }
}

#[tokio::test]
async fn listed_users_have_user_limited_names_where_configured() {
    let server = Server::start(&config(&format!("{OPENED}allow_user_limited_channels = true\n")));
    server.publish("dialog#1,22", &json!(1));
    for user in ["1", "22"] {
        assert!(all(&reached(&server, Some(&token(user, &[])), "dialog#1,22").await, &[0]), "{user}");
    }
    for user in ["2", "1,22", "", "11", "#1,22"] {
        let codes = reached(&server, Some(&token(user, &["*"])), "dialog#1,22").await;
        assert!(all(&codes, &[103, 403]), "{user}: {codes:?}");
    }
    // An empty list allows no user, not even one without a name.
    server.publish("dialog#", &json!(1));
    assert!(all(&reached(&server, Some(&token("", &["*"])), "dialog#").await, &[103, 403]));
}

#[tokio::test]
async fn where_names_mean_nothing_they_are_as_others() {
    let plain = config(OPENED).replace("[access]", "[access]\nchannel_syntax = \"plain\"");
    let server = Server::start(&plain);
    for topic in ["#42", "$private:x"] {
        server.publish(topic, &json!(1));
        assert!(all(&reached(&server, Some(&token("7", &[])), topic).await, &[0]), "{topic}");
    }
}

const STRICT: &str = "[namespace.known]\npresence = true\nallow_history_for_client = true\n";

#[tokio::test]
async fn an_unknown_namespace_is_refused_at_every_door() {
    let strict = config(&format!("{OPENED}{STRICT}"))
        .replace("[access]", "[access]\nanonymous = true\nunknown_namespace = \"refuse\"");
    let server = Server::start(&strict);
    for topic in ["unknown:x", ":x", "$unknown:x", "Known:x"] {
        for token in [Some(token("7", &["*", "$*"])), None] {
            let codes = reached(&server, token.as_deref(), topic).await;
            // Over REST, a client without a token learns no more than for a closed namespace.
            let (rest, others): (Vec<_>, Vec<_>) = codes.iter().copied().partition(|(what, _)| *what == "rest");
            assert!(all(&others, &[102, 404]), "{topic}: {codes:?}");
            assert!(all(&rest, &[if token.is_some() { 404 } else { 401 }]), "{topic}: {codes:?}");
        }
        let mut socket = centrifuge(&server, Some(&token("7", &[]))).await;
        let own = hs256(&claims("7", 600, json!({"channel": topic})));
        let reply = ask(&mut socket, json!({"id": 2, "subscribe": {"channel": topic, "token": own}})).await;
        assert_eq!(reply["error"]["code"], 102, "{topic}: {reply}");
        let (_, reply) = server.post("/api/publish", &json!({"channel": topic, "data": 1}));
        assert!(reply["error"]["message"].as_str().unwrap().contains("unknown"), "{reply}");
        for command in ["history", "presence", "presence_stats"] {
            let (_, reply) = server.post(&format!("/api/{command}"), &json!({"channel": topic}));
            assert!(reply["error"]["message"].as_str().unwrap().contains("unknown"), "{command}: {reply}");
        }
    }
    assert_eq!(server.metric("topics"), 0.0);
    // Configured namespaces, and names without a namespace.
    for topic in ["known:x", "no-namespace"] {
        server.publish(topic, &json!(1));
        let mut socket = centrifuge(&server, Some(&token("7", &["*"]))).await;
        let reply = ask(&mut socket, json!({"id": 2, "subscribe": {"channel": topic}})).await;
        assert!(reply["subscribe"].is_object(), "{topic}: {reply}");
    }
    // A client without a token learns nothing of namespaces.
    let closed = Server::start(&config(STRICT).replace("[access]", "[access]\nunknown_namespace = \"refuse\""));
    for topic in ["unknown:x", "known:x"] {
        let mut client = closed.client().await;
        client.send(json!({"op": "subscribe", "id": 1, "args": [topic]})).await;
        assert_eq!(client.next().await["error"]["code"], 401, "{topic}");
        assert_eq!(closed.get(&format!("/api/topics/{topic}")).0, 401, "{topic}");
    }
}

#[tokio::test]
async fn entries_of_an_unknown_namespace_are_left_out_and_counted() {
    let redis = Redis::start();
    redis.add("unknown:x", &json!(1));
    redis.add("known:x", &json!(1));
    let server = Server::start(&format!(
        "{}\n{}",
        crate::support::OPEN.replace("[access]", "[access]\nunknown_namespace = \"refuse\"\n"),
        redis.source_config() + STRICT
    ));
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    redis.add("unknown:y", &json!(2));
    redis.add("known:x", &json!(2));
    server.until("read", |s| s.get("/api/topics/known:x").1.contains("\"data\":2")).await;
    assert_eq!(server.metric("deltas_refused_total{reason=\"unknown_namespace\"}"), 2.0);
    assert_eq!(server.get("/api/topics/unknown:x").0, 404);
    // The publish API does not add them.
    assert_eq!(server.post("/api/publish", &json!({"channel": "unknown:z", "data": 1})).0, 404);
    assert_eq!(redis.command(&["XLEN", "nexus:deltas"]), ":4");
}

#[tokio::test]
async fn features_that_are_off_are_not_available_to_anyone() {
    // Allowed, but off: configurable. The first is allowed to no client.
    let server = Server::start(&config(
        "[namespace.off]\nhistory_size = 0\nallow_history_for_subscriber = false\n[namespace.allowed]\n\
         allow_presence_for_client = true\nallow_presence_for_subscriber = true\nhistory_size = 0\n\
         allow_history_for_client = true\n[namespace.on]\npresence = true\nallow_history_for_subscriber = false\n",
    ));
    let mut socket = centrifuge(&server, Some(&token("7", &["*"]))).await;
    for (topic, code) in [("off:x", 108), ("allowed:x", 108), ("on:x", 103)] {
        for command in ["presence", "presence_stats", "history"] {
            let reply = ask(&mut socket, json!({"id": 2, command: {"channel": topic}})).await;
            assert_eq!(reply["error"]["code"], code, "{command} {topic}: {reply}");
        }
    }
}

#[tokio::test]
async fn info_is_of_this_node_where_nodes_do_not_report() {
    for interval in ["0s", "100ms"] {
        let server = Server::start(&format!(
            "[publish]\nopen = true\n[server]\nname = \"alone\"\n[ops]\ninterval = \"{interval}\"\n[access]\nanonymous = true\n\
             [[access.keys]]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"\n"
        ));
        let mut client = server.client().await;
        client.subscribe(&["a", "b"]).await;
        let node = |s: &Server| {
            let (status, reply) = s.post("/api/info", &json!({}));
            assert_eq!(status, 200, "{reply}");
            let nodes = reply["result"]["nodes"].as_array().unwrap().clone();
            assert!(nodes.len() <= 1, "{reply}");
            nodes.into_iter().next().unwrap_or_default()
        };
        server.until("it is reported", |s| node(s)["num_subs"] == 2).await;
        let node = node(&server);
        assert_eq!((&node["name"], &node["num_clients"], &node["ready"]), (&json!("alone"), &json!(1), &json!(true)));
        assert!(node["uid"].as_str().is_some_and(|uid| !uid.is_empty()), "{node}");
    }
}
