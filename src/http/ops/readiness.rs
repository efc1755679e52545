//! Whether clients should connect to this node: whether its sources are loaded, and whether it is
//! stopping.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::source::SourceStatus;

/// What `/readyz`, upgrades and the service manager ask.
#[derive(Debug)]
pub struct Readiness {
    sources: Vec<Arc<SourceStatus>>,
    /// Set once every source has loaded.
    loaded: AtomicBool,
    /// Set once the server stops.
    draining: AtomicBool,
}

impl Readiness {
    /// Of a server that starts.
    pub fn new(sources: Vec<Arc<SourceStatus>>) -> Self {
        Self { sources, loaded: AtomicBool::new(false), draining: AtomicBool::new(false) }
    }

    /// All sources.
    pub fn sources(&self) -> &[Arc<SourceStatus>] {
        &self.sources
    }

    /// From here on the server is stopping.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether the server is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Whether all sources have loaded. A client that connected earlier would be told that deltas
    /// are lost that are only not read yet.
    pub fn is_loaded(&self) -> bool {
        if self.loaded.load(Ordering::Acquire) {
            return true;
        }
        let loaded = self.sources.iter().all(|source| source.is_loaded());
        if loaded {
            self.loaded.store(true, Ordering::Release);
        }
        loaded
    }

    /// Waits until all sources have loaded.
    pub async fn until_loaded(&self) {
        while !self.is_loaded() {
            // A source may begin to load again while others are waited for.
            for source in &self.sources {
                source.until_loaded().await;
            }
        }
    }

    /// Why the server is not ready; empty if it is.
    pub fn not_ready(&self) -> Vec<String> {
        let draining = self.is_draining().then(|| "draining".to_owned());
        draining.into_iter().chain(self.sources.iter().filter_map(|s| s.not_ready())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn loading_ends_with_the_last_source_and_does_not_begin_again() {
        let sources = ["a", "b"].map(|name| SourceStatus::new(name, true, 0));
        let readiness = Readiness::new(sources.to_vec());
        let mut waits = pin!(readiness.until_loaded());
        let mut poll = || waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        assert!(!poll());
        sources[0].set_loaded(true);
        assert!(!poll());
        sources[0].set_loaded(false);
        sources[1].set_loaded(true);
        assert!(!poll());
        sources[0].set_loaded(true);
        assert!(poll());
        sources[0].set_loaded(false);
        assert!(readiness.is_loaded(), "sessions that are there stay");
    }
}
