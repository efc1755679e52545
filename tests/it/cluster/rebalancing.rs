//! `POST /admin/drain`: some of a node's sessions move to other nodes; the remaining ones are not affected.

use crate::support::publishing::{Publishing, all_have_all, to_redis};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::reconnecting_client::{Diary, reconnecting_clients, span};
use crate::support::sdk::{Driver, Sdk};
use crate::support::{OPEN, PROGRAM, Redis, Server};

fn sessions(server: &Server) -> u64 {
    server.status()["sessions"]["now"].as_u64().unwrap()
}

#[tokio::test]
async fn a_share_of_the_sessions_moves_and_no_other_is_affected() {
    let redis = Redis::start();
    let (full, empty) = (redis.server("").await, redis.server("").await);
    let diary = Arc::new(Diary::default());
    let reconnecting_clients = reconnecting_clients(120, &[full.address, empty.address], &diary);
    full.until("all are subscribed", |_| diary.standing.load(Ordering::SeqCst) == 120).await;
    let publishing = Publishing::start(to_redis(&redis));
    let (status, reply) = full.post("/admin/drain?share=0.25&window=2s", &Value::Null);
    assert_eq!(status, 200, "{reply}");
    assert_eq!((&reply["result"]["sessions"], &reply["result"]["shedding"]), (&json!(120), &json!(30)), "{reply}");
    // The node still accepts new clients.
    assert_eq!(full.get("/readyz").0, 200);
    let there = |n: usize| diary.standing.load(Ordering::SeqCst) == n;
    full.until("gone", |s| sessions(s) == 90 && sessions(&empty) == 30 && there(120)).await;
    full.until("counted", |s| s.metric("sessions_rebalanced_total") == 30.0 && s.metric("sessions_rebalancing") == 0.0)
        .await;
    // Both shards closed equally many.
    assert_eq!(full.status()["sessions"]["by_shard"], json!([45, 45]));
    let closed = |n| reconnecting_clients.iter().filter(|r| r.closed.load(Ordering::SeqCst) == n).count();
    assert_eq!((closed(0), closed(1)), (90, 30), "a wrong session was closed, or one was closed twice");
    let codes = diary.codes();
    assert_eq!(codes.values().sum::<usize>(), 30);
    assert!(codes.keys().all(|code| [1012, 3001].contains(code)), "{codes:?}");
    // In waves, and each with its own reconnect delay.
    let closes = span(diary.closes.lock().unwrap().iter().map(|(at, _)| *at));
    assert!(closes > Duration::from_secs(1), "all were closed at once: within {closes:?}");
    let mut hints = diary.hints.lock().unwrap().clone();
    hints.sort_unstable();
    hints.dedup();
    assert!(hints.len() > 15 && *hints.last().unwrap() <= 1_000, "{hints:?}");
    let last = publishing.end();
    all_have_all(&full, &reconnecting_clients, &diary, last).await;
    assert_eq!(diary.closes.lock().unwrap().len(), 30);
}

#[tokio::test]
async fn down_to_the_mean_of_all_nodes() {
    let redis = Redis::start();
    let alone = redis.server("").await;
    let (status, reply) = alone.post("/admin/drain?to=mean", &Value::Null);
    assert_eq!(status, 409, "{reply}");
    assert!(reply["error"]["message"].as_str().unwrap().contains("no other ready node"), "{reply}");
    let (second, third) = (redis.server("").await, redis.server("").await);
    let diary = Arc::new(Diary::default());
    let reconnecting_clients = reconnecting_clients(90, &[alone.address, second.address, third.address], &diary);
    let there = || diary.standing.load(Ordering::SeqCst) == 90;
    alone.until("all are subscribed", |_| there()).await;
    let knows = |s: &Server| {
        let (_, info) = s.post("/api/info", &json!({}));
        let nodes = info["result"]["nodes"].as_array().unwrap().clone();
        nodes.len() == 3 && nodes.iter().all(|n| n["ready"] == true)
    };
    alone.until("the others are known", knows).await;
    let (status, reply) = alone.post("/admin/drain?to=mean&window=200ms", &Value::Null);
    let want = json!({"sessions": 90, "shedding": 60, "mean": 30, "window_ms": 200});
    assert_eq!((status, &reply["result"]), (200, &want));
    // Closed sessions go to the second node, because there is no balancer.
    alone.until("gone", |s| sessions(s) == 30 && there()).await;
    // A request before the others have reported again would close too many.
    let (status, reply) = alone.post("/admin/drain?to=mean", &Value::Null);
    assert_eq!(status, 409, "{reply}");
    assert!(reply["error"]["message"].as_str().unwrap().contains("still reconnecting"), "{reply}");
    let reported = |s: &Server| {
        let (_, info) = s.post("/api/info", &json!({}));
        let nodes = info["result"]["nodes"].as_array().unwrap().clone();
        let mut counts: Vec<u64> = nodes.iter().map(|n| n["num_clients"].as_u64().unwrap()).collect();
        counts.sort_unstable();
        counts == [0, 30, 60]
    };
    for server in [&alone, &second, &third] {
        server.until("reported", reported).await;
    }
    // Nodes at or only slightly above the mean close no sessions.
    alone.until("settled", |s| s.post("/admin/drain?to=mean", &Value::Null).1["result"]["shedding"] == 0).await;
    assert_eq!(third.post("/admin/drain?to=mean", &Value::Null).1["result"]["shedding"], 0);
    assert_eq!(second.post("/admin/drain?to=mean&above=1", &Value::Null).1["result"]["shedding"], 0);
    assert_eq!(second.post("/admin/drain?to=mean&above=0.5&window=0s", &Value::Null).1["result"]["shedding"], 30);
    second.until("even", |s| [s, &alone, &third].iter().all(|s| sessions(s) == 30) && there()).await;
    let publishing = Publishing::start(to_redis(&redis));
    let last = publishing.end();
    all_have_all(&alone, &reconnecting_clients, &diary, last).await;
}

