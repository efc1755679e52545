//! Topics: what is known of each, who is interested, and what a delta does to it. Knows no sessions and no
//! sockets: what must reach subscribers is handed to an [`Outlet`].

mod delta;
mod history;
pub mod merge;
mod payload;
mod registry;
mod state;

pub use delta::{Delta, Kind, Snapshot};
pub use payload::{Payload, PayloadError};
pub use registry::{
    Attachment, Incoming, Outlet, PublishError, Published, Replay, ShardId, Slot, SourceId, TopicView, Topics,
};
