//! Clients of Centrifugo's server API: `cent` itself, and exact copies of the requests of other clients.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::sdk::{Driver, Sdk};
use crate::support::tokens::{claims, hs256};
use crate::support::{BY_STATUS, Redis, Server};

const KEY: &str = "publish-key-0123456789";

const ROOM: &str = "[namespace.room]\npresence = true\nhistory_size = 100\n";

fn keyed(more: &str) -> Server {
    Server::start(&crate::support::tokens::config(more).replace("open = true", &format!("keys = [\"{KEY}\"]")))
}

async fn join(sdk: Sdk, server: &Server, user: &str, topic: &str) -> Driver {
    let token = hs256(&claims(user, 60, json!({"topics": ["*"], "info": {"name": user}})));
    let mut client = Driver::connect(sdk, server, json!({"token": token})).await;
    client.until("connected").await;
    client.subscribe(topic, json!({})).await;
    client
}

/// A request to the API: the status, and each line of the answer.
fn ask(server: &Server, path: &str, authorization: (&str, &str), body: &str) -> (u16, Vec<Value>) {
    let headers = [("Content-Type", "application/json"), authorization];
    let (status, head, text) = server.http("POST", path, &headers, body);
    assert!(head.contains("content-type: application/json"), "{head}");
    (status, serde_json::Deserializer::from_str(&text).into_iter().map(Result::unwrap).collect())
}

fn call(server: &Server, command: &str, body: &Value) -> Value {
    let (status, mut answer) = ask(server, &format!("/api/{command}"), ("X-API-Key", KEY), &body.to_string());
    assert_eq!(status, 200, "{answer:?}");
    answer.remove(0)
}

