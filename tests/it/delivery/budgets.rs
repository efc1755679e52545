//! Whatever one user, or one address, makes the server send has a limit, in whatever way it is requested. A healthy
//! session runs beside each attack.

use std::collections::{HashMap, HashSet};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::bystander::Healthy;
use crate::support::centrifuge_client::Centrifuge;
use crate::support::raw_socket::{frame, upgraded_at};
use crate::support::tokens::{claims, config, hs256};
use crate::support::{Client, Follower, Server};

/// For a user, and for the sessions of an address without a user.
const PER_SECOND: usize = 50_000;
const BURST: usize = 600_000;

/// Bytes of the state, and of all events of the stream, that attackers request.
const STATE: usize = 150_000;

/// Least number of rounds of an attack.
const ROUNDS: usize = 10;

/// Commands that return the state, per round.
const TIMES: usize = 20;

fn limits(anonymous: bool) -> String {
    let own = if anonymous { (1 << 30, 1 << 30) } else { (PER_SECOND, BURST) };
    let access = if anonymous { "[access]\nanonymous = true\n" } else { "[access]\n" };
    let more = format!(
        "[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\nshards = 2\n\
         [limits]\nreply_bytes_per_second = {}\nreply_bytes_burst = {}\nreply_bytes_per_address = {PER_SECOND}\n\
         [namespace.merge]\nclass = \"merge\"\n[namespace.stream]\nclass = \"stream\"\n",
        own.0, own.1
    );
    config(&more).replace("[access]\n", access)
}

fn token(user: &str, topics: &[&str]) -> String {
    hs256(&claims(user, 600, json!({"topics": topics})))
}

fn bearer(user: &str) -> String {
    format!("Bearer {}", token(user, &["*"]))
}

/// Opens a session, sends the commands, and reads until the server has answered all and closes. Returns the bytes.
fn bytes_for(address: SocketAddr, path: &str, headers: &str, commands: &[String]) -> usize {
    let (mut stream, _) = upgraded_at(address, path, headers);
    let mut reader = stream.try_clone().unwrap();
    let read = std::thread::spawn(move || read_all(&mut reader));
    let mut bytes: Vec<u8> = commands.iter().flat_map(|command| frame(0x81, command.as_bytes())).collect();
    bytes.extend(frame(0x88, &[3, 232]));
    stream.write_all(&bytes).unwrap();
    read.join().unwrap()
}

fn read_all(stream: &mut TcpStream) -> usize {
    let (mut bytes, mut buffer) = (0, vec![0; 64 * 1024]);
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        bytes += n;
    }
    bytes
}

/// A way to request the same repeatedly: a path, and the commands of one session.
struct Way {
    path: &'static str,
    commands: Vec<String>,
    /// Sessions per round.
    sessions: usize,
}

/// Attacks in this way, and counts the bytes: at most the allowance of one user, one excess answer per shard, and
/// replies.
async fn attacked(way: Way, attacker: &str, allowance: usize, anonymous: bool) {
    let server = Server::start(&limits(anonymous));
    server.publish("merge:large", &json!({"pad": "x".repeat(STATE)}));
    for n in 0..100 {
        server.publish("stream:large", &json!({"n": n, "pad": "x".repeat(STATE / 100)}));
    }
    let healthy_bearer = bearer("bob");
    let from = [("authorization", healthy_bearer.as_str()), ("x-forwarded-for", "192.0.2.9")];
    let mut healthy = Healthy::beside_with(&server, &from).await;
    let (address, headers) = (server.address, attacker.to_owned());
    let Way { path, commands, sessions } = way;
    let asked = commands.len() * sessions;
    let began = Instant::now();
    let bytes = healthy
        .during(ROUNDS, move |_| {
            let one = || bytes_for(address, path, &headers, &commands);
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..sessions).map(|_| scope.spawn(one)).collect();
                all.into_iter().map(|bytes| bytes.join().unwrap()).sum::<usize>()
            })
        })
        .await;
    let (seconds, rounds) = (usize::try_from(began.elapsed().as_secs()).unwrap() + 1, bytes.len());
    let total: usize = bytes.iter().sum();
    let most = allowance + PER_SECOND * seconds + 2 * STATE + rounds * asked * 250;
    println!("{total} bytes in {seconds} s for {rounds} rounds of {asked} commands, limit {most}");
    assert!(total <= most, "{total} bytes in {seconds} s, limit {most}");
    assert!(total >= allowance.min(BURST) / 2, "{total} bytes: the attack should get its allowance");
    let by = if anonymous { "_by_address" } else { "" };
    let held = ["states_delayed", "snapshots_refused", "replies_refused"];
    let held: f64 = held.iter().map(|name| server.metric(&format!("{name}{by}_total"))).sum();
    assert!(held > 0.0);
    // Another user gets everything that it requests.
    let mut other = Client::connect_with(server.address, &from).await.unwrap();
    assert_eq!(other.subscribe(&["merge:large"]).await["ok"], true);
    assert_eq!(other.next().await["type"], "snapshot");
    healthy.is_well(&server).await;
}

