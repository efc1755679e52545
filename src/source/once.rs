//! Results of publishes with idempotency keys: a client that does not know what became of a publish sends it again, and is
//! told. Where there is a stream, it is the stream that remembers, for all nodes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::failure::Failure;
use crate::limits::{IDEMPOTENCY_RESULTS_MAX, IDEMPOTENCY_TTL};
use crate::metrics::Metrics;
use crate::position::{Epoch, Offset};

/// Parts that are locked apart: publishes with keys of one part wait for each other.
const PARTS: usize = 64;

/// A topic and an idempotency key, as a digest of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct OnceKey([u8; 16]);

impl OnceKey {
    pub(super) fn new(topic: &str, key: &str) -> Self {
        // No topic has a NUL in it.
        let digest = Sha256::new().chain_update(topic).chain_update([0]).chain_update(key).finalize();
        let mut half = [0; 16];
        half.iter_mut().zip(digest.iter()).for_each(|(to, from)| *to = *from);
        Self(half)
    }

    /// In hexadecimal digits.
    pub(super) fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn part(&self) -> usize {
        usize::from(self.0.first().copied().unwrap_or(0)) % PARTS
    }
}

/// Results that this process remembers.
pub(super) struct Once {
    parts: Vec<Mutex<Part>>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Part {
    results: HashMap<OnceKey, (Offset, Epoch)>,
    /// In the order of their ends.
    ends: VecDeque<(Instant, OnceKey)>,
}

impl Once {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { parts: std::iter::repeat_with(Mutex::default).take(PARTS).collect(), metrics }
    }

    /// The result that is remembered, or that of `publish`. A failure is not remembered.
    pub(super) async fn result<F: Future<Output = Result<(Offset, Epoch), Failure>>>(
        &self,
        key: OnceKey,
        publish: impl FnOnce() -> F,
    ) -> Result<(Offset, Epoch), Failure> {
        let Some(part) = self.parts.get(key.part()) else { return publish().await };
        // Held meanwhile: the same publish at the same time waits for this one's result.
        let mut part = part.lock().await;
        let now = Instant::now();
        while part.ends.front().is_some_and(|(end, _)| *end <= now) {
            part.forget_oldest();
        }
        if let Some(result) = part.results.get(&key) {
            self.metrics.publish_repeated.inc();
            return Ok(result.clone());
        }
        let result = publish().await?;
        if part.ends.len() >= IDEMPOTENCY_RESULTS_MAX / PARTS {
            part.forget_oldest();
            self.metrics.idempotency_forgotten.inc();
        }
        part.results.insert(key, result.clone());
        part.ends.push_back((now + IDEMPOTENCY_TTL, key));
        Ok(result)
    }
}

impl Part {
    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.ends.pop_front() {
            self.results.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn once() -> (Once, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::default());
        (Once::new(metrics.clone()), metrics)
    }

    async fn publish(once: &Once, count: &AtomicU64, key: &str) -> u64 {
        let publish = || async {
            let offset = Offset::new(count.fetch_add(1, Ordering::Relaxed) + 1).unwrap_or_default();
            Ok((offset, Epoch::from_text("e")))
        };
        once.result(OnceKey::new("a:b", key), publish).await.map_or(0, |(offset, _)| offset.get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_is_remembered_for_its_time_and_a_failure_is_not() {
        let (once, metrics) = once();
        let count = AtomicU64::new(0);
        let failure = || async { Err(Failure::Unavailable("away".into())) };
        assert!(once.result(OnceKey::new("a:b", "k"), failure).await.is_err());
        assert_eq!(publish(&once, &count, "k").await, 1);
        assert_eq!(publish(&once, &count, "k").await, 1);
        assert_eq!(publish(&once, &count, "other").await, 2);
        assert_eq!(metrics.publish_repeated.get(), 1);
        tokio::time::advance(IDEMPOTENCY_TTL).await;
        assert_eq!(publish(&once, &count, "k").await, 3);
    }

    #[tokio::test]
    async fn results_are_bounded() {
        let (once, metrics) = once();
        let count = AtomicU64::new(0);
        for n in 0..IDEMPOTENCY_RESULTS_MAX * 2 {
            publish(&once, &count, &n.to_string()).await;
        }
        let mut held = 0;
        for part in &once.parts {
            let part = part.lock().await;
            assert_eq!(part.results.len(), part.ends.len());
            held += part.results.len();
        }
        assert!(held <= IDEMPOTENCY_RESULTS_MAX, "{held}");
        assert!(metrics.idempotency_forgotten.get() >= IDEMPOTENCY_RESULTS_MAX as u64);
    }
}
