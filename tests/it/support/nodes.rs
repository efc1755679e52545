//! Nodes that exchange messages.

use crate::support::sdk::{Driver, Sdk};
use crate::support::tokens::{claims, hs256};
use crate::support::{BY_STATUS, Server};
use serde_json::{Value, json};

pub(crate) const ROOM: &str =
    "[namespace.room]\npresence = true\njoin_leave = true\nforce_push_join_leave = true\nhistory_size = 3\n";

pub(crate) fn keyed(more: &str) -> String {
    crate::support::tokens::config(more).replace("open = true", "keys = [\"publish-key-0123456789\"]")
}

/// A call with the key. Returns its result, or the whole answer.
pub(crate) fn call(server: &Server, command: &str, body: Value) -> Value {
    let headers = [("Content-Type", "application/json"), ("X-API-Key", "publish-key-0123456789"), BY_STATUS];
    let (status, _, text) = server.http("POST", &format!("/api/{command}"), &headers, &body.to_string());
    let mut answer: Value = serde_json::from_str(&text).unwrap();
    match answer.get_mut("result") {
        Some(result) => result.take(),
        None => json!({"status": status, "error": answer["error"]["code"]}),
    }
}

pub(crate) async fn join(server: &Server, user: &str, topic: &str) -> (Driver, String) {
    let token = hs256(&claims(user, 60, json!({"topics": ["*"], "info": {"name": user}})));
    let mut client = Driver::connect(Sdk::JavaScript, server, json!({"token": token})).await;
    let id = client.until("connected").await["client"].as_str().unwrap().to_owned();
    client.subscribe(topic, json!({})).await;
    (client, id)
}

/// Checks the exchange between two nodes with this source. Returns their logs.
pub(crate) async fn nodes_know_of_each_other(source: &str) -> String {
    let config = keyed(&format!("{ROOM}\n{source}"));
    let (one, mut two) = (Server::start(&config), Server::start(&config));
    for server in [&one, &two] {
        server.until("ready", |s| s.get("/readyz").0 == 200).await;
        server.until("both known", |s| call(s, "info", json!({}))["nodes"].as_array().unwrap().len() == 2).await;
    }
    let (mut ann, ann_id) = join(&one, "ann", "room:1").await;
    ann.until("join").await;
    let (mut bob, bob_id) = join(&two, "bob", "room:1").await;
    assert_eq!(ann.until("join").await["info"]["user"], "bob", "of the other node");
    bob.until("join").await;
    for server in [&one, &two] {
        server
            .until("presence", |s| {
                let presence = call(s, "presence", json!({"channel": "room:1"}))["presence"].clone();
                presence[&ann_id]["user"] == "ann" && presence[&bob_id]["conn_info"]["name"] == "bob"
            })
            .await;
        assert_eq!(call(server, "channels", json!({}))["channels"]["room:1"], json!({"num_clients": 2}));
    }
    // An order to one node is carried out by the other.
    call(&one, "disconnect", json!({"user": "bob", "disconnect": {"code": 4100, "reason": "x"}}));
    assert_eq!(bob.until("connecting").await["code"], 4100);
    assert_eq!(ann.until("leave").await["info"]["client"], bob_id.as_str());
    bob.until("subscribed").await;
    assert_eq!(ann.until("join").await["info"]["user"], "bob");
    // The health of both is a topic on each.
    let mut operator = Driver::connect(
        Sdk::JavaScript,
        &one,
        json!({"token": hs256(&claims("op", 60, json!({"topics": ["ops:*"]})))}),
    )
    .await;
    operator.until("connected").await;
    operator.subscribe("ops:nodes", json!({})).await;
    // The first report may be from before this node has heard of the other again.
    loop {
        let nodes = operator.publications(1).await.remove(0);
        if nodes.as_object().unwrap().len() == 2 {
            break;
        }
    }
    // When it stops, the others are notified.
    two.signal("TERM");
    two.wait();
    one.until("gone", |s| call(s, "info", json!({}))["nodes"].as_array().unwrap().len() == 1).await;
    assert_eq!(ann.until("leave").await["info"]["user"], "bob");
    let patch = loop {
        let patch = operator.publications(1).await.remove(0);
        if patch.as_object().unwrap().values().any(Value::is_null) {
            break patch;
        }
    };
    assert_eq!(patch.as_object().unwrap().values().filter(|v| v.is_null()).count(), 1);
    format!("{}{}", one.log(), two.log())
}
