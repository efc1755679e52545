//! `GET /api/topics` and `GET /api/topics/{topic}`: their content, for whom, and their cost.

use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::bystander::Healthy;
use crate::support::tokens::{claims, hs256};
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

/// All pages, with this many names each.
fn pages(server: &Server, prefix: &str, limit: usize, token: Option<&str>) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let (status, body) = list(server, &format!("prefix={prefix}&limit={limit}{after}"), token);
        assert_eq!(status, 200, "{body}");
        let page = body["topics"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        names.extend(page);
        match body["next"].as_str() {
            Some(next) => {
                assert_eq!(names.last().map(String::as_str), Some(next), "a name on the page");
                assert!(names.len() < 1_000, "endless pages");
                after = format!("&after={}", next.replace('#', "%23"));
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
async fn names_that_a_client_may_not_read_are_not_revealed() {
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
    // A client cannot learn whether a topic exists that it may not read, neither over REST nor over a socket.
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

/// Where tokens are required, a request without one is refused before anything else is read; other errors are JSON.
#[test]
fn a_token_is_required_before_anything_else() {
    let closed = Server::start(&crate::support::tokens::config(""));
    let good = hs256(&claims("alice", 600, json!({"topics": ["a:*"]})));
    let open = Server::open();
    let wrong = ["?limit=x", "?limit=-1", "?limit=1&limit=2", "?prefix=a&prefix=b", "/%ff", "/a%20b", "/%E2%80%8B"];
    for path in wrong.map(|rest| format!("/api/topics{rest}")) {
        let ask = |server: &Server, token: Option<&str>| {
            let bearer = token.map(|token| format!("Bearer {token}"));
            let headers: Vec<_> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
            let (status, head, body) = server.http("GET", &path, &headers, "");
            let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {status} {body}"));
            assert_eq!(body["error"]["code"], status, "{path}: {body}");
            assert!(body["error"]["message"].as_str().is_some_and(|message| message.len() > 10), "{path}: {body}");
            assert_eq!(status == 401, head.contains("www-authenticate: bearer"), "{head}");
            status
        };
        assert_eq!(ask(&closed, None), 401, "{path}");
        assert_eq!(ask(&closed, Some("a.b.c")), 401, "{path}");
        assert_eq!(ask(&closed, Some(&good)), 400, "{path}");
        assert_eq!(ask(&open, None), 400, "{path}");
    }
}

fn with_users(syntax: &str, more: &str) -> Server {
    Server::start(&format!(
        "[access]\nanonymous = true\nchannel_syntax = \"{syntax}\"\n\
         [[access.keys]]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"\n[publish]\nopen = true\n\
         [default]\nallow_user_limited_channels = true\n\
         [namespace.news]\nallow_subscribe_for_anonymous = false\nallow_user_limited_channels = true\n\
         [namespace.shut]\nallow_subscribe_for_anonymous = false\n\
         [namespace.free]\n{more}"
    ))
}

const NAMES_OF_USERS: [&str; 14] = [
    "$free:q",
    "$news:p",
    "$private",
    "a",
    "a#alice",
    "b#alice,bob",
    "b#bob",
    "c#",
    "free:x",
    "news:x",
    "news:x#alice",
    "shut:x#alice",
    "shut:y",
    "z",
];

/// Names that restrict their readers are listed for those clients, and for no other.
#[test]
fn restricted_names_are_listed_for_their_users() {
    let server = with_users("centrifugo", "[limits]\nlisted_topics_per_second = 0\n");
    for topic in NAMES_OF_USERS {
        server.publish(topic, &json!(1));
    }
    for (user, rules, expected) in [
        (None, &[][..], &[][..]),
        (Some("alice"), &[], &["a#alice", "b#alice,bob", "news:x#alice"]),
        (Some("bob"), &["news:*"], &["b#alice,bob", "b#bob", "news:x"]),
        (Some("eve"), &["*"], &["news:x", "shut:y"]),
        (Some("eve"), &["$*", "b#*"], &["$free:q", "$news:p", "$private", "b#alice,bob", "b#bob"]),
        (
            Some("alice"),
            &["b#*", "a#alice", "$private"],
            &["$private", "a#alice", "b#alice,bob", "b#bob", "news:x#alice"],
        ),
        (Some(""), &["shut:x#alice", "c#"], &["c#", "shut:x#alice"]),
    ] {
        let token = user.map(|user| hs256(&claims(user, 600, json!({"topics": rules}))));
        let mut expected = [expected, &["a", "free:x", "z"]].concat();
        expected.sort_unstable();
        for limit in [1, 2, 5, 100] {
            let mut listed = pages(&server, "", limit, token.as_deref());
            listed.retain(|name| !name.starts_with("ops:"));
            assert_eq!(listed, expected, "{user:?} {rules:?} {limit}");
        }
        for prefix in ["$", "a", "b", "news:", "shut:"] {
            let some: Vec<&str> = expected.iter().copied().filter(|name| name.starts_with(prefix)).collect();
            assert_eq!(pages(&server, prefix, 2, token.as_deref()), some, "{user:?} {prefix}");
        }
    }
}

/// Where names have no such meaning, only their namespaces' options count; a `$` before a namespace changes nothing.
#[test]
fn plain_names_are_visible_by_their_namespaces_options() {
    let server = with_users("plain", "[limits]\nlisted_topics_per_second = 0\n");
    for topic in NAMES_OF_USERS {
        server.publish(topic, &json!(1));
    }
    let open = ["$free:q", "$private", "a", "a#alice", "b#alice,bob", "b#bob", "c#", "free:x", "z"];
    let alice = hs256(&claims("alice", 600, json!({"topics": []})));
    let rule = hs256(&claims("eve", 600, json!({"topics": ["$news:*", "shut:x*"]})));
    for limit in [1, 3, 100] {
        assert_eq!(pages(&server, "", limit, None), open);
        assert_eq!(pages(&server, "", limit, Some(&alice)), open);
        let mut more = [&open[..], &["$news:p", "shut:x#alice"]].concat();
        more.sort_unstable();
        assert_eq!(pages(&server, "", limit, Some(&rule)), more);
    }
}

/// Names that a client may not see, of every kind, change neither its answer nor its `Retry-After`.
#[test]
fn hidden_names_are_neither_charged_nor_revealed() {
    let more = "[limits]\nlisted_topics_per_second = 10\n[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\n";
    let servers = [(); 2].map(|()| with_users("centrifugo", more));
    let visible: Vec<(String, Value)> = (0..150).map(|n| (format!("m:{n:03}"), json!(n))).collect();
    let hidden = (0..3_000).flat_map(|n| {
        ["$m:N", "m:N#bob,carol", "m:0#N", "news:N", "news:N#alice2", "shut:N#alice"]
            .map(|name| name.replace('N', &n.to_string()))
    });
    let hidden: Vec<(String, Value)> = hidden.map(|name| (name, json!(1))).collect();
    servers.iter().for_each(|server| server.publish_all(&visible));
    servers[1].publish_all(&hidden);
    let alice = format!("Bearer {}", hs256(&claims("alice", 600, json!({"topics": ["m:00*", "other:*"]}))));
    for (n, bearer) in [None, Some(&alice)].into_iter().enumerate() {
        for (m, query) in
            ["limit=10000", "limit=149", "limit=1", "prefix=m:0&limit=99", "prefix=news:"].into_iter().enumerate()
        {
            let answers = servers.each_ref().map(|server| {
                let from = format!("192.0.2.{}", n * 10 + m);
                let mut headers = vec![("X-Forwarded-For", from.as_str())];
                headers.extend(bearer.map(|bearer| ("Authorization", bearer.as_str())));
                let (status, _, body) = server.http("GET", &format!("/api/topics?{query}"), &headers, "");
                assert_eq!(status, 200, "{body}");
                let (status, head, _) = server.http("GET", "/api/topics", &headers, "");
                assert_eq!(status, 429);
                let after = head.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap();
                (body, after.parse::<u64>().unwrap())
            });
            assert_eq!(answers[0].0, answers[1].0, "{query}");
            assert!(
                answers[0].1.abs_diff(answers[1].1) <= 2,
                "{query}: waits {} s, and {} s",
                answers[0].1,
                answers[1].1
            );
        }
    }
}

/// The fastest of several: the cost of the request itself, whatever else the machine does.
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
    // Names that this client may not see are not charged.
    let hidden: Vec<(String, Value)> = (0..20_000)
        .map(|n| (format!("latest:0001#{n}"), json!(n)))
        .chain((0..5_000).map(|n| (format!("$latest:{n}"), json!(n))))
        .collect();
    server.publish_all(&hidden);
    let many = ["limit=1", "prefix=latest:0001", "prefix=nothing:"].map(|query| fastest(&server, query));
    for (few, many) in few.iter().zip(many) {
        assert!(many < *few * 5 + Duration::from_millis(5), "{few:?} at 500 topics, {many:?} at 40,000");
    }
    // Two requests per second were once enough to stop publishing, when each walked through all topics.
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
