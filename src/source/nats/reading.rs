//! Messages of a stream in order, from some place on: by a pull consumer, so that no more is on its way than was asked for.
//!
//! The library ends a connection on which something comes that it cannot parse (a header that is none, a subject that is
//! not UTF-8), which any publisher can put into a stream. Around such a place messages are fetched one by one, as JSON, in
//! which nothing can be malformed. So are messages that would take too much memory: the library reads each header into
//! allocations of its own.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{RawMessage, Stream};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::try_join_all;
use serde::Deserialize;
use serde_json::{Value, json};

use super::held::CLOCK_SLACK_MS;
use super::link::Connection;
use super::message::{ReadDelta, malformed_headers, read_message, topic_of};
use super::pull::{BATCH, Pull, Pulled};
use super::subjects::Subjects;
use super::trouble::{Trouble, trouble, unix_ms_of};
use crate::config::PayloadForm;
use crate::source::refusal::Refusal;

/// Time without a reader after which the server removes a consumer.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(120);

/// Messages before and after a suspect that are fetched one by one; more than are on their way at any time.
const SPAN: u64 = 4_096;

/// Messages that are fetched one by one are asked for by so many questions at once, if the link carries as many of the
/// largest in a second.
const FETCHED_AT_ONCE: u64 = 16;

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

impl From<Pulled> for Entry {
    fn from(pulled: Pulled) -> Self {
        let Pulled { message, sequence, ms, pending } = pulled;
        Self { sequence, ms, pending, body: Body::Pulled(message) }
    }
}

impl From<RawMessage> for Entry {
    fn from(message: RawMessage) -> Self {
        let (sequence, ms) = (message.sequence, unix_ms_of(message.time));
        Self { sequence, ms, pending: 1, body: Body::Fetched(Box::new(message)) }
    }
}

impl Entry {
    /// Bytes of its payload and its headers.
    fn bytes(&self) -> usize {
        match &self.body {
            Body::Pulled(message) => message.length,
            // In base64.
            Body::Fetched(message) => (message.payload.len() + message.headers.as_ref().map_or(0, String::len)) / 4 * 3,
        }
    }

    /// The topic that it names, whatever else is in it.
    pub(super) fn topic(&self, subjects: &Subjects) -> Option<String> {
        match &self.body {
            Body::Pulled(message) => topic_of(subjects, &message.subject, pairs_of(message.headers.as_ref())),
            Body::Fetched(message) => fetched_topic(message, subjects),
        }
    }

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
                let mut headers = pairs_of(message.headers.as_ref());
                read_message(subjects, &message.subject, &mut headers, message.payload, bounds, form)
            }
            Body::Fetched(message) => {
                let malformed = || malformed_headers().of_topic_if_known(fetched_topic(&message, subjects).as_deref());
                let decode = |text: &str| STANDARD.decode(text).map_err(|_| malformed());
                let head = decode(message.headers.as_deref().unwrap_or_default())?;
                let head = std::str::from_utf8(&head).map_err(|_| malformed())?;
                // One at a time: there may be very many.
                let lines = || head.lines().skip(1).filter(|line| !line.is_empty());
                if !lines().all(|line| line.contains(':')) {
                    return Err(malformed());
                }
                let mut pairs =
                    lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim()));
                let payload = Bytes::from(decode(&message.payload)?);
                read_message(subjects, &message.subject, &mut pairs, payload, bounds, form)
            }
        }
    }
}

/// Headers with the first of their values.
fn pairs_of(headers: Option<&HeaderMap>) -> impl Iterator<Item = (&str, &str)> {
    let headers = headers.into_iter().flat_map(HeaderMap::iter);
    headers.filter_map(|(name, values)| Some((name.as_ref(), values.first()?.as_str())))
}

/// The topic that a message names, as far as its headers can be read.
fn fetched_topic(message: &RawMessage, subjects: &Subjects) -> Option<String> {
    let head = STANDARD.decode(message.headers.as_deref().unwrap_or_default()).unwrap_or_default();
    let head = String::from_utf8_lossy(&head);
    let pairs = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    topic_of(subjects, &message.subject, pairs.map(|(name, value)| (name, value.trim())))
}

#[derive(Deserialize)]
struct Got {
    message: RawMessage,
}

/// Reads on and on.
pub(super) struct Reading {
    connection: Connection,
    stream: Stream,
    suspects: Suspects,
    way: Way,
    /// Sequence of the last message that was handed out.
    last: u64,
    /// The next message is taken to be too large to be pulled.
    is_large: bool,
}

enum Way {
    Pulled {
        pull: Box<Pull>,
        /// Where it began.
        opened: u64,
    },
    Fetched,
}

impl Reading {
    /// Begins to read.
    pub(super) async fn open(
        connection: Connection,
        stream: Stream,
        start: Start,
        suspects: Suspects,
    ) -> Result<Self, Trouble> {
        // Where there are suspects, it has to be known which message comes.
        let start = if suspects.0.is_empty() || matches!(start, Start::After(_)) { start } else { Start::After(0) };
        let last = if let Start::After(last) = start { last } else { 0 };
        let mut reading = Self { connection, stream, suspects, way: Way::Fetched, last, is_large: false };
        if !matches!(start, Start::After(last) if reading.suspects.near(last)) {
            reading.way = reading.pull(start).await?;
        }
        Ok(reading)
    }

    async fn pull(&mut self, start: Start) -> Result<Way, Trouble> {
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
        let one_most = self.connection.size.one_most();
        let pull = self.connection.pull(&self.stream, config, one_most).await?;
        Ok(Way::Pulled { pull: Box::new(pull), opened: self.last })
    }

