//! The operators' and backends' API, in Centrifugo's request form, on one node and on two.

use crate::support::nodes::{ROOM, call, join, keyed, nodes_know_of_each_other};
use serde_json::{Value, json};

use crate::support::sdk::{Driver, Sdk};
use crate::support::{BY_STATUS, Redis, Server};

#[tokio::test]
async fn every_command_wants_the_key() {
    let server = Server::start(&keyed(ROOM));
    for command in ["history", "presence", "presence_stats", "channels", "disconnect", "unsubscribe", "info", "batch"] {
        let (status, _) = server.post(&format!("/api/{command}"), &json!({}));
        assert_eq!(status, 401, "{command}");
    }
}

#[tokio::test]
async fn history_presence_channels_and_info() {
    let server = Server::start(&keyed(ROOM));
    let (_ann, ann) = join(&server, "ann", "room:1").await;
    let (_bob, _) = join(&server, "bob", "room:1").await;
    let (_bob_too, _) = join(&server, "bob", "room:2").await;
    for n in 1..=4 {
        call(&server, "publish", json!({"channel": "room:1", "data": {"n": n, "price": 61_800.20}}));
    }
    let history = call(&server, "history", json!({"channel": "room:1", "limit": 2, "reverse": true}));
    assert_eq!(history["publications"][0]["data"], json!({"n": 4, "price": 61_800.20}));
    assert_eq!((&history["offset"], history["publications"].as_array().unwrap().len()), (&json!(4), 2));
    let gone = json!({"channel": "room:1", "limit": 9, "since": {"offset": 0, "epoch": history["epoch"]}});
    assert_eq!(call(&server, "history", gone), json!({"status": 416, "error": 416}));
    let presence = call(&server, "presence", json!({"channel": "room:1"}));
    assert_eq!(presence["presence"][&ann], json!({"client": ann, "user": "ann", "conn_info": {"name": "ann"}}));
    let stats = call(&server, "presence_stats", json!({"channel": "room:1"}));
    assert_eq!(stats, json!({"num_clients": 2, "num_users": 2}));
    assert_eq!(call(&server, "presence", json!({"channel": "other:1"})), json!({"status": 501, "error": 501}));
    let channels = call(&server, "channels", json!({"pattern": "room:*"}));
    assert_eq!(channels["channels"], json!({"room:1": {"num_clients": 2}, "room:2": {"num_clients": 1}}));
    server.until("reported", |s| call(s, "info", json!({}))["nodes"][0]["num_clients"] == 3).await;
    let replies = call(
        &server,
        "batch",
        json!({"commands": [
            {"publish": {"channel": "room:2", "data": 1}}, {"presence_stats": {"channel": "room:2"}},
            {"history": {"channel": "room:2"}}, {"channels": {}}, {"info": {}}, {"presence": {"channel": "none"}},
            {"unsubscribe": {"user": "nobody", "channel": "room:1"}}, {"disconnect": {"user": "nobody"}},
        ]}),
    );
    assert_eq!(replies, json!({"status": 200, "error": null}), "a batch has `replies`, no `result`");
    let headers = [("Content-Type", "application/json"), ("X-API-Key", "publish-key-0123456789"), BY_STATUS];
    let body = json!({"commands": [{"presence_stats": {"channel": "room:2"}}, {"presence": {"channel": "none"}}]});
    let (_, _, text) = server.http("POST", "/api/batch", &headers, &body.to_string());
    let replies: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(replies["replies"][0], json!({"presence_stats": {"num_clients": 1, "num_users": 1}}));
    assert_eq!(replies["replies"][1]["error"]["code"], 501);
}

#[tokio::test]
async fn disconnect_and_unsubscribe_do_as_the_sdks_understand() {
    let server = Server::start(&keyed(ROOM));
    let (mut ann, _) = join(&server, "ann", "room:1").await;
    let (mut bob, bob_id) = join(&server, "bob", "room:1").await;
    call(&server, "unsubscribe", json!({"user": "ann", "channel": "room:1"}));
    assert_eq!(ann.until("unsubscribed").await["code"], 2000);
    assert_eq!(bob.until("leave").await["info"]["user"], "ann");
    // For codes below 3500 clients reconnect and subscribe again.
    call(&server, "disconnect", json!({"user": "bob", "disconnect": {"code": 4000, "reason": "moved"}}));
    let event = bob.until("connecting").await;
    assert_eq!((&event["code"], &event["reason"]), (&json!(4000), &json!("moved")));
    let again = bob.until("connected").await["client"].as_str().unwrap().to_owned();
    assert_ne!(again, bob_id);
    bob.until("subscribed").await;
    // Neither a session on the allow-list nor another user's.
    call(&server, "disconnect", json!({"user": "bob", "whitelist": [again]}));
    call(&server, "disconnect", json!({"user": "bob", "client": "another"}));
    call(&server, "publish", json!({"channel": "room:1", "data": 1}));
    assert_eq!(bob.publications(1).await, [1]);
    // A code that says not to reconnect.
    call(&server, "disconnect", json!({"user": "bob"}));
    assert_eq!(bob.until("disconnected").await["code"], 3503);
    assert_eq!(
        call(&server, "disconnect", json!({"user": "x", "disconnect": {"code": 1000}})),
        json!({"status": 400, "error": 400})
    );
}

#[tokio::test]
async fn two_nodes_know_of_each_others_sessions() {
    let redis = Redis::start();
    nodes_know_of_each_other(&redis.source_config()).await;
}

#[tokio::test]
async fn the_servers_own_topic_is_not_public() {
    let server = Server::open();
    let mut client = Driver::connect(Sdk::JavaScript, &server, json!({})).await;
    client.until("connected").await;
    client.tell(json!({"do": "subscribe", "topic": "ops:nodes"})).await;
    assert_eq!(client.until("unsubscribed").await["code"], 103);
    assert_eq!(server.get("/api/topics/ops:nodes").0, 401);
    let (status, reply) = server.post("/api/publish", &json!({"channel": "ops:nodes", "data": {}}));
    assert_eq!(status, 400, "{reply}");
}
