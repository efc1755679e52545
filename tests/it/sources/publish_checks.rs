//! `nexus-push publish` checks a delta as the server would, before it is sent.

use crate::support::publish_cases::{Case, cases, publish, strict};
use serde_json::{Value, json};

#[cfg(feature = "nats")]
use crate::support::nats::Nats;
use crate::support::program::{config_file, done, failed, fed, ready, refused, run, text};
use crate::support::{OPEN, Redis, Server};

const STREAM: &str = "nexus:deltas";

/// The entry of `/status` for the reason, once it was counted `count` times.
async fn last_of(server: &Server, list: &str, reason: &str, count: u64) -> Value {
    let of = |s: &Server| s.status()["sources"][0][list]["reasons"][reason].clone();
    server.until(reason, |s| of(s)["count"].as_u64() >= Some(count)).await;
    of(server)
}

/// A refused delta is refused in the server's words, on one line, and nothing is sent.
#[tokio::test]
async fn refusals_for_redis_come_before_sending_in_the_servers_words() {
    let (read, untouched) = (Redis::start(), Redis::start());
    let server = ready(&strict(&read.source_config())).await;
    let (_folder, config) = config_file(&strict(&untouched.source_config()));
    let client = redis::Client::open(read.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut counts = std::collections::HashMap::new();
    for case in cases() {
        let mut add = redis::cmd("XADD");
        add.arg(STREAM).arg("*").arg("topic").arg(&case.topic);
        if let Some(data) = &case.data {
            add.arg("data").arg(data);
        }
        if let Some(kind) = case.kind {
            add.arg("kind").arg(kind);
        }
        add.exec_async(&mut connection).await.unwrap();
        let count = counts.entry(case.reason).or_insert(0);
        *count += 1;
        let report = last_of(&server, "refused", case.reason, *count).await;
        let error = failed(&publish(&config, &case));
        let (report, remedy) = (report["text"].as_str().unwrap(), report["remedy"].as_str().unwrap());
        assert!(
            error.ends_with(&format!("was refused ({}): {report}; {remedy}\n", case.reason)),
            "{error}{report}; {remedy}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    assert_eq!(untouched.command(&["EXISTS", STREAM]), ":0");
    // And what a server accepts is accepted.
    for (topic, kind, data) in [
        ("merge:a", None, &b"{\"a\": 1}\n"[..]),
        ("merge:a", Some("delete"), b""),
        ("latest:a", Some("snapshot"), b"[1]"),
        ("raw:a", None, b"\xff\n"),
        ("raw:a", None, b""),
        ("stream:a", Some("history_remove"), b""),
    ] {
        let case = Case { topic: topic.into(), kind, data: Some(data.to_vec()), reason: "" };
        assert!(done(&publish(&config, &case)).starts_with(&format!("{topic}\toffset=")), "{topic} {kind:?}");
    }
    let other = ready(&strict(&untouched.source_config())).await;
    other.until("all are read", |s| s.get("/api/topics/stream:a").0 == 200 || s.metric("deltas_total") >= 5.0).await;
    assert_eq!(refused(&other), 0);
}

/// A server accepts them, with the entry's own time; the command can inform the publisher.
#[tokio::test]
async fn an_invalid_time_is_refused_in_the_words_of_the_server() {
    let (read, untouched) = (Redis::start(), Redis::start());
    let server = ready(&strict(&read.source_config())).await;
    let (_folder, config) = config_file(&strict(&untouched.source_config()));
    for (ts, reason) in [
        ("1723161256", "ts_seconds"),
        ("1723161256313000", "ts_microseconds"),
        ("1723161256313000000", "ts_nanoseconds"),
        ("1723161256313.25", "ts_fraction"),
        ("2024-08-08T00:14:16Z", "ts_date"),
        ("yesterday", "ts_not_a_number"),
        ("20240808", "ts_too_early"),
        ("9999999999999", "ts_too_late"),
    ] {
        read.xadd(STREAM, "*", &["topic", "merge:a", "data", "{}", "ts", ts]);
        let report = last_of(&server, "suspicious", reason, 1).await;
        let error = failed(&run(&["publish", "-c", &config, "--ts", ts, "merge:a", "{}"]));
        let what = error.split_once(&format!("was refused ({reason}): ")).unwrap().1;
        let (what, remedy) = what.trim_end().split_once("; ").unwrap();
        assert!(report["text"].as_str().unwrap().starts_with(what) && what.contains(ts), "{report} {error}");
        assert_eq!(report["remedy"], remedy);
    }
    assert_eq!(untouched.command(&["EXISTS", STREAM]), ":0");
    done(&run(&["publish", "-c", &config, "--ts", "1723161256313", "merge:a", "{}"]));
    let error = failed(&fed(&["publish", "-c", &config, "merge:a", "-"], &[b' '; 600_000]));
    assert!(error.contains("standard input has more than 524288 bytes"), "{error}");
}

#[cfg(feature = "nats")]
#[tokio::test]
async fn refusals_for_nats_come_before_sending_in_the_servers_words() {
    let (read, untouched) = (Nats::start(), Nats::start());
    let source = |nats: &Nats| format!("[source.nats]\nurls = [\"{}\"]\n", nats.url());
    let server = ready(&strict(&source(&read))).await;
    let (_folder, config) = config_file(&strict(&source(&untouched)));
    let (js, other) = (read.jetstream().await, untouched.jetstream().await);
    let stream = async_nats::jetstream::stream::Config {
        name: "NEXUS".into(),
        subjects: vec!["nexus.deltas.>".into()],
        ..Default::default()
    };
    let mut stream = other.create_stream(stream).await.unwrap();
    let mut counts = std::collections::HashMap::new();
    for case in cases() {
        // A name that no subject can express goes into a header, which cannot contain a NUL, for example; missing data
        // is empty.
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nexus-Topic", case.topic.as_str());
        if let Some(kind) = case.kind {
            headers.insert("Nexus-Kind", kind);
        }
        let data = case.data.clone().unwrap_or_default();
        js.publish_with_headers("nexus.deltas._topic.x", headers, data.into()).await.unwrap().await.unwrap();
        let count = counts.entry(case.reason).or_insert(0);
        *count += 1;
        let report = last_of(&server, "refused", case.reason, *count).await;
        let error = failed(&publish(&config, &case));
        let (report, remedy) = (report["text"].as_str().unwrap(), report["remedy"].as_str().unwrap());
        // For an empty name, the subject is shown, which differs.
        let report = if case.topic.is_empty() { "its topic is empty" } else { report };
        let remedy = if case.topic.is_empty() { "" } else { remedy };
        assert!(error.contains(&format!("was refused ({}): {report}", case.reason)), "{error}{report}");
        assert!(error.trim_end().ends_with(remedy), "{error}{remedy}");
    }
    assert_eq!(stream.info().await.unwrap().state.messages, 0);
}

#[tokio::test]
async fn a_namespace_that_is_nearly_one_is_warned_about_and_sent() {
    let redis = Redis::start();
    let (_folder, config) = config_file(&format!("{OPEN}\n{}", redis.source_config()));
    let output = run(&["publish", "-c", &config, "mereg:a", "[1]"]);
    assert!(done(&output).starts_with("mereg:a\toffset="));
    let warning = text(&output.stderr);
    assert!(warning.contains("near_namespace") && warning.contains("did you mean `merge`?"), "{warning}");
    let output = run(&["publish", "-c", &config, "other:a", "[1]"]);
    done(&output);
    assert_eq!(text(&output.stderr), "", "a name that is near none may be meant");
    assert_eq!(redis.command(&["XLEN", STREAM]), ":2");
}

#[tokio::test]
async fn without_a_configuration_it_lists_what_is_not_checked() {
    let redis = Redis::start();
    let output = run(&["publish", "--to", &redis.url(), "merge:a", "[1]"]);
    done(&output);
    for needle in ["--config", "not_an_object", "unknown_namespace", "262144", "the only stream to be nexus:deltas"] {
        assert!(text(&output.stderr).contains(needle), "{}", text(&output.stderr));
    }
    assert_eq!(text(&run(&["publish", "--quiet", "--to", &redis.url(), "merge:a", "[1]"]).stderr), "");
    // Errors that do not depend on the configuration are found without one.
    for (topic, data, needle) in [
        ("bad name", "1", "(name)"),
        ("ops:a", "{}", "(reserved)"),
        ("a", "{", "(not_json)"),
        ("a", "\u{7f}", "(not_json)"),
    ] {
        let error = failed(&run(&["publish", "--to", &redis.url(), topic, data]));
        assert!(error.contains(needle) && error.lines().count() == 1, "{error}");
    }
    assert_eq!(redis.command(&["XLEN", STREAM]), ":2");
    done(&fed(&["publish", "--to", &redis.url(), "--bytes", "raw:a", "-"], b"\xff\n"));
    assert_eq!(redis.command(&["XLEN", STREAM]), ":3");
}

/// The server's own API: what can be checked is checked before, and the rest by the server.
#[tokio::test]
async fn a_server_checks_the_rest_itself() {
    let server = Server::start(&strict(""));
    let to = format!("http://{}", server.address);
    let (_folder, config) = config_file(&strict(""));
    for (args, needle) in [
        (&["merge:a", "[1]"][..], "object"),
        (&["merge:a", "{"], "(not_json)"),
        (&["bad name", "1"], "(name)"),
        (&["latest:a", "1", "--kind", "full"], "did you mean `snapshot`?"),
        (&["latest:a", "1", "--kind", "move"], "it may be delta, snapshot, delete, or left out"),
        (&["latest:a", "1", "--ts", "1723161256"], "(ts_seconds)"),
        (&["mereg:a", "{}"], "did you mean `merge`?"),
    ] {
        let error = failed(&run(&[&["publish", "--to", &to], args].concat()));
        assert!(error.contains(needle) && error.lines().count() == 1, "{error}");
        let error = failed(&run(&[&["publish", "--to", &to, "-c", &config], args].concat()));
        assert!(error.contains("was refused (") && error.lines().count() == 1, "{error}");
    }
    let topics: Value = serde_json::from_str(&server.get("/api/topics").1).unwrap();
    assert_eq!(topics["topics"], json!([]), "nothing was published");
    done(&run(&["publish", "--to", &to, "merge:a", "{}"]));
    done(&run(&["publish", "--to", &to, "merge:a", "--kind", "delete"]));
    assert_eq!(server.get("/api/topics/merge:a").0, 404);
    for args in [&["-c", &config][..], &["--bytes"]] {
        done(&fed(&[&["publish", "--to", &to, "raw:a", "-"], args].concat(), b"\xff\0"));
    }
}

/// A `merge` topic takes objects; its end needs none, with or without a stream behind the API.
#[tokio::test]
async fn a_topic_is_ended_by_the_api_of_a_server_with_a_stream() {
    let redis = Redis::start();
    let server = redis.server("").await;
    let to = format!("http://{}", server.address);
    done(&run(&["publish", "--to", &to, "merge:a", "{}"]));
    server.until("it is there", |s| s.get("/api/topics/merge:a").0 == 200).await;
    done(&run(&["publish", "--to", &to, "merge:a", "--kind", "delete"]));
    server.until("it is gone", |s| s.get("/api/topics/merge:a").0 == 404).await;
}

#[tokio::test]
async fn conflicting_options_are_refused() {
    let redis = Redis::start();
    let (folder, config) = config_file(&format!("{OPEN}\n{}", redis.source_config()));
    let missing = folder.path().join("missing").to_str().unwrap().to_owned();
    let url = redis.url();
    for (args, needle) in [
        (&["--to", "ftp://a", "a", "1"][..], "redis+cluster://"),
        (&["--to", "localhost:8000", "a", "1"], "--to localhost:8000: it has no scheme; it may be\n  http://HOST:PORT"),
        (&["--to", "", "a", "1"], "--to \"\": it names no target"),
        (&["--to", "http://", "a", "1"], "--to http://: it names no host; it may be HOST:PORT"),
        (&["--to", "http://a:port", "a", "1"], "--to http://a:port: invalid port number"),
        (
            &["--to", "redis://u:secret@a:port", "a", "1"],
            "--to redis://***@a:port: `redis://***@a:port` cannot be read: invalid port",
        ),
        (&["--to", "redis+cluster://u:secret@a:x", "a", "1"], "--to redis+cluster://***@a:x: "),
        (&["--to", "unix://", "a", "1"], "--to unix://: `unix://` cannot be read: it names no path"),
        (&["--to", "nats://u:secret@a:x", "a", "1"], "--to nats://***@a:x: "),
        (&["--to", "http://a", "--stream", "s", "a", "1"], "--stream does not go with this target"),
        (&["--to", "http://a", "--create-stream", "a", "1"], "--create-stream does not go with this target"),
        (&["--to", "nats://a", "--create-stream", "a", "1"], "--create-stream does not go with this target"),
        (&["--to", "nats://a", "--max-len", "7", "a", "1"], "--max-len does not go"),
        (&["--to", &url, "--subject", "md.>", "a", "1"], "--subject does not go"),
        (&["--to", &url, "--key", "secret-key", "a", "1"], "--key, --key-file does not go"),
        (&["--to", &url, "--ca", "ca.crt", "a", "1"], "SSL_CERT_FILE"),
        (&["--to", "http://a", "--ca", "ca.crt", "a", "1"], "https://"),
        (&["--to", "https://a", "--ca", &missing, "a", "1"], "--ca"),
        (&["--to", &url, "--key-file", &missing, "a", "1"], "--key-file does not go"),
        (&["--to", "http://a", "--key-file", &missing, "a", "1"], "--key-file"),
        (&["--to", "redis+sentinel://a:1", "a", "1"], "the master's name"),
        (&["--to", "redis+cluster://", "a", "1"], "must be redis://host:port"),
        (&["--to", &url, "--stream", "a,a", "a", "1"], "again; each is read once"),
        (&["--to", "nats://a", "--stream", "A,B", "a", "1"], "NATS has one stream"),
        (&["--to", "nats://a", "--subject", "md", "a", "1"], "must end in `.>`"),
        (&["-c", &config, "--stream", "other", "a", "1"], "--config has the streams"),
        (&["-c", &config, "--bytes", "a", "1"], "--bytes is for use without --config"),
        (&["-c", &missing, "a", "1"], "cannot be read"),
        (&["--to", &url, "a"], "the data is missing"),
        (&["--to", &url, "--file", &missing, "a"], "missing"),
        (&["--to", &url, "--snapshot", "--lines", "-"], "--lines"),
        (&["--to", &url, "--keep-going", "a", "1"], "--keep-going"),
        (&["--to", &url, "a", "1", "--file", "-"], "--file"),
    ] {
        let output = run(&[&["publish"], args].concat());
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.contains(needle), "{args:?}: {error}");
        assert!(!error.contains("secret"), "{args:?}: {error}");
    }
    assert_eq!(redis.command(&["EXISTS", STREAM]), ":0");
}

#[test]
fn its_help_is_worth_reading() {
    let help = done(&run(&["publish", "--help"]));
    for needle in [
        "\n  http://HOST:PORT,",
        "redis+sentinel://",
        "redis+cluster://",
        "nats://",
        "https://",
        "--lines",
        "--ca",
        "Examples:",
        "history_remove (empties its history), move",
        "{\"topic\"",
    ] {
        assert!(help.contains(needle), "{needle} missing in {help}");
    }
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
}
