//! Keys with limited rights: topics, scopes, and what their errors show.

use serde_json::{Value, json};

use crate::support::{BY_STATUS, Server};

const FULL: &str = "full-key-0123456789";
const FEED: &str = "feed-key-0123456789";
const SUPPORT: &str = "support-key-0123456789";
const FILED: &str = "filed-key-0123456789";
const ENV: &str = "env-key-0123456789";

fn server(folder: &std::path::Path) -> Server {
    std::fs::write(folder.join("filed"), format!("{FILED}\n")).unwrap();
    let config = format!(
        "[access]\nanonymous = true\n[publish]\nkeys = [\"{FULL}\"]\n\
         [[publish.key]]\nname = \"feed\"\nsecret = \"{FEED}\"\ntopics = [\"quotes:*\", \"signals:mine\"]\n\
         [[publish.key]]\nname = \"support\"\nsecret = \"{SUPPORT}\"\ntopics = [\"quotes:*\"]\nscopes = [\"operate\"]\n\
         [[publish.key]]\nname = \"filed\"\nsecret_file = \"{}/filed\"\ntopics = [\"*\"]\nscopes = [\"publish\", \"operate\"]\n\
         [[publish.key]]\nname = \"env\"\nsecret_env = \"FEED_OF_TEST\"\ntopics = [\"quotes:A\"]\n\
         [namespace.quotes]\npresence = true\n[namespace.signals]\npresence = true\n",
        folder.display()
    );
    Server::start_in(&config, 0, &[("FEED_OF_TEST", ENV)])
}

fn call(server: &Server, key: &str, command: &str, body: Value) -> (u16, Value) {
    let headers = [("Content-Type", "application/json"), ("X-API-Key", key), BY_STATUS];
    let (status, _, text) = server.http("POST", &format!("/api/{command}"), &headers, &body.to_string());
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

#[test]
fn a_key_publishes_to_its_topics_alone() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    for (key, topic, expected) in [
        (FULL, "anything:at all".replace(' ', "-").as_str(), 200),
        (FEED, "quotes:A", 200),
        (FEED, "signals:mine", 200),
        (FEED, "signals:mine2", 403),
        (FEED, "signals:other", 403),
        (FEED, "quote", 403),
        (FEED, "ops:nodes", 403),
        (FILED, "signals:other", 200),
        (ENV, "quotes:A", 200),
        (ENV, "quotes:AB", 403),
        (SUPPORT, "quotes:A", 403),
        ("feed-key-012345678", "quotes:A", 401),
        ("feed-key-01234567890", "quotes:A", 401),
        ("feed", "quotes:A", 401),
        ("", "quotes:A", 401),
    ] {
        let (status, reply) = call(&server, key, "publish", json!({"channel": topic, "data": {"x": 1}}));
        assert_eq!(status, expected, "{key} {topic}: {reply}");
        let text = reply.to_string();
        assert!(key.is_empty() || key == "feed" || !text.contains(key), "{text}");
        if expected == 403 && key == FEED {
            assert!(text.contains("`feed`") && text.contains(topic), "the key and the topic: {text}");
        }
    }
    assert_eq!(server.metric("publish_refused_total{reason=\"topic\"}"), 5.0);
    assert_eq!(server.metric("publish_refused_total{reason=\"scope\"}"), 1.0);
    assert_eq!(server.metric("publish_refused_total{reason=\"key\"}"), 4.0);
    assert_eq!(server.metric("api_key_requests_total{key=\"feed\"}"), 6.0);
    assert_eq!(server.metric("api_key_requests_total{key=\"publish.keys[0]\"}"), 1.0);
}

