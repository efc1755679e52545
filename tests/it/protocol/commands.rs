//! The cost of a session's commands: each has one answer, no longer than the command, and takes no more of the server's
//! time than the session's turn. A healthy session runs beside each attack.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::bystander::Healthy;
use crate::support::deflate::deflated;
use crate::support::raw_socket::{frame, upgraded, upgraded_at};
use crate::support::tokens::{claims, config, hs256};
use crate::support::{Client, Server};

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";

fn token(user: &str) -> String {
    hs256(&claims(user, 600, json!({"topics": ["*"]})))
}

/// How many topics a reply says were refused.
fn refused(reply: &Value) -> u64 {
    let groups = reply["refused"].as_array().cloned().unwrap_or_default();
    groups.iter().map(|g| g["topics"].as_array().unwrap().len() as u64 + g["more"].as_u64().unwrap_or(0)).sum()
}

/// Reads what the server still sends, however it ends. Returns the bytes.
fn drained(stream: &mut TcpStream) -> usize {
    let (mut bytes, mut buffer) = (0, vec![0; 64 * 1024]);
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        bytes += n;
    }
    bytes
}

#[tokio::test]
async fn each_command_has_one_reply_even_if_refused_in_part() {
    let server = Server::open();
    let mut client = server.client().await;
    client.subscribe(&["merge:mine"]).await;
    let table = [
        (json!({"op": "subscribe", "args": ["bad name", "merge:a", ""]}), true, 2),
        (json!({"op": "subscribe", "args": ["bad name", "", "also bad"]}), false, 3),
        (json!({"op": "snapshot", "args": ["bad name", "merge:a", ""]}), true, 2),
        (json!({"op": "snapshot", "args": ["", ""]}), false, 2),
        (json!({"op": "unsubscribe", "args": ["bad name", "merge:none"]}), true, 1),
        (json!({"op": "unsubscribe", "args": ["", "bad name"]}), false, 2),
        (json!({"op": "rate", "args": ["merge:mine", "merge:none", "stream:a"], "max_rate": 5}), true, 2),
        (json!({"op": "rate", "args": ["merge:none", "stream:a", ""], "max_rate": 5}), false, 3),
    ];
    for (n, (mut command, ok, count)) in table.into_iter().enumerate() {
        command["id"] = json!(100 + n);
        client.send(command.clone()).await;
        let mut reply = client.next().await;
        while reply["type"] == "snapshot" {
            reply = client.next().await;
        }
        assert_eq!(
            (&reply["id"], &reply["ok"], refused(&reply)),
            (&command["id"], &json!(ok), count),
            "{command}: {reply}"
        );
        assert!(reply["error"]["code"].is_u64(), "{reply}");
        client.nothing_more().await;
    }
    // A single topic gets the usual answer.
    for (command, code) in [
        (json!({"op": "subscribe", "id": 7, "args": [""]}), 400),
        (json!({"op": "rate", "id": 7, "args": ["merge:none"], "max_rate": 5}), 404),
    ] {
        client.send(command.clone()).await;
        let reply = client.next().await;
        let error = &reply["error"];
        assert_eq!((&reply["ok"], &error["code"], &error["topic"]), (&json!(false), &json!(code), &command["args"][0]));
        assert!(reply["refused"].is_null(), "{reply}");
        client.nothing_more().await;
    }
}

#[tokio::test]
async fn a_list_above_the_subscription_limit_is_refused_as_a_whole() {
    let server = Server::open();
    let mut client = server.client().await;
    for op in ["subscribe", "unsubscribe", "snapshot", "rate"] {
        for list in [vec!["a"; 16_300], vec![""; 21_000], vec!["latest:x"; 513]] {
            client.send(json!({"op": op, "id": 1, "args": list})).await;
            let reply = client.next().await;
            assert_eq!((&reply["op"], &reply["error"]["code"]), (&json!(op), &json!(429)), "{reply}");
            assert!(reply["error"]["reason"].as_str().unwrap().contains("512"), "{reply}");
            client.nothing_more().await;
        }
    }
    let since: serde_json::Map<String, Value> =
        (0..513).map(|n| (format!("a{n}"), json!({"offset": 1, "epoch": "e"}))).collect();
    client.send(json!({"op": "subscribe", "id": 1, "args": ["a0"], "since": since})).await;
    assert_eq!(client.next().await["error"]["code"], 429);
    assert_eq!(server.metric("subscriptions"), 0.0);
}

