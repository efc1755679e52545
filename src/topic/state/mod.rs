//! One topic and its state: [`topic`] defines the topic, [`value`] its state, and [`change`] the effect of a delta.

mod change;
mod doubt;
mod memory;
mod recovery;
mod snapshot;
#[cfg(test)]
pub(super) mod testing;
mod topic;
mod value;

pub use topic::Floor;
pub(super) use topic::{StreamMark, Topic, When};