#[test]
fn each_topic_of_a_broadcast_and_each_command_of_a_batch_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    let topics = json!({"channels": ["quotes:A", "signals:other", "quotes:B"], "data": {"x": 1}});
    let (status, reply) = call(&server, FEED, "broadcast", topics.clone());
    let responses = &reply["result"]["responses"];
    assert_eq!((status, &responses[1]["error"]["code"]), (200, &json!(403)), "{reply}");
    assert!(responses[0]["result"]["offset"].is_u64() && responses[2]["result"]["offset"].is_u64(), "{reply}");
    assert_eq!(call(&server, SUPPORT, "broadcast", topics.clone()).0, 403);
    let commands = json!({"commands": [
        {"publish": {"channel": "quotes:A", "data": 1}}, {"publish": {"channel": "signals:other", "data": 1}},
        {"broadcast": topics}, {"history": {"channel": "quotes:A"}}, {"disconnect": {"user": "ann"}}, {"info": {}},
    ]});
    let (status, reply) = call(&server, FEED, "batch", commands.clone());
    let replies = &reply["replies"];
    assert_eq!(status, 200);
    assert!(replies[0]["publish"]["offset"].is_u64(), "{reply}");
    assert_eq!(replies[1]["error"]["code"], 403);
    assert_eq!(replies[2]["broadcast"]["responses"][1]["error"]["code"], 403);
    for order in 3..6 {
        assert_eq!(replies[order]["error"]["code"], 403, "{reply}");
    }
    let (_, reply) = call(&server, SUPPORT, "batch", commands);
    let replies = &reply["replies"];
    for refused in 0..3 {
        assert_eq!(replies[refused]["error"]["code"], 403, "{reply}");
    }
    assert!(replies[3]["history"].is_object() && replies[5]["info"].is_object(), "{reply}");
    assert_eq!(replies[4]["error"]["code"], 403, "its topics do not cover those of a session: {reply}");
    assert_eq!(server.get("/api/topics/signals:other").0, 404, "nothing was published there");
}

#[tokio::test]
async fn operators_commands_need_their_scope_and_what_is_about_a_topic_the_topic() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    let mut client = server.client().await;
    client.subscribe(&["quotes:A", "signals:other"]).await;
    for command in ["history", "presence", "presence_stats", "channels", "disconnect", "unsubscribe", "info"] {
        let body = match command {
            "disconnect" => json!({"user": "nobody"}),
            "unsubscribe" => json!({"user": "nobody", "channel": "quotes:A"}),
            "channels" | "info" => json!({}),
            _ => json!({"channel": "quotes:A"}),
        };
        assert_eq!(call(&server, FEED, command, body.clone()).0, 403, "{command}");
        let (status, reply) = call(&server, SUPPORT, command, body.clone());
        match command {
            "disconnect" => assert!(status == 403 && reply.to_string().contains("topics = [\\\"*\\\"]"), "{reply}"),
            _ => assert_eq!(status, 200, "{command}"),
        }
        assert_eq!(call(&server, FULL, command, body).0, 200, "{command}");
    }
    for (command, body) in [
        ("history", json!({"channel": "signals:other"})),
        ("presence", json!({"channel": "signals:other"})),
        ("presence_stats", json!({"channel": "signals:other"})),
        ("unsubscribe", json!({"user": "nobody", "channel": "signals:other"})),
    ] {
        assert_eq!(call(&server, SUPPORT, command, body).0, 403, "{command}");
    }
    let channels = |key| call(&server, key, "channels", json!({})).1["result"]["channels"].as_object().unwrap().len();
    assert_eq!((channels(SUPPORT), channels(FULL)), (1, 2), "it sees only its own topics");
    // The log names the key that was used, but never shows it.
    server.until("it is logged", |s| s.log().contains("disconnect key=publish.keys[0] user=\"nobody\"")).await;
    let everything = format!("{}\n{}\n{}", server.log(), server.get("/metrics").1, server.get("/status").1);
    for key in [FULL, FEED, SUPPORT, FILED, ENV] {
        assert!(!everything.contains(key), "{key} is shown");
    }
}

#[test]
fn keys_that_cannot_be_had_are_named_at_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("short"), "short\n").unwrap();
    let path = folder.path().join("nexus.toml");
    let short = format!("secret_file = \"{}/short\"", folder.path().display());
    for (secret, fault) in [
        ("secret_env = \"NOT_SET_ANYWHERE\"", "NOT_SET_ANYWHERE"),
        ("secret_file = \"/nonexistent/key\"", "/nonexistent/key"),
        (short.as_str(), "the key has 5 bytes, the least is 16"),
        ("secret = \"full-key-0123456789\"", "is the same key as publish.keys[0]"),
    ] {
        let keys = format!("[[publish.key]]\nname = \"feed\"\n{secret}\ntopics = [\"*\"]\n");
        let config = format!("[server]\nlisten = \"127.0.0.1:0\"\n[publish]\nkeys = [\"{FULL}\"]\n{keys}");
        std::fs::write(&path, config).unwrap();
        let output =
            std::process::Command::new(crate::support::PROGRAM).args(["serve", "--config"]).arg(&path).output();
        let output = output.unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains("feed") && error.contains(fault), "{error}");
        assert!(!error.contains(FULL), "{error}");
    }
}
