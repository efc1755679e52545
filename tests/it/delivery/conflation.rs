//! One delivery in place of many: by rate, and for full sockets.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Client, Follower, Server};

#[tokio::test]
async fn a_namespaces_rate_is_kept_and_every_state_is_right() {
    let server = Server::open_with("[namespace.slow]\nclass = \"merge\"\nmax_rate = 5.0");
    // Long enough that a patch is shorter than the state.
    let mut expected = json!({"base": "x".repeat(2_000)});
    server.publish("slow:a", &expected);
    let mut client = server.client().await;
    client.subscribe(&["slow:a"]).await;
    let mut follower = Follower::default();
    follower.take(&client.next().await);
    let began = Instant::now();
    let mut n = 1;
    while began.elapsed() < Duration::from_millis(1_500) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        n += 1;
        let patch = json!({(format!("k{}", n % 9)): n, "gone": if n % 2 == 0 { Value::Null } else { json!(n) }});
        json_patch::merge(&mut expected, &patch);
        server.publish("slow:a", &patch);
    }
    let mut deliveries = 0;
    while follower.offset < n {
        follower.take(&client.next().await);
        deliveries += 1;
    }
    let elapsed = began.elapsed().as_secs_f64();
    assert_eq!(follower.state, expected);
    assert_eq!((follower.deltas, follower.snapshots), (n - 1, 1), "each delta is counted once");
    assert!(f64::from(deliveries) <= elapsed * 5.0 + 2.0, "{deliveries} deliveries in {elapsed:.2} s at 5/s");
    assert!(n > 50 && server.metric("conflated_total") > 0.0);
}

#[tokio::test]
async fn the_first_change_goes_at_once() {
    let server = Server::open_with("[namespace.slow]\nclass = \"latest\"\nmax_rate = 0.1");
    let mut client = server.client().await;
    client.subscribe(&["slow:a"]).await;
    server.publish("slow:a", &json!(1));
    assert_eq!(client.next().await["data"], 1);
}

#[tokio::test]
async fn a_subscriber_may_ask_for_less_and_does_not_slow_the_others() {
    let server = Server::open();
    let (mut fast, mut slow) = (server.client().await, server.client().await);
    fast.subscribe(&["latest:a"]).await;
    slow.send(json!({"op": "subscribe", "args": ["latest:a"], "max_rate": 2})).await;
    slow.next().await;
    for n in 1..=50 {
        server.publish("latest:a", &json!(n));
    }
    for n in 1..=50 {
        let delta = fast.next().await;
        assert_eq!((delta["data"].as_u64(), delta.get("conflated")), (Some(n), None));
    }
    let (mut got, mut stood_for, mut have) = (0, 0, 0);
    while have < 50 {
        let delta = slow.next().await;
        assert_eq!(delta["prev"], have);
        have = delta["offset"].as_u64().unwrap();
        stood_for += delta["conflated"].as_u64().unwrap_or(1);
        assert_eq!(delta["data"], have);
        got += 1;
    }
    assert_eq!(stood_for, 50);
    assert!(got <= 4, "{got} deliveries");
}

/// A client that joins a throttled topic while a delivery is pending gets its snapshot, and then only later deltas.
#[tokio::test]
async fn joining_between_two_deliveries_repeats_nothing() {
    let server = Server::open_with("[namespace.slow]\nclass = \"merge\"\nmax_rate = 2.0");
    let mut first = server.client().await;
    first.subscribe(&["slow:a"]).await;
    let (mut n, mut clients) = (0, Vec::new());
    for _ in 0..30 {
        for _ in 0..3 {
            n += 1;
            server.publish("slow:a", &json!({(format!("k{}", n % 4)): n}));
        }
        let mut client = server.client().await;
        let at = client.subscribe(&["slow:a"]).await["topics"]["slow:a"]["offset"].as_u64().unwrap();
        assert_eq!(at, n);
        clients.push((client, Follower::default()));
    }
    let expected = json!({"k0": n - n % 4, "k1": last(n, 1), "k2": last(n, 2), "k3": last(n, 3)});
    for (client, follower) in &mut clients {
        follower.take(&client.next().await);
        while follower.offset < n {
            let delta = client.next().await;
            assert_eq!(delta["prev"], follower.offset, "a repeat: {delta}");
            follower.take(&delta);
        }
        assert_eq!(follower.state, expected);
    }
}

fn last(n: u64, residue: u64) -> u64 {
    (0..=n).rev().find(|k| k % 4 == residue).unwrap()
}

/// A change that RFC 7396 cannot express in one patch comes as a snapshot.
#[tokio::test]
async fn a_change_without_a_patch_comes_as_a_snapshot() {
    let server = Server::open_with("[namespace.slow]\nclass = \"merge\"\nmax_rate = 2.0");
    server.publish("slow:a", &json!({"a": {"old": 1}}));
    let mut client = server.client().await;
    client.subscribe(&["slow:a"]).await;
    let mut follower = Follower::default();
    follower.follow(&mut client, 1).await;
    let rounds = 6;
    for n in 0..rounds {
        server.publish("slow:a", &json!({"a": null}));
        server.publish("slow:a", &json!({"a": {(format!("new{n}")): n}}));
    }
    follower.follow(&mut client, 1 + 2 * rounds).await;
    assert_eq!(follower.state, json!({"a": {(format!("new{}", rounds - 1)): rounds - 1}}));
    assert!(follower.snapshots >= 2);
}

