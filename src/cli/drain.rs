//! `nexus-push drain`

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use reqwest::StatusCode;
use serde_json::Value;

use super::output::say;
use crate::config::redacted;

/// Time in which a node must answer.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// The node: HOST:PORT, http://HOST:PORT or https://HOST:PORT
    #[arg(required_unless_present = "dns", conflicts_with = "dns")]
    url: Option<String>,
    /// Every node behind a name: asks each of its addresses, one after the other
    #[arg(long, value_name = "HOST:PORT")]
    dns: Option<String>,
    /// Share of its sessions to close, above 0 and at most 1, such as 0.2
    #[arg(long, required_unless_present = "to_mean", conflicts_with = "to_mean")]
    share: Option<String>,
    /// Close as many as it has above the mean of all nodes
    #[arg(long)]
    to_mean: bool,
    /// Only if it is above the mean by more than this share, such as 0.2
    #[arg(long, requires = "to_mean")]
    above: Option<String>,
    /// Time over which sessions are closed
    #[arg(long, default_value = "5s")]
    window: String,
    /// Operators' key
    #[arg(long, value_name = "KEY", env = "NEXUS_API_KEY", hide_env_values = true)]
    key: Option<String>,
    /// File that holds the operators' key
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// Outcome of a request.
enum Outcome {
    /// Done; the text says how many sessions go.
    Done(String),
    /// The node cannot do it now, which is not a failure: it knows no other node, or already
    /// drains.
    NotNow(String),
}

/// Asks nodes to send some of their sessions to others, and prints how many go.
pub(super) async fn run(args: DrainArgs) -> anyhow::Result<()> {
    let key = match &args.key_file {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("--key-file {}", path.display()))?),
        None => args.key.clone(),
    };
    let key = key.map(|key| key.trim().to_owned());
    if let Some(url) = &args.url {
        let url = super::address::server("URL", url)?;
        let url = url.as_str().trim_end_matches('/');
        return match ask(&args, url, key.as_deref()).await? {
            Outcome::Done(done) => say(done),
            Outcome::NotNow(why) => bail!("{} answered {why}", redacted(url)),
        };
    }
    let name = args.dns.as_deref().unwrap_or_default();
    let found = tokio::time::timeout(TIMEOUT, tokio::net::lookup_host(name)).await;
    let found = found.with_context(|| format!("--dns {name}: no answer within {TIMEOUT:?}"))?;
    let mut nodes: Vec<_> = found.with_context(|| format!("--dns {name} (HOST:PORT)"))?.collect();
    nodes.sort_unstable();
    nodes.dedup();
    if nodes.is_empty() {
        bail!("--dns {name}: the name has no address");
    }
    let mut failed = 0;
    for node in &nodes {
        let url = format!("http://{node}");
        match ask(&args, &url, key.as_deref()).await {
            Ok(Outcome::Done(done)) => say(format_args!("{node}: {done}"))?,
            Ok(Outcome::NotNow(why)) => say(format_args!("{node}: not now: {why}"))?,
            Err(error) => {
                failed += 1;
                eprintln!("{node}: {error:#}");
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} nodes could not be reached", nodes.len());
    }
    Ok(())
}

async fn ask(args: &DrainArgs, node: &str, key: Option<&str>) -> anyhow::Result<Outcome> {
    let much = match (&args.share, &args.above) {
        (Some(share), _) => format!("share={}", escaped(share)),
        (None, Some(above)) => format!("to=mean&above={}", escaped(above)),
        (None, None) => "to=mean".to_owned(),
    };
    let url = format!("{}/admin/drain?{much}&window={}", node.trim_end_matches('/'), escaped(&args.window));
    let mut request = crate::client::http(TIMEOUT)?.post(&url).header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("x-api-key", key);
    }
    let response = request.send().await.map_err(reqwest::Error::without_url);
    let told = redacted(node);
    let response = response.with_context(|| format!("{told} does not answer"))?;
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    let Some(result) = answer.get("result") else {
        let why = answer.pointer("/error/message").and_then(Value::as_str).unwrap_or(&text);
        let told = format!("{status}: {why}");
        if matches!(status, StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE) {
            return Ok(Outcome::NotNow(told));
        }
        bail!("{} answered {told}", redacted(node));
    };
    let number = |name: &str| result.get(name).and_then(Value::as_u64);
    let (shedding, sessions) = (number("shedding").unwrap_or(0), number("sessions").unwrap_or(0));
    let mean = number("mean").map_or_else(|| "no other node known".to_owned(), |mean| format!("mean {mean}"));
    Ok(Outcome::Done(format!("{shedding} of {sessions} sessions go within {} ({mean})", args.window)))
}

/// Escaped for a query; the server judges the value itself.
fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