/// A few bytes that inflate to many names, without a token, at the full command rate, from four sockets at once.
#[tokio::test]
async fn names_by_the_thousand_without_a_token_cost_next_to_nothing() {
    let server = Server::start(&config("[limits]\nmemory = \"256MiB\"\nmessage_bytes_before_auth = 65536"));
    let bearer = format!("Bearer {}", token("healthy"));
    let mut healthy = Healthy::beside_with(&server, &[("authorization", &bearer)]).await;
    let before = server.metric("resident_memory_bytes");
    let address = server.address;
    let many = |op: &str, name: &str| json!({"op": op, "args": vec![name; 16_300]}).to_string();
    let attacks: Vec<Vec<u8>> =
        [many("subscribe", "a"), many("snapshot", "a"), many("rate", ""), many("unsubscribe", "")]
            .iter()
            .map(|text| frame(0xc1, &deflated(text.as_bytes())).repeat(200))
            .collect();
    assert!(attacks.iter().all(|attack| attack.len() < 200 * 160), "some 115 bytes each");
    let answers = healthy
        .during(1, move |round| {
            let mut streams: Vec<TcpStream> = (0..4).map(|_| upgraded_at(address, "/ws", OFFER).0).collect();
            for (stream, n) in streams.iter_mut().zip(0..) {
                // It may be closed before all of it was written.
                let _ = stream.write_all(&attacks[(round + n) % attacks.len()]);
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            streams.iter_mut().map(drained).max().unwrap()
        })
        .await;
    let sent = 200 * 160;
    assert!(answers.iter().all(|bytes| *bytes < 10 * sent), "answers of {answers:?} bytes to {sent}");
    let grown = server.metric("resident_memory_bytes") - before;
    assert!(grown < 64e6, "{grown} bytes more are used");
    server.until("they are gone", |s| s.metric("sessions") == 1.0).await;
}

/// 10,895 names in 64 KB, and as many as are read, three times a second from two sessions.
#[tokio::test]
async fn sessions_that_name_many_topics_leave_the_others_their_turn() {
    let server = Server::open();
    let mut healthy = Healthy::beside(&server).await;
    let address = server.address;
    // Three characters each.
    let name = |n: usize| -> String {
        [n / 1_296, n / 36 % 36, n % 36].iter().filter_map(|n| char::from_digit(u32::try_from(*n).ok()?, 36)).collect()
    };
    let list = |count: usize| json!({"op": "subscribe", "args": (0..count).map(name).collect::<Vec<_>>()});
    let (all, most) = (list(10_895).to_string(), list(512).to_string());
    let centrifuge: String =
        (0..512).map(|n| format!("{{\"id\":{},\"subscribe\":{{\"channel\":\"{n:x}\"}}}}\n", n + 2)).collect();
    healthy
        .during(6, move |_| {
            let (mut first, mut second) = (upgraded_at(address, "/ws", "").0, upgraded_at(address, "/ws", "").0);
            let (mut third, _) = upgraded_at(address, "/connection/websocket", "");
            for _ in 0..3 {
                first.write_all(&frame(0x81, all.as_bytes())).unwrap();
                second.write_all(&frame(0x81, most.as_bytes())).unwrap();
            }
            third.write_all(&frame(0x81, b"{\"id\":1,\"connect\":{}}")).unwrap();
            third.write_all(&frame(0x81, centrifuge.as_bytes())).unwrap();
            for stream in [&mut first, &mut second, &mut third] {
                stream.write_all(&frame(0x88, &[3, 232])).unwrap();
                drained(stream);
            }
        })
        .await;
    server.until("no trace is left", |s| s.metric("sessions") == 1.0 && s.metric("shard_topics") == 1.0).await;
}

/// Commands of a client that does not read its answers wait in the kernel; once it reads, each is answered, in order.
#[tokio::test]
async fn a_session_that_reads_no_answers_is_not_read_until_it_does() {
    let server = Server::open_with(
        "[limits]\nbacklog_bytes = 131072\ncommands_per_second = 100000\ncommands_burst = 100000\nstall_timeout = \"1min\"",
    );
    let mut healthy = Healthy::beside(&server).await;
    let before = server.metric("resident_memory_bytes");
    let (mut stream, _) = upgraded(&server, "/ws", "");
    let (commands, name) = (8_000u64, "bad name ".repeat(25));
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for id in 0..commands {
            let command = json!({"op": "subscribe", "id": id, "args": [name, name, name, name]}).to_string();
            writer.write_all(&frame(0x81, command.as_bytes())).unwrap();
        }
    });
    server.until("it is not read on", |s| s.metric("reads_paused_backlog_total") >= 1.0).await;
    assert!(server.metric("backlog_bytes") <= 131_072.0);
    let grown = server.metric("resident_memory_bytes") - before;
    assert!(grown < 16e6, "{grown} bytes more are used");
    healthy.is_well(&server).await;
    for id in 0..commands {
        let mut head = [0; 4];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(head[..2], [0x81, 126]);
        let mut text = vec![0; usize::from(u16::from_be_bytes([head[2], head[3]]))];
        stream.read_exact(&mut text).unwrap();
        let reply: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&reply["id"], refused(&reply)), (&json!(id), 4));
    }
    writing.join().unwrap();
    healthy.is_well(&server).await;
}

