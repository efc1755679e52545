//! Where `publish` and `replay` send deltas: a Redis stream, or a server's publish API.

use anyhow::{Context, bail};
use axum::body::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::topic::Kind;

/// One delta on its way.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    pub(super) topic: String,
    pub(super) kind: Kind,
    pub(super) ts: Option<u64>,
    pub(super) data: String,
}

#[derive(Debug, Args)]
pub(super) struct TargetArgs {
    /// Where to: http://HOST:PORT of a server, or redis://HOST:PORT
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000", env = "NEXUS_TO", hide_env_values = true)]
    to: String,
    /// Redis: stream to append to
    #[arg(long, value_name = "KEY", default_value = "nexus:deltas")]
    stream: String,
    /// Redis: MAXLEN ~ of the stream
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    max_len: u64,
    /// Server: publish key
    #[arg(long, value_name = "KEY", env = "NEXUS_API_KEY", hide_env_values = true)]
    key: Option<String>,
}

/// An open connection to the target.
pub(super) enum Target {
    Redis { connection: redis::aio::MultiplexedConnection, stream: String, max_len: u64 },
    Server { sender: SendRequest<Full<Bytes>>, host: String, key: Option<String> },
}

impl Target {
    pub(super) async fn connect(args: &TargetArgs) -> anyhow::Result<Self> {
        if let Some(host) = args.to.strip_prefix("http://") {
            let host = host.trim_end_matches('/').to_owned();
            let stream =
                tokio::net::TcpStream::connect(&host).await.with_context(|| format!("cannot connect to {host}"))?;
            stream.set_nodelay(true)?;
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            return Ok(Self::Server { sender, host, key: args.key.as_ref().map(|key| key.trim().to_owned()) });
        }
        if args.to.starts_with("redis://") || args.to.starts_with("unix://") {
            let client = redis::Client::open(args.to.as_str())?;
            let connection = client.get_multiplexed_async_connection().await;
            let connection =
                connection.with_context(|| format!("cannot connect to {}", crate::config::redacted(&args.to)))?;
            return Ok(Self::Redis { connection, stream: args.stream.clone(), max_len: args.max_len });
        }
        bail!("--to {:?} is neither http:// nor redis://", args.to)
    }

    /// Sends all of them, in order. Returns the faults that are the deltas' own.
    pub(super) async fn send(&mut self, deltas: &[Outgoing]) -> anyhow::Result<Vec<String>> {
        if deltas.is_empty() {
            return Ok(Vec::new());
        }
        match self {
            Self::Redis { connection, stream, max_len } => {
                let mut pipe = redis::pipe();
                for delta in deltas {
                    let command = pipe.cmd("XADD").arg(&*stream).arg("MAXLEN").arg("~").arg(*max_len).arg("*");
                    command.arg("topic").arg(&delta.topic).arg("data").arg(&delta.data);
                    if delta.kind == Kind::Snapshot {
                        command.arg("kind").arg("snapshot");
                    }
                    if let Some(ts) = delta.ts {
                        command.arg("ts").arg(ts);
                    }
                    command.ignore();
                }
                pipe.query_async::<()>(connection).await.context("Redis did not take the deltas")?;
                Ok(Vec::new())
            }
            Self::Server { sender, host, key } => {
                let mut faults = Vec::new();
                let mut commands = Vec::with_capacity(deltas.len());
                for delta in deltas {
                    match serde_json::from_str::<&RawValue>(&delta.data) {
                        Ok(data) => commands.push((delta, data)),
                        Err(error) => faults.push(format!("{}: not JSON: {error}", delta.topic)),
                    }
                }
                let body = batch(&commands);
                let mut request = hyper::Request::post("/api/batch")
                    .header("host", &*host)
                    .header("content-type", "application/json");
                if let Some(key) = key {
                    request = request.header("x-api-key", &*key);
                }
                sender.ready().await.context("the server closed the connection")?;
                let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
                let status = response.status();
                let answer = response.into_body().collect().await?.to_bytes();
                let answer: Value = serde_json::from_slice(&answer).unwrap_or(Value::Null);
                if !status.is_success() {
                    bail!(
                        "the server answered {status}: {}",
                        answer.pointer("/error/message").and_then(Value::as_str).unwrap_or("?")
                    );
                }
                let replies = answer.get("replies").and_then(Value::as_array).cloned().unwrap_or_default();
                for ((delta, _), reply) in commands.iter().zip(&replies) {
                    if let Some(message) = reply.pointer("/error/message").and_then(Value::as_str) {
                        faults.push(format!("{}: {message}", delta.topic));
                    }
                }
                Ok(faults)
            }
        }
    }
}

/// The body of a batch; the data goes in as it is.
fn batch(commands: &[(&Outgoing, &RawValue)]) -> String {
    let mut body = String::from("{\"commands\":[");
    for (i, (delta, data)) in commands.iter().enumerate() {
        if i > 0 {
            body.push(',');
        }
        let mut head = json!({"channel": delta.topic});
        if let Some(head) = head.as_object_mut() {
            if delta.kind == Kind::Snapshot {
                head.insert("kind".into(), "snapshot".into());
            }
            if let Some(ts) = delta.ts {
                head.insert("ts".into(), ts.into());
            }
        }
        let mut text = head.to_string();
        text.pop();
        body.push_str("{\"publish\":");
        body.push_str(&text);
        body.push_str(",\"data\":");
        body.push_str(data.get());
        body.push_str("}}");
    }
    body.push_str("]}");
    body
}
