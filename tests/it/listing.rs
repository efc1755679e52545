//! `GET /api/topics` and `GET /api/topics/{topic}`: what they tell, to whom, and what they cost.

use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::healthy::Healthy;
use crate::support::{Client, Redis, Server};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn token(mut claims: Value) -> String {
    claims["sub"] = json!("u1");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    claims["exp"] = json!(now + 3_600);
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

const CLOSED: &str = "[namespace.secret]\nallow_subscribe_for_anonymous = false\n\
     [namespace.clients]\nallow_subscribe_for_anonymous = false\nallow_subscribe_for_client = true\n";

fn list(server: &Server, query: &str, token: Option<&str>) -> (u16, Value) {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
    let (status, _, body) = server.http("GET", &format!("/api/topics?{query}"), &headers, "");
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

/// All pages, so many names each.
fn pages(server: &Server, prefix: &str, limit: usize, token: Option<&str>) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let (status, body) = list(server, &format!("prefix={prefix}&limit={limit}{after}"), token);
        assert_eq!(status, 200, "{body}");
        let page = body["topics"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        names.extend(page);
        match body["next"].as_str() {
            Some(next) => {
                assert_eq!(names.last().map(String::as_str), Some(next), "a name that it was told");
                assert!(names.len() < 1_000, "pages without end");
                after = format!("&after={next}");
            }
            None => return names,
        }
    }
}

#[test]
fn where_nothing_can_be_seen_the_list_is_empty() {
    let nothing = (200, json!({"topics": [], "next": null}));
    let server = Server::open_with("[namespace.secret]\nallow_subscribe_for_anonymous = false\n");
    for query in ["", "prefix=", "prefix=secret:", "prefix=stream:a&after=x&limit=1"] {
        assert_eq!(list(&server, query, None), nothing, "{query}");
    }
    server.publish("secret:a", &json!(1));
    for query in ["prefix=secret:a", "prefix=secret:b", "prefix=", "after=secret:&limit=1"] {
        assert_eq!(list(&server, query, None), nothing, "{query}");
    }
}

#[tokio::test]
async fn names_that_a_client_may_not_read_are_told_in_no_way() {
    let config = format!(
        "[access]\nanonymous = true\n[[access.keys]]\nalgorithm = \"HS256\"\nsecret = \"{}\"\n[publish]\nopen = true\n{CLOSED}",
        SECRET
    );
    let server = Server::start(&config);
    let topics = ["a:1", "a:2", "clients:x", "m", "n:1", "secret:a", "secret:b", "secret:c", "z:1"];
    for topic in topics {
        server.publish(topic, &json!(1));
    }
    let open = ["a:1", "a:2", "m", "n:1", "z:1"];
    let some = token(json!({"topics": ["secret:b", "q:*"]}));
    let prefix = token(json!({"topics": ["secret:*"]}));
    let with = |more: &[&'static str]| {
        let mut all: Vec<&'static str> = open.iter().chain(more).copied().collect();
        all.sort_unstable();
        all
    };
    for limit in [1, 2, 3, 100] {
        assert_eq!(pages(&server, "", limit, None), open);
        assert_eq!(pages(&server, "", limit, Some(&some)), with(&["clients:x", "secret:b"]));
        assert_eq!(pages(&server, "", limit, Some(&prefix)), with(&["clients:x", "secret:a", "secret:b", "secret:c"]));
        assert_eq!(pages(&server, "secret:", limit, Some(&some)), ["secret:b"]);
    }
    // Whether a topic exists that it may not read, it is not told: over REST, and over a socket.
    let status = |topic: &str, token: Option<&str>| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> = bearer.iter().map(|b| ("Authorization", b.as_str())).collect();
        let (status, _, body) = server.http("GET", &format!("/api/topics/{topic}"), &headers, "");
        (status, body)
    };
    for token in [None, Some(some.as_str())] {
        let (existing, missing) = (status("secret:a", token), status("secret:x", token));
        assert_eq!(existing, missing, "{token:?}");
        assert_eq!(existing.0, if token.is_some() { 403 } else { 401 });
    }
    let bearer = format!("Bearer {some}");
    let mut client = Client::connect_with(server.address, &[("authorization", &bearer)]).await.unwrap();
    let mut answers = Vec::new();
    for topic in ["secret:a", "secret:x"] {
        let reply = client.subscribe(&[topic]).await.to_string();
        assert!(reply.contains("403"), "{reply}");
        answers.push(reply.replace(topic, "T"));
    }
    assert_eq!(answers[0], answers[1]);
}

/// The fastest of some: what the request itself costs, whatever else the machine does.
fn fastest(server: &Server, query: &str) -> Duration {
    let times = (0..40).map(|_| {
        let began = Instant::now();
        assert_eq!(list(server, query, None).0, 200);
        began.elapsed()
    });
    times.min().unwrap()
}

fn fill(server: &Server, from: usize, to: usize) {
    let deltas: Vec<(String, Value)> = (from..to).map(|n| (format!("latest:{n:06}"), json!(n))).collect();
    server.publish_all(&deltas);
}

