//! A key set by URL. It is cached, and fetched again when it is old or when a token names an
//! unknown key, but never more often than `min_interval` allows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use jsonwebtoken::Algorithm;
use jsonwebtoken::jwk::JwkSet;
use tokio::sync::Notify;

use super::keys::{self, Key};
use crate::config;
use crate::limits::{JWKS_BYTES_MAX, JWKS_TIMEOUT, JWKS_WAIT};
use crate::metrics::{KeySetFetch, Metrics};

/// The set of the last fetch.
#[derive(Default)]
pub(super) struct Set {
    pub(super) keys: Vec<Key>,
    fetched: Option<Instant>,
}

/// The set behind one URL.
pub(super) struct Jwks {
    config: config::Jwks,
    algorithms: Vec<Algorithm>,
    client: reqwest::Client,
    set: RwLock<Arc<Set>>,
    fetches: Mutex<Fetches>,
    /// Told when a fetch has ended, so that all callers share one fetch.
    ended: Notify,
    /// Number of sets so far.
    generation: AtomicU64,
    metrics: Arc<Metrics>,
}

/// State of fetches.
#[derive(Default)]
struct Fetches {
    /// Start of the last fetch.
    began: Option<Instant>,
    under_way: bool,
}

/// A running fetch. However it ends, its waiters are told, and another can begin.
struct Fetch(Arc<Jwks>);

impl Drop for Fetch {
    fn drop(&mut self) {
        self.0.fetches.lock().unwrap_or_else(PoisonError::into_inner).under_way = false;
        self.0.ended.notify_waiters();
    }
}

impl Set {
    /// Whether a set was ever fetched.
    pub(super) fn was_read(&self) -> bool {
        self.fetched.is_some()
    }
}

impl Jwks {
    pub(super) fn new(config: &config::Jwks, metrics: &Arc<Metrics>) -> Result<Self, String> {
        let client = crate::client::http(JWKS_TIMEOUT).map_err(|e| e.to_string())?;
        Ok(Self {
            algorithms: config.algorithms.iter().copied().map(keys::algorithm).collect(),
            config: config.clone(),
            client,
            set: RwLock::default(),
            fetches: Mutex::default(),
            ended: Notify::new(),
            generation: AtomicU64::new(0),
            metrics: metrics.clone(),
        })
    }

    pub(super) fn accepts(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// The current set.
    pub(super) fn set(&self) -> Arc<Set> {
        self.set.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Number of sets so far.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether it should be fetched again. It may be used meanwhile.
    pub(super) fn is_old(&self) -> bool {
        self.set().fetched.is_none_or(|at| at.elapsed() > self.config.max_age)
    }

    /// Fetches the set, unless that was tried a moment ago, and waits for it. The wait ends
    /// [`JWKS_WAIT`] after the fetch began, so a hanging fetch delays no caller for longer. The old
    /// set stays if the fetch fails.
    pub(super) async fn refresh(self: &Arc<Self>) {
        // Its end is noticed from here on.
        let ended = self.ended.notified();
        let left = {
            let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
            match fetches.began {
                Some(began) if fetches.under_way => JWKS_WAIT.saturating_sub(began.elapsed()),
                Some(began) if began.elapsed() < self.config.min_interval => return,
                _ => {
                    *fetches = Fetches { began: Some(Instant::now()), under_way: true };
                    let fetch = Fetch(self.clone());
                    tokio::spawn(async move { fetch.0.replace().await });
                    JWKS_WAIT
                }
            }
        };
        if !left.is_zero() {
            let _ = tokio::time::timeout(left, ended).await;
        }
    }

    /// Replaces the set with the URL's, if that has usable keys.
    async fn replace(&self) {
        let url = config::redacted(&self.config.url);
        let outcome = match self.fetch().await {
            Ok(keys) if keys.is_empty() => {
                tracing::warn!(url, "the key set has no key that can be used; the keys known before stay in use");
                KeySetFetch::NoKeys
            }
            Ok(keys) => {
                tracing::debug!(url, keys = keys.len(), "key set fetched");
                let set = Arc::new(Set { keys, fetched: Some(Instant::now()) });
                *self.set.write().unwrap_or_else(PoisonError::into_inner) = set;
                self.generation.fetch_add(1, Ordering::Release);
                KeySetFetch::Replaced
            }
            Err(error) => {
                tracing::warn!(url, error, "the key set cannot be fetched; the keys known before stay in use");
                KeySetFetch::Failed
            }
        };
        self.metrics.fetched_key_set(outcome);
    }

    async fn fetch(&self) -> Result<Vec<Key>, String> {
        let body = crate::client::body(self.client.get(&self.config.url), JWKS_BYTES_MAX).await?;
        let set: serde_json::Value = serde_json::from_slice(&body).map_err(|e| format!("not a key set: {e}"))?;
        // Key by key, so that a key of an unknown kind does not spoil the others.
        let all = set.get("keys").and_then(|keys| keys.as_array()).ok_or("not a key set: `keys` is missing")?;
        let known = all.iter().filter_map(|key| serde_json::from_value(key.clone()).ok()).collect();
        Ok(keys::of_set(&JwkSet { keys: known }, &self.algorithms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fetch that dies with its task keeps no token waiting, and another fetch follows.
    #[test]
    fn a_fetch_that_dies_is_not_waited_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let config = serde_json::from_value(serde_json::json!({"url": url, "min_interval": "0s"})).unwrap();
        let jwks = Arc::new(Jwks::new(&config, &Arc::default()).unwrap());
        for _ in 0..2 {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let begun = jwks.clone();
            runtime.spawn(async move { begun.refresh().await });
            // The second time there is one more request.
            drop(listener.accept().unwrap());
            drop(runtime);
            assert!(!jwks.fetches.lock().unwrap().under_way);
        }
    }
}
