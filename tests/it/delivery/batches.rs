//! Many publishes in one request: their cost, their order, and how a client learns which of them were stored.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::support::bystander::Healthy;
use crate::support::{BY_STATUS, Follower, OPEN, Redis, Server};

fn post(address: SocketAddr, path: &str, body: &str) -> (u16, Value) {
    let headers = [("Content-Type", "application/json"), BY_STATUS];
    let (status, _, text) = Server::http_at(address, "POST", path, &headers, body);
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test]
async fn a_broadcast_is_bounded_by_what_it_publishes_not_by_its_bytes() {
    let server = Server::open();
    let mut healthy = Healthy::beside(&server).await;
    let address = server.address;
    let short = vec!["stream:a"; 400_000];
    let too_many = json!({"channels": short, "data": 1}).to_string();
    let too_large = json!({"channels": vec!["stream:a"; 9_000], "data": "x".repeat(200_000)}).to_string();
    let one = json!({"broadcast": {"channels": vec!["stream:a"; 5_000], "data": 1}});
    let several = json!({"commands": [one, one, one]}).to_string();
    let before = server.status()["memory"]["rss_bytes"].as_u64().unwrap();
    let bodies = [("/api/broadcast", too_many), ("/api/broadcast", too_large), ("/api/batch", several)];
    let answers = healthy
        .during(6, move |n| {
            let (path, body) = &bodies[n % bodies.len()];
            let (status, answer) = post(address, path, body);
            (status, answer.to_string())
        })
        .await;
    for (status, answer) in &answers {
        assert!(*status == 413 && answer.len() < 300, "{status} {answer}");
    }
    let after = server.status()["memory"]["rss_bytes"].as_u64().unwrap();
    assert!(after < before + 100 * 1024 * 1024, "{before} B before, {after} B after");
    assert_eq!(server.get("/api/topics/stream:a").0, 404, "nothing of them was published");
    // The largest allowed request is carried out, next to others.
    let most = json!({"channels": (0..10_000).map(|n| format!("latest:{n}")).collect::<Vec<_>>(), "data": {"n": 1}});
    let most = most.to_string();
    let answers = healthy.during(2, move |_| post(address, "/api/broadcast", &most)).await;
    for (status, answer) in answers {
        let responses = answer["result"]["responses"].as_array().unwrap();
        assert_eq!((status, responses.len()), (200, 10_000));
        assert!(responses.iter().all(|response| response["result"]["offset"].is_u64()));
    }
}

#[tokio::test]
async fn the_answers_of_one_request_are_bounded() {
    let server = Server::open();
    for n in 0..64 {
        server.publish("stream:a", &json!({"n": n, "pad": "x".repeat(8_000)}));
    }
    let mut healthy = Healthy::beside(&server).await;
    let history = json!({"history": {"channel": "stream:a", "limit": -1}});
    let publish = json!({"publish": {"channel": "stream:b", "data": 1}});
    let mut commands = vec![history; 2_000];
    commands.push(publish);
    let body = json!({"commands": commands}).to_string();
    let address = server.address;
    let answers = healthy
        .during(1, move |_| {
            let headers = [("Content-Type", "application/json"), BY_STATUS];
            Server::http_at(address, "POST", "/api/batch", &headers, &body).2
        })
        .await;
    for answer in answers {
        assert!(answer.len() < 10_000_000, "{} bytes", answer.len());
        let replies = serde_json::from_str::<Value>(&answer).unwrap()["replies"].take();
        assert!(replies[0]["history"]["publications"].as_array().unwrap().len() > 30);
        assert_eq!(replies[1_999]["error"]["code"], 429, "{}", replies[1_999]);
        assert!(replies[2_000]["publish"]["offset"].is_u64(), "what publishes is carried out");
    }
}

