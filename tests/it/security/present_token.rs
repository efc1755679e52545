//! Rights, identity, presence and limits follow a session's current token, not an earlier one.

use serde_json::{Value, json};

use crate::support::centrifuge_client::Centrifuge;
use crate::support::tokens::{claims, config, hs256};
use crate::support::{Client, Server};

const SEEN: &str = "[namespace.vip]\npresence = true\njoin_leave = true\nforce_push_join_leave = true\n\
                    allow_presence_for_client = true\n[namespace.trades]\npresence = true\n";

fn token(user: &str, topics: &[&str]) -> String {
    hs256(&claims(user, 600, json!({"topics": topics})))
}

async fn auth(client: &mut Client, token: &str) {
    client.send(json!({"op": "auth", "id": "auth", "token": token})).await;
    assert_eq!(client.next().await, json!({"id": "auth", "op": "auth", "ok": true}));
}

/// The users that are visible on a topic.
fn users(server: &Server, topic: &str) -> Vec<String> {
    let (status, reply) = server.post("/api/presence", &json!({"channel": topic}));
    assert_eq!(status, 200, "{reply}");
    let members = reply["result"]["presence"].as_object().unwrap();
    members.values().map(|m| m["user"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn subscriptions_that_the_new_token_does_not_allow_end() {
    let server = Server::start(&config(SEEN));
    let mut client = server.client().await;
    auth(&mut client, &token("alice", &["vip:*", "trades:*"])).await;
    assert_eq!(client.subscribe(&["vip:a", "vip:b", "trades:x"]).await["ok"], true);
    server.until("alice is seen", |s| users(s, "vip:a") == ["alice"] && users(s, "trades:x") == ["alice"]).await;

    auth(&mut client, &token("bob", &["trades:*"])).await;
    let mut ended = Vec::new();
    for _ in 0..2 {
        let notice = client.next().await;
        assert_eq!((&notice["op"], &notice["code"]), (&json!("unsubscribed"), &json!(2403)), "{notice}");
        ended.push(notice["topic"].as_str().unwrap().to_owned());
    }
    ended.sort();
    assert_eq!(ended, ["vip:a", "vip:b"]);
    server.publish("vip:a", &json!("secret"));
    server.publish("trades:x", &json!("open"));
    assert_eq!(client.next().await["data"], "open");
    client.nothing_more().await;
    client.send(json!({"op": "snapshot", "id": 2, "args": ["vip:a"]})).await;
    assert_eq!(client.next().await["error"]["code"], 403);
    // Others see bob where the session still is subscribed, and no one where it is not.
    server.until("bob is seen", |s| users(s, "vip:a").is_empty() && users(s, "trades:x") == ["bob"]).await;

    // It is bob's session: alice's orders do not affect it, bob's do.
    server.post("/api/unsubscribe", &json!({"user": "alice", "channel": "trades:x"}));
    server.post("/api/disconnect", &json!({"user": "alice"}));
    client.nothing_more().await;
    server.post("/api/unsubscribe", &json!({"user": "bob", "channel": "trades:x"}));
    assert_eq!(client.next().await["code"], 2000);
    server.post("/api/disconnect", &json!({"user": "bob"}));
    assert_eq!(client.close_code().await, 3503);
}

#[tokio::test]
async fn a_subscribe_in_the_same_breath_as_the_token_counts_for_the_token_before_or_after_it() {
    let server = Server::start(&config(""));
    let (alice, bob) = (token("alice", &["vip:*"]), token("bob", &["trades:*"]));
    for _ in 0..20 {
        let mut client = server.client().await;
        for command in [
            json!({"op": "auth", "id": 1, "token": alice}),
            json!({"op": "subscribe", "id": 2, "args": ["vip:a"]}),
            json!({"op": "auth", "id": 3, "token": bob}),
            json!({"op": "subscribe", "id": 4, "args": ["vip:a"]}),
            json!({"op": "subscribe", "id": 5, "args": ["trades:x"]}),
        ] {
            client.send(command).await;
        }
        let mut replies = Vec::new();
        while replies.len() < 6 {
            let message = client.next().await;
            replies.push(match message["op"].as_str().unwrap() {
                "unsubscribed" => format!("unsubscribed {}", message["topic"].as_str().unwrap()),
                _ => format!("{} {}", message["id"], message["ok"]),
            });
        }
        assert_eq!(replies, ["1 true", "2 true", "3 true", "unsubscribed vip:a", "4 false", "5 true"]);
        server.publish("vip:a", &json!("secret"));
        client.nothing_more().await;
    }
}

/// A snapshot of a stream waits for events that its subscriber missed. A token that comes meanwhile decides about it.
#[tokio::test]
async fn a_snapshot_that_waited_is_for_the_present_token_to_give() {
    let server = Server::start(&config("[namespace.vip]\nclass = \"stream\"\nhistory_size = 1000\n"));
    let pad = "x".repeat(4_000);
    let first = server.publish("vip:a", &json!({"n": 0, "pad": pad}));
    let (_, state) = server.post("/api/history", &json!({"channel": "vip:a", "limit": 1}));
    let epoch = state["result"]["epoch"].as_str().unwrap().to_owned();
    for n in 1..220 {
        server.publish("vip:a", &json!({"n": n, "pad": pad}));
    }
    let mut client = server.client().await;
    auth(&mut client, &token("alice", &["vip:*"])).await;
    // So slow that its replay is not over when the other token has been checked.
    client.send(json!({"op": "session", "id": 0, "bytes_per_second": 300_000})).await;
    let since = json!({"vip:a": {"offset": first, "epoch": epoch}});
    client.send(json!({"op": "subscribe", "id": 1, "args": ["vip:a"], "since": since})).await;
    client.send(json!({"op": "snapshot", "id": 2, "args": ["vip:a"]})).await;
    client.send(json!({"op": "auth", "id": 3, "token": token("bob", &["trades:*"])})).await;
    let mut answers = Vec::new();
    while answers.len() < 5 {
        let message = client.next().await;
        assert_ne!(message["type"], "snapshot", "after {answers:?}");
        match message["op"].as_str() {
            Some("unsubscribed") => answers.push("unsubscribed".to_owned()),
            Some(op) => answers.push(format!("{op} {} {}", message["id"], message["error"]["code"])),
            None => {}
        }
    }
    answers.sort();
    assert_eq!(answers, ["auth 3 null", "session 0 null", "snapshot 2 403", "subscribe 1 null", "unsubscribed"]);
}

#[tokio::test]
async fn sessions_count_for_the_present_user_alone() {
    let server = Server::start(&config("[limits]\nsessions_per_user = 2\n"));
    let (alice, bob) = (token("alice", &["vip:*"]), token("bob", &["vip:*"]));
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = server.client().await;
        auth(&mut client, &bob).await;
        held.push(client);
    }
    // Neither a change of user nor one there and back at once exceeds bob's limit.
    let mut third = server.client().await;
    auth(&mut third, &alice).await;
    third.subscribe(&["vip:a"]).await;
    third.send(json!({"op": "auth", "id": 1, "token": alice})).await;
    third.send(json!({"op": "auth", "id": 2, "token": bob})).await;
    assert_eq!(third.next().await["id"], 1);
    assert_eq!(third.close_code().await, 4429);
    // A session that changes its user counts for the new one, and not for the old one.
    let mut moved = held.pop().unwrap();
    auth(&mut moved, &alice).await;
    let mut fourth = server.client().await;
    auth(&mut fourth, &bob).await;
    let mut fifth = server.client().await;
    fifth.send(json!({"op": "auth", "id": 1, "token": bob})).await;
    assert_eq!(fifth.close_code().await, 4429);
}

#[tokio::test]
async fn a_failed_token_ends_the_session_and_its_subscriptions() {
    let server = Server::start(&config(SEEN));
    let mut client = server.client().await;
    auth(&mut client, &token("alice", &["vip:*"])).await;
    client.subscribe(&["vip:a"]).await;
    server.until("alice is seen", |s| users(s, "vip:a") == ["alice"]).await;
    client.send(json!({"op": "auth", "id": 1, "token": format!("{}x", token("bob", &["*"]))})).await;
    assert_eq!(client.next().await["error"]["code"], 401);
    assert_eq!(client.close_code().await, 3500);
    server.until("no one is seen", |s| users(s, "vip:a").is_empty()).await;
}

#[tokio::test]
async fn an_anonymous_session_becomes_its_tokens_user() {
    let open = config(SEEN).replace("[access]", "[access]\nanonymous = true");
    let server = Server::start(&open);
    let mut client = server.client().await;
    client.subscribe(&["vip:a"]).await;
    server.until("seen without a name", |s| users(s, "vip:a") == [""]).await;
    auth(&mut client, &token("alice", &[])).await;
    server.until("seen as alice", |s| users(s, "vip:a") == ["alice"]).await;
    // Anonymous clients may have it, so a token that does not name it removes nothing.
    server.publish("vip:a", &json!(1));
    assert_eq!(client.next().await["data"], 1);
}

#[tokio::test]
async fn a_refresh_without_a_topic_ends_it_and_its_history_and_presence() {
    let server = Server::start(&config(SEEN));
    let with = |topics: &[&str], more: Value| {
        let mut all = claims("alice", 600, json!({"topics": topics}));
        all.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        hs256(&all)
    };
    let first = with(&["vip:*", "trades:*"], json!({"channels": ["own:a", "own:b"], "info": {"n": 1}}));
    let mut client = Centrifuge::connect(&server, &first).await;
    // By the connection's token; by its own token; by the server.
    for (id, topic) in [(2, "vip:a"), (3, "trades:x")] {
        let reply = client.ask(json!({"id": id, "subscribe": {"channel": topic}})).await;
        assert!(reply["subscribe"].is_object(), "{reply}");
        if topic == "vip:a" {
            assert_eq!(client.next().await["push"]["join"]["info"]["user"], "alice");
        }
    }
    let own = hs256(&claims("alice", 600, json!({"channel": "granted:g"})));
    let reply = client.ask(json!({"id": 4, "subscribe": {"channel": "granted:g", "token": own}})).await;
    assert!(reply["subscribe"].is_object(), "{reply}");
    assert!(client.ask(json!({"id": 5, "history": {"channel": "vip:a"}})).await["history"].is_object());

    let second = with(&["trades:*"], json!({"channels": ["own:a"], "info": {"n": 2}}));
    let reply = client.ask(json!({"id": 6, "refresh": {"token": second}})).await;
    assert!(reply["refresh"].is_object(), "{reply}");
    let mut ended = Vec::new();
    for _ in 0..2 {
        let push = client.next().await;
        assert_eq!(push["push"]["unsubscribe"]["code"], 2403, "{push}");
        ended.push(push["push"]["channel"].as_str().unwrap().to_owned());
    }
    ended.sort();
    assert_eq!(ended, ["own:b", "vip:a"]);
    assert_eq!(client.ask(json!({"id": 7, "history": {"channel": "vip:a"}})).await["error"]["code"], 103);
    assert_eq!(client.ask(json!({"id": 8, "subscribe": {"channel": "vip:a"}})).await["error"]["code"], 103);
    server.publish("vip:a", &json!("secret"));
    for topic in ["trades:x", "granted:g", "own:a"] {
        server.publish(topic, &json!(topic));
        assert_eq!(client.next().await["push"]["pub"]["data"], topic);
    }
    // Other subscribers see the new token's `info`, too.
    let shown = |s: &Server| {
        let (_, reply) = s.post("/api/presence", &json!({"channel": "trades:x"}));
        let members = reply["result"]["presence"].as_object().unwrap().clone();
        members.values().map(|m| m["conn_info"]["n"].clone()).collect::<Vec<_>>()
    };
    server.until("its new info is seen", |s| shown(s) == [json!(2)]).await;
    server.until("it is not seen where it was", |s| users(s, "vip:a").is_empty()).await;
    // Another user's token is not accepted as a refresh.
    let other = token("bob", &["trades:*"]);
    assert_eq!(client.ask(json!({"id": 9, "refresh": {"token": other}})).await, json!({"close": 3500}));
}
