//! A server's publish API as a target.

use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};

use super::outcome::{Fault, Placed, Sent, Warning};
use crate::cli::authorities::{self, Authorities};
use crate::client;
use crate::config::PayloadForm;
use crate::source::precheck::Checked;
use crate::source::refusals::suspicion;

/// Time limit for a batch, including the answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Limit on an answer, in bytes. The answer to one delta has some hundred.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Beginning and end of a batch's body.
const FRAME: (&str, &str) = ("{\"commands\":[", "]}");

pub(super) struct Api {
    client: reqwest::Client,
    url: String,
    key: Option<HeaderValue>,
}

impl Api {
    /// Connects when first used.
    pub(super) fn new(url: &str, key: Option<&str>, authorities: Option<&Authorities>) -> anyhow::Result<Self> {
        let client = authorities::http(TIMEOUT, authorities)?;
        let key = key.map(|key| {
            let mut key = HeaderValue::from_str(key.trim()).context("--key has invalid characters")?;
            key.set_sensitive(true);
            anyhow::Ok(key)
        });
        let key = key.transpose()?;
        Ok(Self { client, url: format!("{}/api/batch", url.trim_end_matches('/')), key })
    }

    pub(super) async fn send(&self, deltas: &[&Checked]) -> Result<Vec<Sent>, String> {
        let request = self.client.post(&self.url).header("content-type", "application/json");
        // Asks for HTTP statuses, whatever the server's own style.
        let request = request.header("x-centrifugo-error-mode", "transport").body(batch(deltas));
        let request = match &self.key {
            Some(key) => request.header("x-api-key", key.clone()),
            None => request,
        };
        let server = || crate::config::redacted(self.url.trim_end_matches("/api/batch"));
        let client::Answer { status, body, .. } = client::whole(request, ANSWER_BYTES_MAX)
            .await
            .map_err(|why| format!("no answer from {}: {why}{}", server(), authorities::hint(&why)))?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if !status.is_success() {
            let why = answer.pointer("/error/message").and_then(Value::as_str);
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            let key =
                if status == StatusCode::UNAUTHORIZED { " (give the key as NEXUS_API_KEY or --key-file)" } else { "" };
            return Err(format!("{} answered {status}{why}{key}", server()));
        }
        let replies = answer.get("replies").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if replies.len() != deltas.len() {
            return Err(format!("{} answered {} of {} commands", server(), replies.len(), deltas.len()));
        }
        Ok(replies.iter().zip(deltas).map(|(reply, delta)| sent(reply, &delta.topic)).collect())
    }
}

/// The outcome of a delta of this topic, from its reply.
fn sent(reply: &Value, topic: &str) -> Sent {
    if let Some(error) = reply.get("error") {
        let why = error.get("message").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
        let is_its_own = error.get("code").and_then(Value::as_u64).is_some_and(|code| (400..500).contains(&code));
        let reason = error.get("reason").and_then(Value::as_str).map(str::to_owned);
        return Err(if is_its_own { Fault::Refused(reason, why) } else { Fault::Failed(why) });
    }
    let result = reply.get("publish").unwrap_or(&Value::Null);
    let number = |name: &str| result.get(name).and_then(Value::as_u64).unwrap_or_default();
    let epoch = result.get("epoch").and_then(Value::as_str).unwrap_or_default();
    let warnings = result.get("warnings").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let warnings = warnings.iter().map(|warning| warned(warning, topic)).collect();
    Ok(Placed { place: format!("offset={}\tepoch={epoch}", number("offset")), warnings })
}

/// A warning, in the words of the checks before sending.
fn warned(warning: &Value, topic: &str) -> Warning {
    let part = |name: &str| warning.get(name).and_then(Value::as_str).unwrap_or_default();
    let told = suspicion(Some(topic), part("reason"), part("text"), part("remedy"));
    Warning { text: part("text").to_owned(), told }
}

/// The body of a batch; JSON is copied unchanged.
fn batch(deltas: &[&Checked]) -> Vec<u8> {
    let mut body = FRAME.0.as_bytes().to_vec();
    for (at, delta) in deltas.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        let mut members = json!({"channel": delta.topic});
        if let Some(members) = members.as_object_mut() {
            if let Some(kind) = delta.kind.name() {
                members.insert("kind".into(), kind.into());
            }
            if let Some(ts) = delta.ts {
                members.insert("ts".into(), ts.into());
            }
        }
        let mut members = members.to_string();
        members.pop();
        body.extend_from_slice(b"{\"publish\":");
        body.extend_from_slice(members.as_bytes());
        match delta.payload.form() {
            PayloadForm::Json => {
                body.extend_from_slice(b",\"data\":");
                body.extend_from_slice(delta.payload.bytes());
            }
            PayloadForm::Bytes => {
                let text = STANDARD.encode(delta.payload.bytes());
                body.extend_from_slice(format!(",\"b64data\":\"{text}\"").as_bytes());
            }
        }
        body.extend_from_slice(b"}}");
    }
    body.extend_from_slice(FRAME.1.as_bytes());
    body
}
