//! How fresh the topics of each namespace are, looked at once a second.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::config::Namespace;

/// How fresh the topics of one namespace are. Namespaces that are not configured count as `default`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freshness {
    /// Published topics.
    pub topics: u64,
    /// Topics that are quiet for longer than `stale_after`.
    pub stale: u64,
    /// When the last delta of any of them came, Unix ms.
    pub last_ms: u64,
}

/// The name under which namespaces that are not configured count.
const DEFAULT: &str = "default";

/// A count in progress: by a namespace's options, which all its topics share.
pub(super) struct Tally(HashMap<*const Namespace, Freshness>);

impl Tally {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    pub(super) fn add(&mut self, options: &Arc<Namespace>, stale: bool, last_ms: u64) {
        let entry = self.0.entry(Arc::as_ptr(options)).or_default();
        entry.topics += 1;
        entry.stale += u64::from(stale);
        entry.last_ms = entry.last_ms.max(last_ms);
    }

    /// By name.
    pub(super) fn named(mut self, namespaces: &HashMap<String, Arc<Namespace>>) -> BTreeMap<String, Freshness> {
        let mut named = BTreeMap::new();
        for (name, options) in namespaces {
            if let Some(freshness) = self.0.remove(&Arc::as_ptr(options)) {
                named.insert(name.clone(), freshness);
            }
        }
        for rest in self.0.into_values() {
            let entry: &mut Freshness = named.entry(DEFAULT.to_owned()).or_default();
            entry.topics += rest.topics;
            entry.stale += rest.stale;
            entry.last_ms = entry.last_ms.max(rest.last_ms);
        }
        named
    }
}
