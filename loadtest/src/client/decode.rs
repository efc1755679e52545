//! Decodes frames. Thousands of sessions get the same bytes, so each distinct frame is decoded once and remembered.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

/// Most distinct frames that are remembered. Above it, all are forgotten at once.
const REMEMBERED: usize = 100_000;

/// Limit on their bytes.
const REMEMBERED_BYTES: usize = 256 << 20;

#[derive(Deserialize)]
struct Message<'a> {
    op: Option<&'a str>,
    topic: Option<&'a str>,
    #[serde(rename = "type")]
    kind: Option<&'a str>,
    #[serde(default)]
    offset: u64,
    prev: Option<u64>,
    epoch: Option<&'a str>,
    conflated: Option<u64>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    topics: Option<HashMap<String, Standing>>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    retry_after_ms: Option<u64>,
}

/// The same in the Centrifuge protocol.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow)]
    push: Option<Push<'a>>,
    #[serde(borrow)]
    subscribe: Option<Subscribe<'a>>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Push<'a> {
    #[serde(default)]
    channel: &'a str,
    #[serde(borrow, rename = "pub")]
    publication: Option<Publication<'a>>,
    message: Option<Told>,
}

/// A message to the client itself.
#[derive(Deserialize)]
struct Told {
    data: Notice,
}

#[derive(Deserialize)]
struct Notice {
    retry_after_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Publication<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    tags: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Subscribe<'a> {
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    epoch: String,
    #[serde(default)]
    recovered: bool,
    #[serde(borrow, default)]
    publications: Vec<Publication<'a>>,
}

/// The position of a topic, in a reply.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Standing {
    pub(crate) offset: u64,
    pub(crate) epoch: String,
    #[serde(default)]
    pub(crate) recovered: bool,
}

#[derive(Debug)]
pub(crate) enum Frame {
    Delivery(Rc<Delivery>),
    Subscribed(HashMap<String, Standing>),
    /// Centrifuge: the reply to the command with this id, and the missed deliveries.
    Begun(u32, Standing, Vec<Rc<Delivery>>),
    Error(String),
    /// The server is about to close, and asks clients to stay away for this many ms.
    Closing(u64),
    /// `plain`: an unsubscribe was carried out.
    Unsubscribed,
    /// A topic is stale.
    Stale,
    /// A stale topic has a new delta.
    Fresh,
    /// Notices and replies that need no action.
    Other,
}

#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) topic: u32,
    pub(crate) snapshot: bool,
    pub(crate) offset: u64,
    pub(crate) prev: u64,
    /// Deltas that it stands for.
    pub(crate) count: u64,
    /// Snapshots (`plain`): the epoch of `offset`.
    pub(crate) epoch: Option<String>,
    /// When it was due, ns of the monotonic clock.
    pub(crate) intended_ns: Option<u64>,
    /// Its number, if the payload has one.
    pub(crate) number: Option<u64>,
    pub(crate) data: String,
    pub(crate) data_hash: u64,
}

/// A hasher for keys that are hashes already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// Decodes frames and remembers them.
pub(crate) struct Decoder {
    topics: HashMap<String, u32>,
    deliveries: HashMap<u64, Rc<Delivery>, BuildHasherDefault<AsItIs>>,
    bytes: usize,
}

impl Decoder {
    pub(crate) fn new(topics: &[String]) -> Self {
        let topics = topics.iter().zip(0..).map(|(name, i)| (name.clone(), i)).collect();
        Self { topics, deliveries: HashMap::default(), bytes: 0 }
    }