    /// Whether nothing is there to be read, nor on its way; asks the server.
    pub(super) async fn is_at_end(&mut self) -> Result<bool, Trouble> {
        match &mut self.way {
            Way::Pulled { pull, .. } => pull.is_at_end().await,
            Way::Fetched => Ok(self.fetch(self.last + 1).await?.is_none()),
        }
    }

    /// The next messages; waits for one. May be dropped at any time without losing any.
    pub(super) async fn next(&mut self) -> Result<Vec<Entry>, Trouble> {
        loop {
            match &mut self.way {
                Way::Pulled { opened, .. } if self.suspects.reached(*opened, self.last) => self.way = Way::Fetched,
                Way::Pulled { pull, .. } => {
                    let entries: Vec<Entry> = pull.next().await?.into_iter().map(Entry::from).collect();
                    if entries.is_empty() {
                        self.last = pull.last().await?.max(self.last);
                        (self.way, self.is_large) = (Way::Fetched, true);
                        continue;
                    }
                    self.last = entries.last().map_or(self.last, |entry| entry.sequence);
                    return Ok(entries);
                }
                Way::Fetched => {
                    let entries = match self.suspects.near(self.last) {
                        true => self.fetch_several().await?,
                        false if self.is_large => self.fetch(self.last + 1).await?.into_iter().collect(),
                        false => Vec::new(),
                    };
                    if let Some(last) = entries.last() {
                        self.last = last.sequence;
                        // Where one is large, the next may be.
                        self.is_large = last.bytes() > self.connection.size.one_most();
                        return Ok(entries);
                    }
                    self.way = self.pull(Start::After(self.last)).await?;
                }
            }
        }
    }

    /// The next messages, whatever is in them, as far as nothing is missing between them; with several questions at once,
    /// so that it goes on over a long link.
    async fn fetch_several(&mut self) -> Result<Vec<Entry>, Trouble> {
        let first = self.last + 1;
        let count = self.connection.size.bytes() / self.connection.context.client().max_payload().max(1);
        let sequences = first..first.saturating_add(u64::try_from(count).unwrap_or(1).clamp(1, FETCHED_AT_ONCE));
        let stream = self.stream.cached_info().config.name.clone();
        let questions = sequences.map(|sequence| {
            let (connection, stream) = (self.connection.clone(), stream.clone());
            async move { fetch(&connection, &stream, &json!({"seq": sequence})).await }
        });
        let found = try_join_all(questions).await?;
        let entries: Vec<Entry> = found.into_iter().map_while(|message| message.map(Entry::from)).collect();
        match entries.is_empty() {
            true => Ok(self.fetch(first).await?.into_iter().collect()),
            false => Ok(entries),
        }
    }

    /// The first message from `sequence` on, whatever is in it.
    async fn fetch(&mut self, sequence: u64) -> Result<Option<Entry>, Trouble> {
        let question = json!({"seq": sequence, "next_by_subj": ">"});
        let found = fetch(&self.connection, &self.stream.cached_info().config.name, &question).await?;
        Ok(found.map(Entry::from))
    }
}

/// One message, as JSON.
async fn fetch(connection: &Connection, stream: &str, question: &Value) -> Result<Option<RawMessage>, Trouble> {
    let subject = format!("STREAM.MSG.GET.{stream}");
    match connection.ask("fetching a message", connection.context.request(subject, question)).await? {
        Response::Ok(Got { message }) => Ok(Some(message)),
        Response::Err { error } if error.code() == 404 => Ok(None),
        Response::Err { error } => Err(Trouble(format!("fetching a message: {error}"))),
    }
}

/// Whether the stream holds something else than when it took the message of this sequence at `ms`: another one in its place or,
/// where that is gone, one of before that it took later. Where the time is not known (0), nothing is.
pub(super) async fn is_other(connection: &Connection, stream: &str, sequence: u64, ms: u64) -> Result<bool, Trouble> {
    if sequence == 0 || ms == 0 {
        return Ok(false);
    }
    // The last message up to there is the one that was taken last. All of them may be gone.
    let (mut from, mut end) = (1, sequence + 1);
    let mut first_looks = [sequence, 1].into_iter();
    while from < end {
        let at = first_looks.next().unwrap_or(from + (end - from) / 2);
        let found = fetch(connection, stream, &json!({"seq": at, "next_by_subj": ">"})).await?;
        match found.filter(|message| message.sequence <= sequence) {
            Some(message) if message.sequence == sequence => return Ok(unix_ms_of(message.time) != ms),
            Some(message) if unix_ms_of(message.time) > ms.saturating_add(CLOCK_SLACK_MS) => return Ok(true),
            Some(message) => from = message.sequence + 1,
            None => end = at,
        }
    }
    Ok(false)
}

/// Whether the stream has lost the message that a saved state rests on, which it took at `ms`: it ends before that sequence, or
/// holds another message there. A message that its limits removed is not lost. `last` is the stream's last known sequence, and
/// is updated.
pub(super) async fn is_lost(
    connection: &Connection,
    stream: &str,
    (sequence, ms): (u64, u64),
    last: &mut u64,
) -> Result<bool, Trouble> {
    if sequence > *last {
        // Other nodes go on to save meanwhile.
        let info = connection.ask("looking at the stream", connection.context.get_stream(stream)).await?;
        *last = info.cached_info().state.last_sequence.max(*last);
    }
    Ok(sequence > *last || is_other(connection, stream, sequence, ms).await?)
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
