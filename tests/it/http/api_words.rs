//! The publish API's errors: reasons and remedies in the words of the log and of `nexus-push publish`.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::program::{config_file, done, failed, fed, ready, run, text};
use crate::support::publish_cases::{cases, publish, strict};
use crate::support::{OPEN, Redis, Server};

/// An entry that the command refuses before sending gets the same reason, text and remedy when it is sent.
#[tokio::test]
async fn the_api_refuses_in_the_words_of_the_command() {
    let server = Server::start(&strict(""));
    let (_folder, config) = config_file(&strict(""));
    let mut seen = std::collections::HashSet::new();
    for case in cases() {
        let mut command = json!({"channel": case.topic});
        if let Some(kind) = case.kind {
            command["kind"] = kind.into();
        }
        match case.data.as_deref().map(|data| (data, serde_json::from_slice::<Value>(data))) {
            None => {}
            Some((_, Ok(data))) => command["data"] = data,
            // An empty text is no value.
            Some((b"", _)) => continue,
            Some((bytes, Err(_))) => {
                command["b64data"] = base64::engine::general_purpose::STANDARD.encode(bytes).into();
            }
        }
        let (status, reply) = server.post("/api/publish", &command);
        let error = &reply["error"];
        assert_eq!((error["code"].as_u64(), &error["reason"]), (Some(status.into()), &json!(case.reason)), "{reply}");
        let (message, remedy) = (error["message"].as_str().unwrap(), error["remedy"].as_str().unwrap());
        assert!(message.ends_with(&format!("; {remedy}")), "{reply}");
        seen.insert(case.reason);
        // Missing members of a command have other messages.
        if case.data.is_some() {
            let printed = failed(&publish(&config, &case));
            assert!(printed.ends_with(&format!("was refused ({}): {message}\n", case.reason)), "{printed}{message}");
        }
        let count = server.metric(&format!("deltas_refused_total{{reason=\"{}\"}}", case.reason));
        let malformed = server.metric("publish_refused_total{reason=\"malformed\"}");
        assert!(count + malformed >= 1.0, "{reply}");
    }
    assert_eq!(seen.len(), 11, "{seen:?}");
    let (_, reply) = server.post("/api/publish", &json!({"channel": "raw:a", "b64data": "?"}));
    assert_eq!(reply["error"]["reason"], "not_base64", "{reply}");
    let (_, reply) = server.post("/api/publish", &json!({"channel": "merge:a", "data": {}, "ts": 1_723_161_256}));
    assert_eq!(reply["error"]["reason"], "ts_seconds", "{reply}");
    assert!(reply["error"]["remedy"].as_str().unwrap().ends_with(": 1723161256000"), "{reply}");
    // A deletion needs no data.
    for (body, topic) in
        [(json!({"channel": "merge:a", "data": {}}), 200), (json!({"channel": "merge:a", "kind": "delete"}), 404)]
    {
        assert_eq!(server.post("/api/publish", &body).0, 200, "{body}");
        assert_eq!(server.get("/api/topics/merge:a").0, topic, "{body}");
    }
    // Errors that are not about a delta have neither.
    let (_, reply) = server.post("/api/publish", &json!({"channel": "merge:a", "dta": {}}));
    assert_eq!(reply["error"].as_object().unwrap().len(), 2, "{reply}");
}

/// In Centrifugo's form too, wherever it may contain an error.
#[tokio::test]
async fn a_refusal_has_its_reason_in_every_form_of_request() {
    let server = Server::start(&strict(""));
    let wrong = json!({"channel": "mereg:a", "data": {}});
    let post = |path: &str, body: Value| {
        let headers = [("Content-Type", "application/json")];
        let (status, _, body) = server.http("POST", path, &headers, &body.to_string());
        assert_eq!(status, 200);
        serde_json::from_str::<Value>(&body).unwrap()
    };
    let broadcast = json!({"channels": ["merge:a", "mereg:a"], "data": {}});
    for (path, body, place) in [
        ("/api/publish", wrong.clone(), "/error"),
        ("/api/broadcast", broadcast.clone(), "/result/responses/1/error"),
        ("/api/batch", json!({"commands": [{"publish": wrong}]}), "/replies/0/error"),
        ("/api/batch", json!({"commands": [{"broadcast": broadcast}]}), "/replies/0/broadcast/responses/1/error"),
        ("/api", json!({"method": "publish", "params": wrong}), "/error"),
    ] {
        let reply = post(path, body);
        let error = reply.pointer(place).unwrap_or_else(|| panic!("{path}: {reply}"));
        assert_eq!((&error["code"], &error["reason"]), (&json!(102), &json!("unknown_namespace")), "{path}: {reply}");
        assert!(error["remedy"].as_str().unwrap().contains("did you mean `merge`?"), "{path}: {reply}");
    }
}

