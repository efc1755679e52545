//! The published Centrifuge SDKs, unmodified, against the real server.

use serde_json::{Value, json};

use crate::support::sdk::{Driver, Sdk};
use crate::support::tokens::{claims, config, hs256};
use crate::support::{OPEN, Redis, Server, free_port};

#[tokio::test]
async fn connect_subscribe_snapshot_and_deltas() {
    let server = Server::open();
    server.publish("merge:a", &json!({"x": 1, "y": {"z": 2}}));
    server.publish("latest:a", &json!("one"));
    server.publish("stream:a", &json!(1));
    for sdk in Sdk::ALL {
        let mut client = Driver::connect(sdk, &server, json!({})).await;
        client.until("connected").await;
        let subscribed = client.subscribe("merge:a", json!({})).await;
        assert_eq!(subscribed["data"], json!({"class": "merge"}), "{sdk:?}");
        assert_eq!(subscribed["recoverable"], true);
        let snapshot = client.until("publication").await;
        assert_eq!((&snapshot["data"]["y"], &snapshot["tags"]), (&json!({"z": 2}), &json!({"kind": "snapshot"})));
        client.subscribe("latest:a", json!({})).await;
        let snapshot = client.until("publication").await;
        assert_eq!((&snapshot["data"], &snapshot["tags"]["kind"]), (&json!("one"), &json!("snapshot")));
        // A stream has no snapshot: the next publication comes first.
        client.subscribe("stream:a", json!({})).await;
        server.publish("stream:a", &json!({"n": "ü"}));
        let event = client.until("publication").await;
        assert_eq!((&event["data"], &event["tags"]), (&json!({"n": "ü"}), &json!({})));
        server.publish("merge:a", &json!({"x": 2, "y": {"z": null}}));
        let delta = client.until("publication").await;
        assert_eq!((&delta["data"], &delta["tags"]), (&json!({"x": 2, "y": {"z": null}}), &json!({})), "{sdk:?}");
        client.tell(json!({"do": "unsubscribe", "topic": "merge:a"})).await;
        client.until("unsubscribed").await;
        // Again: the unsubscribe was understood.
        client.subscribe("merge:a", json!({})).await;
        server.publish("merge:a", &json!({"x": 1, "y": {"z": 2}}));
    }
}

/// Killed with -9 and started again on the same Redis, no SDK misses or repeats anything.
#[tokio::test]
async fn killed_and_restarted_they_recover_by_themselves() {
    for sdk in Sdk::ALL {
        let redis = Redis::start();
        let config =
            format!("{OPEN}\n[namespace.fossil]\nallowed_delta_types = [\"fossil\"]\n{}", redis.source_config());
        let port = free_port();
        let server = Server::start_at(&config, port);
        server.until("ready", |s| s.get("/readyz").0 == 200).await;
        let mut client = Driver::connect(sdk, &server, json!({})).await;
        client.until("connected").await;
        client.subscribe("stream:s", json!({})).await;
        redis.add("stream:s", &json!(1));
        redis.add("stream:s", &json!(2));
        assert_eq!(client.publications(2).await, [1, 2]);
        client.subscribe("fossil:f", json!({"fossil": true})).await;
        redis.add("fossil:f", &padded(1));
        assert_eq!(client.publications(1).await, [padded(1)]);
        drop(server);
        client.until("connecting").await;
        redis.add("stream:s", &json!(3));
        redis.add("fossil:f", &padded(2));
        redis.add("fossil:f", &padded(3));
        let server = Server::start_at(&config, port);
        let mut recovered = Vec::new();
        let mut data = Vec::new();
        while recovered.len() < 2 || data.len() < 3 {
            let event = client.next().await;
            match event["event"].as_str().unwrap() {
                "subscribed" => recovered.push((event["was_recovering"].clone(), event["recovered"].clone())),
                "publication" => data.push((event["topic"].as_str().unwrap().to_owned(), event["data"].clone())),
                _ => {}
            }
        }
        assert_eq!(recovered, [(json!(true), json!(true)), (json!(true), json!(true))], "{sdk:?}");
        let of = |topic: &str| data.iter().filter(|d| d.0 == topic).map(|d| d.1.clone()).collect::<Vec<_>>();
        assert_eq!(of("stream:s"), [3], "{sdk:?}");
        assert_eq!(of("fossil:f"), [padded(2), padded(3)], "{sdk:?}");
        server.until("ready", |s| s.get("/readyz").0 == 200).await;
        redis.add("fossil:f", &padded(4));
        assert_eq!(client.publications(1).await, [padded(4)], "{sdk:?}: a delta after recovery");
    }
}

