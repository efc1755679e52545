//! Appending to the stream, for the publish API: so that every node sees what one of them was given.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::redis::{Cmd, RedisError, RedisResult, Value, from_redis_value};
use futures_util::future::join_all;

use super::entries::fields_of;
use super::id::EntryId;
use super::keys::hash_tag;
use super::masters::Masters;
use super::shared_link::SharedLink;
use super::there;
use crate::config;
use crate::limits::{APPEND_BYTES_MAX, APPEND_DELTAS_MAX, IDEMPOTENCY_TTL};
use crate::metrics::Metrics;
use crate::position::{Epoch, Offset};
use crate::source::draft::Draft;
use crate::source::once::OnceKey;
use crate::source::outgoing::Outgoing;
use crate::topic::{Kind, SourceId, Topics};

/// Appends deltas to the stream of their topic's partition.
pub struct Appender {
    config: config::Redis,
    topics: Arc<Topics>,
    /// One for all streams; of a cluster, one for each.
    links: Vec<SharedLink>,
    metrics: Arc<Metrics>,
}

/// Why a delta was not appended; it may be sent again.
#[derive(Debug, thiserror::Error)]
#[error("Redis did not take the delta: {0}")]
pub struct AppendError(String);

impl Appender {
    /// Connects when first used.
    pub fn new(config: config::Redis, masters: &Masters, topics: Arc<Topics>, metrics: Arc<Metrics>) -> Self {
        let links = if masters.is_cluster() { config.all_streams().count() } else { 1 };
        let links = std::iter::repeat_with(|| SharedLink::new(masters.clone())).take(links.max(1)).collect();
        Self { config, topics, links, metrics }
    }

