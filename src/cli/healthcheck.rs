//! `nexus-push healthcheck`

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::say;
use crate::client;

/// Largest answer that is looked at.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    /// What to ask; /readyz tells whether clients should be sent there
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:8000/healthz")]
    url: String,
    /// Longest wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
}

pub(super) async fn run(args: HealthcheckArgs) -> anyhow::Result<()> {
    let client = client::http(Duration::from_secs(args.timeout)).context("no TLS to be had")?;
    let body = client::body(client.get(&args.url), ANSWER_BYTES_MAX).await;
    let body = body.map_err(|reason| anyhow!("{}: {reason}", args.url))?;
    say(String::from_utf8_lossy(&body).trim_end())
}