/// Topics that a session will have count once: to start over adds nothing.
#[tokio::test]
async fn the_same_topics_again_count_once() {
    let server = Server::open_with("[limits]\nsubscriptions = 100");
    let mut client = server.client().await;
    let topics: Vec<String> = (0..100).map(|n| format!("latest:{n}")).collect();
    // The second does not wait for the first one's answer.
    for id in 0..3 {
        client.send(json!({"op": "subscribe", "id": id, "args": topics})).await;
    }
    for id in 0..3 {
        let reply = client.next().await;
        assert_eq!((&reply["id"], &reply["ok"]), (&json!(id), &json!(true)), "{reply}");
        assert_eq!(reply["topics"].as_object().unwrap().len(), 100, "{reply}");
        assert!(reply["error"].is_null(), "{reply}");
    }
    client.send(json!({"op": "subscribe", "id": 4, "args": ["latest:more"]})).await;
    assert_eq!(client.next().await["error"]["code"], 429);
    // At once: each is carried out after the one before.
    for (id, op) in ["unsubscribe", "subscribe", "unsubscribe", "subscribe"].into_iter().enumerate() {
        client.send(json!({"op": op, "id": id, "args": topics})).await;
    }
    for id in 0..4 {
        let reply = client.next().await;
        assert_eq!((&reply["id"], &reply["ok"], refused(&reply)), (&json!(id), &json!(true), 0), "{reply}");
    }
    assert_eq!(server.metric("subscriptions"), 100.0);
    client.send(json!({"op": "unsubscribe", "args": topics})).await;
    client.next().await;
    assert_eq!(server.metric("subscriptions"), 0.0);
}

/// Long commands that depend on an earlier one wait for it, whatever their total; their bytes are counted once.
#[tokio::test]
async fn large_unsubscribes_behind_a_subscribe_are_carried_out() {
    let server = Server::open_with("[limits]\ncommands_burst = 40");
    let mut client = server.client().await;
    client.send(json!({"op": "subscribe", "id": 0, "args": ["latest:a"]})).await;
    let many: Vec<String> = (0..250).map(|n| format!("latest:{n}{}", "x".repeat(200))).collect();
    for id in 1..33 {
        client.send(json!({"op": "unsubscribe", "id": id, "args": many})).await;
    }
    for id in 0..33 {
        let reply = client.next().await;
        assert_eq!((&reply["id"], &reply["ok"]), (&json!(id), &json!(true)), "{reply}");
    }
    client.nothing_more().await;
}

/// Requests the snapshot of a large topic until it is refused. Returns how often it came.
async fn until_refused(client: &mut Client) -> (u64, Value) {
    for came in 0.. {
        client.send(json!({"op": "snapshot", "id": 1, "args": ["merge:large"]})).await;
        let mut reply = client.next().await;
        if reply["type"] == "snapshot" {
            reply = client.next().await;
        }
        if reply["ok"] == false {
            return (came, reply);
        }
        assert!(came < 100, "never refused");
    }
    unreachable!()
}

/// Answers to a session have an allowance in bytes, which the sessions of one user share. Deltas are not limited.
#[tokio::test]
async fn answers_to_sessions_have_an_allowance() {
    let limits =
        "[limits]\nreply_bytes_per_second = 1024\nreply_bytes_burst = 300000\n[namespace.merge]\nclass = \"merge\"";
    let server = Server::start(&config(limits));
    let bearer = |user: &str| format!("Bearer {}", token(user));
    let (ann, bob) = (bearer("ann"), bearer("bob"));
    let connect =
        async |bearer: &str| Client::connect_with(server.address, &[("authorization", bearer)]).await.unwrap();
    let mut healthy = Healthy::beside_with(&server, &[("authorization", &bob)]).await;
    server.publish("merge:large", &json!({"pad": "x".repeat(100_000)}));
    let (mut first, mut second, mut other) = (connect(&ann).await, connect(&ann).await, connect(&bob).await);
    let (came, reply) = until_refused(&mut first).await;
    assert!((3..5).contains(&came), "{came} times 100 KB");
    assert_eq!(reply["error"]["code"], 429);
    assert!(reply["error"]["reason"].as_str().unwrap().contains("reply_bytes_per_second"), "{reply}");
    assert_eq!(until_refused(&mut second).await.0, 0, "the user's allowance is used up");
    assert!(until_refused(&mut other).await.0 >= 3, "another user has its own allowance");
    // A subscribe is not refused, but its state waits until the debt is paid back; a repeated subscribe for the state
    // is refused.
    assert_eq!(second.subscribe(&["merge:large"]).await["ok"], true);
    assert_eq!(second.next().await["type"], "snapshot");
    assert_eq!(second.subscribe(&["merge:large"]).await["error"]["code"], 429);
    server.publish("merge:large", &json!({"n": 1}));
    assert_eq!(second.next().await["data"], json!({"n": 1}));
    assert!(server.metric("snapshots_refused_total") >= 4.0);
    healthy.is_well(&server).await;
}

