//! Which stream a topic belongs in: the rule of the program, of the page for publishers, and of the server.

use std::process::Command;

use serde_json::json;

use crate::support::Redis;

const TOPICS: [&str; 6] = ["quotes:AAPL", "a", "trades:BTC-USDT", "größe:€", "x:1/2", "signals:all"];

fn program(args: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_nexus-push")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

fn partitions(streams: usize) -> Vec<usize> {
    let streams = streams.to_string();
    let args: Vec<&str> = ["partition", "--streams", &streams].into_iter().chain(TOPICS).collect();
    let (done, out, err) = program(&args);
    assert!(done, "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), TOPICS.len());
    lines
        .iter()
        .zip(TOPICS)
        .map(|(line, topic)| line.strip_prefix(&format!("{topic}\t")).unwrap().parse().unwrap())
        .collect()
}

/// A snippet of the page.
fn snippet(language: &str) -> String {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/redis.md")).unwrap();
    let from =
        page.split_once(&format!("```{language}\n")).unwrap_or_else(|| panic!("no {language} in docs/redis.md")).1;
    from.split_once("```").unwrap().0.to_owned()
}

fn printed(program: &str, args: &[&str]) -> Vec<usize> {
    let output =
        Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}; `make test` installs it"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().split_whitespace().map(|n| n.parse().unwrap()).collect()
}

#[test]
fn the_page_and_the_program_agree() {
    let topics = serde_json::to_string(&TOPICS).unwrap();
    for streams in [1, 2, 3, 4, 16, 1_000] {
        let expected = partitions(streams);
        assert!(expected.iter().all(|n| *n < streams));
        let python = format!("{}\nfor topic in {topics}: print(partition(topic, {streams}))", snippet("python"));
        assert_eq!(printed("python3", &["-c", &python]), expected);
        let node =
            format!("{}\nfor (const topic of {topics}) console.log(partition(topic, {streams}));", snippet("js"));
        assert_eq!(printed("node", &["-e", &node]), expected);
    }
    if Command::new("go").arg("version").output().is_err() {
        eprintln!("Go is not installed: its snippet was not run");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("main.go");
    let list = TOPICS.map(|topic| format!("{topic:?}")).join(", ");
    let go = format!(
        "package main\nimport (\"fmt\"; \"hash/fnv\")\n{}\nfunc main() {{ for _, t := range []string{{{list}}} {{ fmt.Println(partition(t, 16)) }} }}",
        snippet("go")
    );
    std::fs::write(&file, go).unwrap();
    assert_eq!(printed("go", &["run", file.to_str().unwrap()]), partitions(16));
}

#[tokio::test]
async fn the_server_publishes_by_the_rule() {
    let redis = Redis::start();
    let streams: Vec<String> = (0..3).map(|n| format!("s{n}")).collect();
    let server = redis.server(&format!("streams = {streams:?}")).await;
    for (topic, partition) in TOPICS.into_iter().zip(partitions(3)) {
        let before = redis.command(&["XLEN", &streams[partition]]);
        server.publish(topic, &json!({"a": 1}));
        assert_ne!(redis.command(&["XLEN", &streams[partition]]), before, "{topic}");
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("nexus-push.toml");
    std::fs::write(&file, format!("[source.redis]\nurl = \"redis://localhost\"\nstreams = {streams:?}\n")).unwrap();
    let (done, out, err) = program(&["partition", "-c", file.to_str().unwrap(), "quotes:AAPL"]);
    assert!(done, "{err}");
    assert_eq!(out.trim_end(), format!("quotes:AAPL\t{0}\ts{0}", partitions(3)[0]));
}

#[test]
fn what_it_cannot_tell_is_said() {
    for (args, needle) in [
        (&["partition", "a"][..], "--streams"),
        (&["partition", "-n", "0", "a"], "0 is not in"),
        (&["partition", "-n", "2"], "TOPICS"),
        (&["partition", "-n", "2", "a b"], "a b"),
    ] {
        let (done, _, err) = program(args);
        assert!(!done && err.contains(needle), "{args:?}: {err}");
    }
}
