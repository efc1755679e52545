//! Messages of a stream in order, from some place on: by a pull consumer, so that no more is on its way than was asked for.
//!
//! The library ends a connection on which something comes that it cannot parse (a header that is none, a subject that is
//! not UTF-8), which any publisher can put into a stream. Around such a place messages are fetched one by one, as JSON, in
//! which nothing can be malformed.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{RawMessage, Stream};
use async_nats::jetstream::{self, Context};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::ReadyChunks;
use serde::Deserialize;
use serde_json::json;

use super::message::{ReadDelta, malformed_headers, read_message};
use super::subjects::Subjects;
use super::{Trouble, trouble, unix_ms_of};
use crate::config::PayloadForm;
use crate::source::refusals::Refusal;

/// Messages asked for at once; the next are asked for when half of them have come.
const BATCH: usize = 2_000;

/// Bytes asked for at once, unless the server takes messages of more than half of it.
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Messages taken from what has come at a time.
const CHUNK: usize = 500;

/// Time between two signs of life of a consumer that has nothing to hand out.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Time after which the server forgets a consumer that nobody reads from.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// Messages before and after a suspect that are fetched one by one; more than are on their way at any time.
const SPAN: u64 = 4_096;

/// Suspects remembered. Past it: the first is forgotten, and found again if it must be.
const SUSPECTS_MAX: usize = 64;

const _: () = assert!(SPAN > 2 * BATCH as u64);

/// Places at which connections ended again and again.
#[derive(Debug, Clone, Default)]
pub(super) struct Suspects(VecDeque<Range<u64>>);

impl Suspects {
    /// Connections end somewhere behind `sequence`.
    pub(super) fn add(&mut self, sequence: u64) {
        if self.0.len() >= SUSPECTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(sequence.saturating_sub(SPAN).max(1)..sequence.saturating_add(SPAN));
    }

    /// Whether the message after `last` is to be fetched by itself.
    fn near(&self, last: u64) -> bool {
        self.0.iter().any(|range| range.contains(&(last + 1)))
    }

    /// Whether who began after `opened` and is at `last` has come to one.
    fn reached(&self, opened: u64, last: u64) -> bool {
        self.0.iter().any(|range| range.start > opened && range.contains(&(last + 1)))
    }
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Behind this sequence.
    After(u64),
    /// With the first message taken at this time (Unix ns) or later.
    At(i128),
}

/// A message as it was read.
pub(super) struct Entry {
    pub(super) sequence: u64,
    /// When the stream took it, Unix ms.
    pub(super) ms: u64,
    /// Messages behind it; 0 where nothing was waiting.
    pub(super) pending: u64,
    body: Body,
}

enum Body {
    Pulled(async_nats::Message),
    Fetched(Box<RawMessage>),
}

impl Entry {
    /// What it says.
    pub(super) fn delta(
        self,
        subjects: &Subjects,
        bytes_max: usize,
        form: &dyn Fn(&str) -> PayloadForm,
    ) -> Result<ReadDelta, Refusal> {
        let bounds = (bytes_max, self.ms);
        match self.body {
            Body::Pulled(message) => {
                let headers = message.headers.iter().flat_map(|map| map.iter());
                let mut headers =
                    headers.filter_map(|(name, values)| Some((AsRef::<str>::as_ref(name), values.first()?.as_str())));
                read_message(subjects, &message.subject, &mut headers, message.payload, bounds, form)
            }
            Body::Fetched(message) => {
                let decode = |text: &str| STANDARD.decode(text).map_err(|_| malformed_headers());
                let head = decode(message.headers.as_deref().unwrap_or_default())?;
                let head = std::str::from_utf8(&head).map_err(|_| malformed_headers())?;
                let lines: Vec<&str> = head.lines().skip(1).filter(|line| !line.is_empty()).collect();
                let pairs: Option<Vec<(&str, &str)>> =
                    lines.iter().map(|line| line.split_once(':').map(|(name, value)| (name, value.trim()))).collect();
                let pairs = pairs.ok_or_else(malformed_headers)?;
                let payload = Bytes::from(decode(&message.payload)?);
                read_message(subjects, &message.subject, &mut pairs.into_iter(), payload, bounds, form)
            }
        }
    }
}

#[derive(Deserialize)]
struct Got {
    message: RawMessage,
}

/// Reads on and on.
pub(super) struct Reading {
    context: Context,
    stream: Stream,
    suspects: Suspects,
    batch_bytes: usize,
    way: Way,
    /// Sequence of the last message that was handed out.
    last: u64,
}

enum Way {
    Pulled {
        consumer: Box<Consumer<pull::Config>>,
        messages: Pin<Box<ReadyChunks<pull::Stream>>>,
        /// Messages that the consumer has handed out.
        delivered: u64,
        /// Where it began.
        opened: u64,
    },
    Fetched,
}

impl Reading {
    /// Begins to read.
    pub(super) async fn open(
        context: Context,
        stream: Stream,
        start: Start,
        suspects: Suspects,
    ) -> Result<Self, Trouble> {
        // Where there are suspects, it has to be known which message comes.
        let start = if suspects.0.is_empty() || matches!(start, Start::After(_)) { start } else { Start::After(0) };
        let batch_bytes = BATCH_BYTES.max(context.client().max_payload().saturating_mul(2));
        let last = if let Start::After(last) = start { last } else { 0 };
        let mut reading = Self { context, stream, suspects, batch_bytes, way: Way::Fetched, last };
        if !matches!(start, Start::After(last) if reading.suspects.near(last)) {
            reading.way = reading.pull(start).await?;
        }
        Ok(reading)
    }