    /// Appends deltas, those of one stream in their order. Each is in its stream when this returns, or its result says why
    /// not. One that was not confirmed may have been appended all the same, if the connection broke in between: who sent it
    /// with an idempotency key may send it again.
    pub async fn append_all(&self, outgoing: &[&Outgoing<'_>]) -> Vec<Result<(Offset, Epoch), AppendError>> {
        let mut results: Vec<Result<(Offset, Epoch), AppendError>> =
            outgoing.iter().map(|_| Err(AppendError("no stream is configured".into()))).collect();
        // By link: what goes over it, in its order.
        let mut ways: BTreeMap<usize, Vec<(usize, SourceId)>> = BTreeMap::new();
        for (at, one) in outgoing.iter().enumerate() {
            let source = match one.kind {
                Kind::HistoryRemoval => self.topics.source_of(one.topic),
                _ => self.topics.home(one.topic),
            };
            let way = if self.links.len() > 1 { usize::from(source.0) } else { 0 };
            ways.entry(way).or_default().push((at, source));
        }
        let sent = ways.into_iter().map(|(way, places)| self.send(way, places, outgoing));
        for (at, result) in join_all(sent).await.into_iter().flatten() {
            if let Some(place) = results.get_mut(at) {
                *place = result;
            }
        }
        results
    }

    /// Which of the streams that topics belong in are there, in their order.
    ///
    /// # Errors
    /// If Redis cannot be asked.
    pub async fn are_there(&self) -> Result<Vec<bool>, RedisError> {
        let asked = self.config.streams.iter().enumerate().map(async |(at, stream)| {
            let link = self.links.get(at).or_else(|| self.links.first());
            match link {
                Some(link) => there::for_publisher(link, stream).await,
                None => Ok(true),
            }
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Sends what goes over one link, some at a time. Once some could not be sent, the rest is not.
    async fn send(
        &self,
        way: usize,
        places: Vec<(usize, SourceId)>,
        outgoing: &[&Outgoing<'_>],
    ) -> Vec<(usize, Result<(Offset, Epoch), AppendError>)> {
        let mut done = Vec::with_capacity(places.len());
        let Some(link) = self.links.get(way) else { return done };
        let mut rest = places.into_iter().peekable();
        let mut broken: Option<String> = None;
        while rest.peek().is_some() {
            let (mut commands, mut chunk, mut bytes) = (Vec::new(), Vec::new(), 0);
            let mut first = None;
            while commands.len() < APPEND_DELTAS_MAX && bytes < APPEND_BYTES_MAX {
                let Some((at, source)) = rest.next() else { break };
                let stream =
                    self.config.all_streams().nth(usize::from(source.0)).or_else(|| self.config.streams.first());
                let (Some(one), Some(stream)) = (outgoing.get(at), stream) else { continue };
                if let Some(why) = &broken {
                    done.push((at, Err(AppendError(format!("not sent, as one before it failed: {why}")))));
                    continue;
                }
                bytes += one.payload.bytes().len();
                commands.push(self.command(stream, one));
                chunk.push((at, source));
                first.get_or_insert(stream);
            }
            let Some(key) = first else { continue };
            for ((at, source), answer) in chunk.into_iter().zip(link.each(key, &commands).await) {
                let stored = answer.and_then(stored);
                done.push((
                    at,
                    match stored {
                        Ok(stored) => self.position(source, stored),
                        Err(error) => {
                            if error.is_io_error() || error.is_unrecoverable_error() || error.is_timeout() {
                                broken = Some(error.to_string());
                            }
                            Err(AppendError(error.to_string()))
                        }
                    },
                ));
            }
        }
        done
    }

    /// What is answered for an entry. One whose ID has no offset is in the stream, but no node serves it.
    fn position(&self, source: SourceId, (id, epoch, repeated): Stored) -> Result<(Offset, Epoch), AppendError> {
        if repeated {
            self.metrics.publish_repeated.inc();
        }
        let id: EntryId = id.parse().map_err(AppendError)?;
        let offset = id.offset().map_err(|error| AppendError(error.to_string()))?;
        Ok((offset, epoch.map_or_else(|| self.topics.epoch(source), |epoch| Epoch::from_text(&epoch))))
    }

    fn command(&self, stream: &str, one: &Outgoing<'_>) -> Cmd {
        let draft = Draft {
            topic: one.topic.into(),
            kind: one.kind.name().map(Into::into),
            ts: one.ts.map(|ts| ts.to_string().into()),
            data: Some(one.payload.bytes().clone()),
        };
        let mut command = match one.once {
            None => ::redis::cmd("XADD"),
            Some(key) => {
                let mut command = ::redis::cmd("EVAL");
                command.arg(ONCE).arg(2).arg(stream).arg(once_key(stream, one.topic, key));
                let source = self.topics.home(one.topic);
                command.arg(u64::try_from(IDEMPOTENCY_TTL.as_millis()).unwrap_or(u64::MAX));
                command.arg(self.topics.epoch(source).as_str());
                command
            }
        };
        if one.once.is_none() {
            command.arg(stream);
        }
        command.arg("MAXLEN").arg("~").arg(self.config.max_len).arg("*");
        for (name, value) in fields_of(draft, &self.config) {
            command.arg(name).arg(value);
        }
        command
    }
}

/// Appends an entry unless there is a result for the key; answers the entry's ID, the epoch that it was appended in, and
/// whether that was earlier.
const ONCE: &str = "local done = redis.call('GET', KEYS[2])
if done then
  local at = string.find(done, ' ')
  return {string.sub(done, 1, at - 1), string.sub(done, at + 1), 1}
end
local id = redis.call('XADD', KEYS[1], unpack(ARGV, 3))
redis.call('SET', KEYS[2], id .. ' ' .. ARGV[2], 'PX', ARGV[1])
return {id, ARGV[2], 0}";

/// Where the result of a publish is kept: in the slot of its stream.
fn once_key(stream: &str, topic: &str, key: &str) -> String {
    let tag = hash_tag(stream).unwrap_or(stream);
    format!("{{{tag}}}:once:{}", OnceKey::new(topic, key).hex())
}

fn stored(value: Value) -> RedisResult<Stored> {
    match value {
        Value::Array(parts) => {
            let (id, epoch, repeated): (String, String, u8) = from_redis_value(Value::Array(parts))?;
            Ok((id, Some(epoch), repeated != 0))
        }
        value => Ok((from_redis_value(value)?, None, false)),
    }
}

/// What became of an entry: its ID, and of one with an idempotency key its epoch, and whether it was there already.
type Stored = (String, Option<String>, bool);