#[tokio::test]
async fn a_listing_costs_what_it_answers_however_many_topics_there_are() {
    let server = Server::open_with("[limits]\nlisted_topics_per_second = 0\n");
    fill(&server, 0, 500);
    let few = ["limit=1", "prefix=latest:0001", "prefix=nothing:"].map(|query| fastest(&server, query));
    fill(&server, 500, 40_000);
    let many = ["limit=1", "prefix=latest:0001", "prefix=nothing:"].map(|query| fastest(&server, query));
    for (few, many) in few.iter().zip(many) {
        assert!(many < *few * 5 + Duration::from_millis(5), "{few:?} at 500 topics, {many:?} at 40,000");
    }
    // Two requests per second were enough to stop publishing when each looked at all topics.
    let mut healthy = Healthy::beside(&server).await;
    let address = server.address;
    let answers = healthy
        .during(40, move |n| Server::http_at(address, "GET", &format!("/api/topics?prefix=latest:{n:06}"), &[], "").0)
        .await;
    assert!(answers.iter().all(|status| *status == 200));
}

#[tokio::test]
async fn an_address_that_lists_too_much_has_to_wait() {
    let server = Server::open_with("[limits]\nlisted_topics_per_second = 1000\n");
    fill(&server, 0, 4_000);
    let mut healthy = Healthy::beside(&server).await;
    let address = server.address;
    let answers = healthy
        .during(30, move |_| {
            let (status, head, body) = Server::http_at(address, "GET", "/api/topics?limit=10000", &[], "");
            (status, head.contains("\r\nretry-after: "), body.len())
        })
        .await;
    let (served, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, ..)| *status == 200);
    assert!(!served.is_empty() && served.iter().all(|(_, _, bytes)| *bytes > 4_000 * 15));
    assert!(refused.len() > served.len(), "{answers:?}");
    assert!(refused.iter().all(|(status, waits, bytes)| *status == 429 && *waits && *bytes < 200), "{answers:?}");
    #[allow(clippy::cast_precision_loss, reason = "a few")]
    let count = refused.len() as f64;
    assert_eq!(server.metric("listings_refused_total"), count);
    assert_eq!(server.metric("limits_reached_total{limit=\"listed_topics_per_second\"}"), count);
}

fn read(server: &Server, topic: &str, tag: Option<&str>) -> (u16, String, String) {
    let headers: Vec<(&str, &str)> = tag.iter().map(|tag| ("If-None-Match", *tag)).collect();
    let (status, head, body) = server.http("GET", &format!("/api/topics/{topic}"), &headers, "");
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap_or_default().to_owned();
    (status, tag, body)
}

#[tokio::test]
async fn an_etag_names_a_body_though_history_goes_with_time() {
    let server = Server::open_with("[namespace.short]\nclass = \"stream\"\nhistory_ttl = \"1s\"\nhistory_size = 4\n");
    for n in 0..3 {
        server.publish("short:a", &json!(n));
    }
    let (_, first, body) = read(&server, "short:a", None);
    assert_eq!(body.matches("\"data\"").count(), 4, "the list and three events: {body}");
    let mut bodies = std::collections::BTreeMap::from([(first.clone(), body)]);
    server
        .until("history is gone, and the tag with it", |s| {
            let (status, tag, body) = read(s, "short:a", Some(&first));
            if status == 200 {
                assert_eq!(bodies.entry(tag).or_insert_with(|| body.clone()), &body, "one tag, one body");
            }
            body.contains("\"data\":[]")
        })
        .await;
    assert!(bodies.len() > 1, "{bodies:?}");
    let (_, last, _) = read(&server, "short:a", None);
    assert_eq!(read(&server, "short:a", Some(&last)).0, 304);
}

#[tokio::test]
async fn two_nodes_with_one_etag_have_one_body() {
    let redis = Redis::start();
    let options =
        "[namespace.quiet]\nclass = \"merge\"\nstale_after = \"1s\"\n[namespace.short]\nhistory_ttl = \"2s\"\n";
    let (one, two) = (redis.server(options).await, redis.server(options).await);
    for n in 0..3 {
        redis.add("quiet:a", &json!({(format!("k{n}")): n}));
        redis.add("short:a", &json!(n));
    }
    let mut bodies = std::collections::BTreeMap::new();
    let mut ends = [false; 2];
    one.until("both are quiet, and their history is gone", |one| {
        for (server, end) in [one, &two].into_iter().zip(&mut ends) {
            let bodies_now = ["quiet:a", "short:a"].map(|topic| (topic, read(server, topic, None)));
            for (topic, (status, tag, body)) in &bodies_now {
                if *status == 200 {
                    assert_eq!(bodies.entry((*topic, tag.clone())).or_insert_with(|| body.clone()), body, "{tag}");
                }
            }
            *end = !bodies_now[0].1.2.contains("\"stale_since\":null") && bodies_now[1].1.2.contains("\"data\":[]");
        }
        ends == [true; 2]
    })
    .await;
}
