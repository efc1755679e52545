//! One topic and its state. [`topic`] has what is known of it, [`value`] the state itself, [`change`] what a delta does to it.

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
