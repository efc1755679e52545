//! Publishes open-loop: each delta has a due time, carries it, and is sent as soon as possible after it. If the server
//! stalls, waiting deltas are late by their own due times, so the stall is counted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use nexus_push::source::redis::EntryId;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use crate::client::check::{digest, state_digest};
use crate::client::class::Class;
use crate::client::protocol::Protocol;
use crate::client::shared::monotonic_ns;
use crate::commands::workload::Workload;
use crate::publish::raw::RawPublisher;
use crate::publish::stream_entry::StreamEntry;

/// Most deltas per batch.
const TOGETHER: usize = 500;

/// A server that needs this many times the planned time for the deltas has failed the workload.
const PATIENCE: u32 = 2;

/// The source's final state of a topic.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    pub(crate) offset: u64,
    pub(crate) deltas: u64,
    digest: u64,
    state: Option<Value>,
}

impl Expected {
    /// Applies a delta, as the topic does.
    pub(crate) fn take(&mut self, class: Class, snapshot: bool, data: &str) -> anyhow::Result<()> {
        self.deltas += 1;
        match class {
            Class::Stream => self.digest = digest(self.digest, xxh3_64(data.as_bytes())),
            Class::Latest => self.state = Some(serde_json::from_str(data)?),
            Class::Merge if snapshot => self.state = Some(serde_json::from_str(data)?),
            Class::Merge => {
                let state = self.state.get_or_insert_with(|| Value::Object(serde_json::Map::new()));
                json_patch::merge(state, &serde_json::from_str(data)?);
            }
        }
        Ok(())
    }

    /// The digest with which every session must end.
    pub(crate) fn final_digest(&self, class: Class) -> u64 {
        match (class, &self.state) {
            (Class::Stream, _) => self.digest,
            (_, Some(state)) => state_digest(state),
            (_, None) => 0,
        }
    }
}

enum Way {
    Api { sender: SendRequest<Full<Bytes>>, host: String, key: Option<String> },
    Redis { connection: redis::aio::MultiplexedConnection },
    Raw(RawPublisher),
}

pub(crate) struct Publisher {
    way: Way,
    workload: Workload,
    rng: StdRng,
    sequence: u64,
    pub(crate) expected: Vec<Expected>,
    /// Longest delay of a batch after its due time.
    pub(crate) latest: Duration,
}

impl Publisher {
    pub(crate) async fn connect(
        workload: &Workload,
        server: SocketAddr,
        key: Option<String>,
        redis: Option<&str>,
    ) -> anyhow::Result<Self> {
        let raw = workload.peer.filter(|peer| peer.protocol() != Protocol::Plain);
        let way = match redis {
            _ if let Some(peer) = raw => Way::Raw(RawPublisher::connect(peer, server).await?),
            Some(url) => Way::Redis { connection: redis::Client::open(url)?.get_multiplexed_async_connection().await? },
            None => {
                let stream = tokio::net::TcpStream::connect(server).await?;
                stream.set_nodelay(true)?;
                let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                Way::Api { sender, host: server.to_string(), key }
            }
        };
        Ok(Self {
            way,
            workload: workload.clone(),
            rng: StdRng::seed_from_u64(workload.seed),
            sequence: 0,
            expected: vec![Expected::default(); workload.topics],
            latest: Duration::ZERO,
        })
    }

    /// Publishes at the workload's rate for `duration`.
    pub(crate) async fn run(&mut self, duration: Duration) -> anyhow::Result<u64> {
        if self.workload.rate <= 0.0 {
            tokio::time::sleep(duration).await;
            return Ok(0);
        }
        let (began, began_ns) = (Instant::now(), monotonic_ns());
        let due = |i: u64, rate: f64| Duration::from_secs_f64(i as f64 / rate);
        let mut i = 0;
        loop {
            let next = due(i, self.workload.rate);
            if next >= duration {
                return Ok(i);
            }
            tokio::time::sleep_until((began + next).into()).await;
            let mut batch = Vec::new();
            while batch.len() < TOGETHER
                && due(i, self.workload.rate) <= began.elapsed()
                && due(i, self.workload.rate) < duration
            {
                let at = due(i, self.workload.rate);
                let intended_ns = began_ns + u64::try_from(at.as_nanos()).unwrap_or(0);
                self.latest = self.latest.max(began.elapsed().saturating_sub(at));
                batch.push(self.delta(intended_ns));
                i += 1;
            }
            self.send(batch).await?;
            let late = began.elapsed() > PATIENCE * duration;
            anyhow::ensure!(
                !late,
                "after {:?} the server had accepted only {i} of the deltas due in {duration:?}",
                began.elapsed()
            );
        }
    }