fn repeated(of: impl Fn(usize) -> Vec<String>) -> Vec<String> {
    (0..TIMES).flat_map(of).collect()
}

async fn attacked_by_a_user(way: Way) {
    attacked(way, &format!("Authorization: {}\r\nX-Forwarded-For: 192.0.2.1\r\n", bearer("eve")), BURST, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resubscribing_brings_states_within_the_allowance() {
    let subscribe = json!({"op": "subscribe", "args": ["merge:large"]}).to_string();
    let unsubscribe = json!({"op": "unsubscribe", "args": ["merge:large"]}).to_string();
    let commands = repeated(|_| vec![subscribe.clone(), unsubscribe.clone()]);
    attacked_by_a_user(Way { path: "/ws", commands, sessions: 3 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_recover_the_same_past_brings_it_within_the_budget() {
    let subscribe =
        json!({"op": "subscribe", "args": ["stream:large"], "since": {"stream:large": {"offset": 0, "epoch": ""}}});
    let history = json!({"op": "subscribe", "args": ["stream:large"], "history": 100});
    let unsubscribe = json!({"op": "unsubscribe", "args": ["stream:large"]}).to_string();
    let commands = repeated(|n| vec![if n % 2 == 0 { &subscribe } else { &history }.to_string(), unsubscribe.clone()]);
    attacked_by_a_user(Way { path: "/ws", commands, sessions: 3 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_centrifuge_client_that_recovers_the_same_past_gets_it_within_the_budget() {
    let mut commands = vec![json!({"id": 1, "connect": {}}).to_string()];
    commands.extend(repeated(|n| {
        let subscribe = json!({"channel": "stream:large", "recover": true, "epoch": "", "offset": 0});
        let subscribe = json!({"id": 3 * n + 2, "subscribe": subscribe});
        let history = json!({"id": 3 * n + 3, "history": {"channel": "stream:large", "limit": -1}});
        let unsubscribe = json!({"id": 3 * n + 4, "unsubscribe": {"channel": "stream:large"}});
        vec![format!("{subscribe}\n{history}\n{unsubscribe}")]
    }));
    attacked_by_a_user(Way { path: "/connection/websocket", commands, sessions: 3 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnecting_brings_states_within_the_allowance() {
    let subscribe = json!({"op": "subscribe", "args": ["merge:large"]}).to_string();
    // The session ends once this was answered.
    let unsubscribe = json!({"op": "unsubscribe", "args": ["merge:large"]}).to_string();
    attacked_by_a_user(Way { path: "/ws", commands: vec![subscribe, unsubscribe], sessions: 10 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_give_more_and_less_bring_states_within_the_budget() {
    let subscribe = json!({"op": "subscribe", "args": ["merge:large"]}).to_string();
    let auth = |topics: &[&str]| json!({"op": "auth", "token": token("eve", topics)}).to_string();
    let (wide, narrow) = (auth(&["merge:*", "stream:*"]), auth(&["stream:*"]));
    let commands = repeated(|_| vec![wide.clone(), subscribe.clone(), narrow.clone()]);
    attacked_by_a_user(Way { path: "/ws", commands, sessions: 3 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_subscribes_and_rates_share_one_allowance() {
    let of = |op: &str| json!({"op": op, "args": ["merge:large"]}).to_string();
    let rate = |rate: f64| json!({"op": "rate", "args": ["merge:large"], "max_rate": rate}).to_string();
    let commands =
        repeated(|_| vec![of("subscribe"), of("snapshot"), rate(1.0), rate(200.0), of("subscribe"), of("unsubscribe")]);
    attacked_by_a_user(Way { path: "/ws", commands, sessions: 2 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_an_address_that_name_no_user_have_one_budget() {
    let subscribe = json!({"op": "subscribe", "args": ["merge:large"]}).to_string();
    let unsubscribe = json!({"op": "unsubscribe", "args": ["merge:large"]}).to_string();
    let commands = repeated(|_| vec![subscribe.clone(), unsubscribe.clone()]);
    let way = Way { path: "/ws", commands, sessions: 3 };
    attacked(way, "X-Forwarded-For: 192.0.2.1\r\n", 16 * PER_SECOND, true).await;
}

/// Records a join or a leave.
fn seen_by(seen: &mut HashSet<String>, message: &Value) {
    let push = &message["push"];
    let client = |change: &Value| change["info"]["client"].as_str().map(str::to_owned);
    if let Some(client) = client(&push["join"]) {
        let info = push["join"]["info"].to_string();
        assert!(info.len() < 1_000, "{} bytes", info.len());
        assert!(seen.insert(client), "sent twice: {message}");
    }
    if let Some(client) = client(&push["leave"]) {
        assert!(seen.remove(&client), "the member had not joined: {message}");
    }
}

/// Sessions of a user with a large `info` join and leave a watched topic repeatedly. Watchers are notified within the
/// limit, without too large `info`, and end with exactly the true list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_and_leaves_are_sent_within_a_limit() {
    const WATCHERS: usize = 40;
    const COME: usize = 10;
    const ROOM: usize = 150_000;
    let more = "[limits]\nmembership_bytes_per_second = 150000\n[server]\nshards = 2\n[namespace.stream]\nclass = \"stream\"\n\
                [namespace.room]\nclass = \"stream\"\npresence = true\njoin_leave = true\nforce_push_join_leave = true\n\
                allow_presence_for_subscriber = true\n";
    let server = Server::start(&config(more));
    let of = |user: &str, info: usize| {
        let more = json!({"topics": ["*"], "info": {"pad": "x".repeat(info)}});
        format!("Authorization: Bearer {}\r\n", hs256(&claims(user, 600, more)))
    };
    let come = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"room:a\"}}";
    let session = move |address: SocketAddr, headers: &str| {
        let (mut stream, _) = upgraded_at(address, "/connection/websocket", headers);
        stream.write_all(&frame(0x81, come.as_bytes())).unwrap();
        stream
    };
    let bob = bearer("bob");
    let mut healthy = Healthy::beside_with(&server, &[("authorization", &bob)]).await;
    // A watcher sees the others join.
    let mut view = Centrifuge::connect(&server, &token("ann", &["*"])).await;
    view.send(json!({"id": 2, "subscribe": {"channel": "room:a"}})).await;
    while view.next().await["id"] != 2 {}
    let began = Instant::now();
    let watchers: Vec<_> = (0..WATCHERS).map(|n| session(server.address, &of(&format!("watcher{n}"), 0))).collect();
    server.until("they watch", |s| s.metric("subscriptions") == WATCHERS as f64 + 2.0).await;
    let counted: Vec<_> = watchers
        .iter()
        .map(|watcher| {
            let mut reader = watcher.try_clone().unwrap();
            std::thread::spawn(move || read_all(&mut reader))
        })
        .collect();
    let (address, eve) = (server.address, of("eve", 9_000));
    let rounds = healthy
        .during(ROUNDS, move |_| {
            let all: Vec<_> = (0..COME).map(|_| session(address, &eve)).collect();
            // Longer than the interval between notifications.
            std::thread::sleep(Duration::from_millis(250));
            all
        })
        .await;
    let changes = 2 * rounds.len() * COME;
    // The last ones stay subscribed; all others leave.
    let stay = rounds.into_iter().next_back().unwrap();
    server.until("the others are gone", |s| s.metric("subscriptions") == (WATCHERS + COME) as f64 + 2.0).await;
    // A watcher that was there from the beginning has seen everybody join.
    let mut seen = HashSet::new();
    view.send(json!({"id": 3, "presence": {"channel": "room:a"}})).await;
    let there: Vec<String> = loop {
        let message = view.next().await;
        if message["id"] == 3 {
            break message["presence"]["presence"].as_object().unwrap().keys().cloned().collect();
        }
        seen_by(&mut seen, &message);
    };
    assert_eq!(there.len(), WATCHERS + COME + 1);
    while !there.iter().all(|client| seen.contains(client)) || seen.len() != there.len() {
        let message = view.next().await;
        seen_by(&mut seen, &message);
    }
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    watchers.iter().for_each(|watcher| watcher.shutdown(Shutdown::Both).unwrap());
    let total: usize = counted.into_iter().map(|read| read.join().unwrap()).sum();
    // The watchers' own joins, the limit per user, one more change per shard, and replies.
    let most = WATCHERS * WATCHERS * 250 + (4 + seconds) * ROOM / 4 + 2 * WATCHERS * 250 + WATCHERS * 1_000;
    println!("{total} bytes for {changes} changes in {seconds} s, limit {most}");
    assert!(total <= most, "{total} bytes for {changes} changes in {seconds} s, limit {most}");
    assert!(server.metric("memberships_delayed_total") > 0.0 && server.metric("membership_infos_omitted_total") > 0.0);
    assert_eq!(server.metric("memberships_dropped_total"), 0.0);
    drop(stay);
    healthy.is_well(&server).await;
}

/// A dashboard of 512 topics, whose states exceed its user's allowance, reconnects after a failover. It gets no errors,
/// all states a little later, and every delta.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnecting_dashboard_gets_everything_a_little_later() {
    let server =
        Server::start(&limits(false).replace("reply_bytes_per_second = 50000", "reply_bytes_per_second = 700000"));
    let topics: Vec<String> = (0..512).map(|n| format!("merge:{n}")).collect();
    let deltas: Vec<(String, Value)> =
        topics.iter().map(|topic| (topic.clone(), json!({"is": topic, "pad": "x".repeat(2_000)}))).collect();
    server.publish_all(&deltas);
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let bearer = bearer("ann");
    for round in 0..2 {
        let mut client = Client::connect_with(server.address, &[("authorization", &bearer)]).await.unwrap();
        let reply = client.subscribe(&names).await;
        assert_eq!((&reply["ok"], &reply["error"]), (&json!(true), &Value::Null), "{reply}");
        let changed: Vec<(String, Value)> =
            topics.iter().map(|topic| (topic.clone(), json!({"round": round}))).collect();
        server.publish_all(&changed);
        let mut followed: HashMap<String, Follower> = HashMap::new();
        let is_whole = |f: &Follower| f.state["round"] == round && f.state["is"].is_string();
        while followed.len() < topics.len() || !followed.values().all(is_whole) {
            let message = client.next().await;
            let topic = message["topic"].as_str().unwrap_or_else(|| panic!("{message}"));
            let follower = followed.entry(topic.to_owned()).or_default();
            follower.take(&message);
            assert!(follower.snapshots > 0, "a delta before the state: {message}");
            assert!(follower.state["is"].is_null() || follower.state["is"] == topic, "{message}");
        }
    }
    assert!(server.metric("states_delayed_total") > 0.0, "more than the allowance was asked for");
}

/// The same with streams: no missed event is lost, however long it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missed_events_come_in_order_a_little_later() {
    let server =
        Server::start(&limits(false).replace("reply_bytes_per_second = 50000", "reply_bytes_per_second = 700000"));
    let topics: Vec<String> = (0..60).map(|n| format!("stream:{n}")).collect();
    for n in 1..=20 {
        let deltas: Vec<_> =
            topics.iter().map(|topic| (topic.clone(), json!({"n": n, "pad": "x".repeat(1_000)}))).collect();
        server.publish_all(&deltas);
    }
    let bearer = bearer("ann");
    let since: serde_json::Map<String, Value> =
        topics.iter().map(|topic| (topic.clone(), json!({"offset": 0, "epoch": ""}))).collect();
    for _ in 0..2 {
        let mut client = Client::connect_with(server.address, &[("authorization", &bearer)]).await.unwrap();
        client.send(json!({"op": "subscribe", "id": 1, "args": topics, "since": since})).await;
        let mut seen: HashMap<String, u64> = HashMap::new();
        while seen.values().sum::<u64>() < 20 * 60 {
            let message = client.next().await;
            assert!(message["error"].is_null(), "{message}");
            let Some(topic) = message["topic"].as_str() else { continue };
            let last = seen.entry(topic.to_owned()).or_default();
            assert_eq!(message["data"]["n"], *last + 1, "{topic}");
            *last += 1;
        }
    }
    assert!(server.metric("states_delayed_total") > 0.0, "more than the allowance was asked for");
}