fn padded(n: u64) -> Value {
    json!({"symbol": "BTCUSDT", "venue": "a name that does not change from one to the next", "n": n, "é": "ü".repeat(20)})
}

#[tokio::test]
async fn fossil_deltas_on_request() {
    let server = Server::open_with(
        "[namespace.fossil]\nallowed_delta_types = [\"fossil\"]\n\
         [namespace.value]\nclass = \"latest\"\nmax_rate = 50.0\nallowed_delta_types = [\"fossil\"]\n",
    );
    for sdk in Sdk::ALL {
        let mut client = Driver::connect(sdk, &server, json!({})).await;
        client.until("connected").await;
        client.subscribe("fossil:f", json!({"fossil": true})).await;
        for n in 0..20 {
            server.publish("fossil:f", &padded(n));
        }
        assert_eq!(client.publications(20).await, (0..20).map(padded).collect::<Vec<_>>(), "{sdk:?}");
        if matches!(sdk, Sdk::JavaScript | Sdk::JavaScriptProtobuf) {
            let stats = client.call(json!({"do": "delta_stats", "topic": "fossil:f"})).await["result"].clone();
            assert!(stats["numDeltaPayloads"].as_u64().unwrap() >= 15, "{stats}");
            assert!(stats["bytesReceived"].as_u64().unwrap() * 3 < stats["bytesDecoded"].as_u64().unwrap(), "{stats}");
        }
        // With its own rate: the newest value, as a difference from the previous one.
        server.publish("value:v", &padded(0));
        client.subscribe("value:v", json!({"fossil": true})).await;
        assert_eq!(client.publications(1).await, [padded(0)]);
        for n in 1..=30 {
            server.publish("value:v", &padded(n));
        }
        while client.publications(1).await != [padded(30)] {}
    }
}

/// A client that joins while others have a base gets full deltas first, and no client gets a wrong one.
#[tokio::test]
async fn fossil_deltas_with_subscribers_coming_and_going() {
    let server = Server::open_with("[namespace.fossil]\nclass = \"latest\"\nallowed_delta_types = [\"fossil\"]\n");
    let mut clients = Vec::new();
    for round in 0..6_u64 {
        let sdk = Sdk::ALL[usize::try_from(round).unwrap() % 4];
        let mut client = Driver::connect(sdk, &server, json!({})).await;
        client.until("connected").await;
        client.subscribe("fossil:f", json!({"fossil": true})).await;
        clients.push(client);
        for n in 0..10 {
            server.publish("fossil:f", &padded(round * 100 + n));
        }
        for client in &mut clients {
            while client.publications(1).await != [padded(round * 100 + 9)] {}
            assert_eq!(client.seen("error") + client.seen("subscription error"), 0);
        }
    }
}

#[tokio::test]
async fn tokens_are_refreshed_in_band_and_expired_ones_replaced() {
    let server = Server::start(&config(""));
    for sdk in Sdk::ALL {
        let topics = json!({"topics": ["stream:*"], "info": {"name": "Ann"}});
        // Expired before it is used: the server asks for another, and the SDK provides it.
        let token = hs256(&claims("u1", -60, topics.clone()));
        let mut client = Driver::connect(sdk, &server, json!({"token": token, "tokens": true})).await;
        client.until("token wanted").await;
        client.tell(json!({"do": "token", "token": hs256(&claims("u1", 2, topics.clone()))})).await;
        client.until("connected").await;
        client.subscribe("stream:s", json!({})).await;
        // It expires soon: the SDK sends a new one on the same connection.
        client.until("token wanted").await;
        client.tell(json!({"do": "token", "token": hs256(&claims("u1", 60, topics.clone()))})).await;
        server.publish("stream:s", &json!(1));
        assert_eq!(client.publications(1).await, [1]);
        tokio::time::sleep(std::time::Duration::from_secs(4)).await;
        server.publish("stream:s", &json!(2));
        assert_eq!(client.publications(1).await, [2]);
        assert_eq!(client.seen("connected"), 1, "{sdk:?} stayed connected");
    }
}

