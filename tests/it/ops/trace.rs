//! A delta followed through the log, from its source to the last socket.

use serde_json::{Value, json};

use crate::support::{OPEN, Server};

const SHARDS: usize = 2;

fn traced(sample: &str) -> Server {
    let config = OPEN.replace("[server]", "[server]\nlog_format = \"json\"");
    Server::start(&format!(
        "{config}\n[namespace.slow]\nclass = \"latest\"\nmax_rate = 0.5\n[trace]\nsample = {sample}\n"
    ))
}

/// The log lines of a topic's delta.
fn lines(server: &Server, topic: &str, offset: u64) -> Vec<Value> {
    let log = server.log();
    let all = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}")));
    all.filter(|l| l["trace"].is_string() && l["topic"] == topic && l["offset"] == offset).collect()
}

fn of(lines: &[Value], what: &str) -> Vec<Value> {
    lines.iter().filter(|l| l["message"] == format!("trace: {what}")).cloned().collect()
}

#[tokio::test]
async fn a_delta_from_its_source_to_the_last_socket() {
    let server = traced("1.0");
    let mut clients = Vec::new();
    for _ in 0..4 * SHARDS {
        let mut client = server.client().await;
        client.subscribe(&["stream:a"]).await;
        clients.push(client);
    }
    let offset = server.publish("stream:a", &json!({"n": 1}));
    for client in &mut clients {
        assert_eq!(client.next().await["offset"], offset);
    }
    server.until("flushed", |s| of(&lines(s, "stream:a", offset), "flushed").len() == SHARDS).await;
    let lines = lines(&server, "stream:a", offset);
    let id = lines[0]["trace"].as_str().unwrap();
    assert_eq!(id.len(), 16);
    assert!(lines.iter().all(|l| l["trace"] == id), "{lines:#?}");

    let us = |line: &Value, key: &str| line[key].as_u64().unwrap_or_else(|| panic!("no {key} in {line}"));
    let (taken, published) = (of(&lines, "taken"), of(&lines, "published"));
    let ([taken], [published]) = (taken.as_slice(), published.as_slice()) else { panic!("{lines:#?}") };
    assert_eq!((us(taken, "us"), us(taken, "bytes")), (0, 7));
    assert!(us(taken, "taken_ms") > 1_600_000_000_000);
    let applied = us(published, "applied_us");
    assert!(applied <= us(published, "us"));
    assert_eq!((us(published, "shards"), us(published, "encodings")), (SHARDS as u64, 1));
    let mut writes = 0;
    for shard in 0..SHARDS {
        let mine: Vec<Value> = lines.iter().filter(|l| l["shard"] == shard).cloned().collect();
        let (tick, fanned, flushed) = (of(&mine, "tick"), of(&mine, "fanned out"), of(&mine, "flushed"));
        let ([tick], [fanned], [flushed]) = (tick.as_slice(), fanned.as_slice(), flushed.as_slice()) else {
            panic!("{mine:#?}");
        };
        let times = [
            applied,
            us(tick, "us"),
            us(fanned, "us"),
            us(flushed, "first_write_us"),
            us(flushed, "last_write_us"),
            us(flushed, "us"),
        ];
        assert!(times.is_sorted(), "{times:?} in shard {shard}");
        assert_eq!((us(fanned, "subscribers"), us(fanned, "receivers")), (4, 4), "{fanned}");
        assert_eq!((us(flushed, "conflated"), us(flushed, "withheld")), (0, 0), "{flushed}");
        writes += us(flushed, "writes");
    }
    assert_eq!(writes, 4 * SHARDS as u64);
}

/// With a rate: a delta waits for its turn, or a newer one replaces it, and the log says which.
#[tokio::test]
async fn deltas_that_are_conflated() {
    let server = traced("1.0");
    let mut client = server.client().await;
    client.subscribe(&["slow:a"]).await;
    let deltas: Vec<(String, Value)> = (1..=3).map(|n| ("slow:a".to_owned(), json!(n))).collect();
    server.publish_all(&deltas);
    while client.next().await["offset"] != 3 {}
    let flushed = |s: &Server, offset| of(&lines(s, "slow:a", offset), "flushed");
    server.until("all three are done", |s| (1..=3).all(|offset| flushed(s, offset).len() == 1)).await;
    let conflated: Vec<u64> = (1..=3).map(|o| flushed(&server, o)[0]["conflated"].as_u64().unwrap()).collect();
    assert!(conflated[..2].contains(&1) && conflated[2] == 0, "{conflated:?}");
    for offset in 1..=3 {
        assert_eq!(of(&lines(&server, "slow:a", offset), "fanned out")[0]["throttled"], 1);
        assert_eq!(flushed(&server, offset)[0]["writes"], 1);
    }
}

#[tokio::test]
async fn untraced_deltas_are_not_logged() {
    let server = traced("0.0");
    let mut client = server.client().await;
    client.subscribe(&["stream:a"]).await;
    for n in 1..=50 {
        server.publish("stream:a", &json!(n));
        client.next().await;
    }
    assert!(!server.log().contains("\"trace\":"), "{}", server.log());
}
