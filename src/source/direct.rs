//! Publishes straight into the stream, without a server: what was checked goes to Redis or NATS by the code that the
//! publish API appends with.

use std::sync::Arc;
use std::time::Duration;

use super::failure::Failure;
#[cfg(feature = "nats")]
use super::nats::{NatsAppender, OpenLink};
use super::outgoing::Outgoing;
use super::precheck::{Checked, Precheck};
use super::publish::Appender;
use super::redis::{Appender as RedisAppender, EntryId, Masters};
use crate::config::Config;
use crate::position::Offset;
#[cfg(feature = "nats")]
use crate::topic::SourceId;
use crate::topic::home_in;

/// Time for deltas that are sent together. Redis and NATS are given up sooner by what sends to them.
const APPEND_TIMEOUT: Duration = Duration::from_secs(60);

/// A stream to publish to.
pub struct Direct {
    appender: Appender,
    config: Arc<Config>,
    /// Keeps the connection.
    #[cfg(feature = "nats")]
    _open: Option<OpenLink>,
}

/// Where a delta is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Its offset, as clients see it.
    pub offset: Offset,
    /// The entry's ID in Redis; `None` in NATS, where the offset is the sequence.
    pub id: Option<EntryId>,
    /// The stream that it is in.
    pub stream: String,
}

/// Which streams are there.
#[derive(Debug, Default)]
pub struct Streams<'a> {
    /// They have entries, or nodes read them.
    pub there: Vec<&'a str>,
    /// The first entry would create them.
    pub missing: Vec<&'a str>,
    /// Where they would be, without secrets.
    pub place: String,
}

impl Direct {
    /// To the stream that `config` names: with NATS connects, with Redis when first used. `None` if it names none.
    ///
    /// # Errors
    /// What cannot be read of the address, or why there is no connection.
    pub async fn open(config: &Arc<Config>, check: &Precheck) -> Result<Option<Self>, Failure> {
        let unavailable = |error: &dyn std::fmt::Display| Failure::Unavailable(error.to_string());
        let (topics, metrics) = (check.topics().clone(), check.metrics().clone());
        #[cfg(feature = "nats")]
        let mut open = None;
        let appender = match (&config.source.redis, &config.source.nats) {
            (Some(redis), _) => {
                let masters = Masters::new(redis).map_err(|error| unavailable(&error))?;
                let appender = RedisAppender::new(redis.clone(), &masters, topics, metrics);
                Appender::Redis(Box::new(appender))
            }
            #[cfg(feature = "nats")]
            (None, Some(nats)) => {
                let link = open.insert(OpenLink::open(nats).await.map_err(|error| unavailable(&error))?).link();
                Appender::Nats(NatsAppender::new(nats, link, SourceId(0), topics, metrics))
            }
            _ => return Ok(None),
        };
        Ok(Some(Self {
            appender,
            config: config.clone(),
            #[cfg(feature = "nats")]
            _open: open,
        }))
    }

    /// Which of Redis' streams are there, and which are not. NATS refuses what goes to a stream that is not there by itself.
    ///
    /// # Errors
    /// If Redis cannot be asked.
    pub async fn streams(&self) -> Result<Streams<'_>, Failure> {
        let (Some(redis), Appender::Redis(appender)) = (&self.config.source.redis, &self.appender) else {
            return Ok(Streams::default());
        };
        let mut streams = Streams { place: redis.described(), ..Streams::default() };
        let are_there = appender.are_there().await;
        let are_there = are_there
            .map_err(|error| Failure::Unavailable(format!("Redis at {} cannot be used: {error}", streams.place)))?;
        for (stream, is_there) in redis.streams.iter().zip(are_there) {
            if is_there { &mut streams.there } else { &mut streams.missing }.push(stream);
        }
        Ok(streams)
    }

    /// Appends deltas, those of one stream in their order. Each is in its stream when this returns, or its result says why
    /// not. One that was not confirmed may be there all the same, if the connection broke in between.
    pub async fn append_all(&self, deltas: &[&Checked]) -> Vec<Result<Appended, Failure>> {
        let outgoing: Vec<Outgoing<'_>> = deltas.iter().map(|delta| delta.outgoing()).collect();
        let outgoing: Vec<&Outgoing<'_>> = outgoing.iter().collect();
        let appended = tokio::time::timeout(APPEND_TIMEOUT, self.appender.append_all(&outgoing)).await;
        let results = appended.unwrap_or_else(|_| {
            let late = || Err(Failure::Unavailable(format!("no answer within {APPEND_TIMEOUT:?}")));
            outgoing.iter().map(|_| late()).collect()
        });
        let placed = |(result, delta): (Result<(Offset, _), Failure>, &&Checked)| {
            result.map(|(offset, _)| match (&self.config.source.redis, &self.config.source.nats) {
                (Some(redis), _) => Appended {
                    offset,
                    id: Some(EntryId::of_offset(offset)),
                    stream: home_in(&delta.topic, &redis.streams).to_owned(),
                },
                (None, nats) => Appended {
                    offset,
                    id: None,
                    stream: nats.as_ref().map(|nats| nats.stream.clone()).unwrap_or_default(),
                },
            })
        };
        results.into_iter().zip(deltas).map(placed).collect()
    }
}
