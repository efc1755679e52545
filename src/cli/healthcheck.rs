//! `nexus-push healthcheck`

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use reqwest::{StatusCode, Url};
use serde_json::Value;

use super::address;
use super::authorities::{self, Authorities, WITHOUT_TLS};
use super::output::say;
use crate::client::{self, Answer, HEALTH_HEADER};
use crate::config::redacted;

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Paths of a server's health. A proxy may add a prefix.
const PATHS: [&str; 2] = ["/healthz", "/readyz"];

#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    /// HOST:PORT, or a URL whose path may end in /healthz (the default: is the server alive?) or in
    /// /readyz (should clients be sent there?)
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:8000/healthz")]
    url: String,
    /// https://: PEM file of the authorities that may vouch for the server, instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Longest wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
}

pub(super) async fn run(args: HealthcheckArgs) -> anyhow::Result<()> {
    let url = asked(&args.url)?;
    if args.ca.is_some() && url.scheme() != "https" {
        bail!("--ca does not go with URL {}: {WITHOUT_TLS}", redacted(url.as_str()));
    }
    let authorities = args.ca.as_deref().map(Authorities::read).transpose()?;
    let client = authorities::http(Duration::from_secs(args.timeout), authorities.as_ref())?;
    let answer = client::whole(client.get(url.clone()), ANSWER_BYTES_MAX).await;
    let told = redacted(url.as_str());
    let answer = answer.map_err(|reason| anyhow!("{told}: {reason}{}", authorities::hint(&reason)))?;
    match health(&answer) {
        Ok(word) => say(format_args!("{told}: {word}")),
        Err(why) => bail!("{told}: {why}"),
    }
}

/// The URL of the request. Without a path it asks whether the server is alive.
fn asked(text: &str) -> anyhow::Result<Url> {
    let mut url = address::server("URL", text)?;
    let path = url.path();
    if path == "/" {
        url.set_path(PATHS[0]);
    } else if !PATHS.iter().any(|known| path.ends_with(known)) {
        let (told, known) = (redacted(text), PATHS.join(" or "));
        bail!("URL {told}: its path `{path}` is not a health check; let it end in {known}, or leave it out");
    }
    Ok(url)
}

/// The word for a healthy server, or the fault.
fn health(answer: &Answer) -> Result<String, String> {
    let Answer { status, headers, body } = answer;
    if !headers.contains_key(HEALTH_HEADER) {
        return Err(format!(
            "it answers {status}, and not as nexus-push does: without the header `{HEALTH_HEADER}` it is another server, \
             or a version from before that header"
        ));
    }
    let text = String::from_utf8_lossy(body);
    if *status == StatusCode::OK {
        return Ok(text.lines().next().unwrap_or_default().trim().to_owned());
    }
    let json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    if let Some(message) = json.pointer("/error/message").and_then(Value::as_str) {
        return Err(message.to_owned());
    }
    let reasons = json.get("reasons").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let reasons: Vec<&str> = reasons.iter().filter_map(Value::as_str).collect();
    match reasons.as_slice() {
        [] => Err(format!("status {status}")),
        reasons => Err(format!("not ready: {}", reasons.join("; "))),
    }
}