#[tokio::test]
async fn cent_publishes_broadcasts_reads_history_and_presence_and_gives_orders() {
    let server = keyed(ROOM);
    let mut ann = join(Sdk::JavaScript, &server, "ann", "room:1").await;
    let mut bob = join(Sdk::Python, &server, "bob", "room:1").await;
    server.until("a report", |s| call(s, "info", &json!({}))["result"]["nodes"][0]["num_clients"] == 2).await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut program = Command::new(root.join("target/sdk-venv/bin/python"));
    program
        .arg(root.join("tests/sdk/cent_calls.py"))
        .arg(format!("http://{}/api", server.address))
        .args([KEY, "room:1"]);
    let output = tokio::task::spawn_blocking(move || program.output()).await.unwrap();
    let output = output.expect("target/sdk-venv must be there: `make tools` installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();

    assert_eq!(results["first"]["offset"], 1);
    assert_eq!(results["again"], results["first"], "the same publish, once");
    let responses = &results["broadcast"]["responses"];
    assert_eq!((&responses[0]["result"]["offset"], &responses[1]["result"]["offset"]), (&json!(2), &json!(1)));
    assert_eq!(responses[2]["error"]["code"], 107, "{responses}");
    let numbers = |history: &Value| -> Vec<u64> {
        let publications = history["publications"].as_array().unwrap();
        publications.iter().map(|publication| publication["data"]["n"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers(&results["history"]), [1, 2]);
    assert_eq!((&results["batch"][0]["offset"], &results["batch"][2]["num_users"]), (&json!(3), &json!(2)));
    assert_eq!(results["batch"][1]["responses"][0]["result"]["offset"], 4);
    assert_eq!(results["presence"]["presence"].as_object().unwrap().len(), 2);
    assert_eq!(results["presence_stats"], json!({"num_clients": 2, "num_users": 2}));
    assert_eq!(results["channels"]["channels"]["room:1"]["num_clients"], 2);
    assert_eq!(results["info"]["nodes"].as_array().unwrap().len(), 1);
    for (refused, (code, needle)) in results["refused"].as_array().unwrap().iter().zip([
        (107, "`no name` is no topic"),
        (107, "`skip_history` is not supported"),
        (108, "no presence"),
        (107, "close code 1 is not one of"),
    ]) {
        assert_eq!(refused["code"], code, "{refused}");
        assert!(refused["message"].as_str().unwrap().contains(needle), "{refused}");
    }
    assert_eq!(results["wrong_key"], true);
    assert_eq!((&results["removed"]["publications"], &results["removed"]["offset"]), (&json!([]), &json!(4)));

    assert_eq!(ann.until("server subscribed").await["topic"], "room:12");
    assert_eq!(ann.until("unsubscribed").await["code"], 2000);
    assert_eq!(bob.until("connecting").await["code"], 3005);
    let there = call(&server, "presence", &json!({"channel": "room:12"}));
    assert_eq!(there["result"]["presence"].as_object().unwrap().len(), 1, "{there}");
}

/// (client, path, header, body, results or error codes)
#[test]
fn requests_as_the_clients_of_four_languages_send_them() {
    let server = keyed(ROOM);
    let apikey = format!("apikey {KEY}");
    let old = ("Authorization", apikey.as_str());
    let new = ("X-API-Key", KEY);
    let ok = |answer: &Value| answer["result"].is_object();
    for (client, path, key, body) in [
        ("phpcent", "/api", old, r#"{"method":"publish","params":{"channel":"room:1","data":{"text":"h\u00e9"}}}"#),
        ("phpcent", "/api", old, r#"{"method":"broadcast","params":{"channels":["room:1","room:2"],"data":{"a":1}}}"#),
        ("phpcent", "/api", old, r#"{"method":"unsubscribe","params":{"channel":"room:1","user":"7"}}"#),
        ("phpcent", "/api", old, r#"{"method":"disconnect","params":{"user":"7"}}"#),
        ("phpcent", "/api", old, r#"{"method":"presence","params":{"channel":"room:1"}}"#),
        ("phpcent", "/api", old, r#"{"method":"presence_stats","params":{"channel":"room:1"}}"#),
        ("phpcent", "/api", old, r#"{"method":"history","params":{"channel":"room:1"}}"#),
        ("phpcent", "/api", old, r#"{"method":"history_remove","params":{"channel":"room:2"}}"#),
        ("phpcent", "/api", old, r#"{"method":"channels","params":[]}"#),
        ("phpcent", "/api", old, r#"{"method":"info","params":[]}"#),
        (
            "phpcent 6",
            "/api/publish",
            new,
            r#"{"channel":"room:1","data":{},"skip_history":false,"tags":{},"b64data":"","idempotency_key":"","delta":false,"version":0,"version_epoch":""}"#,
        ),
        (
            "phpcent 6",
            "/api/broadcast",
            new,
            r#"{"channels":["room:1"],"data":[],"skip_history":false,"tags":[],"b64data":"","idempotency_key":"","delta":false}"#,
        ),
        ("phpcent 6", "/api/unsubscribe", new, r#"{"channel":"room:1","user":"7","client":"","session":""}"#),
        (
            "phpcent 6",
            "/api/disconnect",
            new,
            r#"{"user":"7","client":"","session":"","whitelist":[],"disconnect":null}"#,
        ),
        ("gocent 3", "/api", old, "{\"method\":\"publish\",\"params\":{\"channel\":\"room:1\",\"data\":{\"a\":1}}}\n"),
        ("gocent 3", "/api", old, "{\"method\":\"history\",\"params\":{\"channel\":\"room:1\",\"limit\":5}}\n"),
        (
            "gocent 3",
            "/api",
            old,
            "{\"method\":\"subscribe\",\"params\":{\"channel\":\"room:1\",\"user\":\"7\",\"recover_since\":null}}\n",
        ),
        ("gocent 3", "/api", old, "{\"method\":\"channels\",\"params\":{\"pattern\":\"\"}}\n"),
        ("gocent 3", "/api", old, "{\"method\":\"info\",\"params\":{}}\n"),
        ("gocent 4", "/api/disconnect", new, r#"{"user":"7","disconnect":{}}"#),
        ("gocent 4", "/api/subscribe", new, r#"{"channel":"room:1","user":"7","recover_since":{},"override":{}}"#),
        ("gocent 4", "/api/refresh", new, r#"{"user":"7","expire_at":4000000000}"#),
        ("rubycent", "/api/publish", new, r#"{"channel":"room:1","data":{"text":"hi"}}"#),
        ("rubycent", "/api/history", new, r#"{"channel":"room:1","limit":2,"since":{"offset":0,"epoch":""}}"#),
        ("rubycent", "/api/channels", new, "{}"),
        ("rubycent", "/api/info", new, "{}"),
        ("by number", "/api", new, r#"{"id":3,"method":6,"params":{"channel":"room:1"}}"#),
    ] {
        let (status, answers) = ask(&server, path, key, body);
        assert!(status == 200 && answers.len() == 1 && ok(&answers[0]), "{client}: {body}: {status} {answers:?}");
        assert_eq!(answers[0]["id"], if client == "by number" { json!(3) } else { Value::Null });
    }
    // Several commands in one body, one of which fails: one line for each.
    let pipe = "{\"method\":\"publish\",\"params\":{\"channel\":\"room:9\",\"data\":1}}\n\
                {\"id\":2,\"method\":\"publish\",\"params\":{\"channel\":\"no name\",\"data\":1}}\n\
                {\"method\":\"nonsense\",\"params\":{}}\n{\"method\":\"presence_stats\",\"params\":{\"channel\":\"room:9\"}}\n";
    let (status, answers) = ask(&server, "/api", old, pipe);
    assert_eq!((status, answers.len()), (200, 4), "{answers:?}");
    assert_eq!(answers[0]["result"]["offset"], 1);
    assert_eq!((&answers[1]["id"], &answers[1]["error"]["code"]), (&json!(2), &json!(107)));
    assert_eq!(answers[2]["error"]["code"], 104);
    assert_eq!(answers[3]["result"]["num_clients"], 0);
    // Two keys cannot be given at once, and other schemes are not accepted.
    for wrong in [("Authorization", "apikey wrong-key-0123456789x"), ("Authorization", KEY)] {
        assert_eq!(ask(&server, "/api", wrong, "{}").0, 401, "{wrong:?}");
    }
    assert_eq!(ask(&server, "/api", ("Authorization", &format!("APIKEY {KEY}")), r#"{"method":"info"}"#).0, 200);
    assert_eq!(ask(&server, "/api", new, " \n").0, 400);
    assert_eq!(ask(&server, "/api", new, "{\"method\":\"info\"}{").0, 400);
}

#[test]
fn errors_have_the_requested_or_configured_style() {
    let config = crate::support::tokens::config("")
        .replace("open = true", &format!("keys = [\"{KEY}\"]\nerror_style = \"http\""));
    let (usual, by_status) = (keyed(ROOM), Server::start(&config));
    for server in [&usual, &by_status] {
        call(server, "publish", &json!({"channel": "room:1", "data": 1}));
    }
    let commands = [
        ("publish", json!({"channel": "no name", "data": 1}), 107, 400),
        ("publish", json!({"channel": "room:1", "data": 1, "tags": {"a": "b"}}), 107, 400),
        ("publish", json!({"channel": "ops:nodes", "data": 1}), 107, 400),
        ("publish", json!({"channel": "room:1", "data": "x".repeat(300_000)}), 106, 413),
        ("presence", json!({"channel": "none:1"}), 108, 501),
        ("history", json!({"channel": "room:1", "limit": 1, "since": {"offset": 1, "epoch": "other"}}), 112, 416),
        ("rpc", json!({"method": "x", "data": {}}), 104, 404),
        ("unsubscribe", json!({"user": "a", "channel": "room:1", "session": "s"}), 107, 400),
        ("refresh", json!({"user": "a", "expire_at": 1_732_800_000_000_u64}), 107, 400),
    ];
    for (command, body, code, status) in commands {
        let (path, body) = (format!("/api/{command}"), body.to_string());
        let headers = |mode: Option<&'static str>| {
            let mode = mode.map(|mode| ("X-Centrifugo-Error-Mode", mode));
            [("Content-Type", "application/json"), ("X-API-Key", KEY)].into_iter().chain(mode).collect::<Vec<_>>()
        };
        for (server, mode, expected) in [
            (&usual, None, (200, code)),
            (&usual, Some("transport"), (status, u64::from(status))),
            (&by_status, None, (status, u64::from(status))),
            (&by_status, Some("any"), (200, code)),
        ] {
            let (status, _, text) = server.http("POST", &path, &headers(mode), &body);
            let answer: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((status, answer["error"]["code"].as_u64().unwrap()), expected, "{command} {mode:?}: {text}");
            assert!(answer["error"]["message"].as_str().unwrap().len() > 10 && text.len() < 500, "{text}");
        }
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_its_name() {
    let server = keyed(ROOM);
    for (command, member, value) in [
        ("publish", "skip_history", json!(true)),
        ("publish", "tags", json!({"k": "v"})),
        ("publish", "version", json!(5)),
        ("publish", "version_epoch", json!("e")),
        ("publish", "idempotency_key", json!("k".repeat(256))),
        ("publish", "kind", json!("whole")),
        ("publish", "ts", json!(-1)),
        ("publish", "nonsense", json!(1)),
        ("disconnect", "label_filter", json!({"key": "a"})),
        ("disconnect", "all_users", json!(true)),
        ("disconnect", "whitelist", json!("a")),
        ("subscribe", "expire_at", json!(4_000_000_000_u64)),
        ("subscribe", "info", json!({"a": 1})),
        ("subscribe", "override", json!({"presence": {"value": true}})),
        ("history", "limit", json!("all")),
        ("channels", "pattern", json!(["a"])),
    ] {
        let mut body = match command {
            "publish" => json!({"channel": "room:1", "data": 1}),
            "history" => json!({"channel": "room:1"}),
            "channels" => json!({}),
            _ => json!({"user": "a"}),
        };
        if command == "subscribe" {
            body["channel"] = json!("room:1");
        }
        body[member] = value;
        let error = &call(&server, command, &body)["error"];
        let message = error["message"].as_str().unwrap();
        assert!(error["code"] == 107 && message.contains(&format!("`{member}`")), "{command} {body}: {error}");
        for word in ["struct", "variant", "u64", "i64", "usize", "map", "sequence", "expected", " line ", "field"] {
            assert!(!message.contains(word), "{message}");
        }
    }
}

#[tokio::test]
async fn the_server_subscribes_refreshes_and_removes_history_on_all_nodes() {
    let redis = Redis::start();
    let config = format!("{ROOM}{}", redis.source_config());
    let (one, two) = (keyed(&config), keyed(&config));
    for server in [&one, &two] {
        server.until("ready", |s| s.get("/readyz").0 == 200).await;
        let nodes = |s: &Server| call(s, "info", &json!({}))["result"]["nodes"].as_array().unwrap().len();
        server.until("both known", |s| nodes(s) == 2).await;
    }
    for sdk in Sdk::ALL {
        let user = format!("{sdk:?}");
        let mut client = join(sdk, &two, &user, "room:a").await;
        let topic = format!("room:{user}");
        call(&one, "subscribe", &json!({"user": user, "channel": topic}));
        assert_eq!(client.until("server subscribed").await["topic"], topic.as_str());
        let there = |s: &Server| {
            let answer = call(s, "presence", &json!({"channel": topic}));
            answer["result"]["presence"].as_object().unwrap().len()
        };
        one.until("it is there", |s| there(s) == 1).await;
        call(&one, "unsubscribe", &json!({"user": user, "channel": topic}));
        one.until("it is gone", |s| there(s) == 0).await;
        call(&one, "refresh", &json!({"user": user, "expired": true}));
        assert_eq!(client.until("connecting").await["code"], 3005);
    }
    // `plain` clients are notified likewise, and get the deltas.
    let bearer = format!("Bearer {}", hs256(&claims("pat", 60, json!({"topics": []}))));
    let mut pat = crate::support::Client::connect_with(two.address, &[("authorization", &bearer)]).await.unwrap();
    pat.nothing_more().await;
    call(&one, "subscribe", &json!({"user": "pat", "channel": "room:p"}));
    let notice = pat.next().await;
    assert_eq!(
        (&notice["op"], &notice["ok"], notice["topics"]["room:p"].is_object()),
        (&json!("subscribe"), &json!(true), true)
    );
    call(&one, "publish", &json!({"channel": "room:p", "data": 1}));
    assert_eq!(pat.next().await["data"], 1);

    let history =
        |server: &Server| call(server, "history", &json!({"channel": "room:h", "limit": -1}))["result"].take();
    for n in 0..3 {
        call(&one, "publish", &json!({"channel": "room:h", "data": n}));
    }
    for server in [&one, &two] {
        server.until("three", |s| history(s)["publications"].as_array().unwrap().len() == 3).await;
    }
    let before = history(&two);
    call(&one, "history_remove", &json!({"channel": "room:h"}));
    for server in [&one, &two] {
        server.until("removed", |s| history(s)["publications"] == json!([])).await;
        assert_eq!((&history(server)["offset"], &history(server)["epoch"]), (&before["offset"], &before["epoch"]));
    }
    call(&two, "publish", &json!({"channel": "room:h", "data": "after"}));
    // A node that starts later finds the same in the stream.
    let three = keyed(&config);
    three.until("ready", |s| s.get("/readyz").0 == 200).await;
    for server in [&one, &two, &three] {
        server.until("one", |s| history(s)["publications"].as_array().unwrap().len() == 1).await;
        assert_eq!(history(server)["publications"][0]["data"], "after");
    }
    assert_eq!(three.metric("source_skipped_total{source=\"redis nexus:deltas\"}"), 0.0);
}

#[test]
fn a_key_for_some_topics_neither_drains_nor_closes_sessions() {
    let config = crate::support::tokens::config(ROOM).replace(
        "open = true",
        "[[publish.key]]\nname = \"some\"\nsecret = \"some-key-0123456789\"\ntopics = [\"room:*\"]\nscopes = [\"operate\"]\n\
         [[publish.key]]\nname = \"all\"\nsecret = \"all-key-0123456789\"\ntopics = [\"*\"]\nscopes = [\"operate\"]\n",
    );
    let server = Server::start(&config);
    for (path, body) in [
        ("/admin/drain?share=0.5", ""),
        ("/api/disconnect", r#"{"user":"a"}"#),
        ("/api/refresh", r#"{"user":"a","expired":true}"#),
    ] {
        let ask = |key| {
            let headers = [("Content-Type", "application/json"), ("X-API-Key", key), BY_STATUS];
            let (status, _, text) = server.http("POST", path, &headers, body);
            (status, text)
        };
        let (status, text) = ask("some-key-0123456789");
        assert!(status == 403 && text.contains("`some`") && text.contains("topics = "), "{path}: {status} {text}");
        assert_eq!(ask("all-key-0123456789").0, 200, "{path}");
    }
}
