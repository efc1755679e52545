//! Starting the shards.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use super::event::RequestBatch;
use super::part::Part;
use super::shard::Shard;
use crate::config::Config;

/// Shards that are set up but do not run yet.
pub struct Prepared {
    pub(super) parts: Vec<Part>,
    pub(super) requests: flume::Sender<RequestBatch>,
    pub(super) node: Arc<str>,
    pub(super) config: Arc<Config>,
}

impl Prepared {
    /// Starts one thread per shard.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(self) -> std::io::Result<Vec<JoinHandle<()>>> {
        let Self { parts, requests, node, config } = self;
        parts
            .into_iter()
            .map(|part| {
                let (requests, node, config) = (requests.clone(), node.clone(), config.clone());
                let name = format!("shard-{}", part.id.0);
                // From here on a missing heartbeat is reported, even if the shard never ticks.
                part.heartbeat_ms.store(crate::clock::unix_ms(), Ordering::Relaxed);
                std::thread::Builder::new().name(name).spawn(move || Shard::new(part, requests, node, config).run())
            })
            .collect()
    }
}
