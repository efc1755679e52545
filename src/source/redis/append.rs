//! Appending to the stream, for the publish API: so that every node sees what one of them was given.

use std::sync::Arc;

use super::id::EntryId;
use super::link::SharedLink;
use super::masters::Masters;
use crate::config;
use crate::position::{Epoch, Offset};
use crate::topic::{Kind, Payload, Topics};

/// Appends deltas to the stream of their topic's partition.
pub struct Appender {
    config: config::Redis,
    topics: Arc<Topics>,
    /// One for all streams; of a cluster, one for each.
    links: Vec<SharedLink>,
}

/// Why a delta was not appended; it may be sent again.
#[derive(Debug, thiserror::Error)]
#[error("Redis did not take the delta: {0}")]
pub struct AppendError(String);

impl Appender {
    /// Connects when first used.
    pub fn new(config: config::Redis, masters: &Masters, topics: Arc<Topics>) -> Self {
        let links = if masters.is_cluster() { config.streams.len() } else { 1 };
        let links = std::iter::repeat_with(|| SharedLink::new(masters.clone())).take(links.max(1)).collect();
        Self { config, topics, links }
    }

    /// Appends one delta; it is in the stream when this returns.
    ///
    /// # Errors
    /// If Redis did not confirm it. It may have been appended all the same, if the connection broke in between.
    pub async fn append(
        &self,
        topic: &str,
        kind: Kind,
        ts: Option<u64>,
        payload: &Payload,
    ) -> Result<(Offset, Epoch), AppendError> {
        let source = self.topics.home(topic);
        let stream = self.config.streams.get(usize::from(source.0)).or_else(|| self.config.streams.first());
        let Some(stream) = stream else { return Err(AppendError("no stream is configured".into())) };
        let mut command = ::redis::cmd("XADD");
        command.arg(stream).arg("MAXLEN").arg("~").arg(self.config.max_len).arg("*");
        command.arg(&self.config.topic_field).arg(topic).arg(&self.config.data_field).arg(payload.bytes().as_ref());
        if kind == Kind::Snapshot {
            command.arg(&self.config.kind_field).arg("snapshot");
        }
        if let Some(ts) = ts {
            command.arg(&self.config.ts_field).arg(ts);
        }
        let link = self.links.get(usize::from(source.0)).or_else(|| self.links.first());
        let Some(link) = link else { return Err(AppendError("no stream is configured".into())) };
        let id: String = link.query(stream, &command).await.map_err(|error| AppendError(error.to_string()))?;
        let offset = id.parse::<EntryId>().ok().and_then(EntryId::offset).unwrap_or_default();
        Ok((offset, self.topics.epoch(source)))
    }
}