    async fn pull(&self, start: Start) -> Result<Way, Trouble> {
        let deliver_policy = match start {
            Start::After(0) => DeliverPolicy::All,
            Start::After(last) => DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
            Start::At(ns) => DeliverPolicy::ByStartTime {
                start_time: async_nats::datetime::from_nanos(ns).map_err(trouble("time to begin at"))?,
            },
        };
        let config = pull::Config {
            deliver_policy,
            ack_policy: AckPolicy::None,
            inactive_threshold: FORGOTTEN_AFTER,
            memory_storage: true,
            num_replicas: 1,
            description: Some("nexus-push".into()),
            ..pull::Config::default()
        };
        let consumer = self.stream.create_consumer(config).await.map_err(trouble("consumer"))?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .max_bytes_per_batch(self.batch_bytes)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(trouble("reading"))?;
        let messages = Box::pin(messages.ready_chunks(CHUNK));
        Ok(Way::Pulled { consumer: Box::new(consumer), messages, delivered: 0, opened: self.last })
    }

    /// Whether nothing is there to be read, nor on its way; asks the server.
    pub(super) async fn is_at_end(&mut self) -> Result<bool, Trouble> {
        match &mut self.way {
            Way::Pulled { consumer, delivered, .. } => {
                let info = consumer.info().await.map_err(trouble("consumer"))?;
                Ok(info.num_pending == 0 && info.delivered.consumer_sequence == *delivered)
            }
            Way::Fetched => Ok(self.fetch(self.last + 1).await?.is_none()),
        }
    }

    /// The next messages; waits for one. May be dropped at any time without losing any.
    pub(super) async fn next(&mut self) -> Result<Vec<Entry>, Trouble> {
        loop {
            match &mut self.way {
                Way::Pulled { opened, .. } if self.suspects.reached(*opened, self.last) => self.way = Way::Fetched,
                Way::Pulled { messages, delivered, .. } => {
                    let chunk =
                        messages.next().await.ok_or_else(|| Trouble("reading: the consumer has ended".into()))?;
                    let mut entries = Vec::with_capacity(chunk.len());
                    for message in chunk {
                        let message = message.map_err(trouble("reading"))?;
                        entries.push(pulled(message, delivered)?);
                    }
                    self.last = entries.last().map_or(self.last, |entry| entry.sequence);
                    return Ok(entries);
                }
                Way::Fetched => {
                    let next = match self.suspects.near(self.last) {
                        true => self.fetch(self.last + 1).await?,
                        false => None,
                    };
                    if let Some(entry) = next {
                        self.last = entry.sequence;
                        return Ok(vec![entry]);
                    }
                    self.way = self.pull(Start::After(self.last)).await?;
                }
            }
        }
    }

    /// The first message from `sequence` on, whatever is in it.
    async fn fetch(&self, sequence: u64) -> Result<Option<Entry>, Trouble> {
        let subject = format!("STREAM.MSG.GET.{}", self.stream.cached_info().config.name);
        let question = json!({"seq": sequence, "next_by_subj": ">"});
        match self.context.request(subject, &question).await.map_err(trouble("fetching a message"))? {
            Response::Ok(Got { message }) => Ok(Some(Entry {
                sequence: message.sequence,
                ms: unix_ms_of(message.time),
                pending: 1,
                body: Body::Fetched(Box::new(message)),
            })),
            Response::Err { error } if error.code() == 404 => Ok(None),
            Response::Err { error } => Err(Trouble(format!("fetching a message: {error}"))),
        }
    }
}

fn pulled(message: jetstream::Message, delivered: &mut u64) -> Result<Entry, Trouble> {
    let info = message.info().map_err(trouble("a message's place in the stream"))?;
    let (sequence, ms, pending) = (info.stream_sequence, unix_ms_of(info.published), info.pending);
    if info.consumer_sequence != *delivered + 1 {
        return Err(Trouble(format!("reading: messages before {sequence} were lost on the way")));
    }
    *delivered = info.consumer_sequence;
    Ok(Entry { sequence, ms, pending, body: Body::Pulled(message.message) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspects_are_come_to_once_and_left_behind() {
        let mut suspects = Suspects::default();
        assert!(!suspects.near(0) && !suspects.reached(0, 10_000));
        suspects.add(10_000);
        assert!(!suspects.near(5_000) && suspects.near(10_000 - SPAN) && suspects.near(10_000));
        assert!(!suspects.near(10_000 + SPAN));
        assert!(suspects.reached(0, 10_000) && !suspects.reached(0, 100));
        assert!(!suspects.reached(9_000, 10_000), "who began within goes on");
        suspects.add(0);
        assert!(suspects.near(0), "the very first");
        for n in 0..1_000 {
            suspects.add(n * 100_000);
        }
        assert_eq!(suspects.0.len(), SUSPECTS_MAX);
    }
}
