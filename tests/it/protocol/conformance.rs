//! Some of the Autobahn cases (run by PyPI `kosoku`, without Python 2) against `debug.echo`: those that take seconds.
//! `make conformance` runs all.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use crate::support::Server;
use crate::support::deflate::deflated;
use crate::support::raw_socket::{frame, upgraded};

const ECHO: &str = "[debug]\necho = true";

/// Framing, control frames, fragments, UTF-8, closing, and a few of the large and compressed messages.
const CASES: &[&str] = &[
    "1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.1.1", "9.1.6", "9.2.6", "9.3.1", "9.4.1", "9.5.6", "9.6.6",
    "9.7.1", "9.8.1", "10.*", "12.1.1", "12.1.3", "12.1.11", "12.3.13", "12.5.5", "12.5.18", "13.1.5", "13.2.12",
    "13.4.1", "13.7.3",
];

#[test]
fn the_cases_of_autobahn_pass() {
    let kosoku = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/sdk-venv/bin/kosoku");
    assert!(kosoku.exists(), "{} must be installed: `make tools` does it", kosoku.display());
    let server = Server::start(ECHO);
    let reports = tempfile::tempdir().unwrap();
    let mut command = Command::new(kosoku);
    command.args(["-m", "fuzzingclient", "-o"]).arg(reports.path()).arg(server.address.to_string());
    for case in CASES {
        command.args(["-i", case]);
    }
    let output = command.output().unwrap();
    let (printed, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{printed}\n{failed}");
    let passed: usize = printed.lines().find_map(|l| l.strip_suffix(" cases passed")).unwrap().parse().unwrap();
    assert!(passed > 260, "{printed}");
    // The suite's "OK" is not the only pass: docs/testing.md names the others.
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(reports.path().join("index.json")).unwrap()).unwrap();
    let cases = index.as_object().unwrap().values().next().unwrap().as_object().unwrap();
    let mut others: Vec<String> = cases
        .iter()
        .filter(|(_, case)| case["behavior"] != "OK")
        .map(|(name, case)| format!("{name} {}", case["behavior"].as_str().unwrap_or_default()))
        .collect();
    others.sort();
    let non_strict = ["6.4.1", "6.4.2", "6.4.3", "6.4.4"].map(|case| format!("{case} NON-STRICT"));
    let informational = ["7.1.6", "7.13.1", "7.13.2"].map(|case| format!("{case} INFORMATIONAL"));
    assert_eq!(others, [&non_strict[..], &informational[..]].concat());
}

#[tokio::test]
async fn echo_is_there_only_where_it_is_wanted() {
    let server = Server::start(ECHO);
    server.until("it is logged", |s| s.log().contains("debug.echo is on")).await;
    let has_dashboard = cfg!(feature = "dashboard");
    assert_eq!(server.get("/").1.contains("<html"), has_dashboard, "without an upgrade it is the dashboard");
    assert_eq!(server.get("/debug/echo").0, 426);
    for path in ["/", "/debug/echo"] {
        let (mut stream, _) = upgraded(&server, path, "Sec-WebSocket-Extensions: permessage-deflate\r\n");
        let sent = deflated(b"hello");
        stream.write_all(&frame(0xc1, &sent)).unwrap();
        let mut answer = vec![0; 2 + sent.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[2..], sent, "{path}");
    }
    let without = Server::start("");
    assert_eq!(without.get("/debug/echo").0, 404);
    let (status, _, _) = without.http("GET", "/", &[("Upgrade", "websocket"), ("Connection", "Upgrade")], "");
    assert_eq!(status == 200, has_dashboard, "the dashboard, for any client");
}
