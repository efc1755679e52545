//! The program's command line.

use std::process::{Command, Stdio};

use crate::support::program::{run, text};
use crate::support::{PROGRAM, Redis, Server};

#[test]
fn the_configurations_that_ship_are_good() {
    for name in ["default", "development", "production", "supabase"] {
        let path = format!("{}/config/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let output = run(&["check-config", &path]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("is good"));
    }
}

/// `nexus-push check-config … | head -1`
#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let path = format!("{}/config/default.toml", env!("CARGO_MANIFEST_DIR"));
    let (read, write) = std::io::pipe().unwrap();
    drop(read);
    let mut command = Command::new(PROGRAM);
    let output = command.args(["check-config", &path]).stdout(write).stderr(Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}

/// The commented default file is correct: uncommented, it is the default. Of two sources that exclude each other, each
/// is tested in turn.
#[test]
fn the_default_file_shows_the_defaults() {
    for (source, without) in [("[source.redis]", "[source.nats]"), ("[source.nats]", "[source.redis]")] {
        if source != "[source.nats]" || cfg!(feature = "nats") {
            default_file_shows_the_defaults(source, without);
        }
    }
}

fn default_file_shows_the_defaults(source: &str, without: &str) {
    let path = format!("{}/config/default.toml", env!("CARGO_MANIFEST_DIR"));
    let shipped = std::fs::read_to_string(path).unwrap();
    let mut section = String::new();
    let mut uncommented = String::new();
    for line in shipped.lines() {
        let line = line.trim_start_matches("# ");
        if line.starts_with('[') {
            section = line.to_owned();
        }
        let is_key =
            line.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        let optional = [
            "name",
            "health_listen",
            "audience",
            "issuer",
            "max_rate",
            "stale_after",
            "endpoint",
            "password_file",
            "authorization_file",
            "sentinels",
            "master",
            "cluster",
        ]
        .iter()
        .any(|k| line.starts_with(&format!("{k} =")));
        // The login for NATS, and the name of its bucket.
        let optional = optional
            || section.starts_with("[source.nats]")
                && (line.contains("_file =") || ["user =", "bucket ="].iter().any(|k| line.starts_with(k)));
        let skipped =
            ["[[access.keys]]", "[[publish.key]]", "[operator]", "[source.replay]", "[namespace.quotes]", without]
                .iter()
                .any(|s| section.starts_with(s));
        if (line.starts_with('[') || (is_key && !optional)) && !skipped {
            uncommented.push_str(line);
            uncommented.push('\n');
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (full, empty) = (dir.path().join("full.toml"), dir.path().join("empty.toml"));
    std::fs::write(&full, &uncommented).unwrap();
    std::fs::write(
        &empty,
        format!(
            "[access.jwks]\nurl = \"https://auth.example.com/.well-known/jwks.json\"\n{source}\n[source.simulator]\n\
             [tls]\nlisten = \"0.0.0.0:8443\"\ncertificate_file = \"/etc/nexus/tls.crt\"\nkey_file = \"/etc/nexus/tls.key\"\n\
             client_ca_file = \"/etc/nexus/clients.crt\"\n",
        ),
    )
    .unwrap();
    let shown = |path: &std::path::Path| {
        let output = run(&["check-config", path.to_str().unwrap()]);
        assert!(output.status.success(), "{}\n{uncommented}", text(&output.stderr));
        text(&output.stdout).lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(shown(&full), shown(&empty));
    assert!(uncommented.lines().count() > 45, "{uncommented}");
}

#[test]
fn a_bad_configuration_is_refused_with_file_line_key_and_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.toml");
    std::fs::write(&path, "[server]\nlisten = \"127.0.0.1:0\"\n\n[limits]\nbacklog_bytes = 7\n").unwrap();
    for command in ["check-config", "serve"] {
        let args = if command == "serve" {
            vec!["serve", "--config", path.to_str().unwrap()]
        } else {
            vec![command, path.to_str().unwrap()]
        };
        let output = run(&args);
        assert!(!output.status.success());
        let error = text(&output.stderr);
        for needle in ["bad.toml:5", "limits.backlog_bytes", "7 is too small"] {
            assert!(error.contains(needle), "{error}");
        }
    }
    assert!(!run(&["check-config", "/nonexistent.toml"]).status.success());
}

#[test]
fn help_is_worth_reading() {
    let help = text(&run(&["--help"]).stdout);
    for needle in ["serve", "check-config", "publish", "Examples:", "XADD"] {
        assert!(help.contains(needle), "{help}");
    }
    let serve = text(&run(&["serve", "--help"]).stdout);
    for flag in ["--config", "--listen", "--redis", "--shards", "--insecure"] {
        assert!(serve.contains(flag), "{serve}");
    }
}

/// A command of a feature that is not built in says so, whatever its arguments; so does a target.
#[test]
#[cfg(not(any(feature = "nats", feature = "replay", feature = "top")))]
fn what_is_not_built_in_is_refused_by_name() {
    for (args, feature) in [
        (&["top", "--once", "127.0.0.1:1"][..], "top"),
        (&["replay", "--speed", "2", "a.gz"], "replay"),
        (&["publish", "--to", "nats://127.0.0.1:1", "a", "1"], "nats"),
        (&["serve", "--nats", "nats://127.0.0.1:1"], "nats"),
    ] {
        let output = run(args);
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.contains(&format!("--features {feature}")), "{args:?}: {error}");
    }
}

#[cfg(feature = "replay")]
#[tokio::test]
async fn replay_into_a_server_and_into_redis() {
    use serde_json::Value;
    let dir = tempfile::tempdir().unwrap();
    let files = crate::support::recording::made_up(dir.path(), 400);
    let redis = Redis::start();
    let direct = Server::open_with(crate::support::recording::NAMESPACES);
    let through = redis.server(crate::support::recording::NAMESPACES).await;
    for to in [format!("http://{}", direct.address), redis.url()] {
        let mut args = vec!["replay", "--quiet", "--speed", "50", "--to", &to];
        args.extend(files.iter().map(|f| f.to_str().unwrap()));
        let output = run(&args);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let counts: Value = serde_json::from_slice(output.stdout.trim_ascii()).unwrap();
        assert_eq!(counts["malformed"], 1, "{counts}");
    }
    let names = |s: &Server| serde_json::from_str::<Value>(&s.get("/api/topics").1).unwrap()["topics"].clone();
    through.until("all topics are there", |s| names(s) == names(&direct)).await;
    for topic in names(&direct).as_array().unwrap() {
        let topic = topic.as_str().unwrap();
        let data = |s: &Server| {
            serde_json::from_str::<Value>(&s.get(&format!("/api/topics/{topic}")).1).unwrap()["data"].clone()
        };
        if !topic.starts_with("trades:") {
            through.until("the same state", |s| data(s) == data(&direct)).await;
        }
    }
}

/// The start-up log: addresses, number of sessions and why, sources, and what is open to everybody.
#[tokio::test]
async fn startup_logs_what_runs() {
    let server = Server::start("[access]\nanonymous = true\n[source.simulator]\n");
    server.until("all lines", |s| s.log().contains("open: ")).await;
    let log = server.log();
    for needle in [
        "listens on http://127.0.0.1:",
        "this machine only",
        "sessions (descriptor limit",
        "SIMULATION",
        "anyone may subscribe",
        "publish API off",
    ] {
        assert!(log.contains(needle), "{needle} missing in\n{log}");
    }
}

/// A server that was started with these arguments, once it has logged its address.
fn listening(arguments: &[&str]) -> (std::process::Child, std::net::SocketAddr) {
    let mut child = Command::new(PROGRAM).args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut lines = lines.map_while(Result::ok);
    let address =
        lines.find_map(|line| line.split_once("listens on http://")?.1.split_whitespace().next()?.parse().ok());
    std::thread::spawn(move || lines.for_each(drop));
    (child, address.unwrap())
}

#[test]
fn what_anyone_may_publish_to_does_not_leave_the_machine_unless_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("open.toml");
    std::fs::write(&path, "[server]\nlisten = \"0.0.0.0:0\"\n[publish]\nopen = true\n").unwrap();
    for arguments in [&["serve", "--listen", "0.0.0.0:0"][..], &["serve", "--config", path.to_str().unwrap()]] {
        let mut child =
            Command::new(PROGRAM).args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let deadline = std::time::Instant::now() + crate::support::PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if std::time::Instant::now() > deadline {
                child.kill().unwrap();
                panic!("{arguments:?} serves");
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let output = child.wait_with_output().unwrap();
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.contains("--insecure") && error.contains("0.0.0.0:"), "{error}");
    }
    for arguments in [&["serve", "--insecure", "--listen", "0.0.0.0:0"][..], &["serve", "--listen", "127.0.0.1:0"]] {
        let (mut child, address) = listening(arguments);
        assert_ne!(address.port(), 0);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn passwords_of_arguments_are_in_no_list_of_processes() {
    let redis = Redis::start();
    redis.command(&["CONFIG", "SET", "requirepass", "s3cr3t-word"]);
    let url = redis.url().replace("redis://", "redis://:s3cr3t-word@");
    for arguments in [vec!["--redis", &url], vec![&format!("--redis={url}")[..]]] {
        let (mut child, address) = listening(&[&["serve", "--listen", "127.0.0.1:0"][..], &arguments].concat());
        let shown = std::fs::read(format!("/proc/{}/cmdline", child.id())).unwrap();
        let shown = String::from_utf8_lossy(&shown).replace('\0', " ");
        assert!(shown.contains("serve --listen 127.0.0.1:0") && !shown.contains("s3cr3t"), "{shown}");
        let name = std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap();
        assert_eq!(name.trim(), "nexus-push");
        // It is used nevertheless.
        let deadline = std::time::Instant::now() + crate::support::PATIENCE;
        while !run(&["healthcheck", &format!("http://{address}/readyz")]).status.success() {
            assert!(std::time::Instant::now() < deadline, "it does not read Redis");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// As a job in a cluster runs it: every address of a name, with a key from a file.
#[tokio::test]
async fn drain_asks_every_node_behind_a_name() {
    let key = "operator-key-0123456789";
    let server = Server::start(&format!("[access]\nanonymous = true\n[operator]\nkey = \"{key}\"\n"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("operator.key");
    std::fs::write(&path, format!("{key}\n")).unwrap();
    let file = path.to_str().unwrap();
    let _client = server.client().await;
    server.until("it is there", |s| s.log().contains("open: ")).await;
    let name = server.address.to_string();
    let output = run(&["drain", "--dns", &name, "--share", "1", "--key-file", file]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with(&format!("{name}: ")), "{}", text(&output.stdout));
    // It is not a failure that a node knows no other; an unreachable node or a wrong key is.
    let output = run(&["drain", "--dns", &name, "--to-mean", "--key-file", file]);
    assert!(output.status.success() && text(&output.stdout).contains("not now"), "{}", text(&output.stderr));
    let nobody = format!("127.0.0.1:{}", crate::support::free_port());
    for arguments in [
        ["drain", "--dns", &nobody, "--to-mean", "--key-file", file],
        ["drain", "--dns", &name, "--to-mean", "--key", "wrong-key-0123456789"],
        ["drain", "--dns", "127.0.0.1", "--to-mean", "--key-file", file],
    ] {
        let output = run(&arguments);
        assert!(!output.status.success() && !output.stderr.is_empty(), "{arguments:?}");
    }
}
