//! When a session is written to, and how much it gets: flush intervals, rates that change during a subscription, limits
//! on bytes per second, and several deliveries in one message.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Client, Follower, OPEN, Server};

/// Reads everything until `so`, with lists taken apart.
async fn read_until(client: &mut Client, mut take: impl FnMut(&Value) -> bool) -> (usize, usize) {
    let (mut messages, mut deliveries) = (0, 0);
    loop {
        let message = client.next().await;
        messages += 1;
        let list = message.as_array().cloned().unwrap_or_else(|| vec![message]);
        for one in &list {
            deliveries += 1;
            if take(one) {
                return (messages, deliveries);
            }
        }
    }
}

/// 40 topics change for a second and a half. A session with a flush interval gets far fewer writes than one without,
/// and the same deltas in order.
#[tokio::test]
async fn a_flush_interval_coalesces_deltas_and_loses_none() {
    for backend in ["epoll", "io_uring"] {
        let calm = "[namespace.calm]\nclass = \"stream\"\nflush_interval = \"150ms\"";
        let server = Server::start(&format!(
            "{}\n{calm}",
            OPEN.replace("[server]", &format!("[server]\nflush = \"{backend}\""))
        ));
        let topics: Vec<String> = (0..40).map(|n| format!("calm:{n}")).collect();
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let mut client = server.client().await;
        client.subscribe(&names).await;
        let writes = server.metric("writes_total");
        let (began, mut published) = (Instant::now(), 0u64);
        while began.elapsed() < Duration::from_millis(1_500) {
            server.publish(&topics[usize::try_from(published).unwrap() % 40], &json!(published));
            published += 1;
        }
        let (mut next, mut got) = (vec![0u64; 40], 0);
        while got < published {
            let delta = client.next().await;
            let topic: usize = delta["topic"].as_str().unwrap().trim_start_matches("calm:").parse().unwrap();
            let want = u64::try_from(topic).unwrap() + 40 * next[topic];
            assert_eq!(delta["data"], want, "in the order in which they were published: {delta}");
            next[topic] += 1;
            got += 1;
        }
        let intervals = began.elapsed().as_secs_f64() / 0.150;
        let writes = server.metric("writes_total") - writes;
        assert!(writes <= intervals + 2.0, "{writes} writes in {intervals:.1} intervals");
        assert!(published > 60, "too few deltas ({published}) to show anything");
    }
}

