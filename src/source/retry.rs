//! What a reader does after a failure: it says so, and waits before it tries again.

use std::fmt::Display;
use std::time::Duration;

use super::SourceStatus;
use crate::metrics::{Metrics, SourceLabel};

/// The first wait. Each next one is twice as long, up to the last.
const FIRST: Duration = Duration::from_millis(100);

/// The longest wait, without jitter, while there is no other server that could take over.
pub(super) const LAST: Duration = Duration::from_secs(5);

/// The waits of one reader.
#[derive(Debug)]
pub(super) struct Retry {
    wait: Duration,
    last: Duration,
}

impl Retry {
    /// Waits of at most `last`, and as much jitter.
    pub(super) fn new(last: Duration) -> Self {
        Self { wait: FIRST, last }
    }

    /// Reading went well: the next failure has the first wait.
    pub(super) fn reset(&mut self) {
        self.wait = FIRST;
    }

    /// Says that `server` cannot be read, and waits.
    pub(super) async fn after(
        &mut self,
        error: &(dyn Display + Sync),
        server: &str,
        status: &SourceStatus,
        metrics: &Metrics,
    ) {
        status.set_connected(false);
        status.note(error.to_string());
        metrics.source_errors.get_or_create(&SourceLabel { source: status.name.clone() }).inc();
        let (source, wait_ms) = (&status.name, self.wait.as_millis());
        tracing::warn!(source, %error, wait_ms, "{server} cannot be read, trying again");
        let wait = self.wait + self.wait.mul_f64(crate::random::share());
        self.wait = (self.wait * 2).min(self.last);
        tokio::time::sleep(wait).await;
    }
}
