//! Redis streams: one reader a partition, an appender for the publish API, and saved snapshots.

mod append;
mod id;
mod keys;
mod reader;
mod saver;

pub use append::{AppendError, Appender};
pub use id::{EntryId, OffsetPacker};
pub use reader::{ReadEntry, RedisSource, read_entries};

use std::time::Duration;

use ::redis::AsyncConnectionConfig;
use ::redis::aio::MultiplexedConnection;

/// Time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for any answer; above what a blocking read waits.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection whose every answer has a time-out.
///
/// # Errors
/// If there is none to be had.
pub async fn connect(client: &::redis::Client) -> ::redis::RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT));
    client.get_multiplexed_async_connection_with_config(&config).await
}