#[tokio::test]
async fn a_token_that_ends_without_a_new_one_ends_the_session_and_the_sdk_comes_back() {
    let server = Server::start(&config(""));
    let topics = json!({"topics": ["stream:*"]});
    let mut client = Driver::start(Sdk::JavaScript).await;
    client.dial(&server, json!({"token": hs256(&claims("u1", 1, topics.clone())), "tokens": true})).await;
    client.until("connected").await;
    client.until("token wanted").await;
    // Not answered: closed with 3005, "connection expired", and the SDK asks for a token before it reconnects.
    let closed = client.until("connecting").await;
    assert_eq!(closed["code"], 3005);
    client.tell(json!({"do": "token", "token": "too late"})).await;
    client.until("token wanted").await;
    client.tell(json!({"do": "token", "token": hs256(&claims("u1", 60, topics))})).await;
    client.until("connected").await;
}

#[tokio::test]
async fn subscription_tokens() {
    let server = Server::start(&config("[namespace.vip]\nallow_subscribe_for_anonymous = false\n"));
    let channel = |name: &str, s: i64| hs256(&claims("u1", s, json!({"channel": name})));
    for sdk in Sdk::ALL {
        let token = hs256(&claims("u1", 60, json!({"topics": []})));
        let mut client = Driver::connect(sdk, &server, json!({"token": token})).await;
        client.until("connected").await;
        // Refused without a token.
        client.tell(json!({"do": "subscribe", "topic": "vip:none"})).await;
        assert_eq!(client.until("unsubscribed").await["code"], 103);
        // Refused with a token for another topic.
        client.tell(json!({"do": "subscribe", "topic": "vip:a", "token": channel("vip:b", 60)})).await;
        assert_eq!(client.until("unsubscribed").await["code"], 103);
        // Accepted with its own, until it expires; the SDK asks for a new one and uses it.
        client.subscribe("vip:c", json!({"token": channel("vip:c", 2), "tokens": true})).await;
        client.until("token wanted").await;
        client.tell(json!({"do": "token", "token": channel("vip:c", 60)})).await;
        tokio::time::sleep(std::time::Duration::from_secs(4)).await;
        server.publish("vip:c", &json!(1));
        assert_eq!(client.publications(1).await, [1]);
        assert_eq!(client.seen("subscribing"), 3, "{sdk:?}: none of them started over");
    }
}

#[tokio::test]
async fn presence_joins_and_leaves() {
    let server = Server::start(&config(
        "[namespace.room]\npresence = true\njoin_leave = true\nallow_presence_for_subscriber = true\n",
    ));
    for sdk in Sdk::ALL {
        let token = |user: &str| hs256(&claims(user, 60, json!({"topics": ["room:*"], "info": {"name": user}})));
        let mut ann = Driver::connect(sdk, &server, json!({"token": token("ann")})).await;
        let ann_id = ann.until("connected").await["client"].as_str().unwrap().to_owned();
        ann.subscribe("room:1", json!({"join_leave": true})).await;
        assert_eq!(ann.until("join").await["info"]["user"], "ann", "its own join");
        let mut bob = Driver::connect(sdk, &server, json!({"token": token("bob")})).await;
        let bob_id = bob.until("connected").await["client"].as_str().unwrap().to_owned();
        bob.subscribe("room:1", json!({})).await;
        let joined = ann.until("join").await;
        assert_eq!(joined["info"], json!({"user": "bob", "client": bob_id, "conn_info": {"name": "bob"}}), "{sdk:?}");
        let presence = bob.call(json!({"do": "presence", "topic": "room:1"})).await["result"].clone();
        assert_eq!(presence[&ann_id]["user"], "ann");
        assert_eq!(presence.as_object().unwrap().len(), 2);
        let stats = bob.call(json!({"do": "presence_stats", "topic": "room:1"})).await["result"].clone();
        assert_eq!((&stats["numClients"], &stats["numUsers"]), (&json!(2), &json!(2)));
        drop(bob);
        assert_eq!(ann.until("leave").await["info"]["user"], "bob");
        let presence = ann.call(json!({"do": "presence", "topic": "room:1"})).await["result"].clone();
        assert_eq!(presence.as_object().unwrap().keys().collect::<Vec<_>>(), [&ann_id]);
        // Only subscribers may request it.
        let mut eve = Driver::connect(sdk, &server, json!({"token": token("eve")})).await;
        eve.until("connected").await;
        let refused = eve.call(json!({"do": "presence", "topic": "room:1"})).await;
        assert_eq!(refused["error"]["code"], 103);
    }
}