    pub(crate) fn decode(&mut self, bytes: &[u8]) -> anyhow::Result<Frame> {
        let key = xxh3_64(bytes);
        if let Some(known) = self.deliveries.get(&key) {
            return Ok(Frame::Delivery(known.clone()));
        }
        let message: Message<'_> = serde_json::from_slice(bytes).context("a frame is not JSON")?;
        if let Some(error) = message.error {
            return Ok(Frame::Error(error.get().to_owned()));
        }
        if let (Some("closing"), Some(retry_after_ms)) = (message.op, message.retry_after_ms) {
            return Ok(Frame::Closing(retry_after_ms));
        }
        if let (Some("subscribe"), Some(topics)) = (message.op, message.topics) {
            return Ok(Frame::Subscribed(topics));
        }
        let (Some(topic), Some(kind), Some(data)) = (message.topic, message.kind, message.data) else {
            return Ok(match message.op {
                Some("unsubscribe") => Frame::Unsubscribed,
                Some("stale") => Frame::Stale,
                Some("fresh") => Frame::Fresh,
                _ => Frame::Other,
            });
        };
        let topic =
            *self.topics.get(topic).with_context(|| format!("a delivery on {topic}, which no session asked for"))?;
        let data = data.get();
        let delivery = Rc::new(Delivery {
            topic,
            snapshot: kind == "snapshot",
            offset: message.offset,
            prev: message.prev.unwrap_or(0),
            count: message.conflated.unwrap_or(1),
            epoch: message.epoch.map(str::to_owned),
            intended_ns: member(data, "\"t\":"),
            number: member(data, "\"n\":"),
            data_hash: xxh3_64(data.as_bytes()),
            data: data.to_owned(),
        });
        Ok(self.remember(key, bytes, delivery))
    }

    /// Decodes one line of a Centrifuge message.
    pub(crate) fn line(&mut self, bytes: &[u8]) -> anyhow::Result<Frame> {
        let key = xxh3_64(bytes);
        if let Some(known) = self.deliveries.get(&key) {
            return Ok(Frame::Delivery(known.clone()));
        }
        let line: Line<'_> = serde_json::from_slice(bytes).context("a line is not JSON")?;
        if let Some(error) = line.error {
            return Ok(Frame::Error(error.get().to_owned()));
        }
        if let Some(Subscribe { offset, epoch, recovered, publications }) = line.subscribe {
            let missed = publications.into_iter().map(|p| Rc::new(p.delivery(u32::MAX))).collect();
            return Ok(Frame::Begun(line.id, Standing { offset, epoch, recovered }, missed));
        }
        if let Some(Push { message: Some(Told { data: Notice { retry_after_ms: Some(ms) } }), .. }) = line.push {
            return Ok(Frame::Closing(ms));
        }
        let Some(Push { channel, publication: Some(publication), .. }) = line.push else { return Ok(Frame::Other) };
        let topic = *self.topics.get(channel).with_context(|| format!("a delivery on {channel}"))?;
        Ok(self.remember(key, bytes, Rc::new(publication.delivery(topic))))
    }

    fn remember(&mut self, key: u64, bytes: &[u8], delivery: Rc<Delivery>) -> Frame {
        self.bytes += bytes.len();
        if self.deliveries.len() >= REMEMBERED || self.bytes >= REMEMBERED_BYTES {
            self.deliveries.clear();
            self.bytes = 0;
        }
        self.deliveries.insert(key, delivery.clone());
        Frame::Delivery(delivery)
    }
}

impl Publication<'_> {
    fn delivery(&self, topic: u32) -> Delivery {
        let data = self.data.get();
        Delivery {
            topic,
            snapshot: self.tags.get("kind").is_some_and(|kind| kind == "snapshot"),
            offset: self.offset,
            // The protocol does not link deliveries.
            prev: 0,
            count: self.tags.get("conflated").and_then(|n| n.parse().ok()).unwrap_or(1),
            epoch: None,
            intended_ns: member(data, "\"t\":"),
            number: member(data, "\"n\":"),
            data_hash: xxh3_64(data.as_bytes()),
            data: data.to_owned(),
        }
    }
}

/// The number after `key`, a member of our own payloads. Patches that the server merged have further members.
fn member(data: &str, key: &str) -> Option<u64> {
    let at = data.find(key)? + key.len();
    let digits = data.get(at..)?;
    let end = digits.find(|c: char| !c.is_ascii_digit())?;
    digits.get(..end)?.parse().ok()
}

/// A delta in a `stream`'s snapshot.
#[derive(Deserialize)]
struct KeptDelta<'a> {
    offset: u64,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Delivery {
    /// Offsets and numbers of the deltas that a `stream`'s snapshot lists.
    pub(crate) fn kept(&self) -> anyhow::Result<Vec<(u64, Option<u64>)>> {
        let kept: Option<Vec<KeptDelta<'_>>> = serde_json::from_str(&self.data).context("a stream's snapshot")?;
        let kept = kept.unwrap_or_default();
        Ok(kept.into_iter().map(|delta| (delta.offset, member(delta.data.get(), "\"n\":"))).collect())
    }
}
