//! Appending to the stream, for the publish API: so that every node sees what one of them was given.

use std::sync::Arc;

use ::redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;

use super::id::EntryId;
use crate::config;
use crate::position::{Epoch, Offset};
use crate::topic::{Kind, Payload, Topics};

/// Appends deltas to the stream of their topic's partition.
pub struct Appender {
    client: ::redis::Client,
    config: config::Redis,
    topics: Arc<Topics>,
    connection: Mutex<Option<MultiplexedConnection>>,
}

/// Why a delta was not appended; it may be sent again.
#[derive(Debug, thiserror::Error)]
#[error("Redis did not take the delta: {0}")]
pub struct AppendError(String);

impl Appender {
    /// Connects when first used.
    ///
    /// # Errors
    /// If the URL cannot be read.
    pub fn new(config: config::Redis, topics: Arc<Topics>) -> ::redis::RedisResult<Self> {
        let client = ::redis::Client::open(config.url.as_str())?;
        Ok(Self { client, config, topics, connection: Mutex::new(None) })
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
        let mut connection = self.connection().await?;
        match command.query_async::<String>(&mut connection).await {
            Ok(id) => {
                let offset = id.parse::<EntryId>().ok().and_then(EntryId::offset).unwrap_or_default();
                Ok((offset, self.topics.epoch(source)))
            }
            Err(error) => {
                *self.connection.lock().await = None;
                Err(AppendError(error.to_string()))
            }
        }
    }

    async fn connection(&self) -> Result<MultiplexedConnection, AppendError> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref() {
            return Ok(connection.clone());
        }
        let connection = super::connect(&self.client).await.map_err(|e| AppendError(e.to_string()))?;
        *slot = Some(connection.clone());
        Ok(connection)
    }
}