#[tokio::test]
async fn history_publish_and_calls() {
    let backend = crate::support::http_backend::Backend::start(|request| {
        let call: Value = serde_json::from_str(&request.body).unwrap();
        match call["method"].as_str() {
            Some("double") => json!({"result": {"data": {"n": call["data"]["n"].as_i64().unwrap() * 2}}}),
            _ => json!({"error": {"code": 1404, "message": "no such method"}}),
        }
    });
    let server = Server::open_with(&format!(
        "[rpc]\nendpoint = \"{}/rpc\"\n\
         [namespace.chat]\nallow_publish_for_subscriber = true\nhistory_size = 5\n",
        backend.url()
    ));
    for (n, sdk) in Sdk::ALL.into_iter().enumerate() {
        let topic = format!("chat:{n}");
        let mut client = Driver::connect(sdk, &server, json!({})).await;
        client.until("connected").await;
        let refused = client.call(json!({"do": "publish", "topic": topic, "data": {"n": 0}})).await;
        assert_eq!(refused["error"]["code"], 103, "{sdk:?}: not a subscriber yet");
        let epoch = client.subscribe(&topic, json!({})).await["position"]["epoch"].clone();
        for n in 1..=7 {
            let published = client.call(json!({"do": "publish", "topic": topic, "data": {"n": n}})).await;
            assert!(published["error"].is_null(), "{published}");
        }
        let offsets = |page: &Value| -> Vec<u64> {
            let all = page["result"]["publications"].as_array().unwrap();
            all.iter().map(|p| p["offset"].as_u64().unwrap()).collect()
        };
        let page = client.call(json!({"do": "history", "topic": topic, "limit": -1})).await;
        assert_eq!((offsets(&page), &page["result"]["offset"]), (vec![3, 4, 5, 6, 7], &json!(7)), "{sdk:?}");
        assert_eq!(page["result"]["epoch"], epoch);
        let page = client.call(json!({"do": "history", "topic": topic, "limit": 2, "reverse": true})).await;
        assert_eq!(offsets(&page), [7, 6]);
        let since = json!({"offset": 4, "epoch": epoch});
        let page = client.call(json!({"do": "history", "topic": topic, "limit": 2, "since": since})).await;
        assert_eq!(offsets(&page), [5, 6]);
        let page =
            client.call(json!({"do": "history", "topic": topic, "limit": 9, "since": since, "reverse": true})).await;
        assert_eq!(offsets(&page), [3]);
        let gone = json!({"offset": 1, "epoch": epoch});
        let page = client.call(json!({"do": "history", "topic": topic, "limit": 9, "since": gone})).await;
        assert_eq!(page["error"]["code"], 112);
        let page = client.call(json!({"do": "history", "topic": topic, "limit": 0})).await;
        assert_eq!((offsets(&page).len(), &page["result"]["offset"]), (0, &json!(7)));
        let answer = client.call(json!({"do": "rpc", "method": "double", "data": {"n": 21}})).await;
        assert_eq!(answer["result"], json!({"n": 42}), "{sdk:?}");
        let answer = client.call(json!({"do": "rpc", "method": "other", "data": {}})).await;
        assert_eq!(answer["error"]["code"], 1404);
    }
}

