//! Which namespaces are configured, and which of them an unknown one was meant to be.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use super::refusal::{Head, Reason, Refusal};
use crate::config::{Config, OPS};
use crate::limits::{NAMESPACES_JUDGED, REFUSAL_CHARS_SHOWN};
use crate::name::{namespace_of, shown};
use crate::spelling::nearest;
use crate::topic::PublishError;

/// The configured namespaces, and what was found out about others.
pub(super) struct Namespaces {
    known: BTreeSet<String>,
    /// Whether topics of other namespaces are taken all the same.
    takes_unknown: bool,
    /// Others that were looked at, and which of the known ones they nearly are.
    judged: Mutex<HashMap<Box<str>, Option<String>>>,
}

impl Namespaces {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            known: config.namespace.keys().filter(|name| *name != OPS).cloned().collect(),
            takes_unknown: config.knows_namespace(Some("")),
            judged: Mutex::default(),
        }
    }

    /// The suspicion against a topic that is taken: its namespace is not configured, and nearly is.
    pub(super) fn near(&self, topic: &str) -> Option<Refusal> {
        if !self.takes_unknown {
            return None;
        }
        let meant = self.meant(topic)?;
        let namespace = shown(namespace_of(topic).unwrap_or_default().as_bytes(), REFUSAL_CHARS_SHOWN);
        let refusal = Refusal::new(
            Reason::NearNamespace,
            format!("its namespace `{namespace}` is not configured, so that it is taken as [default]"),
            format!("did you mean `{meant}`? access.unknown_namespace = \"refuse\" refuses such topics"),
        );
        Some(refusal.of_topic(topic))
    }

    /// The refusal of a delta that topics do not take, in the words of all who tell it.
    pub(super) fn refusal(&self, error: &PublishError, topic: &str, head: &Head) -> Refusal {
        let meant = match error {
            PublishError::UnknownNamespace => self.meant(topic),
            _ => None,
        };
        Refusal::of_publish(error, topic, head, meant.as_deref())
    }

    /// The configured namespace that the topic's nearly is.
    fn meant(&self, topic: &str) -> Option<String> {
        let namespace = namespace_of(topic)?;
        if namespace == OPS || self.known.contains(namespace) {
            return None;
        }
        let mut known = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(judged) = known.get(namespace) {
            return judged.clone();
        }
        // Of longer names none is near.
        if known.len() >= NAMESPACES_JUDGED || namespace.len() > REFUSAL_CHARS_SHOWN {
            return None;
        }
        let meant = nearest(namespace, self.known.iter().map(String::as_str)).map(str::to_owned);
        known.insert(namespace.into(), meant.clone());
        meant
    }
}
