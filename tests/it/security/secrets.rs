//! Secrets do not leak: a server at the TRACE level gets distinctive secrets wherever one is accepted, right and wrong
//! ones; then all of its output is searched for them.

use std::process::Command;

use futures_util::{SinkExt as _, StreamExt as _};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::http_backend::Backend;
use crate::support::tokens::claims;
use crate::support::{Authority, Client, PATIENCE, PROGRAM, Redis, Server, tls_config};

/// A part of every secret, which must not occur in the log.
const MARK: &str = "s3cr3t";

fn secret(of: &str) -> String {
    format!("{MARK}-{of}-0123456789abcdef0123456789abcdef")
}

fn sign(with: &str) -> String {
    let key = EncodingKey::from_secret(with.as_bytes());
    encode(&Header::new(Algorithm::HS256), &claims("u1", 600, json!({"topics": ["*"]})), &key).unwrap()
}

fn assert_hidden(what: &str, text: &str, hidden: &[String]) {
    for line in text.lines() {
        for secret in hidden {
            assert!(!line.contains(secret.as_str()), "{what} shows `{secret}`: {line}");
        }
    }
}

#[tokio::test]
async fn no_output_contains_a_secret() {
    let redis = Redis::start();
    redis.command(&["CONFIG", "SET", "requirepass", &secret("redis")]);
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let requests = seen.clone();
    let backend = Backend::start(move |request| {
        requests.lock().unwrap().push(request.head);
        json!({"keys": [], "result": {"data": 1}})
    });
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("{text}\n")).unwrap();
        path.display().to_string()
    };
    Authority::new().issue("localhost").write(folder.path(), "server");
    let tls_key = std::fs::read_to_string(folder.path().join("server.key")).unwrap();
    let with_userinfo = backend.url().replace("http://", &format!("http://user:{}@", secret("userinfo")));
    let config = format!(
        "[access]\norigins = [\"*\"]\n\
         [access.jwks]\nurl = \"{with_userinfo}/keys?apikey={query}\"\nmin_interval = \"100ms\"\n\
         [[access.keys]]\nalgorithm = \"HS256\"\nsecret = \"{jwt}\"\n\
         [[access.keys]]\nalgorithm = \"HS256\"\nsecret_file = \"{jwt_file}\"\n\
         [[access.keys]]\nalgorithm = \"HS256\"\nsecret_env = \"JWT_OF_TEST\"\n\
         [publish]\nkeys = [\"{full}\"]\nkey_files = [\"{key_file}\"]\n\
         [[publish.key]]\nname = \"feed\"\nsecret = \"{feed}\"\ntopics = [\"stream:*\"]\n\
         [operator]\nkey = \"{operator}\"\n\
         [rpc]\nendpoint = \"{rpc}/?apikey={query}\"\nauthorization_file = \"{authorization}\"\n\
         [source.redis]\nurl = \"{redis_url}\"\npassword_file = \"{password}\"\n{tls}",
        query = secret("query"),
        jwt = secret("jwt"),
        jwt_file = file("jwt", &secret("jwt-file")),
        full = secret("full"),
        key_file = file("key", &secret("key-file")),
        feed = secret("feed"),
        operator = secret("operator"),
        rpc = backend.url(),
        authorization = file("authorization", &format!("Bearer {}", secret("authorization"))),
        redis_url = redis.url(),
        password = file("password", &secret("redis")),
        tls = tls_config(folder.path()),
    );
    let (env_jwt, env_key) = (secret("jwt-env"), format!("[\"{}\"]", secret("env")));
    let environment =
        [("NEXUS_LOG", "trace"), ("JWT_OF_TEST", env_jwt.as_str()), ("NEXUS_PUBLISH__KEYS", env_key.as_str())];
    let server = Server::start_in(&config, 0, &environment);
    let operator = secret("operator");
    let operator = [("X-API-Key", operator.as_str())];
    server.until("it reads Redis, with the password of the file", |s| s.get("/readyz").0 == 200).await;

    // Right ones.
    let mut shown: Vec<String> = Vec::new();
    for key in ["jwt", "jwt-file", "jwt-env"] {
        let token = sign(&secret(key));
        let mut client = server.client().await;
        client.send(json!({"op": "auth", "id": 1, "token": token})).await;
        assert_eq!(client.next().await["ok"], true, "{key}");
        let bearer = format!("Bearer {token}");
        assert!(Client::connect_with(server.address, &[("authorization", &bearer)]).await.is_ok());
        let url = format!("ws://{}/connection/websocket?token={token}", server.address);
        let mut socket = tokio_tungstenite::connect_async(url).await.unwrap().0;
        for command in
            [json!({"id": 1, "connect": {"token": token}}), json!({"id": 2, "rpc": {"method": "m", "data": 1}})]
        {
            socket.send(Message::text(command.to_string())).await.unwrap();
            let reply = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
            let reply: Value = serde_json::from_str(reply.to_text().unwrap()).unwrap();
            assert!(reply["connect"].is_object() || reply["rpc"]["data"] == 1, "{reply}");
        }
        shown.push(token);
    }
    let publish = |key: &str| {
        let headers = [("Content-Type", "application/json"), ("X-API-Key", key), crate::support::BY_STATUS];
        server.http("POST", "/api/publish", &headers, r#"{"channel":"stream:a","data":1}"#).0
    };
    for key in ["env", "key-file", "feed"] {
        assert_eq!(publish(&secret(key)), 200, "{key}");
    }
    let sent = seen.lock().unwrap().concat();
    assert!(sent.contains(&secret("authorization")), "{sent}");
    // Wrong ones: in all these places, and keys of a set without any.
    for token in [sign(&secret("wrong")), sign(&secret("jwt")).replace('.', "-"), secret("garbage")] {
        let mut client = server.client().await;
        client.send(json!({"op": "auth", "id": 1, "token": token})).await;
        assert_eq!(client.next().await["ok"], false);
        let bearer = format!("Bearer {token}");
        assert_eq!(Client::connect_with(server.address, &[("authorization", &bearer)]).await.err(), Some(401));
        assert_eq!(server.get(&format!("/api/topics?token={token}")).0, 401);
        client = server.client().await;
        client.send_text(&format!("{{\"op\":\"auth\",\"tokn\":\"{token}\"}}")).await;
        assert_eq!(client.next().await["ok"], false);
        shown.push(token);
    }
    let unknown = {
        let rsa = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/rsa.pem")).unwrap();
        let header = Header { kid: Some("unknown".into()), ..Header::new(Algorithm::RS256) };
        encode(&header, &claims("u1", 600, json!({})), &EncodingKey::from_rsa_pem(&rsa).unwrap()).unwrap()
    };
    let bearer = format!("Bearer {unknown}");
    assert_eq!(Client::connect_with(server.address, &[("authorization", &bearer)]).await.err(), Some(503));
    shown.push(unknown);
    for key in [secret("wrong-key"), secret("operator"), "short".to_owned()] {
        assert_ne!(publish(&key), 200);
    }
    assert_eq!(server.http("GET", "/metrics", &[("X-API-Key", &secret("wrong-operator"))], "").0, 401);
    redis.signal("STOP");
    redis.signal("CONT");

    let mut hidden: Vec<String> = tls_key.lines().filter(|line| !line.starts_with("---")).map(str::to_owned).collect();
    // The signatures of valid tokens, and whole invalid ones.
    hidden.extend(shown.iter().map(|token| token.rsplit('.').next().unwrap().to_owned()));
    hidden.push(MARK.to_owned());
    server.until("it talks", |s| s.log().contains("TRACE") && s.log().lines().count() > 100).await;
    assert_hidden("the log", &server.log(), &hidden);
    for path in ["/status", "/metrics"] {
        let (status, _, text) = server.http("GET", path, &operator, "");
        assert_eq!(status, 200);
        assert_hidden(path, &text, &hidden);
    }
    let path = file("nexus.toml", &config);
    let output = Command::new(PROGRAM).arg("check-config").arg(path).envs(environment).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.contains("name = \"feed\"") && printed.contains("/keys?***"), "{printed}");
    assert_hidden("check-config", &printed, &hidden);
}

