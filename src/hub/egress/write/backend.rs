//! The choice of a backend.

use super::epoll::Epoll;
use super::flush::Flush;
use super::io_uring::Uring;
use crate::config::FlushBackend;

static SAID: std::sync::Once = std::sync::Once::new();

/// The backend of a shard, made on its own thread: epoll where there is no `io_uring`. The log says why if the configuration
/// asks for `io_uring` by name.
pub(in crate::hub) fn backend(wanted: FlushBackend) -> Box<dyn Flush> {
    if wanted == FlushBackend::Epoll {
        return Box::new(Epoll);
    }
    match Uring::new() {
        Ok(uring) => Box::new(uring),
        Err(error) => {
            match wanted {
                FlushBackend::IoUring => tracing::warn!(%error, "server.flush: io_uring cannot be had, using epoll"),
                // Once is enough for all shards.
                _ => SAID.call_once(|| tracing::info!(%error, "io_uring cannot be had, using epoll")),
            }
            Box::new(Epoll)
        }
    }
}
