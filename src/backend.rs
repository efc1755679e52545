//! The hub's backend: services for sessions beyond topics, such as publishing, presence and calls.

use std::sync::Arc;

use anyhow::Context as _;
use axum::http::{HeaderValue, header};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cluster::Cluster;
use crate::config;
use crate::hub::{Answer, Backend, Member, MemberCount};
use crate::limits::{PRESENCE_MEMBERS_MAX, RPC_BYTES_MAX};
use crate::metrics::Metrics;
use crate::name::TopicName;
use crate::protocol::{MemberInfo, Refusal};
use crate::source::failure::Failure;
use crate::source::publish::Publisher;
use crate::topic::{Kind, Payload};

/// The hub's backend.
pub struct Backstage {
    publisher: Arc<Publisher>,
    cluster: Arc<Cluster>,
    calls: Option<Calls>,
    metrics: Arc<Metrics>,
}

/// The endpoint for calls.
#[derive(Clone)]
struct Calls {
    client: reqwest::Client,
    endpoint: String,
    authorization: Option<HeaderValue>,
}

/// The request to the endpoint.
#[derive(Serialize)]
struct Call<'a> {
    client: &'a str,
    user: &'a str,
    method: &'a str,
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct CallReply {
    result: Option<CallResult>,
    error: Option<CallError>,
}

#[derive(Deserialize)]
struct CallResult {
    data: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct CallError {
    code: u16,
    message: String,
}

impl Backstage {
    /// Builds the backend from the configuration.
    ///
    /// # Errors
    /// The HTTP client for calls cannot be built.
    pub fn new(
        publisher: Arc<Publisher>,
        cluster: Arc<Cluster>,
        rpc: &config::Rpc,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let calls = match &rpc.endpoint {
            Some(endpoint) => {
                let authorization = match &rpc.authorization {
                    Some(value) => {
                        let mut value =
                            HeaderValue::from_str(value).context("rpc.authorization: is not a valid header value")?;
                        // Logs of headers do not show it.
                        value.set_sensitive(true);
                        Some(value)
                    }
                    None => None,
                };
                Some(Calls { client: crate::client::http(rpc.timeout)?, endpoint: endpoint.clone(), authorization })
            }
            None => None,
        };
        Ok(Self { publisher, cluster, calls, metrics })
    }
}

impl Calls {
    async fn call(self, request: String) -> Result<Bytes, Refusal> {
        let request = self.client.post(&self.endpoint).header("content-type", "application/json").body(request);
        let request = match self.authorization {
            Some(value) => request.header(header::AUTHORIZATION, value),
            None => request,
        };
        let again = |reason: String| {
            tracing::warn!(reason, "rpc.endpoint gave no valid answer to a call");
            Refusal::new(503, "the backend did not answer the call; try again")
        };
        let body = crate::client::body(request, RPC_BYTES_MAX).await.map_err(again)?;
        let reply: CallReply = serde_json::from_slice(&body).map_err(|e| again(format!("not an answer: {e}")))?;
        match reply {
            CallReply { error: Some(error), .. } if (1_000..2_000).contains(&error.code) => {
                Err(Refusal::new(error.code, error.message))
            }
            CallReply { error: Some(error), .. } => {
                Err(again(format!("its error code {} is not one of 1000 to 1999", error.code)))
            }
            CallReply { result, .. } => {
                let data = result.and_then(|r| r.data).map(|d| String::from(Box::<str>::from(d)));
                Ok(Bytes::from(data.unwrap_or_else(|| "null".into())))
            }
        }
    }
}

impl Backend for Backstage {
    fn publish(&self, topic: TopicName, payload: Payload) -> Answer<()> {
        let (publisher, metrics) = (self.publisher.clone(), self.metrics.clone());
        Box::pin(async move {
            match publisher.publish(topic.as_str(), Kind::Delta, Some(crate::clock::unix_ms()), payload).await {
                Ok(_) => {
                    metrics.client_publishes.inc();
                    Ok(())
                }
                Err(Failure::Refused(error)) => {
                    Err(Refusal::new(error.code(), error.to_string()).about(topic.as_str()))
                }
                Err(Failure::Unavailable(error)) => {
                    tracing::warn!(%error, "a client's publish was not stored");
                    Err(Refusal::new(503, "the publish was not stored; try again").about(topic.as_str()))
                }
            }
        })
    }

    fn joined(&self, topic: &TopicName, member: &Member) {
        self.cluster.joined(topic, member);
    }

    fn left(&self, topic: &TopicName, member: &Member) {
        self.cluster.left(topic, member);
    }

    fn presence(&self, topic: TopicName) -> Answer<Vec<Arc<MemberInfo>>> {
        let cluster = self.cluster.clone();
        Box::pin(async move {
            let members = cluster.presence(&topic).await?;
            if members.len() > PRESENCE_MEMBERS_MAX {
                let reason = format!(
                    "{} members, the most in one answer is {PRESENCE_MEMBERS_MAX}; ask for presence_stats",
                    members.len()
                );
                return Err(Refusal::new(429, reason).about(topic.as_str()));
            }
            Ok(members.into_values().collect())
        })
    }

    fn presence_stats(&self, topic: TopicName) -> Answer<MemberCount> {
        let cluster = self.cluster.clone();
        Box::pin(async move { cluster.presence_stats(&topic).await })
    }

    fn call(&self, client: String, user: String, method: String, data: Bytes) -> Answer<Bytes> {
        let Some(calls) = self.calls.clone() else {
            return Box::pin(async { Err(Refusal::new(501, "calls are not configured (rpc.endpoint)")) });
        };
        Box::pin(async move {
            let request = question(&client, &user, &method, &data)?;
            // Frees the second copy of the data while the answer is pending.
            drop(data);
            calls.call(request).await
        })
    }
}

/// The request to the endpoint. The data is passed on as written, so numbers keep their digits.
fn question(client: &str, user: &str, method: &str, data: &[u8]) -> Result<String, Refusal> {
    // Protobuf clients may send any bytes, but the endpoint gets JSON.
    let data = if data.is_empty() { Ok(RawValue::NULL) } else { serde_json::from_slice::<&RawValue>(data) };
    let data = data.map_err(|error| {
        let reason = format!("data of the call `{method}` is not JSON, which rpc.endpoint is sent: {error}");
        Refusal::new(400, reason)
    })?;
    serde_json::to_string(&Call { client, user, method, data }).map_err(|e| Refusal::new(400, e.to_string()))
}