/// All data is wiped: a stream's subscribers start over and are notified that something may be missing; a state is
/// replaced by the new one.
#[tokio::test]
async fn a_new_epoch_is_sent_as_the_sdks_understand() {
    for sdk in Sdk::ALL {
        let redis = Redis::start();
        let server = redis.server("").await;
        let mut client = Driver::connect(sdk, &server, json!({})).await;
        client.until("connected").await;
        client.subscribe("stream:s", json!({})).await;
        redis.add("stream:s", &json!(1));
        assert_eq!(client.publications(1).await, [1]);
        client.subscribe("merge:m", json!({})).await;
        redis.add("merge:m", &json!({"x": 1}));
        assert_eq!(client.publications(1).await, [json!({"x": 1})]);
        redis.command(&["FLUSHALL"]);
        redis.add("merge:m", &json!({"y": 2}));
        let (mut stream, mut state) = (None, None);
        while stream.is_none() || state.is_none() {
            let event = client.next().await;
            match event["event"].as_str().unwrap() {
                "subscribed" if event["topic"] == "stream:s" => stream = Some(event),
                "publication" if event["tags"]["kind"] == "snapshot" && event["data"]["y"] == 2 => state = Some(event),
                _ => {}
            }
        }
        let stream = stream.unwrap();
        assert_eq!((&stream["was_recovering"], &stream["recovered"]), (&json!(true), &json!(false)), "{sdk:?}");
        assert_eq!(state.unwrap()["data"], json!({"y": 2}), "{sdk:?}");
        redis.add("stream:s", &json!(2));
        assert_eq!(client.publications(1).await, [2], "{sdk:?}");
    }
}

#[tokio::test]
async fn subscriptions_that_the_token_names() {
    let redis = Redis::start();
    let port = free_port();
    let config = config(&redis.source_config());
    let mut server = Server::start_at(&config, port);
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    let token =
        hs256(&claims("u1", 60, json!({"topics": [], "channels": ["stream:mine"], "subs": {"stream:too": {}}})));
    for sdk in Sdk::ALL {
        let mut client = Driver::connect(sdk, &server, json!({"token": token})).await;
        let mut subscribed = Vec::new();
        while subscribed.len() < 2 {
            subscribed.push(client.until("server subscribed").await["topic"].as_str().unwrap().to_owned());
        }
        subscribed.sort();
        assert_eq!(subscribed, ["stream:mine", "stream:too"], "{sdk:?}");
        redis.add("stream:mine", &json!(1));
        assert_eq!(client.until("server publication").await["data"], 1);
        drop(server);
        client.until("connecting").await;
        redis.add("stream:mine", &json!(2));
        server = Server::start_at(&config, port);
        let publication = client.until("server publication").await;
        assert_eq!(publication["data"], 2, "{sdk:?}: recovered");
        server.until("ready", |s| s.get("/readyz").0 == 200).await;
    }
}

/// The Rust SDK, an unofficial one, over Protobuf. It recovers nothing, and ignores publications before its own
/// "subscribed" event: of those it gets the later ones.
#[tokio::test]
async fn the_rust_sdk() {
    use tokio_centrifuge::client::Client;
    use tokio_centrifuge::config::Config;

    let redis = Redis::start();
    let config = config(&redis.source_config());
    let port = free_port();
    let server = Server::start_at(&config, port);
    server.until("ready", |s| s.get("/readyz").0 == 200).await;

    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<(&'static str, String)>();
    let url = format!("ws://127.0.0.1:{port}/connection/websocket?cf_protocol=protobuf");
    let token = hs256(&claims("u1", 60, json!({"topics": ["stream:*"]})));
    let client = Client::new(&url, Config::new().use_protobuf().with_token(token));
    let subscription = client.new_subscription("stream:s");
    let subscribed = sender.clone();
    subscription.on_subscribed(move |_| drop(subscribed.send(("subscribed", String::new()))));
    subscription.on_publication(move |publication| {
        drop(sender.send(("publication", String::from_utf8_lossy(&publication.data).into_owned())));
    });
    subscription.subscribe();
    client.connect();
    let mut next = async |wanted: &str| loop {
        let received = tokio::time::timeout(crate::support::PATIENCE, receiver.recv()).await;
        let (event, data) = received.unwrap_or_else(|_| panic!("no {wanted}")).unwrap();
        if event == wanted {
            break data;
        }
    };
    next("subscribed").await;
    redis.add("stream:s", &json!({"x": 1}));
    assert_eq!(next("publication").await, "{\"x\":1}");
    drop(server);
    let server = Server::start_at(&config, port);
    next("subscribed").await;
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    redis.add("stream:s", &json!({"x": 2}));
    assert_eq!(next("publication").await, "{\"x\":2}");
    client.disconnect();
}
