//! The harness against the real server, small: every workload runs and checks, and a failing check shows in the exit
//! code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The server beside the harness; `make test` builds both.
fn server() -> PathBuf {
    let harness = Path::new(env!("CARGO_BIN_EXE_nexus-loadtest"));
    let server = harness.parent().unwrap().join("nexus-push");
    assert!(server.exists(), "{} is missing: cargo build --workspace", server.display());
    server
}

fn run(args: &[&str]) -> (Output, Value) {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_nexus-loadtest"))
        .args(args)
        .args(["--quiet", "--json"])
        .arg(&json)
        .arg("--server")
        .arg(server())
        .output()
        .unwrap();
    let report =
        std::fs::read_to_string(json).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null);
    (output, report)
}

fn passes(args: &[&str]) -> Value {
    let (output, report) = run(args);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}\n{text}");
    assert!(report["checks"].as_array().unwrap().len() >= 4);
    report
}

#[test]
fn broadcast_with_several_workers() {
    let report = passes(&["run", "w1", "--sessions", "300", "--seconds", "2", "--per-worker", "100"]);
    assert_eq!((report["workers"].as_u64(), report["deliveries"].as_u64()), (Some(3), Some(300 * 10)));
}

#[test]
fn watchlist_of_each_class_by_both_ways() {
    for class in ["merge", "latest", "stream"] {
        passes(&["run", "w2", "--sessions", "50", "--seconds", "2", "--class", class]);
    }
    let report = passes(&["run", "w2", "--sessions", "50", "--seconds", "2", "--via", "redis", "--max-rate", "5"]);
    assert!(report["represented"].as_u64() > report["deliveries"].as_u64(), "nothing was conflated at 5/s");
}

#[test]
fn firehose_and_idle() {
    passes(&["run", "w3", "--sessions", "20", "--seconds", "2"]);
    let report = passes(&["run", "w4", "--sessions", "200", "--seconds", "1"]);
    assert!(report["rss_connected"].as_u64().unwrap() > 0);
}

#[test]
fn storm() {
    let report = passes(&["run", "w5", "--sessions", "200", "--seconds", "6"]);
    assert_eq!(report["recovered"], 200);
}

#[test]
fn objectives_that_are_missed_show_in_the_exit_code() {
    let args = ["run", "w1", "--sessions", "20", "--seconds", "2"];
    let with = |slo| [&args[..], &["--slo", slo]].concat();
    assert!(run(&with("p99=10s,errors=0.1%")).0.status.success());
    let (missed, report) = run(&with("p50=0.0001ms"));
    assert_eq!(missed.status.code(), Some(2));
    assert!(report["checks"].as_array().unwrap().iter().any(|c| c["passed"] == false));
    assert_eq!(run(&with("p99=fast")).0.status.code(), Some(1));
}

#[test]
fn a_ladder_has_a_row_for_each_step() {
    let (output, report) = run(&["ladder", "w1", "--sessions", "500", "--seconds", "2"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert_eq!(report.as_array().unwrap().len(), 2);
    assert!(text.contains("    100 |") && text.contains("    500 |") && text.contains("100.0000% success"), "{text}");
}

/// W8 on the real recordings, a few seconds of them.
#[test]
fn replay_of_recordings() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    if !folder.is_dir() {
        println!("LEFT OUT: {} is not there; the server's own tests replay made-up traffic", folder.display());
        return;
    }
    let folder = folder.to_str().unwrap();
    let report =
        passes(&["run", "w8", "--sessions", "20", "--recording-seconds", "6", "--speed", "3", "--data", folder]);
    assert!(report["published"].as_u64() > Some(2_000));
    assert_eq!(report["recording"]["malformed"], 0);
}

#[test]
fn slow_sessions_do_not_hurt_the_others() {
    let args = ["run", "w6", "--sessions", "60", "--slow-every", "10", "--rate", "3000", "--payload", "1500"];
    let report = passes(&[&args[..], &["--seconds", "3"]].concat());
    assert_eq!(report["workload"]["slow_every"], 10);
}

#[test]
fn overload_is_conflated() {
    for class in ["latest", "merge"] {
        let report = passes(&["run", "w7", "--sessions", "10", "--seconds", "2", "--rate", "5000", "--class", class]);
        assert!(report["represented"].as_u64() >= report["deliveries"].as_u64(), "{class}");
    }
}

#[test]
fn every_dialect_compressed_and_not() {
    for dialect in ["plain", "centrifuge"] {
        let plain = passes(&["run", "w2", "--sessions", "30", "--seconds", "2", "--dialect", dialect]);
        let args = ["run", "w2", "--sessions", "30", "--seconds", "2", "--dialect", dialect, "--deflate", "--batch"];
        let deflated = passes(&args);
        assert_eq!(plain["represented"], deflated["represented"]);
        assert!(deflated["bytes"].as_u64() < plain["bytes"].as_u64(), "{dialect}: no bytes were saved");
    }
}

#[test]
fn the_floor_carries_a_broadcast() {
    for peer in ["floor", "floor-uring"] {
        passes(&["run", "w1", "--sessions", "40", "--seconds", "2", "--peer", peer]);
    }
}

#[test]
fn a_stream_is_read_into_topics_without_subscribers() {
    let output = Command::new(env!("CARGO_BIN_EXE_nexus-loadtest"))
        .args(["ingest", "--entries", "20000", "--quiet", "--server"])
        .arg(server())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("20000 entries") && text.contains("deltas/s"), "{text}");
}

fn says(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_nexus-loadtest"))
        .args(args)
        .args(["--quiet", "--out", "-", "--server"])
        .arg(server())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}\n{text}");
    text
}

#[test]
fn several_nodes_have_sessions_together() {
    let text = says(&["connections", "--sessions", "200", "--per-node", "60", "--seconds", "2"]);
    assert!(text.contains("| node 4 | 20 |") && text.contains("| sessions held at once | 200 |"), "{text}");
}

/// Behind nginx: HAProxy lets a new node in over half a minute.
#[test]
fn nodes_are_drained_killed_and_added_behind_a_balancer() {
    let windows = ["--drain-window", "1s", "--shed-window", "1s"];
    for dialect in ["plain", "centrifuge"] {
        let args = ["scale-out", "--balancer", "nginx", "--sessions", "120", "--within", "25", "--dialect", dialect];
        let text = says(&[&args[..], &windows].concat());
        assert!(text.contains("| one killed (SIGKILL) |") && text.contains("Nothing was lost."), "{text}");
    }
}
