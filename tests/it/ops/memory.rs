//! The limits on all backlogs, and on the memory of all topics: they are kept and reported, and returning clients get
//! correct answers.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::support::{Client, Got, OPEN, Server};

const MIB: usize = 1024 * 1024;

async fn back_at(server: &Server, topic: &str, offset: u64, epoch: &Value) -> (Client, Value) {
    let mut client = server.client().await;
    let since = json!({topic: {"offset": offset, "epoch": epoch}});
    client.send(json!({"op": "subscribe", "id": 1, "args": [topic], "since": since})).await;
    let reply = client.next().await;
    (client, reply["topics"][topic].clone())
}

/// Sessions that read nothing, on a busy stream: each is far below its own limit, all together are above theirs.
#[tokio::test]
async fn backlogs_of_all_sessions() {
    let server = Server::open_with(
        "[limits]\nbacklog_total_bytes = 3145728\nbacklog_bytes = 33554432\n\
         [namespace.s]\nhistory_size = 2000\nhistory_bytes = 134217728",
    );
    let ceiling = server.metric("backlog_limit_bytes");
    assert_eq!(ceiling, (3 * MIB) as f64);
    let mut healthy = server.client().await;
    let epoch = healthy.subscribe(&["s:a"]).await["topics"]["s:a"]["epoch"].clone();
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut client = server.client().await;
        client.subscribe(&["s:a"]).await;
        slow.push(client);
    }
    let pad = "x".repeat(16_000);
    let mut last = 0;
    while server.metric("backlog_evictions_total") == 0.0 {
        last = server.publish("s:a", &json!({"n": last + 1, "pad": pad}));
        let got = healthy.next().await;
        assert_eq!((&got["offset"], &got["data"]["n"]), (&json!(last), &json!(last)), "healthy sessions miss nothing");
        let owed = server.metric("backlog_bytes");
        // The metric may be read between this delta and the close.
        assert!(owed <= ceiling + 2.0 * 16_384.0, "{owed} bytes of backlog");
        assert!(last < 2_000, "{owed} bytes of backlog and no session is closed");
    }
    let mut closed = 0;
    for mut client in slow {
        let mut seen = 0;
        let went = loop {
            if seen == last {
                break false;
            }
            match client.got().await {
                Got::Json(delta) => {
                    assert_eq!(delta["offset"], seen + 1, "the deltas have no gap");
                    seen += 1;
                }
                Got::Close(code, _) => {
                    assert_eq!(code, 3008);
                    break true;
                }
                // The time to read the close frame was over.
                Got::End => break true,
            }
        };
        if !went {
            client.nothing_more().await;
            continue;
        }
        closed += 1;
        let (mut client, standing) = back_at(&server, "s:a", seen, &epoch).await;
        assert_eq!((&standing["recovered"], &standing["offset"]), (&json!(true), &json!(last)));
        while seen < last {
            seen += 1;
            assert_eq!(client.next().await["data"]["n"], seen);
        }
        client.nothing_more().await;
    }
    let relieved = server.metric("backlog_evictions_total");
    assert!((1..8).contains(&closed), "{closed} of 8 were closed");
    assert_eq!(relieved, f64::from(closed));
    assert_eq!(server.metric("closes_total{reason=\"slow\"}"), relieved);
    healthy.nothing_more().await;
    server.until("no backlog is left", |s| s.metric("backlog_bytes") == 0.0).await;
    let memory = &server.status()["memory"];
    assert_eq!(memory["backlog_bytes"], json!({"now": 0, "max": 3 * MIB}));
}

fn rss(server: &Server) -> usize {
    usize::try_from(server.status()["memory"]["rss_bytes"].as_u64().unwrap()).unwrap()
}

