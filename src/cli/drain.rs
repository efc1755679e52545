//! `nexus-push drain`

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use super::say;

/// Time that a node has to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// The node: http://HOST:PORT
    url: String,
    /// Share of its sessions, above 0 and at most 1, such as 0.2
    #[arg(long, required_unless_present = "to_mean", conflicts_with = "to_mean")]
    share: Option<String>,
    /// As many as it has above the mean of all nodes
    #[arg(long)]
    to_mean: bool,
    /// Only if it has more than such a share above the mean, such as 0.2
    #[arg(long, requires = "to_mean")]
    above: Option<String>,
    /// Time over which they are closed
    #[arg(long, default_value = "5s")]
    window: String,
    /// Operators' key
    #[arg(long, value_name = "KEY", env = "NEXUS_API_KEY", hide_env_values = true)]
    key: Option<String>,
}

/// Asks a node to send some of its sessions to others, and says how many will go.
pub(super) async fn run(args: DrainArgs) -> anyhow::Result<()> {
    let much = match (&args.share, &args.above) {
        (Some(share), _) => format!("share={}", escaped(share)),
        (None, Some(above)) => format!("to=mean&above={}", escaped(above)),
        (None, None) => "to=mean".to_owned(),
    };
    let url = format!("{}/admin/drain?{much}&window={}", args.url.trim_end_matches('/'), escaped(&args.window));
    let mut request = crate::client::http(TIMEOUT)?.post(&url).header("content-type", "application/json");
    if let Some(key) = &args.key {
        request = request.header("x-api-key", key);
    }
    let response = request.send().await.with_context(|| format!("{} does not answer", args.url))?;
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    let Some(result) = answer.get("result") else {
        bail!(
            "{} answered {status}: {}",
            args.url,
            answer.pointer("/error/message").and_then(Value::as_str).unwrap_or(&text)
        );
    };
    let number = |name: &str| result.get(name).and_then(Value::as_u64);
    let (shedding, sessions) = (number("shedding").unwrap_or(0), number("sessions").unwrap_or(0));
    let mean = number("mean").map_or_else(|| "no other node known".to_owned(), |mean| format!("mean {mean}"));
    say(format_args!("{shedding} of {sessions} sessions go within {} ({mean})", args.window))
}

/// As it may stand in a query: what the server then says of it is the server's matter.
fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
