//! Checks a delta before it is published, by the very code that a server reads it with: what servers would refuse is not
//! sent, and its publisher learns of it in their words.

use std::sync::Arc;

use bytes::Bytes;

use super::draft::Draft;
use super::entry::{self, API_WORDS, Parts, ReadDelta, without_what_is_done};
use super::namespaces::Namespaces;
use super::nats::{self, Subjects};
use super::publish::Outgoing;
use super::redis;
use super::refusals::{Head, Refusal};
use crate::clock::unix_ms;
use crate::config::{self, Class, Config, Namespace, PayloadForm};
use crate::metrics::Metrics;
use crate::topic::{Kind, Payload, Topics};

/// What a delta is published as.
enum Form {
    /// An entry of a Redis stream, with these fields.
    Redis(Box<config::Redis>),
    /// A message to one of these subjects.
    Nats(Subjects),
    /// A command of the publish API.
    Api,
}

/// Checks deltas for one target.
pub struct Precheck {
    form: Form,
    topics: Arc<Topics>,
    metrics: Arc<Metrics>,
    bytes_max: usize,
    namespaces: Namespaces,
}

/// A delta that was checked.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Its topic.
    pub topic: String,
    /// What it does.
    pub kind: Kind,
    /// When the event happened, Unix ms.
    pub ts: Option<u64>,
    /// As its topic's namespace takes it.
    pub payload: Payload,
    /// What is wrong with it, though servers take it.
    pub suspicion: Option<Box<Refusal>>,
}

impl Checked {
    /// As it is appended.
    pub fn outgoing(&self) -> Outgoing<'_> {
        Outgoing { topic: &self.topic, kind: self.kind, ts: self.ts, payload: self.payload.clone(), once: None }
    }
}

/// A configuration for checks where none is known: it has no namespaces, and refuses nothing for a namespace's class.
/// `form` is what all topics' deltas are taken to be made of.
pub fn unknown(form: PayloadForm) -> Config {
    let default = Namespace { class: Class::Latest, payload: form, ..Namespace::default() };
    Config { default, ..Config::default() }
}

impl Precheck {
    /// For the stream that `config` names, or for the publish API if it names none.
    pub fn new(config: &Arc<Config>) -> Self {
        let form = match (&config.source.redis, &config.source.nats) {
            (Some(redis), _) => Form::Redis(Box::new(redis.clone())),
            (None, Some(nats)) => Form::Nats(Subjects::new(&nats.subjects)),
            (None, None) => Form::Api,
        };
        let partitions = config.source.redis.as_ref().map_or(1, |redis| redis.all_streams().count());
        let metrics = Arc::new(Metrics::default());
        let topics = Topics::new(config.clone(), partitions, Arc::new(crate::topic::Nowhere), metrics.clone());
        Self {
            form,
            topics: Arc::new(topics),
            metrics,
            bytes_max: config.limits.delta_bytes,
            namespaces: Namespaces::new(config),
        }
    }

    /// With data of any size up to `bytes_max` bytes: the server says what it takes.
    pub fn with_bytes_max(self, bytes_max: usize) -> Self {
        Self { bytes_max, ..self }
    }

    /// Largest data, in bytes.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Topics by the configuration; there are none in it.
    pub(super) fn topics(&self) -> &Arc<Topics> {
        &self.topics
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Checks a delta that is published now. A time of the event that is none is refused: its publisher can
    /// be told, as the publish API does. (A server takes such an entry, and gives clients the entry's own time.)
    ///
    /// # Errors
    /// Why a server would refuse it.
    pub fn check(&mut self, draft: Draft<'_>) -> Result<Checked, Box<Refusal>> {
        let delta = self.read(draft, unix_ms())?;
        let ReadDelta { topic, kind, ts, payload, suspicions } = delta;
        if let Some(suspicion) = suspicions.into_iter().next() {
            return Err(Box::new(without_what_is_done(suspicion)));
        }
        if let Err(error) = self.topics.check(&topic, kind, &payload) {
            return Err(Box::new(self.namespaces.refusal(&error, &topic, &Head::of(payload.bytes()))));
        }
        let suspicion = self.namespaces.near(&topic).map(Box::new);
        Ok(Checked { topic, kind, ts, payload, suspicion })
    }

    fn read(&self, mut draft: Draft<'_>, at_ms: u64) -> Result<ReadDelta, Box<Refusal>> {
        let form = |topic: &str| self.topics.payload_form(topic);
        if form(&draft.topic) == PayloadForm::Json {
            // The line break at the end of a file is no part of a value.
            draft.data = draft.data.map(trimmed);
        }
        let bytes_max = self.bytes_max;
        let read = match &self.form {
            Form::Redis(config) => redis::read_draft(draft, config, bytes_max, at_ms, form),
            Form::Nats(subjects) => nats::read_draft(subjects, draft, (bytes_max, at_ms), &form),
            Form::Api => {
                let (kind, ts) = (draft.kind.as_deref(), draft.ts.as_deref());
                let (kind, ts) = (kind.map(str::as_bytes), ts.map(str::as_bytes));
                let parts = Parts { topic: draft.topic.clone().into_owned(), kind, ts, data: draft.data, at_ms };
                entry::read(&API_WORDS, parts, bytes_max, form)
            }
        };
        read.map_err(Box::new)
    }
}

/// Without white space around it. Of nothing else, all of it: the refusal then tells it as a server does.
fn trimmed(data: Bytes) -> Bytes {
    let inner = data.trim_ascii();
    if inner.is_empty() { data.clone() } else { data.slice_ref(inner) }
}