/// Ten times as much as the limit, on many topics, half of them with a subscriber, so that frames are kept too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_of_all_topics() {
    const TOPICS: usize = 200;
    let server = Server::open_with(
        "[limits]\nhistory_total_bytes = 16777216\nbacklog_bytes = 134217728\n\
         [namespace.s]\nhistory_size = 10000\nhistory_bytes = 134217728\n[namespace.l]\nclass = \"latest\"",
    );
    let mut client = server.client().await;
    let followed: Vec<String> = (0..TOPICS).step_by(2).map(|n| format!("s:{n}")).collect();
    client.subscribe(&followed.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let epoch = back_at(&server, "s:0", 0, &json!("")).await.1["epoch"].clone();
    let reading = tokio::spawn(async move {
        let mut got: HashMap<String, u64> = HashMap::new();
        while got.values().filter(|offset| **offset >= 400).count() < TOPICS / 2 {
            let delta = client.next().await;
            let at = got.entry(delta["topic"].as_str().unwrap().to_owned()).or_default();
            assert_eq!(delta["offset"], *at + 1, "subscribers miss nothing: {}", delta["topic"]);
            *at += 1;
        }
    });
    let before = rss(&server);
    server.publish("l:small", &json!("first"));
    let pad = "x".repeat(1_000);
    let mut most = 0.0f64;
    for round in 0..40 {
        let deltas: Vec<(String, Value)> = (0..TOPICS)
            .flat_map(|n| std::iter::repeat_n(format!("s:{n}"), 10))
            .enumerate()
            .map(|(i, topic)| (topic, json!({"n": round * 10 + i % 10 + 1, "pad": pad})))
            .collect();
        server.publish_all(&deltas);
        most = most.max(server.metric("history_bytes"));
    }
    // 80 MB of payload, and as much of frames for half of it. A shard may create a delta's frame after the delta was
    // counted.
    assert!(most <= (16 * MIB + 64 * 1024) as f64, "{most} bytes are kept");
    assert!(most >= (10 * MIB) as f64, "room is used: {most}");
    assert!(server.metric("history_evicted_total") > 50_000.0);
    reading.await.unwrap();
    server.until("swept", |s| s.metric("history_bytes") <= (14 * MIB) as f64).await;
    let grown = rss(&server).saturating_sub(before);
    assert!(grown < 100 * MIB, "{} MiB more than at the beginning", grown / MIB);

    // What is kept is replayed, and what is not is reported as such.
    let (mut whole, standing) = back_at(&server, "s:0", 398, &epoch).await;
    assert_eq!(standing["recovered"], true);
    assert_eq!((whole.next().await["offset"].clone(), whole.next().await["offset"].clone()), (json!(399), json!(400)));
    for topic in ["s:0", "s:1"] {
        let (mut too_late, standing) = back_at(&server, topic, 1, &epoch).await;
        assert_eq!((&standing["recovered"], &standing["offset"]), (&json!(false), &json!(400)));
        too_late.nothing_more().await;
    }
    // A topic with little history keeps it.
    assert_eq!(server.publish("l:small", &json!("second")), 2);
    let (mut small, standing) = back_at(&server, "l:small", 1, &epoch).await;
    assert_eq!(standing["recovered"], true);
    assert_eq!(small.next().await["type"], "delta");
    assert_eq!(server.status()["memory"]["history_bytes"]["max"], 16 * MIB);
}

