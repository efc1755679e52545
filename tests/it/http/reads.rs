//! HTTP on the public port.

use serde_json::{Value, json};

use crate::support::{BY_STATUS, Server};

#[tokio::test]
async fn snapshots_over_rest_with_etag() {
    let server = Server::open();
    assert_eq!(server.get("/api/topics/merge:a").0, 404);
    server.publish("merge:a", &json!({"b": 1}));
    let (status, head, body) = server.http("GET", "/api/topics/merge:a", &[], "");
    assert_eq!(status, 200);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["offset"], &body["data"]), (&json!(1), &json!({"b": 1})));
    let etag = head.lines().find_map(|l| l.strip_prefix("etag: ")).unwrap().to_owned();
    let (status, _, body) = server.http("GET", "/api/topics/merge:a", &[("If-None-Match", &etag)], "");
    assert_eq!((status, body.as_str()), (304, ""));
    server.publish("merge:a", &json!({"b": 2}));
    assert_eq!(server.http("GET", "/api/topics/merge:a", &[("If-None-Match", &etag)], "").0, 200);
    assert_eq!(server.get("/api/topics/a%20b").0, 400);
}

#[tokio::test]
async fn topics_are_listed_in_pages() {
    let server = Server::open();
    for n in 0..25 {
        server.publish(&format!("latest:{n:02}"), &json!(n));
    }
    server.publish("merge:other", &json!({}));
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let (status, body) = server.get(&format!("/api/topics?prefix=latest:&limit=10{after}"));
        assert_eq!(status, 200);
        let body: Value = serde_json::from_str(&body).unwrap();
        seen.extend(body["topics"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()));
        match body["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, (0..25).map(|n| format!("latest:{n:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn publishing_single_broadcast_and_batch() {
    let server = Server::open();
    let mut client = server.client().await;
    client.subscribe(&["stream:a", "stream:b"]).await;
    let (status, reply) = server.post("/api/publish", &json!({"channel": "stream:a", "data": 1}));
    assert_eq!((status, &reply["result"]["offset"]), (200, &json!(1)));
    let (_, reply) =
        server.post("/api/broadcast", &json!({"channels": ["stream:a", "stream:b", "bad name"], "data": 2}));
    let responses = reply["result"]["responses"].as_array().unwrap();
    assert_eq!(responses[0]["result"]["offset"], 2);
    assert_eq!(responses[2]["error"]["code"], 400);
    let (_, reply) = server.post(
        "/api/batch",
        &json!({"commands": [
            {"publish": {"channel": "stream:a", "data": 3}},
            {"publish": {"channel": "merge:m", "data": [1]}},
            {"broadcast": {"channels": ["stream:b"], "data": 4}},
        ]}),
    );
    assert_eq!(reply["replies"][0]["publish"]["offset"], 3);
    assert!(reply["replies"][1]["error"]["message"].as_str().unwrap().contains("object"));
    assert_eq!(reply["replies"][2]["broadcast"]["responses"][0]["result"]["offset"], 2);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    while a.len() + b.len() < 5 {
        let delta = client.next().await;
        if delta["topic"] == "stream:a" { a.push(delta["data"].clone()) } else { b.push(delta["data"].clone()) }
    }
    assert_eq!((a, b), (vec![json!(1), json!(2), json!(3)], vec![json!(2), json!(4)]));
}

#[tokio::test]
async fn malformed_publishes_are_refused_with_a_reason() {
    let server = Server::open();
    for (body, needle) in [
        ("{", "ends within its JSON"),
        ("{]", "not JSON from line 1 column 2 on"),
        (r#"{"data":1}"#, "channel"),
        (r#"{"channel":"a"}"#, "data"),
        (r#"{"channel":"a","data":1,"dota":2}"#, "dota"),
        (r#"{"channel":"","data":1}"#, "empty"),
        (r#"{"channel":"stream:a","kind":"snapshot","data":1}"#, "stream"),
        (r#"{"channel":"merge:a","data":1}"#, "object"),
    ] {
        let (status, _, answer) =
            server.http("POST", "/api/publish", &[("Content-Type", "application/json"), BY_STATUS], body);
        assert_eq!(status, 400, "{body}: {answer}");
        assert!(answer.contains(needle), "{body}: {answer}");
    }
}

#[cfg(feature = "dashboard")]
#[tokio::test]
async fn health_readiness_status_metrics_and_the_page() {
    let server = Server::open_with(
        "[source.simulator]\ninstruments = 5\nrate = 50.0\n[namespace.quotes]\nclass = \"merge\"\n[namespace.book]\nclass = \"merge\"",
    );
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    assert_eq!(server.get("/healthz").0, 200);
    let mut client = server.client().await;
    client.subscribe(&["quotes:BTCUSDT"]).await;
    let snapshot = client.next().await;
    assert_eq!(snapshot["data"]["sim"], true, "every payload is marked as simulated");
    let status = server.status();
    assert_eq!((&status["sessions"]["now"], &status["subscriptions"]), (&json!(1), &json!(1)));
    assert!(status["topics"].as_u64().unwrap() >= 5 && status["memory"]["rss_bytes"].as_u64().unwrap() > 0);
    assert_eq!(server.metric("sessions"), 1.0);
    assert_eq!(server.metric("ready"), 1.0);
    let metrics = server.get("/metrics").1;
    for line in metrics.lines().filter(|l| !l.starts_with('#')) {
        assert!(line.starts_with("nexus_push_"), "{line}");
    }
    assert!(metrics.contains("delivery_age_seconds_bucket{le=\"+Inf\"}"), "{metrics}");
    let (status, head, page) = server.http("GET", "/", &[], "");
    assert!(status == 200 && head.contains("content-security-policy") && page.contains("<!doctype html>"));
    assert_eq!(server.get("/nothing").0, 404);
    assert_eq!(server.get("/ws").0, 426);
}

/// A source that is away makes the server not ready, but it is still alive.
#[tokio::test]
async fn readiness_looks_at_redis_and_liveness_does_not() {
    let port = crate::support::free_port();
    let server = Server::open_with(&format!("[source.redis]\nurl = \"redis://127.0.0.1:{port}\""));
    let (status, body) = server.get("/readyz");
    assert_eq!(status, 503);
    assert!(body.contains("redis nexus:deltas"), "{body}");
    assert_eq!(server.get("/healthz").0, 200);
    assert_eq!(server.metric("source_connected{source=\"redis nexus:deltas\"}"), 0.0);
    let (status, reply) = server.post("/api/publish", &json!({"channel": "a", "data": 1}));
    assert_eq!(status, 503, "{reply}");
}
