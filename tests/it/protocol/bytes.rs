//! Namespaces whose deltas are bytes: Protobuf clients get them unchanged, all others in base64, and no part of the
//! server changes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::sdk::{Driver, Sdk};
use crate::support::{Client, OPEN, PATIENCE, Redis, Server, free_port};

const NAMESPACES: &str = "
[namespace.raw]
payload = \"bytes\"
allow_publish_for_anonymous = true
allow_history_for_anonymous = true
history_size = 1000
[namespace.value]
payload = \"bytes\"
class = \"latest\"
[namespace.fossil]
payload = \"bytes\"
allowed_delta_types = [\"fossil\"]
[namespace.chat]
allow_publish_for_anonymous = true
";

/// Payloads that code might mistake for something else.
fn odd() -> Vec<Vec<u8>> {
    vec![
        (0..=255).collect(),
        Vec::new(),
        b"{\"a\": 1}\r\n".to_vec(),
        b"null".to_vec(),
        vec![0],
        vec![0xff; 3],
        b"\n".to_vec(),
        vec![0x80; 70_000],
    ]
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn publish(server: &Server, topic: &str, bytes: &[u8]) -> u64 {
    let (status, reply) = server.post("/api/publish", &json!({"channel": topic, "b64data": base64(bytes)}));
    assert_eq!(status, 200, "{reply}");
    reply["result"]["offset"].as_u64().unwrap()
}

fn view(server: &Server, topic: &str) -> Value {
    serde_json::from_str(&server.get(&format!("/api/topics/{topic}")).1).unwrap()
}

async fn connected(sdk: Sdk, server: &Server) -> Driver {
    let mut client = Driver::connect(sdk, server, json!({"bytes": true})).await;
    client.until("connected").await;
    client
}

fn is_protobuf(sdk: Sdk) -> bool {
    matches!(sdk, Sdk::JavaScriptProtobuf | Sdk::PythonProtobuf)
}

/// Its tags, which only JSON clients have.
fn tags(sdk: Sdk) -> Value {
    if is_protobuf(sdk) { json!({}) } else { json!({"encoding": "base64"}) }
}

/// A `plain` delivery of these bytes.
fn assert_plain(delivery: &Value, bytes: &[u8]) {
    assert_eq!((&delivery["encoding"], &delivery["data"]), (&json!("base64"), &json!(base64(bytes))), "{delivery}");
}

/// One topic with subscribers of every kind, published by HTTP, by a Protobuf client and by a JSON client.
#[tokio::test]
async fn every_subscriber_gets_the_bytes_in_the_words_of_its_format() {
    let server = Server::open_with(NAMESPACES);
    let mut clients = Vec::new();
    for sdk in Sdk::ALL {
        let mut client = connected(sdk, &server).await;
        client.subscribe("raw:a", json!({})).await;
        clients.push((sdk, client));
    }
    let mut plain = server.client().await;
    plain.subscribe(&["raw:a"]).await;
    let payloads = odd();
    for bytes in &payloads {
        publish(&server, "raw:a", bytes);
    }
    for (sdk, client) in &mut clients {
        let sent = base64(format!("\u{0}from {sdk:?}").as_bytes());
        let done = client.call(json!({"do": "publish", "topic": "raw:a", "data": sent})).await;
        assert!(done["error"].is_null(), "{sdk:?}: {done}");
    }
    let mut expected: Vec<String> = payloads.iter().map(|bytes| base64(bytes)).collect();
    expected.extend(Sdk::ALL.iter().map(|sdk| base64(format!("\u{0}from {sdk:?}").as_bytes())));
    for (sdk, client) in &mut clients {
        // A client's own publications may come before the answer to its publish, and `call` ignores them.
        let page = client.call(json!({"do": "history", "topic": "raw:a", "limit": -1})).await["result"].clone();
        let got = page["publications"].as_array().unwrap();
        assert_eq!(got.iter().map(|p| p["data"].as_str().unwrap()).collect::<Vec<_>>(), expected, "{sdk:?}");
        assert!(got.iter().all(|p| p["tags"] == tags(*sdk)), "{sdk:?}: {page}");
    }
    for bytes in &expected {
        assert_plain(&plain.next().await, &STANDARD.decode(bytes).unwrap());
    }
    // And live.
    publish(&server, "raw:a", b"\xfelast");
    for (sdk, client) in &mut clients {
        let mut seen = client.until("publication").await;
        while seen["data"] != base64(b"\xfelast") {
            assert_eq!(seen["tags"], tags(*sdk), "{sdk:?}");
            seen = client.until("publication").await;
        }
        assert_eq!(seen["tags"], tags(*sdk), "{sdk:?}");
    }
    let kept = view(&server, "raw:a")["data"].as_array().unwrap().clone();
    assert_eq!(kept.len(), expected.len() + 1);
    for (event, bytes) in kept.iter().zip(&expected) {
        assert_eq!((&event["encoding"], &event["data"]), (&json!("base64"), &json!(bytes)));
    }
    let (_, history) = server.post("/api/history", &json!({"channel": "raw:a", "limit": 1}));
    let first = &history["result"]["publications"][0];
    assert_eq!((&first["data"], &first["tags"]["encoding"]), (&json!(expected[0]), &json!("base64")), "{history}");
}

/// Live deliveries are exactly what was published, in order, for subscribers that publish nothing.
#[tokio::test]
async fn a_stream_and_the_newest_value_live() {
    let server = Server::open_with(NAMESPACES);
    for sdk in Sdk::ALL {
        let mut client = connected(sdk, &server).await;
        client.subscribe("raw:b", json!({})).await;
        let payloads = odd();
        for bytes in &payloads {
            publish(&server, "raw:b", bytes);
        }
        for bytes in &payloads {
            let seen = client.until("publication").await;
            assert_eq!((&seen["data"], &seen["tags"]), (&json!(base64(bytes)), &tags(sdk)), "{sdk:?}");
        }
        // The state of a value comes first, and is marked as a state.
        publish(&server, "value:b", b"\xffone");
        client.subscribe("value:b", json!({})).await;
        let snapshot = client.until("publication").await;
        assert_eq!((&snapshot["data"], &snapshot["tags"]["kind"]), (&json!(base64(b"\xffone")), &json!("snapshot")));
        assert_eq!(snapshot["tags"]["encoding"].is_null(), is_protobuf(sdk), "{sdk:?}: {snapshot}");
    }
    let mut plain = server.client().await;
    plain.subscribe(&["value:b"]).await;
    assert_plain(&plain.next().await, b"\xffone");
    let rest = view(&server, "value:b");
    assert_plain(&rest, b"\xffone");
}

/// A subscriber with a rate gets the newest value only, in one piece.
#[tokio::test]
async fn values_are_conflated_to_the_newest() {
    let server = Server::open_with(NAMESPACES);
    let mut plain = server.client().await;
    plain.send(json!({"op": "subscribe", "args": ["value:c"], "max_rate": 5.0})).await;
    plain.next().await;
    let mut protobuf = connected(Sdk::JavaScriptProtobuf, &server).await;
    // Its subscription's data would be bytes, too, so the rate is the namespace's.
    protobuf.subscribe("value:c", json!({})).await;
    for n in 0..100u8 {
        publish(&server, "value:c", &[n, 0xff]);
    }
    let mut conflated = 0;
    loop {
        let delivery = plain.next().await;
        conflated += delivery["conflated"].as_u64().unwrap_or(1);
        assert_eq!(delivery["encoding"], "base64");
        if delivery["data"] == base64(&[99, 0xff]) {
            break;
        }
    }
    assert_eq!(conflated, 100);
    while protobuf.until("publication").await["data"] != base64(&[99, 0xff]) {}
}

/// Long values that differ in a few bytes.
fn large(n: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..=255).cycle().take(600).collect();
    bytes[300] = n;
    bytes.push(0xff);
    bytes
}

#[tokio::test]
async fn fossil_deltas_are_of_bytes_in_protobuf_and_of_their_text_in_json() {
    let server = Server::open_with(NAMESPACES);
    for sdk in Sdk::ALL {
        let mut client = connected(sdk, &server).await;
        client.subscribe("fossil:f", json!({"fossil": true})).await;
        for n in 0..20 {
            publish(&server, "fossil:f", &large(n));
        }
        let expected: Vec<Value> = (0..20).map(|n| json!(base64(&large(n)))).collect();
        assert_eq!(client.publications(20).await, expected, "{sdk:?}");
        if matches!(sdk, Sdk::JavaScript | Sdk::JavaScriptProtobuf) {
            let stats = client.call(json!({"do": "delta_stats", "topic": "fossil:f"})).await["result"].clone();
            assert!(stats["numDeltaPayloads"].as_u64().unwrap() >= 15, "{sdk:?}: {stats}");
            assert!(stats["bytesReceived"].as_u64().unwrap() * 3 < stats["bytesDecoded"].as_u64().unwrap(), "{stats}");
        }
    }
}

/// Killed with -9 and started again on the same Redis: nothing is missed or changed, and a value survives the entry
/// that it came with.
#[tokio::test]
async fn bytes_from_redis_survive_a_kill() {
    for sdk in Sdk::ALL {
        let redis = Redis::start();
        let config = format!("{OPEN}\n{NAMESPACES}\n{}snapshot_every = \"100ms\"\n", redis.source_config());
        let port = free_port();
        let server = Server::start_at(&config, port);
        server.until("ready", |s| s.get("/readyz").0 == 200).await;
        let mut client = connected(sdk, &server).await;
        client.subscribe("raw:s", json!({})).await;
        redis.add_bytes("raw:s", &[0, 0xff]);
        redis.add_bytes("value:s", &[0xfe, b'\n']);
        assert_eq!(client.publications(1).await, [json!(base64(&[0, 0xff]))], "{sdk:?}");
        // The position is saved last: without it a saved state does not count.
        let saved = ["EXISTS", "{nexus:deltas}:snapshots", "{nexus:deltas}:position"];
        server.until("saved", |_| redis.command(&saved) == ":2").await;
        drop(server);
        client.until("connecting").await;
        for bytes in odd() {
            redis.add_bytes("raw:s", &bytes);
        }
        let server = Server::start_at(&config, port);
        let (mut recovered, mut data) = (Value::Null, Vec::new());
        while recovered.is_null() || data.len() < odd().len() {
            let event = client.next().await;
            match event["event"].as_str().unwrap() {
                "subscribed" => recovered = event["recovered"].clone(),
                "publication" => data.push(event["data"].clone()),
                _ => {}
            }
        }
        let expected: Vec<Value> = odd().iter().map(|bytes| json!(base64(bytes))).collect();
        assert_eq!((recovered, data), (json!(true), expected), "{sdk:?}");
        server.until("ready", |s| s.get("/readyz").0 == 200).await;
        assert_plain(&view(&server, "value:s"), &[0xfe, b'\n']);
        // A publish goes into the stream unchanged.
        publish(&server, "raw:s", &[1, 0xff, b'\r']);
        assert_eq!(client.publications(1).await, [json!(base64(&[1, 0xff, b'\r']))], "{sdk:?}");
        redis.command(&["XTRIM", "nexus:deltas", "MAXLEN", "0"]);
        let late = redis.server(NAMESPACES).await;
        assert_plain(&view(&late, "value:s"), &[0xfe, b'\n']);
    }
}

/// A reload of the whole source, as after an epoch change.
#[tokio::test]
async fn after_a_reset_protobuf_clients_are_sent_bytes_and_nothing_where_nothing_is_known() {
    let redis = Redis::start();
    let server = redis.server(NAMESPACES).await;
    let mut protobuf = connected(Sdk::JavaScriptProtobuf, &server).await;
    let mut plain = server.client().await;
    redis.add_bytes("value:r", b"\xffbefore");
    server.until("it is there", |s| s.get("/api/topics/value:r").0 == 200).await;
    protobuf.subscribe("value:r", json!({})).await;
    protobuf.until("publication").await;
    plain.subscribe(&["value:r"]).await;
    assert_plain(&plain.next().await, b"\xffbefore");
    redis.command(&["FLUSHALL"]);
    let forgotten = protobuf.until("publication").await;
    assert_eq!((&forgotten["data"], &forgotten["tags"]), (&json!(""), &json!({"kind": "snapshot"})));
    let forgotten = plain.next().await;
    assert_eq!((&forgotten["data"], &forgotten["encoding"]), (&Value::Null, &Value::Null), "{forgotten}");
    redis.add_bytes("value:r", b"\xffafter");
    assert_eq!(protobuf.publications(1).await, [json!(base64(b"\xffafter"))]);
    assert_plain(&plain.next().await, b"\xffafter");
}

#[tokio::test]
async fn what_is_refused_says_why() {
    let server = Server::open_with(&format!("{NAMESPACES}[limits]\ndelta_bytes = 1024\n"));
    let refused = |body: Value| {
        let (status, reply) = server.post("/api/publish", &body);
        assert!((400..500).contains(&status), "{body}: {status} {reply}");
        reply["error"]["message"].as_str().unwrap().to_owned()
    };
    for (body, needle) in [
        (json!({"channel": "raw:a"}), "`b64data`"),
        (json!({"channel": "raw:a", "data": 1, "b64data": "AA=="}), "`b64data`"),
        (json!({"channel": "raw:a", "b64data": "_w=="}), "base64"),
        (json!({"channel": "raw:a", "b64data": base64(&[0; 1025])}), "the most is 1024"),
        (json!({"channel": "stream:a", "b64data": "/w=="}), "payload = \"bytes\""),
        (json!({"channel": "stream:a", "b64data": base64(b"{")}), "not JSON"),
    ] {
        let fault = refused(body.clone());
        assert!(fault.contains(needle), "{body}: {fault}");
    }
    // JSON may be bytes, and bytes may be JSON.
    for body in [
        json!({"channel": "raw:a", "data": {"a": 1}}),
        json!({"channel": "raw:a", "data": null, "b64data": "AA"}),
        json!({"channel": "stream:a", "data": null}),
        json!({"channel": "stream:a", "data": 1, "b64data": ""}),
        json!({"channel": "stream:a", "b64data": base64(b"{\"a\":1}")}),
    ] {
        assert_eq!(server.post("/api/publish", &body).0, 200, "{body}");
    }
    let broadcast = json!({"channels": ["raw:a", "raw:b"], "b64data": "/w=="});
    let (_, reply) = server.post("/api/broadcast", &broadcast);
    assert!(reply["result"]["responses"][1]["result"]["offset"].is_u64(), "{reply}");
    for sdk in Sdk::ALL {
        let mut client = connected(sdk, &server).await;
        let wrong = if is_protobuf(sdk) { base64(&[0xff]) } else { "not base64!".into() };
        let topic = if is_protobuf(sdk) { "chat:a" } else { "raw:a" };
        let answer = client.call(json!({"do": "publish", "topic": topic, "data": wrong})).await;
        assert_eq!(answer["error"]["code"], 107, "{sdk:?}: {answer}");
        let needle = if is_protobuf(sdk) { "payload = \"bytes\"" } else { "base64" };
        assert!(answer["error"]["message"].as_str().unwrap().contains(needle), "{sdk:?}: {answer}");
        client.call(json!({"do": "publish", "topic": "raw:a", "data": "AA=="})).await;
    }
}

/// The same with a stream: a payload that readers would refuse is not appended.
#[tokio::test]
async fn bytes_that_no_node_would_take_are_not_put_into_the_stream() {
    let redis = Redis::start();
    let server = redis.server(NAMESPACES).await;
    let (status, reply) = server.post("/api/publish", &json!({"channel": "stream:a", "b64data": "/w=="}));
    assert_eq!(status, 400, "{reply}");
    assert!(reply["error"]["message"].as_str().unwrap().contains("payload = \"bytes\""), "{reply}");
    assert_eq!(redis.command(&["XLEN", "nexus:deltas"]), ":0");
    publish(&server, "raw:a", &[0xff]);
    assert_eq!(redis.command(&["XLEN", "nexus:deltas"]), ":1");
}

/// Calls use JSON: other data is refused, not taken for `null`. Numbers keep their digits.
#[tokio::test]
async fn calls_whose_data_is_no_json_are_refused() {
    let backend = crate::support::http_backend::Backend::start(|request| {
        let data = request.body.split("\"data\":").nth(1).unwrap().to_owned();
        json!({"result": {"data": data}})
    });
    let server = Server::open_with(&format!("[rpc]\nendpoint = \"{}/rpc\"\n", backend.url()));
    for sdk in [Sdk::JavaScriptProtobuf, Sdk::PythonProtobuf] {
        let mut client = connected(sdk, &server).await;
        let answer = client.call(json!({"do": "rpc", "method": "m", "data": base64(&[0xff])})).await;
        assert_eq!(answer["error"]["code"], 107, "{sdk:?}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("not JSON"), "{sdk:?}: {answer}");
        let answer =
            client.call(json!({"do": "rpc", "method": "m", "data": base64(b"123456789012345678901.50")})).await;
        assert_eq!(answer["result"], base64(b"\"123456789012345678901.50}\""), "{sdk:?}: {answer}");
    }
    assert_eq!(backend.requests(), 2, "refused calls were not sent");
}

/// The Rust SDK, an unofficial one, over Protobuf.
#[tokio::test]
async fn the_rust_sdk_gets_and_publishes_bytes() {
    use tokio_centrifuge::client::Client;
    use tokio_centrifuge::config::Config;

    let server = Server::open_with(NAMESPACES);
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<Option<Vec<u8>>>();
    let url = format!("ws://{}/connection/websocket?cf_protocol=protobuf", server.address);
    let client = Client::new(&url, Config::new().use_protobuf());
    let subscription = client.new_subscription("raw:rust");
    let subscribed = sender.clone();
    subscription.on_subscribed(move |_| drop(subscribed.send(None)));
    subscription.on_publication(move |publication| drop(sender.send(Some(publication.data.clone()))));
    subscription.subscribe();
    client.connect();
    let mut next = async || tokio::time::timeout(PATIENCE, receiver.recv()).await.unwrap().unwrap();
    assert_eq!(next().await, None);
    for bytes in odd() {
        publish(&server, "raw:rust", &bytes);
        assert_eq!(next().await, Some(bytes));
    }
    let mut plain: Plain = server.client().await;
    plain.subscribe(&["raw:rust"]).await;
    client.publish("raw:rust", vec![0, 0xff]).await.unwrap();
    assert_eq!(next().await, Some(vec![0, 0xff]));
    assert_plain(&plain.next().await, &[0, 0xff]);
    client.disconnect();
}

/// A client without an SDK.
type Plain = Client;
