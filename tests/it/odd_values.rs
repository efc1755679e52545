//! JSON that publishers may write, and that parsers like to change or to stumble over: it goes through every door byte for byte.

use serde_json::json;

use crate::support::{OPEN, Redis, Server};

/// Values whose text a parser that makes numbers and strings of it would change, or could not hold.
const ODD: [&str; 16] = [
    "61800.20",
    "-0",
    "-0.0",
    "1E5",
    "1e400",
    "-1e-400",
    "123456789012345678901234567890.123456789",
    r#""\ud800""#,
    r#""\udc00\ud800x""#,
    r#""\u0000\u2028/\/""#,
    r#"{"$serde_json::private::RawValue":"1"}"#,
    r#"{"$serde_json::private::Number":"x"}"#,
    r#"{"a":1,"a":2}"#,
    r#"{ "spaced" : [ 1 , 2.50 ] }"#,
    r#"[[],{},"",null,true]"#,
    r#"{"$serde_json::private::RawValue":{"deep":1.10}}"#,
];

const NAMESPACES: &str = "
[namespace.chat]
history_size = 1000
history_ttl = \"1h\"
allow_history_for_anonymous = true
[namespace.value]
class = \"latest\"
history_size = 1000
history_ttl = \"1h\"
allow_history_for_anonymous = true
[namespace.quote]
class = \"merge\"
history_size = 1000
history_ttl = \"1h\"
allow_history_for_anonymous = true
";

/// What is published to a topic of each class.
fn payload(namespace: &str, odd: &str) -> String {
    if namespace == "quote" { format!("{{\"odd\":{odd}}}") } else { odd.to_owned() }
}

fn post(server: &Server, path: &str, body: &str) -> String {
    let headers = [("Content-Type", "application/json")];
    let (status, _, answer) = server.http("POST", path, &headers, body);
    assert_eq!(status, 200, "{path} {body}: {answer}");
    answer
}

fn publish(server: &Server, topic: &str, data: &str) {
    let answer = post(server, "/api/publish", &format!(r#"{{"channel":"{topic}","data":{data}}}"#));
    assert!(answer.contains("\"offset\""), "{data}: {answer}");
}

/// What every door that reads says of a topic.
fn read(server: &Server, topic: &str) -> Vec<String> {
    let history = format!(r#"{{"channel":"{topic}","limit":10}}"#);
    vec![
        server.get(&format!("/api/topics/{topic}")).1,
        post(server, "/api/history", &history),
        post(server, "/api/batch", &format!(r#"{{"commands":[{{"history":{history}}}]}}"#)),
        post(server, "/api", &format!(r#"{{"id":3,"method":"history","params":{history}}}"#)),
    ]
}

#[tokio::test]
async fn values_come_out_as_they_went_in() {
    let redis = Redis::start();
    let config = format!("{OPEN}\n[source.redis]\nurl = \"{}\"\n{NAMESPACES}", redis.url());
    let server = Server::start(&config);
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    let mut topics = Vec::new();
    for namespace in ["chat", "value", "quote"] {
        for (number, odd) in ODD.iter().enumerate() {
            let topic = format!("{namespace}:{number}");
            // A patch is read: of two members of one name the last counts, and white space between members says nothing.
            if namespace == "quote" && (odd.contains("\"a\":2") || odd.starts_with("{ ")) {
                continue;
            }
            let data = payload(namespace, odd);
            let mut client = server.client().await;
            client.subscribe(&[&topic]).await;
            // Through the API, and by an entry of the stream.
            publish(&server, &topic, &data);
            let text = client.next_text().await;
            assert!(text.contains(&data), "{data}: {text}");
            redis.add_bytes(&topic, data.as_bytes());
            let text = client.next_text().await;
            assert!(text.contains(&data), "{data}: {text}");
            for answer in read(&server, &topic) {
                assert!(answer.contains(&data), "{data}: {answer}");
            }
            let mut client = server.client().await;
            client.send(json!({"op": "snapshot", "id": 1, "args": [topic]})).await;
            let (reply, text) = (client.next_text().await, client.next_text().await);
            assert!(reply.contains(&data) || text.contains(&data), "{data}: {reply} {text}");
            topics.push((topic, data));
        }
    }
    drop(server);
    let server = Server::start(&config);
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    for (topic, data) in topics {
        for answer in read(&server, &topic) {
            assert!(answer.contains(&data), "after a restart, {data}: {answer}");
        }
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