/// A client does not read for a while. On conflatable topics it is not closed, the server buffers almost nothing for
/// it, and it ends in the right state.
#[tokio::test]
async fn a_full_socket_gets_the_newest_state() {
    let server = Server::open_with("[namespace.wide]\nclass = \"merge\"");
    let topics: Vec<String> = (0..20).map(|t| format!("wide:{t}")).chain(["latest:x".to_owned()]).collect();
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let mut asleep = server.client().await;
    asleep.subscribe(&names).await;
    let mut awake = server.client().await;
    awake.subscribe(&["latest:beside"]).await;

    let filler = "x".repeat(4_000);
    let mut expected: Vec<Value> = vec![json!({}); topics.len()];
    let mut offsets = vec![0u64; topics.len()];
    // Far more than the sockets' buffers take.
    for round in 0..400u64 {
        let mut batch = Vec::new();
        for (t, topic) in topics.iter().enumerate() {
            let data = if topic == "latest:x" {
                json!(round)
            } else if round % 50 == 49 {
                // From time to time a change that cannot be composed with the next.
                json!({"o": if round % 100 == 49 { Value::Null } else { json!({"r": round}) }})
            } else {
                json!({(format!("k{}", round % 7)): round, "pad": filler})
            };
            if topic == "latest:x" {
                expected[t] = data.clone()
            } else {
                json_patch::merge(&mut expected[t], &data)
            }
            offsets[t] += 1;
            batch.push((topic.clone(), data));
        }
        server.publish_all(&batch);
        server.publish("latest:beside", &json!(round));
        assert_eq!(awake.next().await["data"], round, "the other session is not affected");
    }
    assert_eq!(server.metric("slow_sessions"), 1.0);
    let backlog = server.metric("backlog_bytes");
    assert!(backlog < 128.0 * 1024.0, "{backlog} bytes are buffered for it");

    let mut followers: Vec<Follower> =
        (0..topics.len()).map(|_| Follower { state: json!({}), ..Follower::default() }).collect();
    while followers.iter().zip(&offsets).any(|(f, o)| f.offset < *o) {
        let message = asleep.next().await;
        let t = topics.iter().position(|name| message["topic"] == **name).unwrap();
        if topics[t] == "latest:x" {
            let (prev, offset) = (message["prev"].as_u64().unwrap(), message["offset"].as_u64().unwrap());
            assert!(prev <= followers[t].offset && followers[t].offset < offset);
            followers[t].offset = offset;
            followers[t].state = message["data"].clone();
        } else {
            followers[t].take(&message);
        }
    }
    for (t, follower) in followers.iter().enumerate() {
        assert_eq!(follower.state, expected[t], "{}", topics[t]);
    }
    server.until("no session is slow", |s| s.metric("slow_sessions") == 0.0 && s.metric("backlog_bytes") == 0.0).await;
    // Then it continues as any other.
    server.publish("latest:x", &json!("after"));
    assert_eq!(asleep.next().await["data"], "after");
    asleep.nothing_more().await;
}

/// On a stream nothing may be lost: above the backlog limit the session is closed with "reconnect and recover", and
/// recovers.
#[tokio::test]
async fn a_slow_stream_subscriber_is_closed_and_recovers() {
    let server = Server::open_with("[namespace.s]\nhistory_size = 60000\nhistory_bytes = 100000000");
    let mut slow = server.client().await;
    let reply = slow.subscribe(&["s:a"]).await;
    let epoch = reply["topics"]["s:a"]["epoch"].clone();
    let filler = "x".repeat(2_000);
    let mut n = 0u64;
    while server.metric("closes_total{reason=\"slow\"}") == 0.0 {
        let batch: Vec<(String, Value)> = (0..500)
            .map(|_| {
                n += 1;
                ("s:a".to_owned(), json!({"n": n, "pad": filler}))
            })
            .collect();
        server.publish_all(&batch);
        assert!(n < 50_000, "never closed");
    }
    let mut seen = 0;
    let code = loop {
        match slow.got().await {
            crate::support::Got::Json(delta) => {
                assert_eq!(delta["data"]["n"], seen + 1);
                seen += 1;
            }
            crate::support::Got::Close(code, reason) => {
                assert!(reason.contains("recover"), "{reason}");
                break code;
            }
            crate::support::Got::End => panic!("the close frame was lost"),
        }
    };
    assert_eq!(code, 3008);
    let mut back = Client::connect(server.address).await;
    back.send(json!({"op": "subscribe", "args": ["s:a"], "since": {"s:a": {"offset": seen, "epoch": epoch}}})).await;
    assert_eq!(back.next().await["topics"]["s:a"]["recovered"], true);
    while seen < n {
        assert_eq!(back.next().await["data"]["n"], seen + 1);
        seen += 1;
    }
    back.nothing_more().await;
}
