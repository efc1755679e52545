//! Redis streams: one reader a partition, an appender for the publish API, and saved snapshots.

mod append;
mod appetite;
mod away;
mod cluster;
mod continuity;
mod entries;
mod id;
mod keys;
mod link;
mod masters;
mod node;
mod reader;
mod refused;
mod reshard;
mod resp;
mod saved;
mod saver;
mod sentinels;
mod shared_link;
#[cfg(test)]
mod simulation;
mod there;
mod topology;
mod value;
mod wire;

pub use append::{AppendError, Appender};
pub(super) use entries::read_draft;
pub use entries::{ReadEntry, read_entries};
pub use id::{EntryId, IdError};
pub use link::Link;
pub use masters::Masters;
pub use reader::RedisSource;
pub use reshard::{ReshardError, Resharding, reshard};
pub use shared_link::SharedLink;
