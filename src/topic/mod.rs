//! Topics: the state of each, the shards that are interested in it, and the effect of a delta on both. Knows no
//! sessions and no sockets: events for subscribers go to an [`Outlet`].
//!
//! A `merge` topic is an object, and its deltas are patches to it:
//!
//! ```
//! use std::sync::Arc;
//!
//! use nexus_push::config::Config;
//! use nexus_push::topic::{Incoming, Kind, Nowhere, Payload, TopicName, Topics};
//!
//! let config = Config::read("push.toml", "[namespace.quotes]\nclass = \"merge\"\n")?;
//! let topics = Topics::new(Arc::new(config), 1, Arc::new(Nowhere), Arc::default());
//! for (kind, data) in [
//!     (Kind::Snapshot, r#"{"bid":"61800.10","ask":"61800.20","halted":true}"#),
//!     (Kind::Delta, r#"{"bid":"61799.95","halted":null}"#),
//! ] {
//!     let payload = Payload::new(data.into(), 1 << 18)?;
//!     let (topic, source) = ("quotes:BTCUSDT", topics.local());
//!     let (ts, at_ms, offset, home, is_relayed) = (None, None, None, None, false);
//!     topics.publish(Incoming { topic, kind, ts, at_ms, payload, offset, source, home, is_relayed })?;
//! }
//! let quote = topics.view(&TopicName::new("quotes:BTCUSDT")?).ok_or("nothing was published")?;
//! assert_eq!(quote.snapshot.data, r#"{"ask":"61800.20","bid":"61799.95"}"#);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod account;
#[cfg(test)]
mod accounting_model;
mod atomics;
mod deleted;
mod delta;
mod ended;
mod exchange;
mod freshness;
mod gaps;
mod history;
mod json_fault;
mod lifetime;
mod map;
pub mod merge;
mod names;
#[cfg(test)]
mod order_model;
mod passage;
mod payload;
mod progress;
mod refused;
mod registry;
#[cfg(test)]
mod registry_model;
mod related;
mod relays;
mod state;
mod strays;
mod trace;
mod unpublished;
mod words;

pub use delta::{Answering, Delta, Kind, Snapshot};
pub use exchange::{
    Attachment, Home, Incoming, Lifetime, Mark, Nowhere, Outlet, PublishError, Published, Replay, SavedHole, ShardId,
    Slot, SourceId, TopicView,
};
pub use freshness::Freshness;
pub use names::{NameRange, NameRanges, Section};
pub use payload::{Payload, PayloadError};
pub use registry::{Topics, hash_of, home_in, home_of};
pub use relays::{Belongs, Goes, Rule};
pub use state::Floor;

pub use crate::name::TopicName;
pub use crate::protocol::{Known, MembershipChange};
pub use trace::Trace;
pub use words::{Seen, Words};
