//! Topics as unit tests need them.

use std::sync::Arc;

use bytes::Bytes;

use super::super::account::{Account, Sums};
use super::super::delta::{Delta, Kind};
use super::super::exchange::SourceId;
use super::super::payload::Payload;
use super::topic::{Floor, Topic, When};
use crate::config::{Class, Limits, Namespace};
use crate::memory::ResolvedLimits;
use crate::name::TopicName;
use crate::position::Epoch;

pub(super) const AT: When = When { at_ms: 0, now_ms: 0 };

/// A topic of a class that keeps three deltas.
pub(in crate::topic) fn topic(class: Class) -> Topic {
    let options = Namespace { class, history_size: 3, ..Namespace::default() };
    let name = TopicName::new("t:x").unwrap();
    let account = Account::new(Arc::new(Sums::new(&ResolvedLimits::configured(&Limits::default()))));
    Topic::new(name, Arc::new(options), SourceId(0), Epoch::from_text("e"), Floor::default(), 0, account)
}

/// Publishes a delta at the topic's next offset.
pub(in crate::topic) fn publish(topic: &mut Topic, json: &str) -> Arc<Delta> {
    let payload = Payload::new(Bytes::copy_from_slice(json.as_bytes()), 1000).unwrap();
    topic.publish(Kind::Delta, None, payload, topic.offset.next(), AT, None).unwrap()
}
