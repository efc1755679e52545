//! Models of a whole shard and of its mailbox: what no part can guarantee alone.

mod mailbox_model;
mod model;
mod silent_control;
