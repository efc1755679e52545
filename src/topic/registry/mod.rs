//! All topics: a concurrent map from name to state. Sources write to it; subscribes and REST read it.
//!
//! [`Topics`] is one table, and each file here is one side of it: [`publish`] takes deltas in, [`load`] and [`restore`]
//! read a source that is loaded, [`subscribers`] answers, [`expiry`] ends quiet topics, [`saving`] hands out what is to
//! be saved. [`order`], [`deletions`], [`marks`] and [`moving`] decide which entries count if several sources have some
//! of one topic.

mod deletions;
mod expiry;
mod first_delta;
mod homes;
mod load;
mod marks;
mod memory;
mod missed;
mod moving;
mod order;
mod publish;
mod restore;
mod saving;
mod source;
mod subscribers;
mod topics;

pub use homes::{hash_of, home_in, home_of};
pub use topics::Topics;