#[tokio::test]
async fn with_a_flush_interval_replies_and_the_first_delta_go_at_once() {
    let server = Server::open_with("[namespace.calm]\nclass = \"latest\"\nflush_interval = \"5s\"");
    let mut client = server.client().await;
    client.subscribe(&["calm:a"]).await;
    let began = Instant::now();
    for n in 0..3 {
        server.publish("calm:a", &json!(n));
        // Its write is seconds away, but a reply takes the deltas along.
        client.send(json!({"op": "ping", "id": n})).await;
        let both = [client.next().await, client.next().await];
        assert!(both.iter().any(|m| m["data"] == n) && both.iter().any(|m| m["op"] == "pong"), "{both:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "something waited for the interval");
}

#[tokio::test]
async fn a_session_may_ask_for_a_flush_interval_of_its_own() {
    let server = Server::open();
    let (mut calm, mut other) = (server.client().await, server.client().await);
    calm.send(json!({"op": "session", "id": 7, "flush_interval_ms": 200, "batch": true})).await;
    assert_eq!(calm.next().await, json!({"id": 7, "op": "session", "ok": true}));
    calm.subscribe(&["stream:a", "merge:b"]).await;
    other.subscribe(&["stream:a"]).await;
    let n = 200;
    for i in 0..n {
        server.publish("stream:a", &json!(i));
        assert_eq!(other.next().await["data"], i);
    }
    let mut next = 0;
    let (messages, deliveries) = read_until(&mut calm, |delta| {
        assert_eq!(delta["data"], next);
        next += 1;
        next == n
    })
    .await;
    assert_eq!(deliveries, n);
    assert!(messages * 4 < deliveries, "{deliveries} deliveries took {messages} messages");
}

/// The rate of a subscription is lowered, raised, and removed while the topic changes: nothing is lost or repeated, and
/// each delta is counted once.
#[tokio::test]
async fn a_rate_may_change_while_it_is_in_use() {
    let server = Server::open();
    let mut expected = json!({"base": "x".repeat(3_000)});
    server.publish("merge:a", &expected);
    let mut client = server.client().await;
    client.subscribe(&["merge:a"]).await;
    let mut follower = Follower::default();
    follower.take(&client.next().await);
    let (mut n, mut replies) = (1u64, 0);
    let rates = [json!(5), json!(100), json!(1), Value::Null, json!(20), Value::Null];
    for rate in &rates {
        client.send(json!({"op": "rate", "id": 1, "args": ["merge:a"], "max_rate": rate})).await;
        for _ in 0..40 {
            n += 1;
            let patch = json!({(format!("k{}", n % 7)): n});
            json_patch::merge(&mut expected, &patch);
            server.publish("merge:a", &patch);
        }
    }
    while follower.offset < n || replies < rates.len() {
        let message = client.next().await;
        match message["op"].as_str() {
            Some("rate") => {
                assert_eq!(message["ok"], true, "{message}");
                replies += 1;
            }
            _ => {
                assert!(message["type"] == "snapshot" || message["prev"] == follower.offset, "a repeat: {message}");
                follower.take(&message);
            }
        }
    }
    assert_eq!(follower.state, expected);
    assert_eq!(follower.deltas + follower.snapshots, n, "each delta is counted once");
    client.nothing_more().await;
}

#[tokio::test]
async fn a_rate_that_cannot_be_is_refused_with_the_reason() {
    let server = Server::open();
    let mut client = server.client().await;
    client.subscribe(&["stream:a"]).await;
    let table = [
        (json!({"op": "rate", "id": 1, "args": ["stream:a"], "max_rate": 5}), 400, "every delta of it counts"),
        (json!({"op": "rate", "id": 1, "args": ["merge:other"], "max_rate": 5}), 404, "not subscribed"),
        (json!({"op": "rate", "id": 1, "args": ["merge:a"], "max_rate": 0}), 400, "the least is 0.1"),
        (json!({"op": "session", "id": 1, "bytes_per_second": 10}), 400, "the least is 1024"),
        (json!({"op": "session", "id": 1, "flush_interval_ms": 60_000}), 400, "the most is 5000"),
    ];
    for (command, code, reason) in table {
        client.send(command.clone()).await;
        let reply = client.next().await;
        assert_eq!(reply["ok"], false, "{command}: {reply}");
        assert_eq!(reply["error"]["code"], code, "{command}: {reply}");
        assert!(reply["error"]["reason"].as_str().unwrap().contains(reason), "{command}: {reply}");
    }
    client.nothing_more().await;
}

/// A limit on a session's bytes per second is kept by conflation; another session gets everything.
#[tokio::test]
async fn a_ceiling_on_bytes_is_kept_by_conflation() {
    let ceiling = 8_192;
    let server = Server::open();
    let (mut narrow, mut wide) = (server.client().await, server.client().await);
    narrow.send(json!({"op": "session", "bytes_per_second": ceiling})).await;
    assert_eq!(narrow.next().await["ok"], true);
    let topics: Vec<String> = (0..10).map(|n| format!("merge:{n}")).collect();
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    // Long enough that a patch is shorter than the state.
    let mut expected: Vec<Value> = vec![json!({"base": "x".repeat(600)}); 10];
    for (topic, base) in topics.iter().zip(&expected) {
        server.publish(topic, base);
    }
    narrow.subscribe(&names).await;
    wide.subscribe(&names).await;
    for _ in 0..10 {
        assert_eq!(wide.next().await["type"], "snapshot");
    }
    let (began, mut n) = (Instant::now(), 0u64);
    while began.elapsed() < Duration::from_secs(3) {
        let topic = usize::try_from(n % 10).unwrap();
        let patch = json!({(format!("k{}", n % 3)): n, "fill": "x".repeat(200)});
        json_patch::merge(&mut expected[topic], &patch);
        server.publish(&topics[topic], &patch);
        n += 1;
        let delta = wide.next().await;
        assert_eq!((&delta["data"], delta.get("conflated")), (&patch, None), "the other session is not affected");
    }
    let each = n / 10;
    let mut followers = vec![Follower { state: json!({}), ..Follower::default() }; 10];
    let (mut bytes, mut deliveries, mut at) = (0, 0, Duration::ZERO);
    while followers.iter().zip(0u64..).any(|(f, i)| f.offset < 1 + each + u64::from(n % 10 > i)) {
        let delta = narrow.next().await;
        bytes += delta.to_string().len();
        deliveries += 1;
        at = began.elapsed();
        let topic: usize = delta["topic"].as_str().unwrap().trim_start_matches("merge:").parse().unwrap();
        followers[topic].take(&delta);
    }
    for (follower, expected) in followers.iter().zip(&expected) {
        assert_eq!(&follower.state, expected);
    }
    assert!(deliveries * 4 < n, "{deliveries} deliveries for {n} deltas");
    // Plus the frames' headers, and one frame that may exceed the limit.
    let most = f64::from(ceiling) * at.as_secs_f64() + 4_000.0;
    #[allow(clippy::cast_precision_loss, reason = "thousands")]
    let bytes = bytes as f64;
    assert!(bytes <= most, "{bytes} B in {at:?}, the limit is {most:.0}");
    // Without the limit the rest comes immediately.
    narrow.send(json!({"op": "session", "bytes_per_second": 0})).await;
    assert_eq!(narrow.next().await["op"], "session");
    server.publish("merge:0", &json!({"last": true}));
    assert_eq!(narrow.next().await["data"]["last"], true);
}

/// With `batch`, each write is one message: a list.
#[tokio::test]
async fn a_write_is_one_message_on_request() {
    let server = Server::open();
    let mut client = server.client().await;
    client.send(json!({"op": "session", "batch": true, "flush_interval_ms": 200})).await;
    client.next().await;
    client.subscribe(&["stream:a", "latest:b"]).await;
    let commands: Vec<Value> = (0..30)
        .map(|n| json!({"publish": {"channel": if n % 3 == 0 { "latest:b" } else { "stream:a" }, "data": n}}))
        .collect();
    let (status, _, body) = server.http(
        "POST",
        "/api/batch",
        &[("content-type", "application/json")],
        &json!({"commands": commands}).to_string(),
    );
    assert_eq!(status, 200, "{body}");
    let (mut stream, mut latest) = (Vec::new(), 0);
    let (messages, deliveries) = read_until(&mut client, |delta| {
        match delta["topic"].as_str() {
            Some("stream:a") => stream.push(delta["data"].as_u64().unwrap()),
            _ => latest = delta["data"].as_u64().unwrap(),
        }
        stream.len() == 20 && latest == 27
    })
    .await;
    assert!(messages < deliveries, "{deliveries} deliveries in {messages} messages");
    assert_eq!(stream, (0..30).filter(|n| n % 3 != 0).collect::<Vec<u64>>());
}

/// A session with a flush interval that has had its first delta, so that later ones wait, and its follower.
async fn calm(server: &Server, topic: &str) -> (Client, Follower) {
    let mut client = server.client().await;
    client.send(json!({"op": "session", "flush_interval_ms": 5_000})).await;
    client.next().await;
    client.subscribe(&[topic]).await;
    let mut follower = Follower::default();
    follower.take(&client.next().await);
    (client, follower)
}

/// Deltas that wait for a flush interval are not lost when the rate changes.
#[tokio::test]
async fn waiting_deltas_survive_a_change_of_rate() {
    let server = Server::open();
    let mut expected = json!({"base": "x".repeat(3_000)});
    server.publish("merge:a", &expected);
    let (mut client, mut follower) = calm(&server, "merge:a").await;
    for n in 2..=30 {
        let patch = json!({(format!("k{n}")): n});
        json_patch::merge(&mut expected, &patch);
        server.publish("merge:a", &patch);
    }
    client.send(json!({"op": "rate", "args": ["merge:a"], "max_rate": 2})).await;
    follower.follow(&mut client, 30).await;
    assert_eq!(follower.state, expected);
    assert_eq!(follower.deltas, 29, "each delta is counted once");
}

/// A requested snapshot comes after waiting deltas, so that nothing in it is repeated.
#[tokio::test]
async fn nothing_is_repeated_after_a_requested_snapshot() {
    let server = Server::open();
    let mut expected = json!({"base": "x".repeat(3_000)});
    server.publish("merge:a", &expected);
    let (mut client, mut follower) = calm(&server, "merge:a").await;
    for n in 2..=20 {
        let patch = json!({(format!("k{n}")): n});
        json_patch::merge(&mut expected, &patch);
        server.publish("merge:a", &patch);
    }
    client.send(json!({"op": "snapshot", "id": 1, "args": ["merge:a"]})).await;
    loop {
        let message = client.next().await;
        if message["op"] == "snapshot" {
            break;
        }
        // Fails if it does not join up.
        follower.take(&message);
    }
    server.publish("merge:a", &json!({"last": true}));
    client.send(json!({"op": "ping"})).await;
    follower.follow(&mut client, 21).await;
    expected["last"] = json!(true);
    assert_eq!(follower.state, expected);
}

/// A byte limit may delay a write longer than the stall time-out: that is not a stall.
#[tokio::test]
async fn a_pause_of_the_rate_limit_is_not_a_stall() {
    let server = Server::open_with("[limits]\nstall_timeout = \"1s\"");
    server.publish("latest:a", &json!("x".repeat(4_000)));
    let mut client = server.client().await;
    client.send(json!({"op": "session", "bytes_per_second": 1_024})).await;
    client.next().await;
    client.subscribe(&["latest:a"]).await;
    assert_eq!(client.next().await["type"], "snapshot");
    // Due in four seconds, when the snapshot is within the rate.
    server.publish("latest:a", &json!("next"));
    assert_eq!(client.next().await["data"], "next");
}
