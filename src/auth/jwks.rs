//! A key set by URL: cached, fetched again when it is old and when a token names a key that is not in it, but never
//! more often than so often, whatever tokens say.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use jsonwebtoken::Algorithm;
use jsonwebtoken::jwk::JwkSet;

use super::keys::{self, Key};
use crate::config;
use crate::limits::{JWKS_BYTES_MAX, JWKS_TIMEOUT};

/// A set as it was fetched last.
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
    /// When a fetch was last begun. Held while one is under way, so that all who need it wait for the same.
    tried: tokio::sync::Mutex<Option<Instant>>,
}

impl Jwks {
    pub(super) fn new(config: &config::Jwks) -> Result<Self, String> {
        let client = crate::client::http(JWKS_TIMEOUT).map_err(|e| e.to_string())?;
        Ok(Self {
            algorithms: config.algorithms.iter().copied().map(keys::algorithm).collect(),
            config: config.clone(),
            client,
            set: RwLock::default(),
            tried: tokio::sync::Mutex::default(),
        })
    }

    pub(super) fn accepts(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// The set as it is known now.
    pub(super) fn set(&self) -> Arc<Set> {
        self.set.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it should be fetched again, though it may be used meanwhile.
    pub(super) fn is_old(&self) -> bool {
        self.set().fetched.is_none_or(|at| at.elapsed() > self.config.max_age)
    }

    /// Fetches the set, unless that was tried a moment ago. What was known stays if it cannot be had.
    pub(super) async fn refresh(&self) {
        let mut tried = self.tried.lock().await;
        if tried.is_some_and(|at| at.elapsed() < self.config.min_interval) {
            return;
        }
        *tried = Some(Instant::now());
        match self.fetch().await {
            Ok(keys) => {
                if keys.is_empty() {
                    tracing::warn!(
                        url = config::redacted(&self.config.url),
                        "the key set has no key that could be used"
                    );
                } else {
                    tracing::debug!(url = config::redacted(&self.config.url), keys = keys.len(), "key set fetched");
                }
                let set = Arc::new(Set { keys, fetched: Some(Instant::now()) });
                *self.set.write().unwrap_or_else(PoisonError::into_inner) = set;
            }
            Err(error) => {
                tracing::warn!(url = config::redacted(&self.config.url), error, "the key set cannot be fetched")
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<Key>, String> {
        let body = crate::client::body(self.client.get(&self.config.url), JWKS_BYTES_MAX).await?;
        let set: serde_json::Value = serde_json::from_slice(&body).map_err(|e| format!("not a key set: {e}"))?;
        // Key by key: one of a kind that is not known here must not spoil the others.
        let all = set.get("keys").and_then(|keys| keys.as_array()).ok_or("not a key set: `keys` is missing")?;
        let known = all.iter().filter_map(|key| serde_json::from_value(key.clone()).ok()).collect();
        Ok(keys::of_set(&JwkSet { keys: known }, &self.algorithms))
    }
}