#[tokio::test]
async fn one_request_at_a_time_and_a_shutdown_takes_all() {
    let mut server = Server::open();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = server.client().await;
        client.subscribe(&["stream:a"]).await;
        clients.push(client);
    }
    let (status, reply) = server.post("/admin/drain?share=0.5&window=10m", &Value::Null);
    assert_eq!((status, &reply["result"]["shedding"]), (200, &json!(10)));
    let (status, reply) = server.post("/admin/drain?share=0.5", &Value::Null);
    assert_eq!(status, 409, "{reply}");
    assert!(reply["error"]["message"].as_str().unwrap().contains("10 sessions of an earlier request"), "{reply}");
    assert_eq!(server.metric("sessions_rebalancing"), 10.0);
    for client in &mut clients {
        client.nothing_more().await;
    }
    server.signal("TERM");
    for client in &mut clients {
        assert_eq!(client.close_code().await, 1012);
    }
    assert!(server.wait().success());
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_with_the_reason() {
    let keyed = OPEN.replace("open = true", "keys = [\"operators-key-0123456789\"]");
    let server = Server::start(&keyed.replace("drain_window = \"0s\"", "drain_window = \"10m\""));
    let key = ("X-API-Key", "operators-key-0123456789");
    let ask = |query: &str, headers: &[(&str, &str)]| {
        let (status, _, body) = server.http("POST", &format!("/admin/drain{query}"), headers, "");
        (status, body)
    };
    assert_eq!(ask("?share=0.2", &[]).0, 401);
    assert_eq!(ask("?share=0.2", &[("X-API-Key", "another")]).0, 401);
    assert_eq!(server.http("GET", "/admin/drain?share=0.2", &[key], "").0, 405);
    for (query, why) in [
        ("", "how many?"),
        ("?share=0", "above 0 and at most 1"),
        ("?share=1.5", "above 0 and at most 1"),
        ("?share=a", "above 0 and at most 1"),
        ("?to=zero", "to=mean"),
        ("?to=mean&above=a", "above=a is not a number"),
        ("?share=0.2&to=mean", "exclude each other"),
        ("?share=0.2&window=long", "window=long is not a time"),
        ("?share=0.2&window=1h", "longer than 10m"),
        ("?part=0.2", "known are share, to, above, window"),
    ] {
        let (status, body) = ask(query, &[key]);
        assert_eq!(status, 400, "{query}: {body}");
        assert!(body.contains(why), "{query}: {body}");
    }
    // Without sessions, none is closed.
    let (status, body) = ask("?share=1", &[key]);
    assert!(status == 200 && body.contains("\"shedding\":0"), "{body}");
    let mut client = server.client().await;
    client.subscribe(&["stream:a"]).await;
    server.signal("TERM");
    server.until("draining", |s| s.get("/readyz").0 == 503).await;
    let (status, body) = ask("?share=0.2", &[key]);
    assert!(status == 503 && body.contains("shutting down"), "{status} {body}");
}

#[tokio::test]
async fn published_sdks_come_back_and_recover() {
    let server = Server::open();
    for sdk in Sdk::ALL {
        let mut client = Driver::connect(sdk, &server, json!({})).await;
        client.until("connected").await;
        client.subscribe("stream:sdk", json!({})).await;
        server.publish("stream:sdk", &json!(1));
        assert_eq!(client.publications(1).await, [1]);
        let (status, reply) = server.post("/admin/drain?share=1&window=0s", &Value::Null);
        assert_eq!((status, &reply["result"]["shedding"]), (200, &json!(1)));
        assert_eq!(client.until("connecting").await["code"], 3001, "{sdk:?}");
        server.publish("stream:sdk", &json!(2));
        assert_eq!(client.publications(1).await, [2], "{sdk:?}");
        assert_eq!(client.seen("disconnected"), 0);
        drop(client);
        server.until("it is gone", |s| sessions(s) == 0).await;
    }
}

#[tokio::test]
async fn by_the_command_line() {
    let keyed = OPEN.replace("open = true", "keys = [\"operators-key-0123456789\"]");
    let server = Server::start(&keyed);
    let mut client = server.client().await;
    client.subscribe(&["stream:a"]).await;
    let url = format!("http://{}", server.address);
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(PROGRAM);
        let output = command.args(["drain", &url]).args(args).env_remove("NEXUS_API_KEY").output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    let key = ["--key", "operators-key-0123456789"];
    let (good, text) = run(&["--share", "1"]);
    assert!(!good && text.contains("401") && text.contains("X-API-Key"), "{text}");
    let (good, text) = run(&[&["--share", "2"][..], &key].concat());
    assert!(!good && text.contains("share=2 is not a number"), "{text}");
    let (good, text) = run(&[&["--to-mean"][..], &key].concat());
    assert!(!good && text.contains("409") && text.contains("no other ready node"), "{text}");
    let (good, text) = run(&key);
    assert!(!good && text.contains("--share"), "{text}");
    let (good, text) = run(&[&["--share", "1.0", "--window", "0s"][..], &key].concat());
    assert!(good && text.contains("1 of 1 sessions go within 0s"), "{text}");
    assert_eq!(client.close_code().await, 1012);
}
