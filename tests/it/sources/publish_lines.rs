//! `nexus-push publish` of many deltas, line by line.

use std::io::{BufRead, BufReader, Read, Write};

use serde_json::{Value, json};

use crate::support::program::{done, ended, failed, fed, run, started, text};
use crate::support::{OPEN, Redis, Server, signal};

const STREAM: &str = "nexus:deltas";

fn length(redis: &Redis) -> u64 {
    redis.command(&["XLEN", STREAM])[1..].parse().unwrap()
}

/// Both forms, over the API: an error names its line, and the other lines are published if that is requested.
#[tokio::test]
async fn lines_in_both_forms_are_published_in_order() {
    let server = Server::open();
    let to = format!("http://{}", server.address);
    let mut client = server.client().await;
    client.subscribe(&["stream:a", "merge:m"]).await;
    let lines = "stream:a 2\n\n{\"channel\":\"merge:m\",\"data\":{\"a\": 1.50},\"kind\":\"snapshot\",\"ts\":1723161256313}\n\
                 nonsense\nmerge:m [1]\nstream:a {broken\n{\"topic\":\"stream:a\",\"dta\":1}\r\n{\"topic\":\"stream:a\",\"data\":3}";
    let output = fed(&["publish", "--to", &to, "--keep-going", "--ids", "--lines", "-"], lines.as_bytes());
    let report = failed(&output);
    for needle in [
        "line 4: `nonsense` has no data behind the topic",
        "line 5: `merge:m`: the server refused it",
        "line 6: `stream:a` was refused (not_json)",
        "line 7: its `dta` is no member of a line; did you mean `data`?",
        "3 published, 4 refused; the last, line 8: stream:a offset=",
        "4 of 8 lines were refused",
    ] {
        assert!(report.contains(needle), "{needle} missing in {report}");
    }
    let printed: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let delta = client.next().await;
        let (topic, offset) = (delta["topic"].as_str().unwrap(), &delta["offset"]);
        assert!(printed.iter().any(|line| line.starts_with(&format!("{topic}\toffset={offset}\t"))), "{printed:?}");
        seen.push(delta["data"].to_string());
    }
    seen.sort();
    assert_eq!((seen.join(" ").as_str(), printed.len()), ("2 3 {\"a\":1.5}", 3));
}

/// The first refused line is the end: earlier ones are published, later ones are not.
#[tokio::test]
async fn it_stops_at_the_first_that_is_refused() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (config, lines) = (at("nexus-push.toml"), at("deltas.ndjson"));
    std::fs::write(&config, format!("{OPEN}\n{}", redis.source_config())).unwrap();
    let mut input: Vec<String> =
        (1..=1_500).map(|n| json!({"topic": "merge:a", "data": {"n": n}}).to_string()).collect();
    input[1_233] = "merge:a [1]".to_owned();
    std::fs::write(&lines, input.join("\n")).unwrap();
    let report = failed(&run(&["publish", "-c", &config, "--lines", &lines]));
    for needle in
        ["line 1234: `merge:a` was refused (not_an_object)", "1233 published, 1 refused", "stopped at line 1234"]
    {
        assert!(report.contains(needle), "{report}");
    }
    assert_eq!(length(&redis), 1_233);
    let report = failed(&run(&["publish", "-c", &config, "--lines", &lines, "--keep-going"]));
    assert!(report.contains("1499 published, 1 refused") && report.contains("1 of 1500 lines"), "{report}");
    assert_eq!(length(&redis), 1_233 + 1_499);
    // Longer than any delta may be: not read into memory, and reported.
    std::fs::write(&lines, format!("merge:a {{}}\nmerge:a \"{}\"\nmerge:a {{}}\n", "x".repeat(5_000_000))).unwrap();
    let report = failed(&run(&["publish", "-c", &config, "--lines", &lines]));
    assert!(report.contains("line 2: it has more bytes than a delta may, 262144"), "{report}");
    assert_eq!(length(&redis), 1_233 + 1_499 + 1);
}

