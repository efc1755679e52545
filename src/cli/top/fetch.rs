//! Requests `/status` of nodes, each at its own pace, so that one without an answer does not delay
//! the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::cli::address;
use crate::client;

/// Time limit for an answer. After it, the node counts as unreachable.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Largest answer.
const STATUS_BYTES_MAX: usize = 1024 * 1024;

/// Most answers that may wait. Above it, nodes are asked less often.
const ANSWERS_MAX: usize = 256;

/// A node to ask.
pub(super) struct Target {
    url: Url,
    label: String,
    key: Option<String>,
}

impl Target {
    pub(super) fn new(text: &str, key: Option<String>) -> anyhow::Result<Self> {
        let url = address::server("NODE", text)?;
        let (_, label) = text.split_once("://").unwrap_or(("", text));
        // Without a user and a password.
        let label = label.rsplit_once('@').map_or(label, |(_, host)| host).trim_end_matches('/').to_owned();
        let url = url.join("/status").with_context(|| format!("{text:?}"))?;
        Ok(Self { url, label, key })
    }

    /// The node's name for people.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    async fn ask(&self, client: &Client) -> Result<Status, String> {
        let mut request = client.get(self.url.clone());
        if let Some(key) = &self.key {
            request = request.header("x-api-key", key);
        }
        let body = client::body(request, STATUS_BYTES_MAX).await?;
        serde_json::from_slice(&body).map_err(|error| format!("its /status is not one of nexus-push: {error}"))
    }
}

/// A node's answer, or why there is none.
pub(super) struct Answer {
    /// Index of the node.
    pub(super) node: usize,
    pub(super) at: Instant,
    pub(super) status: Result<Box<Status>, String>,
}

/// Answers of all nodes, as they arrive.
pub(super) struct Answers(mpsc::Receiver<Answer>);

impl Answers {
    /// Starts asking, once per `interval`.
    pub(super) fn of(targets: Vec<Target>, interval: Duration) -> anyhow::Result<Self> {
        let client = Arc::new(client::http(TIMEOUT).context("TLS is not available")?);
        let (sender, receiver) = mpsc::channel(ANSWERS_MAX);
        for (node, target) in targets.into_iter().enumerate() {
            let (client, sender) = (client.clone(), sender.clone());
            tokio::spawn(async move {
                let mut clock = tokio::time::interval(interval);
                clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                loop {
                    clock.tick().await;
                    let status = target.ask(&client).await.map(Box::new);
                    if sender.send(Answer { node, at: Instant::now(), status }).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self(receiver))
    }

    /// The next answer, if there are nodes.
    pub(super) async fn next(&mut self) -> Option<Answer> {
        self.0.recv().await
    }
}

/// The parts of a node's `/status` that are shown. Parts that another version lacks are empty.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) name: Option<String>,
    pub(super) version: String,
    pub(super) uptime_s: u64,
    pub(super) ready: bool,
    pub(super) draining: bool,
    pub(super) reasons: Vec<String>,
    pub(super) sessions: Sessions,
    pub(super) subscriptions: u64,
    pub(super) topics: u64,
    pub(super) deltas: u64,
    pub(super) deliveries: u64,
    pub(super) conflated: u64,
    /// Earlier versions call it `visits`.
    #[serde(alias = "visits")]
    pub(super) writes: u64,
    pub(super) sent_bytes: u64,
    pub(super) backlog_bytes: u64,
    pub(super) queue_depth: u64,
    pub(super) memory: Memory,
    pub(super) sources: Vec<Source>,
    pub(super) shards: Vec<Shard>,
    pub(super) age_ms: Ages,
    pub(super) closes: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Sessions {
    pub(super) now: u64,
    pub(super) max: u64,
    pub(super) slow: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    pub(super) rss_bytes: u64,
    pub(super) bytes_per_session: Option<u64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) connected: bool,
    pub(super) lag_ms: u64,
    pub(super) note: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Shard {
    pub(super) sessions: u64,
    pub(super) busy_us: u64,
    pub(super) io_uring: bool,
}

/// Deliveries by age: one count per bound, and one for ages above the last.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Ages {
    pub(super) bounds: Vec<u64>,
    pub(super) counts: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_as_people_name_them() {
        for (text, url, label) in [
            ("127.0.0.1:8000", "http://127.0.0.1:8000/status", "127.0.0.1:8000"),
            ("http://push-1:8000/", "http://push-1:8000/status", "push-1:8000"),
            ("https://push.example.com", "https://push.example.com/status", "push.example.com"),
            ("[::1]:8000", "http://[::1]:8000/status", "[::1]:8000"),
            ("http://u:pass@push-1", "http://u:pass@push-1/status", "push-1"),
        ] {
            let target = Target::new(text, None).unwrap();
            assert_eq!((target.url.as_str(), target.label()), (url, label));
        }
        for bad in ["redis://a:1", "http://", "", "a b"] {
            assert!(Target::new(bad, None).is_err(), "{bad:?}");
        }
    }
}
