//! Checks a delta before it is published, by the very code that a server reads it with: what servers would refuse is not
//! sent, and its publisher learns of it in their words.

use std::sync::Arc;

use bytes::Bytes;

use super::draft::Draft;
use super::entry::{self, API_WORDS, Parts, ReadDelta, without_what_is_done};
use super::namespaces::Namespaces;
#[cfg(feature = "nats")]
use super::nats::{self, Subjects};
use super::outgoing::Outgoing;
use super::redis;
use super::refusal::{Head, Refusal};
use crate::clock::unix_ms;
use crate::config::{self, Class, Config, Namespace, PayloadForm};
use crate::metrics::Metrics;
use crate::topic::{Kind, Payload, Topics};

/// What a delta is published as.
enum Form {
    /// An entry of a Redis stream, with these fields.
    Redis(Box<config::Redis>),
    /// A message to one of these subjects.
    #[cfg(feature = "nats")]
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
            #[cfg(feature = "nats")]
            (None, Some(nats)) => Form::Nats(Subjects::new(&nats.subjects)),
            _ => Form::Api,
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
            #[cfg(feature = "nats")]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::refusal::Reason;
    use crate::topic::{Incoming, Nowhere, SourceId};
    use proptest::prelude::*;

    const CLASSES: [Class; 3] = [Class::Merge, Class::Latest, Class::Stream];

    /// A namespace of each class, and where its deltas go.
    fn config(is_redis: bool) -> Arc<Config> {
        let mut config = Config::default();
        for class in CLASSES {
            config.namespace.insert(namespace(class).into(), Namespace { class, ..Namespace::default() });
        }
        config.source.redis = is_redis.then(config::Redis::default);
        config.source.nats = (!is_redis).then(config::Nats::default);
        Arc::new(config)
    }

    fn namespace(class: Class) -> &'static str {
        match class {
            Class::Merge => "merge",
            Class::Latest => "latest",
            Class::Stream => "stream",
        }
    }

    /// What a server makes of the entry or message that these bytes are in.
    fn read(config: &Arc<Config>, doors: &Precheck, topic: &str, kind: Kind, data: &[u8]) -> Result<(), Reason> {
        let draft = Draft {
            topic: topic.into(),
            kind: kind.name().map(Into::into),
            ts: None,
            data: Some(Bytes::copy_from_slice(data)),
        };
        let (form, at_ms) = (|topic: &str| doors.topics.payload_form(topic), unix_ms());
        let delta = match &doors.form {
            Form::Redis(config) => redis::read_draft(draft, config, doors.bytes_max, at_ms, form),
            #[cfg(feature = "nats")]
            Form::Nats(subjects) => nats::read_draft(subjects, draft, (doors.bytes_max, at_ms), &form),
            Form::Api => unreachable!("a stream is configured"),
        };
        let ReadDelta { topic, kind, payload, .. } = delta.map_err(|refusal| refusal.reason)?;
        let head = Head::of(payload.bytes());
        let (source, topic) = (SourceId(0), topic.as_str());
        let incoming = Incoming {
            topic,
            kind,
            ts: None,
            at_ms: None,
            payload,
            offset: None,
            source,
            home: None,
            is_relayed: false,
        };
        let taken = Topics::new(config.clone(), 1, Arc::new(Nowhere), Arc::default()).publish(incoming);
        taken.map(drop).map_err(|error| doors.namespaces.refusal(&error, topic, &head).reason)
    }

    /// Names and texts as publishers may write them, half surrogates among them.
    fn text() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            4 => "[a-c]",
            2 => Just(r"\ud800".to_owned()),
            1 => Just(r"\uDC00".to_owned()),
            1 => Just(r"\ud83d\ude00".to_owned()),
            1 => Just(r"\u0000".to_owned()),
            1 => Just(r"\/".to_owned()),
            1 => Just("\\\"".to_owned()),
            1 => Just(r"\ud8".to_owned()),
            1 => Just("\0".to_owned()),
            1 => Just("\u{feff}é\u{7f}".to_owned()),
        ];
        proptest::collection::vec(part, 0..4).prop_map(|parts| format!("\"{}\"", parts.concat()))
    }

    fn value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            text(),
            "-?[0-9]{1,30}(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,5})?",
            prop_oneof![Just("null"), Just("true"), Just("NaN"), Just("")].prop_map(str::to_owned),
        ];
        let blank = || prop_oneof![8 => Just(""), 1 => Just(" "), 1 => Just("\r\n\t")];
        leaf.prop_recursive(5, 32, 4, move |inner| {
            prop_oneof![
                1 => proptest::collection::vec(inner.clone(), 0..3).prop_map(|list| format!("[{}]", list.join(","))),
                4 => proptest::collection::vec((text(), blank(), inner), 0..4).prop_map(|members| {
                    let members = members.iter().map(|(name, blank, value)| format!("{blank}{name}{blank}:{value}{blank}"));
                    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
                }),
            ]
        })
    }

    /// A value, or nearly one: deep, or with something before or behind it.
    fn data() -> impl Strategy<Value = String> {
        let deep = prop_oneof![4 => Just(0), 1 => 60_usize..70];
        let around =
            || prop_oneof![12 => Just(""), 1 => Just("\u{feff}"), 1 => Just(" \n"), 1 => Just("\0"), 1 => Just("{}")];
        (value(), text(), deep, any::<bool>(), around(), around()).prop_map(
            |(value, name, deep, is_list, before, behind)| {
                let (open, close) = if is_list { ("[".to_owned(), "]") } else { (format!("{{{name}:"), "}") };
                format!("{before}{}{value}{}{behind}", open.repeat(deep), close.repeat(deep))
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_publishers_are_told_is_what_readers_do(
            is_redis in any::<bool>(),
            class in proptest::sample::select(&CLASSES),
            kind in prop_oneof![Just(Kind::Delta), Just(Kind::Snapshot)],
            data in data(),
        ) {
            let config = config(is_redis || cfg!(not(feature = "nats")));
            let mut doors = Precheck::new(&config);
            let topic = format!("{}:a", namespace(class));
            let draft = Draft {
                topic: topic.as_str().into(),
                kind: kind.name().map(Into::into),
                ts: None,
                data: Some(data.clone().into()),
            };
            match doors.check(draft) {
                Ok(checked) => prop_assert_eq!(read(&config, &doors, &topic, kind, checked.payload.bytes()), Ok(())),
                Err(refusal) => prop_assert_eq!(read(&config, &doors, &topic, kind, data.as_bytes()), Err(refusal.reason)),
            }
            // The API reads the value itself, and has it checked by the topics.
            let payload = Payload::new(data.clone().into(), doors.bytes_max);
            let taken = payload.is_ok_and(|payload| doors.topics.check(&topic, kind, &payload).is_ok());
            prop_assert_eq!(taken, read(&config, &doors, &topic, kind, data.as_bytes()).is_ok());
        }
    }
}