/// Unreachable servers, and those that refuse the password, are named without it.
#[tokio::test]
async fn failures_are_reported_without_them() {
    let redis = Redis::start();
    redis.command(&["CONFIG", "SET", "requirepass", &secret("redis")]);
    let url = redis.url().replace("redis://", &format!("redis://:{}@", secret("wrong")));
    let nobody = crate::support::free_port();
    let config = format!(
        "[access]\nanonymous = true\n[access.jwks]\nurl = \"http://user:{}@127.0.0.1:{nobody}/?key={}\"\n\
         [source.redis]\nurl = \"{url}\"\n",
        secret("userinfo"),
        secret("query"),
    );
    let server = Server::start_in(&config, 0, &[("NEXUS_LOG", "trace")]);
    server
        .until("it is logged", |s| s.log().contains("Redis cannot be read") && s.log().contains("cannot be fetched"))
        .await;
    let (_, why) = server.get("/readyz");
    let shown = [server.log(), why, server.get("/status").1, server.get("/metrics").1].concat();
    assert_hidden("it", &shown, &[MARK.to_owned()]);
    assert!(server.log().contains("redis://***@127.0.0.1"), "{}", server.log());
    // No server listens there: the error names the address, and not the login.
    for (section, scheme, says, is_built) in [
        ("redis", "redis", "Redis cannot be read", true),
        ("nats", "nats", "NATS cannot be read", cfg!(feature = "nats")),
    ] {
        if !is_built {
            continue;
        }
        let url = format!("{scheme}://user:{}@127.0.0.1:{nobody}", secret("wrong"));
        let urls = if section == "redis" { format!("url = \"{url}\"") } else { format!("urls = [\"{url}\"]") };
        let server = Server::start(&format!("[access]\nanonymous = true\n[source.{section}]\n{urls}\n"));
        server.until("it is logged", |s| s.log().contains(says)).await;
        let (_, why) = server.get("/readyz");
        let log = server.log();
        let line = log.lines().find(|line| line.contains(says)).unwrap();
        assert!(line.contains(&format!("127.0.0.1:{nobody}")), "{line}");
        assert_hidden("it", &[log.clone(), why].concat(), &[MARK.to_owned()]);
    }

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nexus.toml");
    for fault in [
        format!("[publish]\nkeys = \"{}\"\n", secret("not-a-list")),
        format!("[publish]\nkeyz = [\"{}\"]\n", secret("misspelt")),
        format!("[source.redis]\nurl = \"{}\"\n", secret("no-url")),
        format!("[[access.keys]]\nalgorithm = \"HS256\"\nsecret = \"{MARK}\"\n"),
        format!("[rpc]\nendpoint = \"ftp://{}\"\n", secret("endpoint")),
    ] {
        std::fs::write(&path, &fault).unwrap();
        for command in [&["check-config"][..], &["serve", "--config"]] {
            let output = Command::new(PROGRAM).args(command).arg(&path).output().unwrap();
            assert!(!output.status.success(), "{fault}");
            let printed_bytes = [output.stdout, output.stderr].concat();
            assert_hidden("an error", &String::from_utf8_lossy(&printed_bytes), &[MARK.to_owned()]);
        }
    }
}
