//! The server's own topics: only the server writes them, and only clients with an explicit right read them.

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};

use crate::support::centrifuge_client::Centrifuge;
use crate::support::tokens::{claims, config, hs256};
use crate::support::{Client, Redis, Server};

/// Everything that a namespace can allow by mistake, for names like the server's own.
const OPENED: &str = "[ops]\ninterval = \"100ms\"\n[default]\nallow_subscribe_for_client = true\n\
                      allow_subscribe_for_anonymous = true\nallow_publish_for_client = true\n\
                      allow_publish_for_anonymous = true\nallow_history_for_client = true\n\
                      allow_presence_for_client = true\npresence = true\n";

fn token(topics: &[&str]) -> String {
    hs256(&claims("mallory", 600, json!({"topics": topics})))
}

/// A request with an unusual path, sent unchanged.
fn raw(server: &Server, path: &str, bearer: &str) -> String {
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {bearer}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The answer must not contain anything from the nodes' reports.
fn says_nothing(what: &str, answer: &str) {
    for secret in ["secret-node", "rss_bytes", "uptime"] {
        assert!(!answer.contains(secret), "{what}: {answer}");
    }
}

async fn running(more: &str) -> Server {
    let server = Server::start(&config(&format!("{more}{OPENED}[server]\nname = \"secret-node\"\n")));
    let bearer = format!("Bearer {}", token(&["ops:*"]));
    let there = |s: &Server| s.http("GET", "/api/topics/ops:nodes", &[("Authorization", &bearer)], "").2;
    server.until("it reports", |s| there(s).contains("secret-node")).await;
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    server
}

#[tokio::test]
async fn clients_without_an_explicit_right_cannot_read_them() {
    let server = running("").await;
    let all = [token(&["*"]), token(&["o*", "op*", "ops*", "$*", "$ops:*", "ops", ":*"]), token(&[])];
    for token in &all {
        let bearer = format!("Bearer {token}");
        let mut plain = Client::connect_with(server.address, &[("authorization", &bearer)]).await.unwrap();
        for op in ["subscribe", "snapshot"] {
            plain.send(json!({"op": op, "id": 1, "args": ["ops:nodes"]})).await;
            assert_eq!(plain.next().await["error"]["code"], 403, "{op}");
        }
        // With a position, with a rate, among other topics.
        let since = json!({"ops:nodes": {"offset": 0, "epoch": ""}});
        plain.send(json!({"op": "subscribe", "id": 2, "args": ["ops:nodes"], "since": since, "max_rate": 1})).await;
        assert_eq!(plain.next().await["error"]["code"], 403);
        let mut session = Centrifuge::open(&server).await;
        let subs = json!({"ops:nodes": {"recover": true, "offset": 1, "epoch": ""}});
        let reply = session.ask(json!({"id": 1, "connect": {"token": token, "subs": subs}})).await;
        assert_eq!(reply["connect"]["subs"], Value::Null, "{reply}");
        for (n, command) in [
            json!({"subscribe": {"channel": "ops:nodes"}}),
            json!({"subscribe": {"channel": "ops:nodes", "recover": true, "offset": 0, "epoch": "", "delta": "fossil"}}),
            json!({"history": {"channel": "ops:nodes", "limit": 10}}),
            json!({"presence": {"channel": "ops:nodes"}}),
            json!({"presence_stats": {"channel": "ops:nodes"}}),
            json!({"publish": {"channel": "ops:nodes", "data": {}}}),
            json!({"sub_refresh": {"channel": "ops:nodes", "token": token}}),
        ]
        .into_iter()
        .enumerate()
        {
            let mut command = command;
            command["id"] = json!(n + 2);
            let reply = session.ask(command.clone()).await;
            assert!([103, 107, 108].contains(&reply["error"]["code"].as_u64().unwrap_or(0)), "{command}: {reply}");
            says_nothing(&command.to_string(), &reply.to_string());
        }
        // A token for another topic, or of another user, or that is not a subscription token.
        for wrong in [
            hs256(&claims("mallory", 600, json!({"channel": "ops:node"}))),
            hs256(&claims("mallory", 600, json!({"channel": "Ops:nodes"}))),
            hs256(&claims("operator", 600, json!({"channel": "ops:nodes"}))),
            hs256(&claims("mallory", 600, json!({"channel": "ops:*"}))),
            hs256(&claims("mallory", 600, json!({"topics": ["ops:*"]}))),
        ] {
            let reply = session.ask(json!({"id": 40, "subscribe": {"channel": "ops:nodes", "token": wrong}})).await;
            assert_eq!(reply["error"]["code"], 103, "{reply}");
        }
        for path in [
            "/api/topics/ops:nodes",
            "/api/topics/ops%3Anodes",
            "/api/topics/%6f%70%73:nodes",
            "/api/topics/ops%253Anodes",
            "/api/topics//ops:nodes",
            "/api/topics/./ops:nodes",
            "/api/topics/x/../ops:nodes",
            "/api/topics/x%2f..%2fops:nodes",
            "/api/topics/ops:nodes/",
            "/api/topics/ops:nodes?",
            "/api/topics/ops:nodes%00",
            "/api/topics/OPS:nodes",
            "/api/topics?prefix=ops",
            "/api/topics?prefix=ops%3A",
            "/api/topics?after=op",
            "/api/topics",
            "//api/topics/ops:nodes",
        ] {
            let answer = raw(&server, path, &bearer);
            says_nothing(path, &answer);
            assert!(!answer.contains("\"ops:nodes\""), "{path}: {answer}");
        }
    }
    // Similar names are other topics: they are empty, whoever may read them.
    for alike in [
        "Ops:nodes",
        "ops：nodes",
        "οps:nodes",
        "оps:nodes",
        "ops:nodes.",
        "ops:Nodes",
        "ops꞉nodes",
        "$ops:nodes",
        "ops:nodes#1",
    ] {
        let bearer = format!("Bearer {}", token(&[alike]));
        let mut plain = Client::connect_with(server.address, &[("authorization", &bearer)]).await.unwrap();
        assert_eq!(plain.subscribe(&[alike]).await["ok"], true, "{alike}");
        server.until("a report more", |s| s.metric("ticks_total") > 0.0).await;
        plain.nothing_more().await;
    }
    // A client with the right gets it, however that right is expressed.
    for let_in in [&["ops:*"][..], &["ops:nodes"], &["*", "ops:n*"]] {
        let bearer = format!("Bearer {}", token(let_in));
        let mut plain = Client::connect_with(server.address, &[("authorization", &bearer)]).await.unwrap();
        assert_eq!(plain.subscribe(&["ops:nodes"]).await["ok"], true, "{let_in:?}");
        assert!(plain.next().await.to_string().contains("secret-node"));
    }
    let own = hs256(&claims("mallory", 600, json!({"channel": "ops:nodes"})));
    let mut session = Centrifuge::connect(&server, &token(&[])).await;
    assert!(
        session.ask(json!({"id": 2, "subscribe": {"channel": "ops:nodes", "token": own}})).await["subscribe"]
            .is_object()
    );
    let named = hs256(&claims("mallory", 600, json!({"channels": ["ops:nodes"]})));
    let mut session = Centrifuge::open(&server).await;
    let reply = session.ask(json!({"id": 1, "connect": {"token": named}})).await;
    assert!(reply["connect"]["subs"]["ops:nodes"].is_object(), "{reply}");
}

/// Neither with a key, nor over a socket, nor by entries in Redis.
#[tokio::test]
async fn no_publisher_writes_them() {
    let redis = Redis::start();
    for source in [String::new(), redis.source_config()] {
        let server = running(&format!("{source}[namespace.ops]\nallow_publish_for_client = true\n")).await;
        let forged = json!({"nodes": {"secret-node": {"sessions": 4711}}});
        for topic in ["ops:nodes", "ops:x", "$ops:nodes"] {
            for (path, body) in [
                ("/api/publish", json!({"channel": topic, "data": forged})),
                ("/api/publish", json!({"channel": topic, "b64data": "e30="})),
                ("/api/broadcast", json!({"channels": ["a", topic], "data": forged})),
                ("/api/batch", json!({"commands": [{"publish": {"channel": topic, "data": forged}}]})),
                ("/api", json!({"method": "publish", "params": {"channel": topic, "data": forged}})),
                ("/api/history_remove", json!({"channel": topic})),
            ] {
                let (_, reply) = server.post(path, &body);
                let reply_text = reply.to_string();
                // A server without a stream cannot ask nodes to remove history, and says that it removed none.
                let refused = reply_text.contains("the server's own") || path == "/api/history_remove";
                assert!(refused, "{path} {body}: {reply_text}");
            }
            let mut session = Centrifuge::connect(&server, &token(&["*", "ops:*", "$ops:*"])).await;
            let reply = session.ask(json!({"id": 2, "publish": {"channel": topic, "data": forged}})).await;
            assert!(reply["error"].is_object(), "{topic}: {reply}");
        }
        if !source.is_empty() {
            for topic in ["ops:nodes", "$ops:nodes"] {
                redis.add(topic, &forged);
            }
            redis.add("last", &json!(1));
            let bearer = format!("Bearer {}", token(&["last"]));
            let last = |s: &Server| s.http("GET", "/api/topics/last", &[("Authorization", &bearer)], "").0;
            server.until("all were read", |s| last(s) == 200).await;
            assert!(server.metric("deltas_refused_total{reason=\"reserved\"}") >= 2.0);
        }
        let bearer = format!("Bearer {}", token(&["ops:*"]));
        let (_, _, now) = server.http("GET", "/api/topics/ops:nodes", &[("Authorization", &bearer)], "");
        assert!(!now.contains("4711") && now.contains("secret-node"), "{now}");
    }
}

/// Anonymous clients get the server's own topics only if the configuration names them.
#[tokio::test]
async fn anonymous_clients_have_them_only_where_configured() {
    for (open, code) in [(false, 401), (true, 0)] {
        let more = format!("[namespace.ops]\nallow_subscribe_for_anonymous = {open}\n");
        let config = config(&format!("{more}{OPENED}")).replace("[access]", "[access]\nanonymous = true");
        let server = Server::start(&config);
        let mut plain = server.client().await;
        let reply = plain.subscribe(&["ops:nodes"]).await;
        assert_eq!(reply["error"]["code"].as_u64().unwrap_or(0), code, "{reply}");
    }
}