#[test]
fn the_scope_is_checked_before_a_payload_is_read() {
    let server = Server::start(
        "[[publish.key]]\nname = \"feed\"\nsecret = \"feed-key-0123456789\"\ntopics = [\"quotes:*\"]\nscopes = [\"operate\"]\n",
    );
    let headers = [("Content-Type", "application/json"), ("X-API-Key", "feed-key-0123456789"), BY_STATUS];
    for path in ["/api/publish", "/api/broadcast"] {
        let (status, _, text) =
            server.http("POST", path, &headers, r#"{"channels":7,"nonsense":[}"#.replace("[}", "[]}").as_str());
        assert!(status == 403 && text.contains("`feed`"), "{path}: {status} {text}");
    }
}

/// A relay to `port` that delays each direction by this time.
fn late(port: u16, by: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap().port();
    let pass = move |mut from: TcpStream, mut to: TcpStream| {
        std::thread::spawn(move || {
            let mut bytes = vec![0; 1 << 20];
            while let Ok(read @ 1..) = from.read(&mut bytes) {
                std::thread::sleep(by);
                if to.write_all(&bytes[..read]).is_err() {
                    return;
                }
            }
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    };
    std::thread::spawn(move || {
        for one in listener.incoming().map_while(Result::ok) {
            let Ok(other) = TcpStream::connect(("127.0.0.1", port)) else { return };
            pass(one.try_clone().unwrap(), other.try_clone().unwrap());
            pass(other, one);
        }
    });
    here
}

#[tokio::test]
async fn a_batch_over_a_late_redis_takes_some_round_trips_not_one_for_each() {
    let redis = Redis::start();
    let port = late(redis.port, Duration::from_millis(10));
    let server = Server::start(&format!("{OPEN}\n[source.redis]\nurl = \"redis://127.0.0.1:{port}\"\n"));
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    let mut client = server.client().await;
    client.subscribe(&["stream:a", "merge:m"]).await;
    let single = (0..3).map(|n| {
        let began = Instant::now();
        server.publish("stream:warm", &json!(n));
        began.elapsed()
    });
    let single = single.min().unwrap();
    let commands: Vec<Value> = (0..2_000)
        .map(|n| match n % 2 {
            0 => json!({"publish": {"channel": "stream:a", "data": n}}),
            _ => json!({"publish": {"channel": "merge:m", "data": {"n": n}}}),
        })
        .collect();
    let began = Instant::now();
    let (status, answer) = server.post("/api/batch", &json!({"commands": commands, "parallel": true}));
    let took = began.elapsed();
    assert_eq!(status, 200);
    assert!(took < single * 200, "2,000 publishes took {took:?}, one {single:?}");
    let offsets: Vec<u64> =
        answer["replies"].as_array().unwrap().iter().map(|r| r["publish"]["offset"].as_u64().unwrap()).collect();
    assert!(offsets.len() == 2_000 && offsets.windows(2).all(|pair| pair[0] < pair[1]), "in order");
    let (mut follower, mut expected) = (Follower::default(), 0);
    while expected < 2_000 || follower.offset < offsets[1_999] {
        let message = client.next().await;
        if message["topic"] == "stream:a" {
            assert_eq!(message["data"], expected);
            expected += 2;
        } else {
            follower.take(&message);
        }
    }
    assert_eq!(follower.state, json!({"n": 1_999}));
}

/// One request with valid publishes and invalid ones: each gets its own answer.
fn mixed(key: Option<&str>) -> Value {
    let mut batch = json!({"commands": [
        {"publish": {"channel": "stream:a", "data": 1}},
        {"publish": {"channel": "no name", "data": 1}},
        {"publish": {"channel": "merge:m", "data": [1]}},
        {"publish": {"channel": "stream:a", "data": 2, "tags": {"a": "b"}}},
        {"broadcast": {"channels": ["stream:a", "stream:b"], "data": 3}},
        {"nonsense": {}},
        {"publish": {"channel": "stream:a", "data": 4, "idempotency_key": "own"}},
        5,
    ]});
    if let Some(key) = key {
        batch["idempotency_key"] = json!(key);
    }
    batch
}

fn check_mixed(replies: &Value) {
    for (at, error) in [(1, 400), (2, 400), (3, 400), (5, 404), (7, 400)] {
        assert_eq!(replies[at]["error"]["code"], error, "{replies}");
    }
    assert!(replies[0]["publish"]["offset"].is_u64() && replies[6]["publish"]["offset"].is_u64(), "{replies}");
    assert!(replies[4]["broadcast"]["responses"][1]["result"]["offset"].is_u64(), "{replies}");
}

/// A batch that is sent again with its key gets the same answer, and nothing is published twice.
async fn repeats(one: &Server, two: &Server) {
    let mut client = one.client().await;
    client.subscribe(&["stream:a", "stream:b"]).await;
    let (status, first) = one.post("/api/batch", &mixed(Some("batch-1")));
    assert_eq!(status, 200);
    check_mixed(&first["replies"]);
    for server in [one, two] {
        let (_, again) = server.post("/api/batch", &mixed(Some("batch-1")));
        assert_eq!(again, first, "the first result is repeated");
        assert!(server.metric("publish_repeated_total") >= 4.0);
    }
    let own = json!({"channel": "stream:a", "data": "other", "idempotency_key": "own"});
    assert_eq!(two.post("/api/publish", &own).1["result"], first["replies"][6]["publish"]);
    // Keys belong to a topic.
    let elsewhere = json!({"channel": "stream:b", "data": "b", "idempotency_key": "own"});
    one.post("/api/publish", &elsewhere);
    one.publish("stream:a", &json!("end"));
    let mut seen = std::collections::BTreeMap::<String, Vec<Value>>::new();
    while seen.get("stream:a").and_then(|list| list.last()) != Some(&json!("end"))
        || seen.get("stream:b").map_or(0, Vec::len) < 2
    {
        let message = client.next().await;
        seen.entry(message["topic"].as_str().unwrap().to_owned()).or_default().push(message["data"].clone());
    }
    assert_eq!(seen["stream:a"], [json!(1), json!(3), json!(4), json!("end")]);
    assert_eq!(seen["stream:b"], [json!(3), json!("b")]);
}

#[tokio::test]
async fn a_repeated_batch_gets_the_first_result() {
    let server = Server::open();
    let (_, answer) = server.post("/api/batch", &mixed(None));
    check_mixed(&answer["replies"]);
    let server = Server::open();
    repeats(&server, &server).await;
}

#[tokio::test]
async fn with_redis_any_node_lists_what_was_stored() {
    let redis = Redis::start();
    let streams: Vec<String> = (0..3).map(|n| format!("nexus:deltas:{{{n}}}")).collect();
    let more = format!("streams = {streams:?}\n");
    let (one, two) = (redis.server(&more).await, redis.server(&more).await);
    repeats(&one, &two).await;
    let kept: Vec<String> = (0..3).map(|n| redis.command(&["XLEN", &format!("nexus:deltas:{{{n}}}")])).collect();
    let entries: u64 = kept.iter().map(|length| length.trim_start_matches(':').parse::<u64>().unwrap()).sum();
    assert_eq!(entries, 6, "{kept:?}");
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// A request whose body may be any bytes.
fn send(server: &Server, headers: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head = format!(
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, answer)
}

#[test]
fn bodies_are_decoded_or_refused_with_their_encoding_named() {
    let server = Server::open();
    let text = r#"{"channel":"stream:a","data":"é"}"#;
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marked = [b"\xef\xbb\xbf", text.as_bytes()].concat();
    let bomb = gzip(&" ".repeat(64 * 1024 * 1024));
    for (headers, body, status, needle) in [
        ("Content-Encoding: gzip\r\n", gzip(text), 200, "\"offset\":1"),
        ("", marked, 200, "\"offset\":2"),
        ("", gzip(text), 415, "gzip"),
        ("Content-Encoding: br\r\n", text.into(), 415, "accept-encoding: gzip, deflate"),
        ("Content-Encoding: gzip\r\n", text.into(), 400, "Content-Encoding says gzip"),
        ("Content-Encoding: gzip\r\n", bomb, 413, "inflates to more than 8388608 bytes"),
        ("", utf16.clone(), 415, "UTF-16"),
        ("", [b"\xff\xfe".as_slice(), &utf16].concat(), 415, "UTF-16"),
        ("", b"{\"channel\":\"\xff\"}".to_vec(), 400, "not UTF-8 from byte 12"),
    ] {
        let (got, answer) = send(&server, headers, &body);
        assert!(got == status && answer.contains(needle), "{headers}: {answer}");
    }
    let body = server.get("/api/topics/stream:a").1;
    assert_eq!(body.matches("\"é\"").count(), 2, "{body}");
}