/// 50,000 lines into two streams: all arrive, in order, with little memory.
#[tokio::test]
async fn a_long_file_goes_through_in_bounded_memory() {
    const COUNT: u64 = 50_000;
    let redis = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deltas.ndjson");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    let pad = "x".repeat(300);
    for n in 0..COUNT {
        writeln!(file, "{{\"topic\":\"stream:{}\",\"data\":{{\"n\":{n},\"pad\":\"{pad}\"}}}}", n % 10).unwrap();
    }
    drop(file);
    let (url, path) = (redis.url(), path.to_str().unwrap());
    let to = ["--to", &url, "--stream", "s0,s1", "--create-stream"];
    let mut child = started(&[&["publish", "--quiet", "--lines", path][..], &to].concat());
    drop(child.stdin.take());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        most = most.max(peak.unwrap_or(0u64));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    done(&output);
    assert!(text(&output.stderr).contains(&format!("{COUNT} published, 0 refused")), "{}", text(&output.stderr));
    assert!(most > 0 && most < 96 * 1024, "{most} KB for 17 MB");
    let count = |stream: &str| redis.command(&["XLEN", stream])[1..].parse::<u64>().unwrap();
    assert_eq!(count("s0") + count("s1"), COUNT);
    let client = redis::Client::open(redis.url()).unwrap();
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let mut connection = client.get_multiplexed_async_connection_with_config(&patient).await.unwrap();
    for stream in ["s0", "s1"] {
        let range: redis::streams::StreamRangeReply =
            redis::cmd("XRANGE").arg(stream).arg("-").arg("+").query_async(&mut connection).await.unwrap();
        let numbers: Vec<u64> = range
            .ids
            .iter()
            .map(|entry| {
                serde_json::from_str::<Value>(&entry.get::<String>("data").unwrap()).unwrap()["n"].as_u64().unwrap()
            })
            .collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
    }
}

/// As a feed uses it: a line is sent as soon as it is read. Ctrl-C ends it, although standard input stays open.
#[tokio::test]
async fn a_line_goes_at_once_and_ctrl_c_is_the_end() {
    let redis = Redis::start();
    let server = redis.server("").await;
    let mut client = server.client().await;
    client.subscribe(&["stream:a"]).await;
    for name in ["INT", "TERM"] {
        let mut child = started(&["publish", "--to", &redis.url(), "--ids"]);
        let mut input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        for n in 0..3 {
            writeln!(input, "stream:a {n}").unwrap();
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            let offset = client.next().await["offset"].clone();
            assert!(line.starts_with(&format!("stream:a\toffset={offset}\tid=")), "{line}");
        }
        signal(child.id(), name);
        let report = failed(&ended(child));
        assert!(report.contains("3 published, 0 refused") && report.contains("interrupted after line 3"), "{report}");
        drop(input);
    }
}

/// In the middle of many lines, too: the report matches what was stored.
#[tokio::test]
async fn ctrl_c_in_the_middle_reports_the_last_line() {
    let redis = Redis::start();
    let mut child = started(&["publish", "--to", &redis.url(), "--lines", "-"]);
    let mut input = child.stdin.take().unwrap();
    // Endlessly, until the pipe is closed.
    let writing = std::thread::spawn(move || while input.write_all(b"stream:a {\"bid\":191.4}\n").is_ok() {});
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while length(&redis) < 2_000 {
        assert!(std::time::Instant::now() < deadline, "it does not publish");
    }
    signal(child.id(), "INT");
    let report = failed(&ended(child));
    writing.join().unwrap();
    let count = length(&redis);
    assert!(report.contains(&format!("{count} published, 0 refused; the last, line {count}: ")), "{count} {report}");
    assert!(report.contains(&format!("interrupted after line {count}")), "{count} {report}");
}

/// If the stream becomes unreachable, the report names the first line affected, and the command ends in time.
#[tokio::test]
async fn a_target_that_fails_is_the_end() {
    let mut redis = Redis::start();
    let mut child = started(&["publish", "--to", &redis.url(), "--ids", "--keep-going"]);
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    writeln!(input, "stream:a 1").unwrap();
    output.read_line(&mut String::new()).unwrap();
    redis.kill();
    writeln!(input, "stream:a 2\nstream:a 3").unwrap();
    let report = failed(&ended(child));
    for needle in
        ["1 published, 0 refused", "line 2: Redis did not take the delta", "those from it on are not confirmed"]
    {
        assert!(report.contains(needle), "{report}");
    }
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn no_lines_publish_nothing() {
    let redis = Redis::start();
    let output = fed(&["publish", "--to", &redis.url()], b"\n \n");
    done(&output);
    assert_eq!(text(&output.stderr), "0 published, 0 refused\n");
}