/// State cannot be evicted: new topics are refused, and at the end also deltas that make states larger.
#[tokio::test]
async fn state_of_all_topics() {
    let server = Server::open_with("[limits]\nstate_total_bytes = 1048576");
    let publish = |topic: &str, data: Value| server.post("/api/publish", &json!({"channel": topic, "data": data}));
    let part = "x".repeat(50_000);
    let mut held = 0;
    let refused = loop {
        let (status, reply) = publish(&format!("merge:{held}"), json!({"pad": part}));
        if status != 200 {
            break reply;
        }
        held += 1;
        assert!(held < 100, "states grow without bound");
    };
    assert!((15..25).contains(&held), "{held} states of 50 KB");
    assert!(refused["error"]["message"].as_str().unwrap().contains("limits.state_total_bytes"), "{refused}");
    assert_eq!(server.metric("state_refused_total"), 1.0);
    assert_eq!(server.metric("deltas_refused_total{reason=\"state_total\"}"), 1.0);
    // Existing topics continue, and may grow by an eighth.
    let mut grown = 0;
    while publish("merge:0", json!({(format!("k{grown}")): "y".repeat(10_000)})).0 == 200 {
        grown += 1;
        assert!(grown < 50, "states grow without bound");
    }
    assert!((8..20).contains(&grown), "{grown} times 10 KB more");
    let state = server.metric("state_bytes");
    assert!(state <= server.metric("state_limit_bytes") * 1.15, "{state}");
    // A delta that does not make the state larger is always accepted.
    assert_eq!(publish("merge:1", json!({"pad": "z".repeat(50_000)})).0, 200);
    assert_eq!(publish("merge:0", json!({"k0": null, "k1": 1})).0, 200);
    let mut client = server.client().await;
    client.send(json!({"op": "subscribe", "id": 1, "args": ["merge:new", "merge:1"]})).await;
    // Unpublished topics have their own limit.
    let reply = client.next().await;
    assert_eq!(reply["topics"]["merge:new"]["offset"], 0);
    assert_eq!(reply["topics"]["merge:1"]["offset"], 2);
    assert_eq!(publish("merge:new", json!({"a": 1})).0, 503);
    // With room again, new ones are accepted.
    for n in 0..held {
        publish(&format!("merge:{n}"), json!({"pad": null}));
    }
    assert_eq!(publish("merge:another", json!({"a": 1})).0, 200);
}

/// One figure, or none; logged at the start.
#[tokio::test]
async fn one_figure() {
    let limit = |memory: &str| OPEN.to_owned() + &format!("[limits]\nmemory = {memory}\n");
    for (memory, origin, parts) in [
        (
            "\"64MiB\"",
            "backlogs up to 8.0 MiB, history up to 16.0 MiB, state up to 16.0 MiB, deltas up to 8.0 MiB, incoming messages up to 2.0 MiB, \
             requests of sessions up to 1.0 MiB, outgoing frames up to 1.0 MiB, states on their way up to 2.0 MiB, HTTP requests up to 2.0 MiB, HTTP answers up to 2.0 MiB (of 64.0 MiB: limits.memory)",
            [8, 16, 16],
        ),
        ("134217728\nstate_total_bytes = 1048576", "state up to 1.0 MiB", [16, 32, 1]),
        (
            "\"off\"",
            "backlogs without a ceiling, history without a ceiling, state without a ceiling, deltas without a ceiling, \
             incoming messages without a ceiling, requests of sessions up to 64.0 MiB, outgoing frames without a ceiling, states on their way without a ceiling, HTTP requests without a ceiling, HTTP answers without a ceiling \
             (limits.memory is off)",
            [0, 0, 0],
        ),
    ] {
        let server = Server::start(&limit(memory));
        server.until("it is logged", |s| s.log().contains("memory: ")).await;
        assert!(server.log().contains(origin), "{origin} is missing in\n{}", server.log());
        for (name, mib) in ["backlog", "history", "state"].into_iter().zip(parts) {
            assert_eq!(server.metric(&format!("{name}_limit_bytes")), f64::from(mib) * MIB as f64);
            let max = &server.status()["memory"][format!("{name}_bytes")]["max"];
            assert_eq!(max.as_u64(), (mib > 0).then_some(mib as u64 * MIB as u64));
        }
    }
    let server = Server::open();
    server.until("it is logged", |s| s.log().contains("memory: ")).await;
    assert!(server.log().contains("3/4 of "), "{}", server.log());
    assert!(server.metric("history_limit_bytes") > 0.0);
}
