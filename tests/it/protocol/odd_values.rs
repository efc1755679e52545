//! Unusual JSON that publishers may write, and that parsers tend to change or fail on: every interface passes it on
//! unchanged.

use serde_json::json;

use crate::support::centrifuge_client::Centrifuge;
#[cfg(feature = "nats")]
use crate::support::nats::Nats;
use crate::support::program::{config_file, failed, ready, refused, run};
use crate::support::{OPEN, Redis, Server};

/// Values whose text would change, or fail, in a parser that converts numbers and strings.
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

/// A payload for a topic of each class.
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

/// The answers of all reading interfaces for a topic.
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
async fn values_are_read_as_they_were_published() {
    let redis = Redis::start();
    let config = format!("{OPEN}\n[source.redis]\nurl = \"{}\"\n{NAMESPACES}", redis.url());
    let server = Server::start(&config);
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    let mut topics = Vec::new();
    for namespace in ["chat", "value", "quote"] {
        for (number, odd) in ODD.iter().enumerate() {
            let topic = format!("{namespace}:{number}");
            // Patches are parsed: of two members with one name the last counts, and white space between members is
            // dropped.
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

/// Members of a `merge` topic have names that must be valid text: a publisher of any other gets an error, at every
/// interface and in the words of the readers. In a list, and in topics of other classes, names are passed on unchanged.
#[tokio::test]
async fn a_name_with_half_a_surrogate_is_refused_where_names_are_read() {
    let names = r#"{"\ud800":1}"#;
    let inner = r#"{"a":{"b":{"\ud83d":1,"\udc00":2}}}"#;
    let redis = Redis::start();
    #[cfg(feature = "nats")]
    let nats = Nats::start();
    let open = OPEN.replace("[namespace.merge]", "[namespace.merge]\nallow_publish_for_anonymous = true");
    for source in [
        redis.source_config(),
        #[cfg(feature = "nats")]
        nats.config("").replace(OPEN, ""),
        String::new(),
    ] {
        let config = format!("{open}\n{source}");
        let server = ready(&config).await;
        let mut client = Centrifuge::open(&server).await;
        client.ask(json!({"id": 1, "connect": {}})).await;
        for data in [names, inner] {
            let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, data);
            for (member, value) in [("data", data.to_owned()), ("b64data", format!("\"{base64}\""))] {
                for kind in ["", ",\"kind\":\"snapshot\""] {
                    let body = format!(r#"{{"channel":"merge:a","{member}":{value}{kind}}}"#);
                    let (_, _, answer) =
                        server.http("POST", "/api/publish", &[("Content-Type", "application/json")], &body);
                    assert!(
                        answer.contains("\"reason\":\"not_json\"") && answer.contains("half a char"),
                        "{body}: {answer}"
                    );
                }
            }
            client.send_text(&format!(r#"{{"id":2,"publish":{{"channel":"merge:a","data":{data}}}}}"#)).await;
            assert_eq!(client.next().await["error"]["code"], 107);
            if !source.is_empty() {
                let (_folder, file) = config_file(&config);
                let error = failed(&run(&["publish", "--config", &file, "merge:a", data]));
                assert!(error.contains("was refused (not_json)") && error.contains("half a char"), "{error}");
            }
        }
        assert_eq!((server.get("/api/topics/merge:a").0, refused(&server)), (404, 0), "nothing was published");
        let listed = format!(r#"{{"list":[{names}]}}"#);
        for (topic, data) in [("merge:b", listed.as_str()), ("latest:b", names), ("stream:b", inner)] {
            publish(&server, topic, data);
            server.until("it is there", |s| s.get(&format!("/api/topics/{topic}")).1.contains(data)).await;
        }
        assert_eq!(refused(&server), 0);
    }
}