    /// A delta of the workload's size: `{"t":…,"n":…,"pK":"xxx…"}`.
    fn delta(&mut self, intended_ns: u64) -> (usize, String) {
        self.sequence += 1;
        let topic = self.rng.random_range(0..self.workload.topics.max(1));
        let head = format!("{{\"t\":{intended_ns},\"n\":{},\"p{}\":\"", self.sequence, self.sequence % 8);
        let fill = self.workload.payload.saturating_sub(head.len() + 2);
        let filler: String =
            std::iter::repeat_with(|| char::from(b'a' + self.rng.random_range(0..26u8))).take(fill).collect();
        (topic, format!("{head}{filler}\"}}"))
    }

    async fn send(&mut self, batch: Vec<(usize, String)>) -> anyhow::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let offsets: Vec<u64> = match &mut self.way {
            Way::Api { sender, host, key } => {
                let mut body = String::from("{\"commands\":[");
                for (i, (topic, data)) in batch.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    body.push_str(&format!(
                        "{comma}{{\"publish\":{{\"channel\":\"{}\",\"data\":{data}}}}}",
                        self.workload.topic(*topic)
                    ));
                }
                body.push_str("]}");
                let mut request = hyper::Request::post("/api/batch")
                    .header("host", &*host)
                    .header("content-type", "application/json");
                if let Some(key) = key {
                    request = request.header("x-api-key", &*key);
                }
                sender.ready().await.context("the server closed the publisher's connection")?;
                let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
                let status = response.status();
                let answer = response.into_body().collect().await?.to_bytes();
                if !status.is_success() {
                    bail!("publishing was answered with {status}: {}", String::from_utf8_lossy(&answer));
                }
                let answer: Value = serde_json::from_slice(&answer)?;
                let replies = answer.get("replies").and_then(Value::as_array).context("no replies")?;
                let offset = |reply: &Value| {
                    reply
                        .pointer("/publish/offset")
                        .and_then(Value::as_u64)
                        .with_context(|| format!("a delta was refused: {reply}"))
                };
                replies.iter().map(offset).collect::<anyhow::Result<_>>()?
            }
            Way::Raw(raw) => {
                let batch: Vec<(String, &str)> =
                    batch.iter().map(|(topic, data)| (self.workload.topic(*topic), data.as_str())).collect();
                raw.publish(&batch).await?
            }
            Way::Redis { connection } => {
                let mut pipe = redis::pipe();
                for (topic, data) in &batch {
                    let topic = self.workload.topic(*topic);
                    pipe.add_command(StreamEntry::new(&topic, data).append());
                }
                let ids: Vec<String> = pipe.query_async(connection).await?;
                ids.iter().map(|id| offset_of(id)).collect::<anyhow::Result<_>>()?
            }
        };
        for ((topic, data), offset) in batch.into_iter().zip(offsets) {
            if let Some(expected) = self.expected.get_mut(topic) {
                expected.take(self.workload.class, false, &data)?;
                expected.offset = offset;
            }
        }
        Ok(())
    }
}

/// The offset that every node gives to an entry.
pub(crate) fn offset_of(id: &str) -> anyhow::Result<u64> {
    let id: EntryId = id.parse().map_err(anyhow::Error::msg)?;
    Ok(id.offset().context("an ID without an offset")?.get())
}

/// By topic name.
pub(crate) type ExpectedByName = HashMap<String, (Class, Expected)>;