/// A delta is accepted although its namespace resembles a configured one: its publisher gets the same warning as the
/// log.
#[tokio::test]
async fn warnings_reach_the_caller_in_the_words_of_the_log() {
    let redis = Redis::start();
    let server = ready(&format!("{OPEN}\n{}", redis.source_config())).await;
    let alone = Server::open();
    let (near, good) = (json!({"channel": "mereg:a", "data": {}}), json!({"channel": "other:a", "data": {}}));
    let broadcast = json!({"channels": ["merge:a", "mereg:a"], "data": {}});
    let forms = [
        ("/api/publish", near.clone(), "/result"),
        ("/api/broadcast", broadcast.clone(), "/result/responses/1/result"),
        ("/api/batch", json!({"commands": [{"publish": near}]}), "/replies/0/publish"),
        ("/api/batch", json!({"commands": [{"broadcast": broadcast}]}), "/replies/0/broadcast/responses/1/result"),
        ("/api", json!({"method": "publish", "params": near}), "/result"),
    ];
    for (path, body, place) in &forms {
        for server in [&server, &alone] {
            let (status, reply) = server.post(path, body);
            let result = reply.pointer(place).unwrap_or_else(|| panic!("{path}: {reply}"));
            assert!(status == 200 && result["offset"].is_u64() && result["epoch"].is_string(), "{path}: {reply}");
            let warnings = result["warnings"].as_array().unwrap();
            assert_eq!((warnings.len(), &warnings[0]["reason"]), (1, &json!("near_namespace")), "{path}: {reply}");
            let suspicious = |s: &Server| s.status()["sources"][0]["suspicious"]["reasons"]["near_namespace"].clone();
            if server.address != alone.address {
                server.until("read", |s| suspicious(s)["count"].as_u64() >= Some(1)).await;
                let printed = suspicious(server);
                for part in ["text", "remedy"] {
                    assert_eq!(printed[part], warnings[0][part], "{path}: {reply}");
                }
            }
        }
    }
    assert_eq!(alone.metric("publish_warned_total{reason=\"near_namespace\"}"), forms.len() as f64);
    let (_, reply) = server.post("/api/publish", &good);
    assert_eq!(reply["result"].get("warnings"), None, "a name that is near none may be meant: {reply}");
    // The command prints the warning once, whichever side found it.
    let to = format!("http://{}", alone.address);
    let (_folder, config) = config_file(OPEN);
    for more in [&[][..], &["-c", &config]] {
        let output = run(&[&["publish", "--to", &to, "mereg:a", "{}"], more].concat());
        done(&output);
        let printed = text(&output.stderr);
        assert_eq!(printed.matches("near_namespace").count(), 1, "{printed}");
        assert!(printed.contains("`mereg:a` is taken, but its namespace `mereg`"), "{printed}");
        let lines = b"mereg:a {}\nmereg:b {}\nmerge:a {}\n";
        let printed = text(&fed(&[&["publish", "--to", &to, "--lines", "-"], more].concat(), lines).stderr);
        assert_eq!(printed.matches("near_namespace").count(), 1, "{printed}");
    }
    let strict = Server::start(&strict(""));
    let to = format!("http://{}", strict.address);
    let printed = failed(&run(&["publish", "--to", &to, "mereg:a", "{}"]));
    assert!(printed.contains("refused it (unknown_namespace): its namespace `mereg` is not configured"), "{printed}");
}
