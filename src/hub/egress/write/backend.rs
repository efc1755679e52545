//! The choice of a backend.

use super::epoll::Epoll;
use super::flush::Flush;
use super::io_uring::Uring;
use crate::config::FlushBackend;

static LOGGED: std::sync::Once = std::sync::Once::new();

/// The backend of a shard, created on its own thread: epoll if `io_uring` is not available. The log says why, as a
/// warning if the configuration names `io_uring`.
pub(in crate::hub) fn backend(wanted: FlushBackend) -> Box<dyn Flush> {
    if wanted == FlushBackend::Epoll {
        return Box::new(Epoll);
    }
    match Uring::new() {
        Ok(uring) => Box::new(uring),
        Err(error) => {
            match wanted {
                FlushBackend::IoUring => tracing::warn!(%error, "server.flush: io_uring is not available, using epoll"),
                // Logged once for all shards.
                _ => LOGGED.call_once(|| tracing::info!(%error, "io_uring is not available, using epoll")),
            }
            Box::new(Epoll)
        }
    }
}
