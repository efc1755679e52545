//! Faults on real processes, in a short form: those that need no more than a few seconds. `make chaos` plays all of them at
//! full length.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs the harness beside the server that `make test` builds; returns its exit code and what it wrote as JSON.
fn run(args: &[&str]) -> (Option<i32>, Value, String) {
    let harness = Path::new(env!("CARGO_BIN_EXE_nexus-loadtest"));
    let server = harness.parent().unwrap().join("nexus-push");
    assert!(server.exists(), "{} is missing: cargo build --workspace", server.display());
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("report.json");
    let output = Command::new(harness)
        .args(args)
        .args(["--quiet", "--json"])
        .arg(&json)
        .arg("--server")
        .arg(server)
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report = std::fs::read_to_string(json).ok().and_then(|text| serde_json::from_str(&text).ok());
    (output.status.code(), report.unwrap_or(Value::Null), text)
}

/// Plays a scenario with few sessions and a short fault; nothing may be lost.
fn plays(scenario: &str, seconds: &str) -> Value {
    let args = ["chaos", scenario, "--seconds", seconds, "--sessions", "30", "--rate", "40"];
    let (code, report, text) = run(&args);
    assert_eq!(code, Some(0), "{text}");
    let verdict = report[0].clone();
    assert_eq!(verdict["scenario"], scenario);
    assert!(
        verdict["acknowledged"].as_u64() > Some(0) && verdict["seen"]["deliveries"].as_u64() > Some(0),
        "{verdict}"
    );
    verdict
}

#[test]
fn redis_killed_and_restarted() {
    let verdict = plays("redis-restart", "1");
    assert_eq!(verdict["seen"]["epochs"], 0, "its data was there: no new epoch is needed");
}

#[test]
fn redis_wiped() {
    let verdict = plays("redis-wiped", "1");
    assert!(verdict["seen"]["epochs"].as_u64() > Some(0) && verdict["sent_again"].as_u64() > Some(0), "{verdict}");
}

#[test]
fn a_node_killed_under_load() {
    let verdict = plays("node-killed", "1");
    assert!(verdict["seen"]["recovered"].as_u64() > Some(0), "{verdict}");
}

#[test]
fn clocks_that_step() {
    plays("clock-stepped", "1");
}

#[test]
fn a_publisher_that_misbehaves() {
    let verdict = plays("bad-publisher", "2");
    assert!(verdict["seen"]["repeats"].as_u64() > Some(0), "what it sent twice came twice: {verdict}");
}

#[test]
fn every_scenario_is_listed_with_what_happens() {
    let output = Command::new(env!("CARGO_BIN_EXE_nexus-loadtest")).args(["chaos", "--list"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().count() >= 14, "{text}");
    assert!(text.lines().all(|line| line.split_whitespace().count() > 3), "{text}");
}

/// A short soak: all faults once, and nothing lost. Whether memory is flat cannot be seen in so short a time.
#[test]
fn a_short_soak_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let svg = directory.path().join("soak.svg");
    let args = ["soak", "--minutes", "0.7", "--sessions", "40", "--topics", "40", "--rate", "40", "--svg"];
    let (code, report, text) = run(&[&args[..], &[svg.to_str().unwrap()]].concat());
    assert!(matches!(code, Some(0 | 2)), "{text}");
    let checks = report["verdict"]["checks"].as_array().unwrap();
    let failed: Vec<&Value> = checks
        .iter()
        .filter(|check| check["passed"] == false && !check["name"].as_str().unwrap().ends_with("flat"))
        .collect();
    assert!(checks.len() >= 8 && failed.is_empty(), "{text}");
    assert!(report["verdict"]["seen"]["turns"].as_u64() > Some(0), "no session came or went: {text}");
    assert!(std::fs::read_to_string(svg).unwrap().starts_with("<svg"));
}
