//! Topics: what is known of each, who is interested, and what a delta does to it. Knows no sessions and no
//! sockets: what must reach subscribers is handed to an [`Outlet`].

mod account;
#[cfg(test)]
mod accounting_model;
/// What sources and the registry's own counts are made of; `registry_model` has another.
mod atomics {
    pub(super) use std::sync::Mutex;
    pub(super) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
}
mod crossed;
mod deleted;
mod delta;
mod exchange;
mod freshness;
mod gaps;
mod history;
mod json_fault;
/// What topics are kept in; `registry_model` has another.
mod map {
    pub(super) use dashmap::DashMap;
    pub(super) use dashmap::mapref::entry::Entry;
}
pub mod merge;
mod names;
#[cfg(test)]
mod order_model;
mod payload;
mod registry;
#[cfg(test)]
mod registry_model;
mod state;
mod strays;
mod trace;
mod words;

pub use delta::{Answering, Delta, Kind, Snapshot};
pub use exchange::{
    Attachment, Home, Incoming, Mark, Nowhere, Outlet, PublishError, Published, Replay, ShardId, Slot, SourceId,
    TopicView,
};
pub use freshness::Freshness;
pub use names::{NameRange, NameRanges, Section};
pub use payload::{Payload, PayloadError};
pub use registry::{Topics, hash_of, home_in, home_of};
pub use state::Floor;

pub use crate::name::TopicName;
pub use crate::protocol::{Known, MembershipChange};
pub use trace::Trace;
pub use words::{Seen, Words};