/// History, requested repeatedly by a Centrifuge client.
#[tokio::test]
async fn history_has_the_same_allowance() {
    let server = Server::open_with("[limits]\nreply_bytes_per_second = 1024\nreply_bytes_burst = 300000");
    let mut healthy = Healthy::beside(&server).await;
    for _ in 0..100 {
        server.publish("stream:large", &json!("x".repeat(1_000)));
    }
    let (mut stream, _) = upgraded(&server, "/connection/websocket", "");
    let subscribe = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"stream:large\"}}";
    stream.write_all(&frame(0x81, subscribe.as_bytes())).unwrap();
    server.until("it is subscribed", |s| s.metric("subscriptions") == 2.0).await;
    let mut commands = String::new();
    for id in 3..63 {
        commands.push_str(&format!("{{\"id\":{id},\"history\":{{\"channel\":\"stream:large\",\"limit\":-1}}}}\n"));
    }
    stream.write_all(&frame(0x81, commands.as_bytes())).unwrap();
    server.until("most are refused", |s| s.metric("replies_refused_total") >= 50.0).await;
    stream.write_all(&frame(0x88, &[3, 232])).unwrap();
    let bytes = drained(&mut stream);
    assert!((100_000..600_000).contains(&bytes), "{bytes} bytes for {}", commands.len());
    healthy.is_well(&server).await;
}

/// A client that subscribes and unsubscribes endlessly, with 300 watchers: they are notified from time to time.
#[tokio::test]
async fn a_member_that_joins_and_leaves_does_not_flood_watchers() {
    const WATCHERS: usize = 300;
    let server = Server::open_with(
        "[namespace.room]\nclass = \"stream\"\njoin_leave = true\nforce_push_join_leave = true\npresence = true",
    );
    let mut healthy = Healthy::beside(&server).await;
    let watchers: Vec<TcpStream> = (0..WATCHERS)
        .map(|_| {
            let (mut stream, _) = upgraded(&server, "/connection/websocket", "");
            let commands = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"room:a\"}}";
            stream.write_all(&frame(0x81, commands.as_bytes())).unwrap();
            stream
        })
        .collect();
    server.until("they watch", |s| s.metric("subscriptions") == WATCHERS as f64 + 1.0).await;
    let address = server.address;
    let began = Instant::now();
    let rounds = healthy
        .during(10, move |_| {
            let (mut flapping, _) = upgraded_at(address, "/connection/websocket", "");
            let mut commands = "{\"id\":1,\"connect\":{}}\n".to_owned();
            for id in 0..100 {
                let op = if id % 2 == 0 { "subscribe" } else { "unsubscribe" };
                commands.push_str(&format!("{{\"id\":{},\"{op}\":{{\"channel\":\"room:a\"}}}}\n", id + 2));
            }
            commands.push_str("{\"id\":200,\"ping\":{}}\n");
            flapping.write_all(&frame(0x81, commands.as_bytes())).unwrap();
            let mut got = Vec::new();
            let mut buffer = [0; 4_096];
            while !got.windows(8).any(|w| w == b"\"id\":200") {
                let n = flapping.read(&mut buffer).unwrap();
                assert!(n > 0, "the session was closed");
                got.extend_from_slice(&buffer[..n]);
            }
        })
        .await;
    let windows = began.elapsed().as_millis() / 200 + 2;
    let mut heard = Vec::new();
    let mut watcher = &watchers[0];
    watcher.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let _ = watcher.read_to_end(&mut heard);
    let text = String::from_utf8_lossy(&heard);
    let notices = text.matches("\"join\"").count() + text.matches("\"leave\"").count();
    // In each window, each of the rounds' sessions is notified once, and the first ones are notified of each other.
    let most = 2 * rounds.len() + 2 * usize::try_from(windows).unwrap() + 2 * WATCHERS;
    assert!(notices <= most, "{notices} notices in {windows} windows and {} rounds of 100", rounds.len());
    assert!(notices < rounds.len() * 50, "{notices} of {} were sent", rounds.len() * 100);
    drop(watchers);
    server.until("they are gone", |s| s.metric("subscriptions") == 1.0).await;
}
