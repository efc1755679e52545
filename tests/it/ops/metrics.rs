//! `/metrics` as Prometheus reads it.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::{Client, OPEN, Server};

/// Every metric exists, by the naming rules, on a server that has done a little of everything.
#[tokio::test]
async fn names_help_and_units_are_as_prometheus_wants_them() {
    let server = Server::start(&format!(
        "{}\n[namespace.quotes]\nclass = \"merge\"\nstale_after = \"1s\"\n[limits]\ndelta_bytes = 1024\n\
         [[access.keys]]\nalgorithm = \"HS256\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n[source.simulator]\n",
        OPEN
    ));
    server.until("ready", |s| s.get("/readyz").0 == 200).await;
    let mut client = server.client().await;
    client.subscribe(&["quotes:once", "stream:a"]).await;
    server.publish("quotes:once", &json!({"a": 1}));
    server.publish("stream:a", &json!(1));
    client.next().await;
    client.next().await;
    server.post("/api/publish", &json!({"channel": "stream:a", "data": "x".repeat(2_000)}));
    assert_eq!(Client::connect_with(server.address, &[("authorization", "Bearer a.b.c")]).await.err(), Some(401));
    server.until("stale", |s| s.metric("namespace_stale_topics{namespace=\"quotes\"}") >= 1.0).await;

    let (_, head, text) = server.http("GET", "/metrics", &[], "");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool must be installed: `make tools` does it");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let report = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && report.trim().is_empty(), "promtool: {report}\n{text}");

    for name in [
        "sessions",
        "subscriptions",
        "topics",
        "shards",
        "deltas_total",
        "deliveries_total",
        "sent_bytes_total",
        "writes_total",
        "coalesced_total",
        "conflated_total",
        "backlog_bytes",
        "slow_sessions",
        "closes_total{reason=\"no_pong\"}",
        "delivery_age_seconds_bucket{le=\"0.1\"}",
        "delivery_age_seconds_count",
        "source_lag_seconds{source=\"simulator\"}",
        "source_deltas_total{source=\"simulator\"}",
        "tick_seconds_bucket{le=\"0.001\"}",
        "tick_seconds_sum",
        "busy_seconds_total",
        "flush_delay_seconds",
        "queue_depth",
        "tokens_refused_total{reason=\"invalid\"}",
        "limits_reached_total{limit=\"delta_bytes\"}",
        "namespace_topics{namespace=\"quotes\"}",
        "namespace_last_delta_timestamp_seconds{namespace=\"default\"}",
    ] {
        let sample = format!("\nnexus_push_{name} ");
        assert!(text.contains(&sample), "{name} is missing in\n{text}");
    }
    for old in ["microseconds", "milliseconds", "_ms ", "_us "] {
        assert!(!text.contains(old), "{old} is no base unit:\n{text}");
    }
    assert_eq!(server.metric("limits_reached_total{limit=\"delta_bytes\"}"), 1.0);
    assert_eq!(server.metric("tokens_refused_total{reason=\"invalid\"}"), 1.0);
    assert!(server.metric("delivery_age_seconds_count") >= 2.0);
    assert!(server.metric("tick_seconds_count") <= server.metric("ticks_total"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let last = server.metric("namespace_last_delta_timestamp_seconds{namespace=\"quotes\"}");
    assert!(last <= now && last > now - 600.0, "{last} is not within 10 minutes of {now}");

    let accept = [("Accept", "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3")];
    let (_, head, text) = server.http("GET", "/metrics", &accept, "");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(text.ends_with("# EOF\n") && text.contains("# TYPE nexus_push_deltas counter\n"), "{text}");
}
